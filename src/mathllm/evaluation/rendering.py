"""A model's text for a person to read: plain, or as HTML with its LaTeX as mathematics.

Formulas become MathML, which browsers draw by themselves, through latex2mathml: a page needs no
script and no network. Model text is not trusted: what is not a formula is escaped, and of a
formula nh3 keeps known elements, attributes and values only (latex2mathml passes markup inside
\\text, and links, through as they are). A formula that cannot be read, or uses a command that
latex2mathml does not know, is shown as its source; so are all where one of the two is missing.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from html import unescape
from typing import Any
from xml.etree.ElementTree import Element, tostring

import polars as pl
from markupsafe import Markup, escape

from mathllm.pages import render

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
_ATTRIBUTES = frozenset(
    {"display", "stretchy", "fence", "accent", "movablelimits", "displaystyle", "separator"}
    | {"minsize", "maxsize", "width", "height", "depth", "lspace", "rspace", "linethickness"}
    | {"scriptlevel", "form", "mathvariant", "mathcolor", "mathbackground", "notation"}
)
_VALUE = re.compile(r"[\w .%#+-]{1,60}", re.ASCII)  # of any of these
# What MathML had and browsers now leave to CSS.
_STYLES = {
    ("columnalign", "left"): "text-align:left",
    ("columnalign", "right"): "text-align:right",
    ("mathvariant", "bold"): "font-weight:bold",
    ("mathvariant", "sans-serif"): "font-family:sans-serif",
    ("notation", "box"): "border:1px solid;padding:0.15em 0.25em",
}
_OURS = {declared for style in _STYLES.values() for declared in style.split(";")}


def row_text(row: Mapping[str, Any]) -> str:
    """A row of results in plain text, its problem and the whole of its text."""
    verdict = "right" if row["right"] else "wrong"
    return (
        f"{row['id']}, {row['engine']}, sample {row['sample']}: {verdict}; answer "
        f"{row['answer']}, truth {row['truth']} ({row['tokens']} tokens, {row['finish_reason']})\n"
        f"{row['problem']}\n---\n{row['text']}\n"
    )


def text_html(text: str) -> Markup:
    """Escaped text with its formulas drawn; line breaks stay."""
    pieces, at = [], 0
    for found in _PARTS.finditer(text):
        pieces += [escape(text[at : found.start()]), _part(found)]
        at = found.end()
    pieces.append(escape(text[at:]))
    return Markup('<div style="white-space:pre-wrap">{}</div>').format(Markup().join(pieces))


def formula_html(latex: str, display: bool = False) -> Markup:
    """A formula, without dollars around it, as MathML; its escaped source where that fails."""
    drawn = _mathml(latex, display)
    return Markup("<code>{}</code>").format(latex) if drawn is None else drawn


def answers_html(rows: pl.DataFrame, limit: int = 50) -> Markup:
    """Rows of results to browse: one line each, which opens to problem, text and prompt."""
    shown = rows.head(limit)
    values = {"rows": shown.to_dicts(), "more": len(rows) - len(shown)}
    return render("answers.html.j2", **values, formula=formula_html, text=text_html)


def _part(found: re.Match[str]) -> Markup:
    if found["dollar"]:
        return Markup("$")
    display = found["inline"] is None and found["round"] is None
    latex = next(found[name] for name in _KINDS if found[name] is not None)
    prose = "\n\n" in latex or _PROSE.search(_SET_AS_TEXT.sub("", latex))
    drawn = _mathml(latex, display) if display or not prose else None
    return escape(found[0]) if drawn is None else drawn


_KINDS = ("display", "bracket", "round", "inline", "environment")


@cache
def _tools() -> tuple[Callable[..., Element], Callable[[str], str]] | None:
    """LaTeX → element, and MathML → harmless MathML."""
    try:
        import nh3
        from latex2mathml.converter import convert_to_element
    except ImportError:  # not in Kaggle's image, and nothing there needs them
        return None
    cleaner = nh3.Cleaner(
        tags=set(_ELEMENTS),
        attributes={"*": {*_ATTRIBUTES, "style"}},
        attribute_filter=_kept,
    )
    return convert_to_element, cleaner.clean


def _kept(_: str, name: str, value: str) -> str | None:
    if name == "style":
        return value if set(value.split(";")) <= _OURS else None
    return value if _VALUE.fullmatch(value) else None


def _mathml(latex: str, display: bool) -> Markup | None:
    tools = _tools()
    if tools is None or len(latex) > LONGEST or _MACRO.search(latex):
        return None
    convert, clean = tools
    try:
        root = convert(latex, display="block" if display else "inline")
        for element in root.iter():
            _settle(element)
        return Markup(clean(tostring(root, encoding="unicode")))
    except Exception:  # of many types, for LaTeX that is cut off or none; RecursionError too
        return None


def _settle(element: Element) -> None:
    """Make it what browsers draw. Raises ValueError for what none draws as it was meant."""
    if element.tag not in _ELEMENTS:
        raise ValueError(f"element {element.tag!r}")
    if len(element) != _CHILDREN.get(element.tag, len(element)):
        raise ValueError(f"{element.tag} with {len(element)} children")
    element.text, element.tail = unescape(element.text or ""), unescape(element.tail or "")
    if re.match(r"\\[A-Za-z]", element.text):
        raise ValueError(f"command {element.text!r}")
    styles = [_STYLES[item] for item in element.attrib.items() if item in _STYLES]
    if styles:
        element.set("style", ";".join(styles))
        element.tag = "mrow" if element.tag == "menclose" else element.tag
