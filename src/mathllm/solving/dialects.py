"""How a model is spoken to: a problem into its prompt, its turns into programs, output back.

The tokenizer, the prompt, the tokens that end a turn and the grammar of programs are those of the
model that generates, whatever else is loaded.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from mathllm.engines.base import Prompt, Vocabulary
from mathllm.settings import CURRENT
from mathllm.solving.programs import OUTPUT, waiting

if TYPE_CHECKING:  # it takes seconds; whoever only votes is spared them
    from mathllm.data.chat import ChatTokenizer

# Of a model's positions, the share kept for the answer when the problem is too long.
ANSWER_SHARE = 0.25
# Of a model that was trained with no prompts of its own.
INSTRUCTIONS = (
    "Solve the problem. Its answer is an integer from {low} to {high}. "
    "Put your final answer within \\boxed{}."
)
PROBLEM = "{problem}"  # stands for it in a user's prompt


def filled(prompt: str, problem: str = PROBLEM) -> str:
    """A prompt with the answer's range and the problem in their places."""
    for name, value in (("{low}", CURRENT.answer_min), ("{high}", CURRENT.answer_max)):
        prompt = prompt.replace(name, str(value))
    return prompt.replace(PROBLEM, problem)


class Conversation(Protocol):
    """One attempt's turns. `prompt` is what the engine goes on from: everything so far, as
    token ids or messages.

    `begun` of its tokens were there before the model's first. `note` says if the prompt is not
    the whole problem.
    """

    prompt: Prompt
    begun: int
    note: str

    def text(self, tokens: Sequence[int] = ()) -> str:
        """All that was written, by the model and by its tools, and what `tokens` add to it."""

    def add(self, tokens: Sequence[int], ended: bool) -> list[str]:
        """What the model wrote in a turn; the programs whose output it waits for.

        `ended`: by itself, not for its length.
        """

    def reply(self, output: str) -> None:
        """What its program printed, as the model expects it."""


class Dialect(Vocabulary, Protocol):
    """Opens conversations. `stop_ids` and `stop_sequences` end a turn; special tokens are left
    out of what is decoded."""

    stop_ids: frozenset[int]
    stop_sequences: tuple[tuple[int, ...], ...]

    def begin(self, problem: str, positions: int, new_tokens: int) -> Conversation:
        """For a model of so many positions, of which the answer wants `new_tokens`."""


class ChatML:
    """Qwen's: turns between <|im_start|> and <|im_end|>; with `tools`, TIR's fences.

    A program is the last Python block before a block for output; what it prints is written into
    that, in the model's own turn. `system` replaces the prompt that Qwen2.5-Math was trained
    with, `user` what stands around a problem: it holds {problem}, and both may name {low} and
    {high}, the answer's range.
    """

    def __init__(
        self, tokenizer: "ChatTokenizer", tools: bool = False, system: str = "", user: str = ""
    ) -> None:
        from mathllm.data.chat import SYSTEM_PROMPT, TOOL_PROMPT, end_of_turn_id, padding_id

        self.tokenizer = tokenizer
        self.size = len(tokenizer)
        self.system = filled(system) or (TOOL_PROMPT if tools else SYSTEM_PROMPT)
        self.user = user or PROBLEM
        self.stop_ids = frozenset({end_of_turn_id(tokenizer), padding_id(tokenizer)})
        self.stop_sequences = (tuple(self.encode(OUTPUT)),) if tools else ()

    def begin(self, problem: str, positions: int, new_tokens: int) -> "ChatMLConversation":
        """New tokens give way first, down to ANSWER_SHARE of the positions; then the problem
        loses its end, but never the turns around it."""
        prompt = self._prompt(problem)
        keep = positions - min(new_tokens, max(1, int(positions * ANSWER_SHARE)))
        if len(prompt) <= keep:
            return ChatMLConversation(self, prompt)
        note = f"; prompt cut from {len(prompt)} to {keep} tokens"
        tail = self._frame_end(prompt, problem)[-keep:]
        return ChatMLConversation(self, prompt[: keep - len(tail)] + tail, note)

    def encode(self, text: str) -> list[int]:
        """As Vocabulary.encode."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, tokens: Sequence[int]) -> str:
        """As Vocabulary.decode."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    def _prompt(self, problem: str) -> list[int]:
        from mathllm.data.chat import prompt_ids

        return prompt_ids(self.tokenizer, filled(self.user, problem), self.system)

    def _frame_end(self, prompt: list[int], problem: str) -> list[int]:
        """The prompt's last tokens, those that every problem of this end shares: what stands
        behind it, end of turn, next turn."""
        frame = self._prompt(problem[-1:])
        length = 0
        while length < min(len(frame), len(prompt)) and frame[-1 - length] == prompt[-1 - length]:
            length += 1
        return prompt[len(prompt) - length :]


class ChatMLConversation:
    """As Conversation; all that is written stands in one assistant's turn."""

    def __init__(self, dialect: ChatML, prompt: list[int], note: str = "") -> None:
        self.prompt, self.note = prompt, note
        self.begun = len(prompt)
        self._dialect, self._missing = dialect, ""

    def text(self, tokens: Sequence[int] = ()) -> str:
        """As Conversation.text."""
        return self._dialect.decode([*self.prompt[self.begun :], *tokens])

    def add(self, tokens: Sequence[int], ended: bool) -> list[str]:
        """As Conversation.add."""
        self.prompt = [*self.prompt, *tokens]
        wait = waiting(self.text()) if ended and self._dialect.stop_sequences else None
        self._missing = wait.missing if wait else ""
        return [wait.program] if wait else []

    def reply(self, output: str) -> None:
        """As Conversation.reply."""
        from mathllm.data.chat import without_tokens

        while self.prompt[-1] in self._dialect.stop_ids:
            self.prompt.pop()  # its turn goes on
        safe = without_tokens(self._dialect.tokenizer, output).rstrip()
        self.prompt += self._dialect.encode(f"{self._missing}\n{safe}\n```\n")
