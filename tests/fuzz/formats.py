"""Every format that is read from outside: a small sound sample, which of its files are damaged and how it is read."""

from __future__ import annotations

import csv
import gzip
import json
import socket
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from tests.artefacts import without_digest
from tests.fuzz.mutate import Kind


@dataclass(frozen=True)
class Format:
    """One format."""

    make: Callable[[Path], Any]
    files: Mapping[str, Kind]
    read: Callable[[Path], Any]
    checked: Sequence[str] = ()
    """Files that a checksum covers."""
    same: Callable[[Any, Any], bool] = field(default=lambda one, other: one == other)


def draws(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# --- weights ----------------------------------------------------------------------------------------------------------


def tensors() -> dict[str, torch.Tensor]:
    return {"layers.0.weight": torch.from_numpy(draws(4, 3)), "layers.1.weight": torch.from_numpy(draws(2, 4))}


def make_shards(folder: Path) -> None:
    parts = {f"model-{k + 1}.safetensors": {n: v} for k, (n, v) in enumerate(tensors().items())}
    for name, part in parts.items():
        save_file(part, folder / name)
    index = {"metadata": {"total_size": 80}, "weight_map": {n: f for f, part in parts.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def make_adapter(folder: Path) -> None:
    (folder / "base").mkdir()
    save_file(tensors(), folder / "base/model.safetensors")
    pairs = {"lora_A": draws(2, 3), "lora_B": draws(4, 2)}
    save_file({f"base_model.model.layers.0.{k}.weight": torch.from_numpy(v) for k, v in pairs.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["layers.0"], "use_rslora": False,
              "alpha_pattern": {"layers.0": 2}, "fan_in_fan_out": False, "bias": "none"}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def make_dora(folder: Path) -> None:
    make_adapter(folder)
    stored = {"lora_A.weight": draws(2, 3), "lora_B.weight": draws(4, 2), "lora_magnitude_vector": draws(4)}
    rows = {"layers.1.token_adapter.trainable_tokens_delta": draws(1, 4)}
    named = {f"layers.0.{k}": v for k, v in stored.items()} | rows
    save_file({f"base_model.model.{k}": torch.from_numpy(v) for k, v in named.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    config = {"peft_type": "LORA", "r": 2, "rank_pattern": {"layers.0": 2}, "use_dora": True, "loftq_config": {},
              "trainable_token_indices": {"layers.1": [1]}, "init_lora_weights": "pissa"}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def make_float8(folder: Path) -> None:
    codes = {"layers.0.weight": torch.from_numpy(draws(9, 5)).to(torch.float8_e4m3fn)}
    save_file({**codes, "layers.0.weight_scale_inv": torch.from_numpy(draws(3, 2))}, folder / "model.safetensors")
    settings = {"quant_method": "fp8", "weight_block_size": [4, 4], "config_groups": {"g": {"weights": {}}}}
    config = {"architectures": ["MadeForCausalLM"], "model_type": "made", "quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config))


def make_recipe(folder: Path) -> None:
    for name in ("base", "one", "two"):
        (folder / name).mkdir()
        save_file(tensors(), folder / name / "model.safetensors")
        (folder / name / "config.json").write_text('{"model_type": "made", "torch_dtype": "float32"}')
    (folder / "recipe.yml").write_text(
        "merge_method: ties\nbase_model: base\ndtype: float32\nmodels:\n- model: one\n  parameters:\n    density: 0.5\n"
        "    weight: [0, 0.5, 1]\n- model: two\n  parameters:\n    density: 0.5\n    weight: 0.3\nparameters:\n"
        "  normalize: true\n"
    )


def read_checkpoint(path: Path, **words: Any) -> dict[str, bytes]:
    from manyone.weights.open import open_checkpoint

    found = open_checkpoint(path, **words)
    return {name: found[name].float().numpy().tobytes() for name in found}


def read_recipe(folder: Path) -> str:
    from manyone.merging.static.mergekit import prepare_recipe

    return str(prepare_recipe(folder / "recipe.yml")[2])


def read_model_config(folder: Path) -> Any:
    from manyone.merging.static.files import hf_config

    return str(hf_config(folder / "one/config.json")), read_recipe(folder)


# --- the engine -------------------------------------------------------------------------------------------------------


def make_checkpoints(folder: Path) -> None:
    from manyone.engine.checkpoint import save

    for step in (1, 2):
        save(folder, step, {"step": step, "weights": torch.full((3,), float(step)), "list": [1, {"a": (2.5, None)}]})


def read_checkpoints(folder: Path) -> Any:
    from manyone.engine.checkpoint import load_newest

    found = load_newest(folder)
    return found and (found[0], found[1]["step"], found[1]["weights"].tolist())


def intact(whole: Any, found: Any) -> bool:
    """The newest checkpoint, or the older one, or none."""
    return found is None or (found[0] == found[1] and found[2] == [float(found[0])] * 3)


def make_rank_checkpoints(folder: Path) -> None:
    from manyone.minimax.ranks.checkpoints import save_rows

    for number in (1, 2):
        meta, rows = {"round": number, "clients": 4, "settings": 7}, {"x": torch.full((1, 4, 3), 1.0 * number)}
        shared = {"shared/y": torch.full((2,), 1.0 * number)}
        save_rows(folder, meta, range(4), rows, shared, first=True, barrier=lambda: None)


def read_rank_checkpoints(folder: Path) -> Any:
    from manyone.minimax.ranks.checkpoints import load_newest

    found = load_newest(folder, range(4), 7)
    return found and (found[0]["round"], found[1]["x"].unique().tolist())


def rounds_intact(whole: Any, found: Any) -> bool:
    return found is None or found[1] == [float(found[0])]


def make_run(folder: Path) -> None:
    from manyone.engine.run import RunFolder
    from manyone.minimax.recipes.options import LocalSGDAOptions

    run = RunFolder.create(folder / "run", "local-sgda", LocalSGDAOptions())
    for step in range(3):
        run.log(step, "train", {"loss": 0.5 * step})
    run.close()


def read_run(folder: Path) -> Any:
    from manyone.recipes.execution import reopen

    run, options = reopen(folder / "run")
    return str(options), len(run.metrics())


def make_seeds(folder: Path) -> None:
    data = {"recipe": "local-sgda", "options": {"rounds": 3, "overwrite": False}, "seeds": [0, 1]}
    (folder / "seeds.json").write_text(json.dumps(data))


def read_seeds(folder: Path) -> Any:
    from manyone.reproduce.seeds import reopen_seeds

    return str(reopen_seeds(folder))


# --- claims and figures -----------------------------------------------------------------------------------------------


def make_claims(folder: Path) -> None:
    import manyone.earth.study

    source = Path(manyone.earth.study.__file__).with_name("claims.toml")
    (folder / "claims.toml").write_bytes(source.read_bytes())


def make_figures(folder: Path) -> None:
    from manyone.claims.figure import Figure, save_figures

    save_figures(folder / "figures.json", [
        Figure("lines", "a", {"series": {"one": {"x": [1, 2], "y": [3, 4], "group": "g"}}, "x_label": "steps"}),
        Figure("matrix", "b", {"rows": ["r"], "columns": ["c", "d"], "values": [[0.5, None]], "unit": "%"}),
        Figure("table", "c", {"columns": ["m", "n"], "rows": [["x", 1], ["y", None]]}),
        Figure("bars", "d", {"names": ["p", "q"], "values": [1, 2], "unit": "%"}),
    ])  # fmt: skip


def read_figures(folder: Path) -> Any:
    from manyone.claims.figure import load_figures

    return str(load_figures(folder / "figures.json"))


def read_page(folder: Path) -> Any:
    """Figures as a report draws them."""
    from manyone.claims.figure import load_figures
    from manyone.report.figures import draw

    return [draw(figure) for figure in load_figures(folder / "figures.json")]


def make_rows(folder: Path) -> None:
    from manyone.claims.rows import Row, append_rows

    first = Row("s", 0, "m", task={"a": 0.5}, metrics={"oa": 1.0}, details={"d": {"x": 1}})
    append_rows(folder / "results.jsonl", [first, Row("s", 1, "m", "v", "split", {"a": 0.2})])


def read_claims(folder: Path) -> Any:
    from manyone.claims.file import load_claims

    return str(load_claims(folder / "claims.toml"))


def read_rows(folder: Path) -> Any:
    from manyone.claims.rows import load_rows

    return str(load_rows(folder / "results.jsonl"))


# --- artefacts --------------------------------------------------------------------------------------------------------

MODEL: dict[str, Kind] = {"config.json": "json", "model.safetensors": "safetensors"}


def make_policy(folder: Path) -> None:
    from manyone.policies import PolicyData, TaskMasks, build_model, maskable_shapes, save_policy

    data = PolicyData([trajectories(name) for name in ("a", "b")], context=4, prompt=2)
    model = build_model("harmodt", data, width=16, layers=1, heads=2, max_timestep=32)
    save_policy(folder, model, data.table, TaskMasks.random(maskable_shapes(model), 2, 0.5, seed=1))


def read_policy(folder: Path) -> Any:
    from manyone.policies import load_policy

    return state(load_policy(folder).model)


def make_team(folder: Path) -> None:
    from manyone.envs.teams.types import TeamSpec
    from manyone.teams.artefact import save_team
    from manyone.teams.network.commformer import CommFormer
    from manyone.teams.network.graph import LearnedGraph

    spec = TeamSpec("drawn", 3, 5, actions=4, horizon=7, agent_names=("a", "b", "c"), details={})
    save_team(folder, CommFormer(spec, width=8), LearnedGraph(3, 1), spec, {"seed": 3}, program=False)


def read_team(folder: Path) -> Any:
    from manyone.teams.artefact import load_team

    return state(load_team(folder).policy)


def make_merged(folder: Path) -> None:
    from manyone.merging import artefact
    from manyone.merging.heads import Head
    from manyone.nets.build import build_encoder

    spec = {"kind": "vit", "size": 8, "patch": 4, "channels": 1, "width": 16, "depth": 2, "heads": 2, "mean": [0.5],
            "std": [0.5]}  # fmt: skip
    artefact.save(folder, build_encoder(spec), spec, {"a": Head(torch.ones(3, 16), normalise=False)})


def read_merged(folder: Path) -> Any:
    from manyone.merging import artefact

    return state(artefact.load(folder))


def make_minimax(folder: Path) -> None:
    from manyone.minimax import DistributedAUCClassifier, save

    x = draws(40, 4)
    model = DistributedAUCClassifier(clients=2, rounds=3, hidden=(5,)).fit(x, (x[:, 0] > 0).astype(int))
    save(folder, model)


def read_minimax(folder: Path) -> Any:
    from manyone.minimax import load

    return load(folder).predict_proba(draws(5, 4)).tolist()


def frame() -> Any:
    from manyone.behavior.artefact import Frame

    return Frame("walks", None, torch.zeros(3), torch.ones(3), -torch.ones(2), torch.ones(2), 0, 30, None)


def distilled() -> Any:
    from manyone.behavior.artefact import Distilled
    from manyone.behavior.inner import InnerLoop
    from manyone.behavior.students.network import StudentSpec

    return Distilled(frame(), torch.from_numpy(draws(6, 3)), torch.from_numpy(draws(6, 2)),
                     StudentSpec(layers=3, width=8, output="tanh"), InnerLoop(steps=3, lr=0.25))  # fmt: skip


def make_distilled(folder: Path) -> None:
    from manyone.behavior.artefact import save_distilled

    save_distilled(folder, distilled())


def read_distilled(folder: Path) -> Any:
    from manyone.behavior.artefact import load_distilled

    found = load_distilled(folder)
    return found.states.tolist(), found.actions.tolist()


def make_students(folder: Path) -> None:
    from manyone.behavior.students.policies import save_policies
    from manyone.behavior.students.training import train

    save_policies(folder, train(distilled(), 2))


def read_students(folder: Path) -> Any:
    from manyone.behavior.students.policies import load_policies

    return {k: v.tolist() for k, v in load_policies(folder).weights.items()}


def make_teacher(folder: Path) -> None:
    from tests.behavior.teachers.conftest import random_data

    from manyone.behavior.teachers.calql import CalQLTeacher

    CalQLTeacher(random_data(), width=8, steps=5, batch_size=8).export(folder)


def read_teacher(folder: Path) -> Any:
    from manyone.behavior.teachers.artefact import read_teacher as read

    return read(folder).teacher.actions(torch.from_numpy(draws(4, 3))).tolist()


def make_bundle(folder: Path) -> None:
    from manyone.merging.experts.bundle import Bundle
    from manyone.merging.heads import Head

    Bundle({"kind": "mlp"}, tensors(), {"a": tensors(), "b": tensors()},
           {t: Head(torch.ones(3, 4), torch.zeros(3), 1.0, False) for t in "ab"}, {"seed": 0}).save(folder)  # fmt: skip


def read_bundle(folder: Path) -> Any:
    from manyone.merging.experts.bundle import Bundle

    found = Bundle.load(folder)
    return {t: sorted(w) for t, w in found.experts.items()}


def make_map(folder: Path) -> None:
    from tests.earth.small_scenes import labelled

    from manyone.earth import artefact
    from manyone.earth.embedding import How, ready
    from manyone.earth.mapping import linear_classifier
    from manyone.earth.samples import Sampling, draw

    samples = draw(labelled(), Sampling(block=8, train=60, test=40))
    one = ready("vit-random", samples, How())
    classifier = linear_classifier(draws(20, 128), np.arange(20) % 2, ("field", "wood"), 1.0, 1.0)
    artefact.save(artefact.MapModel(one.encoder, one.plan, classifier, How(), "mae-small", "default"), folder, "#")  # type: ignore[arg-type]


def read_map(folder: Path) -> Any:
    from manyone.earth import artefact

    return artefact.load(folder).encoder.digest()


def make_description(folder: Path) -> None:
    text = {
        "manyone_format": 1,
        "kind": "text-to-sql",
        "prompt": {"style": "compact", "tables": 4},
        "info": {"seed": 0},
    }
    (folder / "manyone.json").write_text(json.dumps(text))


def read_description(folder: Path) -> Any:
    from manyone.sql.artefact import is_sql_model, read_description

    return is_sql_model(folder), str(read_description(folder))


def state(module: torch.nn.Module) -> Any:
    return {k: v.tolist() for k, v in module.state_dict().items()}


# --- episodes ---------------------------------------------------------------------------------------------------------


def episode(steps: int = 8) -> dict[str, np.ndarray]:
    return {"observations": draws(steps, 3), "actions": np.tanh(draws(steps, 2)), "rewards": draws(steps)}


def trajectories(name: str = "made") -> Any:
    from manyone.data.trajectories.trajectories import Trajectories

    return Trajectories.from_episodes(name, [episode(), episode(6)])


def read_place(path: Path) -> Any:
    from manyone.data.trajectories.files import from_folder

    found = from_folder(path)
    return found.episodes, len(found)


def make_npz_folder(folder: Path) -> None:
    for number in range(2):
        np.savez(folder / f"{number}.npz", **episode())


def make_npz_file(folder: Path) -> None:
    np.savez_compressed(folder / "all.npz", observations=draws(2, 8, 3), actions=draws(2, 8, 2), rewards=draws(2, 8))


def make_hdf5(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "d.hdf5", "w") as file:
        for key, value in episode(12).items():
            file.create_dataset(key, data=value, compression="gzip" if key == "actions" else None)
        file["terminals"] = np.arange(12) % 6 == 5
        file["timeouts"] = np.zeros(12, bool)


def make_minari(folder: Path) -> None:
    from manyone.data.trajectories.files import from_folder
    from manyone.data.trajectories.minari import to_minari

    make_hdf5(folder)
    made = to_minari(from_folder(folder / "d.hdf5"), "made/direct-v0", root=folder)
    (folder / "minari").symlink_to(made)


def make_pickle(folder: Path) -> None:
    import pickle

    (folder / "d.pkl").write_bytes(pickle.dumps([episode(), episode(6)]))


# --- tables and folders -----------------------------------------------------------------------------------------------


def make_csv(folder: Path) -> None:
    with (folder / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["a", "b", "label"], *([round(float(x), 3), "x, y", k % 2] for k, x in enumerate(draws(9)))]
        )


def make_gz(folder: Path) -> None:
    make_csv(folder)
    (folder / "t.csv.gz").write_bytes(gzip.compress((folder / "t.csv").read_bytes()))


def make_parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1.0, 2.0, 3.0], "c": ["x", "y", None], "label": [0, 1, 0]}), folder / "t.parquet")


def make_keel(folder: Path) -> None:
    lines = ["@relation made", "@attribute width real [0.0, 9.0]", "@attribute 'kind of leaf' {a, b}", "@inputs width",
             "@outputs kind of leaf", "@data", *[f"{n}.5, {'ab'[n % 2]}" for n in range(8)]]  # fmt: skip
    (folder / "t.dat").write_text("\n".join(lines) + "\n")


def make_libsvm(folder: Path) -> None:
    (folder / "t.libsvm").write_text("1 1:0.5 3:2\n-1 2:1.5\n1 1:3 2:4 3:5\n")


def read_table(path: Path) -> Any:
    from manyone.data.tables.files import read_frame

    return str(read_frame(path))[:200]


def make_texts(folder: Path) -> None:
    rows = [{"text": f"word {k} and more", "label": ("good", "bad")[k % 2]} for k in range(12)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_text_table(folder: Path) -> None:
    (folder / "train.csv").write_text(
        "text,label\n" + "".join(f'"word {k}",{("good", "bad")[k % 2]}\n' for k in range(12))
    )


def read_texts(path: Path) -> Any:
    from manyone.data.folders import load_task

    def tokenizer(texts: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1, 2]] * len(texts), "attention_mask": [[1, 1]] * len(texts)}

    return len(load_task(path, tokenizer=tokenizer).train)


def make_images(folder: Path) -> None:
    from PIL import Image

    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.{'png' if number else 'jpg'}")


def read_images(folder: Path) -> Any:
    from manyone.data.folders import load_task

    return len(load_task(folder, size=8).train)


def make_preprocessor(folder: Path) -> None:
    make_images(folder)
    (folder / "model").mkdir()
    config = {"size": {"height": 8, "width": 8}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2],
              "do_normalize": True, "resample": 3, "do_center_crop": False}  # fmt: skip
    (folder / "model/preprocessor_config.json").write_text(json.dumps(config))


def read_preprocessor(folder: Path) -> Any:
    from manyone.data.images.pixels import image_format

    return str(image_format(folder / "model", None, None))


def make_archive(folder: Path) -> None:
    import tarfile
    import zipfile

    (folder / "a.txt").write_text("hello " * 50)
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.write(folder / "a.txt", "package/a.txt")
    with tarfile.open(folder / "a.tar.gz", "w:gz") as file:
        file.add(folder / "a.txt", "package/a.txt")


def read_archive(path: Path) -> Any:
    from manyone.assets.archives import find, open_archive

    archive = open_archive(path)
    return archive.read(find(archive, "*/a.txt"))


def make_deb(folder: Path) -> None:
    """An ``ar`` archive of a compressed tar, as dpkg writes it."""
    import lzma

    make_archive(folder)
    payload = lzma.compress(gzip.decompress((folder / "a.tar.gz").read_bytes()))
    parts = {"debian-binary": b"2.0\n", "data.tar.xz": payload}
    heads = {
        name: f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() for name, data in parts.items()
    }
    (folder / "a.deb").write_bytes(
        b"!<arch>\n" + b"".join(heads[name] + data + b"\n" * (len(data) % 2) for name, data in parts.items())
    )


# --- a team's frames --------------------------------------------------------------------------------------------------


def make_frame(folder: Path) -> None:
    from manyone.teams.processes.wire import send_frame

    here, there = socket.socketpair()
    with here, there:
        send_frame(here, {"order": "act", "step": 3}, [draws(2, 3), np.arange(4)])
        there.setblocking(False)
        (folder / "frame").write_bytes(there.recv(1 << 16))


def read_frame(folder: Path) -> Any:
    from manyone.errors import ManyoneError
    from manyone.teams.processes.wire import Closed, receive_frame

    here, there = socket.socketpair()
    with here, there:
        here.sendall((folder / "frame").read_bytes())
        here.shutdown(socket.SHUT_WR)
        try:
            header, arrays, _ = receive_frame(there)
        except Closed:
            raise ManyoneError("the other end is gone") from None
        return str(header), [a.tolist() for a in arrays]


# --- images of the Earth ----------------------------------------------------------------------------------------------


def make_scene(folder: Path) -> None:
    from tests.earth.small_scenes import write_files

    write_files(folder, 16)


def read_scene(folder: Path) -> Any:
    from manyone.data.rasters.own import open_scene

    with open_scene(folder / "scene.tif", None, "refl") as scene:
        return scene.read()[0].sum()


def read_points(folder: Path) -> Any:
    from manyone.data.rasters.own import open_scene
    from manyone.data.rasters.vectors import read_labels

    with open_scene(folder / "scene.tif", None, "refl") as scene:
        return read_labels(folder / "points.geojson", scene).classes


def make_chips(folder: Path) -> None:
    from tests.data.rasters.images import random, write

    for name in ("field", "wood"):
        (folder / name).mkdir()
        for number in range(2):
            write(folder / name / f"{number}.tif", random((2, 8, 6), low=1))


def read_chips(folder: Path) -> Any:
    from manyone.data.rasters.chips_folder import read_chips as read

    return read(folder, None, "refl_dn").pixels.shape


def make_sensor(folder: Path) -> None:
    (folder / "sensor.yaml").write_text(
        "name: mine\nbands:\n- {name: B, common: blue, center_nm: 485, fwhm_nm: 70, unit: refl_dn}\n"
        "- {name: G, common: green, center_nm: 555, fwhm_nm: 70, unit: refl_dn}\n"
    )


def read_sensor(folder: Path) -> Any:
    from manyone.data.rasters.sensors import read_sensor as read

    return str(read(folder / "sensor.yaml"))


def entry(folder: Path) -> Any:
    from manyone.earth.store import KEY_FIELDS, Store

    parts = dict.fromkeys(KEY_FIELDS, "x")
    return Store(folder / "store").embed(
        parts, [f"s{k}" for k in range(6)], lambda a, b: {"global_mean": torch.ones(b - a, 4)}, batch_size=3
    )


def make_store(folder: Path) -> None:
    made = entry(folder).folder
    for name in ("meta.json", "global_mean.fp16.npy", "ids.parquet"):
        found = next(iter(made.glob(name.split(".")[0] + "*")))
        (folder / name).symlink_to(found)


def read_store(folder: Path) -> Any:
    from manyone.earth.store import Embeddings

    found = Embeddings(next(p.parent for p in (folder / "store").rglob("meta.json")))
    found.verify()
    return found.array("global_mean").tolist(), found.ids


# --- SQL --------------------------------------------------------------------------------------------------------------


def make_pairs(folder: Path) -> None:
    (folder / "database/shop").mkdir(parents=True)
    make_database(folder / "database/shop")
    rows = [
        {"db_id": "shop", "question": f"How many {k}?", "query": "SELECT count(*) FROM t", "split": "train"}
        for k in range(4)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_database(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "shop.sqlite")) as db:
        db.executescript("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, c REAL)")
        db.executemany("INSERT INTO t VALUES (?, ?, ?)", [(k, f"name {k}", k / 2) for k in range(50)])
        db.commit()


def read_pairs(folder: Path) -> Any:
    from manyone.data.sql.pairs import load_pairs

    return {k: len(v) for k, v in load_pairs(folder / "pairs.jsonl").splits.items()}


def read_database(folder: Path) -> Any:
    from manyone.data.sql.schema import read_schema

    return str(read_schema(folder / "shop.sqlite"))


def make_card(folder: Path) -> None:
    """A card with a head such as the hub's models have."""
    (folder / "README.md").write_text(
        "---\nlicense: llama3.1\nlanguage: [en, de]\ntags:\n- merge\nbase_model: org/base\nmodel-index:\n"
        "- name: x\n  results: []\n---\n\n# A model\n\ntext\n"
    )


def read_model_card(folder: Path) -> str:
    """Its head, as it would stand in the card of a model made of it."""
    from manyone.engine.card import read_card, split_card
    from manyone.recipes.cards import metadata_of

    return yaml.safe_dump(metadata_of(split_card(read_card(folder))[0]))


FORMATS: dict[str, Format] = {
    "safetensors": Format(
        lambda f: save_file(tensors(), f / "m.safetensors"), {"m.safetensors": "safetensors"},
        lambda f: read_checkpoint(f / "m.safetensors"),
    ),
    "sharded index": Format(
        make_shards, {"model.safetensors.index.json": "json", "model-1.safetensors": "safetensors"}, read_checkpoint
    ),
    "LoRA adapter": Format(
        make_adapter, {"adapter_config.json": "json", "adapter_model.safetensors": "safetensors"},
        lambda f: read_checkpoint(f, base=f / "base"),
    ),
    "DoRA adapter": Format(
        make_dora, {"adapter_config.json": "json", "adapter_model.safetensors": "safetensors"},
        lambda f: read_checkpoint(f, base=f / "base"),
    ),
    "float8 model": Format(make_float8, {"config.json": "json", "model.safetensors": "safetensors"}, read_checkpoint),
    "torch .bin": Format(
        lambda f: torch.save(tensors(), f / "m.bin"), {"m.bin": "bytes"}, lambda f: read_checkpoint(f / "m.bin")
    ),
    "mergekit recipe": Format(make_recipe, {"recipe.yml": "text"}, read_recipe),
    "Hugging Face config": Format(
        make_recipe, {"one/config.json": "json", "base/config.json": "json"}, read_model_config
    ),
    "engine checkpoint": Format(
        make_checkpoints,
        {f"step-0000000{k}/{n}": kind for k in (1, 2)
         for n, kind in (("manifest.json", "json"), ("state.json", "json"), ("state.safetensors", "safetensors"))},
        read_checkpoints,
        [f"step-0000000{k}/{n}" for k in (1, 2) for n in ("state.json", "state.safetensors")],
        intact,
    ),
    "rank checkpoint": Format(
        make_rank_checkpoints,
        {f"round-00000{k}/{n}": kind for k in (1, 2)
         for n, kind in (("complete.json", "json"), ("clients-00000-00004.safetensors", "safetensors"))},
        read_rank_checkpoints,
        [f"round-00000{k}/clients-00000-00004.safetensors" for k in (1, 2)],
        rounds_intact,
    ),
    "run configuration": Format(make_run, {"run/config.yaml": "text"}, read_run),
    "metrics": Format(make_run, {"run/metrics.jsonl": "jsonl"}, read_run),
    "runs of several seeds": Format(make_seeds, {"seeds.json": "json"}, read_seeds),
    "claims": Format(make_claims, {"claims.toml": "text"}, read_claims),
    "figures": Format(make_figures, {"figures.json": "json"}, read_figures),
    "study results": Format(make_rows, {"results.jsonl": "jsonl"}, read_rows),
    "policy": Format(make_policy, MODEL, read_policy, ["model.safetensors"]),
    "team": Format(make_team, MODEL, read_team, ["model.safetensors"]),
    "merged model": Format(make_merged, MODEL, read_merged, ["model.safetensors"]),
    "minimax model": Format(make_minimax, MODEL, read_minimax, ["model.safetensors"]),
    "distilled set": Format(make_distilled, MODEL, read_distilled, ["model.safetensors"]),
    "cloned policies": Format(make_students, MODEL, read_students, ["model.safetensors"]),
    "teacher": Format(make_teacher, MODEL, read_teacher, ["model.safetensors"]),
    "expert bundle": Format(
        make_bundle, {"bundle.json": "json", "base.safetensors": "safetensors", "experts/a.safetensors": "safetensors",
                      "heads.safetensors": "safetensors"}, read_bundle,
    ),
    "map model": Format(make_map, MODEL, read_map, ["model.safetensors"]),
    "text-to-SQL description": Format(make_description, {"manyone.json": "json"}, read_description),
    "trajectories": Format(
        lambda f: trajectories().save(f / "t"),
        {"t/trajectories.json": "json", "t/observations.npy": "bytes", "t/offsets.npy": "bytes"},
        lambda f: read_place(f / "t"),
    ),
    "episodes as .npz": Format(make_npz_folder, {"0.npz": "bytes", "1.npz": "bytes"}, read_place),
    "stacked .npz": Format(make_npz_file, {"all.npz": "bytes"}, lambda f: read_place(f / "all.npz")),
    "D4RL HDF5": Format(make_hdf5, {"d.hdf5": "bytes"}, lambda f: read_place(f / "d.hdf5")),
    "Minari": Format(
        make_minari,
        {"minari/data/metadata.json": "json", "minari/data/main_data.hdf5": "bytes"},
        lambda f: read_place(f / "minari"),
    ),
    "pickled episodes": Format(make_pickle, {"d.pkl": "bytes"}, lambda f: read_place(f / "d.pkl")),
    "CSV": Format(make_csv, {"t.csv": "text"}, lambda f: read_table(f / "t.csv")),
    "CSV, packed": Format(make_gz, {"t.csv.gz": "bytes"}, lambda f: read_table(f / "t.csv.gz")),
    "Parquet": Format(make_parquet, {"t.parquet": "bytes"}, lambda f: read_table(f / "t.parquet")),
    "KEEL": Format(make_keel, {"t.dat": "text"}, lambda f: read_table(f / "t.dat")),
    "libsvm": Format(make_libsvm, {"t.libsvm": "text"}, lambda f: read_table(f / "t.libsvm")),
    "texts as JSON lines": Format(make_texts, {"train.jsonl": "jsonl"}, lambda f: read_texts(f / "train.jsonl")),
    "texts as CSV": Format(make_text_table, {"train.csv": "text"}, lambda f: read_texts(f / "train.csv")),
    "image folder": Format(make_images, {"cat/0.jpg": "bytes", "dog/1.png": "bytes"}, read_images),
    "preprocessor config": Format(make_preprocessor, {"model/preprocessor_config.json": "json"}, read_preprocessor),
    "zip archive": Format(make_archive, {"a.zip": "bytes"}, lambda f: read_archive(f / "a.zip")),
    "tar archive": Format(make_archive, {"a.tar.gz": "bytes"}, lambda f: read_archive(f / "a.tar.gz")),
    "Debian package": Format(make_deb, {"a.deb": "bytes"}, lambda f: read_archive(f / "a.deb")),
    "frame of a team": Format(make_frame, {"frame": "bytes"}, read_frame),
    "GeoTIFF": Format(make_scene, {"scene.tif": "bytes"}, read_scene),
    "GeoJSON": Format(make_scene, {"points.geojson": "json"}, read_points),
    "chips": Format(make_chips, {"field/0.tif": "bytes", "wood/1.tif": "bytes"}, read_chips),
    "sensor": Format(make_sensor, {"sensor.yaml": "text"}, read_sensor),
    "embeddings": Format(
        make_store, {"meta.json": "json", "global_mean.fp16.npy": "bytes", "ids.parquet": "bytes"}, read_store,
        ["global_mean.fp16.npy"],
    ),
    "model card": Format(make_card, {"README.md": "text"}, read_model_card),
    "pairs of text and SQL": Format(make_pairs, {"pairs.jsonl": "jsonl"}, read_pairs),
    "SQLite database": Format(make_database, {"shop.sqlite": "bytes"}, read_database),
}  # fmt: skip
"""By name."""


def _unchecked(one: Format) -> Format:
    """The same artefacts without their checksum: what is damaged is found by what is made of it."""

    def make(folder: Path) -> None:
        one.make(folder)
        without_digest(folder)

    return Format(make, one.files, one.read)


FORMATS |= {f"{name}, no checksum": _unchecked(one) for name, one in FORMATS.items() if one.files is MODEL}
