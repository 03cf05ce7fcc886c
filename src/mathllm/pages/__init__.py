"""Pages for a person to read: one file each, with one look, that asks nothing of a network.

Knows the frame of a page and the template of a notebook's. Knows nothing of what stands in one.
"""

from html import escape
from pathlib import Path

from mathllm.files import write_text

TEMPLATES = Path(__file__).parent  # for nbconvert; NOTEBOOK is the template in it
NOTEBOOK = "notebook"
# The browser itself refuses whatever would come from elsewhere, and every script.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def html_page(title: str, body: str) -> str:
    """A whole page around `body`, which is HTML."""
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def write_page(path: Path, title: str, body: str) -> None:
    """The whole page, or the one that was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, html_page(title, body))
