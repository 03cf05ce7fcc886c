"""The paper's pseudo-code (arXiv 2510.04871, figure 3) for padded batches, by autograd alone.

Independent of the trainer: whole logits, one backward pass over a sum of micro-batches,
AdamW and the moving average written out.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mathllm.tokens.batches import IGNORED, collate
from mathllm.tokens.rows import TokenSet
from mathllm.training.config import TrainConfig
from mathllm.training.trainer import cosine_with_warmup
from mathllm.trm import RecursiveLM


def recursed(model: RecursiveLM, state: dict, y: Tensor, z: Tensor, graded_from: int) -> tuple:
    """One deep recursion; gradient from recursion `graded_from` on."""
    config, x = model.config, state["x"]
    for recursion in range(config.T):
        with torch.set_grad_enabled(recursion >= graded_from):
            for _ in range(config.n):
                z = model.network(x + y + z, state["rotary"], state["attend"])
            y = model.network(y + z, state["rotary"], state["attend"])
    return y, z


def naive_training(
    model: RecursiveLM, data: TokenSet, groups: Sequence[Sequence], config: TrainConfig
) -> tuple[list[float], list[float], list[Tensor]]:
    """Loss and gradient norm of every step, and the averaged weights at the end."""
    parameters = [p for _, p in model.trm_parameters()]
    average = [p.detach().clone() for p in parameters]
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    step, steps = 0, model.config.N_sup * len(groups)
    losses, norms = [], []
    for group in groups:
        states = []
        for rows in group:
            ids, mask, labels = collate([data[int(i)] for i in rows], 0)
            x, rotary, attend = model.encode(ids, mask)
            states.append({"x": x, "rotary": rotary, "attend": attend, "labels": labels})
        count = sum(int((s["labels"] != IGNORED).sum()) for s in states)
        for supervision in range(model.config.N_sup):
            answer = total = torch.zeros((), dtype=torch.float64)
            for state in states:
                graded_from = model.config.T - 1
                if supervision == 0:
                    y, z = model.initial(state["x"])
                    graded_from = 0 if model.config.learn_initial_state else graded_from
                else:
                    y, z = state["y"], state["z"]
                y, z = recursed(model, state, y, z, graded_from)
                logits, keep = model.head(y), state["labels"] != IGNORED
                loss = F.cross_entropy(logits[keep], state["labels"][keep], reduction="sum")
                right = (logits.argmax(-1) == state["labels"])[keep].double()
                q = model.halting(y.detach()).squeeze(-1)[keep].sigmoid()
                bce = -(right * q.log() + (1 - right) * (1 - q).log()).sum()
                answer = answer + loss / count
                total = total + (loss + config.halting_weight * bce) / count
                state["y"], state["z"] = y.detach(), z.detach()
            gradients = torch.autograd.grad(
                total, parameters, allow_unused=True, materialize_grads=True
            )
            norm = torch.sqrt(sum((g**2).sum() for g in gradients)).item()
            lr = config.lr * cosine_with_warmup(step, steps, config.warmup_steps)
            step += 1
            with torch.no_grad():
                for p, g, m, v, a in zip(
                    parameters, gradients, first, second, average, strict=True
                ):
                    g = g * min(1.0, config.clip / (norm + 1e-6))
                    m.mul_(0.9).add_(0.1 * g)
                    v.mul_(config.beta2).add_((1 - config.beta2) * g * g)
                    p.mul_(1 - lr * config.weight_decay)
                    corrected = m / (1 - 0.9**step)
                    p.sub_(lr * corrected / ((v / (1 - config.beta2**step)).sqrt() + 1e-8))
                    decay = min(config.ema_decay, (1 + step) / (10 + step))
                    a.copy_(decay * a + (1 - decay) * p)
            losses.append(answer.item())
            norms.append(norm)
    return losses, norms, average
