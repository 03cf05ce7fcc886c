"""f: the network that the recursion applies again and again.

L post-norm layers over a hidden state, with rotary positions and grouped key-value heads
as in the backbone. How queries meet keys is the caller's: an `Attend` over the whole
sequence here, or over a cache in the decoding room.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mathllm.trm.config import TRMConfig

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q [B, H, S, D], k [B, G, S, D], v [B, G, S, D]) -> [B, H, S, D]; H heads, G key-value heads."""
Rotary = tuple[Tensor, Tensor]
"""cos and sin, each [B, S, D], as transformers' rotary embedding gives them."""


def rms(h: Tensor, eps: float) -> Tensor:
    """RMS norm without weight, over the last dimension (Zhang and Sennrich, 1910.07467)."""
    return F.rms_norm(h, h.shape[-1:], eps=eps)


def rotate(heads: Tensor, rotary: Rotary) -> Tensor:
    """Rotary position embedding (Su et al., 2104.09864), halves paired as in Qwen2."""
    cos, sin = (part.unsqueeze(1) for part in rotary)  # [B, 1, S, D]: the same in every head
    left, right = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-right, left), dim=-1) * sin


def causal_attention(attention_mask: Tensor | None) -> Attend:
    """Attention over whole sequences. `attention_mask` [B, S] is 1 at tokens, 0 at padding.

    Padding on the right needs no mask under causality; padding on the left gets one.
    """
    mask = None
    if attention_mask is not None and not bool(attention_mask[:, 0].all()):
        length = attention_mask.shape[1]
        ones = torch.ones(length, length, dtype=torch.bool, device=attention_mask.device)
        # A padding position attends to itself, since a softmax over nothing is not a number.
        mask = (ones.tril() & attention_mask[:, None, None, :].bool()) | torch.diag(ones.diag())

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=q.shape[1] != k.shape[1]
        )

    return attend


class Attention(nn.Module):
    """Grouped-query self-attention; the output projection starts at zero."""

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.heads = (config.num_heads, config.num_key_value_heads)
        queries, keys = (count * config.head_size for count in self.heads)
        self.qkv = nn.Linear(config.hidden_size, queries + 2 * keys, bias=False)
        self.o = nn.Linear(queries, config.hidden_size, bias=False)
        nn.init.zeros_(self.o.weight)

    def forward(self, h: Tensor, rotary: Rotary, attend: Attend) -> Tensor:
        """h [B, S, D] -> [B, S, D]."""
        H, G = self.heads
        heads = (
            self.qkv(h).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
        )  # [B, H+2G, S, size]
        turned = rotate(heads[:, : H + G], rotary)
        mixed = attend(turned[:, :H], turned[:, H:], heads[:, H + G :])
        return self.o(mixed.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """Gated feed-forward (Shazeer, 2002.05202); the down projection starts at zero."""

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, h: Tensor) -> Tensor:
        """h [B, S, D] -> [B, S, D]."""
        gate, up = self.gate_up(h).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Layer(nn.Module):
    """h ← rms(h + attention(h)); h ← rms(h + swiglu(h)). Without a mixer, the second only."""

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        self.eps = config.rms_norm_eps
        self.attention = Attention(config) if config.mixer == "attention" else None
        self.swiglu = SwiGLU(config)

    def forward(self, h: Tensor, rotary: Rotary, attend: Attend) -> Tensor:
        """h [B, S, D] -> [B, S, D]."""
        if self.attention is not None:
            h = rms(h + self.attention(h, rotary, attend), self.eps)
        return rms(h + self.swiglu(h), self.eps)


class Network(nn.Module):
    """f of the paper: L layers. Untrained it is f(h) = rms(h)."""

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, h: Tensor, rotary: Rotary, attend: Attend) -> Tensor:
        """h [B, S, D] -> [B, S, D]."""
        for layer in self.layers:
            h = layer(h, rotary, attend)
        return h
