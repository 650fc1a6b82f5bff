"""Clustering of tasks by the directions of their gradients."""

from __future__ import annotations

import itertools

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.policies.g_harmodt import groups
from manyone.policies.g_harmodt.groups import SparseProjection, cluster, signatures
from manyone.randomness import generator_for


def planted(families: int, each: int, d: int, noise: float, common: float = 0.0) -> tuple[torch.Tensor, list[int]]:
    """Gradients of ``families`` x ``each`` tasks, interleaved; members share a direction, all share a common one."""
    draws = generator_for("planted", families, each, d)
    directions = torch.randn(families, d, generator=draws)
    shared = torch.randn(d, generator=draws)
    truth = [f for _ in range(each) for f in range(families)]
    rows = directions[truth] + noise * torch.randn(len(truth), d, generator=draws) + common * shared
    return rows.double(), truth


def partition(assignment) -> set[frozenset[int]]:
    return {frozenset(i for i, g in enumerate(assignment) if g == group) for group in set(assignment)}


@pytest.mark.parametrize("method", ["k-means", "agglomerative"])
def test_two_planted_opposite_gradient_families_are_separated_exactly(method):
    direction = torch.randn(3000, generator=generator_for("direction"), dtype=torch.float64)
    signs = torch.tensor([1, -1, -1, 1, 1, -1, 1, -1, -1, -1], dtype=torch.float64)
    noise = torch.randn(10, 3000, generator=generator_for("noise"), dtype=torch.float64)
    found = cluster(signs[:, None] * direction + 1.5 * noise, 2, method=method)
    assert partition(found.assignment) == partition(signs.tolist())
    assert found.assignment[0] == 0  # numbered by first appearance
    assert [i for i, g in enumerate(found.assignment) if g == 0] == [0, 3, 4, 6]


def test_families_behind_a_large_common_component_are_told_apart_by_centring():
    rows, truth = planted(3, 4, 500, noise=0.5, common=30.0)
    assert partition(cluster(rows, 3).assignment) == partition(truth)
    unit = rows / rows.norm(dim=1, keepdim=True)
    assert (unit @ unit.T).min() > 0.99  # without it every cosine is nearly 1
    assert cluster(rows, 3).cosines.min() < -0.2


@pytest.mark.parametrize("method", ["k-means", "agglomerative"])
def test_clustering_is_invariant_to_permutation_and_positive_rescaling_of_task_gradients(method):
    rows = torch.randn(12, 64, generator=generator_for("plain"), dtype=torch.float64)  # no structure: hard
    before = cluster(rows, 4, method=method)
    order = torch.randperm(12, generator=generator_for("order"))
    scales = 10 ** (6 * torch.rand(12, 1, generator=generator_for("scales"), dtype=torch.float64) - 3)
    after = cluster((scales * rows)[order], 4, method=method)
    back = [0] * 12
    for place, task in enumerate(order.tolist()):
        back[task] = after.assignment[place]
    assert partition(back) == partition(before.assignment)


@pytest.mark.parametrize("seed", range(4))
def test_one_restart_of_k_means_does_not_depend_on_the_order_of_the_tasks(monkeypatch, seed):
    monkeypatch.setattr(groups, "RESTARTS", 1)  # a single local optimum: other draws would end in another one
    rows = torch.randn(40, 60, generator=generator_for("plain", seed), dtype=torch.float64)
    before = cluster(rows, 9, seed=seed)
    order = torch.randperm(40, generator=generator_for("order", seed)).tolist()
    after = cluster(rows[order], 9, seed=seed)
    assert {frozenset(order[i] for i in part) for part in partition(after.assignment)} == partition(before.assignment)


def test_of_equal_silhouettes_the_smaller_number_of_groups_wins(monkeypatch):
    monkeypatch.setattr("sklearn.metrics.silhouette_score", lambda distances, assigned, metric: 0.25)
    rows = torch.randn(9, 20, generator=generator_for("ties"))
    assert cluster(rows, "auto").groups == 2


def test_the_number_of_groups_is_found_by_silhouette():
    rows, truth = planted(4, 5, 800, noise=0.6)
    found = cluster(rows, "auto")
    assert found.groups == 4
    assert partition(found.assignment) == partition(truth)
    assert set(found.silhouettes) == set(range(2, 13))  # 2 .. min(12, N - 1)
    assert max(found.silhouettes, key=found.silhouettes.get) == 4
    few, _ = planted(2, 2, 50, noise=0.1)
    assert set(cluster(few, "auto").silhouettes) == {2, 3}
    assert cluster(few[:2], "auto").groups == 2
    assert cluster(few[:1], "auto").groups == 1


def test_as_many_groups_as_tasks_is_the_identity_and_one_group_holds_all():
    rows = torch.randn(7, 20, generator=generator_for("x"))
    assert cluster(rows, 7).assignment == tuple(range(7))
    assert cluster(rows, 1).assignment == (0,) * 7


def test_the_spherical_objective_is_the_best_there_is():
    """Against every partition of a small problem: the sum of the tasks' cosines with their group's centre."""
    rows = torch.randn(7, 40, generator=generator_for("small"), dtype=torch.float64)
    unit = signatures(rows)

    def value(labels):
        return sum(unit[[i for i, g in enumerate(labels) if g == c]].sum(0).norm().item() for c in range(3))

    best = max(value(labels) for labels in itertools.product(range(3), repeat=7) if len(set(labels)) == 3)
    found = cluster(rows, 3)
    assert value(found.assignment) == pytest.approx(best, abs=1e-9)


def test_no_group_is_empty_even_among_copies():
    rows = torch.ones(6, 5)
    rows[3:] = -1
    for method in ("k-means", "agglomerative"):
        assert cluster(rows, 4, method=method).groups == 4


def test_signatures_are_centred_unit_vectors_and_zero_gradients_stay_harmless():
    rows = torch.randn(5, 30, generator=generator_for("s"))
    assert torch.allclose(signatures(rows).norm(dim=1), torch.ones(5, dtype=torch.float64))
    rows[2] = 0
    assert torch.isfinite(signatures(rows)).all()
    assert torch.allclose(signatures(rows[:1]).norm(dim=1), torch.ones(1, dtype=torch.float64))


def test_what_cannot_be_clustered_is_refused_by_name():
    rows = torch.randn(4, 10, generator=generator_for("r"))
    with pytest.raises(ManyoneError, match="groups = 5: must be auto or 1 to 4"):
        cluster(rows, 5)
    with pytest.raises(ManyoneError, match="k-means or agglomerative"):
        cluster(rows, 2, method="ward")
    rows[1, 3] = float("nan")
    with pytest.raises(ManyoneError, match=r"tasks \[1\] are not finite"):
        cluster(rows, 2)


def test_projection_is_linear_seeded_and_keeps_cosines():
    rows, _ = planted(2, 3, 20_000, noise=1.0)
    project = SparseProjection(20_000, seed=3)
    small = torch.stack([project(r) for r in rows])
    assert torch.allclose(project(rows[0] + 2 * rows[1]), small[0] + 2 * small[1])
    assert torch.equal(SparseProjection(20_000, seed=3)(rows[0]), small[0])
    assert not torch.equal(SparseProjection(20_000, seed=4)(rows[0]), small[0])
    exact, kept = (torch.nn.functional.cosine_similarity(a[:, None], a[None], dim=-1) for a in (rows, small))
    assert (exact - kept).abs().max() < 5 / 1024**0.5  # standard deviation of a cosine: at most about 1/sqrt(1024)
    one_hot = torch.zeros(20_000)
    one_hot[77] = 1.0
    assert (project(one_hot) != 0).sum() == 4
    assert project(one_hot).norm() == pytest.approx(1.0)
    assert partition(cluster(small, 2).assignment) == partition(cluster(rows, 2).assignment)
    halves = torch.rand(2, 20_000, generator=generator_for("positive")) + 1
    halves[0, ::2], halves[1, 1::2] = 0.0, 0.0  # disjoint and positive: only random signs keep them apart
    a, b = project(halves[0]), project(halves[1])
    assert abs(torch.nn.functional.cosine_similarity(a, b, dim=0)) < 5 / 1024**0.5
