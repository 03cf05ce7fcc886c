"""Rows of each source to the one schema, as polars expressions over lazy frames."""

from collections.abc import Callable, Mapping

import polars as pl

from mathllm.answers.boxes import last_box
from mathllm.errors import DataError
from mathllm.wording import shown

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


def plain(text: pl.Expr) -> pl.Expr:
    """Curly quotes, odd dashes and odd spaces to ASCII; blanks at the ends removed."""
    return (
        text.cast(pl.String)
        .str.replace_many(list(_TYPOGRAPHY), list(_TYPOGRAPHY.values()))
        .str.strip_chars()
    )


def boxed(text: pl.Expr) -> pl.Expr:
    """The content of the last box; null without one."""
    return text.map_elements(last_box, return_dtype=pl.String, skip_nulls=True)


def from_gsm8k(rows: pl.LazyFrame) -> pl.LazyFrame:
    """question, answer: worked text, then `#### N`, which becomes a sentence with its box."""
    parts = pl.col("answer").cast(pl.String).str.split("####")
    answer = parts.list.get(1, null_on_oob=True).str.strip_chars().str.replace_all(",", "")
    worked = plain(parts.list.first().str.replace_all(_CALCULATOR, ""))
    return rows.select(
        pl.lit("gsm8k").alias("source"),
        plain(pl.col("question")).alias("problem"),
        (worked + "\nThe answer is $\\boxed{" + answer + "}$.").alias("solution"),
        answer.alias("answer"),
        pl.lit(None, pl.String).alias("level"),
        pl.lit(None, pl.String).alias("subject"),
    )


def from_math(rows: pl.LazyFrame) -> pl.LazyFrame:
    """problem, solution, level, type or subject, perhaps answer; "Level 3" becomes "3"."""
    names = rows.collect_schema().names()
    subject = "type" if "type" in names else "subject"
    answer = pl.col("answer").cast(pl.String) if "answer" in names else boxed(pl.col("solution"))
    return rows.select(
        pl.lit("math").alias("source"),
        plain(pl.col("problem")).alias("problem"),
        plain(pl.col("solution")).alias("solution"),
        answer.alias("answer"),
        pl.col("level").cast(pl.String).str.strip_prefix("Level ").alias("level"),
        (pl.col(subject) if subject in names else pl.lit(None, pl.String)).alias("subject"),
    )


def from_numina(rows: pl.LazyFrame) -> pl.LazyFrame:
    """source, problem, solution; the answer is the solution's last box."""
    solution = plain(pl.col("solution"))
    return rows.select(
        pl.col("source").cast(pl.String),
        plain(pl.col("problem")).alias("problem"),
        solution.alias("solution"),
        boxed(solution).alias("answer"),
        pl.lit(None, pl.String).alias("level"),
        pl.lit(None, pl.String).alias("subject"),
    )


def from_columns(rows: pl.LazyFrame, columns: Mapping[str, str]) -> pl.LazyFrame:
    """Any file: `columns` maps names of the schema to the file's; the rest is null.

    An answer that is not given is read from the solution's last box. A solution without a
    box gets a sentence with the answer in one.
    """
    if unknown := sorted(set(columns) - set(SCHEMA)):
        raise DataError(f"columns: {shown(unknown[0])} is none of {', '.join(SCHEMA)}")

    def given(name: str) -> pl.Expr:
        there = name in columns
        return pl.col(columns[name]).cast(pl.String) if there else pl.lit(None, pl.String)

    solution = plain(given("solution"))
    answer = given("answer") if "answer" in columns else boxed(solution)
    with_box = (
        pl.when(solution.str.contains(r"\boxed", literal=True))
        .then(solution)
        .otherwise(
            pl.concat_str(
                solution.fill_null("") + pl.lit("\nThe answer is $\\boxed{"), answer, pl.lit("}$.")
            ).str.strip_chars()
        )
    )
    return rows.select(
        *([given("id").alias("id")] if "id" in columns else []),
        given("source").fill_null("file").alias("source"),
        plain(given("problem")).alias("problem"),
        with_box.alias("solution"),
        answer.alias("answer"),
        given("level").alias("level"),
        given("subject").alias("subject"),
    )


Conversion = Callable[[pl.LazyFrame], pl.LazyFrame]
