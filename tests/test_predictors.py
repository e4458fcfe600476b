"""Reference predictors: distributions that sum to 1, hand-computed values, known corpus values."""

import bz2
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lmbench.measure.compressors import COMPRESSORS, compressed_bytes
from lmbench.measure.ngram import SMOOTHINGS, NGram
from lmbench.measure.predictors import reference_rows

# "a b a c" and "b a" over the vocabulary a, b, c, d; d never occurs.
TINY = [np.array([0, 1, 0, 2]), np.array([1, 0])]


def random_documents(seed, *, vocab_size, lengths):
    rng = np.random.default_rng(seed)
    return [np.minimum(rng.geometric(0.3, size=length) - 1, vocab_size - 1) for length in lengths]


def score(documents, split, *, order, vocab_size, smoothing="witten_bell"):
    model = NGram(documents, vocab_size=vocab_size, max_order=order, smoothing=smoothing)
    return dict(model.nll_by_order(split))


def grams(documents, length):
    """Counter of the grams of a length, none across documents."""
    found = Counter()
    for document in documents:
        found.update(tuple(document[i : i + length].tolist()) for i in range(len(document) - length + 1))
    return found


def slow_probability(documents, history, token, *, order, vocab_size, smoothing, highest=True):
    """The definition, gram by gram, with dictionaries."""
    if order < 0:
        return 1 / vocab_size
    lower = slow_probability(
        documents, history, token, order=order - 1, vocab_size=vocab_size, smoothing=smoothing, highest=False
    )
    if len(history) < order:
        return lower
    counts = grams(documents, order + 1)
    if smoothing != "witten_bell" and not highest:
        left = Counter(gram[1:] for gram in grams(documents, order + 2))
        left.update({tuple(d[: order + 1].tolist()) for d in documents if len(d) > order})
        counts = left
    context = tuple(history[len(history) - order :])
    after = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == context}
    if not after:
        return lower
    total, count = sum(after.values()), after.get(token, 0)
    if smoothing == "witten_bell":
        return (count + len(after) * lower) / (total + len(after))
    n1, n2, n3, n4 = (sum(c == k for c in counts.values()) + 0.5 for k in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    discount = [0, y, y, y]
    if smoothing == "modified_kneser_ney":
        discount = [0, y, max(y, 2 - 3 * y * n3 / n2), max(y, 3 - 4 * y * n4 / n3)]
    taken = sum(discount[min(c, 3)] for c in after.values())
    return (count - discount[min(count, 3)] + taken * lower) / total


# ------------------------------------------------------------------ n-grams


def test_witten_bell_unigram_by_hand():
    # a 3, b 2, c 1: N = 6, T = 3, and 3/9 of the mass is spread evenly over four tokens.
    nll = score(TINY, [np.array([0, 1, 2, 3])], order=0, vocab_size=4)[0]
    assert np.exp(-nll) == pytest.approx(np.array([3 + 0.75, 2 + 0.75, 1 + 0.75, 0.75]) / 9)


def test_witten_bell_bigram_by_hand():
    # After a came b once and c once: N = 2, T = 2. P(b | a) = (1 + 2 * P(b)) / 4 with P(b) = 2.75/9.
    nll = score(TINY, [np.array([0, 1])], order=1, vocab_size=4)[1]
    assert math.exp(-nll[1]) == pytest.approx((1 + 2 * 2.75 / 9) / 4)


def test_first_token_of_a_document_is_predicted_by_the_unigram():
    found = score(TINY, [np.array([1, 0]), np.array([1, 0])], order=1, vocab_size=4)
    assert found[1][2] == found[0][2] == found[1][0]


def test_histories_do_not_cross_training_documents():
    apart = score([np.array([0, 1]), np.array([2, 3])], [np.array([1, 2])], order=1, vocab_size=4)
    # 1 was never followed by anything, so 2 after it costs what the unigram says.
    assert apart[1][1] == apart[0][1]
    joined = score([np.array([0, 1, 2, 3])], [np.array([1, 2])], order=1, vocab_size=4)
    assert joined[1][1] < joined[0][1]


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_distribution_sums_to_one_after_any_history(smoothing):
    documents = random_documents(0, vocab_size=7, lengths=[200, 3, 1, 60])
    model = NGram(documents, vocab_size=9, max_order=5, smoothing=smoothing)
    seen = documents[0][20:25]
    histories = [
        seen,
        documents[0][-5:],
        seen[:2],
        np.array([], int),
        np.array([8, 8, 8, 8, 8]),
        np.append(8, seen),
    ]
    for history in histories:
        for order in range(6):
            p = model.distribution(history, order=order)
            assert p.sum() == pytest.approx(1, abs=1e-12)
            assert (p > 0).all()


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_array_scores_equal_the_definition(smoothing, order):
    documents = random_documents(1, vocab_size=4, lengths=[30, 12, 2])
    split = random_documents(2, vocab_size=5, lengths=[15, 4])
    nll = score(documents, split, order=order, vocab_size=5, smoothing=smoothing)[order]
    slow = [
        slow_probability(documents, d[:i].tolist(), int(d[i]), order=order, vocab_size=5, smoothing=smoothing)
        for d in split
        for i in range(len(d))
    ]
    assert np.exp(-nll) == pytest.approx(slow, rel=1e-12)


def test_orders_of_one_pass_equal_separate_fits():
    documents = random_documents(3, vocab_size=6, lengths=[300])
    split = random_documents(4, vocab_size=6, lengths=[80])
    for smoothing in SMOOTHINGS:
        together = score(documents, split, order=4, vocab_size=6, smoothing=smoothing)
        for order in range(5):
            alone = score(documents, split, order=order, vocab_size=6, smoothing=smoothing)[order]
            np.testing.assert_array_equal(together[order], alone)


def test_word_vocabulary_keys_do_not_collide():
    # The largest ids of a large vocabulary: a 32-bit product would wrap around.
    v = 40_000
    ids = np.random.default_rng(5).integers(v - 300, v, size=20_000)
    expected = Counter(zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True))
    model = NGram([ids], vocab_size=v, max_order=1)
    (h, w), count = expected.most_common(1)[0]
    after = [c for (first, _), c in expected.items() if first == h]
    unigram = (Counter(ids.tolist())[w] + len(set(ids.tolist())) / v) / (len(ids) + len(set(ids.tolist())))
    by_hand = (count + len(after) * unigram) / (sum(after) + len(after))
    scored = dict(model.nll_by_order([np.array([h, w])]))[1][1]
    assert math.exp(-scored) == pytest.approx(by_hand, rel=1e-12)


def test_unknown_smoothing_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown smoothing 'witten-bell'.*Did you mean 'witten_bell'"):
        NGram(TINY, vocab_size=4, max_order=2, smoothing="witten-bell")


def test_negative_order_is_refused():
    with pytest.raises(ValueError, match="order is -1; it counts preceding tokens"):
        NGram(TINY, vocab_size=4, max_order=-1)


def test_empty_training_text_is_refused():
    with pytest.raises(ValueError, match="needs at least 1 training token, got 0"):
        NGram([np.array([], int)], vocab_size=4, max_order=2)


@pytest.mark.parametrize("bad", [4, -1])
def test_id_outside_the_vocabulary_is_refused(bad):
    with pytest.raises(ValueError, match=f"token id {bad} is outside the vocabulary 0 ... 3"):
        NGram([np.array([0, bad, 1])], vocab_size=4, max_order=1)


def test_bare_array_in_place_of_documents_is_refused():
    with pytest.raises(ValueError, match=r"must be a list of id arrays, got one array; write \[ids\]"):
        NGram(np.array([0, 1]), vocab_size=4, max_order=1)


# ------------------------------------------------------------------ compressors


def test_compressor_counts_every_byte_of_its_output():
    text = b"to be or not to be " * 20
    assert compressed_bytes(text, name="bz2") == len(bz2.compress(text))


def test_prefix_of_the_same_text_makes_it_almost_free():
    text = np.random.default_rng(0).bytes(4000)
    assert compressed_bytes(text, name="xz") > 4000
    assert compressed_bytes(text, name="xz", prefix=text) < 200


def test_unknown_compressor_and_empty_text_are_refused():
    with pytest.raises(ValueError, match=r"unknown compressor 'bzip2'.*Did you mean 'bz2'"):
        compressed_bytes(b"a", name="bzip2")
    with pytest.raises(ValueError, match="zlib needs at least 1 byte of text, got 0"):
        compressed_bytes(b"", name="zlib")


# ------------------------------------------------------------------ the rows


def rows_of(**changes):
    split = [np.array([0, 1, 0, 0]), np.array([2, 1])]
    given = {
        "train_ids": TINY,
        "split_ids": split,
        "n_bytes": [np.array([1, 2, 1, 1]), np.array([3, 2])],
        "vocab_size": 4,
        "split_text": b"abbaacccbb",
        "first_target": 0,
    }
    return reference_rows(**(given | changes)).set_index(["predictor", "order", "smoothing"])


def one(table, predictor):
    return table.xs(predictor, level="predictor").iloc[0]


def test_uniform_costs_the_logarithm_of_the_vocabulary():
    row = one(rows_of(), "uniform")
    assert row["nll"] == pytest.approx(math.log(4))
    # 6 tokens of 2 bits over 10 bytes.
    assert row["bits_per_byte"] == pytest.approx(12 / 10)
    assert (row["n"], row["bytes"]) == (6, 10)


def test_unigram_adds_half_a_count():
    row = one(rows_of(n_targets=3), "unigram")
    # Train a 3, b 2, c 1, with 4 halves: 8. Targets a b a.
    assert row["nll"] == pytest.approx(-(2 * math.log(3.5 / 8) + math.log(2.5 / 8)) / 3)


def test_cap_scores_the_first_targets_with_their_bytes_only():
    table = rows_of(n_targets=3)
    assert set(table["n"]) == {3}
    assert set(table["bytes"]) == {4}
    assert one(table, "bz2")["bits_per_byte"] == pytest.approx(8 * len(bz2.compress(b"abba")) / 4)


def test_tokens_before_the_first_target_are_history_only():
    table = rows_of(first_target=1)
    assert set(table["n"]) == {4}
    # a | b a a and c | b b without the first of each: bytes 2 + 1 + 1 + 2.
    assert set(table["bytes"]) == {6}
    assert one(table, "xz")["bits_per_byte"] == 8 * compressed_bytes(b"bbaabb", name="xz") / 6
    model = NGram(TINY, vocab_size=4, max_order=2)
    nll = dict(model.nll_by_order([np.array([0, 1, 0, 0]), np.array([2, 1])]))[2]
    assert table.loc[("ngram", 2, "witten_bell"), "nll"] == pytest.approx(nll[[1, 2, 3, 5]].mean())


def test_each_requested_order_and_smoothing_has_a_row():
    table = rows_of(orders=(2, 5), smoothings=("witten_bell", "kneser_ney"))
    found = [index for index in table.index if index[0] == "ngram"]
    assert found == [("ngram", o, s) for s in ("witten_bell", "kneser_ney") for o in (2, 5)]


def test_lossy_split_has_no_bits_per_byte_but_for_compressors():
    table = rows_of(n_bytes=None, first_target=1)
    assert one(table, "unigram")["nll"] > 0
    assert math.isnan(one(table, "unigram")["bits_per_byte"])
    assert math.isnan(one(table, "bz2")["nll"])
    assert one(table, "bz2")["bits_per_byte"] == pytest.approx(8 * len(bz2.compress(b"abbaacccbb")) / 10)


def test_compressors_are_left_out_without_text_and_doubled_with_train_text():
    assert not set(COMPRESSORS) & set(rows_of(split_text=None).index.get_level_values(0))
    table = rows_of(train_text=b"abbaacccbb" * 9)
    assert one(table, "xz after train")["bits_per_byte"] < one(table, "xz")["bits_per_byte"]


def test_rows_that_cannot_be_made_are_refused():
    with pytest.raises(ValueError, match="n_targets is 7; the split has 6 targets"):
        rows_of(n_targets=7)
    with pytest.raises(ValueError, match="the split has no target: it holds 6 tokens, first_target 9"):
        rows_of(first_target=9)
    with pytest.raises(ValueError, match="n_bytes has 4 entries for 6 tokens"):
        rows_of(n_bytes=[np.array([1, 2, 1, 1])])
    with pytest.raises(ValueError, match="n_bytes add up to 10 bytes, split_text has 9"):
        rows_of(split_text=b"abbaacccb")
    with pytest.raises(ValueError, match="cannot be cut to n_targets without n_bytes"):
        rows_of(n_bytes=None, n_targets=2)


def test_known_values_on_tiny_shakespeare():
    root = os.environ.get("LMBENCH_DATA")
    path = Path(root or ".") / "tiny_shakespeare" / "input.txt"
    if not root or not path.is_file():
        pytest.skip("needs $LMBENCH_DATA/tiny_shakespeare/input.txt")
    text = path.read_text()
    ids = np.searchsorted(sorted(set(text)), list(text))
    cut = int(0.9 * len(text))
    table = reference_rows(
        train_ids=[ids[:cut]],
        split_ids=[ids[cut:]],
        n_bytes=[np.ones(len(ids) - cut, int)],
        vocab_size=65,
        split_text=text[cut:].encode(),
        first_target=0,
        smoothings=("witten_bell", "modified_kneser_ney"),
    ).set_index(["predictor", "order", "smoothing"])["bits_per_byte"]
    assert one(table.to_frame(), "unigram").item() == pytest.approx(4.829, abs=5e-4)
    assert table[("ngram", 4, "witten_bell")] == pytest.approx(2.408, abs=5e-4)
    assert one(table.to_frame(), "bz2").item() == pytest.approx(2.635, abs=5e-4)
    # Counting alone goes further with better smoothing.
    assert table[("ngram", 5, "modified_kneser_ney")] == pytest.approx(2.1967, abs=5e-4)
