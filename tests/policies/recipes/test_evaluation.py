"""How long policies are evaluated, and between which returns and on which episodes they are scored."""

import numpy as np
import pytest
import torch

from manyone.data.trajectories.trajectories import Trajectories
from manyone.envs.single import make
from manyone.errors import ManyoneError
from manyone.policies import CloningNetwork, PolicyData, PolicyLearner, build_model
from manyone.policies.baselines.cloning import CloningPolicy
from manyone.policies.best import Best
from manyone.policies.held_out import action_errors, half_ranges, split
from manyone.policies.recipes.options import CloningOptions, HarmoDTOptions
from manyone.policies.recipes.problem import PolicyProblem
from manyone.policies.recipes.run import normalised
from manyone.recipes.options import with_preset


def data_of(name, lengths, terminated=(), **more):
    draw = np.random.Generator(np.random.Philox(3))
    each = [
        {"observations": draw.normal(size=(n, 3)), "actions": draw.uniform(-2, 2, (n, 1)), "rewards": draw.random(n),
         "terminated": i in terminated}
        for i, n in enumerate(lengths)
    ]  # fmt: skip
    return Trajectories.from_episodes(name, each, **more)


@pytest.mark.parametrize(
    ("lengths", "terminated", "asked", "limit", "wanted"),
    [
        ((30, 20), (), None, 200, 30),  # cut off after 30 steps: so long are its returns
        ((30, 20), (0,), None, 200, 200),  # the longest fell: a better policy may go on
        ((30, 30), (0,), None, 200, 30),
        ((30, 20), (0,), None, None, 30),
        ((300, 20), (), None, 200, 200),
        ((30, 20), (), 50, 200, 50),
        ((30, 20), (), 500, 200, 200),
        ((30, 20), (), 500, None, 500),
    ],
)
def test_an_evaluation_lasts_as_the_data_the_environment_or_the_user_say(
    monkeypatch, caplog, lengths, terminated, asked, limit, wanted
):
    monkeypatch.setattr(make, "limit", lambda task: limit)
    problem = PolicyProblem("own", (data_of("gym:X-v0", lengths, terminated),), asked)
    assert problem.horizons == {"gym:X-v0": wanted}
    assert problem.longest == max(wanted, asked or 0, *lengths)
    problem.warn_of_time()
    assert ("evaluated for" in caplog.text) == (wanted > max(lengths))
    assert ("before --horizon 500" in caplog.text) == (asked == 500 and limit == 200)


def test_the_presets_horizon_is_for_made_data():
    for cls in (CloningOptions, HarmoDTOptions):
        assert with_preset(cls, {"suite": "metaworld-mt10"}).horizon == 200
        assert with_preset(cls, {"suite": "metaworld-mt10", "preset": "paper"}).horizon == 500
        assert with_preset(cls, {"data": ("gym:Pendulum-v1=x",), "preset": "paper"}).horizon is None
        assert with_preset(cls, {"data": ("gym:Pendulum-v1=x",), "horizon": 7}).horizon == 7


def test_limits_of_environments():
    assert make.limit("gym:Pendulum-v1") == 200
    assert (make.limit("door-open-v3"), make.limit("cheetah-vel:3")) == (500, 200)


def test_normalised_scores_are_d4rls_and_need_a_reference_for_every_task():
    problem = PolicyProblem(
        "own", (data_of("a", [3], meta={"reference": [0, 10]}), data_of("b?x=1", [3])), held_out=(data_of("a", [3]),)
    )
    assert problem.references(()) == {"a": (0, 10)}
    both = problem.references(("b?x=1=-20,-10",))
    found = normalised({"return": 1.0, "return/a": 5.0, "return/b?x=1": -25.0}, both)
    assert found == {"normalised": 0.0, "normalised/a": 0.5, "normalised/b?x=1": -0.5}
    assert problem.references(("a=5,6", "b?x=1=1,2"))["a"] == (5, 6), "what is given wins"
    assert normalised({"return/a": 5.0, "return/b": 1.0}, {"a": (0, 1)}) == {}
    for word, message in (("a", "give TASK=RANDOM,EXPERT"), ("a=1", "two returns"), ("a=2,1", "RANDOM below EXPERT"),
                          ("c=1,2", "one of the tasks a, b"), ("a=nan,2", "RANDOM below EXPERT"),
                          ("a=-inf,2", "both finite"), ("a=0,inf", "both finite")):  # fmt: skip
        with pytest.raises(ManyoneError, match=message):
            problem.references((word,))


def test_held_out_episodes_are_a_tenth_and_in_no_training_episode():
    data = data_of("lift", range(5, 35))
    own, held = split(data, seed=1)
    assert (own.episodes, held.episodes) == (27, 3)
    assert sorted([*own.lengths, *held.lengths]) == list(range(5, 35))
    assert split(data, seed=1)[1].lengths.tolist() == held.lengths.tolist() != split(data, seed=2)[1].lengths.tolist()
    assert split(data_of("lift", [4, 4]), 0)[1].episodes == 1
    with pytest.raises(ManyoneError, match="lift: one episode cannot be"):
        split(data_of("lift", [4]), 0)


def test_the_action_error_is_the_training_loss_along_recorded_episodes():
    """Of a sequence model in windows that begin with the episode: then it sees there what it sees when it is led."""
    made = [data_of("lift", [6, 4]), data_of("drop", [5, 3])]
    halves = {one.name: np.full(1, 2.0) for one in made}
    data = PolicyData(made, context=6, bounds=[(np.full(1, -2), np.full(1, 2))] * 2)
    model = build_model("mt-dt", data, width=16, layers=1, heads=2, max_timestep=8)
    policy = PolicyLearner(model, data, method="mt-dt", steps=1).policy()
    found = action_errors(policy, made, halves)
    for task, one in enumerate(made):
        at = torch.zeros(2, dtype=torch.int64)
        steps = data.windows.gather(torch.full((2,), task), torch.arange(2), at)
        steps["returns_to_go"] = steps["returns_to_go"] / data.table.scale[task]
        error = (model(steps) - steps["actions"]).square().squeeze(-1)[steps["valid"]]
        assert found[one.name] == pytest.approx(float(error.detach().mean()), rel=1e-4)
    cloned = CloningNetwork(3, 1, 2, width=8)
    found = action_errors(CloningPolicy(cloned, data.table), made, halves)
    rows = slice(0, 10)
    own = (cloned(data.windows.flat["observations"][rows], torch.zeros(10, dtype=torch.int64))
           - data.windows.flat["actions"][rows]).square().mean()  # fmt: skip
    assert found["lift"] == pytest.approx(float(own.detach()), rel=1e-4)
    assert half_ranges(data_of("x", [1])).tolist() == [1.0], "actions that are all equal keep their unit"


class Scored:
    """A learner whose evaluations are given."""

    def __init__(self, metrics):
        self.metrics, self.iteration, self.loaded = metrics, 0, None

    def step(self):
        self.iteration += 1
        return {"loss": 0.0}

    def evaluate(self):
        return self.metrics[self.iteration]

    def state_dict(self):
        return {"at": self.iteration}

    def load_state_dict(self, state):
        self.loaded = state["at"]

    def export(self, folder):
        (folder / "exported").write_text(str(self.loaded))


class Folder:
    def __init__(self, path):
        self.checkpoints, self.exists = path, True


@pytest.mark.parametrize(
    ("metrics", "best"),
    [
        ([{"success": 0.2, "return": 9}, {"success": 0.4, "return": 1}, {"success": 0.3, "return": 5}], 1),
        ([{"success": 0.0, "return": 9}, {"success": 0.0, "return": 1}, {"success": 0.0, "return": 5}], 2),
        ([{"return": -9}, {"return": -1}, {"return": -5}], 1),
        ([{"action_error": 0.1}, {"action_error": 0.3}, {"action_error": 0.2}], 0),
    ],
)
def test_the_best_weights_by_success_return_or_action_error_are_exported(tmp_path, metrics, best):
    learner = Best(Scored(metrics), Folder(tmp_path / "checkpoints"))
    for number in range(3):
        learner.evaluate()
        if number < 2:
            learner.step()
    learner = Best(learner.learner, Folder(tmp_path / "checkpoints"))  # as after a resume
    assert learner.kept.step == best
    assert str(learner.kept).startswith(f"the weights of step {best}, the best by ")
    learner.export(tmp_path)
    assert (tmp_path / "exported").read_text() == str(best)
