"""Labels by supervision step, from what a row's solution would be after each of its steps."""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from mathllm.data.chat import solution_ids
from mathllm.errors import DataError
from mathllm.tokens.rows import IGNORED, Example
from mathllm.wording import shown


def with_steps(
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[str],
    examples: Sequence[Example],
    steps: Sequence[Sequence[str] | None],
    hops: Sequence[int | None],
    aligned: bool = True,
) -> list[Example]:
    """The examples, with the labels of their solutions after 1, 2, … steps; those without stay.

    `hops` counts the steps of a row's own solution, by default all. With `aligned` every solution
    of a row must have as many tokens as its own, as where a step changes one token; else what is
    longer is cut and what is shorter has no label behind its end. Raises DataError, by the row's
    id, for a solution that has another number of tokens, and for hops that do not lead to the
    row's own.
    """
    for id_, told in zip(ids, steps, strict=True):
        for number, text in enumerate(told or (), start=1):
            if not (text and text.strip()):
                raise DataError(f"row {shown(id_)}: step {number} is empty: give its solution")
    texts = [text for told in steps for text in told or ()]
    tails = iter(solution_ids(tokenizer, list(texts)))
    found = []
    for id_, example, told, count in zip(ids, examples, steps, hops, strict=True):
        if not told:
            found.append(example)
            continue
        own = list(example.tokens[example.prompt :])
        labels = np.full((len(told), len(own)), IGNORED, dtype=np.int32)
        for number, text in enumerate(told):
            tail = next(tails)
            if aligned and len(tail) != len(own):
                raise DataError(
                    f"row {shown(id_)}: step {number + 1}, {shown(text)}, has {len(tail)} tokens "
                    f"and the solution {len(own)}: give steps that change single tokens, or "
                    "allow steps of other lengths"
                )
            size = min(len(tail), len(own))
            labels[number, :size] = tail[:size]
        count = len(told) if count is None else count
        if not 1 <= count <= len(told) or list(labels[count - 1]) != own:
            raise DataError(
                f"row {shown(id_)}: its solution is not what step {count} of {len(told)} gives: "
                "let hops be the number of the step that gives the solution"
            )
        found.append(Example(example.tokens, example.prompt, labels, count))
    return found
