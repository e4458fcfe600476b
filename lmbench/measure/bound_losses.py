"""What a bound is about: losses that lie in an interval of known width, and samples of two kinds.

Cross entropy has no upper end, so it is that of p_a = (1 - a) p + a / V, whose width is
ln(1 + (1 - a) V / a). A sample says what was drawn independently, and so which form a bound of
`measure.bounds` has. Source: Lotfi et al. 2024, arXiv 2312.17173. Legend: N token.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from lmbench.errors import unknown

Drawn = Literal["generator", "independent", "windows"]


@dataclass(frozen=True, kw_only=True)
class Smoothed:
    """Cross entropy of (1 - alpha) p + alpha / V, in nats per token; chance is ln V."""

    vocab_size: int
    alpha: float
    """Share of the uniform distribution, in (0, 1); if it was chosen on the data, its grid is searched."""
    unit: ClassVar[str] = "nats per token"

    def __post_init__(self) -> None:
        at_least(self.vocab_size, 2, name="vocab_size")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha = {self.alpha} is not accepted: it lies between 0 and 1, as 0.01")

    @property
    def lowest(self) -> float:
        """Loss of a token that is given probability 1."""
        return -math.log1p(self.alpha * (1 / self.vocab_size - 1))

    @property
    def highest(self) -> float:
        """Loss of a token that is given probability 0."""
        return math.log(self.vocab_size / self.alpha)

    @property
    def width(self) -> float:
        """ln(1 + (1 - alpha) V / alpha)."""
        return math.log1p((1 - self.alpha) * self.vocab_size / self.alpha)

    @property
    def chance(self) -> float:
        return math.log(self.vocab_size)

    def of(self, nll_N: np.ndarray) -> np.ndarray:
        """(N,) losses of tokens from their negative log-likelihoods in nats."""
        uniform = self.alpha / self.vocab_size
        return -np.log((1 - self.alpha) * np.exp(-np.asarray(nll_N, float)) + uniform)

    def at_most(self, mean_nll: float) -> float:
        """What the mean loss does not exceed when only the mean of the plain cross entropy is known.

        No token loses more than -ln(1 - alpha), so a bound on the mean with this is a bound too.
        """
        return max(self.lowest, min(mean_nll - math.log1p(-self.alpha), self.highest))


@dataclass(frozen=True, kw_only=True)
class ZeroOne:
    """1 where the most likely token is not the target, else 0; chance is 1 - 1/V."""

    vocab_size: int
    unit: ClassVar[str] = "error rate"
    lowest: ClassVar[float] = 0.0
    highest: ClassVar[float] = 1.0
    width: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        at_least(self.vocab_size, 2, name="vocab_size")

    @property
    def chance(self) -> float:
        return 1 - 1 / self.vocab_size


# ------------------------------------------------------------------ samples


@dataclass(frozen=True, kw_only=True)
class Documents:
    """m documents, of which the loss is the mean over the tokens; one that was read twice counts once.

    Splits that are decided by the content of a document are of different populations: the bound is then
    of fresh documents of the split that the sample was drawn from.
    """

    m: int
    drawn: Drawn
    """"generator": independent by construction. "independent": separate texts. "windows": cut from one."""
    assume_iid: bool = False
    """Declares windows to be independent, which they are not; the bound then says that it assumes so."""

    def __post_init__(self) -> None:
        at_least(self.m, 1, name="m")
        if self.drawn not in get_args(Drawn):
            raise ValueError(unknown("way that documents are drawn", self.drawn, get_args(Drawn)))
        if self.drawn == "windows" and not self.assume_iid:
            raise ValueError(
                "drawn = 'windows' is not accepted: windows cut from one text are not independent; use "
                "Tokens, or declare assume_iid = True, which the bound will say"
            )

    @property
    def assumption(self) -> str:
        """What a bound takes for granted, a clause."""
        if self.drawn == "generator":
            return "documents are independent by construction"
        if self.drawn == "independent":
            return "documents are taken to be independent draws"
        return "assumes that windows cut from one text are independent, which they are not"


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """m tokens, each scored once given what stands before it."""

    m: int
    assumption: ClassVar[str] = "nothing is assumed of the text"

    def __post_init__(self) -> None:
        at_least(self.m, 1, name="m")


@dataclass(frozen=True, kw_only=True)
class Subsample:
    """The empirical risk is a mean over n of the m, drawn after the predictor and without regard to it."""

    n: int
    delta: float
    """Probability that this part misleads, on top of the bound's own."""


def at_least(value: float, least: int, *, name: str) -> None:
    """Raise ValueError unless a number is that large."""
    if not value >= least:
        raise ValueError(f"{name} = {value} is not accepted: at least {least}")
