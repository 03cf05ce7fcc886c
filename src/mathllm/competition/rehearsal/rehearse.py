"""Kaggle played on this machine, with what was vendored: one commit run, two reruns."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import polars as pl
from packaging.utils import canonicalize_name

import mathllm
from mathllm import children
from mathllm.competition.bundle import manifest
from mathllm.competition.bundle.kernel_parameters import effective
from mathllm.competition.bundle.wheel_check import ABSENT
from mathllm.competition.bundle.wheels import LOCK, read_lock
from mathllm.competition.kernel.journal import NAME
from mathllm.competition.kernel.package import find_module
from mathllm.competition.kernel.plots import plot_run
from mathllm.competition.protocol.gateway import read_as_sent
from mathllm.competition.rehearsal import scorecard, session
from mathllm.competition.rehearsal.isolation import DESCRIPTION, Isolation, Mode
from mathllm.competition.rehearsal.kaggle_folders import lay_out_folders, other_sources
from mathllm.competition.rehearsal.scorecard import PlayedRun
from mathllm.data.problems import read_problems
from mathllm.errors import BundleError
from mathllm.notebooks import export_html
from mathllm.parameters import parse_parameters, read_declarations
from mathllm.settings import CURRENT

LOADED = "the package is loaded"
LOAD_SECONDS = 120.0  # for the evaluation package to be imported: pandas on a cold disk is slow
PLOT = "run.png"  # of each run: time and votes by problem
WORKING_TREE = Path(mathllm.__file__).parents[1]  # what must not be imported in a rehearsal


@dataclass(frozen=True)
class Rehearsal:
    """What to rehearse. `seed` None leaves the notebook's own; `mode` None takes the best.

    `known` is a file of problems whose answers count where `problems` has none. `parameters`
    are the kernel's own, as (name, text) pairs. `backbone` is the folder that stands for
    Kaggle's model, if the bundle names one; `competition` has the competition's files, whose
    evaluation package kernel and gateway then use; without it ours plays its version `package`.
    `attached` are folders that stand for the kernel's other sources, as (name, folder) pairs.
    """

    build: Path
    problems: Path
    runs_dir: Path
    known: Path | None = None
    seed: int | None = None
    keep: bool = False
    mode: Mode | None = None
    parameters: Sequence[tuple[str, str]] = ()
    backbone: Path | None = None
    competition: Path | None = None
    attached: Sequence[tuple[str, Path]] = ()
    package: str = CURRENT.package_version


def rehearse(order: Rehearsal, say: Callable[[str], None] = print) -> bool:
    """Play the commit run and the reruns; True if every run succeeded.

    Raises UserErrors for problems that cannot be read, for a bundle that is not as
    vendored, and for parameters that the kernel has not, before anything runs. Logs,
    notebooks and submissions are kept in `runs_dir`.
    """
    with staged(order, say) as (play, truth):
        runs = _play_all(play)
        keep(runs, order.runs_dir)
        report = _report(play.problems, truth, runs)
        (order.runs_dir / "scorecard.txt").write_text(report + "\n", encoding="utf-8")
        say(f"\n{report}")
    return not any(run.fault for run in runs)


@contextmanager
def staged(
    order: Rehearsal, say: Callable[[str], None]
) -> Iterator[tuple[session.Play, dict[str, int]]]:
    """Folders with what was vendored, ready to play on, and the answers that are known."""
    problems = read_problems(order.problems)
    read_as_sent(order.problems)
    if order.competition is not None:
        _check_competition(order.competition)
    attached = _attached(order, manifest.describe(order.build).model)
    notebook = order.build.resolve() / manifest.KERNEL / manifest.NOTEBOOK
    given = parse_parameters(order.parameters, read_declarations(notebook))
    effective(notebook, manifest.injected(order.build) | given)
    _check_runs_dir(order.runs_dir)
    children.remove_leftovers()  # of a rehearsal that was killed
    folder = children.temporary_folder("rehearsal")
    try:
        folders = lay_out_folders(
            folder, order.build.resolve(), order.problems, order.competition, attached
        )
        with Isolation(
            folder / "isolation",
            [WORKING_TREE],
            order.mode,
            read_only=folders.read_only,
            absent=lacking(order.build),
        ) as isolation:
            say(f"{len(problems)} problems, network: {DESCRIPTION[isolation.mode]}")
            source = manifest.read_metadata(order.build, manifest.SOURCE)["id"]
            play = session.Play(
                folders=folders,
                isolation=isolation,
                notebook=notebook,
                source=folders.dataset(source),
                problems=problems["id"].to_list(),
                seed=order.seed,
                say=say,
                package=order.package,
                parameters=dict(order.parameters),
                vendored=manifest.injected(order.build),
                wheels=_wheels(order.build),
            )
            yield play, truth_of(problems, order.known)
        if order.keep:
            say(f"folders      {folder}")
    finally:
        if not order.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _check_runs_dir(folder: Path) -> None:
    """Make it, before anything is run. Raises BundleError where nothing can be kept there."""
    mend = "give a new one with --runs-dir"
    if folder.exists() and not folder.is_dir():
        raise BundleError(f"{folder} is not a folder: {mend}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise BundleError(f"{folder} cannot be made ({fault.strerror}): {mend}") from fault
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BundleError(f"{folder} cannot be written to: {mend}")


def lacking(build: Path) -> list[str]:
    """What Kaggle's image lacks, as far as is known, and by the bundle's lock and the clone's:
    distributions and their modules, which a rehearsal must not find in this environment."""
    meta = WORKING_TREE.parent / "datasets_meta" / Path(manifest.WHEELS).name
    locks = [path for path in (build / manifest.WHEELS / LOCK, meta / LOCK) if path.is_file()]
    pinned = [pin.name for path in locks for pin in read_lock(path)]
    names = {canonicalize_name(name) for name in (*ABSENT, *pinned)}
    modules = {
        module
        for module, owners in packages_distributions().items()
        if names.issuperset(map(canonicalize_name, owners))
    }
    return sorted(names | modules)


def _wheels(build: Path) -> str:
    """The dataset of wheels, "" in a bundle without."""
    there = (build / manifest.WHEELS).is_dir()
    return manifest.read_metadata(build, manifest.WHEELS)["id"] if there else ""


def _attached(order: Rehearsal, model: str) -> dict[str, Path]:
    """A folder for each source of the kernel's that is not in the bundle, and for no other."""
    _check_backbone(order, model)
    found = dict(order.attached) | ({model: order.backbone} if order.backbone else {})
    wanted = other_sources(order.build)
    for name in wanted:
        if name not in found:
            raise BundleError(
                f"{order.build} attaches {name}: give a folder with its files, "
                f"--attach {name} FOLDER"
            )
    for name, folder in found.items():
        if name not in wanted:
            raise BundleError(f"{order.build} attaches no {name}: leave its --attach out")
        if not folder.is_dir():
            raise BundleError(f"no folder {folder}: give one with the files of {name}")
    return found


def _check_backbone(order: Rehearsal, model: str) -> None:
    """A folder is given for the bundle's model, and only for one, and it is such a model."""
    if order.backbone is None:
        if model:
            raise BundleError(
                f"{order.build} takes its backbone from Kaggle's model {model}: give a folder with "
                "that model's files, --backbone FOLDER"
            )
    elif not model:
        raise BundleError(f"{order.build} has a backbone of its own: leave --backbone out")
    elif not (order.backbone / "config.json").is_file():
        raise BundleError(
            f"{order.backbone} is no model: config.json is missing; give the folder that has it"
        )
    else:
        from mathllm.data.chat import load_tokenizer

        load_tokenizer(order.backbone)


def _check_competition(folder: Path) -> None:
    """What a rehearsal needs of the competition's files is there, all of it, and loads."""
    if not folder.is_dir():
        raise BundleError(f"no folder {folder}: give one with the competition's files")
    mend = "give the folder that has it, as `build.py fetch` leaves it"
    if not (folder / CURRENT.package).is_dir():
        raise BundleError(f"{folder} has no {CURRENT.package}: {mend}")
    modules = [find_module(folder, n) for n in (CURRENT.server_module, CURRENT.gateway_module)]
    for module in modules:
        code = f"import sys; sys.path.append(sys.argv[1]); import {module}; print({LOADED!r})"
        command = [sys.executable, "-I", "-B", "-c", code, str(folder.resolve())]
        try:
            loaded = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=LOAD_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise BundleError(
                f"{folder / CURRENT.package} does not load within {LOAD_SECONDS:g} s\n{mend}"
            ) from None
        # Not the status alone: a package that is not whole may end the process with any.
        if not loaded.stdout.rstrip().endswith(LOADED):
            said = loaded.stderr.strip() or loaded.stdout.strip() or "it ends the process"
            last = said.splitlines()[-1]
            raise BundleError(f"{folder / CURRENT.package} does not load: {last}\n{mend}")


def truth_of(problems: pl.DataFrame, known: Path | None) -> dict[str, int]:
    """Known answers by id: the file's own, or those of the same statements in `known`."""
    if CURRENT.answer_column in problems.columns or known is None:
        rows = problems
    else:
        answers = read_problems(known).select("problem", CURRENT.answer_column)
        rows = problems.join(answers, on="problem", how="inner")
    if CURRENT.answer_column not in rows.columns:
        return {}
    return dict(zip(rows["id"], rows[CURRENT.answer_column], strict=True))


def _play_all(play: session.Play) -> list[PlayedRun]:
    """The commit run, then the reruns, up to the first that fails."""
    runs: list[PlayedRun] = []
    for number in range(CURRENT.runs + 1):
        name = f"rerun {number}" if number else "commit run"
        run = PlayedRun(number, name, play.folders.working(name.replace(" ", "-")))
        runs.append(run)
        play.say(f"\n{name}")
        started = time.monotonic()
        try:
            (session.rerun if number else session.commit_run)(play, run)
        except session.RunError as fault:
            run.fault = str(fault)
            play.say(f"  {name} FAILED: {fault}")
            break
        play.say(f"  {name} done in {time.monotonic() - started:.1f} s")
    return runs


def keep(runs: list[PlayedRun], runs_dir: Path) -> None:
    """Move the runs' folders to `runs_dir`, in place of an earlier rehearsal's."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    for run in runs:
        target = runs_dir / run.folder.name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(run.folder, target)
        if run.submission:
            run.submission = target / run.submission.relative_to(run.folder)
        run.folder = target
        if run.answers:
            plot_run(target / "kernel" / NAME).savefig(target / PLOT, dpi=120)


def _report(ids: list[str], truth: dict[str, int], runs: list[PlayedRun]) -> str:
    """Table, score and figures, and where everything is."""
    commit, *reruns = runs
    lines = []
    if len(reruns) == CURRENT.runs:
        lines += [scorecard.table(ids, truth, reruns), ""]
        lines += [scorecard.conclusion(ids, truth, commit, reruns)]
    lines += [f"submission {run.submission}" for run in runs if run.submission]
    lines += [f"plot       {run.folder / PLOT}" for run in runs if run.answers]
    if commit.notebook.is_file():
        lines += [f"notebook   {commit.notebook}", f"html       {export_html(commit.notebook)}"]
    for run in runs:
        if run.fault:
            what = run.fault.partition(";")[0]
            lines.append(f"FAILED     {run.name}: {what}; its logs are in {run.folder}")
    return "\n".join(lines)
