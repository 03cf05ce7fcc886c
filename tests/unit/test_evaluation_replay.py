"""Rules played over attempts drawn before: as the race plays them, with intervals that hold."""

import json
import math
import random
import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from helpers.scripted import SETTINGS, Scripted, header, make_problems, make_tokenizer
from mathllm.cli.main import main
from mathllm.errors import ParameterError, ResultsError
from mathllm.evaluation.drawn import Problem, read_drawn
from mathllm.evaluation.replay import compare, parse_rule, play_rule, usual_rules
from mathllm.evaluation.results import RESULTS, ResultFile
from mathllm.evaluation.run import draw
from mathllm.evaluation.statistics import paired, wilson
from mathllm.solving import Solver, SolverSettings, vote
from mathllm.solving.dialects import ChatML
from mathllm.solving.measures import behind_box, group_entropy, tail_entropy
from mathllm.solving.outcomes import Attempt
from mathllm.solving.race import Drawn, play
from mathllm.solving.records import ATTEMPTS, AttemptsFile, Rules
from mathllm.solving.voting import Ballot, decided


def drawn(answer, seconds, boxes=(), cut=False, **measures):
    return Drawn(Ballot(answer, **measures), seconds, boxes, cut)


def attempt(answer, ended, boxes=(), end="stop", begun=0.0, **more):
    more = {"mean_entropy": 0.5, "tokens": 9, "turns": 1} | more
    return Attempt("", answer, finish_reason=end, begun=begun, ended=ended, boxes=boxes, **more)


def second_by_second(attempts, settings, at_once):
    """`play` said in the plainest way: at each moment, who has ended, who has a box, the vote."""
    at_once = at_once or len(attempts)
    moments = [0.0] * at_once  # when each place is free
    starts = []
    for one in attempts:
        free = min(range(at_once), key=lambda place: moments[place])
        starts.append(moments[free])
        moments[free] += one.seconds
    times = sorted(
        {begin + one.seconds for begin, one in zip(starts, attempts, strict=True)}
        | {
            begin + seconds
            for begin, one in zip(starts, attempts, strict=True)
            for seconds, _ in one.boxes
        }
    )
    for now in times:
        there, running = [], 0
        for begin, one in zip(starts, attempts, strict=True):
            seen = [answer for seconds, answer in one.boxes if begin + seconds <= now]
            if begin + one.seconds <= now:
                there.append(one.ballot.answer)
            elif begin <= now:
                running += 1
                there += seen[-1:]
        if (running or len(there) < len(attempts)) and decided(
            there,
            max(len(attempts), len(there) + bool(running)),
            "majority",
            settings.agreement,
            settings.lead,
        ):
            return there, now
    return [one.ballot.answer for one in attempts], times[-1]


@given(st.integers(0, 10**6))
def test_a_rule_is_played_as_if_each_moment_were_looked_at(seed):
    rng = random.Random(seed)
    attempts = []
    for _ in range(rng.randint(1, 8)):
        seconds = rng.random() * 10 + 0.1
        # No two moments are the same: then the order of what happens is no matter of taste.
        boxes = sorted(
            (rng.random() * seconds, rng.choice([1, 2])) for _ in range(rng.choice([0, 1]))
        )
        attempts.append(drawn(rng.choice([None, 1, 1, 2]), seconds, boxes))
    settings = SolverSettings(
        n_samples=len(attempts), agreement=rng.choice([0, 2, 3]), lead=rng.choice([0.0, 2.0])
    )
    at_once = rng.choice([0, 1, 2, len(attempts)])
    at_once = min(at_once, len(attempts))
    played = play(attempts, settings, at_once)
    there, seconds = second_by_second(attempts, settings, at_once)
    assert ([ballot.answer for ballot in played.ballots], played.seconds) == (
        there,
        pytest.approx(seconds),
    )


def test_what_comes_after_the_time_does_not_count():
    attempts = [drawn(1, 10.0, [(4.0, 2)]), drawn(1, 3.0), drawn(3, 30.0)]
    played = play(attempts, SolverSettings(n_samples=3), seconds=8.0)
    assert [ballot.answer for ballot in played.ballots] == [2, 1]
    assert (played.seconds, played.cut) == (8.0, False)
    assert not play([drawn(1, 1.0)], SolverSettings(), seconds=0.5).ballots


def test_a_rule_that_wants_more_than_was_drawn_is_told_from_one_that_does_not():
    attempts = [drawn(1, 1.0), drawn(1, 2.0), drawn(None, 2.1, cut=True), drawn(2, 5.0)]
    assert not play(attempts, SolverSettings(agreement=2)).cut
    assert play(attempts, SolverSettings(agreement=3)).cut


def test_a_runs_file_is_whole_after_each_problem_and_goes_on(tmp_path):
    path = tmp_path / "attempts.parquet"
    rules = Rules(n_samples=2, voting="entropy", total_seconds=100.0)
    file = AttemptsFile(path, rules)
    file.add("a", "11", [attempt(3, 2.0, ((1.5, 4), (1.7, 3))), attempt(None, 9.0, end="length")])
    file.add("b", "22", [attempt(5, 1.0, confidence=0.5)])
    again = AttemptsFile(path, rules, resume=True)
    again.add("c", "33", [])
    again.add("d", "44", [attempt(0, 1.0, begun=0.5)])
    found, rows = ATTEMPTS.read(path)
    assert found == rules
    assert rows["place"].to_list() == [0, 0, 1, 2]
    assert rows["arrival"].to_list() == [1.7, None, 1.0, 1.0]
    assert rows["boxes"][0].to_list() == [
        {"seconds": 1.5, "answer": 4},
        {"seconds": 1.7, "answer": 3},
    ]
    assert AttemptsFile(path, rules)._rows.is_empty()
    path.write_bytes(b"torn")
    AttemptsFile(path, rules, resume=True).add("e", "55", [attempt(1, 1.0)])
    assert ATTEMPTS.read(path)[1]["id"].to_list() == ["e"]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda p: p.unlink(), "does not exist"),
        (lambda p: p.write_bytes(b""), "cannot be read"),
        (lambda p: p.write_bytes(p.read_bytes()[:400]), "cannot be read"),
        (lambda p: pl.DataFrame({"a": [1]}).write_parquet(p), "no file of attempts"),
        (lambda p: again(p, {"version": 2}), "format version 2 and this program writes 1"),
        (lambda p: again(p, {"version": 1, "samples": 3}), "cannot be read"),
        (lambda p: again(p, {"version": 1, "n_samples": 0}), "n_samples is 0"),
        (lambda p: again(p, {"version": 1, "total_seconds": "long"}), "cannot be read"),
        (lambda p: again(p, [1]), "is no object"),
        (lambda p: again(p, {"version": 1}, "ended"), "column 'ended' is None"),
    ],
)
def test_what_is_no_file_of_attempts_is_refused_by_name(tmp_path, spoil, named, capsys):
    path = tmp_path / "attempts.parquet"
    AttemptsFile(path, Rules()).add("a", "11", [attempt(3, 2.0)])
    spoil(path)
    with pytest.raises(ResultsError, match=named):
        read_drawn([path])
    assert main(tmp_path, ["replay", str(path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def again(path, told, without=None):
    rows = pl.read_parquet(path)
    rows = rows.drop(without) if without else rows
    rows.write_parquet(path, metadata={ATTEMPTS.key: json.dumps(told)})


def test_files_are_one_after_another_and_no_problem_twice(tmp_path):
    paths = [tmp_path / "1.parquet", tmp_path / "2.parquet"]
    for number, path in enumerate(paths):
        AttemptsFile(path, Rules(n_samples=1)).add(f"p{number}", "", [attempt(number, 1.0)])
    rules, problems = read_drawn(paths, {"p0": 0, "p1": 9})
    assert [(p.id, p.truth, len(p.drawn)) for p in problems] == [("p0", 0, 1), ("p1", 9, 1)]
    assert play_rule("", problems, rules).right.tolist() == [True, False]
    with pytest.raises(ParameterError, match=r"2\.parquet: problem 'p1' is in an earlier file"):
        read_drawn([*paths, paths[1]])
    with pytest.raises(ParameterError, match="names none of the problems, such as 'p0'"):
        read_drawn(paths, {"x": 1})
    AttemptsFile(paths[0], Rules()).add("p", "", [])
    with pytest.raises(ParameterError, match="has no attempts"):
        read_drawn(paths[:1])


def test_results_of_an_evaluation_are_played_too(tmp_path):
    tokenizer, problems = make_tokenizer(), make_problems()
    path = tmp_path / "scripted.parquet"
    with ResultFile(path, header(problems, n_samples=3), problems.rows["id"]) as file:
        draw(Solver(Scripted(tokenizer), ChatML(tokenizer), SETTINGS), problems.rows, file)
        rows = file.rows
    rules, found = read_drawn([path])
    assert rules.n_samples == 3
    outcome = play_rule("", found, rules)
    for problem, own in zip(found, outcome.answers, strict=True):
        answers = rows.filter(id=problem.id)["answer"].to_list()
        assert own == vote([int(answer) for answer in answers]).answer
    assert [p.truth for p in found] == [int(t) for t in problems.rows["truth"]]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("voting", "'voting': give NAME=VALUE, of n_samples"),
        ("vote=majority", "give NAME=VALUE, of n_samples"),
        ("voting=best", "voting is 'best'"),
        ("n_samples=many", "n_samples is 'many', give an integer"),
        ("n_samples=0", "n_samples is 0"),
        ("lead=nan", "lead is nan"),
        ("total_seconds=-1", "total_seconds is -1"),
        ("sessions=-3", "sessions is -3"),
        ("ceiling_seconds=0.01", "ceiling_seconds shares total_seconds, which is none"),
        ("total_seconds=10 base_seconds=x", "base_seconds is 'x', give a number"),
        ("agreement=none", "agreement is 'none', give an integer"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(text, named):
    with pytest.raises(ParameterError, match=named):
        parse_rule(text, Rules())


def test_a_rule_changes_what_it_names():
    own = Rules(n_samples=8, agreement=4, total_seconds=100.0)
    found = parse_rule("voting=entropy agreement=0 lead=2.5 total_seconds=none", own)
    assert found == Rules(n_samples=8, voting="entropy", lead=2.5)


def test_points_are_of_answers_in_time():
    """All right, and each attempt takes 5 s: who gets less has nothing."""
    problems = [Problem(str(n), [drawn(1, 5.0)] * 3, 1) for n in range(4)]
    rules = {
        name: Rules(n_samples=3, total_seconds=seconds, expected_problems=4)
        for name, seconds in (("ample", 100.0), ("short", 8.0))
    }
    ample, short = compare(problems, rules)
    assert (ample.points, int(ample.outcome.right.sum())) == (50.0, 4)
    assert (short.points, int(short.outcome.right.sum())) == (0.0, 0)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda rows, told: (rows.with_columns(seconds=pl.lit(None, pl.Float64)), told), "seconds"),
        (lambda rows, told: (rows.with_columns(id=pl.lit(None, pl.String)), told), "without id"),
        (
            lambda rows, told: (rows.with_columns(seconds=pl.lit(math.nan)), told),
            "without id or seconds",
        ),
        (
            lambda rows, told: (rows, told | {"settings": {"n_samples": "x"}}),
            "settings are damaged",
        ),
        (lambda rows, told: (rows, told | {"settings": {"n_samples": 0}}), "n_samples is 0"),
        (lambda rows, told: (rows, told | {"settings": [1]}), "settings"),
    ],
)
def test_damaged_results_are_named(tmp_path, spoil, named, capsys):
    problems, path = make_problems(), tmp_path / "scripted.parquet"
    with ResultFile(path, header(problems, n_samples=3), problems.rows["id"]) as file:
        tokenizer = make_tokenizer()
        draw(Solver(Scripted(tokenizer), ChatML(tokenizer), SETTINGS), problems.rows, file)
    told = json.loads(pl.read_parquet_metadata(path)[RESULTS.key])
    rows, told = spoil(pl.read_parquet(path), told)
    rows.write_parquet(path, metadata={RESULTS.key: json.dumps(told)})
    assert main(tmp_path, ["replay", str(path)]) == 2
    said = capsys.readouterr().err
    assert re.search(rf"scripted\.parquet.*{named}", said)
    assert main(tmp_path, ["replay", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_time_is_shared_as_the_budget_does():
    """Two problems of 10 s: what the first leaves is the second's, whose last attempt is late."""
    first = Problem("a", [drawn(1, 2.0), drawn(1, 2.5)], 1)
    second = Problem("b", [drawn(7, 9.0), drawn(8, 17.0), drawn(8, 19.0)], 8)
    rules = Rules(n_samples=3, total_seconds=20.0, expected_problems=2)
    outcome = play_rule("", [first, second], rules)
    # 2 s for the first, which nobody can catch; 18 are left: 8 came once, 7 was there before.
    assert outcome.answers == [1, 7]
    assert outcome.seconds == [2.5, 17.5]
    assert play_rule("", [first, second], Rules(n_samples=3)).answers == [1, 8]


def synthetic(rng, count, samples):
    """Problems whose chance of a right sample is Beta(1.2, 1.2), so that samples of one problem
    are alike (correlation 1 / 3.4); half of the wrong ones say the same."""
    problems = []
    for number, chance in enumerate(rng.beta(1.2, 1.2, count)):
        right, same = rng.random(samples) < chance, rng.random(samples) < 0.5
        wrong = 2 + rng.integers(0, 1000, samples)
        answers = np.where(right, 0, np.where(same, 1, wrong)).tolist()
        seconds = rng.random(samples).tolist()
        pairs = zip(answers, seconds, strict=True)
        problems.append(Problem(str(number), [drawn(a, s) for a, s in pairs], 0))
    return problems


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    """Registered before it was run: 1,000 draws of 150 problems with 8 samples; the share of a
    vote over eight, and what it gains over one sample and over a vote of three, lie in their
    95 % intervals in 930 to 970 of them. The truth is that of 100,000 problems."""
    rules = [Rules(n_samples=8), Rules(n_samples=1), Rules(n_samples=3)]
    rng = np.random.default_rng(20261127)
    shares = np.zeros(3)
    for _ in range(10):
        many = synthetic(rng, 10_000, 8)
        shares += [play_rule("", many, rule).right.sum() for rule in rules]
    shares /= 100_000
    assert math.isclose(shares[1], 0.5, abs_tol=0.005)
    held = np.zeros(3)
    for _ in range(1000):
        problems = synthetic(rng, 150, 8)
        whole, *others = (play_rule("", problems, rule) for rule in rules)
        share = wilson(int(whole.right.sum()), 150)
        held[0] += share.low <= shares[0] <= share.high
        for place, other in enumerate(others, 1):
            gain = paired(whole.right, other.right, int(rng.integers(1 << 30))).difference
            held[place] += gain.low <= shares[place] - shares[0] <= gain.high
    assert np.all((held >= 930) & (held <= 970)), held


def test_a_difference_that_is_luck_is_called_so_and_one_that_is_not_is_not():
    """A vote by entropy beside the majority: on answers that entropy tells nothing of, and where
    it is the wrong samples that hesitate."""
    rng = np.random.default_rng(5)
    blind, telling = [], []
    for problem in synthetic(rng, 300, 8):
        noise = rng.random(8)
        for made, by in ((blind, 0.0), (telling, 3.0)):
            own = [
                Drawn(
                    Ballot(one.ballot.answer, float(n + by * (one.ballot.answer != 0))), one.seconds
                )
                for one, n in zip(problem.drawn, noise, strict=True)
            ]
            made.append(Problem(problem.id, own, 0))
    rules = {"majority": Rules(n_samples=8), "entropy": Rules(n_samples=8, voting="entropy")}
    first, luck = compare(blind, rules)
    assert first.against is None
    assert luck.is_luck
    _, gain = compare(telling, rules)
    assert not gain.is_luck
    assert gain.against.difference.low > 0
    assert gain.points > first.points


def test_the_usual_rules_leave_out_what_was_not_measured():
    one = Problem("a", [drawn(1, 1.0), drawn(1, 2.0)], 1)
    assert list(usual_rules(Rules(), [one])) == [
        "as drawn (majority)",
        "majority, lead 2",
        "majority, 4 agree",
    ]
    other = Problem("a", [drawn(1, 1.0, mean_entropy=0.3, confidence=0.2)], 1)
    names = list(usual_rules(Rules(agreement=3), [other]))
    assert "majority" in names
    assert "confidence" in names
    assert "tail_entropy" not in names


def test_the_command_says_gains_and_what_they_are_worth(tmp_path, capsys):
    path, truth, out = (tmp_path / name for name in ("attempts.parquet", "t.csv", "o.json"))
    file = AttemptsFile(path, Rules(agreement=2))
    cancelled = [attempt(None, 2.1, end="cancelled")] * 2
    file.add("a", "", [attempt(1, 1.0), attempt(1, 2.0), *cancelled])
    file.add("b", "", [attempt(4, 1.0), attempt(5, 2.0), attempt(6, 3.0), attempt(5, 4.0)])
    assert main(tmp_path, ["replay", str(path), "--rule", "voting=entropy"]) == 0
    assert "no answer is known" in capsys.readouterr().out
    truth.write_text("id,problem,answer\na,,1\nb,,4\n")
    command = ["replay", str(path), "--truth", str(truth), "--out", str(out)]
    assert main(tmp_path, [*command, "--rule", "agreement=3"]) == 0
    said = capsys.readouterr().out
    assert "1/2" in said
    assert "wants more than was drawn in 1 problems" in said
    assert "no difference from 'as drawn' is more than luck can make" in said
    assert [row["right"] for row in json.loads(out.read_text())] == [1, 1]
    truth.write_text("id,problem\na,\n")
    assert main(tmp_path, command) == 2
    assert "no column answer" in capsys.readouterr().err


@given(st.lists(st.floats(0, 5), max_size=300), st.integers(0, 400))
def test_stretches_of_entropy_against_their_definition(entropy, behind):
    before = entropy[: max(len(entropy) - behind, 0)] or entropy
    last = before[-256:]
    assert tail_entropy(entropy, behind) == pytest.approx(sum(last) / max(len(last), 1))
    size = max(64, len(entropy) // 16)
    groups = [entropy[i : i + size] for i in range(max(len(entropy) - size, 0) + 1)]
    worst = max(sum(group) / max(len(group), 1) for group in groups)
    assert group_entropy(entropy) == pytest.approx(worst)


def test_the_tail_ends_before_the_last_box():
    tokenizer = make_tokenizer()
    text = "so " * 40 + r"\boxed{1} or rather \boxed{23}. That was it."
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    behind = behind_box(tokens, tokenizer.decode)
    assert tokenizer.decode(tokens[-behind:]).count("boxed") == 1
    assert "boxed" not in tokenizer.decode(tokens[len(tokens) - behind + 1 :])
    assert behind_box(tokens[:30], tokenizer.decode) == behind_box([], tokenizer.decode) == 0


def test_what_is_read_is_what_was_written(tmp_path):
    path = tmp_path / "attempts.parquet"
    file = AttemptsFile(path, Rules())
    file.add("a", "1", [attempt(3, 2.0, ((1.0, 3),), group_entropy=0.25, tail_entropy=0.125)])
    assert_frame_equal(ATTEMPTS.read(path)[1], file._rows)
    (problem,) = read_drawn([path])[1]
    (one,) = problem.drawn
    assert one == Drawn(Ballot(3, 0.5, 0.125, None, 0.25), 2.0, [(1.0, 3)], False)
