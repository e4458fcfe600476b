"""Uncertainty: posteriors, shortcuts and the share of what can be known."""

import itertools
import math

import numpy as np
import pytest

from lmbench.config import make
from lmbench.tasks.draws import Draws, mixed
from lmbench.tasks.examples import examples, parse
from lmbench.tasks.reports import RELIABILITY, Reports, Setting, enumerated
from lmbench.tasks.symbols import PAD, SYMBOLS

FAR = 4.5  # standard errors
LEVELS = range(len(Reports.LEVELS))
N = 2000


class Tiny(Reports):
    """Small enough to count."""

    LEVELS = (Setting(1, 2, 2), Setting(2, 2, 2), Setting(1, 3, 2), Setting(2, 1, 3))


def read(task, *, n=N, seed=0):
    made = examples(task, seed=seed, split="train", index_N=np.arange(n))
    rows = [[SYMBOLS[token] for token in row if token != PAD] for row in made.tokens_NT]
    return [parse(row, surface=task.surface) for row in rows]


def symbols(text):
    return text.split()


def triples(body):
    return list(zip(body[::3], body[1::3], body[2::3], strict=True))


def test_the_posterior_is_bayes_rule_by_hand():
    task = make("task", "reports")
    assert task.posterior(symbols("+ a 2"), ["a"]) == pytest.approx([0.2 / 3, 0.2 / 3, 0.8, 0.2 / 3])
    assert task.posterior(symbols("+ b 2"), ["a"]) == [0.25] * 4
    # 0.8 * (0.4 / 3) for 2, (0.2 / 3) * 0.6 for 1, (0.2 / 3) * (0.4 / 3) else: as 12 to 4.5 to 1 to 1.
    found = task.posterior(symbols("+ a 2 ~ b 0 ~ a 1"), ["a"])
    assert found == pytest.approx([1 / 18.5, 4.5 / 18.5, 12 / 18.5, 1 / 18.5])
    assert task.solve(symbols("+ a 2 ~ b 0 ~ a 1"), ["a"]) == ["2"]
    # Two reports of 0.4 weigh less than one of 0.6, three of them more.
    assert task.solve(symbols("~ a 2 - a 0 - a 0"), ["a"]) == ["2"]
    assert task.solve(symbols("~ a 2 - a 0 - a 0 - a 0"), ["a"]) == ["0"]


@pytest.mark.parametrize("level", LEVELS)
def test_answers_are_as_probable_as_the_posterior_says(level):
    """Among all values of all examples whose posterior lies in a bin, the share that is true."""
    task = make("task", "reports", level=level)
    rows = read(task)
    chance_NV = np.array([task.posterior(body, query) for body, query, _ in rows])
    is_true_NV = np.array([[str(v) == answer[0] for v in range(chance_NV.shape[1])] for _, _, answer in rows])
    for low in np.arange(0, 1, 0.1):
        inside_NV = (chance_NV >= low) & (chance_NV < low + 0.1)
        if inside_NV.sum() > 50:
            p = chance_NV[inside_NV]
            error = math.sqrt((p * (1 - p)).sum()) / len(p)
            assert abs(is_true_NV[inside_NV].mean() - p.mean()) < FAR * error
    bayes, entropy_N = task.ladder(), -(chance_NV * np.log(chance_NV)).sum(axis=1)
    for found_N, exact in (
        (chance_NV.max(axis=1), bayes.score["bayes"]),
        (entropy_N, bayes.answer_nll["bayes"]),
    ):
        assert abs(found_N.mean() - exact) < FAR * found_N.std() / math.sqrt(N)


def brute(reports, values):
    """Expectations by going through truths and ordered reports."""
    q_of, totals = list(RELIABILITY.values()), np.zeros(4)
    for kinds in itertools.product(range(len(q_of)), repeat=reports):
        for said in itertools.product(range(values), repeat=reports):
            joint = np.full(values, 1 / values)
            votes, best = np.zeros(values), np.zeros(values)
            for kind, value in zip(kinds, said, strict=True):
                q = q_of[kind]
                joint *= np.where(np.arange(values) == value, q, (1 - q) / (values - 1)) / len(q_of)
                votes[value] += 1
                best[value] += kind == max(kinds)
            top = (votes == votes.max()) / (votes == votes.max()).sum()
            posterior = joint / joint.sum()
            totals += joint.max(), -(joint * np.log(posterior)).sum(), joint @ top, joint @ best / best.sum()
    return totals


@pytest.mark.parametrize("reports, values", [(1, 2), (1, 4), (2, 3), (3, 2), (3, 4)])
def test_the_exact_values_are_those_of_all_patterns(reports, values):
    assert list(enumerated(reports, values)) == pytest.approx(brute(reports, values), abs=1e-12)


def strategies(rng):
    """What each shortcut says."""

    def any_of(reports):
        return reports[rng.integers(len(reports))][2]

    def most_reliable(reports):
        best = max((symbol for symbol, _, _ in reports), key=RELIABILITY.__getitem__)
        return any_of([report for report in reports if report[0] == best])

    def majority(reports):
        said = [value for _, _, value in reports]
        most = max(map(said.count, said))
        return any_of([("", "", value) for value in sorted(set(said)) if said.count(value) == most])

    def on_key(strategy):
        return lambda reports, key: strategy([report for report in reports if report[1] == key])

    return {
        "any_report": lambda reports, key: any_of(reports),
        "any_most_reliable": lambda reports, key: most_reliable(reports),
        "same_key": on_key(any_of),
        "most_reliable": on_key(most_reliable),
        "majority": on_key(majority),
    }


@pytest.mark.parametrize("level", LEVELS)
def test_shortcuts_score_their_rungs(level):
    task = make("task", "reports", level=level)
    rows, ladder = read(task), task.ladder().score
    named = strategies(np.random.default_rng(0))
    assert set(ladder) == {*named, "chance", "bayes"}
    for name, says in named.items():
        right = np.mean([says(triples(body), query[0]) == answer[0] for body, query, answer in rows])
        assert abs(right - ladder[name]) < FAR * math.sqrt(ladder[name] * (1 - ladder[name]) / N), name


@pytest.mark.parametrize("level", LEVELS)
def test_each_key_has_as_many_reports(level):
    task = make("task", "reports", level=level)
    for body, (key,), _ in read(task, n=20):
        keys = body[1::3]
        assert key in keys and len(set(keys)) == task.settings.keys
        assert {keys.count(one) for one in keys} == {task.settings.reports}


@pytest.mark.parametrize("level", range(len(Tiny.LEVELS)))
def test_forms_are_as_many_as_stated_and_say_nothing_of_the_truth(level):
    keys = (Draws(mixed(np.arange(start, start + 40_000, dtype=np.uint64))) for start in (0, 40_000))
    task = Tiny(level=level)
    drawn = task.generate(*keys, train=False)
    forms, at_N = np.unique(drawn.form_NC, axis=0, return_inverse=True)
    assert len(forms) == round(2 ** task.log2_space())
    commonest = at_N == np.bincount(at_N).argmax()
    assert len(np.unique(drawn.answer_NA[commonest])) == task.settings.values
