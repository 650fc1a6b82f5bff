"""Routing by the prompt: a mixture around a causal language model generates, and nothing depends on later tokens."""

from __future__ import annotations

import copy
import threading
import warnings
from typing import Any

import pytest
import torch
from tests.reference.toy import perturbed
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.merging.moe.wemoe import WeightEnsemblingMoE

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 40}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
KINDS: dict[str, Any] = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=16, n_layer=3, n_head=2, n_positions=64, vocab_size=40, **SPECIAL)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, **SPECIAL)),
    # all tokens of all samples in one axis before its MLP
    "opt": lambda: transformers.OPTForCausalLM(
        transformers.OPTConfig(
            hidden_size=16, ffn_dim=40, num_hidden_layers=3, num_attention_heads=2, vocab_size=40,
            max_position_embeddings=64, word_embed_proj_dim=16, **SPECIAL,
        )
    ),
}  # fmt: skip
LENGTHS = (6, 3, 5)


def network_of(kind: str) -> Any:
    torch.manual_seed(0)
    network = KINDS[kind]().eval()
    with torch.no_grad():  # so that the next token is no draw
        for p in network.parameters():
            p.mul_(1.5)
    return network


def mixture(kind: str, **options: Any) -> WeightEnsemblingMoE:
    """Routers moved far from their start, so that prompts differ in their weights."""
    network = network_of(kind)
    model = WeightEnsemblingMoE(network, perturbed(network, 2, 0.1), routing="prompt", **options)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in model.routers.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
    return model


def prompts(side: str = "left") -> dict[str, Tensor]:
    ids, mask = torch.zeros(3, 6, dtype=torch.long), torch.zeros(3, 6, dtype=torch.long)
    generator = torch.Generator().manual_seed(3)
    for row, length in enumerate(LENGTHS):
        where = slice(6 - length, None) if side == "left" else slice(0, length)
        ids[row, where] = torch.randint(3, 40, (length,), generator=generator)
        mask[row, where] = 1
    return {"input_ids": ids, "attention_mask": mask}


def alone(row: int) -> Tensor:
    return prompts()["input_ids"][row : row + 1, 6 - LENGTHS[row] :]


def continue_greedily(model: WeightEnsemblingMoE, ids: Tensor, count: int, cached: bool) -> Tensor:
    """The next tokens, by hand: all tokens in every pass, or one with the cache of the others."""
    with torch.no_grad(), model.prompt(ids):
        out = model({"input_ids": ids, "use_cache": cached})
        for _ in range(count):
            new = out.logits[:, -1:].argmax(-1)
            ids = torch.cat([ids, new], 1)
            if cached:
                out = model({"input_ids": new, "past_key_values": out.past_key_values})
            else:
                out = model({"input_ids": ids, "use_cache": False})
    return ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"prune_ratio": 0.5, "shared_router": True, "strategy": "sparse"}])
def test_cached_and_uncached_generation_are_equal(kind: str, options: dict[str, Any]) -> None:
    model = mixture(kind, **options)
    words: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    cached = model.generate(prompts(), **words)
    assert cached.shape == (3, 18)
    assert torch.equal(model.generate(prompts(), use_cache=False, **words), cached)
    for row, length in enumerate(LENGTHS):  # padding on the left, and the company of others, change nothing
        ids = alone(row)
        single = model.generate(ids, **words)
        assert torch.equal(single[0, length:], cached[row, 6:])
        assert torch.equal(continue_greedily(model, ids, 12, cached=True), single)
        assert torch.equal(continue_greedily(model, ids, 12, cached=False), single)


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_the_prompt_depends_on_nothing_later(kind: str) -> None:
    model = mixture(kind)
    ids = alone(0)
    generator = torch.Generator().manual_seed(9)
    tails = torch.randint(3, 40, (2, 1, 8), generator=generator)
    tails[1, :, :4] = tails[0, :, :4]
    with torch.no_grad(), model.prompt(ids):
        first = model(ids).logits
        whole = [model(torch.cat([ids, tail], 1)).logits for tail in tails]
    torch.testing.assert_close(whole[0][:, :6], first, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole[0][:, :10], whole[1][:, :10], rtol=1e-4, atol=1e-5)
    assert (whole[0][:, 10:] - whole[1][:, 10:]).abs().max() > 0.1
    # the same with weights by the whole text, as before, is not causal: this is what the test would see
    r = [model.routing_weights(torch.cat([ids, tail], 1)) for tail in tails]
    with torch.no_grad():
        seen = []
        for weights, tail in zip(r, tails):
            with model.given(weights):
                seen.append(model(torch.cat([ids, tail], 1)).logits[:, :6])
    assert (seen[0] - seen[1]).abs().max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_each_sequence_is_the_statically_merged_model_of_its_prompt(kind: str) -> None:
    """The definition: route the prompt, fold its weights, and let the plain model continue."""
    model = mixture(kind)
    r = model.routing_weights(prompts())
    assert r.std(0).max() > 0.01
    words: dict[str, Any] = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None}
    together = model.generate(prompts(), **words)
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(model.routing_weights(alone(row))[0], r[row], rtol=1e-4, atol=1e-5)
        plain: Any = model.fold(r[row])
        assert torch.equal(plain.generate(alone(row), **words)[0, length:], together[row, 6:])
        with torch.no_grad(), model.prompt(alone(row)):
            mine = model(alone(row)).logits
        torch.testing.assert_close(mine, plain(alone(row)).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_search_with_beams_is_that_of_the_merged_model(kind: str) -> None:
    model = mixture(kind)
    r = model.routing_weights(prompts())
    words: dict[str, Any] = {"max_new_tokens": 8, "num_beams": 3, "num_return_sequences": 2, "eos_token_id": None}
    found = model.generate(prompts(), **words)
    assert torch.equal(model.generate(prompts(), use_cache=False, **words), found)
    for row, length in enumerate(LENGTHS):
        plain: Any = model.fold(r[row])
        wanted = plain.generate(alone(row), **words)
        assert torch.equal(found[2 * row : 2 * row + 2, 6:], wanted[:, length:])


def test_many_prompts_that_keep_no_merged_weights_generate_the_same() -> None:
    model = mixture("llama")  # 2 experts: the merged weights of up to 3 prompts are kept
    ids = torch.randint(3, 40, (5, 4), generator=torch.Generator().manual_seed(1))
    words: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    found = model.generate(ids, **words)
    for row in range(5):
        assert torch.equal(model.generate(ids[row : row + 1], **words)[0], found[row])


def test_a_new_sequence_is_routed_anew() -> None:
    model = mixture("gpt2")
    words: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    first = model.generate(alone(0), **words)
    other = model.generate(alone(2), **words)
    assert torch.equal(model.generate(alone(0), **words), first)
    with torch.no_grad(), model.prompt(alone(0)):
        outer = model(alone(0)).logits
        with model.prompt(alone(2)):
            inner = model(alone(2)).logits
        assert torch.equal(model(alone(0)).logits, outer)
    assert int(inner[0, -1].argmax()) == int(other[0, 5])
    twin = copy.deepcopy(model)
    assert torch.equal(twin.generate(alone(0), **words), first)
    assert not model.encoder._forward_pre_hooks


def test_sequences_of_two_threads_do_not_meet() -> None:
    model = mixture("opt")
    words: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    wanted = [model.generate(alone(row), **words) for row in range(3)]
    found: dict[int, Tensor] = {}

    def run(row: int) -> None:
        for _ in range(3):
            found[row] = model.generate(alone(row), **words)

    threads = [threading.Thread(target=run, args=(row,)) for row in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[row], wanted[row]) for row in range(3))


@pytest.mark.parametrize("kind", KINDS)
def test_other_routings_of_a_causal_language_model_are_refused(kind: str) -> None:
    network = network_of(kind)
    experts = perturbed(network, 2, 0.05)
    for routing in ("sample", "batch"):
        with pytest.raises(ManyoneError, match="later tokens change earlier logits; use routing='prompt'"):
            WeightEnsemblingMoE(network, experts, routing=routing)  # type: ignore[arg-type]
        model = mixture(kind)
        with pytest.raises(ManyoneError, match="causal language model"):
            model.routing = routing  # type: ignore[assignment]
        assert model.routing == "prompt"
    constant = WeightEnsemblingMoE(network, experts, router_layers=0)
    words: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    folded: Any = constant.fold()
    assert torch.equal(constant.generate(alone(0), **words), folded.generate(alone(0), **words))


def test_what_could_be_wrong_silently_is_one_line() -> None:
    model = mixture("llama")
    ids = alone(0)
    network: Any = model.encoder
    for run in (lambda: model(ids), lambda: network(input_ids=ids), lambda: network.generate(ids, max_new_tokens=2)):
        with torch.no_grad(), pytest.raises(ManyoneError, match=r"must know what the prompt is: use model\.generate"):
            run()
    for name, value in (("assistant_model", network), ("prompt_lookup_num_tokens", 2), ("inputs_embeds", ids)):
        with pytest.raises(ManyoneError, match=f"does not take {name}"):
            model.generate(ids, max_new_tokens=2, **{name: value})
    config = copy.deepcopy(network.generation_config)
    config.prefill_chunk_size = 2
    with pytest.raises(ManyoneError, match="must be over the whole prompts"):
        model.generate(ids, max_new_tokens=2, generation_config=config)
    with pytest.raises(ManyoneError, match="padded on the left"):
        model.generate(prompts("right"), max_new_tokens=2)
    with pytest.raises(ManyoneError, match="give attention_mask"):
        model.generate(prompts()["input_ids"], max_new_tokens=2)
    with (
        pytest.raises(ManyoneError, match="nothing but padding"),
        model.prompt({"input_ids": ids, "attention_mask": torch.zeros_like(ids)}),
    ):
        pass
    with torch.no_grad(), model.prompt(ids):
        with pytest.raises(ManyoneError, match="must be over these inputs"):
            model(ids + 1)
        model(ids)
        with pytest.raises(ManyoneError, match="began as 1 rows and now are 2"):
            model(ids.repeat(2, 1))
    past = network_of("llama")(ids, use_cache=True).past_key_values
    with pytest.raises(ManyoneError, match="whole prompt"), model.prompt({"input_ids": ids, "past_key_values": past}):
        pass
    with pytest.raises(ManyoneError, match="input_ids"):
        model.generate(max_new_tokens=3)
    with pytest.raises(ManyoneError, match="at least 1"):
        model.generate(torch.zeros(0, 4, dtype=torch.long))


def test_an_encoder_decoder_keeps_its_routing_by_the_prompt_while_it_generates() -> None:
    torch.manual_seed(0)
    config = transformers.T5Config(
        d_model=16, d_kv=8, d_ff=40, num_layers=2, num_heads=2, vocab_size=40, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=2, dropout_rate=0.0,
    )  # fmt: skip
    network = transformers.T5ForConditionalGeneration(config).eval()
    experts = perturbed(network, 2, 0.05)
    with pytest.warns(UserWarning, match="later token of the decoder"):
        model = WeightEnsemblingMoE(network, experts)
    with torch.no_grad():
        for p in model.routers.parameters():
            p += 0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    with pytest.raises(ManyoneError, match=r"set model\.routing = 'prompt'"):
        model.generate(prompts("right"), max_new_tokens=2)
    model.routing = "prompt"
    words: dict[str, Any] = {"max_new_tokens": 8, "eos_token_id": None, "num_beams": 2}
    found = model.generate(prompts("right"), **words)
    assert torch.equal(model.generate(prompts("right"), use_cache=False, **words), found)
    for row in range(3):
        assert torch.equal(model.generate(alone(row), **words)[0], found[row])


class OwnDecoder(nn.Module):
    """A small causal network that is no Hugging Face model: ids [B, L] -> logits [B, L, V]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.lm_head = nn.Embedding(20, 8), nn.Linear(8, 20)
        self.blocks = nn.ModuleList(
            [nn.ModuleDict({"fc1": nn.Linear(8, 16), "fc2": nn.Linear(16, 8)}) for _ in range(2)]
        )

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        steps = torch.arange(1, ids.shape[1] + 1).view(1, -1, 1)
        for block in self.blocks:
            x = x + block["fc2"](torch.tanh(block["fc1"](x.cumsum(1) / steps)))  # type: ignore[index]
        return self.lm_head(x)


def test_an_own_causal_network_is_noticed_by_running_it() -> None:
    network = OwnDecoder().eval()
    ids = torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(0))
    model = WeightEnsemblingMoE(network, perturbed(network, 2, 0.1))
    with pytest.warns(UserWarning, match="OwnDecoder is causal, but with routing='sample'"):
        model(ids)
    with warnings.catch_warnings(action="error"):
        model(ids)  # once
        by_prompt = WeightEnsemblingMoE(network, perturbed(network, 2, 0.1), routing="prompt")
        with torch.no_grad(), by_prompt.prompt(ids[:, :4]):
            first = by_prompt(ids[:, :4])
            close = torch.testing.assert_close
            close(by_prompt(ids)[:, :4], first)
    with pytest.raises(ManyoneError, match=r"has no generate\(\)"):
        by_prompt.generate(ids)


def test_weights_are_saved_and_rebuilt_with_their_routing() -> None:
    model = mixture("gpt2")
    tensors, config = model.state_for_artefact()
    rebuilt = WeightEnsemblingMoE.from_artefact(network_of("gpt2"), tensors, config)
    assert rebuilt.routing == "prompt"
    words: dict[str, Any] = {"max_new_tokens": 8, "eos_token_id": None}
    assert torch.equal(rebuilt.generate(prompts(), **words), model.generate(prompts(), **words))
