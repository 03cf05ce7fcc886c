"""The command line: everything that a person does with this repository."""

import argparse
import signal
import sys
from functools import partial
from pathlib import Path

from mathllm.cli import batches, bundle, delivery, evaluation
from mathllm.cli.arguments import FAILED, OK, add_parameters
from mathllm.delivery.credentials import user_name
from mathllm.errors import TryAgainError, UserError
from mathllm.files import is_full, is_refused
from mathllm.redaction import secrets_hidden
from mathllm.settings import CURRENT
from mathllm.wording import brief, whole

USER_ERROR, TRY_AGAIN = 2, 3

DESCRIPTION = """\
From a weights folder to a Kaggle submission, and how good it is. The commands stand in the order
in which they are wanted; each explains itself with --help.
"""
EXAMPLES = """\
examples:
  build.py vendor                                    the embedded weights, into build/
  build.py vendor --weights runs/train --username me
  build.py rehearse                                  a dozen problems that come with the clone
  build.py rehearse --problems reference.csv         any file with id, problem[, answer]
  build.py rehearse --faults                         what each injected fault costs
  build.py run notebooks/train.ipynb -p epochs 2 --html
  build.py batch notebooks/batches/smoke.yaml        twelve runs, killed or not
  build.py push --dry-run                            every call, and nothing changed
  build.py push && build.py submit -m "16 samples"

exit status: 0 done, 1 a run failed, 2 a mistake that you can mend (said in a line or two),
3 Kaggle could not be reached or has no time: the same command goes on later
"""


def parser(root: Path) -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="build.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    main.set_defaults(function=lambda _: main.print_help() or USER_ERROR)
    commands = main.add_subparsers(title="commands", metavar="COMMAND")
    _add_run(commands, root)
    batches.add_commands(commands, root)
    evaluation.add_commands(commands, root, CURRENT)
    bundle.add_commands(commands, root, user_name)
    delivery.add_commands(commands, root)
    return main


def _add_run(commands: argparse._SubParsersAction, root: Path) -> None:
    run = commands.add_parser(
        "run",
        help="run a notebook with checked parameters",
        description="Run a notebook by papermill. Unknown parameters and values of a wrong type "
        "are named before anything runs.",
    )
    run.set_defaults(function=partial(run_notebook, root))
    run.add_argument("notebook", metavar="NOTEBOOK", type=Path, help="an .ipynb file")
    add_parameters(run, "of the notebook")
    run.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="the executed notebook (default: runs/NAME/NAME.ipynb)",
    )
    run.add_argument("--html", action="store_true", help="write it as a page beside that, too")


def run_notebook(root: Path, options: argparse.Namespace) -> int:
    from mathllm import notebooks

    name = options.notebook.stem
    output = options.output or root / "runs" / name / f"{name}.ipynb"
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
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # said once: the first ends everything
    print("ended by SIGTERM", file=sys.stderr)
    sys.exit(128 + signal.SIGTERM)


def _disk_fault(fault: Exception) -> str | None:
    """What is wrong with a disk or a place on it, and the mend; None where something else is."""
    if is_full(fault):
        return f"the disk is full ({brief(fault, 200)}): make room and repeat the command"
    if is_refused(fault):
        place = brief(fault.filename, 200)
        return f"{place} cannot be used ({fault.strerror}): mend its rights, or give another place"
    return None


def main(root: Path, arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status. `root` is the clone.

    Nothing that it prints holds a secret.
    """
    with secrets_hidden():
        return _run(root, arguments)


def _run(root: Path, arguments: list[str] | None) -> int:
    options = parser(root).parse_args(arguments)
    signal.signal(signal.SIGTERM, _on_sigterm)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = options.function(options)
        if status == OK and getattr(options, "upload", False):
            same = {"--build": "build", "--poll": "poll", "--delivery-dir": "delivery_dir"}
            given = [word for k, v in same.items() for word in (k, str(getattr(options, v)))]
            push = parser(root).parse_args(["push", *given])
            return push.function(push)
        return status
    except TryAgainError as fault:
        print(f"error: {whole(fault)}", file=sys.stderr)
        return TRY_AGAIN
    except UserError as mistake:
        print(f"error: {whole(mistake)}", file=sys.stderr)
        return USER_ERROR
    except Exception as fault:
        if (told := _disk_fault(fault)) is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # said once, and all is ended
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
