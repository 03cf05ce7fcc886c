"""A run as a picture: time of each problem against its share, and how the votes fell."""

from pathlib import Path

from matplotlib.figure import Figure

from mathllm.competition.kernel.journal import read_journal
from mathllm.labels import drawn

WON, OTHERS, NONE = "#2a7de1", "#f2a33a", "#d9d9d9"
LABELS = 25  # problems, up to which every one is named


def plot_run(journal: Path) -> Figure:
    """Seconds and votes of every problem in a journal, in the order they were answered."""
    answers = [entry for entry in read_journal(journal) if entry["event"] == "answer"]
    places = range(1, len(answers) + 1)
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    struck = [bool(entry["fault"] or entry["faults"]) for entry in answers]
    colours = ["#c8352b" if fault else WON for fault in struck]
    above.bar(places, [entry["seconds"] for entry in answers], color=colours, width=0.8)
    shares = [entry["allowance"] for entry in answers]
    above.step(places, shares, where="mid", color="black", linewidth=1.2, label="its share of time")
    above.set_yscale("symlog", linthresh=1)
    above.set(ylabel="seconds (log above 1)", ylim=(0, None))
    above.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    used = answers[-1]["budget_used"] if answers else 0.0
    above.set_title(
        f"{len(answers)} problems, {used:.1%} of the time used, {sum(struck)} with a fault (red)",
        fontsize=10,
        loc="right",
    )
    counts = [_shares(entry) for entry in answers]
    bottom = [0.0] * len(answers)
    for name, colour in (("answer given", WON), ("other answers", OTHERS), ("no answer", NONE)):
        heights = [count[name] for count in counts]
        below.bar(places, heights, bottom=bottom, color=colour, width=0.8, label=name)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    below.set(ylabel="samples", xlabel="problem, in the order answered")
    below.set_xlim(0.4, len(answers) + 0.6)
    below.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    if len(answers) <= LABELS:
        below.set_xticks(
            list(places), [drawn(e["id"], 20) for e in answers], rotation=60, fontsize=7
        )
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _shares(entry: dict) -> dict[str, float]:
    """Samples for the answer given, for others, and without one, in proportion to weights."""
    votes = entry["votes"]
    everything = sum(votes.values())
    voting = entry["samples"] - entry["without_answer"]
    won = votes.get(str(entry["answer"]), 0.0) / everything * voting if everything else 0.0
    return {
        "answer given": won,
        "other answers": voting - won,
        "no answer": float(entry["without_answer"]),
    }
