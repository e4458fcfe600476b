"""What episodes are made of, and their ladder against strategies that are run on every small episode."""

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest

from lmbench.config import make
from lmbench.tasks.episodes import Episodes, Setting
from lmbench.tasks.examples import examples
from lmbench.tasks.rules import rules_of
from lmbench.tasks.symbols import spell
from lmbench.tasks.version_space import distinct_share

BOOLEAN = ("literal", "and", "or", "xor")


class Small(Episodes):
    """Levels whose every episode can be listed."""

    LEVELS = (
        Setting(("literal", "xor"), 2, 3),
        Setting(("affine",), 3, 3),
        Setting(("literal", "and"), 2, 2),
    )


def texts(task, *, split="test", n=300, seed=0):
    """Each example as (shots, query, answer), read from its symbols."""
    made = examples(task, seed=seed, split=split, index_N=np.arange(n))
    found = []
    for row in made.tokens_NT:
        body, after = spell(row).removeprefix("<bos>").split("?")
        query, answer = after.split("=")
        shots = [tuple(shot.split()) for shot in body.split(";")] if body.strip() else []
        found.append((shots, query.strip(), answer.strip()))
    return found


def fits(task, rule, shots):
    label_RX = task._table.label_RX
    places = [int(x) if x.isdigit() else ord(x) - ord("a") for x, _ in shots]
    return all(label_RX[rule, place] == int(label) for place, (_, label) in zip(places, shots, strict=True))


# ---------------------------------------------------------------- rules


def test_rules_are_distinct_and_a_quarter_of_each_class_is_held_out():
    table = rules_of(BOOLEAN, 4)
    assert len(table.ids) == 8 + 24 + 24 + 12 == len(np.unique(table.label_RX, axis=0))
    sizes = [(rules_of((name,), 4).is_held_R.sum(), len(rules_of((name,), 4).ids)) for name in BOOLEAN]
    assert sizes == [(2, 8), (6, 24), (6, 24), (3, 12)]
    affine = rules_of(("affine",), 7)
    assert len(affine.ids) == 42 and affine.is_held_R.sum() == 10
    assert all(sorted(labels) == list(range(7)) for labels in affine.label_RX)


def test_a_rule_is_held_out_whatever_level_it_is_in():
    one, all_ = rules_of(("literal",), 4), rules_of(BOOLEAN, 4)
    assert set(np.array(one.ids)[one.is_held_R]) <= set(np.array(all_.ids)[all_.is_held_R])


def test_rules_label_by_what_their_ids_say():
    table = rules_of(BOOLEAN, 4)
    labels = dict(zip(table.ids, table.label_RX, strict=True))
    assert labels["0=1"].tolist() == [0] * 8 + [1] * 8
    assert labels["0=1 and 3=0"].tolist() == [0] * 8 + [1, 0] * 4
    assert labels["0=1 or 3=0"].tolist() == [1, 0] * 4 + [1] * 8
    assert labels["0 xor 3 = 1"].tolist() == [0, 1] * 4 + [1, 0] * 4


def test_unknown_or_mixed_classes_are_refused():
    with pytest.raises(ValueError, match=r"classes = \('literal', 'affine'\) is not accepted: some of"):
        rules_of(("literal", "affine"), 4)
    with pytest.raises(ValueError, match=r"classes = \('nand',\) is not accepted"):
        rules_of(("nand",), 4)


# ---------------------------------------------------------------- examples


@pytest.mark.parametrize("level", [0, 2, 4])
def test_training_has_training_rules_and_held_out_scores_have_held_out_ones(level):
    for rules, split in (("train", "train"), ("train", "test"), ("held_out", "train"), ("held_out", "test")):
        task = make("task", "episodes", level=level, rules=rules, shots=16)
        wanted = task._table.used("train" if split == "train" else rules)
        others = np.setdiff1d(task._table.used("all"), wanted)
        told = 0
        for shots, query, answer in texts(task, split=split, n=60):
            episode = [*shots, (query, answer)]
            assert any(fits(task, rule, episode) for rule in wanted)
            told += not any(fits(task, rule, episode) for rule in others)
        assert told > 10, "many episodes fit no rule of the other side"


@pytest.mark.parametrize("level", [0, 4])
def test_the_query_is_never_among_the_shots(level):
    assert all(query not in dict(shots) for shots, query, _ in texts(make("task", "episodes", level=level)))


def test_scores_are_at_the_given_number_of_shots_and_training_at_all():
    for shots in (0, 3, 16, None):
        task = make("task", "episodes", shots=shots)
        assert {len(row[0]) for row in texts(task, n=50)} == {8 if shots is None else shots}
        assert {len(row[0]) for row in texts(task, split="train", n=300)} == set(range(9))


def test_fewer_shots_are_the_same_examples_cut_short():
    whole = texts(make("task", "episodes"))
    for shots in (0, 1, 5):
        for (few, *rest), (all_, *same) in zip(
            texts(make("task", "episodes", shots=shots)), whole, strict=True
        ):
            assert rest == same and not Counter(few) - Counter(all_)


def test_training_is_the_same_whatever_is_scored():
    plain = make("task", "episodes")
    other = plain.replace(shots=3, rules="held_out")
    assert texts(plain, split="train", n=50) == texts(other, split="train", n=50)
    assert other.level_name == "0, shots=3, rules=held_out"
    assert other.as_trained == plain


# ---------------------------------------------------------------- ladder and space


def every_episode(task):
    """(probability, rule, query, shots) of all that can be scored."""
    label_RX, used = task._table.label_RX, task._table.used(task.rules)
    n_symbol, shots = label_RX.shape[1], task._scored_shots
    for rule, query in product(used, range(n_symbol)):
        others = [x for x in range(n_symbol) if x != query]
        for drawn in product(others, repeat=shots):
            yield 1 / (len(used) * n_symbol * len(others) ** shots), label_RX[rule], query, drawn


def share_of(votes, label):
    """Of a guesser among the labels with most votes."""
    best = [v for v, count in enumerate(votes) if count == max(votes)]
    return (label in best) / len(best)


def run_all(task):
    """Scores and nats of each strategy, run on every episode."""
    score, nats = Counter(), Counter()
    table, n_label = task._table, task._table.n_label
    priors = {"bayes": "train" if task.rules == "train" else "all"}
    priors["bayes_all" if task.rules == "train" else "bayes_train"] = (
        "all" if task.rules == "train" else "train"
    )
    for share, label_X, query, drawn in every_episode(task):
        truth = label_X[query]
        for name, prior in priors.items():
            votes = [0] * n_label
            for rule in table.used(prior):
                if all(table.label_RX[rule, x] == label_X[x] for x in drawn):
                    votes[table.label_RX[rule, query]] += 1
            score[name] += share * share_of(votes, truth)
            nats[name] += share * (math.log(sum(votes) / votes[truth]) if votes[truth] else math.inf)
        shown = [label_X[x] for x in drawn]
        score["majority"] += share * share_of([shown.count(v) for v in range(n_label)], truth)
        distance = {x: (x ^ query).bit_count() for x in drawn}
        near = [label_X[x] for x, far in distance.items() if far == min(distance.values())]
        score["nearest"] += share * share_of([near.count(v) for v in range(n_label)], truth)
        score["unseen_label"] += share * share_of([v not in shown for v in range(n_label)], truth)
    return score, nats


@pytest.mark.parametrize("rules", ["train", "held_out"])
@pytest.mark.parametrize("shots", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_rung_is_what_its_strategy_scores(level, shots, rules):
    task = Small(level=level, shots=shots, rules=rules)
    score, nats = run_all(task)
    ladder = task.ladder()
    rungs = {"bayes", "bayes_all" if rules == "train" else "bayes_train"}
    rungs |= {"unseen_label"} if level == 1 else {"majority", "nearest"}
    assert set(ladder.score) == rungs | {"chance"}
    for name in rungs:
        assert ladder.score[name] == pytest.approx(score[name]), name
        if name.startswith("bayes"):
            assert ladder.answer_nll.get(name, math.inf) == pytest.approx(nats[name]), name


@pytest.mark.parametrize("shots", [None, 0, 1, 4])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_space_is_counted_of_the_shots_that_are_shown(level, shots):
    task = Small(level=level, shots=shots)
    forms = {
        (query, tuple(sorted((x, label_X[x]) for x in drawn)))
        for _, label_X, query, drawn in every_episode(task)
    }
    assert 2 ** task.log2_space() == pytest.approx(len(forms))


def test_distinct_symbols_among_shots_are_counted():
    # Two shots of three symbols are the same with probability 1/3.
    assert distinct_share(2, n_symbol=3) == pytest.approx([0, 1 / 3, 2 / 3, 0])
    assert distinct_share(0, n_symbol=3).tolist() == [1, 0, 0, 0]


def test_more_shots_never_hurt_and_bayes_is_the_best_rung():
    last = 0.0
    for shots in range(17):
        score = make("task", "episodes", shots=shots).ladder().score
        assert score["bayes"] >= last and score["bayes"] == max(score.values())
        last = score["bayes"]
    assert last > 0.999


def test_a_memorizer_fails_on_held_out_rules_and_a_learner_does_not():
    trained, held = (make("task", "episodes", rules=rules).ladder().score for rules in ("train", "held_out"))
    assert trained["bayes"] - trained["bayes_all"] < 0.01
    assert held["bayes"] > 0.99 and held["bayes_train"] < 0.5


def test_the_oracle_follows_the_rule_that_the_shots_tell():
    task = make("task", "episodes", level=4)
    # 2 x + 5 at 3, 0, 6 is 4, 5, 3; at 2 it is 2.
    assert task.solve(["3", "4", ";", "0", "5", ";", "6", "3"], ["2"]) == ["2"]
    named = make("task", "episodes", level=0)
    assert named.solve(["a", "0", ";", "k", "1", ";", "d", "0", ";", "n", "1"], ["c"]) == ["0"]


# ---------------------------------------------------------------- refusals


def test_more_shots_than_sixteen_are_refused():
    with pytest.raises(ValueError, match="shots = 17 is not accepted|less than or equal to 16"):
        make("task", "episodes", shots=17)


def test_sixteen_symbols_do_not_fit_half_an_alphabet():
    with pytest.raises(ValueError, match="level 1 needs 16 names, and these are 13"):
        make("task", "episodes", level=1, names="second")
    assert make("task", "episodes", level=4, names="second").names == "second"
