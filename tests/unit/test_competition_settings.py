"""What belongs to one competition, the score rule, and where Kaggle puts things."""

import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT
from mathllm import paths
from mathllm.data import problems
from mathllm.errors import ParameterError, ProblemFileError
from mathllm.settings import AIMO3, CURRENT, penalised_score


def test_a_problem_earns_a_point_when_both_runs_are_right_and_half_when_one_is() -> None:
    assert penalised_score([[True, True]]) == 1.0
    assert penalised_score([[True, False]]) == penalised_score([[False, True]]) == 0.5
    assert penalised_score([[False, False]]) == 0.0
    assert penalised_score([[True, True], [True, False], [False, False]]) == 1.5
    assert penalised_score([]) == 0.0


@pytest.mark.parametrize("runs", [[], [True], [True, True, True]])
def test_a_score_of_another_number_of_runs_is_refused(runs: list[bool]) -> None:
    with pytest.raises(ValueError, match="problem 1"):
        penalised_score([[True, True], runs])


def test_files_of_problems_have_the_competitions_columns() -> None:
    assert CURRENT is AIMO3
    assert CURRENT.runs == 2
    assert (CURRENT.id_column, CURRENT.problem_column) == problems.COLUMNS
    assert CURRENT.answer_column == problems.ANSWER


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(paths.INPUT_ROOT_VARIABLE, str(tmp_path))
    monkeypatch.delenv(paths.WORKING_DIR_VARIABLE, raising=False)
    return tmp_path


def folder(*parts: str | Path) -> Path:
    made = Path(*parts)
    made.mkdir(parents=True)
    return made


def test_inputs_are_found_in_the_newer_layout_whoever_owns_them(root: Path) -> None:
    dataset = folder(root, "datasets", "someone", "mathllm-source")
    model = folder(root, "models", "qwen", "qwen2.5-math", "transformers", "1.5b", "1")
    notebook = folder(root, "notebooks", "someone", "wheels")
    assert paths.find_dataset("mathllm-source") == dataset
    assert paths.find_dataset("mathllm-source", "someone") == dataset
    assert paths.find_dataset("mathllm-source", "another") is None
    assert paths.find_input("models", "qwen2.5-math/transformers/1.5b/1") == model
    assert paths.find_input("notebooks", "wheels") == notebook
    assert paths.find_input("notebooks", "mathllm-source") is None


def test_inputs_are_found_in_the_older_layout(root: Path) -> None:
    dataset = folder(root, "mathllm-source")
    assert paths.find_dataset("mathllm-source") == dataset
    assert paths.find_dataset("mathllm-source", "someone") == dataset


def test_the_newer_layout_goes_before_the_older(root: Path) -> None:
    folder(root, "mathllm-source")
    newer = folder(root, "datasets", "someone", "mathllm-source")
    assert paths.find_dataset("mathllm-source") == newer


def test_a_slug_of_several_owners_must_be_told_apart(root: Path) -> None:
    mine = folder(root, "datasets", "me", "weights")
    folder(root, "datasets", "you", "weights")
    with pytest.raises(ParameterError, match="owners me, you"):
        paths.find_dataset("weights")
    assert paths.find_dataset("weights", "me") == mine


@pytest.mark.parametrize("layout", ["competitions", "."])
def test_the_competitions_files_and_package_are_found(root: Path, layout: str) -> None:
    assert paths.find_competition() is None
    assert paths.find_real_package() is None
    competition = folder(root, layout, CURRENT.slug)
    assert paths.find_competition() == competition
    assert paths.find_real_package() is None
    package = folder(competition, "kaggle_evaluation")
    (package / "aimo_3_inference_server.py").write_text("")
    assert paths.find_real_package() == competition
    (competition / "test.csv").write_text("id,problem\n")
    assert paths.find_competition_file("test.csv") == competition / "test.csv"


def test_an_absent_file_of_the_competition_is_named_with_the_mend(root: Path) -> None:
    with pytest.raises(ProblemFileError, match=r"test\.csv.*(?s:.*)attach the competition"):
        paths.find_competition_file("test.csv")
    folder(root, "competitions", CURRENT.slug)
    with pytest.raises(ProblemFileError, match=str(root / "competitions")):
        paths.find_competition_file("reference.csv")


def test_any_value_of_the_variable_means_a_rerun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(paths.RERUN_VARIABLE, raising=False)
    assert not paths.is_rerun()
    for value in ("1", "True", ""):
        monkeypatch.setenv(paths.RERUN_VARIABLE, value)
        assert paths.is_rerun()


def test_the_working_folder_is_the_one_named_or_else_the_current(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    assert paths.working_dir() == root
    monkeypatch.setenv(paths.WORKING_DIR_VARIABLE, str(root / "working"))
    assert paths.working_dir() == root / "working"


def test_without_a_variable_the_inputs_are_kaggles(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, ""):
        if value is None:
            monkeypatch.delenv(paths.INPUT_ROOT_VARIABLE, raising=False)
        else:
            monkeypatch.setenv(paths.INPUT_ROOT_VARIABLE, value)
        assert paths.input_root() == Path("/kaggle/input")


NOTEBOOKS = [ROOT / "kernel" / "submission.py", *sorted((ROOT / "notebooks").glob("*.py"))]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_finds_the_package_by_the_same_cell(notebook: Path) -> None:
    cells = notebook.read_text(encoding="utf-8").split("\n# %%")
    assert [cell for cell in cells if cell.startswith(f"\n{paths.BOOTSTRAP}")] != []


@pytest.mark.parametrize(
    "place",
    [
        "mathllm-source",
        "mathllm-source/mathllm-source",
        "datasets/someone/mathllm-source",
        "datasets/someone/mathllm-source/mathllm-source",
    ],
)
def test_the_package_is_found_in_either_layout(
    root: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    found = folder(root, "input", place)
    (folder(found, "mathllm") / "__init__.py").touch()
    clone = folder(root, "clone", "src")
    (folder(clone, "mathllm") / "__init__.py").touch()
    monkeypatch.chdir(folder(root, "clone", "notebooks"))
    for inputs, expected in ((root / "input", found), (root / "absent", clone)):
        monkeypatch.setenv(paths.INPUT_ROOT_VARIABLE, str(inputs))
        monkeypatch.setattr(sys, "path", [])
        exec(paths.BOOTSTRAP, {})
        assert sys.path == [str(expected)]
