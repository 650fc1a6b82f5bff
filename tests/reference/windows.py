"""Windows, returns-to-go and statistics one sample at a time, in plain Python and numpy."""

import numpy as np


def returns_to_go(rewards):
    """g_t = r_t + g_{t+1}, by a loop from the end."""
    found = np.zeros(len(rewards))
    total = 0.0
    for t in reversed(range(len(rewards))):
        total += float(rewards[t])
        found[t] = total
    return found


def window(episode, start, length):
    """Steps start .. min(start + length, T) - 1 of one episode, padded on the left with zeros."""
    stop = min(start + length, len(episode["rewards"]))
    steps = stop - start
    state_dim, action_dim = episode["observations"].shape[1], episode["actions"].shape[1]
    pad = length - steps
    return {
        "observations": np.concatenate([np.zeros((pad, state_dim)), episode["observations"][start:stop]]),
        "actions": np.concatenate([np.zeros((pad, action_dim)), episode["actions"][start:stop]]),
        "returns_to_go": np.concatenate([np.zeros(pad), returns_to_go(episode["rewards"])[start:stop]]),
        "timesteps": np.concatenate([np.zeros(pad, dtype=np.int64), np.arange(start, stop)]),
        "valid": np.arange(length) >= pad,
    }


def batch(tasks, task, episode, start, length):
    """One window per sample, stacked; ``tasks`` is a list of lists of episodes."""
    found = [window(tasks[i][e], s, length) for i, e, s in zip(task, episode, start, strict=True)]
    return {key: np.stack([one[key] for one in found]) for key in found[0]}
