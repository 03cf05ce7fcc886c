"""Shares of right answers by group, with their intervals, as a picture and a sentence.

Knows the table of `tables.group_table`.
"""

import polars as pl
from matplotlib.figure import Figure

_ROW = 0.42  # inches for a group


def plot_groups(table: pl.DataFrame) -> tuple[Figure, str]:
    """Per cent of each engine by group, with intervals, and what they say."""
    by = table.columns[0]
    groups = table[by].unique(maintain_order=True).to_list()
    engines = table["engine"].unique(maintain_order=True).to_list()
    figure = Figure(figsize=(7, 1.2 + _ROW * len(groups)), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(engines):
        rows = table.filter(pl.col("engine") == name)
        shift = (number - (len(engines) - 1) / 2) * 0.6 / len(engines)
        places = [groups.index(group) + shift for group in rows[by]]
        spread = [(rows["percent"] - rows["low"]).clip(0), (rows["high"] - rows["percent"]).clip(0)]
        axes.errorbar(rows["percent"], places, xerr=spread, fmt="o", ms=4, lw=1.2, label=name)
    counts = dict(table.select(by, "problems").iter_rows())
    axes.set_yticks(range(len(groups)), [f"{group} ({counts[group]})" for group in groups])
    axes.invert_yaxis()
    axes.set(xlim=(0, 101), xlabel="samples right (%), 95 % interval", ylabel=f"{by} (problems)")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", ncols=len(engines), bbox_to_anchor=(0, 1))
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
