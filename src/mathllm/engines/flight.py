"""Which rows take part in an engine's passes: they wait, board, leave, and make room."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from mathllm.engines.batch import PromptBatch
from mathllm.engines.lanes import Lanes
from mathllm.engines.memory import out_of_memory
from mathllm.engines.requests import Row
from mathllm.errors import MemoryLimitError

if TYPE_CHECKING:
    from mathllm.engines.local import LocalEngine

log = logging.getLogger(__name__)


class Flight:
    """Rows of an engine that wait for a lane, and rows that have one."""

    def __init__(self, engine: "LocalEngine", rows: Sequence[Row] = ()) -> None:
        self.waiting = deque(rows)
        self._engine = engine
        self._boarding: list[Row] = []  # get their lanes now
        self._live: list[Row] = []  # in the order of their lanes
        self._lanes: Lanes | None = None
        self._batch: PromptBatch | None = None
        self._most: int | None = None  # rows at a time, once memory ran out

    @property
    def rows(self) -> list[Row]:
        """All that have not ended."""
        return [row for row in (*self._live, *self.waiting) if not row.done]

    def step(self, passed: Callable[[Sequence[Row], int], None] = lambda *_: None) -> None:
        """One pass over the rows that have a lane; before, some leave and some get one.

        `passed` gets those that took part and how many wait. Where memory runs out, rows go on
        in halves from the tokens they have; a single row that does not fit ends by "memory".
        Raises MemoryLimitError where the first that waits does not fit alone.
        """
        for row in (*self._live, *self.waiting):
            row.end_if_asked()
        self.waiting = deque(row for row in self.waiting if not row.done)
        try:
            self._leave()
            self._board()
            if self._live:
                self._engine.advance(self._lanes, self._batch)
        except Exception as fault:
            if not out_of_memory(fault):
                raise
            # Not in this block: the traceback holds on to what filled the memory.
            cause = " ".join(str(fault).split())[:200]
        else:
            if self._live:
                passed(self._live, len(self.waiting))
            return
        self._make_room(cause)

    def land(self) -> None:
        """All have ended: their lanes are given back, but for what graphs run over."""
        self._seat([])

    def _leave(self) -> None:
        going = [place for place, row in enumerate(self._live) if not row.done]
        if going and len(going) < len(self._live):
            order = self._lanes.keep(going)
            self._seat([self._live[place] for place in order])
        elif not going:
            self._seat([])

    def _seat(self, rows: list[Row]) -> None:
        self._live = rows
        self._batch = PromptBatch(rows, self._engine.device) if rows else None
        if not rows and self._lanes is not None:
            self._lanes = None
            if not self._engine.graphs:
                self._engine.release()

    def _board(self) -> None:
        """Lanes for those that wait, as far as memory goes, in the order in which they came."""
        width, longest, room = self._lanes.width if self._live else 0, 0, 0
        while self.waiting:
            row = self.waiting[0]
            if not self._live:  # those that begin together begin in the same column
                longest, room = max(longest, len(row.sequence)), max(room, row.room)
                needed = longest + room + self._engine.max_drafts
            else:
                needed = max(width, len(row.sequence) + row.room + self._engine.max_drafts)
            if self._taken >= self._fits(needed):
                break
            width = needed
            self._boarding.append(self.waiting.popleft())
        if not self._boarding:
            return
        if not self._live:
            self._begin(width)
        elif (lanes := self._engine.grown(self._lanes, self._taken, width)) is not None:
            self._lanes = lanes
            self._join()
        else:  # once those that run have left
            self.waiting.extendleft(reversed(self._boarding))
        self._boarding = []

    @property
    def _taken(self) -> int:
        return len(self._live) + len(self._boarding)

    def _fits(self, width: int) -> int:
        """How many rows of so many columns memory has room for."""
        try:
            wanted = self._taken + len(self.waiting)
            most = self._engine.memory_plan(width - self._engine.max_drafts, wanted).rows
        except MemoryLimitError:
            if self._taken:
                return 0
            raise
        return most if self._most is None else min(most, self._most)

    def _begin(self, width: int) -> None:
        """Empty lanes, filled with all but the rows' last tokens."""
        rows = self._boarding
        self._lanes = self._engine.lanes(len(rows), width)
        prefill(self._lanes, rows)
        self._seat(rows)

    def _join(self) -> None:
        """More lanes beside those that run: of an equal prompt's, or prefilled aside."""
        lanes, live = self._lanes, [*self._live]
        alone = []
        for row in self._boarding:
            twin = next((p for p, own in enumerate(live) if own.prompt == row.prompt), None)
            if twin is None or row.completion.tokens:
                alone.append(row)
            else:
                lanes.join(lanes, twin, len(row.prompt) - 1)
                live.append(row)
        if alone:
            longest = max(len(row.sequence) for row in alone)
            aside = lanes.like(len(alone), longest)
            prefill(aside, alone)
            for place, row in enumerate(alone):
                lanes.join(aside, place, len(row.sequence) - 1)
                live.append(row)
        self._seat(live)

    def _make_room(self, cause: str) -> None:
        """After memory ran out: fewer rows at a time, prefilled again with what they have."""
        tried = self._taken
        left = [row for row in (*self._live, *self._boarding) if not row.done]
        self._boarding = []
        self._seat([])
        self._engine.release()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if tried <= 1:
            for row in left:
                row.end("memory")
            log.warning("out of memory with one row, which ends: %s", cause)
            return
        self._most = max(1, len(left) // 2)
        log.warning(
            "out of memory with %d rows, going on with %d at a time: %s", tried, self._most, cause
        )
        self.waiting.extendleft(reversed(left))


def prefill(lanes: Lanes, rows: Sequence[Row]) -> None:
    """Fill empty lanes with all but each row's last token."""
    distinct: dict[tuple[int, ...], int] = {}
    ends, sources = [], []
    for row in rows:
        start = tuple(row.sequence[:-1])
        if start not in distinct:
            distinct[start] = len(distinct)
            ends.append(len(row.prompt) - 1)
        sources.append(distinct[start])

    def go_on() -> bool:
        for row in rows:
            row.end_if_asked()
        return not all(row.done for row in rows)

    lanes.prefill([list(start) for start in distinct], ends, sources, go_on)
