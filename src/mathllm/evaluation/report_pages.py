"""A report as a Markdown file with its pictures beside it, and as one HTML page.

Knows how tables and pictures are written down. Knows nothing of what they say.
"""

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from mathllm.evaluation.rendering import answers_html
from mathllm.evaluation.report_parts import Chapter, Picture, Table
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
                    pictures[place] = _png(part.figure)
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
    parts = [f"<h1>{TITLE}</h1>", f"<p>{_code(ABOUT)}</p>"]
    for number, chapter in enumerate(chapters, 1):
        parts.append(f"<h2>{number}. {escape(chapter.title)}</h2>")
        for section in chapter.sections:
            parts.append(f"<h3>{escape(section.title)}</h3>")
            for part in section.parts:
                if isinstance(part, Picture):
                    parts.append(_figure(part))
                else:
                    parts.append(
                        _table(part) if isinstance(part, Table) else f"<p>{escape(part)}</p>"
                    )
        for name, rows in chapter.wrong.items():
            head = f"Wrong samples of {escape(name)} ({len(rows)})"
            answers = answers_html(rows, wrong_shown)
            parts.append(f"<details><summary>{head}</summary>\n{answers}\n</details>")
    write_page(path, TITLE, "\n".join(parts))


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


def _table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        classes = [' class="text"' if i < table.texts else "" for i in range(len(cells))]
        inside = (f"<{tag}{c}>{escape(t)}</{tag}>" for c, t in zip(classes, cells, strict=True))
        return f"<tr>{''.join(inside)}</tr>"

    body = "".join(row(cells, "td") for cells in table.rows)
    head = row(table.heads, "th")
    return f'<div class="box"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _figure(picture: Picture) -> str:
    data, reading = base64.b64encode(_png(picture.figure)).decode(), escape(picture.reading)
    return (
        f'<figure><img alt="{escape(picture.name)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{reading}</figcaption></figure>"
    )


def _png(figure: Figure) -> bytes:
    """Without the name and version of what drew it: the same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()


def _code(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
