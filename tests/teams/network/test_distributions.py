"""Digits of an action are categoricals of their own: against torch.distributions, masked and not."""

import pytest
import torch
from torch.distributions import Categorical

from manyone.randomness import generator_for
from manyone.teams.network.distributions import as_tokens, choose, score


@pytest.mark.parametrize("digits", [(3, 3), (2, 4, 1), (5,)])
@pytest.mark.parametrize("masked", [False, True])
def test_log_probabilities_and_entropies_are_sums_over_digits(digits: tuple[int, ...], masked: bool) -> None:
    generator = generator_for("test")
    outputs = torch.randn(40, 2, sum(digits), generator=generator)
    actions = torch.stack(
        [torch.zeros(40, 2).long() if c == 1 else torch.arange(80).view(40, 2) % c for c in digits], -1
    )
    available = None
    if masked:
        available = torch.rand(outputs.shape, generator=generator) < 0.4
        for allowed, chosen in zip(available.split(digits, -1), actions.unbind(-1)):
            allowed.scatter_(-1, chosen.unsqueeze(-1), True)
    log_probs, entropies = score(outputs, actions, available, None, digits)
    shown = outputs if available is None else outputs.masked_fill(~available, -1e30)
    parts = [Categorical(logits=part) for part in shown.split(digits, -1)]
    torch.testing.assert_close(log_probs, sum(p.log_prob(a) for p, a in zip(parts, actions.unbind(-1))))
    torch.testing.assert_close(entropies, sum(p.entropy() for p in parts))
    likeliest = choose(outputs, available, None, None, digits)
    assert torch.equal(likeliest, torch.stack([p.probs.argmax(-1) for p in parts], -1))


def test_draws_of_digits_follow_their_probabilities() -> None:
    digits, count = (2, 3), 40_000
    outputs = torch.tensor([0.0, 1.0, 0.5, -1.0, 2.0]).expand(count, 5)
    available = torch.tensor([True, True, True, True, False]).expand(count, 5)
    noise = -torch.empty(count, 5).exponential_(generator=generator_for("draws")).log()
    drawn = choose(outputs, available, noise, None, digits)
    shares = torch.stack([(drawn == torch.tensor([a, b])).all(-1).float().mean() for a in range(2) for b in range(3)])
    first, second = outputs[0, :2].softmax(0), outputs[0, 2:4].softmax(0)
    wanted = torch.outer(first, torch.cat([second, torch.zeros(1)])).flatten()
    assert (shares - wanted).abs().max() < 0.01


def test_a_token_has_ones_at_the_digits_choices_and_a_continuous_action_is_its_own() -> None:
    assert as_tokens(torch.tensor([[1, 0, 2]]), (2, 1, 3)).tolist() == [[0, 1, 1, 0, 0, 1]]
    action = torch.tensor([[0.5, -2.0]])
    assert as_tokens(action, ()) is action
