"""RecursiveLM: frozen backbone → x → recursion → y → head → logits."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mathllm.errors import WeightsError
from mathllm.trm.backbone import run_backbone
from mathllm.trm.block import Attend, Network, Rotary, causal_attention, rms
from mathllm.trm.config import TRMConfig
from mathllm.trm.recursion import F, deep_recursion, deep_supervision

NOT_YET = -5.0  # bias of the untrained halting head: sigmoid(−5) = 0.7 %, as in the paper's code


class Encoded(NamedTuple):
    """What the recursion needs of a batch: x [B, S, D], rotary cos and sin, attention."""

    x: Tensor
    rotary: Rotary
    attend: Attend


def positions(attention_mask: Tensor) -> Tensor:
    """Positions [B, S] that count tokens only, so that padding on the left moves nothing."""
    return (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)


class RecursiveLM(nn.Module):
    """A tiny recursive model over a frozen causal LM of Qwen2's shape.

    The backbone's parameters are frozen here. Untrained, its logits are the backbone's.
    """

    def __init__(self, backbone: nn.Module, config: TRMConfig) -> None:
        super().__init__()
        for name in ("hidden_size", "vocab_size"):
            theirs = getattr(backbone.config, name)
            if theirs != getattr(config, name):
                raise WeightsError(
                    f"this TRM is for a backbone with {name} {getattr(config, name)}, the one "
                    f"given has {theirs}: use the backbone it was trained on"
                )
        self.config = config
        self.backbone = backbone.requires_grad_(False).eval()
        self.network = Network(config)
        self.halting = nn.Linear(config.hidden_size, 1)
        nn.init.zeros_(self.halting.weight)
        nn.init.constant_(self.halting.bias, NOT_YET)
        initial = torch.zeros(2, config.hidden_size)  # y_init and z_init
        if config.learn_initial_state:
            self.initial_state = nn.Parameter(initial)
        else:
            self.register_buffer("initial_state", initial, persistent=False)
        if config.train_head:
            self.norm_weight = nn.Parameter(backbone.model.norm.weight.detach().float().clone())
            self.head_weight = nn.Parameter(backbone.lm_head.weight.detach().float().clone())
        weight = backbone.model.norm.weight
        self.to(weight.device)

    def train(self, mode: bool = True) -> "RecursiveLM":
        """The backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Encoded:
        """input_ids, attention_mask [B, S] -> what the recursion needs. No gradient, no cache."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        position_ids = positions(attention_mask)
        h, _ = run_backbone(
            self.backbone,
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
        )
        return Encoded(
            self.normalise(h), self.rotary(h, position_ids), causal_attention(attention_mask)
        )

    def context(self, x: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Encoded:  # noqa: ARG002
        """What the recursion needs of rows that were encoded before, to x [B, S, D]."""
        rotary = self.rotary(x, positions(attention_mask))
        return Encoded(x, rotary, causal_attention(attention_mask))

    def normalise(self, h: Tensor) -> Tensor:
        """x = rms(h), in the TRM's precision."""
        return rms(h.to(self.halting.weight.dtype), self.config.rms_norm_eps)

    def rotary(self, h: Tensor, position_ids: Tensor) -> Rotary:
        """cos and sin [B, S, head size], by the backbone's own rotary embedding."""
        cos, sin = self.backbone.model.rotary_emb(h, position_ids)
        dtype = self.halting.weight.dtype
        return cos.to(dtype), sin.to(dtype)

    def initial(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y and z before the first step, each [B, S, D]."""
        y, z = self.initial_state.to(x.dtype).unbind()
        return y.expand_as(x), z.expand_as(x)

    def f(self, rotary: Rotary, attend: Attend, step: int = 1) -> F:  # noqa: ARG002
        """The network as the recursion wants it: [B, S, D] -> [B, S, D]; one for all steps."""
        return lambda h: self.network(h, rotary, attend)

    def step(
        self, f: F, x: Tensor, y: Tensor, z: Tensor, full_gradient: bool = False
    ) -> tuple[Tensor, Tensor]:
        """One supervision step's deep recursion over states [B, S, D]."""
        return deep_recursion(f, x, y, z, self.config.n, self.config.T, full_gradient)

    def readout(self, y: Tensor, encoded: Encoded) -> Tensor:  # noqa: ARG002
        """y [B, S, D] as the head wants it: as it is."""
        return y

    def head(self, y: Tensor) -> Tensor:
        """Logits [..., V] of states y [..., D]: lm_head(w ⊙ rms(y))."""
        normal = rms(y, self.config.rms_norm_eps)
        if self.config.train_head:
            return nn.functional.linear(self.norm_weight * normal, self.head_weight)
        weight = self.backbone.model.norm.weight
        return self.backbone.lm_head(weight * normal.to(weight.dtype))

    def halting_logit(self, y: Tensor) -> Tensor:
        """Logit [...] of the probability that the argmax token at y [..., D] is right."""
        return self.halting(y).squeeze(-1)

    @torch.no_grad()
    def refine(
        self, x: Tensor, rotary: Rotary, attend: Attend, supervision_steps: int | None = None
    ) -> Tensor:
        """y [B, S, D] after N_sup supervision steps (or `supervision_steps`), no gradient."""
        steps = self.config.N_sup if supervision_steps is None else supervision_steps
        states = self.states(Encoded(x, rotary, attend), steps)
        return deque(states, maxlen=1).pop()  # the last, and no other is held

    @torch.no_grad()
    def states(self, encoded: Encoded, steps: int) -> Iterator[Tensor]:
        """What the head sees [B, S, D] after each of `steps` supervision steps, no gradient."""
        f, state = self.f(encoded.rotary, encoded.attend), self.initial(encoded.x)
        config = self.config
        for y, _ in deep_supervision(f, encoded.x, *state, config.n, config.T, steps):
            yield self.readout(y, encoded)

    @torch.no_grad()
    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        supervision_steps: int | None = None,
    ) -> Tensor:
        """Logits [B, S, V] of next tokens, everything recomputed: the reference.

        input_ids, attention_mask [B, S]; padding on either side. `supervision_steps`
        replaces N_sup.
        """
        x, rotary, attend = self.encode(input_ids, attention_mask)
        return self.head(self.refine(x, rotary, attend, supervision_steps))

    def trm_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Name and tensor of every parameter that is the TRM's own; all are trainable."""
        return [(k, p) for k, p in self.named_parameters() if not k.startswith("backbone.")]

    def parameter_table(self) -> list[tuple[str, int, bool]]:
        """Rows (component, parameters, trainable). Tied weights count once."""

        def count(*names: str) -> int:
            own = dict(self.trm_parameters())
            return sum(p.numel() for k, p in own.items() if k.split(".")[0] in names)

        rows = [
            ("backbone", sum(p.numel() for p in self.backbone.parameters()), False),
            ("recursion network f", count("network"), True),
            ("halting head", count("halting"), True),
            ("norm and lm_head", count("norm_weight", "head_weight"), True),
            ("initial state", count("initial_state"), True),
        ]
        return [row for row in rows if row[1]]
