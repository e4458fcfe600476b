"""The sketches' formulas: what is counted, what corrects them, and how the published ones are judged."""

import pandas as pd
import pytest

from lmbench.analysis import distillation_formulas as formulas
from lmbench.analysis import distillation_own as own
from lmbench.analysis.distillation_claims import findings
from lmbench.analysis.distillation_evidence import Evidence
from lmbench.measure import distillation_counts as counts
from lmbench.measure import distillation_laws as laws
from lmbench.measure.flops import ledger

TINY = counts.Shape(positions=4, layers=1, heads=2, width=8, vocabulary=10, density=0.5, bits=8)


@pytest.fixture(scope="module")
def counted():
    return laws.formula_counts()


# ------------------------------------------------------------------ counts


@pytest.mark.parametrize(
    ("number", "quantity", "value"),
    [
        # 4 positions x (weights + head of 80), and 2 x 4^2 x 8 of attention.
        ("B12", "multiply-adds", 4 * (4 * 64 / 2 + 8 * 64 + 80) + 256),
        ("C2", "multiply-adds", 4 * (11 * 64 / 2 + 64 + 80) + 256),
        ("C3", "multiply-adds", 4 * (12 * 64 + 80) + 256),
        # Two tables of 80, one of 32, the layer's matrices, 13 x 8 + 2 x 8 + 10 vectors.
        ("C3", "parameters", 80 + 80 + 32 + 768 + 130),
        # Bytes of codes, of their scales, of half of attention and its mask, of head, vectors and cache.
        ("B13", "bytes", (80 + 32 + 512) + 4 * (14 + 40) + (4 * 128 + 256 / 8) + 4 * 210 + 4 * 64),
        # Bytes of dense codes, of masked ones and the mask, of scales, of vectors.
        ("C1", "bytes", (192 + 64) + (352 + 704 / 8) + 4 * (24 + 72) + 4 * 130),
    ],
)
def test_the_corrected_formula_and_the_count_agree_with_a_count_by_hand(number, quantity, value):
    (law,) = [law for law in laws.LAWS if (law.number, law.quantity) == (number, quantity)]
    assert law.counted(TINY) == law.corrected(TINY) == value


def test_dense_multiply_adds_are_those_of_the_ledger():
    assert counts.dense_macs(TINY) == ledger(counts.model_of(TINY), readout="all").forward / 2


def test_every_corrected_formula_is_within_rounding_of_the_count_at_every_shape(counted):
    # Of a matrix of d^2 weights a tenth is floor(d^2 / 10): at d = 64 that is 409 of 409.6.
    off = (counted["corrected"] / counted["counted"] - 1).abs()
    assert off.max() < 2e-4


def test_one_symbol_is_varied_at_a_time_around_one_shape(counted):
    assert counted["shape"].nunique() == 1 + 2 * len(laws.GRID)
    assert all(getattr(counts.Shape(), name) in values for name, values in laws.GRID.items())
    assert set(counted[counted["number"] == "C2"]["varied"]) == {
        "positions", "layers", "heads", "width", "density",
    }  # fmt: skip


# ------------------------------------------------------------------ judged


def test_heads_cost_no_multiply_adds_and_both_published_computes_say_they_do(counted):
    table = formulas.growth_table(counted).set_index(["claim", "quantity", "varied"])
    for number in ("C2", "C3"):
        row = table.loc[(number, "multiply-adds", "heads")]
        assert row["power as published"] == pytest.approx(1)
        assert row["power as counted"] == 0
    # Attention grows with the square of the positions.
    assert table.loc[("C3", "multiply-adds", "positions"), "power as counted"] > 1


def test_the_size_of_the_teacher_is_the_one_law_that_holds(counted):
    found = findings(Evidence(runs=pd.DataFrame({"label": []}), formulas=counted))
    grown = [one for one in found if "grow" in one.what.claim]
    assert [one.what.claim for one in grown if one.verdict == "replicated"] == [
        "the teacher's size and compute grow as V d + L d^2 and n L h d^2, parameters"
    ]
    # What corrects them is nobody's claim: it holds, and is not replicated.
    assert [one.verdict for one in grown if one.kind == "own"] == ["holds"] * 6
    assert all(one.what.claim.endswith(", corrected") for one in grown if one.kind == "own")
    # Of two quantities one is right, and the claim of both is not.
    assert [one.verdict for one in grown if (one.number, one.kind) == ("C3", "claim")] == ["not replicated"]


def frame(first, second, counted, *, reading="", quantity="bytes"):
    """Widths of 1, 2 and 4."""
    return pd.DataFrame(
        {
            "number": "C1", "quantity": quantity, "reading": reading, "varied": "width",
            "value": [1.0, 2.0, 4.0], "shape": ["a", "b", "c"], "first": first, "second": second,
            "corrected": counted, "counted": counted,
        }
    )  # fmt: skip


def test_each_term_of_a_law_has_the_constant_that_fits_best():
    # 3 d + 5 d^2 from d and d^2.
    rows = formulas.kindest(frame([1.0, 2.0, 4.0], [1.0, 4.0, 16.0], [8.0, 26.0, 92.0]))
    assert rows["fitted"].tolist() == pytest.approx([8, 26, 92])
    # No constant is below 0: of d^2 - d only the d^2 is taken.
    rows = formulas.kindest(frame([1.0, 2.0, 4.0], [1.0, 4.0, 16.0], [0.1, 2.0, 12.0]))
    assert (rows["fitted"] / rows["fitted"].iloc[0]).tolist() == pytest.approx([1, 4, 16])


def test_a_symbol_without_a_meaning_is_read_in_the_kindest_way():
    off = frame([1.0, 4.0, 16.0], 0.0, [3.0, 6.0, 12.0], reading="S = positions")
    near = frame([1.0, 2.0, 4.0], 0.0, [3.0, 6.0, 12.0], reading="S = layers")
    both = pd.concat([off, near], ignore_index=True)
    assert set(formulas.kindest(both)["reading"]) == {"S = layers"}
    (as_written,) = formulas.formula(Evidence(runs=pd.DataFrame(), formulas=both), number="C1")
    assert as_written.verdict == "REP"
    assert as_written.measured == (
        "over 3 shapes its ratio to the count varies 1 times, where S = layers, the kindest of 2 readings"
    )


def test_powers_are_slopes_of_logarithms():
    rows = formulas.kindest(frame([1.0, 4.0, 16.0], 0.0, [5.0, 5.0, 5.0]))
    (row,) = formulas.powers(rows).to_dict("records")
    assert row == {"varied": "width", "low": 1, "high": 4, "published": 2, "counted": 0}
    off = frame(1.0, 0.0, [1.0, 2.0, 4.0]).assign(corrected=[1.0, 2.0, 5.0])
    assert formulas.growth_table(off).to_dict("records") == [
        {"claim": "C1", "quantity": "bytes", "varied": "width", "values": "1 to 4",
         "power as published": 0, "power as counted": 1, "corrected off (%)": 25}
    ]  # fmt: skip


def test_two_quantities_of_a_claim_are_judged_apart():
    both = pd.concat([frame([1.0, 2.0, 4.0], 0.0, [3.0, 6.0, 12.0]),
                      frame([1.0, 2.0, 4.0], 0.0, [3.0, 3.0, 3.0], quantity="parameters")])  # fmt: skip
    given = Evidence(runs=pd.DataFrame(), formulas=both)
    found = [*formulas.formula(given, number="C1"), *own.corrected(given, number="C1")]
    assert [(one.claim.rpartition("q")[2], one.verdict) for one in found] == [
        (", bytes", "REP"), (", parameters", "NOT"),
        (", bytes, corrected", "REP"), (", parameters, corrected", "REP"),
    ]  # fmt: skip
