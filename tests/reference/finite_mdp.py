"""Returns, values and occupancies of a finite MDP as the sums that define them; imports nothing of the package."""

import numpy as np


def forward(transitions, start, policy, steps):
    """Distributions of states [steps, S] over time."""
    found, now = [], start
    for _ in range(steps):
        found.append(now)
        now = np.einsum("s,sa,sat->t", now, policy, transitions)
    return np.stack(found)


def occupancy(transitions, start, policy, gamma, steps):
    """(1 - gamma) sum_t gamma^t Pr(s_t = s)."""
    weights = (1 - gamma) * gamma ** np.arange(steps)
    return weights @ forward(transitions, start, policy, steps)


def expected_return(transitions, rewards, start, policy, gamma, steps):
    """sum_t gamma^t E[r_t]."""
    each = forward(transitions, start, policy, steps) @ (policy * rewards).sum(1)
    return float((gamma ** np.arange(steps)) @ each)


def action_values(transitions, rewards, policy, gamma, steps):
    """q [S, A]: one action, then the policy."""
    found = np.zeros_like(rewards)
    for state in range(len(rewards)):
        for action in range(rewards.shape[1]):
            after = transitions[state, action]
            later = expected_return(transitions, rewards, after, policy, gamma, steps)
            found[state, action] = rewards[state, action] + gamma * later
    return found
