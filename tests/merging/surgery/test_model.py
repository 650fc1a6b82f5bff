"""Surgery and SurgeryV2 as modules: what they compute, what they leave alone, and where they find blocks."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from tests.reference.surgery import Block, PaddedText, TinyBlocks, correct, forward
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.merging.surgery.model import (
    Surgery,
    SurgeryV2,
    find_block_modules,
    from_artefact,
    load,
    represent,
    save,
    token_mean,
)

TASKS = ("a", "b", "c.d")


def filled(model: Surgery | SurgeryV2, seed: int = 0) -> Surgery | SurgeryV2:
    """The same surgery with non-zero U."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for correction in model.corrections:
            for up in correction.up:
                up.copy_(0.3 * torch.randn(up.shape, generator=generator))
    return model


def images(n: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(n, 4, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("version", [1, 2])
def test_untrained_surgery_is_the_merged_model_bit_for_bit(version: int) -> None:
    merged = TinyBlocks()
    model = Surgery(merged, 5, TASKS) if version == 1 else SurgeryV2(merged, 5, 8, TASKS)
    for task in TASKS:
        assert torch.equal(model(images(), task), merged(images()))
    assert torch.equal(model(images(3), ["a", "c.d", "a"]), merged(images(3)))


def test_v2_corrects_every_token_of_every_block_and_the_feature() -> None:
    merged = TinyBlocks()
    model = filled(SurgeryV2(merged, 5, 8, TASKS, rank=4))
    pairs = [(c.down[1], c.up[1]) for c in model.corrections]
    means, feature = forward(merged.state_dict(), merged, images(), pairs)
    assert torch.allclose(model(images(), "b"), feature, atol=1e-6)
    got_means, got = model.represent(images(), "b")
    assert torch.allclose(got, feature, atol=1e-6)
    assert len(got_means) == 3
    for a, b in zip(got_means, means):
        assert torch.allclose(a, b, atol=1e-6)


def test_v2_without_block_corrections_is_v1() -> None:
    merged = TinyBlocks()
    v1 = filled(Surgery(merged, 5, TASKS, rank=4))
    v2 = SurgeryV2(merged, 5, 8, TASKS, rank=4)
    v2.corrections[-1].load_state_dict(v1.corrections[0].state_dict())
    assert torch.equal(v1(images(), "a"), v2(images(), "a"))
    assert torch.allclose(
        v1(images(), "a"), correct(merged(images()), v1.corrections[0].down[0], v1.corrections[0].up[0]), atol=1e-6
    )


@pytest.mark.parametrize("version", [1, 2])
def test_a_batch_may_mix_tasks(version: int) -> None:
    merged = TinyBlocks()
    model = filled(Surgery(merged, 5, TASKS) if version == 1 else SurgeryV2(merged, 5, 8, TASKS))
    x, tasks = images(4), ["b", "a", "c.d", "b"]
    mixed = model(x, tasks)
    alone = torch.cat([model(x[i : i + 1], t) for i, t in enumerate(tasks)])
    assert torch.allclose(mixed, alone, atol=1e-6)
    grouped = model(x, ["a", "b"])
    assert torch.allclose(grouped, torch.cat([model(x[:2], "a"), model(x[2:], "b")]), atol=1e-6)


def test_published_parameter_counts() -> None:
    class Shape(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(1, 1) for _ in range(12))

    tasks = [f"t{i}" for i in range(8)]
    v1 = Surgery(Shape(), 512, tasks)
    v2 = SurgeryV2(Shape(), 512, 768, tasks)
    assert sum(p.numel() for p in v1.corrections.parameters()) == 131_072
    assert sum(p.numel() for p in v2.corrections.parameters()) == 2_490_368
    assert sum(p.numel() for p in v2.task_parameters("t3")) == 311_296
    assert sum(p.numel() for p in Surgery(Shape(), 512, tasks, rank=304).task_parameters("t0")) == 311_296


def test_initial_values_are_linear_layers_defaults_and_depend_on_names_alone() -> None:
    first = Surgery(TinyBlocks(), 100, ("a", "b"), rank=50, seed=3)
    down = first.corrections[0].down
    assert 0.09 < down[0].abs().max() <= 0.1
    assert abs(float(down[0].detach().std()) - 0.1 / 3**0.5) < 0.003
    assert not torch.equal(down[0], down[1])
    swapped = Surgery(TinyBlocks(), 100, ("b", "a"), rank=50, seed=3)
    assert torch.equal(swapped.corrections[0].down[1], down[0])
    assert not torch.equal(Surgery(TinyBlocks(), 100, ("a",), rank=50, seed=4).corrections[0].down[0], down[0])


def test_the_wrapped_model_is_never_written() -> None:
    merged = TinyBlocks()
    merged.project.bias.requires_grad_(False)
    before, flags = copy.deepcopy(merged.state_dict()), [p.requires_grad for p in merged.parameters()]
    model = filled(SurgeryV2(merged, 5, 8, TASKS))
    model(images(), "a").sum().backward()
    with pytest.raises(RuntimeError):
        model(images()[..., :3], "a")
    assert not any(m._forward_hooks for m in merged.modules())
    assert [p.requires_grad for p in merged.parameters()] == flags
    assert all(torch.equal(before[n], v) for n, v in merged.state_dict().items())
    assert model.merged is merged


def test_another_thread_sees_the_uncorrected_model() -> None:
    merged = TinyBlocks()
    model = filled(SurgeryV2(merged, 5, 8, TASKS))
    plain, seen = merged(images()), []

    class Interrupt(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            thread = threading.Thread(target=lambda: seen.append(tail(x)))
            thread.start()
            thread.join()
            return x

    def tail(_: Tensor) -> Tensor:
        merged.stem = stem
        try:
            return merged(images())
        finally:
            merged.stem = interrupted

    stem = merged.stem
    merged.stem = interrupted = nn.Sequential(stem, Interrupt())
    corrected = model(images(), "a")
    assert torch.equal(seen[0], plain)
    assert not torch.allclose(corrected, plain)


def test_token_means_leave_padding_out() -> None:
    merged = PaddedText()
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    inputs = {"input_ids": torch.tensor([[1, 2, 3, 0], [4, 0, 0, 0]]), "attention_mask": mask}
    means, feature = represent(merged, list(find_block_modules(merged).values()), inputs)
    assert torch.allclose(means[-1], feature, atol=1e-6)
    other = inputs | {"input_ids": torch.tensor([[1, 2, 3, 9], [4, 8, 7, 6]])}
    assert torch.allclose(represent(merged, list(merged.layer), other)[0][0], means[0], atol=1e-6)
    model = filled(SurgeryV2(merged, 8, 8, ("a",)))
    got, _ = model.represent(inputs, "a")
    assert torch.allclose(model.represent(other, "a")[0][1], got[1], atol=1e-6)
    with pytest.raises(ManyoneError, match="attention mask"):
        token_mean(torch.zeros(2, 3, 8), inputs)


def test_blocks_of_one_token_and_of_different_widths() -> None:
    class Widening(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.blocks = nn.ModuleList([nn.Linear(6, 7), nn.Linear(7, 9)])

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = torch.tanh(block(x))
            return x

    model = SurgeryV2(Widening(), 9, [7, 9], ("a",))
    x = torch.randn(3, 6)
    assert torch.equal(model(x, "a"), model.merged(x))
    assert [m.shape[1] for m in model.represent(x, "a")[0]] == [7, 9]
    with pytest.raises(ManyoneError, match="width 7"):
        SurgeryV2(Widening(), 9, 7, ("a",))(x, "a")
    with pytest.raises(ManyoneError, match="2 blocks but 3"):
        SurgeryV2(Widening(), 9, [7, 9, 9], ("a",))


def test_blocks_are_found_by_name() -> None:
    class Nested(nn.Module):
        def __init__(self, name: str, kind: type) -> None:
            super().__init__()
            inner = nn.Module()
            inner.add_module(
                name, kind([Block(8) for _ in range(3)]) if kind is nn.ModuleList else kind(*[Block(8)] * 2)
            )
            self.encoder = inner
            self.routers = nn.ModuleList(nn.Linear(300, 300) for _ in range(3))

    for name in ("blocks", "layers", "layer", "h", "block", "resblocks"):
        found = find_block_modules(Nested(name, nn.ModuleList))
        assert list(found) == [f"encoder.{name}.{i}" for i in range(3)]
    other = Nested("groups", nn.ModuleList)
    assert list(find_block_modules(other)) == [f"routers.{i}" for i in range(3)]
    assert list(find_block_modules(other, r"encoder\.groups\.\d+")) == [f"encoder.groups.{i}" for i in range(3)]
    with pytest.raises(ManyoneError, match="no list of equal blocks"):
        find_block_modules(nn.Linear(2, 2))
    with pytest.raises(ManyoneError, match="matches no module"):
        find_block_modules(other, "x")
    both = nn.ModuleDict({"left": Nested("blocks", nn.ModuleList), "right": Nested("blocks", nn.ModuleList)})
    with pytest.raises(ManyoneError, match="more than one"):
        find_block_modules(both)


@pytest.mark.parametrize("version", [1, 2])
def test_saved_corrections_give_equal_features(version: int, tmp_path) -> None:
    merged = TinyBlocks()
    model = filled(Surgery(merged, 5, TASKS, rank=3) if version == 1 else SurgeryV2(merged, 5, 8, TASKS, rank=3))
    save(model, str(tmp_path))
    loaded = load(copy.deepcopy(merged), str(tmp_path))
    assert type(loaded) is type(model)
    for task in TASKS:
        assert torch.equal(loaded(images(), task), model(images(), task))
    again = from_artefact(merged, model.config(), model.correction_state())
    assert torch.equal(again(images(), "b"), model(images(), "b"))
    with pytest.raises(ManyoneError, match=r"no surgery\.json"):
        load(merged, tmp_path / "nothing")
    with pytest.raises(ManyoneError, match="unknown kind"):
        from_artefact(merged, model.config() | {"kind": "other"}, {})


def test_wrong_names_are_reported() -> None:
    model = Surgery(TinyBlocks(), 5, TASKS)
    with pytest.raises(ManyoneError, match="no task 'z'"):
        model(images(), "z")
    with pytest.raises(ManyoneError, match="distinct"):
        Surgery(TinyBlocks(), 5, ("a", "a"))
    with pytest.raises(ManyoneError, match="rank"):
        Surgery(TinyBlocks(), 5, ("a",), rank=0)


def test_the_token_mean_of_padding_alone_is_zero():
    hidden = torch.randn(2, 3, 4)
    mean = token_mean(hidden, {"input_ids": torch.ones(2, 3), "attention_mask": torch.tensor([[0, 0, 0], [1, 1, 0]])})
    assert torch.equal(mean[0], torch.zeros(4))
    torch.testing.assert_close(mean[1], hidden[1, :2].mean(0))
