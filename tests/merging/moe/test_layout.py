"""Where a network keeps its samples: routing is by the sample in every layout, and what mixes samples is refused."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from tests.reference.toy import Toy, perturbed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from manyone.errors import ManyoneError
from manyone.merging.moe.layout import rows_of, samples_of
from manyone.merging.moe.mixed_linear import MixedLinear
from manyone.merging.moe.wemoe import WeightEnsemblingMoE


class SequenceFirst(nn.Module):
    """Open CLIP's old layout: [B, L, 12] in, blocks on [L, B, 12], [B, 12] out. ``batch_first`` is the same, turned."""

    def __init__(self, batch_first: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.turned = not batch_first
        self.resblocks = nn.ModuleList(
            nn.TransformerEncoderLayer(12, 2, 24, dropout=0.0, batch_first=batch_first, norm_first=True)
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1) if self.turned else x
        for block in self.resblocks:
            x = block(x)
        return x.mean(0 if self.turned else 1)


class OneAxis(nn.Module):
    """A toy network whose blocks see the tokens of all samples in one axis, by samples or by positions."""

    def __init__(self, by_position: bool = False) -> None:
        super().__init__()
        self.toy, self.by_position = Toy(depth=2), by_position

    def forward(self, x: Tensor) -> Tensor:
        samples, tokens = x.shape[:2]
        x = self.toy.stem(x)
        x = (x.transpose(0, 1) if self.by_position else x).reshape(samples * tokens, -1)
        for block in self.toy.blocks:
            x = block(x)
        x = x.view(tokens, samples, -1).transpose(0, 1) if self.by_position else x.view(samples, tokens, -1)
        return x.mean(1)


def moved(model: WeightEnsemblingMoE, size: float = 0.2) -> WeightEnsemblingMoE:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.routers.parameters():
            p += size * torch.randn(p.shape, generator=generator)
    return model


def inputs(width: int, samples: int = 5, tokens: int = 5) -> Tensor:  # as many samples as tokens: shapes tell nothing
    return torch.randn(samples, tokens, width, generator=torch.Generator().manual_seed(1))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("routing", ["sample", "batch"])
def test_a_sequence_first_network_is_routed_as_its_batch_first_twin(routing: Any) -> None:
    first, second = SequenceFirst().eval(), SequenceFirst(batch_first=True).eval()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    experts = perturbed(first, 3, 0.2)
    mine, twin = (moved(WeightEnsemblingMoE(n, experts, routing=routing)) for n in (first, second))
    x = inputs(12)
    close(mine(x), twin(x))
    close(mine.routing_weights(x), twin.routing_weights(x))
    if routing == "sample":
        for row in range(5):
            close(mine(x[row : row + 1])[0], mine(x)[row])
    assert {layer.batch_dim for layer in mine.modules() if isinstance(layer, MixedLinear)} == {1}
    for model in (mine, twin):
        model(x).square().sum().backward()
    for p, q in zip(mine.routers.parameters(), twin.routers.parameters()):
        assert p.grad is not None
        close(p.grad, q.grad)  # type: ignore[arg-type]


def test_tokens_of_all_samples_in_one_axis_are_routed_by_their_samples() -> None:
    network, plain = OneAxis().eval(), Toy(depth=2).eval()
    experts = perturbed(plain, 2)
    model = moved(WeightEnsemblingMoE(network, [{f"toy.{k}": v for k, v in e.items()} for e in experts]))
    twin = moved(WeightEnsemblingMoE(plain, experts))
    for x in (inputs(6), inputs(6, 2, 7), inputs(6, 1, 3)):  # known layouts serve other lengths
        close(model(x), twin(x))
    with pytest.raises(ManyoneError, match="call the mixture, not its encoder"):
        model.encoder(inputs(6))


def test_a_layer_that_mixes_samples_is_refused_by_name() -> None:
    network = OneAxis(by_position=True).eval()
    model = WeightEnsemblingMoE(network, perturbed(network, 2))
    with pytest.raises(ManyoneError, match=r"'toy\.blocks\.0\.mlp\.fc1' sees something else of a sample"):
        model(inputs(6))
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 2, 24, dropout=0.0), 2).eval()
    model = WeightEnsemblingMoE(encoder, perturbed(encoder, 2))
    with pytest.raises(ManyoneError, match="Inputs must have the samples first"):
        model(inputs(12))  # [L, B, h]: two positions alone are not two positions together


def test_samples_are_rows_of_all_keyword_inputs() -> None:
    given = {"input_ids": torch.arange(6).view(3, 2), "scale": torch.tensor(2.0), "use_cache": True, "labels": 0}
    assert samples_of(given) == 3
    part = rows_of(given, [2])
    assert part["input_ids"].tolist() == [[4, 5]]
    assert part["use_cache"] is True
    assert "labels" not in part
    with pytest.raises(ManyoneError, match="no tensor of samples"):
        samples_of({"use_cache": True})


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_around_a_mixture_leaves_its_gradients(reentrant: bool) -> None:
    network = SequenceFirst(batch_first=True).eval()
    model = moved(WeightEnsemblingMoE(network, perturbed(network, 3, 0.2)))
    x = inputs(12).requires_grad_()
    gradients = []
    for run in (model, lambda x: checkpoint(model, x, use_reentrant=reentrant)):
        model.zero_grad()
        x.grad = None
        run(x).square().sum().backward()
        gradients.append([x.grad.clone(), *(p.grad.clone() for p in model.routers.parameters())])  # type: ignore[union-attr]
    for wanted, found in zip(*gradients):
        assert wanted.any()
        close(found, wanted)


def test_checkpointing_a_mixture_of_padded_text_leaves_its_gradients() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    network = transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=30)).eval()
    model = moved(WeightEnsemblingMoE(network, perturbed(network, 2, 0.1)))
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    text = {
        "input_ids": torch.randint(3, 30, (2, 5), generator=torch.Generator().manual_seed(0)),
        "attention_mask": mask,
    }

    def loss(output: Any) -> Tensor:
        return output.last_hidden_state[:, 0].square().sum()

    with warnings.catch_warnings(action="error"):  # its attention is weak, but it is not causal
        loss(model(text)).backward()
    wanted = [p.grad.clone() for p in model.routers.parameters()]  # type: ignore[union-attr]
    model.zero_grad()
    loss(checkpoint(model, text, use_reentrant=False)).backward()
    assert all(torch.equal(p.grad, w) for p, w in zip(model.routers.parameters(), wanted))  # type: ignore[arg-type]
    # parts of the encoder would be computed again without the mask
    inner = model.encoder.encoder.layer[1]  # type: ignore[union-attr, index]
    plain_forward = inner.forward
    inner.forward = lambda *a, **k: checkpoint(plain_forward, *a, use_reentrant=False, **k)  # type: ignore[method-assign, union-attr]
    model.zero_grad()
    with pytest.raises(ManyoneError, match="checkpoint the whole mixture"):
        loss(model(text)).backward()


class Checkpointed(Toy):
    """A toy network that checkpoints its own blocks."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)  # type: ignore[assignment]
        return x.mean(1)


def test_an_encoder_that_checkpoints_its_blocks_has_the_same_gradients() -> None:
    experts = perturbed(Toy(), 2)
    gradients = []
    for network in (Toy(), Checkpointed()):
        model = moved(WeightEnsemblingMoE(network, experts))
        for _ in range(2):  # a second step computes again what a first one did
            model.zero_grad()
            model(inputs(6)).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.routers.parameters()])  # type: ignore[union-attr]
    for a, b in zip(*gradients):
        close(a, b)


def test_what_hangs_on_the_network_does_not_see_the_probe():
    """Surgery and recordings count the passes that they see; the hook comes back afterwards."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    experts = [{n: v + 0.1 * torch.randn_like(v) for n, v in encoder.state_dict().items()} for _ in range(2)]
    model = WeightEnsemblingMoE(encoder, experts, critical=r"^2$", seed=0)
    seen = []
    model.encoder[1].register_forward_hook(lambda module, arguments, output: seen.append(len(output)))
    x = torch.randn(4, 6)
    model(x)
    model(x)
    assert seen == [4, 4]
