"""The competition's gateway, played here: problems in, submission.parquet out.

    python -m mathllm.competition.protocol.gateway --problems FILE.csv --output-dir DIR

Knows problems, replies and the files of a run. Knows nothing of how answers are found, and
of the wire only that there is a client for it.
"""

import argparse
import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mathllm import paths
from mathllm.competition.protocol.channel import PORTS
from mathllm.competition.protocol.client import Client, ErrorKind, GatewayError
from mathllm.competition.protocol.server import Ending, GatewayGoneError, InferenceServer
from mathllm.errors import ParameterError, UserError
from mathllm.settings import CURRENT

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "Client",
    "Ending",
    "ErrorKind",
    "GatewayError",
    "GatewayGoneError",
    "InferenceServer",
    "run_gateway",
]

ENDPOINT = "predict"
RESULT_FILE = "result.json"
MAX_DETAILS = 8000  # characters of ErrorDetails in result.json


def run_gateway(
    problems: Path | str,
    output_dir: Path | str,
    client: Client,
    *,
    keep_order: bool = False,
    seed: int | None = None,
    progress_file: Path | str | None = None,
    report: Callable[[str], None] = print,
    rerun: bool | None = None,
) -> "pl.DataFrame":
    """Ask for every problem, then write submission.parquet: id (str), answer (int), as asked.

    The order is shuffled, by `seed` if given, unless `keep_order`. `report` gets a line for
    each answer, `progress_file` a line of JSON (index from 1, of, id, answer, seconds). In a
    rerun (None: as the environment says) result.json tells how the run ended. Files of an
    earlier run are removed first. Raises ProblemFileError and GatewayError.
    """
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    rerun = paths.is_rerun() if rerun is None else rerun
    for stale in (output_dir / CURRENT.submission_file, output_dir / RESULT_FILE):
        stale.unlink(missing_ok=True)
    try:
        rows = _rows(problems, keep_order, seed)
        submission = _ask_all(rows, client, report, progress_file)
        _write(output_dir / CURRENT.submission_file, submission.write_parquet)
    except Exception as error:
        if rerun:
            write_result(output_dir, error)
        raise
    if rerun:
        write_result(output_dir, None)
    return submission


def check_reply(reply: Any, problem_id: str) -> int:
    """The answer in a reply to one problem.

    Raises GatewayError of kind INVALID_SUBMISSION unless it is a polars or pandas frame with
    one row, this id and an integer answer in range. (The competition's own gateway looks at
    the number of rows only and puts its own ids in; whatever else is wrong scores nothing.)
    """

    def invalid(found: str) -> GatewayError:
        return GatewayError(ErrorKind.INVALID_SUBMISSION, f"problem {problem_id}: {found}")

    id_column, answer_column = CURRENT.id_column, CURRENT.answer_column
    columns = getattr(reply, "columns", None)
    if columns is None:
        kind = f"{type(reply).__module__}.{type(reply).__qualname__}"
        raise invalid(f"the reply is a {kind}, expected a polars or pandas DataFrame")
    if missing := {id_column, answer_column} - set(columns):
        raise invalid(f"the reply has no column {', '.join(sorted(missing))}")
    if len(reply) != 1:
        raise invalid(f"the reply has {len(reply)} rows, expected 1")
    found_id, answer = (reply[name].to_list()[0] for name in (id_column, answer_column))
    if str(found_id) != problem_id:
        raise invalid(f"the reply is for id {found_id!r}")
    if isinstance(answer, bool) or not isinstance(answer, int):
        raise invalid(f"the answer {answer!r} is no integer")
    low, high = CURRENT.answer_min, CURRENT.answer_max
    if not low <= answer <= high:
        raise invalid(f"the answer {answer} is outside {low}…{high}")
    return answer


def write_result(output_dir: Path, error: Exception | None) -> None:
    """result.json, as the competition's gateway leaves it after a rerun."""
    result: dict[str, Any] = {"Succeeded": error is None}
    if error is not None:
        if isinstance(error, GatewayError):
            kind, details = error.kind, error.details
        else:
            kind = ErrorKind.GATEWAY_RAISED_EXCEPTION
            lines = (
                [str(error)] if isinstance(error, UserError) else traceback.format_exception(error)
            )
            details = "".join(lines)
        result |= {
            "ErrorType": int(kind),
            "ErrorName": kind.name,
            "ErrorDetails": details[:MAX_DETAILS],
        }
    text = json.dumps(result, ensure_ascii=False)
    _write(output_dir / RESULT_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def _rows(problems: Path | str, keep_order: bool, seed: int | None) -> list["pl.DataFrame"]:
    """One frame of one row for each problem, in the order of asking."""
    from mathllm.data.problems import read_problems

    table = read_problems(problems, CURRENT.answer_min, CURRENT.answer_max)
    rows = [table.slice(index, 1) for index in range(len(table))]
    if not keep_order:
        random.Random(seed).shuffle(rows)
    return rows


def _ask_all(
    rows: Sequence["pl.DataFrame"],
    client: Client,
    report: Callable[[str], None],
    progress_file: Path | str | None,
) -> "pl.DataFrame":
    import polars as pl

    if progress_file is not None:
        Path(progress_file).write_text("", encoding="utf-8")
    ids, answers = [], []
    for index, row in enumerate(rows, start=1):
        problem_id = row[CURRENT.id_column].item()
        started = time.monotonic()
        reply = client.send(ENDPOINT, *row.get_columns(), last=index == len(rows))
        answer = check_reply(reply, problem_id)
        seconds = time.monotonic() - started
        ids.append(problem_id)
        answers.append(answer)
        report(f"{index}/{len(rows)}  {problem_id}  answer {answer}  {seconds:.1f} s")
        if progress_file is not None:
            entry = {"index": index, "of": len(rows), "id": problem_id, "answer": answer}
            with Path(progress_file).open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry | {"seconds": round(seconds, 3)}) + "\n")
    return pl.DataFrame(
        {CURRENT.id_column: ids, CURRENT.answer_column: answers},
        schema={CURRENT.id_column: pl.String, CURRENT.answer_column: pl.Int64},
    )


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """All of the file or nothing: written beside its place, synced, renamed."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _ports(text: str) -> tuple[int, ...]:
    try:
        ports = tuple(int(part) for part in text.split(","))
    except ValueError:
        ports = ()
    if not ports or not all(0 < port < 65536 for port in ports):
        raise ParameterError(f"--ports {text}: expected numbers in 1…65535, as in 50051,60053")
    return ports


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mathllm.competition.protocol.gateway",
        description="Plays the competition's gateway: waits for a server on loopback, sends it "
        "every problem, and writes submission.parquet (in a rerun result.json as well).",
        epilog="Exit status: 0 when the submission was written, 1 when the run failed, "
        "2 for a mistake in what was given.",
    )
    add = parser.add_argument
    add("--problems", required=True, metavar="FILE.csv", help="columns id, problem[, answer]")
    add("--output-dir", default=".", metavar="DIR", help="for the files written (default: here)")
    add("--keep-order", action="store_true", help="ask in the file's order instead of shuffling")
    add("--seed", type=int, metavar="N", help="of the shuffle (default: another every time)")
    add("--ports", metavar="P,P,…", help=f"to look for the server (default: {PORTS[0]}, "
        f"{PORTS[1]} and the others of the protocol)")  # fmt: skip
    add("--startup-seconds", type=float, default=CURRENT.startup_seconds, metavar="S",
        help="to wait for a server to listen (default: %(default)g)")  # fmt: skip
    add("--response-seconds", type=float, default=CURRENT.response_seconds, metavar="S",
        help="to wait for one reply (default: %(default)g)")  # fmt: skip
    add("--series-format", choices=("parquet", "arrow"), default=CURRENT.series_format,
        help="how polars Series are sent; the kaggle_evaluation package reads parquet up to "
        "0.9 and arrow from 1.x on, our server both (default: %(default)s)")  # fmt: skip
    add("--progress-file", metavar="FILE", help="gets a line of JSON for each answer")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    # Some versions of gRPC tell of every broken connection on stderr, beside our own line.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        client = Client(
            ports=_ports(options.ports) if options.ports else PORTS,
            startup_seconds=options.startup_seconds,
            response_seconds=options.response_seconds,
            series_format=options.series_format,
        )
        try:
            submission = run_gateway(
                options.problems,
                options.output_dir,
                client,
                keep_order=options.keep_order,
                seed=options.seed,
                progress_file=options.progress_file,
                report=lambda line: print(line, flush=True),
            )
        finally:
            client.close()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except GatewayError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    where = Path(options.output_dir) / CURRENT.submission_file
    print(f"{len(submission)} answers in {where}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
