"""A report as a document: what it is made of, and how it is written down as Markdown or HTML."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from mathllm.evaluation.rendering import answers_html
from mathllm.pages import write_page

TITLE = "Results"
ABOUT = (
    "Made by `build.py report FILES --output FILE` from the result files that each chapter names; "
    "the same files give the same text. Weights and problems are named by their digests. In "
    "brackets stand intervals of 95 %: Wilson's for shares of problems, resampled problems' for "
    "shares of samples and for what k votes give."
)
_DPI = 110
_MARKUP = re.compile(r"[\\*<>\[\]`$]|\b_|_\b|(?<!\w)_(?!\w)")


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

    def png(self) -> bytes:
        """Without the name and version of what drew it: the same figure gives the same bytes."""
        file = io.BytesIO()
        self.figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
        return file.getvalue()


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


def write_markdown(path: Path, chapters: Sequence[Chapter]) -> list[Path]:
    """The report, and its pictures in a folder with its name in small letters; returns these."""
    folder = path.parent / path.stem.lower()
    pictures: dict[Path, bytes] = {}
    lines = [f"# {TITLE}", ABOUT]
    for number, chapter in enumerate(chapters, 1):
        lines.append(f"## {number}. {_plain(chapter.title)}")
        for section in chapter.sections:
            lines.append(f"### {_plain(section.title)}")
            for part in section.parts:
                if isinstance(part, Picture):
                    place = folder / f"{number}-{_file_name(part.name)}.png"
                    pictures[place] = part.png()
                    lines.append(f"![{_plain(part.name)}]({folder.name}/{place.name})")
                    lines.append(_plain(part.reading))
                else:
                    lines.append(_markdown(part) if isinstance(part, Table) else _plain(part))
    if pictures:
        folder.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    for place, content in pictures.items():
        place.write_bytes(content)
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return list(pictures)


def write_html(path: Path, chapters: Sequence[Chapter], wrong_shown: int) -> None:
    """The same as one page, with `wrong_shown` wrong samples of each engine to browse."""
    about = re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(ABOUT)))
    values = {"title": TITLE, "about": Markup(about), "chapters": chapters}
    write_page(
        path, "report.html.j2", **values, answers=lambda rows: answers_html(rows, wrong_shown)
    )


def _markdown(table: Table) -> str:
    marks = ["---" if column < table.texts else "---:" for column in range(len(table.heads))]
    rows = [
        [_plain(cell).replace("|", "\\|") for cell in row] for row in [table.heads, *table.rows]
    ]
    rows.insert(1, marks)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _plain(text: str) -> str:
    """Text in which names from data cannot become markup."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def _file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
