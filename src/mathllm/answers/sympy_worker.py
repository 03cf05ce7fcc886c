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

DIGITS = 80  # to which numbers must agree
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
    """b is what math-verify calls gold; inequalities may answer intervals and the reverse.

    math-verify compares numbers as decimals, so what it calls the same is looked at again.
    """
    from math_verify import verify

    one, other = parsed(a), parsed(b)
    if not verify(other, one, timeout_seconds=None, allow_set_relation_comp=True):
        return False
    return not (one and other and apart(one[0], other[0]))


def apart(a: Any, b: Any) -> bool:
    """Whether two expressions, or parts of them that belong together, differ by more than the
    error of DIGITS digits. Decimals of the text count as rounded and are left alone."""
    import sympy

    if isinstance(a, sympy.MatrixBase) and isinstance(b, sympy.MatrixBase):
        return a.shape == b.shape and any(map(apart, a, b))
    if isinstance(a, sympy.FiniteSet | sympy.Union) and type(a) is type(b):
        return any(all(apart(x, y) for y in b.args) for x in a.args)
    if isinstance(a, sympy.Tuple | sympy.Interval) and type(a) is type(b):
        return len(a.args) == len(b.args) and any(map(apart, a.args, b.args))
    if isinstance(a, sympy.Rel) and isinstance(b, sympy.Rel):
        # Two relations say the same where their differences are in one ratio everywhere.
        one, other = a.lhs - a.rhs, b.lhs - b.rhs
        return distinct(one * moved(other), other * moved(one))
    return isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr) and distinct(a, b)


def distinct(a: Any, b: Any) -> bool:
    """Whether two expressions differ at a point."""
    import sympy

    difference = a - b
    if difference.has(sympy.Float, sympy.oo, sympy.zoo, sympy.nan):
        return False
    value = sympy.N(at_point(difference), DIGITS, maxn=4 * DIGITS)
    scale = sympy.N(abs(at_point(b)) + 1, 10)
    return bool(value.is_number and value.is_finite and abs(value) > scale * 10 ** (10 - DIGITS))


def at_point(expression: Any) -> Any:
    """The expression with a number for each symbol, the same for each name."""
    import sympy

    return expression.subs(
        {s: sympy.Rational(100 + sum(map(ord, str(s))), 97) for s in expression.free_symbols}
    )


def moved(expression: Any) -> Any:
    """The expression at another point."""
    import sympy

    return expression.subs(
        {s: sympy.Rational(200 + 3 * sum(map(ord, str(s))), 89) for s in expression.free_symbols}
    )


if __name__ == "__main__":
    main()
