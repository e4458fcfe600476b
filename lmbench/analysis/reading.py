"""The generated reading of an architecture comparison: ranking, references, pairs, published findings."""

import pandas as pd

from lmbench.analysis.findings import attention_beats_mlp_per_flop, nonlinear_beats_linear
from lmbench.analysis.formats import METRICS
from lmbench.analysis.references import References, reference_values
from lmbench.analysis.stats import summarise, with_the_best
from lmbench.analysis.table import HIGHER_IS_BETTER
from lmbench.analysis.verdict import Verdict, reading

NO_PAIRS = pd.DataFrame(columns=["a", "b", "difference", "low", "high", "p", "p_holm", "n"])
ATTENTION = ("self_attention", "transformer")  # the study's attention models, which a finding speaks of


def comparison_reading(
    runs: pd.DataFrame, *, pairs: pd.DataFrame | None, references: References, metric: str
) -> str:
    """Paragraphs about one comparison. Of many pairs those of the best model are told, the others are left to
    the table.

    Args:
        runs: one row per run, from `table.final_table`.
        pairs: from `stats.paired_differences`; None where one model stands alone.
        metric: the column of `runs` that is compared.
    """
    better = "higher" if metric in HIGHER_IS_BETTER else "lower"
    told = with_the_best(NO_PAIRS if pairs is None else pairs, better=better)
    return reading(
        summarise(runs, by="label", value=metric),
        told,
        label="label",
        unit=METRICS.get(metric, metric),
        references=reference_values(references, metric=metric),
        verdicts=architecture_verdicts(runs, metric=metric),
        better=better,
    )


def architecture_verdicts(runs: pd.DataFrame, *, metric: str) -> list[Verdict]:
    """The published findings that the models at hand can test; they speak of losses only."""
    if metric in HIGHER_IS_BETTER:
        return []
    labels = set(runs["label"])
    table = runs.rename(columns={metric: "value", "init_seed": "seed", "train_flops": "flops"})
    table, unit = table[["label", "seed", "value", "flops"]], METRICS.get(metric, metric)
    verdicts = []
    attention = [name for name in ATTENTION if name in labels]
    if attention and "mlp" in labels:
        pairs = [(name, "mlp") for name in attention]
        verdicts.append(attention_beats_mlp_per_flop(table, pairs=pairs, unit=unit))
    nonlinear = [name for name in ("mlp", *ATTENTION) if name in labels]
    if nonlinear and "linear" in labels:
        pairs = [(name, "linear") for name in nonlinear]
        verdicts.append(nonlinear_beats_linear(table, pairs=pairs, unit=unit))
    return verdicts
