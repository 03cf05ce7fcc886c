"""Presets: a kernel's parameters and its machine, known to fit a model, from a file."""

from dataclasses import dataclass, field
from pathlib import Path

from mathllm.batches.strict_yaml import read_yaml
from mathllm.errors import ParameterError
from mathllm.wording import brief, shown

FOLDER = Path("kernel") / "presets"  # in the clone
KEYS = ("accelerator", "parameters")


@dataclass(frozen=True)
class Preset:
    """`parameters` as a command line has them, `accelerator` "" where it says none."""

    accelerator: str = ""
    parameters: list[tuple[str, str]] = field(default_factory=list)


def names(root: Path) -> list[str]:
    """Those that the clone brings."""
    return sorted(path.stem for path in (root / FOLDER).glob("*.yaml"))


def read_preset(root: Path, name: str) -> Preset:
    """One of the clone's by its name, or a .yaml file. Raises ParameterError for no such name and
    for what is no preset, BatchError for what is no YAML."""
    known = names(root)
    path = root / FOLDER / f"{name}.yaml" if name in known else Path(name)
    if name not in known and not path.is_file():
        raise ParameterError(
            f"preset {shown(name)} is unknown: give one of {', '.join(known)}, or a .yaml file"
        )
    content, _ = read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict):
        raise ParameterError(f"{path} has no parameters: a preset has {' and '.join(KEYS)}")
    if odd := content.keys() - set(KEYS):
        raise ParameterError(
            f"{path} has {brief(min(odd, key=str))}: a preset has {' and '.join(KEYS)}"
        )
    accelerator = content.get("accelerator", "")
    if not isinstance(accelerator, str):
        raise ParameterError(f"{path}: accelerator is {shown(accelerator)}: give a name")
    pairs = []
    for key, value in content["parameters"].items():
        if not isinstance(value, (str, int, float)):
            raise ParameterError(f"{path}: {brief(key)} is {shown(value)}: give one value")
        pairs.append((str(key), str(value)))
    return Preset(accelerator, pairs)
