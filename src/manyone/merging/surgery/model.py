"""Representation surgery: small task-specific corrections of a merged model's representations.

A merged model's features are biased away from each expert's. Surgery (Yang et al., ICML 2024) subtracts a low-rank
correction from the final feature v in R^d of task t; SurgeryV2 (Yang et al., 2024) does so after every block, for every
token, as well:

    S_t(v) = U_t ReLU(D_t v),   D_t in R^{r x d},  U_t in R^{d x r}, no biases
    v^     = v - S_t(v)                                     (Surgery:   final feature)
    x_l   <- x_l - S_{t,l}(x_l)   for every token           (SurgeryV2: output of block l = 1..M, feeds block l + 1)

U_t starts at zero, so a wrapped model starts as the merged model, bit for bit. The merged model may be any module that
maps inputs to features [B, d]: it is held by reference and never written; SurgeryV2 puts its hooks on it for the
length of one forward pass. Training is :class:`manyone.merging.surgery.learner.SurgeryLearner`.

Public names: :class:`Surgery`, :class:`SurgeryV2`, :func:`find_block_modules`, :func:`hidden_widths`,
:func:`represent`, :func:`save`, :func:`load`, :func:`from_artefact`.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from manyone.data.tasks import Inputs, take
from manyone.engine.documents import read_json
from manyone.engine.tensors import save_tensors
from manyone.errors import ManyoneError
from manyone.merging.measures import device_of, to_device
from manyone.nets import call
from manyone.randomness import generator_for
from manyone.weights.open import StrPath

_BLOCK_LISTS = re.compile(r"(?:^|\.)(?:blocks?|layers?|h|resblocks)$")


class Correction(nn.Module):
    """v - U_t ReLU(D_t v) for every task t at one place of the network."""

    def __init__(self, width: int, rank: int, tasks: Sequence[str], *names: str | int) -> None:
        super().__init__()
        self.width = width
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        for task in tasks:
            down = torch.empty(rank, width)
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator_for(*names, task))
            self.down.append(nn.Parameter(down))
            self.up.append(nn.Parameter(torch.zeros(width, rank)))

    def forward(self, x: Tensor, tasks: Sequence[int]) -> Tensor:
        """Corrects x [B, ..., width]; ``tasks`` are the tasks of consecutive groups of B / len(tasks) samples."""
        if x.shape[-1] != self.width:
            raise ManyoneError(f"surgery was built for width {self.width} but the representation is {tuple(x.shape)}")
        if len(tasks) == 1:
            down, up = self.down[tasks[0]].to(x.dtype), self.up[tasks[0]].to(x.dtype)
            return x - F.linear(F.relu(F.linear(x, down)), up)
        down = torch.stack([self.down[t] for t in tasks]).to(x.dtype)
        up = torch.stack([self.up[t] for t in tasks]).to(x.dtype)
        groups = x.reshape(len(tasks), -1, self.width)
        return (groups - torch.bmm(F.relu(torch.bmm(groups, down.mT)), up.mT)).view_as(x)


class _Surgery(nn.Module):
    """What both versions share: the merged model, the tasks, and one :class:`Correction` per place."""

    needs_task = True
    kind: str

    def __init__(self, merged: nn.Module, tasks: Sequence[str], rank: int, seed: int, widths: Sequence[int]) -> None:
        super().__init__()
        if not tasks or len(set(tasks)) != len(tasks):
            raise ManyoneError(f"surgery needs distinct task names, got {list(tasks)}")
        if rank < 1:
            raise ManyoneError(f"surgery rank is {rank}: it must be at least 1")
        self.merged, self.tasks, self.rank = merged, tuple(tasks), rank
        self.corrections = nn.ModuleList(
            Correction(width, rank, self.tasks, seed, "surgery", place) for place, width in enumerate(widths)
        )
        for tensor in (*merged.parameters(), *merged.buffers()):
            self.corrections.to(tensor.device)
            break

    def groups(self, task: str | Sequence[str]) -> list[int]:
        """Task numbers of a task name, or of a sequence of names (consecutive groups of equal size)."""
        names = [task] if isinstance(task, str) else list(task)
        for name in names:
            if name not in self.tasks:
                raise ManyoneError(f"surgery knows no task {name!r}: it has {', '.join(self.tasks)}")
        distinct = dict.fromkeys(names)
        return [self.tasks.index(name) for name in (distinct if len(distinct) == 1 else names)]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """The parameters that belong to one task, from the first block to the final feature."""
        (t,) = self.groups(task)
        return [p for c in self.places() for p in (c.down[t], c.up[t])]

    def places(self) -> list[Correction]:
        """The corrections in network order, that of the final feature last."""
        return [c for c in self.corrections if isinstance(c, Correction)]

    def config(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON data."""
        widths = [c.width for c in self.places()]
        return {"kind": self.kind, "tasks": list(self.tasks), "rank": self.rank, "widths": widths}

    def correction_state(self) -> dict[str, Tensor]:
        """The trained tensors alone: ``<place>.down|up.<task number>``."""
        return {name: value.detach() for name, value in self.corrections.state_dict().items()}


class Surgery(_Surgery):
    """Surgery (V1): corrects the final feature [B, width] of a merged model.

    Args:
        merged: any module that maps inputs to features [B, width]; shared by reference, never written.
        width: d, the size of the feature.
        tasks: the task names that :meth:`forward` accepts.
        rank: r of D_t [r, d] and U_t [d, r]; 2 d r parameters a task.
        seed: names the random stream of D's initial values.
    """

    kind = "surgery"

    def __init__(self, merged: nn.Module, width: int, tasks: Sequence[str], rank: int = 16, seed: int = 0) -> None:
        super().__init__(merged, tasks, rank, seed, [width])

    def forward(self, inputs: Inputs, task: str | Sequence[str]) -> Tensor:
        """Corrected features [B, width] of inputs of one task, or of B inputs with one task name each."""
        return self.correct(call(self.merged, inputs), task)

    def correct(self, feature: Tensor, task: str | Sequence[str]) -> Tensor:
        """The merged model's features [B, width], corrected; one task for all or one a row."""
        return self.corrections[0](feature, self.groups(task))


class SurgeryV2(_Surgery):
    """SurgeryV2: corrects every token after every block, and the final feature.

    Args:
        merged: any module that maps inputs to features [B, width] through blocks; shared by reference, never written.
        width: d, the size of the feature.
        hidden: h, the width of the blocks' outputs ([B, L, h] or [B, h]), or one width for every block.
        tasks: the task names that :meth:`forward` accepts.
        rank: r; 2 r (h_1 + ... + h_M + d) parameters a task.
        blocks: a regular expression that matches the blocks' full module names; by default the largest list of blocks
            of one class is found by name (``blocks.N``, ``layers.N``, ``encoder.layer.N``, ``h.N``, ``block.N`` ...).
        seed: names the random stream of D's initial values.
    """

    kind = "surgery-v2"

    def __init__(
        self,
        merged: nn.Module,
        width: int,
        hidden: int | Sequence[int],
        tasks: Sequence[str],
        rank: int = 16,
        blocks: str | None = None,
        seed: int = 0,
    ) -> None:
        names = list(find_block_modules(merged, blocks))
        widths = [hidden] * len(names) if isinstance(hidden, int) else list(hidden)
        if len(widths) != len(names):
            raise ManyoneError(f"the merged model has {len(names)} blocks but {len(widths)} hidden widths were given")
        super().__init__(merged, tasks, rank, seed, [*widths, width])
        self.blocks, self.pattern = names, blocks

    def forward(self, inputs: Inputs, task: str | Sequence[str]) -> Tensor:
        """Corrected features [B, width] of inputs of one task, or of B inputs with one task name each."""
        groups = self.groups(task)
        modules = [self.merged.get_submodule(name) for name in self.blocks]
        with _outputs_through(modules, lambda place, x: self.corrections[place](x, groups)):
            feature = call(self.merged, inputs)
        return self.corrections[-1](feature, groups)

    def represent(self, inputs: Inputs, task: str | Sequence[str]) -> tuple[list[Tensor], Tensor]:
        """Token means [B, h] of every corrected block output, and the corrected feature [B, d]."""
        groups = self.groups(task)
        means: list[Tensor] = []

        def correct(place: int, x: Tensor) -> Tensor:
            corrected = self.corrections[place](x, groups)
            means.append(token_mean(corrected, inputs))
            return corrected

        with _outputs_through([self.merged.get_submodule(name) for name in self.blocks], correct):
            feature = call(self.merged, inputs)
        return means, self.corrections[-1](feature, groups)

    def config(self) -> dict[str, Any]:
        return super().config() | {"blocks": self.pattern}


def find_block_modules(model: nn.Module, pattern: str | None = None) -> dict[str, nn.Module]:
    """The model's blocks in order, by name.

    With ``pattern`` the modules whose full name it matches; without, the members of the largest ``ModuleList`` or
    ``Sequential`` with a customary name (blocks, layers, layer, h, block, resblocks) whose members, two or more, are
    of one class; failing that, of the largest ``ModuleList`` of that kind. Lists inside blocks do not count.
    """
    if pattern is not None:
        found = {n: m for n, m in model.named_modules() if n and re.fullmatch(pattern, n)}
        if not found:
            raise ManyoneError(f"blocks={pattern!r} matches no module name of the {type(model).__name__}")
        return found
    lists: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential) or any(name.startswith(f"{o}.") for o in lists):
            continue
        if len(module) >= 2 and len({type(child) for child in module}) == 1 and _size(module) > 0:
            lists[name] = module
    chosen = {n: m for n, m in lists.items() if _BLOCK_LISTS.search(n)}
    chosen = chosen or {n: m for n, m in lists.items() if isinstance(m, nn.ModuleList)}
    sizes = {n: _size(m) for n, m in chosen.items()}
    largest = [n for n, size in sizes.items() if size == max(sizes.values())]
    if len(largest) != 1:
        problem = f"more than one list of blocks: {', '.join(largest)}" if largest else "no list of equal blocks"
        raise ManyoneError(f"{type(model).__name__} has {problem}; name them with blocks=<regular expression>")
    children = chosen[largest[0]].named_children()
    return {f"{largest[0]}.{n}" if largest[0] else n: m for n, m in children}


@torch.no_grad()
def hidden_widths(model: nn.Module, inputs: Inputs, pattern: str | None = None) -> list[int]:
    """h of every block (see :func:`find_block_modules`), seen in a forward pass of the first of ``inputs``."""
    widths: list[int] = []

    def note(_: int, x: Tensor) -> Tensor:
        widths.append(x.shape[-1])
        return x

    with _outputs_through(list(find_block_modules(model, pattern).values()), note):
        call(model, to_device(take(inputs, slice(0, 1)), device_of(model)))
    return widths


def _size(module: nn.Module) -> int:
    return sum(t.numel() for t in (*module.parameters(), *module.buffers()))


def token_mean(hidden: Tensor, inputs: Inputs) -> Tensor:
    """Mean over tokens of hidden [B, L, h] -> [B, h], padding excluded; [B, h] is one token and comes back as it is."""
    if hidden.ndim == 2:
        return hidden
    if hidden.ndim != 3:
        raise ManyoneError(f"a block's output must be [B, L, h] or [B, h], got {tuple(hidden.shape)}")
    mask = None if isinstance(inputs, Tensor) else inputs.get("attention_mask")
    if mask is None:
        return hidden.mean(1)
    if mask.shape != hidden.shape[:2]:
        raise ManyoneError(
            f"a block's output {tuple(hidden.shape)} does not fit the attention mask {tuple(mask.shape)}: "
            "the token mean would count padding"
        )
    weight = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weight).sum(1) / weight.sum(1).clamp_min(1)


def represent(
    model: nn.Module, blocks: Sequence[nn.Module], inputs: Inputs, run: Callable[[], Tensor] | None = None
) -> tuple[list[Tensor], Tensor]:
    """Token means [B, h] of the outputs of ``blocks`` and the feature [B, d] of an uncorrected model.

    ``run`` stands in for the plain call, e.g. a functional call with other weights.
    """
    means: list[Tensor] = []

    def collect(_: int, x: Tensor) -> Tensor:
        means.append(token_mean(x, inputs))
        return x

    with _outputs_through(blocks, collect):
        feature = call(model, inputs) if run is None else run()
    if len(means) != len(blocks):
        raise ManyoneError(f"{len(blocks)} blocks were named but {len(means)} block outputs seen in one forward pass")
    return means, feature


@contextmanager
def _outputs_through(modules: Sequence[nn.Module], function: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Passes the hidden states that each module returns through ``function(place, hidden)`` while the block runs.

    The hooks answer to the calling thread only, so that other threads may use the same model meanwhile.
    """
    thread = threading.get_ident()

    def hook_of(place: int) -> Callable[..., Any]:
        def hook(module: nn.Module, _: Any, output: Any) -> Any:
            if threading.get_ident() != thread:
                return None
            if isinstance(output, Tensor):
                return function(place, output)
            if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
                return (function(place, output[0]), *output[1:])
            raise ManyoneError(
                f"block {place} ({type(module).__name__}) returns {type(output).__name__}: surgery needs a "
                "tensor, or a tuple that starts with one"
            )

        return hook

    handles = []
    try:
        for place, module in enumerate(modules):
            handles.append(module.register_forward_hook(hook_of(place)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def save(model: Surgery | SurgeryV2, folder: StrPath) -> None:
    """Writes ``surgery.safetensors`` and ``surgery.json`` into ``folder``: the corrections without the merged model."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors({n: v.cpu().contiguous() for n, v in model.correction_state().items()}, folder / "surgery.safetensors")
    (folder / "surgery.json").write_text(json.dumps(model.config(), indent=1))


def load(merged: nn.Module, folder: StrPath) -> Surgery | SurgeryV2:
    """Puts the corrections that :func:`save` wrote into ``folder`` on top of the merged model they were trained for."""
    folder = Path(folder)
    if not (folder / "surgery.json").is_file():
        raise ManyoneError(f"{folder}: no surgery.json, so this folder holds no surgery")
    config = read_json(folder / "surgery.json", "the surgery's description")
    return from_artefact(merged, config, load_file(folder / "surgery.safetensors"))


def from_artefact(merged: nn.Module, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Surgery | SurgeryV2:
    """The surgery with :meth:`Surgery.config` and :meth:`Surgery.correction_state`, on top of a merged model."""
    kind, tasks, rank, widths = (config[key] for key in ("kind", "tasks", "rank", "widths"))
    model: Surgery | SurgeryV2
    if kind == Surgery.kind:
        model = Surgery(merged, widths[0], tasks, rank)
    elif kind == SurgeryV2.kind:
        model = SurgeryV2(merged, widths[-1], widths[:-1], tasks, rank, config["blocks"])
    else:
        raise ManyoneError(f"unknown kind of surgery {kind!r}: use {Surgery.kind} or {SurgeryV2.kind}")
    model.corrections.load_state_dict(dict(tensors))
    return model
