"""Scores where each example is written in several ways: those of the worst of its writings.

Names and order never change the right answer, so whoever understands an example solves all of its
writings. The share of examples whose first m writings are all solved falls with m as fast as
answers hang on the form.

Legend: N example, V writing.
"""

import numpy as np

from lmbench.tasks.ladder import ANSWER_NLL, SCORE, Answered, Ladder


def ladder_of_worst(one: Ladder, *, rewrites: int) -> Ladder:
    """The ladder of the worst of so many writings, from that of one.

    A guesser guesses each writing anew; the best strategy answers all alike. What a shortcut makes of
    several writings is not known, so shortcuts are left out.
    """
    if rewrites == 1:
        return one
    score = {"chance": one.score["chance"] ** rewrites, "bayes": one.score["bayes"]}
    ends = ("chance", "bayes")
    return Ladder(score=score, answer_nll={name: one.answer_nll[name] for name in ends})


def metrics_of_worst(
    answered: Answered, solved: np.ndarray, *, rewrites: int
) -> dict[str, tuple[float, int]]:
    """Score and nats of the worst writing, and the score of the worst of the first m for m = 1, 2, 4, ...

    Args:
        answered: to all writings, those of an example one after the other.
        solved: (N V,) whether each is solved; ties share.
    """
    shape = (-1, rewrites)
    exact_NV = solved.reshape(shape)
    nll_NV = np.nansum(answered.nll_NA, axis=1).reshape(shape)
    n, sizes = len(exact_NV), [1 << k for k in range(rewrites.bit_length())]
    sizes = sorted({size for size in sizes if size <= rewrites} | {rewrites})
    worst = {f"worst_of_{m}": (float(exact_NV[:, :m].min(axis=1).mean()), n) for m in sizes}
    nll = float(nll_NV.max(axis=1).mean())
    return {SCORE: worst[f"worst_of_{rewrites}"], ANSWER_NLL: (nll, n), **worst}
