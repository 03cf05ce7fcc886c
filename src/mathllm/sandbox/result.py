"""What a sandbox may use, and what comes back from a block."""

import math
from dataclasses import dataclass, fields

from mathllm.errors import ParameterError

_LEAST = {
    "size": 1,
    "spares": 0,
    "cpu_seconds": 5,
    # An interpreter with sympy and numpy takes a quarter of a GiB before the first block.
    "memory_bytes": 384 << 20,
    # The kernel's own threads are among them.
    "processes": 16,
    "output_chars": 100,
    # IPython keeps a few files of its own.
    "file_bytes": 1 << 20,
}


@dataclass(frozen=True)
class SandboxSettings:
    """Limits of a pool. All but `size` and `spares` hold for each kernel on its own."""

    size: int = 2  # sessions at a time
    spares: int = 1  # kernels beyond them, kept ready for the next session
    seconds: float = 6.0  # of a block, on the wall
    start_seconds: float = 60.0  # of a kernel's start, preloading included
    cpu_seconds: int = 120  # of all blocks of a session together, the start included
    memory_bytes: int = 1 << 30  # address space
    processes: int = 64  # threads, where processes are refused altogether
    output_chars: int = 2000  # of a block; notes and the word of what was cut come on top
    file_bytes: int = 16 << 20  # of all files that a session leaves in its folder

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is float:
                fits = type(value) in (int, float) and 0 < value < math.inf
                mend = "give more than 0"
            else:
                least = _LEAST[field.name]
                fits = type(value) is int and value >= least
                mend = f"give a whole number of at least {least}"
            if not fits:
                raise ParameterError(f"{field.name} is {value!r}: {mend}")


@dataclass(frozen=True)
class ToolResult:
    """One block's outcome. `output` is the text for the model; `fault` is for the journal."""

    output: str  # what was printed, the last expression's value, an exception in short
    ok: bool  # the block ran to its end without an exception
    seconds: float  # the block alone, on the wall
    fault: str | None = None  # why the sandbox had to step in, in one line
