"""The stability laboratory against the plain definitions: twins, distances, gaps, bounds."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from manyone.errors import ManyoneError
from manyone.minimax.method import DistributedSGDA
from manyone.minimax.mixing.topology import Topology
from manyone.minimax.problems.auc import AUC, positive_rate
from manyone.minimax.problems.gan import GAN
from manyone.minimax.problems.quadratic import QuadraticGame
from manyone.minimax.simulated import Simulated
from manyone.minimax.stability import bounds
from manyone.minimax.stability.laboratory import Laboratory, distances, leave_one_out_choice, log_slope, summarise
from manyone.minimax.stability.measures import frechet_distance, largest_gradient, measure, roc_auc, weak_pd_gap
from manyone.minimax.stability.twins import draw_twins


def pool(count=400, width=5, seed=0):
    """Rows of norm 1 and labels that a linear score can partly tell apart."""
    source = torch.Generator().manual_seed(seed)
    features = torch.randn(count, width, generator=source, dtype=torch.float64)
    labels = (features[:, 0] + 0.5 * torch.randn(count, generator=source, dtype=torch.float64) > 0.4).long()
    features = features / features.norm(dim=1, keepdim=True)
    return {"features": features, "labels": 2.0 * labels.double() - 1}, labels


def auc(fields, **words):
    return AUC(positive_rate(fields["labels"]), dim=fields["features"].shape[1], **words)


SMALL = {"clients": 4, "samples": 10, "test": 100, "replicas": 3, "method": DistributedSGDA(rounds=6, steps=3)}


def test_a_twin_with_equal_data_stays_exactly_equal_on_every_grid_point():
    fields, labels = pool()
    points = [{}, {"topology": "ring"}, {"clients": 8}, {"steps": 7, "eta": 0.3}, {"partition": "by-class"}]
    for result in Laboratory(auc(fields), fields, labels, points, neighbour="none", **SMALL).run():
        for name in ("delta_mean", "delta_avg", "delta_own"):
            assert torch.equal(result.curves[name], torch.zeros_like(result.curves[name]))
        assert torch.equal(result.final["hits"], torch.zeros(3, dtype=torch.float64))


def test_a_gan_twin_with_equal_data_stays_exactly_equal_although_noise_is_drawn():
    fields, labels = pool()
    net = [torch.nn.Linear(3, 5), torch.nn.Linear(5, 1)]
    lab = Laboratory(
        GAN(*net, 3),
        {"features": fields["features"]},
        labels,
        neighbour="none",
        **{**SMALL, "method": dataclasses.replace(SMALL["method"], batch=4)},
    )
    (result,) = lab.run()
    assert float(result.final["delta_avg"].abs().max()) == 0
    assert {"frechet", "plain_gap"} <= set(result.final)


@pytest.mark.parametrize("topology", ["server", "ring", "isolated"])
def test_the_laboratory_measures_what_two_separate_runs_differ_by(topology):
    fields, labels = pool()
    problem = auc(fields)
    lab = Laboratory(problem, fields, labels, [{"topology": topology}], seed=3, **SMALL)
    (result,) = lab.run()
    twins = lab.twins[0]
    method = dataclasses.replace(SMALL["method"], topology=topology)
    ends = []
    for twin in (0, 1):
        data = type(twins.data)(fields, twins.data.table[:, twin : twin + 1], twins.data.sizes)
        run = Simulated(problem, data, method, seed=3, dtype=torch.float64)
        run.run()
        ends.append(run.state()[:, 0])
    for r in range(3):
        a, b, i = ends[0][r], ends[1][r], int(twins.client[r])
        assert float(result.final["delta_mean"][r]) == pytest.approx(float((a.mean(0) - b.mean(0)).norm()), abs=1e-12)
        assert float(result.final["delta_own"][r]) == pytest.approx(float((a[i] - b[i]).norm()), abs=1e-12)
        each = [float((a[k] - b[k]).norm()) for k in range(4)]
        assert float(result.final["delta_avg"][r]) == pytest.approx(sum(each) / 4, abs=1e-12)
        seen = {k: v[twins.data.table[r, 0].flatten()] for k, v in fields.items()}
        unseen = {k: v[twins.test[r]] for k, v in fields.items()}
        gap = problem.primal_risk(a.mean(0), unseen) - problem.primal_risk(a.mean(0), seen)
        assert float(result.final["gap"][r]) == pytest.approx(float(gap), abs=1e-12)


def test_exchanging_the_twins_changes_no_distance():
    state = torch.randn(3, 2, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    changed = torch.eye(4, dtype=torch.bool)[:3]
    there, back = distances(state, changed), distances(state.flip(1), changed)
    for name in ("delta_mean", "delta_avg", "delta_own"):
        assert torch.equal(there[name], back[name])
    assert bool((there["delta_mean"] <= there["delta_avg"] + 1e-15).all())


def test_a_grid_gives_the_same_numbers_as_its_points_alone():
    fields, labels = pool()
    points = [{"clients": 4}, {"clients": 8, "topology": "ring"}, {"samples": 20, "eta": 0.3}, {"rounds": 9}]
    together = Laboratory(auc(fields), fields, labels, points, **SMALL).run()
    for point, result in zip(points, together):
        (alone,) = Laboratory(auc(fields), fields, labels, [point], **SMALL).run()
        assert alone.rounds == result.rounds
        for name, values in result.final.items():
            torch.testing.assert_close(values, alone.final[name], rtol=0, atol=1e-12)


def test_an_interrupted_laboratory_goes_on_bit_for_bit():
    fields, labels = pool()
    points = [{}, {"topology": "ring", "steps": 5}]
    whole = Laboratory(auc(fields), fields, labels, points, **SMALL)
    first = Laboratory(auc(fields), fields, labels, points, **SMALL)
    second = Laboratory(auc(fields), fields, labels, points, **SMALL)
    first.advance(11)
    second.load_state_dict(first.state_dict())
    for a, b in zip(whole.run(), second.run()):
        assert a.rounds == b.rounds
        assert all(torch.equal(a.final[k], b.final[k]) for k in a.final)
        assert all(torch.equal(a.curves[k], b.curves[k]) for k in a.curves)


@pytest.mark.parametrize("neighbour", ["one", "per_client"])
@pytest.mark.parametrize("kind", ["iid", "by-class", "dirichlet"])
def test_neighbours_differ_in_the_samples_they_should(neighbour, kind):
    fields, labels = pool()
    twins = draw_twins(fields, labels, clients=5, samples=12, replicas=4, neighbour=neighbour, kind=kind, test=100)
    first, second = twins.data.table[:, 0], twins.data.table[:, 1]
    differs = (first != second).any(2)
    assert torch.equal(differs, twins.changed)
    assert differs.sum(1).tolist() == [1 if neighbour == "one" else 5] * 4
    assert int((first != second).sum(2).max()) == 1
    for r in range(4):
        seen, unseen = set(first[r].flatten().tolist()), set(twins.test[r].tolist())
        new = {int(second[r, i, twins.place[r, i]]) for i in differs[r].nonzero().flatten().tolist()}
        assert not seen & unseen
        assert not new & (seen | unseen)
        for i in differs[r].nonzero().flatten().tolist():  # a draw from the same client's distribution
            assert int(labels[second[r, i, twins.place[r, i]]]) in labels[first[r, i]].tolist()


def test_replacing_one_sample_of_every_client_moves_the_mean_about_m_times_as_far():
    fields, labels = pool(2000)
    found = {}
    for neighbour in ("one", "per_client"):
        options = {"clients": 8, "samples": 20, "method": DistributedSGDA(rounds=40), "replicas": 12, "test": 100}
        (result,) = Laboratory(auc(fields), fields, labels, neighbour=neighbour, **options).run()
        found[neighbour] = result.summary("delta_mean").mean
    assert 2 < found["per_client"] / found["one"] < 12  # m times the expectation of a sum of 8 random directions


def test_too_few_rows_are_named():
    fields, labels = pool(100)
    with pytest.raises(ManyoneError, match="100 rows are too few for 8 clients x 10 samples"):
        draw_twins(fields, labels, clients=8, samples=10, replicas=1, test=50)
    with pytest.raises(ManyoneError, match="neighbour = 'two'"):
        draw_twins(fields, labels, clients=2, samples=5, replicas=1, test=50, neighbour="two")


def quadratic_stability(m=4, n=6, mu=1.0, sigma=2.0, eta=0.1, steps=40, replicas=200, topology="ring"):
    """Mean distances on a strongly convex-concave game with common Jacobian, and (G, L) along the run."""
    one = torch.eye(1, dtype=torch.float64)
    game = QuadraticGame(mu * one, sigma * one, mu * one)
    g = torch.randn(500, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    method = DistributedSGDA(topology=topology, rounds=steps // 5, step_sizes=(eta, eta))
    options = {"clients": m, "samples": n, "replicas": replicas, "test": 50}
    labels = torch.zeros(500, dtype=torch.int64)
    lab = Laboratory(game, {"g": g}, labels, method=method, **options)
    (result,) = lab.run()
    jacobian = game.jacobian()
    radius = float(lab.simulated.z.norm(dim=1).max())
    lipschitz = float(torch.linalg.matrix_norm(jacobian, 2))
    return result, float(g.norm(dim=1).max()) + lipschitz * radius, lipschitz


@pytest.mark.parametrize("topology", ["server", "ring", "isolated"])
def test_measured_distances_respect_the_derived_bounds_whatever_the_topology(topology):
    mu, eta, steps, m, n = 1.0, 0.1, 40, 4, 6
    result, gradient, lipschitz = quadratic_stability(topology=topology)
    measured = result.summary("delta_avg").mean
    c = bounds.expansion("SC-SC", eta, lipschitz, mu)
    assert 0 < measured <= bounds.recursion(c, eta, gradient, m, n, steps)
    assert bounds.recursion(c, eta, gradient, m, n, steps) <= bounds.strongly_convex_concave(gradient, mu, m, n)
    assert measured <= bounds.convex_concave(gradient, lipschitz, eta, m, n, steps)
    assert measured <= bounds.nonconvex_nonconcave(gradient, lipschitz, eta, m, n, steps)


def test_the_recursion_is_the_sum_that_it_stands_for():
    for c in (0.9, 1.0, 1.07):
        value = 0.0
        for _ in range(30):
            value = c * value + 2 * 0.1 * 3.0 / (4 * 5)
        assert bounds.recursion(c, 0.1, 3.0, 4, 5, 30) == pytest.approx(value, rel=1e-12)
    assert bounds.recursion(2.0, 0.1, 1.0, 1, 1, 5000) == math.inf
    assert bounds.expansion("C-C", 0.1, 2.0) == pytest.approx(math.sqrt(1.04))
    assert bounds.decaying_rate(0.1, 1.0, 32, 10, 100) < bounds.decaying_rate(0.1, 1.0, 16, 10, 100)
    assert bounds.weak_pd_gap(0.1, 2.0) == pytest.approx(0.2 * math.sqrt(2))
    assert bounds.strong_pd_gap(0.1, 2.0, 3.0, 1.5) == pytest.approx(0.6 * math.sqrt(2))
    with pytest.raises(ManyoneError, match="eta <= mu/L"):
        bounds.expansion("SC-SC", 1.0, 2.0, 0.1)


def test_the_own_factor_is_1_for_the_server_m_for_the_isolated_and_what_the_ring_shows():
    assert bounds.own_factor(Topology("server").weights(0, 8), 10) == pytest.approx(1)
    assert bounds.own_factor(Topology("isolated").weights(0, 8), 10) == pytest.approx(8)
    # with one step a round and no expansion at all, delta_own / delta_mean tends to the factor (mean over hits)
    zero, g = torch.zeros(1, 1, dtype=torch.float64), torch.randn(300, 2, dtype=torch.float64)
    method = DistributedSGDA(steps=1, rounds=20, topology="ring")
    options = {"clients": 8, "samples": 4, "replicas": 300, "test": 20, "method": method}
    lab = Laboratory(QuadraticGame(zero, zero, zero), {"g": g}, torch.zeros(300, dtype=torch.int64), **options)
    (result,) = lab.run()
    ratio = float(result.final["delta_own"].mean() / result.final["delta_mean"].mean())
    assert ratio == pytest.approx(bounds.own_factor(Topology("ring").weights(0, 8), 20), rel=0.1)


def test_distances_fall_like_one_over_m():
    fields, labels = pool(3000)
    ms = (2, 4, 8, 16)
    options = {"samples": 20, "method": DistributedSGDA(rounds=30), "replicas": 24, "test": 200}
    results = Laboratory(auc(fields), fields, labels, [{"clients": m} for m in ms], **options).run()
    slope = log_slope(ms, torch.stack([r.final["delta_mean"] for r in results]))
    assert -1.3 < slope.value < -0.7


def test_hits_are_counted_and_without_a_hit_nothing_differs():
    fields, labels = pool()
    (result,) = Laboratory(
        auc(fields),
        fields,
        labels,
        method=DistributedSGDA(steps=2, rounds=5),
        clients=2,
        samples=30,
        replicas=20,
        test=100,
    ).run()
    hits = result.final["hits"]
    assert 0 < float(hits.sum()) < 20
    assert torch.equal(result.final["delta_mean"] > 0, hits > 0)


def test_measures_of_auc_are_the_exact_ones():
    fields, _ = pool(200)
    problem = auc(fields, ridge=0.1)
    seen, unseen = ({k: v[part] for k, v in fields.items()} for part in (slice(0, 120), slice(120, 200)))
    saddle = problem.saddle(seen)
    found = measure(problem, saddle[None], [seen], [unseen])
    assert float(found["error"]) == pytest.approx(0, abs=1e-12)
    assert float(found["pd_train"]) == pytest.approx(0, abs=1e-12)
    assert float(found["pd_test"]) > 0
    scores = seen["features"] @ saddle[:5]
    plus, minus = scores[seen["labels"] > 0], scores[seen["labels"] < 0]
    assert float(found["auc_train"]) == pytest.approx(float((plus[:, None] > minus).double().mean()))
    assert roc_auc(scores, seen["labels"]) == pytest.approx(float(found["auc_train"]))


def test_the_weak_gap_is_below_the_mean_strong_gap_and_equal_for_one_replica():
    fields, _ = pool(200)
    problem = auc(fields, ridge=0.1)
    z = 0.3 * torch.randn(6, problem.spec.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    strong = [float(problem.pd_gap(state, fields)) for state in z]
    assert weak_pd_gap(problem, z, [fields] * 6) <= np.mean(strong) + 1e-12
    assert weak_pd_gap(problem, z[:1], [fields]) == pytest.approx(strong[0], abs=1e-10)


def test_frechet_distance_of_gaussians():
    a = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + 2.0) == pytest.approx(12, rel=1e-6)
    assert frechet_distance(a, 3 * a - 2 * a.mean(0)) == pytest.approx(4 * float(torch.cov(a.T).trace()), rel=1e-6)


def test_summaries_slopes_and_the_choice_on_other_replicas():
    short = summarise([1.0, 2.0, 3.0, 10.0])
    assert (short.mean, short.median, short.n) == (4.0, 2.5, 4)
    assert short.interval.low < 4 < short.interval.high
    x = (1.0, 2.0, 4.0)
    assert log_slope(x, torch.tensor([[3.0, 5.0], [6.0, 10.0], [12.0, 20.0]])).value == pytest.approx(1.0)
    chosen, risk = leave_one_out_choice(torch.tensor([[1.0, 1.0, 9.0], [2.0, 2.0, 2.0]]))
    assert chosen.tolist() == [1, 1, 0]  # the third replica's own bad luck does not count against point 0
    assert risk.tolist() == [2.0, 2.0, 9.0]
    with pytest.raises(ManyoneError, match="at least 2"):
        leave_one_out_choice(torch.ones(3, 1))


def test_the_weak_gap_of_two_replicas_equals_a_brute_force_maximum():
    sets = [pool(60, 3, seed)[0] for seed in (1, 2)]
    problem = AUC(0.4, dim=3, ridge=0.1)
    z = torch.randn(2, problem.spec.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = problem.spec.p

    def mean(xs, alphas):
        return torch.stack([problem.value(torch.cat([x, a]), d) for x, a, d in zip(xs, alphas, sets)]).mean()

    alpha = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    x = torch.zeros(p, dtype=torch.float64, requires_grad=True)
    found = []
    for free, sign, value in (
        (alpha, -1, lambda: mean([z[0, :p], z[1, :p]], [alpha, alpha])),
        (x, 1, lambda: mean([x, x], [z[0, p:], z[1, p:]])),
    ):
        search = torch.optim.LBFGS([free], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

        def loss(value=value, sign=sign, search=search):
            search.zero_grad()
            (result := sign * value()).backward()
            return result

        search.step(loss)
        found.append(float(value().detach()))
    assert weak_pd_gap(problem, z, sets) == pytest.approx(found[0] - found[1], abs=1e-9)


def test_the_frechet_distance_of_fewer_samples_than_dimensions_is_finite():
    source = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, 8, generator=source) for _ in range(2))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5)
    apart = frechet_distance(a, b)
    assert math.isfinite(apart)
    assert apart > float((a.mean(0) - b.mean(0)).square().sum()) - 1e-5


def test_the_auc_gap_is_train_minus_test_and_labels_may_be_0_and_1():
    scores, labels = torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1])
    assert roc_auc(scores, labels) == roc_auc(scores, 2 * labels - 1) == 0.75
    assert math.isnan(roc_auc(scores, torch.ones_like(labels)))
    assert math.isnan(roc_auc(torch.full_like(scores, torch.nan), labels))
    draws = torch.Generator().manual_seed(0)
    for levels in (2, 9, 10**6):  # with many ties, some, none
        scores = torch.randint(levels, (501,), generator=draws).double()
        labels = torch.randint(2, (501,), generator=draws)
        assert roc_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-14)
    seen, unseen = pool(50, 4, 3)[0], pool(40, 4, 4)[0]
    problem = auc(seen)
    z = torch.randn(1, problem.spec.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = measure(problem, z, [seen], [unseen])
    train, test = (roc_auc(d["features"] @ z[0, :4], d["labels"]) for d in (seen, unseen))
    assert (float(found["auc_train"]), float(found["auc_test"])) == (train, test)
    assert float(found["auc_gap"]) == train - test != 0


@pytest.mark.parametrize("topology", ["server", "ring"])
def test_with_ridges_distances_stay_below_the_bound_that_is_free_of_the_number_of_steps(topology):
    fields, labels = pool(600)
    problem, eta = auc(fields, ridge=1.0, ridge_y=1.0), 0.01
    method = DistributedSGDA(topology=topology, step_sizes=(eta, eta), batch=2)
    points = [{"rounds": t} for t in (20, 60)]
    options = {"clients": 4, "samples": 10, "replicas": 8, "test": 100, "method": method}
    results = Laboratory(problem, fields, labels, points, **options).run()
    for result in results:
        known = result.together
        assert known["step_limit"] == pytest.approx(eta * float(result.final["lipschitz"].max()) ** 2)
        measured = float(result.final["delta_avg"].mean())
        assert 0 < measured <= known["bound"]
        if known["step_limit"] <= 1:
            assert known["bound"] <= known["bound_ever"]
        assert float(result.final["gap"].mean()) <= known["bound_gap"]
        assert known["weak_gap"] <= known["bound_weak"]
        assert known["weak_train"] <= float(result.final["pd_train"].mean()) + 1e-12


def test_gradients_of_samples_are_the_ones_that_the_bounds_ask_for():
    fields, _ = pool(50)
    problem, z = auc(fields), torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    each = []
    for i in range(50):
        at = z.clone().requires_grad_()
        x, y = problem.spec.unpack(at)
        (found,) = torch.autograd.grad(problem.loss(x, y, {k: v[i : i + 1] for k, v in fields.items()}), at)
        each.append(float(found.norm()))
    assert largest_gradient(problem, z, fields) == pytest.approx(max(each))
