"""What a tensor is, told by its name alone: its role (mlp, attention, norm, embedding, head) and its block.

No per-architecture classes: the patterns cover Hugging Face CLIP, ViT, BERT, RoBERTa, GPT-2, Llama and T5, OpenCLIP,
timm vision transformers and this project's residual MLP. Whatever they miss can be named by regular expressions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from manyone.errors import ManyoneError

ROLES = ("mlp", "attention", "norm", "embedding", "head", "other")

DEFAULT_GROUPS: dict[str, str] = {
    "norm": r"(^|\.)(\w*norm\d?|\w*norm_\w+|\w*layrnorm|ln|ln_\w+|\w*LayerNorm|bn\d?)$",
    "attention": r"(^|\.)(attn|attention|self_attn|cross_attn|encoder_attn|self_attention|SelfAttention|EncDecAttention"
    r"|qkv|q_proj|k_proj|v_proj|o_proj|out_proj|query|key|value|in_proj_weight|in_proj_bias)(\.|$)",
    "mlp": r"(^|\.)(mlp|ffn|feed_forward|DenseReluDense|intermediate|output\.dense|fc|fc1|fc2|c_fc|wi|wi_0|wi_1|wo"
    r"|gate_proj|up_proj|down_proj|gate_up_proj|linear1|linear2|lin1|lin2|w1|w2|w3|w12)(\.|$)",
}
"""Patterns for the module path inside a block, tried in this order."""

_HEAD = re.compile(
    r"(^|\.)(head|head_dist|heads|classifier|lm_head|score|pooler|visual_projection|text_projection|proj)(\.|$)"
)
_EMBEDDING = re.compile(
    r"embed|(^|\.)(wte|wpe|shared|stem|conv1|cls_token|class_token|dist_token|reg_token|mask_token|logit_scale)(\.|$)"
)
_BLOCK = re.compile(
    r"^(?:.*?\.)?(?:(?:layers|layer|stages|stage)\.\d+\.blocks\.\d+"
    r"|(?:layers|layer|blocks|block|h|resblocks)\.\d+)(?=\.|$)"
)
_LEAF = re.compile(r"\.(weight|bias|gamma|beta)$")


def module_of(name: str) -> str:
    """The module path of a parameter name: ``blocks.0.fc1.weight`` -> ``blocks.0.fc1``."""
    return _LEAF.sub("", name)


def block_of(name: str) -> str | None:
    """The repeated block that ``name`` lies in, such as ``encoder.layers.3``, or None outside every block."""
    match = _BLOCK.match(name)
    return match.group(0) if match else None


def find_blocks(names: Iterable[str]) -> list[str]:
    """The blocks among ``names``, each once, in the order of their numbers (an encoder's before a decoder's)."""
    found = dict.fromkeys(b for b in map(block_of, names) if b is not None)
    return sorted(found, key=_natural)


def role_of(name: str) -> str:
    """The role of a parameter or module: one of :data:`ROLES`."""
    module = module_of(name)
    block = block_of(module)
    if block is not None:
        inside = module[len(block) + 1 :]
        for role, pattern in DEFAULT_GROUPS.items():
            if re.search(pattern, inside):
                return role
        return "other"
    if re.search(r"(^|\.)embeddings?\.\w*[Nn]orm$", module) or re.search(DEFAULT_GROUPS["norm"], module):
        return "norm"
    if _EMBEDDING.search(module):
        return "embedding"
    if _HEAD.search(module):
        return "head"
    return "other"


def matches(name: str, wanted: str | Sequence[str]) -> bool:
    """Whether ``name`` is critical: ``wanted`` holds role names (``"mlp"``) and regular expressions on module paths."""
    for pattern in [wanted] if isinstance(wanted, str) else wanted:
        if role_of(name) == pattern if pattern in ROLES else _compiled(pattern).search(module_of(name)) is not None:
            return True
    return False


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ManyoneError(
            f"critical={pattern!r} is neither a role ({', '.join(ROLES)}) nor a regular expression: {error}"
        ) from error


def _natural(name: str) -> tuple[int, list[object]]:
    parts: list[object] = [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]
    return ("decoder" in name.split("."), parts)
