"""Cached, batched decoding gives what uncached decoding one by one gives; samples depend on nothing else."""

from dataclasses import replace

import pytest
import torch
from tests.reference import kid as plain

from manyone.errors import ManyoneError
from manyone.sql.generation import Decoding, first_that, generate, generate_beams
from manyone.sql.imperfect import Draw, sample


@pytest.fixture
def how(student, gold, pad):
    """With an end that comes early in some rows and late, or never, in others: a token that the student likes."""
    endless = Decoding(-1, pad, most=20)
    found = generate(student, [e.prompt for e in gold], endless)
    spread = {token: len({row.index(token) if token in row else 20 for row in found}) for row in found for token in row}
    return replace(endless, end=max(spread, key=spread.get))


def test_greedy_is_the_uncached_answer_token_for_token(student, gold, how):
    found = generate(student, [e.prompt for e in gold], how)
    wanted = [plain.greedy(plain.as_function(student.model), e.prompt, how.most, how.end) for e in gold]
    assert [list(f) for f in found] == wanted
    assert len({len(f) for f in found}) > 1, "rows end each on its own"
    assert found == generate(student, [e.prompt for e in gold], replace(how, batch_size=2))


def test_samples_depend_on_seed_step_and_example_alone(student, gold, how):
    sampled = replace(how, sampled=True)
    prompts = [e.prompt for e in gold]
    whole = generate(student, prompts, sampled, Draw(0, 5, tuple(range(6))))
    assert whole == generate(student, prompts, replace(sampled, batch_size=4), Draw(0, 5, tuple(range(6))))
    assert whole[3:4] == generate(student, prompts[3:4], sampled, Draw(0, 5, (3,)))
    assert whole != generate(student, prompts, sampled, Draw(0, 6, tuple(range(6))))
    assert whole != generate(student, prompts, sampled, Draw(1, 5, tuple(range(6))))
    with pytest.raises(ManyoneError, match="needs a Draw"):
        generate(student, prompts, sampled)


def test_the_first_sampled_token_is_the_inversion_of_its_uniform(student, gold, how):
    draw = Draw(3, 1, (4,))
    found = generate(student, [gold[4].prompt], replace(how, sampled=True, temperature=0.7), draw)[0][0]
    logits = plain.as_function(student.model)(list(gold[4].prompt))[-1]
    uniform = float(draw.uniforms("generate", 1)[0, 0])
    wanted = int((plain.softmax(logits / 0.7).cumsum() <= uniform).sum())
    assert found == wanted


def test_sampling_covers_the_ends():
    logits = torch.tensor([[0.0, 0.0, -torch.inf]] * 3)
    assert sample(logits, torch.tensor([0.0, 0.4999, 1.0], dtype=torch.float64)).tolist() in ([0, 0, 1], [0, 0, 2])
    assert sample(logits[:2], torch.tensor([0.51, 0.9999999])).tolist() == [1, 1]


def test_beams_are_as_likely_as_can_be(student, gold, how):
    prompts = [e.prompt for e in gold[:3]]
    found = generate_beams(student, prompts, replace(how, most=6), beams=4)
    greedy = generate(student, prompts, replace(how, most=6))
    model = plain.as_function(student.model)

    def score(prompt, output):
        logits = model([*prompt, *output])
        steps = [plain.softmax(logits[len(prompt) + t - 1])[y] for t, y in enumerate(output)]
        return sum(torch.tensor(steps, dtype=torch.float64).log().tolist()) / len(steps)

    for prompt, beams, likely in zip(prompts, found, greedy):
        scores = [score(prompt, beam) for beam in beams]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] >= score(prompt, likely) - 1e-6
        assert len(set(beams)) == 4


def test_the_first_that_holds():
    assert first_that(["a", "bb", "cc"], lambda s: len(s) == 2) == "bb"
    assert first_that(["a", "bb"], lambda s: False) == "a"
