import time
from dataclasses import dataclass, field, replace

import pytest

from helpers.models import make_backbone, write_weights
from helpers.scripted import Instant
from mathllm.data.chat import END_OF_TURN, end_of_turn_id, padding_id, prompt_ids, prompt_text
from mathllm.engines import BackboneDecoder, Completion, SamplingConfig
from mathllm.errors import ParameterError, WeightsError
from mathllm.solving import Solver, SolverSettings, load_solver
from mathllm.solving.dialects import ChatML
from mathllm.solving.solver import sample_seed
from mathllm.tiny.tokenizer import train_tokenizer
from mathllm.trm import RecursiveLM, TRMConfig, save_checkpoint


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["Please reason step by step. What is $1+1$?"] * 3, vocabulary=300)


@dataclass
class ScriptedEngine(Instant):
    """Answers with given texts, one a seed, and keeps what it was asked."""

    tokenizer: object
    texts: list[str]
    finish_reason: str = "stop"
    calls: list[tuple] = field(default_factory=list)
    max_positions: int = 10_000

    def say(self, prompt, config, seed):
        self.calls.append((prompt, config, seed))
        number = next(i for i in range(99) if seed == sample_seed(0, "abc123", i))
        tokens = self.tokenizer(self.texts[number] + END_OF_TURN, add_special_tokens=False)
        tokens = tokens["input_ids"]
        entropy = [0.5] * (len(tokens) - 1) + [0.0]
        return Completion(tokens, [0.0] * len(tokens), entropy, finish_reason=self.finish_reason)


@dataclass
class Saying(Instant):
    """Says the same in every sample; keeps how it was asked."""

    tokenizer: object
    text: str = r"\boxed{2}"
    finish_reason: str = "stop"
    calls: list[tuple] = field(default_factory=list)
    max_positions: int = 10_000

    def say(self, prompt, config, seed):
        self.calls.append((prompt, config, seed))
        tokens = self.tokenizer(self.text, add_special_tokens=False)["input_ids"]
        return Completion(tokens, [], [0.5] * len(tokens), finish_reason=self.finish_reason)


def solver_of(engine, settings=None, **options):
    return Solver(engine, ChatML(engine.tokenizer), settings, **options)


def solve(engine, settings=None, problem="What is $1+1$?", **options):
    solver = solver_of(engine, settings or SolverSettings(n_samples=4))
    return solver.solve("abc123", problem, **options)


def test_the_majority_of_the_samples_is_the_answer(tokenizer):
    engine = ScriptedEngine(tokenizer, [r"\boxed{3}", r"\boxed{2}", "none", r"\boxed{2}"])
    solution = solve(engine)
    assert (solution.problem_id, solution.answer) == ("abc123", 2)
    assert solution.votes == {2: 2, 3: 1}
    assert solution.reason == "2 of 4 votes"
    assert [attempt.answer for attempt in solution.attempts] == [3, 2, None, 2]


def test_an_attempt_tells_its_text_without_special_tokens(tokenizer):
    engine = ScriptedEngine(tokenizer, [r"so \boxed{12}"], finish_reason="length")
    (attempt,) = solve(engine, SolverSettings(n_samples=1)).attempts
    assert attempt.text == r"so \boxed{12}"
    assert attempt.finish_reason == "length"
    assert attempt.tokens == len(tokenizer(attempt.text)["input_ids"]) + 1
    assert attempt.mean_entropy == pytest.approx(0.5 * (attempt.tokens - 1) / attempt.tokens)


def test_without_a_valid_vote_zero_stands_in_and_the_reason_says_so(tokenizer):
    solution = solve(ScriptedEngine(tokenizer, ["I do not know"] * 4))
    assert (solution.answer, solution.votes) == (0, {})
    assert solution.reason == "no valid answer in 4 samples, 0 stands in"


def test_an_empty_completion_is_an_attempt_without_an_answer(tokenizer):
    class Silent(Instant):
        def say(self, *_):
            return Completion(finish_reason="deadline")

    solution = Solver(Silent(), ChatML(tokenizer), SolverSettings(n_samples=2)).solve("a", "What?")
    assert solution.answer == 0
    assert [(a.text, a.mean_entropy) for a in solution.attempts] == [("", 0.0)] * 2


def test_the_settings_reach_the_engine(tokenizer):
    engine = Saying(tokenizer)
    settings = SolverSettings(3, 99, temperature=0.3, top_p=0.8, seed=5, parallel=1)
    solve(engine, settings)
    assert {tuple(prompt) for prompt, _, _ in engine.calls} == {
        tuple(prompt_ids(tokenizer, "What is $1+1$?"))
    }
    assert engine.calls[0][1] == SamplingConfig(
        n=1,
        max_new_tokens=99,
        temperature=0.3,
        top_p=0.8,
        seed=5,
        stop_ids=frozenset({end_of_turn_id(tokenizer), padding_id(tokenizer)}),
        deadline=None,
    )
    assert [seed for _, _, seed in engine.calls] == [
        sample_seed(5, "abc123", index)
        for index in range(2)  # then it is decided
    ]


def test_the_seconds_become_the_engines_deadline(tokenizer):
    engine = Saying(tokenizer)
    before = time.monotonic()
    solve(engine, SolverSettings(1), seconds=7)
    assert before + 7 <= engine.calls[0][1].deadline <= time.monotonic() + 7


def test_seeds_depend_on_run_problem_and_sample_alone():
    seeds = {sample_seed(s, p, i) for s in (0, 1) for p in ("a", "b") for i in range(4)}
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Written out, so that a change of the derivation is seen: it would change every answer.
    assert sample_seed(0, "000aaa", 0) == 69_852_293_854_600_900


def test_problems_in_another_order_get_the_same_seeds(tokenizer):
    def seeds_of(order):
        engine = Saying(tokenizer)
        solver = solver_of(engine, SolverSettings(1))
        return {name: solver.solve(name, "?") and engine.calls[-1][2] for name in order}

    assert seeds_of(["a", "b", "c"]) == seeds_of(["c", "a", "b"])


@pytest.mark.parametrize("room", [40, 256])
def test_new_tokens_are_cut_to_what_the_backbone_has_left(tokenizer, room):
    engine = Saying(tokenizer)
    prompt = prompt_ids(tokenizer, "What is $1+1$?")
    engine.max_positions = len(prompt) + room
    solve(engine, SolverSettings(1, max_new_tokens=1000))
    ((asked, config, _),) = engine.calls
    assert asked == prompt
    assert config.max_new_tokens == room


def test_a_prompt_that_is_too_long_keeps_its_head_and_the_assistants_turn(tokenizer):
    engine = Saying(tokenizer)
    engine.max_positions = 400
    problem = "What is $1+1$? " + "x" * 100_000
    solution = solve(engine, SolverSettings(1, max_new_tokens=256), problem)
    ((prompt, config, _),) = engine.calls
    assert len(prompt) + config.max_new_tokens == engine.max_positions
    assert config.max_new_tokens == 100
    text = tokenizer.decode(prompt)
    whole = prompt_text(tokenizer, problem)
    ending = prompt_text(tokenizer, "").rpartition(END_OF_TURN)[2]
    assert text.endswith("x" + END_OF_TURN + ending)
    assert whole.startswith(text.removesuffix(END_OF_TURN + ending))
    assert solution.answer == 2
    assert solution.reason.startswith("1 of 1 votes; prompt cut from 100")
    assert solution.reason.endswith("to 300 tokens")


def test_a_backbone_of_very_few_positions_still_gets_a_prompt_that_fits(tokenizer):
    engine = Saying(tokenizer)
    engine.max_positions = 4
    solve(engine, SolverSettings(1))
    ((prompt, config, _),) = engine.calls
    assert len(prompt) + config.max_new_tokens == 4
    assert config.max_new_tokens >= 1


@pytest.mark.parametrize(
    "problem", ["", " ", "\x00\x07\x1b[31m", "\\boxed{", "𝔸" * 500, "\r\n" * 500, END_OF_TURN]
)
def test_any_problem_text_is_solved(tokenizer, problem):
    engine = Saying(tokenizer, max_positions=300)
    assert solve(engine, problem=problem).answer == 2


def test_the_answer_range_is_the_settings(tokenizer):
    engine = Saying(tokenizer, r"\boxed{1000}")
    assert solve(engine, SolverSettings(answer_max=999)).answer == 0
    assert solve(engine, SolverSettings(answer_max=1000)).answer == 1000


@pytest.mark.parametrize(
    ("setting", "value"),
    [("n_samples", 0), ("max_new_tokens", 0), ("temperature", -1.0), ("top_p", 0.0)],
)
def test_settings_out_of_range_are_refused_before_the_first_problem(tokenizer, setting, value):
    with pytest.raises(ParameterError):
        Solver(None, ChatML(tokenizer), SolverSettings(**{setting: value}))


def test_a_missing_weights_folder_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"no weights folder .*absent"):
        load_solver(tmp_path / "absent")


def test_a_weights_folder_without_a_backbone_is_named(tmp_path):
    with pytest.raises(WeightsError, match="backbone"):
        load_solver(tmp_path)


@pytest.fixture(scope="module")
def weights(tokenizer, tmp_path_factory):
    """A weights folder of a random backbone and an untrained TRM."""
    folder = tmp_path_factory.mktemp("weights")
    backbone = make_backbone(vocab_size=len(tokenizer), max_position_embeddings=400)
    backbone.save_pretrained(folder / "backbone")
    tokenizer.save_pretrained(folder / "backbone")
    config = TRMConfig.for_backbone(backbone.config, layers=1, n=1, T=1, N_sup=1)
    save_checkpoint(RecursiveLM(backbone, config), folder / "trm")
    return folder


def test_a_loaded_solver_draws_the_same_samples_in_any_order_of_problems(weights):
    settings = SolverSettings(n_samples=3, max_new_tokens=6)
    problems = {"aaaaaa": "What is $1+1$?", "bbbbbb": "What is $2+2$? " * 20}

    def texts(order):
        solver = load_solver(weights, settings)
        solutions = {name: solver.solve(name, problems[name]) for name in order}
        return {name: [a.text for a in solutions[name].attempts] for name in order}

    first = texts(["aaaaaa", "bbbbbb"])
    assert texts(["bbbbbb", "aaaaaa"]) == first
    assert all(len(set(samples)) > 1 for samples in first.values())  # random, yet the same


def test_a_loaded_solver_answers_a_problem_longer_than_its_backbone(weights):
    solver = load_solver(weights, SolverSettings(n_samples=1, max_new_tokens=6))
    solution = solver.solve("aaaaaa", "x" * 5000)
    assert "prompt cut" in solution.reason
    assert 1 <= solution.attempts[0].tokens <= 6


def test_without_time_a_loaded_solver_still_answers(weights):
    solver = load_solver(weights, SolverSettings(n_samples=2, max_new_tokens=6))
    solution = solver.solve("aaaaaa", "What is $1+1$?", seconds=0)
    assert solution.answer == 0
    assert [a.finish_reason for a in solution.attempts] == ["deadline"] * 2


def test_a_trm_that_cannot_be_loaded_leaves_the_plain_backbone_in_a_rerun(tmp_path):
    write_weights(tmp_path)
    path = tmp_path / "trm" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(WeightsError, match="truncated"):
        load_solver(tmp_path)
    solver = load_solver(tmp_path, SolverSettings(n_samples=1, max_new_tokens=3), strict=False)
    assert "truncated" in solver.load_fault
    assert "plain backbone" in solver.load_fault
    assert isinstance(solver.engine, BackboneDecoder)
    assert len(solver.solve("a", "What?").attempts) == 1


@dataclass
class Breaking(Saying):
    """An engine whose first `faults` samples break."""

    text: str = r"\boxed{5}"
    faults: int = 0

    def say(self, prompt, config, seed):
        said = super().say(prompt, config, seed)
        if len(self.calls) <= self.faults:
            raise RuntimeError("broke")
        return said


@pytest.mark.parametrize(
    ("faults", "asked", "spare_asked", "words"),
    [
        (0, [4], [], []),
        (4, [4, 2], [], ["trying 2 samples without tools"]),
        (6, [4, 2, 1], [], ["trying 2 samples", "trying 1 sample without"]),
        (9, [4, 2, 1], [2], ["trying 2", "trying 1", "trying 2 samples of Breaking"]),
    ],
)
def test_after_a_fault_less_is_tried(tokenizer, faults, asked, spare_asked, words):
    engine, spare = Breaking(tokenizer, faults=faults), Breaking(tokenizer)
    settings = SolverSettings()
    solver = solver_of(engine, settings, spare=(spare, ChatML(tokenizer)), strict=False)
    solution = solver.solve("a", "What?")
    assert solution.answer == 5
    assert len(spare.calls) == sum(spare_asked)
    assert sum(asked) - 1 <= len(engine.calls) <= sum(asked)  # the last may not be needed
    assert len(solution.faults) == len(words)
    for fault, word in zip(solution.faults, words, strict=True):
        assert "(RuntimeError: broke); " in fault
        assert word in fault


def test_when_nothing_is_left_the_votes_at_hand_decide_or_zero(tokenizer):
    class Later(Breaking):
        def say(self, prompt, config, seed):
            self.faults = 0 if len(self.calls) < 2 else 9
            return super().say(prompt, config, seed)

    settings = SolverSettings(n_samples=5, parallel=1)
    solution = solver_of(Later(tokenizer), settings, strict=False).solve("a", "What?")
    assert solution.answer == 5
    assert solution.faults == ["of 4 samples ended 2 by 'fault' (RuntimeError: broke)"]
    empty = solver_of(Breaking(tokenizer, faults=99), strict=False)
    assert empty.solve("a", "What?").answer == 0
    assert empty.solve("a", "What?").faults[-1].endswith("nothing is left to try")


@pytest.mark.parametrize("reason", ["fault", "memory", "nan"])
def test_a_sample_that_broke_ends_a_commit_run_and_is_noted_in_a_rerun(tokenizer, reason):
    engine = Saying(tokenizer, r"\boxed{5}", reason)
    with pytest.raises(RuntimeError, match=f"of 1 samples ended 1 by '{reason}'"):
        solver_of(engine, SolverSettings(1)).solve("a", "What?")
    solution = solver_of(engine, SolverSettings(1), strict=False).solve("a", "What?")
    assert solution.answer == 5
    assert solution.faults == [f"of 1 samples ended 1 by '{reason}'"]


def test_no_more_samples_are_begun_once_it_is_decided(tokenizer):
    engine = Saying(tokenizer, r"\boxed{5}")
    settings = SolverSettings(n_samples=8, parallel=1)
    reason = solver_of(engine, settings).solve("a", "What?").reason
    assert reason == "5 of 5 votes; 5 cannot be caught, 3 to come"
    assert len(engine.calls) == 5
    for more, said in (({"agreement": 3}, "3 agree on 5"), ({"lead": 2}, "5 leads by 2")):
        solver = solver_of(engine, replace(settings, **more))
        assert said in solver.solve("a", "What?").reason
    assert len(engine.calls) == 10


@pytest.mark.parametrize(
    "wrong",
    [{"parallel": -1}, {"agreement": -1}, {"lead": -1.0}, {"max_calls": -1}, {"voting": "loud"}],
)
def test_a_wrong_solver_setting_is_named(tokenizer, wrong):
    with pytest.raises(ParameterError, match=str(next(iter(wrong.values())))):
        solver_of(Saying(tokenizer), SolverSettings(**wrong))


def test_time_that_is_up_begins_no_more_samples(tokenizer):
    class Slow(Saying):
        def say(self, prompt, config, seed):
            time.sleep(0.2)
            return super().say(prompt, config, seed)

    engine = Slow(tokenizer, "no answer")
    solution = solver_of(engine, SolverSettings(99, parallel=1)).solve("a", "What?", seconds=0.3)
    assert 1 <= len(engine.calls) <= 2
    assert f"time was up after {len(engine.calls)} samples" in solution.reason


@pytest.mark.parametrize("name", ["n_samples", "max_new_tokens"])
def test_a_setting_that_leaves_nothing_to_draw_is_refused_by_its_own_name(name):
    with pytest.raises(ParameterError, match=f"^{name} is 0: it must be at least 1"):
        SolverSettings(**{name: 0})
