"""PEFT LoRA adapters as checkpoints: merged into their base slice by slice while it is read, never for the whole model.

:func:`adapter_config` reads and judges ``adapter_config.json``, :func:`merge_adapter` gives the merged checkpoint. The
values are those of peft's ``PeftModel.from_pretrained(base, adapter).merge_and_unload()`` in float32; what has no exact
merge is refused in one line.
"""

from manyone.weights.lora.config import AdapterConfig, adapter_config
from manyone.weights.lora.merge import merge_adapter

__all__ = ["AdapterConfig", "adapter_config", "merge_adapter"]
