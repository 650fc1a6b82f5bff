"""A decision transformer as an encoder: the feature of the newest state token, by ordinary module calls.

:class:`~manyone.nets.decision.DecisionTransformer` computes under any mapping of weights and calls no module of its
own, so what replaces modules or hooks into them (a weight-ensembling mixture, surgery) cannot reach it. Here the same
modules are called one by one; features are those that its head reads, and the action is tanh(head(feature)).

A sample is a whole context, of which only the newest action is taken. Routing by the mean over the tokens of a sample
is causal for that action and for it alone: all tokens are of its past. The actions of earlier steps would be routed by
what came after them, so they are not given.
Public names: :class:`DecisionFeatures`, :func:`decision_inputs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer

_STEPS = ("observations", "actions", "returns_to_go", "timesteps")


def decision_inputs(batch: Mapping[str, Tensor], prompt: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The keywords of :class:`DecisionFeatures` for steps [B, K, ...] and a prompt [B, K*, ...], as policies hold them.

    ``attention_mask`` [B, 3 K* + 3 K - 1] hides padded tokens, also from routers.
    """
    found = {name: batch[name] for name in _STEPS}
    seen = batch["valid"].repeat_interleave(3, -1)[:, :-1]
    if prompt is not None:
        found |= {f"prompt_{name}": prompt[name] for name in _STEPS}
        seen = torch.cat((prompt["valid"].repeat_interleave(3, -1), seen), 1)
    return found | {"attention_mask": seen}


class DecisionFeatures(nn.Module):
    """Features [B, E] of the newest state token of each sample, under the modules of ``model`` (shared, not copied).

    Parameters have the names that they have there; those of the head are left out. ``ManyoneError`` where the network
    must be told its task's number.
    """

    def __init__(self, model: DecisionTransformer) -> None:
        super().__init__()
        if model.reads_task:
            raise ManyoneError("a decision transformer with a token or maps of each task's own is no encoder of "
                               "observations alone: use one without, such as mt-dt or prompt-dt")  # fmt: skip
        self.heads, self.max_timestep = model.heads, model.max_timestep
        self.embed, self.blocks, self.norm = model.embed, model.blocks, model.norm
        if model.prompt:
            self.embed_prompt = model.embed_prompt

    def forward(
        self,
        observations: Tensor,
        actions: Tensor,
        returns_to_go: Tensor,
        timesteps: Tensor,
        attention_mask: Tensor,
        prompt_observations: Tensor | None = None,
        prompt_actions: Tensor | None = None,
        prompt_returns_to_go: Tensor | None = None,
        prompt_timesteps: Tensor | None = None,
    ) -> Tensor:
        """See :func:`decision_inputs`; the action of the newest step is never read."""
        x = self.embed["norm"](self._tokens(self.embed, observations, actions, returns_to_go, timesteps))[:, :-1]
        prompt = (prompt_observations, prompt_actions, prompt_returns_to_go, prompt_timesteps)
        if hasattr(self, "embed_prompt") != all(part is not None for part in prompt):
            raise ManyoneError("a prompt must be given if and only if the network reads one")
        if prompt_observations is not None:
            x = torch.cat((self._tokens(self.embed_prompt, *prompt), x), 1)
        length = x.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril_()
        mask = causal & attention_mask[:, None, None, :].bool()
        mask = mask | torch.eye(length, dtype=torch.bool, device=x.device)  # a padded token reads at least itself
        blocks: Any = self.blocks  # of named modules each
        for block in blocks:
            q, k, v = block["attn"]["qkv"](block["norm1"](x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
            x = x + block["attn"]["proj"](read)
            x = x + block["mlp"]["fc2"](F.relu(block["mlp"]["fc1"](block["norm2"](x))))
        return self.norm(x)[:, -1]

    def _tokens(self, embed: Any, observations: Any, actions: Any, returns_to_go: Any, timesteps: Any) -> Tensor:
        """[B, 3 K, E] in the order return-to-go, state, action."""
        time = embed["time"](timesteps.clamp(max=self.max_timestep - 1))
        parts = (embed["return"](returns_to_go.unsqueeze(-1)), embed["state"](observations), embed["action"](actions))
        return torch.stack([part + time for part in parts], 2).flatten(1, 2)
