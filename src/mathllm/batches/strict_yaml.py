"""YAML as a person would write it by hand: small, plain values, each key once.

PyYAML lets the last of two equal keys win without a word, reads dates out of texts, and shares
what an alias stands for, so that a few hundred bytes may mean billions of values.
"""

from pathlib import Path
from typing import Any

import yaml

from mathllm.errors import BatchError
from mathllm.wording import brief

BYTES = 1 << 20
VALUES = 100_000  # aliases counted as what they stand for
DEPTH = 20
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Makes plain values only, and refuses what is too much before it makes any."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0
        self._sizes: dict[int, int] = {}  # of the nodes that are done, by identity

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark, before = self.peek_event().start_mark, self._values
        is_alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > DEPTH:
            raise _fault(mark, f"it is nested more than {DEPTH} deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:
            raise _fault(mark, "an alias stands inside of what it stands for")
        self._values += self._sizes[id(node)] if is_alias else 1
        if self._values > VALUES:
            raise _fault(mark, f"it has more than {VALUES:,} values, aliases written out")
        self._sizes.setdefault(id(node), self._values - before)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, OverflowError, LookupError, TypeError, AttributeError) as fault:
            kind = node.tag.rpartition(":")[2]
            raise _fault(node.start_mark, f"no {brief(kind)} ({brief(fault)})") from fault
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise _fault(node.start_mark, "half of a character, which no file holds") from None
        return value


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _fault(key.start_mark, "a key is a list or mapping, not a text")
        name = key.value if key.tag == _MERGE else loader.construct_object(key)
        if name in seen:
            raise _fault(key.start_mark, f"{brief(key.value)} stands twice")
        seen.add(name)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _fault(mark: yaml.Mark, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def read_yaml(path: Path) -> tuple[Any, str]:
    """What a YAML file holds, and its text. Raises BatchError that names the place and the mend."""
    try:
        with path.open("rb") as file:
            data = file.read(BYTES + 1)
        text = data.decode("utf-8")
    except FileNotFoundError:
        raise BatchError(f"no batch {path}: give the path of a .yaml file") from None
    except (OSError, ValueError) as fault:
        raise BatchError(f"{path} cannot be read ({brief(fault)}): give a .yaml file") from fault
    if len(data) > BYTES:
        raise BatchError(f"{path} has more than {BYTES:,} bytes: give a batch's .yaml file")
    try:
        # A loader made from SafeLoader: it makes plain values only.
        return yaml.load(text, Loader=_Loader), text
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        line, what = (f":{mark.line + 1}", fault.problem) if mark else ("", fault)
        raise BatchError(f"{path}{line}: no YAML, {brief(what, 200)}: mend it there") from fault
