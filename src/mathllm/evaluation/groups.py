"""Which result files belong together: what one table or curve can be made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl

from mathllm.errors import ParameterError, ResultsError
from mathllm.evaluation.results import RESULTS, STEPS, Header
from mathllm.wording import shown

SUFFIX = ".parquet"


@dataclass(frozen=True)
class ResultGroup:
    """Engines that answered the same problems under the same settings.

    `results` has a name for each file, in their order. `depths` are those of the files that
    differ in supervision steps alone, by engine, then by steps.
    """

    paths: list[Path]
    headers: list[Header]
    results: dict[str, pl.DataFrame]
    depths: dict[str, dict[int, pl.DataFrame]]

    @property
    def settings(self) -> dict[str, Any]:
        """What all files have in common."""
        return _shared_settings(self.headers[0])

    @property
    def only_depth(self) -> bool:
        """Whether there is nothing to compare but depths."""
        return sum(map(len, self.depths.values())) == len(self.paths)


def read_groups(given: Sequence[Path]) -> list[ResultGroup]:
    """The result files among `given`, or in the folders that it names, in groups.

    Raises ParameterError where none is given, and ResultsError, naming the file, for one that
    cannot be read, is empty or unfinished, comes twice, or has nothing to be compared with
    since the others are over other problems.
    """
    read = {path: _read(path) for path in _files(given)}
    for (one, (ours, _)), (other, (theirs, _)) in combinations(read.items(), 2):
        if ours == theirs:
            raise ResultsError(f"{other} is the same evaluation as {one}: give one of the two")
    groups: dict[str, list[Path]] = {}
    for path, (header, _) in read.items():
        groups.setdefault(repr(_key(header)), []).append(path)
    _check_comparable([[(path, read[path][0]) for path in paths] for paths in groups.values()])
    return [_group({path: read[path] for path in paths}) for paths in groups.values()]


def read_depths(paths: Sequence[Path]) -> dict[int, pl.DataFrame]:
    """Rows by supervision steps, fewest first, of files that differ in nothing else.

    Raises ResultsError where they do differ, naming what.
    """
    read = {path: RESULTS.read(path) for path in paths}
    found: dict[int, pl.DataFrame] = {}
    for path, (header, rows) in read.items():
        steps = header.settings.get(STEPS)
        if steps is None or steps in found:
            raise ResultsError(
                f"{path} has {STEPS} {steps}: give one file of the TRM for each number of steps"
            )
        first, _ = next(iter(read.values()))
        odd = [d for d in header.differences(first) if d[0] not in (STEPS, "engine")]
        if odd:
            name, ours, theirs = odd[0]
            raise ResultsError(
                f"{path} was made with {name} {shown(ours)} and {paths[0]} with {shown(theirs)}: a "
                f"curve needs files that differ in {STEPS} alone"
            )
        found[steps] = rows
    return dict(sorted(found.items()))


def _files(given: Sequence[Path]) -> list[Path]:
    if not given:
        raise ParameterError("no result files: give some, as runs/evaluate/*.parquet")
    found: list[Path] = []
    for path in given:
        inside = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        if not inside:
            raise ParameterError(
                f"{path} has no {SUFFIX} file: give a folder that the evaluation wrote to"
            )
        found += inside
    return list(dict.fromkeys(found))


def _read(path: Path) -> tuple[Header, pl.DataFrame]:
    header, rows = RESULTS.read(path)
    if rows.is_empty():
        raise ResultsError(f"{path} has no rows: evaluate again, at least one problem")
    return header, rows


def _shared_settings(header: Header) -> dict[str, Any]:
    return {name: value for name, value in header.settings.items() if name != STEPS}


def _key(header: Header) -> tuple[Any, ...]:
    settings = sorted(_shared_settings(header).items())
    return header.dataset, header.split, header.problems, settings


def _check_comparable(groups: Sequence[Sequence[tuple[Path, Header]]]) -> None:
    """A file alone in its group, and one that it fits but for the problems: meant as a pair."""
    for alone in (group for group in groups if len(group) == 1):
        path, header = alone[0]
        for other in (group for group in groups if group is not alone):
            theirs, against = other[0]
            odd = [name for name, *_ in header.differences(against)]
            if not set(odd) - {"problems", "engine", "weights", STEPS}:
                raise ResultsError(
                    f"{path} and {theirs} are over different problems of {header.dataset}, so "
                    "nothing can be compared: evaluate both on the same ones, or report them apart"
                )


def _group(read: dict[Path, tuple[Header, pl.DataFrame]]) -> ResultGroup:
    paths, headers = list(read), [header for header, _ in read.values()]
    names = [header.engine for header in headers]
    names = [
        name if names.count(name) == 1 else f"{name} ({header.weights[:6]})"
        for name, header in zip(names, headers, strict=True)
    ]
    results = {name: rows for name, (_, rows) in zip(names, read.values(), strict=True)}
    most = max(paths, key=lambda path: read[path][1]["id"].n_unique())
    for path, (_, rows) in read.items():
        if set(rows["id"]) != set(read[most][1]["id"]):
            raise ResultsError(
                f"{path} has {rows['id'].n_unique()} problems and {most} "
                f"{read[most][1]['id'].n_unique()} of the same set: its evaluation did not end; "
                "run it again, it goes on"
            )
    return ResultGroup(paths, headers, results, _depths(dict(zip(paths, headers, strict=True))))


def _depths(headers: dict[Path, Header]) -> dict[str, dict[int, pl.DataFrame]]:
    by_weights: dict[str, dict[int, Path]] = {}
    for path, header in headers.items():
        if (steps := header.settings.get(STEPS)) is not None:
            by_weights.setdefault(header.weights, {}).setdefault(steps, path)
    several = {name: list(paths.values()) for name, paths in by_weights.items() if len(paths) > 1}
    return {name: read_depths(paths) for name, paths in several.items()}
