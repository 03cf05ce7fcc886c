"""A problem from the gateway to an answer for it, whatever happens on the way.

Knows the run's two modes, the time, and what a lost answer costs. Knows nothing of how an
answer is found, or of servers.

In a rerun an exception would end the submission, a wrong answer costs one problem: so nothing
is raised, 0 stands in, and the cause is in the journal. In a commit run there is still time
to mend: every fault ends the run at once.
"""

import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl

from mathllm.competition import paths
from mathllm.competition.journal import Journal, read_journal, votes_text
from mathllm.competition.settings import CURRENT
from mathllm.solving import Budget, Solution, Solver

FALLBACK = 0  # the answer of a problem that could not be answered


class Submission:
    """Answers one problem per call of `predict`; the solver loads in the background.

    `load` makes the solver, in a thread that `start` begins; the first `predict` waits for
    it. `rerun` says whether faults are survived (True) or raised (False), `report` gets one
    line for each problem. `fault` is what ended a commit run.
    """

    def __init__(
        self,
        load: Callable[[], Solver],
        budget: Budget,
        journal: Journal,
        rerun: bool,
        report: Callable[[str], None] = print,
    ):
        self.rerun = rerun
        self.journal = journal
        self._budget = budget
        self._report = report
        self._solver: Solver | None = None
        self._load_fault: BaseException | None = None
        self._answered = 0
        self._loading = threading.Thread(target=self._load, args=(load,), daemon=True)
        self.fault: BaseException | None = None
        budget.start()

    def start(self) -> None:
        """Begin to load the solver. Once is enough, and needed before the first problem."""
        self._loading.start()

    def predict(self, id_: Any, problem: Any, *_extra_columns: Any) -> pl.DataFrame:
        """One row (id, answer) for an id and a problem, each a Series of length 1.

        Further columns, such as the answer of reference.csv, are not looked at.
        """
        started = time.monotonic()
        identifier: Any = ""
        solution: Solution | None = None
        fault: BaseException | None = None
        try:
            identifier = _only(id_)
            solution = self._solve(str(identifier), str(_only(problem)))
        except KeyboardInterrupt:
            raise
        # Panics of Rust packages and SystemExit are no Exceptions, but end a submission too.
        except BaseException as error:
            fault = error
        self._answered += 1
        self._budget.finish()
        try:
            self._record(identifier, solution, fault, time.monotonic() - started)
        except Exception as error:  # a full disk, a closed output: no reason to lose an answer
            if not self.rerun:
                raise
            with suppress(Exception):
                self._report(f"{identifier} cannot be recorded: {cause_of(error)}")
        if fault is not None and not self.rerun:
            self.fault = fault
            raise fault
        answer = FALLBACK if solution is None else solution.answer
        return pl.DataFrame({CURRENT.id_column: [identifier], CURRENT.answer_column: [answer]})

    def close(self, cause: str) -> None:
        """Say why the run ended."""
        self._note("end", cause=cause)
        self._report(f"{self._answered} problems answered; {cause}")

    def summary(self) -> pl.DataFrame:
        """What was answered so far: id, answer, votes, reason, seconds, tokens/s, fault."""
        return answers_table(self.journal.path)

    def written(self) -> pl.DataFrame | str:
        """The submission, if the gateway wrote one here; in a rerun it is elsewhere."""
        path = paths.working_dir() / CURRENT.submission_file
        return pl.read_parquet(path) if path.is_file() else f"no {path.name} is written here"

    def _load(self, load: Callable[[], Solver]) -> None:
        started = time.monotonic()
        try:
            self._solver = load()
        except BaseException as error:  # carried over to the thread that asks for the solver
            self._load_fault = error
            self._note("fault", cause=f"loading: {cause_of(error)}")
            self._report(f"the solver could not be loaded: {cause_of(error)}")
            return
        seconds = time.monotonic() - started
        self._note("loaded", seconds=round(seconds, 3))
        self._report(f"solver loaded in {seconds:.1f} s")

    def _solve(self, identifier: str, problem: str) -> Solution:
        self._loading.join()
        if self._solver is None:
            raise self._load_fault
        solution = self._solver.solve(identifier, problem, self._budget.allowance())
        low, high = CURRENT.answer_min, CURRENT.answer_max
        if not (isinstance(solution.answer, int) and low <= solution.answer <= high):
            raise ValueError(f"the answer {solution.answer!r} is no integer in {low}…{high}")
        return solution

    def _record(
        self,
        identifier: Any,
        solution: Solution | None,
        fault: BaseException | None,
        seconds: float,
    ) -> None:
        cause = None if fault is None else cause_of(fault)
        tokens = sum(attempt.tokens for attempt in solution.attempts) if solution else 0
        rate = tokens / seconds if seconds > 0 else 0.0
        samples = len(solution.attempts) if solution else 0
        votes = {str(a): n for a, n in solution.votes.items()} if solution else {}
        answer = solution.answer if solution else FALLBACK
        self.journal.write(
            "answer",
            id=identifier if isinstance(identifier, int) else str(identifier),
            answer=answer,
            votes=votes,
            samples=samples,
            reason=solution.reason if solution else f"{FALLBACK} stands in",
            tokens=tokens,
            seconds=round(seconds, 3),
            tokens_per_second=round(rate, 1),
            budget_left=round(self._budget.left_seconds, 1),
            budget_used=self._budget.used_share,
            fault=cause,
        )
        why = f"fault, {answer} stands in: {cause}" if cause else solution.reason
        self._report(
            f"{self._answered:>3}  {identifier}  answer {answer}  ({why})  {seconds:.1f} s  "
            f"{rate:,.0f} tokens/s  budget left {_hours(self._budget.left_seconds)}"
        )

    def _note(self, event: str, **values: Any) -> None:
        """To the journal. In a rerun a full disk is no reason to end."""
        try:
            self.journal.write(event, **values)
        except OSError as error:
            if not self.rerun:
                raise
            self._report(f"{event} cannot be recorded: {error}")


def _only(value: Any) -> Any:
    """The value of a Series of length 1; a plain string stands for itself."""
    if isinstance(value, str):
        return value
    values = list(value)
    if len(values) != 1:
        raise ValueError(f"predict takes one problem at a time, {len(values)} values came")
    return "" if values[0] is None else values[0]


def cause_of(fault: BaseException) -> str:
    """One line for a fault, even for one that cannot print itself."""
    return " ".join(traceback.format_exception_only(fault)[-1].split())


def _hours(seconds: float) -> str:
    minutes = int(max(seconds, 0) // 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def answers_table(journal: Path) -> pl.DataFrame:
    """A row for each problem answered, from a journal."""
    names = ("id", "answer", "votes", "reason", "seconds", "tokens_per_second", "fault")
    answers = [entry for entry in read_journal(journal) if entry["event"] == "answer"]
    rows = [{**entry, "votes": votes_text(entry)} for entry in answers]
    return pl.DataFrame([{name: row[name] for name in names} for row in rows])
