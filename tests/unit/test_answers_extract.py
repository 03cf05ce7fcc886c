import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from helpers.answer_cases import CASES
from mathllm.answers.boxes import last_box
from mathllm.solving import extract_answer


@pytest.mark.parametrize(("text", "answer", "why"), CASES, ids=[c[2] for c in CASES])
def test_the_last_box_gives(text, answer, why):
    assert extract_answer(text) == answer, why


@pytest.mark.parametrize(
    "text",
    [
        "\\" * 200_000,
        "{" * 200_000,
        r"\boxed{" * 30_000,
        r"\boxed " * 30_000,
        r"\boxed" + " " * 200_000,
        r"\boxed 1" + ",234" * 50_000 + "5",
        r"\boxed{" + "(" * 1990 + "}",
        r"\boxed{" + "2^" * 900 + "2}",
        r"\boxed{" + "9" * 1990 + "}",
        r"\boxed{" + "9999*" * 390 + "9}",
        r"\boxed{" + "9^99999*" * 240 + "9}",
        r"\boxed{" + r"\text{" * 290 + "}" * 290 + "}",
        r"\boxed{" + "7" * 100_000 + "}",
        r"\boxed{" + r"\log" * 490 + "}",
        r"\boxed{" + r"\log_" * 390 + "}",
        r"\boxed{" + r"\sqrt{(" * 250 + "}",
        r"\boxed{" + "2^{" * 600 + "5!}",
        r"\boxed{" + r"\max(" * 390 + "}",
        "The answer is $" + "1," * 50_000,
        "answer:" * 15_000,
        "```output\n" * 10_000,
    ],
    ids=lambda text: text[:12] + "…",
)
def test_hostile_texts_give_no_answer(text):
    assert extract_answer(text) is None


def test_the_range_is_the_callers():
    assert extract_answer(r"\boxed{1000}", 0, 999) is None
    assert extract_answer(r"\boxed{-3}", -5, 5) == -3


WRAPPERS = [
    "{}",
    " {} ",
    "{{{}}}",
    "${}$",
    r"\({}\)",
    r"\text{{{}}}",
    r"\textbf{{{}}}",
    r"\mathrm{{{}}}",
    r"\mathbf{{{}}}",
    r"\boxed{{{}}}",
    r"\left({}\right)",
    r"\color{{blue}}{{{}}}",
    r"{}\text{{ cm}}",
    r"\text{{Answer: }}{}",
    r"\frac{{{}}}{{1}}",
    r"\$ {}",
    "€{}",
]
OUTERMOST = [
    "{}",
    "{}.",
    "x = {}",
    "N = {},",
    r"\text{{Total}} = {}",
    "'{}'",
    '"{}"',
    "**{}**",
    "x = y = {}",
    "f(1, 2) = {}",
    "a_{{1,2}} = {}",
    r"\min\{{a, b\}} = {}",
    r"x \equiv {} \pmod{{100003}}",
    "[{}]",
    r"\{{{}\}}",
]
# Each may follow a value and never becomes one, whatever it says.
REMARKS = [
    r"\text{ at } \theta = 60^\circ",
    r"\text{ when } x = 3, y = 4",
    r", \text{ where } n = 5 \text{ and } m > 2",
    r"\text{ for all } k \ge 7",
    r"\quad (n = 12)",
    r"\ [\text{if } a = b = 14]",
    " for x = 2",
    r"\text{ (since } 6 \cdot 7 = 42)",
    r"\text{ (in total)}",
]
FORMATS = [
    str,
    "0{}".format,
    "{:08d}".format,
    "{}.0".format,
    "{:.6e}".format,
    "{}_{{10}}".format,
    lambda n: f"{n:,}".replace(",", "{,}"),
    lambda n: f"{n:,}".replace(",", r"\,"),
    lambda n: f"{n:,}".replace(",", " "),
]


@given(
    st.integers(0, 99999),
    st.sampled_from(FORMATS),
    st.lists(st.sampled_from(WRAPPERS), max_size=4),
    st.sampled_from(OUTERMOST),
)
def test_an_integer_in_range_is_found_in_any_wrapping(number, write, wrappers, outermost):
    content = write(number)
    for wrapper in [*wrappers, outermost]:
        content = wrapper.format(content)
    assert extract_answer(f"So $\\boxed{{{content}}}$ it is.") == number


@given(
    st.one_of(
        st.integers(0, 99999).map(str), st.sampled_from(["x", "x^2", "2n", r"\frac12", "3:1"])
    ),
    st.sampled_from(["{}", "x = {}", r"\frac{{{}}}{{1}}", r"\text{{Total: }}{}"]),
    st.sampled_from(REMARKS),
)
def test_a_remark_never_changes_the_answer(value, statement, remark):
    content = statement.format(value)
    alone = extract_answer(f"\\boxed{{{content}}}")
    assert extract_answer(f"\\boxed{{{content}{remark}}}") == alone


@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from("+-*"))
def test_an_expression_equals_its_integer(a, b, sign):
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    assert extract_answer(f"\\boxed{{{a}{sign}{b}}}", -(10**9), 10**9) == value


PIECES = [*"012,.+-*/^{}()=$~x ", "\\", "cm", "345"]
PIECES += [r"\boxed{", r"\frac", r"\text{", r"\,", r"\{", r"\}", r"\pmod", "−", "\x1f", "\x00"]


@given(st.text())
def test_no_text_raises(text):
    words = ("boxed", "fbox", "answer", "```")
    assert extract_answer(text) is None or any(word in text.lower() for word in words)


@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
@example(r"{}^2\frac")
def test_no_box_raises_and_every_answer_is_in_range(content):
    answer = extract_answer("\\boxed{" + content + "}")
    assert answer is None or 0 <= answer <= 99999


@given(st.text(alphabet="ab{} "))
def test_a_box_holds_balanced_braces(text):
    content = last_box("\\boxed{" + text) or ""
    assert content.count("{") == content.count("}")
