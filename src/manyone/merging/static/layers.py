"""Which tensors are weights of linear layers, by name and shape, over state dicts of any architecture.

Methods that factor matrices (TSV-M, Iso-C, Iso-CTS, RegMean) treat linear layers alone. Embedding and position tables
are matrices too, so the number of dimensions does not decide: the name of the module that owns the tensor does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from manyone.weights.tensor_info import TensorInfo

# The owning module's own name: word_embeddings, position_embedding, embed_tokens, pos_embed, wte, shared, lm_head ...
TABLE = re.compile(
    r"(^|_)(embedding|embeddings|embed|embedder)$|^(embed|emb)_(tokens|positions|out|in)$|^(wte|wpe|shared|lm_head)$"
    r"|^relative_attention_bias$|^(tokens?|pos|position|positional)_(emb|embed|embedding|embeddings|table)$"
    r"|^(cls|dist|mask|class)_(token|embedding)$|^tok_embeddings$"
)
_CONV1D = re.compile(r"(^|\.)(c_attn|c_fc|c_proj|q_attn)\.weight$")


def is_linear(name: str, info: TensorInfo) -> bool:
    """Whether ``name`` is the weight matrix of a linear layer: a float matrix called ``...weight`` that is no table."""
    parts = name.split(".")
    if not info.dtype.is_floating_point or len(info.shape) != 2 or min(info.shape) < 2:
        return False
    if not parts[-1].endswith("weight"):
        return False
    owner = parts[-2] if parts[-1] == "weight" and len(parts) > 1 else parts[-1]
    return TABLE.search(owner) is None


def transposed_names(infos: Mapping[str, TensorInfo]) -> set[str]:
    """Linear weights stored as [in, out], as GPT-2's Conv1D does, instead of [out, in].

    The name alone does not tell (OpenCLIP has ordinary layers of the same names), the bias of the layers that are not
    square does: its length is the number of outputs.
    """
    names = [name for name, info in infos.items() if _CONV1D.search(name) and is_linear(name, info)]
    for name in names:
        rows, columns = infos[name].shape
        bias = infos.get(name.removesuffix("weight") + "bias")
        if bias is not None and rows != columns:
            return set(names) if bias.shape == (columns,) else set()
    return set()
