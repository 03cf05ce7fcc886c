import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mathllm.solving import extract_answer
from mathllm.solving.answers import last_box

# text, answer, why
CASES = [
    # which box
    (r"The answer is $\boxed{42}$.", 42, "the plain form"),
    (r"\boxed{1} then \boxed{2}", 2, "the last box counts"),
    (r"\boxed{3} and so \boxed{4", 3, "an unfinished box does not count"),
    (r"\boxed{3} and so \boxed{\frac{1}{2}", 3, "its inner brace does not finish it"),
    (r"\boxed{3} and so \boxed{", 3, "an unfinished empty box does not count"),
    (r"\boxed{\boxed{7}}", 7, "of nested boxes the outer holds the inner"),
    (r"\boxed{\boxed{7}", 7, "the inner box is finished, the outer is not"),
    (r"\boxed{5}. As asked, it is in \boxed{}.", 5, "an empty box is a mention"),
    (r"\boxed{5}. As asked, it is in \boxed.", 5, "a command without content is a mention"),
    (r"\boxed{5} is wrong, it is \boxed{x^2}", None, "the last box counts, integer or not"),
    (r"\boxed{5} is wrong, it is \boxed{100000}", None, "the last box counts, in range or not"),
    (r"The answer is 42.", None, "no box, no answer"),
    ("", None, "an empty text"),
    (r"\boxed{}", None, "nothing but an empty box"),
    (r"} } \boxed{8} {", 8, "stray braces around the box"),
    (r"\left\{ \boxed{8} \right.", 8, "an escaped brace groups nothing"),
    (r"\boxed 7", 7, "TeX's box of one token"),
    (r"\boxed7", 7, "the same without a space"),
    (r"so \boxed 42.", 42, "an unbraced number is meant whole"),
    (r"\boxed{1} or \boxed 2", 2, "unbraced and braced boxes are one sequence"),
    ("\\boxed\n {9}", 9, "space between command and brace"),
    (r"\\boxed{42}", 42, "a backslash escaped once more, as in printed Python"),
    (r"\fbox{42}", 42, "the text-mode box"),
    (r"\boxedtext{42}", None, "another command that begins alike"),
    (r"\boxed{42}\end{document}", 42, "groups after the box"),
    # range
    (r"\boxed{0}", 0, "the lowest answer"),
    (r"\boxed{99999}", 99999, "the highest answer"),
    (r"\boxed{100000}", None, "one above: never taken modulo anything"),
    (r"\boxed{-1}", None, "below the range"),
    (r"\boxed{−1}", None, "below the range, with the Unicode minus"),
    (r"\boxed{123456789012345678901234567890}", None, "far above the range"),
    # separators and digits
    (r"\boxed{1{,}234}", 1234, "braced comma"),
    (r"\boxed{1,234}", 1234, "plain comma before three digits"),
    (r"\boxed{12\,345}", 12345, "thin space"),
    (r"\boxed{12\;345}", 12345, "thick space"),
    (r"\boxed{12~345}", 12345, "tie"),
    (r"\boxed{12 345}", 12345, "plain space before three digits"),
    (r"\boxed{1,\!234}", 1234, "comma with the space taken back"),
    (r"\boxed{1{,}234{,}567}", None, "two separators: above the range"),
    (r"\boxed{12,34}", None, "a comma before two digits makes a pair"),
    (r"\boxed{1,2345}", None, "a comma before four digits makes a pair"),
    (r"\boxed{1, 234}", None, "comma and space make a list"),
    (r"\boxed{(1,234)}", None, "a comma in round brackets makes a point"),
    (r"\boxed{0,123}", None, "no thousands after a zero"),
    (r"\boxed{007}", 7, "leading zeros"),
    (r"\boxed{000}", 0, "nothing but zeros"),
    (r"\boxed{" + "0" * 1900 + "7}", 7, "very many leading zeros"),
    (r"\boxed{٤٢}", None, "digits of other scripts are not read"),
    (r"\boxed{42.}", 42, "a trailing period"),
    (r"\boxed{42,}", 42, "a trailing comma"),
    (r"\boxed{42\,}", 42, "a trailing thin space"),
    (r"\boxed{42.0}", 42, "a decimal that is an integer"),
    (r"\boxed{42.5}", None, "a decimal that is not"),
    (r"\boxed{\$1,234.00}", 1234, "dollars and cents"),
    (r"\boxed{ 42 }", 42, "spaces"),
    (r"\boxed{{42}}", 42, "a group too many"),
    # words, units and fonts
    (r"\boxed{\text{42}}", 42, "a number set as text"),
    (r"\boxed{\mathbf{42}}", 42, "a bold number"),
    (r"\boxed{\textbf{\text{42 apples}}}", 42, "text in text with a unit"),
    (r"\boxed{\bf 42}", 42, "an old font switch"),
    (r"\boxed{\displaystyle 42}", 42, "a style switch"),
    (r"\boxed{\color{red}42}", 42, "a colour"),
    (r"\boxed{$42$}", 42, "dollars inside the box"),
    (r"\boxed{\(42\)}", 42, "the other mathematics brackets"),
    (r"\boxed{42\text{ cm}}", 42, "a unit"),
    (r"\boxed{42\text{ cm}^2}", 42, "the exponent belongs to the unit"),
    (r"\boxed{42\,\mathrm{m}^{3}}", 42, "the same, braced"),
    (r"\boxed{42 cm^2}", 42, "a plain unit with an exponent"),
    (r"\boxed{60 km/h}", 60, "a quotient of units"),
    (r"\boxed{12 apples}", 12, "a plain word after a space"),
    (r"\boxed{\text{Answer: }42}", 42, "a label before the number"),
    (r"\boxed{\text{Answer: 42.}}", 42, "a label inside the text"),
    (r"\boxed{90^\circ}", 90, "degrees"),
    (r"\boxed{90^{\circ}}", 90, "degrees, braced"),
    (r"\boxed{90°}", 90, "degrees, one character"),
    (r"\boxed{50\%}", 50, "per cent is a unit"),
    (r"\boxed{1^{\text{st}}}", 1, "an ordinal"),
    (r"\boxed{3\text{ m}\times4\text{ m}}", 12, "units on both factors"),
    (r"\boxed{\text{cm}}", None, "a unit alone"),
    (r"\boxed{3\text{ or }400}", None, "two numbers, not a thousands separator"),
    (r"\boxed{12 and 13}", None, "two numbers with a plain word"),
    (r"\boxed{3\quad400}", None, "two numbers far apart"),
    (r"\boxed{2n}", None, "a variable is no unit"),
    (r"\boxed{5x}", None, "nor is this"),
    (r"\boxed{A}", None, "a letter"),
    (r"\boxed{2\pi}", None, "not an integer"),
    (r"\boxed{\infty}", None, "not a number"),
    # equations
    (r"\boxed{x=5}", 5, "the value of a name"),
    (r"\boxed{m+n = 15}", 15, "the value of a sum of names"),
    (r"\boxed{f(1,2)=5}", 5, "the value of a function"),
    (r"\boxed{2+2=4}", 4, "a computation and its result"),
    (r"\boxed{\text{x = 5}}", 5, "the same as text"),
    (r"\boxed{{x=5}}", 5, "the same in a group"),
    (r"\boxed{x=5, y=6}", None, "two equations"),
    (r"\boxed{3x-4y=0}", None, "an equation of a line"),
    (r"\boxed{x^2+y^2=25}", None, "an equation of a circle"),
    (r"\boxed{x\le 5}", None, "a bound"),
    (r"\boxed{x \neq 5}", None, "what it is not"),
    (r"\boxed{x \equiv 3 \pmod{7}}", 3, "the modulus is a remark"),
    (r"\boxed{2^{10} \pmod 7}", None, "here it would have to be carried out"),
    (r"\boxed{1:2}", None, "a ratio"),
    (r"\boxed{\{5\}}", 5, "a set of one"),
    (r"\boxed{\{5,6\}}", None, "a set of two"),
    # arithmetic
    (r"\boxed{\frac{84}{2}}", 42, "a fraction that is an integer"),
    (r"\boxed{\dfrac{84}{4}}", 21, "a displayed one"),
    (r"\boxed{\frac84}", 2, "arguments without braces are one digit each"),
    (r"\boxed{\frac{7}{2}}", None, "a fraction that is not"),
    (r"\boxed{\frac{7}{0}}", None, "division by zero"),
    (r"\boxed{3\frac12}", None, "a mixed number is not three times a half"),
    (r"\boxed{84/2}", 42, "a slash"),
    (r"\boxed{7/2*2}", 7, "exact fractions in between"),
    (r"\boxed{2+3\times4}", 14, "products before sums"),
    (r"\boxed{\left(2+3\right)\cdot4}", 20, "sized brackets"),
    (r"\boxed{10-3-2}", 5, "differences from the left"),
    (r"\boxed{84 \div 2}", 42, "the division sign"),
    (r"\boxed{2^{10}}", 1024, "a power"),
    (r"\boxed{2^10}", 1024, "a power as models mean it"),
    (r"\boxed{2^{3^2}}", 512, "a tower, from the right"),
    (r"\boxed{2^3^2}", 512, "the same without braces"),
    (r"\boxed{-2^2+10}", 6, "the sign after the power"),
    (r"\boxed{(-2)^2}", 4, "the sign before it"),
    (r"\boxed{4\times2^{-1}}", 2, "a negative exponent"),
    (r"\boxed{10^{100}/10^{98}}", 100, "large values in between"),
    (r"\boxed{1^{999999999999}}", 1, "a huge exponent that costs nothing"),
    (r"\boxed{(-1)^{999999999999}+2}", 1, "nor with a sign"),
    (r"\boxed{0^{999999999999}}", 0, "nor of zero"),
    (r"\boxed{0^0}", None, "not defined"),
    (r"\boxed{0^{-1}}", None, "division by zero in an exponent"),
    (r"\boxed{9^{9^{9^9}}}", None, "a huge power is refused, not computed"),
    (r"\boxed{4^{1/2}}", None, "roots are not read"),
    (r"\boxed{2+}", None, "half an expression"),
    (r"\boxed{2(3)}", None, "an unwritten product is not guessed"),
    (r"\boxed{\sqrt{16}}", None, "a command that is not read"),
    (r"\boxed{__import__('os')}", None, "nothing is run"),
]


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
]
OUTERMOST = ["{}", "{}.", "x = {}", "N = {},", r"\text{{Total}} = {}"]
FORMATS = [
    str,
    "0{}".format,
    "{:08d}".format,
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


@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from("+-*"))
def test_an_expression_equals_its_integer(a, b, sign):
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    assert extract_answer(f"\\boxed{{{a}{sign}{b}}}", -(10**9), 10**9) == value


PIECES = [*"012,.+-*/^{}()=$~x ", "\\", "cm", "345"]
PIECES += [r"\boxed{", r"\frac", r"\text{", r"\,", r"\{", r"\}", r"\pmod", "−", "\x1f", "\x00"]


@given(st.text())
def test_no_text_raises(text):
    assert extract_answer(text) is None or "boxed" in text or "fbox" in text


@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
@example(r"{}^2\frac")
def test_no_box_raises_and_every_answer_is_in_range(content):
    answer = extract_answer("\\boxed{" + content + "}")
    assert answer is None or 0 <= answer <= 99999


@given(st.text(alphabet="ab{} "))
def test_a_box_holds_balanced_braces(text):
    content = last_box("\\boxed{" + text) or ""
    assert content.count("{") == content.count("}")
