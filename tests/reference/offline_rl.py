"""Offline RL as it is written down: one sample at a time, two critics apart, sums in loops. Slow and plain.

Nothing of the package is used. A network is a list of (weight [I, O], bias [O]); a sample is (s, a, r, s', goes_on).
Each ``*_losses`` returns the losses of a batch as scalars that gradients can be taken of.
"""

from __future__ import annotations

import math

import torch

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def network(layers, x):
    for number, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        if number < len(layers) - 1:
            x = torch.where(x > 0, x, torch.zeros_like(x))
    return x


def value(layers, state, action):
    return network(layers, torch.cat([state, action]))[0]


def frozen(layers):
    return [(weight.detach(), bias.detach()) for weight, bias in layers]


def mean(values):
    return sum(values) / len(values)


def returns_to_go(rewards, episodes, discount):
    found = [0.0] * len(rewards)
    for t in reversed(range(len(rewards))):
        follows = t + 1 < len(rewards) and episodes[t + 1] == episodes[t]
        found[t] = rewards[t] + (discount * found[t + 1] if follows else 0.0)
    return found


def bc_losses(policy, batch):
    terms = [((torch.tanh(network(policy, s)) - a) ** 2).mean() for s, a, *_ in batch]
    return {"policy": mean(terms)}


def bc_discrete_losses(policy, batch):
    return {"policy": mean([-torch.log(torch.softmax(network(policy, s), 0) @ a) for s, a, *_ in batch])}


def td3bc_losses(policy, critics, target_policy, target_critics, batch, noise, discount, alpha, with_policy):
    first, second = [], []
    for (s, a, r, after, goes_on), eps in zip(batch, noise):
        with torch.no_grad():
            following = torch.tanh(network(target_policy, after)) + torch.clamp(0.2 * eps, -0.5, 0.5)
            following = torch.clamp(following, -1, 1)
            target = r + discount * goes_on * min(value(q, after, following) for q in target_critics)
        first.append((value(critics[0], s, a) - target) ** 2)
        second.append((value(critics[1], s, a) - target) ** 2)
    losses = {"critics": mean(first) + mean(second)}
    if with_policy:
        actions = [torch.tanh(network(policy, s)) for s, *_ in batch]
        values = [value(frozen(critics[0]), s, mine) for (s, *_), mine in zip(batch, actions)]
        weight = alpha / mean([abs(float(v.detach())) for v in values])
        cloning = mean([((mine - a) ** 2).mean() for (_, a, *_), mine in zip(batch, actions)])
        losses["policy"] = -weight * mean(values) + cloning
    return losses


def iql_losses(policy, critics, state_value, target_critics, batch, discount, expectile, temperature, choices=0):
    def q(layers, s, a):
        return network(layers, s) @ a if choices else value(layers, s, a)

    v_terms, q_terms, pi_terms = [], [], []
    for s, a, r, after, goes_on in batch:
        with torch.no_grad():
            best = min(q(layers, s, a) for layers in target_critics)
            target = r + discount * goes_on * network(state_value, after)[0]
        gain = best - network(state_value, s)[0]
        v_terms.append((expectile if gain >= 0 else 1 - expectile) * gain**2)
        q_terms += [(q(layers, s, a) - target) ** 2 for layers in critics]
        weight = min(math.exp(temperature * float(gain.detach())), 100.0)
        if choices:
            error = -torch.log(torch.softmax(network(policy, s), 0) @ a)
        else:
            error = ((torch.tanh(network(policy, s)) - a) ** 2).sum()
        pi_terms.append(weight * error)
    return {"values": mean(v_terms), "critics": mean(q_terms), "policy": mean(pi_terms)}


def normal(policy, scalars, state):
    out = network(policy, state)
    half = len(out) // 2
    return out[:half], torch.clamp(scalars[0] * out[half:] + scalars[1], -20, 2)


def sample(mu, log_std, eps):
    u = mu + torch.exp(log_std) * eps
    action = torch.tanh(u)
    density = -0.5 * eps**2 - log_std - HALF_LOG_2PI - torch.log(1 - action**2)
    return action, density.sum()


def calql_losses(
    policy, scalars, critics, target_critics, log_t, batch, floors, noise, next_noise, draws, discount, alpha
):
    """``noise`` and ``next_noise`` [n][A] make the actions of L_pi and of the target, ``draws`` [n] the three kinds of
    sampled actions: (uniform in -1..1, noise at s, noise at s'), each [m, A]."""
    width = len(batch[0][1])
    squares, gaps, pi_terms, densities = [[], []], [[], []], [], []
    for (s, a, r, after, goes_on), floor, eps, eps2, (random, here, there) in zip(
        batch, floors, noise, next_noise, draws
    ):
        mu, log_std = normal(policy, scalars, s)
        with torch.no_grad():
            next_mu, next_log_std = normal(policy, scalars, after)
            following, _ = sample(next_mu, next_log_std, eps2)
            target = r + discount * goes_on * min(value(q, after, following) for q in target_critics)
        for number, layers in enumerate(critics):
            recorded = value(layers, s, a)
            squares[number].append((recorded - target) ** 2)
            terms = [value(layers, s, x) - width * math.log(0.5) for x in random]
            for middle, spread, epsilons in ((mu, log_std, here), (next_mu, next_log_std, there)):
                for e in epsilons:
                    action, density = sample(middle.detach(), spread.detach(), e)
                    terms.append(torch.maximum(value(layers, s, action), floor) - density)
            gaps[number].append(torch.log(sum(torch.exp(t) for t in terms)) - recorded)
        own, density = sample(mu, log_std, eps)
        best = torch.minimum(*(value(frozen(layers), s, own) for layers in critics))
        pi_terms.append(torch.exp(log_t.detach()) * density - best)
        densities.append(float(density.detach()))
    return {
        "critics": mean(squares[0]) + mean(squares[1]),
        "conservative": alpha * (mean(gaps[0]) + mean(gaps[1])),
        "policy": mean(pi_terms),
        "temperature": -log_t * (mean(densities) - width),
    }


def calql_discrete_losses(policy, critics, target_critics, log_t, batch, floors, discount, alpha):
    choices = len(batch[0][1])
    squares, gaps, pi_terms, entropies = [[], []], [[], []], [], []
    for (s, a, r, after, goes_on), floor in zip(batch, floors):
        with torch.no_grad():
            pi = torch.softmax(network(policy, after), 0)
            q = torch.minimum(*(network(layers, after) for layers in target_critics))
            target = r + discount * goes_on * (pi @ q)
        for number, layers in enumerate(critics):
            values = network(layers, s)
            squares[number].append((values @ a - target) ** 2)
            gaps[number].append(torch.log(sum(torch.exp(torch.maximum(v, floor)) for v in values)) - values @ a)
        pi = torch.softmax(network(policy, s), 0)
        best = torch.minimum(*(network(frozen(layers), s) for layers in critics))
        negative_entropy = (pi * torch.log(pi)).sum()
        pi_terms.append(torch.exp(log_t.detach()) * negative_entropy - pi @ best)
        entropies.append(-float(negative_entropy.detach()))
    return {
        "critics": mean(squares[0]) + mean(squares[1]),
        "conservative": alpha * (mean(gaps[0]) + mean(gaps[1])),
        "policy": mean(pi_terms),
        "temperature": -log_t * (0.1 * math.log(choices) - mean(entropies)),
    }
