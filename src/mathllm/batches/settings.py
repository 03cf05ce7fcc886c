"""Parameters of a batch's steps: found by the names that a file gives them, values checked."""

from collections.abc import Iterable, Mapping
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
        every = [(owner, known) for owner, made in self.steps.items() for known in made.declared]
        fitting = [one for one in every if one[1] == name and (not dot or one[0] == step)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            choice = " or ".join(map(".".join, fitting))
            raise BatchError(f"{where}: {key} is a parameter of several steps: write {choice}")
        names = dict.fromkeys(map(".".join, every) if dot else (known for _, known in every))
        raise BatchError(
            f"{where}: {key} is no parameter of {', '.join(self.steps)}: {mend_name(key, names)}"
        )

    def read(self, where: str, given: Mapping[str, Iterable[Any]]) -> dict[Setting, list[Any]]:
        """Values by the parameters that keys name, as the notebooks declare them."""
        found: dict[Setting, list[Any]] = {}
        for key, values in given.items():
            step, name = setting = self.find(where, key)
            if setting in found:
                raise BatchError(f"{where}: {step}.{name} stands twice: give all values in one")
            declared = self.steps[step].declared[name]
            found[setting] = [fit(f"{where}.{key}", declared, value) for value in values]
        return found


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
