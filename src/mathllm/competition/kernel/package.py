"""The server that the kernel serves with: of the competition's own evaluation package where its
files are attached, else ours in its place, by the rules of the same version."""

import importlib
import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathllm import paths
from mathllm.competition.protocol.server import InferenceServer
from mathllm.errors import EvaluationPackageError, cause_of
from mathllm.settings import CURRENT, PACKAGES, evaluation_package

VERSION_VARIABLE = "MATHLLM_EVALUATION_PACKAGE"  # a rehearsal's: the version that ours plays

_VERSION = re.compile(r"^__version__ *= *['\"]([^'\"]+)", re.MULTILINE)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Server:
    """A server, the package that it is of ("mathllm" is ours), and the version that it plays."""

    server: Any
    package: str
    version: str

    @property
    def ours(self) -> bool:
        return self.package != CURRENT.package


def make_server(endpoint: Callable[..., Any], rerun: bool) -> Server:
    """The competition's own server, or ours where its files are not attached.

    Where they are attached and cannot be used, ours takes its place in a rerun, since both
    speak the same protocol; a commit run raises EvaluationPackageError. Raises PortError
    where no port is free for ours.
    """
    folder = paths.find_real_package()
    version = os.environ.get(VERSION_VARIABLE) or CURRENT.package_version
    if folder is not None:
        version = _version_in(folder) or version
        try:
            return Server(_made(folder, endpoint), CURRENT.package, version)
        except KeyboardInterrupt:
            raise
        # Without its generated files the package ends the process by sys.exit.
        except BaseException as fault:
            why = f"{folder / CURRENT.package} ({version}) cannot be used: {cause_of(fault)}"
            if not rerun:
                raise EvaluationPackageError(
                    f"{why}\nattach the files of {CURRENT.slug} again, all of them, or correct "
                    "the names in settings.py"
                ) from fault
            _log.warning("%s; ours stands in", why)
    ours = InferenceServer(endpoint, package=evaluation_package(version))
    return Server(ours, "mathllm", version)


def _made(folder: Path, endpoint: Callable[..., Any]) -> Any:
    sys.path.append(str(folder))
    module = importlib.import_module(find_module(folder, CURRENT.server_module))
    server = getattr(module, CURRENT.server_class)(endpoint)
    version = getattr(sys.modules[CURRENT.package], "__version__", "of no version")
    if version not in PACKAGES:
        _log.warning(
            "%s %s is attached; tried were %s", CURRENT.package, version, ", ".join(PACKAGES)
        )
    return server


def find_module(folder: Path, name: str) -> str:
    """The dotted name of a competition's module: in its package, or in a folder of that.

    Raises EvaluationPackageError where there is none, or more than one.
    """
    package = folder / CURRENT.package
    found = [*package.glob(f"{name}.py"), *package.glob(f"*/{name}.py")]
    if len(found) != 1:
        places = ", ".join(map(str, found)) or "missing"
        raise EvaluationPackageError(
            f"{name}.py of {package}: {places}; fetch the competition's files again, or correct "
            "its name in settings.py"
        )
    return ".".join(found[0].relative_to(folder).with_suffix("").parts)


def _version_in(folder: Path) -> str | None:
    """What the package says of itself, without importing it."""
    path = folder / CURRENT.package / "__init__.py"
    if not path.is_file():
        return None
    found = _VERSION.search(path.read_text(encoding="utf-8", errors="replace"))
    return found[1] if found else None
