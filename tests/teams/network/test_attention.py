"""Relation-aware attention: decomposed scores equal the naive ones, masks mean what they say, gradients flow once."""

import pytest
import torch
from tests.reference import commformer as plain

from manyone.teams.network.attention import RelationAttention, agent_visibility, decoder_visibility
from manyone.teams.network.graph import fixed_graph


def relation_attention(width=16, heads=1, **options):
    torch.manual_seed(1)
    attention = RelationAttention(width, heads, **options)
    for value in attention.parameters():
        torch.nn.init.normal_(value, std=0.4)
    return attention


def naive(attention, edges, query, source, factor, types, scale="single"):
    weights = {"a." + name: value for name, value in attention.named_parameters()}
    if edges is not None:
        weights["edges.weight"] = edges
    return plain.attention(weights, "a", query, source, factor, types, attention.heads, scale)


@pytest.mark.parametrize(("related", "scale", "power"), [
    (True, "single", 0.5), (True, "official", 1.0), (False, "single", 0.5), (False, "official", 0.5),
])  # fmt: skip
def test_scores_are_scaled_twice_only_where_there_are_relations_and_it_is_asked_for(related, scale, power):
    attention = relation_attention(heads=2, related=related, scale=scale)
    assert attention.scale == pytest.approx(8**-power)  # of heads that are 8 wide
    x, seen = torch.randn(3, 4, 16), agent_visibility(fixed_graph("full", 4), None)
    if not related:
        reference = torch.nn.MultiheadAttention(16, 2, batch_first=True)
        with torch.no_grad():
            reference.in_proj_weight.copy_(attention.project.weight)
            reference.in_proj_bias.copy_(attention.project.bias)
            reference.out_proj.weight.copy_(attention.out.weight)
            reference.out_proj.bias.copy_(attention.out.bias)
        assert torch.allclose(attention(x, x, seen, None), reference(x, x, x)[0], atol=1e-5)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("scale", ["single", "official"])
@pytest.mark.parametrize("relation", ["receiver", "transposed"])
@pytest.mark.parametrize("diagonal", ["excluded", "official"])
def test_decomposed_scores_equal_naive_ones_with_their_gradients(heads, scale, relation, diagonal):
    attention = relation_attention(heads=heads, scale=scale)
    edges = torch.randn(2, 16, requires_grad=True)
    x = torch.randn(3, 5, 16, requires_grad=True)
    graph = (torch.rand(5, 5) < 0.5).float().requires_grad_()
    gate = torch.tensor([[1.0, 0, 1, 1, 0]] * 2 + [[1.0] * 5]).requires_grad_()
    seen = agent_visibility(graph, gate, diagonal=diagonal, relation=relation)
    mine = attention(x, x, seen, edges)
    types = plain.agent_types(graph, relation, diagonal)
    theirs = naive(attention, edges, x, x, plain.agent_factor(graph, gate, 3, diagonal), types, scale)
    assert torch.allclose(mine, theirs, atol=1e-5)
    inputs = [x, graph, gate, edges, *attention.parameters()]
    weight = torch.randn_like(mine)
    for a, b in zip(*(torch.autograd.grad((out * weight).sum(), inputs) for out in (mine, theirs)), strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm() + 1e-5


def test_a_soft_graph_weighs_what_is_received():
    attention, edges = relation_attention(), torch.randn(2, 16)
    graph, x = torch.rand(4, 4) * 1.5, torch.randn(2, 4, 16)
    mine = attention(x, x, agent_visibility(graph, None), edges)
    types = plain.agent_types(graph, "receiver", "excluded")
    theirs = naive(attention, edges, x, x, plain.agent_factor(graph, None, 2, "excluded"), types)
    assert torch.allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("mask", ["aligned", "official"])
def test_decoder_masks_equal_the_ones_written_position_by_position(mask):
    graph, gate = fixed_graph("random", 5, 2, seed=3), (torch.rand(3, 5) < 0.5).float()
    seen = agent_visibility(graph, gate)
    types = plain.agent_types(graph, "receiver", "excluded")
    wanted = plain.decoder_views(plain.agent_factor(graph, gate, 3, "excluded"), types, mask)
    for found, (factor, kinds) in zip(decoder_visibility(seen, mask), wanted, strict=True):
        assert torch.equal(found.factor, factor)
        assert torch.equal(found.bias == 0, factor != 0)
        visible = factor.any(0)
        assert torch.equal(found.apart[visible], 1.0 - kinds[visible])


def test_equal_relation_types_give_plain_attention_with_constant_vectors():
    """Full graph, E[0] = E[1]: MAT's attention with ra on queries and rb on keys; with Wr = br = 0 exactly MAT's."""
    attention, bare = relation_attention(heads=2), RelationAttention(16, 2, related=False)
    bare.load_state_dict(attention.state_dict(), strict=False)
    x, edges = torch.randn(2, 4, 16), torch.randn(1, 16).repeat(2, 1)
    seen = agent_visibility(fixed_graph("full", 4), None)
    with torch.no_grad():
        ra, rb = attention.relation(edges[0]).chunk(2)
        bare.project.bias += torch.cat([ra, rb, torch.zeros(16)])
        assert torch.allclose(attention(x, x, seen, edges), bare(x, x, seen, None), atol=1e-6)
        bare.project.bias.copy_(attention.project.bias)
        attention.relation.weight.zero_()
        attention.relation.bias.zero_()
        assert torch.allclose(attention(x, x, seen, edges), bare(x, x, seen, None), atol=1e-6)


def test_the_relation_type_carries_no_gradient_to_the_graph():
    attention, x = relation_attention(), torch.randn(2, 4, 16)
    graph = fixed_graph("random", 4, 2).requires_grad_()
    seen = agent_visibility(graph, None)
    assert seen.factor.requires_grad
    assert not seen.apart.requires_grad
    assert not seen.bias.requires_grad
    apart_only = seen._replace(factor=seen.factor.detach())
    assert not attention(x, x, apart_only, torch.randn(2, 16)).sum().isnan()
    (gradient,) = torch.autograd.grad(attention(x, x, seen, torch.randn(2, 16)).sum(), graph)
    assert gradient[graph.detach() == 0].eq(0).all()
    assert gradient[graph.detach() == 1].ne(0).all()


def test_an_agent_that_hears_nobody_sees_itself_alone():
    attention, x = relation_attention(), torch.randn(2, 4, 16)
    seen = agent_visibility(fixed_graph("none", 4), None)
    with torch.no_grad():
        values = x @ attention.project.weight[32:].T + attention.project.bias[32:]
        assert torch.allclose(attention(x, x, seen, torch.randn(2, 16)), attention.out(values), atol=1e-6)
