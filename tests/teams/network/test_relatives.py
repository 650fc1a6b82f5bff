"""The relatives that are options of CommFormer: IC3Net's gate on the sender's side, and a graph made at every step."""

from __future__ import annotations

import pytest
import torch

from manyone.envs.teams.make import make_team
from manyone.envs.teams.types import Observation, TeamSpec
from manyone.errors import ManyoneError
from manyone.randomness import generator_for
from manyone.teams.artefact import load_team, save_team
from manyone.teams.network.commformer import CommFormer
from manyone.teams.network.dynamic import LinkScorer, link_noise
from manyone.teams.network.gate import gate_noise
from manyone.teams.network.graph import LearnedGraph, fixed_graph, sample_noise
from manyone.teams.play import play
from manyone.teams.ppo.learner import TeamLearner
from manyone.teams.ppo.training import Training
from manyone.teams.processes.executor import Decentralised

N, WIDE, ACTIONS, BATCH, K = 5, 7, 6, 8, 2
SPEC = TeamSpec("toy", N, WIDE, actions=ACTIONS)
GRAPH, FULL, NONE = fixed_graph("random", N, K, seed=4), fixed_graph("full", N), fixed_graph("none", N)


def team(spec=SPEC, spread=0.3, width=16, **options):
    """A small policy with weights far from their start; send gate and scorer come last, so others have the same."""
    policy = CommFormer(spec, width=width, **options)
    torch.manual_seed(0)
    with torch.no_grad():
        for value in policy.parameters():
            value.copy_(spread * torch.randn_like(value) + (value == 1))  # norms stay near 1
    return policy.eval()


def slots(batch=BATCH):
    seen = torch.randn(batch, N, WIDE, generator=generator_for("slots"))
    return Observation(seen, torch.ones(batch, N, dtype=torch.bool))


def action_noise(batch=BATCH):
    return -torch.empty(batch, N, ACTIONS).exponential_(generator=generator_for("noise")).log()


def results(policy, graph, **words):
    """Everything that a policy says of some slots, drawn."""
    acted = policy.act(slots(), graph, noise=action_noise(), **words)
    found = policy.evaluate(slots(), acted.actions, graph, **words)
    critic = policy.values(slots(), graph, **words)
    return {**acted._asdict(), "again": found.log_probs, "entropy": found.entropy, "critic": critic}


def assert_same(a, b):
    for name in a:
        assert torch.equal(a[name], b[name]), name


CASES = [{}, {"layers": 2, "heads": 2}, {"edge_types": False, "decoder_heads": "shared"}, {"autoregressive": False}]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_all_sending_is_the_ungated_net_bit_for_bit_and_nobody_sending_the_empty_graph(options):
    plain, gated = team(**options), team(send_gate=True, **options)
    everybody, nobody = torch.full((BATCH, N), 1e6), torch.full((BATCH, N), -1e6)
    assert_same(results(gated, GRAPH, gate="sampled", send_noise=everybody), results(plain, GRAPH))
    assert_same(results(gated, GRAPH, gate="sampled", send_noise=nobody), results(plain, NONE))
    assert_same(results(gated, GRAPH), results(plain, GRAPH))


def test_a_sender_changes_its_own_column_and_those_that_hear_it_alone():
    policy, sender = team(send_gate=True), 2
    noise = torch.full((BATCH, N), 1e6)
    before = policy.encode(slots(), GRAPH, gate="sampled", send_noise=noise)
    noise[:, sender] = -1e6
    after = policy.encode(slots(), GRAPH, gate="sampled", send_noise=noise)
    changed = (after.seen.factor != before.seen.factor).any(0)
    assert torch.equal(changed, torch.eye(N).logical_not() & (GRAPH > 0) & (torch.arange(N) == sender))
    assert torch.equal((after.rep != before.rep).any(-1).any(0), GRAPH[:, sender] > 0)


def test_both_gates_multiply_and_a_decided_send_gate_is_the_sign():
    policy = team(gate=True, send_gate=True, spread=1.0)
    with torch.no_grad():
        policy.receive_gate.out.bias.zero_()
        policy.send_gate.out.bias.zero_()
    x = policy.encoder.embed(slots().observations)
    receives, sends = policy.receive_gate(x) > 0, policy.send_gate(x) > 0
    acted = policy.act(slots(), FULL, noise=action_noise(), gate="decided")
    assert torch.equal(acted.links, (FULL > 0) & receives.unsqueeze(-1) & sends.unsqueeze(-2))
    assert 0 < sends.float().mean() < 1
    found = policy.evaluate(slots(), acted.actions, FULL, gate="decided")
    assert torch.allclose(found.open_probability, torch.sigmoid(policy.receive_gate(x)))
    assert torch.allclose(found.send_probability, torch.sigmoid(policy.send_gate(x)))


def test_the_send_gate_learns_when_drawn_and_has_no_gradient_while_forced_open():
    policy, actions = team(send_gate=True), torch.zeros(BATCH, N, dtype=torch.long)
    noise = gate_noise(generator_for(1), BATCH, N)
    for words, wanted in (({}, False), ({"gate": "sampled", "send_noise": noise}, True)):
        policy.zero_grad(set_to_none=True)
        found = policy.evaluate(slots(), actions, GRAPH, **words)
        (found.log_probs.sum() + found.values.sum()).backward()
        for value in policy.send_gate.parameters():
            assert (value.grad is not None and bool((value.grad != 0).any())) == wanted


@pytest.mark.parametrize("noisy", [False, True])
def test_rows_of_a_dynamic_graph_have_exactly_k_ones_and_no_self_link(noisy):
    policy = team(dynamic_links=K)
    noise = link_noise(generator_for(3), BATCH, N) if noisy else None
    links = policy.act(slots(), FULL, noise=action_noise(), link_noise=noise).links
    assert links.sum(-1).eq(K).all()
    assert not links.diagonal(dim1=-2, dim2=-1).any()
    assert (links != links[:1]).any(), "it must differ from slot to slot"


def test_a_dynamic_graph_is_the_top_k_of_the_pairwise_scores():
    policy = team(dynamic_links=K)
    x, scorer = policy.encoder.embed(slots().observations), policy.link_scorer
    noise = link_noise(generator_for(3), BATCH, N)
    links = policy.act(slots(), FULL, noise=action_noise(), link_noise=noise).links
    for b in range(BATCH):
        for i in range(N):
            scores = [
                (scorer.query(x[b, i]) @ scorer.key(x[b, j])).item() / 4 + float(noise[b, i, j]) if j != i else -1e9
                for j in range(N)
            ]
            best = sorted(range(N), key=lambda j, scores=scores: -scores[j])[:K]
            assert sorted(best) == links[b, i].nonzero().flatten().tolist()


def test_the_gradient_of_a_dynamic_graph_is_that_of_its_softmax_and_reaches_the_scorer():
    scorer = LinkScorer(4, N, K)
    scores = torch.randn(3, N, N, generator=generator_for(1), requires_grad=True)
    noise, weight = link_noise(generator_for(2), 3, N), torch.randn(3, N, N, generator=generator_for(3))
    (found,) = torch.autograd.grad((scorer.choose(scores, FULL, noise) * weight).sum(), scores)
    soft = (scores + noise).masked_fill(torch.eye(N, dtype=torch.bool), -torch.inf).softmax(-1)
    (wanted,) = torch.autograd.grad((soft * weight).sum(), scores)
    assert torch.allclose(found, wanted, atol=1e-6)

    policy = team(dynamic_links=K)
    result = policy.evaluate(slots(), torch.zeros(BATCH, N, dtype=torch.long), FULL, link_noise=noise[:1])
    (result.log_probs.sum() + result.values.sum()).backward()
    assert all(bool((value.grad != 0).any()) for value in policy.link_scorer.parameters())


@pytest.mark.parametrize("options", CASES, ids=str)
def test_constant_scores_give_the_static_path(options):
    """The graph that LearnedGraph draws from equal logits with the same noise, or by its ties without."""
    plain, dynamic, static = team(**options), team(dynamic_links=K, **options), LearnedGraph(N, K)
    with torch.no_grad():
        for value in dynamic.link_scorer.parameters():
            value.zero_()
    noise = sample_noise(generator_for(9), N)
    assert_same(
        results(dynamic, FULL, link_noise=noise.expand(BATCH, N, N)), results(plain, static.sample(noise).detach())
    )
    assert_same(results(dynamic, FULL), results(plain, static.exact().detach()))


def test_a_dynamic_graph_keeps_to_the_links_that_the_given_graph_has():
    policy, allowed = team(dynamic_links=K), FULL.clone()
    allowed[:, 1] = 0
    allowed[3] = 0
    links = policy.act(slots(), allowed, noise=action_noise()).links
    assert not links[..., 1].any()
    assert not links[:, 3].any()
    assert links[:, [0, 1, 2, 4]].sum(-1).eq(K).all()
    noise = link_noise(generator_for(1), BATCH, N)
    policy.evaluate(slots(), torch.zeros(BATCH, N, dtype=torch.long), allowed, link_noise=noise).values.sum().backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in policy.parameters())


RELATIVES = [
    {"send_gate": True}, {"dynamic_links": K}, {"gate": True, "send_gate": True, "dynamic_links": K, "layers": 2},
    {"send_gate": True, "dynamic_links": K, "heads": 2, "decoder_mask": "official"},
    {"send_gate": True, "dynamic_links": K, "autoregressive": False},
]  # fmt: skip


@pytest.mark.parametrize("options", RELATIVES, ids=str)
def test_all_ways_to_decode_and_teacher_forcing_agree(options):
    policy, graph = team(**options), FULL if "dynamic_links" in options else GRAPH
    generator, words = generator_for("draws"), {}
    if policy.gated:
        words["gate"] = "sampled"
    if policy.receive_gate is not None:
        words["gate_noise"] = gate_noise(generator, BATCH, N)
    if policy.send_gate is not None:
        words["send_noise"] = gate_noise(generator, BATCH, N) - 1
    if policy.link_scorer is not None:
        words["link_noise"] = link_noise(generator, BATCH, N)
    policy.decode = "full"
    wanted = policy.act(slots(), graph, noise=action_noise(), **words)
    scored = policy.evaluate(slots(), wanted.actions, graph, **words)
    assert (scored.log_probs - wanted.log_probs).abs().max() <= 1e-5
    assert torch.allclose(scored.values, wanted.values, atol=1e-5)
    for policy.decode in ("cached", "fixed-point"):
        found = policy.act(slots(), graph, noise=action_noise(), **words)
        assert torch.equal(found.actions, wanted.actions)
        assert (found.log_probs - wanted.log_probs).abs().max() <= 1e-5
        assert torch.equal(found.links, wanted.links)


@pytest.mark.parametrize(
    "network", [{"send_gate": True}, {"dynamic_links": 1}, {"send_gate": True, "dynamic_links": 1}]
)
def test_replayed_noise_gives_ratio_one_and_playing_counts_the_links(network):
    env = make_team("predator-prey:predators=3,vision=0,limit=6", 6)
    torch.manual_seed(0)
    policy = CommFormer(env.spec, width=16, **network)
    start = {name: value.detach().clone() for name, value in policy.named_parameters()}
    training = Training(iterations=4, length=7, epochs=3, minibatches=2, gate_open=0.25, clip=0.2, lr=3e-3)
    learner = TeamLearner(env, policy, training, graph=fixed_graph("full", 3))
    logs = [learner.step() for _ in range(3)]
    assert max(log["ratio_error"] for log in logs) <= 1e-6
    assert min(log["ratio_change"] for log in logs) > 1e-5
    assert ("send_probability" in logs[-1]) == ("gate_loss" in logs[-1]) == ("send_gate" in network)
    if "dynamic_links" in network:
        assert 3 < logs[0]["links"] < 5  # k = 1 link for each of three agents, and an action on one or two of them
    assert all(not torch.equal(value, start[name]) for name, value in policy.named_parameters() if "bias" in name and
               name.startswith(("send_gate.out", "link_scorer.query")))  # fmt: skip
    if "dynamic_links" not in network:
        return
    played = play(env, policy, learner.exact_graph(), episodes=4, seed=1, gate="open")
    assert torch.allclose(played.link_use.sum(-1), torch.ones(3))
    assert float(played.links_per_step.mean()) == pytest.approx(3 + float(played.link_use.tril(-1).sum()), abs=1e-4)
    assert play(env, policy, learner.exact_graph(), episodes=4, seed=1, greedy=False).links_per_step.max() <= 5
    if "send_gate" in network:
        with torch.no_grad():
            policy.send_gate.out.bias.fill_(-1e6)
        assert play(env, policy, learner.exact_graph(), episodes=4, seed=1).links_per_step.eq(0).all()


def test_the_artefact_of_both_comes_back_with_its_program(tmp_path):
    spec = TeamSpec("small", 3, 5, actions=4)
    policy = team(spec, spread=0.6, width=8, send_gate=True, dynamic_links=1, autoregressive=False)  # exports faster
    full, given = fixed_graph("full", 3), torch.randn(40, 3, 5, generator=generator_for("given"))
    with torch.no_grad():  # a gate that opens for about half of the observations
        policy.send_gate.out.bias.sub_(policy.send_gate(policy.encoder.embed(given)).median())
    save_team(tmp_path, policy, full, spec)
    again = load_team(tmp_path)
    assert again.gate == "decided"
    assert again.policy.options == policy.options
    seen = Observation(given, torch.ones(40, 3, dtype=torch.bool))
    wanted = policy.act(seen, full, noise=torch.zeros(()), gate="decided", greedy=True)
    assert torch.equal(torch.from_numpy(again.act(given.numpy())), wanted.actions)
    assert torch.equal(torch.from_numpy(again.links_last), wanted.links)
    assert 0 < wanted.links.sum() < 40 * 3, "the gate must matter in this test"
    program = torch.export.load(tmp_path / "policy.pt2").module()
    actions, values = program(given, torch.ones(40, 3, 4, dtype=torch.bool))
    assert torch.equal(actions, wanted.actions)
    torch.testing.assert_close(values, wanted.values, atol=1e-5, rtol=1e-5)
    assert "hears 1 of those" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(("network", "words"), [({"send_gate": True}, "send gate"), ({"dynamic_links": 1}, "dynamic")])
def test_processes_of_their_own_refuse_both(tmp_path, network, words):
    save_team(tmp_path, team(**network), FULL, SPEC, program=False)
    assert "a process of its own" not in (tmp_path / "README.md").read_text()
    with pytest.raises(ManyoneError, match=words):
        Decentralised(tmp_path)


def test_wrong_settings_are_named():
    with pytest.raises(ManyoneError, match=r"dynamic_links 5: must be 0\.\.4"):
        CommFormer(SPEC, dynamic_links=5)
    for options in ({"relation": "transposed"}, {"diagonal": "official"}):
        with pytest.raises(ManyoneError, match="a dynamic graph takes relation 'receiver'"):
            CommFormer(SPEC, dynamic_links=1, **options)
    with pytest.raises(ManyoneError, match="needs send_noise"):
        team(send_gate=True).values(slots(), GRAPH, gate="sampled")
    with pytest.raises(ManyoneError, match="no gate"):
        team(dynamic_links=1).values(slots(), GRAPH, gate="sampled")
