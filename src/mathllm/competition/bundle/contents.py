"""What a bundle is made of: the files of each part."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from mathllm.errors import BundleError, WeightsError
from mathllm.pretrained import check_files
from mathllm.pretrained import weight_files as shards_of
from mathllm.wording import brief


def files_below(folder: Path, tree: Path) -> Iterator[Path]:
    """Every file below `folder`, sorted; nothing in caches, that is hidden folders and
    __pycache__. A link that stays inside `tree` stands for what it leads to; any other would
    bring to Kaggle what nobody meant to be there.

    Raises BundleError for a link that leads out of `tree`, nowhere, or round.
    """
    check_link(folder, tree)
    if not folder.is_dir():
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as fault:
        raise BundleError(f"{folder} cannot be read ({fault.strerror}): mend that") from fault
    for path in entries:
        if path.name == "__pycache__" or (path.name.startswith(".") and path.is_dir()):
            continue
        check_link(path, tree)
        if path.is_dir():
            yield from files_below(path, tree)
        elif path.is_file():
            yield path


def check_link(path: Path, tree: Path) -> None:
    """Raise BundleError if `path` is a link that the bundle must not follow."""
    if not path.is_symlink():
        return
    target = path.resolve()
    link = f"{path} is a link to {path.readlink()}"
    if not target.is_relative_to(tree.resolve()):
        raise BundleError(f"{link}, outside of {tree}: put a copy there in place of the link")
    if not target.exists():
        raise BundleError(f"{link}, which is missing: remove the link or restore its target")
    if path.parent.resolve().is_relative_to(target):
        raise BundleError(f"{link}, a folder that it is in: remove it")


def is_hidden(path: Path, root: Path) -> bool:
    """Whether the path below `root` has a part such as .cache: editors and tools put it there."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


# Formats that hold no code; what else lies beside the weights, such as a README, stays behind.
WEIGHT_SUFFIXES = frozenset({".json", ".safetensors", ".txt", ".jinja", ".model"})
# Modules, and the templates of pages.
SOURCE_SUFFIXES = frozenset({".py", ".css", ".j2", ".json"})
CARD_SHARE = 0.9  # of a card's memory, for weights; caches and passes need the rest
# What the notebooks read when they run on Kaggle, and the licence.
BESIDE_THE_PACKAGE = ("LICENSE", "assets/problems.csv", "assets/reserved.txt")


def source_files(root: Path) -> Iterator[tuple[str, Path]]:
    """(path in the source dataset, file): the package, its licence, notebooks' small assets."""
    package = root / "src" / "mathllm"
    if not (package / "__init__.py").is_file():
        raise BundleError(f"{package} is no package: run build.py from its clone")
    for path in files_below(package, package):
        if path.suffix in SOURCE_SUFFIXES and not is_hidden(path, package):
            yield f"mathllm/{path.relative_to(package).as_posix()}", path
    for name in BESIDE_THE_PACKAGE:
        check_link(root / name, root)
        yield name, root / name


def weight_files(weights: Path, parts: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """(path in the weights dataset, file) of `backbone/`, `trm/`, or both."""
    for part in parts:
        for path in files_below(weights / part, weights):
            wanted = path.suffix in WEIGHT_SUFFIXES or path.name == "LICENSE"
            if wanted and not is_hidden(path, weights):
                yield path.relative_to(weights).as_posix(), path


def check_weights(weights: Path, card_gb: int | None = None) -> None:
    """Raise WeightsError unless the kernel could load `weights`, on a GPU with so many GB.

    Reads headers and the TRM, never the backbone's tensors: a model of many gigabytes is
    checked in seconds, on any machine.
    """
    if not weights.is_dir():
        raise WeightsError(f"no weights folder {weights}: give one that holds backbone/ and trm/")
    # Here and not above: torch and transformers take seconds, and `--help` needs neither.
    import torch
    from transformers import AutoModelForCausalLM

    from mathllm.data.chat import load_tokenizer
    from mathllm.trm import backbone as backbones
    from mathllm.trm import load_checkpoint

    folder = weights / "backbone"
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"{weights} has no backbone: backbone/config.json is missing; copy there what "
            "save_pretrained wrote for the model that the TRM was trained on"
        )
    check_files(folder)
    for path in shards_of(folder):
        backbones.check_safetensors(path)
    load_tokenizer(folder)
    config = backbones.read_backbone_config(folder)
    try:
        with torch.device("meta"):  # shapes without memory
            backbone = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, OSError, LookupError, TypeError, AttributeError) as fault:
        raise WeightsError(f"{folder} is no causal LM ({brief(fault)}): copy it again") from fault
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tensors copied to "meta" go nowhere, as meant
            model = load_checkpoint(backbone, weights / "trm")
    except WeightsError as fault:
        raise WeightsError(f"{weights / 'trm'} does not fit {folder}: {fault}") from fault
    # A GPU computes in 16 bits (trm/precision.py).
    size = sum(parameter.numel() for parameter in model.parameters()) * 2
    if card_gb is not None and size > card_gb * 1e9 * CARD_SHARE:
        raise WeightsError(
            f"{weights} has {size / 1e9:,.1f} GB in 16 bits, a card of the accelerator {card_gb}: "
            "choose one with larger cards, or a smaller backbone"
        )
