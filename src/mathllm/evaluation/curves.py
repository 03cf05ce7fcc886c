"""What depth, votes and time give, in figures and in one sentence each.

Knows tables of results. Every sentence is computed from the table that it comes with: it says
no more than its figures do. Knows nothing of pictures.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from mathllm.errors import ParameterError, ResultsError
from mathllm.evaluation.results import read_results
from mathllm.evaluation.statistics import LEVEL
from mathllm.evaluation.tables import compare, share

STEPS = "supervision_steps"  # in a header's settings
STEP = "supervision step"  # in words


def read_depths(paths: Sequence[Path]) -> dict[int, pl.DataFrame]:
    """Rows by supervision steps, fewest first, of files that differ in nothing else.

    Raises ResultsError where they do differ, naming what.
    """
    read = {path: read_results(path) for path in paths}
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
                f"{path} was made with {name} {ours!r} and {paths[0]} with {theirs!r}: a curve "
                f"needs files that differ in {STEPS} alone"
            )
        found[steps] = rows
    return dict(sorted(found.items()))


def depth_curve(results: Mapping[int, pl.DataFrame]) -> pl.DataFrame:
    """Right answers and time against supervision steps at test time.

    `results` maps N_sup to rows over the same problems. Columns: steps, problems, right, low,
    high (shares of samples), seconds_per_token, tokens_per_second, wins, losses and p of the
    votes against those at the most steps (McNemar).
    """
    if not results:
        raise ParameterError("no results to draw: evaluate at least one number of steps")
    deepest = results[max(results)]
    rows = []
    for steps, part in sorted(results.items()):
        found, (against, _) = share(part), compare(deepest, part)
        seconds, tokens = part["seconds"].sum(), part["tokens"].sum()
        rows.append(
            {"steps": steps, "problems": part["id"].n_unique()}
            | {"right": found.value, "low": found.low, "high": found.high}
            | {"seconds_per_token": seconds / tokens if tokens else None}
            | {"tokens_per_second": tokens / seconds if seconds else None}
            | {"wins": against.wins, "losses": against.losses, "p": against.p}
        )
    return pl.DataFrame(rows)


def depth_reading(curve: pl.DataFrame) -> str:
    """What a `depth_curve` says: the best depth, and what the deepest costs and gives."""
    best = curve.sort("right", "steps", descending=[True, False]).row(0, named=True)
    first, last = curve.row(0, named=True), curve.row(-1, named=True)
    text = f"{best['right']:.0%} are right ({_range(best)}) at {_counted(best['steps'], STEP)}"
    if first["steps"] == last["steps"]:
        return f"{text}."
    same = curve.filter((pl.col("right") == best["right"]) & (pl.col("steps") != best["steps"]))
    also = " and ".join(str(steps) for steps in same["steps"])
    text += f", as at {also}; " if also else ", the most of all depths; "
    deepest, shallowest = _counted(last["steps"], STEP), _counted(first["steps"], STEP)
    if first["seconds_per_token"] and last["seconds_per_token"]:
        ratio = last["seconds_per_token"] / first["seconds_per_token"]
        text += f"a token takes {ratio:.1f} times as long at {deepest} as at {shallowest}, and "
    verdict = "may be luck" if first["p"] > 1 - LEVEL else "is more than luck explains"
    return (
        f"{text}{deepest} win {_counted(first['losses'], 'problem')} and lose {first['wins']} "
        f"against {shallowest}, which {verdict} (p = {first['p']:.2g})."
    )


def voting_reading(curve: pl.DataFrame) -> str:
    """What a `votes.voting_curve` says of its largest vote."""
    last, first = curve.row(-1, named=True), curve.row(0, named=True)
    text = (
        f"At {_counted(last['k'], 'vote')} {last['majority']:.0%} are right "
        f"({_range(last, 'majority_')}), {_points(last['loss'])} below pass@{last['k']}"
    )
    if last["k"] == first["k"]:
        return f"{text}."
    if not last["pass"]:
        return f"{text}: no sample solves any of the {last['problems']} problems."
    gain = last["majority"] - first["majority"]
    change = f"{_points(abs(gain))} {'more' if gain > 0 else 'less'} than"
    change = "as many as" if round(100 * gain) == 0 else change
    lost = last["loss"] / last["pass"]
    return (
        f"{text}: {change} with one sample, and {lost:.0%} of what some sample solves is lost in "
        "the vote."
    )


def problem_times(results: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Columns engine, id, problem (its number, from 1), seconds and tokens of all its samples."""
    parts = []
    for name, rows in results.items():
        sums = rows.group_by("id", maintain_order=True).agg(pl.col("seconds", "tokens").sum())
        numbered = sums.with_row_index("problem", offset=1).with_columns(engine=pl.lit(name))
        parts.append(numbered.select("engine", "id", "problem", "seconds", "tokens"))
    if not parts:
        raise ParameterError("no results to draw: evaluate at least one engine")
    return pl.concat(parts)


def time_reading(times: pl.DataFrame) -> str:
    """What a `problem_times` says: usual and longest time of each engine."""
    parts = []
    for (name,), rows in times.group_by("engine", maintain_order=True):
        top = rows.sort("seconds", descending=True).row(0, named=True)
        whole = rows["seconds"].sum()
        part = (
            f"{name} takes {rows['seconds'].median():.2g} s and {rows['tokens'].median():.0f} "
            f"tokens for the median problem, {top['seconds']:.2g} s and {top['tokens']} tokens "
            f"for its longest ({top['id']})"
        )
        parts.append(part + (f", {rows['tokens'].sum() / whole:,.0f} tokens/s" if whole else ""))
    return "; ".join(parts) + "."


def _range(row: Mapping[str, float], prefix: str = "") -> str:
    return f"{100 * row[prefix + 'low']:.0f}–{100 * row[prefix + 'high']:.0f}"


def _points(difference: float) -> str:
    return _counted(round(100 * difference), "point")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
