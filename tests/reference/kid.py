"""KID and its relatives as one writes them down: sums over the vocabulary, loops over tokens, one sequence at a time.

``model`` is a function from a list of token ids to the logits [T, V] of that list, a prompt included; probabilities are
float64.
"""

import math

import numpy as np
import torch


def softmax(logits):
    logits = np.asarray(logits, dtype=np.float64)
    shifted = logits - logits.max()
    return np.exp(shifted) / np.exp(shifted).sum()


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q) if a > 0)


def divergence(name, q, p, beta=0.5, skew=0.1):
    """Of two distributions, q the student's."""
    if name == "fkl":
        return kl(p, q)
    if name == "rkl":
        return kl(q, p)
    if name == "tvd":
        return 0.5 * sum(abs(a - b) for a, b in zip(p, q))
    if name == "jsd":
        middle = [beta * a + (1 - beta) * b for a, b in zip(p, q)]
        return beta * kl(p, middle) + (1 - beta) * kl(q, middle)
    if name == "skew-fkl":
        return kl(p, [skew * a + (1 - skew) * b for a, b in zip(p, q)])
    return kl(q, [(1 - skew) * a + skew * b for a, b in zip(p, q)])


def masked_places(strategy, eligible, ratio, uniforms, entropies=None):
    """The places of S among ``eligible``, the places of one output that may be masked."""
    n = len(eligible)
    k = max(1, round(ratio * n)) if ratio > 0 and n else 0
    if strategy == "uniform":
        return [eligible[min(n - 1, math.floor((i + uniforms[0]) * n / k))] for i in range(k)]
    score = {"random": uniforms, "easy": entropies, "hard": None if entropies is None else [-e for e in entropies]}
    ranked = sorted(range(n), key=lambda i: (score[strategy][i], i))
    return sorted(eligible[i] for i in ranked[:k])


def rewritten(model, prompt, output, places, mask, banned, passes=1):
    """y^: the tokens at ``places`` of the output as the model would write them, in ``passes`` left-to-right parts."""
    written = list(output)
    for place in places:
        written[place] = mask
    count = len(places)
    number = min(passes, count) if passes else count
    parts = [[p for i, p in enumerate(places) if i * number // count == part] for part in range(number)]
    for part in parts:
        logits = model([*prompt, *written])
        for place in part:
            before = np.array(logits[len(prompt) + place - 1], dtype=np.float64)  # predicts the token at `place`
            before[list(banned)] = -np.inf
            written[place] = int(before.argmax())
    return written


def loss(student, teacher, rows, name, weight=1.0, reduction="token", gold=None, **more):
    """L of some (prompt, output) rows; ``gold``: the hard labels of each, where they are not the output."""
    labels = gold or [output for _, output in rows]
    per_row = []
    for (prompt, output), hard in zip(rows, labels):
        own, other = student([*prompt, *output]), teacher([*prompt, *output]) if teacher else None
        terms = []
        for t, y in enumerate(hard):
            q = softmax(own[len(prompt) + t - 1])
            value = weight * -math.log(q[y])
            if name is not None:
                value += divergence(name, q, softmax(other[len(prompt) + t - 1]), **more)
            terms.append(value)
        per_row.append(terms)
    if reduction == "sequence":
        return sum(sum(terms) / len(terms) for terms in per_row) / len(per_row)
    return sum(map(sum, per_row)) / sum(map(len, per_row))


def greedy(model, prompt, most, end, banned=()):
    """The likeliest next token, again and again, without any cache."""
    found = []
    while len(found) < most:
        logits = np.array(model([*prompt, *found])[-1], dtype=np.float64)
        logits[list(banned)] = -np.inf
        found.append(int(logits.argmax()))
        if found[-1] == end:
            break
    return found


def as_function(module, vocabulary=None):
    """A transformers causal LM as ``model`` above."""

    def model(ids):
        with torch.no_grad():
            return module(input_ids=torch.tensor([ids])).logits[0, :, :vocabulary].double().numpy()

    return model
