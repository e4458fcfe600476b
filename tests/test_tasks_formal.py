"""Formal tasks with ranges of lengths: readers, shortcuts by running them, spaces by counting."""

import itertools
import math
import random

import numpy as np
import pytest

from lmbench.config import kinds, make
from lmbench.tasks.addition import Addition
from lmbench.tasks.brackets import Brackets, Setting
from lmbench.tasks.copying import Copy
from lmbench.tasks.draws import Draws, mixed
from lmbench.tasks.examples import examples, parse
from lmbench.tasks.lengths import Lengths, LengthTask, share_in_order
from lmbench.tasks.modsum import ModSum, P
from lmbench.tasks.parity import Parity
from lmbench.tasks.reverse import Reverse
from lmbench.tasks.sorting import Sort
from lmbench.tasks.symbols import PAD, SYMBOLS

KINDS = sorted(name for name, cls in kinds("task").items() if issubclass(cls, LengthTask))
SMALL = {
    Copy: (Lengths(1, 3),),
    Reverse: (Lengths(1, 3),),
    Sort: (Lengths(1, 3),),
    Parity: (Lengths(1, 2),),
    ModSum: (Lengths(2, 4),),
    Addition: (Lengths(1, 2),),
    Brackets: (Setting(2, 6, 3),),
}
FAR = 4.5  # standard errors


def small(cls):
    """The task with one level that is short enough to meet all of it."""
    return type(f"Small{cls.__name__}", (cls,), {"LEVELS": SMALL[cls], "__module__": __name__})()


def drawn(task, n):
    keys = np.arange(2 * n, dtype=np.uint64)
    return task.generate(Draws(mixed(keys[:n])), Draws(mixed(keys[n:])), train=False)


def spelled(rows):
    return [[SYMBOLS[token] for token in row if token != PAD] for row in rows]


def read(task, n):
    """(body, answer) of examples of all splits."""
    made = drawn(task, n)
    return list(zip(spelled(made.body_NL), spelled(made.answer_NA), strict=True))


def shuffled(items, rng):
    return rng.sample(items, len(items))


def digits(body):
    n = body.index("+")
    return [(int(one), int(two)) for one, two in zip(body[:n], body[n + 1 :], strict=True)]


def no_carry(body):
    return [str((one + two) % 10) for one, two in digits(body)] + ["0", "<eos>"]


def short_carry(body):
    sums = [one + two for one, two in digits(body)]
    before = [0, *(total >= 10 for total in sums)]
    return [str((total + carry) % 10) for total, carry in zip([*sums, 0], before, strict=True)] + ["<eos>"]


def still_open(body):
    closing, stack = {"(": ")", "[": "]", "{": "}", "<": ">"}, []
    for symbol in body:
        stack = [*stack, closing[symbol]] if symbol in closing else stack[:-1]
    return stack


SHORTCUTS = {
    Copy: {
        "backwards": lambda body, rng: [*body[::-1], "<eos>"],
        "any_order": lambda body, rng: [*shuffled(body, rng), "<eos>"],
    },
    Reverse: {
        "copy": lambda body, rng: [*body, "<eos>"],
        "any_order": lambda body, rng: [*shuffled(body, rng), "<eos>"],
    },
    Sort: {"copy": lambda body, rng: [*body, "<eos>"]},
    Parity: {
        "constant": lambda body, rng: ["0"],
        "majority": lambda body, rng: [str(int(2 * sum(map(str.isalpha, body)) > len(body)))],
    },
    ModSum: {
        "last_value": lambda body, rng: [str(int(body[-1]) % P)],
        "no_wrap": lambda body, rng: [str(sum(int(symbol) % P for symbol in body))],
    },
    Addition: {
        "no_carry": lambda body, rng: no_carry(body),
        "short_carry": lambda body, rng: short_carry(body),
    },
    Brackets: {
        "opened_order": lambda body, rng: [*still_open(body), "<eos>"],
        "counts_match": lambda body, rng: [*shuffled(still_open(body), rng), "<eos>"],
    },
}


def test_every_kind_with_lengths_is_tested_here():
    assert sorted(cls.kind for cls in SMALL) == KINDS


@pytest.mark.parametrize("cls", SMALL)
def test_shortcuts_score_their_rungs_when_run(cls):
    task, rng = small(cls), random.Random(0)
    made, rungs = read(task, 5000), task.ladder().score
    assert set(SHORTCUTS[cls]) == set(rungs) - {"chance", "bayes"}
    for name, say in SHORTCUTS[cls].items():
        score = np.mean([say(body, rng) == answer for body, answer in made])
        error = math.sqrt(rungs[name] * (1 - rungs[name]) / len(made))
        assert abs(score - rungs[name]) < FAR * error, name


def alike(task):
    """Chance that two examples have the same form: what one over the number of forms is where all are
    equally likely."""
    counts = np.unique(drawn(task, 60_000).form_NC, axis=0, return_counts=True)[1].astype(float)
    return (counts * (counts - 1)).sum() / (60_000 * 59_999)


@pytest.mark.parametrize("cls", SMALL)
def test_rungs_and_lengths_hold_on_the_test_split_of_the_easiest_level(cls):
    """It holds one in twenty of the forms, so it errs by their number as well as by that of examples."""
    task, rng, n = make("task", cls.kind), random.Random(0), 2000
    made = examples(task, seed=0, split="test", index_N=np.arange(n))
    found = [parse(row, surface="statement") for row in spelled(made.tokens_NT)]
    assert len(np.unique(made.hash_N)) >= 100
    variance = 1 / n + alike(task) / 0.05

    def is_near(shares, expected):
        return abs(np.mean(shares) - expected) < FAR * math.sqrt(expected * (1 - expected) * variance)

    rungs = task.ladder().score
    for name, say in SHORTCUTS[cls].items():
        assert is_near([say(body, rng) == answer for body, _, answer in found], rungs[name]), name
    lengths = [(len(body) - 1) // 2 if cls is Addition else len(body) for body, _, _ in found]
    shortest, longest = task.settings[:2]
    for at in range(shortest, longest + 1):
        assert is_near(np.array(lengths) == at, 1 / (longest - shortest + 1)), at


@pytest.mark.parametrize("cls", SMALL)
def test_a_guesser_scores_chance_on_a_small_level(cls):
    """There chance is large enough to be told from 0."""
    task, rng = small(cls), random.Random(1)
    made, chance = read(task, 6000), task.ladder().score["chance"]
    options = [[SYMBOLS[token] for token in ids] for ids in task.choices()]
    right = [
        all(said == rng.choice(ids) for said, ids in zip(answer, options, strict=False)) for _, answer in made
    ]
    assert abs(np.mean(right) - chance) < FAR * math.sqrt(chance * (1 - chance) / len(made))


@pytest.mark.parametrize("cls", SMALL)
def test_every_answer_can_be_guessed(cls):
    task = small(cls)
    options = [[SYMBOLS[token] for token in ids] for ids in task.choices()]
    for _, answer in read(task, 500):
        assert len(answer) <= len(options)
        assert all(said in ids for said, ids in zip(answer, options, strict=False))


@pytest.mark.parametrize("cls", SMALL)
def test_the_space_is_counted_right(cls):
    task = small(cls)
    forms = np.unique(drawn(task, 60_000).form_NC, axis=0)
    space = round(2 ** task.log2_space())
    if space <= 2500:
        assert len(forms) == space
    else:
        assert 0.9 * space < len(forms) <= space


@pytest.mark.parametrize("kind", KINDS)
def test_levels_are_ranges_of_lengths_that_join_and_reach_four_times_the_trained_length(kind):
    levels = make("task", kind).LEVELS
    for shorter, longer in itertools.pairwise(levels):
        assert longer.shortest == shorter.longest + 1
    assert [level.longest for level in levels[2:]] == [k * levels[1].longest for k in (2, 3, 4)]


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_are_uniform_within_a_level(kind):
    """Of the sequence; an addition holds two and a plus."""
    task, n = make("task", kind), 6000
    lengths = [len(body) for body, _ in read(task, n)]
    lengths = [(length - 1) // 2 for length in lengths] if kind == "addition" else lengths
    shortest, longest = task.settings[:2]
    counts = np.bincount(lengths)[shortest:]
    share = 1 / (longest - shortest + 1)
    assert len(counts) == longest - shortest + 1 and counts.sum() == n
    assert (np.abs(counts - n * share) < FAR * math.sqrt(n * share * (1 - share))).all()


@pytest.mark.parametrize("cls", SMALL)
def test_other_surface_draws_write_the_same_form_otherwise(cls):
    task, keys = make("task", cls.kind), mixed(np.arange(200, dtype=np.uint64))
    one, other = (task.generate(Draws(keys), Draws(mixed(keys ^ np.uint64(at))), train=True) for at in (1, 2))
    assert (one.form_NC == other.form_NC).all()
    assert (one.body_NL != other.body_NL).any(axis=1).mean() > 0.4


@pytest.mark.parametrize("symbols, n", [(2, 3), (3, 4), (13, 2)])
def test_sorted_strings_are_as_many_as_stated_and_so_are_lucky_shuffles_and_sums_below(symbols, n):
    strings = list(itertools.product(range(symbols), repeat=n))
    assert share_in_order(n, symbols) == np.mean([list(one) == sorted(one) for one in strings])
    assert share_in_order(n, symbols) == pytest.approx(np.mean([sum(one) < symbols for one in strings]))
    lucky = [np.mean([order == one for order in itertools.permutations(one)]) for one in strings]
    assert share_in_order(n, symbols) == pytest.approx(np.mean(lucky))


@pytest.mark.parametrize(
    "kind, body, answer",
    [
        ("copy", "c a f", "c a f <eos>"),
        ("reverse", "c a f", "f a c <eos>"),
        ("sort", "7 3 10 3", "3 3 7 10 <eos>"),
        ("parity", "b 3 7 b 0 b", "1"),
        ("parity", "3 7", "0"),
        ("modsum", "4 7 9", "0"),
        ("addition", "7 4 + 5 5", "2 0 1 <eos>"),
        ("addition", "1 0 + 2 0", "3 0 0 <eos>"),
        ("brackets", "( [ ] { < >", "} ) <eos>"),
    ],
)
def test_answers_worked_by_hand(kind, body, answer):
    assert make("task", kind).solve(body.split(), []) == answer.split()


def test_summands_change_places_in_half_of_the_rewrites():
    task, keys = make("task", "addition"), mixed(np.arange(2000, dtype=np.uint64))
    one, other = (task.generate(Draws(keys), Draws(mixed(keys ^ np.uint64(at))), train=True) for at in (1, 2))
    assert (one.answer_NA == other.answer_NA).all()
    assert abs((one.body_NL != other.body_NL).any(axis=1).mean() - 0.5) < FAR * math.sqrt(0.25 / 2000)


def test_all_pairs_of_two_digits_meet_their_carry_rungs():
    """All 10,000 sums of two digits each: 0.55^2 without a carry, 0.955 without one that a 9 hands on."""
    task = type("Two", (Addition,), {"LEVELS": (Lengths(2, 2),), "__module__": __name__})()
    bodies = [[*two[:2], "+", *two[2:]] for two in itertools.product("0123456789", repeat=4)]
    rungs = task.ladder().score
    for name, say in (("no_carry", no_carry), ("short_carry", short_carry)):
        right = np.mean([say(body) == task.solve(body, []) for body in bodies])
        assert rungs[name] == pytest.approx(right)
    assert rungs["no_carry"] == pytest.approx(0.3025) and rungs["short_carry"] == pytest.approx(0.955)


def test_depths_of_brackets_are_those_of_the_walk():
    """Of two places both open, or nothing would stay open. Of three the second is a coin: after a closing
    one the third must open (1 open), after an opening one it is a coin (1 or 3 open)."""
    task = type("Three", (Brackets,), {"LEVELS": (Setting(2, 3, 3),), "__module__": __name__})()
    assert task.depths() == pytest.approx([0, (0.5 + 0.25) / 2, 1 / 2, 0.25 / 2])
    depths = np.bincount([len(answer) - 1 for _, answer in read(task, 4000)], minlength=4) / 4000
    assert np.abs(depths - task.depths()).max() < FAR * math.sqrt(0.25 / 4000)


@pytest.mark.parametrize("level", [1, 4])
def test_brackets_nest_and_never_exceed_their_depth(level):
    task = make("task", "brackets", level=level)
    for body, answer in read(task, 200):
        depth = np.cumsum([1 if symbol in "([{<" else -1 for symbol in body])
        assert depth.min() >= 0 and depth.max() <= task.settings.deepest
        assert depth[-1] == len(answer) - 1 >= 1 and task.solve(body, []) == answer


@pytest.mark.parametrize("kind", ["copy", "reverse"])
def test_strings_of_all_letters_and_of_half_an_alphabet_are_split_differently(kind):
    """So neither may be scored on weights that learned the other; the halves share their splits."""
    whole, half = make("task", kind), make("task", kind, names="first")
    assert whole.conflict(half) == (
        "strings are split modulo 13 with names = 'first', so that some were trained on modulo 26 with "
        "names = 'all'"
    )
    assert "modulo 26 with names = 'all'" in half.conflict(whole)
    assert (
        half.conflict(half.replace(names="second")) == "" == whole.conflict(whole.replace(surface="question"))
    )
    assert whole.conflict(half.replace(level=1)) == "", "no length is of two levels"


def test_other_tasks_with_names_take_their_form_without_the_alphabet():
    parity = make("task", "parity")
    assert parity.conflict(parity.replace(names="first")) == ""


def test_an_addition_has_two_writings():
    assert make("task", "addition", rewrites=2).rewrites == 2
    with pytest.raises(ValueError, match="rewrites = 3 is not accepted: addition is scored in at most 2"):
        make("task", "addition", rewrites=3)


def test_names_of_a_half_alphabet_are_kept():
    for kind in ("copy", "reverse", "parity"):
        letters = {symbol for body, _ in read(make("task", kind, names="second"), 300) for symbol in body}
        assert {symbol for symbol in letters if symbol.isalpha()} == set("nopqrstuvwxyz")
