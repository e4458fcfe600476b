"""Reference predictors in tables and figures: their names, their values, and which a figure shows.

Tables have room for full names; the margin of a figure has not, so figures use short ones.
"""

from collections.abc import Mapping

import pandas as pd

from lmbench.analysis.checks import require

SMOOTHINGS = {
    "witten_bell": ("Witten-Bell", "WB"),
    "kneser_ney": ("Kneser-Ney", "KN"),
    "modified_kneser_ney": ("modified Kneser-Ney", "mod. KN"),
}  # in full, and short

References = Mapping[str, float] | pd.DataFrame | None


def reference_values(references: References, *, metric: str, is_short: bool = False) -> dict[str, float]:
    """Predictor names and their values of `metric`, from any accepted form; {} for None.

    Args:
        is_short: names as figures have room for, `4-gram mod. KN`; names that are given stay.
    """
    if references is None:
        return {}
    if isinstance(references, pd.DataFrame):
        require(references, "predictor")
        require(references, metric)
        rows = references.dropna(subset=metric)
        ngrams = rows[rows["predictor"] == "ngram"]
        several = "smoothing" in ngrams and ngrams["smoothing"].nunique() > 1
        name = _short_name if is_short else _full_name
        names = [name(row, several=several) for row in rows.to_dict("records")]
        return dict(zip(names, rows[metric].astype(float), strict=True))
    return {str(name): float(value) for name, value in references.items()}


def leading_references(references: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """What a figure has room for: unigram, the best n-gram of each smoothing, the best compressor.

    The table beside the figure lists all of them.
    """
    require(references, metric)
    rows = references.dropna(subset=metric)
    ngrams = rows["predictor"] == "ngram"
    best = rows[ngrams].groupby("smoothing", sort=False)[metric].idxmin()
    others = rows[~ngrams & ~rows["predictor"].isin(["uniform", "unigram"])]
    keep = [*best, *others.nsmallest(1, metric).index, *rows.index[rows["predictor"] == "unigram"]]
    return rows.loc[keep]


def _full_name(row: Mapping[str, object], *, several: bool) -> str:
    """`n-gram order 4`, with its smoothing where `several` are compared; else the predictor's own name."""
    if row["predictor"] != "ngram":
        return str(row["predictor"])
    return f"n-gram order {row['order']}" + (f" ({SMOOTHINGS[row['smoothing']][0]})" if several else "")


def _short_name(row: Mapping[str, object], *, several: bool) -> str:
    """`4-gram`, `4-gram mod. KN`."""
    if row["predictor"] != "ngram":
        return str(row["predictor"])
    return f"{row['order']}-gram" + (f" {SMOOTHINGS[row['smoothing']][1]}" if several else "")
