"""The three nested loops of the paper (arXiv 2510.04871, figure 3).

x: the encoded question, y: the current answer, z: the latent; all [B, S, D]. `f` maps
[B, S, D] to [B, S, D] and is called (n + 1) · T times in a supervision step, always in
the order in which the loops are written here: caches rely on it.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

F = Callable[[Tensor], Tensor]


def latent_recursion(f: F, x: Tensor, y: Tensor, z: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """n times z ← f(x + y + z); then y ← f(y + z)."""
    for _ in range(n):
        z = f(x + y + z)
    y = f(y + z)
    return y, z


def deep_recursion(
    f: F,
    x: Tensor,
    y: Tensor,
    z: Tensor,
    n: int,
    T: int,
    full_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """T latent recursions, gradient through the last one only, or through all of them."""
    with torch.set_grad_enabled(full_gradient and torch.is_grad_enabled()):
        for _ in range(T - 1):
            y, z = latent_recursion(f, x, y, z, n)
    return latent_recursion(f, x, y, z, n)


def deep_supervision(
    f: F, x: Tensor, y: Tensor, z: Tensor, n: int, T: int, N_sup: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """N_sup deep recursions; gives y and z after each, and goes on from them detached.

    Training takes the same steps one at a time: each ends in an optimizer step, and the
    states wait while other rows take theirs (mathllm.training.supervision).
    """
    for _ in range(N_sup):
        y, z = deep_recursion(f, x, y, z, n, T)
        yield y, z
        y, z = y.detach(), z.detach()
