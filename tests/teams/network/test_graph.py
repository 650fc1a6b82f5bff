"""Graphs: exactly k senders each, fair ties, inclusion probabilities, straight-through gradients."""

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.randomness import generator_for
from manyone.teams.network.graph import LearnedGraph, exact_graph, fixed_graph, links_for, sample_noise, sampled_graph


@pytest.mark.parametrize(
    ("agents", "density", "links"),
    [
        (3, 0.4, 1),
        (5, 0.4, 2),
        (8, 0.4, 3),
        (11, 0.4, 4),
        (27, 0.4, 10),
        (4, 0.1, 1),
        (4, 1.0, 3),
        (1, 0.5, 0),
        (100, 0.29, 29),
        (50, 0.58, 29),
        (10, 0.7, 7),
        (100, 0.57, 57),
    ],  # products that floats put just below
)
def test_links_are_the_floor_of_agents_times_density(agents, density, links):
    assert links_for(agents, density) == links


@pytest.mark.parametrize("agents", [2, 5, 9])
def test_sampled_and_exact_graphs_are_binary_with_zero_diagonal_and_exactly_k_senders(agents):
    for links in range(agents):
        graph = LearnedGraph(agents, links)
        torch.nn.init.normal_(graph.logits, std=3)
        for seed in range(5):
            for found in (graph.sample(sample_noise(generator_for(seed), agents)), graph.exact()):
                assert set(found.unique().tolist()) <= {0.0, 1.0}
                assert not found.diagonal().any()
                assert (found.sum(-1) == links).all()


def test_exact_graph_holds_the_largest_logits():
    logits = torch.tensor([[9.0, 1.0, 2.0, 3.0], [0.0, 9.0, 0.0, 1.0], [5.0, 4.0, 9.0, 6.0], [1.0, 1.5, 0.5, 9.0]])
    wanted = torch.tensor([[0, 0, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 0, 0]]).float()
    found = exact_graph(logits, 2)
    found[1, [0, 2]] = wanted[1, [0, 2]]  # the tie
    assert torch.equal(found, wanted)


def test_ties_are_broken_by_the_seed_and_differ_from_row_to_row():
    logits = torch.ones(30, 30)
    first = exact_graph(logits, 3, seed=0)
    assert torch.equal(first, exact_graph(logits, 3, seed=0))
    assert not torch.equal(first, exact_graph(logits, 3, seed=1))
    assert (first.sum(0) > 0).sum() > 20  # topk alone gives the same three senders to everybody
    logits = 1 + 1e-6 * torch.arange(30.0)  # no tie, however near
    assert torch.equal(exact_graph(logits.expand(30, 30), 1)[:-1].argmax(-1), torch.full((29,), 29))


def test_inclusion_probability_is_k_over_the_others_with_equal_logits():
    n, k, draws = 5, 2, 4000
    generator, logits = generator_for("inclusion"), torch.ones(5, 5)
    mean = sum(sampled_graph(logits, sample_noise(generator, n), k) for _ in range(draws)) / draws
    wanted = k / (n - 1)
    bound = 5 * (wanted * (1 - wanted) / draws) ** 0.5
    assert ((mean - wanted).abs()[~torch.eye(n, dtype=torch.bool)] < bound).all()


def test_frequencies_of_one_sender_are_the_softmax_of_the_logits():
    draws, generator = 4000, generator_for("frequencies")
    logits = torch.tensor([[5.0, 0.0, 1.0, -1.0]] * 4).roll(1, -1)
    mean = sum(sampled_graph(logits, sample_noise(generator, 4), 1) for _ in range(draws)) / draws
    wanted = logits.masked_fill(torch.eye(4, dtype=torch.bool), -torch.inf).softmax(-1)
    assert ((mean - wanted).abs() <= 5 * (wanted * (1 - wanted) / draws).sqrt()).all()


def test_straight_through_gradient_is_that_of_the_soft_map_at_the_noise():
    logits = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    noise = sample_noise(generator_for(3), 4).double()
    weight = torch.randn(4, 4, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((sampled_graph(logits, noise, 2) * weight).sum(), logits)

    def soft(values):
        scores = (values + noise).masked_fill(torch.eye(4, dtype=torch.bool), -torch.inf)
        return (scores.softmax(-1) * weight).sum()

    step = 1e-6
    for i in range(4):
        for j in range(4):
            delta = torch.zeros(4, 4, dtype=torch.float64)
            delta[i, j] = step
            slope = (soft(logits.detach() + delta) - soft(logits.detach() - delta)) / (2 * step)
            assert gradient[i, j].item() == pytest.approx(slope.item(), abs=1e-8)


def test_a_frozen_graph_gives_no_gradient_and_stays_frozen_when_loaded():
    graph = LearnedGraph(4, 1)
    assert graph.exact().requires_grad
    graph.frozen = True
    assert not graph.exact().requires_grad
    again = LearnedGraph(4, 1)
    again.load_state_dict(graph.state_dict())
    assert again.frozen
    assert torch.equal(again.exact(), graph.exact())


def test_official_diagonal_may_spend_a_link_on_the_agent_itself():
    logits = torch.eye(3) * 5
    assert torch.equal(exact_graph(logits, 1, diagonal="official"), torch.eye(3))


def test_fixed_graphs():
    assert torch.equal(fixed_graph("full", 3), 1 - torch.eye(3))
    assert not fixed_graph("none", 3).any()
    ring = fixed_graph("ring", 6, 3)
    assert ring[0].nonzero().flatten().tolist() == [1, 4, 5]
    assert ring[3].nonzero().flatten().tolist() == [1, 2, 4]
    star = fixed_graph("star", 4)
    assert star[0].tolist() == [0, 1, 1, 1]
    assert star[2].tolist() == [1, 0, 0, 0]
    drawn = fixed_graph("random", 8, 3, seed=1)
    assert (drawn.sum(-1) == 3).all()
    assert not drawn.diagonal().any()
    assert not torch.equal(drawn, fixed_graph("random", 8, 3, seed=2))
    places = torch.tensor([[0.0], [1.0], [3.0], [3.5]])
    assert fixed_graph("nearest", 4, 1, positions=places).argmax(-1).tolist() == [1, 0, 3, 2]


def test_wrong_settings_are_named():
    with pytest.raises(ManyoneError, match=r"density 1\.5"):
        links_for(3, 1.5)
    with pytest.raises(ManyoneError, match="graph 'web'"):
        fixed_graph("web", 3)
    with pytest.raises(ManyoneError, match="links 3"):
        fixed_graph("random", 3, 3)
    with pytest.raises(ManyoneError, match="positions"):
        fixed_graph("nearest", 3, 1)
    with pytest.raises(ManyoneError, match="links 4"):
        LearnedGraph(4, 4)


def test_dense_is_all_links_and_every_one_has_a_gradient():
    graph = LearnedGraph(4, 1)
    dense = graph.dense()
    assert torch.equal(dense.detach(), 1 - torch.eye(4))
    weights = torch.arange(16.0).view(4, 4)
    (dense * weights).sum().backward()
    grad = graph.logits.grad
    assert torch.equal(grad.diagonal(), torch.zeros(4))
    assert bool((grad[~torch.eye(4, dtype=torch.bool)] != 0).any())
    assert torch.allclose(grad.sum(1), torch.zeros(4), atol=1e-5)  # softmax: what one link gains the others lose
    # the link with the larger weight in a row gains more
    off = weights.masked_fill(torch.eye(4, dtype=torch.bool), -1e9)
    assert torch.equal(grad.masked_fill(torch.eye(4, dtype=torch.bool), -1e9).argmax(1), off.argmax(1))
