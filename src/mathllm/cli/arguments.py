"""What several commands of the command line share: arguments, and how things are said."""

import argparse
from functools import partial
from pathlib import Path

OK, FAILED = 0, 1  # exit statuses

SAY = partial(print, flush=True)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one to speak of."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = action.default is None or action.default in ("", [], False)
        return action.help if nothing else super()._get_help_string(action)


def add_command(
    commands: argparse._SubParsersAction, name: str, summary: str, description: str
) -> argparse.ArgumentParser:
    """A command whose help shows its defaults."""
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=_Help,
    )


def add_build(command: argparse.ArgumentParser, root: Path) -> None:
    command.add_argument(
        "--build", metavar="DIR", type=Path, default=root / "build", help="folder of the bundle"
    )


def add_parameters(command: argparse.ArgumentParser, whose: str) -> None:
    command.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help=f"a parameter {whose}; may be repeated",
    )


def add_delivery(command: argparse.ArgumentParser, root: Path) -> None:
    command.add_argument(
        "--poll",
        metavar="SECONDS",
        type=float,
        default=15.0,
        help="time between two looks at something that Kaggle works on",
    )
    command.add_argument(
        "--delivery-dir",
        metavar="DIR",
        type=Path,
        default=root / "runs" / "delivery",
        help="gets half-sent files and the output of runs",
    )
