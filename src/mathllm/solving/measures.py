"""How sure a model was of an attempt: entropies of its tokens, in nats, over several stretches."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate

TAIL = 256  # tokens before the answer that are the tail
# A group is this share of an attempt's tokens: DeepConf (arXiv 2508.15260) takes 2,048 of some
# thirty thousand. Of short attempts, so many.
GROUP_SHARE, GROUP_LEAST = 1 / 16, 64
BOX = "boxed"


def mean(values: Sequence[float]) -> float:
    """0 for none."""
    return sum(values) / len(values) if values else 0.0


def tail_entropy(entropy: Sequence[float], behind: int = 0) -> float:
    """Mean over the last TAIL tokens, those before the last `behind`; of all if none are left."""
    before = entropy[: max(len(entropy) - behind, 0)] or entropy
    return mean(before[-TAIL:])


def group_entropy(entropy: Sequence[float]) -> float:
    """The highest mean of any group of consecutive tokens: DeepConf's lowest group confidence,
    with the entropy in place of the mean of top log probabilities."""
    size = max(GROUP_LEAST, int(len(entropy) * GROUP_SHARE))
    if len(entropy) <= size:
        return mean(entropy)
    sums = [0.0, *accumulate(entropy)]
    return max(sums[end] - sums[end - size] for end in range(size, len(sums))) / size


def behind_box(tokens: Sequence[int], decode: Callable[[Sequence[int]], str]) -> int:
    """How many of the last tokens are the last box and what follows it; 0 without a box."""
    length = 16
    while True:
        text = decode(tokens[-length:])
        if (place := text.rfind(BOX)) >= 0:
            wanted = len(text) - place
            sizes = range(1, min(length, len(tokens)) + 1)
            return 1 + bisect_left(sizes, wanted, key=lambda n: len(decode(tokens[-n:])))
        if length >= len(tokens):
            return 0
        length *= 2
