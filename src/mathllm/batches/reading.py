"""A batch's YAML as it is written, strict: keys once, known, and each of its kind."""

from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mathllm.batches.strict_yaml import read_yaml
from mathllm.errors import BatchError
from mathllm.parameters import mend_name
from mathllm.wording import brief, shown


class _Keys(BaseModel):
    """Keys of a mapping. A field's description is what to give in place of anything else."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Metric(_Keys):
    """What runs are compared by, a name in their metrics.json."""

    name: str = Field(description="a name in metrics.json")
    better: Literal["higher", "lower"] = Field(description="higher or lower")
    unit: str = Field("", description="a text")

    @property
    def higher(self) -> bool:
        return self.better == "higher"


_Parameters = Annotated[dict[str, Any], Field(description="a mapping of parameters to values")]
_Some = Annotated[list[Any], Field(min_length=1)]
REPEATS = 100_000  # more than a batch may have runs
_Repeats = Annotated[int, Field(gt=0, le=REPEATS)] | _Some
_REPEATS = f"a number of repeats above 0 (at most {REPEATS:,}), or a list, or name one parameter"
_NOTEBOOK = "the path of an .ipynb file"


class StepKeys(_Keys):
    """One of the notebooks that a run consists of."""

    notebook: str = Field(description=_NOTEBOOK)
    name: str | None = Field(None, description="a text")
    parameters: _Parameters = {}


class BatchKeys(_Keys):
    """A whole file; mathllm.batches.plan says what the keys mean."""

    steps: list[StepKeys] | None = Field(
        None, min_length=1, description="a list of steps, a mapping with a notebook each"
    )
    notebook: str | None = Field(None, description=_NOTEBOOK)
    parameters: _Parameters | None = None
    grid: dict[str, _Some] = Field({}, description="a list of values for each parameter")
    sets: list[dict[str, Any]] = Field(
        [{}], alias="list", min_length=1, description="a list of mappings of parameters to values"
    )
    seeds: _Repeats | Annotated[dict[str, _Repeats], Field(min_length=1, max_length=1)] | None = (
        Field(None, description=_REPEATS)
    )
    minutes: float = Field(
        gt=0, allow_inf_nan=False, description="a number above 0, a run's time limit"
    )
    metric: Metric = Field(description="a mapping of name, better and unit")


_INSIDE = {"steps": StepKeys, "metric": Metric}
_UNKNOWN = ("extra_forbidden", "invalid_key")  # pydantic's words for a key that has no field


def read_keys(path: Path) -> tuple[BatchKeys, str]:
    """What a batch's file says, and the comment at its head.

    Raises BatchError that names the file, the place, its value and the mend.
    """
    content, text = read_yaml(path)
    if not isinstance(content, dict):
        raise BatchError(f"{path} is no mapping of keys to values: see notebooks/batches")
    try:
        keys = BatchKeys.model_validate(content)
    except ValidationError as fault:
        # A misspelt key is missing too: say that it is misspelt.
        first = min(fault.errors(), key=lambda error: error["type"] not in _UNKNOWN)
        raise BatchError(f"{path}: {_said(content, first)}") from None
    head = takewhile(lambda line: line.startswith("#"), text.splitlines())
    return keys, "\n".join(line.lstrip("#").strip() for line in head)


def _said(content: Any, fault: Mapping[str, Any]) -> str:
    """One of pydantic's faults in `content`: its place, what stands there and what should."""
    *inside, last = fault["loc"]
    unknown, missing = fault["type"] in _UNKNOWN, fault["type"] == "missing"
    place, value, fields, wanted = "", content, _fields(BatchKeys), ""
    for part in inside if unknown else [*inside, last]:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            if not missing:  # it is no place but pydantic's name for one of several kinds
                break
            value = None
        if part in fields:
            wanted, fields = fields[part].description, _fields(_INSIDE.get(part))
        place += f"[{part}]" if isinstance(part, int) else f".{brief(part)}"
    place = place.removeprefix(".")
    if unknown:
        mend = mend_name(str(last), fields)
        return f"{place}: unknown key {brief(last)}: {mend}".removeprefix(": ")
    return f"{place} is {'missing' if value is None else shown(value)}: give {wanted}"


def _fields(model: type[_Keys] | None) -> dict[str, Any]:
    return {f.alias or name: f for name, f in model.model_fields.items()} if model else {}
