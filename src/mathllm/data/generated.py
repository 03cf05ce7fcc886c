"""The sets of problems that are made here, by name."""

from collections.abc import Iterable

import polars as pl

from mathllm.data import arithmetic, chains
from mathllm.data.decontaminate import Reserved
from mathllm.errors import ParameterError
from mathllm.wording import shown

# Keyword arguments of chains.generate.
CHAINS = {"chains": {}, "chains-strokes": {"counts": "strokes"}, "chains-worked": {"worked": True}}
GENERATED = ("arithmetic", *CHAINS)


def generate(
    dataset: str,
    split: str,
    count: int,
    seed: int,
    families: Iterable[str] = (),
    levels: Iterable[int] = (),
    reserved: Reserved | None = None,
) -> pl.DataFrame:
    """`count` rows of a set; `levels` are arithmetic's difficulties or the chains' hops.

    Raises ParameterError for a split, family or level that the set does not have.
    """
    own = arithmetic.FAMILIES if dataset == "arithmetic" else chains.FAMILIES
    splits = ("train", "test") if dataset == "arithmetic" else chains.SPLITS
    if split not in splits:
        raise ParameterError(f"split is {shown(split)}: {dataset} has {', '.join(splits)}")
    if odd := sorted(set(families) - set(own)):
        raise ParameterError(f"families: {shown(odd[0])} is unknown; known: {', '.join(own)}")
    if dataset == "arithmetic":
        return arithmetic.generate(split, count, seed, families, levels, reserved)
    hops = tuple(levels) or chains.HOPS
    return chains.generate(split, count, seed, families, hops, reserved=reserved, **CHAINS[dataset])
