"""Tokenised rows on disk, made once, named after everything that shaped them.

<folder>/<key>/tokens.bin       int32, the rows' tokens one after another
               rows.parquet     id, length and prompt length of each row, in tokens
               description.json format, key, what was dropped, sums of the files
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from mathllm.data.chat import END_OF_TURN, SYSTEM_PROMPT, encode
from mathllm.data.staging import locked, publish, staging
from mathllm.data.tables import reason
from mathllm.errors import DataError
from mathllm.files import digest, is_full
from mathllm.tokens.rows import Example, TokenSet

FORMAT = 1  # part of every key: a new format never reads an old cache
ROWS_AT_ONCE = 2_048  # enough to keep all cores of the tokenizer busy, few enough for memory
COLUMNS = ("id", "problem", "solution")
TOKENS, ROWS, DESCRIPTION = "tokens.bin", "rows.parquet", "description.json"


def open_tokens(folder: Path) -> TokenSet:
    """Map a set from disk. Raises DataError unless it is there and whole."""
    folder = Path(folder)
    try:
        described = dict(json.loads((folder / DESCRIPTION).read_text(encoding="utf-8")))
        if described["sum"] != _sum_of(described):
            raise DataError(f"{DESCRIPTION} is not the file that was written")
        if described["format"] != FORMAT:
            raise DataError(f"format {described['format']}, this version reads {FORMAT}")
        for name, expected in described["sums"].items():
            if digest(folder / name) != expected:
                raise DataError(f"{name} is not the file that was written")
        rows = pl.read_parquet(folder / ROWS, columns=["length", "prompt"])
        tokens = (
            np.memmap(folder / TOKENS, dtype=np.int32, mode="r")
            if len(rows)
            else np.empty(0, dtype=np.int32)
        )
    except (
        *(OSError, ValueError, KeyError, TypeError),
        *(pl.exceptions.PolarsError, DataError),
    ) as fault:
        raise DataError(
            f"{folder} is no whole set of tokens ({fault}): remove it, and the train "
            "notebook makes it again"
        ) from fault
    return TokenSet(
        tokens,
        rows["length"].to_numpy(),
        rows["prompt"].to_numpy(),
        described["key"],
        described["report"],
        folder,
    )


def save_tokens(data: TokenSet, folder: Path) -> Path:
    """Write the set to folder/<key>, whole or not at all; returns that path."""
    place = Path(folder) / data.key
    with _writing(place.parent) as writer:
        if _found(place, writer.staged) is None:
            for start in range(0, len(data), ROWS_AT_ONCE):
                rows = range(start, min(start + ROWS_AT_ONCE, len(data)))
                writer.add([str(i) for i in rows], [data[i] for i in rows])
            writer.publish(place, data.report)
    return place


def _sum_of(described: Mapping[str, Any]) -> str:
    """Digest of a description, of everything in it but this digest."""
    rest = {name: value for name, value in described.items() if name != "sum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


class _Writer:
    """A set that is being put together in a staging folder."""

    def __init__(self, staged: Path) -> None:
        self.staged = staged
        self.set = staged / "set"
        self.set.mkdir()
        self.file = (self.set / TOKENS).open("wb")
        self.rows: dict[str, list] = {"id": [], "length": [], "prompt": []}
        self.share = 0.0  # of the rows to come, how much was added; 0: not known

    def add(self, ids: Sequence[str], examples: Sequence[Example]) -> None:
        """Append rows."""
        for example in examples:
            self.file.write(np.asarray(example.tokens, dtype=np.int32).tobytes())
        self.rows["id"] += ids
        self.rows["length"] += [len(e.tokens) for e in examples]
        self.rows["prompt"] += [e.prompt for e in examples]

    def publish(self, place: Path, report: Mapping[str, int]) -> None:
        """Make the rows the set at `place`, which is named after its key."""
        self.file.close()
        types = {"id": pl.String, "length": pl.Int32, "prompt": pl.Int32}
        pl.DataFrame(self.rows, schema=types).write_parquet(self.set / ROWS)
        sums = {name: digest(self.set / name) for name in (TOKENS, ROWS)}
        described = {"format": FORMAT, "key": place.name, "report": dict(report), "sums": sums}
        described["sum"] = _sum_of(described)
        text = json.dumps(described, indent=1) + "\n"
        (self.set / DESCRIPTION).write_text(text, encoding="utf-8")
        publish(self.set, place)

    def needed(self) -> str:
        """The bytes that the work wants on the disk, as far as that can be told."""
        files = {p: p.stat().st_size for p in self.staged.rglob("*") if p.is_file()}
        tokens = 4 * sum(self.rows["length"])
        if not (tokens and self.share):
            return f"more than {sum(files.values()) / 1e6:,.0f} MB"
        others = sum(size for path, size in files.items() if path.name != TOKENS)
        return f"about {(others + tokens / self.share) / 1e6:,.0f} MB"


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[_Writer]:
    """A writer whose traces are removed in the end.

    Raises DataError for what the disk, or a file that the rows are read from, refuses.
    """
    needed = "room"
    try:
        with staging(folder) as staged:
            writer = _Writer(staged)
            try:
                yield writer
            finally:
                needed = writer.needed()
                with contextlib.suppress(OSError):  # flushes; full, it fails as the write did
                    writer.file.close()
    except (OSError, pl.exceptions.PolarsError) as fault:
        if not is_full(fault):
            raise DataError(
                f"{folder}: the tokens were not made ({reason(fault)}): the folder must be "
                "writable, and the files of the rows whole and unchanged meanwhile"
            ) from fault
        free = shutil.disk_usage(folder).free
        raise DataError(
            f"{folder}: the tokens were not written ({reason(fault)}): {needed} are needed, "
            f"{free / 1e6:,.0f} MB are free there; make room, or give another folder"
        ) from fault


def prepare(
    frame: pl.LazyFrame,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    max_length: int,
    key_parts: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> TokenSet:
    """Tokenise the rows (id, problem, solution) into folder/<key>, or find them there.

    The key is a digest of the rows' own text, the tokenizer, the chat around them and
    `max_length` (and `key_parts`, for what a caller wants told apart), so that nothing
    stale is ever reused. Rows with more tokens than `max_length`, and rows without text,
    are dropped and counted, never cut. Memory stays bounded: rows stream through a file
    beside the cache. Raises DataError for a missing column, a full disk, and when no row
    is left.
    """
    folder = Path(folder)
    names = frame.collect_schema().names()
    if missing := [name for name in COLUMNS if name not in names]:
        raise DataError(f"rows to tokenise need {', '.join(COLUMNS)}; {missing[0]} is not there")
    with _writing(folder) as writer:
        spooled = writer.staged / "text.parquet"
        # The pipeline runs once, streaming; its result is read twice, for the key and for good.
        frame.select(pl.col(name).cast(pl.String) for name in COLUMNS).sink_parquet(spooled)
        key = _key(spooled, tokenizer, max_length, key_parts or {})
        if (found := _found(folder / key, writer.staged)) is not None:
            return found
        report = {"read": 0, "kept": 0, "without text": 0, "prompt too long": 0, "too long": 0}
        total = pq.ParquetFile(spooled).metadata.num_rows
        with tqdm(total=total, desc="tokenising", unit="row", disable=not progress) as bar:
            for ids, problems, solutions in _batches(spooled):
                kept = _tokenised(tokenizer, ids, problems, solutions, max_length, report)
                writer.share = report["read"] / total
                writer.add(*kept)
                bar.update(len(ids))
        if not report["kept"]:
            raise DataError(_nothing_left(report, max_length))
        writer.publish(folder / key, report)
    return open_tokens(folder / key)


def _found(place: Path, staged: Path) -> TokenSet | None:
    """The cached set, None when there is none; a damaged one goes to `staged`, and it is said.

    Two processes that see the damage must not both take the place away, or the second would
    take the first one's new set.
    """
    with locked(place.parent):
        if not place.is_dir():
            return None
        try:
            return open_tokens(place)
        except DataError as fault:
            tqdm.write(f"made again: {fault}")
            place.rename(staged / "damaged")
            return None


def _batches(spooled: Path) -> Iterator[tuple[list[str], list[str | None], list[str | None]]]:
    for batch in pq.ParquetFile(spooled).iter_batches(ROWS_AT_ONCE):
        yield tuple(batch.column(name).to_pylist() for name in COLUMNS)


def _key(
    spooled: Path, tokenizer: PreTrainedTokenizerBase, max_length: int, key_parts: Mapping[str, Any]
) -> str:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    settings = {
        "format": FORMAT,
        # Padding and truncation are those of the tokenizer's last call, not of `encode`.
        "tokenizer": backend | {"padding": None, "truncation": None},
        "template": tokenizer.chat_template,
        "system": SYSTEM_PROMPT,
        "end": END_OF_TURN,
        "max_length": max_length,
        "caller": dict(key_parts),
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for columns in _batches(spooled):
        for values in columns:
            texts = ["" if value is None else value for value in values]
            # Lengths too, so that no two ways to cut the same characters are alike.
            key.update(np.array([len(text) for text in texts]).tobytes())
            key.update("".join(texts).encode("utf-8", "surrogatepass"))
    return key.hexdigest()[:16]


def _tokenised(
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[str],
    problems: Sequence[str | None],
    solutions: Sequence[str | None],
    max_length: int,
    report: dict[str, int],
) -> tuple[list[str], list[Example]]:
    """Ids and examples of the rows that stay; counts the others by reason."""
    whole = [
        (i, p, s)
        for i, p, s in zip(ids, problems, solutions, strict=True)
        if p and p.strip() and s and s.strip()
    ]
    examples = encode(tokenizer, [p for _, p, _ in whole], [s for _, _, s in whole])
    stay = [place for place, e in enumerate(examples) if len(e.tokens) <= max_length]
    report["read"] += len(ids)
    report["kept"] += len(stay)
    report["without text"] += len(ids) - len(whole)
    prompt_too_long = sum(e.prompt >= max_length for e in examples)
    report["prompt too long"] += prompt_too_long
    report["too long"] += len(whole) - len(stay) - prompt_too_long
    return [whole[place][0] for place in stay], [examples[place] for place in stay]


def _nothing_left(report: Mapping[str, int], max_length: int) -> str:
    dropped = ", ".join(f"{n:,} {why}" for why, n in report.items() if n and why != "read")
    return (
        f"no row is left to train on: {report['read']:,} read, {dropped or 'none dropped'} "
        f"(max_length {max_length})\nloosen the filters, or raise max_length"
    )
