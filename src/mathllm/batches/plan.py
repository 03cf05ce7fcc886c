"""What a batch is to do, read from its YAML and held against its notebooks.

    steps:                        notebooks that run one after the other in a run's folder
      - notebook: notebooks/train.ipynb
        name: train               by default the notebook's
        parameters: {num_samples: 40}
      - notebook: notebooks/evaluate.ipynb
        parameters: {weights: "{run}/train"}
    grid: {train.lr: [1e-4, 3e-4]}                 every combination
    list: [{n_latent: 1}, {n_latent: 2}]           or these sets, each with all of the grid
    seeds: 3                      repeats, 0 to 2; or a list; of the first step with a `seed`,
                                  or of the parameter named, as in {evaluate.seed: [0, 1]}
    minutes: 5                    time limit of a run
    metric: {name: accuracy_trm, better: higher, unit: share of problems}

`{run}` in a text stands for the run's folder. Each notebook has a parameter `output_dir`, by
default "{run}/STEP", and leaves metrics.json there (mathllm.metrics). A parameter that only
one step has needs no step before its name. For one notebook, `notebook` and `parameters`
may stand in place of `steps`.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathllm.batches.reading import BatchKeys, Metric, StepKeys, read_keys
from mathllm.errors import BatchError, ParameterError
from mathllm.files import is_file
from mathllm.parameters import Declared, check_parameters, mend_name, parse_value, read_declarations
from mathllm.wording import brief, shown

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
            raise BatchError(
                f"{where}: {brief(key)} is a parameter of several steps: write {choice}"
            )
        names = dict.fromkeys(map(".".join, every) if dot else (known for _, known in every))
        raise BatchError(
            f"{where}: {brief(key)} is no parameter of {', '.join(self.steps)}: "
            f"{mend_name(key, names)}"
        )

    def read(self, where: str, given: Mapping[str, Iterable[Any]]) -> dict[Setting, list[Any]]:
        """Values by the parameters that keys name, as the notebooks declare them."""
        found: dict[Setting, list[Any]] = {}
        for key, values in given.items():
            step, name = setting = self.find(where, key)
            if setting in found:
                raise BatchError(f"{where}: {step}.{name} stands twice: give all values in one")
            declared = self.steps[step].declared[name]
            found[setting] = [fit(f"{where}.{brief(key)}", declared, value) for value in values]
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
    if not isinstance(value, (str, int, float)):
        raise BatchError(f"{where}: {name} is {shown(value)}: it must be one value")
    if name == OUTPUT and not inside_run(value):
        raise BatchError(
            f"{where}: {OUTPUT} is {shown(value)}: runs must not share a folder, write it as "
            f'"{RUN}/{Path(value).name or "output"}"'
        )
    return float(value) if kind == "float" else value


def inside_run(path: str) -> bool:
    return Path(path).parts[:1] == (RUN,) and ".." not in Path(path).parts


SEED = "seed"


@dataclass(frozen=True)
class Batch:
    """A whole description. A run has one set of `sets`, one value of each in `grid`, and one
    of the seeds; `seed` is None without seeds."""

    path: Path
    about: str
    steps: list[Step]
    sets: list[dict[Setting, Any]]
    grid: dict[Setting, list[Any]]
    seed: Setting | None
    seeds: list[Any]
    minutes: float
    metric: Metric

    @property
    def count(self) -> int:
        """Runs, without expanding them."""
        repeats = max(1, len(self.seeds))
        return len(self.sets) * math.prod(map(len, self.grid.values())) * repeats

    @property
    def varied(self) -> list[Setting]:
        """What differs between runs, seeds apart, in the order of the file."""
        named = dict.fromkeys(setting for chosen in self.sets for setting in chosen)
        return [*named, *self.grid]

    def label(self, setting: Setting) -> str:
        """A setting's name, short where that is clear."""
        names = [name for _, name in [*self.varied, *([self.seed] if self.seed else [])]]
        return setting[1] if names.count(setting[1]) == 1 else ".".join(setting)

    def meaning(self, setting: Setting) -> str:
        """What its notebook says of it."""
        step = next(s for s in self.steps if s.name == setting[0])
        return step.declared[setting[1]].meaning


def read_batch(path: Path, root: Path) -> Batch:
    """Read and check a batch. Notebooks are looked for beside the file, then in `root`.

    Raises BatchError that names the file, the place, its value and the mend.
    """
    keys, about = read_keys(path)
    known = Known(_steps(path, keys, root))
    grid = known.read(f"{path}: grid", keys.grid)
    sets = []
    for number, chosen in enumerate(keys.sets):
        found = known.read(f"{path}: list[{number}]", {key: [v] for key, v in chosen.items()})
        sets.append({setting: value for setting, (value,) in found.items()})
    seed, seeds = _seeds(path, keys, known)
    steps = list(known.steps.values())
    batch = Batch(path, about, steps, sets, grid, seed, seeds, keys.minutes, keys.metric)
    _check_once(batch)
    return batch


def _steps(path: Path, keys: BatchKeys, root: Path) -> list[Step]:
    if (keys.steps is None) == (keys.notebook is None):
        raise BatchError(f"{path}: give either steps or a notebook")
    if keys.steps is None:
        one = StepKeys(notebook=keys.notebook, parameters=keys.parameters or {})
        return [_step(path, "", one, root)]
    if keys.parameters is not None:
        raise BatchError(f"{path}: parameters stand in each of the steps: move them there")
    steps = [_step(path, f"steps[{n}].", step, root) for n, step in enumerate(keys.steps)]
    names = [step.name for step in steps]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BatchError(f"{path}: two steps are called {twice}: give one of them another name")
    return steps


def _step(path: Path, place: str, keys: StepKeys, root: Path) -> Step:
    where = f"{path}: {place}"
    beside, in_root = path.parent / keys.notebook, root / keys.notebook
    notebook = beside if is_file(beside) else in_root
    if not is_file(notebook):
        raise BatchError(
            f"{where}notebook is {shown(keys.notebook)}: no such file beside the batch or in "
            f"{root}: give the path of an .ipynb file"
        )
    name = keys.name or notebook.stem
    if not re.fullmatch(r"[\w-]+", name):
        raise BatchError(f"{where}name is {shown(name)}: give letters, digits, - and _ only")
    try:
        declared = {d.name: d for d in read_declarations(notebook)}
    except ParameterError as fault:
        raise BatchError(f"{where}notebook: {fault}") from fault
    if OUTPUT not in declared:
        raise BatchError(
            f"{where}notebook: {notebook} has no parameter {OUTPUT}: a run's metrics come from "
            "metrics.json there, so declare it and call mathllm.metrics.record"
        )
    parameters = {OUTPUT: f"{RUN}/{name}"}
    for key, value in keys.parameters.items():
        if key not in declared:
            raise BatchError(
                f"{where}parameters: {brief(key)} is no parameter of {notebook}: "
                f"{mend_name(key, declared)}"
            )
        parameters[key] = fit(f"{where}parameters.{key}", declared[key], value)
    return Step(name, notebook.read_text(encoding="utf-8"), declared, parameters)


def _seeds(path: Path, keys: BatchKeys, known: Known) -> tuple[Setting | None, list[Any]]:
    where, given = f"{path}: seeds", keys.seeds
    if given is None:
        return None, []
    if isinstance(given, dict):
        ((key, given),) = given.items()
    elif owners := [step.name for step in known.steps.values() if SEED in step.declared]:
        key = f"{owners[0]}.{SEED}"
    else:
        raise BatchError(f"{where}: no step has a parameter {SEED}: name one, {{NAME: [0, 1]}}")
    repeats = range(given) if isinstance(given, int) else given
    ((setting, values),) = known.read(where, {key: repeats}).items()
    return setting, values


def _check_once(batch: Batch) -> None:
    """A parameter varies in one place, and what has no default has a value in every run."""
    places = [*batch.grid, *dict.fromkeys(s for chosen in batch.sets for s in chosen)]
    places += [batch.seed] if batch.seed else []
    for setting in places:
        if places.count(setting) > 1:
            raise BatchError(
                f"{batch.path}: {'.'.join(setting)} varies in two of grid, list and seeds: "
                "leave it in one"
            )
    for step in batch.steps:
        for name, declared in step.declared.items():
            everywhere = (step.name, name) in [*batch.grid, batch.seed] or all(
                (step.name, name) in chosen for chosen in batch.sets
            )
            if not (declared.has_default or name in step.parameters or everywhere):
                raise BatchError(
                    f"{batch.path}: {step.name}.{name} has no default and not every run gives it: "
                    "give it under the step's parameters"
                )
