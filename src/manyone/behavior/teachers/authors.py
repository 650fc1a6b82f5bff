"""The checkpoints of Offline Behavior Distillation's authors: Cal-QL teachers as CORL saves them, read without running
anything that the file says.

Such a file (a torch zip of 4 MB) holds ``actor`` (``base_network.{0,2,4,6}`` and two scalars), ``critic1``
(``network.{0,2,4}``), a second critic, targets, optimiser states, and two pickled modules of a class ``Scalar``. It is
read by PyTorch's restricted unpickler, which knows tensors and containers; a class of that one name, whatever module
the file says it is from, becomes an empty object of ours. ``actor`` and ``critic1`` are used, as the authors use them.

States there are standardised by the statistics of one of nine D4RL sets, which ``d4rl.toml`` holds, so that the
checkpoints act without the data.
Public names: :func:`read_checkpoint`, :func:`d4rl_set`, :func:`d4rl_statistics`.
"""

from __future__ import annotations

import os
import pickle
import re
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from manyone.behavior.artefact import Frame
from manyone.behavior.data import FLOOR
from manyone.behavior.teachers.artefact import SavedTeacher
from manyone.behavior.teachers.networks import Policy, Stack
from manyone.behavior.teachers.trained import TrainedTeacher
from manyone.errors import ManyoneError

_LARGEST = 64 << 20  # bytes; the published files have 4 MB
_WIDEST = 4096  # numbers between two layers; the published networks have 256
_ENVIRONMENTS = {"halfcheetah": "gym:HalfCheetah-v4", "hopper": "gym:Hopper-v4", "walker2d": "gym:Walker2d-v4"}
"""Of version 4, as D4RL's: Walker2d's feet have another friction since."""
_WRONG = "no checkpoint of Cal-QL as CORL saves it"
_SCALARS = ("log_std_multiplier.constant", "log_std_offset.constant")


class _Scalar:
    """Stands in for the file's class of that name; nothing of its state is kept."""

    def __setstate__(self, state: object) -> None:
        pass


@cache
def d4rl_statistics() -> Mapping[str, tuple[Tensor, Tensor]]:
    """D4RL set, e.g. ``hopper-medium-replay`` -> mean and deviation (its floor of 1e-3 added) of the observations."""
    text = resources.files(__package__).joinpath("d4rl.toml").read_text(encoding="utf-8")
    return {k: (torch.tensor(v["mean"]), torch.tensor(v["std"]) + FLOOR) for k, v in tomllib.loads(text).items()}


def d4rl_set(place: str | os.PathLike[str]) -> str | None:
    """The D4RL set that a path names, as ``offline_policy/Cal-QL-hopper-medium-v2/checkpoint.pt`` does; else None."""
    names = re.findall("|".join(sorted(d4rl_statistics(), key=len, reverse=True)), os.fspath(place).lower())
    return names[-1] if names else None


def read_checkpoint(path: str | os.PathLike[str], name: str | None = None) -> SavedTeacher:
    """The teacher in an authors' checkpoint file.

    ``name``: the D4RL set whose statistics standardise its states; default: the one that ``path`` names. Raises
    ``ManyoneError`` for a file that is none of theirs or holds more than tensors, and for widths that do not fit.
    """
    path = Path(path)
    name = name or d4rl_set(path) or ""
    if name not in d4rl_statistics():
        raise ManyoneError(f"{path}: which D4RL set standardises its states? Name it or its folder as one of "
                           f"{', '.join(d4rl_statistics())}")  # fmt: skip
    mean, deviation = d4rl_statistics()[name]
    content = _load(path)
    actor = _layers(path, content, "actor", "base_network", 4, _SCALARS)
    critic = _layers(path, content, "critic1", "network", 3)
    states, actions = len(mean), actor[-1][0].shape[0] // 2
    sizes = [w.shape[1] for w, _ in actor], [w.shape[1] for w, _ in critic]
    if sizes[0][0] != states or sizes[1][0] != states + actions or critic[-1][0].shape[0] != 1:
        raise ManyoneError(f"{path}: its actor takes states of width {sizes[0][0]} and gives {actions} actions, its "
                           f"critic takes {sizes[1][0]} numbers; {name} has states of width {states}")  # fmt: skip
    policy = Policy(states, actions, sizes[0][1], 3, "gaussian")
    critics = Stack((*sizes[1], 1))
    for network, layers in ((policy.net, actor), (critics, critic)):
        tensors = {f"weights.{i}": w.T[None].float() for i, (w, _) in enumerate(layers)}
        tensors |= {f"biases.{i}": b[None, None].float() for i, (_, b) in enumerate(layers)}
        if {k: v.shape for k, v in network.state_dict().items()} != {k: v.shape for k, v in tensors.items()}:
            raise ManyoneError(f"{path}: its layers do not fit one another ({sizes[0]}, {sizes[1]})")
        network.load_state_dict(tensors)
    with torch.no_grad():
        for parameter, key in zip((policy.multiplier, policy.offset), _SCALARS, strict=True):
            parameter.copy_(content["actor"][key])
    ones, steps = torch.ones(actions), content.get("total_it")
    frame = Frame(name, _ENVIRONMENTS[name.partition("-")[0]], mean, deviation, -ones, ones, 0, 1000)
    info: dict[str, Any] = {"data": f"D4RL {name}-v2", "method": "calql", "origin": "an authors' checkpoint"}
    info |= {"steps": steps} if isinstance(steps, int) else {}
    return SavedTeacher(TrainedTeacher("calql", policy, critics, "first").copy(), frame, info)


def _load(path: Path) -> dict[str, Any]:
    """The mapping in the file; tensors, numbers and containers alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(one.file_size for one in archive.infolist())
        if size > _LARGEST:
            raise ManyoneError(f"{path}: {size >> 20} MB, the authors' checkpoints have 4: refused")
        names = get_unsafe_globals_in_checkpoint(path)
        foreign = [one for one in names if one.rpartition(".")[2] != "Scalar"]
        if foreign:
            raise ManyoneError(f"{path}: refused, it asks for {foreign[0]}, and a checkpoint needs tensors alone")
        with safe_globals([(_Scalar, one) for one in names]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except zipfile.BadZipFile:
        raise ManyoneError(f"{path}: {_WRONG}: not a torch zip; save it again with a PyTorch of 1.6 or later") from None
    except OSError as error:
        raise ManyoneError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise ManyoneError(f"{path}: {_WRONG}: refused or damaged ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise ManyoneError(f"{path}: {_WRONG}: it holds a {type(content).__name__}")
    return content


def _layers(
    path: Path, content: Mapping[str, Any], part: str, network: str, count: int, scalars: Sequence[str] = ()
) -> list[tuple[Tensor, Tensor]]:
    """Weight [O, I] and bias [O] of the ``count`` linear layers of ``part``, which holds them and ``scalars`` alone."""
    layers = range(0, 2 * count, 2)  # a ReLU between two of them
    wanted = {f"{network}.{i}.{kind}": n for i in layers for kind, n in (("weight", 2), ("bias", 1))}
    wanted |= dict.fromkeys(scalars, 0)
    own: Any = content.get(part)
    found = {k: v.ndim for k, v in own.items() if isinstance(v, Tensor)} if isinstance(own, Mapping) else {}
    odd = sorted(str(name) for name, _ in set(found.items()) ^ set(wanted.items()))
    if odd:
        raise ManyoneError(f"{path}: {_WRONG}: {part} is another network (see {odd[0]!r:.60})")
    for name in wanted:
        value = own[name]
        # the size first: a tensor of any size may be a view of a single number
        if value.layout != torch.strided or not value.is_floating_point() or max(value.shape, default=1) > _WIDEST:
            raise ManyoneError(f"{path}: {_WRONG}: {part}'s {name} is {str(value.dtype).removeprefix('torch.')} "
                               f"{list(value.shape)}: must be floating-point, at most {_WIDEST} wide")  # fmt: skip
        if not bool(value.isfinite().all()):
            raise ManyoneError(f"{path}: {_WRONG}: {part}'s {name} has numbers that are not finite")
    return [(own[f"{network}.{i}.weight"], own[f"{network}.{i}.bias"]) for i in layers]
