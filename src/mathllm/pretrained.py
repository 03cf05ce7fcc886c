"""What a folder in transformers' format must be before transformers may see it.

Files that say something, readable and each named when it is not; no code of the folder's own,
which transformers would offer to run; and weights that lie in the folder itself.
"""

import re
from pathlib import Path
from typing import Any

from mathllm.errors import WeightsError
from mathllm.files import is_file, read_json
from mathllm.wording import brief, shown

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MODEL = ("config.json", "generation_config.json")
TOKENIZER = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("processor_config.json", "preprocessor_config.json"),
)
# Of weights that transformers would fetch from the place that such a file names.
ADAPTER = "adapter_config.json"
_SHARD = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]{0,200}\.safetensors")


def check_files(folder: Path, names: tuple[str, ...] = (*MODEL, *TOKENIZER)) -> None:
    """Refuse custom code, and a file of these that is not a JSON object.

    A file that is not there is fine. Raises WeightsError with the file and the mend.
    """
    for name in names:
        path = folder / name
        if is_file(path) and (code := _custom_code(_read_object(path))):
            raise WeightsError(
                f"{path} names code of its own (auto_map: {shown(code)}), which does not run here: "
                "use a model that transformers itself has, or take auto_map out if it is one"
            )
    if is_file(folder / ADAPTER):
        raise WeightsError(
            f"{folder / ADAPTER} makes this an adapter of weights that lie elsewhere: merge it "
            "into its model (merge_and_unload), or remove it"
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the folder: the one, and the shards of its index.

    Raises WeightsError for an index that names none, or anything else than a file beside it.
    """
    index, single = folder / INDEX, folder / SINGLE
    if not is_file(index):
        return [single]
    shards = _read_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise WeightsError(
            f"{index} has no weight_map from tensors to files: copy the whole weights folder again"
        )
    for tensor, name in shards.items():
        if not isinstance(name, str) or not _SHARD.fullmatch(name):
            raise WeightsError(
                f"{index} has {brief(tensor)} in {shown(name)}, which is no name of a .safetensors "
                "file beside it: copy the whole weights folder again"
            )
    names = sorted(set(shards.values()) | ({SINGLE} if is_file(single) else set()))
    return [folder / name for name in names]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as fault:
        raise WeightsError(f"{path} is no JSON ({brief(fault)}): copy it again") from fault
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is {shown(content)} and no JSON object: copy it again")
    return content


def _custom_code(content: dict[str, Any]) -> Any:
    """What a file names as its own classes, at its top or in a config inside it."""
    inner = [value for value in content.values() if isinstance(value, dict)]
    return next((one["auto_map"] for one in [content, *inner] if one.get("auto_map")), None)
