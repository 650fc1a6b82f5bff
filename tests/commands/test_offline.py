"""``manyone data`` for offline data sets."""

import numpy as np
import pytest

from manyone.cli import data_command as datasets
from manyone.cli import studies
from manyone.data.trajectories.offline import keep_list, keep_task, parse_offline
from manyone.data.trajectories.trajectories import Trajectories
from manyone.envs.single import scripted
from manyone.errors import ManyoneError


@pytest.fixture(autouse=True)
def private(monkeypatch, tmp_path):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def zeros(monkeypatch):
    """Episodes of zeros, so that nothing is simulated."""

    def play(task, quality, chosen, seeds, *, episodes, steps):
        return [
            {
                "observations": np.zeros((steps + 1, 39)),
                "actions": np.zeros((steps, 4)),
                "rewards": np.full(steps, e),
                "success": e % 2 == 0,
            }
            for e in chosen
        ]

    monkeypatch.setattr(scripted, "play", play)


def keep(name):
    wanted = parse_offline(name)
    one = {"observations": np.zeros((3, 39)), "actions": np.zeros((2, 4)), "rewards": np.ones(2)}
    keep_task(wanted, "door-open-v3", Trajectories.from_episodes("door-open-v3", [one]))
    keep_list(wanted, ["door-open-v3"])


def test_ls_shows_suites_qualities_and_what_is_made():
    keep("metaworld-pairs10-sub")
    (rows,) = (rows for title, rows in datasets.lists() if "SUITE-QUALITY@EPISODESxSTEPS" in title)
    suites = {row["suite"]: row for row in rows}
    pairs = suites["metaworld-pairs10"]
    assert (pairs["qualities"], pairs["made (default size, seed 0)"]) == ("near, sub, expert", "sub")
    assert "ant-dir" in suites


def test_info_shows_size_licence_place_and_figures(capsys):
    keep("metaworld-mt1:door-open-near@1x2")
    datasets.info("metaworld-mt1:door-open-near@1x2")
    out = capsys.readouterr().out
    for text in ("1 episodes of 2 steps a task", "MIT", "1 of 1 tasks", "near-1x2-seed0-v0", "return 2 to 2"):
        assert text in out
    datasets.info("metaworld-mt10-expert")
    assert "MTDiff" in capsys.readouterr().out


def test_make_prints_the_tasks_and_clear_removes_them(zeros, capsys, tmp_path):
    words = ["metaworld-mt1:door-open-near", "--episodes", "4", "--steps", "5", "--seed", "1", "--workers", "1"]
    assert studies.data(["make", *words]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if "door-open-v3" in line)
    assert [cell.strip() for cell in row.split("│")[2:6]] == ["4", "20", "0, 10, 15", "0.50"]
    assert str(tmp_path / "offline" / "metaworld") in out
    datasets.make("metaworld-mt1:door-open-near", episodes=4, steps=5, workers=1)
    capsys.readouterr()
    datasets.clear("metaworld-mt1:door-open-near@4x5")
    assert "removed 0.1 MB" in capsys.readouterr().out
    assert [p.parent.name for p in tmp_path.rglob("trajectories.json")] == ["near-4x5-seed1-v0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["make", "metaworld-mt11-near"], "unknown data set 'metaworld-mt11-near': did you mean metaworld-mt"),
        (["info", "metaworld-mt1:dor-open-near"], "did you mean door-open-v3"),
        (["make", "mini6", "--episodes", "3"], "--episodes is for offline data sets"),
        (["info", "metaworld-mt10-near", "--workers", "2"], "--workers is an option of `manyone data make`"),
        (["make", "metaworld-mt10-near", "--seed", "-1"], "--seed -1: must be 0 or more"),
        (["make", "metaworld-mt10-near", "--steps", "900"], "900 steps a task; must be 1 to 500"),
        (["get", "metaworld-mt10-near"], "is made, not fetched: manyone data make metaworld-mt10-near"),
    ],
)
def test_wrong_words_are_answered_in_one_line(words, message):
    with pytest.raises(ManyoneError, match=message) as error:
        studies.data(words)
    assert "\n" not in str(error.value)
