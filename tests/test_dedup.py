"""Exact and near copies: the formulas of banded MinHash, and which unit goes."""

import numpy as np
import pytest

from lmbench.data.selection.dedup import (
    LONG,
    MinHashing,
    candidate_probability,
    estimate_sd,
    exact,
    jaccard,
    knee,
    near,
    shingles,
)


def ids(seed, n=200, vocab_size=50):
    return np.random.default_rng(seed).integers(0, vocab_size, n)


def edited(text, *places):
    """The same tokens with others at some places."""
    out = text.copy()
    out[list(places)] = (out[list(places)] + 1) % 50
    return out


@pytest.mark.parametrize("bands, rows, expected", [(16, 8, 0.71), (20, 6, 0.61), (32, 4, 0.42)])
def test_the_knee_of_three_published_splits(bands, rows, expected):
    assert knee(bands, rows) == pytest.approx(expected, abs=0.005)
    at_knee = candidate_probability(knee(bands, rows), bands=bands, rows=rows)
    assert at_knee == pytest.approx(1 - (1 - 1 / bands) ** bands)  # j^r = 1 / b, so near 1 - 1/e


def test_the_candidate_curve_runs_from_never_to_always():
    curve = [candidate_probability(j, bands=16, rows=8) for j in (0.0, 0.5, 0.7, 0.9, 1.0)]
    assert curve == pytest.approx([0, 0.0607, 0.6133, 0.9999, 1], abs=1e-4)


def test_the_estimate_is_least_certain_at_one_half():
    assert estimate_sd(0.5, permutations=100) == 0.05
    assert estimate_sd(0.9, permutations=100) == pytest.approx(0.03)
    assert estimate_sd(1.0, permutations=100) == 0


def test_shingles_are_numbers_that_are_equal_where_runs_are():
    one, other = shingles([np.array([1, 2, 3, 4]), np.array([2, 3, 4, 9])], size=2)
    assert len(one) == len(other) == 3
    assert jaccard(one, other) == 2 / 4  # 23 and 34 of 12, 23, 34, 49
    assert [len(part) for part in shingles([np.array([1]), np.array([5, 5, 5, 5])], size=2)] == [0, 1]


def test_a_repeated_unit_goes_and_the_first_stays():
    found = exact([ids(0), ids(1), ids(0), ids(2), ids(1)])
    assert found.copy_of == {2: 0, 4: 1}
    assert set(found.jaccard.values()) == {1.0}


def test_a_unit_inside_held_out_text_goes_wherever_it_begins():
    held_out = ids(7, 1000)
    found = exact([held_out[333:533], edited(held_out[333:533], 100)], held_out=[ids(8), held_out])
    assert found.copy_of == {0: -1}


def test_a_few_tokens_that_held_out_text_holds_too_are_no_copy():
    held_out = ids(7, 1000)
    assert not exact([held_out[: LONG - 1]], held_out=[held_out]).copy_of
    assert exact([held_out[:LONG]], held_out=[held_out]).copy_of == {0: -1}


def test_ids_that_name_no_character_are_searched_too():
    wide = np.arange(0xD700, 0xD700 + 400)  # across the surrogates, which are no code points
    assert exact([wide[200:300]], held_out=[wide]).copy_of == {0: -1}
    assert not exact([wide[200:300] + 0x800], held_out=[wide]).copy_of


def test_a_token_id_that_no_string_can_hold_is_refused():
    with pytest.raises(ValueError, match="token id 1114000 is too large"):
        exact([np.array([1_114_000])], held_out=[ids(0)])


def test_a_near_copy_goes_and_its_similarity_is_exact():
    copy = edited(ids(0), 10, 50, 90, 130, 170)
    found = near([ids(0), ids(1), copy], how=MinHashing(), piece=200)
    assert found.copy_of == {2: 0}
    one, other = shingles([ids(0), copy], size=5)
    assert found.jaccard[2] == jaccard(one, other) == 171 / 221  # 5 x 5 of 196 shingles differ


def test_candidates_below_the_threshold_stay():
    copy = edited(ids(0), 10, 50, 90, 130, 170)  # Jaccard .774: hashing finds it, comparing lets it be
    found = near([ids(0), copy], how=MinHashing(similar=0.8), piece=200)
    assert not found.copy_of and found.counts["candidates_compared"] == 1


def test_a_chain_of_copies_is_compared_with_what_is_kept():
    text = ids(0)
    once, twice = edited(text, 20, 60, 100), edited(text, 20, 60, 100, 140, 180)
    found = near([text, once, twice], how=MinHashing(similar=0.7), piece=200)
    assert found.copy_of == {1: 0, 2: 0}
    apart = near([text, once, twice], how=MinHashing(similar=0.8), piece=200)
    assert apart.copy_of == {1: 0}  # the third resembles the second, which is not kept


def test_a_copy_of_held_out_text_is_found_at_any_offset():
    held_out = ids(3, 1000)
    units = [ids(4), held_out[461:661], ids(5)]  # 39 from the nearest quarter of 50: none begins there
    found = near(units, how=MinHashing(bands=32, rows=4), held_out=[held_out], piece=200)
    assert found.copy_of == {1: -1}
    assert found.jaccard[1] >= 7 / 9


def test_the_worst_placed_copies_are_compared_nine_times_in_ten_and_short_ones_must_be_verbatim():
    assert candidate_probability(7 / 9, bands=16, rows=8) == pytest.approx(0.90, abs=0.001)
    held_out = ids(3, 1000)
    for length, found in ((120, {}), (160, {0: -1})):  # of pieces of 200 tokens; the threshold is 0.7
        short = [held_out[50 : 50 + length]]
        assert near(short, how=MinHashing(bands=32, rows=4), held_out=[held_out], piece=200).copy_of == found
        assert exact(short, held_out=[held_out]).copy_of == {0: -1}


def test_units_shorter_than_a_shingle_have_no_near_copies():
    found = near([ids(0, 3), ids(0, 3)], how=MinHashing(), piece=200)
    assert not found.copy_of and found.counts["shingles"] == 0


def test_near_copies_are_found_about_as_often_as_the_curve_says():
    # 60 pairs whose exact Jaccard is 166 / 226 = .73: two units of 200 that differ at six places.
    how = MinHashing(bands=16, rows=8, similar=0.5)
    hits = sum(
        bool(near([ids(s), edited(ids(s), 10, 40, 70, 100, 130, 160)], how=how, piece=200).copy_of)
        for s in range(60)
    )
    p = candidate_probability(166 / 226, bands=16, rows=8)
    assert abs(hits - 60 * p) < 4 * (60 * p * (1 - p)) ** 0.5
