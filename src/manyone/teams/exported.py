"""The greedy policy with its graph and its gate as one ``torch.export`` program, which needs torch alone.

    policy = torch.export.load("policy.pt2").module()
    actions, values = policy(observations)                # or (observations, available): [B, n, d], bool [B, n, A]

For deployment elsewhere, of files that you trust: ``torch.export.load`` runs what a file asks for (it unpickles, and
evaluates expressions in the JSON), so manyone itself never reads a program; ``load_team`` rebuilds the network from
safetensors and JSON instead. What is written here holds no pickle: torch would add one, of an example of the inputs.
Public: ``export_policy``, ``program_inputs``.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manyone.envs.teams.types import Observation


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
        everyone = torch.ones(observations.shape[:2], dtype=torch.bool, device=observations.device)
        seen = Observation(observations, given.get("alive", everyone), given.get("available"), given.get("state"))
        nothing = observations.new_zeros(())
        acted = self.policy.act(seen, self.adjacency, noise=nothing, gate=self.gate, greedy=True)  # type: ignore[operator]
        return self.policy.spec.to_bounds(acted.actions), acted.values  # type: ignore[union-attr, operator]


def program_inputs(policy: nn.Module) -> list[str]:
    """Inputs of the program: ``observations`` float32 [B, n, d]; ``available`` bool [B, n, A] with discrete actions
    (all True where everything is allowed); ``alive`` bool [B, n] where agents that are not there are not heard;
    ``state`` float32 [B, s] where the critic looks at the global state."""
    spec: Any = policy.spec
    names = ["observations"] + (["available"] if spec.discrete else [])
    names += ["alive"] if spec.absences and hasattr(policy, "encoder") else []
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
        "alive": torch.ones(batch, spec.agents, dtype=torch.bool),
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
