"""Training a team: the ratio before the first step, what each level changes, exact repetition and resumption."""

from __future__ import annotations

import copy

import pytest
import torch

from manyone.engine import checkpoint
from manyone.envs.teams.make import make_team
from manyone.envs.teams.types import Observation, Step, TeamSpec
from manyone.errors import ManyoneError
from manyone.teams.network.actor_critic import ActorCritic
from manyone.teams.network.commformer import CommFormer
from manyone.teams.network.graph import LearnedGraph, fixed_graph
from manyone.teams.ppo.learner import TeamLearner
from manyone.teams.ppo.training import Training

PREY = "predator-prey:predators=3,vision=0,limit=6"


class Skirmish:
    """Agents that die for the rest of the episode, action masks, a state, ends of both kinds; all by counting."""

    def __init__(self, batch: int, agents: int = 3) -> None:
        self.spec = TeamSpec("skirmish", agents, 4, 3, state_dim=5, horizon=4)
        self.batch, self.device = batch, torch.device("cpu")

    def reset(self, seed: int) -> Observation:
        self.time = torch.arange(self.batch) % 3
        return self._observe()

    def step(self, actions: torch.Tensor) -> Step:
        assert self._observe().available.gather(-1, actions.unsqueeze(-1)).all()
        self.time = self.time + 1
        terminated, truncated = (self.time == 3) & (actions[:, 0] == 0), self.time == 4
        final = self._observe()
        self.time = torch.where(terminated | truncated, 0, self.time)
        rewards = (actions == 1).float()
        return Step(self._observe(), rewards, terminated, truncated, final, terminated, {"late": final.state[:, 0]})

    def _observe(self) -> Observation:
        b, n = self.batch, self.spec.agents
        grid = (self.time[:, None] * torch.tensor([1, 2, 3]))[:, :n].float()
        seen = torch.stack([grid, grid.cos(), grid.sin(), torch.arange(n).expand(b, n).float()], -1)
        alive = torch.arange(n).expand(b, n) < n - (self.time[:, None] >= 2).long()
        available = torch.ones(b, n, 3, dtype=torch.bool)
        available[:, :, 2] = alive
        available[:, :, 1] = alive
        return Observation(seen, alive, available, self.time[:, None].float().expand(b, 5).contiguous())

    def state_dict(self):
        return {"time": self.time.clone()}

    def load_state_dict(self, state):
        self.time = state["time"].clone()
        return self._observe()


def make(kind="commformer", env=None, *, seed=0, gate=False, graph=None, network=None, **options):
    env = env or make_team(PREY, 10)
    torch.manual_seed(seed)
    n = env.spec.agents
    if kind == "commformer":
        policy = CommFormer(env.spec, width=16, gate=gate, **(network or {}))
        graph = LearnedGraph(n, 1) if graph is None else graph
    else:
        policy = ActorCritic(env.spec, critic="central" if kind == "mappo" else "local", width=16)
        graph = fixed_graph("none", n) if graph is None else graph
    defaults = {"iterations": 10, "length": 7, "epochs": 5, "lr": 3e-3, "edge_lr": 5e-2, "clip": 0.2}
    return TeamLearner(env, policy, Training(**(defaults | options)), graph=graph, seed=seed)


def weights(learner):
    return {name: p.detach().clone() for name, p in learner.policy.named_parameters()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("gated", [False, True])
def test_in_replay_mode_the_ratio_is_one_before_the_first_step_with_graph_and_gate_noise_replayed(gated):
    learner = make(gate=gated, gate_open=0.0)
    for _ in range(3):
        metrics = learner.step()
        assert metrics["ratio_error"] <= 1e-6
        assert metrics["ratio_change"] > 1e-4  # later passes do move away
    assert ("gate_loss" in metrics) == gated
    if gated:
        assert 0 < metrics["receive_rate"] < 1


def test_the_official_schedule_updates_another_policy_than_the_one_that_acted():
    learner = make(graph_rollout="official", warmup=2)
    soft, sampled = [], []
    for iteration in range(5):
        (soft if iteration <= 2 else sampled).append(learner.step()["ratio_error"])
    assert min(soft) > 1e-5  # raw logits in the warm-up, acting on the exact graph
    assert max(sampled) > 1e-5


def test_a_pass_for_the_graph_leaves_the_network_bit_identical_and_the_other_way_round(monkeypatch):
    learner = make()
    updates, seen = learner.updates, {True: 0, False: 0}
    plain = learner.updates.descend

    def watched(batch, graph, goes_up, *rest):
        def snapshot():
            adam = [o.state_dict()["state"] for o in (updates.optimiser, updates.edge_optimiser)]
            return weights(learner), learner.graph.logits.detach().clone(), copy.deepcopy(adam)

        before = snapshot()
        found = plain(batch, graph, goes_up, *rest)
        after = snapshot()
        moments = [[torch.equal(x[k], y[k]) for i in x_all for x, y in [(x_all[i], y_all[i])] for k in x]
                   if x_all else [not y_all] for x_all, y_all in zip(before[2], after[2])]  # fmt: skip
        assert same(before[0], after[0]) == goes_up
        assert torch.equal(before[1], after[1]) != goes_up
        assert all(moments[0]) == goes_up
        assert all(moments[1]) != goes_up
        seen[goes_up] += 1
        return found

    monkeypatch.setattr(learner.updates, "descend", watched)
    learner.step()
    learner.step()
    assert seen == {True: 2, False: 8}


@pytest.mark.parametrize(("epochs", "upper"), [(4, 0), (5, 1), (11, 2)])
def test_the_number_of_graph_steps_is_iterations_times_epochs_over_five(epochs, upper):
    learner = make(epochs=epochs, commit=0)
    for _ in range(3):
        metrics = learner.step()
    assert metrics["upper_steps"] == 3 * upper
    assert learner.updates.edge_optimiser.state_dict()["state"].get(0, {"step": 0})["step"] == 3 * upper


def test_without_passes_for_the_graph_its_logits_stay_as_they_start():
    learner = make(upper_every=0)
    assert learner.step()["upper_steps"] == 0
    assert torch.equal(learner.graph.logits.detach(), torch.ones(3, 3))


@pytest.mark.parametrize("mode", ["replay", "official"])
def test_after_the_commit_the_graph_is_exact_and_frozen_and_everything_is_one_policy(mode):
    learner = make(commit=0.3, graph_rollout=mode)
    for _ in range(3):
        learner.step()
    settled = learner.graph.logits.detach().clone()
    assert not torch.equal(settled, torch.ones_like(settled))
    for _ in range(2):
        metrics = learner.step()
        assert metrics["ratio_error"] <= 1e-6
        assert metrics["upper_steps"] == 3
    assert learner.graph.frozen
    assert torch.equal(learner.graph.logits.detach(), settled)
    assert torch.equal(learner.schedule.acting(), learner.exact_graph())


def test_while_forced_open_the_gate_has_no_gradient_and_the_network_before_the_switch_is_kept():
    learner = make(gate=True, gate_open=0.2, gate_ramp=0.2)
    before = weights(learner)
    learner.step()
    learner.step()
    at_switch = weights(learner)
    gate = [name for name in before if name.startswith("receive_gate")]
    assert gate
    assert all(torch.equal(before[name], at_switch[name]) for name in gate)
    assert learner.ungated is None
    weighing = [learner.step()["gate_weight"] for _ in range(3)]
    assert weighing == pytest.approx([0.0, 0.1, 0.2])
    assert same(learner.ungated, at_switch)
    assert not all(torch.equal(at_switch[name], weights(learner)[name]) for name in gate)


def test_held_out_slots_train_the_graph_and_no_others_do(monkeypatch):
    learner = make(upper_data="heldout")
    sizes = []
    plain = learner.updates.descend

    def watched(batch, graph, goes_up, *rest):
        sizes.append((goes_up, len(batch.values)))
        return plain(batch, graph, goes_up, *rest)

    monkeypatch.setattr(learner.updates, "descend", watched)
    learner.step()
    assert sizes == [(False, 56)] * 4 + [(True, 14)]


def test_pieces_of_a_batch_give_the_gradient_of_the_batch(monkeypatch):
    logs = []
    for room in (40, 1 << 20):
        monkeypatch.setattr("manyone.teams.ppo.update.PIECE", room)
        learner = make(env=Skirmish(6), commit=0)
        metrics = [learner.step() for _ in range(2)]
        logs.append((metrics, weights(learner), learner.graph.logits.detach()))
    for a, b in zip(logs[0][0], logs[1][0]):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)
    for name in logs[0][1]:
        assert torch.allclose(logs[0][1][name], logs[1][1][name], atol=2e-4), name
    assert torch.allclose(logs[0][2], logs[1][2], atol=1e-3)


@pytest.mark.parametrize("kind", ["commformer", "mappo", "ippo"])
def test_every_method_trains_with_dead_agents_masks_and_both_ends(kind):
    learner = make(kind, Skirmish(6), minibatches=2, epochs=6)
    for _ in range(8):
        metrics = learner.step()
    assert metrics["ratio_error"] <= 1e-6
    assert metrics["return"] > 0
    assert metrics["late"] >= 3
    assert metrics["env_steps"] == 8 * 6 * 7
    assert (metrics["links"] > 0) == (kind == "commformer")


def test_what_dead_agents_see_and_get_changes_nothing_in_the_update_when_agents_do_not_talk():
    outcomes = []
    for poison in (0.0, 50.0):
        learner = make("ippo", Skirmish(6))
        collect = learner.collector.collect

        def poisoned(*args, collect=collect, poison=poison):
            buffer = collect(*args)
            dead = ~buffer.alive
            for part in (buffer.advantages, buffer.returns, buffer.values, buffer.log_probs):
                part[dead] += poison
            buffer.observations[dead] += poison
            return buffer

        learner.collector.collect = poisoned
        learner.step()
        outcomes.append(weights(learner))
    assert same(*outcomes)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("commformer", {"gate": True, "gate_open": 0.3, "minibatches": 2}), ("mappo", {}),
     ("commformer", {"graph_rollout": "official", "upper_data": "heldout"}),
     ("commformer", {"network": {"send_gate": True, "dynamic_links": 1}, "graph": fixed_graph("full", 3),
                     "gate_open": 0.3})],
)  # fmt: skip
def test_resumed_training_goes_on_bit_for_bit(tmp_path, kind, options):
    whole, first, second = (make(kind, env=make_team(PREY, 10), **options) for _ in range(3))
    log = [whole.step() for _ in range(6)]
    for _ in range(3):
        first.step()
    checkpoint.save(tmp_path, 3, first.state_dict())
    second.load_state_dict(checkpoint.load_newest(tmp_path)[1])
    assert [second.step() for _ in range(3)] == log[3:]
    assert same(weights(whole), weights(second))
    assert torch.equal(whole.exact_graph(), second.exact_graph())


def test_one_seed_gives_one_log_and_another_seed_another():
    logs = [[learner.step() for _ in range(3)] for learner in (make(seed=1), make(seed=1), make(seed=2))]
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"epochs": 0}, "epochs = 0"), ({"commit": 2.0}, "commit = 2.0"), ({"upper_every": 1}, "upper_every = 1"),
     ({"minibatches": 1000}, "minibatches = 1000"), ({"graph": torch.zeros(4, 4)}, "4 agents")],
)  # fmt: skip
def test_wrong_options_are_named(options, words):
    with pytest.raises(ManyoneError, match=words):
        make(**options)


def test_the_artefact_holds_the_exact_graph_and_of_a_gated_team_the_ungated_one_too(tmp_path, monkeypatch):
    from manyone.teams import artefact

    monkeypatch.setattr(artefact, "export_policy", lambda path, *rest, **options: path.write_bytes(b""))
    learner = make(gate=True, gate_open=0.2, commit=0.3)
    for _ in range(4):
        learner.step()
    learner.export(tmp_path)
    team, earlier = artefact.load_team(tmp_path), artefact.load_team(tmp_path / "ungated")
    assert (team.gate, earlier.gate) == ("decided", "open")
    assert torch.equal(team.graph.float(), learner.exact_graph())
    assert same(weights(learner), dict(team.policy.named_parameters()))
    assert same(learner.ungated, earlier.policy.state_dict())


def searching(search=0.5, iterations=6, seed=3):
    """A small learner that looks for its graph first."""
    env = make_team(PREY, 4)
    torch.manual_seed(1)
    policy = CommFormer(env.spec, width=8, heads=1)
    graph = LearnedGraph(env.spec.agents, 1)
    plan = Training(iterations=iterations, length=4, epochs=4, upper_every=2, search=search, lr=1e-2, edge_lr=0.5)
    return TeamLearner(env, policy, plan, graph=graph, seed=seed), graph


def test_a_search_hears_everybody_then_trains_a_new_network_on_the_links_it_chose():
    learner, graph = searching()
    fresh = {name: t.clone() for name, t in learner.policy.state_dict().items()}
    everybody = 1 - torch.eye(3)
    for _ in range(3):
        assert torch.equal(learner.exact_graph(), everybody)
        learner.step()
    assert learner.updates.upper_steps == 3 * 2
    assert not torch.equal(graph.logits.detach(), torch.ones(3, 3))
    chosen = graph.logits.detach().clone()
    assert any(not torch.equal(t, fresh[name]) for name, t in learner.policy.state_dict().items())

    fixed = CommFormer(learner.env.spec, width=8, heads=1)
    fixed.load_state_dict(fresh)
    learner.step()
    assert learner.exact_graph().sum(1).tolist() == [1, 1, 1]
    assert torch.equal(graph.logits.detach(), chosen)  # committed
    # the same as a network that begins on these links from the same roll-out
    other, _ = searching()
    for _ in range(3):
        other.step()
    plan = Training(iterations=6, length=4, epochs=4, upper_every=2, lr=1e-2)
    alone = TeamLearner(other.env, fixed, plan, graph=learner.exact_graph(), seed=3)
    alone.iteration = 3
    alone.collector.load_state_dict(other.collector.state_dict())
    alone.step()
    for name, value in alone.policy.state_dict().items():
        assert torch.equal(value, learner.policy.state_dict()[name]), name


def test_a_search_goes_on_from_a_checkpoint_before_at_and_after_its_end():
    whole, _ = searching()
    states = []
    for _ in range(5):
        whole.step()
        states.append(copy.deepcopy(whole.state_dict()))
    for at in (2, 3, 4):
        resumed, _ = searching()
        resumed.load_state_dict(states[at - 1])
        for _ in range(at, 5):
            resumed.step()
        assert torch.equal(resumed.exact_graph(), whole.exact_graph())
        for name, value in whole.policy.state_dict().items():
            assert torch.equal(value, resumed.policy.state_dict()[name]), (at, name)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"search": 1.0}, "4 of 4 iterations"),
        ({"search": 0.9}, "4 of 4 iterations"),
        ({"search": 0.1}, "0 of 4 iterations"),
        ({"search": 0.5, "graph_rollout": "official"}, "acts on all links"),
        ({"search": 0.5, "upper_every": 0}, "learn nothing"),
        ({"search": -0.1}, "between 0 and 1"),
    ],
)
def test_a_search_that_cannot_be_is_said(given, words):
    with pytest.raises(ManyoneError, match=words):
        Training(iterations=4, **given)


def test_there_is_nothing_to_search_for_in_a_fixed_graph():
    env = make_team(PREY, 2)
    with pytest.raises(ManyoneError, match="not learned"):
        TeamLearner(env, CommFormer(env.spec, width=8, heads=1), Training(iterations=4, search=0.5),
                    graph=fixed_graph("full", 3))  # fmt: skip


def test_a_gate_is_open_while_the_graph_is_searched_and_keeps_its_schedule_after_that():
    env = make_team(PREY, 2)
    policy = CommFormer(env.spec, width=8, heads=1, gate=True)
    plan = Training(iterations=20, search=0.5, gate_open=0.4, gate_ramp=0.2, gate_weight=1.0)
    learner = TeamLearner(env, policy, plan, graph=LearnedGraph(3, 1))
    stages = {}
    for learner.iteration in range(20):
        stages[learner.iteration] = learner.gate_stage()
    assert {at for at, (gate, _) in stages.items() if gate == "open"} == set(range(14))
    assert [stages[at][1] for at in (9, 14, 15, 16, 19)] == pytest.approx([0, 0, 0.5, 1, 1])
