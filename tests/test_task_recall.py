"""Associative recall: its reader, its shortcuts by running them, its space by counting."""

import itertools
import math

import numpy as np
import pytest

from lmbench.config import make
from lmbench.tasks.draws import Draws, mixed
from lmbench.tasks.ladder import Answered
from lmbench.tasks.recall import Recall, Setting, some_value
from lmbench.tasks.symbols import PAD, SYMBOLS


class Small(Recall):
    """Few pairs, so that all examples can be met."""

    LEVELS = (Setting(2, 1), Setting(3, 2), Setting(3, 3))


def drawn(task, n, first=0):
    keys = np.arange(first, first + 2 * n, dtype=np.uint64)
    return task.generate(Draws(mixed(keys[:n])), Draws(mixed(keys[n:])), train=False)


def spelled(rows):
    return [[SYMBOLS[token] for token in row if token != PAD] for row in rows]


def test_values_are_told_in_the_order_of_the_question():
    task = make("task", "recall")
    assert task.solve(["c", "4", "a", "11", "f", "0", "b", "4"], ["a", "c"]) == ["11", "4"]


@pytest.mark.parametrize("level, pairs, queries", [(0, 4, 2), (1, 8, 4), (4, 26, 4)])
def test_keys_are_distinct_and_the_question_names_some_of_them(level, pairs, queries):
    made = drawn(make("task", "recall", level=level), 200)
    for body, query in zip(spelled(made.body_NL), spelled(made.query_NQ), strict=True):
        assert len(set(body[::2])) == pairs and len(body) == 2 * pairs
        assert len(set(query)) == queries and set(query) <= set(body[::2])


def test_more_pairs_than_the_alphabet_has_letters_are_refused():
    task = make("task", "recall", level=3, names="second")
    with pytest.raises(ValueError, match="recall level 3 needs 20 names; names = 'second' has 13"):
        drawn(task, 4)
    assert set(np.unique(drawn(make("task", "recall", level=2, names="first"), 50).query_NQ)) <= {
        SYMBOLS.index(letter) for letter in "abcdefghijklm"
    }


@pytest.mark.parametrize("pairs, queries, values", [(2, 1, 3), (3, 2, 2), (3, 3, 2), (4, 2, 3)])
def test_some_value_equals_its_enumeration(pairs, queries, values):
    """All values of all pairs, all choices of pairs for the answers."""
    right = sum(
        all(value[pick] == value[asked] for asked, pick in enumerate(picks))
        for value in itertools.product(range(values), repeat=pairs)
        for picks in itertools.product(range(pairs), repeat=queries)
    )
    assert some_value(pairs, queries, values) == pytest.approx(right / values**pairs / pairs**queries)


def test_some_value_for_one_query_is_one_pair_or_a_lucky_other_one():
    assert some_value(4, 1, 13) == pytest.approx(1 / 4 + 3 / 4 / 13)


@pytest.mark.parametrize("level", range(3))
def test_shortcuts_score_their_rungs_when_run(level):
    task, n = Small(level=level), 30_000
    made, rng = drawn(task, n), np.random.default_rng(0)
    value_NM, truth_NQ = made.body_NL[:, 1::2], made.answer_NA
    pick_NQ = rng.integers(value_NM.shape[1], size=truth_NQ.shape)
    scores = {
        "some_value": (np.take_along_axis(value_NM, pick_NQ, axis=1) == truth_NQ).all(axis=1).mean(),
        "last_value": (value_NM[:, -1:] == truth_NQ).all(axis=1).mean(),
    }
    rungs = task.ladder().score
    assert set(scores) == set(rungs) - {"chance", "bayes"}
    for name, score in scores.items():
        error = math.sqrt(rungs[name] * (1 - rungs[name]) / n)
        assert abs(score - rungs[name]) < 4.5 * error, name


@pytest.mark.parametrize("level", [0, 1])
def test_the_space_is_counted_right(level):
    task = Small(level=level)
    forms = np.unique(drawn(task, 60_000).form_NC, axis=0)
    assert len(forms) == round(2 ** task.log2_space())


def test_order_and_names_of_pairs_are_no_part_of_the_form():
    task, keys = make("task", "recall"), mixed(np.arange(50, dtype=np.uint64))
    one, other = (task.generate(Draws(keys), Draws(mixed(keys ^ np.uint64(at))), train=True) for at in (1, 2))
    assert (one.form_NC == other.form_NC).all() and (one.answer_NA == other.answer_NA).all()
    assert (one.body_NL != other.body_NL).any(axis=1).mean() > 0.9


def test_queries_are_also_scored_one_by_one():
    correct_NA = np.array([[1.0, 0.0], [1.0, 1.0]])
    scored = Answered(nll_NA=np.ones((2, 2)), correct_NA=correct_NA, kind_N=np.zeros(2))
    found = make("task", "recall").metrics(scored)
    assert found == {"score": (0.5, 2), "answer_nll": (2.0, 2), "per_query": (0.75, 4)}
