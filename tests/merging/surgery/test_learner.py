"""Training of surgery: equal to the plain formulation, exact to resume, and blind to everything that is frozen."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.reference import surgery as plain
from torch import Tensor, nn

from manyone.engine import checkpoint
from manyone.errors import ManyoneError
from manyone.merging.measures import features
from manyone.merging.surgery import learner as surgery_learner
from manyone.merging.surgery.learner import SurgeryLearner
from manyone.merging.surgery.model import Surgery, SurgeryV2
from manyone.randomness import BatchOrder

TASKS = ("a", "b", "c")
SCALE = 0.4


class World:
    """A base, three experts, the task-arithmetic merge and 40 inputs a task."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.base = plain.TinyBlocks(seed=1)
        self.experts = []
        for _ in TASKS:
            state = {n: v + 0.1 * torch.randn(v.shape, generator=generator) for n, v in self.base.state_dict().items()}
            self.experts.append(state)
        self.merged = plain.TinyBlocks()
        self.merged.load_state_dict(plain.merge(self.base, self.experts, SCALE))
        self.inputs = {t: torch.randn(40, 4, 6, generator=generator) for t in TASKS}

    def surgery(self, version: int) -> Surgery | SurgeryV2:
        merged = copy.deepcopy(self.merged)
        return Surgery(merged, 5, TASKS, 4) if version == 1 else SurgeryV2(merged, 5, 8, TASKS, 4)

    def learner(self, version: int, **options) -> SurgeryLearner:
        return SurgeryLearner(
            self.surgery(version), dict(zip(TASKS, self.experts)), self.inputs, **{"batch_size": 8, **options}
        )


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("side_by_side", [True, False])
@pytest.mark.parametrize("stale", [False, True])
def test_training_equals_the_plain_formulation(world: World, version: int, side_by_side: bool, stale: bool) -> None:
    learner = world.learner(version, side_by_side=side_by_side, shared_stale_adam=stale, lr=3e-3, seed=7)
    corrections = [
        [(c.down[t].detach().clone(), c.up[t].detach().clone()) for c in learner.model.corrections] for t in range(3)
    ]
    orders = [BatchOrder(40, 8, 7, "surgery", t) for t in TASKS]
    batches = [
        [[world.inputs[task][order.batch(2 * k + b)] for b in range(2)] for task, order in zip(TASKS, orders)]
        for k in range(8)
    ]
    wanted = plain.train(world.base, world.experts, SCALE, corrections, batches, lr=3e-3, stale=stale)
    losses = [learner.step() for _ in range(8)]
    per_task = torch.tensor(wanted).view(8, 3, 2).mean(2)
    got = torch.tensor([[step[f"loss/{t}"] for t in TASKS] for step in losses])
    assert torch.allclose(got, per_task, atol=1e-5)
    for place, correction in enumerate(learner.model.corrections):
        for t in range(3):
            assert torch.allclose(correction.down[t], corrections[t][place][0], atol=2e-5)
            assert torch.allclose(correction.up[t], corrections[t][place][1], atol=2e-5)


@pytest.mark.parametrize("version", [1, 2])
def test_nothing_to_correct_gives_zero_loss_and_gradients(world: World, version: int) -> None:
    model = world.surgery(version)
    learner = SurgeryLearner(model, dict.fromkeys(TASKS, model.merged), world.inputs, side_by_side=False)
    before = copy.deepcopy(model.corrections.state_dict())
    assert learner.step()["loss"] == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.corrections.parameters())
    assert all(torch.equal(before[n], v) for n, v in model.corrections.state_dict().items())


@pytest.mark.parametrize("version", [1, 2])
def test_loss_and_bias_fall(world: World, version: int) -> None:
    learner = world.learner(version, lr=1e-2, batch_size=40)
    losses = [learner.step()["loss"] for _ in range(40)]
    assert losses[-1] < 0.8 * losses[0]
    assert learner.evaluate()["bias"] < 0.9 * learner.bias_before["bias"]
    assert set(learner.evaluate()) == {"bias", "bias/a", "bias/b", "bias/c"}


def test_v2_has_one_loss_term_more_than_blocks(world: World) -> None:
    learner = world.learner(2)
    terms = []
    distance = learner.distance
    learner.distance = lambda *args: terms.append(1) or distance(*args)
    learner.losses([0], 0)
    assert len(terms) == 3 + 1


@pytest.mark.parametrize("version", [1, 2])
def test_training_one_task_leaves_the_others_alone(world: World, version: int) -> None:
    learner = world.learner(version, side_by_side=False)
    learner.step()
    model, x = learner.model, world.inputs["b"][:5]
    before, others = model(x, "b").detach(), model(x, "a").detach()
    for position in range(3):
        learner.update(1, learner.losses([1], position))
    assert torch.equal(model(x, "a"), others)
    assert not torch.equal(model(x, "b"), before)


def test_stale_adam_moves_tasks_that_are_not_trained(world: World) -> None:
    learner = world.learner(1, shared_stale_adam=True)
    learner.step()
    x = world.inputs["a"][:5]
    before = learner.model(x, "a").detach()
    learner.update(0, learner.losses([1], 3))
    assert not torch.equal(learner.model(x, "a"), before)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("options", [{}, {"side_by_side": False}, {"shared_stale_adam": True}])
def test_resumed_training_is_bit_identical(world: World, version: int, options: dict) -> None:
    straight, first, second = (world.learner(version, **options) for _ in range(3))
    for _ in range(6):
        straight.step()
    for _ in range(3):
        first.step()
    state = copy.deepcopy(first.state_dict())
    first.step()
    second.step()
    second.load_state_dict(state)
    metrics = [second.step() for _ in range(3)]
    assert second.iteration == straight.iteration == 6
    assert metrics[-1] == {**metrics[-1]}
    for (name, a), b in zip(
        straight.model.corrections.state_dict().items(), second.model.corrections.state_dict().values()
    ):
        assert torch.equal(a, b), name
    assert straight.step() == second.step()


def test_equal_seeds_give_equal_bytes(world: World) -> None:
    first, second, other = world.learner(2, seed=1), world.learner(2, seed=1), world.learner(2, seed=2)
    runs = [[learner.step()["loss"] for _ in range(3)] for learner in (first, second, other)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("version", [1, 2])
def test_frozen_parts_are_untouched(world: World, version: int) -> None:
    learner = world.learner(version)
    merged = learner.model.merged.train()
    before = copy.deepcopy(merged.state_dict())
    experts = copy.deepcopy(world.experts)
    learner.step()
    learner.evaluate()
    assert all(torch.equal(before[n], v) for n, v in merged.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in merged.parameters())
    assert all(m.training for m in merged.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__ for m in merged.modules())
    assert all(torch.equal(a[n], b[n]) for a, b in zip(experts, world.experts) for n in a)


def test_online_uses_every_input_once(world: World) -> None:
    inputs = {"a": world.inputs["a"][:5], "b": world.inputs["b"][:7], "c": world.inputs["c"][:7]}
    learner = SurgeryLearner(world.surgery(1), dict(zip(TASKS, world.experts)), inputs, online=True)
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    losses = learner.losses
    learner.losses = lambda which, k: (
        [seen[t].extend(learner.orders[t].batch(k).tolist()) for t in which] and losses(which, k)
    )
    assert learner.steps == 7
    for _ in range(learner.steps):
        learner.step()
    assert [sorted(v) for v in seen.values()] == [list(range(5)), list(range(7)), list(range(7))]


def test_first_block_is_stored_and_skipped(world: World, monkeypatch) -> None:
    learner = world.learner(2)
    cache, merged = learner.cache, learner.model.merged
    assert cache is not None
    assert list(cache.stem) == ["stem"]
    calls = []
    handle = merged.blocks[0].fc1.register_forward_hook(lambda *_: calls.append(0))
    stem = merged.stem.register_forward_pre_hook(lambda *_: calls.append(0))
    learner.step()
    assert len(calls) == 2 * (3 if not learner.side_by_side else 1)
    handle.remove()
    stem.remove()
    monkeypatch.setattr(surgery_learner, "CACHE_BYTES", 1000)
    assert world.learner(2).cache is None


def test_short_cut_is_dropped_where_later_blocks_read_the_embedding_again(world: World) -> None:
    class Reread(plain.TinyBlocks):
        def forward(self, x: Tensor) -> Tensor:
            start = x = self.stem(x)
            for block in self.blocks:
                x = block(x) + start
            return self.project(x.mean(1))

    merged = Reread()
    learner = SurgeryLearner(
        SurgeryV2(merged, 5, 8, TASKS, 4), {t: Reread(seed=3) for t in TASKS}, world.inputs, batch_size=8
    )
    assert learner.cache is None
    assert learner.step()["loss"] > 0


@pytest.mark.parametrize("side_by_side", [True, False])
def test_padded_text(side_by_side: bool, monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = {}
    for task, width in zip("ab", (6, 9)):
        lengths = torch.randint(1, width + 1, (20,), generator=generator)
        mask = (torch.arange(width) < lengths[:, None]).long()
        ids = torch.randint(1, 11, (20, width), generator=generator) * mask
        inputs[task] = {"input_ids": ids, "attention_mask": mask}
    merged, expert = plain.PaddedText(), plain.PaddedText()
    with torch.no_grad():
        for p in expert.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    runs = []
    for limit in (0, 1 << 20):
        monkeypatch.setattr(surgery_learner, "CACHE_BYTES", limit)
        model = SurgeryV2(copy.deepcopy(merged), 8, 8, ("a", "b"), 4)
        learner = SurgeryLearner(
            model,
            {"a": expert, "b": expert.state_dict()},
            inputs,
            batch_size=8,
            side_by_side=side_by_side,
        )
        assert (learner.cache is None) == (limit == 0)
        assert learner.side_by_side == side_by_side
        runs.append(torch.tensor([list(learner.step().values()) for _ in range(10)]))
    assert torch.allclose(runs[0], runs[1], atol=1e-5)


def test_expert_weights_need_the_encoder_they_belong_to(world: World) -> None:
    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.encoder = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder(x)

    experts = dict(zip(TASKS, world.experts))
    model = SurgeryV2(Wrapped(copy.deepcopy(world.merged)), 5, 8, TASKS, 4)
    with pytest.raises(ManyoneError, match="encoder="):
        SurgeryLearner(model, experts, world.inputs)
    learner = SurgeryLearner(model, experts, world.inputs, encoder=copy.deepcopy(world.base), batch_size=8)
    reference = world.learner(2)
    assert learner.step() == pytest.approx(reference.step(), abs=1e-6)


def test_bad_arguments(world: World) -> None:
    with pytest.raises(ManyoneError, match="l1 or l2"):
        world.learner(1, loss="l3")
    with pytest.raises(ManyoneError, match="'b' has no inputs"):
        SurgeryLearner(
            world.surgery(1), dict(zip(TASKS, world.experts)), {"a": world.inputs["a"], "c": world.inputs["c"]}
        )
    with pytest.raises(ManyoneError, match="'b' has no expert"):
        SurgeryLearner(world.surgery(1), {"a": world.experts[0]}, world.inputs)
    deeper = plain.TinyBlocks(depth=4)
    with pytest.raises(ManyoneError, match="4 blocks"):
        SurgeryLearner(world.surgery(2), dict.fromkeys(TASKS, deeper), world.inputs)


def test_l2_and_export(world: World, tmp_path) -> None:
    learner = world.learner(1, loss="l2", side_by_side=False)
    first = learner.losses([0], 0)
    rows = learner.orders[0].batch(0)
    gap = learner.merged_features[0][rows] - learner.expert_features[0][rows]
    assert torch.allclose(first, (gap**2).mean()[None])
    learner.export(tmp_path / "model")
    assert (tmp_path / "model" / "surgery.safetensors").is_file()


@pytest.mark.parametrize("stale", [False, True])
def test_state_survives_a_checkpoint_file(world: World, stale: bool, tmp_path) -> None:
    straight, resumed = (world.learner(2, shared_stale_adam=stale) for _ in range(2))
    straight.step()
    checkpoint.save(tmp_path, 1, straight.state_dict())
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    resumed.load_state_dict(found[1])
    assert [resumed.step() for _ in range(2)] == [straight.step() for _ in range(2)]


@pytest.mark.parametrize(
    ("version", "argument"), [(1, "expert_features"), (1, "merged_features"), (2, "merged_features")]
)
def test_known_features_replace_passes(world: World, version: int, argument: str) -> None:
    own = world.learner(version, seed=3)
    if argument == "expert_features":
        known = dict(zip(TASKS, own.expert_features))
    else:
        known = {t: features(own.model.merged, world.inputs[t]) for t in TASKS}
    given = world.learner(version, seed=3, **{argument: known})
    for _ in range(3):
        assert own.step() == given.step()
    assert own.bias_before == given.bias_before
    assert own.evaluate() == given.evaluate()


@pytest.mark.parametrize("argument", ["expert_features", "merged_features"])
def test_known_features_of_other_inputs_are_refused(world: World, argument: str) -> None:
    with pytest.raises(ManyoneError, match=f"{argument} of task 'a' has 1 rows, but the task has 40 inputs"):
        world.learner(1, **{argument: {t: torch.zeros(1, 5) for t in TASKS}})
