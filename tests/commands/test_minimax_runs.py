"""Whole runs of local-sgda, local-dsgda and stability: artefacts, fresh processes, resume, torchrun, user files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from manyone.data.tables.partitions import partition
from manyone.data.tables.tables import split_table
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.minimax.artefact import load
from manyone.minimax.method import DistributedSGDA
from manyone.minimax.predict import Scaling, build_network
from manyone.minimax.ranks.distributed import TorchDistributed
from manyone.minimax.ranks.failures import Membership
from manyone.minimax.recipes import run as runner
from manyone.minimax.recipes.build import rounds, sweeps
from manyone.minimax.recipes.learner import RoundLearner
from manyone.minimax.recipes.options import LocalDSGDAOptions, LocalSGDAOptions, StabilityOptions
from manyone.minimax.recipes.problem import load_case, open_table

QUICK = ("--rounds", 4, "--clients", 4, "--local-steps", 2)


def lines(path):
    """The metrics without the wall-clock values."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in r.items() if k != "time"} for r in records]


def test_the_defaults_learn_on_real_data_and_a_fresh_process_predicts(manyone, process, tmp_path):
    from sklearn.datasets import load_breast_cancer
    from sklearn.metrics import roc_auc_score

    code, out, err = manyone("run", "local-sgda", "--rounds", 30, "--out", "r")
    assert code == 0, err
    assert "auc" in out
    final = lines(tmp_path / "r/metrics.jsonl")[-1]
    assert final["kind"] == "final"
    assert final["test/auc"] > 0.95
    assert final["consensus_error"] < 1e-5
    data = load_breast_cancer()
    script = (
        "import numpy, sys; from manyone.minimax.artefact import load; from sklearn.datasets import load_breast_cancer;"
        "m = load('r/model'); numpy.save('p.npy', m.predict_proba(load_breast_cancer().data));"
        "assert 'manyone.engine.loop' not in sys.modules"
    )
    assert process("-c", script).wait() == 0
    found = np.load(tmp_path / "p.npy")
    model = load(tmp_path / "r/model")
    assert np.array_equal(found, model.predict_proba(data.data))
    assert np.allclose(found.sum(1), 1)
    assert model.classes_.tolist() == ["benign", "malignant"]
    names = data.target_names[data.target]
    assert roc_auc_score(names == "malignant", model.decision_function(data.data)) > 0.97
    assert model.score(data.data, names) > 0.9
    assert roc_auc_score(names == "malignant", found[:, 1]) > 0.97
    code, out, _ = manyone("eval", "r")
    assert code == 0
    assert f"{final['test/auc']:.6g}" in out


@pytest.mark.parametrize(
    "words",
    [
        ("auc", "--model", "mlp", "--hidden", 8, "--form", "aucm", "--partition", "dirichlet"),
        ("auc", "--topology", "hierarchical:2:2", "--output", "time-average", "--decay"),
        ("auc", "--participation", 0.5, "--weighting", "average", "--local-step", "extragradient"),
        ("auc", "--form", "aucm", "--margin", 0.5, "--running-p", "--outer-lr", 0.7, "--outer-momentum", 0.9),
        ("auc", "--topology", "exponential", "--failures", 0.3, "--push-sum"),
        ("auc", "--topology", "ring", "--order", "combine-then-adapt"),
        ("gan", "--batch-size", 4, "--hidden", 8, "--eta-x", 0.05),
        ("agnostic", "--clients", 10, "--batch-size", 4),
        ("group-dro", "--batch-size", 4, "--rho", 0.1),
        ("neyman-pearson", "--model", "mlp", "--hidden", 8),
    ],
    ids=lambda w: "-".join(map(str, w[:3])),
)
def test_every_problem_runs_and_leaves_a_model_that_works(manyone, tmp_path, words):
    code, _, err = manyone("run", "local-sgda", *QUICK, "--out", "r", "--problem", *words)
    assert code == 0, err
    model = load(tmp_path / "r/model")
    if words[0] == "gan":
        assert model.sample(3).shape == (3, 64)
        assert np.array_equal(model.sample(3, seed=1), model.sample(3, seed=1))
    else:
        width = model.n_features_in_
        proba = model.predict_proba(np.random.default_rng(0).normal(size=(5, width)))
        assert proba.shape == (5, len(model.classes_))
        assert np.allclose(proba.sum(1), 1)
    final = lines(tmp_path / "r/metrics.jsonl")[-1]
    assert all(np.isfinite(v) for v in final.values() if isinstance(v, float))


@pytest.mark.parametrize("ending", ["csv", "libsvm"])
def test_a_users_own_file(manyone, tmp_path, ending):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    y = np.where(x[:, 0] + 0.1 * rng.normal(size=120) > 0.5, "ill", "well")
    if ending == "csv":
        rows = [",".join([*(f"{v:.4f}" for v in row), word]) for row, word in zip(x, y)]
        (tmp_path / "my.csv").write_text("\n".join(["a,b,c,y", *rows]) + "\n")
        words = ("--data", "my.csv", "--label", "y")
    else:
        rows = [f"{1 if word == 'ill' else -1} 1:{r[0]:.4f} 2:{r[1]:.4f} 3:{r[2]:.4f}" for r, word in zip(x, y)]
        (tmp_path / "my.libsvm").write_text("\n".join(rows) + "\n")
        words = ("--data", "my.libsvm")
    code, _, err = manyone("run", "local-dsgda", "--clients", 4, "--rounds", 20, "--out", "r", *words)
    assert code == 0, err
    model = load(tmp_path / "r/model")
    ill = "ill" if ending == "csv" else "1"
    assert model.classes_[1] == ill
    assert (
        (model.decision_function(x)[:, None] - model.decision_function(x)[None])[np.ix_(y == "ill", y == "well")] > 0
    ).mean() > 0.95


def test_a_run_cut_in_the_middle_goes_on_bit_for_bit(manyone, tmp_path, monkeypatch):
    words = ("--topology", "star", "--local-step", "adam", "--eta-x", 0.01, "--eta-y", 0.01, "--failures", 0.2,
             "--clients", 5, "--rounds", 12, "--local-steps", 3, "--checkpoint-every", 4,
             "--evaluate-every", 3)  # fmt: skip
    assert manyone("run", "local-dsgda", *words, "--out", "whole")[0] == 0
    step = RoundLearner.step

    def fails(self):
        if self.rounds_done == 7:
            raise ManyoneError("the power is gone")
        return step(self)

    monkeypatch.setattr(RoundLearner, "step", fails)
    assert manyone("run", "local-dsgda", *words, "--out", "cut")[0] == 2
    monkeypatch.setattr(RoundLearner, "step", step)
    assert manyone("resume", "cut")[0] == 0
    assert lines(tmp_path / "cut/metrics.jsonl") == lines(tmp_path / "whole/metrics.jsonl")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "cut/model" / name).read_bytes() == (tmp_path / "whole/model" / name).read_bytes()


def test_under_torchrun_the_ranks_follow_the_simulation_and_resume(manyone, tmp_path, shared_cache):
    words = [
        "--topology",
        "ring",
        "--clients",
        "5",
        "--rounds",
        "6",
        "--precision",
        "64-true",
        "--checkpoint-every",
        "3",
    ]
    assert manyone("run", "local-dsgda", *words, "--out", "one")[0] == 0
    source = os.pathsep.join(p for p in sys.path if p)
    environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "manyone"]
    subprocess.run([*start, "run", "local-dsgda", *words, "--out", "two"], cwd=tmp_path, env=environment, check=True,
                   capture_output=True, timeout=200)  # fmt: skip
    one, two = (load_file(tmp_path / name / "model/model.safetensors") for name in ("one", "two"))
    assert max(float((one[k] - two[k]).abs().max()) for k in one) <= 1e-12
    losses = [
        [r["loss"] for r in lines(tmp_path / n / "metrics.jsonl") if r["kind"] == "train"] for n in ("one", "two")
    ]
    assert np.allclose(*losses, rtol=0, atol=1e-12)
    assert len(losses[1]) == 6
    code, _, err = manyone("eval", "two")
    assert code == 0, err


def test_a_distributed_state_fits_any_number_of_ranks_and_refuses_another_run(tmp_path):
    """One rank in this process: the state of a TorchDistributed run restores bit for bit."""
    case = load_case(LocalSGDAOptions(clients=4, rounds=6, precision="64-true"))
    os.environ.update({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"})
    membership = Membership.join()
    try:

        def make(**words):
            method = DistributedSGDA(topology="ring", rounds=6, local_step="heavy-ball")
            return TorchDistributed(case.problem, case.data(), method, dtype=torch.float64, membership=membership,
                                    **words)  # fmt: skip

        whole, first, second = make(), make(), make()
        whole.run()
        first.run(4)
        second.load_state_dict(first.state_dict())
        second.run()
        assert torch.equal(second.z, whole.z)
        with pytest.raises(ManyoneError, match="other options"):
            make(seed=5).load_state_dict(first.state_dict())
    finally:
        membership.leave()
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name)


def test_dry_runs_tell_the_plan_and_write_nothing(manyone, tmp_path):
    code, out, _ = manyone("run", "local-dsgda", "--clients", 8, "--dry-run")
    assert code == 0
    assert "spectral gap 0.195" in out
    assert "8 clients" in out
    code, out, _ = manyone("run", "stability", "--data", "breast-cancer", "--test", 50, "--clients", 4, "--samples", 20,
                           "--sweep-clients", 2, 4, "--sweep-samples", 10, 20, "--dry-run")  # fmt: skip
    assert code == 0
    assert "in one program" in out
    assert list(tmp_path.iterdir()) == []


STABILITY = ("--data", "breast-cancer", "--test", 100, "--replicas", 3, "--clients", 4, "--samples", 20, "--rounds", 5,
             "--sweep-steps", 1, 4, "--sweep-clients", 2, 4, 8, "--sweep-samples", 10, 20, "--sweep-eta", 0.1, 0.3,
             "--sweep-topology", "complete", "ring")  # fmt: skip


def test_a_stability_run_reports_trends_plots_and_every_replica(manyone, tmp_path):
    code, out, err = manyone("run", "stability", *STABILITY, "--out", "s")
    assert code == 0, err
    assert "slope of its logarithm" in out
    assert "ring, by-class" in out
    page = (tmp_path / "s/stability.html").read_text()
    for words in ("gap and optimisation error against K", "best population risk", "over rounds, by topology", "Trends"):
        assert words in page
    assert (tmp_path / "s/topologies.png").read_bytes().startswith(b"\x89PNG")
    points = json.loads((tmp_path / "s/model/points.json").read_text())["points"]
    assert len(points) == 2 + 3 + 2 + 2 + 4
    assert all(len(p["final"]["delta_mean"]) == 3 for p in points)
    same = [p["final"] for p in points if p["variant"] in ("m4", "n20", "eta0.1")]
    assert same[0] == same[1] == same[2]  # one grid point, computed once


def test_a_run_of_version_0_1_goes_on_although_it_left_options_open(manyone, tmp_path):
    words = ("--problem", "gan", "--test", 100, "--replicas", 2, "--clients", 4, "--samples", 20, "--rounds", 2,
             "--sweep-samples", "--sweep-clients", "--sweep-topology", "--sweep-eta")  # fmt: skip
    assert manyone("run", "stability", *words, "--out", "s")[0] == 0
    config = yaml.safe_load((tmp_path / "s/config.yaml").read_text())
    options = config["options"] | dict.fromkeys(("data", "eta", "batch", "sweep_steps"))
    for name in ("scale", "hidden", "latent", "topology", "partition", "sweep_partition"):
        del options[name]  # not an option then
    options["precision"] = "32-true"  # said so, and computed in double
    (tmp_path / "s/config.yaml").write_text(yaml.safe_dump(config | {"options": options}))
    points = (tmp_path / "s/model/points.json").read_bytes()
    shutil.rmtree(tmp_path / "s/checkpoints/step-00000100")
    (tmp_path / "s/done").unlink()
    assert manyone("resume", "s")[0] == 0
    assert (tmp_path / "s/model/points.json").read_bytes() == points


@pytest.mark.parametrize(("precision", "width"), [("64-true", torch.float64), ("32-true", torch.float32)])
def test_a_stability_run_computes_in_the_precision_that_it_says(precision, width):
    given = {"data": "breast-cancer", "test": 50, "replicas": 1, "clients": 2, "samples": 10, "sweep_steps": (1,),
             "sweep_clients": (2,), "sweep_samples": (10,), "sweep_eta": (0.1,), "sweep_topology": ()}  # fmt: skip
    assert sweeps(StabilityOptions(**given, precision=precision)).lab.simulated.z.dtype == width
    assert sweeps(StabilityOptions(**given, precision=precision, device="cpu")).lab.simulated.device.type == "cpu"


def test_the_control_of_a_stability_run_is_exactly_zero(manyone, tmp_path):
    assert manyone("run", "stability", *STABILITY, "--neighbour", "none", "--out", "s")[0] == 0
    for point in json.loads((tmp_path / "s/model/points.json").read_text())["points"]:
        for name in ("delta_mean", "delta_avg", "delta_own"):
            assert set(point["final"][name]) == {0.0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--clients", 0), "--clients 0: must be 1 or more"),
        (("--eta-x", 0), "--eta-x 0.0: must be above 0"),
        (("--topology", "rings"), "--topology rings: choose one of server"),
        (("--topology", "hierarchical"), "give the group size"),
        (("--precision", "16-mixed"), "Expected one of ('32-true', '64-true')"),
        (("--clients", 500), "take fewer clients"),
        (("--data", "missing.csv", "--label", "y"), "missing.csv"),
        (("--data", "digits"), "digits has 10 classes"),
        (("--participation", 0.5, "--topology", "ring"), "participation is for topology 'server'"),
        (("--local-step", "euler"), "local step 'euler'"),
        (("--device", "tpu"), "device 'tpu' is unknown"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(manyone, words, message):
    code, _, err = manyone("run", "local-sgda", *words)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_bad_rows_and_damaged_models_are_named(manyone, tmp_path):
    assert manyone("run", "local-sgda", *QUICK, "--out", "r")[0] == 0
    model = load(tmp_path / "r/model")
    with pytest.raises(ValueError, match="X has 3 features, but DistributedAUCClassifier is expecting 30"):
        model.predict(np.zeros((2, 3)))  # scikit-learn's words: the model is one of its estimators
    rows = np.zeros((2, 30))
    rows[1, 4] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        model.predict(rows)
    with pytest.raises(ManyoneError, match=r"rows of shape \[2, 3\]: this model takes \[n, 30\]"):
        model.model_.predict(np.zeros((2, 3)))
    with pytest.raises(ManyoneError, match="row 1 holds NaN"):
        model.model_.predict(rows)
    with pytest.raises(ManyoneError, match=r"no config\.json, so this is not a minimax model"):
        load(tmp_path)
    (tmp_path / "r/model/config.json").write_text("{}")
    with pytest.raises(ManyoneError, match="not a minimax model"):
        load(tmp_path / "r/model")
    with pytest.raises(ManyoneError, match="activation 'swish'"):
        build_network([2, 3, 1], activation="swish")


def test_scaling_is_that_of_the_tables():
    from manyone.data.tables.tables import load_table, prepare, split_table

    table = load_table("breast-cancer", dtype=torch.float64)
    train, test = split_table(table, test=0.2, seed=0)
    for scale in ("none", "standard", "rows", "standard-rows"):
        scaling = Scaling.fit(train.features, scale)
        for mine, theirs in zip((train, test), prepare(table, test=0.2, seed=0, scale=scale)):
            torch.testing.assert_close(scaling(mine.features), theirs.features, rtol=0, atol=1e-12)


def write_table(path, seed=0):
    """120 rows of three columns and a label; other seeds shuffle the labels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    y = np.random.default_rng(seed).permutation(np.where(x[:, 0] > 0.5, "ill", "well")) if seed else x[:, 0] > 0.5
    path.write_text("a,b,c,y\n" + "".join(f"{r[0]:.4f},{r[1]:.4f},{r[2]:.4f},{w}\n" for r, w in zip(x, y)))


@pytest.mark.parametrize("recipe", ["local-dsgda", "stability"])
def test_a_run_notices_that_its_data_have_changed(manyone, tmp_path, recipe):
    write_table(tmp_path / "my.csv")
    words = ("--rounds", 4, "--clients", 4) if recipe == "local-dsgda" else (
        "--replicas", 1, "--clients", 2, "--samples", 8, "--test", 40, "--rounds", 2, "--sweep-steps", 1,
        "--sweep-clients", "--sweep-samples", "--sweep-eta", "--sweep-topology", "--checkpoint-every", 50)  # fmt: skip
    assert manyone("run", recipe, "--data", "my.csv", "--label", "y", *words, "--out", "r")[0] == 0
    config = yaml.safe_load((tmp_path / "r/config.yaml").read_text())
    assert config["options"]["data"] == str(tmp_path / "my.csv")
    (tmp_path / "r/done").unlink()
    before = sorted(tmp_path.rglob("*"))
    for change in (lambda p: write_table(p, seed=1), lambda p: p.write_text("\n".join(p.read_text().split("\n")[:-4]))):
        write_table(tmp_path / "my.csv")
        change(tmp_path / "my.csv")
        for verb in ("resume",) if recipe == "stability" else ("resume", "eval"):
            code, _, err = manyone(verb, "r")
            assert code == 2
            assert len(re.findall(r"[0-9a-f]{12}…", err)) == 2
            assert "my.csv" in err
    assert sorted(tmp_path.rglob("*")) == before
    write_table(tmp_path / "my.csv")
    assert manyone("resume", "r")[0] == 0


def test_a_run_notices_that_its_graph_has_changed_and_refuses_one_in_pieces(manyone, tmp_path):
    (tmp_path / "ring.txt").write_text("0 1\n1 2\n2 3\n3 0\n")
    words = ("run", "local-dsgda", "--clients", 4, "--rounds", 2, "--topology", "ring.txt")
    assert manyone(*words, "--out", "r")[0] == 0
    (tmp_path / "ring.txt").write_text("0 1\n1 2\n2 3\n")
    code, _, err = manyone("eval", "r")
    assert (code, "--topology" in err) == (2, True)
    (tmp_path / "ring.txt").write_text("0 1\n2 3\n")
    code, _, err = manyone(*words, "--out", "q")
    assert code == 2
    assert "no path leads from client 0 to client 2, 3 of 4" in err
    assert not (tmp_path / "q").exists()


def test_an_edge_list_is_a_topology(tmp_path):
    (tmp_path / "edges").write_text("0 1\n1 2\n2 3\n")
    options = LocalDSGDAOptions(topology=str(tmp_path / "edges"), clients=4, rounds=3)
    learner = rounds(options, load_case(options), "local-dsgda")
    learner.step()
    path = LocalDSGDAOptions(topology="path", clients=4, rounds=3)
    same = rounds(path, load_case(path), "local-dsgda")
    same.step()
    assert torch.equal(learner.model(), same.model())
    assert not learner.real
    run = RunFolder.create(tmp_path / "r", "local-dsgda", path)
    with pytest.raises(ManyoneError, match="no validation split"):
        runner.evaluate(path, rounds, run, "val")


def test_a_table_as_people_have_it(manyone, tmp_path):
    """Semicolons, decimal commas, words, missing cells, real clients, patients with several rows."""
    rng = np.random.default_rng(0)
    rows = ["# from the ward;book", "hospital;patient;note;age;dose;sex;died"]
    for i in range(240):
        age, sick = rng.normal(60, 10), int(rng.random() < 0.3)
        dose = "" if i % 10 == 0 else f"{sick + rng.normal() / 3:.3f}".replace(".", ",")
        rows.append(f"H{i % 3};P{i // 4};free text;{age:.1f}".replace(".", ",") + f";{dose};{'fm'[i % 2]};{sick}.0")
    (tmp_path / "ward.csv").write_text("\n".join(rows) + "\n")
    words = ("--data", "ward.csv", "--label", "died", "--client-column", "hospital", "--group", "patient",
             "--drop", "note", "--categories", "one-hot", "--decimal", ",", "--rounds", 30)  # fmt: skip
    code, _, err = manyone("run", "local-sgda", *words, "--out", "r")
    assert code == 2
    assert "column 'dose', row 1 is empty" in err
    assert "--missing median" in err
    assert not (tmp_path / "r").exists()
    code, out, err = manyone("run", "local-sgda", *words, "--missing", "median", "--dry-run")
    assert code == 0, err
    assert "3 clients with" in out
    code, _, err = manyone("run", "local-sgda", *words, "--missing", "median", "--out", "r")
    assert code == 0, err
    assert "ward.csv: 1 comment lines (#) left out; 24 missing cells (dose 24) will be filled in with the median" in err
    assert lines(tmp_path / "r/metrics.jsonl")[-1]["test/auc"] > 0.9
    config = json.loads((tmp_path / "r/model/config.json").read_text())
    assert config["clients"] == 3
    assert config["network"]["widths"] == [4]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--client-column", "site", "--per-client", 3), "--per-client 3: must be left out with --client-column"),
        (("--client-column", "site", "--partition", "iid"), "--partition iid: must be left out with --client-column"),
        (("--client-column", "site"), "breast-cancer has its own columns and labels; client_column is for a file"),
    ],
)
def test_table_options_that_do_not_fit_together_are_refused(manyone, tmp_path, words, message):
    code, _, err = manyone("run", "local-sgda", *words, "--out", "r")
    assert code == 2
    assert message in err
    assert not (tmp_path / "r").exists()


def test_fills_are_of_the_rows_that_clients_hold(tmp_path):
    """With --per-client the other training rows are nobody's: the median of all of them would be about 50."""
    rows = "".join(f"{'' if i % 2 else i},{i % 3 // 2}\n" for i in range(100))
    (tmp_path / "t.csv").write_text("x,y\n" + rows)
    options = LocalSGDAOptions(data=str(tmp_path / "t.csv"), label="y", missing="median", clients=2, per_client=5)
    train, _ = split_table(open_table(options), test=options.test, seed=0, fill=False)
    held = torch.cat(partition(train.labels, 2, seed=0, per_client=5))
    case = load_case(options)
    assert case.train.raw.encoding.columns[0].fill == train.features[held, 0].nanquantile(0.5)
    assert not case.test.raw.features.isnan().any()


def test_stability_reads_files_as_the_runs_do(manyone, tmp_path):
    rows = "".join(f"{i % 7 or 'NA'};{i % 5};{'yes' if i % 2 else 'no'}\n" for i in range(120))
    (tmp_path / "t.csv").write_text("a;b;y\n" + rows)
    words = ("--data", "t.csv", "--label", "y", "--sweep-steps", 1, "--sweep-clients", "--sweep-samples",
             "--sweep-eta", "--sweep-topology", "--clients", 2, "--samples", 10,
             "--rounds", 2, "--replicas", 2, "--test", 20)  # fmt: skip
    assert manyone("run", "stability", *words, "--out", "r")[0] == 2
    code, _, err = manyone("run", "stability", *words, "--missing", "mean", "--out", "r")
    assert code == 0, err


def test_ranks_wait_as_long_as_the_option_says(monkeypatch):
    asked = {}

    def join(**words):
        asked.update(words)
        raise ManyoneError("joined")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(Membership, "join", join)
    o = LocalSGDAOptions(timeout=7.5)
    with pytest.raises(ManyoneError, match="joined"):
        rounds(o, load_case(o), "local-sgda")
    assert asked["timeout"] == 7.5
