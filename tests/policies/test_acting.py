"""Acting: batched equals one at a time, artefacts, unseen tasks, behaviour cloning."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from manyone.errors import ManyoneError
from manyone.policies.acting import SequencePolicy
from manyone.policies.artefact import save_policy
from manyone.policies.baselines.cloning import CloningNetwork
from manyone.policies.baselines.mtbc import CloningLearner
from manyone.policies.harmodt.learner import PolicyLearner
from manyone.policies.harmodt.variants import build_model
from manyone.policies.loading import load_policy
from manyone.policies.masks import TaskMasks, maskable_shapes
from manyone.policies.tasks import PolicyData
from manyone.policies.unseen import unseen_policy

SHAPE = {"width": 8, "layers": 2, "heads": 2, "max_timestep": 9}


class Episode(NamedTuple):
    task: str


def play(policy, episodes, steps=9, seed=0):
    """Actions [episodes, steps, A] with made observations and rewards; episode e ends after ``steps - e % 3``."""
    draws = [np.random.Generator(np.random.Philox(1000 * seed + e)) for e in range(len(episodes))]
    observations = np.stack([d.normal(size=(steps, 5)) for d in draws]).astype(np.float32)
    rewards = np.stack([d.random(steps) for d in draws]).astype(np.float32)
    policy.start(episodes)
    found = np.full((len(episodes), steps, 2), np.nan, np.float32)
    for t in range(steps):
        slots = np.array([e for e in range(len(episodes)) if t < steps - e % 3])[::-1]
        found[slots, t] = policy.act(slots, observations[slots, t])
        policy.reward(slots, rewards[slots, t])
    return found, observations, rewards


def by_hand(model, table, weights, task, observations, rewards, actions, t):
    """The action at step t from the full history by the plain forward pass with left padding to K."""
    k = model.context
    i = table.names.index(task)
    first = max(0, t + 1 - k)
    pad = k - (t + 1 - first)
    left = float(table.target[i]) - np.concatenate([[0], np.cumsum(rewards[:t].astype(np.float64))])
    zeros = np.zeros((1, 2), np.float32)
    values = {
        "observations": (observations[first : t + 1] - table.mean[i].numpy()) / table.deviation[i].numpy(),
        "actions": np.concatenate([actions[first:t], zeros]),
        "returns_to_go": left[first : t + 1] / float(table.scale[i]),
        "timesteps": np.arange(first, t + 1),
    }
    batch = {n: torch.from_numpy(np.concatenate([np.zeros((pad, *v.shape[1:]), v.dtype), v]))[None]
             for n, v in values.items()}  # fmt: skip
    batch = {n: v.to(torch.float64) if v.is_floating_point() else v for n, v in batch.items()}
    batch["valid"] = (torch.arange(k) >= pad)[None]
    prompt = {n: v[i : i + 1].to(torch.float64) if v.is_floating_point() else v[i : i + 1]
              for n, v in table.prompt.items()} if model.prompt else None  # fmt: skip
    task_number = torch.tensor([i]) if model.id_tokens else None
    return model.run(weights, batch, prompt, task_number)[0, -1].numpy()


@pytest.mark.parametrize("method", ["mt-dt", "id-token", "prompt-dt", "harmodt-r"])
def test_acting_in_many_episodes_at_once_is_the_plain_loop_over_each(tasks, method):
    data = PolicyData(tasks(3), context=4, prompt=2, dtype=torch.float64)
    model = build_model(method, data, **SHAPE)
    masks = TaskMasks.random(maskable_shapes(model), 3, 0.5, seed=1) if method == "harmodt-r" else None
    episodes = [Episode(f"task-{i}") for i in (0, 2, 0, 1, 2, 0, 0, 0)]
    found, observations, rewards = play(SequencePolicy(model, data.table, masks), episodes)
    theta = {n: p.detach() for n, p in model.named_parameters()}
    for e, episode in enumerate(episodes):
        i = data.table.index(episode.task)
        weights = theta | ({n: theta[n] * m for n, m in masks.unpack(i).items()} if masks else {})
        for t in range(9 - e % 3):
            plain = by_hand(model, data.table, weights, episode.task, observations[e], rewards[e], found[e], t)
            np.testing.assert_allclose(found[e, t], plain, atol=2e-6)
        assert np.isnan(found[e, 9 - e % 3 :]).all()


@pytest.mark.parametrize("method", ["prompt-dt", "harmodt"])
def test_an_episode_with_a_prompt_of_its_own_acts_as_if_its_task_had_it(tasks, method):
    data = PolicyData(tasks(3), context=4, prompt=3)
    model = build_model(method, data, **SHAPE)
    with torch.no_grad():  # fresh blocks hardly look at the prompt
        for name, value in model.named_parameters():
            value.mul_(20 if name.startswith("blocks.") and value.ndim == 2 else 1)
    masks = TaskMasks.random(maskable_shapes(model), 3, 0.3, seed=1) if method == "harmodt" else None
    episodes = [Episode(f"task-{t}") for t in (0, 1, 2, 0, 2)]
    policy = SequencePolicy(model, data.table, masks)
    plain, _, _ = play(policy, episodes)
    batch = data.batch([0], 3, batch_size=2)
    assert batch.prompt is not None
    given = {k: v[0] for k, v in batch.prompt.items()}

    class Given(SequencePolicy):
        def start(self, episodes):
            super().start(episodes)
            self.give_prompts([4, 1], given)

    own, _, _ = play(Given(model, data.table, masks), episodes)
    for slot in (0, 2, 3):
        np.testing.assert_allclose(own[slot], plain[slot], atol=1e-6)
    for place, slot in enumerate((4, 1)):
        table = replace(data.table, prompt={k: v[[place] * 3] for k, v in given.items()})
        expected, _, _ = play(SequencePolicy(model, table, masks), episodes)
        np.testing.assert_allclose(own[slot], expected[slot], atol=1e-6)
        assert np.nanmax(np.abs(own[slot] - plain[slot])) > 1e-3


def test_weights_of_a_tasks_own_act_as_a_network_that_has_them(tasks):
    data = PolicyData(tasks(3), context=4, prompt=2)
    model, other = (build_model("prompt-dt", data, **SHAPE, seed=s) for s in (0, 1))
    theta, changed = (dict(m.named_parameters()) for m in (model, other))
    own = {n: torch.stack((v, changed[n])) for n, v in theta.items() if n.startswith(("blocks.1.", "head", "embed."))}
    episodes = [Episode(f"task-{t}") for t in (0, 1, 2, 0, 2)]
    found, _, _ = play(SequencePolicy(model, data.table, assignment=[0, 1, 0], own=own), episodes)
    plain, _, _ = play(SequencePolicy(model, data.table), episodes)
    other.load_state_dict(theta | {n: v[1] for n, v in own.items()})
    expected, _, _ = play(SequencePolicy(other, data.table), episodes)
    for slot in (0, 2, 3, 4):
        np.testing.assert_allclose(found[slot], plain[slot], atol=1e-6)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6)
    assert np.nanmax(np.abs(found[1] - plain[1])) > 1e-4
    with pytest.raises(ManyoneError, match=r"of 2 members, but member 2 is assigned"):
        SequencePolicy(model, data.table, own=own)
    masks = TaskMasks.random(maskable_shapes(model), 3, 0.3, seed=1)
    with pytest.raises(ManyoneError, match="beside masks"):
        SequencePolicy(model, data.table, masks, assignment=[0, 1, 0], own=own)


def test_soft_tokens_of_an_episode_act_as_the_prompt_that_they_embed(tasks):
    data = PolicyData(tasks(2), context=4, prompt=3)
    model = build_model("prompt-dt", data, **SHAPE)
    prompt = data.batch([0], 3, batch_size=2).prompt
    assert prompt is not None
    tokens = model.prompt_tokens(dict(model.named_parameters()), prompt)[0].detach()
    found = []
    for given in ({k: v[0] for k, v in prompt.items()}, tokens):

        class Given(SequencePolicy):
            def start(self, episodes, given=given):
                super().start(episodes)
                self.give_prompts([2, 0], given)

        found.append(play(Given(model, data.table), [Episode(f"task-{t}") for t in (0, 1, 1)])[0])
    np.testing.assert_array_equal(*found)


def test_an_episode_acts_alike_whatever_runs_beside_it(tasks):
    data = PolicyData(tasks(3), context=4, prompt=2, dtype=torch.float64)
    model = build_model("harmodt", data, **SHAPE)
    masks = TaskMasks.random(maskable_shapes(model), 2, 0.4, seed=1)
    policy = SequencePolicy(model, data.table, masks, assignment=[0, 1, 0])
    many, *_ = play(policy, [Episode("task-2"), Episode("task-1"), Episode("task-0"), Episode("task-2")])
    alone, *_ = play(policy, [Episode("task-2")])
    np.testing.assert_allclose(many[0], alone[0], atol=1e-6)
    policy.weights((0,))
    assert policy.weights((0,)) is policy.weights((0,)), "masked weights are made once"


def test_a_saved_policy_acts_in_a_fresh_process_without_the_engine(tasks, tmp_path):
    data = PolicyData(tasks(3), context=4, prompt=2)
    model = build_model("harmodt", data, **SHAPE)
    learner = PolicyLearner(model, data, steps=6, mask_every=2, eta_max=5, warmup=0, batch_size=2)
    for _ in range(4):
        learner.step()
    learner.export(tmp_path / "model")
    expected, observations, rewards = play(learner.policy(), [Episode("task-1")], steps=6)
    np.savez(tmp_path / "play.npz", observations=observations[0], rewards=rewards[0])
    program = (
        "import sys, numpy as np\n"
        "from manyone.policies import load_policy\n"
        "play = np.load(sys.argv[2])\n"
        "policy = load_policy(sys.argv[1])\n"
        "policy.reset('task-1')\n"
        "reward, actions = 0.0, []\n"
        "for observation, reward_after in zip(play['observations'], play['rewards']):\n"
        "    actions.append(policy.act(observation, reward))\n"
        "    reward = reward_after\n"
        "assert 'manyone.engine.loop' not in sys.modules, 'the engine was loaded'\n"
        "np.save(sys.argv[2] + '.npy', np.stack(actions))\n"
    )
    play_file = tmp_path / "play.npz"
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "model"), str(play_file)], check=True)
    np.testing.assert_allclose(np.load(f"{play_file}.npy"), expected[0], atol=1e-6)
    loaded = load_policy(tmp_path / "model")
    assert torch.equal(loaded.masks.bits, learner.masks[0].bits)
    assert loaded.info["method"] == "harmodt"
    readme = (tmp_path / "model" / "README.md").read_text()
    assert "from manyone.policies import load_policy" in readme
    assert "policy.reset('task-0')" in readme


def test_the_loader_that_earlier_artefacts_name_in_their_readme_is_still_there():
    from manyone.policies import artefact

    assert artefact.load_policy is load_policy
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        artefact.nothing  # noqa: B018


def test_a_dense_policy_that_nothing_tells_its_task_acts_without_a_name(tasks, tmp_path):
    pooled = {"normalisation": "pooled", "scale": "pooled", "target": "pooled"}
    data = PolicyData(tasks(3), context=4, **pooled)
    learner = PolicyLearner(build_model("mt-dt", data, **SHAPE), data, method="mt-dt", steps=4, warmup=0, batch_size=2)
    learner.step()
    learner.export(tmp_path / "free")
    policy = load_policy(tmp_path / "free")
    assert "policy.reset()" in (tmp_path / "free" / "README.md").read_text()
    expected, observations, rewards = play(learner.policy(), [Episode("task-1")], steps=6)
    for task in (None, "task-2", "never seen"):
        policy.reset(task) if task else policy.reset()
        acted = [policy.act(o, r) for o, r in zip(observations[0], [0.0, *rewards[0]])]
        np.testing.assert_allclose(np.stack(acted), expected[0], atol=1e-6)

    tells = PolicyData(tasks(3), context=4, **(pooled | {"target": "task"}))
    PolicyLearner(build_model("mt-dt", tells, **SHAPE), tells, method="mt-dt", steps=4).export(tmp_path / "told")
    with pytest.raises(ManyoneError, match="must know its task"):
        load_policy(tmp_path / "told").reset()


def test_several_seeds_export_a_folder_each(tasks, tmp_path):
    data = PolicyData(tasks(2), context=4, prompt=2)
    models = [build_model("prompt-dt", data, seed=s, **SHAPE) for s in (3, 5)]
    PolicyLearner(models, data, method="prompt-dt", seed=[3, 5], steps=2).export(tmp_path)
    second = load_policy(tmp_path / "seed-5")
    assert torch.equal(second.model.head.weight, models[1].head.weight)


def test_misuse_of_a_saved_policy_says_what_to_do(tasks, tmp_path):
    data = PolicyData(tasks(2), context=4, prompt=2)
    save_policy(tmp_path / "p", build_model("prompt-dt", data, **SHAPE), data.table)
    policy = load_policy(tmp_path / "p")
    with pytest.raises(ManyoneError, match="act before reset"):
        policy.act(np.zeros(5))
    with pytest.raises(ManyoneError, match="must know its task"):
        policy.reset()
    with pytest.raises(ManyoneError, match="task 'fly' is unknown to this policy: it has task-0, task-1"):
        policy.reset("fly")
    policy.reset("task-0")
    with pytest.raises(ManyoneError, match=r"observations \[1, 3\]: expected \[1, 5\]"):
        policy.act(np.zeros(3))
    with pytest.raises(ManyoneError, match=r"no config\.json"):
        load_policy(tmp_path)
    (tmp_path / "p" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ManyoneError, match="cannot be read"):
        load_policy(tmp_path / "p")
    (tmp_path / "p" / "config.json").write_text('{"manyone_format": 1}')
    with pytest.raises(ManyoneError, match="not a policy"):
        load_policy(tmp_path / "p")
    with pytest.raises(ManyoneError, match="cannot save a Linear"):
        save_policy(tmp_path / "q", torch.nn.Linear(1, 1), data.table)


def test_an_unseen_task_acts_under_the_vote_with_its_own_prompt(tasks):
    made = tasks(5)
    data, new = PolicyData(made[:3], context=4, prompt=2), PolicyData(made[3:], context=4, prompt=2)
    model = build_model("harmodt", data, **SHAPE)
    masks = TaskMasks.random(maskable_shapes(model), 3, 0.5, seed=1)
    policy = unseen_policy(model, new, masks, threshold=2)
    assert torch.equal(policy.masks.flat(0), masks.vote(2))
    assert torch.equal(unseen_policy(model, new, masks).masks.flat(0), masks.vote(2)), "half of three, rounded up"
    found, *_ = play(policy, [Episode("task-3"), Episode("task-4")])
    assert not np.allclose(found[0, 0], found[1, 0])
    with pytest.raises(ManyoneError, match="unknown to this policy"):
        policy.start([Episode("task-0")])
    with pytest.raises(ManyoneError, match="no token for an unseen task"):
        unseen_policy(build_model("id-token", data, **SHAPE), new)


def test_behaviour_cloning_learns_tells_tasks_apart_resumes_and_saves(tasks, tmp_path):
    data = PolicyData(tasks(3, episodes=40), context=2)
    make = lambda: CloningLearner(CloningNetwork(5, 2, 3, width=64), data, steps=150, lr=3e-3, seed=1)  # noqa: E731
    learner = make()
    first = [learner.step()["loss"] for _ in range(120)]
    assert sum(first[-20:]) < 0.75 * sum(first[:20])
    state = learner.state_dict()
    import copy

    state = copy.deepcopy(state)
    rest = [learner.step()["loss"] for _ in range(5)]
    again = make()
    again.load_state_dict(state)
    assert [again.step()["loss"] for _ in range(5)] == rest
    learner.export(tmp_path)
    found, observations, _ = play(learner.policy(), [Episode("task-0"), Episode("task-1")], steps=3)
    loaded = load_policy(tmp_path)
    loaded.reset("task-1")
    np.testing.assert_allclose(loaded.act(observations[1, 0]), found[1, 0], atol=1e-6)
    loaded.reset("task-0")
    assert not np.allclose(loaded.act(observations[1, 0]), found[1, 0])


def test_a_network_for_each_task(tasks):
    data = PolicyData(tasks(2), context=4, prompt=2)
    alone = data.subset([1])
    learner = PolicyLearner(build_model("mt-dt", alone, **SHAPE), alone, method="mt-dt", steps=3)
    learner.step()
    found, *_ = play(learner.policy(), [Episode("task-1")], steps=2)
    assert np.isfinite(found[0, :2]).all()
