"""PEFT LoRA adapters as checkpoints: merged into their base slice by slice while it is read, never for the whole model.

:func:`manyone.weights.lora.config.adapter_config` reads and judges ``adapter_config.json``;
:func:`manyone.weights.lora.merge.merge_adapter` gives the merged checkpoint, and needs PyTorch. The values are those of
peft's ``PeftModel.from_pretrained(base, adapter).merge_and_unload()`` in float32; what has no exact merge is refused in
one line.
"""
