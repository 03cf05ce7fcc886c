"""The delivery's part of the command line: push, submit, check, fetch."""

import argparse
from functools import partial
from pathlib import Path

from mathllm.cli.arguments import FAILED, OK, SAY, add_build, add_command, add_delivery
from mathllm.delivery.workdir import DeliveryFolder
from mathllm.settings import CURRENT


def add_commands(commands: argparse._SubParsersAction, root: Path) -> None:
    """Add the delivery's commands; `root` is the clone."""
    _add_fetch(commands, root)
    _add_check(commands, root)
    _add_push(commands, root)
    _add_submit(commands, root)


def _add_push(commands: argparse._SubParsersAction, root: Path) -> None:
    push = add_command(
        commands,
        "push",
        "bring build/ to Kaggle and follow its run",
        "Create or version each dataset whose content changed, wait until Kaggle has processed "
        "it, push the kernel with exactly these versions, follow its run with its log, fetch its "
        "output and check submission.parquet. May be stopped and repeated anywhere: what is on "
        "Kaggle already is not sent again, and a half-sent file goes on.",
    )
    push.set_defaults(function=run_push)
    _add_shared(push, root)
    push.add_argument(
        "--again", action="store_true", help="a new version of a kernel that is there already"
    )
    push.add_argument(
        "--follow",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="wait for the run; after --no-follow the same command goes on there",
    )


def _add_submit(commands: argparse._SubParsersAction, root: Path) -> None:
    submit = add_command(
        commands,
        "submit",
        "submit what was pushed, and follow its score",
        "Submit the kernel's newest version, if its run ended well and it is the bundle in build/, "
        "and follow the score. The score is recorded with git's commit, the manifest and the "
        "parameters.",
    )
    submit.set_defaults(function=partial(run_submit, root))
    _add_shared(submit, root)
    submit.add_argument("--message", "-m", metavar="TEXT", default="", help="what is new in it")
    submit.add_argument(
        "--force", action="store_true", help="in spite of a failed run, or of another bundle"
    )
    submit.add_argument(
        "--again", action="store_true", help="though this version was submitted before"
    )
    submit.add_argument(
        "--follow",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="wait for the score; after --no-follow the same command goes on there",
    )
    submit.add_argument(
        "--record",
        metavar="FILE",
        type=Path,
        default=root / "submissions.jsonl",
        help="gets one JSON line for each submission; worth committing",
    )


def _add_check(commands: argparse._SubParsersAction, root: Path) -> None:
    check = add_command(
        commands,
        "check",
        "whether everything is there that a delivery needs",
        "Look at Python, packages, GPU, disk, notebook pairs, the bundle, the credentials (found "
        "where, never shown), and whether Kaggle lets you read the competition's files. Each "
        "line is ok, warning or fault, with its mend; exit status 1 with a fault.",
    )
    check.set_defaults(function=partial(run_check, root))
    add_build(check, root)
    check.add_argument("--offline", action="store_true", help="ask nothing of Kaggle")


def _add_fetch(commands: argparse._SubParsersAction, root: Path) -> None:
    fetch = add_command(
        commands,
        "fetch",
        "download the competition's files",
        f"Download the files of {CURRENT.slug}, its evaluation package among them, and unpack "
        "them. Rehearsals then use the real package.",
    )
    fetch.set_defaults(function=run_fetch)
    fetch.add_argument(
        "--into",
        metavar="DIR",
        type=Path,
        default=root / "competition",
        help="gets the archive, and files/ with what is in it",
    )


def _add_shared(command: argparse.ArgumentParser, root: Path) -> None:
    add_build(command, root)
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="look at what is on Kaggle, and say every call that would change something",
    )
    add_delivery(command, root)


def run_push(options: argparse.Namespace) -> int:
    from mathllm.delivery.push import Push, RunFailedError, push

    place = DeliveryFolder(options.delivery_dir)
    order = Push(options.build, place, options.again, options.follow)
    with place.alone(SAY):
        try:
            delivered = push(_kaggle(options), order)
        except RunFailedError as fault:
            SAY(f"failed: {fault}")
            return FAILED
    if delivered is None:
        SAY("dry run: nothing was changed")
    elif delivered.output is None:
        SAY(f"{delivered.ref} version {delivered.version} runs on Kaggle")
    else:
        SAY(f"submission.parquet has {delivered.rows} rows: {delivered.output}")
        SAY("next: build.py submit")
    return OK


def run_submit(root: Path, options: argparse.Namespace) -> int:
    from mathllm.delivery.push import RunFailedError
    from mathllm.delivery.submit import ERROR, Submit, submit

    place = DeliveryFolder(options.delivery_dir)
    order = Submit(
        build=options.build,
        place=place,
        root=root,
        record=options.record,
        message=options.message,
        force=options.force,
        again=options.again,
        follow=options.follow,
    )
    with place.alone(SAY):
        try:
            found = submit(_kaggle(options), order)
        except RunFailedError as fault:
            SAY(f"failed: {fault}")
            return FAILED
    if found is None:
        SAY("dry run: nothing was submitted")
        return OK
    if found.status == ERROR:
        SAY(f"submission {found.ref} failed: {found.error or 'Kaggle does not say why'}")
        return FAILED
    if found.public_score:
        SAY(f"score    {found.public_score}")
    SAY(f"record   {options.record}")
    return OK


def run_check(root: Path, options: argparse.Namespace) -> int:
    from mathllm.delivery.doctor import examine

    return OK if examine(root, options.build, SAY, options.offline) else FAILED


def run_fetch(options: argparse.Namespace) -> int:
    from mathllm.delivery.client import Kaggle
    from mathllm.delivery.fetch import fetch

    files = fetch(Kaggle(SAY), options.into)
    SAY(f"{len(files)} files: {options.into / 'files'}")
    return OK


def _kaggle(options: argparse.Namespace):
    from mathllm.delivery.client import Kaggle
    from mathllm.delivery.retry import RetryPolicy

    return Kaggle(SAY, RetryPolicy.of(options.poll), options.dry_run)
