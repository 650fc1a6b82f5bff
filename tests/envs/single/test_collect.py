"""Making offline data: the noise recipe, the same bytes for any number of workers, going on after a stop."""

import numpy as np
import pytest

from manyone.data.trajectories.files import from_minari
from manyone.data.trajectories.offline import load_offline, parse_offline
from manyone.data.trajectories.references import normalised_score
from manyone.envs.single import collect, scripted
from manyone.envs.single import make as build
from manyone.envs.single.experts import play
from manyone.envs.single.experts.ladder import ladder
from manyone.errors import ManyoneError
from manyone.randomness import seed_for

pytest.importorskip("metaworld")


@pytest.fixture(autouse=True)
def private(monkeypatch, tmp_path):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path))


def test_noise_levels_end_clean_for_near_and_never_for_sub():
    assert scripted.noise_levels("near", 0.0) == (0.3, 0.15)
    assert scripted.noise_levels("near", 1.0) == (0.0, 0.0)
    assert scripted.noise_levels("sub", 0.0) == (1.0, 0.6)
    assert scripted.noise_levels("sub", 1.0) == (0.4, pytest.approx(0.25))


def test_goals_of_data_are_never_those_of_evaluation():
    from manyone.envs.single.metaworld import EVAL_GOALS

    goals = {scripted.train_goal(e) for e in range(200)}
    assert goals == set(range(40))
    assert not goals & set(EVAL_GOALS)


def contents(data):
    keys = ("observations", "actions", "rewards", "final_observations", "successes", "goals")
    return {(one.name, key): getattr(one, key).tobytes() for one in data for key in keys}


def test_two_workers_make_the_same_bytes_as_one_and_the_last_episode_is_the_expert(monkeypatch, tmp_path):
    name, seen = "metaworld-mt1:button-press-topdown-near@5x90", []
    monkeypatch.setattr(collect, "_PIECE", 2)
    one = collect.make_offline(name, workers=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(180, 450), (360, 450), (450, 450)]
    assert one[0].lengths.tolist() == [90] * 5
    assert one[0].goals.tolist() == [0, 1, 2, 3, 4]
    assert one[0].successes[-1]
    assert np.abs(one[0].actions).max() <= 1
    assert one[0].meta["quality"] == "near"
    first = contents(one)
    for folder in (tmp_path / "offline", tmp_path / "minari"):
        folder.rename(folder.with_suffix(".one"))
    assert contents(collect.make_offline(name, workers=2)) == first


def test_an_episode_depends_on_its_own_seed_alone_and_can_be_played_back():
    seeds = [seed_for(0, "collect", "drawer-close-v3", "sub", e) for e in range(3)]
    all_three = scripted.play("drawer-close-v3", "sub", range(3), seeds, episodes=3, steps=30)
    alone = scripted.play("drawer-close-v3", "sub", [2], seeds[2:], episodes=3, steps=30)[0]
    for key in ("observations", "actions", "rewards"):
        np.testing.assert_array_equal(alone[key], all_three[2][key])
    from manyone.envs.single.metaworld import make_env

    env = make_env("drawer-close-v3", alone["goal"])
    env.reset()
    states = [env.step(action)[0] for action in alone["actions"]]
    np.testing.assert_array_equal(np.float32(states), alone["observations"][1:])


def play_zeros(task, quality, chosen, seeds, *, episodes, steps):
    return [
        {"observations": np.full((steps + 1, 39), e), "actions": np.zeros((steps, 4)), "rewards": np.ones(steps)}
        for e in chosen
    ]


def test_a_finished_task_is_not_made_again_and_suites_share_tasks(monkeypatch):
    played = []

    def play(task, *arguments, **options):
        if task == "button-press-v3" and "stop" in played:
            raise KeyboardInterrupt
        played.append(task)
        return play_zeros(task, *arguments, **options)

    monkeypatch.setattr(scripted, "play", play)
    played.append("stop")
    with pytest.raises(KeyboardInterrupt):
        collect.make_offline("metaworld-mt5-near@4x3", workers=1)
    with pytest.raises(ManyoneError, match="not made yet"):
        load_offline("metaworld-mt5-near@4x3")
    assert played == ["stop", "basketball-v3", "bin-picking-v3", "button-press-topdown-v3"]
    played.clear()
    data = collect.make_offline("metaworld-mt5-near@4x3", workers=1)
    assert played == ["button-press-v3", "button-press-wall-v3"]
    assert [one.name for one in data][:2] == ["basketball-v3", "bin-picking-v3"]
    assert data[0].observations[::3, 0].tolist() == [0, 1, 2, 3]
    played.clear()
    collect.make_offline("metaworld-mt5-near@4x3", workers=1)
    collect.make_offline("metaworld-mt1:basketball-near@4x3", workers=1)
    assert not played
    collect.make_offline("metaworld-mt1:basketball-near@4x3", workers=1, seed=1)
    assert played == ["basketball-v3"]


def test_official_episodes_come_from_the_given_folder(monkeypatch, tmp_path):
    folder = tmp_path / "official"
    folder.mkdir()
    rng = np.random.default_rng(0)
    o, a, r = (rng.normal(size=s).astype(np.float32) for s in ((2, 7, 39), (2, 7, 4), (2, 7)))
    np.savez(folder / "door-open.npz", o=o, a=3 * a, r=r)
    name = "metaworld-mt1:door-open-expert"
    with pytest.raises(ManyoneError, match=r"give their folder .* by --source or MANYONE_METAWORLD_EXPERT"):
        collect.make_offline(name)
    with pytest.raises(ManyoneError, match=r"has no episodes of drawer-open-v3: expected drawer-open\.npz"):
        collect.make_offline("metaworld-mt1:drawer-open-expert", source=folder)
    monkeypatch.setenv(collect.EXPERT_VARIABLE, str(folder))
    data = collect.make_offline(name)[0]
    assert data.name == "door-open-v3"
    assert data.actions.max() == 1
    assert data.meta["licence"].startswith("MIT")
    np.testing.assert_array_equal(data.observations.reshape(2, 7, 39), o)
    assert load_offline(name)[0].episodes == 2


def test_wrong_options_are_refused(tmp_path):
    with pytest.raises(ManyoneError, match="--workers 0: must be at least 1"):
        collect.make_offline("metaworld-mt1:door-open-near@1x1", workers=0)
    with pytest.raises(ManyoneError, match="only expert data are read from a folder"):
        collect.make_offline("metaworld-mt1:door-open-near@1x1", source=tmp_path)
    with pytest.raises(ManyoneError, match="did you mean door-open-v3"):
        collect.make_offline("metaworld-mt1:door-opne-near@1x1")


def test_families_alone_mean_their_training_tasks():
    assert len(collect.set_tasks(parse_offline("cheetah-vel-near"))) == 35
    held_out = collect.set_tasks(parse_offline("cheetah-vel:test-near"))
    assert len(held_out) == 5
    assert not set(held_out) & set(collect.set_tasks(parse_offline("cheetah-vel-near")))
    assert collect.set_tasks(parse_offline("cheetah-dir-sub")) == ["cheetah-dir:0", "cheetah-dir:1"]
    assert collect.set_tasks(parse_offline("mujoco-walker2d-medium")) == ["gym:Walker2d-v5"]
    three = ["gym:Hopper-v5", "gym:HalfCheetah-v5", "gym:Walker2d-v5"]
    assert collect.set_tasks(parse_offline("mujoco3-medium-replay")) == three


TRAINED = ("observations", "actions", "rewards", "offsets", "terminated", "final_observations")


def test_shipped_experts_make_the_same_bytes_for_any_number_of_workers(tmp_path):
    name, seen = "mujoco-hopper-medium-replay@400", []
    (one,) = collect.make_offline(name, workers=1, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (400, 400)
    assert seen == sorted(seen)
    assert (one.name, len(one), one.choices) == ("gym:Hopper-v5", 400, 0)
    assert one.meta["reference"] == [-20.272305, 3234.3]
    assert (one.meta["quality"], one.meta["noise"], one.meta["seed"]) == ("medium-replay", 0.1, 0)
    parts = one.meta["checkpoints"]
    assert [part["step"] for part in parts] == [0, *ladder("hopper").steps]
    assert sum(part["transitions"] for part in parts) == 400
    assert sum(part["episodes"] for part in parts) == one.episodes
    first = {key: getattr(one, key).tobytes() for key in TRAINED}
    assert from_minari(tmp_path / "minari" / parse_offline(name).minari_id("gym:Hopper-v5")).meta == one.meta
    for folder in (tmp_path / "offline", tmp_path / "minari"):
        folder.rename(folder.with_suffix(".one"))
    (two,) = collect.make_offline(name, workers=2)
    assert {key: getattr(two, key).tobytes() for key in TRAINED} == first
    (other,) = collect.make_offline(name, workers=1, seed=1)
    assert not np.array_equal(other.actions[:20], two.actions[:20])


def test_a_stopped_making_goes_on_with_the_body_that_is_missing(monkeypatch):
    played = []

    def stopping(body, policy, seeds, horizon, noise):
        if "stop" in played and body == "halfcheetah":
            raise KeyboardInterrupt
        played.append(body)
        return own(body, policy, seeds, horizon, noise)

    own = play.episodes
    monkeypatch.setattr(play, "episodes", stopping)
    played.append("stop")
    monkeypatch.setattr(build, "BODIES", {body: build.BODIES[body] for body in ("hopper", "halfcheetah")})
    with pytest.raises(KeyboardInterrupt):
        collect.make_offline("mujoco3-random@2x30", workers=1)
    with pytest.raises(ManyoneError, match="not made yet: manyone data make mujoco3-random@2x30"):
        load_offline("mujoco3-random@2x30")
    assert played == ["stop", "hopper"]
    played.clear()
    data = collect.make_offline("mujoco3-random@2x30", workers=1)
    assert played == ["halfcheetah"]
    assert [one.name for one in data] == ["gym:Hopper-v5", "gym:HalfCheetah-v5"]
    assert data[1].lengths.tolist() == [30, 30]
    played.clear()
    (again,) = collect.make_offline("mujoco-hopper-random@2x30", workers=1)
    assert not played
    np.testing.assert_array_equal(again.actions, data[0].actions)


def test_the_better_the_name_the_better_the_data():
    sets = {q: collect.make_offline(f"mujoco-hopper-{q}", episodes=3, workers=1)[0] for q in ("random", "medium")}
    sets["expert"] = collect.make_offline("mujoco-hopper-expert@2x1000", workers=1)[0]
    scores = [normalised_score(float(sets[q].returns.mean()), "gym:Hopper-v5") for q in ("random", "medium", "expert")]
    assert scores[0] < 5 < 20 < scores[1] < 60 < scores[2]
    assert (sets["medium"].episodes, sets["expert"].episodes) == (3, 2)
    halves = collect.make_offline("mujoco-hopper-medium-expert@2x1000", workers=1)[0]
    np.testing.assert_array_equal(halves.select([0]).actions, sets["medium"].select([0]).actions)
    np.testing.assert_array_equal(halves.select([1]).actions, sets["expert"].select([0]).actions)


def test_data_of_shipped_linear_policies_are_the_same_bytes_for_any_number_of_workers(tmp_path):
    name = "cheetah-dir-medium-replay@9x25"
    first = {
        (one.name, key): getattr(one, key).tobytes() for one in collect.make_offline(name, workers=1) for key in TRAINED
    }
    for folder in (tmp_path / "offline", tmp_path / "minari"):
        folder.rename(folder.with_suffix(".one"))
    data = collect.make_offline(name, workers=2)
    assert {(one.name, key): getattr(one, key).tobytes() for one in data for key in TRAINED} == first
    assert [part["episodes"] for part in data[0].meta["checkpoints"]] == [2, 2, 1, 1, 1, 1, 1]
    assert "reference" not in data[0].meta  # these are no whole episodes
    exported = from_minari(tmp_path / "minari" / parse_offline(name).minari_id("cheetah-dir:0"))
    np.testing.assert_array_equal(exported.actions, data[0].actions)


def test_qualities_of_families_are_ordered():
    found = {}
    for quality in ("random", "medium", "expert"):
        backward = collect.make_offline(f"cheetah-dir-{quality}@4x200", workers=1)[1]
        found[quality] = backward.returns.mean()
    _, high = backward.meta["reference"]
    assert found["random"] < 0.1 * high < found["medium"] < 0.65 * high < 0.75 * high < found["expert"]
    points = [collect.make_offline(f"point-robot:test-{q}@5x20", workers=1)[0] for q in ("random", "medium", "expert")]
    assert points[0].returns.max() < points[1].returns.mean() < points[2].returns.min()
    assert points[2].successes.all()
    (hidden, *_) = collect.make_offline("ml1-reach:test-expert@1x60", workers=1)
    assert (hidden.name, hidden.successes.tolist()) == ("ml1-reach:11", [True])
    assert not hidden.observations[:, 36:].any()


def test_the_velocity_term_flips_its_sign_between_the_two_directions():
    action = np.linspace(-1, 1, 6, dtype=np.float32)
    rewards, velocity = {}, {}
    for task in ("cheetah-dir:0", "cheetah-dir:1"):
        env = build.make_env(task)
        env.reset(seed=3)
        for _ in range(5):
            _, rewards[task], _, _, info = env.step(action)
        velocity[task] = info["velocity"]
    control = 0.05 * float(np.square(action).sum())
    assert velocity["cheetah-dir:0"] == velocity["cheetah-dir:1"] != 0
    assert rewards["cheetah-dir:0"] + control == pytest.approx(-(rewards["cheetah-dir:1"] + control))
