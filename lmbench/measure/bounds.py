"""Occam bounds: what the size of a packed file promises about the risk of the model in it.

A prefix-free code that is fixed before the data are seen gives every predictor h a price of K(h) bits.
With probability at least 1 - delta over the sample, for all h at once,

    R(h) <= R_emp(h) + width * sqrt((K(h) ln 2 + ln(1/delta)) / (2 m)),

where the loss lies in an interval of that width. K is all that the decoder reads: the packed file, its
length, and the choices that were made on the same data but are not in the file. What R and m mean
differs, so there are two forms with types of their own. `DocumentBound`: m documents drawn independently,
R is the risk of a fresh one (Hoeffding). `TokenBound`: m tokens of any text, each read after those before
it, R is the mean risk given the contexts that were observed (Azuma), which says nothing of fresh text.

Sources: Lotfi et al. 2024, arXiv 2312.17173 (documents) and arXiv 2407.18158 (tokens).
"""

import math
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from lmbench.errors import unknown
from lmbench.measure.bound_losses import Documents, Smoothed, Subsample, Tokens, ZeroOne, at_least

LengthCode = Literal["elias_gamma", "fixed32"]
SLACK = 1e-9  # rounding of a mean of losses at the end of its range


def gap(*, bits: float, m: int, width: float, delta: float) -> float:
    """width * sqrt((bits ln 2 + ln(1/delta)) / (2 m)), in the unit of the width.

    Args:
        bits: price of the predictor; 0 for one that was fixed before the sample was seen.
    """
    _check_delta(delta)
    at_least(m, 1, name="m")
    at_least(bits, 0, name="bits")
    return width * math.sqrt((bits * math.log(2) + math.log(1 / delta)) / (2 * m))


def length_bits(n_bytes: int, *, code: LengthCode = "elias_gamma") -> int:
    """Bits that say how long the file is, so that no file's code is the beginning of another's.

    Elias' gamma code of n takes 2 floor(log2 n) + 1 bits. A fixed field takes 32, for less than 4 GiB.
    """
    at_least(n_bytes, 1, name="n_bytes")
    if code not in get_args(LengthCode):
        raise ValueError(unknown("length code", code, get_args(LengthCode)))
    if code == "elias_gamma":
        return 2 * (n_bytes.bit_length() - 1) + 1
    if n_bytes >= 2**32:
        raise ValueError(f"n_bytes = {n_bytes} does not fit 32 bits; use code = 'elias_gamma'")
    return 32


def grid_bits(searched: Sequence[int]) -> float:
    """Sum of log2 over the numbers of settings that were tried on the same data."""
    for size in searched:
        at_least(size, 1, name="searched")
    return math.fsum(math.log2(size) for size in searched)


@dataclass(frozen=True, kw_only=True)
class Bound(ABC):
    """Abstract: an upper bound of a risk that holds with probability 1 - delta."""

    form: ClassVar[str]
    about: ClassVar[str]
    empirical_risk: float
    gap: float
    n_bytes: int
    """Of the packed file; 0 for a held-out bound, which does not depend on it."""
    bits: float
    """K; log2 of the candidates for a held-out bound, which is 0 for one."""
    m: int
    delta: float
    """Everything that may go wrong: the bound's delta and that of a subsample."""
    loss: Smoothed | ZeroOne
    assumption: str

    @property
    def value(self) -> float:
        """Empirical risk and gap, in the unit of the loss."""
        return self.empirical_risk + self.gap

    @property
    def is_held_out(self) -> bool:
        """Whether the sample was kept from training."""
        return self.n_bytes == 0

    @property
    def vacuous(self) -> bool:
        """Whether uniform guessing is promised as much: at least ln V nats, or an error of 1 - 1/V."""
        return self.value >= self.loss.chance

    @property
    def text(self) -> str:
        """One sentence with the number, what it bounds, and what it assumes."""
        price = f"K = {self.bits:.0f} bits" + (", held out" if self.is_held_out else "")
        said = "vacuous" if self.vacuous else "not vacuous"
        return (
            f"With probability {1 - self.delta:g} {self.about} is at most {self.value:.4g} {self.loss.unit} "
            f"({price}, m = {self.m}; {said}: chance is {self.loss.chance:.4g}); {self.assumption}."
        )


@dataclass(frozen=True, kw_only=True)
class DocumentBound(Bound):
    """Bounds the risk of a fresh document."""

    form: ClassVar[str] = "document"
    about: ClassVar[str] = "the risk of a fresh document"


@dataclass(frozen=True, kw_only=True)
class TokenBound(Bound):
    """Bounds the mean conditional risk at the contexts of the sample."""

    form: ClassVar[str] = "token"
    about: ClassVar[str] = "the mean risk given the observed contexts, not that of fresh text,"


def occam(
    empirical_risk: float,
    *,
    n_bytes: int,
    sample: Documents | Tokens,
    loss: Smoothed | ZeroOne,
    delta: float = 0.05,
    searched: Sequence[int] = (),
    subsample: Subsample | None = None,
    length_code: LengthCode = "elias_gamma",
) -> DocumentBound | TokenBound:
    """The bound that a packed file earns on the sample that it was made from.

    Args:
        empirical_risk: mean loss of the reloaded file over the sample, or over its subsample.
        n_bytes: of the file, with all that is needed to predict; what was fixed in advance is free.
        searched: sizes of the grids tried on the same data (alpha, bits, density, learning rate). What
            the file itself spells is paid for by its bytes; counting it again only errs to the safe side.
        subsample: None where the empirical risk is over the whole sample.

    Raises:
        ValueError: a number out of its range, or a risk that this loss cannot have.
    """
    bits = 8 * n_bytes + length_bits(n_bytes, code=length_code) + grid_bits(searched)
    return _bound(empirical_risk, bits, sample, loss, delta, subsample=subsample, n_bytes=n_bytes)


def held_out(
    empirical_risk: float,
    *,
    sample: Documents | Tokens,
    loss: Smoothed | ZeroOne,
    delta: float = 0.05,
    searched: Sequence[int] = (),
) -> DocumentBound | TokenBound:
    """The bound from a sample that training never saw, where K is 0: far tighter, and to be printed beside.

    Args:
        searched: numbers of candidates among which this sample chose; empty where it chose none.

    Raises:
        ValueError: as `occam`.
    """
    return _bound(empirical_risk, grid_bits(searched), sample, loss, delta)


def beside(packed: Bound, held: Bound) -> dict[str, float | str | bool]:
    """An Occam and a held-out bound as a row of `analysis.bounds_table.bounds_table`.

    Raises:
        ValueError: a document beside a token form, different losses, or the two in the wrong order.
    """
    if packed.form != held.form:
        raise ValueError(f"a {packed.form} bound cannot stand beside a {held.form} bound: their risks differ")
    if packed.loss != held.loss:
        raise ValueError(f"the two bounds are of different losses: {packed.loss} and {held.loss}")
    if packed.is_held_out or not held.is_held_out:
        raise ValueError("an Occam bound comes first and a held-out bound second")
    return {
        "form": packed.form, "unit": packed.loss.unit, "chance": packed.loss.chance,
        "n_bytes": packed.n_bytes, "bits": packed.bits, "m": packed.m, "delta": packed.delta,
        "empirical_risk": packed.empirical_risk, "occam": packed.value, "vacuous": packed.vacuous,
        "held_out": held.value, "held_out_risk": held.empirical_risk, "held_out_m": held.m,
        "held_out_vacuous": held.vacuous, "assumption": packed.assumption,
    }  # fmt: skip


def _bound(
    risk: float,
    bits: float,
    sample: Documents | Tokens,
    loss: Smoothed | ZeroOne,
    delta: float,
    *,
    subsample: Subsample | None = None,
    n_bytes: int = 0,
) -> DocumentBound | TokenBound:
    if not loss.lowest - SLACK <= risk <= loss.highest + SLACK:
        raise ValueError(
            f"empirical_risk = {risk} is not accepted: {type(loss).__name__} losses lie in {loss.lowest:.4g} "
            f"to {loss.highest:.4g} {loss.unit}"
        )
    missed = gap(bits=bits, m=sample.m, width=loss.width, delta=delta)
    if subsample is not None:
        if subsample.n > sample.m:
            raise ValueError(f"subsample.n = {subsample.n} is more than the sample's m = {sample.m}")
        missed += gap(bits=0, m=subsample.n, width=loss.width, delta=subsample.delta)
        delta += subsample.delta
        _check_delta(delta)
    kind = DocumentBound if isinstance(sample, Documents) else TokenBound
    fields = {"empirical_risk": risk, "gap": missed, "n_bytes": n_bytes, "bits": bits, "m": sample.m}
    return kind(**fields, delta=delta, loss=loss, assumption=sample.assumption)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta = {delta} is not accepted: it lies between 0 and 1, as 0.05")
