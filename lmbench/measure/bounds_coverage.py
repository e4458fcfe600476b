"""How often bounds fail where the true risk is known: coverage by simulation.

`family_coverage`: a document is a fair bit and G independent fair guesses of it, one for each of G
predictors, so every risk is exactly 1/2 and the number of errors in m documents is binomial. The
predictor that fits best is reported: the worst case of choosing on the sample, in which the price of the
choice, log2 G bits, is needed in full. The published form fails here.

`topic_coverage`: a document is a fair hidden bit z and T tokens, each of which is z with probability q;
the two predictors always say 0 or always 1. The risk of both on a fresh document is exactly 1/2, and
their conditional risk at each token follows from the posterior of z. Both forms hold for what they
say. "mixed" counts tokens as if they were documents, and fails.

Legend: S simulated sample, G predictor, D document, T token.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy import stats

from lmbench.errors import unknown
from lmbench.measure.bound_losses import ZeroOne, at_least
from lmbench.measure.bounds import gap
from lmbench.measure.bounds_seed import seed_literal

Claim = Literal["document", "token", "mixed"]
MOST_BITS = 12  # predictors that are simulated one by one: 4096


class Coverage(NamedTuple):
    """Samples whose true risk lay above the bound, with the Clopper-Pearson interval of the rate."""

    violations: int
    draws: int
    rate: float
    low: float
    high: float
    delta: float

    @property
    def holds(self) -> bool:
        """Whether the interval lies at or below delta."""
        return self.high <= self.delta

    @property
    def fails(self) -> bool:
        """Whether it lies above delta; where neither is so, the draws are too few to say."""
        return self.low > self.delta


def rate(violations: int, draws: int, *, delta: float, confidence: float = 0.95) -> Coverage:
    """A number of violations as a rate with its exact interval (Clopper and Pearson 1934).

    Raises:
        ValueError: no draws, or more violations than draws.
    """
    at_least(draws, 1, name="draws")
    if not 0 <= violations <= draws:
        raise ValueError(f"violations = {violations} is not accepted: 0 to draws = {draws}")
    found = stats.binomtest(violations, draws).proportion_ci(confidence, method="exact")
    return Coverage(violations, draws, violations / draws, float(found.low), float(found.high), delta)


def family_coverage(
    parameters: Mapping[int, int],
    *,
    form: Literal["occam", "seed"] = "occam",
    m: int = 400,
    delta: float = 0.05,
    draws: int = 2000,
    seed: int = 0,
) -> Coverage:
    """How often the best of all networks of these parameters has a risk, 1/2, above its bound.

    Args:
        parameters: bits to count, as {8: 1} or {1: 8}; together at most 12 bits.

    Raises:
        ValueError: more bits, or an unknown form.
    """
    bits = sum(width * count for width, count in parameters.items())
    if bits > MOST_BITS:
        raise ValueError(f"parameters have {bits} bits; at most {MOST_BITS} are simulated")
    if form not in ("occam", "seed"):
        raise ValueError(unknown("form", form, ("occam", "seed")))
    how = {"parameters": parameters, "n": m, "loss": ZeroOne(vocab_size=2), "delta": delta}
    promised = seed_literal(0.0, **how)
    missed = promised.value if form == "seed" else promised.corrected
    errors_SG = np.random.default_rng(seed).binomial(m, 0.5, size=(draws, 2**bits))
    return rate(int((errors_SG.min(axis=1) / m + missed < 0.5).sum()), draws, delta=delta)


def topic_coverage(
    claim: Claim,
    *,
    documents: int = 20,
    tokens: int = 50,
    share: float = 0.9,
    delta: float = 0.05,
    draws: int = 1000,
    seed: int = 0,
) -> Coverage:
    """How often the better of two constant predictors has a risk above its bound.

    Args:
        claim: "document": m documents and the risk of a fresh one. "token": m tokens and the mean risk
            given the observed contexts. "mixed": m tokens and the risk of a fresh document.
        share: probability that a token is its document's bit.

    Raises:
        ValueError: an unknown claim, or a share outside (0, 1).
    """
    if claim not in get_args(Claim):
        raise ValueError(unknown("claim", claim, get_args(Claim)))
    if not 0 < share < 1:
        raise ValueError(f"share = {share} is not accepted: it lies between 0 and 1")
    m = documents if claim == "document" else documents * tokens
    missed = gap(bits=1, m=m, width=1.0, delta=delta)  # two predictors
    violations, rng = 0, np.random.default_rng(seed)
    for _ in range(draws):
        topic_D1 = rng.random((documents, 1)) < 0.5
        token_DT = (rng.random((documents, tokens)) < share) == topic_D1
        says = token_DT.mean() > 0.5
        risk = 0.5
        if claim == "token":
            one_DT = _chance_of_one(token_DT, share)
            risk = float((1 - one_DT if says else one_DT).mean())
        violations += float((token_DT != says).mean()) + missed < risk
    return rate(int(violations), draws, delta=delta)


def _chance_of_one(token_DT: np.ndarray, share: float) -> np.ndarray:
    """(D, T) probability that a token is 1 given those before it in its document."""
    ones_DT = np.cumsum(2 * token_DT - 1, axis=1)
    lead_DT = np.concatenate((np.zeros((len(token_DT), 1)), ones_DT[:, :-1]), axis=1)
    topic_DT = 1 / (1 + np.exp(-lead_DT * np.log(share / (1 - share))))
    return share * topic_DT + (1 - share) * (1 - topic_DT)
