"""Vision transformers in a folder of transformers."""

import pytest
import torch

from manyone.earth.encoders.loading import load_encoder
from manyone.earth.spec import Context
from manyone.errors import ManyoneError

transformers = pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    return tmp_path


def test_its_tokens_become_maps_on_any_grid(folder):
    encoder = load_encoder(f"hf:{folder}")
    x = torch.randn(3, 3, 24, 40)
    maps, vectors = encoder.features(x, Context())
    assert encoder.spec.layers == (0, 1, 2, 3)
    assert [tuple(m.shape) for m in maps] == [(3, 16, 3, 5)] * 4
    model = transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.inference_mode():
        found = model(x, output_hidden_states=True, interpolate_pos_encoding=True)
    torch.testing.assert_close(vectors["cls"], found.last_hidden_state[:, 0])
    torch.testing.assert_close(maps[1][:, :, 1, 2], found.hidden_states[2][:, 1 + 5 + 2])
    torch.testing.assert_close(encoder.vectors(x[1:2], Context())["mean"], vectors["mean"][1:2], atol=1e-5, rtol=1e-5)


def test_random_weights_are_not_the_folders(folder):
    random, stored = (load_encoder(f"hf:{folder}", weights) for weights in ("random", "default"))
    assert random.digest() != stored.digest()
    assert not random.spec.trained


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ManyoneError, match=r"no config\.json"):
        load_encoder(f"hf:{tmp_path}")
