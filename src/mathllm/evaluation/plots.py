"""Results as pictures. A curve comes with the sentence that its figures say.

Knows tables and axes; what is in the tables is computed elsewhere.
"""

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mathllm.evaluation.curves import depth_reading, time_reading, voting_reading


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


def plot_depth(curve: pl.DataFrame, trained: int | None = None) -> tuple[Figure, str]:
    """Right answers and time a token of a `curves.depth_curve`, and what they say.

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


def plot_times(times: pl.DataFrame) -> tuple[Figure, str]:
    """Seconds and tokens of each problem in a `curves.problem_times`, and what they say.

    Dashed lines are means.
    """
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    engines = times["engine"].unique(maintain_order=True)
    for number, name in enumerate(engines):
        rows = times.filter(pl.col("engine") == name)
        for axes, column in ((above, "seconds"), (below, "tokens")):
            colour = f"C{number}"
            axes.plot(rows["problem"], rows[column], ".", ms=4, color=colour, label=name)
            axes.axhline(rows[column].mean(), ls="--", lw=1, color=colour)
    above.set(ylabel="time (s per problem)")
    below.set(ylabel="tokens per problem", xlabel="problem, in the order of the set")
    for axes in (above, below):
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    _legend(above, len(engines))
    return figure, time_reading(times)


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
