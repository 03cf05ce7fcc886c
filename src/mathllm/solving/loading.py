"""A model and a solver from a weights folder.

Knows which folders hold what. Leaves their formats to the rooms that write them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from mathllm.errors import WeightsError
from mathllm.solving.solver import Solver, SolverSettings

if TYPE_CHECKING:
    from mathllm.trm import RecursiveLM


def load_model(weights: Path, device: str = "cpu") -> "RecursiveLM":
    """Backbone and TRM for decoding, in the precision that the device is best at.

    `weights` holds `backbone/` (with its tokenizer) and `trm/`. Raises WeightsError for a
    folder that is missing, incomplete or corrupt, or whose TRM was trained for another
    backbone.
    """
    if not weights.is_dir():
        raise WeightsError(f"no weights folder {weights}: give one that holds backbone/ and trm/")
    # Here and not above: the kernel listens before torch and the weights are loaded.
    from mathllm.trm import load_backbone, load_checkpoint
    from mathllm.trm.precision import best_dtype

    dtype = best_dtype(device)
    backbone = load_backbone(weights / "backbone", device, dtype)
    return load_checkpoint(backbone, weights / "trm", dtype)


def load_solver(
    weights: Path, settings: SolverSettings | None = None, device: str = "cpu"
) -> Solver:
    """A solver that decodes with the weights in a folder; see load_model."""
    from mathllm.data.chat import load_tokenizer
    from mathllm.decoding import Decoder

    model = load_model(weights, device)
    return Solver(Decoder(model), load_tokenizer(weights / "backbone"), settings)
