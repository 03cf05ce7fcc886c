"""Rows to chat to token ids: prompts, labels and the tokenizer that both need."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tokenizers import Tokenizer

from mathllm.data.file_tokenizer import FileTokenizer
from mathllm.errors import WeightsError
from mathllm.pretrained import check_files
from mathllm.tokens.rows import Example
from mathllm.wording import brief

if TYPE_CHECKING:  # it takes seconds, and torch
    from transformers import PreTrainedTokenizerBase

    ChatTokenizer = PreTrainedTokenizerBase | FileTokenizer

Tokens = TypeVar("Tokens", bound="ChatTokenizer")

# The system prompt that Qwen2.5-Math-Instruct was trained with (its model card).
SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."
# The one that it was trained with to write programs (its model card, "TIR").
TOOL_PROMPT = (
    "Please integrate natural language reasoning with programs to solve the problem above, and "
    "put your final answer within \\boxed{}."
)
END_OF_TURN = "<|im_end|>"
ANSWER_TURN = "<|im_start|>assistant"  # opens it
PADDING = "<|endoftext|>"


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer in `folder`. Raises WeightsError if there is none, or it has no ChatML, in
    its vocabulary or in its template."""

    def load() -> "PreTrainedTokenizerBase":
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)

    return _checked(folder, load)


def load_file_tokenizer(folder: Path) -> FileTokenizer:
    """The same without transformers, for prompts. Raises as load_tokenizer."""
    return _checked(folder, lambda: FileTokenizer(folder))


def _checked(folder: Path, load: Callable[[], Tokens]) -> Tokens:
    if not (folder / "tokenizer.json").is_file():
        raise WeightsError(
            f"{folder} has no tokenizer.json: copy the backbone's tokenizer files there"
        )
    check_files(folder)
    try:
        tokenizer = load()
        vocabulary = tokenizer.get_vocab()
        template_fault = _template_fault(tokenizer)
    except Exception as fault:  # the loaders raise many types for a corrupt file
        path = _unreadable(folder)
        raise WeightsError(f"{path} cannot be read ({brief(fault, 200)}): copy it again") from fault
    if missing := [t for t in (END_OF_TURN, PADDING) if t not in vocabulary]:
        raise WeightsError(f"the tokenizer in {folder} has no {missing[0]}: a ChatML one is needed")
    if template_fault:
        alone = folder / "chat_template.jinja"
        path = alone if alone.is_file() else folder / "tokenizer_config.json"
        raise WeightsError(
            f"{path}: the chat template {template_fault}: copy the tokenizer files of the Instruct "
            "model (a base model has no template)"
        )
    return tokenizer


def _unreadable(folder: Path) -> Path:
    """The file that keeps a tokenizer from loading: tokenizer.json, or what describes it."""
    path = folder / "tokenizer.json"
    try:
        Tokenizer.from_file(str(path))
    except Exception:  # the library has no type of its own
        return path
    return folder / "tokenizer_config.json"


def _template_fault(tokenizer: "ChatTokenizer") -> str | None:
    """What is wrong with a template, None if nothing is: it renders a probe, part by part.

    A template may leave out whatever it likes, and nothing is raised.
    """
    if not tokenizer.chat_template:
        return "is missing"
    system, problem = "Probe of the system's part.", "Probe of the problem's part."
    messages = [{"role": "system", "content": system}, {"role": "user", "content": problem}]
    try:
        turns = tokenizer.apply_chat_template(messages, tokenize=False)
        text = prompt_text(tokenizer, problem, system)
    except Exception as fault:  # Jinja's errors, and what a template raises itself
        return f"refuses a system prompt and a problem ({brief(fault)})"
    if text.count(problem) != 1:
        return "loses the problem's text" if problem not in text else "repeats the problem"
    if text.count(system) != 1 or text.index(system) > text.index(problem):
        return "drops the system prompt" if system not in text else "misplaces the system prompt"
    tail = text.partition(problem)[2]
    if not tail.startswith(END_OF_TURN):
        return f"has {tail[:20]!r} after the problem, not ChatML's {END_OF_TURN}"
    if text == turns or ANSWER_TURN not in tail:
        return f"opens no turn for the answer ({ANSWER_TURN}) where it is asked to"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if ids.count(end_of_turn_id(tokenizer)) != text.count(END_OF_TURN):
        return f"writes {END_OF_TURN}, which the tokenizer takes apart"
    return None


def end_of_turn_id(tokenizer: "ChatTokenizer") -> int:
    """The id that ends an assistant turn (151645 for Qwen2.5)."""
    return tokenizer.convert_tokens_to_ids(END_OF_TURN)


def padding_id(tokenizer: "ChatTokenizer") -> int:
    """The id that fills a batch up (151643 for Qwen2.5)."""
    return tokenizer.convert_tokens_to_ids(PADDING)


def without_tokens(tokenizer: "ChatTokenizer", text: str) -> str:
    """The text with a space in whatever the tokenizer would read as a token of its own.

    So that a problem, or what a tool prints, cannot end its turn with `<|im_end|>`.
    """
    for token in tokenizer.get_added_vocab():
        if token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def prompt_text(tokenizer: "ChatTokenizer", problem: str, system: str = SYSTEM_PROMPT) -> str:
    """System prompt, the problem as the user's turn, and the head of the assistant's."""
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": without_tokens(tokenizer, problem)},
    ]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def prompt_ids(tokenizer: "ChatTokenizer", problem: str, system: str = SYSTEM_PROMPT) -> list[int]:
    """`prompt_text` as token ids."""
    text = prompt_text(tokenizer, problem, system)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode(
    tokenizer: "PreTrainedTokenizerBase", problems: list[str], solutions: list[str]
) -> list[Example]:
    """Training examples. Prompt and solution are tokenised apart, as in decoding."""
    prompts = [prompt_text(tokenizer, p) for p in problems]
    heads, tails = _tokenised(tokenizer, prompts), solution_ids(tokenizer, solutions)
    return [Example(h + t, len(h)) for h, t in zip(heads, tails, strict=True)]


def solution_ids(tokenizer: "PreTrainedTokenizerBase", solutions: list[str]) -> list[list[int]]:
    """The labels of solutions: their tokens, and the end of the turn."""
    return _tokenised(tokenizer, [solution + END_OF_TURN for solution in solutions])


def _tokenised(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    # Not verbose: what is too long is the token store's to drop and to count. Making the
    # attention masks, which nobody reads, would take a sixth of the time.
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    return tokenizer(texts, **options)["input_ids"]
