"""A problem in, an integer out: prompt, attempts, answers, vote."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from mathllm.engines.base import Engine, SamplingConfig
from mathllm.errors import cause_of
from mathllm.solving.attempts import Asked, Runner, Tools
from mathllm.solving.dialects import Dialect
from mathllm.solving.outcomes import BROKEN, Attempt, BrokenSampleError, broken, check_whole
from mathllm.solving.race import LATE_SECONDS, all_of, race
from mathllm.solving.solution import Solution, SolverSettings, decide

RESCUE_SAMPLES = 2  # that the spare engine draws
CAUSE_CHARS = 300  # of a fault, in the journal


class Solver:
    """Samples problems from an engine: `solve` takes a vote over one's answers, in time.

    `dialect` is how the engine's model is spoken to. `tools` runs programs
    (mathllm.sandbox.SandboxPool); without them none are run.

    `strict`: a fault is raised. Otherwise, where every sample broke, half as many are tried
    without tools, then one, then some of `spare`, another engine with its dialect (such as the
    plain backbone). Raises ParameterError for settings out of their range.
    """

    def __init__(
        self,
        engine: Engine,
        dialect: Dialect,
        settings: SolverSettings | None = None,
        tools: Tools | None = None,
        spare: tuple[Engine, Dialect] | None = None,
        strict: bool = True,
    ):
        self.engine = engine
        self.dialect = dialect
        self.settings = settings or SolverSettings()
        self.tools = tools
        self.spare = spare
        self.strict = strict
        self.load_fault: str | None = None  # what was missing when it was loaded
        self._left: list[tuple[float, Runner]] = []  # when attempts were left behind, running
        self._sampling()  # checks the settings

    def solve(
        self,
        problem_id: str,
        problem: str,
        seconds: float | None = None,
        tell: Callable[[Solution], None] = lambda _: None,
    ) -> Solution:
        """`seconds` is the time to answer in; None takes as long as the samples need.

        `tell` gets what the answer would be, whenever a sample has ended or closed a box.
        """
        started = time.monotonic()
        deadline = None if seconds is None else started + seconds
        faults: list[str] = []
        best: list[Attempt] = []
        voters = best
        early = note = ""

        def solution(attempts: Sequence[Attempt], voters: Sequence[Attempt]) -> Solution:
            elapsed, voting = time.monotonic() - started, self.settings.voting
            return decide(problem_id, attempts, voters, voting, elapsed, early, note, faults)

        def told(attempts: Sequence[Attempt]) -> None:
            # Without their texts, which may be megabytes each time.
            brief = [replace(attempt, text="") for attempt in attempts]
            tell(solution(brief, brief))

        for engine, dialect, tools, samples in self._ways():
            if faults:
                faults[-1] += f"; trying {_several(samples)} {_of(engine, self.engine, tools)}"
            try:
                asked = self.asked(problem_id, problem, deadline, engine, dialect, samples)
                asked = replace(asked, since=started)
                note = asked.begin().note
                raced = race(asked, engine, self.settings, tools, told)
                best, voters, early = raced.attempts, raced.voters, raced.why
                self._left += [(time.monotonic(), runner) for runner in raced.left]
            except Exception as fault:  # of the prompt, or of starting anything at all
                if self.strict:
                    raise
                faults.append(cause_of(fault)[:CAUSE_CHARS])
                continue
            if not (said := broken(best)):
                break
            if self.strict:
                raise BrokenSampleError(said)
            faults.append(said[:CAUSE_CHARS])
            late = deadline is not None and time.monotonic() >= deadline
            if late or any(a.answer is not None or a.finish_reason not in BROKEN for a in best):
                break
        else:
            faults[-1] += "; nothing is left to try"
        return replace(solution(best, voters), hung=self._hung())

    def _hung(self) -> bool:
        """Whether an attempt does not end that should have: its engine hangs, or its session."""
        now = time.monotonic()
        self._left = [(since, one) for since, one in self._left if one.result is None]
        late = now - LATE_SECONDS
        return any(since <= late or one.late for since, one in self._left)

    def _ways(self) -> list[tuple[Engine, Dialect, Tools | None, int]]:
        """What is tried, one after the other, as long as every sample breaks."""
        n = self.settings.n_samples
        own = (self.engine, self.dialect)
        ways = [(*own, self.tools, n)]
        if not self.strict:
            ways += [(*own, None, count) for count in sorted({max(1, n // 2), 1}, reverse=True)]
            if n == 1 and self.tools is None:
                ways.pop()
            if self.spare is not None:
                ways.append((*self.spare, None, min(RESCUE_SAMPLES, n)))
        return ways

    def asked(
        self,
        problem_id: str,
        problem: str,
        deadline: float | None = None,
        engine: Engine | None = None,
        dialect: Dialect | None = None,
        samples: int = 0,
    ) -> Asked:
        """All samples of a problem, or the first `samples`: what `solve` draws some or all of.

        `engine` and `dialect` are the solver's by default.
        """
        settings, dialect = self.settings, dialect or self.dialect
        positions = (engine or self.engine).max_positions
        return Asked(
            problem,
            dialect,
            positions,
            self._sampling(
                deadline=deadline,
                stop_ids=dialect.stop_ids,
                stop_sequences=dialect.stop_sequences,
            ),
            [
                partial(sample_seed, settings.seed, problem_id, index)
                for index in range(samples or settings.n_samples)
            ],
            settings.answer_min,
            settings.answer_max,
            settings.max_calls,
            settings.turn_tokens,
            settings.sample_seconds,
        )

    def draw_all(self, asked: Sequence[Asked], at_once: int = 64) -> list[list[Attempt]]:
        """All the samples of some problems, so many at once as far as the tools' sessions go.

        Without time limits and votes. Raises BrokenSampleError.
        """
        room = at_once if self.tools is None else min(at_once, self.tools.size)
        drawn = all_of(asked, self.engine, room, self.tools)
        check_whole([attempt for own in drawn for attempt in own])
        return drawn

    def _sampling(self, **more: object) -> SamplingConfig:
        names = ("max_new_tokens", "temperature", "top_p", "top_k", "min_p", "seed")
        return SamplingConfig(**{name: getattr(self.settings, name) for name in names}, **more)


def _several(samples: int) -> str:
    return f"{samples} sample{'' if samples == 1 else 's'}"


def _of(engine: Engine, own: Engine, tools: Tools | None) -> str:
    if engine is not own:
        return f"of {type(engine).__name__}"
    return "with tools" if tools else "without tools"


def sample_seed(seed: int, problem_id: str, index: int, part: int = 0) -> int:
    """A seed in 0…2^63 − 1 for one part of a sample, the same whatever was solved before it."""
    text = f"{seed}:{index}:{problem_id}" + (f":{part}" if part else "")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
