"""Partitions: who holds which rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manyone.data.tables.partitions import describe_partition, partition, partition_counts
from manyone.errors import ManyoneError

LABELS = torch.arange(200) % 4


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["iid", "by-class", "dirichlet"]),
    st.integers(1, 16),
    st.one_of(st.none(), st.integers(1, 12)),
    st.floats(0.02, 100),
    st.integers(0, 3),
)
def test_parts_are_disjoint_deterministic_and_of_the_promised_size(kind, clients, per_client, alpha, seed):
    def deal():
        return partition(LABELS, clients, kind=kind, seed=seed, alpha=alpha, per_client=per_client, minimum=3)

    parts = deal()
    joined = torch.cat(parts)
    assert len(parts) == clients
    assert len(joined.unique()) == len(joined)
    if per_client is None:
        assert len(joined) == 200
        assert min(map(len, parts)) >= 3
    else:
        assert {len(p) for p in parts} == {per_client}
    assert all(torch.equal(a, b) for a, b in zip(parts, deal(), strict=True))


def test_iid_and_by_class_sizes_differ_by_at_most_one():
    for kind in ("iid", "by-class"):
        sizes = [len(p) for p in partition(LABELS, 7, kind=kind)]
        assert max(sizes) - min(sizes) <= 1


def test_by_class_gives_every_client_one_class_when_the_numbers_fit():
    counts = partition_counts(LABELS, partition(LABELS, 8, kind="by-class"), 4)
    assert (counts > 0).sum(1).tolist() == [1] * 8


@pytest.mark.parametrize("per_client", [None, 20])
def test_small_alpha_is_more_heterogeneous_than_large_alpha(per_client):
    def top_share(alpha):
        shares = []
        for seed in range(5):
            parts = partition(LABELS, 8, kind="dirichlet", alpha=alpha, seed=seed, per_client=per_client, minimum=2)
            counts = partition_counts(LABELS, parts, 4).double()
            shares.append((counts.max(1).values / counts.sum(1)).mean())
        return torch.stack(shares).mean()

    assert top_share(0.05) > 0.75
    assert top_share(100.0) < 0.45


def test_what_cannot_be_dealt_is_refused_in_one_line():
    for options, words in (
        ({"clients": 0}, "clients must be at least 1"),
        ({"clients": 201}, "at most 0 each"),
        ({"clients": 8, "per_client": 26}, r"need 208 rows, the training set has 200.*at most 25 each"),
        ({"clients": 8, "kind": "dirichlet", "alpha": 0.0}, "alpha must be above 0"),
        ({"clients": 8, "kind": "sorted"}, "iid, by-class or dirichlet"),
    ):
        with pytest.raises(ManyoneError, match=words):
            partition(LABELS, **options)


def test_the_report_names_sizes_and_heterogeneity():
    text = describe_partition(LABELS, partition(LABELS, 8, kind="by-class"), 4)
    assert text == "8 clients with 25 rows; the most frequent class makes up 100% of a client's rows"
