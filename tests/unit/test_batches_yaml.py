"""YAML that nobody wrote by hand: one line that names the file, the place and the mend."""

import time

import pytest

from helpers import batching
from helpers.paths import ROOT
from mathllm.batches.plan import read_batch
from mathllm.batches.strict_yaml import BYTES, VALUES
from mathllm.errors import BatchError

HEAD = "notebook: light.ipynb\nminutes: 2\nmetric: {name: score, better: higher}\n"


def laughs(levels: int = 9) -> str:
    """Some hundred bytes that stand for ten thousand million values."""
    lines = ['l0: &l0 ["lol"]']
    for level in range(1, levels + 1):
        lines.append(f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]")
    return "\n".join(lines) + "\n"


def refusal(folder, text: str | bytes) -> str:
    """What read_batch says: one short line, at once."""
    batching.light_notebook(folder)
    path = folder / "odd.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    began = time.monotonic()
    with pytest.raises(BatchError) as caught:
        read_batch(path, ROOT)
    assert time.monotonic() - began < 10
    said = str(caught.value)
    assert said.startswith(str(path))
    said = said.removeprefix(str(path))
    assert "\n" not in said
    assert len(said) < 400
    return said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (laughs(), [":6: no YAML", f"more than {VALUES:,} values", "mend it there"]),
        (HEAD + "grid: {width: &a [1, *a]}\n", [":4: no YAML", "stands inside of what it stands"]),
        ("a: &a {<<: *a}\n", [":1: no YAML", "stands inside of"]),
        ("[" * 30 + "]" * 30, [":1: no YAML", "nested more than 20 deep"]),
        ("[" * 100_000, ["no YAML", "nested more than 20 deep"]),
        ("a: " + "{b: " * 5000 + "1" + "}" * 5000, ["no YAML", "nested more than 20 deep"]),
        ("- " * 3000 + "1", ["no YAML", "nested more than 20 deep"]),
        ("? [1, 2]\n: 3\n", [":1: no YAML", "a key is a list or mapping"]),
        ("? {a: 1}\n: 3\n", [":1: no YAML", "a key is a list or mapping"]),
        ("minutes: 1\n0x1: a\n1: b\n", [":3: no YAML", "1 stands twice"]),
        ("true: a\nTrue: b\n", [":2: no YAML", "True stands twice"]),
        ("a: {b: 1, b: 2}\n", [":1: no YAML", "b stands twice"]),
        ("k" * 900 + ": 1\n" + "k" * 900 + ": 2\n", [":2: no YAML"]),
        (HEAD + f"grid: {{width: [{'9' * 5000}]}}\n", [":4: no YAML", "no int"]),
        (HEAD + f"grid: {{width: [0x{'f' * 5000}]}}\n", ["width is an integer of 20,000 bits"]),
        (HEAD + f"grid: {{lr: [0x{'f' * 5000}]}}\n", ["lr is an integer of 20,000 bits"]),
        (HEAD + "grid: {lr: [.nan]}\n", ["lr is nan", "finite"]),
        (HEAD + "grid: {lr: [-.inf]}\n", ["lr is -inf", "finite"]),
        (HEAD + "grid: {behave: [2024-01-01]}\n", ["behave is datetime.date(2024", "in quotes"]),
        (HEAD + "grid: {behave: [2024-13-45]}\n", [":4: no YAML", "no timestamp"]),
        (HEAD + "parameters: {width: !!float x}\n", [":4: no YAML", "no float"]),
        (HEAD + "parameters: {width: !!int ''}\n", [":4: no YAML", "no int"]),
        (HEAD + "parameters: {behave: !!binary aGk=}\n", ["behave is b'hi'", "must be a str"]),
        (HEAD + "parameters: {behave: !!set {a}}\n", ["behave is {'a'}", "must be a str"]),
        (HEAD + "parameters: !!python/object/apply:os.system [id]\n", [":4: no YAML", "python"]),
        (HEAD + f"parameters: !{'t' * 5000} 1\n", [":4: no YAML"]),
        (HEAD + 'parameters: {behave: "\\ud800"}\n', [":4: no YAML", "half of a character"]),
        (HEAD + "grid: [" + "[1], " * 500 + "]\n", ["grid is [[1], [1]", "for each parameter"]),
        (HEAD + f"grid: {{{'k' * 900}: [1]}}\n", ["is no parameter of light"]),
        (HEAD + f"{'k' * 900}: 1\n", ["unknown key kkk"]),
        (HEAD + f"metric: {'k' * 900}\n", [":4: no YAML, metric stands twice"]),
        (HEAD + "seeds: 1000000000\n", ["seeds is 1000000000", "at most 100,000"]),
        (HEAD + f"seeds: {{seed: {10**30}}}\n", ["seeds is {'seed': 10000", "at most 100,000"]),
        (HEAD.replace("light.ipynb", "n" * 5000), ["notebook is 'nnn", "no such file"]),
        (HEAD.replace("light.ipynb", '"a\\0b"'), ["notebook is 'a\\x00b'", "no such file"]),
        (HEAD.replace("minutes: 2", f"minutes: 0x{'f' * 5000}"), ["minutes is ", "above 0"]),
        (HEAD.replace("minutes: 2", "minutes: .inf"), ["minutes is inf", "above 0"]),
        ("a: \x00\n", ["no YAML"]),
        (b"\xff\xfe\x00", ["cannot be read"]),
        ("# " + "x" * BYTES, ["more than 1,048,576 bytes"]),
        ("--- 1\n--- 2\n", ["no YAML"]),
        ("a: *nowhere\n", [":1: no YAML", "nowhere"]),
    ],
    ids=range(42),
)
def test_one_line_names_the_place_and_the_mend(tmp_path, text, words):
    said = refusal(tmp_path, text)
    for word in words:
        assert word in said


def test_the_file_that_made_a_message_of_a_thousand_million_words(tmp_path):
    """Printed in an error, it took all memory."""
    text = laughs(8) + HEAD + "grid: {width: [*l8]}\n"
    assert "values, aliases written out" in refusal(tmp_path, text)
    fewer = "l: &l [1, 2]\n" + HEAD + "grid: {width: [[*l, *l]]}\n"
    assert "unknown key l" in refusal(tmp_path, fewer)
    inside = HEAD + "grid: {width: [&l [1, 2], [*l, *l]]}\n"
    assert "width is [1, 2] (list): it must be an int" in refusal(tmp_path, inside)


def test_aliases_and_merged_keys_that_people_write_still_work(tmp_path):
    path = batching.write_batch(tmp_path)
    path.write_text(HEAD + "list:\n- &one {lr: 1, width: 2}\n- {<<: *one, width: 3}\n")
    batch = read_batch(path, ROOT)
    assert [list(chosen.values()) for chosen in batch.sets] == [[1.0, 2], [1.0, 3]]


def test_a_device_that_never_ends_is_read_no_further(tmp_path):
    path = tmp_path / "zero.yaml"
    path.symlink_to("/dev/zero")
    with pytest.raises(BatchError, match="more than 1,048,576 bytes"):
        read_batch(path, ROOT)
