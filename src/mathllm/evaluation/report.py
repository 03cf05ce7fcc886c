"""What a report says of result files: sections of sentences, tables and pictures.

Knows nothing of Markdown or HTML, of files, or of the clock: the same results give the same
report.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import polars as pl

from mathllm.evaluation import tables, votes
from mathllm.evaluation.document import (
    Chapter,
    Picture,
    Section,
    Table,
    cells,
    chance,
    number,
    ranged,
)
from mathllm.evaluation.figures import plot_depth, plot_groups, plot_times, plot_voting
from mathllm.evaluation.groups import ResultGroup
from mathllm.evaluation.results import STEPS
from mathllm.evaluation.statistics import LEVEL, Interval, Paired
from mathllm.evaluation.votes import Samples

DIGITS = 16  # of a digest that are shown


class Contest(Protocol):
    """A competition's name and rules; `points[k]` for a problem that k of its runs have right."""

    @property
    def name(self) -> str: ...
    @property
    def problems(self) -> int: ...
    @property
    def points(self) -> Sequence[float]: ...


def chapter(group: ResultGroup, names: Sequence[str], contest: Contest) -> Chapter:
    """All that can be said of a group; `names` are what its files are called."""
    results = group.results
    sampled = Samples.of(next(iter(results.values()))).n > 1
    sections = [Section("Files", _files(group, names))]
    if not group.only_depth:
        sections.append(Section("Right answers", [_summary(results, sampled)]))
        sections += _by_group(results)
        sections += _against(results)
    sections += [_depth(name, rows, len(group.depths)) for name, rows in group.depths.items()]
    if sampled:
        sections.append(_votes(results))
    if not group.only_depth:
        sections.append(_contest(results, contest))
        sections.append(_cost(results))
    wrong = {name: rows.filter(~pl.col("right")) for name, rows in results.items()}
    return Chapter(_title(group), sections, wrong)


def _title(group: ResultGroup) -> str:
    header, settings = group.headers[0], group.settings
    count = next(iter(group.results.values()))["id"].n_unique()
    drawn = settings.get("n_samples", 1)
    how = (
        "greedy"
        if not settings.get("temperature")
        else f"{drawn} sample{'' if drawn == 1 else 's'} at temperature {settings['temperature']}"
    )
    depth = ", by depth" if group.only_depth else ""
    return f"{header.dataset} ({header.split}), {count} problems, {how}{depth}"


def _files(group: ResultGroup, names: Sequence[str]) -> list[str | Table]:
    """What was asked and how, then which file holds whose answers."""
    settings = ", ".join(f"{name} {value}" for name, value in group.settings.items())
    rows = [
        cells(name, engine, header.weights, header.settings.get(STEPS, "–"))
        for name, engine, header in zip(names, group.results, group.headers, strict=True)
    ]
    return [
        f"Problems {group.headers[0].problems[:DIGITS]}; {settings}.",
        Table(["file", "engine", "weights", STEPS.replace("_", " ")], rows, texts=3),
    ]


def _summary(results: tables.Results, sampled: bool) -> Table:
    heads = ["engine", "right", "of samples", "% right (95 %)"]
    heads += ["% of votes right (95 %)"] if sampled else []
    rows = []
    for row in tables.summary_table(results).iter_rows(named=True):
        voted = [ranged(row, "vote", "vote_")] if sampled else []
        lost = [f"{row[name]:.1f}" for name in ("no_answer", "cut_off", "too_long")]
        shares = [ranged(row, "percent"), *voted, *lost]
        rows.append(cells(row["engine"], row["right"], row["samples"], *shares))
    return Table([*heads, "% no answer", "% cut off", "% too long to ask"], rows)


def _by_group(results: tables.Results) -> Iterator[Section]:
    """A section for each column that tells problems apart."""
    first = next(iter(results.values()))
    for by in ("subject", "level"):
        known = {name: rows.drop_nulls(by) for name, rows in results.items()}
        if first[by].n_unique() < 2 or any(rows.is_empty() for rows in known.values()):
            continue
        counted = tables.group_table(known, by)
        yield Section(
            f"By {by}", [_group_table(known, counted, by), Picture(by, *plot_groups(counted))]
        )


def _group_table(results: tables.Results, counted: pl.DataFrame, by: str) -> Table:
    """Right answers by group; of two engines also who wins where they differ."""
    engines, pair = list(results), len(results) == 2
    heads = [by, "problems", *(f"{name}: right, % (95 %)" for name in engines)]
    heads += ["wins", "losses", "p"] if pair else []
    rows = []
    for (group,), parts in counted.group_by(by, maintain_order=True):
        row = [f"{part['right']}, {ranged(part)}" for part in parts.iter_rows(named=True)]
        if pair:
            ours = (rows.filter(pl.col(by) == group) for rows in results.values())
            found, _ = tables.compare(*ours)
            row += cells(found.wins, found.losses, chance(found.p))
        rows.append(cells(group, parts["problems"][0], *row))
    return Table(heads, rows)


def _against(results: tables.Results) -> Iterator[Section]:
    """Each engine against the first one, on the same problems."""
    (base, first), *others = results.items()
    if not others:
        return
    found = {name: tables.compare(first, rows)[0] for name, rows in others}
    heads = ["engine", "against", "wins", "losses", "both right", "neither", "p"]
    rows = [
        cells(name, base, one.wins, one.losses, one.both, one.neither, chance(one.p), _points(one))
        for name, one in found.items()
    ]
    readings = [_paired_reading(name, base, one) for name, one in found.items()]
    yield Section(
        "One engine against another",
        [
            "Wins and losses are problems that only one of the two has right, by the vote where "
            "there are several samples; p is McNemar's. A p of a single group is not corrected "
            "for how many groups are looked at: of twenty, one below 0.05 is luck.",
            Table([*heads, "points (95 %)"], rows, texts=2),
            *readings,
        ],
    )


def _paired_reading(name: str, base: str, found: Paired) -> str:
    verdict = "may be luck" if found.p > 1 - LEVEL else "is more than luck explains"
    return (
        f"{name} wins {found.wins} and loses {found.losses} of "
        f"{found.both + found.wins + found.losses + found.neither} problems against {base}: "
        f"{_points(found)} points, which {verdict} (p = {chance(found.p)})."
    )


def _depth(weights: str, depths: Mapping[int, pl.DataFrame], several: int) -> Section:
    curve = tables.depth_curve(depths)
    heads = ["supervision steps", "problems", "% right (95 %)", "ms a token", "tokens/s"]
    rows = [
        cells(
            row["steps"],
            row["problems"],
            ranged({name: 100 * row[name] for name in ("right", "low", "high")}, "right"),
            number(row["seconds_per_token"], 1000, 2),
            number(row["tokens_per_second"]),
            row["wins"],
            row["losses"],
            chance(row["p"]),
        )
        for row in curve.iter_rows(named=True)
    ]
    table = Table([*heads, "wins against the deepest", "losses", "p"], rows, texts=0)
    of = f" of {weights[:6]}" if several > 1 else ""
    name = f"depth-{weights[:6]}" if several > 1 else "depth"
    return Section(f"Depth{of}", [table, Picture(name, *plot_depth(curve))])


def _votes(results: tables.Results) -> Section:
    parts: list[str | Table | Picture] = [
        "pass@k: some of k samples is right; maj@k: their vote is. What lies between is what a "
        "better choice among the samples could still win."
    ]
    for name, rows in results.items():
        curve = votes.voting_curve(Samples.of(rows))
        drawn, reading = plot_voting(curve)
        parts += [_vote_table(name, curve), Picture(f"votes-{name}", drawn, f"{name}. {reading}")]
    alike = tables.correlation_table(results)
    parts.append(
        "Samples of one problem tend to fail together: with the intraclass correlation ρ, n "
        "samples tell as much as n / (1 + (n − 1)ρ) independent ones."
    )
    heads = ["engine", "samples", "correlation ρ", "mean φ of two samples", "effective votes"]
    rows = [
        cells(name, count, *(number(value, 1, 2) for value in figures))
        for name, count, *figures in alike.iter_rows()
    ]
    parts.append(Table(heads, rows))
    if len(told := tables.auroc_table(results)):
        parts += [
            "What tells a right sample from a wrong one of the same problem: AUROC, 0.5 where a "
            "measure says nothing, and how much better than the first measure.",
            _auroc(told),
        ]
    return Section("Votes", parts)


def _auroc(told: pl.DataFrame) -> Table:
    heads = ["engine", "measure", "problems with both", "AUROC (95 %)", "better (95 %)"]
    rows = []
    for row in told.iter_rows(named=True):
        area, better = (
            Interval(*(row[f"{what}{key}"] for key in ("", "_low", "_high")))
            for what in ("auroc", "better")
        )
        shown = f"{area.value:.3f} ({area.low:.3f}–{area.high:.3f})"
        gain = "–" if better.value is None else _signed(better, 3)
        rows.append(cells(row["engine"], row["measure"], row["problems"], shown, gain))
    return Table(heads, rows, texts=2)


def _vote_table(name: str, curve: pl.DataFrame) -> Table:
    rows = [
        cells(
            row["k"],
            ranged(shares, "pass", "pass_"),
            ranged(shares, "majority", "majority_"),
            f"{shares['loss']:.1f}",
        )
        for row in curve.iter_rows(named=True)
        for shares in [{name: 100 * value for name, value in row.items()}]
    ]
    return Table([f"{name}: k", "pass@k, % (95 %)", "maj@k, % (95 %)", "between, points"], rows, 0)


def _contest(results: tables.Results, contest: Contest) -> Section:
    scores = [
        f"{name}: {votes.expected_score(Samples.of(rows), contest.points, contest.problems)}."
        for name, rows in results.items()
    ]
    runs = len(contest.points) - 1
    return Section(
        f"As a score over {runs} run{'' if runs == 1 else 's'}",
        [f"By the rules of {contest.name}, if its problems were like these:", *scores],
    )


def _cost(results: tables.Results) -> Section:
    heads = ["engine", "tokens", "tokens a sample", "seconds", "seconds a problem", "tokens/s"]
    rows = [
        cells(
            row["engine"],
            part["tokens"].sum(),
            number(row["tokens"]),
            number(part["seconds"].sum(), 1, 0),
            number(row["seconds"], 1, 2),
            number(row["tokens_per_second"]),
            number(row["steps"], 1, 2),
        )
        for row, part in zip(
            tables.summary_table(results).iter_rows(named=True), results.values(), strict=True
        )
    ]
    return Section(
        "Cost",
        [
            "Seconds are those of the machine that drew the samples, a sample's share of its "
            "batch's by tokens.",
            Table([*heads, f"{STEPS.replace('_', ' ')} a token"], rows),
            Picture("cost", *plot_times(tables.problem_times(results))),
        ],
    )


def _points(found: Paired) -> str:
    return _signed(found.difference.scaled(100), 1)


def _signed(one: Interval, digits: int) -> str:
    texts = (f"{value:+.{digits}f}".replace("-", "−") for value in (one.value, one.low, one.high))
    return "{} ({} to {})".format(*texts)
