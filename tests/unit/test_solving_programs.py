"""Which program a text waits for, however its fences were written and where it was cut."""

import pytest

from mathllm.solving.programs import OUTPUT, Wait, waiting

CODE = "print(6*7)\n"
INFOS = ("python", "python ", " python ", "Python", "python3", "py", "{python}", "{.python}", "")


@pytest.mark.parametrize("info", INFOS)
def test_a_program_is_found_whatever_its_fence_says(info):
    text = f"Let us see.\n```{info}\n{CODE}```\n{OUTPUT}"
    assert waiting(text) == Wait(CODE, "")


@pytest.mark.parametrize(
    "text",
    [
        "  ```python\n  for i in x:\n    print(i)\n  ```\n  ```output",
        "1. ```python\n   for i in x:\n     print(i)\n   ```\n   ```output",
        "Code: ```python\nfor i in x:\n  print(i)\n```\n```output\n",
        "```python\nfor i in x:\n  print(i)```output",
        "```python\nfor i in x:\n  print(i)\n```output",
    ],
    ids=["indented", "in a list", "behind words", "closed in its line", "closed by the output's"],
)
def test_a_program_is_found_wherever_its_fences_are(text):
    assert waiting(text) == Wait("for i in x:\n  print(i)\n", "")


@pytest.mark.parametrize("signs", ["````", "``````", "~~~~"])
def test_a_program_ends_where_its_longer_fence_does(signs):
    assert waiting(f"{signs}python\n{CODE}{signs}\n") == Wait(CODE, f"\n{OUTPUT}")


@pytest.mark.parametrize("length", range(len(OUTPUT)))
@pytest.mark.parametrize("info", ["python", ""])
def test_an_outputs_fence_that_was_cut_is_told(info, length):
    text = f"```{info}\n{CODE}```\n"
    wait = waiting(text + OUTPUT[:length])
    assert wait.program == CODE
    # What was cut and what is missing make it one fence, in a line of its own.
    assert f"{text}{OUTPUT[:length]}".rstrip() + wait.missing == text + OUTPUT


@pytest.mark.parametrize("end", ["", "\n", "```", "\n```outp", "\n``"])
def test_a_program_that_is_open_where_the_text_was_cut_is_run(end):
    assert waiting(f"```python\n{CODE.rstrip()}{end}").program == CODE


def test_the_last_of_several_programs_is_run():
    first, second = f"```python\nx=1\n```\n{OUTPUT}\n1\n```\n", f"```py\n{CODE}```\n"
    assert waiting(first + second + OUTPUT) == Wait(CODE, "")
    assert waiting(f"```\nfactorint(2026)\n```\n{OUTPUT}").program == "factorint(2026)\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        OUTPUT,
        "So it is \\boxed{42}.",
        "```\n42\n```",
        f"```python\n\n```\n{OUTPUT}",
        f"```cpp\nint x;\n```\n{OUTPUT}",
        f"```python\n{CODE}```\nSo it is \\boxed{{42}}.",
        f"```python\n{CODE}```\n{OUTPUT}\n42\n```",
    ],
)
def test_what_ends_otherwise_does_not_wait(text):
    assert waiting(text) is None
