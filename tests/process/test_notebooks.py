"""The notebooks on the embedded default, one after the other, as a newcomer runs them."""

import shutil
from pathlib import Path

import nbformat
import polars as pl
import pytest

from helpers.paths import ROOT
from mathllm.errors import ParameterError
from mathllm.notebooks import export_html, run_notebook

# Together, since what they share takes long to start.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("notebooks")]


def printed(notebook: Path) -> str:
    """What the executed notebook's cells wrote to standard output."""
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [o for c in cells if c.cell_type == "code" for o in c.outputs]
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A weights folder that the train notebook made, with little training."""
    folder = tmp_path_factory.mktemp("trained")
    run_notebook(
        ROOT / "notebooks" / "train.ipynb",
        folder / "train.ipynb",
        [("output_dir", str(folder)), ("num_samples", "60"), ("held_out", "20")],
    )
    return folder


def test_training_makes_a_weights_folder(trained):
    text = printed(trained / "train.ipynb")
    assert "none is a reserved problem" in text
    assert "held-out loss: TRM" in text
    assert (trained / "backbone" / "tokenizer.json").is_file()
    assert (trained / "trm" / "model.safetensors").is_file()
    page = export_html(trained / "train.ipynb").read_text(encoding="utf-8")
    assert "data:image/png;base64" in page  # the loss curves
    assert 'src="http' not in page  # it reads the same without a network


def test_evaluation_counts_every_problem_for_both_engines(trained, tmp_path):
    run_notebook(
        ROOT / "notebooks" / "evaluate.ipynb",
        tmp_path / "evaluate.ipynb",
        [
            ("weights", str(trained)),
            ("output_dir", str(tmp_path)),
            ("num_samples", "12"),
            ("families", "add,gcd"),
            ("max_new_tokens", "40"),
        ],
    )
    trm, backbone = (pl.read_parquet(tmp_path / f"{n}.parquet") for n in ("trm", "backbone"))
    assert trm["problem"].to_list() == backbone["problem"].to_list()
    assert set(trm["subject"]) == {"add", "gcd"}


def test_a_verifier_is_taught_from_what_the_weights_wrote_and_from_nothing_else(trained, tmp_path):
    drawn = [
        ("engines", "TRM"),
        ("split", "train"),
        ("families", "multiply"),
        ("difficulties", "2"),
    ]
    drawn += [("num_samples", "8"), ("n_samples", "3"), ("temperature", "1.0")]
    pairs = [*drawn, ("weights", str(trained)), ("output_dir", str(tmp_path))]
    run_notebook(ROOT / "notebooks" / "evaluate.ipynb", tmp_path / "evaluate.ipynb", pairs)
    notebook, samples = ROOT / "notebooks" / "verifier.ipynb", str(tmp_path / "trm.parquet")
    pairs = [("weights", str(trained)), ("samples", samples), ("output_dir", str(tmp_path / "out"))]
    run_notebook(notebook, tmp_path / "verifier.ipynb", pairs)
    assert '"verifier": true' in (tmp_path / "out" / "trm" / "config.json").read_text("utf-8")
    assert (tmp_path / "out" / "backbone" / "tokenizer.json").is_file()
    with pytest.raises(ParameterError, match="was written by TRM"):
        run_notebook(notebook, tmp_path / "verifier.ipynb", [("samples", samples)])


def test_inference_answers_a_question(tmp_path):
    run_notebook(
        ROOT / "notebooks" / "inference.ipynb",
        tmp_path / "inference.ipynb",
        [("problem", "What is $30+12$?"), ("n_samples", "3")],
    )
    text = printed(tmp_path / "inference.ipynb")
    assert "answer 42 " in text
    assert text.count("nats a token") == 3


def test_pretraining_makes_a_backbone_that_trains_on(tmp_path):
    run_notebook(
        ROOT / "notebooks" / "tiny_backbone.ipynb",
        tmp_path / "tiny_backbone.ipynb",
        [
            ("output_dir", str(tmp_path)),
            ("steps", "30"),
            ("batch_tokens", "500"),
            ("threads", "1"),
        ],
    )
    losses = pl.read_ndjson(tmp_path / "metrics.jsonl").drop_nulls("step")["loss"]
    assert losses[-1] < losses[0]
    assert (tmp_path / "backbone" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("pairs", "kind", "named"),
    [
        ([("epochs", "many")], ParameterError, "epochs is 'many'"),
        ([("epoch", "1")], ParameterError, "did you mean epochs"),
        ([("mixer", "conv")], ParameterError, "mixer is 'conv'"),
        ([("weights", "no/such/folder")], ParameterError, "no/such/folder"),
    ],
)
def test_a_mistake_in_a_parameter_is_said_in_a_line(tmp_path, pairs, kind, named):
    with pytest.raises(kind, match=named):
        run_notebook(ROOT / "notebooks" / "train.ipynb", tmp_path / "train.ipynb", pairs)


def test_a_page_shows_the_end_of_a_progress_bar_alone(tmp_path):
    cell = nbformat.v4.new_code_cell("work()")
    for text in ("load 0%", "\rload 50%", "\rload 100%\n", "done\n"):
        cell.outputs.append(nbformat.v4.new_output("stream", name="stderr", text=text))
    path = tmp_path / "bar.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    page = export_html(path).read_text(encoding="utf-8")
    assert "load 100%\ndone" in page
    assert "50%\n" not in page
    assert "load 0%" not in page


def test_a_vendored_package_is_found_as_on_kaggle(tmp_path, monkeypatch, trained):
    """No clone around: the package and the weights come from the input root."""
    owner = tmp_path / "input" / "datasets" / "someone"
    shutil.copytree(ROOT / "src" / "mathllm", owner / "mathllm-source" / "mathllm")
    shutil.copytree(trained / "backbone", owner / "mathllm-weights" / "backbone")
    shutil.copytree(trained / "trm", owner / "mathllm-weights" / "trm")
    notebook = shutil.copy(ROOT / "notebooks" / "inference.ipynb", tmp_path)
    monkeypatch.setenv("MATHLLM_INPUT_ROOT", str(tmp_path / "input"))
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "out.ipynb"
    run_notebook(Path(notebook), output, [("n_samples", "1"), ("max_new_tokens", "5")])
    assert "answer" in printed(output)
