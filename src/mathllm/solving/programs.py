"""A sample's text -> the program whose output it waits for.

A model waits where it has opened a block for output. A server may keep the fence that opens it
to itself, all of it or a part: what ends in a program waits, too.
"""

from dataclasses import dataclass
from textwrap import dedent

from mathllm.answers.fences import PYTHON, Block, blocks

FENCE = "```"
OUTPUT = f"{FENCE}output"  # where the model waits for what its program printed


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
