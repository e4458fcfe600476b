"""The self-correction task: what is taught, what is scored, and its score ladder by playing it."""

import itertools
import math

import numpy as np
import pytest

from lmbench.config import make
from lmbench.tasks.examples import examples, parse
from lmbench.tasks.ladder import Answered
from lmbench.tasks.retry import Retry, Setting, standing
from lmbench.tasks.symbols import PAD, SYMBOLS

N = 2000
FAR = 4.5  # standard errors
LEVELS = range(len(Retry.LEVELS))


class Small(Retry):
    """Few enough examples to write down all."""

    LEVELS = (Setting(3, 3, 0.5), Setting(4, 5, 0.25))


def drawn(task, *, split="test", n=N):
    """(body, answer, which tokens of it are scored, kind) of each example."""
    made = examples(task, seed=0, split=split, index_N=np.arange(n))
    found = []
    for tokens, scored, kind in zip(made.tokens_NT, made.is_answer_NT, made.kind_N, strict=True):
        body, _, answer = parse([SYMBOLS[token] for token in tokens if token != PAD], surface=task.surface)
        found.append((body, answer, scored[tokens != PAD][-len(answer) :].tolist(), int(kind)))
    return found


def played(task, strategy):
    """Metrics of a strategy that is asked for each scored token, given what stands before it."""
    rng, found, kinds = np.random.default_rng(0), [], []
    for body, answer, scored, kind in drawn(task):
        row = [
            float(strategy(task, body, answer[:at], rng) == answer[at])
            for at, is_scored in enumerate(scored)
            if is_scored
        ]
        found.append(row + [np.nan] * (2 - len(row)))
        kinds.append(kind)
    correct = np.array(found)
    nll = np.where(correct == 0, np.inf, correct * 0)
    answered = Answered(nll_NA=nll, correct_NA=correct, kind_N=np.array(kinds))
    return task.metrics(answered)


def oracle(task, body, said, rng):
    return task.reply(body, [], said)


def never_back(task, body, said, rng):
    right = task.sums(body)
    return right[min(len(said), len(right) - 1)]


def a_sum(task, rng):
    return str(rng.integers(task.settings.modulus))


def always_back(task, body, said, rng):
    return a_sum(task, rng) if said[-1] == "BACK" else "BACK"


def detect_only(task, body, said, rng):
    if said[-1] != "BACK":
        return task.reply(body, [], said)
    return str((int(said[-2]) + int(rng.integers(1, task.settings.modulus))) % task.settings.modulus)


def guesser(task, body, said, rng):
    first, then = task.choices()
    return SYMBOLS[rng.choice(then if said[-1] == "BACK" else first)]


BODY = [":", "3", ">", "4", ":", "1", "&", "0"]  # sums mod 5: 3 2 3 3


@pytest.mark.parametrize(
    "said, symbol",
    [("", "3"), ("3", "2"), ("3 0", "BACK"), ("3 0 BACK", "2"), ("3 0 BACK 2 3 3", "<eos>"), ("1", "BACK")],
)
def test_the_best_reply_takes_back_what_is_wrong_and_nothing_else(said, symbol):
    assert Small(level=1).reply(BODY, [], said.split()) == symbol


@pytest.mark.parametrize(
    "said, is_right",
    [
        ("3 2 3 3 <eos>", True),
        ("3 0 BACK 2 3 3 <eos>", True),
        ("3 2 BACK 2 3 3 <eos>", True),
        ("3 2 3 1 <eos>", False),
        ("3 0 1 1 <eos>", False),
        ("3 2 3 3", False),
        ("3 2 3 <eos>", False),
        ("3 0 2 3 3 <eos>", False),
    ],
)
def test_an_answer_counts_by_the_last_of_the_sums_that_stand(said, is_right):
    assert Small(level=1).judge(BODY, [], said.split()) is is_right


def test_back_takes_away_one_symbol_each():
    assert standing(["1", "BACK", "BACK", "2", "3", "BACK", "4"]) == ["2", "4"]


@pytest.mark.parametrize("level", LEVELS)
def test_training_answers_err_at_the_stated_rate_and_never_teach_to_err(level):
    task = make("task", "retry", level=level)
    wrong = 0
    for body, answer, scored, _ in drawn(task, split="train"):
        assert task.judge(body, [], answer) and standing(answer) == task.solve(body, [])
        is_wrong = [after == "BACK" for after in [*answer[1:], ""]]
        assert scored == [not one for one in is_wrong]
        targets = [at for at, one in enumerate(scored) if one]
        assert all(task.reply(body, [], answer[:at]) == answer[at] for at in targets)
        wrong += sum(is_wrong)
    rate, places = task.settings.rate, N * task.settings.steps
    assert abs(wrong / places - rate) < FAR * math.sqrt(rate * (1 - rate) / places)


@pytest.mark.parametrize("level", LEVELS)
def test_scored_beginnings_of_both_kinds_differ_in_their_last_sum_only(level):
    task = make("task", "retry", level=level)
    depths = {0: [], 1: []}
    for body, answer, scored, kind in drawn(task):
        right = task.sums(body)
        at = answer.index("BACK")
        assert answer[: at - 1] == right[: at - 1] and (answer[at - 1] == right[at - 1]) is (kind == 0)
        assert answer[at:] == (["BACK", right[at - 1]] if kind else ["BACK"])
        assert scored == [False] * at + [True] * (len(answer) - at)
        depths[kind].append(at)
    steps = task.settings.steps
    for kind in (0, 1):
        assert abs(len(depths[kind]) / N - 0.5) < FAR * 0.5 / math.sqrt(N)
        assert set(depths[kind]) == set(range(1, steps + 1))
        assert abs(np.mean(depths[kind]) - (steps + 1) / 2) < FAR * steps / math.sqrt(12 * N / 2)


@pytest.mark.parametrize("level", LEVELS)
def test_the_oracle_always_recovers_and_never_raises_a_false_alarm(level):
    found = played(make("task", "retry", level=level), oracle)
    assert {name: value for name, (value, _) in found.items()} == {
        "score": 1,
        "answer_nll": 0,
        "recovery": 1,
        "false_alarm": 0,
    }


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize(
    "rung, strategy",
    [
        ("chance", guesser),
        ("never_back", never_back),
        ("always_back", always_back),
        ("detect_only", detect_only),
        ("bayes", oracle),
    ],
)
def test_strategies_score_their_rungs(level, rung, strategy):
    """A difference of two shares, each of about N / 2 examples: its standard error is below 1 / sqrt(N)."""
    task = make("task", "retry", level=level)
    value, n = played(task, strategy)["score"]
    assert abs(value - task.ladder().score[rung]) < FAR * (1 / math.sqrt(n))


def test_chance_is_worked_out_by_hand():
    """Mod 5, BACK or a sum: R = 1/6 * 1/5, F = 1/6; ln 30 of recovering, ln 6/5 of no BACK."""
    ladder = Small(level=1).ladder()
    assert ladder.score["chance"] == pytest.approx(1 / 30 - 1 / 6)
    assert ladder.score["always_back"] == pytest.approx(1 / 5 - 1)
    assert ladder.score["never_back"] == 0 and ladder.score["detect_only"] == 1 / 4
    assert ladder.answer_nll == {"chance": pytest.approx(math.log(30) + math.log(6 / 5)), "bayes": 0}


def test_nats_are_of_recovering_and_of_no_false_alarm_and_solved_turns_those_round():
    """BACK has 3/4 of the probability after one right sum and 1/2, 0, 0 after the others."""
    correct = np.array([[1, 1], [1, 0], [1, np.nan], [0, np.nan], [0, np.nan], [0, np.nan]])
    back = [math.log(4 / 3), math.log(2), np.inf, 50]
    nll = np.array([[1.0, 2.0], [3.0, 4.0], *([nats, np.nan] for nats in back)])
    answered = Answered(nll_NA=nll, correct_NA=correct, kind_N=np.array([1, 1, 0, 0, 0, 0]))
    task = make("task", "retry")
    wanted = task.as_wanted(answered)
    assert wanted.nll_NA[:2].tolist() == [[1, 2], [3, 4]]
    assert wanted.nll_NA[2:, 0] == pytest.approx([math.log(4), math.log(2), 0, 0])
    found = task.metrics(answered)
    assert found.pop("answer_nll") == (pytest.approx(5 + math.log(8) / 4), 6)
    assert found == {
        "score": (0.25, 6),
        "recovery": (0.5, 2),
        "false_alarm": (0.25, 4),
    }
    assert task.solved_N(answered).tolist() == [1, 0, 0, 1, 1, 1]


def test_always_saying_back_is_not_blessed_by_the_nats():
    """After right sums as after wrong ones, surely: worse than chance, and finite."""
    answered = Answered(
        nll_NA=np.array([[0.0, math.log(5)], [0.0, np.nan]]),
        correct_NA=np.array([[1, 0], [1, np.nan]]),
        kind_N=np.array([1, 0]),
    )
    nats, _ = make("task", "retry").metrics(answered)["answer_nll"]
    assert 15 < nats - math.log(5) < 17


def test_a_guesser_has_the_nats_of_chance():
    task = make("task", "retry")
    p = task.settings.modulus
    nll = np.log(np.array([[p + 1, p], [p + 1, np.nan]]))
    answered = Answered(nll_NA=nll, correct_NA=np.exp(-nll), kind_N=np.array([1, 0]))
    found = task.metrics(answered)
    assert found["answer_nll"][0] == pytest.approx(task.ladder().answer_nll["chance"])
    assert found["score"][0] == pytest.approx(task.ladder().score["chance"])


def test_an_example_is_written_once_as_its_score_is_a_difference():
    with pytest.raises(ValueError, match="rewrites = 2 is not accepted: retry is scored in at most 1"):
        make("task", "retry", rewrites=2)


def test_a_slip_is_never_the_right_sum():
    task = Small(level=1)
    for said in ([], ["3"], ["3", "1", "BACK"], task.solve(BODY, [])):
        right = task.sums(BODY)[min(len(standing(said)), 3)]
        assert sorted([right, *(task.slip(BODY, said, off=off) for off in range(1, 5))]) == list("01234")


def test_the_space_is_that_of_all_increments():
    assert len(set(itertools.product(range(3), repeat=3))) == 27
    assert 2 ** Small().log2_space() == pytest.approx(27)
