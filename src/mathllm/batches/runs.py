"""The runs of a batch, each with the identity by which its result is found again."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mathllm.batches.plan import OUTPUT, RUN, Batch, Setting, Step

RESUME = "resume"  # a notebook with this parameter goes on from what its output_dir holds


@dataclass(frozen=True)
class Run:
    """One set of values. `settings` are those that vary, seeds apart; `parameters` all that
    are given, by step. `id` names the notebooks' cells and the parameters, nothing else."""

    id: str
    settings: dict[Setting, Any]
    seed: Any
    steps: list[Step]
    parameters: dict[str, dict[str, Any]]

    def order(self) -> dict[str, Any]:
        """All that it takes to run it anywhere, as plain values."""
        steps = [
            {"name": s.name, "notebook": s.notebook, "parameters": self.parameters[s.name]}
            for s in self.steps
        ]
        return {"id": self.id, "steps": steps}

    def resumable(self) -> list[str]:
        """Output folders, from the run's own on, of steps that go on where they were ended."""
        outputs = [self.parameters[s.name][OUTPUT] for s in self.steps if RESUME in s.declared]
        return [output.removeprefix(RUN).strip("/") for output in outputs]


def expand(batch: Batch) -> list[Run]:
    """All runs, in the order of the file; what is the same twice stands once."""
    digests = {step.name: _digest(step.notebook) for step in batch.steps}
    runs = (_run(batch, settings, seed, digests) for settings, seed in _product(batch))
    return list({run.id: run for run in runs}.values())


def _product(batch: Batch) -> Iterator[tuple[dict[Setting, Any], Any]]:
    for chosen, *values in itertools.product(batch.sets, *batch.grid.values()):
        settings = chosen | dict(zip(batch.grid, values, strict=True))
        for seed in batch.seeds or [None]:
            yield settings, seed


def _run(batch: Batch, settings: dict[Setting, Any], seed: Any, digests: dict[str, str]) -> Run:
    parameters = {step.name: dict(step.parameters) for step in batch.steps}
    given = settings | ({batch.seed: seed} if batch.seed else {})
    for (step, name), value in given.items():
        parameters[step][name] = value
    makes = [[digests[step.name], parameters[step.name]] for step in batch.steps]
    text = json.dumps(makes, sort_keys=True, ensure_ascii=False)
    identity = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Run(identity, settings, seed, batch.steps, parameters)


def _digest(notebook: str) -> str:
    """Of what a notebook does and says, whatever wrote its file."""
    cells = [
        (c["cell_type"], "".join(c["source"]).rstrip(), c.get("metadata", {}).get("tags", []))
        for c in json.loads(notebook)["cells"]
    ]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()
