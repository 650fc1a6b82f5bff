"""Real ranks against the simulation: the same numbers for every topology, option and deal of clients; exact resume."""

import pytest
import torch
from tests.minimax.ranks.rank_programs import (
    DOUBLE,
    OPTIONS,
    TOPOLOGIES,
    auc_problem,
    dies_once,
    everything,
    option_arguments,
    torchrun,
)

from manyone.minimax.simulated import Simulated


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """The results of eight gloo processes, rank -> what it found."""
    return torchrun(everything, 8, str(tmp_path_factory.mktemp("checkpoints")))


def _simulated(*arguments, **options):
    run = Simulated(*arguments, **options)
    run.run()
    return run


def _difference(results, key, expected):
    found = [r[key] for r in results.values() if key in r]
    assert found
    assert all(torch.isfinite(f).all() for f in found)
    return max(float((f - expected).abs().max()) for f in found)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_eight_processes_follow_the_simulation_in_float64(eight, model, topology):
    simulated = _simulated(*auc_problem(model), topology, steps=5, rounds=10, **DOUBLE)
    assert float(simulated.z.abs().max()) > 0.1
    assert _difference(eight, ("float64", model, topology), simulated.state()) <= 1e-12


def test_eight_processes_follow_the_simulation_in_float32(eight):
    expected = _simulated(*auc_problem("mlp"), "ring", steps=5, rounds=10).state()
    assert _difference(eight, "float32", expected) <= 1e-6


@pytest.mark.parametrize("topology", ["ring", "exponential"])
def test_the_deal_of_clients_to_ranks_changes_nothing(eight, topology):
    expected = _simulated(*auc_problem(), topology, steps=3, rounds=6, **DOUBLE).state()
    for ranks in (2, 3, 4):
        assert _difference(eight, ("layout", ranks, topology), expected) <= 1e-12


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_means_the_same_on_ranks_with_3_and_5_clients(eight, name):
    arguments, options = option_arguments(name)
    expected = Simulated(*arguments, **options)
    expected.run(record_every=2)
    assert _difference(eight, ("option", name), expected.state()) <= 1e-12
    for record, found in zip(expected.records, eight[0]["records", name], strict=True):
        assert found["round"] == record["round"]
        assert torch.allclose(found["norm"], record["norm"], atol=1e-12)
        assert torch.allclose(found["consensus"], record["consensus"], atol=1e-12)


def test_the_time_average_is_that_of_the_simulation(eight):
    arguments, options = option_arguments("replicas")
    assert _difference(eight, "time average", _simulated(*arguments, **options).time_average()) <= 1e-12


def test_a_rank_needs_the_samples_of_its_own_clients_only(eight):
    expected = _simulated(*auc_problem(uneven=True), "ring", steps=3, rounds=4, weighting="loss", **DOUBLE).state()
    assert _difference(eight, "own data", expected) <= 1e-12


def test_resume_is_bit_for_bit_and_an_unfinished_checkpoint_is_passed_over(eight):
    for result in eight.values():
        assert (result["nothing to resume"], result["resumed at the end"], result["resumed from"]) == (0, 6, 4)
        assert result["resume is exact"]


def test_another_number_of_ranks_resumes_from_the_same_checkpoint(eight):
    assert eight[0]["resumed on 4 ranks from"] == 4
    assert _difference(eight, "resumed on 4 ranks", eight[0]["uninterrupted"]) <= 1e-12


def test_only_rows_that_an_edge_needs_are_sent(eight):
    # Two ranks with four clients: a ring crosses twice, a star's hub hears the other rank's clients.
    assert eight[0]["rows sent"] == {"ring": 2, "star": 1, "isolated": 0, "exponential": 4, "server": 0}
    assert eight[1]["rows sent"]["star"] == 4


def test_ranks_started_with_different_options_are_told(eight):
    for rank in (0, 1):
        assert "rank 1 was started with other options or data than rank 0" in eight[rank]["other options"]


def test_all_ranks_tell_that_a_run_diverged(eight):
    assert len({result["diverged"] for result in eight.values()}) == 1
    assert "no longer finite after round" in eight[0]["diverged"]


def test_periodic_model_averager_with_warmup_k_minus_1_is_local_sgda(eight):
    expected = _simulated(*auc_problem(clients=2), "server", steps=5, rounds=4, **DOUBLE).state()[0, 0]
    found = eight[0]["averager"]
    assert (found[4] - expected).abs().max() <= 1e-12
    assert (found[0] - expected).abs().max() > 1e-4  # without the warm-up it averages one step late


def test_torchrun_restarts_a_killed_job_which_goes_on_from_its_checkpoint(tmp_path):
    results = torchrun(dies_once, 2, str(tmp_path), restarts=1)
    expected = _simulated(*auc_problem(), "ring", steps=3, rounds=8, **DOUBLE).state()
    for restarts, start, state in results.values():
        assert (restarts, start) == (1, 4)
        assert (state - expected).abs().max() <= 1e-12
