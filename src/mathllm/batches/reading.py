"""A batch's YAML as plain values, strict: keys once, known, and each of its kind.

Knows YAML and where a fault stands in it. Knows nothing of notebooks.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from mathllm.errors import BatchError
from mathllm.parameters import mend_name

NUMBER = (int, float)
_KINDS = {dict: "a mapping", list: "a list", str: "a text", NUMBER: "a number"}


class _Loader(yaml.SafeLoader):
    """PyYAML's own lets the last of two equal keys win, without a word."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    seen = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.MarkedYAMLError(
                problem=f"{key.value} stands twice", problem_mark=key.start_mark
            )
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> tuple[dict[str, Any], str]:
    """The mapping in a YAML file, and the comment at its head. Raises BatchError."""
    try:
        text = path.read_text(encoding="utf-8")
        # A loader made from SafeLoader: it makes plain values only.
        content = yaml.load(text, Loader=_Loader)
    except FileNotFoundError:
        raise BatchError(f"no batch {path}: give the path of a .yaml file") from None
    except (OSError, UnicodeDecodeError) as fault:
        raise BatchError(f"{path} cannot be read ({fault}): give a .yaml file") from fault
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise BatchError(f"{path}{line}: no YAML, {fault.problem}: mend that line") from fault
    except yaml.YAMLError as fault:
        raise BatchError(f"{path}: no YAML, {fault}: mend it") from fault
    if not isinstance(content, dict):
        raise BatchError(f"{path} is no mapping of keys to values: see notebooks/batches")
    return content, _head(text)


def _head(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").strip())
    return "\n".join(lines)


class Keys:
    """The keys of one mapping in a file, taken out one after the other, each of its kind."""

    def __init__(self, where: str, content: Any, known: Collection[str]):
        self.where = where
        if not isinstance(content, dict):
            raise BatchError(f"{where} is {content!r}: it must be a mapping")
        for key in content:
            if key not in known:
                raise BatchError(f"{where}: unknown key {key}: {mend_name(str(key), known)}")
        self._content = content

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """The value of `key`; without a default it must be there."""
        value = self._content.get(key, default)
        if value is None:
            raise BatchError(f"{self.where}: the key {key} is missing: give {_KINDS[kind]}")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is NUMBER):
            raise BatchError(f"{self.where}: {key} is {value!r}: it must be {_KINDS[kind]}")
        return value
