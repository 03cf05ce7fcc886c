"""Sets found, engines opened, answers judged: every problem answered once, in its place."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from helpers.paths import ROOT, shared_file
from helpers.played import MODEL, played
from helpers.scripted import Printing, Scripted, header, make_problems, make_tokenizer
from mathllm.answers.boxes import last_box
from mathllm.data.chat import load_tokenizer
from mathllm.data.decontaminate import Reserved
from mathllm.data.selection import select_rows
from mathllm.data.sources import Filters
from mathllm.engines.base import SamplingConfig
from mathllm.errors import DataError, ParameterError, ResultsError, WeightsError
from mathllm.evaluation import evaluate, load_set, tables, votes
from mathllm.evaluation.engines import EngineSpec, open_engines, weights_digest
from mathllm.evaluation.results import TOO_LONG, ResultFile
from mathllm.evaluation.run import draw, judge
from mathllm.solving import Solver, SolverSettings
from mathllm.solving.dialects import ChatML
from mathllm.solving.voting import WEIGHTS

TINY = ROOT / "assets" / "tiny"


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


GREEDY = SolverSettings(n_samples=1, temperature=0.0)


def answered(tokenizer, engine, problems, tmp_path, settings=GREEDY, **options):
    made = EngineSpec("scripted", "none", lambda: engine)
    return evaluate([made], tokenizer, problems, settings, tmp_path, **options)["scripted"]


# running


def test_each_problem_is_answered_once_and_in_its_place(tokenizer, tmp_path):
    problems = make_problems(3)
    script = {"$0+0$": r"$\boxed{0}$", "$1+1$": r"$\boxed{8}$", "$2+2$": "no idea"}
    engine = Scripted(tokenizer, script)
    rows = answered(tokenizer, engine, problems, tmp_path, batch_rows=2)
    assert engine.asked == 3
    assert rows["answer"].to_list() == ["0", "8", None]
    assert rows["right"].to_list() == [True, False, False]
    assert rows["text"].to_list() == [r"$\boxed{0}$", r"$\boxed{8}$", "no idea"]
    assert rows["id"].to_list() == problems.rows["id"].to_list()


def test_a_sample_depends_neither_on_the_batch_nor_on_other_problems(tokenizer, tmp_path):
    settings = SolverSettings(n_samples=4, temperature=1.0, seed=3)
    large, small = make_problems(12), make_problems(5)
    folders = [tmp_path / name for name in "ab"]
    whole = answered(tokenizer, Scripted(tokenizer), large, folders[0], settings, batch_rows=64)
    part = answered(tokenizer, Scripted(tokenizer), small, folders[1], settings, batch_rows=1)
    kept = whole.filter(pl.col("id").is_in(small.rows["id"].implode()))
    assert_frame_equal(kept.drop("seconds"), part.drop("seconds"))


def test_what_is_told_is_what_is_kept(tokenizer, tmp_path):
    told = []
    rows = answered(tokenizer, Scripted(tokenizer), make_problems(), tmp_path, told=told.append)
    assert sorted(row["id"] for row in told) == sorted(rows["id"])
    assert {row["id"]: row["text"] for row in told} == dict(rows.select("id", "text").iter_rows())


def test_a_problem_that_is_too_long_is_cut_as_the_solver_cuts_it_and_marked(tokenizer, tmp_path):
    problems = make_problems(4)
    long = problems.rows.with_columns(
        problem=pl.when(pl.col("id") == "p2")
        .then(pl.lit("$2+2$ " + "so " * 300))
        .otherwise("problem")
    )
    engine = Scripted(tokenizer)
    engine.max_positions = 200
    solver = Solver(engine, ChatML(tokenizer), GREEDY)
    file = ResultFile(tmp_path / "a.parquet", header(problems), long["id"])
    with file:
        draw(solver, long, file)
    found = file.rows.filter(pl.col("id") == "p2").row(0, named=True)
    assert found["finish_reason"] == TOO_LONG
    assert solver.solve("p2", found["problem"]).attempts[0].text == found["text"]
    assert found["prompt"] == tokenizer.decode(solver.asked("p2", found["problem"]).begin().prompt)
    assert file.rows["finish_reason"].to_list().count("stop") == 3


def test_what_only_a_tool_knows_is_right_with_tools_alone(tokenizer, tmp_path):
    problems = make_problems(3)
    script = {"```output\n2\n```": r"So $\boxed{2}$.", "$": "```python\nprint(1+1)\n```\n```output"}
    settings = replace(GREEDY, n_samples=3, temperature=1.0)
    tools = Printing("2")
    found = {
        name: answered(
            tokenizer, Scripted(tokenizer, script), problems, tmp_path / name, settings, tools=own
        )
        for name, own in {"with": tools, "without": None}.items()
    }
    rows = found["with"]
    assert rows["answer"].to_list() == ["2"] * 9
    assert rows.filter("right")["id"].unique().to_list() == ["p1"]
    assert (rows["calls"].to_list(), len(tools.ran)) == ([1] * 9, 9)
    assert all("integrate natural language reasoning with programs" in p for p in rows["prompt"])
    assert all("```output\n2\n```" in text for text in rows["text"])
    assert found["without"]["answer"].is_null().all()
    with pytest.raises(ResultsError, match="max_calls 4, not None"):
        answered(tokenizer, None, problems, tmp_path / "with", settings)


@pytest.mark.parametrize("voting", WEIGHTS)
@pytest.mark.parametrize(
    ("parallel", "agreement", "sessions"), [(0, 0, 0), (2, 0, 0), (1, 2, 0), (0, 0, 2)]
)
def test_the_vote_is_what_the_solver_submits(
    tokenizer, tmp_path, voting, parallel, agreement, sessions
):
    problems = make_problems(8)
    settings = SolverSettings(
        n_samples=5, temperature=1.0, seed=2, voting=voting, parallel=parallel, agreement=agreement
    )
    tools = Printing("", sessions) if sessions else None
    rows = answered(tokenizer, Scripted(tokenizer), problems, tmp_path, settings, tools=tools)
    assert len(rows) == 40
    won = votes.voted(rows, settings, sessions)
    dialect = ChatML(tokenizer, tools is not None)
    solver = Solver(Scripted(tokenizer), dialect, settings, tools)
    solved = [solver.solve(*row) for row in problems.rows.select("id", "problem").rows()]
    assert won["answer"].to_list() == [str(solution.answer) for solution in solved]
    table = tables.method_table({"scripted": rows}, settings, sessions)
    assert table["voting"].to_list() == [*WEIGHTS, voting]
    assert table["percent"].to_list()[-1] == pytest.approx(100 * won["right"].mean(), abs=0.1)


def test_a_vote_by_what_the_rows_were_written_without_is_refused(tokenizer, tmp_path):
    settings = SolverSettings(n_samples=3, temperature=1.0, voting="combined")
    rows = answered(tokenizer, Scripted(tokenizer), make_problems(2), tmp_path, settings)
    names = ("tail_entropy", "group_entropy")
    old = rows.with_columns(pl.lit(None, pl.Float64).alias(name) for name in names)
    with pytest.raises(ParameterError, match=r"voting is 'combined'.*without what it weighs by"):
        votes.voted(old, settings)
    kept = tables.method_table({"a": old}, replace(settings, voting="entropy"))
    assert kept["voting"].to_list() == ["majority", "entropy", "confidence", "entropy"]


def test_samples_that_would_all_be_the_same_are_refused(tokenizer, tmp_path):
    settings = replace(GREEDY, n_samples=4)
    with pytest.raises(ParameterError, match="n_samples is 4 at temperature 0"):
        answered(tokenizer, Scripted(tokenizer), make_problems(2), tmp_path, settings)


def test_nothing_to_evaluate_is_said(tokenizer, tmp_path):
    with pytest.raises(ParameterError, match="no problems"):
        answered(tokenizer, Scripted(tokenizer), make_problems(0), tmp_path)


# judging


@pytest.mark.parametrize(
    ("text", "truth", "answer", "right"),
    [
        (r"\boxed{18}", "18", "18", True),
        (r"\boxed{18.0}", "18", "18", True),
        (r"\boxed{1{,}234}", "1,234", "1234", True),
        ("The answer is 18.", "18", "18", True),
        (r"\boxed{0}", "0", "0", True),
        ("The answer is 0.", r"\frac{0}{5}", "0", True),
        (r"\boxed{-18}", "18", None, False),  # out of the competition's range: no vote
        (r"\boxed{\frac12}", "18", None, False),
        ("nothing", "18", None, False),
        (r"\boxed{-7}", "-7", "-7", True),
        (r"\boxed{123456}", "123456", "123456", True),
        (r"\boxed{0.5}", r"\frac{1}{2}", "0.5", True),
        (r"\boxed{\frac{2}{3}}", r"\frac{1}{2}", r"\frac{2}{3}", False),
        (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}", r"\text{Evelyn}", True),
        (r"\boxed{\left(3,\frac{\pi}{2}\right)}", r"(3, \frac \pi2)", None, True),
        ("nothing", r"\sqrt{2}", None, False),
    ],
)
def test_integers_are_judged_by_value_and_the_rest_by_meaning(text, truth, answer, right):
    found = judge(text, truth)
    assert found["right"] == right
    assert found["answer"] == (last_box(text) if right and answer is None else answer)


# sets


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


GSM8K = [{"question": f"{i} and 1?", "answer": f"So.\n#### 1,00{i}"} for i in range(5)]
MATH = [
    {"problem": f"P{i}", "solution": rf"\boxed{{\frac{i}7}}", "level": f"Level {1 + i % 2}"}
    | {"type": "Algebra"}
    for i in range(6)
]


def test_a_set_of_each_name_has_ids_and_truths(tmp_path):
    gsm8k = load_set("gsm8k", path=write(tmp_path / "gsm8k" / "test.jsonl", GSM8K))
    assert gsm8k.rows["truth"].to_list() == [f"100{i}" for i in range(5)]
    assert gsm8k.rows["id"][0] == "gsm8k-test-0"
    math = load_set("math", path=write(tmp_path / "m.jsonl", MATH), filters=Filters(levels=["2"]))
    assert math.rows["truth"].to_list() == [rf"\frac{i}7" for i in (1, 3, 5)]
    assert set(math.rows["level"]) == {"2"}
    made = load_set("arithmetic", num_samples=20, seed=3, filters=Filters(subjects=["gcd"]))
    assert set(made.rows["subject"]) == {"gcd"}
    assert set(map(str.isdigit, made.rows["truth"])) == {True}
    again = load_set("arithmetic", num_samples=20, seed=3, filters=Filters(subjects=["gcd"]))
    assert made.digest == again.digest


def test_math500_is_the_same_wherever_it_lies(tmp_path):
    inputs = tmp_path / "input"
    direct = write(tmp_path / "math500.jsonl", MATH)
    write(inputs / "datasets" / "someone" / "math-500" / "test.jsonl", MATH)
    beside = tmp_path / "other" / "hendrycks-math"
    write(beside / "math500.jsonl", MATH)
    write(beside / "test.jsonl", GSM8K)
    found = [
        load_set("math500", path=direct),
        load_set("math500", path=beside),
        load_set("math500", roots=[inputs]),
        load_set("math500", roots=[tmp_path / "other"]),
    ]
    assert len({problems.digest for problems in found}) == 1
    assert found[0].rows["id"][3] == "math500-3"


def test_aimo_is_the_reference_file_in_either_layout(tmp_path):
    text = 'id,problem,answer\n0e644e,"Find $x$, now.",336\n000123,Two.,7\n'
    for folder in ("a/some-competition", "b/competitions/some-competition"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "reference.csv").write_text(text)
    for where in (
        {"roots": [tmp_path / "a"]},
        {"roots": [tmp_path / "b"]},
        {"path": tmp_path / "a" / "some-competition"},
        {"path": tmp_path / "a" / "some-competition" / "reference.csv"},
    ):
        rows = load_set("aimo", **where).rows
        assert rows.select("id", "truth").rows() == [("0e644e", "336"), ("000123", "7")]
    with pytest.raises(DataError, match="attach the competition"):
        load_set("aimo", roots=[tmp_path / "c"])


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_any_file_with_columns_is_a_set(tmp_path, suffix):
    path = tmp_path / f"mine.{suffix}"
    table = pl.DataFrame({"frage": ["a", "b", "c"], "wert": ["1", None, r"\pi"]})
    writers = {"csv": table.write_csv, "jsonl": table.write_ndjson, "parquet": table.write_parquet}
    writers[suffix](path)
    found = load_set("file", path=path, columns={"problem": "frage", "answer": "wert"})
    assert found.rows["truth"].to_list() == ["1", r"\pi"]
    assert found.ungraded == 1


def test_rows_are_drawn_after_the_offset(tmp_path):
    rows = [{"question": f"{i}?", "answer": f"#### {i}"} for i in range(40)]
    path = write(tmp_path / "test.jsonl", rows)
    found = load_set("gsm8k", path=path, num_samples=10, offset=20, seed=1)
    numbers = [int(i.rpartition("-")[2]) for i in found.rows["id"]]
    assert len(numbers) == 10
    assert numbers == sorted(numbers)
    assert min(numbers) >= 20
    assert load_set("gsm8k", path=path, num_samples=10, offset=20, seed=2).digest != found.digest


def test_held_out_rows_are_those_that_training_kept_apart(tmp_path):
    rows = [{"question": f"{i} eggs?", "answer": f"#### {i}"} for i in range(50)]
    path = write(tmp_path / "train.jsonl", rows)
    kept = select_rows("gsm8k", Reserved(frozenset()), 0, 12, seed=5, path=path).held_out
    found = load_set("gsm8k", "held_out", path=path, num_samples=12, seed=5)
    assert found.rows["problem"].to_list() == kept["problem"].to_list()
    for dataset, count in (("gsm8k", 0), ("arithmetic", 5)):
        with pytest.raises(ParameterError, match="split is held_out"):
            load_set(dataset, "held_out", path=path, num_samples=count)


def test_what_cannot_be_a_set_is_said(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("id,problem,answer\n1,a,\n1,b,\n")
    plain, graded = {"problem": "problem"}, {"problem": "problem", "answer": "answer"}
    for columns, named in (
        (plain, "no row has an answer to grade by.*add 'answer: NAME'"),
        (graded, "no row has an answer to grade by; file takes it from 'answer'"),
        (plain | {"solution": "id"}, "the last box in 'id'"),
    ):
        with pytest.raises(DataError, match=named) as fault:
            load_set("file", path=path, columns=columns)
        assert str(path) in str(fault.value)
    path.write_text("id,problem,answer\n1,a,3\n1,b,4\n")
    with pytest.raises(DataError, match="id '1' comes twice"):
        load_set("file", path=path, columns=graded | {"id": "id"})
    path.write_text("id,problem\n1,a\n")
    with pytest.raises(DataError, match=r"mine.csv: no row has an answer.*columns id, problem"):
        load_set("aimo", path=path)
    boxless = write(tmp_path / "m.jsonl", [{"problem": "a", "solution": "b", "level": "1"}])
    with pytest.raises(DataError, match="the last box in 'solution'"):
        load_set("math", path=boxless)
    with pytest.raises(DataError, match="did you mean 'math500'"):
        load_set("math50")
    with pytest.raises(DataError, match="no row is left"):
        load_set("gsm8k", path=write(tmp_path / "g.jsonl", GSM8K), offset=9)
    with pytest.raises(ParameterError, match="at least 0"):
        load_set("gsm8k", num_samples=-1)
    with pytest.raises(ParameterError, match="split is 'dev'"):
        load_set("arithmetic", "dev", num_samples=3)
    with pytest.raises(ParameterError, match="families: 'ad' is unknown"):
        load_set("arithmetic", num_samples=3, filters=Filters(subjects=["ad"]))


@pytest.mark.data
def test_the_real_sets_have_a_truth_for_every_row():
    for name, file, count in (
        ("gsm8k", ("gsm8k", "test.jsonl"), 1319),
        ("math", ("math", "test.jsonl"), 5000),
        ("math500", ("math", "math500.jsonl"), 500),
        ("aimo", ("aimo3", "reference.csv"), 10),
    ):
        found = load_set(name, path=shared_file(*file))
        assert (len(found.rows), found.ungraded) == (count, 0)


# engines


def test_what_is_no_address_is_said_at_once(monkeypatch):
    monkeypatch.setattr("mathllm.evaluation.engines.wait_until_ready", lambda *_: 1 / 0)
    with pytest.raises(ParameterError, match="endpoint is 'foo', no address of a server"):
        open_engines(["endpoint"], TINY, None, endpoint="foo", endpoint_model="q")


def test_the_plain_backbone_needs_no_trm(tmp_path):
    (tmp_path / "backbone").symlink_to(TINY / "backbone")
    tokenizer = load_tokenizer(TINY / "backbone")
    (spec,) = open_engines(["backbone"], tmp_path, tokenizer)
    prompt = tokenizer("What is $2+3$?")["input_ids"]
    (full,) = open_engines(["backbone"], TINY, tokenizer)
    config = SamplingConfig(max_new_tokens=5, temperature=0)
    ours, theirs = (one.open().generate([prompt], config)[0][0].tokens for one in (spec, full))
    assert ours == theirs
    with pytest.raises(WeightsError, match=r"trm has no TRM: config\.json is missing"):
        open_engines(["backbone", "TRM"], tmp_path, tokenizer)


def test_engines_have_the_digest_of_what_answers(tmp_path):
    tokenizer = load_tokenizer(TINY / "backbone")
    backbone, one, three = open_engines(["backbone", "TRM"], TINY, tokenizer, "cpu", [1, 3])
    assert [e.file for e in (backbone, one, three)] == [
        "backbone.parquet",
        "trm-1.parquet",
        "trm-3.parquet",
    ]
    assert (backbone.steps, one.steps, three.steps) == (None, 1, 3)
    assert one.weights == three.weights != backbone.weights

    assert three.open().supervision_steps == 3
    (own,) = open_engines(["TRM"], TINY, tokenizer)
    assert (own.file, own.steps) == ("trm.parquet", own.open().supervision_steps)
    (tmp_path / "trm").mkdir()
    (tmp_path / "trm" / "a").write_text("1")
    before = weights_digest(tmp_path, ["trm"])
    (tmp_path / "trm" / "a").write_text("2")
    assert weights_digest(tmp_path, ["trm"]) != before


@pytest.mark.parametrize(
    ("names", "steps", "options", "named"),
    [
        ([], (), {}, "engines is empty"),
        (["trm"], (), {}, "engines has 'trm'"),
        (["TRM", "TRM"], (), {}, "twice"),
        (["TRM"], (2, 2), {}, "twice"),
        (["TRM"], (0,), {}, "supervision_steps has 0"),
        (["endpoint"], (), {"endpoint": "http://x"}, "endpoint_model ''"),
    ],
)
def test_engines_that_cannot_be_are_refused(names, steps, options, named):
    with pytest.raises(ParameterError, match=named):
        open_engines(names, TINY, None, "cpu", steps, **options)


def test_an_endpoint_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr("mathllm.evaluation.engines.ENDPOINT_SECONDS", 0.1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ParameterError, match=r"did not answer.*start the server"):
        open_engines(["endpoint"], TINY, None, endpoint=url, endpoint_model="tiny")


@pytest.mark.process
@pytest.mark.slow
def test_an_endpoint_says_what_its_decoder_says(tmp_path):
    """The embedded default behind a real server on loopback, greedy."""
    tokenizer = load_tokenizer(TINY / "backbone")
    with played() as url:
        engines = open_engines(
            ["TRM", "endpoint"], TINY, tokenizer, endpoint=url, endpoint_model=MODEL
        )
        problems = load_set("arithmetic", num_samples=4, seed=1)
        found = evaluate(engines, tokenizer, problems, replace(GREEDY, max_new_tokens=40), tmp_path)
    same = ["id", "text", "answer", "right", "tokens", "finish_reason"]
    assert_frame_equal(found["TRM"].select(same), found["endpoint"].select(same))
    assert (tmp_path / "endpoint.parquet").is_file()
    assert found["endpoint"]["supervision_steps"].is_null().all()
