"""The cards of finished runs: metadata that the hub's library reads, options and figures, nothing of the machine."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from manyone.engine.card import metadata_of
from manyone.engine.card import split_card as lines_of
from manyone.engine.run import RunFolder
from manyone.recipes.cards import MARK, finish_card
from manyone.recipes.options import CommonOptions


def split_card(text):
    """(What the head says, the rest.)"""
    head, body = lines_of(text)
    return metadata_of(head), body


@dataclass(kw_only=True)
class Options(CommonOptions):
    """Toy."""

    base: str = ""
    experts: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    scale: float = 0.3


@pytest.fixture
def made(tmp_path):
    def make(card=None, final=None, **options):
        given = Options(**options)
        folder = RunFolder.create(tmp_path / "run", "ties", given)
        folder.log(
            3,
            "final",
            final or {"accuracy": 0.5, "accuracy/a": 0.4, "tensors": 7, "note": "words", "odd": float("nan")},
        )
        home = folder.folder("model")
        (home / "model.safetensors").touch()
        if card is not None:
            (home / "README.md").write_text(card)
        finish_card(given, folder)
        return home / "README.md"

    return make


def test_metadata_options_and_figures(made, tmp_path):
    path = made("# Mine\n\nLoads so.\n", base="org/base", experts=("org/a", str(tmp_path / "b")),
                data=(f"pets={tmp_path}/private/pets.csv",), scale=0.5)  # fmt: skip
    head, body = split_card(path.read_text())
    assert head["library_name"] == "manyone"
    assert head["tags"] == ["manyone", "merging", "ties"]
    assert head["base_model"] == ["org/base", "org/a"]
    assert body.startswith("# Mine\n\nLoads so.\n")
    assert "| `--scale` | 0.5 |" in body
    assert "| accuracy | 0.5 |" in body
    assert "| tensors | 7 |" in body
    assert [m["type"] for m in head["model-index"][0]["results"][0]["metrics"]] == ["accuracy"]  # a count is no score
    assert "pets=pets.csv" in body
    assert str(tmp_path) not in path.read_text()


def test_a_head_that_is_there_is_kept_but_not_the_figures_of_another_model(made):
    path = made("---\nlicense: mit\nlibrary_name: transformers\ntags: [x]\nmodel-index:\n- name: old\n---\n\nbody\n")
    head, body = split_card(path.read_text())
    assert (head["license"], head["library_name"]) == ("mit", "transformers")
    assert head["tags"] == ["x", "manyone", "merging", "ties"]
    assert head["model-index"][0]["name"] == "ties"
    assert body.startswith("body")


@pytest.mark.parametrize("card", [None, "", "---\n- a list\n---\nbody", "---\na: [\n---\nbody", "---\nnever closed"])
def test_any_card_becomes_one_that_the_hub_s_library_reads(made, card):
    hub = pytest.importorskip("huggingface_hub")
    path = made(card)
    loaded = hub.ModelCard.load(path)
    assert loaded.data.library_name == "manyone"
    (result,) = loaded.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.5, "own data")
    assert MARK in loaded.text


def test_data_that_everybody_has_are_named(made):
    @dataclass(kw_only=True)
    class Table(CommonOptions):
        """Toy."""

        data: str = "breast-cancer"

    path = made("# Mine\n")
    folder = RunFolder.open(path.parents[1])
    path.write_text("# Mine\n")
    finish_card(Table(), folder)
    assert split_card(path.read_text())[0]["model-index"][0]["results"][0]["dataset"]["name"] == "breast-cancer"


def test_a_second_time_changes_nothing(made, tmp_path):
    path = made("# Mine\n")
    before = path.read_text()
    finish_card(Options(), RunFolder.open(tmp_path / "run"))
    assert path.read_text() == before


def test_a_run_without_a_model_has_no_card(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "ties", Options())
    folder.log(1, "final", {"x": 1.0})
    finish_card(Options(), folder)
    assert not Path(tmp_path / "run" / "model").exists()


def test_terms_of_the_base_stay_and_a_transformers_folder_says_how_it_is_loaded(made, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: llama3.1\nlanguage: [en]\npipeline_tag: text-generation\n"
                                    "base_model: org/older\nmodel-index:\n- name: old\n---\n\nbody\n")  # fmt: skip
    home = tmp_path / "run" / "model"
    home.mkdir(parents=True)
    (home / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    given = Options(base=str(base))
    folder = RunFolder(tmp_path / "run", "ties", {})
    (home / "model.safetensors").touch()
    finish_card(given, folder)
    head, body = split_card((home / "README.md").read_text())
    assert (head["license"], head["language"], head["pipeline_tag"]) == ("llama3.1", ["en"], "text-generation")
    assert head["library_name"] == "transformers"
    assert head["base_model"] == "org/older"
    assert "model-index" not in head
    assert "LlamaForCausalLM.from_pretrained" in body
    (home / "README.md").unlink()
    (home / "adapter_config.json").write_text("{}")
    finish_card(given, folder)
    head, body = split_card((home / "README.md").read_text())
    assert head["library_name"] == "peft"
    assert "PeftModel.from_pretrained" in body


def test_figures_that_the_card_tells_already_are_not_told_again(made):
    path = made("# Mine\n\n| score | value |\n|---|---|\n| accuracy | 0.5 |\n")
    text = path.read_text()
    assert text.count("| accuracy | 0.5 |") == 1
    assert "| tensors | 7 |" in text
    folder = RunFolder.open(path.parents[1])
    finish_card(Options(), folder)
    assert path.read_text() == text
