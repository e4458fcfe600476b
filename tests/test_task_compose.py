"""What compose composes, what each split keeps from training, and its ladder by running the strategies."""

import numpy as np
import pytest

from lmbench.config import make
from lmbench.tasks.compounds import FUNCTIONS, function_table, held_pairs, pair_table
from lmbench.tasks.examples import examples
from lmbench.tasks.symbols import VALUE, spell

HELD = {"split_by": "pair", "held_out": True}


def texts(task, *, split="test", n=2000, seed=0):
    """Each example as (functions, element, answer), read from its symbols."""
    made = examples(task, seed=seed, split=split, index_N=np.arange(n))
    found = []
    for row in made.tokens_NT:
        before, after = spell(row).removeprefix("<bos> ").split(" ? = ")
        *functions, x = [word for word in before.split() if word not in "()"]
        found.append(("".join(functions), int(x), after))
    return found


def value(functions, x):
    for name in reversed(functions):
        x = FUNCTIONS["abcdefgh".index(name)][x]
    return x


def pairs(functions):
    return [(functions[at], functions[at + 1]) for at in range(len(functions) - 1)]


# ---------------------------------------------------------------- the functions


def test_functions_are_permutations_of_which_no_two_pairs_compose_alike():
    assert all(sorted(function) == list(range(12)) for function in FUNCTIONS)
    composed = {tuple(value(f + g, x) for x in range(12)) for f in "abcdefgh" for g in "abcdefgh"}
    assert len(composed) == 64


def test_tables_show_what_is_held_out():
    table = pair_table()
    assert (table == "held out").to_numpy().sum() == 16 and table.loc["a", "c"] == "held out"
    assert function_table().loc["c", 7] == 2 and function_table().loc["a", 2] == 10
    trained = ~held_pairs()
    elsewhere = np.minimum(trained.sum(axis=0), trained.sum(axis=1))
    assert (elsewhere >= 3).all(), "each function is known in either place from other pairs"


# ---------------------------------------------------------------- how it is written


def test_one_compound_in_three_forms_keeps_form_and_answer():
    made = {
        form: examples(
            make("task", "compose", level=1, form=form), seed=0, split="test", index_N=np.arange(50)
        )
        for form in ("prefix", "postfix", "nested")
    }
    first = {form: spell(written.tokens_NT[0]).split() for form, written in made.items()}
    _, f, g, x, *rest = first["prefix"]
    assert first["postfix"] == ["<bos>", x, g, f, *rest]
    assert first["nested"] == ["<bos>", f, "(", g, "(", x, ")", ")", *rest]
    assert (made["nested"].hash_N == made["prefix"].hash_N).all()
    assert rest == ["?", "=", str(value(f + g, int(x)))]


def test_level_0_shows_the_steps():
    for functions, x, answer in texts(make("task", "compose"), n=40):
        assert answer == f"{value(functions[1], x)} {value(functions, x)}"


def test_steps_can_be_shown_on_any_level():
    task = make("task", "compose", level=2, worked=True)
    for functions, x, answer in texts(task, split="train", n=40):
        assert answer.split() == [str(value(functions[at:], x)) for at in reversed(range(len(functions)))]
    assert task.ladder().score["chance"] == pytest.approx(12**-3) and task.level_name == "2, worked=True"


def test_the_second_alphabet_has_the_same_functions():
    first = texts(make("task", "compose", level=1, names="first"), n=30)
    second = texts(make("task", "compose", level=1, names="second"), n=30)
    shifted = ["".join(chr(ord(name) + 13) for name in functions) for functions, _, _ in first]
    assert [functions for functions, _, _ in second] == shifted
    assert [row[1:] for row in first] == [row[1:] for row in second]


# ---------------------------------------------------------------- splits


def test_every_function_is_trained_alone_at_every_element():
    seen = {row[:2] for row in texts(make("task", "compose", level=2), split="train", n=4000)}
    assert {(name, x) for name in "abcdefgh" for x in range(12)} <= seen


def test_strings_of_one_level_are_not_tested_on_another():
    """So that several levels may be learned in one mixture."""
    held = {row[:2] for row in texts(make("task", "compose", level=1))}
    for level in (0, 2, 3):
        trained = {row[:2] for row in texts(make("task", "compose", level=level), split="train", n=6000)}
        assert not held & trained
        assert {len(functions) for functions, _ in trained} == set(range(1, max(2, level + 1) + 1))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_training_lacks_held_out_pairs_and_held_out_strings_have_one(level):
    held = set(zip(*np.nonzero(held_pairs()), strict=True))
    held = {("abcdefgh"[outer], "abcdefgh"[inner]) for outer, inner in held}
    trained = texts(make("task", "compose", level=level, split_by="pair"), split="train", n=6000)
    assert not any(held & set(pairs(functions)) for functions, _, _ in trained)
    assert all(
        held & set(pairs(functions))
        for functions, _, _ in texts(make("task", "compose", level=level, **HELD))
    )


def test_all_strings_of_held_out_pairs_are_scored_half_in_each_set():
    task = make("task", "compose", level=1, **HELD)
    valid, test = ({row[:2] for row in texts(task, split=split, n=3000)} for split in ("valid", "test"))
    assert not valid & test and len(valid | test) == 16 * 12
    assert 70 < len(test) < 122


def test_depth_trains_to_two_and_scores_the_full_depth():
    for level, depth in ((2, 3), (3, 4), (4, 5)):
        task = make("task", "compose", level=level, split_by="depth")
        assert {len(row[0]) for row in texts(task, split="train", n=500)} == {1, 2}
        assert {len(row[0]) for row in texts(task, n=200)} == {2}
        assert {len(row[0]) for row in texts(task.replace(held_out=True), n=200)} == {depth}


def test_divergence_trains_on_nothing_between_and_scores_new_pairs():
    task = make("task", "compose", level=2, split_by="divergence")
    trained = {row[0] for row in texts(task, split="train", n=6000)}
    held = {row[0] for row in texts(task.replace(held_out=True), n=1000)}
    assert {len(functions) for functions in trained} == {1, 3} and not trained & held
    known = {pair for functions in trained for pair in pairs(functions)}
    assert not known & {pair for functions in held for pair in pairs(functions)}


# ---------------------------------------------------------------- ladder and space


@pytest.mark.parametrize("fields", [{"level": 1}, {"level": 0}, {"level": 2, **HELD}])
def test_the_scored_strings_are_those_enumerated(fields):
    task = make("task", "compose", **fields)
    compound_P, x_P = task.population()
    met = {row[:2] for row in texts(task, n=6000)}
    assert len(met) <= len(x_P) and len(met) > 0.98 * len(x_P)
    assert {x for _, x in met} <= set(x_P.tolist()) and len(set(zip(compound_P, x_P, strict=True))) == len(
        x_P
    )


@pytest.mark.parametrize("fields", [{"level": 0}, {"level": 1}, {"level": 1, **HELD}])
def test_shortcuts_score_what_the_ladder_says(fields):
    """Each strategy is run on all strings of the test set."""
    task = make("task", "compose", **fields)
    trained = {row[:2] for row in texts(task, split="train", n=20_000)}
    steps = task.settings.is_worked
    right = {"inner_only": [], "outer_only": [], "nearest": []}
    for functions, x in {row[:2] for row in texts(task, n=3000)}:
        f, g = functions

        def answer(functions, x=x):
            last = value(functions, x)
            return (value(functions[1:], x), last) if steps else last

        for name, only in (("inner_only", g), ("outer_only", f)):
            says = value(only, x)
            right[name].append(((says, says) if steps else says) == answer(functions))
        near = [(f, other) for other in "abcdefgh" if other != g]
        near += [(other, g) for other in "abcdefgh" if other != f]
        near = ["".join(pair) for pair in near if ("".join(pair), x) in trained]
        right["nearest"].append(np.mean([answer(pair) == answer(functions) for pair in near]))
    score = task.ladder().score
    for name, rights in right.items():
        assert score[name] == pytest.approx(np.mean(rights)), name


def test_no_neighbour_no_nearest_rung():
    task = make("task", "compose", level=2, split_by="depth", held_out=True)
    assert "nearest" not in task.ladder().score


def test_the_space_counts_the_strings_of_the_scored_compounds():
    assert 2 ** make("task", "compose", level=1).log2_space() == pytest.approx(64 * 12)
    assert 2 ** make("task", "compose", level=1, **HELD).log2_space() == pytest.approx(16 * 12)
    assert 2 ** make("task", "compose", level=4).log2_space() == pytest.approx(8**5 * 12)


def test_answers_are_among_the_choices():
    assert make("task", "compose", level=1).choices() == [list(range(VALUE, VALUE + 12))]
    assert len(make("task", "compose").choices()) == 2


# ---------------------------------------------------------------- refusals


def test_random_holds_out_no_compounds():
    with pytest.raises(ValueError, match="held_out = True needs split_by 'pair', 'depth' or 'divergence'"):
        make("task", "compose", held_out=True)


def test_held_out_depth_needs_a_deeper_level():
    with pytest.raises(ValueError, match="needs a level of at least 2: level 1 is no deeper than training"):
        make("task", "compose", level=1, split_by="depth", held_out=True)


def test_an_unknown_split_is_refused_with_those_accepted():
    with pytest.raises(ValueError, match="'random', 'pair', 'depth' or 'divergence'"):
        make("task", "compose", split_by="pairs")


def test_an_example_has_one_writing():
    with pytest.raises(ValueError, match="rewrites = 2 is not accepted: compose is scored in at most 1"):
        make("task", "compose", rewrites=2)


# ---------------------------------------------------------------- what may be scored


def test_what_is_held_out_changes_nothing_that_is_trained_on():
    task = make("task", "compose", level=1, **HELD)
    assert task.as_trained == task.replace(held_out=False)
    assert texts(task, split="train", n=100) == texts(task.as_trained, split="train", n=100)


def test_strings_that_one_table_holds_out_are_trained_on_under_another():
    """Which is why scoring across tables is refused, and across levels of one table is not."""
    learned, scored = make("task", "compose", level=1), make("task", "compose", level=1, **HELD)
    trained = {row[:2] for row in texts(learned, split="train", n=20_000)}
    held = {row[:2] for row in texts(scored)}
    assert len(held & trained) > 0.8 * len(held)
    assert learned.conflict(scored) == (
        "split_by = 'pair' scores what training with split_by = 'random' may have shown; accepted: "
        "split_by = 'random'"
    )
    assert scored.conflict(scored.replace(level=2, held_out=False)) == ""
