"""A kernel's solver over a real server: votes, programs, a server that is killed in the middle.

The server is kept as the kernel keeps it (started, warmed up, started again). What is measured:

    votes       --problems of GSM8K's test set with --samples samples each, a vote, --kernels
                sandboxed kernels for programs; with --kill the server is killed in the middle
                of the middle problem
    greedy      the same problems with one greedy sample through eight solvers, against the same
                drawn directly, eight at a time, as the evaluation draws: a server rounds otherwise
                in other batches, so that of two tokens as likely another is taken; by how much the
                first differing tokens differed is told

An affected problem is one of whose samples some were lost, or which was answered without the
server. "Right" is the share of right answers, with Wilson's interval.

    python benchmarks/endpoint.py --server "vllm serve FOLDER/backbone --served-model-name qwen
        --host 127.0.0.1 --port 8011 --max-model-len 2048 --dtype bfloat16" --weights FOLDER
        --data path/to/gsm8k/test.jsonl --kill
"""

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from mathllm.competition.kernel.endpoint_server import EndpointServer
from mathllm.data.sources import load_problems
from mathllm.engines.base import Completion, EngineError
from mathllm.errors import UserError
from mathllm.evaluation.statistics import wilson
from mathllm.settings import CURRENT
from mathllm.solving import EngineSettings, Solution, Solver, SolverSettings, extract_answer
from mathllm.solving.attempts import Asked
from mathllm.solving.loading import load_endpoint

POSITIONS = 2048
SECONDS = 600.0  # of a problem
AT_ONCE = 8  # greedy samples side by side


def arguments_of(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", required=True, metavar="COMMAND", help="that starts it")
    parser.add_argument("--endpoint", default="http://127.0.0.1:8011/v1", help="where it listens")
    parser.add_argument("--model", default="qwen", help="the name that it serves")
    parser.add_argument("--weights", type=Path, required=True, help="folder with backbone/")
    parser.add_argument("--data", type=Path, required=True, help="GSM8K's test.jsonl")
    parser.add_argument("--problems", type=int, default=50)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--kernels", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=320, help="of a sample, at most")
    parser.add_argument("--kill", action="store_true", help="the server, in the middle")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    return parser.parse_args(words)


def main() -> int:
    """Measure and print."""
    options = arguments_of()
    try:
        rows = load_problems("gsm8k", "test", path=str(options.data)).head(options.problems)
    except UserError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    problems = list(rows.select("problem", "answer").iter_rows())
    engine = EngineSettings(
        options.kernels,
        options.endpoint,
        options.model,
        options.server,
        tokenizer=str(options.weights / "backbone"),
        positions=POSITIONS,
    )
    told: list[dict[str, Any]] = []

    def tell(event: str, **values: Any) -> None:
        told.append({"event": event, "time": time.time()} | values)
        print(f"  {event}: {values}", flush=True)

    keeper = EndpointServer(engine, Path.cwd(), tell, lambda: float("inf"))
    try:
        keeper.start()
        report = {
            "settings": {k: str(v) for k, v in vars(options).items()},
            "votes": votes(engine, options, problems),
            "greedy": greedy(engine, options, problems),
            "server": told,
        }
    except EngineError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    finally:
        keeper.close()
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def solved(
    solver: Solver,
    problems: list[tuple[str, str]],
    numbers: range,
    before: Callable[[int], None] = lambda _: None,
) -> list[Solution]:
    """These of the problems, one after another."""
    solutions = []
    for number in numbers:
        problem, truth = problems[number]
        before(number)
        solution = solver.solve(f"gsm8k-{number}", problem, SECONDS)
        solutions.append(solution)
        mark = "right" if str(solution.answer) == truth else f"not {truth}"
        print(
            f"{number + 1:>4}  {solution.answer:>7}  {mark:12} {solution.seconds:6.1f} s  "
            f"{solution.reason}  {'; '.join(solution.faults)}",
            flush=True,
        )
    return solutions


def votes(
    engine: EngineSettings,
    options: argparse.Namespace,
    problems: list[tuple[str, str]],
) -> dict[str, Any]:
    """The problems by votes and programs, the server killed in the middle if wanted."""
    settings = SolverSettings(options.samples, options.tokens, top_p=0.95)
    solver = load_endpoint(settings, engine, strict=False)
    killed = []

    def before(number: int) -> None:
        if options.kill and number == len(problems) // 2:
            threading.Timer(2.0, lambda: killed.append(kill_server(options.server))).start()

    try:
        solutions = solved(solver, problems, range(len(problems)), before)
    finally:
        if solver.tools is not None:
            solver.tools.close()
    whole = [s for s in solutions if not s.faults and all(not a.broke for a in s.attempts)]
    right = sum(str(s.answer) == truth for s, (_, truth) in zip(solutions, problems, strict=True))
    found = {
        "right": vars(wilson(right, len(problems))),
        "affected": [s.problem_id for s in solutions if s not in whole],
        "programs": sum(a.calls for s in solutions for a in s.attempts),
        "seconds": [round(s.seconds, 1) for s in solutions],
        "killed": killed,
    }
    print(f"votes: {right} of {len(problems)} right, affected: {found['affected'] or 'none'}")
    return found


def kill_server(command: str) -> list[int]:
    """SIGKILL for the server and all its processes; their numbers."""
    program = command.split()[0]
    doomed = []
    for process in psutil.Process().children(recursive=True):
        line = process.cmdline()
        if any(word.endswith(program) for word in line[:2]) and "children.py" not in str(line):
            doomed += [process, *process.children(recursive=True)]
    for process in doomed:
        process.kill()
    print(f"  killed {[process.pid for process in doomed]}", flush=True)
    return [process.pid for process in doomed]


def greedy(
    engine: EngineSettings, options: argparse.Namespace, problems: list[tuple[str, str]]
) -> dict[str, Any]:
    """One greedy sample of each through the solver, and drawn directly."""
    settings = SolverSettings(1, options.tokens, temperature=0.0)
    solvers = [
        load_endpoint(settings, replace(engine, tool_kernels=0), strict=False)
        for _ in range(AT_ONCE)
    ]
    shares = [range(first, len(problems), AT_ONCE) for first in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        strands = list(pool.map(lambda s, share: solved(s, problems, share), solvers, shares))
    ours = [strands[n % AT_ONCE][n // AT_ONCE].attempts[0] for n in range(len(problems))]
    solver = solvers[0]
    asked = [solver.asked(f"gsm8k-{n}", problem) for n, (problem, _) in enumerate(problems)]
    direct = [
        one for n in range(0, len(asked), AT_ONCE) for one in drawn(solver, asked[n:][:AT_ONCE])
    ]
    texts = [one.begin().text(sample.tokens) for one, sample in zip(asked, direct, strict=True)]
    answers = [extract_answer(text, CURRENT.answer_min, CURRENT.answer_max) for text in texts]
    differ = {}
    for number, (one, text) in enumerate(zip(ours, texts, strict=True)):
        if one.text != text:
            (again,) = drawn(solver, [asked[number]])
            differ[number] = gap(again, direct[number])
            print(f"  problem {number}: the first token that differs by {differ[number]} nats")
    given = [[one.answer for one in ours], answers]
    right = [
        sum(str(answer) == truth for answer, (_, truth) in zip(side, problems, strict=True))
        for side in given
    ]
    answers_differ = [n for n, pair in enumerate(zip(*given, strict=True)) if pair[0] != pair[1]]
    print(
        f"greedy: {right[0]} of {len(problems)} right through the solver, {right[1]} directly; "
        f"{len(differ)} texts and {len(answers_differ)} answers differ"
    )
    return {"right": right, "texts_differ": differ, "answers_differ": answers_differ}


def drawn(solver: Solver, asked: list[Asked]) -> list[Completion]:
    """One greedy sample of each, side by side."""
    samples = [solver.engine.start(one.begin().prompt, one.config, 0) for one in asked]
    for sample in samples:
        sample.wait()
    return [sample.completion for sample in samples]


def gap(one: Completion, other: Completion) -> float | None:
    """How much likelier one's first differing token was than the other's, in nats; None where the
    server has written the same this time."""
    pairs = enumerate(zip(one.tokens, other.tokens, strict=False))
    place = next((n for n, (a, b) in pairs if a != b), None)
    return None if place is None else round(abs(one.logprobs[place] - other.logprobs[place]), 4)


if __name__ == "__main__":
    sys.exit(main())
