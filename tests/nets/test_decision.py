"""The decision transformer: agreement with the plain forward, causality, padding, stacks, dropout, prefix."""

from __future__ import annotations

import pytest
import torch
from tests.reference import harmodt

from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.nets.dropout import DropoutNoise


def model_of(**options):
    return DecisionTransformer(
        4, 2, **({"width": 12, "layers": 2, "heads": 3, "context": 4, "max_timestep": 30} | options)
    ).double()


def steps(size, length, pad=0, seed=0, members=None):
    draw = torch.Generator().manual_seed(seed)
    shape = (size, length) if members is None else (members, size, length)
    valid = torch.ones(shape, dtype=torch.bool)
    valid[..., :pad] = False
    return {
        "observations": torch.randn(*shape, 4, generator=draw, dtype=torch.float64),
        "actions": torch.randn(*shape, 2, generator=draw, dtype=torch.float64),
        "returns_to_go": torch.randn(*shape, generator=draw, dtype=torch.float64),
        "timesteps": torch.randint(0, 30, shape, generator=draw),
        "valid": valid,
    }


@pytest.mark.parametrize(("prompt", "tokens"), [(0, 0), (3, 0), (0, 5), (2, 5)])
@pytest.mark.parametrize("pad", [0, 2])
def test_the_forward_pass_is_the_plain_one(prompt, tokens, pad):
    model = model_of(prompt=prompt, id_tokens=tokens, seed=3)
    batch, front = steps(3, 4, pad, seed=1), steps(3, prompt, min(pad, 1), seed=2) if prompt else None
    task = torch.tensor([4, 0, 2]) if tokens else None
    found = model(batch, front, task)
    weights = dict(model.named_parameters())
    for b in range(3):
        plain = harmodt.actions_of(
            weights, {k: v[b] for k, v in batch.items()}, front and {k: v[b] for k, v in front.items()}, 2, 3,
            int(task[b]) if tokens else None,
        )  # fmt: skip
        torch.testing.assert_close(found[b, pad:], plain[pad:], atol=1e-12, rtol=0)


def test_the_future_does_not_change_an_action_and_an_action_does_not_see_itself():
    model, batch, front = model_of(prompt=2), steps(2, 4, 1), steps(2, 2, seed=5)
    before = model(batch, front)
    for t in range(1, 4):
        changed = {k: v.clone() for k, v in batch.items()}
        changed["actions"][:, t:] += 1
        for name in ("observations", "returns_to_go"):
            changed[name][:, t + 1 :] += 1
        assert torch.equal(model(changed, front)[:, 1 : t + 1], before[:, 1 : t + 1])
        changed["observations"][:, t] += 1
        assert not torch.equal(model(changed, front)[:, t], before[:, t])


def test_left_padding_of_any_length_and_content_leaves_actions_alone():
    model, front = model_of(prompt=2, context=6), steps(2, 2, seed=5)
    short = steps(2, 3)
    before = model(short, front)
    for pad in (1, 3):
        filler = steps(2, pad, seed=9)
        filler["valid"][:] = False
        longer = {k: torch.cat((filler[k], short[k]), 1) for k in short}
        torch.testing.assert_close(model(longer, front)[:, pad:], before, atol=1e-12, rtol=0)
        longer["observations"][:, :pad] = 1e3
        longer["actions"][:, :pad] = -10
        torch.testing.assert_close(model(longer, front)[:, pad:], before, atol=1e-12, rtol=0)
        assert not model(longer, front).isnan().any()


def test_padding_without_a_prompt_gives_finite_gradients():
    model = model_of()
    model(steps(2, 4, 3)).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_stack_of_members_gives_what_each_member_gives():
    models = [model_of(prompt=2, id_tokens=3, seed=s) for s in range(4)]
    batch, front = steps(3, 4, 1, members=4), steps(3, 2, seed=2, members=4)
    task = torch.tensor([[0, 1, 2]]).expand(4, -1)
    stacked = {n: torch.stack([dict(m.named_parameters())[n] for m in models]) for n, _ in models[0].named_parameters()}
    alone = torch.stack([m({k: v[i] for k, v in batch.items()}, {k: v[i] for k, v in front.items()}, task[i])
                         for i, m in enumerate(models)])  # fmt: skip
    torch.testing.assert_close(models[0].run(stacked, batch, front, task), alone, atol=1e-12, rtol=0)
    # two members that share all but their blocks: members of the data 0, 1 and 2, 3
    half = {n: v if n.startswith("blocks.") and v.ndim == 3 else v[::2] for n, v in stacked.items()}
    expected = []
    for i in range(4):
        mine = {n: stacked[n][i] if half[n] is stacked[n] else stacked[n][i // 2 * 2] for n in stacked}
        part = [{k: v[i] for k, v in steps_.items()} for steps_ in (batch, front)]
        expected.append(models[0].run(mine, *part, task[i]))
    torch.testing.assert_close(models[0].run(half, batch, front, task), torch.stack(expected), atol=1e-12, rtol=0)


def test_the_last_action_alone_and_behind_a_prefix_read_ahead_is_the_same():
    model = model_of(prompt=3, id_tokens=2)
    batch, front = steps(5, 4, 1, members=1), steps(1, 3, seed=2, members=1)
    task = torch.tensor([[1]])
    weights = dict(model.named_parameters())
    many = {k: v.expand(1, 5, *v.shape[2:]) for k, v in front.items()}
    before = model.run(weights, batch, many, task.expand(1, 5))
    torch.testing.assert_close(model.run(weights, batch, many, task.expand(1, 5), last_only=True), before[:, :, -1:])
    prefix = model.encode_prefix(weights, front, task, (1, 1))
    torch.testing.assert_close(
        model.run(weights, batch, prefix=prefix, last_only=True), before[:, :, -1:], atol=1e-12, rtol=0
    )


def test_dropout_is_a_function_of_its_streams_alone_and_keeps_the_mean():
    model = model_of(dropout=0.3)
    batch = steps(2, 4, members=2)
    weights = dict(model.named_parameters())

    def run(names, part):
        noise = DropoutNoise(0.3, names, torch.device("cpu"))
        return model.run(weights, {k: v[part] for k, v in batch.items()}, noise=noise)

    both = run([("a", 1), ("b", 1)], slice(0, 2))
    torch.testing.assert_close(run([("b", 1)], slice(1, 2)), both[1:], atol=1e-12, rtol=0)
    assert not torch.allclose(run([("b", 2)], slice(1, 2)), both[1:])
    noise = DropoutNoise(0.3, [("x",)], torch.device("cpu"))
    noise.start(40_000)
    kept = noise.drop(torch.ones(1, 40_000))
    assert kept.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
    assert float(kept.mean()) == pytest.approx(1, abs=0.02)


def test_initial_weights_depend_on_the_seed_alone():
    one, two, other = model_of(seed=1), model_of(seed=1, dropout=0.0), model_of(seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))
    assert not torch.equal(one.head.weight, other.head.weight)
    assert float(one.blocks[0]["mlp"]["fc1"].weight.detach().std()) == pytest.approx(0.02, rel=0.15)
    assert not one.blocks[1]["attn"]["qkv"].bias.any()
    names = {n for n, _ in one.named_parameters() if n.startswith("blocks.1.") and n.endswith("weight")}
    parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    assert names == {f"blocks.1.{p}.weight" for p in parts}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 10}, "width = 10 must be a multiple of heads = 3"),
        ({"dropout": 1.0}, r"dropout = 1\.0"),
        ({"layers": 0}, "layers = 0: must be at least 1"),
    ],
)
def test_impossible_shapes_are_refused(options, message):
    with pytest.raises(ManyoneError, match=message):
        model_of(**options)


def test_what_the_network_was_not_built_for_is_refused():
    with pytest.raises(ManyoneError, match="built with prompt = 2"):
        model_of(prompt=2)(steps(1, 4))
    with pytest.raises(ManyoneError, match="built with id_tokens = 0"):
        model_of()(steps(1, 4), task=1)
    with pytest.raises(ManyoneError, match=r"task number \[\[7\]\]"):
        model_of(id_tokens=3)(steps(1, 4), task=torch.tensor([7]))
    wide = steps(1, 4)
    wide["observations"] = torch.zeros(1, 4, 9, dtype=torch.float64)
    with pytest.raises(ManyoneError, match="9 and 2 wide, but the model was built for 4 and 2"):
        model_of()(wide)
