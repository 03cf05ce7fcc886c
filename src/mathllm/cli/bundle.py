"""The bundle's part of the command line: vendor, rehearse, wheels."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mathllm.cli.arguments import (
    FAILED,
    OK,
    SAY,
    add_build,
    add_command,
    add_delivery,
    add_parameters,
)
from mathllm.cli.presets import Preset, names, read_preset
from mathllm.competition.bundle.metadata import ACCELERATORS
from mathllm.competition.rehearsal.faults import FAULTS
from mathllm.errors import ParameterError
from mathllm.settings import CURRENT, PACKAGES


def add_commands(
    commands: argparse._SubParsersAction, root: Path, owner: Callable[[], str | None]
) -> None:
    """Add the bundle's commands; `root` is the clone, `owner` whose it is if nobody says."""
    _add_vendor(commands, root, owner)
    _add_rehearse(commands, root)
    _add_wheels(commands, root)


def _add_vendor(
    commands: argparse._SubParsersAction, root: Path, owner: Callable[[], str | None]
) -> None:
    vendor = add_command(
        commands,
        "vendor",
        "lay out build/: datasets, the kernel, a manifest",
        "Lay out build/datasets/source, build/datasets/weights, build/datasets/wheels "
        "and build/kernel, with metadata filled in and a manifest of SHA-256 sums. Refuses what "
        "must not be uploaded, or would fail on Kaggle. The same inputs give the same bytes.",
    )
    vendor.set_defaults(function=partial(run_vendor, root, owner))
    add_build(vendor, root)
    vendor.add_argument(
        "--weights",
        metavar="FOLDER",
        type=Path,
        default=root / "assets" / "tiny",
        help="folder that holds backbone/ and trm/, such as the train notebook's output",
    )
    vendor.add_argument(
        "--model",
        metavar="HANDLE",
        default="",
        help="OWNER/MODEL/FRAMEWORK/VARIATION/VERSION on Kaggle, attached in place of sending "
        "backbone/, which is still what is checked here",
    )
    vendor.add_argument(
        "--username",
        metavar="NAME",
        help="your Kaggle user name, owner of datasets and kernel (default: KAGGLE_USERNAME, or "
        "the one beside your key)",
    )
    vendor.add_argument(
        "--title",
        metavar="TEXT",
        default="MathLLM submission",
        help="the kernel's title; Kaggle makes its address of it",
    )
    vendor.add_argument(
        "--accelerator",
        metavar="NAME",
        help=f"Kaggle's machine (one of {', '.join(ACCELERATORS)}; default: the preset's, or "
        f"{ACCELERATORS[0]})",
    )
    vendor.add_argument(
        "--preset",
        metavar="NAME",
        help="parameters and machine that fit a model, of kernel/presets "
        f"({', '.join(names(root))}) or a file like those; -p and --accelerator override it",
    )
    vendor.add_argument(
        "--private",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether only you see datasets and kernel",
    )
    vendor.add_argument(
        "--wheels",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="bring the packages that Kaggle's image lacks (datasets_meta/wheels)",
    )
    add_parameters(vendor, "of the kernel, for good")
    vendor.add_argument(
        "--zip", action="store_true", help="write archives for an upload by hand, too"
    )
    vendor.add_argument(
        "--upload",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="go on with `build.py push`, which the next two are for",
    )
    add_delivery(vendor, root)


def _add_rehearse(commands: argparse._SubParsersAction, root: Path) -> None:
    rehearse = add_command(
        commands,
        "rehearse",
        "play Kaggle with build/, without a network",
        "Run what was vendored, not the working tree, as Kaggle would: first the "
        "commit run, then two reruns with kernel and gateway as separate processes, all without "
        "a network. Ends with a table, the competition's score, and where everything is.",
    )
    rehearse.set_defaults(function=partial(run_rehearse, root))
    add_build(rehearse, root)
    rehearse.add_argument(
        "--problems",
        metavar="FILE",
        type=Path,
        default=root / "assets" / "problems.csv",
        help="CSV with id, problem and, where it is known, answer",
    )
    rehearse.add_argument(
        "--runs-dir",
        metavar="DIR",
        type=Path,
        default=root / "runs" / "rehearsal",
        help="gets logs, journals, executed notebooks and submissions",
    )
    rehearse.add_argument(
        "--backbone",
        metavar="FOLDER",
        type=Path,
        help="lent in place of the model on Kaggle, for a bundle vendored with --model",
    )
    rehearse.add_argument(
        "--attach",
        nargs=2,
        action="append",
        default=[],
        metavar=("SOURCE", "FOLDER"),
        help="files of another dataset, notebook or model that kernel-metadata.json names",
    )
    rehearse.add_argument(
        "--competition",
        metavar="DIR",
        type=Path,
        help="the competition's files; kernel and gateway are then those of its evaluation "
        "package (default: what `build.py fetch` has left, if anything)",
    )
    rehearse.add_argument(
        "--package",
        metavar="VERSION",
        choices=PACKAGES,
        help=f"without those files: the version of the package that is played, of "
        f"{', '.join(PACKAGES)}",
    )
    rehearse.add_argument(
        "--seed", type=int, metavar="N", help="of the samples; without it the notebook's own"
    )
    rehearse.add_argument(
        "--faults",
        metavar="NAME",
        nargs="*",
        choices=FAULTS,
        help=f"instead, one rerun for each fault injected ({', '.join(FAULTS)}; none named: all), "
        "and a table of what each one cost",
    )
    rehearse.add_argument(
        "--soak",
        metavar="N",
        type=int,
        help="instead, one rerun of N generated problems with faults at random: every row must "
        "be there, and nothing may grow or stay behind (2000 take about half an hour)",
    )
    add_parameters(rehearse, "of the kernel")
    rehearse.add_argument(
        "--keep", action="store_true", help="leave the Kaggle-like input folder to look at"
    )


def _add_wheels(commands: argparse._SubParsersAction, root: Path) -> None:
    wheels = commands.add_parser(
        "wheels",
        help="lock the packages that Kaggle's image lacks",
        description="Write datasets_meta/wheels/requirements.txt anew: the packages named, with "
        "all that they need and datasets_meta/wheels/image.txt does not list, for Kaggle's "
        "Pythons and platform, exact to the byte.",
    )
    wheels.set_defaults(function=partial(run_wheels, root))
    wheels.add_argument("packages", metavar="NAME==VERSION", nargs="*")


def run_vendor(root: Path, owner: Callable[[], str | None], options: argparse.Namespace) -> int:
    from mathllm.competition.bundle.archives import zip_bundle
    from mathllm.competition.bundle.manifest import MANIFEST, BundleSpec, vendor

    preset = read_preset(root, options.preset) if options.preset else Preset()
    order = BundleSpec(
        root=root,
        weights=options.weights,
        build=options.build,
        owner=options.username or owner() or "your-username",
        title=options.title,
        accelerator=options.accelerator or preset.accelerator or ACCELERATORS[0],
        private=options.private,
        model=options.model,
        parameters=[*preset.parameters, *map(tuple, options.parameters)],
        wheels=options.wheels,
    )
    sums = vendor(order)
    size = sum((options.build / name).stat().st_size for name in sums)
    SAY(f"vendored {len(sums)} files, {size / 1e6:,.1f} MB: {options.build / MANIFEST}")
    if options.zip:
        for path in zip_bundle(options.build, options.build.with_name(f"{options.build.name}-zip")):
            SAY(f"archive  {path}")
    return OK


def run_rehearse(root: Path, options: argparse.Namespace) -> int:
    from mathllm.competition.rehearsal.rehearse import Rehearsal, rehearse

    fetched = root / "competition" / "files"
    if options.package and options.competition:
        raise ParameterError(
            f"--package {options.package} is for a rehearsal without the competition's files: "
            "leave it or --competition out"
        )
    if options.soak is not None and options.faults is not None:
        raise ParameterError("--soak has faults of its own: leave it or --faults out")
    if options.soak is not None and options.soak < 1:
        raise ParameterError(f"--soak is {options.soak}: give a number of problems, such as 2000")
    order = Rehearsal(
        build=options.build,
        problems=options.problems,
        runs_dir=options.runs_dir,
        known=root / "assets" / "placeholders.csv",
        seed=options.seed,
        keep=options.keep,
        parameters=[tuple(pair) for pair in options.parameters],
        backbone=options.backbone,
        attached=[(name, Path(folder)) for name, folder in options.attach],
        competition=options.competition
        or (fetched if fetched.is_dir() and not options.package else None),
        package=options.package or CURRENT.package_version,
    )
    if options.faults is not None:
        from mathllm.competition.rehearsal.fault_runs import run_faults

        return OK if run_faults(order, options.faults or list(FAULTS), SAY) else FAILED
    if options.soak is not None:
        from mathllm.competition.rehearsal.soak import soak

        return OK if soak(order, options.soak, say=SAY) else FAILED
    return OK if rehearse(order, SAY) else FAILED


def run_wheels(root: Path, options: argparse.Namespace) -> int:
    from mathllm.competition.bundle.plan import CACHE
    from mathllm.competition.bundle.wheels import LOCK, download, resolve

    folder = root / "datasets_meta" / "wheels"
    if options.packages:
        resolve(options.packages, folder)
    for wheel in download(folder / LOCK, root / CACHE):
        SAY(f"wheel    {wheel}")
    SAY(f"lock     {folder / LOCK}")
    return OK
