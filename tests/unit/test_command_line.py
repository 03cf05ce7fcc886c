"""What the command line says to somebody who does not know it."""

import re

import pytest

from mathllm.cli.main import main

ORDER = ["run", "batch", "report", "replay", "evidence", "vendor", "rehearse", "wheels", "fetch"]
ORDER += ["check", "push", "submit"]


def test_without_a_command_the_way_is_shown_in_order(tmp_path, capsys):
    assert main(tmp_path, []) == 2
    said = capsys.readouterr()
    assert not said.err
    assert re.findall(r"^    ([a-z]+) +\S", said.out, re.MULTILINE) == ORDER
    assert all(len(line) <= 100 for line in said.out.splitlines())
    with pytest.raises(SystemExit, match="0"):
        main(tmp_path, ["--help"])
    assert capsys.readouterr().out == said.out


@pytest.mark.parametrize("command", ORDER)
def test_each_command_explains_itself(tmp_path, capsys, command):
    with pytest.raises(SystemExit, match="0"):
        main(tmp_path, [command, "--help"])
    text = capsys.readouterr().out
    assert re.search(rf"^usage: \S+ {command}\b", text)
    assert len(text) > 300


def test_a_command_that_there_is_not_is_named_beside_those_that_there_are(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(tmp_path, ["vender"])
    assert "'vender' (choose from 'run', " in capsys.readouterr().err
