"""A problem from the gateway to an answer for it, whatever happens on the way.

Knows the run's two modes, the time, and what a lost answer costs. Knows nothing of how an
answer is found, or of servers.

In a rerun an exception would end the submission, a wrong answer costs one problem: so nothing
is raised, 0 stands in, and the cause is in the journal. In a commit run there is still time
to mend: every fault ends the run at once.

A process that is started again in the middle of a rerun finds its journal: the clock goes on
from its first start, and problems that were answered are not solved twice.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from mathllm import paths
from mathllm.competition.kernel.columns import digest as digest_of
from mathllm.competition.kernel.columns import ids_in, problems_in, reply, text_of
from mathllm.competition.kernel.journal import Journal, read_journal, votes_text
from mathllm.competition.kernel.worker import Load, Worker, WorkerError
from mathllm.errors import cause_of
from mathllm.settings import CURRENT
from mathllm.solving import Budget, Solution
from mathllm.solving.records import AttemptsFile
from mathllm.wording import writable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FALLBACK = 0  # the answer of a problem that could not be answered


class Submission:
    """Answers one problem per call of `predict`; a worker loads the solver in the background.

    `prepare` and `worker` as in worker.py, where whatever hangs or crashes is contained; the
    first `predict` waits for the solver. `rerun` says whether faults are survived (True) or
    raised (False), `report` gets one line for each problem. `attempts` keeps all that was drawn.
    `suspect` is called when an endpoint seems to hang. `fault` is what ended a commit run.
    """

    def __init__(
        self,
        prepare: Callable[[], Load],
        budget: Budget,
        journal: Journal,
        rerun: bool,
        report: Callable[[str], None] = print,
        worker: Callable[..., Worker] | None = None,
        attempts: AttemptsFile | None = None,
        suspect: Callable[[], None] = lambda: None,
    ):
        self.rerun = rerun
        self.journal = journal
        self._budget = budget
        self._report = report
        self._attempts, self._suspect = attempts, suspect
        self._worker = (worker or Worker)(prepare, self.tell, strict=not rerun)
        self._answered = 0
        self._telling, self._over = threading.Lock(), False
        # Seconds that the last problem was given, and those that it waited for the solver.
        self._allowance = self._waited = 0.0
        self.fault: BaseException | None = None
        self._known = _answered(journal.path) if rerun else {}
        budget.start(_seconds_since_start(journal.path) if rerun else 0.0)
        for _ in self._known:
            budget.finish()

    def start(self) -> None:
        """Begin to load the solver. Once is enough, and needed before the first problem."""
        self._worker.start()

    def predict(self, *columns: Any, **named: Any) -> pl.DataFrame:
        """A row (id, answer) for each problem asked for, which is one in every known gateway.

        `columns` are the ids and the problems, each a Series, or one frame that has both, of
        polars or pandas; by name they may come too. Further columns, such as the answer of
        reference.csv, are not looked at.
        """
        try:
            problems = problems_in(columns, named)
        except Exception as error:
            if not self.rerun:
                self.fault = error
                raise
            problems = [(id_, error) for id_ in ids_in(columns, named)]
        answers = [self._answer(identifier, problem) for identifier, problem in problems]
        return reply([identifier for identifier, _ in problems], answers)

    def _answer(self, identifier: Any, problem: Any) -> int:
        """The answer to one problem; an exception in its place is a fault of the request."""
        started = time.monotonic()
        self._waited = 0.0
        name, digest = text_of(identifier), ""
        solution: Solution | None = None
        fault: BaseException | None = None
        try:
            if isinstance(problem, Exception):
                raise problem
            text = "" if problem is None else writable(str(problem))
            digest = digest_of(text)
            if (again := self._known.get((name, digest))) is not None:
                self.tell("again", id=name, answer=again)
                return again
            solution = self._solve(name, text)
        except KeyboardInterrupt:
            raise
        # Panics of Rust packages and SystemExit are no Exceptions, but end a submission too.
        except BaseException as error:
            fault = error
        self._answered += 1
        self._budget.finish()
        try:
            told = identifier if isinstance(identifier, int) else name
            self._record(told, digest, solution, fault, time.monotonic() - started)
        except Exception as error:  # a full disk, a closed output: no reason to lose an answer
            if not self.rerun:
                raise
            self._say(f"{name} cannot be recorded: {cause_of(error)}")
        if fault is not None and not self.rerun:
            self.fault = fault
            raise fault
        if solution is None:
            return FALLBACK
        if self.rerun:
            self._known[name, digest] = solution.answer
        return solution.answer

    def end(self) -> None:
        """End the worker, in some seconds at most."""
        self._worker.close()

    def close(self, cause: str) -> None:
        """Say why the run ended."""
        journal = self.journal
        self.tell("end", cause=cause, lost=journal.lost, why=journal.why)
        lost = f"; {journal.lost} lines are not in it: {journal.why}" if journal.lost else ""
        self._say(f"{self._answered} problems answered; {cause}{lost}")

    def summary(self) -> pl.DataFrame:
        """What was answered so far: id, answer, votes, reason, seconds, tokens/s, fault."""
        return answers_table(self.journal.path)

    def plot(self) -> "Figure | str":
        """Time and votes of every problem; words in a rerun, where nothing may fail any more."""
        if self.rerun:
            return f"plotted in a commit run; the figures are in {self.journal.path.name}"
        # Here and not above: the kernel listens before matplotlib is imported.
        from mathllm.competition.kernel.plots import plot_run

        return plot_run(self.journal.path)

    def written(self) -> pl.DataFrame | str:
        """The submission, if the gateway wrote one here; in a rerun it is elsewhere."""
        path = paths.working_dir() / CURRENT.submission_file
        return pl.read_parquet(path) if path.is_file() else f"no {path.name} is written here"

    def _solve(self, identifier: str, problem: str) -> Solution:
        asked = time.monotonic()
        self._worker.wait_until_loaded()
        self._waited = time.monotonic() - asked
        self._allowance = self._budget.allowance()
        try:
            solution = self._worker.solve(identifier, problem, self._allowance)
        except WorkerError as fault:
            if not self.rerun or fault.so_far is None:
                raise
            faults = [*fault.so_far.faults, f"{fault}; the samples at hand decide"]
            solution = replace(fault.so_far, faults=faults)
        low, high = CURRENT.answer_min, CURRENT.answer_max
        if not (isinstance(solution.answer, int) and low <= solution.answer <= high):
            raise ValueError(f"the answer {solution.answer!r} is no integer in {low}…{high}")
        return solution

    def _record(
        self,
        identifier: int | str,
        digest: str,
        solution: Solution | None,
        fault: BaseException | None,
        seconds: float,
    ) -> None:
        cause = None if fault is None else cause_of(fault)
        attempts = solution.attempts if solution else []
        tokens = sum(attempt.tokens for attempt in attempts)
        busy = seconds - self._waited
        rate = tokens / busy if busy > 0 else 0.0
        samples = len(attempts)
        votes = {str(a): n for a, n in solution.votes.items()} if solution else {}
        answer = solution.answer if solution else FALLBACK
        self.journal.write(
            "answer",
            id=identifier,
            problem=digest,
            answer=answer,
            votes=votes,
            samples=samples,
            without_answer=sum(attempt.answer is None for attempt in attempts),
            calls=sum(attempt.calls for attempt in attempts),
            reason=solution.reason if solution else f"{FALLBACK} stands in",
            tokens=tokens,
            seconds=round(seconds, 3),
            allowance=round(self._allowance, 3),
            waited=round(self._waited, 3),
            tokens_per_second=round(rate, 1),
            budget_left=round(self._budget.left_seconds, 1),
            budget_used=self._budget.used_share,
            fault=cause,
            faults=solution.faults if solution else [],
            tool_faults=dict(Counter(why for attempt in attempts for why in attempt.faults)),
        )
        if self._attempts is not None:
            self._attempts.add(text_of(identifier), digest, attempts)
        why = f"fault, {answer} stands in: {cause}" if cause else solution.reason
        for survived in solution.faults if solution else []:
            self._say(f"     {identifier}  {survived}")
        self._say(
            f"{self._answered:>3}  {identifier}  answer {answer}  ({why})  {seconds:.1f} s  "
            f"{rate:,.0f} tokens/s  budget left {_hours(self._budget.left_seconds)}"
        )

    def tell(self, event: str, **values: Any) -> None:
        """To the journal, and to whoever watches where it is of the loading.

        After "end" nothing: a worker may still be on its way.
        """
        with self._telling:
            if self._over:
                return
            self._over = event == "end"
            try:
                self.journal.write(event, **values)
            except OSError as error:
                if not self.rerun:
                    raise
                self._say(f"{event} cannot be recorded: {error}")
        if event == "loaded":
            self._say(f"solver loaded in {values['seconds']:.1f} s")
        elif event == "server":
            self._say(f"server answers after {values['seconds']:.1f} s")
        elif event == "silent":
            self._suspect()
        elif event == "fault":
            lines = [values["cause"], values.get("stack"), *values.get("log", ())]
            self._say("\n".join(filter(None, lines)))

    def _say(self, line: str) -> None:
        """In a rerun a closed output is no reason to end."""
        try:
            self._report(line)
        except Exception:
            if not self.rerun:
                raise


def _answered(journal: Path) -> dict[tuple[str, str], int]:
    """Answers of an earlier process of this run, by id and text; not those that stood in."""
    return {
        (str(entry["id"]), entry["problem"]): entry["answer"]
        for entry in read_journal(journal)
        if entry["event"] == "answer"
        and entry["fault"] is None
        and CURRENT.answer_min <= entry["answer"] <= CURRENT.answer_max
    }


def _seconds_since_start(journal: Path) -> float:
    """Since this run's first line; 0 without one."""
    events = read_journal(journal)
    return max(0.0, time.time() - events[0]["time"]) if events else 0.0


def _hours(seconds: float) -> str:
    minutes = int(max(seconds, 0) // 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def answers_table(journal: Path) -> pl.DataFrame:
    """A row for each problem answered, from a journal."""
    names = ("id", "answer", "votes", "reason", "seconds", "tokens_per_second", "fault")
    answers = [entry for entry in read_journal(journal) if entry["event"] == "answer"]
    rows = [
        {
            **entry,
            "votes": votes_text(entry),
            "fault": entry["fault"] or "; ".join(entry["faults"]) or None,
        }
        for entry in answers
    ]
    return pl.DataFrame([{name: row[name] for name in names} for row in rows])
