"""Shape and schedule of the recursion, every size taken from the backbone's config."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from mathllm.errors import ParameterError
from mathllm.wording import shown


@dataclass(frozen=True)
class TRMConfig:
    """Symbols as in the paper (arXiv 2510.04871, section 4).

    n: latent updates in a latent recursion. T: latent recursions in a deep recursion, of
    which only the last carries gradient. N_sup: supervision steps. Effective depth:
    layers · (n + 1) · T · N_sup. halting_threshold: the halting probability at which decoding
    freezes a token; None, never. verifier: the halting head says whether the whole answer is right
    (mathllm.training.verifier), so that no token may halt by it.
    """

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_key_value_heads: int
    head_size: int
    vocab_size: int
    max_positions: int
    rms_norm_eps: float
    layers: int = 2
    n: int = 6
    T: int = 3
    N_sup: int = 16
    mixer: Literal["attention", "none"] = "attention"
    train_head: bool = False
    learn_initial_state: bool = False
    halting_threshold: float | None = None
    verifier: bool = False

    def __post_init__(self) -> None:
        for name in ("layers", "n", "T", "N_sup"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ParameterError(
                    f"{name} is {shown(value)}: it must be an integer of at least 1"
                )
        if self.mixer not in ("attention", "none"):
            raise ParameterError(f"mixer is {shown(self.mixer)}: it must be 'attention' or 'none'")
        if self.halting_threshold is not None and not 0 < self.halting_threshold <= 1:
            raise ParameterError(
                f"halting_threshold is {self.halting_threshold}: it must be over 0 and at most 1, "
                "or None"
            )
        if self.verifier and self.halting_threshold is not None:
            raise ParameterError(
                f"halting_threshold is {self.halting_threshold}, but the halting head is a "
                "verifier of whole answers: give None"
            )

    @classmethod
    def for_backbone(cls, backbone: Any, **overrides: Any) -> "TRMConfig":
        """The config that fits a transformers config of Qwen2's shape.

        SwiGLU is 8/3 of the hidden size wide, rounded up to a multiple of 256. Raises
        ParameterError for an override that is not a field.
        """
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in overrides if name not in known]:
            raise ParameterError(
                f"TRMConfig has no setting {shown(unknown[0])}; it has {', '.join(known)}"
            )
        hidden = backbone.hidden_size
        head_size = getattr(backbone, "head_dim", None) or hidden // backbone.num_attention_heads
        sizes = {
            "hidden_size": hidden,
            "intermediate_size": -(-8 * hidden // (3 * 256)) * 256,
            "num_heads": backbone.num_attention_heads,
            "num_key_value_heads": backbone.num_key_value_heads,
            "head_size": head_size,
            "vocab_size": backbone.vocab_size,
            "max_positions": backbone.max_position_embeddings,
            "rms_norm_eps": backbone.rms_norm_eps,
        }
        return cls(**(sizes | overrides))

    def as_verifier(self) -> "TRMConfig":
        """The same, with a head that judges whole answers."""
        return replace(self, verifier=True, halting_threshold=None)

    @property
    def calls(self) -> int:
        """How often f is applied to a token: (n + 1) · T · N_sup."""
        return (self.n + 1) * self.T * self.N_sup

    @property
    def effective_depth(self) -> int:
        """Layers that a token passes: L · (n + 1) · T · N_sup."""
        return self.layers * self.calls
