"""Mask, predict, rewrite: what is masked, that predictions land where they belong, and the plain formulation."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tests.reference import kid as plain
from torch import nn

from manyone.errors import ManyoneError
from manyone.sql.collate import Example, pack
from manyone.sql.imperfect import STRATEGIES, Draw, Imperfection, Tokens, eligible, entropies, rewrite, select
from manyone.sql.language_model import LanguageModel

V, PAD, END, MASK = 40, 0, 2, 1
TOKENS = Tokens(MASK, END, (PAD, MASK, END))


class Stub(nn.Module):
    """A "causal LM" whose logits are a table of the present token, or of the position."""

    def __init__(self, table, by="token"):
        super().__init__()
        self.config, self.by = SimpleNamespace(), by
        self.lm = nn.Linear(table.shape[0], table.shape[1], bias=False)
        self.lm.weight.data = table.T.clone()
        self.base_model = self._states

    def _states(self, input_ids, attention_mask, position_ids, use_cache):
        index = input_ids if self.by == "token" else position_ids
        return SimpleNamespace(last_hidden_state=nn.functional.one_hot(index, self.lm.in_features).float())

    def get_output_embeddings(self):
        return self.lm


def successor():
    """Always predicts current + 1."""
    return LanguageModel(Stub(5 * torch.eye(V).roll(1, 1)))


def draw(rows, step=0, seed=0):
    return Draw(seed, step, tuple(range(rows)))


def rows_of(*lengths, first=5):
    """Arithmetic sequences: a prompt of 3 that ends in y_1 - 1, then n tokens and the end."""
    found = []
    for n in lengths:
        prompt = (first - 3, first - 2, first - 1)
        found.append(Example(prompt, (*range(first, first + n), END)))
    return found


def test_predictions_land_where_they_belong():
    batch = pack(rows_of(10, 20, 15), PAD)
    for step in range(20):
        found = rewrite(Imperfection(0.3), batch, TOKENS, draw(3, step), successor())
        before = torch.zeros_like(found.chosen)
        before[:, 1:] = found.chosen[:, :-1]
        alone = found.chosen & ~before  # the token before stands as it was: its successor is gold
        assert (found.batch.ids == batch.ids)[alone].all()
        after_mask = found.chosen & before  # after the mask token comes MASK + 1, which is the end and banned
        assert (found.batch.ids != batch.ids)[after_mask].all()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.5, 1.0])
def test_what_is_masked(strategy, ratio, student, gold, pad, tokens):
    batch = pack(gold, pad)
    how = Imperfection(ratio, strategy)
    found = rewrite(how, batch, tokens, draw(len(gold)), student)
    for row, example in enumerate(gold):
        n = len(example.output) - 1  # the end is never masked
        assert int(found.chosen[row].sum()) == max(1, round(ratio * n))
        closing = len(example.prompt) + n
        assert not found.chosen[row, : len(example.prompt)].any()
        assert not found.chosen[row, closing:].any()
    assert (found.batch.ids == batch.ids)[~found.chosen].all(), "only S is rewritten"
    assert not torch.isin(found.batch.ids[found.chosen], torch.tensor(tokens.special)).any(), "no special token"
    assert found.batch.mask is batch.mask
    assert found.batch.out is batch.out
    again = select(how, batch, tokens, draw(len(gold)), student)
    assert (again == found.chosen).all()
    if strategy == "random" and ratio < 1:
        assert (select(how, batch, tokens, draw(len(gold), step=1)) != again).any()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("passes", [1, 2, 0])
def test_the_plain_formulation_agrees(strategy, passes, student, gold, pad, tokens):
    batch, lots = pack(gold, pad), draw(len(gold), step=3)
    how = Imperfection(0.4, strategy, passes=passes)
    found = rewrite(how, batch, tokens, lots, student)
    uniforms = lots.uniforms("mask", max(len(e.output) for e in gold)).numpy()
    model = plain.as_function(student.model)
    doubt = entropies(student, batch, batch.out)
    for row, (prompt, output) in enumerate(gold):
        places = range(len(output) - 1)
        own = doubt[row, len(prompt) : len(prompt) + len(output) - 1].tolist()
        chosen = plain.masked_places(strategy, list(places), 0.4, uniforms[row], own)
        wanted = plain.rewritten(model, prompt, output, chosen, tokens.mask, tokens.special, passes)
        at = slice(len(prompt), len(prompt) + len(output))
        assert found.chosen[row, at].nonzero()[:, 0].tolist() == chosen
        assert found.batch.ids[row, at].tolist() == wanted


def test_entropies_are_those_of_the_predictions(student, gold, pad):
    batch = pack(gold, pad)
    found = entropies(student, batch, batch.out, rows=7)
    logits = plain.as_function(student.model)([*gold[1].prompt, *gold[1].output])
    for t in range(len(gold[1].output)):
        q = plain.softmax(logits[len(gold[1].prompt) + t - 1])
        assert float(found[1, len(gold[1].prompt) + t]) == pytest.approx(-(q * np.log(q)).sum(), abs=1e-4)


def test_a_pass_for_every_token_is_the_greedy_continuation(student, gold, pad, tokens):
    """With everything masked, what is written is the student's own answer, of forced length."""
    batch = pack(gold, pad)
    how = Imperfection(1.0, passes=0)
    found = rewrite(how, batch, tokens, draw(len(gold)), student)
    for row, (prompt, output) in enumerate(gold):
        wanted = plain.greedy(plain.as_function(student.model), prompt, len(output) - 1, -1, tokens.special)
        assert found.batch.ids[row, len(prompt) : len(prompt) + len(output) - 1].tolist() == wanted


def test_nothing_is_masked_without_a_ratio(student, gold, pad, tokens):
    batch = pack(gold, pad)
    found = rewrite(Imperfection(0.0), batch, tokens, draw(len(gold)), student)
    assert found.batch is batch
    assert not found.chosen.any()
    assert not student.passes, "no forward pass"


def test_a_perfect_student_changes_nothing():
    (example,) = rows_of(9)
    whole = [*example.prompt, *example.output]
    table = torch.zeros(len(whole), V)
    table[torch.arange(len(whole) - 1), torch.tensor(whole[1:])] = 9.0  # by position: masked tokens do not disturb it
    found = rewrite(Imperfection(0.5), pack([example], PAD), TOKENS, draw(1), LanguageModel(Stub(table, "position")))
    assert found.rewrite_error == 0
    assert int(found.chosen.sum()) == 4
    assert found.batch.ids[0].tolist() == whole


def test_hard_and_easy_halves_are_a_partition(student, pad, tokens):
    examples = [Example((5, 6), (*range(10, 10 + n), tokens.end)) for n in (4, 8, 10)]
    batch = pack(examples, pad)
    hard, easy = (select(Imperfection(0.5, s), batch, tokens, draw(3), student) for s in ("hard", "easy"))
    assert not (hard & easy).any()
    assert ((hard | easy) == eligible(batch, tokens.end)).all()
    doubt = entropies(student, batch, batch.out)
    for row in range(3):
        assert doubt[row][hard[row]].min() >= doubt[row][easy[row]].max()


@pytest.mark.parametrize("n", [5, 17, 40])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.7])
def test_uniform_places_are_evenly_spaced(n, ratio):
    batch = pack([Example((5,), (*[7] * n, END))] * 50, PAD)
    found = select(Imperfection(ratio, "uniform"), batch, TOKENS, draw(50))
    for row in found:
        gaps = row.nonzero()[:, 0].diff()
        assert int(row.sum()) == max(1, round(ratio * n))
        assert len(gaps) == 0 or int(gaps.max() - gaps.min()) <= 1


def test_random_places_are_uniform():
    n, rows = 10, 2000
    batch = pack([Example((5,), (*[7] * n, END))] * rows, PAD)
    counts = select(Imperfection(0.2), batch, TOKENS, draw(rows)).sum(0)[1 : 1 + n]
    assert int(counts.sum()) == 2 * rows
    assert chisquare(counts.numpy()).pvalue > 1e-3
    often = select(Imperfection(0.2, rounding="bernoulli"), batch, TOKENS, draw(rows))
    assert len(set(often.sum(1).tolist())) > 3, "each token on its own"
    assert float(often.sum()) / (n * rows) == pytest.approx(0.2, abs=0.01)


def test_draws_depend_on_seed_step_and_example_alone(student, gold, pad, tokens):
    """Neither the other rows of a batch nor padding matter."""
    how = Imperfection(0.4, pick="sample")
    whole = rewrite(how, pack(gold, pad), tokens, draw(len(gold)), student)
    for row in (1, 4):
        alone = rewrite(how, pack([gold[row]], pad), tokens, Draw(0, 0, (row,)), student)
        length = len(gold[row].prompt) + len(gold[row].output)
        assert alone.batch.ids[0].tolist() == whole.batch.ids[row, :length].tolist()
    left = rewrite(how, pack(gold, pad, "left"), tokens, draw(len(gold)), student)
    assert left.batch.targets.tolist() == whole.batch.targets.tolist()


def test_the_end_is_masked_when_asked(student, gold, pad, tokens):
    batch = pack(gold, pad)
    found = select(Imperfection(1.0, mask_end=True), batch, tokens, draw(len(gold)))
    assert (found == batch.out).all()
    cut = pack([Example((5,), (7, 8, 9))], pad)  # hit the limit: there is no end to spare
    assert int(eligible(cut, tokens.end).sum()) == 3


def test_the_relatives(student, gold, pad, tokens):
    batch, lots = pack(gold, pad), draw(len(gold))
    mask = rewrite(Imperfection(replace="mask"), batch, tokens, lots, student)
    assert (mask.batch.ids[mask.chosen] == tokens.mask).all()
    assert not student.passes
    noise = rewrite(Imperfection(replace="noise"), batch, tokens, lots, student)
    assert (noise.chosen == mask.chosen).all(), "the same places"
    assert len(set(noise.batch.ids[noise.chosen].tolist())) > 5
    assert not torch.isin(noise.batch.ids[noise.chosen], torch.tensor(tokens.special)).any()
    scheduled = rewrite(Imperfection(1.0, replace="scheduled"), batch, tokens, lots, student)
    logits = plain.as_function(student.model)([*gold[0].prompt, *gold[0].output])
    logits[:, list(tokens.special)] = -np.inf
    start, n = len(gold[0].prompt), len(gold[0].output) - 1
    assert scheduled.batch.ids[0, start : start + n].tolist() == logits[start - 1 : start - 1 + n].argmax(1).tolist()


def test_samples_follow_the_distribution(pad):
    """One masked token in many rows: what is written follows the student's probabilities."""
    table = torch.zeros(V, V)
    table[:, 10:14] = torch.tensor([3.0, 2.0, 1.0, 0.0]) + 20
    rows = 4000
    batch = pack([Example((5,), (7, END))] * rows, pad)
    found = rewrite(Imperfection(1.0, pick="sample"), batch, TOKENS, draw(rows), LanguageModel(Stub(table)))
    counts = torch.bincount(found.batch.ids[:, 1], minlength=V)[10:14]
    assert int(counts.sum()) == rows
    wanted = torch.tensor([3.0, 2, 1, 0], dtype=torch.float64).softmax(0) * rows
    assert chisquare(counts.numpy(), wanted.numpy()).pvalue > 1e-3


def test_special_tokens_are_written_when_allowed():
    table = torch.zeros(V, V)
    table[:, END] = 9.0
    batch = pack([Example((5,), (7, 8, END))], PAD)
    free = rewrite(Imperfection(1.0, special=True), batch, TOKENS, draw(1), LanguageModel(Stub(table)))
    assert free.batch.ids[0].tolist() == [5, END, END, END]


def test_bad_values_are_refused(gold, pad, tokens):
    with pytest.raises(ManyoneError, match="from 0 to 1"):
        Imperfection(1.2)
    with pytest.raises(ManyoneError, match="passes"):
        Imperfection(passes=-1)
    with pytest.raises(ManyoneError, match="needs the student"):
        select(Imperfection(strategy="hard"), pack(gold, pad), tokens, draw(len(gold)))
