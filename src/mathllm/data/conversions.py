"""Rows of each source to the one schema, as polars expressions over lazy frames of text."""

from collections.abc import Callable

import polars as pl

from mathllm.data.given_answers import boxed, closed, in_digits, stated
from mathllm.data.tables import is_conversation
from mathllm.files import parse_json

SCHEMA = ("id", "source", "problem", "solution", "answer", "level", "subject")

# What keyboards and web pages put in place of ASCII; every other sign is left as it is.
_TYPOGRAPHY = {
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "−": "-",
    "–": "-",
    "\xa0": " ",
    "\u2028": "\n",
    "\u200b": "",
}
_CALCULATOR = r"<<[^<>]*>>"  # GSM8K's marks for a calculator: <<48/2=24>>
_GSM8K = r"(?s)^(.*)####\s*(\S[^\n]*)"  # the last mark that has something after it
_ASKED, _ANSWERED = ("user", "human"), ("assistant", "gpt")


def plain(text: pl.Expr) -> pl.Expr:
    """Curly quotes, odd dashes and odd spaces to ASCII; blanks at the ends removed, and null
    where nothing else is there."""
    ascii_text = text.str.replace_many(list(_TYPOGRAPHY), list(_TYPOGRAPHY.values()))
    return ascii_text.str.strip_chars().replace("", None)


def from_gsm8k(rows: pl.LazyFrame) -> pl.LazyFrame:
    """question, answer: worked text, then `#### N`, which becomes a sentence with its box."""
    worked = pl.coalesce(pl.col("answer").str.extract(_GSM8K, 1), "answer")
    answered = _answered(
        rows.select(
            source=pl.lit("gsm8k"),
            problem=plain(pl.col("question")),
            solution=plain(worked.str.replace_all(_CALCULATOR, "")).fill_null(""),
            answer=pl.col("answer").str.extract(_GSM8K, 2),
            level=pl.lit(None, pl.String),
            subject=pl.lit(None, pl.String),
        )
    )
    return answered.with_columns(answer=in_digits(pl.col("answer")))


def from_math(rows: pl.LazyFrame) -> pl.LazyFrame:
    """problem, solution, level, type or subject, perhaps answer; "Level 3" becomes "3"."""
    return _answered(
        rows.select(
            source=pl.lit("math"),
            problem=plain(pl.col("problem")),
            solution=plain(pl.col("solution")),
            answer="answer",
            level=_level("level"),
            subject=pl.coalesce("type", "subject"),
        )
    )


def from_numina(rows: pl.LazyFrame) -> pl.LazyFrame:
    """problem, solution and perhaps source (NuminaMath-CoT, -TIR), answer and problem_type (1.5).

    A problem or solution that version 1.5 marks as anything but valid ("No", "Incomplete", …)
    counts as absent. A problem with a valid answer and no valid solution can still be evaluated
    on, and is not trained on.
    """
    return _answered(
        rows.select(
            source=pl.coalesce("source", pl.lit("numina")),
            problem=_valid("problem"),
            solution=_valid("solution"),
            answer="answer",
            level=pl.lit(None, pl.String),
            subject="problem_type",
        )
    )


def from_columns(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Some of the schema's columns; the rest is null, but for the answer in a solution's box.

    A problem or solution that is a conversation is its first question, its last reply; an
    answer that is one has no single value.
    """
    absent = [name for name in SCHEMA[1:] if name not in rows.collect_schema()]
    return _answered(
        rows.with_columns(pl.lit(None, pl.String).alias(name) for name in absent).with_columns(
            source=pl.coalesce("source", pl.lit("file")),
            problem=plain(first_question("problem")),
            # "" so that a row with an answer alone gets the sentence that states it.
            solution=plain(_turn("solution", _ANSWERED, -1)).fill_null(""),
            answer=pl.when(~pl.col("answer").str.starts_with('[{"')).then("answer"),
            level=_level("level"),
        )
    )


Conversion = Callable[[pl.LazyFrame], pl.LazyFrame]


def first_question(column: str) -> pl.Expr:
    """A column of problems: its text, and of a conversation the first question."""
    return _turn(column, _ASKED, 0)


def _answered(rows: pl.LazyFrame) -> pl.LazyFrame:
    """The rows with what they state as answer made plain, else the solution's last box; a
    solution without a box gets a sentence with the answer in one."""
    answer, solution, box = pl.col("answer"), pl.col("solution"), pl.col("box")
    return (
        rows.with_columns(box=boxed(solution))
        .with_columns(answer=stated(plain(answer), box))
        .with_columns(solution=closed(solution, answer, box))
        .drop("box")
    )


def _level(column: str) -> pl.Expr:
    """5 for "Level 5", and for the 5.0 that a column with gaps makes of it."""
    return pl.col(column).str.replace(r"(?i)^\s*(?:level\s+)?(\d+)(?:\.0+)?\s*$", "$1")


def _valid(column: str) -> pl.Expr:
    mark = pl.col(f"{column}_is_valid").str.strip_chars().str.to_lowercase()
    valid = mark.is_in(["yes", "true", ""]) | mark.is_null()
    return pl.when(valid).then(plain(pl.col(column)))


def _turn(column: str, roles: tuple[str, ...], place: int) -> pl.Expr:
    """What the first (0) or last (-1) turn of a role says, of a conversation; any other text
    as it is."""

    def said(text: str) -> str | None:
        if not text.startswith("[{"):
            return text
        try:
            turns = parse_json(text)
        except ValueError:
            return text
        if not is_conversation(turns):
            return text
        pairs = [(t.get("role", t.get("from")), t.get("content", t.get("value"))) for t in turns]
        texts = [content for role, content in pairs if role in roles and isinstance(content, str)]
        return texts[place] if texts else None

    return pl.col(column).map_elements(said, return_dtype=pl.String, skip_nulls=True)
