"""Results as pictures, each with the sentence that its figures say.

Every sentence is computed from the table that it comes with: it says no more than that does.
What is in the tables is computed elsewhere.
"""

from collections.abc import Mapping

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mathllm.evaluation.statistics import LEVEL
from mathllm.labels import drawn

STEP = "supervision step"
_ROW = 0.42  # inches for a group
_LEGEND_ROW = 0.22
_LINE, _NAME = 80, 24  # characters across a figure, of a name


def plot_voting(curve: pl.DataFrame) -> tuple[Figure, str]:
    """pass@k and maj@k of a `votes.voting_curve` against k, and what they say."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, label in (("pass", "pass@k: some sample is right"), ("majority", "maj@k: the vote")):
        _band(axes, curve["k"], curve, name, f"{name}_low", f"{name}_high", label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(curve["k"].to_list(), [str(k) for k in curve["k"]])
    axes.set(
        xlabel="k (samples of a problem)",
        ylabel="problems right (%)",
        ylim=(0, 105),
    )
    _legend(axes, 2)
    return figure, voting_reading(curve)


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


def plot_depth(curve: pl.DataFrame, trained: int | None = None) -> tuple[Figure, str]:
    """Right answers and time a token of a `tables.depth_curve`, and what they say.

    `trained`: the checkpoint's own N_sup, marked.
    """
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    _band(above, curve["steps"], curve, "right", "low", "high", "right, 95 % interval")
    above.set(ylabel="samples right (%)", ylim=(0, 105))
    below.plot(curve["steps"], 1000 * curve["seconds_per_token"], "o-", label="time a token")
    below.set(xlabel="supervision steps at test time", ylabel="time (ms per token)")
    below.set_ylim(bottom=0)
    below.set_xticks(curve["steps"].to_list())
    if trained is not None:
        for axes in (above, below):
            axes.axvline(trained, color="grey", ls=":", label=f"trained with {trained}")
    for axes in (above, below):
        _legend(axes, 2)
    return figure, depth_reading(curve)


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


def plot_times(times: pl.DataFrame) -> tuple[Figure, str]:
    """Seconds and tokens of each problem in a `tables.problem_times`, and what they say.

    Dashed lines are means.
    """
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    engines = times["engine"].unique(maintain_order=True)
    for number, name in enumerate(engines):
        rows = times.filter(pl.col("engine") == name)
        for axes, column in ((above, "seconds"), (below, "tokens")):
            colour = f"C{number}"
            axes.plot(
                rows["problem"], rows[column], ".", ms=4, color=colour, label=drawn(name, _NAME)
            )
            axes.axhline(rows[column].mean(), ls="--", lw=1, color=colour)
    above.set(ylabel="time (s per problem)")
    below.set(ylabel="tokens per problem", xlabel="problem, in the order of the set")
    for axes in (above, below):
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    _legend(above, len(engines))
    return figure, time_reading(times)


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


def plot_groups(table: pl.DataFrame) -> tuple[Figure, str]:
    """Per cent of each engine by group of a `tables.group_table`, and what they say."""
    by = table.columns[0]
    groups = table[by].unique(maintain_order=True).to_list()
    engines = table["engine"].unique(maintain_order=True).to_list()
    names, engine_names = ([drawn(name, _NAME) for name in given] for given in (groups, engines))
    # Engines beside each other as far as the groups' names leave room, and below each other.
    room = _LINE - max(map(len, names)) - 6
    columns = max(1, min(len(engines), room // (max(map(len, engine_names)) + 8)))
    height = 1.2 + _ROW * len(groups) + _LEGEND_ROW * ((len(engines) - 1) // columns)
    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(engines):
        rows = table.filter(pl.col("engine") == name)
        shift = (number - (len(engines) - 1) / 2) * 0.6 / len(engines)
        places = [groups.index(group) + shift for group in rows[by]]
        spread = [(rows["percent"] - rows["low"]).clip(0), (rows["high"] - rows["percent"]).clip(0)]
        axes.errorbar(
            rows["percent"], places, xerr=spread, fmt="o", ms=4, lw=1.2, label=engine_names[number]
        )
    counts = dict(table.select(by, "problems").iter_rows())
    axes.set_yticks(
        range(len(groups)),
        [f"{name} ({counts[group]})" for name, group in zip(names, groups, strict=True)],
    )
    axes.invert_yaxis()
    axes.set(
        xlim=(0, 101), xlabel="samples right (%), 95 % interval", ylabel=f"{drawn(by)} (problems)"
    )
    axes.grid(axis="x", alpha=0.3)
    _legend(axes, columns)
    return figure, groups_reading(table)


def groups_reading(table: pl.DataFrame) -> str:
    """Where the last engine is best and worst, and in how many groups it is ahead of the first."""
    by = table.columns[0]
    engines = table["engine"].unique(maintain_order=True).to_list()
    first, last = (table.filter(pl.col("engine") == name) for name in (engines[0], engines[-1]))
    ordered = last.sort("percent", maintain_order=True)
    worst, best = ordered.row(0, named=True), ordered.row(-1, named=True)
    text = f"{engines[-1]} has most right in {by} {best[by]} ({best['percent']:.0f} %)"
    if len(last) > 1:
        text += f" and fewest in {worst[by]} ({worst['percent']:.0f} %)"
    if len(engines) == 1:
        return f"{text}."
    both = first.join(last, on=by, suffix="_last")
    ahead, behind = (
        int((both["right_last"] > both["right"]).sum()),
        int((both["right_last"] < both["right"]).sum()),
    )
    return (
        f"{text}; it has more right than {engines[0]} in {ahead} of {len(both)} groups and fewer "
        f"in {behind}."
    )


def _band(
    axes: Axes, places: pl.Series, table: pl.DataFrame, value: str, low: str, high: str, label: str
) -> None:
    """A line in per cent with its interval as a band, and as bars where points stand apart."""
    middle, bottom, top = (100 * table[name] for name in (value, low, high))
    (line,) = axes.plot(places, middle, "o-", label=label)
    axes.fill_between(places, bottom, top, alpha=0.15, color=line.get_color())
    axes.vlines(places, bottom, top, color=line.get_color(), lw=1)


def _legend(axes: Axes, columns: int) -> None:
    axes.legend(frameon=False, loc="lower left", ncols=columns, bbox_to_anchor=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)


def _range(row: Mapping[str, float], prefix: str = "") -> str:
    return f"{100 * row[prefix + 'low']:.0f}–{100 * row[prefix + 'high']:.0f}"


def _points(difference: float) -> str:
    return _counted(round(100 * difference), "point")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
