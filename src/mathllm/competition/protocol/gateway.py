"""The competition's gateway, played here: problems in, submission.parquet out.

    python -m mathllm.competition.protocol.gateway --problems FILE.csv --output-dir DIR

What the original takes and what it ends a run for, at the same moment and under the same name:
it looks at the type and the rows of each reply, and at their columns only when all are there.
What its scoring refuses is in submission_file.py.
"""

import argparse
import json
import math
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mathllm import paths
from mathllm.competition.protocol.client import Client, ErrorKind, GatewayError
from mathllm.competition.protocol.server import Ending, GatewayGoneError, InferenceServer
from mathllm.errors import ParameterError, ProblemFileError, UserError
from mathllm.settings import CURRENT, PACKAGES, evaluation_package

if TYPE_CHECKING:
    import pandas as pd
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

ENDPOINT = "predict"  # what every version calls, whatever a kernel serves
RESULT_FILE = "result.json"
MAX_DETAILS = 8000  # characters of ErrorDetails in result.json


def run_gateway(
    problems: Path | str,
    output_dir: Path | str,
    client: Client,
    *,
    keep_order: bool = False,
    seed: int | None = None,
    report: Callable[[str], None] = print,
    rerun: bool | None = None,
) -> "pl.DataFrame | pd.DataFrame":
    """Ask for every problem, then write submission.parquet: the ids, then what was replied.

    The order is shuffled, by `seed` if given, unless `keep_order`. `report` gets a line for
    each answer. In a rerun (None: as the environment says) result.json tells how the run
    ended. Files of an earlier run are removed first. Raises ProblemFileError and GatewayError;
    an exception of any other kind is a GatewayError too, GATEWAY_RAISED_EXCEPTION.
    """
    output_dir = Path(output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise ParameterError(f"{output_dir} cannot be the folder of the output: {fault}") from None
    rerun = paths.is_rerun() if rerun is None else rerun
    for stale in (output_dir / CURRENT.submission_file, output_dir / RESULT_FILE):
        stale.unlink(missing_ok=True)
    error = None
    try:
        table = read_as_sent(problems)
        rows = [table.slice(index, 1) for index in range(len(table))]
        if not keep_order:
            random.Random(seed).shuffle(rows)
        submission = _ask_all(rows, client, report)
        pandas = not hasattr(submission, "write_parquet")
        write = partial(submission.to_parquet, index=False) if pandas else submission.write_parquet
        _write(output_dir / CURRENT.submission_file, write)
        return submission
    except (GatewayError, UserError) as fault:
        error = fault
    except Exception as fault:
        details = "".join(traceback.format_exception(fault))
        error = GatewayError(ErrorKind.GATEWAY_RAISED_EXCEPTION, details)
        error.__cause__ = fault
    finally:
        if rerun:
            write_result(output_dir, error)
    raise error


def check_reply(reply: Any, rows: int) -> None:
    """Raises GatewayError of kind INVALID_SUBMISSION unless a reply to `rows` problems is a
    frame, a Series or a scalar with as many rows."""
    import numpy as np
    import pandas as pd
    import polars as pl

    if reply is None:
        raise _invalid("no prediction was received")
    if isinstance(reply, (pl.DataFrame, pl.Series, pd.DataFrame, pd.Series)):
        found = len(reply)
    elif isinstance(reply, (str, int, float, np.int_)):
        found = 1
    else:
        kind = f"{type(reply).__module__}.{type(reply).__qualname__}"
        raise _invalid(f"the reply is a {kind}, expected a DataFrame, a Series or a scalar")
    if found != rows:
        raise _invalid(f"the reply has {found} rows, expected {rows}")


def submission_of(replies: Sequence[Any], ids: "pl.DataFrame") -> "pl.DataFrame | pd.DataFrame":
    """All replies in one frame, the ids first, whatever ids they had.

    Raises GatewayError: INVALID_SUBMISSION where columns differ between replies,
    GATEWAY_RAISED_EXCEPTION for replies without a name for their column.
    """
    import pandas as pd
    import polars as pl

    if isinstance(replies[0], (pd.DataFrame, pd.Series)):
        frame = pd.DataFrame(pd.concat(list(replies), ignore_index=True))
        for name in ids.columns:
            frame[name] = ids[name].to_list()
    elif isinstance(replies[0], pl.DataFrame):
        if len({reply.width for reply in replies}) > 1:
            raise _invalid("inconsistent prediction column counts")
        # polars widens some types by itself, which ones depends on its version.
        if len({tuple(reply.schema.items()) for reply in replies}) > 1:
            raise _invalid("inconsistent prediction types")
        frame = pl.concat(list(replies), how="vertical_relaxed").with_columns(ids)
    else:  # of polars' Series too: the original cannot stack them
        raise _unnamed()
    return frame[[*ids.columns, *(name for name in frame.columns if name not in ids.columns)]]


def _invalid(found: str) -> GatewayError:
    return GatewayError(ErrorKind.INVALID_SUBMISSION, found)


def _unnamed() -> GatewayError:
    return GatewayError(
        ErrorKind.GATEWAY_RAISED_EXCEPTION,
        "scalars and Series make no submission here: reply with a DataFrame that has "
        f"{CURRENT.id_column} and {CURRENT.answer_column}",
    )


def write_result(output_dir: Path, error: GatewayError | UserError | None) -> None:
    """result.json, as the competition's gateway leaves it after a rerun."""
    result: dict[str, Any] = {"Succeeded": error is None}
    if error is not None:
        if isinstance(error, GatewayError):
            kind, details = error.kind, error.details
        else:
            kind, details = ErrorKind.GATEWAY_RAISED_EXCEPTION, str(error)
        result |= {
            "ErrorType": int(kind),
            "ErrorName": kind.name,
            "ErrorDetails": details[:MAX_DETAILS],
        }
    text = json.dumps(result, ensure_ascii=False)
    _write(output_dir / RESULT_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def read_as_sent(problems: Path | str) -> "pl.DataFrame":
    """The problems with all their columns; polars decides their types, as in the original.

    A file that other readers of CSV would not read so is put into their form first.

    Raises ProblemFileError for ids that this changes, such as 0e6441, which is the number 0.
    """
    import polars as pl

    from mathllm.data.problems import plain_csv, read_problems

    ids = read_problems(problems, CURRENT.answer_min, CURRENT.answer_max)[CURRENT.id_column]
    table = pl.read_csv(plain_csv(problems))
    for id_, sent in zip(ids, table[CURRENT.id_column].cast(pl.String), strict=True):
        if id_ != sent:
            raise ProblemFileError(
                f"{problems}: the id {id_} is sent as {sent}, since all ids look like numbers: "
                "put a letter before them"
            )
    return table


def _ask_all(
    rows: Sequence["pl.DataFrame"],
    client: Client,
    report: Callable[[str], None],
) -> "pl.DataFrame | pd.DataFrame":
    import polars as pl

    replies = []
    for index, row in enumerate(rows, start=1):
        problem_id = str(row[CURRENT.id_column].item())
        started = time.monotonic()
        reply = client.send(ENDPOINT, *row.get_columns(), last=index == len(rows))
        check_reply(reply, len(row))
        seconds = time.monotonic() - started
        replies.append(reply)
        report(f"{index}/{len(rows)}  {problem_id}  answer {_shown(reply)}  {seconds:.1f} s")
    return submission_of(replies, pl.concat([row.select(CURRENT.id_column) for row in rows]))


def _shown(reply: Any) -> str:
    """The answer in a reply, of its first row, for people."""
    if CURRENT.answer_column in getattr(reply, "columns", ()):
        reply = reply[CURRENT.answer_column]
    if hasattr(reply, "__len__") and not isinstance(reply, str):
        reply = next(iter(reply))
    return str(reply)


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
    add("--package", choices=PACKAGES, default=CURRENT.package_version,
        help="version of the evaluation package to play (default: %(default)s)")  # fmt: skip
    add("--host", metavar="NAME", help="of the server (default: localhost, in a rerun "
        "inference_server, as on Kaggle)")  # fmt: skip
    add("--ports", metavar="P,P,…", help="to look for the server (default: the package's)")
    add("--startup-seconds", type=float, default=CURRENT.startup_seconds, metavar="S",
        help="to wait for a server to listen (default: %(default)g)")  # fmt: skip
    add("--response-seconds", type=float, default=CURRENT.response_seconds, metavar="S",
        help="to wait for each reply but the first (default: %(default)g)")  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    # Some versions of gRPC tell of every broken connection on stderr, beside our own line.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        for name in ("startup_seconds", "response_seconds"):
            if not 0 < getattr(options, name) < math.inf:
                option = name.replace("_", "-")
                raise ParameterError(f"--{option} {getattr(options, name)}: give more than 0")
        client = Client(
            host=options.host,
            ports=None if options.ports is None else _ports(options.ports),
            startup_seconds=options.startup_seconds,
            response_seconds=options.response_seconds,
            package=evaluation_package(options.package),
        )
        try:
            submission = run_gateway(
                options.problems,
                options.output_dir,
                client,
                keep_order=options.keep_order,
                seed=options.seed,
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
