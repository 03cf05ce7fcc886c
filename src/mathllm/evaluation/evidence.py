"""The experiment's report: trials in, the tables of docs/EVIDENCE.md out.

The same files give the same text.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import page_trend_test, spearmanr

from mathllm.errors import ResultsError
from mathllm.evaluation.contrasts import Contrast, contrast, two_way_bootstrap
from mathllm.evaluation.statistics import holm
from mathllm.table_files import TableFormat

DEEP = range(3, 7)  # hops of the primary contrast
BEGIN, END = "<!-- made from the trials: begin -->", "<!-- made from the trials: end -->"


@dataclass(frozen=True)
class Trial:
    """One way to train, with one seed, by the `name` that the report has for it. `settings` are all
    that the weights depend on; `flops` counts what training multiplied and added, forward and
    backward, `seconds` is its time, and `stage` the last that was reached."""

    name: str
    seed: int
    lr: float
    parameters: int
    trained_rows: int
    flops: float
    seconds: float
    stage: str
    settings: Mapping[str, Any] = field(default_factory=dict)


# One row a test problem. right, sure: after each supervision step, whether the answer is right and
# whether the halting head says that it stands; place 0 is the backbone.
TRIALS = TableFormat(
    "mathllm_trial",
    version=1,
    header=Trial,
    schema={
        "row": pl.Int64,
        "hops": pl.Int64,
        "right": pl.List(pl.Boolean),
        "sure": pl.List(pl.Boolean),
    },
    kind="trial, as notebooks/evidence.ipynb writes it",
    mend="run it again into another folder",
)


@dataclass(frozen=True)
class Way:
    """All seeds of one way to train. right, sure: bool [seeds, problems, steps + 1]."""

    name: str
    trials: list[Trial]
    hops: np.ndarray
    right: np.ndarray
    sure: np.ndarray

    def last(self, hops: Iterable[int] = DEEP) -> np.ndarray:
        """Right after the last step, [seeds, problems] of so many hops."""
        return self.right[:, np.isin(self.hops, list(hops)), -1]

    def shares(self) -> dict[int, np.ndarray]:
        """For each number of hops, the share of right answers after each step, over all seeds."""
        return {
            int(k): self.right[:, self.hops == k].mean(axis=(0, 1)) for k in np.unique(self.hops)
        }

    def halted(self) -> tuple[np.ndarray, np.ndarray]:
        """The step at which the halting head first says that the answer stands, the last where it
        never does, and whether the answer is right there; [seeds, problems]."""
        said = self.sure[..., 1:]
        used = np.where(said.any(axis=-1), said.argmax(axis=-1), said.shape[-1] - 1) + 1
        return used, np.take_along_axis(self.right, used[..., None], axis=-1)[..., 0]


def read_ways(paths: Sequence[Path]) -> dict[str, Way]:
    """The trials by their name, each's seeds in ascending order.

    Raises ResultsError for files that are no trials, that were asked other problems than the first
    file's, two trials of one way with the same seed, and ways with other seeds than the first's.
    """
    found: dict[str, dict[int, tuple[Trial, pl.DataFrame]]] = {}
    asked: pl.DataFrame | None = None
    for path in sorted(paths):
        trial, rows = TRIALS.read(path)
        asked = rows.select("row", "hops") if asked is None else asked
        if not rows.select("row", "hops").equals(asked):
            raise ResultsError(f"{path} was asked other problems than {min(paths)}: run it again")
        seeds = found.setdefault(trial.name, {})
        if trial.seed in seeds:
            raise ResultsError(
                f"{path} is a second trial of {trial.name!r} with seed {trial.seed}: give one each"
            )
        seeds[trial.seed] = trial, rows
    if not found:
        raise ResultsError("no trials: give the files trial.parquet of notebooks/evidence.ipynb")
    ways = {}
    for name, seeds in found.items():
        ordered = [seeds[seed] for seed in sorted(seeds)]
        tables = {
            column: np.array([rows[column].to_list() for _, rows in ordered])
            for column in ("right", "sure")
        }
        hops = ordered[0][1]["hops"].to_numpy()
        ways[name] = Way(name, [trial for trial, _ in ordered], hops, **tables)
    first = next(iter(ways.values()))
    for way in ways.values():
        if (seeds := [t.seed for t in way.trials]) != [t.seed for t in first.trials]:
            raise ResultsError(
                f"{way.name!r} has seeds {seeds}, {first.name!r} {[t.seed for t in first.trials]}: "
                "a contrast needs the same ones"
            )
    return ways


def contrasts(ways: Mapping[str, Way], primary: str) -> dict[str, Contrast]:
    """The primary way against each other one, on problems of DEEP hops after the last step."""
    if primary not in ways:
        raise ResultsError(f"no trial is named {primary!r}: known are {', '.join(ways)}")
    first = ways[primary].last()
    return {n: contrast(first, way.last()) for n, way in ways.items() if n != primary}


def report(ways: Mapping[str, Way], primary: str, control: str) -> str:
    """All tables, as Markdown."""
    found = contrasts(ways, primary)
    parts = [
        _ways_table(ways),
        _primary(ways, found, primary, control),
        _secondary(found, primary, control),
        _staircase(ways[primary]),
        _halting(ways[primary]),
    ]
    return "\n\n".join(parts) + "\n"


def replaced(text: str, tables: str) -> str:
    """A document with its tables made anew, between the two marks. Raises ResultsError without."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ResultsError(f"the document has no {BEGIN!r} and {END!r}: put them where tables go")
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-300 else "< 1e-300"


def _ways_table(ways: Mapping[str, Way]) -> str:
    hops = np.unique(next(iter(ways.values())).hops)
    head = ["way to train", "parameters", "rows", "FLOPs", "seconds", "learning rate"]
    rows = []
    for way in ways.values():
        first = way.trials[0]
        mean = two_way_bootstrap(way.last().astype(float))
        shares = way.shares()
        rows.append(
            [
                way.name,
                f"{first.parameters:,}",
                f"{first.trained_rows:,}",
                f"{np.mean([t.flops for t in way.trials]):.2g}",
                f"{np.mean([t.seconds for t in way.trials]):.0f}",
                f"{first.lr:g}",
                *(f"{shares[int(k)][-1]:.3f}" for k in hops),
                f"{mean.value:.3f} ({mean.low:.3f}–{mean.high:.3f})",
            ]
        )
    deep = f"{DEEP[0]}–{DEEP[-1]} hops (95 %)"
    return "### Right answers after the last step, by hops\n\n" + _table(
        [*head, *map(str, hops), deep], rows
    )


def _primary(
    ways: Mapping[str, Way], found: Mapping[str, Contrast], primary: str, control: str
) -> str:
    if control not in found:
        raise ResultsError(f"no trial is named {control!r}: known are {', '.join(ways)}")
    one = found[control]
    seeds = [trial.seed for trial in ways[primary].trials]
    table = _table(
        ["seed", "wins", "losses", "p"],
        [
            [str(seed), str(w), str(n), _p(p)]
            for seed, w, n, p in zip(seeds, one.wins, one.losses, one.p_values, strict=True)
        ],
    )
    gain = one.difference.scaled(100)
    return (
        f"### {primary} against {control}, {DEEP[0]}–{DEEP[-1]} hops\n\n{table}\n\n"
        f"Pooled: p = {_p(one.pooled)}; {gain.value:+.1f} points "
        f"({gain.low:+.1f} to {gain.high:+.1f})."
    )


def _secondary(found: Mapping[str, Contrast], primary: str, control: str) -> str:
    rest = {name: one for name, one in found.items() if name != control}
    adjusted = holm([one.pooled for one in rest.values()])
    rows = []
    for (name, one), p in zip(rest.items(), adjusted, strict=True):
        gain = one.difference.scaled(100)
        points = f"{gain.value:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})"
        rows.append([name, str(sum(one.wins)), str(sum(one.losses)), _p(p), points])
    head = ["against", "wins", "losses", "p (Holm)", "points (95 %)"]
    return f"### {primary} against all others\n\n" + _table(head, rows)


def _staircase(way: Way) -> str:
    shares = way.shares()
    steps = range(way.right.shape[-1])
    head = ["hops \\ steps", "backbone", *map(str, steps[1:])]
    rows = [
        [str(k), *(f"{value:.2f}" for value in share), _trend(way, k)]
        for k, share in shares.items()
    ]
    return (
        f"### {way.name}: right after each step\n\n{_table([*head, 'trend'], rows)}\n\n"
        "Trend: p of Page's test that steps 1 to k make problems of k hops ever more often right."
    )


def _trend(way: Way, hops: int) -> str:
    """Page (JASA 58, 1963); a problem, with one seed's weights, ranks the steps."""
    if not 3 <= hops < way.right.shape[-1]:  # of fewer than three steps there is no such test
        return "–"
    by_step = way.right[:, way.hops == hops, 1 : hops + 1].reshape(-1, hops)
    return _p(page_trend_test(by_step, method="asymptotic").pvalue)


def _halting(way: Way) -> str:
    used, right = way.halted()
    rows = []
    for k in np.unique(way.hops):
        chosen = way.hops == k
        rows.append(
            [
                str(k),
                f"{used[:, chosen].mean():.2f}",
                f"{right[:, chosen].mean():.3f}",
                f"{way.right[:, chosen, -1].mean():.3f}",
            ]
        )
    depth = np.broadcast_to(way.hops, used.shape)
    rank = spearmanr(depth.ravel(), used.ravel()).statistic
    head = ["hops", "steps used", "right where it halts", "right after all"]
    return (
        f"### {way.name}: halting\n\n{_table(head, rows)}\n\n"
        f"Rank correlation of hops and steps used: {rank:.3f}."
    )
