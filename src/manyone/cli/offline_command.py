"""What ``manyone data`` shows and does for offline data sets: overview, description, making, removal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from manyone.data.trajectories.files import from_place
from manyone.data.trajectories.minari import minari_folder
from manyone.data.trajectories.offline import (
    SUITES,
    OfflineName,
    forget_offline,
    is_offline,
    offline_names,
    parse_offline,
    qualities,
)
from manyone.data.trajectories.trajectories import Trajectories
from manyone.engine.extras import check_extras
from manyone.engine.progress import Progress

__all__ = ["clear", "describe", "describe_place", "is_offline", "is_place", "make", "offline_names", "overview"]


def overview() -> Table:
    """One row a suite: what it is, its qualities, and which are made at the default size."""
    title = "offline data sets: SUITE-QUALITY, SUITE-QUALITY@EPISODESxSTEPS, mujoco...-QUALITY@TRANSITIONS"
    table = Table(title=title, title_justify="left")
    for heading in ("suite", "what it is", "qualities", "made (default size, seed 0)"):
        table.add_column(heading)
    for suite, text in SUITES.items():
        named = list(qualities(suite))
        made = [] if "TASK" in suite else [q for q in named if parse_offline(f"{suite}-{q}").made()]
        table.add_row(suite, text, ", ".join(named), ", ".join(made) or "no")
    return table


def describe(name: str) -> Table:
    """What the data set is, where it lies, and its tasks once it is made."""
    from manyone.envs.single.collect import set_tasks

    wanted = parse_offline(name)
    tasks = set_tasks(wanted)
    made = [task for task in tasks if wanted.folder(task).is_dir()]
    table = Table(show_header=False, title=str(wanted), title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    size = f"{wanted.episodes} episodes of {wanted.steps} steps a task" if wanted.size else "as in its source"
    if wanted.transitions:
        size = f"{wanted.transitions} transitions a task, in episodes of at most {wanted.steps} steps"
    rows = {
        "what it is": SUITES.get(wanted.suite)
        or SUITES.get(wanted.suite.partition(":")[0], SUITES["metaworld-mt1:TASK"]),
        "quality": qualities(wanted.suite)[wanted.quality],
        "size": size,
        "tasks": f"{len(tasks)}: {', '.join(tasks)}",
        "licence": wanted.licence,
        "made": f"{len(made)} of {len(tasks)} tasks",
        "memory-mapped arrays": str(wanted.folder(tasks[0]).parents[1] / "TASK" / wanted.key),
        "Minari data sets": wanted.minari_id("TASK"),
    }
    for key, value in rows.items():
        table.add_row(key, value)
    for task in made:
        data = Trajectories.open(wanted.folder(task))
        table.add_row(task, data.summary())
    return table


def is_place(name: str) -> bool:
    """Whether ``name`` is a file, a folder, the id of a Minari data set on this machine, or several of them."""
    return any(Path(part).exists() or minari_folder(part) is not None for part in (name, *name.split(",")) if part)


def describe_place(
    place: str, keys: Sequence[str] = (), horizon: int | None = None, choices: int | None = None
) -> Table:
    """What a data set of one's own holds, as a run would read it."""
    data = from_place(place, keys=keys, horizon=horizon, choices=choices)
    table = Table(show_header=False, title=place, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    lengths = data.lengths
    environment = data.meta.get("environment", {}).get("id")
    rows = {
        "form": data.meta.get("source"),
        "environment": environment and f"gym:{environment}",
        "episodes": f"{data.episodes}, of {lengths.min()} to {lengths.max()} steps",
        "states, actions": f"{data.state_dim}, {data.action_dim} wide; {_actions(data)}",
        "entries of the states": ", ".join(data.meta.get("keys", ())),
        "returns that score 0, 100": ", ".join(f"{r:g}" for r in data.meta.get("reference", ())),
        "all in all": data.summary(),
    }
    for key, value in rows.items():
        if value:
            table.add_row(key, value)
    return table


def make(
    name: str,
    *,
    episodes: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    source: Path | None = None,
) -> None:
    """Makes what is missing of the data set, with progress, and prints its tasks."""
    from manyone.envs.single.collect import make_offline
    from manyone.envs.single.libraries import of_suite

    wanted: OfflineName = parse_offline(name, episodes=episodes, steps=steps, seed=seed)
    check_extras(of_suite(wanted, "behavior" if wanted.family == "mujoco" else "policies"))
    with Progress(str(wanted)) as bar:
        data = make_offline(
            name, episodes=episodes, steps=steps, seed=seed, workers=workers, source=source, progress=bar.update
        )
    table = Table(title=f"{wanted} (seed {wanted.seed})", title_justify="left")
    for heading in ("task", "episodes", "steps", "return (min, median, max)", "success"):
        table.add_column(heading, justify="left" if heading == "task" else "right", no_wrap=heading == "task")
    for one in data:
        low, middle, high = _quartiles(one)
        success = "" if one.successes is None else f"{one.successes.mean():.2f}"
        table.add_row(one.name, str(one.episodes), str(len(one)), f"{low:.4g}, {middle:.4g}, {high:.4g}", success)
    console = Console()
    console.print(table)
    console.print(f"in {wanted.folder(data[0].name).parents[1]}", markup=False, highlight=False, soft_wrap=True)


def clear(name: str) -> int:
    """Removes the data of all tasks of the set (other sets that share them lose them too); the freed bytes."""
    return forget_offline(parse_offline(name))


def _actions(data: Trajectories) -> str:
    if not data.choices:
        return f"actions from {data.actions.min():.4g} to {data.actions.max():.4g}"
    shares = data.actions.mean(axis=0)
    return f"one of {data.choices} actions, taken in {', '.join(f'{share:.0%}' for share in shares)} of the steps"


def _quartiles(data: Trajectories) -> tuple[float, float, float]:
    returns = sorted(data.returns.tolist())
    return returns[0], returns[len(returns) // 2], returns[-1]
