"""Messages for a server that renders them itself: any chat template, with tools as OpenAI has
them. Thoughts are what such a server calls reasoning."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mathllm.engines.base import Messages
from mathllm.engines.remote_chat import CALLS, SAYS, THINKS, Pieces
from mathllm.solving.dialects import ANSWER_SHARE, INSTRUCTIONS, PROBLEM, filled
from mathllm.solving.programs import TOOL, TOOL_NAME, program_of

CHARS = 2.5  # of a token, at least: nobody here knows the server's
TOOLS = (
    {
        "type": "function",
        "function": {
            "name": TOOL_NAME,
            "description": TOOL,
            "parameters": {
                "type": "object",
                "properties": {"code": {"type": "string", "description": "the program"}},
                "required": ["code"],
            },
        },
    },
)


@dataclass(frozen=True)
class Turn:
    """What a model said in a turn: its thoughts, its words, and calls with id, name, arguments."""

    thought: str
    said: str
    calls: tuple[tuple[str, str, str], ...]


class Chat:
    """Opens conversations of messages. `system` and `user` replace the prompts; the second holds
    {problem}, both may name {low} and {high}, the answer's range."""

    stop_ids: frozenset[int] = frozenset()
    stop_sequences: tuple[tuple[int, ...], ...] = ()
    size = Pieces.size

    def __init__(self, tools: bool = False, system: str = "", user: str = "") -> None:
        self.pieces = Pieces()
        self.tools = TOOLS if tools else ()
        self.system, self.user = system or INSTRUCTIONS, user or PROBLEM

    def begin(self, problem: str, positions: int, new_tokens: int) -> "ChatConversation":
        """As Dialect.begin; of what is too long, the problem loses its end."""
        keep = positions - min(new_tokens, max(1, int(positions * ANSWER_SHARE)))
        frame = len(filled(self.system)) + len(filled(self.user)) + len(json.dumps(self.tools))
        room = max(0, int(keep * CHARS) - frame)
        note = f"; problem cut from {len(problem)} to {room} signs" if len(problem) > room else ""
        said = (
            {"role": "system", "content": filled(self.system)},
            {"role": "user", "content": filled(self.user, problem[:room])},
        )
        length = math.ceil((frame + len(problem[:room])) / CHARS)
        return ChatConversation(self, Messages(said, self.tools, length), note)

    def encode(self, text: str) -> list[int]:
        """As Vocabulary.encode."""
        return self.pieces.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """As Vocabulary.decode."""
        return self.pieces.decode(tokens)

    def parse(self, tokens: Sequence[int]) -> Turn:
        """What the pieces of a turn come to."""
        parts: list[tuple[int, list[int]]] = [(SAYS, [])]
        for token in tokens:
            if token in (THINKS, SAYS, CALLS):
                parts.append((token, []))
            else:
                parts[-1][1].append(token)
        texts = dict.fromkeys((THINKS, SAYS), "")
        calls = []
        for mark, own in parts:
            if mark == CALLS and own:
                told = json.loads(self.decode(own[:1]))
                calls.append((told["id"], told["name"], self.decode(own[1:])))
            elif mark != CALLS:
                texts[mark] += self.decode(own)
        return Turn(texts[THINKS], texts[SAYS], tuple(calls))


class ChatConversation:
    """As Conversation. A call of an unknown tool is answered in words."""

    def __init__(self, dialect: Chat, prompt: Messages, note: str = "") -> None:
        self.prompt, self.note = prompt, note
        self.begun = len(prompt)
        self._dialect = dialect
        self._said: list[str] = []
        self._calls: list[tuple[str, str, str]] = []  # whose output is waited for

    def text(self, tokens: Sequence[int] = ()) -> str:
        """As Conversation.text: thoughts, words, programs and outputs in fences."""
        return "\n".join([*self._said, *_readable(self._dialect.parse(tokens))])

    def add(self, tokens: Sequence[int], ended: bool) -> list[str]:
        """As Conversation.add."""
        turn = self._dialect.parse(tokens)
        self._calls = list(turn.calls) if ended else []
        self._said += _readable(turn)
        message: dict[str, Any] = {"role": "assistant", "content": turn.said}
        if self._calls:  # a model that thinks between its calls goes on from its thoughts
            message |= {"reasoning_content": turn.thought} if turn.thought else {}
            message["tool_calls"] = [
                {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
                for id_, name, arguments in self._calls
            ]
        self._append(message, len(tokens))
        return [
            program_of(arguments) if name == TOOL_NAME else "" for _, name, arguments in self._calls
        ]

    def reply(self, output: str) -> None:
        """As Conversation.reply."""
        id_, name, _ = self._calls.pop(0)
        said = output if name == TOOL_NAME else f"There is no tool {name}; call {TOOL_NAME}."
        self._said.append(f"```output\n{said.rstrip()}\n```")
        message = {"role": "tool", "tool_call_id": id_, "content": said}
        self._append(message, math.ceil(len(said) / CHARS))

    def _append(self, message: dict[str, Any], tokens: int) -> None:
        said = (*self.prompt.said, message)
        self.prompt = Messages(said, self.prompt.tools, self.prompt.length + tokens)


def _readable(turn: Turn) -> list[str]:
    calls = [f"```python\n{program_of(arguments).rstrip()}\n```" for _, _, arguments in turn.calls]
    return [part for part in (turn.thought, turn.said, *calls) if part]
