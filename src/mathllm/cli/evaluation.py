"""The evaluation's part of the command line: report, replay, evidence."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mathllm.cli.arguments import OK, SAY, add_command
from mathllm.errors import ParameterError

if TYPE_CHECKING:
    from mathllm.evaluation.report import Contest


def add_commands(commands: argparse._SubParsersAction, root: Path, contest: "Contest") -> None:
    """Add the evaluation's commands; `root` is the clone, `contest` gives points for answers."""
    report = add_command(
        commands,
        "report",
        "what result files say, as a text or a page",
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
    _add_replay(commands)
    _add_evidence(commands, root)


def _add_replay(commands: argparse._SubParsersAction) -> None:
    replay = add_command(
        commands,
        "replay",
        "other rules to stop and to vote, over attempts drawn before",
        "Play rules over attempts that a run or an evaluation has drawn, without drawing anything: "
        "what would have been answered, how sure the difference from the first rule is, what it "
        "would have cost, and the expected points. Without --rule: each way to vote, alone and "
        "with a margin to stop at, beside the file's own rules.",
    )
    replay.set_defaults(function=run_replay)
    replay.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        type=Path,
        help="attempts.parquet of a kernel's run (beside its journal), or results of an "
        "evaluation; several are one after another",
    )
    replay.add_argument(
        "--truth",
        metavar="FILE",
        type=Path,
        help="the problems with their answers (id, problem, answer); results bring their own",
    )
    replay.add_argument(
        "--rule",
        metavar="RULE",
        action="append",
        default=[],
        dest="rules",
        help="values that differ from the file's own, as 'voting=entropy lead=3'; of n_samples, "
        "parallel, sessions, voting, agreement, lead, total_seconds, margin_seconds, "
        "expected_problems, base_seconds, ceiling_seconds, hard_problems; may be repeated",
    )
    replay.add_argument("--seed", metavar="N", type=int, default=0, help="of what is resampled")
    replay.add_argument("--out", metavar="FILE", type=Path, help="the figures as JSON")


def _add_evidence(commands: argparse._SubParsersAction, root: Path) -> None:
    evidence = add_command(
        commands,
        "evidence",
        "the tables of docs/EVIDENCE.md, from the trials",
        "Read trials (several ways to train, each with several seeds, all asked the same problems) "
        "and put their tables between the two marks of a document: right answers, the primary "
        "contrast, all others, the staircase and halting. The same files give the same text.",
    )
    evidence.set_defaults(function=run_evidence)
    evidence.add_argument(
        "files", metavar="FILE", nargs="+", type=Path, help="trials, or folders with some"
    )
    evidence.add_argument(
        "--document",
        metavar="FILE",
        type=Path,
        default=root / "docs" / "EVIDENCE.md",
        help="where the tables go (default docs/EVIDENCE.md)",
    )
    evidence.add_argument(
        "--primary", metavar="NAME", default="recursion", help="the way that is compared"
    )
    evidence.add_argument(
        "--control", metavar="NAME", default="no loop", help="the one of the primary contrast"
    )


def run_evidence(options: argparse.Namespace) -> int:
    # Here and not above: they take a second that no other command needs.
    from mathllm.evaluation.evidence import read_ways, replaced, report

    paths = []
    for path in options.files:
        paths += sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not paths:
        raise ParameterError(f"{options.files[0]} has no .parquet file: give folders of trials")
    ways = read_ways(paths)
    tables = report(ways, options.primary, options.control)
    document = options.document
    if not document.is_file():
        raise ParameterError(f"{document} does not exist: give the document with --document")
    document.write_text(replaced(document.read_text(encoding="utf-8"), tables), encoding="utf-8")
    trials = sum(len(way.trials) for way in ways.values())
    SAY(f"{document}: tables of {trials} trials, {len(ways)} ways to train")
    return OK


def run_replay(options: argparse.Namespace) -> int:
    # Here and not above: they take a second that no other command needs.
    import polars as pl

    from mathllm.data.problems import read_problems
    from mathllm.evaluation.drawn import read_drawn
    from mathllm.evaluation.replay import (
        compare,
        figures,
        notes,
        parse_rule,
        play_rule,
        usual_rules,
    )
    from mathllm.files import write_json

    if options.seed < 0:
        raise ParameterError(f"--seed is {options.seed}: give at least 0")
    if options.out and options.out.is_dir():
        raise ParameterError(f"--out is {options.out}, a folder: name a file")
    truth = None
    if options.truth:
        table = read_problems(options.truth)
        if "answer" not in table.columns:
            raise ParameterError(f"{options.truth} has no column answer: give a file with answers")
        truth = dict(table.select("id", "answer").iter_rows())
    own, problems = read_drawn(options.files, truth)
    rules = {"as drawn": own} | {text: parse_rule(text, own) for text in options.rules}
    if not options.rules:
        rules = usual_rules(own, problems)
    known = [problem for problem in problems if problem.truth is not None]
    SAY(f"{len(problems)} problems, {sum(len(p.drawn) for p in problems):,} attempts")
    if not known:
        SAY("no answer is known (--truth gives them): what each rule would have submitted")
        outcomes = [play_rule(name, problems, rule) for name, rule in rules.items()]
        columns = {outcome.name: outcome.answers for outcome in outcomes}
        shown = pl.DataFrame({"id": [problem.id for problem in problems], **columns})
        found: object = shown.to_dicts()
    else:
        if len(known) < len(problems):
            SAY(f"{len(problems) - len(known)} of them without a known answer are left out")
        compared = compare(known, rules, options.seed)
        found = [figures(one) for one in compared]
        shown = pl.DataFrame([one.line() for one in compared])
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=200, fmt_str_lengths=60) as config:
        config.set_tbl_hide_dataframe_shape(True).set_tbl_hide_column_data_types(True)
        SAY(shown)
    for line in notes(compared) if known else ():
        SAY(line)
    if options.out:
        write_json(options.out, found)
    return OK


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
