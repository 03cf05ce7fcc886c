"""Texts out of data as matplotlib may draw them: names of problems, engines, parameters, values.

matplotlib reads what stands between two dollar signs as a formula and raises for one that it
does not know, leaves a label with a leading _ out of legends, and warns of each sign that its
font lacks.
"""

import functools
import unicodedata

LONGEST = 28  # characters


def drawn(text: object, longest: int = LONGEST) -> str:
    """One line of at most `longest` characters that stands for itself and can be drawn.

    Long ones keep both ends: names often differ at their end.
    """
    line = " ".join(str(text).split())
    if len(line) > longest:
        half = (longest - 1) // 2
        line = f"{line[: longest - 1 - half]}…{line[-half:]}"
    line = "".join(_drawn(sign) for sign in line).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line


def _drawn(sign: str) -> str:
    """The sign, or what stands for it where it would be invisible, an order, or a box."""
    return sign if sign == " " or (ord(sign) in _glyphs() and _is_visible(sign)) else "�"


def _is_visible(sign: str) -> bool:
    return not unicodedata.category(sign).startswith("C")


@functools.cache
def _glyphs() -> frozenset[int]:
    """What the font has that matplotlib brings and draws with."""
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())
