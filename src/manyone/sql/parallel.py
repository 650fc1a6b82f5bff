"""Several processes that train one model: gradients summed over all (DDP), or layers sharded among them (FSDP).

The loss of every micro-batch is normalised by counts of the whole batch, so gradients are *summed* over processes, and
the result is that of one process. :class:`Parallel` of one process does nothing.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from manyone.engine.fabric import gather, rank
from manyone.errors import ManyoneError
from manyone.sql.language_model import LanguageModel

Kind = Literal["ddp", "fsdp"]


class Parallel:
    """``size`` processes of which this is ``rank``; ``kind`` says what they share."""

    def __init__(self, kind: Kind = "ddp") -> None:
        self.kind, self.rank, self.size = kind, rank(), len(gather(None))
        self._skeleton: Any = None

    def shard(self, model: LanguageModel) -> None:
        """Spreads the decoder's layers over the processes (FSDP); embeddings, norm and head stay whole everywhere."""
        if self.kind != "fsdp" or self.size == 1:
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self._skeleton = copy.deepcopy(model.model).to("meta")
        mesh = init_device_mesh(model.device.type, (self.size,))
        for layer in decoder_layers(model.backbone):
            fully_shard(layer, mesh=mesh)
            layer.set_gradient_divide_factor(1.0)  # type: ignore[operator]
            layer.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]

    @contextlib.contextmanager
    def whole(self, model: LanguageModel) -> Iterator[None]:
        """Sharded layers are whole inside: processes may call the model a different number of times."""
        layers: list[Any] = [layer for layer in decoder_layers(model.backbone) if hasattr(layer, "unshard")]
        for layer in layers:
            layer.set_reshard_after_forward(False)
            layer.unshard()
        try:
            yield
        finally:
            for layer in layers:
                layer.set_reshard_after_forward(True)
                layer.reshard()

    def gathered(self, model: LanguageModel) -> Any:
        """The model in one piece on the writing process (None on others); every process must call it."""
        if self._skeleton is None:
            return model.model
        state = {name: self.full(value) for name, value in model.model.state_dict().items()}
        if self.rank:
            return None
        whole = copy.deepcopy(self._skeleton)
        whole.load_state_dict({name: value.cpu() for name, value in state.items()}, assign=True)
        whole.tie_weights()
        return whole

    def finish(self, model: LanguageModel, parameters: Sequence[Tensor], clip: float | None) -> float:
        """Sums the gradients over the processes and cuts their joint norm to ``clip``; the norm."""
        for parameter in parameters:
            if parameter.grad is None:  # no example reached it on this process, but maybe on another
                parameter.grad = torch.zeros_like(parameter)
        whole = [p.grad for p in parameters if p.grad is not None and not _is_sharded(p)]
        sharded = [p.grad for p in parameters if p.grad is not None and _is_sharded(p)]
        if self.size > 1 and whole:
            _sum_over_processes(whole)
        square = torch.stack([g.detach().float().square().sum() for g in whole]).sum() if whole else torch.zeros(())
        if sharded:
            local = torch.stack([_local(g).float().square().sum() for g in sharded]).sum()
            torch.distributed.all_reduce(local)
            square = square.to(local) + local
        norm = math.sqrt(float(square))
        if clip is not None and norm > clip:
            for gradient in [*whole, *sharded]:
                gradient.mul_(clip / (norm + 1e-6))
        return norm

    def full(self, value: Any) -> Any:
        """The whole of a maybe sharded tensor, detached; other values as they are."""
        if not isinstance(value, Tensor):
            return value
        return value.full_tensor().detach() if _is_sharded(value) else value.detach()  # type: ignore[attr-defined]

    def put(self, parameter: Tensor, value: Tensor) -> None:
        """Copies the whole ``value`` into a maybe sharded parameter."""
        parameter.copy_(self._sharded_like(parameter, value))

    def like(self, parameter: Tensor, name: str, value: Any) -> Any:
        """Optimiser state ``name`` as it belongs to ``parameter``."""
        if not isinstance(value, Tensor) or name == "step":
            return value
        return self._sharded_like(parameter, value).to(parameter.device)

    def _sharded_like(self, parameter: Tensor, value: Tensor) -> Tensor:
        if not _is_sharded(parameter):
            return value
        from torch.distributed.tensor import distribute_tensor

        held: Any = parameter
        return distribute_tensor(value.to(parameter.device), held.device_mesh, held.placements)


def decoder_layers(backbone: nn.Module) -> nn.ModuleList:
    """The list of the decoder's layers. Raises ``ManyoneError`` where none has as many as the configuration says."""
    number = backbone.config.num_hidden_layers  # type: ignore[union-attr]
    for module in backbone.modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return module
    raise ManyoneError(f"{type(backbone).__name__}: no list of {number} layers was found in it")


def _is_sharded(value: Tensor) -> bool:
    return hasattr(value, "device_mesh")


def _local(value: Any) -> Tensor:
    return value.to_local()


def _sum_over_processes(gradients: Sequence[Tensor]) -> None:
    """In place, one exchange for each type of number."""
    for dtype in {g.dtype for g in gradients}:
        same = [g for g in gradients if g.dtype == dtype]
        flat = torch.cat([g.reshape(-1) for g in same])
        torch.distributed.all_reduce(flat)
        at = 0
        for gradient in same:
            gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
            at += gradient.numel()
