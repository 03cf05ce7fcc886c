"""Settings that are each right and fail together: a server's flags, its model, the machine.

Each refusal names its reason and where it is known from. What a server is not known for is let
through.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mathllm.competition.bundle.metadata import CARD_GB
from mathllm.errors import ParameterError

T4 = ("NvidiaTeslaT4", "NvidiaTeslaT4Highmem")
VLLM_PORT = "8000"  # where it listens if nobody says


@dataclass(frozen=True)
class Served:
    """A vLLM server's command with the kernel's parameters and its machine."""

    flags: Mapping[str, str]
    values: Mapping[str, Any]
    accelerator: str

    def flag(self, *names: str) -> str:
        """The value of the first of these flags that is given, "" without one."""
        return next((self.flags[name] for name in names if name in self.flags), "")

    @property
    def model(self) -> str:
        """The name by which it serves its model, "" where that is its folder's."""
        return self.flag("--served-model-name")


Rule = Callable[[Served], str | None]


def _other_name(served: Served) -> str | None:
    given = served.values.get("endpoint_model", "")
    if served.model and given not in served.model.split():
        return (
            f"endpoint_model is {given!r} and the server serves {served.model!r}: give both the "
            "same name"
        )
    return None


def _other_port(served: Served) -> str | None:
    wanted = urlsplit(served.values.get("endpoint", "")).port
    given = served.flag("--port", "-p") or VLLM_PORT
    if wanted is not None and given != str(wanted):
        return f"endpoint has port {wanted} and the server listens at {given}: give both the same"
    return None


def _longer_context(served: Served) -> str | None:
    length, positions = served.flag("--max-model-len"), served.values.get("positions", 0)
    if length.isdigit() and int(length) < positions:
        return f"positions is {positions} and the server's --max-model-len {length}: lower it"
    return None


def _eagle(served: Served) -> str | None:
    told = " ".join(f"{name} {value}" for name, value in served.flags.items()).lower()
    if served.values.get("dialect") == "harmony" and "speculative" in told and "eagle" in told:
        return (
            "EAGLE speculation with gpt-oss in MXFP4 answered 0 of 50 problems under vLLM 0.11 "
            "(AIMO3): leave --speculative-config out"
        )
    return None


def _bfloat16(served: Served) -> str | None:
    if served.accelerator in T4 and served.flag("--dtype") == "bfloat16":
        return (
            "--dtype bfloat16 wants compute capability 8.0 and a T4 has 7.5 (vLLM, issue 1157): "
            "give --dtype half"
        )
    return None


def _mxfp4(served: Served) -> str | None:
    if served.accelerator in T4 and served.values.get("dialect") == "harmony":
        return (
            "gpt-oss's MXFP4 wants compute capability 8.0 under vLLM and a T4 has 7.5 (vLLM, issue "
            "23203): give a newer --accelerator"
        )
    return None


def _too_large(served: Served) -> str | None:
    """By the billions of parameters in its names, and half a byte (MXFP4) or two bytes of each."""
    names = f"{served.values.get('served', '')} {served.model}".lower()
    billions = [float(found) for found in re.findall(r"(?<![\d.])(\d+(?:\.\d+)?)b(?![a-z])", names)]
    card = CARD_GB.get(served.accelerator)
    if not billions or card is None or "--quantization" in served.flags:
        return None
    needed = max(billions) * (0.5 if served.values.get("dialect") == "harmony" else 2.0)
    cards = served.flag("--tensor-parallel-size", "-tp")
    there = card * (int(cards) if cards.isdigit() else 1)
    if needed < there:
        return None
    large = [name for name, size in CARD_GB.items() if needed < size]
    return (
        f"the weights of {max(billions):g} billion parameters take about {needed:.0f} GB and "
        f"{served.accelerator} has {there}: give --accelerator {' or '.join(large) or 'none'}"
    )


def _tool_parser(served: Served) -> str | None:
    needed = ("--enable-auto-tool-choice", "--tool-call-parser")
    chats = served.values.get("dialect") == "chat" and served.values.get("tool_kernels", 0)
    if chats and (missing := [name for name in needed if name not in served.flags]):
        return (
            f"vLLM refuses tools without {' and '.join(missing)} (its documentation, tool "
            "calling): add that to server"
        )
    return None


RULES: tuple[Rule, ...] = (
    *(_other_name, _other_port, _longer_context),
    *(_eagle, _bfloat16, _too_large, _mxfp4, _tool_parser),
)


def check_combination(values: Mapping[str, Any], accelerator: str) -> None:
    """Raise ParameterError for what is known not to work together."""
    if values.get("temperature") == 0 and values.get("n_samples", 1) > 1:
        raise ParameterError(
            f"parameter temperature: at 0 all of n_samples {values['n_samples']} are the same: "
            "give a temperature over 0, or n_samples 1"
        )
    words = shlex.split(values.get("server", ""))
    if not _is_vllm(words):
        return
    served = Served(_flags(words), values, accelerator)
    for rule in RULES:
        if (fault := rule(served)) is not None:
            raise ParameterError(f"parameter server: {fault}")


def _is_vllm(words: list[str]) -> bool:
    program = words[0].rpartition("/")[2] if words else ""
    return program == "vllm" or any(word.startswith("vllm.entrypoints") for word in words)


def _flags(words: list[str]) -> dict[str, str]:
    """--name value, --name=value, and --name alone as ""; of a name with several values, all."""
    flags: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("-") and not word.lstrip("-")[:1].isdigit():
            name, sign, value = word.partition("=")
            name = name.replace("_", "-")
            flags[name] = value
            name = "" if sign else name
        elif name:
            flags[name] = f"{flags[name]} {word}".strip()
    return flags
