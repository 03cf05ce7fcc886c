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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathllm.batches.reading import BatchKeys, Metric, StepKeys, read_keys
from mathllm.batches.settings import OUTPUT, RUN, Known, Setting, Step, fit
from mathllm.errors import BatchError, ParameterError
from mathllm.parameters import mend_name, read_declarations

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
    notebook = beside if beside.is_file() else in_root
    if not notebook.is_file():
        raise BatchError(
            f"{where}notebook is {keys.notebook!r}: no such file beside the batch or in {root}: "
            "give the path of an .ipynb file"
        )
    name = keys.name or notebook.stem
    if not re.fullmatch(r"[\w-]+", name):
        raise BatchError(f"{where}name is {name!r}: give letters, digits, - and _ only")
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
                f"{where}parameters: {key} is no parameter of {notebook}: "
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
