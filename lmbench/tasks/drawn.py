"""Examples of a level as they are drawn, before they are written down.

A task draws from two sources. What `structure` gives decides what the example *is*: its canonical
form. What `surface` gives decides how it is written (names, order of statements, distractors'
places), which never changes the label. The canonical form, hashed, decides the split: examples of
train, valid and test differ in more than names and order, for any seed, machine or number of
workers. Rewrites of an example share its structure.

Legend: N example, L token of the body, Q of the question, A of the answer, C column of the
canonical form.
"""

from dataclasses import dataclass

import numpy as np

from lmbench.tasks.symbols import N_NAMES

ALPHABETS = {"all": range(N_NAMES), "first": range(13), "second": range(13, N_NAMES)}
"""Letters that stand for names, by the setting `names`: places in the list of all of them."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """N examples before they are written down; <pad> stands where a shorter one has nothing."""

    body_NL: np.ndarray
    query_NQ: np.ndarray
    """May have no columns."""
    answer_NA: np.ndarray
    form_NC: np.ndarray
    """Canonical form as integers: equal for two examples that differ in names and order only."""
    scored_NA: np.ndarray | None = None
    """Which tokens of the answer are targets; None is all that are there."""
    kind_N: np.ndarray | None = None
    """Kind of each example, for tasks that score kinds apart; None is 0."""
