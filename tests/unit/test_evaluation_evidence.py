"""The experiment's report, from trials whose right answers are known beforehand."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mathllm.cli.main import main
from mathllm.errors import ResultsError
from mathllm.evaluation.evidence import (
    BEGIN,
    END,
    TRIALS,
    Trial,
    contrasts,
    read_ways,
    replaced,
    report,
)

HOPS = np.tile(np.arange(1, 9), 25)
STEPS = 10


def staircase(sure: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """k hops are right from step k on, and the halting head says so `sure` steps late."""
    steps = np.arange(STEPS + 1)
    right = steps >= HOPS[:, None]
    return right, steps >= HOPS[:, None] + sure


def write(
    folder: Path, name: str, seed: int, right: np.ndarray, sure: np.ndarray, row: int = 0
) -> Path:
    path = folder / f"{name}-{seed}.parquet"
    trial = Trial(name, seed, 1e-3, 1000, 5000, 1e12, 60.0, "hold 6", {"layers": 2})
    rows = {"row": np.arange(len(HOPS)) + row, "hops": HOPS}
    TRIALS.write(path, trial, pl.DataFrame(rows | {"right": right.tolist(), "sure": sure.tolist()}))
    return path


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    right, sure = staircase()
    shallow = right & (HOPS <= 3)[:, None]
    found = []
    for seed in (1, 2):
        found.append(write(tmp_path, "recursion", seed, right, sure))
        found.append(write(tmp_path, "no loop", seed, shallow, sure))
        found.append(write(tmp_path, "same again", seed, right, sure))
    return found


def test_the_tables_say_what_the_trials_hold(paths):
    ways = read_ways(paths)
    assert list(ways) == ["no loop", "recursion", "same again"]
    assert {len(way.trials) for way in ways.values()} == {2}
    found = contrasts(ways, "recursion")
    assert found["no loop"].wins == [75, 75]  # 4, 5 and 6 hops, 25 problems each
    assert found["no loop"].losses == [0, 0]
    assert found["same again"].pooled == 1
    assert found["no loop"].difference.value == pytest.approx(0.75)
    text = report(ways, "recursion", "no loop")
    assert "| no loop | 1,000 | 5,000 | 1e+12 | 60 | 0.001 | 1.000 | 1.000 | 1.000 | 0.000" in text
    assert "| 1 | 75 | 0 | 5.3e-23 |" in text
    assert "Pooled: p = 1.4e-45; +75.0 points" in text
    assert "| same again | 0 | 0 | 1 | +0.0 (+0.0 to +0.0) |" in text
    assert "| 3 | 0.00 | 0.00 | 0.00 | 1.00 | 1.00" in text
    assert "Rank correlation of hops and steps used: 1.000." in text
    assert report(read_ways(list(reversed(paths))), "recursion", "no loop") == text


def test_halting_late_uses_more_steps_and_never_more_than_there_are(tmp_path):
    right, sure = staircase(sure=2)
    way = read_ways([write(tmp_path, "late", 1, right, sure)])["late"]
    used, stands = way.halted()
    assert used[0].tolist() == np.minimum(HOPS + 2, STEPS).tolist()
    assert stands.all()


def trends(tmp_path: Path, name: str, right: np.ndarray) -> dict[int, str]:
    """The staircase's last column, by hops."""
    ways = read_ways([write(tmp_path, one, 1, right, right) for one in (name, "control")])
    table = report(ways, name, "control").partition("right after each step")[2]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return {int(row[0].strip("| ")): row[-1].strip(" |") for row in rows[2:10]}


def test_a_staircase_has_a_trend_and_answers_that_never_change_have_none(tmp_path):
    found = trends(tmp_path, "stairs", staircase()[0])
    assert found[1] == found[2] == "–"
    assert all(float(found[hops]) < 1e-4 for hops in range(3, 9))
    level = np.repeat(np.random.default_rng(0).random((len(HOPS), 1)) < 0.5, STEPS + 1, axis=1)
    assert all(float(p) > 0.3 for hops, p in trends(tmp_path, "level", level).items() if hops > 2)


def test_only_what_stands_between_the_marks_is_made_anew():
    text = f"Before.\n\n{BEGIN}\n\nold\n{END}\n\nAfter.\n"
    made = replaced(text, "new\n")
    assert made == f"Before.\n\n{BEGIN}\n\nnew\n\n{END}\n\nAfter.\n"
    assert replaced(made, "new\n") == made
    with pytest.raises(ResultsError, match="put them where tables go"):
        replaced("nothing", "new")


@pytest.mark.usefixtures("paths")
def test_the_command_puts_the_tables_into_a_document(tmp_path, capsys):
    document = tmp_path / "EVIDENCE.md"
    document.write_text(f"# Evidence\n\n{BEGIN}\n{END}\n")
    command = ["evidence", str(tmp_path), "--document", str(document)]
    assert main(tmp_path, command) == 0
    assert "tables of 6 trials, 3 ways to train" in capsys.readouterr().out
    text = document.read_text()
    assert "### recursion against no loop, 3–6 hops" in text
    assert main(tmp_path, command) == 0
    assert document.read_text() == text
    none = str(tmp_path / "none")
    for wrong, named in (
        (["evidence", str(tmp_path), "--document", none], "none does not exist"),
        (["evidence", none, "--document", str(document)], "none does not exist"),
        ([*command, "--primary", "loop"], "no trial is named 'loop'"),
    ):
        assert main(tmp_path, wrong) == 2
        assert named in capsys.readouterr().err
    assert document.read_text() == text


def test_trials_that_do_not_belong_together_are_refused_by_name(tmp_path, paths):
    right, sure = staircase()
    with pytest.raises(ResultsError, match="no trials: give"):
        read_ways([])
    other = write(tmp_path, "other", 1, right, sure, row=5)
    with pytest.raises(ResultsError, match=r"other-1\.parquet was asked other problems"):
        read_ways([*paths, other])
    fewer = write(tmp_path, "fewer", 1, right, sure)
    with pytest.raises(ResultsError, match=r"'fewer' \[1\]: a contrast needs the same ones"):
        read_ways([*paths, fewer])
    again = write(tmp_path / "copy", "recursion", 1, right, sure)
    with pytest.raises(ResultsError, match="is a second trial of 'recursion' with seed 1"):
        read_ways([*paths, again])
    ways = read_ways(paths)
    with pytest.raises(ResultsError, match="no trial is named 'loop': known are no loop"):
        contrasts(ways, "loop")
    with pytest.raises(ResultsError, match="no trial is named 'control'"):
        report(ways, "recursion", "control")
