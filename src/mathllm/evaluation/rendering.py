"""A model's text for a person to read: plain, or as HTML with its LaTeX as mathematics.

Formulas become MathML, which browsers draw by themselves, through latex2mathml, where that is
installed: a page needs no script and no network. Model text is not trusted: what is not a
formula is escaped, and of a formula only known elements, attributes and values are written
(latex2mathml passes markup inside \\text, and links, through as they are). A formula that
cannot be read, or uses a command that latex2mathml does not know, is shown as its source.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from html import escape, unescape
from typing import Any

import polars as pl

LONGEST = 2000  # characters of a formula; a longer one is shown as its source
_ENVIRONMENTS = r"(?:align|aligned|equation|gather|eqnarray|cases|[bpvV]?matrix|array)\*?"
# Each alternative reads on for LONGEST characters at most, so time is linear in the text.
_PARTS = re.compile(
    r"\\(?P<dollar>\$)"
    rf"|\$\$(?P<display>(?:\\.|[^$\\]){{1,{LONGEST}}})\$\$"
    rf"|\\\[(?P<bracket>.{{1,{LONGEST}}}?)\\\]"
    rf"|\\\((?P<round>.{{1,{LONGEST}}}?)\\\)"
    # As pandoc: no blank inside the dollars, no digit behind, or $2 and $3 are no formula.
    rf"|\$(?=\S)(?P<inline>(?:\\.|[^$\\]){{1,{LONGEST}}}?)(?<=\S)\$(?!\d)"
    rf"|(?P<environment>\\begin\{{(?P<name>{_ENVIRONMENTS})\}}.{{1,{LONGEST}}}?\\end\{{(?P=name)\}})",
    re.DOTALL,
)
# Three words in a row are prose between two prices, unless they are set as text.
_PROSE = re.compile(r"[A-Za-z,.']{2,}(?:\s+[A-Za-z,.']{2,}){2}")
_SET_AS_TEXT = re.compile(r"\\[A-Za-z]+\s*(?:\{[^{}]*\})?")
# A macro can stand for itself twice, and so on: a short text for a page without end.
_MACRO = re.compile(r"\\(?:re)?newcommand|\\def(?![a-z])|\\let(?![a-z])")

_ELEMENTS = frozenset(
    {"math", "mrow", "mfrac", "mi", "mn", "mo", "mtext", "mspace", "msup", "msub", "msubsup"}
    | {"munder", "mover", "munderover", "msqrt", "mroot", "mtable", "mtr", "mtd", "mstyle"}
    | {"menclose", "mpadded", "mphantom"}
)
# Those that must have so many children: LaTeX that is cut off leaves them too few.
_CHILDREN = {"mfrac": 2, "msup": 2, "msub": 2, "msubsup": 3, "munder": 2, "mover": 2}
_CHILDREN |= {"munderover": 3, "mroot": 2}
_LENGTH = r"-?[\d.]+(?:em|ex|px|pt|mm|cm|in|%)?"
_ATTRIBUTES = {
    name: re.compile(pattern)
    for names, pattern in (
        ("stretchy fence accent movablelimits displaystyle separator", "true|false"),
        ("minsize maxsize width height depth lspace rspace linethickness", _LENGTH),
        ("scriptlevel", r"[+-]?\d"),
        ("form", "prefix|postfix|infix"),
        ("mathvariant", "normal"),
        ("mathcolor mathbackground", r"[a-zA-Z]{1,20}|\#[0-9a-fA-F]{3,8}"),
        ("notation", "[a-z ]{1,60}"),
    )
    for name in names.split()
}
# What MathML had and browsers now leave to CSS.
_STYLES = {
    ("columnalign", "left"): "text-align:left",
    ("columnalign", "right"): "text-align:right",
    ("mathvariant", "bold"): "font-weight:bold",
    ("mathvariant", "sans-serif"): "font-family:sans-serif",
    ("notation", "box"): "border:1px solid;padding:0.15em 0.25em",
}


def row_text(row: Mapping[str, Any]) -> str:
    """A row of results in plain text, its problem and the whole of its text."""
    verdict = "right" if row["right"] else "wrong"
    return (
        f"{row['id']}, {row['engine']}, sample {row['sample']}: {verdict}; answer "
        f"{row['answer']}, truth {row['truth']} ({row['tokens']} tokens, {row['finish_reason']})\n"
        f"{row['problem']}\n---\n{row['text']}\n"
    )


def text_html(text: str) -> str:
    """Escaped text with its formulas drawn; line breaks stay."""
    pieces, at = [], 0
    for found in _PARTS.finditer(text):
        pieces += [escape(text[at : found.start()]), _part(found)]
        at = found.end()
    pieces.append(escape(text[at:]))
    return f'<div style="white-space:pre-wrap">{"".join(pieces)}</div>'


def formula_html(latex: str, display: bool = False) -> str:
    """A formula, without dollars around it, as MathML; its escaped source where that fails."""
    drawn = _mathml(latex, display)
    return f"<code>{escape(latex)}</code>" if drawn is None else drawn


def answers_html(rows: pl.DataFrame, limit: int = 50) -> str:
    """Rows of results to browse: one line each, which opens to problem, text and prompt."""
    shown = [_answer(row) for row in rows.head(limit).iter_rows(named=True)]
    more = len(rows) - len(shown)
    shown += [f"<p>and {more} more</p>"] if more else []
    return "\n".join(shown) or "<p>none</p>"


def _answer(row: dict[str, Any]) -> str:
    answer = "none" if row["answer"] is None else formula_html(row["answer"])
    verdict = "right" if row["right"] else "wrong"
    head = f"{escape(row['id'])}, {escape(row['engine'])}, sample {row['sample']}: {verdict}"
    return (
        f"<details><summary>{head}; answer {answer}, truth {formula_html(row['truth'])} "
        f"({row['tokens']} tokens, {escape(row['finish_reason'] or '')})</summary>"
        f"<h4>Problem</h4>{text_html(row['problem'])}<h4>Text</h4>{text_html(row['text'])}"
        "<details><summary>prompt</summary>"
        f'<pre style="white-space:pre-wrap">{escape(row["prompt"])}</pre></details></details>'
    )


def _part(found: re.Match[str]) -> str:
    if found["dollar"]:
        return "$"
    display = found["inline"] is None and found["round"] is None
    latex = next(found[name] for name in _KINDS if found[name] is not None)
    prose = "\n\n" in latex or _PROSE.search(_SET_AS_TEXT.sub("", latex))
    drawn = _mathml(latex, display) if display or not prose else None
    return escape(found[0]) if drawn is None else drawn


_KINDS = ("display", "bracket", "round", "inline", "environment")


@cache
def _converter() -> Callable[..., Any] | None:
    try:
        from latex2mathml.converter import convert_to_element
    except ImportError:  # not in the kernel's image, and nothing there needs it
        return None
    return convert_to_element


def _mathml(latex: str, display: bool) -> str | None:
    convert = _converter()
    if convert is None or len(latex) > LONGEST or _MACRO.search(latex):
        return None
    try:
        root = convert(latex, display="block" if display else "inline")
        inside = "".join(_written(child) for child in root)
    except Exception:  # of many types, for LaTeX that is cut off or none; RecursionError too
        return None
    kind = ' display="block"' if display else ""
    return f"<math{kind}>{inside}</math>"


def _written(element: Any) -> str:
    """An element and what is in it, if all of it is known; raises ValueError if not."""
    if element.tag not in _ELEMENTS:
        raise ValueError(f"element {element.tag!r}")
    if len(element) != _CHILDREN.get(element.tag, len(element)):
        raise ValueError(f"{element.tag} with {len(element)} children")
    text = unescape(element.text or "")
    if re.match(r"\\[A-Za-z]", text):
        raise ValueError(f"command {text!r}")
    styles = [_STYLES[item] for item in element.attrib.items() if item in _STYLES]
    kept = [
        f' {name}="{value}"'
        for name, value in element.attrib.items()
        if name in _ATTRIBUTES and _ATTRIBUTES[name].fullmatch(value)
    ]
    kept += [f' style="{";".join(styles)}"'] if styles else []
    tag = "mrow" if element.tag == "menclose" and styles else element.tag
    inside = escape(text) + "".join(_written(child) for child in element)
    return f"<{tag}{''.join(kept)}>{inside}</{tag}>{escape(unescape(element.tail or ''))}"
