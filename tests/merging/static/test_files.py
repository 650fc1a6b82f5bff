"""Merged folders: what from_pretrained opens, what is left after a failure, how much memory a merge takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from manyone.errors import ManyoneError
from manyone.merging.static import methods as static
from manyone.weights.open import open_checkpoint

transformers = pytest.importorskip("transformers")


@dataclass
class Kind:
    model: str
    config: object
    inputs: dict


def small(**extra):
    return {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, **extra}


def kinds():
    t = transformers
    ids = {"input_ids": torch.arange(2, 9)[None]}
    image = {"pixel_values": torch.linspace(-1, 1, 3 * 8 * 8).view(1, 3, 8, 8)}
    picture = {"image_size": 8, "patch_size": 4}
    gpt = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 32}
    five = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 40}
    text = small(vocab_size=40, max_position_embeddings=32)
    return {
        "clip": Kind("CLIPVisionModel", t.CLIPVisionConfig(**small(**picture)), image),
        "vit": Kind("ViTModel", t.ViTConfig(**small(**picture)), image),
        "bert": Kind("BertModel", t.BertConfig(**text), ids),
        "roberta": Kind("RobertaModel", t.RobertaConfig(**text), ids),
        "gpt2": Kind("GPT2LMHeadModel", t.GPT2Config(**gpt), ids),
        "llama": Kind("LlamaForCausalLM", t.LlamaConfig(**text, num_key_value_heads=1), ids),
        "t5": Kind(
            "T5ForConditionalGeneration", t.T5Config(**five), {**ids, "decoder_input_ids": torch.tensor([[0, 3]])}
        ),
    }


def family(kind: Kind, folder: Path, count: int = 2):
    """Folders of a base and experts (a fine-tuning step's worth of noise), and the models."""
    cls = getattr(transformers, kind.model)
    torch.manual_seed(0)
    models = []
    base = cls(kind.config)
    for i in range(count + 1):
        model = cls(kind.config)
        model.load_state_dict(base.state_dict())
        if i:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.05 * torch.randn(parameter.shape)
        model.eval().save_pretrained(folder / str(i))
        models.append(model)
    return [folder / str(i) for i in range(count + 1)], models


def outputs(model, inputs):
    with torch.no_grad():
        out = model(**inputs)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def test_paths_may_be_strings_or_anything_with_a_path(tmp_path, monkeypatch):
    class Place:
        def __fspath__(self):
            return "b.safetensors"

    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        save_file({"fc.weight": torch.full((4, 4), float(ord(name)))}, f"{name}.safetensors")
    static.merge("average", "a.safetensors", [Place(), Path("c.safetensors")], out="merged/")
    merged = open_checkpoint("merged/")["fc.weight"]
    assert (merged == (ord("b") + ord("c")) / 2).all()
    assert torch.equal(
        static.ties("a.safetensors", ["b.safetensors"], 1.0, 1.0)["fc.weight"], open_checkpoint(Place())["fc.weight"]
    )
    with pytest.raises(ManyoneError, match="list of models"):
        static.average("a.safetensors", Place())


@pytest.mark.parametrize("name", list(kinds()))
def test_hugging_face_folders_round_trip(name, tmp_path):
    kind = kinds()[name]
    (base, *experts), models = family(kind, tmp_path)
    (base / "tokenizer_config.json").write_text("{}")
    (base / "README.md").write_text("not copied")
    static.merge("task-arithmetic", base, experts, out=tmp_path / "merged", scale=0.4)
    merged, info = getattr(transformers, kind.model).from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert sorted(p.name for p in (tmp_path / "merged").iterdir() if p.suffix != ".safetensors") == sorted(
        ["README.md", *(p.name for p in base.iterdir() if p.suffix == ".json")]
    )
    card = (tmp_path / "merged/README.md").read_text()
    assert "merged by `task-arithmetic` (scale 0.4) from the base `" in card
    assert f"{kind.model}.from_pretrained" in card
    assert "not copied" not in card
    parameters = [dict(m.named_parameters()) for m in models]
    for n, value in merged.named_parameters():
        expected = parameters[0][n] + 0.4 * sum(p[n] - parameters[0][n] for p in parameters[1:])
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(outputs(merged.eval(), kind.inputs), outputs(models[0], kind.inputs))
    static.merge("task-arithmetic", base, experts[:1], out=tmp_path / "one", scale=1.0, max_shard_size="3KB")
    assert (tmp_path / "one" / "model.safetensors.index.json").is_file()
    again = getattr(transformers, kind.model).from_pretrained(tmp_path / "one")
    torch.testing.assert_close(
        outputs(again.eval(), kind.inputs), outputs(models[1], kind.inputs), rtol=1e-4, atol=1e-5
    )


def test_companions_are_data_of_the_base_s_own_folder(tmp_path, caplog):
    """Code is not copied, and no link leads out of the folder; in a hub's cache files are links to its blobs."""
    (tmp_path / "secret.json").write_text("private")
    repository = tmp_path / "hub/models--some--one"
    base = repository / "snapshots/0123"
    for folder in (base, repository / "blobs"):
        folder.mkdir(parents=True)
    blobs = {"a": "{}", "b": "[]"}
    for name, text in blobs.items():
        (repository / "blobs" / name).write_text(text)
    for name, target in [
        ("config.json", "../../blobs/a"),
        ("tokenizer.json", "../../blobs/b"),
        ("special.json", "tokenizer.json"),
        ("stolen.json", tmp_path / "secret.json"),
        ("stolen.txt", "../../../../secret.json"),
        ("vocab.txt", "../../blobs/../../../secret.json"),
    ]:
        (base / name).symlink_to(target)
    (base / "modeling_x.py").write_text("import os")
    (base / "LICENSE").write_text("free")
    save_file({"w.weight": torch.ones(2, 2)}, base / "model.safetensors")
    static.merge("average", base, [{"w.weight": torch.zeros(2, 2)}, {"w.weight": torch.eye(2)}], out=tmp_path / "out")
    found = {p.name: p.read_text() for p in (tmp_path / "out").iterdir() if p.suffix not in (".safetensors", ".md")}
    assert found == {"config.json": "{}", "tokenizer.json": "[]", "special.json": "[]", "LICENSE": "free"}
    (line,) = caplog.messages
    for name in ("modeling_x.py (code)", "stolen.json (a link", "stolen.txt (a link", "vocab.txt (a link"):
        assert name in line
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "config.json").write_text("{}")
    (plain / "tokenizer.json").symlink_to(repository / "blobs/b")  # no cache: its folder is all that it has
    save_file({"w.weight": torch.ones(2, 2)}, plain / "model.safetensors")
    static.merge("average", plain, [{"w.weight": torch.zeros(2, 2)}], out=tmp_path / "second")
    assert sorted(p.name for p in (tmp_path / "second").iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_sub_folders_of_the_model_are_copied_as_data(tmp_path, caplog):
    """sentence-transformers keeps a module in a folder each; code and links out of the model stay behind."""
    (tmp_path / "secret.json").write_text("private")
    repository = tmp_path / "hub/models--some--one"
    base = repository / "snapshots/0123"
    for folder in (base / "1_Pooling", base / "2_Dense", base / "runs", base / "additional_chat_templates"):
        folder.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs/a").write_text('{"pooling_mode_mean_tokens": true}')
    (base / "1_Pooling/config.json").symlink_to("../../../blobs/a")
    (base / "1_Pooling/stolen.json").symlink_to(tmp_path / "secret.json")
    (base / "1_Pooling/custom.py").write_text("import os")
    (base / "2_Dense/config.json").write_text("{}")
    save_file({"linear.weight": torch.ones(2, 2)}, base / "2_Dense/model.safetensors")
    (base / "2_Dense/pytorch_model.bin").write_bytes(b"a pickle")
    (base / "3_Elsewhere").symlink_to(tmp_path)
    (base / "4_Large").mkdir()
    with (base / "4_Large/huge.json").open("wb") as file:
        file.truncate((1 << 30) + 1)
    (base / "5_Many").mkdir()
    for i in range(101):
        (base / f"5_Many/{i}.json").write_text("{}")
    (base / "runs/events.json").write_text("{}")
    (base / "additional_chat_templates/rag.jinja").write_text("{{ x }}")
    for name in ("config.json", "modules.json", "LICENSE", "license.md", "COPYING"):
        (base / name).write_text("{}")
    save_file({"w.weight": torch.ones(2, 2)}, base / "model.safetensors")
    static.merge("average", base, [{"w.weight": torch.zeros(2, 2)}, {"w.weight": torch.eye(2)}], out=tmp_path / "out")
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if not p.is_dir()}
    assert found == {
        "README.md", "model.safetensors", "config.json", "modules.json", "LICENSE", "license.md", "COPYING",
        "1_Pooling/config.json",
        "2_Dense/config.json", "2_Dense/model.safetensors", "additional_chat_templates/rag.jinja",
    }  # fmt: skip
    assert not any(p.is_symlink() for p in (tmp_path / "out").rglob("*"))
    unmerged, line = caplog.messages
    assert "2_Dense/model.safetensors: copied from the base, not merged" in unmerged
    for name in ("1_Pooling/stolen.json (a link", "1_Pooling/custom.py (code)", "4_Large/huge.json (more than",
                 "5_Many/ (more than 100 files)", "3_Elsewhere/secret.json (a link"):  # fmt: skip
        assert name in line


@pytest.mark.parametrize("name", list(kinds()))
def test_linear_layers_are_found_by_role(name):
    """Exactly the weights of nn.Linear and GPT-2's Conv1D, without output embeddings: no table of any architecture."""
    from transformers.pytorch_utils import Conv1D

    from manyone.merging.static.layers import is_linear, transposed_names
    from manyone.weights.checkpoint import as_checkpoint

    kind = kinds()[name]
    model = getattr(transformers, kind.model)(kind.config)
    checkpoint = as_checkpoint(model.state_dict())
    layers = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)}
    found = {n for n in checkpoint if is_linear(n, checkpoint.info(n))}
    assert found == {n for n in layers if not n.startswith("lm_head")}
    conv = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, Conv1D)}
    assert transposed_names({n: checkpoint.info(n) for n in checkpoint}) == conv


def test_classifier_heads_of_fine_tuned_models(tmp_path):
    """A headless base and experts with heads of different sizes: a clear error, and the option that it names works."""
    kind = kinds()["bert"]
    (base, *_), _ = family(kind, tmp_path, 0)
    experts = []
    for i, labels in enumerate((2, 5)):
        config = transformers.BertConfig(**kind.config.to_dict() | {"num_labels": labels})
        transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / f"e{i}")
        experts.append(tmp_path / f"e{i}")
    with pytest.raises(ManyoneError, match=r"classifier\.weight is not in the base.*--exclude '\^classifier") as caught:
        static.merge("average", base, experts)
    pattern = str(caught.value).split("--exclude '")[1].rstrip("'")
    static.merge("average", base, experts, out=tmp_path / "merged", exclude=[pattern])
    _, info = transformers.BertModel.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"]


def test_lora_adapters_as_experts(tmp_path):
    kind = kinds()["llama"]
    (base, *_), _ = family(kind, tmp_path, 0)
    g = torch.Generator().manual_seed(0)
    deltas = []
    for i in range(2):
        folder = tmp_path / f"lora{i}"
        folder.mkdir()
        a, b = torch.randn(2, 16, generator=g), torch.randn(16, 2, generator=g)
        name = "base_model.model.model.layers.1.self_attn.q_proj"
        save_file({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 4, "r": 2}))
        deltas.append(2 * b @ a)
    static.merge("task-arithmetic", base, [tmp_path / "lora0", tmp_path / "lora1"], out=tmp_path / "m", scale=0.5)
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "m" / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    torch.testing.assert_close(after[name], before[name] + 0.5 * sum(deltas), rtol=1e-5, atol=1e-6)


# -- nothing is left behind ------------------------------------------------------------------------------------------


def files(folder, count=3):
    g = torch.Generator().manual_seed(0)
    paths = []
    for i in range(count):
        paths.append(folder / f"m{i}.safetensors")
        save_file({"a.weight": torch.randn(8, 8, generator=g), "b": torch.randn(8, generator=g)}, paths[-1])
    return paths


def left(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_failed_merge_writes_nothing(tmp_path):
    base, good, bad = files(tmp_path)
    broken = load_file(bad)
    broken["b"][3] = float("nan")
    save_file(broken, tmp_path / "nan.safetensors")
    short = tmp_path / "short.safetensors"
    short.write_bytes(bad.read_bytes()[:-8])
    other = tmp_path / "other.safetensors"
    save_file({"z": torch.ones(2)}, other)
    before = left(tmp_path)
    for path, match in [
        (tmp_path / "nan.safetensors", r"nan\.safetensors: NaN or Inf in tensor 'b'"),
        (short, r"short\.safetensors: truncated"),
        (other, r"other\.safetensors: .*do not fit the base"),
        (tmp_path / "none.safetensors", r"none\.safetensors: no such file"),
    ]:
        for method in ("average", "ties", "iso-c"):
            with pytest.raises(ManyoneError, match=match) as caught:
                static.merge(method, base, [good, path], out=tmp_path / "new" / "out")
            assert "\n" not in str(caught.value)
            assert left(tmp_path) == before


def test_an_output_that_cannot_be_written(tmp_path):
    base, good, bad = files(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "keep").write_text("x")
    before = left(tmp_path)
    for out, match in [
        (tmp_path / "file", "exists already"),
        (tmp_path / "full", "exists already"),
        (tmp_path / "file" / "under", "under"),
        (Path("/proc/manyone"), "/proc/manyone: nothing can be written in /proc"),
    ]:
        with pytest.raises(ManyoneError, match=match):
            static.merge("average", base, [good, bad], out=out)
        assert left(tmp_path) == before
    with pytest.raises(ManyoneError, match="size 'big' is not understood"):
        static.merge("average", base, [good, bad], out=tmp_path / "out", max_shard_size="big")
    assert left(tmp_path) == before


def test_a_full_disk_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    base, good, bad = files(tmp_path)
    before = left(tmp_path)
    real, calls = os.pwrite, []

    def full(descriptor, data, offset):
        calls.append(offset)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ManyoneError, match="the disk is full"):
        static.merge("average", base, [good, bad], out=tmp_path / "out")
    assert left(tmp_path) == before


def test_tied_tensors_are_written_once(tmp_path):
    w = torch.randn(6, 4)
    torch.save({"embed.weight": w, "head.weight": w}, tmp_path / "base.pt")
    save_file({"embed.weight": w + 1}, tmp_path / "e.safetensors")
    static.merge("average", tmp_path / "base.pt", [tmp_path / "e.safetensors"], out=tmp_path / "out")
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == {"embed.weight"}
    assert open_checkpoint(tmp_path / "out").aliases == {"head.weight": "embed.weight"}


# -- memory ----------------------------------------------------------------------------------------------------------

MEMORY = """
import sys, threading, time
from pathlib import Path
import torch
import manyone.merging.static.methods as static

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024

folder, out, method, count = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
torch.set_num_threads(2)
warm = {"w.weight": torch.ones(8, 8)}
static.merge(method, warm, [warm, {"w.weight": torch.zeros(8, 8)}])
start, peak, stop = anonymous(), [0.0], threading.Event()

def watch():
    while not stop.is_set():
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
static.merge(method, folder / "base.safetensors", [folder / f"e{i}.safetensors" for i in range(count)], out=out)
stop.set()
watcher.join()
print(peak[0] - start)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A base and eight experts of 100 MB each."""
    folder = tmp_path_factory.mktemp("large")
    g = torch.Generator().manual_seed(0)
    base = {f"l{i}.weight": torch.randn(1600, 1563, generator=g) for i in range(10)}
    save_file(base, folder / "base.safetensors")
    noise = torch.randn(1600, 1563, generator=g)
    for k in range(8):
        save_file({n: v + 0.01 * noise.roll(k, 1) for n, v in base.items()}, folder / f"e{k}.safetensors")
    yield folder
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads RssAnon of /proc")
@pytest.mark.parametrize("method", ["task-arithmetic", "ties"])
def test_anonymous_memory_does_not_grow_with_the_experts(large, tmp_path, method):
    used = {}
    for count in (2, 8):
        command = [
            sys.executable,
            "-c",
            textwrap.dedent(MEMORY),
            str(large),
            str(tmp_path / str(count)),
            method,
            str(count),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        used[count] = float(done.stdout.split()[-1])
    assert used[8] <= 100, used
    assert used[8] - used[2] <= 25, used  # a chunk of each expert is in memory, 1 MB; an expert is 100 MB


WITHOUT_TORCH = """
import sys
from manyone.cli.main import run
code = run(sys.argv[1:])
sys.exit(code or ("PyTorch was imported" if "torch" in sys.modules else 0))
"""


@pytest.mark.parametrize("method", ["average", "task-arithmetic", "fisher"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_of_wide_floats_need_no_pytorch(tmp_path, method, dtype):
    g = torch.Generator().manual_seed(3)
    models = []
    for name in ("base", "a", "b"):
        models.append({"w": torch.randn(300, 400, generator=g, dtype=dtype), "ids": torch.arange(4)})
        save_file(models[-1], tmp_path / f"{name}.safetensors")
    paths = [str(tmp_path / f"{name}.safetensors") for name in ("base", "a", "b")]
    run = ["run", method, "--base", paths[0], "--experts", *paths[1:], "--out", str(tmp_path / "out")]
    options = {}
    if method == "fisher":
        options = {"fishers": [{"w": torch.rand(300, 400, generator=g, dtype=dtype)} for _ in models[1:]]}
        for i, fisher in enumerate(options["fishers"]):
            save_file(fisher, tmp_path / f"fisher{i}.safetensors")
        run += ["--fishers", *(str(tmp_path / f"fisher{i}.safetensors") for i in range(2))]
    for command in ([*run, "--dry-run"], run, ["report", str(tmp_path / "out")]):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH, *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    merged = load_file(tmp_path / "out" / "model" / "model.safetensors")
    in_memory = static.merge(method, models[0], models[1:], **options)
    assert all(torch.equal(merged[n], v) for n, v in in_memory.items())
    assert merged["w"].dtype == dtype


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_every_float_type_is_read_rounded_and_copied(tmp_path, dtype):
    g = torch.Generator().manual_seed(4)
    base = {
        "w": torch.randn(70, 1000, generator=g).to(dtype),
        "kept": torch.randn(9, generator=g).to(dtype),
        "phase": torch.randn(3, generator=g, dtype=torch.complex64),
        "odd": torch.tensor([1, 2, 3], dtype=torch.uint8),
    }
    expert = {n: (v.float() + 0.25).to(dtype) if n in ("w", "kept") else v for n, v in base.items()}
    save_file(base, tmp_path / "base.safetensors")
    save_file(expert, tmp_path / "expert.safetensors")
    for source in ((base, [expert]), (tmp_path / "base.safetensors", [tmp_path / "expert.safetensors"])):
        merged = static.merge("task-arithmetic", *source, scale=0.5, exclude=["kept"])
        work = torch.float64 if dtype == torch.float64 else torch.float32
        expected = (0.5 * base["w"].to(work) + 0.5 * expert["w"].to(work)).to(dtype)
        assert torch.equal(merged["w"].to(work), expected.to(work))
        for name in ("kept", "phase", "odd"):
            assert merged[name].dtype == base[name].dtype
            assert torch.equal(merged[name].view(torch.uint8), base[name].view(torch.uint8)), name
