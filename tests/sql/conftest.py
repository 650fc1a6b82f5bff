"""Tiny models and pairs that the tests of this field share: 2 layers, width 32, a vocabulary of about 300."""

import copy

import pytest
import torch

from manyone.sql.collate import encode
from manyone.sql.language_model import LanguageModel
from manyone.sql.models import Size, new_decoder
from manyone.sql.tokens import padding, rewriting_tokens, train_tokenizer

SQL = [
    "SELECT name FROM singer",
    "SELECT count(*) FROM singer WHERE age > 30",
    "SELECT max(age) , country FROM singer GROUP BY country",
    "SELECT name FROM singer WHERE country = 'France' ORDER BY age DESC LIMIT 1",
    "SELECT T1.name FROM concert AS T1 JOIN singer AS T2 ON T1.id = T2.id",
    "SELECT DISTINCT country FROM singer",
]
ASKED = ["names", "how many are older than 30", "oldest of each country", "the oldest French one", "concerts",
         "countries"]  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer([*SQL, *ASKED] * 3, 300)


@pytest.fixture(scope="session")
def tokens(tokenizer):
    return rewriting_tokens(tokenizer)


@pytest.fixture(scope="session")
def pad(tokenizer):
    return padding(tokenizer)


@pytest.fixture(scope="session")
def gold(tokenizer):
    return [encode(tokenizer, f"{q}\n", sql, max_input=24, max_output=60) for q, sql in zip(ASKED, SQL)]


@pytest.fixture(scope="session")
def _models(tokenizer):
    """A student and a teacher that have something to say: weights far from those of a fresh network."""
    found = []
    for seed, width in ((0, 32), (1, 48)):
        model = new_decoder(Size(2, width, 2), len(tokenizer), seed=seed, special=tokenizer, longest=128)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3 if parameter.ndim > 1 else 1)
        found.append(model)
    return found


@pytest.fixture
def student(_models):
    return LanguageModel(copy.deepcopy(_models[0]))


@pytest.fixture
def teacher(_models):
    return LanguageModel(copy.deepcopy(_models[1])).freeze()
