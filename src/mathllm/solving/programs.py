"""A sample's text -> the program whose output it waits for; a tool's call -> its program.

A model waits where it has opened a block for output. A server may keep the fence that opens it
to itself, all of it or a part: what ends in a program waits, too.
"""

import json
import re
from dataclasses import dataclass
from textwrap import dedent

from mathllm.answers.fences import PYTHON, Block, blocks

FENCE = "```"
OUTPUT = f"{FENCE}output"  # where the model waits for what its program printed
TOOL_NAME = "python"
TOOL = (
    "Runs Python code in a notebook that keeps its variables from call to call; math, sympy, "
    "mpmath and numpy are there, the internet is not. Print what you want to see."
)


@dataclass(frozen=True)
class Wait:
    """A program whose output is waited for, and what is missing of the output's fence."""

    program: str
    missing: str


def waiting(text: str) -> Wait | None:
    """What a text that has stopped waits for; None where it does not wait."""
    text = text.rstrip()
    ended = text.endswith(FENCE) and any(b.closed and b.end == len(text) for b in blocks(text))
    lengths = range(0 if ended else len(OUTPUT), -1, -1)  # of the output's fence
    begun = next(n for n in lengths if text.endswith(OUTPUT[:n]))
    head = text[: len(text) - begun].rstrip()
    # A block without a language stands where the program does.
    found = [b for b in blocks(head) if b.language in (PYTHON, "") and b.body.strip()]
    if not found:
        return None
    last = found[-1]
    if begun == len(OUTPUT):
        return Wait(_lines(last), "")
    if last.end != len(head) or (not last.language and last.is_prose):
        return None
    # A fence alone ends a program that is open, and opens an output behind one that is not.
    opened = begun and (last.closed or OUTPUT[:begun] != FENCE)
    return Wait(_lines(last), OUTPUT[begun:] if opened else f"\n{OUTPUT}")


def _lines(block: Block) -> str:
    """A block's lines without what they are all indented by."""
    return dedent(block.body).strip("\n") + "\n"


def program_of(call: str) -> str:
    """The program of a call. Some models wrap it in JSON, or in a fence."""
    text = call.strip()
    if text.startswith("{"):
        try:
            given = json.loads(text)
        except (ValueError, RecursionError):
            given = None
        if isinstance(given, dict):
            texts = [given[key] for key in ("code", "input", "script") if key in given]
            texts = [*texts, *given.values()]
            text = next((one for one in texts if isinstance(one, str)), text)
    fence = re.fullmatch(r"```\w*\n(.*?)\n?```", text, re.DOTALL)
    return (fence[1] if fence else text) + "\n"
