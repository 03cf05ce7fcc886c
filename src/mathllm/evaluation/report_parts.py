"""What a report is made of, and how its figures are written.

Knows nothing of results, Markdown or HTML.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Table:
    """`heads` name the columns; the first `texts` of them hold words, the others figures."""

    heads: list[str]
    rows: list[list[str]]
    texts: int = 1


@dataclass(frozen=True)
class Picture:
    """A figure, the name it may be filed under, and the sentence that it says."""

    name: str
    figure: Figure
    reading: str


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    parts: list[str | Table | Picture]


@dataclass(frozen=True)
class Chapter:
    """What is said of one group, and its wrong samples by engine, for whom can browse them."""

    title: str
    sections: list[Section]
    wrong: dict[str, pl.DataFrame]


def cells(*values: object) -> list[str]:
    """Cells of a table as they are written."""
    return [str(value) for value in values]


def ranged(row: Mapping[str, float], value: str = "percent", prefix: str = "") -> str:
    """An estimate with its interval."""
    return f"{row[value]:.1f} ({row[prefix + 'low']:.1f}–{row[prefix + 'high']:.1f})"


def chance(p: float) -> str:
    """A p."""
    return f"{p:.2g}"


def number(value: float | None, factor: float = 1, digits: int = 1) -> str:
    """A number with so many decimals; a dash for none."""
    return "–" if value is None else f"{factor * value:.{digits}f}"
