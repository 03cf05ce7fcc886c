"""Statements that no training set may contain, recognised without storing them.

Holds SHA-256 sums of two normal forms of each statement: its whole text, and its
mathematics alone (so that "What is $1-1$?" also reserves "Compute $1 - 1$."). Spaces,
case and final punctuation do not count.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mathllm.errors import ParameterError

_MATH = re.compile(r"\$([^$]+)\$")
_NOISE = re.compile(r"[\s.?!,:;]+")


def fingerprints(statement: str) -> frozenset[str]:
    """SHA-256 of the statement's text and, where it has formulas, of its formulas."""
    forms = [statement]
    if formulas := _MATH.findall(statement):
        # A lone variable ("for $x$") is wording; the formulas are the problem.
        forms.append("|".join(f for f in formulas if re.search(r"\d", f)) or statement)
    normal = {_NOISE.sub("", form.casefold()) for form in forms}
    return frozenset(hashlib.sha256(form.encode()).hexdigest() for form in normal)


@dataclass(frozen=True)
class Reserved:
    """A set of fingerprints; `holds` says whether a statement is among them."""

    sums: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> "Reserved":
        """From a text file with one SHA-256 sum a line; `#` begins a comment."""
        lines = path.read_text(encoding="utf-8").splitlines()
        return cls(frozenset(x for line in lines if (x := line.split("#")[0].strip())))

    def add(self, statements: Iterable[str]) -> "Reserved":
        """The same set with these statements in it."""
        return Reserved(self.sums.union(*map(fingerprints, statements)))

    def holds(self, statement: str) -> bool:
        return not self.sums.isdisjoint(fingerprints(statement))

    def check(self, statements: Iterable[str]) -> None:
        """Raise ParameterError for the first statement that may not be trained on."""
        for row, statement in enumerate(statements):
            if self.holds(statement):
                raise ParameterError(
                    f"training row {row} is a reserved problem ({statement[:80]!r}): "
                    "drop it, or what you measure on that problem means nothing"
                )
