"""A causal language model as distillation uses it: hidden states of a batch, then logits of the positions asked for.

Logits of a whole batch are what memory is spent on; backbone and head are therefore called apart, and the head sees
only the positions that predict an output. :class:`LanguageModel` wraps any Hugging Face causal LM, with or without
adapters of PEFT, and makes sure when it is built that both parts together are the model.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.randomness import generator_for
from manyone.sql.collate import Batch

MASK = -1
"""Id of the added mask token: a position whose embedding is a fixed vector outside the vocabulary."""


class LanguageModel:
    """``model`` with its backbone and head apart.

    ``passes`` counts forward passes of the backbone over whole sequences, with gradient ("grad") and without
    ("no_grad"), and steps of cached decoding ("decode").
    """

    def __init__(self, model: nn.Module, *, vocabulary: int | None = None, mixed: bool = False) -> None:
        base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
        self.model, self.config = model, base.config
        self.backbone, self.head = base.base_model, base.get_output_embeddings()
        if self.head is None or self.backbone is base:
            raise ManyoneError(f"{type(base).__name__}: not a causal language model: it has no output embeddings")
        self.rows = self.head.weight.shape[0]
        """Rows of its own vocabulary."""
        self.vocabulary = vocabulary or self.rows
        """Rows that logits have: those that a teacher and its student share."""
        self.mixed = mixed
        self.passes: Counter[str] = Counter()
        self.mask_vector: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.model.parameters()).device

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable ones by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def freeze(self) -> LanguageModel:
        """No parameter is trainable from now on."""
        self.model.requires_grad_(False)
        self.model.eval()
        return self

    def checkpoint_gradients(self) -> None:
        """Activations of layers are computed again in the backward pass instead of being kept."""
        base: Any = self.model
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def precision(self) -> AbstractContextManager[Any]:
        """Mixed precision where it was asked for."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.mixed else contextlib.nullcontext()

    @contextlib.contextmanager
    def evaluating(self, dropout: bool = False) -> Iterator[None]:
        """No gradient, and no dropout unless ``dropout``; afterwards as before."""
        before = self.model.training
        self.model.train(dropout)
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(before)

    def add_mask_token(self, *names: str | int) -> None:
        """Makes ``MASK`` an id: a random embedding as large as the vocabulary's are, drawn by ``names``; untrained."""
        table = self.model.get_input_embeddings().weight  # type: ignore[operator]
        noise = torch.randn(table.shape[1], generator=generator_for(*names, "mask embedding"))
        with torch.no_grad():
            self.mask_vector = (noise * table.float().std().cpu()).to(table)

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states [B, T, d] of the backbone."""
        self.passes["grad" if torch.is_grad_enabled() else "no_grad"] += 1
        words = self._words(batch.ids)
        with self.precision():
            found = self.backbone(
                attention_mask=batch.mask.long(), position_ids=batch.positions, use_cache=False, **words
            )
        return found.last_hidden_state

    def decode(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Logits [B, V] after the last of ``ids`` [B, t], which join ``cache``; ``mask`` [B, all] knows the padding."""
        self.passes["decode"] += 1
        with self.precision():
            found = self.backbone(input_ids=ids, attention_mask=mask.long(), position_ids=positions,
                                  past_key_values=cache, use_cache=True)  # fmt: skip
        return self.logits(found.last_hidden_state[:, -1])

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., d], cut to the shared vocabulary."""
        with self.precision():
            found = self.head(hidden)
        if found.shape[-1] > self.vocabulary:
            found = found[..., : self.vocabulary]
        for name, change in _LAST:
            if value := getattr(self.config, name, None):
                found = change(found, value)
        return found

    def predictions(self, batch: Batch, where: Tensor) -> Tensor:
        """Logits [N, V] that predict the tokens at ``where`` (bool [B, T]), row by row."""
        states = self.hidden(batch)
        return self.logits(states[:, :-1][where[:, 1:]])

    def check(self) -> None:
        """Raises ``ManyoneError`` where backbone and head are not all that the model does to a sequence."""
        ids = torch.arange(4, device=self.device)[None] % self.rows
        whole = Batch(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool))
        with self.evaluating(), self.precision():
            asked = self.model(input_ids=ids, use_cache=False).logits[..., : self.vocabulary]
            own = self.logits(self.hidden(whole))
        self.passes.clear()
        if not torch.allclose(asked.float(), own.float(), atol=1e-2, rtol=1e-2):
            raise ManyoneError(f"{self.config.model_type}: this architecture does more to its logits than a linear "
                               "head: it is not supported as teacher or student")  # fmt: skip

    def _words(self, ids: Tensor) -> dict[str, Tensor]:
        """How the backbone is told ``ids``, the mask token among them."""
        if self.mask_vector is None or not bool((masked := ids == MASK).any()):
            return {"input_ids": ids}
        table: Any = self.model.get_input_embeddings()  # type: ignore[operator]
        known = table(ids.masked_fill(masked, 0))
        return {"inputs_embeds": torch.where(masked[..., None], self.mask_vector.to(known), known)}


_LAST = (
    ("final_logit_softcapping", lambda logits, cap: torch.tanh(logits / cap) * cap),
    ("logit_scale", lambda logits, scale: logits * scale),
    ("logits_scaling", lambda logits, scale: logits / scale),
)
"""What some families (Gemma 2, Cohere, Granite) do to logits after the head, by the entry of their configuration."""
