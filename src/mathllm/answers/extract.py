"""The integer that a text gives as its answer, or none.

Knows where models put answers: the last box, else a closing phrase, else the last output of
their program. Nothing is evaluated as code and nothing is wrapped modulo anything. What the
text writes plainly is read in time linear in the text; a formula beyond sums, products,
fractions and powers is no answer.
"""

import re

from mathllm.answers.values import NUMBER, integer_value, last_box
from mathllm.settings import CURRENT

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_MARKUP = r"[*_]{0,3}"
_PHRASE = re.compile(
    rf"\banswer{_MARKUP}\s{{0,9}}(?:is|=|:)\s{{0,9}}:?[*_\s]{{0,9}}(?=[-−+\d$\\(])",
    re.ASCII | re.IGNORECASE,
)
_STATED = re.compile(
    r"(?:\$\$?|\\[(\[])?\s{0,9}(?P<number>[-−+]?\s?(?:" + NUMBER.pattern + r"))"
    rf"\s{{0,9}}(?:\$\$?|\\[)\]])?{_MARKUP}[.!]?{_MARKUP}"
    r"(?:\s{0,9}(?:\Z|\n|<\|)|(?:(?<=[.!])|(?<=[.!]\*\*))\s)",
    re.ASCII,
)
_FENCE = re.compile(r"^```[ \t]*(\w*)[^\n`]*$", re.MULTILINE)
_PRINTED = re.compile(r"\s*([-+]?\d{1,1000})\s*", re.ASCII)


def extract_answer(
    text: str, low: int = CURRENT.answer_min, high: int = CURRENT.answer_max
) -> int | None:
    """The integer that the text gives as its answer if it lies in low…high, else None.

    A box that is still open at the end of the text does not count, and neither does an
    empty one ("put it in \\boxed{}"): the one before is taken. A last box that holds
    something else than an integer in range is no answer, whatever stood before it.
    """
    content = last_box(text)
    if content is not None:
        value = integer_value(content)
    elif _BOX.search(text):
        return None  # cut off inside its box, or talking of one: it has not answered yet
    else:
        value = unboxed_integer(text)
    return value if value is not None and low <= value <= high else None


def unboxed_integer(text: str) -> int | None:
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
    prose, last_block = _prose_and_last_block(text)
    phrases = list(_PHRASE.finditer(prose))
    if phrases:
        stated = _STATED.match(prose, phrases[-1].end())
        return integer_value(stated["number"]) if stated else None
    language, body = last_block
    lines = body.strip().splitlines()
    printed = _PRINTED.fullmatch(lines[-1]) if lines and language == "output" else None
    return int(printed[1]) if printed else None


def _prose_and_last_block(text: str) -> tuple[str, tuple[str, str]]:
    """What stands outside ``` fences, and the last block's language and content.

    A block that is still open ends the prose and has no content: its last line may be cut.
    """
    prose, block, opening, at = [], ("", ""), None, 0
    for fence in _FENCE.finditer(text):
        if opening is None:
            prose.append(text[at : fence.start()])
            opening = fence
        elif not fence[1]:
            block = (opening[1], text[opening.end() : fence.start()])
            opening, at = None, fence.end()
    if opening is None:
        prose.append(text[at:])
    else:
        block = ("", "")
    return "\n".join(prose), block
