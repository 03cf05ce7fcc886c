"""Parameters of a batch's steps: found by the names that a file gives them, values checked.

Knows what notebooks declare. Knows nothing of YAML's keys, or of how runs are run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathllm.errors import BatchError, ParameterError
from mathllm.parameters import Declared, check_parameters, mend_name, parse_value

RUN = "{run}"  # in a text, the run's folder
OUTPUT = "output_dir"

Setting = tuple[str, str]  # a step's name and a parameter's


@dataclass(frozen=True)
class Step:
    """One notebook of a run, its text, and what is the same in all runs."""

    name: str
    notebook: str
    declared: dict[str, Declared]
    parameters: dict[str, Any]


class Known:
    """The parameters of all steps, found by the names that a file gives them."""

    def __init__(self, steps: list[Step]):
        self.steps = {step.name: step for step in steps}

    def find(self, where: str, key: str) -> Setting:
        """The parameter that a key names, as STEP.NAME or NAME."""
        step, dot, name = key.rpartition(".")
        owners = [s.name for s in self.steps.values() if name in s.declared]
        if dot and step in self.steps and name in self.steps[step].declared:
            return step, name
        if not dot and len(owners) == 1:
            return owners[0], name
        if not dot and owners:
            choice = " or ".join(f"{owner}.{name}" for owner in owners)
            raise BatchError(f"{where}: {key} is a parameter of several steps: write {choice}")
        steps = ", ".join(self.steps)
        raise BatchError(
            f"{where}: {key} is no parameter of {steps}: {mend_name(key, self._names(dot))}"
        )

    def _names(self, dot: str) -> list[str]:
        """All names, with their steps if there is a `dot`."""
        pairs = [(step.name, name) for step in self.steps.values() for name in step.declared]
        return list(dict.fromkeys(f"{step}.{name}" if dot else name for step, name in pairs))

    def fit(self, where: str, key: str, value: Any) -> tuple[Setting, Any]:
        """The parameter that a key names, and its value as the notebook declares it."""
        step, name = setting = self.find(where, key)
        return setting, fit(f"{where}.{key}", self.steps[step].declared[name], value)


def fit(where: str, declared: Declared, value: Any) -> Any:
    """A YAML value as the notebook declares it. Raises BatchError where it does not fit.

    YAML takes 1e-4 for a text: texts are read as on a command line.
    """
    name, kind = declared.name, declared.type_name
    try:
        if isinstance(value, str):
            value = parse_value(name, value, kind)
        check_parameters({name: value}, {name: kind})
    except ParameterError as fault:
        quotes = "; put it in quotes" if kind == "str" else ""
        raise BatchError(f"{where}: {fault}{quotes}") from fault
    if isinstance(value, (dict, list)) or value is None:
        raise BatchError(f"{where}: {name} is {value!r}: it must be one value")
    if name == OUTPUT and not inside_run(value):
        raise BatchError(
            f"{where}: {OUTPUT} is {value!r}: runs must not share a folder, write it as "
            f'"{RUN}/{Path(value).name or "output"}"'
        )
    return float(value) if kind == "float" else value


def inside_run(path: str) -> bool:
    return Path(path).parts[:1] == (RUN,) and ".." not in Path(path).parts
