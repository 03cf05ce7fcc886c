"""What generates here: rows come and go between two passes (continuous batching).

A row is prefilled when there is room for it, takes part in every pass from then on, and leaves
when it has ended. What one pass does is the engine's: trm.py and backbone.py.
"""

import atexit
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from threading import Lock, Thread
from weakref import WeakSet

import torch

from mathllm.engines.base import Completion, OnPass, SamplingConfig
from mathllm.engines.batch import PromptBatch
from mathllm.engines.flight import Flight
from mathllm.engines.lanes import Lanes
from mathllm.engines.memory import MemoryPlan, available_bytes, plan
from mathllm.engines.packed import packed
from mathllm.engines.refinement import layers_per_step
from mathllm.engines.requests import Request, Row, row_of
from mathllm.errors import MemoryLimitError
from mathllm.trm import RecursiveLM

# Before the first pass, for rows that are begun together: they are prefilled together.
GATHER_SECONDS = 0.02
SETTLE_SECONDS = 5.0  # at the program's end, for passes to end
_RUNNING: WeakSet[Thread] = WeakSet()


@atexit.register
def _settle() -> None:
    """Wait a little for whoever runs passes: a thread that is inside torch when the interpreter
    goes away takes the whole program down with it."""
    for thread in list(_RUNNING):
        thread.join(SETTLE_SECONDS)


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
            runner = Thread(target=self._run_arrivals, name="passes", daemon=True)
            runner.start()
            _RUNNING.add(runner)
        return row

    def _run_arrivals(self) -> None:
        """Passes until no row is left, of those too that come meanwhile."""
        time.sleep(GATHER_SECONDS)
        with self._passing, torch.inference_mode():
            flight = Flight(self)
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
                    flight = Flight(self)

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
            flight = Flight(self, request.rows)
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
