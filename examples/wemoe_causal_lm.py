"""Merge two causal language models into one that chooses its weights by the prompt, and let it generate.

One expert counts upwards, the other downwards; the first token of a prompt says which way. Runs in seconds on a tiny
Llama:  python examples/wemoe_causal_lm.py
"""

import argparse
import copy

import torch

try:
    from transformers import LlamaConfig, LlamaForCausalLM
except ModuleNotFoundError as missing:
    raise SystemExit(f"this program needs {missing.name}: pip install 'manyone[text]'") from None

from manyone.merging import WeightEnsemblingMoE, task_arithmetic

UP, DOWN = 1, 2  # tokens; the digit d is the token d + 3, and 0 is padding
OPTIONS = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}


def counting(way: int) -> torch.Tensor:
    """[10, 6]: the way, then five digits, from every start."""
    steps = torch.arange(5) * (1 if way == UP else -1)
    digits = (torch.arange(10).unsqueeze(1) + steps) % 10 + 3
    return torch.cat([torch.full((10, 1), way), digits], 1)


def train(model, texts, steps, lr):
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr)
    for _ in range(steps):
        optimiser.zero_grad()
        model(input_ids=texts, labels=texts, use_cache=False).loss.backward()
        optimiser.step()
    return model


def main() -> dict[str, float]:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(**size, vocab_size=13, pad_token_id=0, bos_token_id=None, eos_token_id=None))
    texts = {"up": counting(UP), "down": counting(DOWN)}
    base = train(base, torch.cat(list(texts.values())), steps=6, lr=1e-2).eval()
    experts = [train(copy.deepcopy(base), text, steps=8, lr=3e-3).eval() for text in texts.values()]

    def right(model) -> float:
        """Share of digits that a model generates right after the way and two digits."""
        found = [model.generate(text[:, :3], **OPTIONS) == text for text in texts.values()]
        return float(torch.cat(found)[:, 3:].float().mean())

    result = {"base": right(base)}
    merged = copy.deepcopy(base)
    merged.load_state_dict(task_arithmetic(base.state_dict(), [e.state_dict() for e in experts], scale=0.5))
    result["task arithmetic"] = right(merged)

    # Prompts without answers are enough: routers learn to be sure of the next token, and not always of the same one.
    moe = WeightEnsemblingMoE(base, experts, scale=0.5, routing="prompt")
    unlabelled = {way: text[:, :3] for way, text in texts.items()}
    moe.adapt(unlabelled, steps=15, lr=1e-2, objective="information-maximisation")
    result["WEMoE by the prompt"] = right(moe)

    # Each prompt has weights of its own, in one batch, and keeps them: a cache changes nothing.
    prompts = torch.cat([text[:, :3] for text in texts.values()])
    cached = moe.generate(prompts, **OPTIONS)
    result["the same without a cache"] = float(torch.equal(moe.generate(prompts, **OPTIONS, use_cache=False), cached))

    # What follows the prompt depends on nothing that comes later.
    other = cached.clone()
    other[:, -1] = UP
    with torch.no_grad(), moe.prompt(prompts):
        moe(prompts)
        difference = moe(cached).logits[:, :-1] - moe(other).logits[:, :-1]
    result["later tokens change earlier logits by"] = float(difference.abs().max())
    return result


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name, value in main().items():
        print(f"{name:38s} {value:.2f}")
