"""Single cases of each team task, and what makes it a test of communication."""

import numpy as np
import pytest
import torch
from tests.reference.team_envs import headings

from manyone.envs.pictures import COLOURS
from manyone.envs.teams.make import make_team
from manyone.envs.teams.traffic import LEVELS, routes_of

torch.set_num_threads(1)
UP, RIGHT, DOWN, LEFT, STAY, CAPTURE = range(6)


def placed(name, cells, prey, **options):
    """An environment of one slot with agents and prey on the given (row, column)."""
    env = make_team(name, 1, **options)
    env.reset(0)
    state = env.state_dict()
    size = env.spec.details["size"]
    state["cells"] = torch.tensor([[r * size + c for r, c in cells]])
    state["prey"] = torch.tensor([[prey[0] * size + prey[1]]])
    env.load_state_dict(state)
    return env


def where(env):
    return [divmod(cell, env.spec.details["size"]) for cell in env.state_dict()["cells"][0].tolist()]


def act(env, *actions):
    return env.step(torch.tensor([actions]))


def test_the_border_blocks_and_every_action_moves_as_named():
    env = placed("predator-prey", [(0, 0), (2, 2), (4, 4)], (3, 0))
    act(env, UP, UP, DOWN)
    assert where(env) == [(0, 0), (1, 2), (4, 4)]
    act(env, LEFT, RIGHT, RIGHT)
    assert where(env) == [(0, 0), (1, 3), (4, 4)]
    act(env, STAY, LEFT, UP)
    assert where(env) == [(0, 0), (1, 2), (3, 4)]


def test_who_reaches_the_prey_freezes_is_paid_and_the_episode_ends_with_the_last():
    env = placed("predator-prey:predators=2", [(1, 0), (4, 4)], (0, 0))
    step = act(env, UP, STAY)
    assert step.rewards.tolist() == [[0.0, pytest.approx(-0.05)]]
    assert not bool(step.done)
    for _ in range(3):
        act(env, DOWN, UP)
    assert where(env) == [(0, 0), (1, 4)]
    for action in (UP, LEFT, LEFT, LEFT):
        step = act(env, RIGHT, action)
        assert not bool(step.done)
    step = act(env, RIGHT, LEFT)
    assert step.rewards.tolist() == [[0.0, 0.0]]
    assert bool(step.terminated)
    assert bool(step.success)
    assert not bool(step.truncated)
    assert step.final is not None
    assert step.final.observations[0, :, 4 * 29].tolist() == [1.0, 1.0]  # both saw themselves on cell 0


def test_the_last_step_of_the_limit_truncates_unless_it_ends_the_task():
    env = placed("predator-prey:predators=1,limit=2", [(0, 2)], (0, 0))
    assert not bool(act(env, STAY).done)
    step = act(env, LEFT)
    assert (bool(step.terminated), bool(step.truncated), bool(step.success)) == (False, True, False)
    env = placed("predator-prey:predators=1,limit=2", [(0, 2)], (0, 0))
    act(env, LEFT)
    step = act(env, LEFT)
    assert (bool(step.terminated), bool(step.truncated), bool(step.success)) == (True, False, True)


@pytest.mark.parametrize(("reward", "paid"), [("cooperative", 0.1), ("competitive", 0.025)])
def test_cooperative_and_competitive_rewards_run_to_the_limit(reward, paid):
    env = placed(f"predator-prey:predators=2,limit=5,reward={reward}", [(0, 1), (1, 0)], (0, 0))
    for t in range(5):
        step = act(env, LEFT, UP)
        assert step.rewards.tolist() == [[pytest.approx(paid), pytest.approx(paid)]]
        assert not bool(step.terminated)
        assert bool(step.truncated) == (t == 4)
        assert bool(step.success)


def test_capture_agents_must_capture_after_they_arrived_and_predators_cannot():
    env = placed("predator-capture-prey:predators=1", [(0, 1), (1, 0)], (0, 0))
    step = act(env, LEFT, CAPTURE)  # not there yet: nothing
    assert step.rewards.tolist() == [[0.0, pytest.approx(-0.05)]]
    step = act(env, STAY, UP)
    assert step.rewards.tolist() == [[0.0, pytest.approx(-0.05)]]
    assert not bool(step.done)
    step = act(env, CAPTURE, DOWN)  # frozen
    assert where(env) == [(0, 0), (0, 0)]
    assert not bool(step.done)
    step = act(env, STAY, CAPTURE)
    assert step.rewards.tolist() == [[0.0, 0.0]]
    assert bool(step.terminated)
    assert bool(step.success)
    available = step.observation.available
    assert available is not None
    assert available[0].tolist() == [[True] * 5 + [False], [True] * 6]


@pytest.mark.parametrize(
    ("size", "vision", "width"), [(5, 1, 261), (5, 0, 29), (10, 1, 936), (20, 1, 3636), (4, 2, 500)]
)
def test_an_observation_has_d_squared_plus_four_numbers_for_each_cell_in_sight(size, vision, width):
    env = make_team("predator-prey", 2, size=size, vision=vision)
    assert env.spec.observation_dim == width == (2 * vision + 1) ** 2 * (size**2 + 4)
    assert env.spec.horizon == 4 * size


def test_two_of_the_blind_team_see_the_prey_and_three_never_do():
    env = placed("predator-prey-blind", [(0, 0)] * 5, (0, 1))
    prey = env.load_state_dict(env.state_dict()).observations.view(5, 9, 29)[..., 27]
    assert prey.sum(dim=1).tolist() == [1, 1, 0, 0, 0]
    step = act(env, *[RIGHT] * 4, STAY)
    assert step.rewards.tolist() == [[0.0] * 4 + [pytest.approx(-0.05)]]
    assert step.observation.observations.view(5, 9, 29)[2:, :, 27].sum() == 0
    assert step.observation.observations.view(5, 9, 29)[0, 4, 28] == 4


def test_a_capture_agent_sees_its_place_alone():
    env = placed("predator-capture-prey", [(0, 0), (1, 1), (1, 0)], (1, 2))
    views = env.load_state_dict(env.state_dict()).observations.view(3, 9, 29)
    assert bool((views[2, :, 25:] == -1).all())
    assert views[2, :, :25].sum() == 6  # six of the nine cells lie on the grid
    assert views[1, 3, 25] == 1  # a predator sees the capture agent to its left
    assert views[0, 0, 26] == 1
    assert bool((views[:2] >= 0).all())


def test_starts_are_distinct_cells_and_uniform():
    env = make_team("predator-prey:size=3,predators=2", 9000)
    env.reset(6)
    state = env.state_dict()
    cells = torch.cat([state["cells"], state["prey"]], dim=1)
    assert bool((cells.sort(dim=1).values.diff(dim=1) > 0).all())
    for column in cells.T:
        counts = torch.bincount(column, minlength=9)
        assert bool((counts - 1000).abs().max() < 5 * (1000 * 8 / 9) ** 0.5)


def test_relay_pays_for_the_symbol_of_the_best_sender_alone():
    env = make_team("relay:agents=7,symbols=4", 600)
    observation = env.reset(0)
    senders = env.spec.details["best_senders"]
    assert sorted(senders) == list(range(7))
    assert all(i != sender for i, sender in enumerate(senders))
    symbols = observation.observations[..., :4].argmax(dim=2)
    step = env.step(symbols[:, senders])
    assert bool(step.terminated.all())
    assert bool((step.rewards == 1).all())
    assert bool(step.success.all())
    assert bool((step.measures["accuracy"] == 1).all())
    wrong = (step.observation.observations[..., :4].argmax(dim=2)[:, senders] + 1) % 4
    step = env.step(wrong)
    assert step.rewards.sum() == 0
    assert not bool(step.success.any())
    assert abs(float(env.step(torch.zeros_like(wrong)).rewards.mean()) - 0.25) < 5 * (0.1875 / 4200) ** 0.5


def test_relay_tells_the_target_exactly_when_no_message_is_needed():
    env = make_team("relay-gate", 2000)
    views = env.reset(1).observations
    column, senders = env.spec.details["need_column"], env.spec.details["best_senders"]
    need, told = views[..., column] == 1, views[..., column + 1 :]
    symbols = views[..., :5]
    assert abs(float(need.float().mean()) - 0.5) < 5 * (0.25 / 12000) ** 0.5
    assert bool((told[need] == 0).all())
    assert torch.equal(told[~need], symbols[:, senders][~need])
    assert torch.equal(views[0, :, 5:column], torch.eye(6))
    assert make_team("relay", 50).reset(1).observations[..., column].min() == 1


def test_another_number_draws_another_relay_graph_and_the_same_number_the_same():
    graphs = [make_team("relay", 1, graph=graph).spec.details["best_senders"] for graph in (0, 1, 2, 0)]
    assert graphs[0] == graphs[3]
    assert len({tuple(graph) for graph in graphs}) == 3


@pytest.mark.parametrize(("level", "entries", "each"), [("easy", 2, 1), ("medium", 4, 3), ("hard", 8, 7)])
def test_routes_are_connected_enter_and_leave_at_the_border_and_keep_their_lanes(level, entries, each):
    routes, plan = routes_of(level), LEVELS[level]
    assert [len(entry) for entry in routes] == [each] * entries
    last, lanes, exits = plan.size - 1, {}, set()
    for entry, (start, heading) in zip(routes, plan.entries):
        for route in entry:
            moves = headings(route)
            assert route[0] == start
            assert moves[0] == heading
            assert all(abs(r) + abs(c) == 1 for r, c in moves)
            assert len(set(route)) == len(route)
            assert route[-1][0] in (0, last) or route[-1][1] in (0, last)
            assert not any(r in (0, last) or c in (0, last) for r, c in route[1:-1])
            exits.add(route[-1])
            for cell, move in zip(route, moves):
                if not any(0 <= cell[0] - r < 2 and 0 <= cell[1] - c < 2 for r, c in plan.junctions):
                    lanes.setdefault(cell, set()).add(move)
        assert len({route[-1] for route in entry}) == each
    assert len(exits) == entries
    crossings = {cell for cell, moves in lanes.items() if len(moves) > 1}
    assert crossings == ({(3, 3)} if level == "easy" else set())


def test_cars_that_share_a_cell_collide_and_an_empty_road_pays_nothing():
    env = make_team("traffic-junction-easy:arrival=0", 1)
    env.reset(0)
    state = env.state_dict()
    state["alive"][0, :2] = True
    state["route"][0, 1] = 1
    state["progress"][0, :2] = torch.tensor([2, 3])
    env.load_state_dict(state)
    step = act(env, 0, 1, 0, 0, 0)
    assert step.rewards.tolist() == [[pytest.approx(-10.01), pytest.approx(-10.01), 0, 0, 0]]
    assert int(step.measures["collisions"]) == 2
    assert not bool(step.success)
    assert (env.frame() == np.array(COLOURS["wrong"])).all(axis=2).sum() > 100
    step = act(env, 1, 0, 0, 0, 0)
    assert step.rewards.tolist() == [[pytest.approx(-0.02), pytest.approx(-0.02), 0, 0, 0]]
    assert int(step.measures["collisions"]) == 2
    assert step.observation.alive.tolist() == [[True, True, False, False, False]]
    assert step.observation.available is not None
    assert step.observation.available[0].tolist() == [[True, True]] * 2 + [[False, True]] * 3
    assert step.observation.observations[0, :2, :2].tolist() == [[1, 0], [0, 1]]
    for _ in range(3):
        step = act(env, 1, 0, 0, 0, 0)
    assert int(step.measures["through"]) == 1
    assert step.observation.alive.tolist() == [[True, False, False, False, False]]


def test_arrivals_follow_their_probability_and_stop_when_no_car_is_free():
    env = make_team("traffic-junction-medium:arrival=0.3,cars=1000", 500)
    env.reset(0)
    alive = env.step(torch.ones(500, 1000, dtype=torch.int64)).observation.alive
    assert abs(float(alive.sum()) / 2000 - 0.3) < 5 * (0.21 / 2000) ** 0.5
    env = make_team("traffic-junction-medium:arrival=1,cars=3", 50)
    env.reset(0)
    alive = env.step(torch.ones(50, 3, dtype=torch.int64)).observation.alive
    assert bool(alive.all())
    assert bool((env.state_dict()["route"] < 9).all())  # the fourth entry found no free car
