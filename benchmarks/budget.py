"""Thousands of runs of 50 problems against the clock, without waiting for any.

The budget and the rule to stop are the package's own; engine, problems and clock are simulated.
Baseline "fixed": every problem has the same share of the time, and what one leaves is nobody's.
All policies see the same problems, lags and stops:

    even      what is left, shared evenly: the default
    base      what leaves --base seconds for each of the others, up to --ceiling
    quota     the same, for --hard problems at most

An attempt's tokens are lognormal (sigma 0.5) around the problem's usual number, which is
lognormal too; one attempt of ten runs away and is 1 + Pareto(1.5) times as long, without a
limit. One row makes 100 tokens/s, 16 rows 8.3 times that; --parallel of the --samples run side by
side. An attempt is right as often as the problem's Beta says; one of ten has no answer, and half
of the wrong ones agree on the same wrong answer. The votes are asked each time a sample ends.
Every problem ends too late by a lag of 0.2 s · Pareto(2), without a limit: the engine looks at its
deadline between passes only (median 0.28 s, one of 10,000 above 20 s). "Late" is past the end of
the margin; "without a vote" is a problem for which no sample gave an answer in time.

    scenario        problems
    easy            50, about 1,500 tokens, right 8 of 10 times
    mixed           50, about 4,000 tokens (sigma 0.8), right half of the time, Beta(1.5, 1.5)
    hard            50, about 15,000 tokens, no two answers agree: all time is wanted
    more            60 hard ones where 50 are expected
    fewer           30 hard ones where 50 are expected
    slow start      50 hard ones, and the weights load for 10 minutes
    clock jumps     50 hard ones; in two of them all stands still for 1 to 7 minutes, and
                    the clock goes on
    easy first      20 easy, 15 mixed, then 15 long ones: about 15,000 tokens, Beta(1.5, 1.5)
    hard first      the same, the long ones first
    any order       the same, shuffled in each run

    python benchmarks/budget.py --out budget.json --plot budget.png
"""

import argparse
import json
import math
import sys
import time
from bisect import bisect
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mathllm.solving.budget import Budget
from mathllm.solving.voting import decided, vote

EXPECTED = 50  # problems
POOL = 500  # different problems of each kind, drawn from again and again
ROW_RATE = 100.0  # tokens a second of one row alone
SLOWDOWN = 1 / 16  # by which each further row slows down every row
LAG_SCALE, LAG_SHAPE = 0.2, 2.0  # seconds; Pareto
STOP_SECONDS = (60.0, 420.0)
QUANTILES = {"5 %": 0.05, "median": 0.5, "95 %": 0.95}


@dataclass(frozen=True)
class Kind:
    """Problems of a kind: usual tokens, their spread, Beta of being right; None: no votes meet."""

    tokens: float
    sigma: float
    right: tuple[float, float] | None


@dataclass(frozen=True)
class Scenario:
    """Which kinds of problems come, in order, and what goes wrong (seconds)."""

    name: str
    kinds: tuple[str, ...]
    late_start: float = 0.0
    stops: int = 0
    shuffled: bool = False


KINDS = {
    "easy": Kind(1500, 0.5, (8, 2)),
    "mixed": Kind(4000, 0.8, (1.5, 1.5)),
    "hard": Kind(15_000, 0.5, None),
    "long": Kind(15_000, 0.5, (1.5, 1.5)),
}
EASY_FIRST = ("easy",) * 20 + ("mixed",) * 15 + ("long",) * 15
HARD = ("hard",) * EXPECTED
SCENARIOS = [
    Scenario("easy", ("easy",) * EXPECTED),
    Scenario("mixed", ("mixed",) * EXPECTED),
    Scenario("hard", HARD),
    Scenario("more", ("hard",) * 60),
    Scenario("fewer", ("hard",) * 30),
    Scenario("slow start", HARD, late_start=600.0),
    Scenario("clock jumps", HARD, stops=2),
    Scenario("easy first", EASY_FIRST),
    Scenario("hard first", EASY_FIRST[::-1]),
    Scenario("any order", EASY_FIRST, shuffled=True),
]
RIGHT = 0  # of a simulated answer


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Fixed:
    """The baseline: a fixed share for every problem, whatever happened before."""

    def __init__(self, total: float, margin: float, expected: int) -> None:
        self._share = (total - margin) / expected

    def allowance(self) -> float:
        return self._share

    def finish(self) -> None:
        pass


class Problem:
    """Samples of one problem, and what they come to whenever time is up, worked out once.

    Rows run side by side, `parallel` at most; one that ends leaves the others faster, until the
    next one begins. The vote is looked at whenever one ends.
    """

    def __init__(
        self, tokens: list[float], answers: list[int | None], agreement: int, parallel: int
    ) -> None:
        self._ends: list[float] = []  # seconds after which the vote changes
        self._leaders: list[int | None] = []
        running = [[tokens[row], row] for row in range(min(parallel, len(tokens)))]
        begun, seconds, ballots = len(running), 0.0, []
        while running:
            slow = (1 + SLOWDOWN * (len(running) - 1)) / ROW_RATE
            least = min(running)
            seconds += least[0] * slow
            running = [[left - least[0], row] for left, row in running if row != least[1]]
            if begun < len(tokens):
                running.append([tokens[begun], begun])
                begun += 1
            ballots.append(answers[least[1]])
            self._ends.append(seconds)
            self._leaders.append(vote(ballots).answer)
            if decided(ballots, len(tokens), agreement=agreement):
                break
        self.seconds = seconds  # until it needs no more

    def answer(self, seconds: float) -> int | None:
        """What the vote says after so long."""
        ended = bisect(self._ends, seconds)
        return self._leaders[ended - 1] if ended else None


def make_problems(kind: Kind, samples: int, agreement: int, parallel: int, seed: int) -> list:
    """A pool of problems of a kind."""
    random = np.random.default_rng(seed)
    shape = (POOL, samples)
    usual = kind.tokens * random.lognormal(0, kind.sigma, (POOL, 1))
    runaway = np.where(random.random(shape) < 0.1, 1 + random.pareto(1.5, shape), 1)
    tokens = np.maximum(1, usual * random.lognormal(0, 0.5, shape) * runaway)
    answers = np.arange(2, samples + 2) + np.zeros((POOL, 1), int)  # each its own
    if kind.right is not None:
        answers[random.random(shape) < 0.5] = 1  # the wrong answer that many share
        answers[random.random(shape) < random.beta(*kind.right, (POOL, 1))] = 0
    silent = random.random(shape) < 0.1
    return [
        Problem(t, [None if s else a for a, s in zip(row, quiet, strict=True)], agreement, parallel)
        for t, row, quiet in zip(tokens.tolist(), answers.tolist(), silent.tolist(), strict=True)
    ]


def run(
    policy: Budget | Fixed, clock: Clock, problems: list[Problem], lags: list[float]
) -> tuple[list[float], int, int, float]:
    """Seconds passed after each problem, problems without a vote, those solved, smallest
    allowance."""
    passed, unanswered, solved, smallest = [], 0, 0, math.inf
    for problem, lag in zip(problems, lags, strict=True):
        left = policy.allowance()
        smallest = min(smallest, left)
        answer = problem.answer(left)
        clock.now += min(left, problem.seconds) + lag
        policy.finish()
        passed.append(clock.now)
        unanswered += answer is None
        solved += answer == RIGHT
    return passed, unanswered, solved, smallest


def simulate(
    scenario: Scenario, pools: dict[str, list[Problem]], arguments: argparse.Namespace
) -> dict[str, dict[str, np.ndarray]]:
    """Of each policy, with a row for each run: passed [runs, problems], unanswered, solved,
    smallest."""
    total, margin = arguments.hours * 3600, arguments.margin_minutes * 60
    count = len(scenario.kinds)
    random = np.random.default_rng([arguments.seed, SCENARIOS.index(scenario)])
    chosen = random.integers(POOL, size=(arguments.runs, count))
    orders = np.tile(np.arange(count), (arguments.runs, 1))
    if scenario.shuffled:
        orders = random.permuted(orders, axis=1)
    extra = LAG_SCALE * (1 + random.pareto(LAG_SHAPE, chosen.shape))
    if scenario.stops:
        for row in extra:
            places = random.choice(count, scenario.stops, replace=False)
            row[places] += random.uniform(*STOP_SECONDS, scenario.stops)
    limits = {"ceiling_seconds": arguments.ceiling, "base_seconds": arguments.base}
    ways = {"even": {}, "base": limits, "quota": limits | {"hard_problems": arguments.hard}}
    outcomes: dict[str, list] = {name: [] for name in (*ways, "fixed")}
    for indices, order, lags in zip(chosen.tolist(), orders.tolist(), extra.tolist(), strict=True):
        problems = [pools[scenario.kinds[k]][i] for k, i in zip(order, indices, strict=True)]
        for name, runs in outcomes.items():
            clock = Clock()
            if name == "fixed":
                policy = Fixed(total, margin, EXPECTED)
            else:
                policy = Budget(
                    total, margin, EXPECTED, clock, floor_seconds=arguments.floor, **ways[name]
                )
                policy.start()
            clock.now += scenario.late_start
            runs.append(run(policy, clock, problems, lags))
    names = ("passed", "unanswered", "solved", "smallest")
    return {
        policy: {
            name: np.array(values)
            for name, values in zip(names, zip(*runs, strict=True), strict=True)
        }
        for policy, runs in outcomes.items()
    }


def figures(outcome: dict[str, np.ndarray], total: float, margin: float) -> dict:
    """What is told of a scenario and a policy."""
    ends = outcome["passed"][:, -1]
    used = ends / (total - margin)
    return {
        "late_runs": int((ends > total).sum()),
        "used": {name: float(np.quantile(used, q)) for name, q in QUANTILES.items()},
        "latest_seconds_before_the_end": float(total - ends.max()),
        "problems_solved_a_run": float(outcome["solved"].mean()),
        "problems_without_a_vote_a_run": float(outcome["unanswered"].mean()),
        "smallest_allowance_seconds": float(outcome["smallest"].min()),
    }


def plot(passed: dict[str, dict[str, np.ndarray]], total: float, margin: float, path: Path) -> None:
    """Hours used over problems answered, a panel for each scenario, and its end enlarged."""
    from matplotlib.figure import Figure

    looks = {
        "even": ("tab:blue", "-", "even shares of what is left"),
        "base": ("tab:green", "-.", "base and ceiling"),
        "fixed": ("tab:orange", "--", "a fixed share"),
    }
    end, begins = total / 3600, (total - margin) / 3600

    def draw(axes, policies: dict[str, np.ndarray]) -> None:
        for policy, (color, style, label) in looks.items():
            low, median, high = np.quantile(policies[policy] / 3600, [0.05, 0.5, 0.95], axis=0)
            numbers = np.arange(1, len(median) + 1)
            axes.fill_between(
                numbers, low, high, color=color, alpha=0.25, lw=0, label=f"{label}: 5 % to 95 %"
            )
            axes.plot(numbers, median, style, color=color, lw=1.6, label=f"{label}: median")
        axes.axhline(end, color="black", lw=1.2, label="the end")
        axes.axhline(begins, color="black", lw=1, ls=":", label="the margin begins")
        axes.grid(alpha=0.25)

    figure = Figure(figsize=(13, 9.6), layout="constrained")
    *panels, _, legend = figure.subplots(3, 4, sharex=True, sharey=True).flat
    _.axis("off")
    for number, (axes, (name, policies)) in enumerate(zip(panels, passed.items(), strict=True)):
        draw(axes, policies)
        problems = policies["even"].shape[1]
        axes.set(xlim=(0, 61), ylim=(0, 1.2 * end), title=f"{name}: {problems} problems")
        axes.spines[["top", "right"]].set_visible(False)
        if number % 4 == 0:
            axes.set_ylabel("time used (hours)")
        if number >= 6:
            axes.set_xlabel("problems answered")
            axes.tick_params(labelbottom=True)
        if np.median(policies["even"][:, -1]) > begins * 3600 * 0.9:
            detail = axes.inset_axes((0.58, 0.08, 0.4, 0.38))
            draw(detail, policies)
            detail.set(xlim=(problems - 12.5, problems + 0.5), ylim=(0.87 * end, 1.03 * end))
            detail.set_title("the last problems", fontsize=8, pad=3)
            detail.tick_params(labelsize=7)
    legend.axis("off")
    legend.legend(*panels[0].get_legend_handles_labels(), loc="center", frameon=False)
    figure.savefig(path, dpi=110)


def main() -> int:
    """Simulate every scenario and print a line for each policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10_000, help="of each scenario (10,000)")
    parser.add_argument("--hours", type=float, default=5.0, help="of a run, all in all (5)")
    parser.add_argument("--margin-minutes", type=float, default=15.0, help="at the end (15)")
    parser.add_argument("--floor", type=float, default=30.0, help="seconds for a late problem (30)")
    parser.add_argument("--samples", type=int, default=64, help="of a problem, at most (64)")
    parser.add_argument("--parallel", type=int, default=16, help="of them side by side (16)")
    parser.add_argument("--agreement", type=int, default=4, help="equal answers that end it (4)")
    parser.add_argument("--base", type=float, default=200.0, help="seconds for the others (200)")
    parser.add_argument("--ceiling", type=float, default=900.0, help="seconds for one (900)")
    parser.add_argument("--hard", type=int, default=10, help="problems of the quota (10)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--plot", type=Path, help="picture of time used over problems, PNG")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error(f"--runs is {arguments.runs}: give at least 1")
    began = time.perf_counter()
    total, margin = arguments.hours * 3600, arguments.margin_minutes * 60
    pools = {
        name: make_problems(
            kind, arguments.samples, arguments.agreement, arguments.parallel, arguments.seed
        )
        for name, kind in KINDS.items()
    }
    print(f"{arguments.runs:,} runs of each scenario; time used is that of {total - margin:,.0f} s")
    print(
        f"{'scenario':12} {'policy':7} {'late runs':>9}  {'use: 5 %':>8} {'median':>8} {'95 %':>8}"
        f"  {'solved':>6}  {'without a vote':>14}  {'smallest allowance':>18}"
    )
    report, passed = [], {}
    for scenario in SCENARIOS:
        outcomes = simulate(scenario, pools, arguments)
        policies = {name: figures(outcome, total, margin) for name, outcome in outcomes.items()}
        for name, told in policies.items():
            used = " ".join(f"{share:8.1%}" for share in told["used"].values())
            print(
                f"{scenario.name:12} {name:7} {told['late_runs']:9,}  {used}"
                f"  {told['problems_solved_a_run']:6.2f}"
                f"  {told['problems_without_a_vote_a_run']:14.2f}"
                f"  {told['smallest_allowance_seconds']:16.1f} s",
                flush=True,
            )
        report.append({"name": scenario.name, "policies": policies})
        passed[scenario.name] = {name: outcome["passed"] for name, outcome in outcomes.items()}
    print(f"simulated in {time.perf_counter() - began:.0f} s")
    if arguments.plot:
        plot(passed, total, margin, arguments.plot)
    if arguments.out:
        settings = {k: v for k, v in vars(arguments).items() if k not in ("out", "plot")}
        content = {"settings": settings, "scenarios": report}
        arguments.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
