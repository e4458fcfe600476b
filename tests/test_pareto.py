"""Pareto fronts on tables small enough to see the answer."""

import math

import pandas as pd
import pytest

from lmbench.analysis.pareto import pareto_front


def table(*rows, **columns):
    return pd.DataFrame(rows, columns=["label", "flops", "loss"]).assign(**columns)


def front(frame, **names):
    return pareto_front(frame, **({"cost": "flops", "loss": "loss"} | names))["label"].tolist()


def test_front_holds_what_nothing_beats_from_cheap_to_dear():
    frame = table(("dear", 9, 1.0), ("cheap", 1, 3.0), ("beaten", 5, 3.5), ("middle", 4, 2.0))
    assert front(frame) == ["cheap", "middle", "dear"]


def test_one_model_that_is_cheapest_and_best_is_the_whole_front():
    assert front(table(("a", 1, 1.0), ("b", 2, 2.0), ("c", 3, 1.5))) == ["a"]


def test_equal_cost_keeps_the_better_and_equal_loss_the_cheaper():
    assert front(table(("a", 1, 2.0), ("b", 1, 3.0))) == ["a"]
    assert front(table(("a", 1, 2.0), ("b", 2, 2.0))) == ["a"]


def test_rows_that_tie_in_both_stand_together():
    assert front(table(("a", 1, 2.0), ("b", 1, 2.0), ("c", 0.5, 3.0))) == ["c", "a", "b"]
    assert front(table(("a", 1, 2.0), ("b", 1, 2.0), ("c", 1, 1.0))) == ["c"]


def test_front_keeps_all_columns_and_the_index():
    frame = table(("a", 2, 1.0), ("b", 1, 2.0), n=5)
    found = pareto_front(frame, cost="flops", loss="loss")
    pd.testing.assert_frame_equal(found, frame.loc[[1, 0]])


def test_time_is_compared_on_one_device_only():
    frame = table(("a", 1, 2.0), ("b", 2, 1.0)).assign(train_seconds=[3.0, 4.0], device=["cpu", "cuda"])
    assert front(frame.assign(device="cpu"), cost="train_seconds") == ["a", "b"]
    assert front(frame) == ["a", "b"]
    with pytest.raises(
        ValueError, match=r"train_seconds cannot be compared over several devices \(cpu, cuda\)"
    ):
        front(frame, cost="train_seconds")


def test_tables_without_a_front_are_refused():
    with pytest.raises(ValueError, match="no column 'bytes'; it has label, flops, loss"):
        front(table(("a", 1, 2.0)), cost="bytes")
    with pytest.raises(ValueError, match="1 of 2 values of 'loss' are not finite numbers"):
        front(table(("a", 1, 2.0), ("b", 1, math.nan)))
    with pytest.raises(ValueError, match="a Pareto front needs at least 1 row, got 0"):
        front(table())


# ------------------------------------------------------------------ costs that are nearly equal


def test_costs_within_two_per_cent_are_one_cost():
    assert front(table(("a", 100.0, 2.0), ("b", 101.9, 1.0))) == ["b"]
    assert front(table(("a", 101.9, 2.0), ("b", 100.0, 1.0))) == ["b"]


def test_costs_further_apart_stand_on_the_front_together():
    assert front(table(("a", 100.0, 2.0), ("b", 102.1, 1.0))) == ["a", "b"]


def test_nearly_equal_costs_with_equal_losses_tie():
    assert front(table(("a", 101.0, 2.0), ("b", 100.0, 2.0))) == ["b", "a"]


def test_the_tolerance_is_an_argument_and_zero_compares_exactly():
    frame = table(("a", 100.0, 2.0), ("b", 100.1, 1.0))
    assert front(frame, tolerance=0.0) == ["a", "b"]
    assert front(frame, tolerance=0.002) == ["b"]
    assert front(table(("a", 100.0, 2.0), ("b", 140.0, 1.0)), tolerance=0.5) == ["b"]


def test_models_that_each_missed_one_budget_by_a_step_are_not_all_on_the_front():
    frame = table(
        *[
            (name, 1e12 * miss, loss)
            for name, miss, loss in zip("abcd", (1, 1.004, 1.008, 1.012), (4, 3, 2, 1), strict=True)
        ]
    )
    assert front(frame) == ["d"]
    assert front(frame, tolerance=0.0) == ["a", "b", "c", "d"]
