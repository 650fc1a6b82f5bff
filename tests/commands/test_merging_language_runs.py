"""Whole runs of merging on causal language models: folders in, an artefact that generates out."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.commands.run_files import lines

from manyone.errors import ManyoneError
from manyone.merging import load
from manyone.merging.experts.prompts import load_prompts, next_tokens, tokenizer_of

transformers = pytest.importorskip("transformers")

MOODS = {"happy": ("bright", "kind", "warm"), "sad": ("grim", "cold", "harsh")}
KINDS = {"plant": ("rose", "oak", "fern"), "animal": ("wolf", "crow", "pike")}
FILLERS = ("today", "again", "really")
WORDS = [*MOODS, *KINDS, *itertools.chain(*MOODS.values(), *KINDS.values()), *FILLERS]
WORDS += ["the", "film", "was", "so", "i", "am", "a", "is", "now"]


def rows(task: str) -> list[tuple[str, str]]:
    """(prompt, label) of every sentence, of two lengths."""
    found = []
    for label, words in (MOODS if task == "mood" else KINDS).items():
        for word, filler in itertools.product(words, ("", *FILLERS)):
            text = f"the film was {word} so i am {filler}" if task == "mood" else f"{filler} the {word} is a"
            found.append((" ".join(text.split()), label))
    return found


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[END]", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", eos_token="[END]", padding_side="left"
    )


def train(model: Any, cut: Any, pairs: list[tuple[str, str]], steps: int) -> None:
    """Learns the word after each prompt."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    prompts = cut([text for text, _ in pairs], return_tensors="pt", padding=True)
    texts = {name: prompts[name] for name in ("input_ids", "attention_mask")}
    words = torch.tensor([cut.convert_tokens_to_ids(label) for _, label in pairs])
    positions = (texts["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    for _ in range(steps):
        optimiser.zero_grad()
        logits = model(**texts, position_ids=positions, use_cache=False, logits_to_keep=1).logits
        torch.nn.functional.cross_entropy(logits[:, -1], words).backward()
        optimiser.step()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two experts, with their tokeniser and their tasks as tables."""
    root = tmp_path_factory.mktemp("language")
    cut = tokenizer()
    special = {"pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 2}
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=2, n_positions=32, vocab_size=len(cut), resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, **special,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    train(model, cut, rows("mood") + rows("kind"), 40)
    model.save_pretrained(root / "base")
    cut.save_pretrained(root / "base")
    base = {k: v.clone() for k, v in model.state_dict().items()}
    for task in ("mood", "kind"):
        model.load_state_dict(base)
        train(model, cut, rows(task), 20)
        model.save_pretrained(root / task)
        table = [json.dumps({"text": text, "label": label}) for text, label in rows(task)]
        (root / f"{task}.jsonl").write_text("\n".join(table) + "\n")
    return root


def words(folders: Path, *more: Any) -> tuple[Any, ...]:
    own = ("--base", folders / "base", "--experts", folders / "mood", folders / "kind")
    return (*own, "--tasks", f"mood={folders / 'mood.jsonl'}", f"kind={folders / 'kind.jsonl'}", *more)


@pytest.mark.parametrize("recipe", ["wemoe", "e-wemoe"])
def test_a_causal_language_model_is_merged_by_the_prompt_and_generates(manyone, tmp_path, folders, recipe):
    more = ("--routing", "prompt", "--steps", 10, "--lr", 3e-3, "--adapt-split", "train")
    code, out, err = manyone("run", recipe, *words(folders, *more), "--out", "r")
    assert code == 0, err
    assert "mean" in out
    final = lines(tmp_path / "r/metrics.jsonl")[-1]
    assert final["accuracy"] > 0.3  # of a whole vocabulary; chance is 3 %
    assert set(final) >= {"accuracy/mood", "accuracy/kind", "monitor/entropy/mood", "criterion_at_start"}
    model, cut = load(tmp_path / "r/model"), transformers.AutoTokenizer.from_pretrained(tmp_path / "r/model")
    prompts = ["the film was grim so i am", "the oak is a"]
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    cut.padding_side = "left"
    together = cut(prompts, return_tensors="pt", padding=True)
    found = model.generate(together, **options)
    assert torch.equal(model.generate(together, use_cache=False, **options), found)
    for row, prompt in enumerate(prompts):
        ids = cut(prompt, return_tensors="pt")["input_ids"]
        alone = model.generate(ids, **options)
        assert torch.equal(alone[0, ids.shape[1] :], found[row, -6:])
        assert torch.equal(model(ids).argmax(1), alone[:, ids.shape[1]])
        # earlier logits do not depend on later tokens
        longer = [torch.cat([alone, torch.tensor([[last]])], 1) for last in (5, 9)]
        with torch.no_grad(), model.network.prompt(ids):
            model.network(ids)
            first, second = (model.network(text).logits for text in longer)
        assert torch.equal(first[:, :-1], second[:, :-1])
    weights = model.network.routing_weights(together)
    assert float((weights[0] - weights[1]).abs().max()) > 1e-4
    code, out, _ = manyone("eval", "r")
    assert code == 0
    assert f"{final['accuracy']:.6g}" in out
    with pytest.raises(ManyoneError, match="no head for task 'mood': this model has none"):
        model(ids, "mood")


@pytest.mark.parametrize("recipe", ["adamerging", "concrete"])
def test_learned_coefficients_make_an_ordinary_language_model(manyone, tmp_path, folders, recipe):
    more = ("--steps", 5, "--lr", 1e-2, "--objective", "expert-kl")
    code, _, err = manyone("run", recipe, *words(folders, *more), "--out", "r")
    assert code == 0, err
    assert lines(tmp_path / "r/metrics.jsonl")[-1]["accuracy"] > 0.3
    model = load(tmp_path / "r/model")
    assert type(model.network) is transformers.GPT2LMHeadModel
    ids = tokenizer()("the rose is a", return_tensors="pt")
    assert model.generate(ids, max_new_tokens=3).shape[0] == 1
    assert model(ids).shape == (1, len(tokenizer()))


def test_runs_that_cannot_be_are_one_line_and_leave_nothing(manyone, tmp_path, folders):
    table = "".join(f'{{"text": "the {w} is a", "label": "{k}"}}\n' for k in ("tree", "sad") for w in WORDS)
    (tmp_path / "odd.jsonl").write_text(table)
    changed = [w if w != f"kind={folders / 'kind.jsonl'}" else "kind=odd.jsonl" for w in words(folders)]
    for given, message in (
        (("wemoe", *words(folders)), "use --routing prompt"),
        (("e-wemoe", *words(folders), "--routing", "batch"), "use --routing prompt"),
        (("wemoe", "--suite", "fixture", "--routing", "prompt"), "use --routing sample or batch"),
        (("surgery", *words(folders)), "a causal language model has no such heads"),
        (("wemoe", *changed, "--routing", "prompt"), "label 'tree' is no word of the model's vocabulary"),
    ):
        code, _, err = manyone("run", *given, "--out", "r")
        assert code != 0
        assert message in " ".join(err.split())
        assert "Traceback" not in err
    assert not (tmp_path / "r").exists()


def test_labels_are_the_tokens_that_follow(folders):
    cut = tokenizer_of(folders / "base")
    task = load_prompts(folders / "mood.jsonl", cut, name="mood")
    assert task.classes == ("happy", "sad")
    for part in (task.train, task.val, task.test):
        assert set(part.labels.tolist()) == {cut.convert_tokens_to_ids("happy"), cut.convert_tokens_to_ids("sad")}
    short = load_prompts(folders / "mood.jsonl", cut, name="mood", most=3)
    assert short.train.inputs["input_ids"].shape[1] == 3
    assert {cut.decode(row) for row in short.train.inputs["input_ids"]} <= {
        "so i am",
        *(f"i am {filler}" for filler in FILLERS),
    }  # the end of a prompt is kept
    with pytest.raises(ManyoneError, match="'sad' and 'sad happy' begin with the same token"):
        next_tokens(cut, ("sad", "sad happy"))


def test_a_language_model_that_sees_what_is_later_is_refused(tmp_path):
    from manyone.merging.experts.hf import load_experts

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, vocab_size=30, initializer_range=0.5)
    transformers.BertLMHeadModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(ManyoneError, match="BertLMHeadModel is no causal language model"):
        load_experts(tmp_path / "bert", [tmp_path / "bert"])
