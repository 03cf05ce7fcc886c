"""The experiment's task: its rows, its splits, and what a trial says of itself."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mathllm.errors import ParameterError
from mathllm.evaluation.evidence import TRIALS, Trial
from mathllm.tokens.rows import Example, TokenSet
from mathllm.training import evidence
from mathllm.training.baselines import ARMS, SingleState, build
from mathllm.training.config import Saving, TrainConfig
from mathllm.training.run import train

CONFIG = TrainConfig(targets="steps", gated=True, batch=640, lr=1e-3, forced=2, window=2)


def read(example: evidence.Example) -> tuple[dict[int, int], int, int]:
    """The listed function, the hops and the start, from the tokens alone."""
    prompt = [int(token) for token in example.tokens[: example.prompt]]
    hops, table, (start, asked) = prompt[:-11], prompt[-11:-2], prompt[-2:]
    assert asked == evidence.ASKED
    k = hops[0] if hops and hops[0] != evidence.STROKE else len(hops)
    return dict(enumerate(table)), k, start


@pytest.mark.parametrize("strokes", [False, True])
def test_labels_are_where_so_many_applications_lead(strokes):
    data = evidence.rows("test", 90, 0, range(9), strokes)
    for number, example in enumerate(data):
        follow, k, value = read(example)
        assert k == example.hops == number % 9
        walked = [value]
        for _ in range(8):
            walked.append(follow[walked[-1]])
        assert list(example.tokens[example.prompt :]) == [walked[k]]
        assert len(set(walked)) == 9
        if k:
            assert [int(example.labels(step)[0]) for step in range(1, 9)] == walked[1:]


def test_a_row_that_is_written_out_ends_with_the_same_answer():
    plain = evidence.rows("train", 30, 5, range(4))
    written = evidence.rows("train", 30, 5, range(4), written=True)
    for short, long in zip(plain, written, strict=True):
        assert list(long.tokens[: long.prompt]) == list(short.tokens[: short.prompt])
        path = list(long.labels())
        assert path[-1] == short.tokens[-1]
        assert (
            path[:-1] == short.steps[: short.hops - 1, 0].tolist() if short.hops else not path[1:]
        )


def test_what_is_written_out_is_the_models_own():
    class Counts(SingleState):
        """Says what was read last, plus one."""

        def states(self, encoded, steps):
            return (encoded.x for _ in range(steps))

        def encode(self, input_ids, attention_mask=None):
            encoded = super().encode(input_ids, attention_mask)
            said = torch.nn.functional.one_hot(input_ids + 1, evidence.VOCABULARY).float()
            return encoded._replace(x=torch.nn.functional.pad(said, (0, 128 - evidence.VOCABULARY)))

        def head(self, y):
            return y[..., : evidence.VOCABULARY]

    backbone = evidence.small_backbone(seed=0, hidden_size=128).eval()
    model = build("single", backbone, {"n": 1, "T": 1, "N_sup": 1})
    model.__class__ = Counts
    prompt = [3, 2, 5]
    data = TokenSet.of([Example([*prompt, *path], 3, hops=2) for path in ([6, 7], [9, 7], [6, 8])])
    # A wrong step on the way does not count: what counts is where the model's own path leads.
    assert evidence.answers(model, data, 1)["right"].to_list() == [[True] * 2] * 2 + [[False] * 2]


def test_no_function_is_in_two_splits():
    seen = [
        {frozenset(read(example)[0].items()) for example in evidence.rows(split, 2_000, 1, [1])}
        for split in ("train", "development", "test")
    ]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


@pytest.mark.parametrize("hops", [[], [9], [-1, 2]])
def test_hops_that_there_are_not_are_named(hops):
    with pytest.raises(ParameterError, match="integers of 0 to 8"):
        evidence.rows("train", 10, 0, hops)


def test_a_split_that_there_is_not_is_named_and_not_searched_for():
    with pytest.raises(ParameterError, match="split is 'valid': it must be train, test"):
        evidence.rows("valid", 10, 0, [1])


@pytest.mark.parametrize("arm", ARMS)
def test_a_trial_counts_its_work_and_comes_back_from_its_file(tmp_path, arm):
    backbone = evidence.small_backbone(seed=0, hidden_size=16).eval()
    steps = 1 if arm == "low_rank" else 6
    config = replace(CONFIG, forced=0) if arm == "low_rank" else CONFIG
    config = replace(config, targets="same") if arm == "low_rank" else config
    model = build(arm, backbone, {"n": 1, "T": 1, "N_sup": steps})
    data = evidence.rows("train", 200, 3, range(1, 4))
    train(model, data, config, evidence.PADDING, tmp_path, saving=Saving(every_minutes=60))
    table = evidence.answers(model, evidence.rows("test", 40, 0, range(1, 5)), steps=3)
    log = tmp_path / "metrics.jsonl"
    flops = evidence.training_flops(model, data, log, config)
    groups = {json.loads(line).get("group") for line in log.read_text().splitlines()} - {None}
    weights = sum(p.numel() for p in backbone.model.layers.parameters() if p.ndim == 2)
    rows = 640 // len(data[0].tokens)
    # Each weight of the backbone is multiplied once for each token that is encoded.
    least = 2 * weights * rows * len(data[0].tokens) * len(groups)
    assert least <= flops < 100 * least
    trial = Trial(arm, 3, 1e-3, 10, 200, flops, 1.0, "hold 1", {"layers": 2})
    path = tmp_path / "trial.parquet"
    TRIALS.write(path, trial, table)
    found, again = TRIALS.read(path)
    assert found == trial
    assert np.array(again["right"].to_list()).shape == (40, 4)
    assert again["hops"].to_list() == [1, 2, 3, 4] * 10


def test_the_backbone_is_made_once_and_a_folder_of_something_else_is_named(tmp_path):
    made = evidence.backbone_in(tmp_path / "new" / "backbone", steps=2)
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    assert {"config.json", "model.safetensors"} <= set(before)
    evidence.backbone_in(made, steps=3)
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
    assert [path.name for path in made.parent.iterdir()] == ["backbone"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ParameterError, match=r"other is there and has no config\.json"):
        evidence.backbone_in(tmp_path / "other", steps=1)
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_pre_training_lowers_the_loss_on_rows_of_no_and_one_hop():
    backbone = evidence.small_backbone(seed=0, hidden_size=32)
    data = evidence.rows("test", 64, 0, [0])
    ids = torch.tensor(np.array([example.tokens for example in data]))

    def right() -> float:
        with torch.no_grad():
            logits = backbone(input_ids=ids[:, :-1].long()).logits[:, -1]
        return (logits.argmax(-1) == ids[:, -1]).float().mean().item()

    before = right()
    evidence.pretrain(backbone, seed=0, steps=120, lr=3e-3, batch=64)
    assert right() > max(0.3, before)
