"""The chain task: its examples, by reading them, and its score ladder, by playing it on all examples."""

import itertools
import math

import numpy as np
import pytest

from lmbench.config import make
from lmbench.tasks.chain import Chain, Setting, statements
from lmbench.tasks.draws import Draws, mixed
from lmbench.tasks.examples import examples, length, parse
from lmbench.tasks.symbols import PAD, SYMBOLS

N = 4000
FAR = 4.5  # standard errors
LEVELS = range(len(Chain.LEVELS))


class Small(Chain):
    """Few enough examples to write down all."""

    LEVELS = (Setting(1, 3, 3, True), Setting(2, 2, 3, True), Setting(0, 3, 5, True), Setting(1, 2, 7, False))


def drawn(task, *, n=N):
    """(terms of each name, asked name, answer) of each example."""
    made = examples(task, seed=0, split="train", index_N=np.arange(n))
    found = []
    for row in made.tokens_NT:
        body, query, answer = parse([SYMBOLS[token] for token in row if token != PAD], surface=task.surface)
        found.append(({name: rest for name, _, *rest in statements(body)}, query[0], int(answer[0])))
    return found


def increments(terms, name):
    """Sum of the increments from the literal to a name."""
    first, *rest = terms[name]
    return int(rest[1]) + increments(terms, first) if rest else 0


def literals(terms):
    return [int(rest[0]) for rest in terms.values() if len(rest) == 1]


def any_root(terms, asked, p):
    """Values that the shortcut says, all alike."""
    return [(root + increments(terms, asked)) % p for root in literals(terms)]


def own_root(terms, asked, p):
    """Of one hop: the right literal and the increment of any chain."""
    root = int(terms[terms[asked][0]][0])
    return [(root + int(rest[2])) % p for rest in terms.values() if len(rest) > 1]


def every_example(task):
    """Terms, name that is asked for and answer of each choice of roots and increments."""
    hops, chains, p, _ = task.settings
    for steps in itertools.product(range(p), repeat=chains * (hops + 1)):
        terms = {}
        for chain in range(chains):
            root, *more = steps[chain * (hops + 1) : (chain + 1) * (hops + 1)]
            terms[f"{chain}.0"] = [str(root)]
            for hop, step in enumerate(more, start=1):
                terms[f"{chain}.{hop}"] = [f"{chain}.{hop - 1}", "+", str(step)]
        yield terms, f"0.{hops}", sum(steps[: hops + 1]) % p


def exact(task, strategy):
    """Score of a strategy on every example."""
    shares = [
        np.mean([said == answer for said in strategy(terms, asked, task.settings.modulus)])
        for terms, asked, answer in every_example(task)
    ]
    return np.mean(shares)


@pytest.mark.parametrize("level, rung", [(0, "any_root"), (1, "any_root"), (2, "some_literal")])
def test_a_literal_of_any_chain_scores_its_rung_on_all_examples(level, rung):
    task = Small(level=level)
    assert set(task.ladder().score) == {"chance", rung, "bayes"}
    assert task.ladder().score[rung] == pytest.approx(exact(task, any_root))


def test_with_one_hop_the_increment_of_any_chain_scores_the_same():
    assert exact(Small(), own_root) == pytest.approx(Small().ladder().score["any_root"])


@pytest.mark.parametrize("level", LEVELS)
def test_a_literal_of_any_chain_scores_its_rung_when_played(level):
    task, rng = make("task", "chain", level=level), np.random.default_rng(0)
    p, rung = task.settings.modulus, task.ladder().score["any_root" if level else "some_literal"]
    right = [rng.choice(any_root(terms, asked, p)) == answer for terms, asked, answer in drawn(task)]
    assert abs(np.mean(right) - rung) < FAR * math.sqrt(rung * (1 - rung) / N)


def test_no_shortcut_that_is_named_reaches_half_of_the_best_score():
    """1/3 for three chains of any number of hops, 1/4 for four literals."""
    for level in LEVELS:
        score = dict(make("task", "chain", level=level).ladder().score)
        chance, bayes = score.pop("chance"), score.pop("bayes")
        found = [(value - chance) / (bayes - chance) for value in score.values()]
        assert found == pytest.approx([1 / 3 if level else 1 / 4])


@pytest.mark.parametrize("level", range(3))
def test_the_space_is_that_of_all_examples_written_down(level):
    """Names and the order of the other chains are no part of an example."""
    task = Small(level=level)
    hops, chains, p, _ = task.settings
    kinds = list(itertools.product(range(p), repeat=hops + 1))
    forms = {(one, tuple(sorted(rest))) for one, *rest in itertools.product(kinds, repeat=chains)}
    assert 2 ** task.log2_space() == pytest.approx(len(forms))
    keys = mixed(np.arange(60_000, dtype=np.uint64))
    made = task.generate(Draws(keys[:30_000]), Draws(keys[30_000:]), train=False)
    assert len(np.unique(made.form_NC, axis=0)) == pytest.approx(len(forms), rel=0.001)


@pytest.mark.parametrize("level", LEVELS)
def test_an_example_has_the_stated_chains_and_no_gaps(level):
    task = make("task", "chain", level=level)
    hops, chains, p, _ = task.settings
    for terms, asked, answer in drawn(task, n=200):
        assert len(terms) == chains * (hops + 1) and len(literals(terms)) == chains
        assert all(int(rest[-1]) < p for rest in terms.values())
        depth, name = 0, asked
        while len(terms[name]) > 1:
            depth, name = depth + 1, terms[name][0]
        assert depth == hops and (increments(terms, asked) + int(terms[name][0])) % p == answer
    assert length(task) == chains * (4 + 6 * hops) - 1 + 5, "tokens of statements, marks, query, answer"


def test_statements_stand_hop_by_hop_where_they_are_not_shuffled():
    for terms, _, _ in drawn(Small(level=3), n=100):
        assert [len(rest) for rest in terms.values()] == [1, 1, 3, 3]


@pytest.mark.parametrize("body, value", [("b = 3 ; d = b + 4", "0"), ("c = d + 6 ; d = b + 4 ; b = 3", "6")])
def test_the_solver_follows_definitions_back_to_a_literal(body, value):
    asked = "c" if "c" in body else "d"
    assert make("task", "chain", level=1).solve(body.split(), [asked]) == [value]


def test_half_an_alphabet_is_enough_for_three_hops_and_refused_beyond():
    assert drawn(make("task", "chain", level=3, names="second"), n=5)
    with pytest.raises(ValueError, match="chain level 4 needs 15 names; names = 'second' has 13"):
        drawn(make("task", "chain", level=4, names="second"), n=5)
