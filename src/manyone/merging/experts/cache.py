"""Where finished bases, experts and bundles are kept, under names that say what they were made from.

A name ends in a hash over the data, the protocol, the seed and the version of the training code, so a change of any of
them is another entry. Entries appear by renaming, complete or not at all; processes that would train the same entry
wait for each other on a lock file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from manyone.assets.cache import cache_path
from manyone.data.tasks import Inputs, Suite, Task
from manyone.engine.files import part_beside, writing
from manyone.engine.tensors import save_tensors
from manyone.errors import ManyoneError
from manyone.merging.experts.bundle import Bundle, head_config, head_tensors, heads_from
from manyone.merging.experts.protocol import DistilledPretraining, Protocol
from manyone.merging.heads import Head
from manyone.weights.open import StrPath

VERSION = 2
"""To be raised whenever the training code changes what it computes."""


def root(folder: StrPath | None = None) -> Path:
    """``folder``, or the project's cache of experts."""
    return Path(folder) if folder is not None else cache_path("experts")


def _tensors(inputs: Inputs) -> Iterator[Tensor]:
    if isinstance(inputs, Tensor):
        yield inputs
    else:
        yield from (inputs[name] for name in sorted(inputs))


def fingerprint(task: Task) -> str:
    """A hash of what a base, a head or an expert can depend on: a task's name, classes with descriptions, samples."""
    described = [task.descriptions] if task.descriptions else []
    digest = hashlib.blake2b(json.dumps([task.name, task.classes, *described]).encode(), digest_size=16)
    for tensor in (*_tensors(task.train.inputs), task.train.labels):
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _key(*parts: Any) -> str:
    text = json.dumps([VERSION, *parts], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def base_key(suite: Suite, protocol: Protocol, seed: int) -> str:
    """What the base depends on: on the suite, and a joint one on the seed as well."""
    shared = isinstance(protocol.base, DistilledPretraining)
    tasks = [fingerprint(t) for t in (*suite.pretraining, *suite.tasks)]
    plain = protocol.as_dict()
    return _key(plain["base"], plain["encoder"], tasks, None if shared else seed)


def base_path(suite: Suite, protocol: Protocol, seed: int, parts: Path) -> Path:
    """The file of the base among ``parts``."""
    return parts / f"{suite.name}-base-{base_key(suite, protocol, seed)}.safetensors"


class Parts:
    """Finished bases and experts as single files in ``folder``; an expert's holds what fine-tuning changed."""

    def __init__(self, suite: Suite, protocol: Protocol, seed: int, folder: Path) -> None:
        self.folder, self.suite = folder, suite
        plain = protocol.as_dict()
        self._base = base_path(suite, protocol, seed, folder)
        common = (base_key(suite, protocol, seed), plain["heads"], plain["fine_tuning"], seed)
        self._experts = {
            t.name: folder / f"{suite.name}-{t.name}-{_key(*common, fingerprint(t))}.safetensors" for t in suite.tasks
        }

    def base(self) -> tuple[dict[str, Tensor], dict[str, Head]] | None:
        """The base's weights and, where it was trained with them, the heads."""
        if not self._base.is_file():
            return None
        tensors = _read(self._base)
        with safe_open(str(self._base), "pt") as file:
            config = json.loads((file.metadata() or {})["heads"])
        weights = {k.removeprefix("base:"): v for k, v in tensors.items() if k.startswith("base:")}
        heads = {k.removeprefix("head:"): v for k, v in tensors.items() if k.startswith("head:")}
        return weights, heads_from(heads, config)

    def keep_base(self, weights: Mapping[str, Tensor], heads: Mapping[str, Head]) -> None:
        """Stores a finished base."""
        tensors = {f"base:{k}": v for k, v in weights.items()} | {
            f"head:{k}": v for k, v in head_tensors(heads).items()
        }
        _write(self._base, tensors, {"heads": json.dumps(head_config(heads))})

    def expert(self, task: str) -> dict[str, Tensor] | None:
        """What fine-tuning on ``task`` changed, or None."""
        path = self._experts[task]
        return _read(path) if path.is_file() else None

    def keep_expert(self, task: str, weights: Mapping[str, Tensor]) -> None:
        """Stores a finished expert."""
        _write(self._experts[task], weights, {})

    def drop_experts(self) -> None:
        """Removes the experts' files (their bundle holds them now); the base stays for other seeds."""
        for path in self._experts.values():
            path.unlink(missing_ok=True)


def parts_folder(folder: StrPath | None = None) -> Path:
    """Where single finished bases and experts lie."""
    return root(folder) / "parts"


def bundle_folder(suite: Suite, protocol: Protocol, seed: int, folder: StrPath | None = None) -> Path:
    """Where the bundle of this suite, protocol and seed is, or would be."""
    key = _key(protocol.as_dict(), [fingerprint(t) for t in suite.tasks], base_key(suite, protocol, seed), seed)
    return root(folder) / f"{suite.name}-seed{seed}-{key}"


def save(bundle: Bundle, folder: Path) -> None:
    """Writes ``bundle`` to ``folder`` at once; of the experts only what differs from the base."""
    changed = {
        name: {k: v for k, v in weights.items() if v is not bundle.base[k] and not torch.equal(v, bundle.base[k])}
        for name, weights in bundle.experts.items()
    }
    with writing(folder), part_beside(folder) as part:
        dataclasses.replace(bundle, experts=changed).save(part)
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster; its bundle is the same
                raise


def load(folder: Path) -> Bundle | None:
    """The bundle in ``folder`` with complete experts, or None where there is none yet."""
    if not (folder / "bundle.json").is_file():
        return None
    try:
        found = Bundle.load(folder)
    except Exception as problem:
        # safetensors raises its own exception type for every kind of damage.
        raise ManyoneError(f"{folder}: damaged cached bundle ({problem}); delete the folder") from None
    return dataclasses.replace(found, experts={name: {**found.base, **w} for name, w in found.experts.items()})


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as problem:
        raise ManyoneError(f"{path}: damaged cached weights ({problem}); delete the file") from None


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    with writing(path), part_beside(path) as part:
        save_tensors({k: v.contiguous() for k, v in tensors.items()}, part / path.name, metadata=metadata)
        (part / path.name).replace(path)
