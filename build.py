#!/usr/bin/env python3
"""The command line: lay out what goes to Kaggle, and rehearse it here.

Knows arguments and exit statuses. Everything else is in src/mathllm, which need not be
installed, and the working directory does not matter.
"""

import argparse
import os
import signal
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "src"))

from mathllm.competition.contents import ACCELERATORS  # noqa: E402 (found by the line above)
from mathllm.competition.faults import FAULTS  # noqa: E402
from mathllm.errors import UserError  # noqa: E402

OK, FAILED, USER_ERROR = 0, 1, 2

DESCRIPTION = """\
From a weights folder to a Kaggle submission.

  vendor     lay out build/: source and weights as datasets, the kernel, a manifest
  rehearse   play Kaggle with build/: a commit run and two reruns, without a network
  run        run a notebook with checked parameters
"""
EXAMPLES = """\
examples:
  build.py vendor                                    the embedded weights, into build/
  build.py vendor --weights runs/train --username me
  build.py rehearse                                  a dozen problems that come with the clone
  build.py rehearse --problems reference.csv         any file with id, problem[, answer]
  build.py rehearse --faults                         what each injected fault costs
  build.py run notebooks/train.ipynb -p epochs 2 --html

exit status: 0 done, 1 a run failed, 2 a mistake that you can mend (said in a line or two)
"""


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="build.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_vendor(commands)
    _add_rehearse(commands)
    _add_run(commands)
    return main


def _add_vendor(commands: argparse._SubParsersAction) -> None:
    vendor = commands.add_parser(
        "vendor",
        help="lay out what Kaggle gets",
        description="Lay out build/datasets/source, build/datasets/weights and build/kernel, with "
        "metadata filled in and a manifest of SHA-256 sums. The same inputs give the same bytes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    vendor.set_defaults(function=run_vendor)
    _add_build(vendor)
    vendor.add_argument(
        "--weights",
        metavar="FOLDER",
        type=Path,
        default=ROOT / "assets" / "tiny",
        help="folder that holds backbone/ and trm/, such as the train notebook's output",
    )
    vendor.add_argument(
        "--username",
        metavar="NAME",
        default=os.environ.get("KAGGLE_USERNAME") or "your-username",
        help="your Kaggle user name, owner of datasets and kernel (or set KAGGLE_USERNAME)",
    )
    vendor.add_argument(
        "--title",
        metavar="TEXT",
        default="MathLLM submission",
        help="the kernel's title; Kaggle makes its address of it",
    )
    vendor.add_argument(
        "--accelerator", choices=ACCELERATORS, default=ACCELERATORS[0], help="Kaggle's machine"
    )


def _add_rehearse(commands: argparse._SubParsersAction) -> None:
    rehearse = commands.add_parser(
        "rehearse",
        help="play Kaggle with what was vendored",
        description="Run what was vendored, not the working tree, as Kaggle would: first the "
        "commit run, then two reruns with kernel and gateway as separate processes, all without "
        "a network. Ends with a table, the competition's score, and where everything is.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    rehearse.set_defaults(function=run_rehearse)
    _add_build(rehearse)
    rehearse.add_argument(
        "--problems",
        metavar="FILE",
        type=Path,
        default=ROOT / "assets" / "problems.csv",
        help="CSV with id, problem and, where it is known, answer",
    )
    rehearse.add_argument(
        "--runs-dir",
        metavar="DIR",
        type=Path,
        default=ROOT / "runs" / "rehearsal",
        help="gets logs, journals, executed notebooks and submissions",
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
    _add_parameters(rehearse, "of the kernel")
    rehearse.add_argument(
        "--keep", action="store_true", help="leave the Kaggle-like input folder to look at"
    )


def _add_run(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser(
        "run",
        help="run a notebook with checked parameters",
        description="Run a notebook by papermill. Unknown parameters and values of a wrong type "
        "are named before anything runs.",
    )
    run.set_defaults(function=run_notebook)
    run.add_argument("notebook", metavar="NOTEBOOK", type=Path, help="an .ipynb file")
    _add_parameters(run, "of the notebook")
    run.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="the executed notebook (default: runs/NAME/NAME.ipynb)",
    )
    run.add_argument("--html", action="store_true", help="write it as a page beside that, too")


def _add_parameters(command: argparse.ArgumentParser, whose: str) -> None:
    command.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help=f"a parameter {whose}; may be repeated",
    )


def _add_build(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--build", metavar="DIR", type=Path, default=ROOT / "build", help="folder of the bundle"
    )


def run_vendor(options: argparse.Namespace) -> int:
    from mathllm.competition.bundle import MANIFEST, Order, vendor

    order = Order(
        root=ROOT,
        weights=options.weights,
        build=options.build,
        owner=options.username,
        title=options.title,
        accelerator=options.accelerator,
    )
    sums = vendor(order)
    size = sum((options.build / name).stat().st_size for name in sums)
    print(f"vendored {len(sums)} files, {size / 1e6:,.1f} MB: {options.build / MANIFEST}")
    return OK


def run_rehearse(options: argparse.Namespace) -> int:
    from mathllm.competition.rehearsal import Rehearsal, rehearse

    order = Rehearsal(
        build=options.build,
        problems=options.problems,
        runs_dir=options.runs_dir,
        known=ROOT / "assets" / "placeholders.csv",
        seed=options.seed,
        keep=options.keep,
        parameters=[tuple(pair) for pair in options.parameters],
    )
    say = partial(print, flush=True)
    if options.faults is not None:
        from mathllm.competition.drills import drill

        return OK if drill(order, options.faults or list(FAULTS), say) else FAILED
    return OK if rehearse(order, say) else FAILED


def run_notebook(options: argparse.Namespace) -> int:
    from mathllm import notebooks

    name = options.notebook.stem
    output = options.output or ROOT / "runs" / name / f"{name}.ipynb"
    try:
        notebooks.run_notebook(options.notebook, output, options.parameters)
    except notebooks.NotebookError as fault:
        print(f"{fault}\nfailed: {output}", file=sys.stderr)
        return FAILED
    print(f"notebook {output}")
    if options.html:
        print(f"html     {notebooks.export_html(output)}")
    return OK


def _on_sigterm(*_: object) -> None:
    """An exception, as of Ctrl-C, so that whatever a command has started is ended with it."""
    print("ended by SIGTERM", file=sys.stderr)
    sys.exit(128 + signal.SIGTERM)


def main(arguments: list[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, _on_sigterm)
    options = parser().parse_args(arguments)
    try:
        return options.function(options)
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
