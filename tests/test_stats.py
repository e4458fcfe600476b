"""Intervals and tests: hand-checkable values, refusals, and coverage by simulation."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from lmbench.analysis.bootstrap import bits_per_byte_difference, bits_per_byte_interval, item_intervals
from lmbench.analysis.intervals import holm, t_interval, welch
from lmbench.analysis.stats import paired_differences, summarise, welch_differences


def tidy(**groups):
    """One row a label and seed; seeds count from 0."""
    rows = [(label, seed, x) for label, values in groups.items() for seed, x in enumerate(values)]
    return pd.DataFrame(rows, columns=["label", "seed", "value"])


def items(nll, size=256):
    return pd.DataFrame({"item": range(len(nll)), "nll": nll, "bytes": np.broadcast_to(size, len(nll))})


# ------------------------------------------------------------------ one group


def test_t_interval_of_three_numbers_by_hand():
    # Mean 2, sd 1, t(0.975; 2) = 4.302653: half-width 4.302653 / sqrt(3).
    found = t_interval([1, 2, 3])
    assert (found.value, found.n, found.df) == (2, 3, 2)
    assert found.high - found.value == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_two_seeds_use_the_cauchy_quantile():
    # With 1 degree of freedom t is Cauchy: its 0.975 quantile is tan(0.475 pi) = 12.7062.
    found = t_interval([0.0, 2.0])
    assert found.high == pytest.approx(1 + math.tan(0.475 * math.pi), rel=1e-9)


def test_interval_excludes_zero_exactly_when_p_is_below_alpha():
    rng = np.random.default_rng(0)
    for _ in range(200):
        found = t_interval(rng.normal(0.8, 1, size=4), confidence=0.9)
        assert (found.low > 0 or found.high < 0) == (found.p < 0.1)


def test_one_seed_has_no_interval():
    with pytest.raises(ValueError, match=r"^an interval needs at least 2 seeds, got 1$"):
        t_interval([1.0])
    with pytest.raises(ValueError, match=r"^an interval needs at least 2 seeds, got 1$"):
        welch([1.0, 2.0], [1.0])


def test_values_without_spread_have_a_point_interval():
    same, other = t_interval([0.0, 0.0, 0.0]), t_interval([1.5, 1.5])
    assert (same.low, same.high, same.p) == (0, 0, 1)
    assert (other.low, other.high, other.p) == (1.5, 1.5, 0)


def test_a_diverged_run_is_refused():
    with pytest.raises(ValueError, match="1 of 3 values are not finite numbers"):
        t_interval([1.0, math.nan, 2.0])
    with pytest.raises(ValueError, match="1 of 2 values in mlp are not finite numbers"):
        summarise(tidy(mlp=[1.0, math.inf]), by="label")


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_confidence_is_a_fraction(confidence):
    with pytest.raises(ValueError, match=f"confidence is {confidence}; it lies between 0 and 1, as 0.95"):
        t_interval([1, 2], confidence=confidence)


def test_t_interval_covers_at_its_nominal_level():
    # 4,000 simulated studies of 3 seeds: the binomial error of a coverage of 0.95 is 0.0034.
    x = np.random.default_rng(1).normal(3.0, 0.2, size=(4000, 3))
    found = [t_interval(row) for row in x]
    covered = np.mean([e.low <= 3.0 <= e.high for e in found])
    assert abs(covered - 0.95) < 4 * 0.0034
    # The same number of seeds with the normal quantile would claim far too much.
    narrow = np.mean(np.abs(x.mean(1) - 3.0) <= 1.96 * x.std(1, ddof=1) / math.sqrt(3))
    assert narrow < 0.85


def test_summary_keeps_the_order_and_the_n_of_each_group():
    table = summarise(tidy(b=[1, 2, 3], a=[5.0]), by="label")
    assert table.columns.tolist() == ["label", "mean", "sd", "n", "low", "high"]
    assert table["label"].tolist() == ["b", "a"]
    assert table["n"].tolist() == [3, 1]
    assert table["mean"].tolist() == [2, 5]
    assert table["sd"][0] == 1
    assert table["high"][0] == t_interval([1, 2, 3]).high


def test_summary_of_one_seed_invents_no_interval():
    row = summarise(tidy(a=[5.0]), by="label").iloc[0]
    assert row[["sd", "low", "high"]].isna().all()


def test_summary_by_several_columns():
    frame = tidy(a=[1, 3], b=[2, 4]).assign(split="test")
    table = summarise(frame, by=["split", "label"])
    assert table[["split", "label", "mean"]].to_numpy().tolist() == [["test", "a", 2], ["test", "b", 3]]


def test_missing_column_and_empty_table_are_refused():
    with pytest.raises(ValueError, match="no column 'loss'; it has label, seed, value"):
        summarise(tidy(a=[1, 2]), by="label", value="loss")
    with pytest.raises(ValueError, match="the table has no rows"):
        summarise(tidy(a=[1, 2]).head(0), by="label")


# ------------------------------------------------------------------ differences


def test_paired_difference_removes_what_seeds_share():
    # Seeds differ by 10, models by 1, 2 and 3.
    frame = tidy(a=[11, 22, 33], b=[10, 20, 30])
    row = paired_differences(frame, group="label", unit="seed").iloc[0]
    alone = t_interval([1, 2, 3])
    assert (row["a"], row["b"], row["difference"], row["n"]) == ("a", "b", 2, 3)
    assert (row["low"], row["high"], row["p"]) == (alone.low, alone.high, alone.p)
    assert welch_differences(frame, group="label", unit="seed")["p"][0] > 0.8


def test_pairs_are_matched_by_unit_and_not_by_row():
    frame = tidy(a=[11, 22, 33], b=[10, 20, 30])
    shuffled = frame.sample(frac=1, random_state=3)
    expected = paired_differences(frame, group="label", unit="seed", pairs=[("a", "b")])
    found = paired_differences(shuffled, group="label", unit="seed", pairs=[("a", "b")])
    pd.testing.assert_frame_equal(found, expected)


def test_paired_p_equals_scipy():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=5), rng.normal(size=5)
    row = paired_differences(tidy(a=a, b=b), group="label", unit="seed").iloc[0]
    assert row["p"] == pytest.approx(scipy_stats.ttest_rel(a, b).pvalue)


def test_welch_equals_scipy():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=4), rng.normal(1, 3, size=6)
    found, known = welch(a, b), scipy_stats.ttest_ind(a, b, equal_var=False)
    interval = known.confidence_interval(0.95)
    assert (found.p, found.df) == (pytest.approx(known.pvalue), pytest.approx(known.df))
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.n == 4


def test_all_pairs_or_those_with_the_reference():
    frame = tidy(a=[1, 2], b=[2, 4], c=[3, 5])
    every = paired_differences(frame, group="label", unit="seed")
    assert list(zip(every["a"], every["b"], strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]
    some = paired_differences(frame, group="label", unit="seed", reference="b")
    assert list(zip(some["a"], some["b"], strict=True)) == [("a", "b"), ("c", "b")]
    assert some["difference"].tolist() == [-1.5, 1.0]


def test_family_of_a_table_is_its_rows():
    frame = tidy(a=[1, 2, 3.5], b=[2, 4, 5], c=[3, 5, 9])
    table = paired_differences(frame, group="label", unit="seed")
    np.testing.assert_array_equal(table["p_holm"], holm(table["p"]))


def test_one_seed_gives_a_difference_without_interval():
    for compare in (paired_differences, welch_differences):
        row = compare(tidy(a=[1.0], b=[3.0]), group="label", unit="seed").iloc[0]
        assert (row["difference"], row["n"]) == (-2, 1)
        assert row[["low", "high", "p", "p_holm"]].isna().all()


def test_seeds_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="label 'b' has no seed 2; paired 'a' and 'b' need the same"):
        paired_differences(tidy(a=[1, 2, 3], b=[1, 2]), group="label", unit="seed")
    # Welch's test does not ask for it.
    assert welch_differences(tidy(a=[1, 2, 3], b=[1, 2]), group="label", unit="seed")["n"][0] == 2


def test_a_seed_twice_is_refused():
    frame = pd.concat([tidy(a=[1, 2], b=[1, 2]), tidy(a=[7])])
    with pytest.raises(ValueError, match="label 'a' has seed 0 twice; keep one row a seed"):
        paired_differences(frame, group="label", unit="seed")


def test_unknown_reference_or_pair_names_the_nearest():
    frame = tidy(linear=[1, 2], mlp=[1, 3])
    with pytest.raises(ValueError, match=r"unknown label 'linaer'.*Did you mean 'linear'"):
        paired_differences(frame, group="label", unit="seed", reference="linaer")
    with pytest.raises(ValueError, match=r"unknown label 'mlpp'.*Did you mean 'mlp'"):
        paired_differences(frame, group="label", unit="seed", pairs=[("linear", "mlpp")])
    with pytest.raises(ValueError, match="a comparison needs at least 2 values of label, got 1"):
        paired_differences(tidy(a=[1, 2]), group="label", unit="seed")


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.04 times 3, 2, 1: 0.03, 0.04, 0.04; the order of the input is kept.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    # Never below the p of a smaller one, never above 1.
    assert holm([0.02, 0.021]) == pytest.approx([0.04, 0.04])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])


def test_holm_counts_a_test_that_could_not_be_made():
    found = holm([0.01, math.nan])
    assert found[0] == pytest.approx(0.02)
    assert math.isnan(found[1])


def test_holm_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match=r"p values lie in 0 ... 1, got 1.5"):
        holm([0.5, 1.5])


def test_holm_of_one_is_unchanged():
    assert holm([0.03]).tolist() == [0.03]


# ------------------------------------------------------------------ blocks of text


def test_block_bootstrap_is_centred_on_bits_per_byte():
    nll = np.random.default_rng(4).normal(400, 40, size=300)
    found = bits_per_byte_interval(items(nll), seed=0)
    assert found.value == pytest.approx(nll.sum() / math.log(2) / (300 * 256))
    # The percentile interval of a mean of 300 blocks is close to the normal one.
    half = 1.96 * nll.std(ddof=1) / math.sqrt(300) / math.log(2) / 256
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert found.n == 300
    assert found == bits_per_byte_interval(items(nll), seed=0)
    assert found != bits_per_byte_interval(items(nll), seed=1)


def test_blocks_without_spread_have_a_point_interval():
    found = bits_per_byte_interval(items([256 * math.log(2)] * 5), seed=0)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))


def test_runs_of_like_blocks_widen_the_interval():
    # Each level of difficulty lasts 10 blocks, so there are 20 independent pieces, not 200.
    nll = np.repeat(np.random.default_rng(5).normal(400, 40, size=20), 10)
    single, runs = (bits_per_byte_interval(items(nll), seed=0, run_length=n) for n in (1, 10))
    assert (single.n, runs.n) == (200, 20)
    assert runs.value == pytest.approx(single.value)
    assert runs.high - runs.low > 2 * (single.high - single.low)


def test_difference_on_the_same_blocks_is_sharper_than_either():
    nll = np.random.default_rng(6).normal(400, 40, size=100)
    found = bits_per_byte_difference(items(nll), items(nll + 2), seed=0)
    assert (found.value, found.low, found.high) == pytest.approx((-2 / math.log(2) / 256,) * 3)


def test_item_intervals_have_a_row_a_model_in_their_order():
    nll = np.random.default_rng(7).normal(400, 40, size=50)
    found = item_intervals({"mlp": items(nll), "linear": items(nll[:20])}, seed=3)
    assert found.columns.tolist() == ["model", "bits per byte", "95% low", "95% high", "blocks"]
    for row, part in zip(found.itertuples(index=False), (nll, nll[:20]), strict=True):
        assert tuple(row)[1:] == tuple(bits_per_byte_interval(items(part), seed=3))
    assert found["model"].tolist() == ["mlp", "linear"]
    assert found["blocks"].tolist() == [50, 20]


def test_items_of_several_evaluations_are_not_one_text():
    mixed = items([400.0, 410.0]).assign(evaluation=["a", "b"])
    with pytest.raises(ValueError, match="the items of mlp come from 2 values of evaluation; keep one"):
        item_intervals({"mlp": mixed})


def test_blocks_that_cannot_be_resampled_are_refused():
    with pytest.raises(ValueError, match="a bootstrap needs at least 2 blocks, got 1"):
        bits_per_byte_interval(items([1.0, 2.0]), seed=0, run_length=2)
    with pytest.raises(ValueError, match="run_length is 0; it is 1 or more items"):
        bits_per_byte_interval(items([1.0, 2.0]), seed=0, run_length=0)
    with pytest.raises(ValueError, match="a tokenizer that loses text has none"):
        bits_per_byte_interval(items([1.0, 2.0], size=0), seed=0)
    with pytest.raises(ValueError, match="do not score the same blocks"):
        bits_per_byte_difference(items([1.0, 2.0]), items([1.0, 2.0, 3.0]), seed=0)
