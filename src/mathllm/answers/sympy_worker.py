"""The program that sympy_process.py runs: one question a line in, one reply a line out.

Knows nothing of time limits but the one that ends it should nobody be there to do so, and
nothing of mathllm: it runs as a file by itself, so that it starts in a third of a second and
imports neither torch nor the rest of the package.
"""

import json
import resource
import signal
import socket
import sys
from typing import Any

GRACE_SECONDS = 1.0  # after the asker's own limit: then the asker is gone


def main() -> None:
    memory = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = socket.socket(fileno=0)  # socketpair's other end, given as standard input
    questions, replies = channel.makefile("r"), channel.makefile("w")
    try:
        import math_verify  # noqa: F401
    except Exception:  # absent, or at odds with the antlr that the image brings
        print(json.dumps({"ready": False}), file=replies, flush=True)
        return
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in questions:
        question = json.loads(line)
        # SIGALRM's default ends the process even inside C code that never comes back.
        signal.setitimer(signal.ITIMER_REAL, question["seconds"] + GRACE_SECONDS)
        reply = answer(question)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps({"value": reply}), file=replies, flush=True)


def answer(question: dict[str, Any]) -> Any:
    """None where the question cannot be answered; running out of memory ends the process."""
    try:
        return same(question["a"], question["b"])
    except MemoryError:
        raise
    except Exception:  # a parser and a computer algebra system raise anything
        return None


def parsed(latex: str) -> list[Any]:
    """math-verify's readings: an expression if there is one, then the text itself."""
    from math_verify import LatexExtractionConfig, parse

    config = LatexExtractionConfig(boxed_match_priority=-1)
    return parse(f"${latex}$", [config], parsing_timeout=None)


def same(a: str, b: str) -> bool:
    """b is what math-verify calls gold; inequalities may answer intervals and the reverse."""
    from math_verify import verify

    return bool(verify(parsed(b), parsed(a), timeout_seconds=None, allow_set_relation_comp=True))


if __name__ == "__main__":
    main()
