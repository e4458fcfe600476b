"""Text of a domain that training left out: bits per byte there, beside those of the domains it knows.

A domain can be harder than another for any reader. So the same step from the known domains to the
held-out one is shown for predictors without gradients: n-grams that counted the same training text,
and compressors that know none. What a model loses beyond them is its own.
"""

from collections.abc import Mapping

import pandas as pd

from lmbench.analysis.checks import require
from lmbench.analysis.references import leading_references, reference_values
from lmbench.analysis.stats import paired_differences, summarise
from lmbench.analysis.verdict import judge
from lmbench.analysis.words import capital, in_digits
from lmbench.errors import unknown

METRIC, UNIT = "bits_per_byte", "bits per byte"
IN, OUT = "in-domain", "held out"


def domain_gaps(scores: pd.DataFrame) -> pd.DataFrame:
    """label, init_seed, in_domain, held_out and gap (held out minus in-domain), bits per byte, of each run.

    Args:
        scores: from `training.robustness.domain_scores`: label, init_seed, text, value.

    Raises:
        ValueError: a missing column, a text of another name, a seed twice, or one with only one text.
    """
    for column in ("label", "init_seed", "text", "value"):
        require(scores, column)
    for name in set(scores["text"]) - {IN, OUT}:
        raise ValueError(unknown("text", name, (IN, OUT)))
    twice = scores[scores.duplicated(["label", "init_seed", "text"])]
    if len(twice):
        label, seed = twice.iloc[0][["label", "init_seed"]]
        raise ValueError(f"label {label!r} has init_seed {seed} twice; keep one row a seed and text")
    wide = scores.pivot(index=["label", "init_seed"], columns="text", values="value")
    wide = wide.reindex(columns=[IN, OUT])
    if wide.isna().any().any():
        label, seed = wide.index[wide.isna().any(axis=1)][0]
        raise ValueError(f"label {label!r} init_seed {seed} has only one of {IN!r} and {OUT!r}")
    wide = wide.loc[list(dict.fromkeys(zip(scores["label"], scores["init_seed"], strict=True)))]
    wide = wide.reset_index().rename(columns={IN: "in_domain", OUT: "held_out"}).rename_axis(columns=None)
    return wide.assign(gap=wide["held_out"] - wide["in_domain"])


def domain_table(
    scores: pd.DataFrame,
    *,
    references: Mapping[str, pd.DataFrame],
    is_short: bool = False,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """A row for each model and reference predictor.

    Args:
        references: "in-domain" and "held out" to the predictors' table of that text
            (`measure.references.references`).
        is_short: only the predictors that a figure has room for, by short names: the best n-gram of each
            smoothing and the best compressor on the held-out text.

    Returns:
        predictor, n (seeds, 0 for reference predictors), and in_domain, held_out, gap, each with `_low`
        and `_high` (NaN without seeds), bits per byte; lower is better.

    Raises:
        ValueError: as `domain_gaps`, or predictors of one text only.
    """
    every, table = domain_gaps(scores), None
    for column in ("in_domain", "held_out", "gap"):
        part = summarise(every, by="label", value=column, confidence=confidence).drop(columns="sd")
        part = part.rename(columns={"mean": column, "low": f"{column}_low", "high": f"{column}_high"})
        table = part if table is None else table.merge(part.drop(columns="n"), on="label")
    told = {
        text: reference_values(references.get(text), metric=METRIC, is_short=is_short) for text in (IN, OUT)
    }
    if odd := set(told[IN]) ^ set(told[OUT]):
        raise ValueError(f"reference predictor {min(odd)!r} is given for one of {IN!r} and {OUT!r} only")
    if is_short and told[OUT]:
        leading = leading_references(references[OUT], metric=METRIC)
        chosen = reference_values(leading, metric=METRIC, is_short=True)
        told[IN] = {name: told[IN][name] for name in chosen if name != "unigram"}
    known = pd.DataFrame({"label": list(told[IN]), "n": 0, "in_domain": list(told[IN].values())})
    known["held_out"] = [told[OUT][name] for name in told[IN]]
    known["gap"] = known["held_out"] - known["in_domain"]
    whole = pd.concat([table, known], ignore_index=True) if told[IN] else table
    whole = whole.rename(columns={"label": "predictor"})
    first = ["predictor", "n", "in_domain", "held_out", "gap"]
    return whole[[*first, *(name for name in whole if name not in first)]]


def _step(row: pd.Series) -> str:
    """A gap, with its interval where it has one."""
    value, low, high = in_digits(row["gap"], row["gap_low"], row["gap_high"], signed=True)
    return f"{value} ({low} to {high})" if low else f"{row['gap']:+.3f}".replace("-", "−")


def domain_reading(
    scores: pd.DataFrame, *, domain: str, references: Mapping[str, pd.DataFrame], confidence: float = 0.95
) -> str:
    """Whether the model that loses least on the held-out domain can be told, beside the references.

    Raises:
        ValueError: as `domain_table`.
    """
    every = domain_gaps(scores)
    table = domain_table(scores, references=references, confidence=confidence).set_index("predictor")
    models = list(dict.fromkeys(every["label"]))
    best = table.loc[models, "gap"].idxmin()
    claim = f"{best} loses least from the known domains to {domain}"
    if len(models) > 1:
        how = {"group": "label", "unit": "init_seed", "value": "gap", "confidence": confidence}
        pairs = paired_differences(every, pairs=[(best, name) for name in models if name != best], **how)
        # The best one was chosen by looking, so every pair of models counts in the correction.
        family = paired_differences(every, **how)
        adjusted = {frozenset((row.a, row.b)): row.p_holm for row in family.itertuples()}
        pairs["p_holm"] = [adjusted[frozenset((row.a, row.b))] for row in pairs.itertuples()]
        said = [judge(claim, pairs, unit=UNIT, confidence=confidence).text]
    else:
        said = [f"{capital(claim)}: not decided, as no other model is compared."]
    if OUT in references:
        leading = reference_values(leading_references(references[OUT], metric=METRIC), metric=METRIC)
        steps = ", ".join(f"{name} {_step(table.loc[name])}" for name in [*models, *leading])
        said.append(f"The step costs, in {UNIT}: {steps}. Intervals are over seeds, of one text of each.")
        first, counted = (table.loc[names, "in_domain"] for names in (models, list(leading)))
        said.append(
            f"On the known domains {first.idxmin()} has {first.min():.3f} and {counted.idxmin()}, the best "
            f"of the predictors without training, {counted.min():.3f} {UNIT}."
        )
    return " ".join(said)
