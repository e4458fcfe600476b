"""What the claims of constraint acceleration are judged by, and the form of one test.

A test knows its p before the family is complete, and its verdict only after: it holds a function
from the adjusted p to the verdict and the words. A claim may have several tests (two arms, two
budgets), each a row of the table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from lmbench.analysis.constraint_costs import at_equal, of_whole_task
from lmbench.analysis.equivalence import MARGIN
from lmbench.analysis.replication import Verdict
from lmbench.analysis.stats import paired_differences
from lmbench.analysis.words import in_digits, percent, seeds


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The tables of a study. What is None was not measured, and claims that need it are not tested."""

    runs: pd.DataFrame
    """One row a run: label (the arm), init_seed, the metric, parameters; where known model.n_head."""
    rows: pd.DataFrame
    """Tidy rows with the arm as label, validations along the way, active FLOPs."""
    widths: pd.DataFrame | None = None
    """Finished weights at several widths: label, init_seed, width, the metric, and parameters in use."""
    inference: pd.DataFrame | None = None
    """Timings: width ("full" or of a slice, as "C=0.445"), batch, tokens_per_second, where known
    flops_per_token; a row each."""
    coverage: pd.DataFrame | None = None
    """What a selection keeps: label, init_seed, measure, value; "quota" is the least share of a domain's."""
    emergence: pd.DataFrame | None = None
    """How many times earlier each arm has each capability: `constraint_capabilities.times_earlier`."""
    shifted: pd.DataFrame | None = None
    """What each run loses to each shift: `generalization.gaps`."""
    metric: str = "bits_per_byte"
    """Lower is better."""
    margin: float = MARGIN
    slack: float = 0.0
    """Of the target loss in races, relative."""
    seed: int = 0
    """Of resampling."""

    @property
    def arms(self) -> list[str]:
        """Labels in order of appearance."""
        return list(dict.fromkeys(map(str, self.runs["label"])))

    def has(self, *arms: str) -> bool:
        """Whether all of these arms were run."""
        return set(arms) <= set(self.arms)

    def at_equal_flops(self, arms: list[str]) -> pd.DataFrame:
        """Losses of these arms at the FLOPs of the cheapest of them.

        Arms that end before another's first validation leave nothing to compare, and are left out.
        """
        return at_equal(
            self.rows, cost="flops", metric=self.metric, arms=comparable(self.rows, arms, self.metric)
        )


def comparable(rows: pd.DataFrame, arms: list[str], metric: str) -> list[str]:
    """The arms without those, cheapest first, that end before another's first validation."""
    rows = of_whole_task(rows)
    valid = rows[(rows["split"] == "valid") & (rows["metric"] == metric) & (rows["step"] > 0)]
    spent = valid[valid["label"].isin(arms)].groupby(["label", "run"])["flops"].agg(["min", "max"])
    first, end = spent["min"].groupby("label").max(), spent["max"].groupby("label").min()
    left = [arm for arm in arms if arm in end]
    while len(left) > 1 and first[left].max() > end[left].min():
        left.remove(end[left].idxmin())
    return left


class Tested(NamedTuple):
    """One test of one claim."""

    id: str
    compared: str
    p: float | None
    """Of no effect, before the adjustment; NaN of a test that could not be made, which counts in its
    family. None where the verdict rests on no p, and then there is nothing to adjust for."""
    judge: Callable[[float], tuple[Verdict, str]]
    """From the adjusted p to the verdict and what was measured."""
    is_beside: bool = False
    """It stands beside the tests that decide the claim, at a budget that the claim is not of."""


def fixed(id: str, compared: str, verdict: Verdict, measured: str) -> Tested:
    """A test whose verdict does not depend on its family."""
    return Tested(id, compared, None, lambda _: (verdict, measured))


def difference(frame: pd.DataFrame, a: str, b: str, *, metric: str) -> pd.Series:
    """One row of `paired_differences`: a minus b."""
    return paired_differences(frame, group="label", unit="init_seed", value=metric, pairs=[(a, b)]).iloc[0]


def in_words(row: pd.Series, unit: str) -> str:
    """`−0.012 bits per byte (95% interval −0.020 to −0.004, 5 seeds)`."""
    value, low, high = in_digits(row["difference"], row["low"], row["high"], signed=True)
    spread = f"{percent(0.95)} interval {low} to {high}, " if low else ""
    return f"{value} {unit} ({spread}{seeds(row['n'])})"
