"""Ranks under two budgets: what changes places, and what is more than noise."""

import numpy as np
import pandas as pd
import pytest

from lmbench.analysis.reversals import rank_panel, rank_table, reversal_reading, reversals
from lmbench.analysis.stats import family_of, paired_differences, with_the_best

SEEDS = range(4)


def runs(**means: float) -> pd.DataFrame:
    """Runs whose seeds scatter by 0.001 around each mean, each model in a way of its own."""
    rows = [
        {"label": name, "init_seed": seed, "bits_per_byte": mean + 0.001 * ((seed * (at + 2)) % 3)}
        for at, (name, mean) in enumerate(means.items())
        for seed in SEEDS
    ]
    extra = {"protocol.kind": "dense", "task.corpus": "a", "task.tokenizer.kind": "char", "device": "cpu: x"}
    return pd.DataFrame(rows).assign(**extra)


def pairs(table: pd.DataFrame) -> pd.DataFrame:
    return paired_differences(table, group="label", unit="init_seed", value="bits_per_byte")


SMALL = runs(one=2.0, two=2.5, three=3.0)
LARGE = runs(one=2.6, two=2.5, three=3.0)
BOTH = {"parameters": SMALL, "flops": LARGE}


def test_ranks_stand_beside_means_in_the_order_of_the_first_budget() -> None:
    table = rank_table(BOTH, metric="bits_per_byte")
    assert list(table["label"]) == ["one", "two", "three"]
    assert list(table["parameters rank"]) == [1, 2, 3]
    assert list(table["flops rank"]) == [2, 1, 3]
    assert table["parameters mean"][0] == pytest.approx(SMALL["bits_per_byte"][:4].mean())


def test_higher_is_better_where_it_is() -> None:
    table = rank_table(
        {name: t.assign(accuracy=t["bits_per_byte"]) for name, t in BOTH.items()}, metric="accuracy"
    )
    assert list(table["label"]) == ["three", "two", "one"]


def test_a_reversal_is_decided_under_both_budgets() -> None:
    table = reversals({name: pairs(t) for name, t in BOTH.items()})
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["a"], row["b"], row["decided"]) == ("one", "two", "reversed")
    assert row["parameters high"] < 0 < row["flops low"]
    said = reversal_reading(table, pairs=3, metric="bits_per_byte")
    assert said.startswith(
        "Of 3 pairs, 1 stand in another order under equal FLOPs than under equal parameters; 1 of"
    )
    assert "one is lower than two under equal parameters" in said


def test_the_pair_is_named_by_who_leads_under_the_first_budget() -> None:
    table = reversals({"parameters": pairs(LARGE), "flops": pairs(SMALL)})
    assert tuple(table.iloc[0][["a", "b"]]) == ("two", "one")
    assert table.iloc[0]["parameters high"] < 0 < table.iloc[0]["flops low"]


def test_means_that_change_places_within_the_noise_are_no_reversal() -> None:
    close = runs(one=2.5004, two=2.5, three=3.0)
    close.loc[close["label"] == "one", "bits_per_byte"] += [0.05, -0.05, 0.05, -0.04]
    table = reversals({"parameters": pairs(SMALL), "flops": pairs(close)})
    assert list(table["decided"]) == ["not decided"]
    said = reversal_reading(table, pairs=3, metric="bits_per_byte")
    assert "0 of these reversals are decided" in said
    assert said.endswith("Their means change places, but not by more than noise: one and two.")


def test_nothing_changes_places() -> None:
    table = reversals({"parameters": pairs(SMALL), "flops": pairs(SMALL)})
    assert table.empty
    assert "0 stand in another order" in reversal_reading(table, pairs=3, metric="bits_per_byte")


def test_budgets_of_different_models_are_refused() -> None:
    fewer = LARGE[LARGE["label"] != "three"]
    with pytest.raises(ValueError, match="three is under one only"):
        rank_table({"parameters": SMALL, "flops": fewer}, metric="bits_per_byte")
    with pytest.raises(ValueError, match="compared under parameters but not under flops"):
        reversals({"parameters": pairs(SMALL), "flops": pairs(fewer)})
    with pytest.raises(ValueError, match="between 2 budgets, got 1"):
        rank_table({"parameters": SMALL}, metric="bits_per_byte")


def test_the_figure_says_both_ranks() -> None:
    figure = rank_panel(BOTH, metric="bits_per_byte")
    assert "one 1, 2; two 2, 1; three 3, 3" in figure.alt
    assert "n = 4 seeds" in figure.caption


def test_many_pairs_are_reduced_to_those_of_the_best() -> None:
    table = pairs(SMALL)
    assert with_the_best(table, most=3) is table
    few = with_the_best(table, most=2)
    assert [tuple(row) for row in few[["a", "b"]].to_numpy()] == [("one", "two"), ("one", "three")]
    assert family_of(few) == family_of(table) == 3, "p values are still those of all pairs"
    highest = with_the_best(table, most=2, better="higher")
    assert [tuple(row) for row in highest[["a", "b"]].to_numpy()] == [("one", "three"), ("two", "three")]


def test_an_interval_that_would_squeeze_all_others_is_cut_off_and_the_caption_says_so() -> None:
    wide = BOTH["parameters"].copy()
    label = wide["label"].iloc[0]
    wide.loc[wide["label"] == label, "bits_per_byte"] += 40 * np.arange((wide["label"] == label).sum())
    figure = rank_panel(BOTH | {"parameters": wide}, metric="bits_per_byte")
    low, high = figure.axes[0].get_xlim()
    means = wide.groupby("label")["bits_per_byte"].mean()
    spread = wide.groupby("label")["bits_per_byte"].std().max()
    assert low <= means.min() and means.max() <= high < means.max() + spread
    assert "Arrows: the interval goes on." in figure.caption
    assert "Arrows" not in rank_panel(BOTH, metric="bits_per_byte").caption
