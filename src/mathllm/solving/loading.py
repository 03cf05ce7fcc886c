"""A solver from a weights folder.

Knows which folders hold what. Leaves their formats to the rooms that write them.
"""

from pathlib import Path

from mathllm.errors import WeightsError
from mathllm.solving.solver import Solver, SolverSettings


def load_solver(
    weights: Path, settings: SolverSettings | None = None, device: str = "cpu"
) -> Solver:
    """`weights` holds `backbone/` (with its tokenizer) and `trm/`.

    Raises WeightsError for a folder that is missing, incomplete or corrupt, or whose TRM
    was trained for another backbone.
    """
    if not weights.is_dir():
        raise WeightsError(f"no weights folder {weights}: give one that holds backbone/ and trm/")
    # Here and not above: the kernel listens before torch and the weights are loaded.
    from mathllm.data.chat import load_tokenizer
    from mathllm.decoding import Decoder
    from mathllm.trm import load_backbone, load_checkpoint

    backbone = load_backbone(weights / "backbone", device=device)
    model = load_checkpoint(backbone, weights / "trm")
    return Solver(Decoder(model), load_tokenizer(weights / "backbone"), settings)
