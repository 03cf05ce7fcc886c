"""Results as tables: in all, by group, by depth, and two engines against each other.

Shares are in per cent, with intervals of 95 %.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl

from mathllm.errors import ParameterError
from mathllm.evaluation.results import TOO_LONG
from mathllm.evaluation.statistics import (
    Interval,
    Paired,
    bootstrap,
    effective_votes,
    error_correlation,
    mean_phi,
    paired,
    pairs_told,
    wilson,
)
from mathllm.evaluation.votes import Samples, methods, ordered, voted
from mathllm.solving import SolverSettings

Results = Mapping[str, pl.DataFrame]
# Of a sample, and whether a right one should have more of it (1) or less (-1).
MEASURES = {
    "logprob": 1,
    "entropy": -1,
    "tail_entropy": -1,
    "group_entropy": -1,
    "confidence": 1,
}
NOTHING_SAID = -1e9  # score of a sample without a token


def accuracy_table(results: Results, by: str) -> pl.DataFrame:
    """Right answers of each engine by group, and in all: `by`, problems, then an engine a column.

    `results` maps an engine's name to one row a problem, all of the same problems.
    """
    table: pl.DataFrame | None = None
    for name, rows in _some(results).items():
        keyed = rows.with_columns(pl.col(by).cast(pl.String))
        whole = keyed.with_columns(pl.lit("all").alias(by))
        counts = (
            pl.concat([keyed, whole])
            .group_by(by, maintain_order=True)
            .agg(pl.len().alias("problems"), pl.col("right").sum().alias(name))
        )
        table = counts if table is None else table.join(counts.drop("problems"), on=by)
    return table.sort(pl.col(by) == "all", by)


def share(rows: pl.DataFrame) -> Interval:
    """Right of all samples: Wilson's interval for one sample a problem, else over problems."""
    counts = rows.group_by("id", maintain_order=True).agg(pl.len(), pl.col("right").sum())
    if (counts["len"] == 1).all():
        return wilson(int(counts["right"].sum()), len(counts))
    return bootstrap(counts["right"].to_numpy(), counts["len"].to_numpy())


def group_table(results: Results, by: str) -> pl.DataFrame:
    """Samples right by group: `by`, engine, problems, samples, right, percent, low, high."""
    rows = [
        {by: group, "engine": name, **_counted(part)}
        for name, whole in _some(results).items()
        for (group,), part in whole.group_by(by, maintain_order=True)
    ]
    return pl.DataFrame(rows, infer_schema_length=None).sort(by, maintain_order=True)


def summary_table(results: Results) -> pl.DataFrame:
    """One row an engine: engine, then what `group_table` counts, and beside it

    vote (per cent right by majority over all samples) with its interval; no_answer, cut_off
    and too_long (per cent of samples: without an answer, at their last token, and of problems
    that the engine cannot hold); tokens a sample, seconds a problem, tokens a second, and
    supervision steps a token.
    """
    rows = []
    for name, part in _some(results).items():
        vote, problems = share(voted(part)), part["id"].n_unique()
        seconds, tokens = part["seconds"].sum(), part["tokens"].sum()
        steps = part.drop_nulls("supervision_steps")
        rows.append(
            {"engine": name}
            | _counted(part)
            | {f"vote{key}": _percent(value) for key, value in _named(vote)}
            | {
                "no_answer": _percent(part["answer"].is_null().mean()),
                "cut_off": _percent((part["finish_reason"] == "length").mean()),
                "too_long": _percent((part["finish_reason"] == TOO_LONG).mean()),
                "tokens": round(tokens / len(part), 1),
                "seconds": round(seconds / problems, 3),
                "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
                "steps": round((steps["supervision_steps"] * steps["tokens"]).sum() / tokens, 3)
                if len(steps)
                else None,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def method_table(results: Results, settings: SolverSettings, sessions: int = 0) -> pl.DataFrame:
    """Per cent right of each engine's votes: engine, voting, submitted, percent, low, high.

    For each of the solver's methods over all samples; `submitted` is true of a last row with
    the settings' own method and rules to stop, as `votes.submitted` has them.
    """
    rows = []
    for name, part in _some(results).items():
        everything = [
            replace(settings, voting=method, parallel=0, agreement=0, lead=0.0)
            for method in methods(part)
        ]
        won = [(False, kind.voting, voted(part, kind)) for kind in everything]
        won.append((True, settings.voting, voted(part, settings, sessions)))
        for own, method, answers in won:
            found = share(answers)
            rows.append(
                {"engine": name, "voting": method, "submitted": own}
                | {"percent": _percent(found.value)}
                | {"low": _percent(found.low), "high": _percent(found.high)}
            )
    return pl.DataFrame(rows)


def with_bins(results: Results, column: str = "tokens", bins: int = 4) -> dict[str, pl.DataFrame]:
    """Rows with `{column}_bin`, such as "1: 12–35", of a column of whole numbers.

    Bins end at quantiles of all engines' rows together; equal ones become one bin. The number
    in front keeps them in order as text.
    """
    values = np.concatenate([rows[column].to_numpy() for rows in _some(results).values()])
    quantiles = np.quantile(values, np.linspace(0, 1, bins + 1)[1:], method="inverted_cdf")
    uppers = np.unique(quantiles)
    lowers = [values.min(), *(uppers[:-1] + 1)]
    names = [f"{i}: {a}–{b}" for i, (a, b) in enumerate(zip(lowers, uppers, strict=True), 1)]

    def named(rows: pl.DataFrame) -> pl.DataFrame:
        places = np.searchsorted(uppers[:-1], rows[column].to_numpy(), side="left")
        return rows.with_columns(pl.Series(f"{column}_bin", [names[p] for p in places]))

    return {name: named(rows) for name, rows in results.items()}


def compare(first: pl.DataFrame, second: pl.DataFrame) -> tuple[Paired, pl.DataFrame]:
    """Two engines' votes on the same problems, and where only one is right.

    Columns: id, problem, truth, first, second (answers), right ("first" or "second").
    """
    ours, theirs = voted(first), voted(second)
    both = ours.select("id", "problem", "truth", "answer", "right").join(
        theirs.select("id", "answer", "right"), on="id", suffix="_2", maintain_order="left"
    )
    if not len(both) == len(ours) == len(theirs):
        raise ParameterError(
            f"{len(both)} of {len(ours)} and {len(theirs)} problems are the same: compare "
            "engines on the same ones"
        )
    result = paired(both["right"].to_numpy(), both["right_2"].to_numpy())
    winner = pl.when("right").then(pl.lit("first")).otherwise(pl.lit("second"))
    differing = both.filter(pl.col("right") != pl.col("right_2")).select(
        *("id", "problem", "truth"), first="answer", second="answer_2", right=winner
    )
    return result, differing


def paired_table(results: Results) -> pl.DataFrame:
    """Each engine against the first: engine, against, wins, losses, both, neither, p (McNemar),
    difference of votes in points, with its interval."""
    (base, first), *others = _some(results).items()
    rows = []
    for name, second in others:
        found, _ = compare(first, second)
        rows.append(
            {"engine": name, "against": base, "wins": found.wins, "losses": found.losses}
            | {"both": found.both, "neither": found.neither, "p": round(found.p, 4)}
            | {f"points{key}": _percent(value) for key, value in _named(found.difference)}
        )
    return pl.DataFrame(rows)


def correlation_table(results: Results) -> pl.DataFrame:
    """How alike samples of one problem are: engine, samples, correlation (intraclass), phi
    (mean over pairs of samples), votes (effective ones, n / (1 + (n − 1)ρ))."""
    rows = []
    for name, part in _some(results).items():
        right = Samples.of(part).right
        rho = error_correlation(right)
        votes = None if rho is None else effective_votes(right.shape[1], rho)
        rows.append(
            {"engine": name, "samples": right.shape[1], "correlation": rho}
            | {"phi": mean_phi(right), "votes": votes}
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def auroc_table(results: Results) -> pl.DataFrame:
    """How well each of MEASURES tells a right sample from a wrong one of the same problem: engine,
    measure, problems that have both, auroc with low and high, and better: by how much it tells
    better than the first measure, with better_low and better_high. Problems are resampled.

    Measures that a file does not have are left out.
    """
    rows = []
    for name, part in _some(results).items():
        samples, inside = Samples.of(part), ordered(part)
        first: np.ndarray | None = None
        for measure, sign in MEASURES.items():
            if inside.select((pl.col(measure).is_null() & (pl.col("tokens") > 0)).any()).item():
                continue
            scores = sign * inside[measure].to_numpy().reshape(samples.right.shape)
            scores = np.nan_to_num(scores, nan=NOTHING_SAID)
            told, pairs = pairs_told(scores, samples.right)
            if not pairs.any():
                break
            first = told if first is None else first
            mixed = pairs > 0
            found = {"auroc": bootstrap(told[mixed], pairs[mixed])}
            if told is not first:
                found["better"] = bootstrap((told - first)[mixed], pairs[mixed])
            rows.append(
                {"engine": name, "measure": measure, "problems": int(mixed.sum())}
                | {f"{what}{key}": x for what, one in found.items() for key, x in _named(one)}
            )
    schema = {"engine": pl.String, "measure": pl.String, "problems": pl.Int64}
    figures = [f"{what}{key}" for what in ("auroc", "better") for key in ("", "_low", "_high")]
    return pl.DataFrame(rows, schema=schema | dict.fromkeys(figures, pl.Float64))


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


def problem_times(results: Results) -> pl.DataFrame:
    """Columns engine, id, problem (its number, from 1), seconds and tokens of all its samples."""
    parts = []
    for name, rows in _some(results).items():
        sums = rows.group_by("id", maintain_order=True).agg(pl.col("seconds", "tokens").sum())
        numbered = sums.with_row_index("problem", offset=1).with_columns(engine=pl.lit(name))
        parts.append(numbered.select("engine", "id", "problem", "seconds", "tokens"))
    return pl.concat(parts)


def _some(results: Results) -> Results:
    if not results:
        raise ParameterError("no results to tabulate: evaluate at least one engine")
    return results


def _counted(rows: pl.DataFrame) -> dict[str, float | int]:
    found = share(rows)
    counts = {"problems": rows["id"].n_unique(), "samples": len(rows)}
    counts |= {"right": int(rows["right"].sum()), "percent": _percent(found.value)}
    return counts | {"low": _percent(found.low), "high": _percent(found.high)}


def _named(interval: Interval) -> list[tuple[str, float]]:
    return [("", interval.value), ("_low", interval.low), ("_high", interval.high)]


def _percent(value: float) -> float:
    return round(100 * value, 1)
