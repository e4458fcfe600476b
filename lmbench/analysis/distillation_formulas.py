"""The sketches' formulas (B12, B13, C1 to C6): sizes and compute as they grow, ratios, the published bound.

The formulas are orders of growth, O(...), so a published one can only be right up to a constant for each
of its terms: it holds where, with the best of them, its ratio to the count is the same for all shapes. A
symbol without a stated meaning is read in the way that is kindest to the formula. What corrects them is no
source's claim, and is checked in `distillation_own`.
"""

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from lmbench.analysis.distillation_arms import JOINT, V1, V1_CORRECTED, V2, V2_CORRECTED
from lmbench.analysis.distillation_evidence import Evidence, judged, missing
from lmbench.analysis.distillation_registry import words_of
from lmbench.analysis.replication import Replication, Verdict

SAME_SHAPE = 0.05  # a growth law holds where its ratio to the count varies by less over the shapes
OTHER_POWER = 0.1  # powers further apart than this are named
EVERYTHING = "Q+P+KD+ENT"  # the cell with all that the sketches name


def formula(e: Evidence, *, number: str) -> list[Replication]:
    """B12, B13, C1, C2, C3: the published growth law, of each quantity apart."""
    claim = words_of(number)
    quantities = by_quantity(e, number=number)
    if not quantities:
        return [missing(claim, "its terms were not counted")]
    return [_as_written(claim + name, part) for name, part in quantities.items()]


def by_quantity(e: Evidence, *, number: str) -> dict[str, pd.DataFrame]:
    """What was counted for a formula, by ", " and the quantity; by "" where it is of one."""
    rows = pd.DataFrame() if e.formulas is None else e.formulas[e.formulas["number"] == number]
    if rows.empty:
        return {}
    parts = dict(list(rows.groupby("quantity", sort=False)))
    return {f", {name}" if len(parts) > 1 else "": part for name, part in parts.items()}


def _as_written(claim: str, rows: pd.DataFrame) -> Replication:
    if rows["shape"].nunique() < 2:
        return missing(claim, "one shape cannot show how anything grows")
    best, n = kindest(rows), rows["reading"].nunique()
    spread = _spread(best)
    said = f"over {best['shape'].nunique()} shapes its ratio to the count varies {spread:.3g} times"
    said += " with the best constant for each of its terms" if best["second"].any() else ""
    said += f", where {best['reading'].iloc[0]}, the kindest of {n} readings" if n > 1 else ""
    told = ", ".join(
        f"{row.varied} {row.published:.2f} and {row.counted:.2f}"
        for row in powers(best).itertuples()
        if abs(row.published - row.counted) > OTHER_POWER
    )
    said += f"; powers as published and as counted: {told}" if told else ""
    return judged(claim, "REP" if spread <= 1 + SAME_SHAPE else "NOT", said)


def kindest(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the reading whose ratio to the count varies least, with the published value as `fitted`.

    Args:
        rows: of one quantity, as `Evidence.formulas`.

    Returns:
        Those rows; `fitted` has the constants, none below 0, of least squared relative error.
    """
    return min((_fitted(one) for _, one in rows.groupby("reading", sort=False)), key=_spread)


def powers(rows: pd.DataFrame) -> pd.DataFrame:
    """The power with which each symbol enters: slopes of logarithms, one row for each that was varied.

    Args:
        rows: from `kindest`.

    Returns:
        Columns varied, low, high (of its values), published, counted.
    """
    found = [
        (name, part["value"].min(), part["value"].max(), *(_slope(part, y) for y in ("fitted", "counted")))
        for name, part in rows.groupby("varied", sort=False)
        if part["value"].nunique() > 1
    ]
    return pd.DataFrame(found, columns=["varied", "low", "high", "published", "counted"])


def growth_table(formulas: pd.DataFrame) -> pd.DataFrame:
    """How each quantity grows with each symbol, as published and as counted, of the kindest readings.

    Returns:
        Columns claim, quantity, varied, values, power as published, power as counted, and corrected off (%):
        at the shape of the quantity where that is furthest off.
    """
    parts = []
    for (number, quantity), rows in formulas.groupby(["number", "quantity"], sort=False):
        for row in powers(kindest(rows)).itertuples():
            values = f"{row.low:g} to {row.high:g}"
            grown = (row.published, row.counted, 100 * furthest_off(rows))
            parts.append((number, quantity, row.varied, values, *grown))
    named = ["power as published", "power as counted", "corrected off (%)"]
    return pd.DataFrame(parts, columns=["claim", "quantity", "varied", "values", *named])


def furthest_off(rows: pd.DataFrame) -> float:
    """How far the corrected formula is off the count at the shape where that is most, as a share of it."""
    return float((rows["corrected"] / rows["counted"] - 1).abs().max())


def _fitted(rows: pd.DataFrame) -> pd.DataFrame:
    # A shape that stands in several sweeps counts once; terms of very different size are scaled alike.
    once = rows.drop_duplicates("shape")
    shares = once[["first", "second"]].div(once["counted"], axis=0)
    largest = shares.max().replace(0, 1)
    constants, _ = nnls((shares / largest).to_numpy(float), np.ones(len(shares)))
    return rows.assign(fitted=rows[["first", "second"]].to_numpy(float) @ (constants / largest.to_numpy()))


def _spread(rows: pd.DataFrame) -> float:
    """The largest ratio of what is published to the count, over the smallest."""
    ratio = rows["fitted"] / rows["counted"]
    return float(ratio.max() / ratio.min())


def _slope(rows: pd.DataFrame, name: str) -> float:
    slope = np.polyfit(np.log(rows["value"]), np.log(rows[name].astype(float)), 1)[0]
    return round(float(slope), 9) + 0.0  # adding 0 turns a rounded -0 into 0


def approximation(e: Evidence) -> Replication:
    """C4, which names no number."""
    claim = words_of("C4")
    if e.agreement is None or "approximation_ratio" not in e.agreement:
        return missing(claim, "students were not compared with the teacher token by token")
    names = ["approximation_ratio", "kl_forward", "kl_reverse", "top1_agreement"]
    means = e.agreement.groupby("label", sort=False)[names].mean()
    # The published forms, or what is nearest to them.
    published = [arm for arm in (V1, V2, V1_CORRECTED, V2_CORRECTED) if arm in means.index]
    means = means.loc[published or [arm for arm in (EVERYTHING,) if arm in means.index] or means.index]
    told = [
        f"{row.Index} {row.approximation_ratio:.3g}, KL {row.kl_forward:.3g} and reversed "
        f"{row.kl_reverse:.3g} nats, same choice {row.top1_agreement:.0%}"
        for row in means.itertuples()
    ]
    return missing(claim, f"it names no number and compares nothing with the teacher; {'; '.join(told)}")


def compression_ratio(e: Evidence) -> Replication:
    """C5, which names no number."""
    claim = words_of("C5")
    if e.artifacts is None:
        return missing(claim, "nothing was packed")
    files = e.artifacts.groupby("label", sort=False)["bytes"].mean()
    parameters = e.runs.groupby("label")["parameters"].first()
    told = []
    for label in (label for label in (V1, V2, V1_CORRECTED, V2_CORRECTED, JOINT) if label in files):
        half = 2 * parameters[label] / files[label]
        told.append(
            f"{label} {2 * half:.3g} times smaller than float32 and {half:.3g} than float16 of its shape"
        )
    return missing(claim, f"it names no number; {'; '.join(told) or 'none of its arms was packed'}")


def bound(e: Evidence) -> Replication:
    """C6: how often the bound is exceeded where the true risk is known."""
    found = exceeded(e, form="seed")
    if found is None:
        return missing(words_of("C6"), "its violations were not simulated")
    return judged(words_of("C6"), *found)


def exceeded(e: Evidence, *, form: str) -> tuple[Verdict, str] | None:
    """The verdict on a form of the bound by how often it is exceeded, and in words; None without draws."""
    rows = pd.DataFrame() if e.coverage is None else e.coverage[e.coverage["form"] == form]
    if rows.empty:
        return None
    row = rows.iloc[0]
    verdict = "NOT" if row["low"] > row["delta"] else "REP" if row["rate"] <= row["delta"] else "INC"
    said = (
        f"exceeded in {row['violations']} of {row['draws']} draws, {row['rate']:.3g} (95% interval "
        f"{row['low']:.3g} to {row['high']:.3g}) where {row['delta']:g} are allowed"
    )
    return verdict, said
