"""Occam bounds: the specification's numbers, what is refused, coverage by simulation, tables."""

import math

import numpy as np
import pandas as pd
import pytest

from lmbench.analysis.bounds_table import bounds_caption, bounds_reading, bounds_table, selection_regret
from lmbench.analysis.readable import as_text
from lmbench.measure.bound_losses import Documents, Smoothed, Subsample, Tokens, ZeroOne
from lmbench.measure.bounds import (
    DocumentBound,
    TokenBound,
    beside,
    gap,
    grid_bits,
    held_out,
    length_bits,
    occam,
)
from lmbench.measure.bounds_coverage import family_coverage, rate, topic_coverage
from lmbench.measure.bounds_seed import seed_literal

SPARSE = 8 * 0.1 - 0.1 * math.log2(0.1) - 0.9 * math.log2(0.9)  # bits a weight: 10% codes and a coded mask
GENERATED = Documents(m=1_000_000, drawn="generator")
NATS = Smoothed(vocab_size=16, alpha=0.01)


def arm(n_bytes=25_000, *, sample=GENERATED, loss=NATS, risk=0.5, **fields):
    return occam(risk, n_bytes=n_bytes, sample=sample, loss=loss, **fields)


# ------------------------------------------------------------------ the specification's numbers


@pytest.mark.parametrize(("vocab_size", "nats"), [(256, 10.1), (50257, 15.4), (16, 7.4)])
def test_the_width_of_the_smoothed_loss(vocab_size, nats):
    loss = Smoothed(vocab_size=vocab_size, alpha=0.01)
    assert loss.width == pytest.approx(nats, abs=0.05)
    assert loss.width == pytest.approx(loss.highest - loss.lowest, abs=1e-12)


@pytest.mark.parametrize(
    ("weights", "bits", "vocab_size", "m", "nats"),
    [
        (316_000, 8, 256, 10**6, 9.5),
        (316_000, 8, 256, 10**8, 0.95),
        (316_000, SPARSE, 256, 10**6, 3.8),
        (316_000, SPARSE, 256, 10**8, 0.38),
        (124_400_000, 8, 50257, 10**10, 2.9),
        (50_000, 32, 16, 10**6, 5.5),
        (50_000, 8, 16, 10**6, 2.74),
        (50_000, SPARSE, 16, 10**6, 1.09),
    ],
)
def test_gaps_in_nats(weights, bits, vocab_size, m, nats):
    width = Smoothed(vocab_size=vocab_size, alpha=0.01).width
    found = gap(bits=weights * bits, m=m, width=width, delta=0.05)
    assert found == pytest.approx(nats, rel=0.015)


def test_a_sparse_weight_of_eight_bits_takes_1_269():
    assert pytest.approx(1.269, abs=5e-4) == SPARSE


@pytest.mark.parametrize(("bits", "error"), [(32, 0.745), (8, 0.372), (SPARSE, 0.148)])
def test_gaps_of_the_error_rate(bits, error):
    assert gap(bits=50_000 * bits, m=10**6, width=1, delta=0.05) == pytest.approx(error, abs=5e-4)


def test_compression_turns_a_vacuous_bound_into_one_that_is_not():
    assert arm(50_000 * 4).vacuous and not arm(round(50_000 * SPARSE / 8)).vacuous
    assert NATS.chance == pytest.approx(2.77, abs=5e-3)


def test_the_held_out_gap_of_a_hundred_thousand():
    found = held_out(0.5, sample=Documents(m=100_000, drawn="generator"), loss=NATS)
    assert found.gap == pytest.approx(0.029, abs=5e-4) and found.bits == 0 and found.is_held_out


# ------------------------------------------------------------------ the price


def test_the_price_is_the_file_its_length_and_the_grids():
    found = arm(1000, searched=(4, 3))
    assert found.bits == pytest.approx(8000 + 19 + math.log2(12)), "2 floor(log2 1000) + 1 = 19"
    assert arm(1000, length_code="fixed32").bits == 8032
    expected = NATS.width * math.sqrt((found.bits * math.log(2) + math.log(20)) / 2e6)
    assert found.gap == pytest.approx(expected) and found.value == 0.5 + found.gap
    assert held_out(0.5, sample=GENERATED, loss=NATS, searched=(8,)).bits == 3


def test_lengths_are_a_prefix_free_code():
    """Kraft's sum over all files is that of the lengths: 2^-length_bits adds up to at most 1."""
    assert sum(2.0 ** -length_bits(n) for n in range(1, 1 << 14)) == pytest.approx(1, abs=1e-4)
    assert [length_bits(n) for n in (1, 2, 3, 4)] == [1, 3, 3, 5]
    assert grid_bits(()) == 0 and grid_bits((1, 8)) == 3


def test_a_subsample_adds_its_own_gap_and_its_own_delta():
    whole, part = arm(), arm(subsample=Subsample(n=10_000, delta=0.01))
    assert part.gap - whole.gap == pytest.approx(NATS.width * math.sqrt(math.log(100) / 20_000))
    assert part.delta == pytest.approx(0.06) and whole.delta == 0.05


def test_smoothed_losses_by_hand_and_from_a_mean():
    loss = Smoothed(vocab_size=4, alpha=0.2)
    found = loss.of(np.array([0.0, math.log(2), np.inf]))
    assert found == pytest.approx([-math.log(0.85), -math.log(0.45), -math.log(0.05)])
    assert (found[0], found[2]) == pytest.approx((loss.lowest, loss.highest))
    nll = np.random.default_rng(0).exponential(2, size=1000)
    assert loss.of(nll).mean() <= loss.at_most(float(nll.mean()))
    assert loss.at_most(0.0) == pytest.approx(-math.log(0.8)) and loss.at_most(1e9) == loss.highest


# ------------------------------------------------------------------ two forms


def test_the_sample_decides_the_form_and_the_words():
    documents, tokens = arm(), arm(sample=Tokens(m=1_000_000))
    assert type(documents) is DocumentBound and type(tokens) is TokenBound
    assert documents.gap == tokens.gap
    assert "the risk of a fresh document is at most" in documents.text
    assert "independent by construction" in documents.text
    assert "given the observed contexts, not that of fresh text" in tokens.text
    assert "m = 1000000; not vacuous: chance is 2.773" in arm(1000).text


def test_forms_and_losses_do_not_mix():
    held = held_out(0.5, sample=Tokens(m=1000), loss=NATS)
    with pytest.raises(ValueError, match="a document bound cannot stand beside a token bound"):
        beside(arm(), held)
    other = held_out(0.5, sample=GENERATED, loss=ZeroOne(vocab_size=16))
    with pytest.raises(ValueError, match="the two bounds are of different losses"):
        beside(arm(), other)
    with pytest.raises(ValueError, match="an Occam bound comes first and a held-out bound second"):
        beside(arm(), arm())


def test_windows_of_one_text_are_refused_unless_declared():
    with pytest.raises(ValueError, match="windows cut from one text are not independent; use Tokens"):
        Documents(m=100, drawn="windows")
    declared = arm(sample=Documents(m=100, drawn="windows", assume_iid=True))
    assert "assumes that windows cut from one text are independent, which they are not" in declared.text


def test_the_error_rate_is_vacuous_at_chance():
    loss = ZeroOne(vocab_size=4)
    size = {"n_bytes": 1, "sample": Documents(m=10**9, drawn="generator"), "loss": loss}
    assert occam(0.75, **size).vacuous and not occam(0.7, **size).vacuous


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: arm(risk=8.0), "empirical_risk = 8.0 is not accepted: Smoothed losses lie in 0.009"),
        (lambda: arm(risk=math.nan), "empirical_risk = nan"),
        (lambda: arm(risk=1.5, loss=ZeroOne(vocab_size=4)), "ZeroOne losses lie in 0 to 1 error rate"),
        (lambda: arm(0), "n_bytes = 0 is not accepted: at least 1"),
        (lambda: arm(delta=0.0), "delta = 0.0 is not accepted"),
        (lambda: arm(searched=(0,)), "searched = 0 is not accepted"),
        (lambda: arm(subsample=Subsample(n=2_000_000, delta=0.01)), "more than the sample's m = 1000000"),
        (lambda: arm(subsample=Subsample(n=10, delta=0.97)), "delta = 1.02 is not accepted"),
        (lambda: arm(length_code="elias"), "Did you mean 'elias_gamma'"),
        (lambda: length_bits(2**32, code="fixed32"), "does not fit 32 bits"),
        (lambda: Smoothed(vocab_size=4, alpha=1.0), "alpha = 1.0 is not accepted"),
        (lambda: ZeroOne(vocab_size=1), "vocab_size = 1 is not accepted: at least 2"),
        (lambda: Tokens(m=0), "m = 0 is not accepted"),
        (lambda: Documents(m=5, drawn="window"), "Did you mean 'windows'"),
    ],
)
def test_what_is_no_bound_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


# ------------------------------------------------------------------ the published form


def test_the_published_form_counts_too_few_networks():
    found = seed_literal(0.1, parameters={8: 50_000}, n=10**6, loss=NATS)
    assert found.corrected_complexity / found.complexity == pytest.approx(2.667, abs=1e-3)
    assert found.complexity == pytest.approx(50_000 * 2.079, rel=1e-3)
    assert found.value - 0.1 == pytest.approx(math.sqrt((50_000 * math.log(8) + math.log(20)) / 2e6))
    assert found.corrected - 0.1 == pytest.approx(2.74, abs=5e-3)
    assert not found.valid and "invalid" in found.text


def test_one_bit_parameters_are_free_in_the_published_form():
    found = seed_literal(0.1, parameters={1: 10**6}, n=1000, loss=NATS)
    assert found.complexity == 0 and found.value == 0.1 + gap(bits=0, m=1000, width=1, delta=0.05)
    for parameters, said in (
        ({}, "parameters is empty"),
        ({0: 3}, "bits = 0"),
        ({8: 0}, r"parameters\[8\] = 0"),
    ):
        with pytest.raises(ValueError, match=said):
            seed_literal(0.1, parameters=parameters, n=10, loss=NATS)


# ------------------------------------------------------------------ coverage


@pytest.mark.parametrize("parameters", [{8: 1}, {1: 8}, {4: 1, 2: 2}])
def test_the_occam_bound_covers_the_best_of_a_family_and_the_published_form_does_not(parameters):
    assert family_coverage(parameters).holds
    assert family_coverage(parameters, form="seed").fails


def test_the_simulation_is_nearly_as_bad_as_the_bound_allows():
    """Half of the price, 4 of 8 bits, is not enough: the family is a worst case, and not an easy one."""
    rng = np.random.default_rng(1)
    fit_S = rng.binomial(400, 0.5, size=(2000, 256)).min(axis=1) / 400
    short = int((fit_S + gap(bits=2, m=400, width=1, delta=0.05) < 0.5).sum())
    assert rate(short, 2000, delta=0.05).fails


def test_each_form_covers_its_own_risk_and_tokens_do_not_cover_that_of_documents():
    assert topic_coverage("document").holds
    assert topic_coverage("token").holds
    assert topic_coverage("mixed").fails


def test_the_interval_of_a_rate_is_clopper_and_pearsons():
    found = rate(0, 1000, delta=0.05)
    assert (found.low, found.high) == pytest.approx((0, 1 - 0.025 ** (1 / 1000)))
    few = rate(1, 20, delta=0.05)
    assert not few.holds and not few.fails
    for call, said in (
        (lambda: rate(2, 1, delta=0.05), "violations = 2 is not accepted"),
        (lambda: family_coverage({8: 2}), "16 bits; at most 12"),
        (lambda: family_coverage({8: 1}, form="ocam"), "Did you mean 'occam'"),
        (lambda: topic_coverage("tokens"), "Did you mean 'token'"),
        (lambda: topic_coverage("token", share=1.0), "share = 1.0 is not accepted"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


# ------------------------------------------------------------------ tables


def rows_of(sizes=None, seeds=(0, 1)):
    held = held_out(0.6, sample=Documents(m=100_000, drawn="generator"), loss=NATS)
    sizes = sizes or {"fp32": 200_000, "sparse": 7_931}
    made = [
        beside(arm(size, risk=0.5 + seed / 10), held) | {"arm": name, "init_seed": seed}
        for name, size in sizes.items()
        for seed in seeds
    ]
    return pd.DataFrame(made)


def test_the_table_has_a_row_an_arm_with_means_over_seeds():
    table = bounds_table(rows_of()).set_index("arm")
    assert list(table.index) == ["fp32", "sparse"]
    assert table.loc["sparse", "empirical risk"] == pytest.approx(0.55)
    assert table.loc["sparse", "Occam bound"] == pytest.approx(0.55 + 1.092, abs=2e-3)
    assert table["vacuous"].tolist() == ["yes", "no"] and table["held-out vacuous"].tolist() == ["no"] * 2
    assert table["bytes"].tolist() == [200_000, 7_931] and table["seeds"].tolist() == [2, 2]
    assert "7,931   1,000,000      0.5500   1.643   no" in as_text(bounds_table(rows_of()))


def test_the_words_say_what_is_bounded_and_which_bounds_say_anything():
    caption, reading = bounds_caption(rows_of()), bounds_reading(rows_of())
    assert "of the risk of a fresh document; each holds with probability 0.95" in caption
    assert "held-out bounds are from 100,000 documents; documents are independent by construction." in caption
    assert reading.startswith("Occam bounds are below chance for sparse (1 of 2 arms). The lowest is that of")
    assert "1.64 at 7,931 bytes, where chance is 2.77 and the held-out bound 0.629 nats" in reading
    assert "is the tighter in every case:" in reading
    assert bounds_reading(rows_of({"fp32": 200_000})).startswith("All Occam bounds are vacuous (1 of 1 arms)")


def test_an_arm_is_vacuous_for_some_of_its_seeds():
    rows = rows_of({"half": 7_931})
    rows["vacuous"] = [True, False]
    assert bounds_table(rows)["vacuous"].tolist() == ["1 of 2 seeds"]
    assert bounds_reading(rows).startswith(
        "Occam bounds are below chance for some seeds of half (0 of 1 arms"
    )


def test_tables_of_several_forms_or_losses_are_refused():
    rows = rows_of()
    for column, value, said in (
        ("form", "token", "bounds of one form, got token and document: their risks differ"),
        ("unit", "error rate", "bounds of one unit, got error rate and nats per token: their losses differ"),
        ("delta", 0.1, "bounds of one delta, got 0.1 and 0.05"),
    ):
        mixed = rows.copy()
        mixed[column] = mixed[column].astype(object)
        mixed.loc[0, column] = value
        with pytest.raises(ValueError, match=said):
            bounds_table(mixed)
    with pytest.raises(ValueError, match="arm 'fp32' has init_seed 0 twice"):
        bounds_table(pd.concat([rows, rows]))
    with pytest.raises(ValueError, match="unknown column 'occam'"):
        bounds_table(rows.drop(columns="occam"))


def test_the_regret_of_choosing_by_the_bound():
    rows = pd.DataFrame(
        [("a", s, 1.0, 0.5, 0.50 + s / 100) for s in range(3)]
        + [("b", s, 2.0, 0.3 + 0.3 * (s == 2), 0.40) for s in range(3)],
        columns=["arm", "init_seed", "occam", "valid", "test"],
    )
    found = selection_regret(rows, unit="nats per token")
    assert found.choices["by_validation"].tolist() == ["b", "b", "a"]
    assert found.choices["regret"].tolist() == pytest.approx([0.10, 0.11, 0.0])
    assert found.estimate.value == pytest.approx(0.07)
    assert "not decided. The regret is +0.07" in found.text and "same arm for 1 of 3 seeds" in found.text
    same = selection_regret(rows[rows["arm"] == "a"], unit="nats per token")
    assert "no difference in any seed" in same.text
    worse = selection_regret(rows[rows["init_seed"] < 2], unit="nats per token")
    assert "validation: worse." in worse.text
    with pytest.raises(ValueError, match="init_seed 0 lacks an arm or a value"):
        selection_regret(rows.iloc[1:], unit="nats per token")
