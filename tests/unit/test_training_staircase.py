"""Rows that are right after each step, against logits that are computed anew for each."""

import numpy as np
import torch

from helpers.models import make_backbone, random_trm
from mathllm.tokens.rows import Example, TokenSet
from mathllm.training.staircase import by_hops, right_by_step
from mathllm.trm import RecursiveLM


def logits(model: RecursiveLM, tokens: torch.Tensor, steps: int) -> torch.Tensor:
    if not steps:
        return model.backbone(input_ids=tokens).logits
    return model.logits(tokens, supervision_steps=steps)


def test_rows_are_right_where_every_label_is_the_argmax_of_that_many_steps():
    model = random_trm(make_backbone(), n=2, T=2, N_sup=3)
    rows = []
    for number in range(24):  # each has what some step says behind its prompt, and a token more
        prompt = torch.randint(1, 97, (1, 3 + number % 4))
        said = logits(model, prompt, number % 4)[0, -1].argmax()
        follows = logits(model, torch.cat([prompt, said.view(1, 1)], 1), number % 4)[0, -1].argmax()
        rows.append(Example([*prompt[0].tolist(), int(said), int(follows)], prompt.shape[1]))
    data = TokenSet.of(rows)
    right, sure = right_by_step(model, data, padding=0, steps=3, batch=40)
    assert right.shape == sure.shape == (24, 4)
    for row, example in enumerate(rows):
        assert right[row, row % 4]
        tokens = torch.tensor([example.tokens])
        expected = [
            logits(model, tokens, n)[0, -3:-1].argmax(-1).tolist() == example.tokens[-2:]
            for n in range(4)
        ]
        assert right[row].tolist() == expected
    assert not right.all()
    assert not sure[:, 0].any()
    model.halting.bias.data.fill_(100.0)
    assert right_by_step(model, data, 0, 2)[1][:, 1:].all()


def test_shares_are_by_hops_and_leave_out_rows_without():
    right = np.array([[1, 0], [0, 0], [1, 1], [1, 1]], dtype=bool)
    assert by_hops(right, np.array([2, 2, 1, 0])) == {1: [1.0, 1.0], 2: [0.5, 0.0]}
