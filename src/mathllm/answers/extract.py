"""The integer that a text gives as its answer, or none.

Knows where models put answers: the last box, else a closing phrase, else the last output of
their program. Nothing is evaluated as code and nothing is wrapped modulo anything. What the
text writes is read in time linear in the text, and a box within the limits of reals.py.
"""

import re

from mathllm.answers.boxes import last_box_of_prose, mentions_box
from mathllm.answers.fences import blocks, prose
from mathllm.answers.latex import NUMBER
from mathllm.answers.reading import integer_value
from mathllm.settings import CURRENT

_MARKUP = r"[*_]{0,3}"
_PHRASE = re.compile(
    rf"\banswer{_MARKUP}\s{{0,9}}(?:is|=|:)\s{{0,9}}:?[*_\s]{{0,9}}(?=[-−+\d$\\(])",
    re.ASCII | re.IGNORECASE,
)
_STATED = re.compile(
    r"(?:\$\$?|\\[(\[])?\s{0,9}(?P<number>[-−+]?\s?(?:" + NUMBER + r"))"
    rf"(?:\s{{0,9}}(?:\$\$?|\\[)\]]))?{_MARKUP}(?:\s{{0,9}}[.!]{_MARKUP})?"
    r"(?:\s{0,9}(?:\Z|\n|<\|)|(?:(?<=[.!])|(?<=[.!]\*\*))\s)",
    re.ASCII,
)
# How models end their thinking, with their special tokens or without.
_THOUGHT = re.compile(
    r"</(?:\w{1,9}:)?think(?:ing)?>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>"
    r"|<\|channel\|>final|assistantfinal"
)
_PRINTED = re.compile(r"\s*([-+]?\d{1,1000})\s*", re.ASCII)


def extract_answer(
    text: str, low: int = CURRENT.answer_min, high: int = CURRENT.answer_max
) -> int | None:
    """The integer that the text gives as its answer if it lies in low…high, else None.

    A box that is still open at the end of the text does not count, and neither does an
    empty one ("put it in \\boxed{}"): the one before is taken. A last box that holds
    something else than an integer in range is no answer, whatever stood before it. What a
    model says after it has thought goes before its thoughts.
    """
    text = behind_thinking(text)
    spoken = prose(text)
    content = last_box_of_prose(spoken)
    if content is not None:
        value = integer_value(content)
    elif mentions_box(spoken):
        return None  # cut off inside its box, or talking of one: it has not answered yet
    else:
        value = _unboxed_integer(text, spoken)
    return value if value is not None and low <= value <= high else None


def behind_thinking(text: str) -> str:
    """What a model says after it has thought, if an answer stands there; else all of the text."""
    *thoughts, last = _THOUGHT.split(text)
    behind = prose(last) if thoughts else ""
    if last_box_of_prose(behind) is None and (mentions_box(behind) or not _stated(behind)):
        return "\n".join([*thoughts, last])
    return behind


def _unboxed_integer(text: str, spoken: str) -> int | None:
    """The integer of the last closing phrase, else of the last output, of a text without box.

    "The answer is 42." counts, "Answer: $42$" too, and the last such phrase alone, as with
    boxes. The integer has to end its sentence or line: "the answer is 42 more than …", "is 3
    or 4", "is 5, if n is odd" state something else. What comes after has to begin like a
    number or formula to be a statement at all: "the answer is correct" is none. Programs
    are not read for phrases: "answer = 0" sets a variable.

    Printed output is weaker still, since programs print much on the way: it counts if no
    phrase states anything, no program follows it, its block is closed, and its last line is
    one integer as Python prints it.
    """
    if _PHRASE.search(spoken):
        stated = _stated(spoken)
        return integer_value(stated["number"]) if stated else None
    last = next(reversed(list(blocks(text))), None)
    if last is None or last.language != "output" or not last.closed:
        return None
    lines = last.body.strip().splitlines()
    printed = _PRINTED.fullmatch(lines[-1]) if lines else None
    return int(printed[1]) if printed else None


def _stated(spoken: str) -> re.Match[str] | None:
    """The number of the last closing phrase, where it ends its sentence or line."""
    phrases = list(_PHRASE.finditer(spoken))
    return _STATED.match(spoken, phrases[-1].end()) if phrases else None
