"""What every level of every synthetic task keeps, for all kinds that discovery finds."""

import functools
import math
from collections import Counter

import numpy as np
import pytest

from lmbench.config import kinds, make
from lmbench.tasks.draws import Draws, hashed, key_of, mixed
from lmbench.tasks.examples import examples, length, parse, split_of
from lmbench.tasks.ladder import Answered
from lmbench.tasks.symbols import ID, PAD, SYMBOLS, VOCAB_SIZE
from lmbench.tasks.synthetic import SyntheticTask

KINDS = sorted(name for name, cls in kinds("task").items() if issubclass(cls, SyntheticTask))
LEVELS = [(name, at) for name in KINDS for at in range(len(kinds("task")[name].LEVELS))]
FAR = 4.5  # standard errors; of the few hundred comparisons here one in a hundred thousand goes further


@functools.lru_cache(maxsize=4096)
def written(task, *, n=400, split="test", seed=0, rewrite=0):
    return examples(task, seed=seed, split=split, index_N=np.arange(n), rewrite=rewrite)


def read(task, made):
    """(body, question, answer) of each example, from its symbols alone."""
    rows = [[SYMBOLS[token] for token in row if token != PAD] for row in made.tokens_NT]
    return [parse(row, surface=task.surface) for row in rows]


def answered(task, made, said):
    """Scores of strategies that say tokens: `said` (N, A) ids, PAD where nothing is scored."""
    width = said.shape[1]
    truth = np.full((len(said), width), PAD)
    for row, (tokens, is_answer) in enumerate(zip(made.tokens_NT, made.is_answer_NT, strict=True)):
        truth[row, : is_answer.sum()] = tokens[is_answer]
    correct = np.where(truth == PAD, np.nan, (said == truth).astype(float))
    return Answered(nll_NA=np.where(truth == PAD, np.nan, 0.0), correct_NA=correct, kind_N=made.kind_N)


def played(task, made):
    """Scores of the solver, asked for each scored token by what stands before it."""
    found = []
    for (body, query, answer), scored in zip(read(task, made), made.is_answer_NT, strict=True):
        ends = len(answer) - np.count_nonzero(
            made.tokens_NT[len(found)]
        )  # first token of the answer, from behind
        at = [place + ends for place in np.flatnonzero(scored)]
        found.append([float(task.reply(body, query, answer[:k]) == answer[k]) for k in at])
    width = max(map(len, found))
    correct = np.array([row + [np.nan] * (width - len(row)) for row in found])
    return Answered(nll_NA=correct * 0, correct_NA=correct, kind_N=made.kind_N)


@pytest.mark.parametrize("kind, level", LEVELS)
def test_an_example_is_a_function_of_seed_split_and_index(kind, level):
    task = make("task", kind, level=level)
    whole, some = written(task, n=60), np.array([41, 7, 7, 58])
    part = examples(task, seed=0, split="test", index_N=some)
    width = part.tokens_NT.shape[1]
    assert (part.tokens_NT == whole.tokens_NT[some, :width]).all()
    assert (part.hash_N == whole.hash_N[some]).all()
    assert (written(task, n=60, seed=1).tokens_NT[:, :6] != whole.tokens_NT[:, :6]).any()


@pytest.mark.parametrize("kind, level", LEVELS)
def test_tokens_are_symbols_and_fit_the_stated_length(kind, level):
    task = make("task", kind, level=level)
    for split in ("train", "test"):
        made = written(task, n=200, split=split)
        assert made.tokens_NT.min() >= 0 and made.tokens_NT.max() < VOCAB_SIZE
        assert made.tokens_NT.shape[1] <= length(task)
        assert made.is_answer_NT.any(axis=1).all() and not made.is_answer_NT[:, 0].any()
        assert not (made.is_answer_NT & (made.tokens_NT == PAD)).any()
        gaps = np.diff((made.tokens_NT == PAD).astype(int), axis=1)
        assert (gaps >= 0).all(), "padding stands at the end only"


@pytest.mark.parametrize("kind, level", LEVELS)
def test_splits_share_no_canonical_form_whatever_the_seeds(kind, level):
    task = make("task", kind, level=level)
    train = np.concatenate([written(task, n=1500, split="train", seed=seed).hash_N for seed in (0, 99)])
    for split in ("valid", "test"):
        held = written(task, n=200, split=split, seed=7)
        assert not np.isin(held.hash_N, train).any() and (split_of(held.hash_N) == split).all()


@pytest.mark.parametrize("kind", KINDS)
def test_however_many_workers_share_the_work_they_make_the_same_examples(kind):
    """And none of them, whatever its seed, makes a training example of a test form."""
    task, rng = make("task", kind), np.random.default_rng(sum(map(ord, kind)))
    for _ in range(3):
        seed, workers, n = int(rng.integers(2**62)), int(rng.integers(2, 9)), 300
        whole = examples(task, seed=seed, split="train", index_N=np.arange(n))
        for at in range(workers):
            mine = np.arange(at, n, workers)
            part = examples(task, seed=seed, split="train", index_N=mine)
            assert (part.hash_N == whole.hash_N[mine]).all()
            assert (part.tokens_NT == whole.tokens_NT[mine, : part.tokens_NT.shape[1]]).all()
        held = examples(task, seed=int(rng.integers(2**62)), split="test", index_N=np.arange(n))
        assert not np.isin(held.hash_N, whole.hash_N).any()


@pytest.mark.parametrize("surface", ["statement", "question"])
@pytest.mark.parametrize("kind, level", LEVELS)
def test_the_oracle_scores_the_bayes_value(kind, level, surface):
    """By reading symbols: where the best score is 1 it is always right."""
    task = make("task", kind, level=level, surface=surface)
    made, bayes = written(task), task.ladder().score["bayes"]
    value, n = task.metrics(played(task, made))["score"]
    assert abs(value - bayes) <= FAR * math.sqrt(bayes * (1 - bayes) / n)


@pytest.mark.parametrize("kind, level", LEVELS)
def test_a_uniform_guesser_scores_chance(kind, level):
    task, rng = make("task", kind, level=level), np.random.default_rng(0)
    made = written(task, n=3000)
    guesses = (task.guess(body, query, rng=rng) for body, query, _ in read(task, made))
    said = np.array([[ID[symbol] for symbol in guess] for guess in guesses])
    value, n = task.metrics(answered(task, made, said))["score"]
    chance = task.ladder().score["chance"]
    spread = max(chance * (1 - chance), 1 / n) if chance >= 0 else 1.0  # a difference of two shares
    error = math.sqrt(spread / n)
    assert abs(value - chance) < FAR * error


@pytest.mark.parametrize("kind, level", LEVELS)
def test_rungs_are_in_order(kind, level):
    ladder = make("task", kind, level=level).ladder()
    score, nll = ladder.score, ladder.answer_nll
    assert (
        all(value <= score["bayes"] + 1e-12 for value in score.values()) and score["chance"] < score["bayes"]
    )
    assert 0 <= nll["bayes"] < nll["chance"]


@pytest.mark.parametrize("kind, level", LEVELS)
def test_rewriting_changes_neither_form_nor_label(kind, level):
    task = make("task", kind, level=level)
    if task.most_rewrites > 1:
        task = task.replace(rewrites=2, shift=4)
    first, *others = (written(task, n=100, rewrite=at) for at in range(3))
    bayes = task.ladder().score["bayes"]
    for other in others:
        assert (other.hash_N == first.hash_N).all()
        if task.most_rewrites > 1:
            shape = first.tokens_NT.shape
            assert other.tokens_NT.shape != shape or (other.tokens_NT != first.tokens_NT).any()
        if bayes == 1:
            assert task.metrics(played(task, other))["score"][0] == 1


@pytest.mark.parametrize("kind, level", LEVELS)
def test_the_space_is_as_large_as_stated(kind, level):
    """Counted where it is small; elsewhere distinct forms among draws are as many as a birthday allows."""
    task = make("task", kind, level=level)
    n, space = 40_000, 2.0 ** task.log2_space()
    keys = Draws(mixed(np.arange(n, dtype=np.uint64))), Draws(mixed(np.arange(n, 2 * n, dtype=np.uint64)))
    forms = hashed(task.generate(*keys, train=False).form_NC, key_of("test"))
    distinct = len(np.unique(forms))
    assert distinct <= space * 1.0001
    if space < 2000:
        assert distinct > 0.9 * space
    assert space >= 300, "fewer forms leave a split empty"
    if space > n**2:
        assert distinct >= n - 3 or max(Counter(forms.tolist()).values()) < n / 100


@pytest.mark.parametrize("kind", KINDS)
def test_more_writings_than_there_are_and_leaks_are_refused_in_one_sentence(kind):
    task = make("task", kind)
    with pytest.raises(ValueError, match=f"rewrites = 65 is not accepted: {kind} is scored in at most"):
        task.replace(rewrites=65)
    assert task.conflict(task) == "" and task.as_trained == task
    fields = {"rewrites": 2, "shift": 1} if task.most_rewrites > 1 else {}
    assert task.replace(n_eval=7, **fields).as_trained == task


@pytest.mark.parametrize("kind", KINDS)
def test_a_level_outside_its_range_is_refused_in_one_sentence(kind):
    last = len(kinds("task")[kind].LEVELS) - 1
    with pytest.raises(
        ValueError, match=f"level = {last + 1} is not accepted: {kind} has levels 0 to {last}"
    ):
        make("task", kind, level=last + 1)
