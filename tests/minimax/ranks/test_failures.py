"""Ranks that die or hang: who is left agrees, repairs the matrix and goes on with the right numbers."""

import os
import socket
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.minimax.ranks.rank_programs import DOUBLE, auc_problem

from manyone.errors import ManyoneError
from manyone.minimax.method import DistributedSGDA
from manyone.minimax.mixing.topology import Topology, contraction
from manyone.minimax.ranks.checkpoints import load_newest, save_rows
from manyone.minimax.ranks.exchange import RankLayout, surviving_weights
from manyone.minimax.ranks.failures import Membership
from manyone.minimax.ranks.launch import launch, main
from manyone.minimax.simulated import Simulated


def _mask(m, gone):
    alive = torch.ones(m, dtype=torch.bool)
    alive[list(gone)] = False
    return alive


def test_survivors_of_a_killed_and_of_a_hanging_rank_go_on_from_the_start_of_the_round(tmp_path, monkeypatch):
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[2] / "src"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    codes = launch([sys.executable, str(here / "surviving_rank.py"), "ring", str(tmp_path)], 4, quorum=2)
    assert codes == {0: -9, 1: 0, 2: -9, 3: 0}  # rank 0 slept; the launcher ended it when the others had left it

    # The same in one process: 3 rounds of the ring of 8; 3 rounds of what is left of it without clients 4 and 5 (a
    # path); then without 0 and 1 it falls apart, so that a ring of the last four is built anew.
    expected = Simulated(*auc_problem(), DistributedSGDA(topology="ring", steps=3, rounds=10), **DOUBLE)
    for gone, until in (([], 3), ([4, 5], 6), ([4, 5, 0, 1], 10)):
        ring = Topology("ring")
        matrix = ring.weights(0, 8) if not gone else surviving_weights(ring, _mask(8, gone))(0)
        then = Simulated(
            *auc_problem(), DistributedSGDA(topology=Topology.from_matrix(matrix), steps=3, rounds=10), **DOUBLE
        )
        then.load_state_dict(expected.state_dict())
        then.round(until - 1)
        expected = then
    for rank in (1, 3):
        found = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        assert found["clients"] == [2, 3, 6, 7]
        assert [(x["round"], x["ranks"], x["clients"]) for x in found["losses"]] == [(3, [2], 6), (6, [0], 4)]
        assert (found["state"] - expected.state()[:, :, [2, 3, 6, 7]]).abs().max() <= 1e-12
        assert torch.isfinite(found["consensus"]).all()
        assert found["released"] == [True, True]


@pytest.mark.parametrize("name", ["complete", "ring", "star", "torus", "exponential", "one-peer-exponential"])
@pytest.mark.parametrize("gone", [[1], [0, 3], [0, 1, 2]])
def test_repaired_matrices_are_doubly_stochastic_keep_the_lost_and_connect_the_survivors(name, gone):
    alive = _mask(8, gone)
    weights = surviving_weights(Topology(name), alive)
    product = torch.eye(8, dtype=torch.float64)
    for t in range(4):
        w = weights(t)
        assert (w >= 0).all()
        assert (w.sum(0) - 1).abs().max() <= 1e-12
        assert (w.sum(1) - 1).abs().max() <= 1e-12
        assert torch.equal(w[gone], torch.eye(8, dtype=torch.float64)[gone])
        product = w @ product
    assert contraction(product[alive][:, alive]) < 1 - 1e-6


def test_a_ring_that_stays_connected_is_repaired_and_one_that_falls_apart_is_built_anew():
    path = surviving_weights(Topology("ring"), _mask(8, [0]))(0)
    assert path[1, 1] == pytest.approx(2 / 3)  # client 1 keeps what it gave to client 0
    assert path[1, 7] == 0
    ring = surviving_weights(Topology("ring"), _mask(8, [0, 3]))(0)
    assert ring[2, 4] == pytest.approx(1 / 3)  # clients 2 and 4 are neighbours now


def test_a_directed_matrix_of_the_user_cannot_be_repaired():
    shift = torch.roll(torch.eye(4, dtype=torch.float64), 1, 0) / 2 + torch.eye(4, dtype=torch.float64) / 2
    with pytest.raises(ManyoneError, match="directed matrix"):
        surviving_weights(Topology.from_matrix(shift), _mask(4, [1]))


def test_survivors_agree_on_one_list_and_the_earliest_round_without_waiting_for_the_dead():
    store = dist.HashStore()
    store.set("dead/2", "-9")
    found = {}

    def survivor(rank, round_):
        found[rank] = _member(rank, store, timeout=30)._agree(round_)

    threads = [threading.Thread(target=survivor, args=(r, t)) for r, t in ((0, 6), (1, 5), (3, 6))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert found == dict.fromkeys((0, 1, 3), ((0, 1, 3), 5))


def test_a_rank_that_answers_after_the_decision_is_left_behind():
    store = dist.HashStore()
    assert _member(1, store, timeout=0.1)._agree(4) == ((1,), 4)  # nobody else answered in time
    survivors, _ = _member(3, store, timeout=0.1)._agree(4)
    assert survivors == (1,)
    assert store.check(["lost/3"])


def _member(rank, store, timeout):
    member = Membership(rank, (0, 1, 2, 3), None, timeout, store)
    member.generation = 1
    return member


def test_layouts_are_even_or_as_given():
    assert RankLayout.of(8, 3).counts == (3, 3, 2)
    assert RankLayout.of(8, 2, 4).counts == (4, 4)
    assert list(RankLayout.of(8, 2, [3, 5]).rows(1)) == [3, 4, 5, 6, 7]
    for bad in ({"per_rank": 3}, {"per_rank": [8, 0]}, {"per_rank": [4, 4, 0]}):
        with pytest.raises(ManyoneError, match="clients_per_rank"):
            RankLayout.of(8, 2, **bad)
    with pytest.raises(ManyoneError, match="every rank needs one; start 2 ranks"):
        RankLayout.of(2, 3)


def test_checkpoints_keep_two_states_and_give_lost_clients_the_mean(tmp_path):
    for t in (1, 2, 3):
        meta = {"round": t, "clients": 4, "settings": 7}
        rows = {"z": torch.arange(6.0).view(1, 3, 2) + t}
        save_rows(tmp_path, meta, range(1, 4), rows, {"shared/a": torch.ones(1)}, first=True, barrier=lambda: None)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["round-000002", "round-000003"]
    meta, tensors = load_newest(tmp_path, range(2), 7)
    assert meta["round"] == 3
    assert tensors["z"].tolist() == [[[5.0, 6.0], [3.0, 4.0]]]  # client 0 was lost: the mean of 1, 2, 3
    assert tensors["shared/a"].tolist() == [1.0]
    with pytest.raises(ManyoneError, match="other options or data"):
        load_newest(tmp_path, range(2), 8)
    for number, expected in ((3, 2), (2, None)):  # a single bit, which safetensors does not notice
        file = next(iter((tmp_path / f"round-00000{number}").glob("*.safetensors")))
        data = bytearray(file.read_bytes())
        data[-3] ^= 64
        file.write_bytes(data)
        if expected is not None:
            assert load_newest(tmp_path, range(2), 7)[0]["round"] == expected
    with pytest.raises(ManyoneError, match=r"damaged checkpoint .*SHA-256"):
        load_newest(tmp_path, range(2), 7)


def test_outside_of_a_launcher_the_environment_is_asked_for(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ManyoneError, match="start it with torchrun or"):
        Membership.join()


@pytest.mark.parametrize("code", [0, 3])
def test_the_first_node_keeps_the_store_until_the_others_have_ended(code):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    lasts = (
        f"import os, sys, time; time.sleep(3 * int(os.environ['RANK'])); sys.exit({code} * (os.environ['RANK'] == '0'))"
    )
    found = {}

    def node(number):
        try:
            found[number] = launch([sys.executable, "-c", lasts], 1, nodes=2, node=number, address=address)
        except ManyoneError as problem:
            found[number] = str(problem)

    threads = [threading.Thread(target=node, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found[1] == {1: 0}
    assert found[0] == ({0: 0} if code == 0 else "0 of 1 ranks ended well, at least 1 must: see their errors above")


REACHED = """
import os, socket, sys
for host in sys.argv[1:]:
    try:
        socket.create_connection((host, int(os.environ["MASTER_PORT"])), 5).close()
        sys.exit(1)
    except ConnectionRefusedError:
        pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.0.0/8 on the loopback interface")
def test_the_store_listens_on_the_named_address_alone(capfd):
    assert launch([sys.executable, "-c", REACHED, "127.0.0.2"], 1) == {0: 0}
    assert launch([sys.executable, "-c", REACHED, "127.0.0.1"], 1, address="127.0.0.3:0", host="127.0.0.3") == {0: 0}
    assert main(["--ranks", "1", "--store", "192.0.2.1:29500", "x.py"]) == 2
    assert "cannot listen on 192.0.2.1:29500" in capfd.readouterr().err


def test_the_launcher_reports_how_ranks_ended(capfd):
    code = "import os, sys; sys.exit(3 if os.environ['RANK'] == '1' else 0)"
    assert launch([sys.executable, "-c", code], 2) == {0: 0, 1: 3}
    assert "rank 1 ended with code 3" in capfd.readouterr().err
    with pytest.raises(ManyoneError, match="1 of 2 ranks ended well, at least 2 must"):
        launch([sys.executable, "-c", code], 2, quorum=2)
    assert main(["--ranks", "1", "--nodes", "2", "x.py"]) == 2
    assert "need --store HOST:PORT" in capfd.readouterr().err
