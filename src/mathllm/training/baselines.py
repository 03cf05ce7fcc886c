"""What the paper's recursion is compared with (docs/EVIDENCE.md): arms of one experiment.

Each is trained by the same trainer, on the same rows and targets, over the same frozen backbone,
and says what the head sees after each supervision step. None of them is ever decoded or served.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from mathllm.errors import ParameterError
from mathllm.trm import RecursiveLM, TRMConfig
from mathllm.trm.block import Attend, Network, Rotary, causal_attention, rms
from mathllm.trm.model import Encoded, positions
from mathllm.trm.recursion import F
from mathllm.wording import shown


class SingleState(RecursiveLM):
    """y ← f(x + y) in each step: neither a latent z, nor n, nor T. With N_sup = 1: no loop."""

    def step(
        self,
        f: F,
        x: Tensor,
        y: Tensor,
        z: Tensor,
        full_gradient: bool = False,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """One call of f."""
        return f(self.given(x, y)), z

    def given(self, x: Tensor, y: Tensor) -> Tensor:
        """What f sees of x and y, all [B, S, D]."""
        return x + y

    @torch.no_grad()
    def states(self, encoded: Encoded, steps: int) -> Iterator[Tensor]:
        """As RecursiveLM.states."""
        y, z = self.initial(encoded.x)
        for step in range(1, steps + 1):
            f = self.f(encoded.rotary, encoded.attend, step)
            y, z = self.step(f, encoded.x, y, z)
            yield self.readout(y, encoded)


class Untied(SingleState):
    """A network of its own for each of N_sup steps: depth without recursion. The last one goes on
    for steps beyond."""

    def __init__(self, backbone: nn.Module, config: TRMConfig) -> None:
        super().__init__(backbone, config)
        self.network = nn.ModuleList(Network(config) for _ in range(config.N_sup))
        self.to(self.halting.weight.device)

    def f(self, rotary: Rotary, attend: Attend, step: int = 1) -> F:
        """The network of this step."""
        network = self.network[min(step, len(self.network)) - 1]
        return lambda h: network(h, rotary, attend)


class CopiedLoop(SingleState):
    """y ← f(W_s y + W_p rms(x)), where f begins as a copy of the backbone's layers `copied`.

    x is what enters layer `enter`; after each step the frozen layers from `leave` on read y out. So
    a loop stands after the last layer (both are the number of layers) or in the middle. W_s begins
    as the identity and W_p as zero.
    """

    def __init__(
        self,
        backbone: nn.Module,
        config: TRMConfig,
        copied: range,
        enter: int,
        leave: int,
    ) -> None:
        super().__init__(backbone, config)
        layers = backbone.model.layers
        if not 0 <= enter <= leave <= len(layers) or not 0 <= copied.start < copied.stop <= len(
            layers
        ):
            raise ParameterError(
                f"layers {copied.start} to {copied.stop - 1} are copied and the loop stands at "
                f"{enter} to {leave}: the backbone has {len(layers)}"
            )
        self.enter, self.leave = enter, leave
        copies = deepcopy(layers[copied.start : copied.stop]).float().requires_grad_(True)
        self.network = nn.ModuleDict({"layers": copies})
        for number, layer in enumerate(copies):
            layer.self_attn.layer_idx = number
        size = config.hidden_size
        self.network["state"] = nn.Linear(size, size, bias=False)
        self.network["input"] = nn.Linear(size, size, bias=False)
        nn.init.eye_(self.network["state"].weight)
        nn.init.zeros_(self.network["input"].weight)
        self.to(self.halting.weight.device)

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Encoded:
        """x is what enters layer `enter`."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        with torch.no_grad():
            h = self.backbone.model.embed_tokens(input_ids)
            encoded = self.context(h, input_ids, attention_mask)
            for layer in self.backbone.model.layers[: self.enter]:
                h = _run(layer, h, encoded.rotary)
        return encoded._replace(x=h.to(self.halting.weight.dtype))

    def initial(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y begins as x."""
        return x, torch.zeros_like(x)

    def f(self, rotary: Rotary, attend: Attend, step: int = 1) -> F:  # noqa: ARG002
        """The copied layers."""

        def run(h: Tensor) -> Tensor:
            for layer in self.network["layers"]:
                h = _run(layer, h, rotary)
            return h

        return run

    def given(self, x: Tensor, y: Tensor) -> Tensor:
        """W_s y + W_p rms(x)."""
        return self.network["state"](y) + self.network["input"](rms(x, self.config.rms_norm_eps))

    def readout(self, y: Tensor, encoded: Encoded) -> Tensor:
        """y [B, S, D] through the layers behind the loop."""
        for layer in self.backbone.model.layers[self.leave :]:
            y = _run(layer, y, encoded.rotary)
        return y


def _run(layer: nn.Module, h: Tensor, rotary: Rotary) -> Tensor:
    """A transformers layer over whole sequences [B, S, D], padded on the right."""
    out = layer(h, attention_mask=None, position_embeddings=rotary)
    return out[0] if isinstance(out, tuple) else out


class LowRank(SingleState):
    """LoRA (Hu et al., 2106.09685) of `rank` in every linear layer of the backbone; no network.

    Trained without a loop, N_sup = 1: what the head sees is the adapted backbone.
    """

    def __init__(self, backbone: nn.Module, config: TRMConfig, rank: int) -> None:
        super().__init__(backbone, config)
        self.network = nn.ModuleDict()
        for name, part in backbone.model.layers.named_modules():
            if isinstance(part, nn.Linear):
                down = nn.Linear(part.in_features, rank, bias=False)
                up = nn.Linear(rank, part.out_features, bias=False)
                nn.init.zeros_(up.weight)
                adapter = self.network[name.replace(".", "-")] = nn.Sequential(down, up)
                part.register_forward_hook(_added(adapter))
        self.to(self.halting.weight.device)

    def context(self, x: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Encoded:  # noqa: ARG002
        """x anew, with gradient: it is what is trained."""
        h = self.backbone.model.embed_tokens(input_ids)
        rotary = self.rotary(h, positions(attention_mask))
        for layer in self.backbone.model.layers:
            h = _run(layer, h, rotary)
        return Encoded(self.normalise(h), rotary, causal_attention(attention_mask))

    def step(
        self,
        f: F,  # noqa: ARG002
        x: Tensor,
        y: Tensor,  # noqa: ARG002
        z: Tensor,
        full_gradient: bool = False,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """The adapted backbone's own state."""
        return x, z


def _added(adapter: nn.Module) -> Callable[..., Tensor]:
    return lambda _, inputs, output: output + adapter(inputs[0])


ARMS = ("paper", "single", "untied", "copied", "middle", "low_rank")


def build(arm: str, backbone: nn.Module, trm: dict[str, Any], rank: int = 8) -> RecursiveLM:
    """The arm's model over `backbone`, with the settings `trm` of TRMConfig.for_backbone.

    copied: a loop after the last layer whose f is a copy of the middle half of the backbone's
    layers; middle: the same in their place. Raises ParameterError for an unknown arm.
    """
    config = TRMConfig.for_backbone(backbone.config, **trm)
    count = backbone.config.num_hidden_layers
    half = range(count // 4, count - count // 4)
    makers: dict[str, Callable[[], RecursiveLM]] = {
        "paper": lambda: RecursiveLM(backbone, config),
        "single": lambda: SingleState(backbone, config),
        "untied": lambda: Untied(backbone, config),
        "copied": lambda: CopiedLoop(backbone, config, half, count, count),
        "middle": lambda: CopiedLoop(backbone, config, half, half.start, half.stop),
        "low_rank": lambda: LowRank(backbone, config, rank),
    }
    if arm not in makers:
        raise ParameterError(f"arm is {shown(arm)}: it must be one of {', '.join(ARMS)}")
    return makers[arm]()
