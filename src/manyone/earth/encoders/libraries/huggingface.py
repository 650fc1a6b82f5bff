"""``hf:FOLDER``: a vision transformer in a folder of transformers (config.json and safetensors), as an encoder.

Nothing is fetched and no code of the folder is run. Public name: :func:`load_folder`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from manyone.data.rasters.bands import Band
from manyone.earth.encoders.inputs import channels, padded
from manyone.earth.encoders.libraries.adapter import Features, LibraryEncoder, from_tokens, quarters, seeded
from manyone.earth.encoders.libraries.slots import rgb
from manyone.earth.spec import Context, ModelSpec
from manyone.engine.extras import need
from manyone.errors import ManyoneError

_KINDS = ("vit", "dinov2", "dinov2_with_registers", "deit", "beit", "vit_mae", "dinov3_vit")


def load_folder(id: str, weights: str, bands: tuple[Band, ...] | None, seed: int) -> LibraryEncoder:
    """See :func:`manyone.earth.encoders.loading.load_encoder`; ``weights`` "random" takes the configuration alone."""
    transformers = need("transformers", id, "hub")
    folder = Path(id.removeprefix("hf:")).expanduser()
    if not (folder / "config.json").is_file():
        raise ManyoneError(f"{folder}: no config.json: give a folder that transformers' save_pretrained wrote")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if config.model_type not in _KINDS:
        raise ManyoneError(f"{folder}: a {config.model_type}, not a vision transformer: {', '.join(_KINDS)}")
    if weights not in ("default", "random"):
        raise ManyoneError(f"weights = {weights!r}: {id} takes its folder's weights (default) or random ones")
    if config.model_type == "vit_mae":
        config.mask_ratio = 0.0
    count = config.num_channels if bands is None else channels(bands, id)
    if count != config.num_channels:
        raise ManyoneError(f"{count} bands: the model in {folder} reads {config.num_channels}")
    if bands is None and count != 3:
        raise ManyoneError(f"the model in {folder} reads {count} bands: name them")
    with seeded(seed, "hf"):
        if weights == "random":
            network = transformers.AutoModel.from_config(config)
        else:
            network = transformers.AutoModel.from_pretrained(
                folder, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True
            )
    layers, patch = quarters(config.num_hidden_layers), int(config.patch_size)
    prefix = 1 + int(getattr(config, "num_register_tokens", 0) or 0)
    any_grid = config.model_type not in ("beit",)

    def forward(pixels: Tensor, context: Context) -> Features:
        x = padded(pixels, patch)
        options: dict[str, Any] = {"output_hidden_states": True}
        if any_grid and config.model_type in ("vit", "deit", "vit_mae"):
            options["interpolate_pos_encoding"] = True
        found = network(x, **options)
        # hidden state 0 is what the first block gets
        tokens = [found.hidden_states[k + 1] for k in layers]
        return from_tokens(tokens, found.last_hidden_state, (x.shape[2] // patch, x.shape[3] // patch), prefix)

    spec = ModelSpec(
        id, bands or rgb(), config.hidden_size, size=None if any_grid else config.image_size, patch=patch,
        layers=layers, pooling="cls", trained=weights != "random",
    )  # fmt: skip
    return LibraryEncoder(spec, network, forward)
