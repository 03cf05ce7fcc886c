"""Tables, curves, pictures and pages: what they count, what they say, and that model text
cannot reach a reader's browser as anything but text and formulas."""

import re
import sys
from html.parser import HTMLParser
from xml.etree.ElementTree import Element, SubElement

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.paths import shared_file
from helpers.scripted import SETTINGS, Scripted, header, make_problems, make_tokenizer
from mathllm.data.sources import load_problems
from mathllm.errors import ParameterError, ResultsError
from mathllm.evaluation import rendering, tables
from mathllm.evaluation.figures import (
    depth_reading,
    plot_depth,
    plot_times,
    plot_voting,
    time_reading,
    voting_reading,
)
from mathllm.evaluation.groups import read_depths
from mathllm.evaluation.rendering import answers_html, formula_html, row_text, text_html
from mathllm.evaluation.results import RESULTS, SCHEMA, ResultFile
from mathllm.evaluation.run import draw
from mathllm.evaluation.statistics import wilson
from mathllm.evaluation.tables import depth_curve, problem_times
from mathllm.evaluation.votes import Samples, voting_curve
from mathllm.solving import Solver
from mathllm.solving.dialects import ChatML


def made(right: dict[str, list[bool]], tokens: int = 10, **columns) -> pl.DataFrame:
    """Rows of results from which samples of each problem are right."""
    rows = [
        {"id": ident, "problem": f"Problem {ident}", "truth": "1", "sample": number}
        | {"answer": "1" if is_right else "2", "right": is_right, "finish_reason": "stop"}
        | {"engine": "e", "seed": 0, "prompt": "p", "text": "t", "tokens": tokens, "seconds": 2.0}
        | {name: values[ident] for name, values in columns.items()}
        for ident, samples in right.items()
        for number, is_right in enumerate(samples)
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


# tables


def test_the_table_counts_by_group_and_in_all():
    def results(right: list[bool]) -> pl.DataFrame:
        return pl.DataFrame({"subject": ["gcd", "add", "add"], "right": right})

    table = tables.accuracy_table(
        {"backbone": results([True, False, False]), "TRM": results([True, True, False])}, "subject"
    )
    assert table.rows() == [("add", 2, 0, 1), ("gcd", 1, 1, 1), ("all", 3, 1, 2)]
    assert table.columns == ["subject", "problems", "backbone", "TRM"]
    with pytest.raises(ParameterError, match="no results"):
        tables.accuracy_table({}, "subject")


def test_depths_that_are_as_good_are_named():
    rows = {"right": 0.5, "low": 0.4, "high": 0.6, "wins": 1, "losses": 1, "p": 1.0}
    curve = pl.DataFrame([{"steps": n, "seconds_per_token": 0.1 * n} | rows for n in (1, 2, 4)])
    assert depth_reading(curve).startswith("50% are right (40–60) at 1 supervision step, as at 2")


def test_groups_have_wilsons_interval_for_one_sample_a_problem():
    rows = made({"a": [True], "b": [False], "c": [True]}, level={"a": "1", "b": "1", "c": "2"})
    first, second = tables.group_table({"TRM": rows}, "level").to_dicts()
    bound = wilson(1, 2)
    assert first == {
        **{"level": "1", "engine": "TRM", "problems": 2, "samples": 2, "right": 1},
        **{"percent": 50.0, "low": round(100 * bound.low, 1), "high": round(100 * bound.high, 1)},
    }
    assert (second["level"], second["percent"], second["high"]) == ("2", 100.0, 100.0)


def test_the_summary_has_samples_and_votes():
    rows = made({"a": [True, True, False], "b": [False, False, True]})
    rows = rows.with_columns(supervision_steps=pl.lit(3.0))
    (found,) = tables.summary_table({"TRM": rows}).to_dicts()
    assert (found["problems"], found["samples"], found["percent"], found["vote"]) == (2, 6, 50, 50)
    assert (found["tokens"], found["seconds"], found["tokens_per_second"]) == (10, 6, 5)
    assert (found["no_answer"], found["cut_off"], found["steps"]) == (0, 0, 3)


def test_bins_hold_every_row_in_order():
    parts = [made({str(i): [True]}, tokens=t) for i, t in enumerate([5, 5, 9, 20, 21, 70, 70, 90])]
    rows = tables.with_bins({"TRM": pl.concat(parts)})["TRM"]
    for name, group in rows.group_by("tokens_bin"):
        low, high = map(int, re.findall(r"(\d+)–(\d+)", name[0])[0])
        assert low <= group["tokens"].min() <= group["tokens"].max() <= high
    assert rows["tokens_bin"].n_unique() == 4
    same = tables.with_bins({"TRM": made({"a": [True], "b": [True]})})["TRM"]
    assert set(same["tokens_bin"]) == {"1: 10–10"}


def test_two_engines_are_compared_on_the_same_problems():
    first = made({"a": [True], "b": [False], "c": [False], "d": [True]})
    second = made({"d": [True], "c": [True], "b": [True], "a": [False]})
    table = tables.paired_table({"backbone": first, "TRM": second})
    (row,) = table.to_dicts()
    assert (row["engine"], row["against"], row["wins"], row["losses"]) == ("TRM", "backbone", 2, 1)
    assert (row["both"], row["neither"], row["p"], row["points"]) == (1, 0, 1.0, 25.0)
    _, differing = tables.compare(first, second)
    assert differing.select("id", "first", "second", "right").rows() == [
        ("a", "1", "2", "first"),
        ("b", "2", "1", "second"),
        ("c", "2", "1", "second"),
    ]
    with pytest.raises(ParameterError, match="3 of 4 and 3 problems"):
        tables.compare(first, second.filter(pl.col("id") != "a"))


def test_correlation_of_samples_that_always_agree():
    rows = made({"a": [True] * 4, "b": [False] * 4, "c": [True] * 4})
    (row,) = tables.correlation_table({"TRM": rows}).to_dicts()
    assert (row["engine"], row["samples"]) == ("TRM", 4)
    assert [row[name] for name in ("correlation", "phi", "votes")] == pytest.approx([1, 1, 1])


# curves and pictures


def test_a_measure_that_tells_right_from_wrong_is_told_from_one_that_does_not():
    right = {str(n): [True, False, n % 2 == 0] for n in range(40)}
    rows = made(right).with_columns(
        logprob=pl.lit(-1.0),
        entropy=pl.when("right").then(0.1).otherwise(0.9),
        confidence=pl.when("right").then(0.2).otherwise(0.7),
    )
    found = tables.auroc_table({"e": rows}).rows_by_key("measure", named=True, unique=True)
    assert {name: row["auroc"] for name, row in found.items()} == {
        "logprob": 0.5,
        "entropy": 1.0,
        "confidence": 0.0,
    }
    assert found["logprob"]["better"] is None
    assert found["entropy"]["better"] == 0.5
    assert found["entropy"]["problems"] == 40


def test_where_all_samples_of_a_problem_are_alike_no_measure_tells_them_apart():
    rows = made({"1": [True, True], "2": [False, False]}).with_columns(logprob=pl.lit(-1.0))
    assert tables.auroc_table({"e": rows}).is_empty()


@pytest.fixture(scope="module")
def depths():
    """Three depths over eight problems; deeper ones are right more often and slower."""
    found = {}
    for steps in (1, 2, 4):
        rows = made({str(i): [i < 2 * steps] for i in range(8)})
        found[steps] = rows.with_columns(seconds=pl.lit(1.0 * steps))
    return found


def test_the_depth_curve_counts_and_its_sentence_says_it(depths):
    curve = depth_curve(depths)
    assert curve.select("steps", "right", "wins", "losses").rows() == [
        (1, 0.25, 0, 6),
        (2, 0.5, 0, 4),
        (4, 1.0, 0, 0),
    ]
    assert curve["seconds_per_token"].to_list() == pytest.approx([0.1, 0.2, 0.4])
    assert curve["tokens_per_second"].to_list() == pytest.approx([10, 5, 2.5])
    figure, reading = plot_depth(curve, trained=2)
    assert (
        reading
        == depth_reading(curve)
        == (
            "100% are right (68–100) at 4 supervision steps, the most of all depths; a token takes "
            "4.0 times as long at 4 supervision steps as at 1 supervision step, and 4 supervision "
            "steps win 6 problems and lose 0 against 1 supervision step, which is more than luck "
            "explains (p = 0.031)."
        )
    )
    above, below = figure.axes
    assert above.get_ylabel() == "samples right (%)"
    assert below.get_xlabel() == "supervision steps at test time"
    assert below.get_ylabel() == "time (ms per token)"
    assert above.lines[0].get_ydata().tolist() == [25, 50, 100]
    assert len(above.collections) == 2  # the band and the bars of the interval
    assert depth_reading(depth_curve({2: depths[2]})) == (
        "50% are right (22–78) at 2 supervision steps."
    )


def test_depths_are_read_from_files_that_differ_in_nothing_else(depths, tmp_path):
    problems, paths = make_problems(), []
    for steps, rows in depths.items():
        paths.append(tmp_path / f"{steps}.parquet")
        RESULTS.write(paths[-1], header(problems, supervision_steps=steps, seed=0), rows)
    assert list(read_depths(paths[::-1])) == [1, 2, 4]
    RESULTS.write(paths[0], header(problems, supervision_steps=1, seed=1), depths[1])
    with pytest.raises(ResultsError, match="seed"):
        read_depths(paths)
    RESULTS.write(paths[0], header(problems), depths[1])
    with pytest.raises(ResultsError, match="supervision_steps None"):
        read_depths(paths)
    RESULTS.write(paths[0], header(problems, supervision_steps=2, seed=0), depths[1])
    with pytest.raises(ResultsError, match="supervision_steps 2: give one file"):
        read_depths(paths)


def test_the_voting_curve_and_its_sentence():
    rows = made({"a": [True, True, False, True], "b": [False, False, True, False]})
    curve = voting_curve(Samples.of(rows))
    figure, reading = plot_voting(curve)
    assert reading == voting_reading(curve)
    last = curve.row(-1, named=True)
    assert reading.startswith(
        f"At 4 votes 50% are right ({100 * last['majority_low']:.0f}–"
        f"{100 * last['majority_high']:.0f}), 50 points below pass@4: as many as with one sample"
    )
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "k (samples of a problem)",
        "problems right (%)",
    )
    assert len(axes.collections) == 4  # two bands, two rows of bars
    wrong = voting_curve(Samples.of(made({"a": [False, False]})))
    assert "no sample solves any of the 1 problems" in voting_reading(wrong)


def test_times_are_summed_by_problem():
    rows = made({"a": [True, True], "b": [False, True]})
    times = problem_times({"TRM": rows, "backbone": rows.head(2)})
    assert times.rows() == [
        ("TRM", "a", 1, 4.0, 20),
        ("TRM", "b", 2, 4.0, 20),
        ("backbone", "a", 1, 4.0, 20),
    ]
    figure, reading = plot_times(times)
    assert reading == time_reading(times)
    assert "TRM takes 4 s and 20 tokens for the median problem" in reading
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "time (s per problem)",
        "tokens per problem",
    ]


# pages

HOSTILE = [
    "<script>alert(1)</script>",
    r"$\text{<script>alert(1)</script>}$",
    r"$\text{</math><img src=x onerror=alert(1)>}$",
    r"$\href{javascript:alert(1)}{x}$",
    r"$\href{https://example.com}{x}$",
    r"$\style{background:url(//x)}{y}$",
    r"$\class{a}{y}$",
    r'$\color{red" onclick="alert(1)}{x}$',
    r"$\unicode{x3c}script\unicode{x3e}$",
    r"$&lt;script&gt;$",
    r"$\mathrm{&#60;script&#62;}$",
    r"$x<script>y$",
    r"\[<img src=x onerror=alert(1)>\]",
    r"\begin{align}<svg onload=alert(1)>\end{align}",
    r"$\newcommand{\a}{<script>}\a$",
    r"$\operatorname{<script>}$",
    r"$\begin{array}{<script>}x\end{array}$",
    "</pre></details><script>",
    # What means another thing once it is read a second time.
    r"$\text{&amp;lt;script&amp;gt;alert(1)&amp;lt;/script&amp;gt;}$",
    r"$\text{</mtext></math><script>alert(1)</script>}$",
    r"$\text{<mglyph><style><!--</style><img title='--><img src=x onerror=alert(1)>'>}$",
    r"$\text{<annotation-xml encoding='text/html'><svg onload=alert(1)></annotation-xml>}$",
    r"$\text{<a xlink:href='javascript:alert(1)'>x</a>}$",
    r"$\text{<!--}$ and $\text{--><img src=x onerror=alert(1)>}$",
    r"$\style{font-weight:bold;background:url(//x)}{y}$",
    r"$\fcolorbox{red;background:url(//x)}{blue}{y}$",
    "$\\text{\x00<script\x00>}$",
    "{{ 7 * 7 }} {% raw %} {{ cycler.__init__.__globals__ }}",
]
MATHML = {"math", "mrow", "mfrac", "mi", "mn", "mo", "mtext", "mspace", "msup", "msub", "msubsup"}
MATHML |= {"munder", "mover", "munderover", "msqrt", "mroot", "mtable", "mtr", "mtd", "mstyle"}
MATHML |= {"menclose", "mpadded", "mphantom"}
STYLES = {"text-align:left", "text-align:right", "font-weight:bold", "font-family:sans-serif"}
STYLES |= {"border:1px solid", "padding:0.15em 0.25em"}
OURS = {"div", "details", "summary", "h4", "pre", "code", "p"}


class Page(HTMLParser):
    """Every element and attribute that a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))


def check(page: str) -> None:
    for tag, attributes in Page(page).elements:
        assert tag in MATHML | OURS, page
        for name, value in attributes.items():
            if name == "style":
                assert value == "white-space:pre-wrap" or set(value.split(";")) <= STYLES
            else:
                assert name in rendering._ATTRIBUTES, page
                assert not re.search(r"[:<>\"'()/]", value), page


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_model_becomes_markup(text):
    pytest.importorskip("latex2mathml")
    check(text_html(text))
    check(formula_html(text.strip("$")))
    rows = made({"a": [False]}).with_columns(
        pl.lit(text).alias(name)
        for name in ("id", "engine", "problem", "text", "prompt", "truth", "answer")
    )
    check(answers_html(rows.with_columns(finish_reason=pl.lit(text))))


def test_what_the_converter_lets_through_is_cleaned(monkeypatch):
    """Were latex2mathml to hand on an attribute that a browser acts on."""
    pytest.importorskip("latex2mathml")

    def hostile(latex, **_):
        root = Element("math", {"onclick": "alert(1)", "xmlns": "http://www.w3.org/1999/xhtml"})
        acting = {"href": "javascript:alert(1)", "onload": "alert(1)", "class": "note", "id": "a"}
        acting |= {"style": "background:url(//x)", "mathcolor": 'red" onclick="alert(1)'}
        SubElement(root, "mtext", acting | {"width": "2em"}).text = "&lt;script>" + latex
        return root

    monkeypatch.setattr("latex2mathml.converter.convert_to_element", hostile)
    rendering._tools.cache_clear()
    try:
        page = formula_html("</mtext><img src=x onerror=alert(1)>")
    finally:
        monkeypatch.undo()
        rendering._tools.cache_clear()
    assert Page(page).elements == [("math", {}), ("mtext", {"width": "2em"})]
    assert "&lt;script&gt;&lt;/mtext&gt;&lt;img" in page


PIECES = (
    *("$", "$$", r"\[", r"\]", r"\(", r"\)", "<b>", "&", '"', "}", "{", "^", "_", "x", "1", " "),
    *(r"\text{", r"\frac", r"\href{j:a}", r"\left(", r"\right)", "\n", r"\\", "onload=", "&lt;"),
    *(r"\begin{array}", r"\end{array}", "<script>", r"\color{", r"\style{", r"\sqrt", r"\unicode{"),
)


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_no_mixture_becomes_markup(text):
    check(text_html(text))


def test_formulas_are_drawn_and_prose_and_prices_are_not():
    pytest.importorskip("latex2mathml")
    drawn = text_html(r"Then $\frac{1}{2}$ and \[x^2\] so \(y\): $\boxed{42}$.")
    assert drawn.count("<math") == 4
    assert drawn.count('display="block"') == 1
    assert "<mfrac>" in drawn
    assert "border:1px solid" in drawn  # browsers no longer know menclose
    for prose in (
        "She pays $2 and then $3 more.",
        "It cost $5, or $6.",
        "a $800 ring for the jeweler to make.  She pays more, 500+800=$",
        r"\$5 and \$6",
        "costs 5$",
    ):
        assert "<math" not in text_html(prose), prose
    assert "$5 and $6" in text_html(r"\$5 and \$6")
    assert "a &lt; b\nc" in text_html("a < b\nc")


def test_what_cannot_be_drawn_is_shown_as_its_source(monkeypatch):
    for latex in (r"\frac{1", "{" * 1000, r"\unknowncommand{x}", "x" * 3000, r"\left("):
        assert formula_html(latex) == f"<code>{latex}</code>"
    bomb = r"\newcommand{\a}{xx}" + r"\newcommand{\b}{\a\a}" * 50 + r"\b"
    assert formula_html(bomb).startswith("<code>")
    for module in ("latex2mathml.converter", "nh3"):
        monkeypatch.setitem(sys.modules, module, None)
        rendering._tools.cache_clear()
        try:
            assert formula_html(r"\frac12") == r"<code>\frac12</code>"
            assert "$x$" in text_html("so $x$")
        finally:
            monkeypatch.undo()
            rendering._tools.cache_clear()


def test_wrong_answers_can_be_browsed():
    rows = made({"a": [False], "b": [False], "c": [True]}).with_columns(
        text=pl.lit("a\nb"), answer=pl.lit(None, pl.String)
    )
    page = answers_html(rows, limit=2)
    assert page.count("<summary>prompt</summary>") == 2
    assert "and 1 more" in page
    assert "answer none, truth" in page
    assert answers_html(rows.clear()).strip() == "<p>none</p>"
    assert answers_html(rows, limit=0).strip() == "<p>and 3 more</p>"
    text = row_text(rows.row(0, named=True))
    assert text == (
        "a, e, sample 0: wrong; answer None, truth 1 (10 tokens, stop)\nProblem a\n---\na\nb\n"
    )


@pytest.mark.data
def test_nearly_every_formula_of_math_is_drawn():
    pytest.importorskip("latex2mathml")
    rows = load_problems("math", "test", shared_file("math", "test.jsonl"))
    formulas = source = 0
    for text in [*rows["problem"], *rows["solution"]][::5]:
        for found in rendering._PARTS.finditer(text):
            formulas += not found["dollar"]
            source += not found["dollar"] and "<math" not in rendering._part(found)
    print(f"{source} of {formulas} shown as their source")
    assert formulas > 10_000
    assert source <= 0.003 * formulas


def test_results_of_a_run_go_through_every_table(tmp_path):
    tokenizer, problems = make_tokenizer(), make_problems()
    file = ResultFile(tmp_path / "a.parquet", header(problems), problems.rows["id"])
    with file:
        draw(Solver(Scripted(tokenizer), ChatML(tokenizer), SETTINGS), problems.rows, file)
    results = {"TRM": file.rows, "backbone": file.rows}
    assert len(tables.summary_table(results)) == 2
    assert len(tables.group_table(results, "level")) == 4
    assert tables.paired_table(results)["p"].to_list() == [1.0]
    check(answers_html(file.rows))
