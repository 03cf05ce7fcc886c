"""Files as other tools write them, one a line in tests/cases/data.jsonl.

A case's input is a file (name, and text or rows; `repeat` writes a row many times) and what the
call is given; `expected` is a part of what it gives, or of the error's message.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.paths import TESTS
from mathllm.data.problems import read_problems
from mathllm.data.sources import Filters, drop_report, load_problems, read_statements, scan_problems
from mathllm.errors import UserError
from mathllm.evaluation import load_set

LINES = (TESTS / "cases" / "data.jsonl").read_text(encoding="utf-8").splitlines()
CASES = [json.loads(line) for line in LINES]
COLUMNS = {"problem": "q", "answer": "a"}


def written(folder: Path, given: dict[str, Any]) -> Path:
    """The case's file."""
    path = folder / given["name"]
    rows = [
        {name: value for name, value in row.items() if name != "repeat"}
        for row in given.get("rows", ())
        for _ in range(row.get("repeat", 1))
    ]
    if rows and path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if path.suffix == ".json":
        text = given.get("text") or json.dumps(rows)
    else:
        text = given.get("text") or "".join(json.dumps(row) + "\n" for row in rows)
    content = text.encode(given.get("encoding", "utf-8"))
    packed = pa.compress(content, given["packed"], asbytes=True) if "packed" in given else content
    path.write_bytes(packed)
    return path


def problems(path: Path, given: dict[str, Any]) -> dict[str, Any]:
    filters = Filters(**given.get("filters", {}))
    columns = given.get("columns", COLUMNS)
    table = load_problems(given.get("source", "file"), path=path, columns=columns, filters=filters)
    found = table.to_dict(as_series=False)
    last = {f"last {name}": values[-1] for name, values in found.items()}
    return found | last | {"rows": len(table)}


def dropped(path: Path, given: dict[str, Any]) -> dict[str, Any]:
    rows = scan_problems(
        given.get("source", "file"), path=path, columns=given.get("columns", COLUMNS)
    )
    return drop_report(rows, Filters(**given.get("filters", {})))


def evaluated(path: Path, given: dict[str, Any]) -> dict[str, Any]:
    found = load_set(
        given.get("source", "file"),
        path=path,
        columns=given.get("columns", COLUMNS),
        filters=Filters(**given.get("filters", {})),
    )
    return {"truth": found.rows.sort("id")["truth"].to_list(), "ungraded": found.ungraded}


CALLS = {
    "load_problems": problems,
    "drop_report": dropped,
    "load_set": evaluated,
    "read_problems": lambda path, _: read_problems(path).to_dict(as_series=False),
    "read_statements": lambda path, _: {"statements": read_statements(path)},
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_a_file_is_read_rightly_or_refused_in_a_line(tmp_path, case):
    path, call, expected = written(tmp_path, case["input"]), CALLS[case["call"]], case["expected"]
    if "error" in expected:
        with pytest.raises(UserError) as caught:
            call(path, case["input"])
        message = str(caught.value)
        assert expected["error"] in message
        assert str(path) in message
        assert len(message.splitlines()) <= 2
    else:
        found = call(path, case["input"])
        assert {name: found[name] for name in expected} == expected


def test_cases_have_names_of_their_own():
    assert len({case["id"] for case in CASES}) == len(CASES)
