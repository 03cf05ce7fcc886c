"""A tokenizer from its files alone, as far as a prompt needs it.

transformers' would import torch, which is seconds and gigabytes that a kernel does not have where
a server generates.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")  # that a template may ask for


class FileTokenizer:
    """As transformers' tokenizer of the same folder: tokenizer.json, tokenizer_config.json and
    the chat template, in a file of its own or in the second. Raises what the libraries raise."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        alone = folder / "chat_template.jinja"
        told = alone.read_text("utf-8") if alone.is_file() else config.get("chat_template")
        if isinstance(told, list):  # several, by name
            told = {one["name"]: one["template"] for one in told}.get("default")
        self.chat_template: str | None = told
        self._named = {name: _text(config.get(name)) for name in NAMED}

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        return {
            "input_ids": self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        }

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Tokens as text."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=skip_special_tokens)

    def get_vocab(self) -> dict[str, int]:
        """Token -> id, the added ones included."""
        return self._tokenizer.get_vocab()

    def get_added_vocab(self) -> dict[str, int]:
        """Those that are read as a whole, whatever stands around them."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items()}

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """A token's id."""
        return self._tokenizer.token_to_id(token)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        tokenize: bool = False,
        add_generation_prompt: bool = False,
    ) -> str:
        """Messages as text. Raises jinja2.TemplateError."""
        if tokenize:
            raise ValueError("text only")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _json
        environment.globals["raise_exception"] = _refuse
        template = environment.from_string(self.chat_template or "")
        return template.render(
            messages=messages, add_generation_prompt=add_generation_prompt, **self._named
        )


def _text(token: Any) -> str:
    """A token of the configuration, which may say more than its text."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(why: str) -> NoReturn:
    raise jinja2.TemplateError(why)
