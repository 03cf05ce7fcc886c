"""The batches' part of the command line."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mathllm.cli.arguments import FAILED, OK, SAY, add_build, add_delivery
from mathllm.competition.bundle.metadata import ACCELERATORS
from mathllm.errors import BatchError, ParameterError

if TYPE_CHECKING:
    from mathllm.batches.driver import Engine
    from mathllm.batches.plan import Batch
    from mathllm.batches.runs import Run
    from mathllm.batches.workdir import BatchFolder

ASK_FROM = 100  # runs to do, above which --yes is needed
MOST = 100_000  # runs of one batch: nobody waits for more
SHOWN = 40  # lines of a table or list


def add_commands(commands: argparse._SubParsersAction, root: Path) -> None:
    """Add `batch`; `root` is the clone."""
    batch = commands.add_parser(
        "batch",
        help="run notebooks over a grid of parameters, and compare",
        description="Run notebooks over a grid of parameters and seeds, as a YAML file says (see "
        "notebooks/batches), and compare what they recorded. May be stopped, killed and repeated: "
        "what is done is not done again, also after the file was changed. Ends with a table, the "
        "best first, and summary.html with plots; exit status 1 if a run ended badly.",
    )
    batch.set_defaults(function=partial(run_batch, root))
    batch.add_argument("file", metavar="FILE", type=Path, help="the batch, a .yaml file")
    batch.add_argument(
        "--folder", metavar="DIR", type=Path, help="its folder (default: runs/batches/NAME)"
    )
    batch.add_argument("--dry-run", action="store_true", help="list the runs, and do none")
    batch.add_argument(
        "--yes", action="store_true", help=f"go on though more than {ASK_FROM} runs are to do"
    )
    batch.add_argument(
        "--retry-failed", action="store_true", help="begin again what failed or ran out of time"
    )
    batch.add_argument(
        "--jobs", metavar="N", type=int, help="runs at once here (default: GPUs, else 1)"
    )
    batch.add_argument(
        "--cpus", metavar="N", type=int, help="cores of a run (default: its share here; on Ray 1)"
    )
    batch.add_argument(
        "--gpus", metavar="N", type=float, default=0, help="GPUs that a run asks of Ray, or a part"
    )
    batch.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run on a Ray cluster, HOST:PORT, ray://HOST:PORT or auto; local starts one here",
    )
    batch.add_argument(
        "--kaggle",
        action="store_true",
        help="run on Kaggle, each run a private notebook with the bundle's datasets, which are "
        "brought there as by `build.py push`; the options below are for this",
    )
    batch.add_argument(
        "--sessions", metavar="N", type=int, default=2, help="notebooks at once on Kaggle"
    )
    batch.add_argument(
        "--accelerator",
        metavar="NAME",
        default="none",
        help=f"Kaggle's machine for a run (one of {', '.join(ACCELERATORS)})",
    )
    add_build(batch, root)
    add_delivery(batch, root)


def run_batch(root: Path, options: argparse.Namespace) -> int:
    from mathllm.batches.driver import drive, to_do
    from mathllm.batches.plan import read_batch
    from mathllm.batches.runs import expand
    from mathllm.batches.workdir import BatchFolder
    from mathllm.environment import commit

    _check_numbers(options)
    batch = read_batch(options.file, root)
    if batch.count > MOST:
        raise BatchError(f"{batch.path} has {batch.count:,} runs, more than {MOST:,}: vary less")
    place = BatchFolder(options.folder or root / "runs" / "batches" / batch.path.stem)
    runs = expand(batch)
    describe = partial(_describe, batch)
    if options.dry_run:
        waiting = to_do(place, runs, options.retry_failed)
        _list(place, runs, describe)
        SAY(_cost(batch, place, runs, waiting))
        return OK
    with place.claimed(_owner(batch.path, root)):
        waiting = to_do(place, runs, options.retry_failed)
        SAY(_cost(batch, place, runs, waiting))
        if len(waiting) > ASK_FROM and not options.yes:
            raise BatchError(f"{len(waiting):,} runs are to do: repeat with --yes if you mean it")
        if waiting:
            engine = _engine(options, place, root, batch)
            drive(place, engine, runs, waiting, describe, commit(root), batch.metric.name)
        return _conclude(batch, place, runs)


def _check_numbers(options: argparse.Namespace) -> None:
    for name, least in (("jobs", 1), ("cpus", 1), ("gpus", 0), ("sessions", 1)):
        value = getattr(options, name)
        if value is not None and not value >= least:
            raise ParameterError(f"--{name} {value:g}: give {least} or more")
    if options.ray and options.kaggle:
        raise ParameterError("--ray and --kaggle are two places: give one of them")
    if options.kaggle and options.jobs:
        raise ParameterError("--jobs is for runs here: give --sessions with --kaggle")
    if options.ray and options.jobs:
        raise ParameterError("--jobs is for runs here, Ray has its own: give --cpus with --ray")


def _owner(path: Path, root: Path) -> str:
    """What a folder remembers of a YAML: its place in the clone, wherever that is moved."""
    path = path.resolve()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _engine(
    options: argparse.Namespace, place: "BatchFolder", root: Path, batch: "Batch"
) -> "Engine":
    if options.ray:
        from mathllm.batches.on_ray import OnRay

        return OnRay(place, root, batch.minutes, options.ray, options.cpus or 1, options.gpus)
    if options.kaggle:
        return _on_kaggle(options, place, root, batch)
    from mathllm.batches.local import Local
    from mathllm.environment import gpus

    found = gpus()
    jobs = options.jobs or len(found) or 1
    return Local(place, root, batch.minutes, jobs, options.cpus, found)


def _on_kaggle(
    options: argparse.Namespace, place: "BatchFolder", root: Path, batch: "Batch"
) -> "Engine":
    from mathllm.batches.on_kaggle import OnKaggle
    from mathllm.competition.bundle import manifest
    from mathllm.delivery import workdir as delivery
    from mathllm.delivery.client import Kaggle
    from mathllm.delivery.doctor import stale_file
    from mathllm.delivery.push import bring_datasets
    from mathllm.delivery.retry import RetryPolicy

    if stale := stale_file(root, manifest.verify(options.build)):
        raise BatchError(f"{options.build} is older than {stale}: run `build.py vendor` first")
    kaggle = Kaggle(SAY, RetryPolicy.of(options.poll))
    there = delivery.DeliveryFolder(options.delivery_dir)
    with there.alone(SAY):
        sources = bring_datasets(kaggle, options.build, there)
    return OnKaggle(
        place=place,
        kaggle=kaggle,
        sources=sources,
        title=batch.path.stem,
        minutes=batch.minutes,
        sessions=options.sessions,
        accelerator=options.accelerator,
        metadata=manifest.read_metadata(options.build, manifest.KERNEL),
    )


def _describe(batch: "Batch", run: "Run") -> str:
    given = {**run.settings, **({batch.seed: run.seed} if batch.seed else {})}
    return ", ".join(f"{batch.label(s)} {value}" for s, value in given.items()) or "the only run"


def _list(place: "BatchFolder", runs: list["Run"], describe: Callable[["Run"], str]) -> None:
    from mathllm.batches.summary import WAITING

    for run in runs[:SHOWN]:
        SAY(f"{run.id}  {place.status(run.id).get('status', WAITING):<10}  {describe(run)}")
    if len(runs) > SHOWN:
        SAY(f"and {len(runs) - SHOWN:,} more")


def _cost(batch: "Batch", place: "BatchFolder", runs: list["Run"], waiting: list["Run"]) -> str:
    """How many runs there are, and what those to do will cost as far as that is known."""
    from mathllm.batches.workdir import DONE

    statuses = [place.status(run.id) for run in runs]
    done = [s["seconds"] / 60 for s in statuses if s.get("status") == DONE and "seconds" in s]
    text = f"{len(runs):,} runs, {len(done):,} done, {len(waiting):,} to do"
    if not waiting:
        return text
    each = sum(done) / len(done) if done else batch.minutes
    about, why = ("about", "as those done") if done else ("at most", "their limit")
    cost = _span(len(waiting) * each)
    return f"{text}: {about} {cost} of one machine at {each:.3g} minutes a run ({why})"


def _span(minutes: float) -> str:
    if minutes < 120:
        return f"{minutes:.1f} minutes"
    hours = minutes / 60
    return f"{hours:.1f} hours" if hours < 72 else f"{hours / 24:,.0f} days"


def _conclude(batch: "Batch", place: "BatchFolder", runs: list["Run"]) -> int:
    """Write and print the comparison; the exit status."""
    import polars as pl

    from mathllm.batches.plots import write_page
    from mathllm.batches.summary import COUNT, MINUTES, SPREAD, summarise
    from mathllm.batches.workdir import DONE

    summary = summarise(batch, place, runs)
    summary.runs.write_parquet(place.folder / "runs.parquet")
    summary.table.write_parquet(place.folder / "summary.parquet")
    page = place.folder / "summary.html"
    write_page(page, batch, summary)
    if not summary.table.is_empty():
        shown = [*summary.settings, COUNT, batch.metric.name, SPREAD, MINUTES]
        with pl.Config(tbl_rows=SHOWN, tbl_cols=-1, tbl_hide_dataframe_shape=True):
            SAY(summary.table.select(shown))
    for row in summary.failures[:SHOWN]:
        SAY(f"{row['status']}: {place.run(row['run'])}: {row['message']}")
    if summary.failures:
        SAY(f"{len(summary.failures)} ended badly: their log.txt says more, --retry-failed repeats")
    SAY(f"page     {page}")
    return OK if summary.counts.get(DONE) == len(runs) else FAILED
