"""Densities and the bits of sparse tensors."""

import pytest

from lmbench.config import make
from lmbench.measure.sparsity import densities, nonzero_flops, stored_bits
from lmbench.methods.equipment import Equipment

SIZES = {"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_head": 2, "n_layer": 1, "d_ff": 24}


def equipped(*methods):
    made = Equipment.of(make("model", "transformer", **SIZES), methods, init_seed=0, steps=1)
    made.settle()
    return densities(made).set_index("weight")


def test_a_tenth_of_the_weights_in_eight_bits_is_smaller_by_17_8_or_25_2_or_13_3():
    """Against 32 bits: the published promise is 8 times 10."""
    bits = stored_bits(0.1, bits=8)
    assert bits.dense == 8
    assert 32 / bits.bitmask == pytest.approx(17.8, abs=0.03)
    assert 32 / bits.entropy == pytest.approx(25.2, abs=0.03)
    assert 32 / bits.csr16 == pytest.approx(13.3, abs=0.04)
    assert bits.entropy == pytest.approx(1.269, abs=0.0005)


def test_a_dense_tensor_has_a_mask_without_information():
    bits = stored_bits(1.0, bits=4)
    assert (bits.bitmask, bits.entropy, bits.csr16) == (5, 4, 20)
    assert stored_bits(0.0, bits=4).entropy == 0
    assert stored_bits(1.0, bits=1.58).dense == pytest.approx(1.585, abs=0.0001)


def test_a_density_that_is_no_share_is_refused():
    with pytest.raises(ValueError, match="density = 1.5 is no share of surviving weights"):
        stored_bits(1.5, bits=8)


def test_rounding_makes_zeros_that_masks_have_not_made():
    prune = make("method", "prune", density=0.5, parts=("q", "feedforward"))
    table = equipped(prune, make("method", "quantize", bits=2, parts=("feedforward",)))
    up = table.loc["blocks.0.feedforward.up.weight"]
    assert up["structural"] == 0.5
    assert 0 < up["effective"] < 0.5
    assert up["sparsity"] == 1 - up["effective"]
    packed = table.loc["blocks.0.attention.in_proj.weight"]
    assert packed["structural"] == packed["effective"] == pytest.approx((0.5 + 2) / 3)
    assert table.loc["head.linear.weight", "structural"] == 1


def test_the_last_row_is_of_all_weights_together():
    table = equipped(make("method", "prune", density=0.25))
    body = table[table["role"].isin(["mixer", "feedforward"])]
    others = table["size"]["all"] - body["size"].sum()
    assert table.index[-1] == "all"
    assert table["size"]["all"] == table["size"].iloc[:-1].sum()
    assert table["structural"]["all"] == (0.25 * body["size"].sum() + others) / table["size"]["all"]
    assert (body["structural"] == 0.25).all()


def test_nonzero_flops_are_those_of_surviving_weights():
    table = equipped(make("method", "prune", density=0.25, parts=("feedforward",))).reset_index()
    flops = {"blocks.0.feedforward.up.weight": 800, "blocks.0.attention.out_proj.weight": 100}
    assert nonzero_flops(flops, table) == (900, 300)
    with pytest.raises(ValueError, match="unknown weight 'up'; accepted: all, blocks"):
        nonzero_flops({"up": 1}, table)


def test_a_model_without_methods_is_dense():
    table = equipped()
    assert (table["structural"] == 1).all()
