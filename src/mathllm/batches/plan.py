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

Knows keys, notebooks' parameters and their types. Knows nothing of how runs are run.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathllm.batches.reading import NUMBER, Keys, read_yaml
from mathllm.batches.settings import OUTPUT, RUN, Known, Setting, Step, fit
from mathllm.errors import BatchError, ParameterError
from mathllm.parameters import mend_name, read_declarations

SEED = "seed"
_TOP = ("steps", "notebook", "parameters", "grid", "list", "seeds", "minutes", "metric")


@dataclass(frozen=True)
class Metric:
    """What runs are compared by, a name in their metrics.json."""

    name: str
    higher: bool
    unit: str


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

    Raises BatchError that names the file, the key and the mend.
    """
    content, about = read_yaml(path)
    keys = Keys(str(path), content, _TOP)
    steps = _steps(path, keys, root)
    known = Known(steps)
    grid = dict(
        known.listed(f"{path}: grid", key, values)
        for key, values in keys.take("grid", dict, {}).items()
    )
    sets = [
        known.chosen(f"{path}: list {number}", chosen)
        for number, chosen in enumerate(keys.take("list", list, [{}]), 1)
    ]
    if not sets:
        raise BatchError(f"{path}: list is empty: name a set of parameters, or leave it out")
    seed, seeds = _seeds(path, keys, known)
    batch = Batch(path, about, steps, sets, grid, seed, seeds, _minutes(keys), _metric(keys))
    _check_once(batch)
    return batch


def _steps(path: Path, keys: Keys, root: Path) -> list[Step]:
    if ("steps" in keys) == ("notebook" in keys):
        raise BatchError(f"{path}: give either steps or a notebook")
    if "notebook" in keys:
        one = {"notebook": keys.take("notebook", str)}
        orders = [one | {"parameters": keys.take("parameters", dict, {})}]
    elif "parameters" in keys:
        raise BatchError(f"{path}: parameters stand in each of the steps: move them there")
    else:
        orders = keys.take("steps", list)
    if not orders:
        raise BatchError(f"{path}: steps is empty: name a notebook")
    steps = [_step(path, number, order, root) for number, order in enumerate(orders, 1)]
    names = [step.name for step in steps]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BatchError(f"{path}: two steps are called {twice}: give one of them another name")
    return steps


def _step(path: Path, number: int, order: Any, root: Path) -> Step:
    keys = Keys(f"{path}: step {number}", order, ("notebook", "name", "parameters"))
    notebook = _find(keys.where, path, keys.take("notebook", str), root)
    name = keys.take("name", str, notebook.stem)
    if not name.replace("_", "").replace("-", "").isalnum():
        raise BatchError(f"{keys.where}: name {name!r}: give letters, digits, - and _ only")
    try:
        declared = {d.name: d for d in read_declarations(notebook)}
    except ParameterError as fault:
        raise BatchError(f"{keys.where}: {fault}") from fault
    if OUTPUT not in declared:
        raise BatchError(
            f"{keys.where}: {notebook} has no parameter {OUTPUT}: a run's metrics come from "
            "metrics.json there, so declare it and call mathllm.metrics.record"
        )
    parameters = {OUTPUT: f"{RUN}/{name}"}
    where = f"{keys.where}: parameters"
    for key, value in keys.take("parameters", dict, {}).items():
        if key not in declared:
            raise BatchError(
                f"{where}: {key} is no parameter of {notebook}: {mend_name(str(key), declared)}"
            )
        parameters[key] = fit(where, declared[key], value)
    return Step(name, notebook.read_text(encoding="utf-8"), declared, parameters)


def _find(where: str, path: Path, name: str, root: Path) -> Path:
    places = [path.parent / name, root / name]
    for place in places:
        if place.is_file():
            return place
    raise BatchError(
        f"{where}: no notebook {name} beside the file or in {root}: give the path of an .ipynb file"
    )


def _seeds(path: Path, keys: Keys, known: Known) -> tuple[Setting | None, list[Any]]:
    where, given = f"{path}: seeds", keys.take("seeds", object, 0)
    if "seeds" not in keys:
        return None, []
    if isinstance(given, dict):
        if len(given) != 1:
            raise BatchError(f"{where} is {given!r}: name one parameter, or give a list")
        (key, given), *_ = given.items()
        setting = known.find(where, key)
    else:
        owners = [step.name for step in known.steps.values() if SEED in step.declared]
        if not owners:
            raise BatchError(f"{where}: no step has a parameter {SEED}: name one, {{NAME: [0, 1]}}")
        setting = owners[0], SEED
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        given = list(range(given))
    if not isinstance(given, list) or not given:
        raise BatchError(f"{where} is {given!r}: give a number of repeats above 0, or a list")
    return setting, [known.value(where, setting, value) for value in given]


def _minutes(keys: Keys) -> float:
    value = keys.take("minutes", NUMBER)
    if not (value > 0 and math.isfinite(value)):
        raise BatchError(f"{keys.where}: minutes is {value!r}: give a run's time limit, above 0")
    return float(value)


def _metric(keys: Keys) -> Metric:
    inner = Keys(f"{keys.where}: metric", keys.take("metric", dict), ("name", "better", "unit"))
    better = inner.take("better", str)
    if better not in ("higher", "lower"):
        raise BatchError(f"{inner.where}: better is {better!r}: it must be higher or lower")
    return Metric(inner.take("name", str), better == "higher", inner.take("unit", str, ""))


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
