"""Accuracy in counts: every problem answered once, in its place, and tabled by group."""

import polars as pl
import pytest

from mathllm.data.arithmetic import generate
from mathllm.data.tokenizer import train_tokenizer
from mathllm.decoding import Completion
from mathllm.errors import ParameterError
from mathllm.evaluation import accuracy_table, answer_rows
from mathllm.evaluation.plots import plot_accuracy


class Scripted:
    """Answers a prompt with the text that its problem is mapped to."""

    def __init__(self, tokenizer, script: dict[str, str]) -> None:
        self.tokenizer, self.script, self.asked = tokenizer, script, 0

    def generate(self, prompts, config):
        assert config.temperature == 0
        self.asked += len(prompts)
        texts = [self.tokenizer.decode(p) for p in prompts]
        replies = [next(r for q, r in self.script.items() if q in text) for text in texts]
        ids = [self.tokenizer(r, add_special_tokens=False)["input_ids"] for r in replies]
        return [[Completion(tokens=i, finish_reason="stop")] for i in ids]


@pytest.fixture(scope="module")
def tokenizer():
    rows = generate("train", 300, seed=0)
    return train_tokenizer((rows["problem"] + rows["solution"]).to_list(), 400)


def test_each_problem_is_answered_once_and_in_its_place(tokenizer):
    rows = pl.DataFrame(
        {
            "problem": ["What is $2+2$?", "A longer one: $3\\times3$?", "What is $2+2$?", "Huh?"],
            "answer": [4, 9, 4, 1],
        }
    )
    script = {"$2+2$": "$\\boxed{4}$", "3\\times3": "$\\boxed{8}$", "Huh?": "no idea"}
    engine = Scripted(tokenizer, script)
    answered = answer_rows(engine, tokenizer, rows, batch_rows=2)
    assert engine.asked == 3
    assert answered["predicted"].to_list() == [4, 8, None]
    assert answered["right"].to_list() == [True, False, False]
    assert answered["text"].to_list() == ["$\\boxed{4}$", "$\\boxed{8}$", "no idea"]


def test_the_table_counts_by_group_and_in_all():
    def results(right: list[bool]) -> pl.DataFrame:
        return pl.DataFrame({"subject": ["gcd", "add", "add"], "right": right})

    table = accuracy_table(
        {"backbone": results([True, False, False]), "TRM": results([True, True, False])}, "subject"
    )
    assert table.rows() == [("add", 2, 0, 1), ("gcd", 1, 1, 1), ("all", 3, 1, 2)]
    assert table.columns == ["subject", "problems", "backbone", "TRM"]
    labels = [text.get_text() for text in plot_accuracy(table).axes[0].texts]
    assert labels == ["0", "100", "33", "50", "100", "67"]  # percent, engine by engine


def test_nothing_to_evaluate_is_said(tokenizer):
    with pytest.raises(ParameterError, match="no problems"):
        answer_rows(
            Scripted(tokenizer, {}),
            tokenizer,
            pl.DataFrame(schema={"problem": pl.String, "answer": pl.Int64}),
        )
    with pytest.raises(ParameterError, match="no results"):
        accuracy_table({}, "subject")
