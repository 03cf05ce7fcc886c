"""Pages for a person to read: one file each, with one look, that asks nothing of a network.

Knows the templates. Knows nothing of where what stands in a page comes from.
"""

import base64
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mathllm.files import write_text

TEMPLATES = Path(__file__).parent  # nbconvert's too; NOTEBOOK is the template in it
NOTEBOOK = "notebook"


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"base64": lambda data: base64.b64encode(data).decode(), "figure": _figure}
    return made


def _figure(value: Any) -> str:
    """A cell of a table as it is written."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def render(template: str, **values: Any) -> Markup:
    """A template of this folder with its values, which are text unless they are Markup."""
    return Markup(_environment().get_template(template).render(values))


def write_page(path: Path, template: str, **values: Any) -> None:
    """The whole page, or the one that was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(template, **values))
