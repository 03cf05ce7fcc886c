"""Faults on purpose, so that a rehearsal shows what each one costs.

Each strikes the second problem of a run, or the whole run, in a rehearsed kernel only. What each
does, and how it gets there, is strikes.py's, and played_server.py's for an endpoint's server.
"""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

VARIABLE = "MATHLLM_FAULT"  # names the fault of a session


@dataclass(frozen=True)
class Fault:
    """A fault by name. `parameters` are the kernel's for this run, `compared` those of the run
    without the fault: what changes the answers by itself."""

    name: str
    what: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    compared: Mapping[str, str] = field(default_factory=dict)


# Twelve problems in four minutes: one that eats its share can be waited for.
_SHORT = {"hours": "0.07", "margin_minutes": "0.5", "expected_problems": "12"}
_TOOLS = {"tool_kernels": "4"}
# A server of the rehearsal's own, over the bundle's weights: played_server.py.
_FLAG = " --max-model-len 4096"
_SERVER = {
    "endpoint": "http://127.0.0.1:18765/v1",
    "endpoint_model": "played",
    "server": f"{shlex.quote(sys.executable)} -m mathllm_played_server --port 18765{_FLAG}",
}

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("engine", "the engine raises an exception at every call"),
        Fault("memory", "memory runs out twice in the middle of a batch"),
        Fault("tool-hang", "every program of a problem runs for ever", _TOOLS, _TOOLS),
        Fault("tool-death", "every program of a problem kills its kernel", _TOOLS, _TOOLS),
        Fault("hang", "the engine hangs in native code, which lets the interpreter go on", _SHORT),
        Fault(
            "hang-locked", "the engine hangs in native code, with the interpreter's lock", _SHORT
        ),
        Fault("dead-lock", "the engine waits for a lock that nobody gives back", _SHORT),
        Fault("endless", "an endpoint replies without end and says nothing", _SHORT),
        Fault("keeper", "the thread that keeps the sandbox meets exceptions", _TOOLS, _TOOLS),
        Fault("server-killed", "the endpoint's server is killed by the system", _SERVER, _SERVER),
        Fault("server-hangs", "the endpoint's server stands still", _SERVER, _SERVER),
        Fault(
            "server-stalls",
            "the endpoint's server says that it is there and generates nothing",
            _SERVER,
            _SERVER,
        ),
        Fault("server-500", "the endpoint's server answers 500 for a minute", _SERVER, _SERVER),
        Fault(
            "server-model",
            "the endpoint's server serves another model",
            {**_SERVER, "server": f"{_SERVER['server']} --name other"},
        ),
        Fault(
            "server-flag",
            "the endpoint's server is started without a flag that it needs",
            {**_SERVER, "server": _SERVER["server"].removesuffix(_FLAG)},
        ),
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
