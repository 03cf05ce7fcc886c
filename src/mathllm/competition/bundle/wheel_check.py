"""Whether Kaggle's image and the wheels together have all that a wheel requires."""

import configparser
import email
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging import tags
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from mathllm.errors import BundleError
from mathllm.unpacking import ZIP_FAULTS
from mathllm.wording import shown

IMAGE = "image.txt"
ABSENT = ("math-verify", "latex2sympy2_extended")  # from the image, though the clone has them
PYTHONS = ("3.11", "3.12")  # that Kaggle's image may have
# Of the same for every Python that it may have.
_KAGGLE = {
    **{"extra": "", "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
    **{"platform_machine": "x86_64", "implementation_name": "cpython"},
    "platform_python_implementation": "CPython",
}
# An Ubuntu 22.04 with glibc 2.35: a wheel may name any older one.
_SYSTEMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(35, 4, -1)),
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"),
)


def read_image(path: Path) -> dict[str, Requirement]:
    """Canonical name -> requirement, of what Kaggle's image has."""
    found = {}
    for number, line in lines_of(path):
        try:
            requirement = Requirement(line)
        except InvalidRequirement as fault:
            raise BundleError(
                f"{path}:{number} is no requirement ({shown(line)}): mend it"
            ) from fault
        found[canonicalize_name(requirement.name)] = requirement
    return found


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without comments and blanks."""
    if not path.is_file():
        raise BundleError(f"{path} is missing: restore it")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if text := line.partition("#")[0].strip():
            yield number, text


@dataclass(frozen=True)
class Wheel:
    """What a wheel says of itself: canonical name, version, tags, requirements, modules, and
    the programs that it brings."""

    path: Path
    name: str
    version: Version
    tags: frozenset[tags.Tag]
    requires: list[Requirement]
    modules: frozenset[str]
    programs: frozenset[str]

    def fits(self, python: str) -> bool:
        """Whether it can be installed on a Python of Kaggle's, such as "3.12"."""
        version, interpreter = tuple(map(int, python.split("."))), f"cp{python.replace('.', '')}"
        theirs = {*tags.cpython_tags(version, abis=[interpreter], platforms=_SYSTEMS)}
        theirs |= {*tags.compatible_tags(version, interpreter, _SYSTEMS)}
        return not theirs.isdisjoint(self.tags)


def read_wheel(path: Path) -> Wheel:
    """Raises BundleError for a file that is no wheel."""
    try:
        name, version, _, fitting = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            metadata = next(n for n in names if n.endswith(".dist-info/METADATA"))
            headers = email.message_from_bytes(archive.read(metadata))
            programs = _programs(archive, names)
    except (*ZIP_FAULTS, OSError, InvalidWheelFilename, StopIteration, configparser.Error) as fault:
        raise BundleError(f"{path} is no wheel: remove it, it is downloaded again") from fault
    tops = {n.partition("/")[0].removesuffix(".py") for n in names}
    return Wheel(
        path=path,
        name=name,
        version=version,
        tags=fitting,
        requires=[Requirement(text) for text in headers.get_all("Requires-Dist", [])],
        modules=frozenset(top for top in tops if "." not in top),
        programs=programs,
    )


def _programs(archive: zipfile.ZipFile, names: Sequence[str]) -> frozenset[str]:
    """Names of console scripts, and of scripts as they are."""
    plain = {
        Path(n).name for n in names if n.partition("/")[0].endswith(".data") and "/scripts/" in n
    }
    points = configparser.ConfigParser(delimiters="=")
    points.optionxform = str
    for name in names:
        if name.endswith(".dist-info/entry_points.txt"):
            points.read_string(archive.read(name).decode())
    scripts = set(points["console_scripts"]) if points.has_section("console_scripts") else set()
    return frozenset(plain | scripts)


def check_closure(wheels: Sequence[Wheel], image: Path, pythons: Sequence[str] = PYTHONS) -> None:
    """Raise BundleError unless, on each of Kaggle's Pythons, whatever a wheel requires is
    there: in a wheel that fits, or in the image.

    A version that stands in image.txt is the oldest that the image may have.
    """
    there = read_image(image)
    for python in pythons:
        fitting = {wheel.name: wheel for wheel in wheels if wheel.fits(python)}
        for wheel in wheels:
            if wheel.name not in fitting:
                raise BundleError(
                    f"{wheel.path} is not for Kaggle's Python {python}: run "
                    f"`build.py wheels {wheel.name}=={wheel.version}`"
                )
        for wheel in fitting.values():
            for requirement in wheel.requires:
                if fault := _unmet(requirement, python, fitting, there):
                    raise BundleError(
                        f"{wheel.path} requires {requirement}, and on Python {python} {fault}: run "
                        f"`build.py wheels {wheel.name}=={wheel.version}`, or name it in {image} "
                        "if the image has it"
                    )


def _unmet(
    requirement: Requirement,
    python: str,
    wheels: Mapping[str, Wheel],
    image: Mapping[str, Requirement],
) -> str | None:
    """Why a requirement is not met, None where it is."""
    kaggle = _KAGGLE | {"python_version": python, "python_full_version": f"{python}.0"}
    if requirement.marker and not requirement.marker.evaluate(kaggle):
        return None
    name = canonicalize_name(requirement.name)
    if name in wheels:
        met = requirement.specifier.contains(wheels[name].version, prereleases=True)
        return None if met else f"the wheel there is {wheels[name].version}"
    if name not in image:
        return "neither a wheel nor the image has it"
    for bound in image[name].specifier:
        if bound.operator in (">=", "==") and not requirement.specifier.contains(bound.version):
            return f"the image may have {bound.version}"
    return None
