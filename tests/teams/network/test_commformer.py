"""CommFormer: every way to decode agrees, and information flows along the graph, the order and the gate only."""

import dataclasses
import itertools

import pytest
import torch
from tests.reference import commformer as plain

from manyone.envs.teams.types import Observation, TeamSpec
from manyone.errors import ManyoneError
from manyone.randomness import generator_for
from manyone.teams.network.commformer import CommFormer
from manyone.teams.network.graph import LearnedGraph, fixed_graph, sample_noise

N, WIDE, ACTIONS, BATCH = 5, 7, 6, 8


def team(actions=ACTIONS, agents=N, spread=0.3, dtype=torch.float32, digits=(), **options):
    """A small policy whose weights are far from their start, so that everything has an effect."""
    torch.manual_seed(0)
    spec = TeamSpec("toy", agents, WIDE, actions=actions, action_dim=0 if actions else 3, digits=digits)
    policy = CommFormer(spec, **{"width": 16, **options}).to(dtype)
    with torch.no_grad():
        for value in policy.parameters():
            value += spread * torch.randn_like(value)
    return policy


def slots(available=False, agents=N, dtype=torch.float32, seed=0, batch=BATCH):
    generator = generator_for("slots", seed)
    seen = torch.randn(batch, agents, WIDE, generator=generator).to(dtype)
    allowed = None
    if available:
        allowed = torch.rand(batch, agents, ACTIONS, generator=generator) < 0.4
        allowed[..., 0] |= ~allowed.any(-1)
    return Observation(seen, torch.ones(batch, agents, dtype=torch.bool), allowed)


def noise_for(policy, batch=BATCH, seed=1):
    generator = generator_for("noise", seed)
    shape = batch, policy.spec.agents, policy.spec.actions or policy.spec.action_dim
    if policy.spec.discrete:
        return -torch.empty(shape).exponential_(generator=generator).log()
    return torch.randn(shape, generator=generator)


def gating(policy, seed=2):
    if policy.receive_gate is None:
        return {}
    noise = torch.logit(torch.rand(BATCH, policy.spec.agents, generator=generator_for(seed)))
    return {"gate": "sampled", "gate_noise": noise - 2}


GRAPH = fixed_graph("random", N, 2, seed=4)


def agree(policy, obs, graph, tolerance):
    """Full, cached and fixed-point decoding and teacher forcing, drawn and greedy."""
    noise, gate = noise_for(policy).to(obs.observations), gating(policy)
    for greedy in (False, True):
        policy.decode = "full"
        wanted = policy.act(obs, graph, noise=noise, greedy=greedy, **gate)
        scored = policy.evaluate(obs, wanted.actions, graph, **gate)
        assert (scored.log_probs - wanted.log_probs).abs().max() < tolerance
        assert torch.allclose(scored.values, wanted.values, atol=tolerance)
        for how in ("cached", "fixed-point"):
            policy.decode = how
            found = policy.act(obs, graph, noise=noise, greedy=greedy, **gate)
            if policy.spec.discrete:
                assert torch.equal(found.actions, wanted.actions), how
            assert (found.actions - wanted.actions).abs().max() < tolerance
            assert (found.log_probs - wanted.log_probs).abs().max() < tolerance
            assert torch.equal(found.links, wanted.links)


@pytest.mark.parametrize(
    ("layers", "heads", "gate", "available"), itertools.product((1, 2), (1, 2), (False, True), (False, True))
)
def test_cached_full_and_fixed_point_decoding_equal_teacher_forcing(layers, heads, gate, available):
    policy = team(layers=layers, heads=heads, gate=gate)
    agree(policy, slots(available), GRAPH, 1e-5)


@pytest.mark.parametrize("actions", [ACTIONS, 0])
@pytest.mark.parametrize(
    "options",
    [
        {"edge_types": False, "decoder_heads": "shared", "layers": 2},
        {"decoder_mask": "official", "scale": "official", "relation": "transposed", "layers": 2, "gate": True},
        {"diagonal": "official", "heads": 2},
        {"relation": "transposed", "gate": True},
        {"autoregressive": False},
        {"layers": 2, "gate": True},
    ],
    ids=str,
)
def test_decoding_agrees_under_every_option(actions, options):
    policy = team(actions, dtype=torch.float64, **options)
    graph = GRAPH.clone()
    if options.get("diagonal") == "official":
        graph.fill_diagonal_(1)
    obs = slots(bool(actions), dtype=torch.float64)
    agree(policy, obs, graph, 1e-9)
    agree(policy, obs, torch.rand(N, N, generator=generator_for(5)) * 1.5, 1e-9)  # a soft graph, as in a warm-up


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers": 2, "heads": 2, "gate": True},
        {"edge_types": False, "decoder_heads": "shared"},
        {"decoder_mask": "official", "scale": "official", "relation": "transposed", "diagonal": "official"},
        {"autoregressive": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("actions", [ACTIONS, 0])
def test_it_equals_the_formulation_with_relation_vectors_of_every_pair(actions, options):
    policy = team(actions, dtype=torch.float64, **options)
    obs = slots(dtype=torch.float64)
    given = torch.randint(ACTIONS, (BATCH, N)) if actions else torch.randn(BATCH, N, 3, dtype=torch.float64)
    encoded = policy.encode(obs, GRAPH.double(), **gating(policy))
    named = ("layers", "heads", "scale", "decoder_mask", "relation", "diagonal", "autoregressive")
    logits, values = plain.forward(
        policy.state_dict(), obs.observations, given, GRAPH.double(), gate=encoded.gate, count=actions,
        **{name: value for name, value in options.items() if name in named},
    )  # fmt: skip
    assert torch.allclose(policy.outputs(encoded, given), logits, atol=1e-10)
    assert torch.allclose(encoded.values, values, atol=1e-10)


@pytest.mark.parametrize(
    ("layers", "heads", "digits"), [(1, 1, (3, 3)), (2, 1, (1, 2, 3)), (1, 2, (2, 4)), (1, 1, (6,))]
)
def test_actions_of_several_digits_agree_in_every_way_to_decode(layers, heads, digits):
    policy, generator = team(layers=layers, heads=heads, digits=digits), generator_for("digits")
    obs = slots()
    allowed = torch.rand(BATCH, N, ACTIONS, generator=generator) < 0.5
    starts = torch.tensor([0, *itertools.accumulate(digits)][:-1])
    allowed[..., starts] = True
    for available in (None, allowed):
        agree(policy, obs._replace(available=available), GRAPH, 2e-5)
    noise = noise_for(policy)
    policy.decode = "cached"
    actions = policy.act(obs._replace(available=allowed), GRAPH, noise=noise).actions
    assert actions.shape == (BATCH, N, len(digits))
    assert allowed.gather(-1, actions + starts).all()
    before = actions.clone()
    before[:, 0] = torch.tensor([(c - 1 - a) % c for a, c in zip(actions[0, 0].tolist(), digits)])
    full = fixed_graph("full", N)
    scores = [policy.evaluate(obs, given, full).log_probs for given in (actions, before)]
    assert (scores[0][:, 1:] != scores[1][:, 1:]).any(), "later agents see the digits of earlier ones"


def test_without_messages_and_order_nothing_depends_on_another_agent():
    policy, obs = team(autoregressive=False), slots()
    seen = obs.observations.requires_grad_()
    encoded = policy.encode(obs._replace(observations=seen), fixed_graph("none", N))
    outputs = policy.outputs(encoded, torch.zeros(BATCH, N, dtype=torch.long))
    for i in range(N):
        for part in (encoded.values[:, i], outputs[:, i]):
            (gradient,) = torch.autograd.grad(part.sum(), seen, retain_graph=True)
            assert gradient[:, [j for j in range(N) if j != i]].eq(0).all()
            assert gradient[:, i].ne(0).any()


@pytest.mark.parametrize("layers", [1, 2])
def test_values_depend_on_agents_within_as_many_hops_as_blocks_and_on_no_other(layers):
    policy, obs, graph = team(layers=layers, agents=7), slots(agents=7), fixed_graph("random", 7, 1, seed=2)
    seen = obs.observations.requires_grad_()
    values = policy.values(obs._replace(observations=seen), graph)
    reached = torch.linalg.matrix_power(graph + torch.eye(7), layers) > 0
    for i in range(7):
        (gradient,) = torch.autograd.grad(values[:, i].sum(), seen, retain_graph=True)
        assert torch.equal(gradient.ne(0).any(-1).any(0), reached[i])


def action_effects(policy, graph):
    """bool [n, n]: whether agent i's logits change with the action of agent j."""
    obs = slots(agents=policy.spec.agents)
    encoded = policy.encode(obs, graph)
    actions = torch.randint(ACTIONS, (BATCH, policy.spec.agents), generator=generator_for("given"))
    before, effects = policy.outputs(encoded, actions), []
    for j in range(policy.spec.agents):
        changed = actions.clone()
        changed[:, j] = (changed[:, j] + 1) % ACTIONS
        effects.append((policy.outputs(encoded, changed) != before).any(-1).any(0))
    return torch.stack(effects, 1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_aligned_decoder_lets_an_action_through_along_two_links_and_forwards_only(seed):
    graph = fixed_graph("random", 7, 2, seed=seed)
    effects = action_effects(team(agents=7), graph)
    earlier = graph.tril(-1)  # messages about actions go from earlier to later agents, owners included
    assert torch.equal(effects, (earlier + earlier @ earlier) > 0)


def test_aligned_decoder_shows_no_action_without_links():
    assert not action_effects(team(), fixed_graph("none", N)).any()


def test_official_decoder_always_shows_the_action_of_the_agent_before():
    effects = action_effects(team(decoder_mask="official"), fixed_graph("none", N))
    assert effects.diagonal(-1).all()  # a chain of n - 1 links that no graph asked for


@pytest.mark.parametrize("mask", ["aligned", "official"])
def test_no_action_of_the_same_or_a_later_agent_has_an_effect(mask):
    effects = action_effects(team(decoder_mask=mask, layers=2), fixed_graph("full", N))
    assert not effects.triu().any()
    assert torch.equal(effects, torch.ones_like(effects).tril(-1))


def test_full_graph_with_equal_relation_types_of_zero_is_mat():
    policy = team(decoder_heads="shared")
    mat = team(decoder_heads="shared", edge_types=False)
    with torch.no_grad():
        for name, value in policy.named_parameters():
            if ".relation." in name:
                value.zero_()
    mat.load_state_dict({k: v for k, v in policy.state_dict().items() if k in mat.state_dict()})
    obs, graph, actions = slots(), fixed_graph("full", N), torch.zeros(BATCH, N, dtype=torch.long)
    for a, b in zip(policy.evaluate(obs, actions, graph)[:3], mat.evaluate(obs, actions, graph)[:3], strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_replayed_graph_and_gate_give_a_ratio_of_one():
    policy, learned = team(gate=True, dtype=torch.float64), LearnedGraph(N, 2).double()
    obs, noise, gate = slots(True, dtype=torch.float64), sample_noise(generator_for(0), N), gating(team(gate=True))
    acted = policy.act(obs, learned.sample(noise), noise=noise_for(policy), **gate)
    scored = policy.evaluate(obs, acted.actions, learned.sample(noise), **gate)
    assert ((scored.log_probs - acted.log_probs).exp() - 1).abs().max() < 1e-6
    assert scored.log_probs.requires_grad
    (gradient,) = torch.autograd.grad(scored.log_probs.sum(), learned.logits)
    assert gradient.abs().sum() > 0


def test_the_official_schedule_updates_another_policy_than_the_one_that_acted():
    policy, learned, obs = team(), LearnedGraph(N, 2), slots()
    acted = policy.act(obs, learned.exact(), noise=noise_for(policy))
    scored = policy.evaluate(obs, acted.actions, learned.sample(sample_noise(generator_for(0), N)))
    assert ((scored.log_probs - acted.log_probs).exp() - 1).abs().mean() > 0.01


def test_an_open_gate_is_no_gate_bit_for_bit_and_a_closed_one_is_the_empty_graph():
    policy, obs, noise = team(gate=True), slots(), noise_for(team())
    plainly = policy.act(obs, GRAPH, noise=noise)
    wide = torch.full((BATCH, N), 1e4)
    for sign, wanted in ((1, plainly), (-1, policy.act(obs, fixed_graph("none", N), noise=noise))):
        found = policy.act(obs, GRAPH, noise=noise, gate="sampled", gate_noise=sign * wide)
        for a, b in zip(found, wanted, strict=True):
            assert torch.equal(a, b)


def test_one_gate_changes_one_row_only():
    policy, obs = team(gate=True), slots()
    noise = torch.full((BATCH, N), 1e4)
    before = policy.encode(obs, GRAPH, gate="sampled", gate_noise=noise)
    noise[:, 2] = -1e4
    after = policy.encode(obs, GRAPH, gate="sampled", gate_noise=noise)
    differs = (after.rep != before.rep).any(-1).any(0)
    assert differs.tolist() == [False, False, True, False, False]
    assert (after.seen.factor != before.seen.factor).any(-1)[:, 2].all()


def test_a_decided_gate_is_the_sign_of_u_and_links_count_it():
    policy, obs = team(gate=True, spread=1.0), slots()
    u = policy.receive_gate(policy.encoder.embed(obs.observations))
    acted = policy.act(obs, GRAPH, noise=noise_for(policy), gate="decided")
    assert torch.equal(acted.links, (GRAPH > 0) & (u > 0).unsqueeze(-1))
    assert 0 < (u > 0).float().mean() < 1
    scored = policy.evaluate(obs, acted.actions, GRAPH, gate="decided")
    assert torch.allclose(scored.open_probability, torch.sigmoid(u))


def test_while_forced_open_the_gate_has_no_gradient_and_when_drawn_it_has():
    policy, obs = team(gate=True), slots()
    actions = torch.zeros(BATCH, N, dtype=torch.long)
    for gate, wanted in (({}, False), (gating(policy), True)):
        policy.zero_grad(set_to_none=True)
        scored = policy.evaluate(obs, actions, GRAPH, **gate)
        assert (scored.open_probability is not None) == wanted
        (scored.log_probs.sum() + scored.values.sum()).backward()
        assert all((value.grad is not None) == wanted for value in policy.receive_gate.parameters())


def test_permuting_agents_permutes_values_and_outputs():
    policy, obs = team(autoregressive=False), slots()
    order = torch.tensor([3, 0, 4, 1, 2])
    other = team(autoregressive=False)
    state = {k: v[order] if k.startswith("heads.") else v for k, v in policy.state_dict().items()}
    other.load_state_dict(state)
    first = policy.encode(obs, GRAPH)
    second = other.encode(obs._replace(observations=obs.observations[:, order]), GRAPH[order][:, order])
    assert torch.allclose(second.values, first.values[:, order], atol=1e-5)
    assert torch.allclose(second.rep, first.rep[:, order], atol=1e-5)
    nothing = torch.zeros(BATCH, N, dtype=torch.long)
    assert torch.allclose(other.outputs(second, nothing), policy.outputs(first, nothing)[:, order], atol=1e-5)


def test_actions_that_are_not_available_have_no_probability_and_no_gradient():
    policy, obs = team(), slots(True)
    for seed in range(5):
        acted = policy.act(obs, GRAPH, noise=noise_for(policy, seed=seed))
        assert obs.available.gather(-1, acted.actions.unsqueeze(-1)).all()
    outputs = torch.randn(BATCH, N, ACTIONS, requires_grad=True)
    log_probs, entropy = policy.score(outputs, acted.actions, obs.available)
    (gradient,) = torch.autograd.grad((log_probs + entropy).sum(), outputs)
    assert gradient[~obs.available].eq(0).all()
    assert gradient.isfinite().all()
    wanted = torch.stack([
        torch.distributions.Categorical(logits=outputs[b, i][obs.available[b, i]]).entropy()
        for b in range(BATCH) for i in range(N)
    ])  # fmt: skip
    assert torch.allclose(entropy.flatten(), wanted, atol=1e-5)


def test_a_single_available_action_is_certain():
    policy, obs = team(), slots()
    only = torch.zeros(BATCH, N, ACTIONS, dtype=torch.bool)
    only[..., 3] = True
    acted = policy.act(obs._replace(available=only), GRAPH, noise=noise_for(policy))
    scored = policy.evaluate(obs._replace(available=only), acted.actions, GRAPH)
    assert acted.actions.eq(3).all()
    assert scored.log_probs.eq(0).all()
    assert scored.entropy.eq(0).all()
    scored.log_probs.sum().backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in policy.parameters())


def test_draws_follow_the_probabilities():
    policy, obs = team(agents=2), slots(agents=2, batch=1)
    many = Observation(obs.observations.expand(20_000, -1, -1), torch.ones(20_000, 2, dtype=torch.bool))
    graph = fixed_graph("full", 2)
    acted = policy.act(many, graph, noise=noise_for(policy, 20_000))
    joint = torch.bincount(acted.actions[:, 0] * ACTIONS + acted.actions[:, 1], minlength=ACTIONS**2) / 20_000
    every = torch.cartesian_prod(torch.arange(ACTIONS), torch.arange(ACTIONS))
    some = Observation(obs.observations.expand(len(every), -1, -1), torch.ones(len(every), 2, dtype=torch.bool))
    wanted = policy.evaluate(some, every, graph).log_probs.sum(-1).exp()
    assert wanted.sum().item() == pytest.approx(1, abs=1e-5)
    assert ((joint - wanted).abs() <= 5 * (wanted * (1 - wanted) / 20_000).sqrt() + 1e-6).all()


def test_continuous_actions_are_normal_with_half_a_sigmoid_as_deviation():
    policy, obs = team(0), slots()
    noise = noise_for(policy)
    acted = policy.act(obs, GRAPH, noise=noise)
    means = policy.outputs(policy.encode(obs, GRAPH), acted.actions)
    normal = torch.distributions.Normal(means, 0.5 * torch.sigmoid(policy.log_std))
    scored = policy.evaluate(obs, acted.actions, GRAPH)
    assert torch.allclose(scored.log_probs, normal.log_prob(acted.actions).sum(-1), atol=1e-4)
    assert torch.allclose(scored.entropy, normal.entropy().sum(-1), atol=1e-5)
    assert torch.allclose(acted.actions, means + normal.scale * noise, atol=1e-5)


def test_steady_weights_are_prepared_once_and_again_afterwards():
    policy, obs, noise = team(), slots(), noise_for(team())
    with policy.steady():
        first = policy.act(obs, GRAPH, noise=noise)
        kept = policy.kept[False]
        assert torch.equal(policy.act(obs, GRAPH, noise=noise).actions, first.actions)
        assert policy.kept[False] is kept
    with torch.no_grad():
        for value in policy.parameters():
            value += 0.3 * torch.randn_like(value)
    scored = policy.evaluate(obs, first.actions, GRAPH)
    again = policy.act(obs, GRAPH, noise=noise)
    assert not torch.allclose(again.log_probs, first.log_probs, atol=1e-3)
    same = again.actions == first.actions
    assert torch.allclose(again.log_probs[:, 0][same[:, 0]], scored.log_probs[:, 0][same[:, 0]], atol=1e-5)


def test_dropout_acts_in_training_evaluation_only():
    policy, obs, actions = team(dropout=0.5), slots(), torch.zeros(BATCH, N, dtype=torch.long)
    first = policy.evaluate(obs, actions, GRAPH)
    assert not torch.equal(first.values, policy.evaluate(obs, actions, GRAPH).values)
    assert torch.equal(policy.values(obs, GRAPH), policy.values(obs, GRAPH))
    assert torch.allclose(policy.act(obs, GRAPH, noise=noise_for(policy)).values, policy.values(obs, GRAPH), atol=1e-5)
    policy.eval()
    assert torch.equal(policy.evaluate(obs, actions, GRAPH).values, policy.values(obs, GRAPH))


LEAVING = [{}, {"layers": 2, "heads": 2}, {"gate": True}, {"dynamic_links": 2}, {"decoder_mask": "official"}]


@pytest.mark.parametrize("options", LEAVING, ids=str)
def test_agents_that_are_not_there_are_not_heard_and_no_message_of_theirs_is_counted(options):
    policy = team(**options)
    graph = fixed_graph("full" if "dynamic_links" in options else "random", N, 2, seed=4)
    heard_before = policy.act(slots(), graph, noise=None, greedy=True)
    policy.spec = dataclasses.replace(policy.spec, absences=True)
    obs = slots()
    agree(policy, obs, graph, 1e-5)
    with_all = policy.act(obs, graph, noise=None, greedy=True)
    assert torch.equal(with_all.actions, heard_before.actions)
    assert torch.equal(with_all.messages, heard_before.messages)
    alive = torch.rand(BATCH, N, generator=generator_for("alive")) < 0.6
    part = Observation(obs.observations * alive.unsqueeze(-1), alive)
    agree(policy, part, graph, 1e-5)
    gate = {"gate": "decided"} if "gate" in options else {}
    found = policy.act(part, graph, noise=None, greedy=True, **gate)
    both = alive[:, :, None] & alive[:, None]
    assert not found.links[~both].any()
    assert torch.equal(found.links, found.messages.bool()) or "decoder_mask" in options
    if "dynamic_links" in options:
        assert (found.links.sum(-1) == torch.where(alive, (both.sum(-1) - 1).clamp(max=2), 0)).all()
        return
    for b in range(BATCH):  # the same as a graph in which they have no links
        alone = policy.act(part.select(slice(b, b + 1)), graph * both[b], noise=None, greedy=True, **gate)
        assert torch.allclose(found.values[b, alive[b]], alone.values[0, alive[b]], atol=1e-5)
        if "decoder_mask" not in options:
            assert torch.equal(found.actions[b, alive[b]], alone.actions[0, alive[b]])


def test_one_agent_is_a_team_too():
    policy, obs = team(agents=1), slots(agents=1)
    agree(policy, obs, fixed_graph("full", 1), 1e-5)


def test_wrong_settings_are_named():
    spec = TeamSpec("toy", 2, 3, actions=2)
    with pytest.raises(ManyoneError, match="heads 3"):
        CommFormer(spec, width=16, heads=3)
    with pytest.raises(ManyoneError, match="decoder_mask 'odd'"):
        CommFormer(spec, decoder_mask="odd")
    policy = CommFormer(spec)
    obs = Observation(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ManyoneError, match="no gate"):
        policy.values(obs, torch.zeros(2, 2), gate="decided")
    with pytest.raises(ManyoneError, match="gate_noise"):
        CommFormer(spec, gate=True).values(obs, torch.zeros(2, 2), gate="sampled")
