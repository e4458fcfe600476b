"""Verdicts: what decides a claim, and that sentences say no number that the table lacks."""

import math
import re

import pandas as pd
import pytest

from lmbench.analysis import findings
from lmbench.analysis.stats import paired_differences, summarise
from lmbench.analysis.verdict import (
    comparison_sentences,
    judge,
    ranking_sentence,
    reading,
    reference_sentence,
    verdict,
)
from lmbench.analysis.words import in_digits

NAN = math.nan


def decide(low, high, *, p_holm=0.01, n=5, **options):
    return verdict(
        "a beats b",
        difference=(low + high) / 2,
        low=low,
        high=high,
        p_holm=p_holm,
        n=n,
        unit="nats",
        **options,
    )


def tidy(**groups):
    rows = [(label, seed, x) for label, values in groups.items() for seed, x in enumerate(values)]
    return pd.DataFrame(rows, columns=["label", "seed", "value"])


def numbers_in(text):
    """Every number of a text, with its decimals; digits inside names (such as mlp2) do not count."""
    found = re.findall(r"(?<![\w.])[+−]?\d+(?:\.\d+)?", text)
    return [(float(x.replace("−", "-")), len(x.partition(".")[2])) for x in found]


def assert_numbers_come_from(text, allowed):
    for value, decimals in numbers_in(text):
        assert any(round(x, decimals) == value for x in allowed), f"{value} is in no table: {text}"


# ------------------------------------------------------------------ one claim


def test_interval_below_zero_holds_where_lower_is_better_and_refutes_where_higher_is():
    assert decide(-0.3, -0.1).decided == "holds"
    assert decide(-0.3, -0.1, better="higher").decided == "refuted"
    assert decide(0.1, 0.3).decided == "refuted"
    assert decide(0.1, 0.3, better="higher").decided == "holds"


def test_interval_that_holds_zero_is_not_decided():
    for low, high in ((-0.3, 0.1), (0.0, 0.2), (-0.2, 0.0), (0.0, 0.0)):
        found = decide(low, high)
        assert found.decided == "not decided"
        assert "the interval holds 0" in found.text


def test_adjusted_p_decides_where_the_interval_alone_would():
    found = decide(-0.3, -0.1, p_holm=0.05)
    assert found.decided == "not decided"
    assert "the interval excludes 0, but the adjusted p is not below 0.05" in found.text
    assert decide(-0.3, -0.1, p_holm=0.0499).decided == "holds"
    assert decide(-0.3, -0.1, p_holm=0.0499, confidence=0.99).decided == "not decided"


def test_one_seed_decides_nothing_and_says_why():
    found = verdict("a beats b", difference=-0.5, low=NAN, high=NAN, p_holm=NAN, n=1, unit="nats")
    assert found.decided == "not decided"
    assert found.text.startswith(
        "A beats b: not decided. The difference is −0.5 nats (1 seed); an interval needs"
    )
    assert "nan" not in found.text


def test_text_names_numbers_seeds_and_the_refuting_outcome():
    assert decide(-0.15, -0.09, p_holm=0.0031).text == (
        "A beats b: holds. The difference is −0.120 nats (95% interval −0.150 to −0.090, Holm's p = 0.003, "
        "5 seeds). What would have refuted it: an interval wholly above 0, significant after Holm."
    )
    assert "wholly below 0" in decide(0.1, 0.2, better="higher").text
    assert "p < 0.001" in decide(-0.3, -0.1, p_holm=1e-9).text


def test_unknown_direction_is_refused():
    with pytest.raises(ValueError, match="better is 'smaller'; accepted: 'lower', 'higher'"):
        decide(-0.3, -0.1, better="smaller")


def test_digits_follow_the_half_width():
    assert in_digits(2.05312, 2.02, 2.086) == ("2.053", "2.020", "2.086")
    assert in_digits(-12.345, -14.5, -10.2, signed=True) == ("−12.3", "−14.5", "−10.2")
    assert in_digits(1234.5, 1000.0, 1469.0) == ("1234", "1000", "1469")
    assert in_digits(0.5, NAN, NAN) == ("0.5", "", "")


def test_a_bound_that_is_not_zero_never_prints_as_zero():
    assert in_digits(0.5, 0.004, 0.996) == ("0.500", "0.004", "0.996")
    assert in_digits(1.0, 1.0, 1.0) == ("1.000", "1.000", "1.000")
    assert in_digits(0.0, 0.0, 0.0) == ("0", "0", "0")


# ------------------------------------------------------------------ several pairs


def pairs_of(*rows):
    table = pd.DataFrame(rows, columns=["a", "b", "low", "high", "p_holm"])
    return table.assign(difference=(table["low"] + table["high"]) / 2, n=4)


HOLDS, OPEN, AGAINST = ("x", "y", -0.2, -0.1, 0.01), ("x", "z", -0.2, 0.1, 0.4), ("v", "w", 0.1, 0.2, 0.01)


def test_a_general_claim_needs_every_pair_and_falls_with_one():
    assert judge("c", pairs_of(HOLDS, HOLDS), unit="nats").decided == "holds"
    assert judge("c", pairs_of(HOLDS, OPEN), unit="nats").decided == "not decided"
    assert judge("c", pairs_of(HOLDS, OPEN, AGAINST), unit="nats").decided == "refuted"
    text = judge("c", pairs_of(HOLDS, OPEN, AGAINST), unit="nats").text
    assert "1 of 3 comparisons show it, 1 the opposite" in text
    assert "any one of them" in text


def test_claim_without_pairs_is_refused():
    with pytest.raises(ValueError, match="the claim 'c' needs at least 1 pair to compare, got 0"):
        judge("c", pairs_of(), unit="nats")


def test_comparison_sentences_name_the_lower_and_the_undecided():
    found = comparison_sentences(pairs_of(HOLDS, OPEN, AGAINST), unit="nats")
    assert found[0].startswith(
        "x is lower than y: −0.150 nats (95% interval −0.200 to −0.100, Holm's p = 0.010"
    )
    assert found[1].startswith("Between x and z it is not decided which is lower: −0.05 nats")
    assert found[2].startswith("v is higher than w: +0.150 nats")


def test_objection_undoes_a_decision_without_touching_its_numbers():
    table = pairs_of(HOLDS, OPEN).assign(objection=["the seeds differ", ""])
    first, second = comparison_sentences(table, unit="nats")
    assert first.startswith("Between x and y it is not decided")
    assert first.endswith("Holm's p = 0.010, 4 seeds); the seeds differ.")
    assert second.endswith("; the interval holds 0.")
    assert judge("c", table.head(1), unit="nats").decided == "not decided"


# ------------------------------------------------------------------ whole readings

SCORES = {"big": [1.50, 1.53, 1.51], "mid": [1.52, 1.50, 1.54], "small": [2.01, 2.04, 2.00]}


def test_ranking_is_best_first_with_n_and_interval():
    summary = summarise(tidy(**SCORES), by="label")
    text = ranking_sentence(summary, label="label", unit="bits per byte")
    assert re.search(r"best first: big 1\.513 \(95% interval .*3 seeds\), mid .*, small ", text)
    upside_down = ranking_sentence(summary, label="label", unit="accuracy", better="higher")
    assert re.search(r"best first: small .*, mid .*, big ", upside_down)


def test_ranking_of_single_seeds_says_that_there_is_no_interval():
    summary = summarise(tidy(a=[1.5], b=[2.5]), by="label")
    assert "a 1.5 (no interval, 1 seed)" in ranking_sentence(summary, label="label", unit="nats")


def test_reference_is_compared_with_whole_intervals():
    summary = summarise(tidy(**SCORES, one=[1.0]), by="label")
    text = reference_sentence(summary, label="label", name="n-gram order 4", value=1.7, unit="bits per byte")
    assert "n-gram order 4, reaches 1.7 bits per byte" in text
    assert "big, mid better than it" in text
    assert "small worse than it" in text
    assert "one not decided" in text


def test_reading_says_no_number_that_its_tables_lack():
    frame = tidy(**SCORES)
    summary = summarise(frame, by="label")
    pairs = paired_differences(frame, group="label", unit="seed")
    claim = findings.nonlinear_beats_linear(frame, pairs=[("big", "small")], unit="bits per byte")
    text = reading(
        summary,
        pairs,
        label="label",
        unit="bits per byte",
        references={"uniform": 6.0, "5-gram": 1.7},
        verdicts=[claim],
    )
    assert len(text.split("\n\n")) == 4
    assert "5-gram" in text
    assert "uniform" not in text
    own = paired_differences(frame, group="label", unit="seed", pairs=[("big", "small")])
    tables = [summary[["mean", "low", "high", "n"]], *(t.select_dtypes("number") for t in (pairs, own))]
    allowed = [float(x) for table in tables for x in table.to_numpy().ravel()]
    # 95% and alpha, the reference, the bounds in "p < 0.001" and "holds 0", and counts of comparisons.
    allowed += [95, 0.05, 1.7, 0.001, 0, len(pairs), 1]
    assert_numbers_come_from(text.replace("5-gram", ""), allowed)


def test_the_check_for_foreign_numbers_can_fail():
    with pytest.raises(AssertionError, match=r"3.14 is in no table"):
        assert_numbers_come_from("the loss is 3.14 nats", [3.15])


def test_reading_without_references_or_claims_has_two_paragraphs():
    frame = tidy(**SCORES)
    pairs = paired_differences(frame, group="label", unit="seed")
    text = reading(summarise(frame, by="label"), pairs, label="label", unit="nats")
    assert len(text.split("\n\n")) == 2
    assert text.endswith("Holm's correction covers all 3 comparisons.")


# ------------------------------------------------------------------ the study's findings

CLEAR = {"pairs": [("good", "bad")], "unit": "nats"}
SIMPLE = (
    findings.depth_or_context_degrades,
    findings.learned_positions_beat_rope,
    findings.nonlinear_beats_linear,
    findings.capacity_must_match_compute,
)


@pytest.mark.parametrize("finding", SIMPLE)
def test_finding_holds_is_refuted_or_open_as_the_data_say(finding):
    low, high = [1.0, 1.1, 1.2, 1.05], [2.0, 2.11, 2.19, 2.06]
    assert finding(tidy(good=low, bad=high), **CLEAR).decided == "holds"
    assert finding(tidy(good=high, bad=low), **CLEAR).decided == "refuted"
    assert finding(tidy(good=low, bad=[1.3, 0.8, 1.2, 1.0]), **CLEAR).decided == "not decided"
    assert finding(tidy(good=[1.0], bad=[2.0]), **CLEAR).decided == "not decided"


def test_findings_refuse_unmatched_seeds_and_unknown_labels():
    with pytest.raises(ValueError, match="label 'bad' has no seed 1"):
        findings.nonlinear_beats_linear(tidy(good=[1.0, 2.0], bad=[1.0]), **CLEAR)
    with pytest.raises(ValueError, match="unknown label 'bad'"):
        findings.nonlinear_beats_linear(tidy(good=[1.0, 2.0], worse=[1.0, 2.0]), **CLEAR)


def attention(*, attention_flops, mlp_flops, attention_wins=True):
    low, high = [1.0, 1.1, 1.2], [2.0, 2.11, 2.19]
    values = {"attention": low, "mlp": high} if attention_wins else {"attention": high, "mlp": low}
    table = tidy(**values)
    table["flops"] = table["label"].map({"attention": attention_flops, "mlp": mlp_flops})
    return findings.attention_beats_mlp_per_flop(table, pairs=[("attention", "mlp")], unit="nats")


def test_a_win_per_flop_needs_no_more_flops_than_the_loser():
    assert attention(attention_flops=100, mlp_flops=100).decided == "holds"
    assert attention(attention_flops=101, mlp_flops=100).decided == "holds"
    assert attention(attention_flops=50, mlp_flops=100).decided == "holds"
    unfair = attention(attention_flops=150, mlp_flops=100)
    assert unfair.decided == "not decided"
    assert "the lower one had more FLOPs (ratio of attention to mlp 1.5)" in unfair.text


def test_a_loss_per_flop_needs_no_fewer_flops_than_the_winner():
    assert attention(attention_flops=100, mlp_flops=100, attention_wins=False).decided == "refuted"
    assert attention(attention_flops=150, mlp_flops=100, attention_wins=False).decided == "refuted"
    assert attention(attention_flops=50, mlp_flops=100, attention_wins=False).decided == "not decided"


def test_claim_per_flop_needs_flops():
    with pytest.raises(ValueError, match="a claim per FLOP needs a column 'flops'"):
        findings.attention_beats_mlp_per_flop(tidy(a=[1, 2], b=[2, 3]), pairs=[("a", "b")], unit="nats")


def test_capacity_against_compute_is_a_difference_of_differences():
    few = tidy(small=[2.0, 2.1, 2.2], large=[2.5, 2.62, 2.69])
    more = tidy(small=[1.9, 2.0, 2.1], large=[1.4, 1.51, 1.6])
    given = {"pairs": [("small", "large")], "unit": "nats"}
    found = findings.capacity_must_match_compute(few, longer=more, **given)
    assert found.decided == "holds"
    # (2.0 - 2.5) - (1.9 - 1.4) = -1.00, then -0.52 - 0.49 = -1.01 and -0.49 - 0.50 = -0.99.
    assert "−1.000 nats (95% interval −1.025 to −0.975" in found.text
    assert findings.capacity_must_match_compute(more, longer=few, **given).decided == "refuted"
    # Larger is worse at both budgets by the same: capacity alone, so nothing about compute is shown.
    shifted = few.assign(value=few["value"] - [0.01, 0.0, -0.01, 0.0, 0.01, 0.0])
    assert findings.capacity_must_match_compute(few, longer=shifted, **given).decided == "not decided"


def test_capacity_at_two_budgets_needs_the_same_seeds():
    few = tidy(small=[2.0, 2.1], large=[2.5, 2.6])
    with pytest.raises(ValueError, match="has no seed 2"):
        findings.capacity_must_match_compute(
            few, longer=tidy(small=[1, 2, 3], large=[1, 2, 3]), pairs=[("small", "large")], unit="nats"
        )
