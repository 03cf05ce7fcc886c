"""What generates here: rows come and go between two passes (continuous batching).

A row is prefilled when there is room for it, takes part in every pass from then on, and leaves
when it has ended. What one pass does is the engine's: trm.py and backbone.py.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock, Thread

import torch

from mathllm.engines.base import Completion, OnPass, SamplingConfig
from mathllm.engines.batch import PromptBatch
from mathllm.engines.lanes import Lanes
from mathllm.engines.memory import MemoryPlan, available_bytes, out_of_memory, plan
from mathllm.engines.packed import packed
from mathllm.engines.refinement import layers_per_step
from mathllm.engines.requests import Request, Row, row_of
from mathllm.errors import MemoryLimitError
from mathllm.trm import RecursiveLM

# Before the first pass, for rows that are begun together: they are prefilled together.
GATHER_SECONDS = 0.02

log = logging.getLogger(__name__)


class LocalEngine(ABC):
    """An engine over `model`, with its weights of this moment.

    `steps` supervision steps refine each token, 0: none. A pass keeps at most `max_drafts`
    tokens and one more. `memory_bytes` is what generating may take, by default most of what is
    free. `graphs`: passes are replayed as CUDA graphs, by default on a GPU; caches and graphs
    are then kept for the next call, until `release`.
    """

    def __init__(
        self,
        model: RecursiveLM,
        steps: int,
        max_drafts: int,
        halting_threshold: float | None,
        memory_bytes: int | None,
        graphs: bool | None,
    ) -> None:
        self.model = packed(model.eval())
        self.max_drafts = max_drafts
        self.halting_threshold = halting_threshold
        self.memory_bytes = memory_bytes
        self._steps = steps
        self.device = self.model.halting.weight.device
        self.graphs = self.device.type == "cuda" if graphs is None else graphs
        self._kept: Lanes | None = None
        self._passing = Lock()  # held by whoever runs passes
        self._arrivals = _Arrivals()

    @property
    def max_positions(self) -> int:
        """Prompt and new tokens together, at most."""
        return self.model.config.max_positions

    def memory_plan(self, tokens: int, rows: int = 1) -> MemoryPlan:
        """What `rows` samples of at most `tokens` tokens take, prompt included."""
        available = self.memory_bytes
        if available is None:
            held = 0 if self._kept is None else self._kept.bytes
            available = available_bytes(self.device) + held
        layers = layers_per_step(self.model) * self._steps
        passes = self.max_drafts + 1
        return plan(self.model, layers, tokens + self.max_drafts + 1, rows, passes, available)

    def release(self) -> None:
        """Give back the memory that is kept for the next call."""
        self._kept = None

    def grown(self, lanes: Lanes, rows: int, width: int) -> Lanes | None:
        """Such lanes with room for more, in the same state; None where there is none."""
        if rows <= lanes.rows and width <= lanes.width:
            return lanes
        rows, width = max(rows, lanes.rows), max(width, lanes.width)
        plan = self.memory_plan(width - self.max_drafts, rows)
        spare = (plan.available - lanes.bytes) // plan.row  # rows beside these: both for a moment
        if rows > spare:
            return None
        if self.graphs:  # recorded anew each time: not for each row that comes
            rows = min(1 << (rows - 1).bit_length(), spare)
        self._kept = lanes.grown(rows, width)
        return self._kept

    def lanes(self, rows: int, width: int) -> Lanes:
        """Empty lanes for so many rows of so many columns, or for more."""
        kept = self._kept
        if kept is not None and kept.rows >= rows and kept.width >= width:
            kept.reset(rows)
            return kept
        self.release()
        self._kept = Lanes(
            self.model, rows, width, self._steps, self.halting_threshold, self.graphs
        )
        return self._kept

    @abstractmethod
    def advance(self, lanes: Lanes, batch: PromptBatch) -> None:
        """One pass: a token or more for each row of the batch, in the order of the lanes."""

    def start(self, prompt: Sequence[int], config: SamplingConfig, seed: int) -> Row:
        """As Engine.start."""
        row = row_of(prompt, config, seed, self.model.config.vocab_size, self.max_positions)
        if self._arrivals.add(row):
            Thread(target=self._run_arrivals, name="passes", daemon=True).start()
        return row

    def _run_arrivals(self) -> None:
        """Passes until no row is left, of those too that come meanwhile."""
        time.sleep(GATHER_SECONDS)
        with self._passing, torch.inference_mode():
            flight = _Flight(self)
            while True:
                flight.waiting += self._arrivals.take()
                rows = flight.rows
                if not rows:
                    flight.land()
                    if self._arrivals.over():
                        return
                    continue
                try:
                    flight.step()
                except MemoryLimitError as fault:  # of the one that is next, alone
                    flight.waiting.popleft().end("fault", fault)
                except Exception as fault:  # whoever comes next begins anew
                    for row in rows:
                        row.end("fault", fault)
                    self.release()
                    flight = _Flight(self)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        config: SamplingConfig | Sequence[SamplingConfig],
        seeds: Sequence[Sequence[int]] | None = None,
        on_pass: OnPass | None = None,
    ) -> list[list[Completion]]:
        """`config.n` completions for each prompt of token ids, in the order of the prompts.

        `config` is one for all prompts or one each. `seeds[p][i]` seeds sample i of prompt
        p; by default they count up from the (first) config's. `on_pass` is called after each
        pass. A sample is cut at `max_positions`; one that breaks ends by "nan" or "memory", with
        the tokens that it has. Rows that do not fit into memory together wait for each other.

        Raises ParameterError for no prompts, an empty prompt, an id outside the vocabulary,
        a prompt that leaves no position for a new token, and for configs or seeds that are
        not one for each prompt or sample; MemoryLimitError where not even one row fits.
        """
        vocabulary = self.model.config.vocab_size
        request = Request.of(prompts, config, seeds, vocabulary, self.max_positions, on_pass)
        with self._passing:
            flight = _Flight(self, request.rows)
            try:
                while flight.rows:
                    flight.step(request.passed)
            finally:
                flight.land()
        return request.completions


class _Arrivals:
    """Rows that were started and wait for whoever runs passes."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._lock, self._running = Lock(), False

    def add(self, row: Row) -> bool:
        """Whether somebody has to begin to run them."""
        with self._lock:
            self._rows.append(row)
            idle, self._running = not self._running, True
            return idle

    def take(self) -> list[Row]:
        """Those that came since."""
        with self._lock:
            rows, self._rows = self._rows, []
            return rows

    def over(self) -> bool:
        """Whether none is left, and whoever ran them may end."""
        with self._lock:
            self._running = bool(self._rows)
            return not self._running


class _Flight:
    """Rows that wait for a lane, and rows that have one."""

    def __init__(self, engine: LocalEngine, rows: Sequence[Row] = ()) -> None:
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
        _prefill(self._lanes, rows)
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
            _prefill(aside, alone)
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


def _prefill(lanes: Lanes, rows: Sequence[Row]) -> None:
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
