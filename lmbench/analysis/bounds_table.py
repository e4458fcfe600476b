"""What packed files promise: a table of bounds for each arm, a reading, and how well a bound chooses.

The rows are made where bounds are computed (`measure.bounds.beside`), with the arm and the seed added;
here they are averaged over seeds and put into words. Bounds of documents and of tokens are of
different risks and never stand in one table.
"""

from typing import NamedTuple

import pandas as pd

from lmbench.analysis.checks import require
from lmbench.analysis.intervals import Estimate, t_interval
from lmbench.analysis.words import in_digits, percent, seeds

NEEDED = ("arm", "init_seed", "form", "unit", "chance", "n_bytes", "m", "delta", "empirical_risk")
NEEDED += ("occam", "vacuous", "held_out", "held_out_m", "held_out_vacuous")
WHAT = {
    "document": "the risk of a fresh document",
    "token": "the mean risk given the observed contexts, which is not that of fresh text",
}


def bounds_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each arm, means over its seeds.

    Args:
        rows: one for each arm and seed, with the columns of `measure.bounds.beside`, arm and init_seed.

    Returns:
        Columns arm, seeds, bytes (of the packed file), m, empirical risk, Occam bound, vacuous ("no", "yes"
        or "2 of 3 seeds"), held-out bound, held-out vacuous, chance, in order of appearance. Risks and
        bounds are in the unit of the loss; lower is better.

    Raises:
        ValueError: no rows, a missing column, an arm with a seed twice, or several forms or units.
    """
    _check(rows)
    table = []
    for arm, group in rows.groupby("arm", sort=False):
        mean = group[["n_bytes", "m", "empirical_risk", "occam", "held_out", "chance"]].mean()
        table.append(
            {
                "arm": arm,
                "seeds": len(group),
                "bytes": round(mean["n_bytes"]),
                "m": round(mean["m"]),
                "empirical risk": mean["empirical_risk"],
                "Occam bound": mean["occam"],
                "vacuous": _counted(group["vacuous"]),
                "held-out bound": mean["held_out"],
                "held-out vacuous": _counted(group["held_out_vacuous"]),
                "chance": mean["chance"],
            }
        )
    return pd.DataFrame(table)


def bounds_caption(rows: pd.DataFrame) -> str:
    """What the numbers of a table bound, at which confidence, and in which unit.

    Raises:
        ValueError: as `bounds_table`.
    """
    _check(rows)
    first = rows.iloc[0]
    least, most = int(rows["held_out_m"].min()), int(rows["held_out_m"].max())
    n_test = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    assumed = "; ".join(dict.fromkeys(rows["assumption"])) if "assumption" in rows else ""
    return (
        f"Upper bounds, in {first['unit']}, of {WHAT[first['form']]}; each holds with probability "
        f"{1 - first['delta']:g}, for one file at a time. bytes are those of the packed file; held-out "
        f"bounds are from {n_test} {first['form']}s" + (f"; {assumed}." if assumed else ".")
    )


def bounds_reading(rows: pd.DataFrame) -> str:
    """Sentences: which Occam bounds say anything, and how much tighter the held-out ones are.

    Raises:
        ValueError: as `bounds_table`.
    """
    _check(rows)
    table = bounds_table(rows)
    useful = table.loc[table["vacuous"] == "no", "arm"].tolist()
    partly = table.loc[~table["vacuous"].isin(["no", "yes"]), "arm"].tolist()
    said = f"All Occam bounds are vacuous ({len(table)} of {len(table)} arms)"
    if useful or partly:
        some = [f"some seeds of {', '.join(partly)}"] if partly else []
        told = " and ".join([*([", ".join(useful)] if useful else []), *some])
        seeds_told = " in all seeds" if partly else ""
        said = f"Occam bounds are below chance for {told} ({len(useful)} of {len(table)} arms{seeds_told})"
    best = table.loc[table["Occam bound"].idxmin()]
    above = rows["held_out"] < rows["occam"]
    tighter = "every" if above.all() else f"{int(above.sum())} of {len(rows)}"
    return (
        f"{said}. The lowest is that of {best['arm']}, "
        f"{best['Occam bound']:.3g} at {best['bytes']:,} bytes, where chance is {best['chance']:.3g} and the "
        f"held-out bound {best['held-out bound']:.3g} {rows['unit'].iloc[0]}. The held-out bound is the "
        f"tighter in {tighter} case{'' if tighter == 'every' else 's'}: to know the risk of one file, test "
        "it; the Occam bound says what its size alone allows."
    )


# ------------------------------------------------------------------ choosing by a bound


class Regret(NamedTuple):
    """What choosing an arm by its bound costs against choosing it by validation."""

    estimate: Estimate
    """Test risk of the arm that the bound chose less that of the other choice, over seeds."""
    choices: pd.DataFrame
    """init_seed, by_bound, by_validation (arms), regret."""
    text: str


def selection_regret(rows: pd.DataFrame, *, unit: str, confidence: float = 0.95) -> Regret:
    """Choose an arm for each seed by the lowest Occam bound and by the lowest validation risk.

    Args:
        rows: arm, init_seed, occam, valid, test; each seed with every arm. test takes part in no choice.

    Raises:
        ValueError: a missing column, fewer than 2 seeds, or a seed without some arm.
    """
    for column in ("arm", "init_seed", "occam", "valid", "test"):
        require(rows, column)
    _refuse_twice(rows)
    wide = rows.pivot(index="init_seed", columns="arm", values=["occam", "valid", "test"])
    if wide.isna().any(axis=None):
        lacking = wide.index[wide.isna().any(axis=1)][0]
        raise ValueError(
            f"init_seed {lacking} lacks an arm or a value; every seed needs each arm to choose from"
        )
    by_bound, by_valid = wide["occam"].idxmin(axis=1), wide["valid"].idxmin(axis=1)
    test = wide["test"]
    regret = [test.at[s, by_bound[s]] - test.at[s, by_valid[s]] for s in wide.index]
    found = t_interval(regret, confidence=confidence)
    choices = pd.DataFrame(
        {
            "init_seed": wide.index,
            "by_bound": by_bound.array,
            "by_validation": by_valid.array,
            "regret": regret,
        }
    )
    return Regret(found, choices, _regret_text(found, choices, unit=unit, confidence=confidence))


def _regret_text(found: Estimate, choices: pd.DataFrame, *, unit: str, confidence: float) -> str:
    same = int((choices["by_bound"] == choices["by_validation"]).sum())
    value, low, high = in_digits(found.value, found.low, found.high, signed=True)
    decided = "worse" if found.low > 0 else "better" if found.high < 0 else "not decided"
    decided = "no difference in any seed" if (choices["regret"] == 0).all() else decided
    return (
        f"Choosing by the bound against choosing by validation: {decided}. The regret is {value} {unit} "
        f"({percent(confidence)} interval {low} to {high}, {seeds(found.n)}); both chose the same arm for "
        f"{same} of {seeds(found.n)}."
    )


# ------------------------------------------------------------------ checks


def _check(rows: pd.DataFrame) -> None:
    for column in NEEDED:
        require(rows, column)
    for column, why in (("form", "their risks differ"), ("unit", "their losses differ"), ("delta", "")):
        found = list(dict.fromkeys(rows[column]))
        if len(found) > 1:
            tail = f": {why}" if why else ""
            raise ValueError(
                f"one table holds bounds of one {column}, got {' and '.join(map(str, found))}{tail}"
            )
    _refuse_twice(rows)


def _refuse_twice(rows: pd.DataFrame) -> None:
    twice = rows[rows.duplicated(["arm", "init_seed"])]
    if len(twice):
        first = twice.iloc[0]
        raise ValueError(
            f"arm {first['arm']!r} has init_seed {first['init_seed']} twice; keep one row a seed"
        )


def _counted(flags: pd.Series) -> str:
    """ "yes" or "no" where all seeds agree, else how many say yes."""
    held = int(flags.astype(bool).sum())
    return {0: "no", len(flags): "yes"}.get(held, f"{held} of {len(flags)} seeds")
