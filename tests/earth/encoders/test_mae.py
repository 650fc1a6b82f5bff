"""The masked auto-encoder: what is hidden, what the loss sees."""

import pytest
import torch

from manyone.earth.encoders.mae import MaeOptions, MaskedAutoencoder, choose_tokens, masked_loss, patchify
from manyone.earth.encoders.vit import PlainViT, VitSize
from manyone.errors import ManyoneError

SIZE = VitSize(patch=2, width=16, depth=1, heads=2)
OPTIONS = MaeOptions(size=SIZE, decoder_width=8, decoder_depth=1)


def network(bands=3, wave=False):
    torch.manual_seed(0)
    return MaskedAutoencoder(PlainViT(None if wave else bands, SIZE), bands, OPTIONS)


@pytest.mark.parametrize(("count", "ratio", "kept"), [(256, 0.75, 64), (10, 0.9, 1), (7, 0.5, 3), (256, 0.9, 25)])
def test_exactly_the_floor_is_kept(count, ratio, kept):
    chosen, _ = choose_tokens(torch.rand(3, count), ratio)
    assert chosen.shape == (3, kept)
    assert all(len(set(row.tolist())) == kept for row in chosen)


def test_restoring_undoes_the_order():
    noise = torch.rand(2, 12)
    kept, restore = choose_tokens(noise, 0.75)
    order = noise.argsort(1)
    assert torch.equal(order.gather(1, restore), torch.arange(12).expand(2, 12))
    assert torch.equal(order[:, :3], kept)


def test_the_loss_sees_hidden_patches_alone():
    x, noise = torch.randn(2, 3, 8, 8), torch.rand(2, 16)
    prediction, hidden = network().predict(x, noise)
    prediction.retain_grad()
    masked_loss(prediction, patchify(x, 2), hidden).backward()
    assert hidden.sum(1).tolist() == [12, 12]
    assert prediction.grad[~hidden].abs().max() == 0
    assert (prediction.grad[hidden].abs().amax(1) > 0).all()


def test_hidden_pixels_do_not_reach_the_encoder():
    model, noise = network(), torch.rand(1, 16)
    x = torch.randn(1, 3, 8, 8)
    before, hidden = model.predict(x, noise)
    changed = torch.where(hidden[..., None], torch.randn(1, 16, 12), patchify(x, 2))
    back = changed.view(1, 4, 4, 3, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 3, 8, 8)
    assert torch.equal(patchify(back, 2), changed)
    after, _ = model.predict(back, noise)
    torch.testing.assert_close(before, after)


def test_normalised_targets_ignore_brightness_and_contrast():
    prediction, target, hidden = torch.randn(1, 4, 8), torch.randn(1, 4, 8), torch.ones(1, 4, dtype=torch.bool)
    plain = masked_loss(prediction, target, hidden, normalised=True)
    torch.testing.assert_close(masked_loss(prediction, 3 * target + 5, hidden, normalised=True), plain)


def test_the_wave_variant_predicts_all_bands_from_some():
    model = network(bands=4, wave=True)
    lam = torch.tensor([490.0, 560.0, 665.0, 1610.0])
    x, noise = torch.randn(2, 4, 8, 8), torch.rand(2, 16)
    loss = model(x, noise, lam, torch.tensor([3, 0, 1]))
    assert torch.isfinite(loss)
    # bands in another order are the same bands
    torch.testing.assert_close(model(x, noise, lam, torch.tensor([0, 1, 3])), loss, atol=1e-5, rtol=1e-5)


def test_nothing_hidden_is_refused():
    with pytest.raises(ManyoneError, match="no patch of 1 is hidden"):
        network()(torch.randn(1, 3, 2, 2), torch.rand(1, 1))
