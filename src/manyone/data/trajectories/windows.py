"""Windows of trajectories as one gather.

``Windows`` lays the data of all tasks end to end in one set of tensors, so that a batch over any tasks, episodes and
starts is a single vectorised gather: no Python loop over samples.

Public names: ``Windows``, ``gather``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError


def gather(flat: Mapping[str, Tensor], starts: Tensor, ends: Tensor, length: int) -> dict[str, Tensor]:
    """Windows of rows ``starts`` to ``ends``-1 (int64 [...]), padded on the left to ``length`` (K) rows.

    ``ends - starts`` must be 1 to ``length``. Every tensor [n, ...] of ``flat`` gives [..., K, ...], zero where padded;
    ``valid`` (bool [..., K]) is False there. ``timesteps`` come as int64.
    """
    rows = ends[..., None] + torch.arange(-length, 0, device=ends.device)
    valid = rows >= starts[..., None]
    rows = torch.where(valid, rows, starts[..., None])
    found = {}
    for key, tensor in flat.items():
        window = tensor[rows]
        mask = valid.reshape(valid.shape + (1,) * (window.ndim - valid.ndim))
        found[key] = torch.where(mask, window, window.new_zeros(()))
    if "timesteps" in found:
        found["timesteps"] = found["timesteps"].long()
    found["valid"] = valid
    return found


class Windows:
    """The data of all tasks in one flat set of tensors on ``device``, and windows of ``length`` (K) steps of it.

    ``flat``: observations [n, S], actions [n, A], returns_to_go [n], timesteps [n] (step within the episode), all
    float32 and views of one tensor with a row a step; S and A are the widest task's, narrower ones end in zeros.
    ``first_row`` and ``first_episode`` (int64 [N+1]) say where a task's rows and episodes lie; ``offsets`` (int64
    [E+1]) where an episode's rows lie. Drawing rows of a task uniformly draws episodes in proportion to their length
    and starts uniformly, as Decision Transformers do.
    """

    def __init__(self, data: Sequence[Trajectories], length: int, device: str | torch.device = "cpu") -> None:
        if not data:
            raise ManyoneError("windows need at least one data set")
        if length < 1:
            raise ManyoneError(f"windows of {length} steps: must be 1 or more")
        self.names = [one.name for one in data]
        self.length = length
        self.device = torch.device(device)
        rows, episodes = [len(one) for one in data], [one.episodes for one in data]
        self.first_row = self._tensor(np.concatenate([[0], np.cumsum(rows)]))
        self.first_episode = self._tensor(np.concatenate([[0], np.cumsum(episodes)]))
        lengths = np.concatenate([one.lengths for one in data])
        self.offsets = self._tensor(np.concatenate([[0], np.cumsum(lengths)]))
        # All of a step in one row, so that a window costs one look-up a step; row 0 is what padding reads.
        widths = {"observations": max(one.state_dim for one in data), "actions": max(one.action_dim for one in data),
                  "returns_to_go": 1, "timesteps": 1}  # fmt: skip
        packed = np.zeros((1 + sum(rows), sum(widths.values())), dtype=np.float32)
        self._columns: dict[str, slice] = {}
        first = 0
        for key, width in widths.items():
            self._columns[key] = slice(first, first + width)
            first += width
        begin = 1
        for one in data:
            steps = np.arange(len(one)) - np.repeat(one.offsets[:-1], one.lengths)
            values = {"timesteps": steps} | {k: getattr(one, k) for k in widths if k != "timesteps"}
            for key, value in values.items():
                flat = value.reshape(len(one), -1)
                packed[begin : begin + len(one), self._columns[key].start :][:, : flat.shape[1]] = flat
            begin += len(one)
        self._packed = self._tensor(packed)
        self.flat = {key: part[1:] for key, part in self._split(self._packed).items()}

    def _split(self, packed: Tensor) -> dict[str, Tensor]:
        """Views of the columns of ``packed`` [..., width]; one-column values without the last axis."""
        parts = {key: packed[..., columns] for key, columns in self._columns.items()}
        return parts | {key: parts[key].squeeze(-1) for key in ("returns_to_go", "timesteps")}

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def normalise(self, mean: Tensor, deviation: Tensor) -> None:
        """Replaces the states by (state - mean) / deviation, with one row of ``mean`` and ``deviation`` [N, S] a task.

        Done once for all windows; padded entries stay 0.
        """
        for task in range(len(self.names)):
            rows = self.flat["observations"][self.first_row[task] : self.first_row[task + 1]]
            rows.sub_(mean[task].to(rows)).div_(deviation[task].to(rows))

    def gather(self, task: Tensor, episode: Tensor, start: Tensor, length: int | None = None) -> dict[str, Tensor]:
        """Windows that begin at step ``start`` of ``episode`` of ``task`` (int64, any one shape [...]).

        Steps start .. min(start + K, T) - 1, padded on the left: observations [..., K, S], actions [..., K, A],
        returns_to_go [..., K], timesteps int64 [..., K], valid bool [..., K]. ``length`` overrides K.
        """
        index = self.first_episode[task] + episode
        lows, highs = self.offsets[index], self.offsets[index + 1]
        # on an accelerator the check would wait for the device at every batch
        if self.device.type == "cpu" and bool(((start < 0) | (lows + start >= highs)).any()):
            raise IndexError("a window starts outside its episode")
        length = self.length if length is None else length
        return self.between(lows + start, torch.minimum(lows + start + length, highs), length)

    def at(self, rows: Tensor, length: int | None = None) -> dict[str, Tensor]:
        """Windows that begin at flat ``rows`` (int64 [...], ``first_row[task]`` <= row < ``first_row[task + 1]``)."""
        length = self.length if length is None else length
        highs = self.offsets[torch.searchsorted(self.offsets, rows, right=True)]
        return self.between(rows, torch.minimum(rows + length, highs), length)

    def between(self, starts: Tensor, ends: Tensor, length: int) -> dict[str, Tensor]:
        """As :func:`gather` of ``flat``, in one look-up: flat rows ``starts`` to ``ends`` - 1 (int64 [...])."""
        rows = ends[..., None] + torch.arange(-length, 0, device=ends.device)
        valid = rows >= starts[..., None]
        found = self._packed.index_select(0, torch.where(valid, rows + 1, 0).view(-1))
        parts = self._split(found.view(*rows.shape, -1))
        parts["timesteps"] = parts["timesteps"].long()
        parts["valid"] = valid
        return parts
