"""Pre-training: it learns, resumes exactly, and is kept by content."""

import pytest
import torch

from manyone.data.rasters.bands import Band
from manyone.earth.encoders.mae import MaeOptions
from manyone.earth.encoders.pretraining import MaeLearner, crops, learning_rate, load_pretrained, pretrain
from manyone.earth.encoders.vit import VitSize, random_vit
from manyone.earth.spec import Context
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError

SIZE = VitSize(patch=2, width=16, depth=1, heads=2)
OPTIONS = MaeOptions(size=SIZE, crop=8, decoder_width=8, decoder_depth=1, steps=8, batch_size=4, warmup=2)
BANDS = tuple(Band(str(i), c, lam) for i, (c, lam) in enumerate([("green", 560.0), ("red", 665.0), ("nir", 833.0)]))
Y, X = torch.meshgrid(torch.arange(24.0), torch.arange(30.0), indexing="ij")
SCENE = torch.stack([(X / 4).sin(), (Y / 5).cos(), (X / 4).sin() * (Y / 5).cos()])


def run_of(folder):
    return RunFolder.create(folder, "earth-mae", OPTIONS)


def test_training_lowers_the_loss_on_fixed_crops():
    options = MaeOptions(
        size=SIZE, crop=8, decoder_width=8, decoder_depth=1, steps=60, batch_size=16, warmup=5, lr=5e-3
    )
    learner = MaeLearner([SCENE], options, seed=0)
    before = learner.evaluate()["loss"]
    for _ in range(60):
        learner.step()
    assert learner.evaluate()["loss"] < 0.6 * before


@pytest.mark.parametrize("wave", [False, True])
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, wave):
    options = MaeOptions(**{**OPTIONS.__dict__, "wave": wave})
    whole = MaeLearner([SCENE], options, bands=BANDS, seed=3)
    train(whole, run_of(tmp_path / "whole"), steps=8, progress=False)
    train(MaeLearner([SCENE], options, bands=BANDS, seed=3), run_of(tmp_path / "cut"), steps=5, progress=False)
    resumed = MaeLearner([SCENE], options, bands=BANDS, seed=99)  # other first weights: all must come from the state
    resumed.seed = 3
    train(resumed, RunFolder.open(tmp_path / "cut"), steps=8, progress=False)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_the_same_imagery_is_trained_on_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path))
    first = pretrain([SCENE], OPTIONS, bands=BANDS, progress=False)
    folders = list((tmp_path / "earth" / "pretrained").iterdir())
    assert len(folders) == 1
    assert not (folders[0] / "checkpoints").exists()
    monkeypatch.setattr(MaeLearner, "step", lambda self: pytest.fail("trained again"))
    again = pretrain([SCENE.clone()], OPTIONS, bands=BANDS, progress=False)
    assert again.digest() == first.digest() != random_vit(BANDS, size=SIZE).digest()
    assert load_pretrained(folders[0] / "model", BANDS).digest() == first.digest()
    assert first.spec.trained
    assert first.spec.id == "mae-small"
    with pytest.raises(ManyoneError, match="made for 3 bands, got 2"):
        load_pretrained(folders[0] / "model", BANDS[:2])


def test_an_interrupted_pretraining_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path / "a"))
    whole = pretrain([SCENE], OPTIONS, progress=False)
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path / "b"))
    step = MaeLearner.step

    def failing(self):
        if self.steps == 6:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(MaeLearner, "step", failing)
    with pytest.raises(KeyboardInterrupt):
        pretrain([SCENE], OPTIONS, progress=False)
    monkeypatch.setattr(MaeLearner, "step", step)
    assert pretrain([SCENE], OPTIONS, progress=False).digest() == whole.digest()


def test_crops_come_from_every_place_in_every_orientation():
    scene = torch.arange(3 * 6.0).view(1, 3, 6)
    found = crops([scene, scene[:, :, :3] + 100], 3, 400, torch.Generator().manual_seed(0))
    assert found.shape == (400, 1, 3, 3)
    assert len({tuple(c.flatten().tolist()) for c in found}) == 8 * (4 + 1)
    assert 50 < int((found[:, 0, 1, 1] >= 100).sum()) < 110  # one place in five


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate(step, MaeOptions(steps=100)) for step in range(100)]
    assert rates[49] == max(rates) == 1.5e-3
    assert rates[0] == pytest.approx(1.5e-3 / 50)
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[-1] < 1e-5


def test_the_trained_encoder_reads_other_sizes(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path))
    encoder = pretrain([SCENE], OPTIONS, progress=False)
    (maps,) = encoder.maps(torch.randn(2, 3, 5, 12), Context())
    assert maps.shape == (2, 16, 3, 6)


def test_what_cannot_be_learned_from_is_refused():
    with pytest.raises(ManyoneError, match="must be larger than a patch"):
        MaeLearner([torch.randn(3, 2, 9)], OPTIONS)
    with pytest.raises(ManyoneError, match="bands with wavelengths"):
        MaeLearner([SCENE], MaeOptions(**{**OPTIONS.__dict__, "wave": True}))
    with pytest.raises(ManyoneError, match="C = 3 for all"):
        MaeLearner([SCENE, SCENE[:2]], OPTIONS)
