"""A model and a solver from a weights folder."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mathllm.engines.base import EngineError
from mathllm.engines.exchange import check_url
from mathllm.errors import ParameterError, WeightsError
from mathllm.solving.dialects import PROBLEM, ChatML, Dialect
from mathllm.solving.harmony import EFFORTS, FileVocabulary, Harmony
from mathllm.solving.solution import SolverSettings
from mathllm.solving.solver import Solver
from mathllm.wording import shown

ENDPOINT_SECONDS = 60.0  # for a running endpoint to answer
# At most, and at most half of a sample's time, that a server which was there and is away is
# waited for: a large model takes minutes to load again.
PATIENCE_SECONDS = 600.0
# What the prompts of Qwen2.5-Math do not say.
RANGE = " It is an integer from {low} to {high}."
SERVED = "{served}"  # stands for the folder of the endpoint's model
DIALECTS = ("chatml", "harmony", "chat")

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from mathllm.sandbox import SandboxPool
    from mathllm.trm import RecursiveLM


def load_model(weights: Path, device: str = "cpu", backbone: Path | None = None) -> "RecursiveLM":
    """Backbone and TRM for decoding, in the precision that the device is best at.

    `weights` holds `backbone/` (with its tokenizer), unless `backbone` is another folder for
    it, and `trm/`. Raises WeightsError for a folder that is missing, incomplete or corrupt, or
    whose TRM was trained for another backbone.
    """
    if not weights.is_dir():
        raise WeightsError(f"no weights folder {weights}: give one that holds backbone/ and trm/")
    # Here and not above: the kernel listens before torch and the weights are loaded.
    from mathllm.trm import load_backbone, load_checkpoint
    from mathllm.trm.backbone import best_dtype

    dtype = best_dtype(device)
    loaded = load_backbone(backbone or weights / "backbone", device, dtype)
    return load_checkpoint(loaded, weights / "trm", dtype)


def load_untrained(folder: Path, device: str) -> "RecursiveLM":
    """The backbone with a TRM that changes nothing. Raises WeightsError without a backbone."""
    from mathllm.trm import RecursiveLM, TRMConfig, load_backbone
    from mathllm.trm.backbone import best_dtype

    backbone = load_backbone(folder, device, best_dtype(device))
    return RecursiveLM(backbone, TRMConfig.for_backbone(backbone.config))


@dataclass(frozen=True)
class EngineSettings:
    """What generates and what helps it. `tool_kernels`: for programs; 0: no tools.

    `endpoint`: URL of an OpenAI-compatible server that generates in place of the TRM, as
    "http://127.0.0.1:8000/v1", and `endpoint_model` its name there. `server` is the command
    line that a kernel starts it with, if it does not run yet. `positions` is its model's context:
    with it the endpoint is all that generates, and no weights are loaded. Without, it is spoken to
    as the backbone. `dialect` is how the model is spoken to, one of DIALECTS, `tokenizer` the
    folder of its tokenizer.json: all need it but "chat", whose server renders messages. `effort`
    is Harmony's. `system` and `user` are prompts in place of the dialect's own; the second holds
    {problem}, both may name {low} and {high}, the answer's range. `served` is Kaggle's handle of
    the endpoint's model, for whose folder {served} stands in `server` and `tokenizer`.
    `cuda_graphs`: on a GPU, passes are replayed as CUDA graphs. Raises ParameterError.
    """

    tool_kernels: int = 0
    endpoint: str = ""
    endpoint_model: str = ""
    server: str = ""
    cuda_graphs: bool = True
    dialect: str = "chatml"
    tokenizer: str = ""
    positions: int = 0
    effort: str = "high"
    system: str = ""
    user: str = ""
    served: str = ""

    @property
    def endpoint_alone(self) -> bool:
        """Whether nothing else generates."""
        return self.positions > 0

    def __post_init__(self) -> None:
        for name, known in (("dialect", DIALECTS), ("effort", EFFORTS)):
            if (value := getattr(self, name)) not in known:
                raise ParameterError(f"{name} is {shown(value)}: it must be {', '.join(known)}")
        if self.positions < 0 or (self.positions and not self.endpoint):
            raise ParameterError(
                f"positions is {self.positions}: give an endpoint's context in tokens, with "
                "endpoint, or 0"
            )
        rendered = self.dialect == "chat"  # by the server, which has the tokenizer
        if bool(self.tokenizer) != (self.positions > 0 and not rendered):
            raise ParameterError(
                f"tokenizer is {shown(self.tokenizer)}, positions {self.positions} and dialect "
                f"{self.dialect}: an endpoint that is all that generates has both numbers, but "
                "for chat, which has no tokenizer"
            )
        if self.dialect != DIALECTS[0] and not self.positions:
            raise ParameterError(f"positions is 0: {self.dialect} needs the model's context")
        named = SERVED in self.server or SERVED in self.tokenizer
        if named != bool(self.served):
            raise ParameterError(
                f"served is {shown(self.served)}: give Kaggle's handle of the endpoint's model, as "
                f"owner/model/framework/variation/version, where server or tokenizer has {SERVED}, "
                "and nowhere else"
            )
        if self.user and self.user.count(PROBLEM) != 1:
            raise ParameterError(f"user is {shown(self.user)}: it must hold {PROBLEM} once")
        if self.tool_kernels < 0:
            raise ParameterError(f"tool_kernels is {self.tool_kernels}: give at least 0")
        if self.endpoint and not self.endpoint_model:
            raise ParameterError(
                f"endpoint_model is empty: name the model that {self.endpoint} serves"
            )
        if self.endpoint:
            check_url(self.endpoint)
        if self.server and not self.endpoint:
            raise ParameterError(f"endpoint is empty: give the address of {self.server!r}")


def open_tools(kernels: int) -> "SandboxPool | None":
    """Started sessions for programs, so many at once; None for 0."""
    if not kernels:
        return None
    from mathllm.sandbox import SandboxPool, SandboxSettings

    tools = SandboxPool(SandboxSettings(size=kernels))
    tools.start()
    return tools


def load_endpoint(settings: SolverSettings | None, engine: EngineSettings, strict: bool) -> Solver:
    """A solver whose endpoint is all that generates. Raises EngineError where it does not answer,
    WeightsError for a tokenizer that does not speak the dialect."""
    from mathllm.engines.remote import RemoteEngine
    from mathllm.engines.remote_chat import RemoteChat
    from mathllm.solving.chat import Chat

    tools = open_tools(engine.tool_kernels)
    folder, has_tools = Path(engine.tokenizer), tools is not None
    system, user = engine.system, engine.user
    dialect: Dialect
    if engine.dialect == "harmony":
        vocabulary = FileVocabulary(folder / "tokenizer.json")
        dialect = Harmony(vocabulary, has_tools, engine.effort, system, user=user)
    elif engine.dialect == "chat":
        dialect = Chat(has_tools, system, user)
    else:
        from mathllm.data.chat import SYSTEM_PROMPT, TOOL_PROMPT, load_file_tokenizer

        system = system or (TOOL_PROMPT if has_tools else SYSTEM_PROMPT) + RANGE
        dialect = ChatML(load_file_tokenizer(folder), has_tools, system, user)
    find_endpoint(engine, strict)
    kind = RemoteChat if engine.dialect == "chat" else RemoteEngine
    patience = 0.0 if strict else PATIENCE_SECONDS
    url, served = engine.endpoint, engine.endpoint_model
    remote = kind(url, served, dialect, engine.positions, patience_seconds=patience)
    return Solver(remote, dialect, settings, tools, strict=strict)


def find_endpoint(engine: EngineSettings, strict: bool) -> None:
    """Wait until an endpoint answers, and look at what it serves: the wrong model is an
    EngineError if `strict`, else a warning. Raises EngineError where it does not answer."""
    from mathllm.engines.server import WrongServerError, check_served, wait_until_ready

    wait_until_ready(engine.endpoint, ENDPOINT_SECONDS)
    try:
        check_served(engine.endpoint, engine.endpoint_model, engine.positions)
    except WrongServerError as fault:
        if strict:
            raise
        log.warning("%s", fault)


def load_solver(
    weights: Path,
    settings: SolverSettings | None = None,
    device: str = "cpu",
    engine: EngineSettings | None = None,
    strict: bool = True,
    backbone: Path | None = None,
) -> Solver:
    """A solver that decodes with the weights in a folder; see load_model.

    Its spare engine is the TRM behind an endpoint, else the plain backbone. `strict` as
    Solver's; if not, a TRM that cannot be loaded leaves the plain backbone, and the solver's
    `load_fault` says so, as it does of an endpoint that does not answer, which leaves the
    TRM. Raises EngineError if strict.
    """
    engine = engine or EngineSettings()
    if engine.endpoint_alone:
        return load_endpoint(settings, engine, strict)
    from mathllm.data.chat import load_tokenizer
    from mathllm.engines import BackboneDecoder, Decoder
    from mathllm.engines.remote import RemoteEngine

    load_fault = None
    try:
        model = load_model(weights, device, backbone)
        decoder = Decoder(model, graphs=None if engine.cuda_graphs else False)
    except WeightsError as fault:
        if strict:
            raise
        model = load_untrained(backbone or weights / "backbone", device)
        decoder = BackboneDecoder(model)
        load_fault = f"{fault}; the plain backbone answers"
    tokenizer = load_tokenizer(backbone or weights / "backbone")
    main, spare = decoder, BackboneDecoder(model)
    if engine.endpoint:
        try:
            find_endpoint(engine, strict)
            main, spare = (
                RemoteEngine(
                    engine.endpoint,
                    engine.endpoint_model,
                    ChatML(tokenizer),
                    decoder.max_positions,
                    patience_seconds=0.0 if strict else PATIENCE_SECONDS,
                ),
                decoder,
            )
        except EngineError as fault:
            if strict:
                raise
            load_fault = f"{fault}; the TRM answers"
    tools = open_tools(engine.tool_kernels)
    prompts = (engine.system, engine.user)
    plain = ChatML(tokenizer, False, *prompts)
    dialect = plain if tools is None else ChatML(tokenizer, True, *prompts)
    solver = Solver(main, dialect, settings, tools, (spare, plain), strict)
    solver.load_fault = load_fault
    return solver
