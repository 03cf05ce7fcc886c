"""Whether the kernel's parameters can work on Kaggle: its hours, its machine, its files.

Knows what a session on Kaggle has: /kaggle, the image's programs, loopback alone. What values
the kernel itself takes is asked of the kernel's own cells, so that each rule stands once.
"""

import json
import shlex
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.utils import canonicalize_name

from mathllm.errors import BundleError, ParameterError, UserError
from mathllm.settings import CURRENT
from mathllm.wording import brief, shown

SETTINGS = "settings"  # the tag of the cell that makes the kernel's settings of its parameters
MARGIN_MINUTES = 2.0  # at least: a session's clock starts before the notebook does
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SHELLS = ("bash", "env", "sh")  # what they start is not looked for


@dataclass(frozen=True)
class Machine:
    """What a session has. `programs`: the wheels' scripts; `distributions`: canonical names of
    the image's and the wheels'; `files`: paths in the datasets, each below its dataset's slug;
    `more`: whether sources are attached whose files are not known here."""

    gpu: bool
    programs: Collection[str]
    distributions: Collection[str]
    files: Collection[str]
    more: bool = False


def check_parameters(notebook: Path, given: Mapping[str, Any], machine: Machine) -> None:
    """Raise ParameterError for parameters that would fail on Kaggle, or too late to mend.

    `given` are those that are not the notebook's own. Raises BundleError for a cell of
    settings that fails otherwise.
    """
    values = effective(notebook, given)
    _check_hours(values, machine.gpu)
    for name, value in values.items():
        if isinstance(value, str):
            _check_words(name, value)
    _check_weights(values.get("weights", ""), machine)
    _check_endpoint(values.get("endpoint", ""), values.get("server", ""))
    _check_server(values.get("server", ""), machine)


def effective(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as the kernel sees them, once its own cells have taken them.

    Raises what they raise of a value, and BundleError for a cell that fails otherwise.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = {tag: cell for cell in cells for tag in cell.get("metadata", {}).get("tags", [])}
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("".join(tagged["parameters"]["source"]), str(notebook), "exec"), scope)
    scope |= given
    values = {name: scope[name] for name in scope.get("__annotations__", {}) if name in scope}
    if (hours := values.get("hours", CURRENT.cpu_hours)) <= 0:  # the budget speaks of seconds
        raise ParameterError(f"parameter hours is {hours}: give a number over 0")
    if SETTINGS not in tagged:
        raise BundleError(
            f"{notebook} has no cell tagged {SETTINGS!r}: tag the one that makes the solver's "
            "settings of the parameters, so that they can be checked here"
        )
    try:
        exec(compile("".join(tagged[SETTINGS]["source"]), str(notebook), "exec"), scope)
        _check_sampling(scope.get("settings"))
    except UserError:
        raise
    except Exception as fault:
        raise BundleError(
            f"{notebook}: the cell tagged {SETTINGS!r} fails ({type(fault).__name__}: "
            f"{brief(fault)}): mend it"
        ) from fault
    return values


def _check_sampling(settings: Any) -> None:
    """What of the solver's settings only the engine looks at, which the kernel loads later."""
    from mathllm.engines import SamplingConfig  # and with it torch

    samples = getattr(settings, "n_samples", 1)
    if isinstance(samples, int) and samples < 1:  # the engine's own name for it is n
        raise ParameterError(f"n_samples is {samples}: it must be at least 1")
    named = {field.name: getattr(settings, field.name, None) for field in fields(SamplingConfig)}
    named |= {"n": getattr(settings, "n_samples", None)}
    SamplingConfig(**{name: value for name, value in named.items() if value is not None})


def _check_hours(values: Mapping[str, Any], gpu: bool) -> None:
    limit = CURRENT.gpu_hours if gpu else CURRENT.cpu_hours
    hours, margin = values.get("hours", limit), values.get("margin_minutes", MARGIN_MINUTES)
    if hours > limit:
        mend = ", or --accelerator none" if gpu and hours <= CURRENT.cpu_hours else ""
        raise ParameterError(
            f"parameter hours is {hours}: {CURRENT.name} ends a {'GPU' if gpu else 'CPU'} notebook "
            f"after {limit:g} hours, give at most that{mend}"
        )
    if margin < MARGIN_MINUTES:
        raise ParameterError(
            f"parameter margin_minutes is {margin}: a session's clock starts before the notebook "
            f"does, give at least {MARGIN_MINUTES:g}"
        )


def _check_words(name: str, value: str) -> None:
    """Neither a parameter nor a word of the server's command is a path of this machine."""
    try:
        words = shlex.split(value) if name == "server" else [value]
        value.encode()
    except ValueError as fault:
        raise ParameterError(f"parameter {name} is {shown(value)} ({fault}): mend that") from fault
    for word in words:
        path = word.partition("=")[2] if word.startswith("-") else word
        if path.startswith(("/", "~")) and not path.startswith("/kaggle/"):
            mend = (
                "leave it out and name the folder with --weights"
                if name == "weights"
                else "give its place on Kaggle, below /kaggle/input"
            )
            raise ParameterError(f"parameter {name} has {path}, a path of this machine: {mend}")


def _check_weights(name: str, machine: Machine) -> None:
    """The folder is in a dataset; "" stands for the vendored weights."""
    slugs = {file.partition("/")[0] for file in machine.files}
    inside = {file.partition("/")[2] for file in machine.files}
    there = name in slugs or any(file.startswith(f"{name}/") for file in inside)
    if name and not (there or machine.more or name.startswith("/kaggle/")):
        raise ParameterError(
            f"parameter weights is {shown(name)}, which is in no dataset of the bundle: leave it "
            "out and name the folder with --weights"
        )


def _check_endpoint(endpoint: str, server: str) -> None:
    if not endpoint:
        return
    if urlsplit(endpoint).hostname not in _LOOPBACK:
        raise ParameterError(
            f"parameter endpoint is {endpoint}: on Kaggle nothing but the kernel's own machine can "
            "be reached, give http://127.0.0.1:PORT/v1 and a server"
        )
    if not server:
        raise ParameterError(
            f"parameter server is empty, and on Kaggle nothing listens at {endpoint}: give the "
            "command that starts it"
        )


def _check_server(command: str, machine: Machine) -> None:
    """The program is in the image, in a wheel, or below /kaggle."""
    program, *rest = shlex.split(command) or [""]
    if not command or machine.more or program in _SHELLS or program.startswith("/kaggle/"):
        return
    if program in ("python", "python3"):
        module = rest[1].partition(".")[0] if rest[:1] == ["-m"] and len(rest) > 1 else ""
        if module in sys.stdlib_module_names or not module:
            return
        program, names = module, {*machine.distributions, "mathllm"}
    else:
        names = {*machine.programs, *machine.distributions}
    if program not in names and canonicalize_name(program) not in names:
        raise ParameterError(
            f"parameter server starts {program}, which neither Kaggle's image nor a wheel has: run "
            "`build.py wheels` with its package, or attach what has it in kernel-metadata.json"
        )
