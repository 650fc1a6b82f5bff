"""The greedy policy with its graph and its gate as one ``torch.export`` program, which needs torch alone.

    policy = torch.export.load("policy.pt2").module()
    actions, values = policy(observations)                # or (observations, available): [B, n, d], bool [B, n, A]

The archive holds the program as JSON and the weights as bare bytes. torch would add an example of the inputs, the one
thing that it pickles: it is left out, so that the file holds no pickle at all. ``torch.export.load`` does unpickle what
a file claims to need it for, hence :func:`load_program` for files of unknown origin.
Public: ``export_policy``, ``load_program``, ``program_inputs``.
"""

from __future__ import annotations

import copy
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manyone.envs.teams.types import Observation
from manyone.errors import ManyoneError


class GreedyTeam(nn.Module):
    """(actions, values) of the most likely actions along a fixed graph; inputs as :func:`program_inputs` says."""

    adjacency: Tensor

    def __init__(self, policy: nn.Module, graph: Tensor, gate: str) -> None:
        super().__init__()
        self.policy, self.gate, self.names = policy, gate, program_inputs(policy)
        self.register_buffer("adjacency", graph)  # a traced module has a `graph` of its own

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [B, n] or float32 [B, n, a], and float32 [B, n]."""
        given = dict(zip(self.names, inputs, strict=True))
        observations = given["observations"]
        alive = torch.ones(observations.shape[:2], dtype=torch.bool, device=observations.device)
        seen = Observation(observations, alive, given.get("available"), given.get("state"))
        nothing = observations.new_zeros(())
        acted = self.policy.act(seen, self.adjacency, noise=nothing, gate=self.gate, greedy=True)  # type: ignore[operator]
        return acted.actions, acted.values


def program_inputs(policy: nn.Module) -> list[str]:
    """Inputs of the program: ``observations`` float32 [B, n, d]; ``available`` bool [B, n, A] with discrete actions
    (all True where everything is allowed); ``state`` float32 [B, s] where the critic looks at the global state."""
    spec: Any = policy.spec
    names = ["observations"] + (["available"] if spec.discrete else [])
    return names + (["state"] if getattr(policy, "critic", None) == "central" and spec.state_dim else [])


def export_policy(path: Path, policy: nn.Module, graph: Tensor, *, gate: str) -> None:
    """Writes the program of ``policy`` along ``graph`` [n, n], for any batch size."""
    spec: Any = policy.spec
    whole: Any = copy.deepcopy(policy).cpu().eval().requires_grad_(False)
    for value in [*whole.parameters(), *whole.buffers()]:
        value.data = value.data.contiguous()  # the archive knows weights by their bytes in order
    if hasattr(whole, "decode"):
        whole.decode = "full"  # plain operations; the cache works in place, which would fix the batch size
    module = GreedyTeam(whole, graph.detach().float().cpu(), gate)
    batch = 3  # of the example: a size that the program must not take for a constant
    shapes = {
        "observations": torch.zeros(batch, spec.agents, spec.observation_dim),
        "available": torch.ones(batch, spec.agents, max(spec.actions, 1), dtype=torch.bool),
        "state": torch.zeros(batch, spec.state_dim),
    }
    inputs = tuple(shapes[name] for name in module.names)
    any_size = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(module, inputs, dynamic_shapes=(tuple({0: any_size} for _ in inputs),))
    program.example_inputs = None  # type: ignore[assignment]  # it would be pickled
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # names folders of this machine
    torch.export.save(program, path)


def load_program(path: Path | str) -> nn.Module:
    """The program of a file, refused when the file holds a pickle, which could run anything as it is read."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                inside = name.partition("/")[2]
                if inside.startswith("data/sample_inputs/") and archive.getinfo(name).file_size:
                    raise ManyoneError(f"{path}: holds pickled example inputs ({inside}): export it again with manyone")
                if inside.startswith("data/") and inside.endswith("_config.json"):
                    entries = json.loads(archive.read(name))["config"].values()
                    if any(entry["use_pickle"] for entry in entries):
                        raise ManyoneError(f"{path}: holds pickled tensors ({inside}): export it again with manyone")
        return torch.export.load(path).module()
    except ManyoneError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ManyoneError(f"{path}: not a readable program ({reason}): export it again with manyone") from error
