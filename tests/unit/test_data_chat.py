"""Rows to chat to tokens, with the tiny tokenizer and with the real one."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.paths import shared_file
from mathllm.data.arithmetic import generate
from mathllm.data.chat import (
    SYSTEM_PROMPT,
    encode,
    end_of_turn_id,
    load_tokenizer,
    padding_id,
    prompt_ids,
)
from mathllm.errors import WeightsError
from mathllm.tiny.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tiny_tokenizer():
    rows = generate("train", 500, seed=0)
    return train_tokenizer((rows["problem"] + rows["solution"]).to_list(), 400)


@pytest.fixture(params=["tiny", pytest.param("Qwen2.5", marks=pytest.mark.data)])
def tokenizer(request, tiny_tokenizer):
    if request.param == "tiny":
        return tiny_tokenizer
    return load_tokenizer(shared_file("qwen2.5-tokenizer"))


def test_a_prompt_is_chatml_with_the_system_prompt(tokenizer):
    text = tokenizer.decode(prompt_ids(tokenizer, "What is $1+1$?"))
    assert text == (
        f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n"
        "<|im_start|>user\nWhat is $1+1$?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_an_example_is_prompt_then_solution_then_end_of_turn(tokenizer):
    (example,) = encode(tokenizer, ["What is $1+1$?"], ["It is $\\boxed{2}$."])
    assert example.tokens[: example.prompt] == prompt_ids(tokenizer, "What is $1+1$?")
    answer = example.tokens[example.prompt :]
    assert tokenizer.decode(answer) == "It is $\\boxed{2}$.<|im_end|>"
    assert answer[-1] == end_of_turn_id(tokenizer)


@pytest.mark.data
def test_the_real_tokenizer_has_qwens_ids():
    tokenizer = load_tokenizer(shared_file("qwen2.5-tokenizer"))
    assert (end_of_turn_id(tokenizer), padding_id(tokenizer)) == (151645, 151643)


def test_digits_are_tokens_of_their_own(tiny_tokenizer):
    pieces = tiny_tokenizer.tokenize("12 + 3045 = 3057")
    assert [p for p in pieces if any(c in string.digits for c in p)] == list("1230453057")


@given(st.text(max_size=80))
def test_any_text_survives_the_tiny_tokenizer(tiny_tokenizer, text):
    text = text.encode(errors="ignore").decode()
    ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tiny_tokenizer.decode(ids) == text


def test_a_folder_without_tokenizer_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_corrupt_tokenizer_is_named(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(WeightsError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(tmp_path)


TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
HEAD = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
ROLE_REFUSED = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
INSTRUCTION = "{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"


def rendered(tokenizer, head: bool = True) -> str:
    """What transformers itself makes of a problem."""
    messages = [{"role": "system", "content": "SYSTEM"}, {"role": "user", "content": "PROBLEM"}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=head)


@pytest.mark.parametrize(
    ("template", "words", "theirs"),
    [
        (None, "is missing", None),
        (ROLE_REFUSED + TURNS + HEAD, "refuses a system prompt and a problem.*no system", None),
        (TURNS + HEAD + "{% if %}", "refuses a system prompt and a problem", None),
        (
            TURNS.replace("%}<|im", "%}{% if m.role != 'system' %}<|im").replace(
                "{% endfor", "{% endif %}{% endfor"
            )
            + HEAD,
            "drops the system prompt",
            lambda text: "SYSTEM" not in text and "PROBLEM" in text,
        ),
        (TURNS, r"opens no turn for the answer \(<\|im_start\|>assistant\)", lambda _: True),
        (
            TURNS.replace("{{ m.content }}", "{{ m.content if m.role == 'system' else '' }}")
            + HEAD,
            "loses the problem's text",
            lambda text: "PROBLEM" not in text,
        ),
        (INSTRUCTION, r"has ' \[/INST\]' after the problem", lambda t: "<|im_end|>" not in t),
    ],
)
def test_a_template_that_would_spoil_every_prompt_is_refused(
    tiny_tokenizer, tmp_path, template, words, theirs
):
    tiny_tokenizer.save_pretrained(tmp_path)
    spoiled = load_tokenizer(tmp_path)  # as it is, it passes
    spoiled.chat_template = template
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    spoiled.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=rf"{tmp_path}/\S+: the chat template {words}.*Instruct"):
        load_tokenizer(tmp_path)
    if theirs is None:  # transformers raises too, but only when a problem comes
        with pytest.raises(Exception, match=r"chat_template|no system|Expected|expected"):
            rendered(spoiled)
    else:  # it says nothing
        assert theirs(rendered(spoiled))
        if "opens no turn" in words:
            assert rendered(spoiled) == rendered(spoiled, head=False)
