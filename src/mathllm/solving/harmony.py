"""The format of the gpt-oss models: messages with a role, a channel and a recipient.

Token ids go out and come back, so that a stream is read by its special tokens and never by what
looks like them in a text. The format is OpenAI's (cookbook.openai.com/articles/openai-harmony);
what is rendered here equals what their package openai-harmony renders.

    <|start|>assistant<|channel|>analysis<|message|>…<|end|>         thinks
    <|start|>assistant to=python<|channel|>analysis code<|message|>…<|call|>    calls a tool
    <|start|>python to=assistant<|channel|>analysis<|message|>…<|end|>    the tool answers
    <|start|>assistant<|channel|>final<|message|>…<|return|>         answers
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mathllm.engines.base import Vocabulary
from mathllm.errors import WeightsError
from mathllm.solving.dialects import ANSWER_SHARE, INSTRUCTIONS, PROBLEM, filled
from mathllm.solving.programs import TOOL, TOOL_NAME, program_of
from mathllm.wording import brief

MARKS = ("start", "end", "message", "channel", "constrain", "return", "call")
EFFORTS = ("low", "medium", "high")
CHANNELS = ("analysis", "commentary", "final")
IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
CUTOFF = "2024-06"  # of the gpt-oss models' knowledge, as their prompts say it
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_WORD = re.compile(r"[^\s<]+")


class MarkedVocabulary(Vocabulary, Protocol):
    """`encode` reads no special token out of a text."""

    def special(self, name: str) -> int:
        """The id of a special token, as "<|start|>". Raises KeyError for none."""


@dataclass(frozen=True)
class Message:
    """One message; `kind` is the type of its content, "" for plain text."""

    role: str
    content: str
    channel: str = ""
    recipient: str = ""
    kind: str = ""

    @property
    def calls(self) -> bool:
        """Whether it is for a tool."""
        return self.recipient not in ("", "assistant", "all", "user")


class Harmony:
    """Opens conversations in the Harmony format; with `tools`, the model may call python.

    `instructions` replaces the developer's message and `user` the user's, as Chat has them;
    `identity` who the model is told to be; `date` the day that it is told, "" for none.
    Raises WeightsError for a vocabulary without Harmony's marks.
    """

    def __init__(
        self,
        vocabulary: MarkedVocabulary,
        tools: bool = False,
        effort: str = "high",
        instructions: str = "",
        identity: str = IDENTITY,
        date: str = "",
        user: str = "",
    ) -> None:
        self.vocabulary, self.size = vocabulary, vocabulary.size
        try:
            self.marks = {name: vocabulary.special(f"<|{name}|>") for name in MARKS}
        except KeyError as missing:
            raise WeightsError(
                f"the vocabulary has no {missing.args[0]}: only gpt-oss models speak Harmony"
            ) from None
        self.names = {token: name for name, token in self.marks.items()}
        self.stop_ids = frozenset({self.marks["return"], self.marks["call"]})
        self.stop_sequences: tuple[tuple[int, ...], ...] = ()
        self._system = system_text(tools, effort, identity, date)
        self._developer = f"# Instructions\n\n{filled(instructions or INSTRUCTIONS)}"
        self._user = filled(user or PROBLEM).partition(PROBLEM)

    def begin(self, problem: str, positions: int, new_tokens: int) -> "HarmonyConversation":
        """As Dialect.begin; of what is too long, the problem loses its end."""
        head = self.render([Message("system", self._system), Message("developer", self._developer)])
        before, _, behind = map(self.vocabulary.encode, self._user)
        head += [*self._header(Message("user", "")), self.marks["message"], *before]
        tail = [*behind, self.marks["end"], *self.opening()]
        asked = self.vocabulary.encode(problem)
        keep = positions - min(new_tokens, max(1, int(positions * ANSWER_SHARE)))
        room = max(0, keep - len(head) - len(tail))
        whole = len(head) + len(asked) + len(tail)
        note = f"; prompt cut from {whole} to {keep} tokens" if len(asked) > room else ""
        return HarmonyConversation(self, [*head, *asked[:room], *tail], note)

    def decode(self, tokens: Sequence[int]) -> str:
        """As Vocabulary.decode."""
        return self.vocabulary.decode([token for token in tokens if token not in self.names])

    def encode(self, text: str) -> list[int]:
        """As Vocabulary.encode."""
        return self.vocabulary.encode(text)

    def opening(self) -> list[int]:
        """What the model's next message begins with."""
        return [self.marks["start"], *self.vocabulary.encode("assistant")]

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Messages as token ids, each from its start to its end."""
        tokens: list[int] = []
        for one in messages:
            tokens += [*self._header(one), self.marks["message"]]
            tokens += self.vocabulary.encode(one.content)
            own = one.role == "assistant"
            end = "call" if own and one.calls else "end"
            tokens.append(self.marks[end])
        return tokens

    def _header(self, one: Message) -> list[int]:
        """Up to the mark of the content. The kind of a call stands behind a mark of its own."""
        encode, marks = self.vocabulary.encode, self.marks
        tokens = [marks["start"], *encode(one.role)]
        if one.recipient:
            tokens += encode(f" to={one.recipient}")
        if one.channel:
            tokens += [marks["channel"], *encode(one.channel)]
        if one.kind:
            tokens += [*encode(" "), marks["constrain"], *encode(one.kind)]
        return tokens

    def parse(self, tokens: Sequence[int]) -> list[Message]:
        """The messages of a model's tokens, which go on behind `opening`; however malformed.

        A message without a mark of its content is all header: its text counts as content, in the
        channel that it names or in "analysis".
        """
        messages: list[Message] = []
        header: list[list[int]] = [[]]  # parts between marks
        kinds = [""]
        content: list[int] | None = None
        for token in [*tokens, self.marks["end"]]:
            mark = self.names.get(token, "")
            if mark in ("end", "call", "return", "start"):
                if content is not None or any(header):
                    messages.append(self._message(kinds, header, content))
                header, kinds, content = [[]], [""], None
            elif mark == "message" and content is None:
                content = []
            elif content is not None:
                content += [token] if not mark else []
            elif mark:
                kinds.append(mark)
                header.append([])
            else:
                header[-1].append(token)
        return [one for one in messages if one.content or one.recipient]

    def _message(
        self, kinds: Sequence[str], header: Sequence[Sequence[int]], content: list[int] | None
    ) -> Message:
        decode = self.vocabulary.decode
        parts = [(kind, decode(tokens)) for kind, tokens in zip(kinds, header, strict=True)]
        whole = " ".join(text for _, text in parts)
        named = next((text for kind, text in parts if kind == "channel"), "")
        word = _WORD.search(named)
        channel = word[0] if word and word[0] in CHANNELS else "analysis"
        recipient = _RECIPIENT.search(whole)
        kind = next((text.strip() for name, text in parts if name == "constrain"), "")
        text = whole if content is None else decode(content)
        return Message("assistant", text, channel, recipient[1] if recipient else "", kind)


class FileVocabulary:
    """The tokens of a model's tokenizer.json."""

    def __init__(self, path: Path) -> None:
        # Here and not above: whoever speaks another dialect does not need it.
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as fault:  # the library has no type of its own
            raise WeightsError(f"{path} cannot be read ({brief(fault)}): copy it again") from fault
        self._tokenizer.encode_special_tokens = True  # as what they look like
        self.size = self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """As Vocabulary.encode."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """As Vocabulary.decode."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False)

    def special(self, name: str) -> int:
        """As MarkedVocabulary.special."""
        if (token := self._tokenizer.token_to_id(name)) is None:
            raise KeyError(name)
        return token


class HarmonyConversation:
    """As Conversation. A call of an unknown tool is answered in words, as a call of python is by
    its output."""

    def __init__(self, dialect: Harmony, prompt: list[int], note: str = "") -> None:
        self.prompt, self.note = prompt, note
        self.begun = len(prompt)
        self._dialect = dialect
        self._said: list[str] = []
        self._callers: list[Message] = []  # whose programs wait for their output

    def text(self, tokens: Sequence[int] = ()) -> str:
        """As Conversation.text: thoughts, programs and outputs in fences, the answer last."""
        return "\n".join([*self._said, *map(_readable, self._dialect.parse(tokens))])

    def add(self, tokens: Sequence[int], ended: bool) -> list[str]:
        """As Conversation.add."""
        messages = self._dialect.parse(tokens)
        self.prompt = [*self.prompt, *tokens]
        self._said += map(_readable, messages)
        self._callers = [one for one in messages if one.calls] if ended else []
        if self._callers and self.prompt[-1] != self._dialect.marks["call"]:
            self.prompt.append(self._dialect.marks["call"])  # a server may keep it to itself
        return [_program(one) for one in self._callers]

    def reply(self, output: str) -> None:
        """As Conversation.reply."""
        caller = self._callers.pop(0)
        known = _is_python(caller)
        role = TOOL_NAME if known else caller.recipient
        said = output if known else f"There is no tool {caller.recipient}; call {TOOL_NAME}."
        answer = Message(role, said, caller.channel, "assistant")
        self._said.append(f"```output\n{said.rstrip()}\n```")
        self.prompt += self._dialect.render([answer])
        if not self._callers:
            self.prompt += self._dialect.opening()


def system_text(tools: bool, effort: str, identity: str = IDENTITY, date: str = "") -> str:
    """The system's message."""
    today = f"\nCurrent date: {date}" if date else ""
    tool = f"# Tools\n\n## {TOOL_NAME}\n\n{TOOL}\n\n" if tools else ""
    return (
        f"{identity}\nKnowledge cutoff: {CUTOFF}{today}\n\nReasoning: {effort}\n\n{tool}"
        f"# Valid channels: {', '.join(CHANNELS)}. Channel must be included for every message."
    )


def _is_python(one: Message) -> bool:
    return TOOL_NAME in re.split(r"[.:/]", one.recipient)


def _program(one: Message) -> str:
    return program_of(one.content) if _is_python(one) else ""


def _readable(one: Message) -> str:
    if one.calls:
        return f"```python\n{_program(one) or one.content}".rstrip() + "\n```"
    return f"<|channel|>final<|message|>{one.content}" if one.channel == "final" else one.content
