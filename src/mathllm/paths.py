"""Where Kaggle puts things, and where a rehearsal does.

Nothing is cached: tests and rehearsals change the environment.
"""

import os
from pathlib import Path
from typing import Literal

from mathllm.errors import ParameterError, ProblemFileError
from mathllm.settings import CURRENT
from mathllm.wording import shown

INPUT_ROOT_VARIABLE = "MATHLLM_INPUT_ROOT"
WORKING_DIR_VARIABLE = "MATHLLM_WORKING_DIR"
RERUN_VARIABLE = "KAGGLE_IS_COMPETITION_RERUN"

KAGGLE_INPUT = Path("/kaggle/input")
KAGGLE_WORKING = Path("/kaggle/working")

# Of the datasets that build.py vendors.
WEIGHTS_SLUG, WHEELS_SLUG = "mathllm-weights", "mathllm-wheels"

Kind = Literal["competitions", "datasets", "models", "notebooks"]

# The first cell of every notebook, to the letter: it finds this package, so it cannot ask it.
# A zip that was uploaded on Kaggle's page may be unpacked into a folder of the zip's name.
BOOTSTRAP = """\
import os
import sys
from pathlib import Path

# On Kaggle the package comes in a dataset; a clone has it in src/.
inputs = Path(os.environ.get("MATHLLM_INPUT_ROOT") or "/kaggle/input")
places = ["*", "*/*", "datasets/*/*", "datasets/*/*/*"]
found = [p for place in places for p in inputs.glob(f"{place}/mathllm/__init__.py")]
found += [p / "src/mathllm/__init__.py" for p in [Path.cwd(), *Path.cwd().parents]]
sys.path.insert(0, next(str(p.parents[1]) for p in found if p.is_file()))
"""


def input_root() -> Path:
    """The folder of all inputs: $MATHLLM_INPUT_ROOT if set and not empty, else Kaggle's."""
    return Path(os.environ.get(INPUT_ROOT_VARIABLE) or KAGGLE_INPUT)


def working_dir() -> Path:
    """The folder whose files are kept: $MATHLLM_WORKING_DIR, else Kaggle's, else the current."""
    if named := os.environ.get(WORKING_DIR_VARIABLE):
        return Path(named)
    return KAGGLE_WORKING if on_kaggle() and KAGGLE_WORKING.is_dir() else Path.cwd()


def is_rerun() -> bool:
    """Whether the competition reruns the notebook. As in its own package, any value counts."""
    return RERUN_VARIABLE in os.environ


def on_kaggle() -> bool:
    """Whether the inputs are Kaggle's own, not a rehearsal's or a clone's."""
    return not os.environ.get(INPUT_ROOT_VARIABLE) and KAGGLE_INPUT.is_dir()


def mount(root: Path, kind: Kind, identifier: str) -> Path:
    """Where an input stands in the newer layout; `identifier` is OWNER/SLUG, or SLUG for a
    competition."""
    return root / kind / identifier


def datasets(root: Path, inside: bool = False) -> list[Path]:
    """Whatever may be a dataset under an input root, in either layout, whoever owns it.

    `inside`: then what lies in these, files too.
    """
    found = sorted([*root.glob("*"), *root.glob("datasets/*/*")])
    return found + (sorted([*root.glob("*/*"), *root.glob("datasets/*/*/*")]) if inside else [])


def competitions(root: Path) -> list[Path]:
    """Whatever may be a competition under an input root, in either layout."""
    return sorted([*root.glob("competitions/*"), *root.glob("*")])


def find_input(kind: Kind, slug: str, owner: str | None = None) -> Path | None:
    """The folder of an input, in the newer layout or else in the older; None without one.

    The slug of a model may go on, as in "model/framework/variation/version". Competitions
    have no owner; for the others None means whoever it is. The older layout has no owners.
    Raises ParameterError when several owners have the slug and none is named.
    """
    root = input_root()
    if kind == "competitions":
        newer = [mount(root, kind, slug)]
    elif owner is not None:
        newer = [mount(root, kind, f"{owner}/{slug}")]
    else:
        newer = sorted((root / kind).glob(f"*/{slug}"))
    found = [folder for folder in newer if folder.is_dir()]
    if len(found) > 1:
        owners = ", ".join(f.relative_to(root / kind).parts[0] for f in found)
        raise ParameterError(
            f"{slug} is ambiguous under {root / kind}: owners {owners}; name one of them"
        )
    older = root / slug
    return found[0] if found else older if older.is_dir() else None


def find_dataset(slug: str, owner: str | None = None) -> Path | None:
    """The folder of a vendored dataset, None where it is not attached.

    Kaggle may unpack a zip that was uploaded on its page into a folder of the zip's name.
    """
    folder = find_input("datasets", slug, owner)
    return folder / slug if folder is not None and (folder / slug).is_dir() else folder


def find_competition() -> Path | None:
    """The folder with the competition's files, None where they are not attached."""
    return find_input("competitions", CURRENT.slug)


def find_competition_file(name: str) -> Path:
    """A file of the competition, such as test.csv. Raises ProblemFileError without it."""
    folder = find_competition()
    if folder is not None and (folder / name).is_file():
        return folder / name
    root = input_root()
    tried = folder or f"{mount(root, 'competitions', CURRENT.slug)} and {root / CURRENT.slug}"
    raise ProblemFileError(
        f"{name} of {CURRENT.slug} not found in {tried}\n"
        f"attach the competition to the notebook, or set {INPUT_ROOT_VARIABLE}"
    )


def find_real_package() -> Path | None:
    """The folder to put on sys.path for the competition's own evaluation package, or None.

    Whether the package is whole is not looked at.
    """
    folder = find_competition()
    return folder if folder is not None and (folder / CURRENT.package).is_dir() else None


def locate(name: str) -> Path:
    """The file or folder that a notebook's parameter names.

    The first that exists of: the path as it is, the path in the clone, a dataset with this
    slug, the path inside an attached dataset (the source dataset has what a clone has under
    assets/). Raises ParameterError that lists what was tried.
    """
    root = input_root()
    clone = Path(__file__).parents[2]
    places = [Path(name), clone / name]
    if "/" not in name and (dataset := find_dataset(name)) is not None:
        places.append(dataset)
    places += [folder / name for folder in datasets(root)]
    for place in places:
        if name and place.exists():
            return place
    raise ParameterError(
        f"{shown(name)} is neither a path here, nor one in {clone}, nor a dataset or a file of one "
        f"under {root}: correct the path, or attach the dataset"
    )


def locate_weights(name: str) -> Path:
    """`locate`, or for "" the default: the clone's assets/tiny, else the vendored weights."""
    if name:
        return locate(name)
    embedded = Path(__file__).parents[2] / "assets" / "tiny"
    return embedded if embedded.is_dir() else locate(WEIGHTS_SLUG)
