"""``manyone push``: the model of a run to a repository of the Hugging Face hub."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from manyone.cli.parser import Parser
from manyone.engine.card import read_card, split_card
from manyone.engine.documents import parse_yaml, read_json
from manyone.engine.extras import need
from manyone.engine.files import stays_inside
from manyone.engine.mergeable import CARD
from manyone.errors import ManyoneError

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_WEIGHTS = (".safetensors", ".npz", ".gguf")


def push(words: Sequence[str]) -> int:
    """``manyone push RUN REPO [--private] [--message TEXT] [--dry-run]``."""
    parser = Parser(
        "push",
        "Uploads the model folder of a run, with its card, to a repository of the Hugging Face hub; makes the\n"
        "repository where there is none. Log in first (`hf auth login`) or set HF_TOKEN. Nothing else is sent.",
        "manyone push runs/wemoe me/wemoe-pets --private",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, or the model folder in it")
    parser.add_argument("repo", metavar="REPO", help="NAME or OWNER/NAME on the hub")
    parser.add_argument("--private", action="store_true", help="make the repository a private one, if it is new")
    parser.add_argument("--message", metavar="TEXT", help="what the commit says (default: the recipe)")
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent, and send nothing")
    parsed = parser.parse(words)
    if not _REPO.fullmatch(parsed.repo) or ".." in parsed.repo or len(parsed.repo) > 96:
        raise ManyoneError(f"{parsed.repo}: no name of a repository: NAME or OWNER/NAME, of letters, digits, . _ -")
    hub = need("huggingface_hub", "`manyone push`", "hub")
    folder, files = _model_files(parsed.run)
    card = _card(hub, folder)
    print(f"{folder} -> {parsed.repo}{' (private)' if parsed.private else ''}")
    for file in files:
        print(f"  {file.relative_to(folder)}  {file.stat().st_size:,} bytes")
    print(f"card: {card}")
    if base := _local_base(folder):
        print(f"note: adapter_config.json names a folder of this machine as its base, {base}: others cannot load the "
              "adapter; write the base's name on the hub there first")  # fmt: skip
    if parsed.dry_run:
        print("nothing was sent")
        return 0
    message = parsed.message or f"manyone: {folder.parent.name if folder.name == 'model' else folder.name}"
    try:
        api = hub.HfApi()
        repo = api.create_repo(parsed.repo, private=parsed.private or None, exist_ok=True).repo_id
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message=message,
            allow_patterns=[str(file.relative_to(folder)) for file in files],
        )
    except (hub.errors.HfHubHTTPError, hub.errors.LocalTokenNotFoundError, OSError, *_lost_connections()) as problem:
        status = getattr(getattr(problem, "response", None), "status_code", None)
        known = isinstance(problem, hub.errors.LocalTokenNotFoundError) or status == 401
        advice = "log in with `hf auth login`, or set HF_TOKEN" if known else "nothing is there, or a part: try again"
        raise ManyoneError(f"{parsed.repo}: {_line(problem)}: {advice}") from None
    print(f"pushed: {getattr(done, 'commit_url', done)}")
    return 0


def _model_files(run: Path) -> tuple[Path, list[Path]]:
    """The model folder and its files; ``ManyoneError`` for a run without a model and for links out of the folder."""
    if not run.is_dir():
        raise ManyoneError(f"{run}: no such folder: give a run folder, or the model folder in it")
    folder = run / "model" if (run / "config.yaml").is_file() else run
    if folder is not run and not (run / "done").is_file():
        raise ManyoneError(f"{run} is not finished: manyone resume {run}")
    files = sorted(Path(place) / name for place, _, names in os.walk(folder) for name in names)
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    whole = folder is not run or folder.name == "model"
    if not any(file.suffix in _WEIGHTS and (whole or file.parent == folder) for file in files):
        raise ManyoneError(f"{folder}: no model is there (no safetensors file): give a finished run that exports one")
    for file in files:
        if not stays_inside(file, folder):
            raise ManyoneError(f"{file}: a link out of the folder, which would be sent too: copy the file or remove it")
    return folder, files


def _lost_connections() -> tuple[type[Exception], ...]:
    """What the hub's library lets through where no server answers: its HTTP client's own errors."""
    clients = (sys.modules.get(name) for name in ("httpx", "httpx2"))  # by the library's version
    return tuple(client.HTTPError for client in clients if client is not None)


def _local_base(folder: Path) -> str:
    """The base that an adapter names, where that is a path of this machine."""
    path = folder / "adapter_config.json"
    config = read_json(path) if path.is_file() else {}
    base = str(config.get("base_model_name_or_path") or "") if isinstance(config, dict) else ""
    return base if Path(base).is_absolute() else ""


def _card(hub: object, folder: Path) -> str:
    """What the hub will read from the card, in a line; ``ManyoneError`` for metadata that it would refuse."""
    path = folder / CARD
    if not path.is_file():
        return "none"
    try:
        parse_yaml(split_card(read_card(folder))[0], "its head")  # within our limits, before another reads it
        data = hub.ModelCard.load(path).data  # type: ignore[attr-defined]
    except Exception as problem:  # whatever the library makes of a head that it cannot read
        raise ManyoneError(f"{path}: the hub would refuse its metadata: {_line(problem)}") from None
    plain = data.to_dict()
    shown = {name: plain.get(name) for name in ("library_name", "base_model", "tags") if plain.get(name)}
    figures = [f"{result.metric_type} {result.metric_value:.4g}" for result in data.eval_results or ()
               if isinstance(result.metric_value, int | float)]  # fmt: skip
    words = [f"{name} {', '.join(value) if isinstance(value, list) else value}" for name, value in shown.items()]
    return "; ".join([*words, *figures]) or "without metadata"


def _line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:300]
