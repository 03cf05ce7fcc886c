"""The engines that can be evaluated, by name, from a weights folder or an endpoint."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from mathllm.engines import BackboneDecoder, Decoder
from mathllm.engines.base import Engine, EngineError
from mathllm.engines.exchange import check_url
from mathllm.engines.remote import RemoteEngine
from mathllm.engines.server import wait_until_ready
from mathllm.errors import ParameterError
from mathllm.files import digest
from mathllm.solving.dialects import ChatML
from mathllm.solving.loading import ENDPOINT_SECONDS, PATIENCE_SECONDS, load_model, load_untrained
from mathllm.trm import RecursiveLM
from mathllm.wording import shown

BACKBONE, TRM, ENDPOINT = NAMES = ("backbone", "TRM", "endpoint")


@dataclass(frozen=True)
class EngineSpec:
    """One engine to evaluate. `open` makes it, which may take long and much memory.

    `settings` are its own that decide what it says: they go into the header of its file.
    """

    name: str
    weights: str
    open: Callable[[], Engine]
    settings: dict[str, Any] = field(default_factory=dict)
    trained_steps: int | None = None  # the N_sup that it was trained with, if it has any

    @property
    def steps(self) -> int | None:
        """N_sup at test time, None for what has none."""
        return self.settings.get("supervision_steps")

    @property
    def file(self) -> str:
        """Name of its result file."""
        return f"{self.name.lower()}.parquet"


def open_engines(
    names: Sequence[str],
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    device: str = "cpu",
    supervision_steps: Sequence[int] = (),
    endpoint: str = "",
    endpoint_model: str = "",
) -> list[EngineSpec]:
    """The named engines, in order, over the weights in `folder`.

    `supervision_steps` are N_sup at test time: each makes a TRM of its own, called TRM-N;
    without any there is one, with the checkpoint's N_sup. The endpoint is OpenAI-compatible
    and is asked whether it is there. Raises ParameterError for a name or number that cannot
    be, and for an endpoint that does not answer; WeightsError as load_model.
    """
    if not names:
        raise ParameterError(f"engines is empty: name some of {', '.join(NAMES)}")
    if odd := [name for name in names if name not in NAMES]:
        raise ParameterError(f"engines has {shown(odd[0])}: it must be of {', '.join(NAMES)}")
    if len(set(names)) < len(names) or len(set(supervision_steps)) < len(supervision_steps):
        raise ParameterError("engines or supervision_steps name one twice: name each once")
    if odd := [steps for steps in supervision_steps if steps < 1]:
        raise ParameterError(f"supervision_steps has {odd[0]}: it must be at least 1")
    model = cache(partial(load_model, folder, device))
    alone = cache(partial(load_untrained, folder / "backbone", device))  # needs no trm/
    made: list[EngineSpec] = []
    for name in names:
        if name == BACKBONE:
            made.append(
                EngineSpec(
                    name,
                    weights_digest(folder, ["backbone"]),
                    _backbone(model if TRM in names else alone),
                )
            )
        elif name == TRM:
            made += _trms(folder, model, supervision_steps)
        else:
            made.append(_endpoint(folder, tokenizer, endpoint, endpoint_model))
    return made


def weights_digest(folder: Path, parts: Sequence[str]) -> str:
    """SHA-256 of names and contents of all files in these subfolders, 16 digits of it."""
    files = sorted(p for part in parts for p in (folder / part).rglob("*") if p.is_file())
    lines = [f"{digest(path)} {path.relative_to(folder).as_posix()}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _backbone(model: Callable[[], RecursiveLM]) -> Callable[[], BackboneDecoder]:
    return lambda: BackboneDecoder(model())


def _trms(folder: Path, model: Callable[[], RecursiveLM], steps: Sequence[int]) -> list[EngineSpec]:
    weights, own = weights_digest(folder, ["backbone", "trm"]), model().config.N_sup
    return [
        EngineSpec(
            f"{TRM}-{count}" if steps else TRM,
            weights,
            lambda count=count: Decoder(model(), supervision_steps=count),
            {"supervision_steps": count},
            own,
        )
        for count in steps or [own]
    ]


def _endpoint(
    folder: Path, tokenizer: PreTrainedTokenizerBase, url: str, served: str
) -> EngineSpec:
    if not url or not served:
        raise ParameterError(
            f"endpoint is {shown(url)} and endpoint_model {shown(served)}: give the server's "
            "address, as 'http://127.0.0.1:8000/v1', and the name of a model that it serves"
        )
    check_url(url)
    try:
        wait_until_ready(url, ENDPOINT_SECONDS)
    except EngineError as fault:
        raise ParameterError(f"endpoint {fault}: start the server or correct the address") from None
    config = json.loads((folder / "backbone" / "config.json").read_text(encoding="utf-8"))
    positions = config["max_position_embeddings"]
    return EngineSpec(
        ENDPOINT,
        served,
        partial(
            RemoteEngine,
            url,
            served,
            ChatML(tokenizer),
            positions,
            patience_seconds=PATIENCE_SECONDS,
        ),
    )
