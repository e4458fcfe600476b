"""The pure parts of data selection: units, scores, quotas, pacing, packing, coverage."""

import math
import zlib

import numpy as np
import pytest

from lmbench.data.selection import quotas
from lmbench.data.selection.choose import choose
from lmbench.data.selection.dedup import Found
from lmbench.data.selection.pacing import competence, pools
from lmbench.data.selection.packing import first_fit_decreasing, pack
from lmbench.data.selection.report import coverage, words
from lmbench.data.selection.scores import compression, excess, ngram_nll, per_byte, percentile
from lmbench.data.selection.units import cut
from lmbench.measure.ngram import NGram


def generator(seed=0):
    return np.random.default_rng(seed)


def units(*lengths, domains=None, piece=10, vocab_size=6):
    """Documents of these lengths cut into pieces; each token has as many bytes as its id."""
    n = sum(lengths)
    ends = np.cumsum(lengths).tolist()
    ids_N = generator().integers(0, vocab_size, n)
    bounds = [(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    names = domains or ["all"] * len(lengths)
    return cut(ids_N, bounds=bounds, domain_B=names, bytes_N=ids_N, piece=piece)


# ------------------------------------------------------------------ units


def test_documents_are_cut_at_a_fixed_number_of_tokens():
    made = units(25, 10, domains=["b", "a"])
    assert list(zip(made.start_U.tolist(), made.end_U.tolist(), strict=True)) == [
        (0, 10),
        (10, 20),
        (20, 25),
        (25, 35),
    ]
    assert made.document_U.tolist() == [0, 0, 0, 1]
    assert made.domains == ("a", "b") and made.domain_U.tolist() == [1, 1, 1, 0]
    assert made.bytes_U.tolist() == [made.of(unit).sum() for unit in range(4)]


def test_without_a_piece_a_unit_is_a_document():
    assert units(25, 10, piece=None).tokens_U.tolist() == [25, 10]


# ------------------------------------------------------------------ scores


@pytest.mark.parametrize("order", [0, 1, 3])
def test_the_ngram_is_that_which_a_fit_on_all_other_units_gives(order):
    made = units(25, 13, 40, 2)
    fast = ngram_nll(made, vocab_size=6, order=order)
    assert len(fast) == order + 1
    for unit, own in enumerate(made.every()):
        others = [ids for at, ids in enumerate(made.every()) if at != unit]
        slow = NGram(others, vocab_size=6, max_order=order).nll_by_order([own])
        for depth, nll_N in slow:
            assert fast[depth][made.start_U[unit] : made.end_U[unit]] == pytest.approx(nll_N, rel=1e-9)


def test_one_unit_alone_is_scored_by_the_uniform_distribution():
    assert ngram_nll(units(8), vocab_size=6, order=2)[2] == pytest.approx([math.log(6)] * 8)


def test_nats_per_byte_leave_out_tokens_without_a_prediction():
    made = units(4, piece=2)
    nll_N = np.array([math.nan, 3.0, 1.0, 2.0])
    size = made.bytes_N
    assert per_byte(made, nll_N) == pytest.approx([3 / max(1, size[1]), 3 / max(1, size[2] + size[3])])


def test_excess_is_clipped_at_zero():
    assert excess(np.array([3.0, 1.0]), np.array([1.0, 3.0])).tolist() == [2.0, 0.0]


def test_compression_is_harder_for_less_regular_text():
    easy, hard = b"ab" * 200, bytes(generator().integers(0, 256, 400).tolist())
    assert compression([easy, hard]).tolist() == [len(zlib.compress(easy, 9)) / 400, compression([hard])[0]]
    assert compression([easy])[0] < 0.1 < 1 < compression([hard])[0]


def test_percentiles_are_within_the_domain_and_equal_scores_share_theirs():
    score = np.array([10.0, 20.0, 0.1, 0.3, 0.3, 0.2])
    domain = np.array([0, 0, 1, 1, 1, 1])
    assert percentile(score, domain_U=domain).tolist() == [0.25, 0.75, 0.125, 0.75, 0.75, 0.375]


# ------------------------------------------------------------------ quotas


def test_largest_remainders_add_up_and_ties_go_to_the_first():
    assert quotas.largest_remainder(10, np.array([0.55, 0.25, 0.2])).tolist() == [6, 2, 2]  # 5.5 2.5 2.0
    assert quotas.largest_remainder(7, np.array([1.0, 1.0, 1.0])).tolist() == [3, 2, 2]
    assert quotas.largest_remainder(100, np.array([47, 16, 15.8, 12, 6.1, 3.1])).tolist() == [
        47,
        16,
        16,
        12,
        6,
        3,
    ]


def test_temperature_one_is_natural_and_zero_is_uniform():
    tokens = np.array([60, 30, 10, 0])
    assert quotas.tempered(tokens, tau=1.0) == pytest.approx([0.6, 0.3, 0.1, 0])
    assert quotas.tempered(tokens, tau=0.0) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert quotas.tempered(np.array([90, 10]), tau=0.5) == pytest.approx([0.75, 0.25])  # 3 to 1


def test_excess_losses_tilt_the_shares_and_negative_ones_count_as_none():
    tokens = np.array([50, 50])
    tilted = quotas.by_excess(tokens, np.array([math.log(3), -5.0]), smoothing=0.0)
    assert tilted == pytest.approx([0.75, 0.25])
    assert quotas.by_excess(tokens, np.array([math.log(3), 0.0]), step=0.0) == pytest.approx([0.5, 0.5])
    smooth = quotas.by_excess(np.array([99, 1]), np.array([100.0, 0.0]), smoothing=0.01)
    assert smooth == pytest.approx([0.995, 0.005])


def test_a_domain_that_cannot_fill_its_quota_gives_all_and_others_share_the_rest():
    weights = np.array([0.5, 0.3, 0.2])
    assert quotas.allot(100, weights, available_D=np.array([20, 1000, 1000])).tolist() == [20, 48, 32]
    assert quotas.allot(100, weights, available_D=np.array([20, 30, 10])).tolist() == [20, 30, 10]
    assert quotas.allot(100, weights, available_D=np.array([1000, 1000, 1000])).tolist() == [50, 30, 20]
    unwanted = quotas.allot(100, np.array([1.0, 0.0]), available_D=np.array([60, 70]))
    assert unwanted.tolist() == [60, 40], "a domain of weight 0 only helps out"


def test_the_last_unit_is_cut_where_the_quota_ends():
    chosen, tokens = quotas.fill([3, 0, 1], tokens_U=np.array([10, 10, 10, 10]), quota=15)
    assert chosen.tolist() == [3, 0] and tokens.tolist() == [10, 5]
    assert quotas.fill([3, 0], tokens_U=np.array([10, 10, 10, 10]), quota=0)[0].size == 0


# ------------------------------------------------------------------ choosing


def choice(made, **settings):
    return choose(made, **({"share": 0.5, "rule": "stratified", "generator": generator()} | settings))


@pytest.mark.parametrize("rule", ["random", "stratified", "filtered"])
def test_every_rule_keeps_exactly_the_share_of_tokens(rule):
    made = units(95, 203, 41, domains=["a", "b", "a"])
    chosen = choice(made, share=0.35, rule=rule, score_U=generator(1).random(len(made)))
    assert chosen.kept.tokens_U.sum() == round(0.35 * 339) == chosen.report.domains["kept_tokens"].sum()
    assert chosen.index_K.tolist() == sorted(set(chosen.index_K.tolist()))
    assert (chosen.kept.start_U == made.start_U[chosen.index_K]).all()
    assert (chosen.kept.end_U <= made.end_U[chosen.index_K]).all()


def test_strata_keep_every_domain_at_its_quota():
    made = units(300, 100, domains=["a", "b"])
    report = choice(made, share=0.3).report
    assert report.domains["kept_tokens"].tolist() == report.domains["quota"].tolist() == [90, 30]
    assert report.domains["of_quota"].tolist() == pytest.approx([1.0, 1.0])
    assert report.share == pytest.approx(0.3)


@pytest.mark.parametrize("band, kept", [("low", [0, 1]), ("mid", [2, 3]), ("high", [4, 5])])
def test_a_band_keeps_one_end_or_the_middle_of_the_ranking(band, kept):
    made = units(60)
    chosen = choice(made, share=1 / 3, rule="filtered", band=band, score_U=np.arange(6.0))
    assert chosen.index_K.tolist() == kept


def test_the_middle_is_that_of_each_domain():
    made = units(30, 30, domains=["a", "b"])
    score = np.array([1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
    assert choice(made, share=1 / 3, rule="filtered", score_U=score).index_K.tolist() == [1, 4]


def test_equal_scores_are_decided_by_the_generator_as_under_random_rules():
    made = units(200)
    same = choice(made, rule="filtered", score_U=np.zeros(20))
    assert same.index_K.tolist() == choice(made).index_K.tolist()
    other = choice(made, rule="filtered", score_U=np.zeros(20), generator=generator(1))
    assert same.index_K.tolist() != other.index_K.tolist()


def test_copies_are_removed_before_anything_is_scored():
    made = units(40)
    found = {"exact": Found({3: 0}, {3: 1.0}), "near": Found({3: 0, 2: 1}, {3: 1.0, 2: 0.8})}
    chosen = choice(made, share=1.0, duplicates=found, rule="filtered", score_U=np.arange(4.0), band="high")
    assert chosen.index_K.tolist() == [0, 1]
    stages = chosen.report.stages.set_index("stage")
    assert stages["units"].to_dict() == {"exact": 1, "near": 1, "quota": 0}
    assert stages["tokens"].to_dict() == {"exact": 10, "near": 10, "quota": 0}


def test_all_removed_and_kept_tokens_are_those_of_the_text():
    made = units(95, 203, domains=["a", "b"])
    report = choice(made, share=0.4, duplicates={"exact": Found({1: 0})}).report
    for size in ("tokens", "bytes"):
        whole, kept = report.domains[size].sum(), report.domains[f"kept_{size}"].sum()
        assert report.stages[size].sum() + kept == whole
    assert report.metrics()["kept_share"] == pytest.approx(0.4, abs=0.002)
    assert report.metrics()["removed_tokens_exact"] == 10


def test_the_order_is_from_easy_to_hard_within_what_is_kept():
    made = units(40)
    chosen = choice(made, share=1.0, difficulty_U=np.array([3.0, 1.0, 2.0, 0.0]))
    assert chosen.order.tolist() == [3, 1, 2, 0]
    assert chosen.difficulty_K.tolist() == [0.875, 0.375, 0.625, 0.125]
    assert choice(made, share=1.0).order.tolist() == [0, 1, 2, 3]


def test_a_share_without_a_token_is_refused():
    with pytest.raises(ValueError, match="select.share = 0.01 of a text of 40 tokens leaves nothing"):
        choice(units(40), share=0.01)


def test_filtering_without_scores_is_refused():
    with pytest.raises(ValueError, match="rule = 'filtered' needs a score"):
        choice(units(40), rule="filtered")


# ------------------------------------------------------------------ pacing


def test_competence_grows_with_the_root_of_progress_to_all():
    assert competence(0.0, start=0.1) == pytest.approx(0.1)
    assert competence(1.0, start=0.1) == 1.0
    assert competence(0.5, start=0.0) == pytest.approx(math.sqrt(0.5))
    assert competence(0.25, start=0.6) == pytest.approx(math.sqrt(0.25 * 0.64 + 0.36))
    assert {competence(p / 7, start=1.0) for p in range(8)} == {1.0}


def test_pools_grow_and_hold_at_least_the_easiest():
    difficulty = np.array([0.3, 0.3, 0.5, 0.9])
    assert pools(difficulty, steps=4, start=0.1).tolist() == [2, 3, 3, 3]  # c = .1 .507 .711 .868
    assert pools(difficulty, steps=2, start=1.0).tolist() == [4, 4]


# ------------------------------------------------------------------ packing


def test_first_fit_decreasing_places_long_items_first():
    assert first_fit_decreasing(np.array([2, 5, 4, 7, 1, 3, 8]), room=10).tolist() == [0, 2, 2, 1, 2, 1, 0]
    assert first_fit_decreasing(np.array([], dtype=int), room=10).tolist() == []


def test_an_item_that_fits_no_bin_is_refused():
    with pytest.raises(ValueError, match="length 11 does not fit into a bin of 10"):
        first_fit_decreasing(np.array([11]), room=10)


@pytest.mark.parametrize(
    "packing, rows, padding", [("separate", 6, 19 / 48), ("masked", 4, 3 / 32), ("concatenate", 4, 3 / 32)]
)
def test_rows_hold_every_target_once_and_the_rest_is_padding(packing, rows, padding):
    made = units(18, 3, 7, 5, piece=None)  # 17, 2, 6 and 4 targets: chunks 8 8 1, 2, 6, 4
    packed = pack(made, seq_len=8, packing=packing)
    assert packed.place_RT.shape == (rows, 8)
    assert packed.padding == pytest.approx(padding)
    placed = sorted(packed.place_RT[packed.place_RT >= 0].tolist())
    assert placed == [*range(17), 18, 19, *range(21, 27), *range(28, 32)]  # none is the last of a unit


def test_a_unit_that_fills_its_rows_takes_no_empty_one():
    packed = pack(units(17, piece=None), seq_len=8, packing="separate")
    assert packed.place_RT.tolist() == [list(range(8)), list(range(8, 16))] and packed.padding == 0


def test_separate_rows_never_mix_units():
    made = units(18, 3, 7, 5, piece=None)
    unit_N = made.unit_N()
    packed = pack(made, seq_len=8, packing="separate")
    for row, unit in zip(packed.place_RT, packed.unit_R, strict=True):
        assert set(unit_N[row[row >= 0]]) == {unit}


def test_a_segment_is_named_by_the_place_at_which_it_starts():
    made = units(18, 3, 7, 5, piece=None)  # 17, 2, 6 and 4 targets: chunks 8 8 1, 2, 6, 4
    packed = pack(made, seq_len=8, packing="masked")
    assert packed.place_RT.tolist() == [
        list(range(8)),
        list(range(8, 16)),
        [18, 19, *range(21, 27)],
        [16, *range(28, 32), -1, -1, -1],
    ]
    # Padding is a segment of its own, behind the last.
    assert packed.segment_RT.tolist() == [[0] * 8, [0] * 8, [0] * 2 + [2] * 6, [0] + [1] * 4 + [5] * 3]
    unit_N = made.unit_N()
    for place_T, segment_T in zip(packed.place_RT, packed.segment_RT, strict=True):
        for start in set(segment_T[place_T >= 0]):
            mine_T = segment_T == start
            assert len(set(unit_N[place_T[mine_T]])) == 1 and mine_T.argmax() == start


def test_rows_that_are_not_divided_have_no_segments_and_lie_as_those_that_are():
    made = units(18, 3, 7, 5, piece=None)
    packed = {how: pack(made, seq_len=8, packing=how) for how in ("separate", "masked", "concatenate")}
    assert packed["separate"].segment_RT is None and packed["concatenate"].segment_RT is None
    assert (packed["masked"].place_RT == packed["concatenate"].place_RT).all()


@pytest.mark.parametrize("packing", ["masked", "concatenate"])
def test_a_mixed_row_counts_as_its_hardest_unit(packing):
    made = units(3, 4, piece=None)
    packed = pack(made, seq_len=8, packing=packing, difficulty_U=np.array([0.9, 0.2]))
    assert packed.unit_R.tolist() == [0] and packed.place_RT.tolist() == [[0, 1, 3, 4, 5, -1, -1, -1]]


# ------------------------------------------------------------------ coverage


def test_coverage_counts_types_occurrences_and_rare_types():
    whole = [np.array([1, 1, 1, 1, 2, 3])]
    table = coverage(whole, [np.array([1, 2])], orders=(1, 2)).set_index("n")
    assert table.loc[1, "types"] == pytest.approx(2 / 3)
    assert table.loc[1, "occurrences"] == pytest.approx(5 / 6)
    assert table.loc[1, "rare"] == pytest.approx(1 / 2)  # 2 and 3 occur once, 1 four times
    assert table.loc[2, "types"] == pytest.approx(1 / 3)  # 12 of 11, 12, 23
    assert table.loc[1, "n_types"] == 3 and table.loc[1, "n_rare"] == 2


def test_the_whole_covers_itself():
    table = coverage(units(40).every(), units(40).every())
    assert (table[["types", "occurrences", "rare"]].to_numpy() == 1).all()


def test_words_are_the_same_whatever_their_case():
    one, other = words(["The king, the King.", "A king!"])
    assert one.tolist() == [2, 1, 2, 1] and other.tolist() == [0, 1]
