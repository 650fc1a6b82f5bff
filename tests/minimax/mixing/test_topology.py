import math

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.minimax.mixing.mixture import Mixer, push_sum
from manyone.minimax.mixing.topology import STATIC, Topology, contraction, grid_shape, metropolis_hastings, repair

NAMES = [*STATIC, "one-peer-exponential", "random-matching", "hierarchical"]
DIRECTED = ("exponential", "one-peer-exponential")


def made(name: str) -> Topology:
    return Topology(name, group=4, every=3) if name == "hierarchical" else Topology(name)


@pytest.mark.parametrize(
    ("name", "m"), [(n, m) for n in NAMES for m in (1, 2, 3, 4, 7, 8, 12, 16) if n != "hierarchical" or m % 4 == 0]
)
@pytest.mark.filterwarnings("ignore:a (torus|grid) of")
def test_every_matrix_is_doubly_stochastic_and_preserves_the_mean(name, m):
    topology = made(name)
    z = torch.randn(m, 5, generator=torch.Generator().manual_seed(m), dtype=torch.float64)
    for t in range(5):
        w = topology.weights(t, m)
        assert w.dtype == torch.float64
        assert float(w.min()) >= 0
        assert float((w.sum(0) - 1).abs().max()) <= 1e-12
        assert float((w.sum(1) - 1).abs().max()) <= 1e-12
        assert torch.equal(w, w.T) or (name in DIRECTED and m > 2)
        assert topology.symmetric(m) == (m <= 2 or name not in DIRECTED)
        assert float(((w @ z).mean(0) - z.mean(0)).abs().max()) <= 1e-12


@pytest.mark.parametrize("m", [3, 8, 16, 33])
def test_lambda_equals_the_closed_forms_of_ring_and_star(m):
    ring = max(abs(1 + 2 * math.cos(2 * math.pi * j / m)) / 3 for j in range(1, m))
    assert Topology("ring").contraction(m) == pytest.approx(ring, abs=1e-12)
    assert Topology("star").contraction(m) == pytest.approx(1 - 1 / m, abs=1e-12)


@pytest.mark.parametrize("p", [1, 2, 3, 4, 5])
def test_lambda_of_the_exponential_graph_with_a_power_of_two(p):
    assert Topology("exponential").contraction(2**p) == pytest.approx(1 - 2 / (p + 1), abs=1e-12)


@pytest.mark.parametrize(
    ("m", "expected"),
    [
        (8, [0, 0.5, 0.5, 0.8536, 0.8047, 0.9493, 0.875, 1]),
        (16, [0, 0.6, 0.6, 0.8686, 0.9493, 0.9872, 0.9375, 1]),
        (32, [0, 0.6667, 0.8828, 0.9658, 0.9872, 0.9968, 0.9688, 1]),
    ],
)
def test_lambda_table(m, expected):
    names = ["complete", "exponential", "torus", "grid", "ring", "path", "star", "isolated"]
    found = [Topology(name).contraction(m) for name in names]
    assert found == pytest.approx(expected, abs=6e-5)


def test_coinciding_neighbours_count_once():
    w = Topology("torus").weights(0, 8)  # 2 x 4: up and down are the same client
    assert grid_shape(8) == (2, 4)
    assert (w > 0).sum(1).tolist() == [4] * 8
    assert torch.equal(w[w > 0], torch.full((32,), 0.25, dtype=torch.float64))
    assert Topology("ring").weights(0, 2).tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_a_prime_grid_warns():
    with pytest.warns(UserWarning, match="7 clients"):
        assert torch.equal(Topology("torus").weights(0, 7), Topology("ring").weights(0, 7))


@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_one_peer_exponential_rounds_multiply_to_the_exact_average(p):
    m, topology, product = 2**p, Topology("one-peer-exponential"), torch.eye(2**p, dtype=torch.float64)
    for t in range(3, 3 + p):
        product = topology.weights(t, m) @ product
    assert float((product - 1 / m).abs().max()) == 0.0
    assert topology.contraction(m) == 0.0
    assert topology.degree(m) == 1


@pytest.mark.parametrize("m", [6, 7])
def test_random_matching_contracts_as_computed(m):
    topology = Topology("random-matching", seed=3)
    mean = torch.stack([topology.weights(t, m) for t in range(3000)]).mean(0)
    assert math.sqrt(contraction(mean)) == pytest.approx(topology.contraction(m), abs=0.02)
    assert torch.equal(topology.weights(5, m), Topology("random-matching", seed=3).weights(5, m))
    assert not torch.equal(topology.weights(5, m), topology.weights(6, m))


def test_hierarchical_rounds():
    topology = Topology("hierarchical", group=2, every=3)
    assert topology.weights(0, 6)[0].tolist() == [0.5, 0.5, 0, 0, 0, 0]
    assert torch.allclose(topology.weights(2, 6), torch.full((6, 6), 1 / 6).double())
    assert [topology.averages(t, 6) for t in range(6)] == [False, False, True] * 2
    with pytest.raises(ManyoneError, match="do not divide"):
        topology.weights(0, 5)


@pytest.mark.parametrize("name", ["ring", "star", "torus", "grid", "path", "complete", "random-matching"])
def test_repair_of_symmetric_graphs_keeps_the_mean_and_the_failed_rows(name):
    m = 8
    alive = torch.tensor([1, 0, 1, 1, 0, 1, 1, 1], dtype=torch.bool)
    w = repair(Topology(name).weights(0, m), alive)
    assert float(w.min()) >= 0
    assert float((w.sum(0) - 1).abs().max()) <= 1e-12
    assert float((w.sum(1) - 1).abs().max()) <= 1e-12
    z = torch.randn(m, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal((w @ z)[~alive], z[~alive])


def test_repair_of_a_directed_graph_breaks_the_columns_and_is_refused_where_it_matters():
    alive = torch.ones(8, dtype=torch.bool)
    alive[3] = False
    w = Topology("exponential").weights(0, 8)
    assert float((repair(w, alive).sum(0) - 1).abs().max()) == pytest.approx(0.25)
    assert float((repair(w, alive, by="columns").sum(0) - 1).abs().max()) <= 1e-12


def test_disconnected_survivors_show_as_lambda_one():
    alive = torch.ones(8, dtype=torch.bool)
    alive[[0, 3]] = False
    survivors = repair(Topology("ring").weights(0, 8), alive)[alive][:, alive]
    assert contraction(survivors) == pytest.approx(1.0, abs=1e-12)
    alive[3] = True
    connected = repair(Topology("ring").weights(0, 8), alive)[alive][:, alive]
    assert contraction(connected) < 1 - 1e-3


def test_push_sum_on_a_directed_graph_with_failures_reaches_the_true_mean():
    m, source = 8, torch.Generator().manual_seed(1)
    z = torch.randn(1, m, 3, generator=source, dtype=torch.float64)
    mean, mass = z.mean(1), torch.ones(1, m, 1, dtype=torch.float64)
    mixer = Mixer(Topology("exponential"), m, torch.float64, "cpu")
    for t in range(400):
        up = torch.rand(1, m, generator=source) >= 0.2
        z, mass = push_sum(mixer, z, z.clone(), mass, t, up)
    assert float((z - mean[:, None]).abs().max()) <= 1e-12
    assert float(mass.sum()) == pytest.approx(m, abs=1e-12)


@pytest.mark.parametrize("name", ["ring", "exponential", "one-peer-exponential", "random-matching", "star", "server"])
def test_sparse_dense_and_averaging_forms_agree_with_the_matrix(name):
    m = 40
    z = torch.randn(2, m, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixer = Mixer(Topology(name), m, torch.float64, "cpu")
    for t in (0, 1, 7):
        assert torch.allclose(mixer(z, t), Topology(name).weights(t, m) @ z, atol=1e-14)


def test_custom_graphs(tmp_path):
    edges = [(0, 1), (1, 2), (2, 1), (1, 1)]
    path = tmp_path / "edges.txt"
    path.write_text("# a path\n0 1\n1, 2\n")
    expected = Topology("path").weights(0, 3)
    assert torch.equal(Topology.from_edges(edges).weights(0, 3), expected)
    assert torch.equal(Topology.from_file(path).weights(0, 3), expected)
    assert torch.equal(metropolis_hastings({(0, 1), (1, 2)}, 3), expected)
    assert torch.equal(Topology.from_matrix(expected).weights(0, 3), expected)
    assert Topology.from_edges(edges).neighbours(0, 3) == [[1], [0, 2], [1]]

    path.write_text("0 a\n")
    with pytest.raises(ManyoneError, match="line 1"):
        Topology.from_file(path)
    with pytest.raises(ManyoneError, match="rows and columns"):
        Topology.from_matrix(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    with pytest.raises(ManyoneError, match="client 2 of 2"):
        Topology.from_edges(edges).weights(0, 2)
    for text, missing in (("0 1\n2 3\n", "2, 3 of 4"), ("0 1\n1 2\n", "3 of 4"), ("# nobody\n", "1, 2, 3 of 4")):
        path.write_text(text)
        with pytest.raises(ManyoneError, match=f"client 0 to client {missing}"):
            Topology.from_file(path).weights(0, 4)
    path.write_bytes(b"\xff\xfe0")
    with pytest.raises(ManyoneError, match="not UTF-8"):
        Topology.from_file(path)
    with pytest.raises(ManyoneError, match=r"Tensor is no topology.*from_matrix"):
        Topology.of(torch.eye(4))
    with pytest.raises(ManyoneError, match="choose one of"):
        Topology("rings")


def test_networkx_graphs():
    networkx = pytest.importorskip("networkx")
    assert torch.equal(Topology.from_networkx(networkx.cycle_graph(5)).weights(0, 5), Topology("ring").weights(0, 5))


def test_degree_and_bytes():
    assert [Topology(name).degree(16) for name in ("ring", "star", "exponential", "torus", "isolated")] == [
        2,
        15,
        4,
        4,
        0,
    ]
    assert Topology("ring").bytes_per_round(16, 100) == 800
    assert Topology("server").bytes_per_round(16, 100, itemsize=8) == 1600
    assert Topology("random-matching").bytes_per_round(16, 100) == 400
    assert Topology("hierarchical", group=4, every=3).bytes_per_round(16, 100) == pytest.approx((3 + 3 + 2) * 400 / 3)


def test_a_row_with_more_senders_than_any_column_has_entries_loses_none():
    block = torch.tensor([[2, 2, 2, 2], [3, 3, 2, 0], [3, 3, 0, 2], [0, 0, 4, 4]]).double() / 8
    w = torch.block_diag(block, torch.eye(28).double())
    assert ((w > 0).sum(1).max(), (w > 0).sum(0).max()) == (4, 3)
    z = torch.randn(2, 32, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixed = Mixer(Topology.from_matrix(w), 32, torch.float64, "cpu")(z, 0)
    assert torch.allclose(mixed, w @ z, atol=1e-14)


def test_bytes_of_a_graph_whose_clients_differ_are_those_of_the_busiest():
    assert Topology("star").bytes_per_round(16, 100) == 6000  # the hub sends to 15, the others to 1
    assert Topology("path").bytes_per_round(16, 100) == 800
