"""The counterfactual task: its facts, its canonical form and its score ladder, by enumeration."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest

from lmbench.config import make
from lmbench.tasks.examples import examples, parse
from lmbench.tasks.ladder import Answered
from lmbench.tasks.scm import Scm, Setting
from lmbench.tasks.symbols import PAD, SYMBOLS
from lmbench.tasks.trees import distances, marked_trees, tree_hash

N = 2000
FAR = 4.5  # standard errors
LEVELS = range(len(Scm.LEVELS))
HIDDEN = [at for at, level in enumerate(Scm.LEVELS) if level.noise]


class Small(Scm):
    """Few enough examples to write down all."""

    LEVELS = (
        Setting(3, 3, True),
        Setting(3, 5, True, noise=2),
        Setting(4, 5, True, noise=3),
        Setting(3, 5, True),
    )


def drawn(task, *, n=N):
    """(facts, query, answer, kind) of each example; facts map a name to its parent and value."""
    made = examples(task, seed=0, split="train", index_N=np.arange(n))
    found = []
    for tokens, kind in zip(made.tokens_NT, made.kind_N, strict=True):
        body, query, answer = parse(
            [SYMBOLS[token] for token in tokens if token != PAD], surface=task.surface
        )
        found.append((facts_of(body), query, int(answer[0]), int(kind)))
    return found


def facts_of(body):
    rows = [part.split() for part in " ".join(body).split(" ; ")]
    return {name: (parent, int(value)) for name, _, parent, value in rows}


def above(facts, name):
    """Nodes on the way to the root, without the node itself."""
    parent = facts[name][0]
    return [] if parent == "#" else [parent, *above(facts, parent)]


def shift_of(facts, query):
    mark, changed, value, _ = query
    return int(value) - (facts[changed][1] if mark == ":" else 0)


def all_trees(n):
    return itertools.product(*(range(at) for at in range(1, n)))


def path(parents, top, low):
    """Nodes from `low` up to, not with, `top`; None where `top` is not above."""
    nodes = []
    while low != top:
        if low == 0:
            return None
        nodes.append(low)
        low = parents[low - 1]
    return nodes


@pytest.mark.parametrize(
    "body, query, answer",
    [
        ("a < # 3 ; b < a 0 ; c < a 2", ": a 1 c", "0"),
        ("a < # 3 ; b < a 0 ; c < a 2", "+ a 3 c", "0"),
        ("a < # 3 ; b < a 0 ; c < a 2", ": b 1 c", "2"),
        ("a < # 3 ; b < a 0 ; c < a 2", ": c 1 a", "3"),
        ("c < b 2 ; a < # 3 ; b < a 0", ": a 4 c", "3"),
    ],
)
def test_the_solver_abducts_acts_and_predicts(body, query, answer):
    assert Small(level=3).solve(body.split(), query.split()) == [answer]


@pytest.mark.parametrize(
    "body, answer",
    [
        ("a ~ # 2 ; b ~ a 3", "4"),  # 3 = 2 + 1; 1 - 2 would be 4
        ("a ~ # 2 ; b ~ a 4", "3"),  # 4 = 1 - 2; the other mechanism needs a noise of 2
        ("a ~ # 2 ; b ~ a 4 ; c ~ b 2", "3"),  # c = 1 - b: two downs are an up
    ],
)
def test_a_hidden_mechanism_is_told_by_the_noise_that_is_possible(body, answer):
    asked = "c" if "c" in body else "b"
    assert Small(level=1).solve(body.split(), [":", "a", "3", asked]) == [answer]


@pytest.mark.parametrize("level", LEVELS)
def test_half_of_the_questions_are_about_a_descendant_and_all_change_the_node_that_is_set(level):
    task = make("task", "scm", level=level)
    kinds = []
    for facts, query, answer, kind in drawn(task):
        assert (query[1] in above(facts, query[3])) is bool(kind) and query[1] != query[3]
        shift = shift_of(facts, query) % task.settings.modulus
        assert shift != 0
        moved = (answer - facts[query[3]][1]) % task.settings.modulus
        assert moved in ({shift, -shift % task.settings.modulus} if kind else {0})
        assert task.settings.noise or moved in (0, shift)
        kinds.append(kind)
    assert abs(np.mean(kinds) - 0.5) < FAR * 0.5 / math.sqrt(N)


def canonical(parents, labels, at=0):
    """A nested tuple that does not depend on the order of the nodes."""
    under = [child for child in range(1, len(labels)) if parents[child - 1] == at]
    return labels[at], tuple(sorted(canonical(parents, labels, child) for child in under))


@pytest.mark.parametrize("n, p, noise", [(2, 4, 0), (3, 3, 0), (4, 2, 0), (5, 2, 0), (3, 5, 2), (4, 3, 1)])
def test_the_space_and_the_hash_are_those_of_all_examples_written_down(n, p, noise):
    under = [[x for x in range(p) if not noise or min((x - a) % p, (x + a) % p) < noise] for a in range(p)]
    forms, trees, labels = set(), [], []
    for parents in all_trees(n):
        for values in itertools.product(range(p), repeat=n):
            if any(values[at] not in under[values[parents[at - 1]]] for at in range(1, n)):
                continue
            for one, other in itertools.permutations(range(n), 2):
                label = [value * 3 + (at == one) + 2 * (at == other) for at, value in enumerate(values)]
                forms.add(canonical(parents, label))
                trees.append([0, *parents])
                labels.append(label)
    assert marked_trees(n, under) == len(forms)
    assert len(np.unique(tree_hash(np.array(trees), np.array(labels)))) == len(forms)


def test_the_space_counts_settings_too():
    """Three nodes mod 3: 27 * 6 chains and 27 * 3 stars of two unordered children, two settings each."""
    assert 2 ** Small().log2_space() == pytest.approx((27 * 6 + 27 * 3) * 2)


@pytest.mark.parametrize("level", [1, 2])
def test_the_best_score_is_that_of_enumerating_noise_and_hidden_bits(level):
    """Each combination of tree, values, bits and noise, by what of it is shown."""
    task = Small(level=level)
    n, p, *_, noise = task.settings
    answers = defaultdict(lambda: defaultdict(float))
    trees = list(all_trees(n))
    for parents, root in itertools.product(trees, range(p)):
        pairs = list(itertools.permutations(range(n), 2))
        down = [pair for pair in pairs if path(parents, *pair)]
        for bits in itertools.product(itertools.product((1, -1), range(noise)), repeat=n - 1):
            values = [root]
            for (sign, w), parent in zip(bits, parents, strict=True):
                values.append((sign * values[parent] + w) % p)
            for top, low in pairs:
                nodes = path(parents, top, low)
                of_kind = len(down) if nodes else len(pairs) - len(down)
                weight = 1 / (len(trees) * p * (2 * noise) ** (n - 1) * 2 * of_kind)
                sign = math.prod(bits[node - 1][0] for node in nodes) if nodes else 0
                shown = (parents, tuple(values), top, low)
                answers[shown][sign] += weight
    assert sum(sum(found.values()) for found in answers.values()) == pytest.approx(1)
    best = sum(max(found.values()) for found in answers.values())
    nats = sum(w * math.log(sum(found.values()) / w) for found in answers.values() for w in found.values())
    ladder = task.ladder()
    assert ladder.score["bayes"] == pytest.approx(2 * best - 1), "other nodes are always known"
    assert ladder.answer_nll["bayes"] == pytest.approx(nats)


def test_distances_are_those_of_all_trees():
    """Three nodes: a chain has two pairs at 1 and one at 2, a star two at 1."""
    assert distances(3) == pytest.approx((0, (2 / 3 + 1) / 2, 1 / 6))
    assert sum(distances(6)) == pytest.approx(1)


def copy(facts, query, p, rng):
    return facts[query[3]][1]


def shift(facts, query, p, rng):
    return (facts[query[3]][1] + shift_of(facts, query)) % p


def any_sign(facts, query, p, rng):
    return (shift if query[1] in above(facts, query[3]) else copy)(facts, query, p, rng)


def guess(facts, query, p, rng):
    step = int(rng.integers(1, p)) if query[1] in above(facts, query[3]) else 0
    return (facts[query[3]][1] + step) % p


@pytest.mark.parametrize("level", [0, 2, 4, *HIDDEN])
def test_shortcuts_score_their_rungs(level):
    task, rng = make("task", "scm", level=level), np.random.default_rng(0)
    rungs, found = task.ladder().score, drawn(task)
    kinds = np.array([kind for *_, kind in found])
    strategies = {"copy": copy, "shift": shift, "guess": guess}
    for name, strategy in (strategies | ({"any_sign": any_sign} if level in HIDDEN else {})).items():
        right = [
            float(strategy(facts, query, task.settings.modulus, rng) == answer)
            for facts, query, answer, _ in found
        ]
        answered = Answered(nll_NA=np.zeros((N, 1)), correct_NA=np.array(right)[:, None], kind_N=kinds)
        assert abs(task.metrics(answered)["score"][0] - rungs[name]) < FAR * 0.5 / math.sqrt(N / 2)


def test_the_score_is_that_of_the_weaker_kind_however_many_there_are():
    correct = np.array([1, 0, 1, 1, 1, 1, 0, 1], dtype=float)[:, None]
    answered = Answered(
        nll_NA=np.array([2.0, 4, 1, 1, 1, 1, 1, 1])[:, None],
        correct_NA=correct,
        kind_N=np.array([1, 1, 0, 0, 0, 0, 0, 0]),
    )
    found = make("task", "scm").metrics(answered)
    assert found["descendant"] == (0.5, 2) and found["other"] == (5 / 6, 6)
    assert found["score"] == (0.5, 2) and found["answer_nll"] == (2.0, 8)


def test_an_example_is_written_once_as_its_score_is_of_the_weaker_kind():
    with pytest.raises(ValueError, match="rewrites = 2 is not accepted: scm is scored in at most 1"):
        make("task", "scm", rewrites=2)


@pytest.mark.parametrize("kind", ["scm", "retry"])
def test_too_few_examples_for_both_kinds_are_refused(kind):
    one = Answered(nll_NA=np.zeros((1, 1)), correct_NA=np.ones((1, 1)), kind_N=np.zeros(1, dtype=int))
    with pytest.raises(ValueError, match="n_eval = 1 is too small: both kinds of .* are needed"):
        make("task", kind, n_eval=1).metrics(one)
