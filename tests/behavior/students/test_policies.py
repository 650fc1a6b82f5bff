import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.artefacts import replace_tensors
from tests.behavior.students.conftest import distilled_set, frame

from manyone.behavior.artefact import save_distilled
from manyone.behavior.students.network import StudentSpec
from manyone.behavior.students.policies import (
    Lockstep,
    StudentPolicies,
    load_policies,
    load_policy,
    save_policies,
)
from manyone.behavior.students.training import train
from manyone.errors import ManyoneError
from manyone.evaluation.rollouts import Episode


@pytest.fixture
def policies(walks):
    return train(walks, 3)


@pytest.fixture
def choosing():
    return train(distilled_set(frame(choices=4)), 3)


def observations(rows, width=5, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32) * 3


@pytest.mark.parametrize("which", ["policies", "choosing"])
def test_in_lock_step_each_episode_has_its_own_student(which, request):
    policies = request.getfixturevalue(which)
    members = [2, 0, 0, 2, 1, 0, 2]
    acting = Lockstep(policies, members)
    acting.start([Episode("walks", i) for i in range(len(members))])
    for slots in ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6], [1, 2, 4, 5], [2, 5], [6]):  # episodes end
        seen = observations(len(slots), seed=len(slots))
        found = acting.act(np.array(slots), seen)
        alone = np.stack([policies.member(members[s]).actions(seen[i : i + 1])[0, 0] for i, s in enumerate(slots)])
        np.testing.assert_allclose(found, alone, atol=1e-6)
        acting.reward(np.array(slots), np.zeros(len(slots)))
    if policies.frame.choices:
        assert ((found == 1).sum(1) == 1).all()
        assert ((found == 0).sum(1) == 3).all()


def test_actions_are_the_environment_s_and_within_its_bounds(walks):
    own = frame()
    low, high = torch.tensor([-3.0, 0.5]), torch.tensor([-1.0, 0.75])
    shifted = StudentPolicies(
        type(own)(**{**own.__dict__, "low": low, "high": high}), walks.spec, train(walks, 4).weights
    )
    seen = observations(50) * 100
    found = shifted.actions(seen)
    unit = shifted.student.forward(shifted.weights, (torch.from_numpy(seen) - own.mean) / own.deviation)
    np.testing.assert_allclose(found, (low + high) / 2 + unit * (high - low) / 2, atol=1e-6)
    assert (found >= low.numpy()).all()
    assert (found <= high.numpy()).all()
    assert np.ptp(found, axis=(0, 1)).min() > 0


@pytest.mark.parametrize("which", ["policies", "choosing"])
def test_an_ensemble_of_equal_students_is_the_student(which, request):
    """Bit for bit, so that whole episodes are the same; property 11 of the specification."""
    policies = request.getfixturevalue(which)
    one, seen = policies.member(1), observations(6)
    for copies in (1, 10):
        weights = {name: value.repeat(copies, *[1] * (value.ndim - 1)) for name, value in one.weights.items()}
        equal = StudentPolicies(one.frame, one.spec, weights)
        np.testing.assert_array_equal(equal.actions(seen, ensemble=True), one.actions(seen))
    mixed = policies.actions(seen, ensemble=True)[0]
    assert not np.array_equal(mixed, one.actions(seen)[0])
    if not policies.frame.choices:
        np.testing.assert_allclose(mixed, policies.actions(seen).mean(0), atol=1e-6)


@pytest.mark.parametrize("which", ["policies", "choosing"])
def test_a_saved_policy_acts(which, request, tmp_path):
    policies = request.getfixturevalue(which)
    save_policies(tmp_path / "all", policies)
    save_policies(tmp_path / "one", policies.member(-1))
    found = load_policies(tmp_path / "all")
    assert (found.spec, found.info, found.frame.config()) == (policies.spec, policies.info, policies.frame.config())
    seen = observations(4)
    np.testing.assert_array_equal(found.actions(seen), policies.actions(seen))
    policy = load_policy(tmp_path / "one")
    policy.reset()
    expected = policies.member(2).actions(seen)[0]
    if policies.frame.choices:
        assert policy.act(seen).tolist() == expected.argmax(1).tolist()
        assert int(policy.act(seen[0])) == int(expected[0].argmax())
    else:
        np.testing.assert_array_equal(policy.act(seen), expected)
        np.testing.assert_allclose(policy.act(seen[0], reward=1.0), expected[0], atol=1e-6)
        together = load_policy(tmp_path / "all").act(seen)
        np.testing.assert_allclose(together, policies.actions(seen).mean(0), atol=1e-6)


def test_a_policy_is_used_as_those_of_other_fields_are(policies, tmp_path):
    save_policies(tmp_path, policies)
    policy = load_policy(tmp_path)
    policy.reset(["walks"] * 3)
    policy.reset(slots=np.array([True, False, True]))
    assert policy.act(observations(3), np.zeros(3)).shape == (3, 2)
    assert policy.tasks == ("walks",)
    policy.batched.start([Episode("walks")])
    assert policy.batched.act(np.array([0]), observations(1)).shape == (1, 2)
    for seen, message in [
        (np.zeros(4), r"observations \[4\]: expected \[5\] or \[n, 5\]"),
        (np.zeros((2, 2, 5)), r"observations \[2, 2, 5\]"),
        (np.full(5, np.nan), "an observation is not finite"),
    ]:
        with pytest.raises(ManyoneError, match=message):
            policy.act(seen)
    with pytest.raises(ManyoneError, match="reads no target return"):
        policy.reset(target=3.0)


def test_a_wrong_student_is_named(policies):
    with pytest.raises(ManyoneError, match="student 3: there are students 0 to 2"):
        policies.member(3)
    with pytest.raises(ManyoneError, match="student 5: there are students 0 to 2"):
        Lockstep(policies, [0, 5])
    with pytest.raises(ManyoneError, match="2 students named for 3 episodes"):
        Lockstep(policies, [0, 1]).start([Episode("walks", i) for i in range(3)])


def test_wrong_files_are_named(policies, walks, tmp_path):
    save_distilled(tmp_path / "set", walks)
    with pytest.raises(ManyoneError, match="not a policy: manyone run bc --data"):
        load_policies(tmp_path / "set")
    with pytest.raises(ManyoneError, match=r"no config.json, so this is not a cloned policy"):
        load_policies(tmp_path / "nothing")
    changes = {
        "layers.0.weight is": lambda t: t.update({"weights.layers.0.weight": torch.zeros(3, 16, 4)}),
        "layers.1.bias is missing": lambda t: t.pop("weights.layers.1.bias"),
        "statistics or bounds": lambda t: t.update({"deviation": torch.zeros(5)}),
    }
    for place, (message, change) in enumerate(changes.items()):
        folder = tmp_path / str(place)
        save_policies(folder, policies)
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        replace_tensors(folder, tensors)
        with pytest.raises(ManyoneError, match=message):
            load_policies(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ManyoneError, match="damaged"):
        load_policies(folder)


def test_students_of_another_kind_of_action_are_refused(walks):
    with pytest.raises(ManyoneError, match="a tanh output: the actions of walks need softmax"):
        StudentPolicies(frame(choices=2), StudentSpec(layers=3, width=16), train(walks, 1).weights)
