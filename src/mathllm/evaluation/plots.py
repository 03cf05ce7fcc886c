"""Accuracy tables as pictures."""

import polars as pl
from matplotlib.figure import Figure


def plot_accuracy(table: pl.DataFrame) -> Figure:
    """Bars of right answers in percent, a group for each row of an `accuracy_table`."""
    group, _, *engines = table.columns
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(engines)
    for number, engine in enumerate(engines):
        share = 100 * table[engine] / table["problems"]
        places = [i + (number - (len(engines) - 1) / 2) * width for i in range(len(table))]
        bars = axes.bar(places, share, width * 0.95, label=engine)
        axes.bar_label(bars, fmt="%.0f", fontsize=7)
    names = [f"{n}\n({c})" for n, c in zip(table[group], table["problems"], strict=True)]
    axes.set_xticks(range(len(table)), names, fontsize=8)
    axes.set(ylabel="right (%)", ylim=(0, 109), xlabel=f"{group} (problems)")
    axes.legend(frameon=False, loc="lower left", ncols=len(engines), bbox_to_anchor=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    return figure
