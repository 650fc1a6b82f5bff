"""Model folders of every field merged by the command line: what is a weight, what is joined, what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.artefacts import replace_tensors

from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError
from manyone.merging import merge


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Parameters a little away from where they were, as fine-tuning leaves them; the base's (seed 0) stay."""
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.05 * (seed > 0) * torch.randn(value.shape, generator=drawn(seed)))
    return module


# -- one maker a field: a folder of model ``seed``, and what its own loader makes of a folder -------------------------


def episodes(name: str, bound: float = 1.0, scale: float = 1.0) -> Trajectories:
    rng = np.random.default_rng(len(name) + ord(name[-1]))
    each = [{"observations": scale * rng.normal(size=(9, 3)), "actions": rng.uniform(-bound, bound, (9, 2)),
             "rewards": rng.random(9)} for _ in range(4)]  # fmt: skip
    return Trajectories.from_episodes(name, each)


def policy(folder: Path, seed: int, names: tuple[str, ...] = ("a", "b"), method: str = "mt-dt", **options: Any) -> None:
    from manyone.policies import PolicyData, TaskMasks, build_model, maskable_shapes, save_policy

    scale, prompt = options.pop("scale", 1.0), options.pop("prompt", 2)
    data = PolicyData([episodes(name, scale=scale) for name in names], context=4, prompt=prompt, **options)
    model = moved(build_model(method, data, width=8, layers=1, heads=2, max_timestep=12), seed)
    masks = TaskMasks.random(maskable_shapes(model), len(names), 0.5, seed=1) if method == "harmodt" else None
    save_policy(folder, model, data.table, masks, info={"method": method, "seed": seed, "steps": 5})


def acts(folder: Path) -> np.ndarray:
    from manyone.policies import load_policy

    found = load_policy(folder)
    found.reset(list(found.tasks))
    return found.act(np.ones((len(found.tasks), 3), np.float32))


def frame(mean: float = 0.0) -> Any:
    from manyone.behavior.artefact import Frame

    low = -torch.ones(2)
    return Frame("tiny", None, torch.full((3,), mean), torch.ones(3), low, -low, 0, 9)


def students(folder: Path, seed: int, mean: float = 0.0) -> None:
    from manyone.behavior.students.network import StudentSpec, make_student
    from manyone.behavior.students.policies import StudentPolicies, save_policies

    spec = StudentSpec(layers=2, width=4)
    shapes = make_student(spec, 3, 2).tensor_shapes(2)
    weights = {name: torch.randn(shape, generator=drawn(seed)) for name, shape in shapes.items()}
    save_policies(folder, StudentPolicies(frame(mean), spec, weights, {"data": "tiny", "seed": seed}))


def student_acts(folder: Path) -> np.ndarray:
    from manyone.behavior import load_policy

    return load_policy(folder).act(np.ones((2, 3), np.float32))


def teacher(folder: Path, seed: int) -> None:
    from manyone.behavior.teachers.artefact import SavedTeacher, save_teacher
    from manyone.behavior.teachers.networks import Policy, Stack
    from manyone.behavior.teachers.trained import TrainedTeacher

    made = TrainedTeacher("iql", Policy(3, 2, 4, 1, "gaussian", seed=seed), Stack((5, 4, 1), members=2, seed=seed))
    save_teacher(folder, SavedTeacher(made, frame(), {"data": "tiny", "seed": seed, "score": seed / 2}))


def teacher_acts(folder: Path) -> np.ndarray:
    from manyone.behavior.teachers.artefact import read_teacher

    found = read_teacher(folder).teacher
    states = torch.ones(4, 3)
    return found.values(states, found.actions(states)).numpy()


def team(folder: Path, seed: int, kind: str = "commformer") -> None:
    from manyone.envs.teams.types import TeamSpec
    from manyone.teams.artefact import save_team
    from manyone.teams.network.actor_critic import ActorCritic
    from manyone.teams.network.commformer import CommFormer

    spec = TeamSpec("drawn", 3, 5, actions=4, horizon=7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = CommFormer(spec, width=8, dynamic_links=1) if kind == "commformer" else ActorCritic(spec, width=8)
    graph = torch.ones(3, 3) - torch.eye(3)
    save_team(folder, moved(made, seed), graph, spec, {"seed": seed}, program=False)


def team_acts(folder: Path) -> np.ndarray:
    from manyone.teams import load_team

    return load_team(folder).act(np.random.default_rng(0).normal(size=(6, 3, 5)).astype(np.float32))


def classifier(folder: Path, seed: int, flip: bool = False) -> None:
    from manyone.minimax.artefact import save
    from manyone.minimax.estimator import DistributedAUCClassifier

    x = np.random.default_rng(1).normal(size=(60, 3))
    y = np.where((x[:, 0] > 0) ^ flip, "yes", "no" if not flip else "never")
    save(folder, DistributedAUCClassifier(rounds=3, clients=2, random_state=seed).fit(x, y))


def classified(folder: Path) -> np.ndarray:
    from manyone.minimax.artefact import load

    return load(folder).predict_proba(np.random.default_rng(2).normal(size=(5, 3)))  # type: ignore[union-attr]


def scene_map(folder: Path, seed: int, id: str = "vit-random", mean: float = 0.0) -> None:
    from manyone.data.rasters.bands import Band
    from manyone.earth import artefact
    from manyone.earth.embedding import How
    from manyone.earth.encoders.loading import load_encoder
    from manyone.earth.mapping import PixelClassifier
    from manyone.earth.sensors.layer import plan

    bands = tuple(Band(n, c, lam, 60.0, unit="refl") for n, c, lam in
                  [("R", "red", 665.0), ("G", "green", 560.0), ("B", "blue", 490.0)])  # fmt: skip
    encoder = load_encoder(id, "random", bands=bands)
    if hasattr(encoder, "network"):
        moved(encoder.network, seed)
    width = encoder.spec.width
    tensors = {
        "mean": torch.full((width,), mean, dtype=torch.float64), "deviation": torch.ones(width, dtype=torch.float64),
        "weight": torch.randn(2, width, generator=drawn(seed), dtype=torch.float64),
        "bias": torch.zeros(2, dtype=torch.float64), "temperature": torch.tensor(1.0 + seed, dtype=torch.float64),
    }  # fmt: skip
    found = PixelClassifier(("field", "wood"), "linear", tensors)
    model = artefact.MapModel(encoder, plan(bands, encoder.spec), found, How(), id, "random")
    artefact.save(model, folder, "# a map\n\nAccuracy 0.99.\n")


def mapped(folder: Path) -> np.ndarray:
    from manyone.earth import artefact

    found = artefact.load(folder)
    return found.classifier.probabilities(torch.ones(2, found.encoder.spec.width)).numpy()


def vit(folder: Path, seed: int) -> None:
    from manyone.earth.encoders.mae import MaeOptions
    from manyone.earth.encoders.pretraining import MaeLearner
    from manyone.earth.encoders.vit import VitSize

    options = MaeOptions(size=VitSize(width=16, depth=1, heads=2), decoder_width=16, decoder_depth=1)
    learner = MaeLearner([torch.rand(3, 8, 8, generator=drawn(0))], options)
    moved(learner.network.encoder, seed)
    learner.export(folder)


def encoded(folder: Path) -> np.ndarray:
    from manyone.earth.encoders.pretraining import load_pretrained

    return load_pretrained(folder).network.state_dict()["norm.weight"].numpy()


def encoder(folder: Path, seed: int, tasks: tuple[str, ...] = ("base",), wide: int = 2) -> None:
    from manyone.merging.artefact import save
    from manyone.merging.heads import Head
    from manyone.nets import build_encoder

    spec = {"kind": "resmlp", "inputs": 4, "width": 6, "hidden": 8, "depth": 1}
    heads = {task: Head(torch.randn(wide, 6, generator=drawn(len(task)))) for task in tasks}
    save(folder, moved(build_encoder(spec), seed), spec, heads, {"seed": seed})


def headed(folder: Path) -> np.ndarray:
    from manyone.merging import load

    found = load(folder)
    return np.stack([found(torch.ones(1, 4), task).numpy() for task in found.tasks])


def sql(folder: Path, seed: int, **info: Any) -> None:
    from manyone.sql import artefact
    from manyone.sql.models import Size, new_decoder
    from manyone.sql.tokens import train_tokenizer

    tokenizer = train_tokenizer(["SELECT name FROM singer", "SELECT count(*) FROM singer WHERE age > 30"] * 3, 300)
    model = moved(new_decoder(Size(1, 16, 2), len(tokenizer), seed=0, special=tokenizer, longest=64), seed)
    told = {"recipe": "kid", "seed": seed, "scores": {"ex": seed / 4}, "style": "compact", "max_input": 40}
    artefact.save(folder, model, tokenizer, told | info)


def asked(folder: Path) -> np.ndarray:
    from manyone.sql import artefact

    found = artefact.load(folder)
    assert found.info["style"] == "compact"
    return found.model.head.weight.detach().numpy()


@dataclass(frozen=True)
class Field:
    make: Callable[..., None]
    use: Callable[[Path], np.ndarray]
    fixed: tuple[str, ...] = ()
    """Beginnings of the names of tensors that are no weights."""


FIELDS = {
    "policies": Field(policy, acts, ("table.",)),
    "behavior-students": Field(students, student_acts, ("mean", "deviation", "low", "high")),
    "behavior-teacher": Field(teacher, teacher_acts, ("mean", "deviation", "low", "high")),
    "teams": Field(team, team_acts, ("link_scorer.ties",)),
    "teams-actor-critic": Field(lambda f, s: team(f, s, "actor-critic"), team_acts),
    "minimax": Field(classifier, classified, ("scaling/",)),
    "earth-map": Field(scene_map, mapped, ("mean", "deviation")),
    "earth-vit": Field(vit, encoded),
    "merging": Field(encoder, headed, ("head.",)),
    "sql": Field(sql, asked),
}


@pytest.mark.parametrize("name", FIELDS)
def test_models_of_every_field_are_merged_and_used(manyone, tmp_path, name):
    field = FIELDS[name]
    for seed in range(3):
        field.make(tmp_path / str(seed), seed)
    code, _, err = manyone("run", "average", "--base", 0, "--experts", 1, 2, "--out", "out")
    assert code == 0, err
    before, after = ([load_file(tmp_path / f / "model.safetensors") for f in fs] for fs in ("012", ["out/model"]))
    merged = after[0]
    assert set(merged) == set(before[0])
    for key, value in merged.items():
        if key.startswith(field.fixed) or not value.is_floating_point():
            assert torch.equal(value, before[0][key]), key
        else:
            torch.testing.assert_close(value, (before[1][key] + before[2][key]) / 2, rtol=1e-6, atol=1e-7, msg=key)
    assert any(not torch.equal(merged[key], before[0][key]) for key in merged)
    assert np.isfinite(field.use(tmp_path / "out/model")).all()
    assert not np.array_equal(field.use(tmp_path / "out/model"), field.use(tmp_path / "1")) or name == "teams"
    card = (tmp_path / "out/model/README.md").read_text()
    assert "merged by `average`" in card
    assert "`1`" in card
    assert "do not hold" in card
    told = tmp_path / "out/model" / ("manyone.json" if name == "sql" else "config.json")
    config = json.loads(told.read_text())
    assert config["merged"] == {"method": "average", "options": {}, "base": "0", "experts": ["1", "2"]}
    assert not {"score", "scores", "seed"} & config.get("info", config).keys()  # they differ, and are of the experts
    if name != "sql":
        digest = sha256((tmp_path / "out/model/model.safetensors").read_bytes()).hexdigest()
        assert config["tensors_sha256"] == digest
    # what was merged is merged again
    code, _, err = manyone("run", "ties", "--base", 0, "--experts", "out/model", 1, "--density", 0.5, "--out", "two")
    assert code == 0, err
    assert np.isfinite(field.use(tmp_path / "two/model")).all()


@pytest.mark.parametrize("name", FIELDS)
def test_a_model_averaged_with_itself_is_itself(tmp_path, name):
    FIELDS[name].make(tmp_path / "one", 1)
    merge("average", tmp_path / "one", [tmp_path / "one", tmp_path / "one"], out=tmp_path / "out")
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("one", "out"))
    assert set(before) == set(after)
    for key, value in before.items():
        assert value.numpy().tobytes() == after[key].numpy().tobytes(), key
    assert np.array_equal(FIELDS[name].use(tmp_path / "one"), FIELDS[name].use(tmp_path / "out"))


STATIC = [["average"], ["task-arithmetic"], ["ties"], ["dare"], ["slerp"], ["model-stock"], ["tsv-m"], ["iso-c"],
          ["iso-cts"]]  # fmt: skip


@pytest.mark.parametrize("words", [*STATIC, ["mergekit"]], ids=lambda w: w[0])
def test_policies_of_two_tasks_become_one_by_every_static_merge(manyone, tmp_path, words):
    policy(tmp_path / "base", 0, ("c",))
    policy(tmp_path / "a", 1, ("a",))
    policy(tmp_path / "b", 2, ("b",))
    given = ["--base", "base", "--experts", "a", "b"]
    if words == ["mergekit"]:
        text = "merge_method: ties\nbase_model: base\nparameters: {weight: 0.5, density: 0.5}\n"
        (tmp_path / "recipe.yaml").write_text(text + "models: [{model: a}, {model: b}]\n")
        given = ["--recipe", "recipe.yaml"]
    code, _, err = manyone("run", *words, *given, "--dry-run", "--out", "out")
    assert code == 0, err
    assert not (tmp_path / "out").exists()
    assert manyone("run", *words, *given, "--out", "out")[0] == 0
    from manyone.policies import load_policy

    found = load_policy(tmp_path / "out/model")
    assert found.tasks == ("c", "a", "b")
    for row, name in enumerate(found.tasks):
        own = load_policy(tmp_path / {"c": "base"}.get(name, name)).table
        for key, value in own.tensors().items():
            assert torch.equal(found.table.tensors()[key][row], value[0]), key
    assert np.isfinite(acts(tmp_path / "out/model")).all()
    assert "Tasks: c, a, b" in (tmp_path / "out/model/README.md").read_text()
    kept = {name: value.clone() for name, value in found.model.state_dict().items()}
    if words != ["mergekit"]:
        memory = merge(words[0], tmp_path / "base", [tmp_path / "a", tmp_path / "b"])
        assert memory is not None
        assert all(torch.equal(memory[f"model.{name}"], value) for name, value in kept.items())
        assert memory["table.mean"].shape == (3, 3)


def refused(manyone: Any, tmp_path: Path, *experts: str, says: str, more: tuple[str, ...] = ()) -> None:
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    code, _, err = manyone("run", "average", "--base", "base", "--experts", *experts, "--out", "out", *more)
    assert code != 0

    assert re.search(says, err), err
    assert len(err.strip().splitlines()) == 1, err
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


def test_statistics_of_one_task_that_differ_are_refused_with_both_values(manyone, tmp_path):
    policy(tmp_path / "base", 0)
    policy(tmp_path / "other", 1, scale=2.0)
    refused(
        manyone,
        tmp_path,
        "base",
        "other",
        says=r"other\S*: table\.(mean|deviation) of task 'a', entry 0, is \S+, in \S*base\S* \S+:",
    )
    students(tmp_path / "s0/base", 0)
    students(tmp_path / "s0/other", 1, mean=0.5)
    with pytest.raises(ManyoneError, match=r"mean, entry 0, is 0\.5, in \S+ 0: .* --exclude '\^mean\$'"):
        merge("average", tmp_path / "s0/base", [tmp_path / "s0/other"])
    merge("average", tmp_path / "s0/base", [tmp_path / "s0/other"], out=tmp_path / "kept", exclude=["^mean$"])
    assert load_file(tmp_path / "kept/model.safetensors")["mean"].tolist() == [0, 0, 0]
    with pytest.raises(ManyoneError, match=r"--exclude names table\.mean, which has a row a task"):
        merge("average", tmp_path / "base", [tmp_path / "base"], exclude=["mean"])


def test_other_kinds_and_options_are_refused(manyone, tmp_path):
    policy(tmp_path / "base", 0)
    policy(tmp_path / "masked", 1, method="harmodt")
    policy(tmp_path / "tokens", 1, method="id-token")
    students(tmp_path / "students", 0)
    sql(tmp_path / "sql", 0)
    for other, says in (
        ("masked", r"masked/config\.json: (policy|masks)\S* is "),
        ("tokens", r"tokens/config\.json: policy\.config\S* is 2, in \S*base/config\.json 0"),
        ("students", r"students/config\.json: \S+ is "),
        ("sql", r"sql\S*: a model of another library, but \S*base\S* is a model folder of manyone"),
    ):
        refused(manyone, tmp_path, "base", other, says=says)
    shutil.copytree(tmp_path / "base", tmp_path / "kept")
    shutil.rmtree(tmp_path / "base")
    (tmp_path / "base").mkdir()
    shutil.copy(tmp_path / "kept/model.safetensors", tmp_path / "base/model.safetensors")
    refused(manyone, tmp_path, "kept", says=r"base\S*: bare tensors, but \S*kept\S* is a model folder of manyone")


@pytest.mark.parametrize("method", ["harmodt", "id-token"])
def test_what_numbers_its_tasks_is_merged_for_the_same_tasks_alone(tmp_path, method):
    policy(tmp_path / "base", 0, method=method)
    policy(tmp_path / "same", 1, method=method)
    policy(tmp_path / "other", 1, ("a", "c"), method=method)
    merge("average", tmp_path / "base", [tmp_path / "same"], out=tmp_path / "out")
    assert np.array_equal(acts(tmp_path / "out"), acts(tmp_path / "same"))
    with pytest.raises(ManyoneError, match=r"other/config\.json: tasks\[1\] is 'c', in \S+ 'b'"):
        merge("average", tmp_path / "base", [tmp_path / "other"], out=tmp_path / "two")
    if method == "harmodt":  # bits that differ are no numbers to be averaged
        tensors = load_file(tmp_path / "same/model.safetensors")
        tensors["masks.bits"][0, 0] ^= 255
        replace_tensors(tmp_path / "same", tensors)
        with pytest.raises(ManyoneError, match=r"masks\.bits, entry 0, is \d+, in \S+ \d+: it is no weight"):
            merge("average", tmp_path / "base", [tmp_path / "same"], out=tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_bounds_are_each_task_s_own_also_where_a_model_has_none(tmp_path):
    policy(tmp_path / "base", 0, ("a",), prompt=0)
    wide = (np.full(2, -3.0), np.full(2, 3.0))
    policy(tmp_path / "b", 1, ("b",), prompt=0, bounds=[wide])
    policy(tmp_path / "again", 1, ("a",), prompt=0, bounds=[wide])
    assert "table.bounds" not in load_file(tmp_path / "base/model.safetensors")
    merge("average", tmp_path / "base", [tmp_path / "b"], out=tmp_path / "out")
    from manyone.policies import load_policy

    found = load_policy(tmp_path / "out")
    assert found.table.bounds is not None
    assert found.table.bounds.tolist() == [[[-1, -1], [1, 1]], [[-3, -3], [3, 3]]]
    with pytest.raises(ManyoneError, match=r"table\.bounds of task 'a', entry 0, is -3, in \S+ -1"):
        merge("average", tmp_path / "base", [tmp_path / "again"])


def test_policies_of_one_task_that_need_no_telling_are_told_when_they_are_merged(tmp_path):
    """A dense network of one task is saved as one that acts without a task's name."""
    from manyone.policies import PolicyData, build_model, load_policy, save_agnostic

    policy(tmp_path / "base", 0, ("a", "b"), prompt=0)
    for number, name in enumerate(("a", "b"), 1):
        data = PolicyData([episodes(name)], context=4)
        model = moved(build_model("mt-dt", data, width=8, layers=1, heads=2, max_timestep=12), number)
        save_agnostic(tmp_path / name, model, data.table)
    merge("average", tmp_path / "base", [tmp_path / "a", tmp_path / "b"], out=tmp_path / "out")
    both = load_policy(tmp_path / "out")
    assert both.tasks == ("a", "b")
    with pytest.raises(ManyoneError, match="must know its task"):
        both.reset()
    assert np.isfinite(acts(tmp_path / "out")).all()
    merge("average", tmp_path / "a", [tmp_path / "a"], out=tmp_path / "one")
    found, before = load_policy(tmp_path / "one"), load_policy(tmp_path / "a")
    for one in (found, before):
        one.reset()
    assert np.array_equal(found.act(np.ones(3)), before.act(np.ones(3)))


def test_policies_that_are_told_no_task_need_equal_statistics(tmp_path):
    from manyone.policies import PolicyData, build_model, save_agnostic
    from manyone.policies.tasks import POOLED

    for number, names in enumerate((("a", "b"), ("a", "b"), ("a",))):
        data = PolicyData([episodes(name) for name in names], context=4, **POOLED)
        model = build_model("mt-dt", data, width=8, layers=1, heads=2, max_timestep=12)
        save_agnostic(tmp_path / str(number), moved(model, number), data.table)
    merge("average", tmp_path / "0", [tmp_path / "1"], out=tmp_path / "out")
    assert np.isfinite(acts(tmp_path / "out")).all()
    with pytest.raises(ManyoneError, match=r"2/config\.json: tasks is \['a'\], in \S+ \['a', 'b'\]"):
        merge("average", tmp_path / "0", [tmp_path / "2"])


def test_adapted_policies_of_one_frozen_network_are_joined(tmp_path):
    """Nothing is averaged: each task acts with the prompts that were tuned for it."""
    from manyone.policies import PolicyData, build_model
    from manyone.policies.prompt_tuning.acting import save_adapted
    from manyone.policies.prompt_tuning.trained import Acting

    for number, name in enumerate(("a", "b", "c")):
        data = PolicyData([episodes(name)], context=4, prompt=2)
        model = moved(build_model("prompt-dt", data, width=8, layers=1, heads=2, max_timestep=12), number // 2)
        tokens = torch.randn(1, 1, 6, 8, generator=drawn(number))
        save_adapted(tmp_path / name, model, data.table, Acting({}, tokens))
    merge("average", tmp_path / "a", [tmp_path / "b"], out=tmp_path / "out")
    both = acts(tmp_path / "out")
    np.testing.assert_allclose(both, np.concatenate((acts(tmp_path / "a"), acts(tmp_path / "b"))), atol=1e-6)
    with pytest.raises(ManyoneError, match=r"model\.\S+, entry \d+, is \S+, in \S+ \S+: it is no weight"):
        merge("average", tmp_path / "a", [tmp_path / "c"])
    with pytest.raises(ManyoneError, match="no tensor is left to merge"):
        merge("average", tmp_path / "a", [tmp_path / "a"])


def test_heads_of_all_tasks_are_in_the_merged_model(tmp_path):
    encoder(tmp_path / "base", 0, ("base",))
    encoder(tmp_path / "one", 1, ("one", "base"))
    encoder(tmp_path / "two", 2, ("twos",))
    encoder(tmp_path / "odd", 2, ("base",), wide=3)
    merge("task-arithmetic", tmp_path / "base", [tmp_path / "one", tmp_path / "two"], out=tmp_path / "out")
    from manyone.merging import load

    found = load(tmp_path / "out")
    assert found.tasks == ("base", "one", "twos")
    for task, folder in (("base", "base"), ("one", "one"), ("twos", "two")):
        assert torch.equal(found.heads[task].weight, load(tmp_path / folder).heads[task].weight)
    with pytest.raises(ManyoneError, match=r"head\.base\.weight is float32 \[3, 6\], in \S+ float32 \[2, 6\]"):
        merge("average", tmp_path / "base", [tmp_path / "odd"])


def test_what_is_no_set_of_weights_says_what_to_do(tmp_path):
    from manyone.behavior.artefact import Distilled, save_distilled
    from manyone.behavior.inner import InnerLoop
    from manyone.behavior.students.network import StudentSpec

    spec = StudentSpec(layers=2, width=4)
    pairs = Distilled(frame(), torch.zeros(4, 3), torch.zeros(4, 2), spec, InnerLoop(steps=3, lr=0.1))
    save_distilled(tmp_path / "set", pairs)
    with pytest.raises(ManyoneError, match=r"set\S*: cannot be merged: its pairs are data, not weights"):
        merge("average", tmp_path / "set", [tmp_path / "set"])
    scene_map(tmp_path / "map", 0, "cnn-supervised")
    scene_map(tmp_path / "shifted", 0, mean=1.0)
    scene_map(tmp_path / "plain", 0)
    with pytest.raises(ManyoneError, match=r"mean, entry 0, is 1, in \S+ 0"):
        merge("average", tmp_path / "plain", [tmp_path / "shifted"])
    tensors = load_file(tmp_path / "map/model.safetensors")
    shutil.copytree(tmp_path / "map", tmp_path / "other")
    running = next(name for name in tensors if name.endswith("running_mean"))
    replace_tensors(tmp_path / "other", tensors | {running: tensors[running] + 1})
    with pytest.raises(ManyoneError, match=r"running_mean, entry 0, is 1, in \S+ 0: it is no weight"):
        merge("average", tmp_path / "map", [tmp_path / "other"])


def test_classes_and_the_graph_must_be_equal(tmp_path):
    classifier(tmp_path / "base", 0)
    classifier(tmp_path / "flipped", 1, flip=True)
    with pytest.raises(ManyoneError, match=r"flipped/config\.json: \S+ is \S+, in \S+base/config\.json"):
        merge("average", tmp_path / "base", [tmp_path / "flipped"])
    team(tmp_path / "team", 0)
    team(tmp_path / "cut", 1)
    config = json.loads((tmp_path / "cut/config.json").read_text())
    config["graph"][0][1] = 0
    (tmp_path / "cut/config.json").write_text(json.dumps(config))
    with pytest.raises(ManyoneError, match=r"cut/config\.json: graph\[0\]\[1\] is 0, in \S+team/config\.json 1"):
        merge("average", tmp_path / "team", [tmp_path / "cut"])


def without_section(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["merge"]
    (folder / "config.json").write_text(json.dumps(config))


def test_models_of_before_are_merged_where_all_but_the_weights_is_equal(tmp_path):
    for name, names in (("base", ("a",)), ("same", ("a",)), ("other", ("b",))):
        policy(tmp_path / name, 0 if name == "base" else 1, names)
        without_section(tmp_path / name)
    merge("average", tmp_path / "base", [tmp_path / "same"], out=tmp_path / "out")
    assert np.array_equal(acts(tmp_path / "out"), acts(tmp_path / "same"))
    with pytest.raises(ManyoneError, match=r"other/config\.json: tasks\[0\] is 'b', in \S+ 'a'"):
        merge("average", tmp_path / "base", [tmp_path / "other"])
    policy(tmp_path / "new", 1, ("b",))
    with pytest.raises(ManyoneError, match=r"new/config\.json: tasks\[0\] is 'b'"):
        merge("average", tmp_path / "base", [tmp_path / "new"])
    scene_map(tmp_path / "map", 0)
    without_section(tmp_path / "map")
    with pytest.raises(ManyoneError, match="does not say which of its tensors are weights: load and save it"):
        merge("average", tmp_path / "map", [tmp_path / "map"])


def test_damage_is_found_before_anything_is_merged(manyone, tmp_path):
    policy(tmp_path / "base", 0)
    policy(tmp_path / "bad", 1)
    data = bytearray((tmp_path / "bad/model.safetensors").read_bytes())
    data[-2] ^= 1
    (tmp_path / "bad/model.safetensors").write_bytes(data)
    refused(manyone, tmp_path, "bad", says=r"bad/model\.safetensors: its SHA-256 is not the one in config\.json")
    policy(tmp_path / "bad", 1)
    path = tmp_path / "bad/config.json"
    good = json.loads(path.read_text())
    for change, says in (
        ({"merge": {"weights": 3}}, r"bad/config\.json: merge\.weights: 3 is not"),
        ({"merge": {"everything": True}}, r"bad/config\.json: merge: unknown option 'everything'"),
        ({"merge": {"weights": ["*"]}}, r"bad/config\.json: merge\.weights\S* is "),
        ({"merge": good["merge"] | {"never": "because\nof that"}}, r"bad\S*: cannot be merged: because of that"),
        ({"tasks": ["a", "a"]}, r"bad/config\.json: tasks \['a', 'a'\]: must be different names"),
        ({"tasks": ["a"]}, r"table\.\S+ is \S+ \[2\S*.* for 1 tasks"),
        ({"manyone_format": 2}, r"bad/config\.json: format 2; this version of manyone knows 1"),
    ):
        path.write_text(json.dumps(good | change))
        refused(manyone, tmp_path, "bad", says=says)
    path.write_text("[1")
    refused(manyone, tmp_path, "bad", says=r"bad/config\.json.*not JSON")


def test_sql_models_from_a_plain_base_and_an_adapter(tmp_path):
    peft = pytest.importorskip("peft")
    from manyone.sql import artefact

    for name in ("plain", "one"):
        sql(tmp_path / name, int(name == "one"))
    for file in ("manyone.json", "README.md"):
        (tmp_path / "plain" / file).unlink()
    saved = artefact.load(tmp_path / "plain")
    config = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(saved.model.model, config)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value.normal_(generator=drawn(3), std=0.1)
    info = {"recipe": "rkd", "style": "compact", "max_input": 40}
    artefact.save(tmp_path / "adapter", adapted, saved.tokenizer, info, merged=False)
    assert (tmp_path / "adapter/adapter_config.json").is_file()
    merge("average", tmp_path / "plain", [tmp_path / "one", tmp_path / "adapter"], out=tmp_path / "out")
    assert asked(tmp_path / "out").shape[1] == 16
    told = json.loads((tmp_path / "out/manyone.json").read_text())
    assert (told["style"], told["max_input"], "recipe" in told) == ("compact", 40, False)
    own = adapted.merge_and_unload().state_dict()
    one, out = (artefact.load(tmp_path / f).model.model.state_dict() for f in ("one", "out"))
    for name, value in out.items():
        torch.testing.assert_close(value, (one[name] + own[name]) / 2, rtol=1e-5, atol=1e-6)
    sql(tmp_path / "full", 1, style="full")
    with pytest.raises(ManyoneError, match=r"full/manyone\.json: style is 'full', in \S+one/manyone\.json 'compact'"):
        merge("average", tmp_path / "plain", [tmp_path / "one", tmp_path / "full"], out=tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_bare_experts_of_a_model_folder_are_compared_by_their_tensors(tmp_path):
    policy(tmp_path / "base", 0)
    tensors = {n: v + 0.5 * n.startswith("model.") if v.is_floating_point() else v
               for n, v in load_file(tmp_path / "base/model.safetensors").items()}  # fmt: skip
    merge("average", tmp_path / "base", [tensors], out=tmp_path / "out")
    assert np.isfinite(acts(tmp_path / "out")).all()
    tensors["table.scale"] = tensors["table.scale"] + 1
    with pytest.raises(ManyoneError, match=r"expert 1: table\.scale, entry 0, is"):
        merge("average", tmp_path / "base", [tensors])


def test_the_program_of_a_team_is_not_that_of_the_merged_one(tmp_path):
    from manyone.teams import load_team
    from manyone.teams.artefact import save_team

    team(tmp_path / "one", 1, "actor-critic")
    found = load_team(tmp_path / "one")
    save_team(tmp_path / "base", found.policy, found.graph, found.spec, {"seed": 0})
    assert (tmp_path / "base/policy.pt2").is_file()
    merge("average", tmp_path / "base", [tmp_path / "one"], out=tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert json.loads((tmp_path / "out/config.json").read_text())["program"] is None
    assert "The base's program is not there" in (tmp_path / "out/README.md").read_text()
    assert np.array_equal(team_acts(tmp_path / "out"), team_acts(tmp_path / "one"))


def test_mergekit_s_dtype_is_refused(manyone, tmp_path):
    policy(tmp_path / "base", 0)
    text = "merge_method: linear\nbase_model: base\ndtype: bfloat16\nparameters: {weight: 1}\n"
    (tmp_path / "r.yaml").write_text(text + "models: [{model: base}]\n")
    code, _, err = manyone("run", "mergekit", "--recipe", "r.yaml", "--out", "out")
    assert code != 0
    assert "r.yaml: dtype 'bfloat16': a model folder of manyone keeps the types that it has: leave it out" in err
