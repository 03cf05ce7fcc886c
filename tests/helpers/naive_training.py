"""The paper's pseudo-code (arXiv 2510.04871, figure 3) for padded batches, by autograd alone.

Independent of the trainer: whole logits, one backward pass over a sum of micro-batches,
AdamW and the moving average written out.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mathllm.tokens.batches import IGNORED, collate
from mathllm.tokens.rows import TokenSet
from mathllm.training.averages import cosine_with_warmup
from mathllm.training.config import TrainConfig
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
    model: RecursiveLM,
    data: TokenSet,
    groups: Sequence[Sequence],
    config: TrainConfig,
    passes: Sequence[int] = (),
    label: Callable[[int, int, int], int] = lambda *_: 0,
) -> tuple[list[float], list[float], list[Tensor]]:
    """Loss and gradient norm of every optimizer step, and the averaged weights at the end.

    `passes`: supervision steps of each group, by default N_sup. `label(group, step, row)` says
    which step's labels a row has; 0: its own.
    """
    parameters = [p for _, p in model.trm_parameters()]
    average = [p.detach().clone() for p in parameters]
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    nominal = math.ceil(model.config.N_sup / config.window)
    step, steps = 0, nominal * len(groups)
    losses, norms = [], []
    for number, group in enumerate(groups):
        states = []
        for rows in group:
            ids, mask, labels = collate([data[int(i)] for i in rows], 0)
            x, rotary, attend = model.encode(ids, mask)
            y, z = model.initial(x)
            states.append({"x": x, "y": y, "z": z, "rotary": rotary, "attend": attend})
            states[-1] |= {"labels": labels, "rows": [int(i) for i in rows]}
        count = sum(int((s["labels"] != IGNORED).sum()) for s in states)
        whole = passes[number] if passes else model.config.N_sup
        for begun in range(0, whole, config.window):
            window = range(begun, min(begun + config.window, whole))
            answer = total = torch.zeros((), dtype=torch.float64)
            for state in states:
                own = state["labels"]
                for supervision in window:
                    graded_from = model.config.T - 1
                    if config.window > 1 or (supervision == 0 and model.config.learn_initial_state):
                        graded_from = 0
                    y, z = recursed(model, state, state["y"], state["z"], graded_from)
                    state["y"], state["z"] = y, z
                    logits, keep = model.head(y), own != IGNORED
                    labels = own.clone()
                    for place, row in enumerate(state["rows"]):
                        if which := label(number, supervision + 1, row):
                            labels[place][own[place] != IGNORED] = torch.tensor(
                                data[row].steps[which - 1].tolist()
                            )
                    loss = F.cross_entropy(logits[keep], labels[keep], reduction="sum")
                    stands = (logits.argmax(-1) == own)[keep].double()
                    q = model.halting(y.detach()).squeeze(-1)[keep].sigmoid()
                    bce = -(stands * q.log() + (1 - stands) * (1 - q).log()).sum()
                    answer = answer + loss / count / len(window)
                    total = total + (loss + config.halting_weight * bce) / count / len(window)
            gradients = torch.autograd.grad(
                total, parameters, allow_unused=True, materialize_grads=True
            )
            for state in states:
                state["y"], state["z"] = state["y"].detach(), state["z"].detach()
            norm = torch.sqrt(sum((g**2).sum() for g in gradients)).item()
            place = number * nominal + begun * nominal // whole
            lr = config.lr * cosine_with_warmup(place, steps, config.warmup_steps)
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
