"""Descriptions of batches: what is wrong with one is said before anything runs."""

import json

import pytest
import yaml

from helpers import batching
from helpers.paths import ROOT
from mathllm.batches import plan, runs
from mathllm.batches.plan import read_batch
from mathllm.batches.workdir import BatchFolder
from mathllm.errors import BatchError


def read(folder, **keys):
    return read_batch(batching.write_batch(folder, **keys), ROOT)


def test_a_grid_a_list_and_seeds_multiply(tmp_path):
    batch = read(
        tmp_path, list=[{"width": 1}, {"width": 2}], grid={"lr": [0.1, "1e-4", 1]}, seeds=2
    )
    expanded = runs.expand(batch)
    assert batch.count == len(expanded) == 12
    assert expanded[2].settings == {("light", "width"): 1, ("light", "lr"): 1e-4}
    assert [run.seed for run in expanded[:3]] == [0, 1, 0]
    assert [batch.label(s) for s in batch.varied] == ["width", "lr"]
    assert batch.meaning(("light", "lr")) == "a rate"
    assert expanded[0].parameters["light"]["output_dir"] == "{run}/light"


def test_what_is_the_same_twice_is_run_once(tmp_path):
    assert len(runs.expand(read(tmp_path, grid={"width": [1, 2, 1]}))) == 2


def test_a_run_is_known_by_notebook_and_parameters_alone(tmp_path):
    def ids(**keys):
        return [run.id for run in runs.expand(read(tmp_path, **keys))]

    base = ids(grid={"width": [1, 2]})
    assert ids(grid={"width": [2, 1]}) == base[::-1]
    assert ids(list=[{"width": 1}]) == base[:1]
    assert ids(parameters={"width": 1}, minutes=9, name="other.yaml") == base[:1]
    assert ids(grid={"width": [1, 2]}, parameters={"lr": 0.2}) != base


def test_steps_share_a_folder_and_name_their_parameters(tmp_path):
    batching.light_notebook(tmp_path)
    steps = [
        {"notebook": "light.ipynb", "name": "first"},
        {"notebook": "light.ipynb", "name": "second", "parameters": {"witness": "{run}/first"}},
    ]
    keys = {"notebook": None, "steps": steps}
    batch = read(tmp_path, **keys, grid={"first.lr": [1, 2], "second.lr": [3]}, seeds=[7])
    assert [batch.label(s) for s in batch.varied] == ["first.lr", "second.lr"]
    assert batch.seed == ("first", "seed")
    run = runs.expand(batch)[0]
    assert run.parameters["first"] == {"output_dir": "{run}/first", "lr": 1.0, "seed": 7}
    assert run.parameters["second"]["lr"] == 3.0
    named = read(tmp_path, **keys, seeds={"second.seed": [1, 2]})
    assert named.seed == ("second", "seed")
    with pytest.raises(BatchError, match=r"write first\.lr or second\.lr"):
        read(tmp_path, **keys, grid={"lr": [1]})


LIGHT = {"notebook": "light.ipynb"}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"grid": {"widht": [1]}}, ["light.yaml: grid", "widht", "did you mean width?"]),
        ({"list": [{}, {"wdth": 1}]}, ["light.yaml: list[1]", "wdth", "did you mean width?"]),
        ({"parameters": {"wide": 1}}, ["parameters: wide is no parameter", "light.ipynb"]),
        ({"gird": {}}, ["unknown key gird", "did you mean grid?"]),
        ({"metric": {"nam": "a", "better": "lower"}}, ["metric: unknown key nam", "name?"]),
        ({"metric": {"name": "a", "better": "up"}}, ["better is 'up'", "higher or lower"]),
        ({"metric": "score"}, ["metric is 'score'", "a mapping"]),
        ({"minutes": None}, ["minutes is missing"]),
        ({"minutes": 0}, ["minutes is 0", "above 0"]),
        ({"minutes": True}, ["minutes is True", "a number"]),
        ({"grid": {"width": 3}}, ["width is 3", "a list of values"]),
        ({"grid": {"width": []}}, ["width is []", "a list of values"]),
        ({"grid": {"width": ["wide"]}}, ["grid.width: ", "width is 'wide'", "must be an int"]),
        ({"grid": {"light.width": [[1]]}}, ["grid.light.width: ", "[1]", "must be an int"]),
        ({"grid": {"lr": [1], "light.lr": [2]}}, ["grid: light.lr stands twice"]),
        ({"grid": {1: [1]}}, ["grid[1]", "for each parameter"]),
        ({"list": [3]}, ["list[0] is 3", "a list of mappings"]),
        ({"grid": {"lr": [float("nan")]}}, ["lr is nan", "finite"]),
        ({"parameters": {"behave": 3}}, ["behave is 3", "put it in quotes"]),
        ({"parameters": {"output_dir": "/tmp/x"}}, ["output_dir is '/tmp/x'", '"{run}/x"']),
        ({"parameters": {"output_dir": "{run}/../x"}}, ["must not share a folder"]),
        ({"seeds": 0}, ["seeds is 0", "above 0"]),
        (
            {"seeds": {"lr": 3, "width": 2}},
            ["seeds is {'lr': 3, 'width': 2}", "name one parameter"],
        ),
        ({"seeds": {"lr": 0}}, ["seeds is {'lr': 0}", "above 0"]),
        ({"seeds": True}, ["seeds is True", "a number of repeats"]),
        ({"grid": {"seed": [1]}, "seeds": 2}, ["light.seed varies in two"]),
        ({"list": []}, ["list is []", "a list of mappings"]),
        ({"notebook": None}, ["either steps or a notebook"]),
        ({"notebook": None, "steps": []}, ["steps is []", "a notebook each"]),
        ({"notebook": None, "steps": [LIGHT, LIGHT]}, ["two steps are called light"]),
        (
            {"notebook": None, "steps": [{"notbook": "x"}]},
            ["steps[0]: unknown key notbook", "notebook?"],
        ),
        ({"notebook": None, "steps": [LIGHT, {}]}, ["steps[1].notebook is missing", ".ipynb"]),
        ({"notebook": None, "steps": [LIGHT | {"name": "a/b"}]}, ["steps[0].name is 'a/b'"]),
        (
            {"notebook": None, "steps": [LIGHT | {"parameters": {"width": "x"}}]},
            ["steps[0].parameters.width: ", "'x'", "must be an int"],
        ),
        ({"notebook": None, "steps": [LIGHT], "parameters": {}}, ["move them there"]),
        ({"notebook": "nowhere.ipynb"}, ["notebook is 'nowhere.ipynb'", "no such file"]),
        ({"notebook": "light.yaml"}, ["not a notebook"]),
        ({"notebook": str(ROOT / "notebooks" / "inference.ipynb")}, ["no parameter output_dir"]),
    ],
)
def test_a_mistake_is_named_with_its_file_and_its_mend(tmp_path, keys, words):
    with pytest.raises(BatchError) as caught:
        read(tmp_path, **keys)
    assert str(tmp_path) in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    for jargon in ("pydantic", "http", "type=", "\n"):
        assert jargon not in str(caught.value).replace(str(tmp_path), "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("minutes: 2\ngrid: {a: [1}\n", ":2: no YAML"),
        ("minutes: 2\nminutes: 3\n", ":2: no YAML, minutes stands twice"),
        ("minutes: 2\n\tgrid: 1\n", ":2: no YAML"),
        ("a: !!python/object:os.system x\n", ":1: no YAML"),
        ("- 1\n", "no mapping of keys"),
        ("", "no mapping of keys"),
        ("? [1]\n: 2\n", ":1: no YAML"),
        ("7: 1\n", "unknown key 7: it has steps, notebook"),
        ("minuts: 1\n", "unknown key minuts: did you mean minutes?"),
        ("a: \x01\n", "no YAML"),
    ],
)
def test_what_is_no_yaml_is_named_with_its_line(tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(BatchError, match=r"bad\.yaml") as caught:
        read_batch(path, ROOT)
    assert words in str(caught.value)


def test_a_file_that_is_not_there_is_said():
    with pytest.raises(BatchError, match=r"no batch nowhere\.yaml"):
        read_batch(plan.Path("nowhere.yaml"), ROOT)


def test_ten_thousand_runs_are_counted_and_not_begun(tmp_path):
    grid = {"width": list(range(100)), "lr": list(range(100))}
    path = batching.write_batch(tmp_path, grid=grid, minutes=3)
    refused = batching.run(path)
    assert refused.returncode == 2
    assert "10,000 runs" in refused.stdout
    assert "at most 21 days of one machine at 3 minutes a run" in refused.stdout
    assert "--yes" in refused.stderr
    assert not list((tmp_path / "out").glob("runs/*"))


def test_a_number_that_nobody_lives_to_see_is_refused_at_once(tmp_path):
    path = batching.write_batch(
        tmp_path, grid={"width": list(range(1000)), "lr": list(range(1000)), "pause": [1, 2, 3]}
    )
    refused = batching.run(path, "--yes", "--dry-run")
    assert refused.returncode == 2
    assert "3,000,000 runs" in refused.stderr


def test_the_cost_follows_the_runs_that_are_done(tmp_path):
    path = batching.write_batch(tmp_path, grid={"width": [1, 2, 3]}, minutes=60)
    place = BatchFolder(tmp_path / "out")
    first = place.begin(runs.expand(read_batch(path, ROOT))[0], {})
    (first / "status.json").write_text(json.dumps({"status": "done", "seconds": 90}))
    (tmp_path / "out" / "batch.json").write_text("{}")
    said = batching.run(path, "--dry-run").stdout
    assert "3 runs, 1 done, 2 to do: about 3.0 minutes of one machine at 1.5 minutes a run" in said


def test_a_dry_run_lists_the_runs_and_leaves_nothing(tmp_path):
    path = batching.write_batch(tmp_path, grid={"width": [1, 2]}, seeds=2)
    ran = batching.run(path, "--dry-run")
    assert ran.returncode == 0
    assert ran.stdout.count("waiting") == 4
    assert "width 2, seed 1" in ran.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks" / "batches").glob("*.yaml")), ids=str)
def test_the_batches_that_come_along_fit_their_notebooks(path):
    batch = read_batch(path, ROOT)
    assert len(runs.expand(batch)) == batch.count
    assert "Costs" in batch.about
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["metric"]
