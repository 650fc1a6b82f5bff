"""What a reader of the manual has at hand, made small: checkpoints, pictures, tables, recordings, an environment."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch


def pretrained(base: str, experts: Sequence[str]) -> None:
    """Hugging Face folders of a vision transformer with two classes and of copies whose weights have moved a little."""
    from transformers import ViTConfig, ViTForImageClassification

    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**size, image_size=32, patch_size=16, num_labels=2))
    model.save_pretrained(base)
    weights = model.state_dict()
    for expert in experts:
        model.load_state_dict({name: value + 0.01 * torch.randn_like(value) for name, value in weights.items()})
        model.save_pretrained(expert)


def language_models(base: str, tables: dict[str, dict[str, str]]) -> None:
    """A causal language model with its tokeniser, and for each table (expert, then sentence and label) a moved copy."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    rows = [row for pairs in tables.values() for row in pairs.items()]
    words = dict.fromkeys(word for row in rows for word in " ".join(row).split())
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["[PAD]", "[UNK]", *words])}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")
    size = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": len(words) + 2}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**size, pad_token_id=0, bos_token_id=None, eos_token_id=None))
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for name, pairs in tables.items():
        model.load_state_dict({key: value + 0.02 * torch.randn_like(value) for key, value in weights.items()})
        model.tie_weights()
        model.save_pretrained(f"{name}-lm")
        lines = [json.dumps({"text": text, "label": label}) for text, label in pairs.items() for _ in range(10)]
        Path(f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def mergekit_recipe(path: str, base: str, experts: Sequence[str]) -> None:
    """Task arithmetic as a mergekit recipe."""
    models = "".join(f"  - {{model: {expert}, parameters: {{weight: 0.3}}}}\n" for expert in experts)
    Path(path).write_text(f"merge_method: task_arithmetic\nbase_model: {base}\nmodels:\n{models}")


def pictures(folder: str, classes: Sequence[str], each: int = 12) -> None:
    """A folder of pictures with a sub-folder a class."""
    from PIL import Image

    for k, label in enumerate(classes):
        (Path(folder) / label).mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", (32, 32), (40 * k + i, 90 + i, 200 - 30 * k)).save(Path(folder) / label / f"{i}.png")


def table(path: str, label: str, rows: int = 160) -> None:
    """The first rows and four columns of scikit-learn's breast cancer table as CSV, the class in column ``label``."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    lines = [",".join([*data.feature_names[:4], label])]
    for x, y in zip(data.data[:rows, :4], data.target[:rows]):
        lines.append(",".join([*(f"{value:g}" for value in x), data.target_names[y]]))
    Path(path).write_text("\n".join(lines) + "\n")


def recording(name: str, states: int, actions: int):
    """Four episodes of random actions in an environment whose observations and actions have these widths."""
    from manyone.data.trajectories.trajectories import Trajectories

    draws = np.random.Generator(np.random.Philox(5))
    episodes = [
        {
            "observations": draws.standard_normal((30, states)),
            "actions": draws.uniform(-1, 1, (30, actions)),
            "rewards": draws.standard_normal(30),
        }
        for _ in range(4)
    ]
    return Trajectories.from_episodes(name, episodes)


def d4rl(path: str, states: int, actions: int) -> None:
    """The same as one of D4RL's HDF5 files."""
    import h5py

    data = recording("task", states, actions)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        ends = np.zeros(len(data.rewards), bool)
        ends[data.offsets[1:] - 1] = True
        file["observations"], file["actions"], file["rewards"] = data.observations, data.actions, data.rewards
        file["timeouts"], file["terminals"] = ends, np.zeros_like(ends)


def maze(dataset_id: str) -> None:
    """A Minari data set with dictionary observations."""
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    box = gymnasium.spaces.Box(-9, 9, (2,), np.float32)
    ends = np.arange(6) == 5
    seen = {key: np.zeros((7, 2), np.float32) for key in ("observation", "desired_goal")}
    buffer = EpisodeBuffer(observations=seen, actions=np.zeros((6, 2), np.float32), rewards=np.ones(6),
                           terminations=ends, truncations=ends & False)  # fmt: skip
    with warnings.catch_warnings(action="ignore"):
        spaces = gymnasium.spaces.Dict(dict.fromkeys(seen, box))
        minari.create_dataset_from_buffers(dataset_id, [buffer], observation_space=spaces, action_space=box)
