"""The evaluation's part of the command line: report."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mathllm.cli.arguments import OK, SAY, add_command
from mathllm.errors import ParameterError

if TYPE_CHECKING:
    from mathllm.evaluation.report import Contest


def add_commands(commands: argparse._SubParsersAction, root: Path, contest: "Contest") -> None:
    """Add the evaluation's command; `root` is the clone, `contest` gives points for answers."""
    report = add_command(
        commands,
        "report",
        "what result files say, as a text with plots, or a page",
        "Read files that notebooks/evaluate.ipynb wrote and write down what they say: right "
        "answers with intervals, engines against each other, depth, votes, expected points and "
        "cost. Files over the same problems with the same settings make one chapter. The same "
        "files give the same text.",
    )
    report.set_defaults(function=partial(run_report, root, contest))
    report.add_argument(
        "files", metavar="FILE", nargs="*", type=Path, help="result files, or folders with some"
    )
    report.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        default=root / "runs" / "report" / "RESULTS.md",
        help="the text, in Markdown; its plots go into a folder of that name beside it",
    )
    report.add_argument(
        "--html", metavar="FILE", type=Path, help="the same as one page, with wrong answers"
    )
    report.add_argument(
        "--wrong",
        metavar="N",
        type=int,
        default=50,
        help="wrong answers of each engine in the page, at most",
    )


def run_report(root: Path, contest: "Contest", options: argparse.Namespace) -> int:
    # Here and not above: matplotlib and polars take a second that no other command needs.
    from mathllm.evaluation.document import write_html, write_markdown
    from mathllm.evaluation.groups import read_groups
    from mathllm.evaluation.report import chapter

    if options.wrong < 0:
        raise ParameterError(f"--wrong is {options.wrong}: give at least 0")
    groups = read_groups(options.files)
    chapters = [
        chapter(group, [_named(path, root) for path in group.paths], contest) for group in groups
    ]
    pictures = write_markdown(options.output, chapters)
    SAY(f"report   {options.output}, {len(pictures)} plots beside it")
    if options.html:
        write_html(options.html, chapters, options.wrong)
        SAY(f"html     {options.html}")
    return OK


def _named(path: Path, root: Path) -> str:
    """A file as the report calls it, which is the same wherever the clone lies."""
    whole = path.resolve()
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else path.name
