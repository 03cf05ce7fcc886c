"""Tokenised rows on disk, made once, named after everything that shaped them.

<folder>/<key>/tokens.bin       int32, the rows' tokens one after another
               steps.bin        int32, their labels by supervision step, where they have some
               rows.parquet     of each row: id; length and prompt length, in tokens; depth (steps
                                with labels) and hops
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
from mathllm.data.step_labels import with_steps
from mathllm.data.tables import reason
from mathllm.errors import DataError
from mathllm.files import digest, is_full
from mathllm.tokens.rows import Example, StepLabels, TokenSet

FORMAT = 2  # part of every key: a new format never reads an old cache
ROWS_AT_ONCE = 2_048  # enough to keep all cores of the tokenizer busy, few enough for memory
COLUMNS = ("id", "problem", "solution")
BY_STEP = {"steps": pl.List(pl.String), "hops": pl.Int64}
TOKENS, STEPS, ROWS, DESCRIPTION = "tokens.bin", "steps.bin", "rows.parquet", "description.json"


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
        rows = pl.read_parquet(folder / ROWS, columns=["length", "prompt", "depth", "hops"])
        tokens, labels = (_mapped(folder / name) for name in (TOKENS, STEPS))
        by_step = StepLabels(labels, rows["depth"].to_numpy(), rows["hops"].to_numpy())
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
        by_step,
    )


def _mapped(path: Path) -> np.ndarray:
    if not path.stat().st_size:  # nothing of no length can be mapped
        return np.empty(0, dtype=np.int32)
    return np.memmap(path, dtype=np.int32, mode="r")


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


ROW_TYPES = {
    "id": pl.String,
    **dict.fromkeys(("length", "prompt", "depth", "hops"), pl.Int32),
}


class _Writer:
    """A set that is being put together in a staging folder."""

    def __init__(self, staged: Path) -> None:
        self.staged = staged
        self.set = staged / "set"
        self.set.mkdir()
        self.files = {name: (self.set / name).open("wb") for name in (TOKENS, STEPS)}
        self.rows: dict[str, list] = {name: [] for name in ROW_TYPES}
        self.share = 0.0  # of the rows to come, how much was added; 0: not known

    def add(self, ids: Sequence[str], examples: Sequence[Example]) -> None:
        """Append rows."""
        for example in examples:
            self.files[TOKENS].write(np.asarray(example.tokens, dtype=np.int32).tobytes())
        by_step = StepLabels.of(examples)
        self.files[STEPS].write(by_step.labels.tobytes())
        self.rows["id"] += ids
        self.rows["length"] += [len(e.tokens) for e in examples]
        self.rows["prompt"] += [e.prompt for e in examples]
        self.rows["depth"] += by_step.depths.tolist()
        self.rows["hops"] += by_step.hops.tolist()

    def publish(self, place: Path, report: Mapping[str, int]) -> None:
        """Make the rows the set at `place`, which is named after its key."""
        self.close()
        pl.DataFrame(self.rows, schema=ROW_TYPES).write_parquet(self.set / ROWS)
        sums = {name: digest(self.set / name) for name in (TOKENS, STEPS, ROWS)}
        described = {"format": FORMAT, "key": place.name, "report": dict(report), "sums": sums}
        described["sum"] = _sum_of(described)
        text = json.dumps(described, indent=1) + "\n"
        (self.set / DESCRIPTION).write_text(text, encoding="utf-8")
        publish(self.set, place)

    def close(self) -> None:
        """All that was added is in the files."""
        for file in self.files.values():
            file.close()

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
                    writer.close()
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
    aligned: bool = True,
) -> TokenSet:
    """Tokenise the rows (id, problem, solution) into folder/<key>, or find them there.

    Columns `steps` and `hops`, where there are, become labels by supervision step: `with_steps`
    says how, and what `aligned` is.

    The key is a digest of the rows' own text, the tokenizer, the chat around them and
    `max_length` (and `key_parts`, for what a caller wants told apart), so that nothing
    stale is ever reused. Rows with more tokens than `max_length`, and rows without text,
    are dropped and counted, never cut. Memory stays bounded: rows stream through a file
    beside the cache. Raises DataError for a missing column, a full disk, steps that cannot be
    labels, and when no row is left.
    """
    folder = Path(folder)
    names = frame.collect_schema().names()
    if missing := [name for name in COLUMNS if name not in names]:
        raise DataError(f"rows to tokenise need {', '.join(COLUMNS)}; {missing[0]} is not there")
    with _writing(folder) as writer:
        spooled = writer.staged / "text.parquet"
        # The pipeline runs once, streaming; its result is read twice, for the key and for good.
        frame.select(
            *(pl.col(name).cast(pl.String) for name in COLUMNS),
            *(
                (pl.col(name) if name in names else pl.lit(None)).cast(type_).alias(name)
                for name, type_ in BY_STEP.items()
            ),
        ).sink_parquet(spooled)
        parts = {"caller": dict(key_parts or {}), "max_length": max_length, "aligned": aligned}
        key = _key(spooled, tokenizer, parts)
        if (found := _found(folder / key, writer.staged)) is not None:
            return found
        report = {"read": 0, "kept": 0, "without text": 0, "prompt too long": 0, "too long": 0}
        total = pq.ParquetFile(spooled).metadata.num_rows
        with tqdm(total=total, desc="tokenising", unit="row", disable=not progress) as bar:
            for batch in _batches(spooled):
                kept = _tokenised(tokenizer, batch, max_length, aligned, report)
                writer.share = report["read"] / total
                writer.add(*kept)
                bar.update(len(batch["id"]))
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


def _batches(spooled: Path) -> Iterator[dict[str, list[Any]]]:
    for batch in pq.ParquetFile(spooled).iter_batches(ROWS_AT_ONCE):
        yield batch.to_pydict()


def _key(spooled: Path, tokenizer: PreTrainedTokenizerBase, parts: Mapping[str, Any]) -> str:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    settings = {
        "format": FORMAT,
        # Padding and truncation are those of the tokenizer's last call, not of `encode`.
        "tokenizer": backend | {"padding": None, "truncation": None},
        "template": tokenizer.chat_template,
        "system": SYSTEM_PROMPT,
        "end": END_OF_TURN,
        **parts,
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for batch in _batches(spooled):
        for name in COLUMNS:
            texts = ["" if value is None else value for value in batch[name]]
            # Lengths too, so that no two ways to cut the same characters are alike.
            key.update(np.array([len(text) for text in texts]).tobytes())
            key.update("".join(texts).encode("utf-8", "surrogatepass"))
        key.update(json.dumps([batch[name] for name in BY_STEP]).encode())
    return key.hexdigest()[:16]


def _tokenised(
    tokenizer: PreTrainedTokenizerBase,
    batch: Mapping[str, Sequence[Any]],
    max_length: int,
    aligned: bool,
    report: dict[str, int],
) -> tuple[list[str], list[Example]]:
    """Ids and examples of the rows that stay; counts the others by reason."""
    rows = zip(*(batch[name] for name in (*COLUMNS, *BY_STEP)), strict=True)
    whole = [row for row in rows if row[1] and row[1].strip() and row[2] and row[2].strip()]
    examples = encode(tokenizer, [row[1] for row in whole], [row[2] for row in whole])
    stay = [place for place, e in enumerate(examples) if len(e.tokens) <= max_length]
    report["read"] += len(batch["id"])
    report["kept"] += len(stay)
    report["without text"] += len(batch["id"]) - len(whole)
    prompt_too_long = sum(e.prompt >= max_length for e in examples)
    report["prompt too long"] += prompt_too_long
    report["too long"] += len(whole) - len(stay) - prompt_too_long
    ids, _, _, steps, hops = ([whole[place][n] for place in stay] for n in range(5))
    return ids, with_steps(tokenizer, ids, [examples[n] for n in stay], steps, hops, aligned)


def _nothing_left(report: Mapping[str, int], max_length: int) -> str:
    dropped = ", ".join(f"{n:,} {why}" for why, n in report.items() if n and why != "read")
    return (
        f"no row is left to train on: {report['read']:,} read, {dropped or 'none dropped'} "
        f"(max_length {max_length})\nloosen the filters, or raise max_length"
    )
