"""A rerun for each fault, with what was vendored, and what each one cost."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from mathllm.competition.bundle import manifest
from mathllm.competition.kernel.journal import NAME, read_journal
from mathllm.competition.rehearsal import scorecard, session
from mathllm.competition.rehearsal.faults import FAULTS, Fault
from mathllm.competition.rehearsal.rehearse import Rehearsal, keep, staged
from mathllm.competition.rehearsal.scorecard import PlayedRun
from mathllm.competition.rehearsal.strikes import STRUCK

WEIGHTS = "weights"  # the fault that is in a file before the run begins
SHOWN = 90  # characters of what the journal says, its end: paths stand before it
WHOLE_RUN = (WEIGHTS, "clock")  # faults that may change any answer


@dataclass(frozen=True)
class Cost:
    """A fault's run against one without it: problems whose answer is another, and which may be."""

    fault: Fault
    run: PlayedRun
    right: int | None
    right_before: int | None
    lost: list[str]
    struck: list[str]
    told: list[str]

    @property
    def contained(self) -> bool:
        """Whether the run has a whole submission and no answer but the struck ones changed."""
        return self.run.fault is None and set(self.lost) <= set(self.struck)


def run_faults(order: Rehearsal, names: Sequence[str], say: Callable[[str], None] = print) -> bool:
    """A rerun for each fault by name; True if each was contained.

    Runs with the same parameters and no fault are what they are compared with. Raises as
    rehearse. The runs are kept in `runs_dir`, with the table as faults.txt.
    """
    order = replace(order, seed=order.seed or 0)  # the same order of problems everywhere
    with staged(order, say) as (play, truth):
        plain: dict[tuple, PlayedRun] = {}
        costs = []
        for name in names:
            fault = FAULTS[name]
            key = tuple(fault.compared.items())
            if key not in plain:
                plain[key] = _play(play, f"without-{name}", fault.compared)
            with _spoiled(play, order, name):
                run = _play(replace(play, fault=name), f"with-{name}", fault.parameters)
            costs.append(_cost(fault, run, plain[key], truth))
        runs = [*plain.values(), *(cost.run for cost in costs)]
        keep(runs, order.runs_dir)
    table = "\n".join(_lines(costs, len(play.problems)))
    (order.runs_dir / "faults.txt").write_text(table + "\n", encoding="utf-8")
    say(f"\n{table}")
    for run in runs:
        if run.fault:
            say(f"FAILED     {run.name}: {run.fault.partition(';')[0]}; see {run.folder}")
    return all(cost.contained for cost in costs) and not any(run.fault for run in plain.values())


def _play(play: session.Play, name: str, parameters: Mapping[str, str]) -> PlayedRun:
    run = PlayedRun(1, name, play.folders.working(name))
    play.say(f"\n{name.replace('-', ' ', 1)}")
    try:
        session.rerun(replace(play, parameters={**play.parameters, **parameters}), run)
    except session.RunError as fault:
        run.fault = str(fault)
        play.say(f"  FAILED: {fault}")
    return run


@contextmanager
def _spoiled(play: session.Play, order: Rehearsal, name: str) -> Iterator[None]:
    """For the fault in a file: the stage's TRM is a copy cut in half, for this run."""
    if name != WEIGHTS:
        yield
        return
    trm = play.folders.dataset(manifest.read_metadata(order.build, manifest.WEIGHTS)["id"]) / "trm"
    whole = trm.resolve()
    trm.unlink()
    try:
        shutil.copytree(whole, trm)
        for path in trm.glob("*.safetensors"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        yield
    finally:
        shutil.rmtree(trm, ignore_errors=True)
        trm.symlink_to(whole, target_is_directory=True)


def _cost(fault: Fault, run: PlayedRun, plain: PlayedRun, truth: Mapping[str, int]) -> Cost:
    ids = list(run.answers)
    struck = ids if fault.name in WHOLE_RUN else ids[STRUCK - 1 : STRUCK]
    events = read_journal(run.folder / "kernel" / NAME)
    told = [entry["cause"] for entry in events if entry["event"] in ("fault", "warning")]
    for entry in run.answers.values():
        told += [entry["fault"]] if entry["fault"] else entry["faults"]
        told += [f"{count} programs: {why}" for why, count in entry["tool_faults"].items()]
    if lost := sum(entry.get("lost", 0) for entry in events if entry["event"] == "end"):
        told.append(f"{lost} lines could not be written")
    if late := [e for e in run.answers.values() if e["seconds"] > e["waited"] + e["allowance"]]:
        told.append(f"{len(late)} problems took longer than their share")
    known = bool(truth)
    return Cost(
        fault=fault,
        run=run,
        right=sum(sum(row) for row in scorecard.right(truth, [run])) if known else None,
        right_before=sum(sum(row) for row in scorecard.right(truth, [plain])) if known else None,
        lost=[id_ for id_ in plain.submitted if run.submitted.get(id_) != plain.submitted[id_]],
        struck=struck,
        told=told,
    )


def _lines(costs: Sequence[Cost], problems: int) -> Iterator[str]:
    heads = f"{'fault':13} {'rows':>8} {'right':>7} {'other answers':>13}"
    yield f"{heads}  {'time':>5}  what the journal says"
    for cost in costs:
        right = "-" if cost.right is None else f"{cost.right_before} > {cost.right}"
        rows = f"{len(cost.run.submitted)} of {problems}"
        mark = "" if cost.contained else "  NOT CONTAINED"
        told = " ".join(cost.told[0].split())[-SHOWN:] if cost.told else "nothing"
        more = f" (and {len(cost.told) - 1} more)" if len(cost.told) > 1 else ""
        yield (
            f"{cost.fault.name:13} {rows:>8} {right:>7} {len(cost.lost):>13}  "
            f"{cost.run.budget_used:>5.0%}  {told}{more}{mark}"
        )
    yield ""
    yield from (f"{cost.fault.name:13} {cost.fault.what}" for cost in costs)
