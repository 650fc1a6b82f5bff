"""The artefact of a network of the user's own: its weights are saved, its code never."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.reference.toy import Toy, digest, perturbed
from torch import nn

from manyone.errors import ManyoneError
from manyone.merging import AdaMerging, Head, Surgery, WeightEnsemblingMoE, load, save

NETWORK = Toy(hidden=20)
EXPERTS = perturbed(NETWORK, 2)
X = torch.randn(5, 3, 6, generator=torch.Generator().manual_seed(0))
HEADS = {"a": Head(torch.randn(4, 8), scale=2.0), "b": nn.Linear(8, 3)}


def mixture() -> WeightEnsemblingMoE:
    model = WeightEnsemblingMoE(NETWORK, EXPERTS)
    with torch.no_grad():
        for p in model.routers.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    return model


@pytest.mark.parametrize("kind", ["wemoe", "surgery", "adamerging", "plain"])
def test_an_own_network_comes_back_with_an_instance_of_it(kind: str, tmp_path: Path) -> None:
    network: nn.Module = {
        "wemoe": mixture,
        "surgery": lambda: Surgery(mixture(), 8, ["a", "b"], rank=2),
        "adamerging": lambda: AdaMerging(NETWORK, EXPERTS),
        "plain": lambda: NETWORK,
    }[kind]()
    save(tmp_path / "m", network, heads=HEADS, info={"made": "here"})
    mine = Toy(hidden=20, seed=9)
    before = digest(dict(mine.state_dict()))
    loaded = load(tmp_path / "m", encoder=mine)
    assert digest(dict(mine.state_dict())) == before
    assert loaded.tasks == ("a", "b")
    assert loaded.info == {"made": "here"}
    with torch.no_grad():
        feature = network(X, "a") if kind == "surgery" else network(X)
        torch.testing.assert_close(loaded(X, "a"), HEADS["a"](feature))
        torch.testing.assert_close(loaded(X, "b"), HEADS["b"](feature))
    assert "encoder=MyNetwork()" in (tmp_path / "m/README.md").read_text()


def test_a_file_never_says_what_is_imported(tmp_path: Path) -> None:
    save(tmp_path / "m", mixture())
    config = json.loads((tmp_path / "m/config.json").read_text())
    assert config["encoder"] == {"kind": "own", "class": "Toy"}
    with pytest.raises(ManyoneError, match=r"its maker's own class, 'Toy': give an instance of it, load\(folder, enc"):
        load(tmp_path / "m")
    for name in ("os.system", "manyone.nets.ResMLP"):
        config["encoder"]["class"] = name
        (tmp_path / "m/config.json").write_text(json.dumps(config))
        with pytest.raises(ManyoneError, match="give an instance"):
            load(tmp_path / "m")
    with pytest.raises(ManyoneError, match=r"no tensor for 'blocks\.3\.norm\.weight'"):
        load(tmp_path / "m", encoder=Toy(hidden=20, depth=4))
    with pytest.raises(ManyoneError, match=r"copy the whole folder|damaged|size|shape"):
        load(tmp_path / "m", encoder=Other())


class Other(Toy):
    """The toy network with a wider stem."""

    def __init__(self) -> None:
        super().__init__(hidden=20)
        self.stem = nn.Linear(7, 8)


def test_heads_that_are_functions_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ManyoneError, match=r"task .a. is a function: only a Head or an nn.Linear is saved"):
        save(tmp_path / "m", mixture(), heads={"a": lambda feature: feature})  # type: ignore[dict-item]
    assert not (tmp_path / "m").exists()
