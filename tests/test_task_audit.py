"""The error-finding task: its examples, by reading them, and its score ladder, by playing it."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from lmbench.config import make
from lmbench.tasks.audit import Audit, Setting
from lmbench.tasks.examples import examples, parse
from lmbench.tasks.ladder import Answered
from lmbench.tasks.symbols import OK, PAD, SYMBOLS

N = 4000
FAR = 4.5  # standard errors


class Small(Audit):
    """Few enough examples to write down all."""

    LEVELS = (Setting(2, 3), Setting(3, 5))


def drawn(task, *, n=N):
    made = examples(task, seed=0, split="train", index_N=np.arange(n))
    rows = [[SYMBOLS[token] for token in row if token != PAD] for row in made.tokens_NT]
    return [parse(row, surface=task.surface) for row in rows]


def shown(body):
    """(increments, sums) as numbers."""
    return [int(step) for step in body[::3]], [int(value) for value in body[2::3]]


def wrong_places(body, modulus):
    steps, sums = shown(body)
    before = [0, *sums[:-1]]
    pairs = zip(before, steps, sums, strict=True)
    return [at for at, (a, step, b) in enumerate(pairs, start=1) if (a + step - b) % modulus]


def share(strategy, task):
    """Examples for which a strategy that sees the body gives the whole answer."""
    rng = np.random.default_rng(0)
    return np.mean([strategy(body, rng) == answer for body, _, answer in drawn(task)])


def near(value, expected):
    return abs(value - expected) < FAR * math.sqrt(expected * (1 - expected) / N)


@pytest.mark.parametrize(
    "body, answer",
    [
        ("3 : 3 4 > 0 1 : 1", "2 2"),
        ("3 : 3 4 > 2 1 : 3", "OK 3"),
        ("3 # 1 4 & 0 1 : 1", "1 3"),
        ("0 : 0 0 : 0 0 : 4", "3 0"),
    ],
)
def test_the_solver_finds_the_wrong_step_and_the_right_sum(body, answer):
    """Mod 5."""
    assert Small(level=1).solve(body.split(), []) == answer.split()


@pytest.mark.parametrize("level", range(len(Audit.LEVELS)))
def test_at_most_one_step_is_wrong_and_none_is_as_likely_as_each_place(level):
    task = make("task", "audit", level=level)
    places = [wrong_places(body, task.settings.modulus) for body, _, _ in drawn(task)]
    assert max(map(len, places)) == 1
    counts = Counter(place[0] if place else 0 for place in places)
    prior = 1 / (task.settings.steps + 1)
    assert all(near(counts[place] / N, prior) for place in range(task.settings.steps + 1))


def test_every_right_sum_is_as_likely_whatever_the_place():
    found = Counter(tuple(answer) for _, _, answer in drawn(make("task", "audit")))
    assert len(found) == 4 * 7 and all(near(count / N, 1 / 28) for count in found.values())


def always_ok(body, rng):
    return ["OK", body[-1]]


def place_only(modulus):
    def strategy(body, rng):
        places = wrong_places(body, modulus)
        if not places:
            return ["OK", body[-1]]
        said = (shown(body)[1][places[0] - 1] + int(rng.integers(1, modulus))) % modulus
        return [str(places[0]), str(said)]

    return strategy


def total_only(modulus):
    def strategy(body, rng):
        steps, sums = shown(body)
        if sum(steps) % modulus == sums[-1]:
            return ["OK", body[-1]]
        place = int(rng.integers(1, len(steps) + 1))
        return [str(place), str(sum(steps[:place]) % modulus)]

    return strategy


@pytest.mark.parametrize("level", [0, 2, 5])
def test_shortcuts_score_their_rungs(level):
    task = make("task", "audit", level=level)
    rungs, modulus = task.ladder().score, task.settings.modulus
    strategies = {
        "always_ok": always_ok,
        "total_only": total_only(modulus),
        "place_only": place_only(modulus),
    }
    assert set(rungs) == {*strategies, "chance", "bayes"}
    for name, strategy in strategies.items():
        assert near(share(strategy, task), rungs[name]), name


def test_chance_is_one_of_n_plus_1_places_times_one_of_p_sums():
    ladder = make("task", "audit", level=0).ladder()
    assert ladder.score["chance"] == pytest.approx(1 / (4 * 7))
    assert ladder.answer_nll["chance"] == pytest.approx(math.log(28))
    assert ladder.score["always_ok"] == 1 / 4 and ladder.score["total_only"] == pytest.approx(2 / 4)
    assert [len(ids) for ids in make("task", "audit", level=0).choices()] == [4, 7]


def test_the_space_is_that_of_all_examples_written_down():
    """Two steps mod 3: increments, and no error or one of two wrong sums at either place."""
    steps = itertools.product(range(3), repeat=2)
    errors = [(0, 0), *itertools.product((1, 2), (1, 2))]
    assert len(list(itertools.product(steps, errors))) == 45
    assert 2 ** Small().log2_space() == pytest.approx(45)


def test_place_and_sum_are_told_apart():
    correct = np.array([[1, 1], [1, 0], [0, 1], [0, 1]], dtype=float)
    answered = Answered(nll_NA=np.ones((4, 2)), correct_NA=correct, kind_N=np.zeros(4, dtype=int))
    found = make("task", "audit").metrics(answered)
    assert found == {"score": (0.25, 4), "answer_nll": (2.0, 4), "locus": (0.5, 4), "value": (0.75, 4)}


def test_a_place_is_told_as_a_value_and_none_as_ok():
    assert max(level.steps for level in Audit.LEVELS) <= 12
    places, _ = make("task", "audit", level=5).choices()
    assert [SYMBOLS[at] for at in places] == ["OK", *map(str, range(1, 13))] and places[0] == OK
