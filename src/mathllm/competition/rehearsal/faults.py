"""Faults on purpose, so that a rehearsal shows what each one costs.

Each strikes the second problem of a run, or the whole run, in a rehearsed kernel only. What each
does, and how it gets there, is strikes.py's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

VARIABLE = "MATHLLM_FAULT"  # names the fault of a session


@dataclass(frozen=True)
class Fault:
    """A fault by name. `parameters` are the kernel's for this run."""

    name: str
    what: str
    parameters: Mapping[str, str] = field(default_factory=dict)


# Twelve problems in four minutes: one that eats its share can be waited for.
_SHORT = {"hours": "0.07", "margin_minutes": "0.5", "expected_problems": "12"}
_TOOLS = {"tool_kernels": "4"}

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("engine", "the engine raises an exception at every call"),
        Fault("memory", "memory runs out twice in the middle of a batch"),
        Fault("tool-hang", "every program of a problem runs for ever", _TOOLS),
        Fault("tool-death", "every program of a problem kills its kernel", _TOOLS),
        Fault("hang", "the engine hangs in native code, which lets the interpreter go on", _SHORT),
        Fault(
            "hang-locked", "the engine hangs in native code, with the interpreter's lock", _SHORT
        ),
        Fault("dead-lock", "the engine waits for a lock that nobody gives back", _SHORT),
        Fault("endless", "an endpoint replies without end and says nothing", _SHORT),
        Fault("keeper", "the thread that keeps the sandbox meets exceptions", _TOOLS),
        Fault("journal", "the journal's disk is full but for the start"),
        Fault("slow", "a problem eats its time and comes back late", _SHORT),
        Fault("weights", "the TRM's weight file is cut in half"),
        Fault("connection", "the gateway's connection ends after every reply"),
        Fault(
            "clock",
            "five hours pass in a minute, and problems want more than they get",
            {
                "hours": "0.0167",
                "margin_minutes": "0.05",
                "expected_problems": "12",
                "n_samples": "96",
                "parallel": "16",
                "voting": "majority",
                "temperature": "1.5",
            },
        ),
    )
}
