"""Sampling of training windows: one gather for a whole batch against one sample at a time.

    python benchmarks/windows.py [--tasks 50] [--episodes 8] [--length 500] [--batch 8] [--groups 1 50] [--json F]

A batch is a history of 20 steps and a prompt of 5 for every sample, at the published shapes (states of 39 numbers,
actions of 4). ``published loop``: numpy, one sample at a time, returns-to-go summed by a Python loop over the rest of
the episode, for the window and for the prompt. ``plain loop``: the same cut out of tensors with returns-to-go summed
beforehand, still one sample at a time. ``gather``: ``manyone.data.trajectories.trajectories.Windows``, for ``groups``
tasks at once. Repeats are interleaved, the figures are medians, in microseconds of one thread per sample; a batch of
``gather`` is checked to equal the plain loop's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _published_harmodt import Sampler, made_up_episodes
from torch import Tensor

from manyone.data.trajectories.trajectories import Trajectories
from manyone.data.trajectories.windows import Windows

CONTEXT, PROMPT, SCALE = 20, 5, 1000.0


def plain_loop(windows: Windows, rows: Tensor, length: int) -> dict[str, Tensor]:
    """The windows that begin at ``rows`` [n], cut one by one."""
    found: dict[str, list[Tensor]] = {name: [] for name in (*windows.flat, "valid")}
    ends = windows.offsets.tolist()
    for row in rows.tolist():
        stop = min(row + length, next(e for e in ends if e > row))
        for name, values in windows.flat.items():
            cut = values[row:stop]
            padding = cut.new_zeros(length - len(cut), *cut.shape[1:])
            found[name].append(torch.cat([padding, cut]))
        valid = torch.zeros(length, dtype=torch.bool)
        valid[length - (stop - row) :] = True
        found["valid"].append(valid)
    return {name: torch.stack(values) for name, values in found.items()}


def median_times(candidates: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each candidate, ``repeats`` interleaved calls after one to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for call in candidates.values():
        call()
    for _ in range(repeats):
        for name, call in candidates.items():
            start = time.process_time()
            call()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    """Prints the table; with ``--json`` also writes its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tasks", 50), ("episodes", 8), ("length", 500), ("batch", 8), ("repeats", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 50])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    episodes = [made_up_episodes(options.episodes, options.length, seed=t) for t in range(options.tasks)]
    data = [Trajectories.from_episodes(f"task{t}", e) for t, e in enumerate(episodes)]
    windows = Windows(data, CONTEXT)
    sampler = Sampler(episodes[0], CONTEXT, PROMPT, SCALE)
    draws = torch.Generator().manual_seed(0)

    def rows(groups: int) -> Tensor:
        low, high = windows.first_row[:groups, None], windows.first_row[1 : groups + 1, None]
        return low + (torch.rand(groups, options.batch, generator=draws) * (high - low)).long()

    first = rows(1)[0]
    ours, plain = windows.at(first), plain_loop(windows, first, CONTEXT)
    for name, values in plain.items():
        torch.testing.assert_close(ours[name], values.to(ours[name].dtype), msg=f"{name} differs")

    def gather(groups: int) -> Callable[[], object]:
        return lambda: (windows.at(rows(groups)), windows.at(rows(groups), PROMPT))

    candidates: dict[str, Callable[[], object]] = {
        "published loop": lambda: sampler.batch(options.batch),
        "plain loop": lambda: (
            plain_loop(windows, rows(1)[0], CONTEXT),
            plain_loop(windows, rows(1)[0], PROMPT),
        ),
    }
    chosen = [g for g in options.groups if g <= options.tasks]
    candidates |= {f"gather, {g} task{'s' if g > 1 else ''} at once": gather(g) for g in chosen}
    samples = dict.fromkeys(candidates, options.batch)
    samples |= {f"gather, {g} task{'s' if g > 1 else ''} at once": g * options.batch for g in chosen}
    medians = median_times(candidates, options.repeats)
    results = []
    for name, seconds in medians.items():
        each = 1e6 * seconds / samples[name]
        faster = medians["published loop"] / options.batch / (seconds / samples[name])
        over_plain = medians["plain loop"] / options.batch / (seconds / samples[name])
        results.append(
            {
                "sampler": name,
                "us_per_sample": each,
                "samples_per_s": 1e6 / each,
                "faster_than_published": faster,
                "faster_than_plain": over_plain,
            }
        )
    columns = list(results[0])
    print(" | ".join(columns))
    for row in results:
        print(" | ".join(f"{row[c]:.3g}" if isinstance(row[c], float) else str(row[c]) for c in columns))
    if options.json:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in results))


if __name__ == "__main__":
    main()
