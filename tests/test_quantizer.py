"""Quantisers: their grids, scales, gradients, blocks, and what they leave alone."""

import pytest
import torch
from torch.func import functional_call, grad, vmap

from lmbench.layers.quantizer import (
    FoundQuantizer,
    LearnedQuantizer,
    Rows,
    Switch,
    learned_quantizer,
    straight,
)
from lmbench.layers.quantizer_activations import ActivationQuantizer
from lmbench.layers.quantizer_grids import (
    BITS,
    Blocks,
    Grid,
    best_scale,
    check_bits,
    found_scale,
    learned_scale_start,
    mean_magnitude,
)

ROW = torch.tensor([[-4.0, -1.0, 0.0, 0.9, 2.0]])
FEW = [bits for bits in BITS if bits < 32]


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ------------------------------------------------------------------ grids and scales


@pytest.mark.parametrize(
    ("bits", "symmetric", "full"),
    [(1, (-1, 1), (-1, 1)), (1.58, (-1, 1), (-1, 1)), (2, (-1, 1), (-2, 1)), (8, (-127, 127), (-128, 127))],
)
def test_a_symmetric_grid_leaves_out_the_lowest_code_of_the_full_one(bits, symmetric, full):
    for grid, codes in ((Grid.symmetric(bits), symmetric), (Grid.full(bits), full)):
        assert (grid.low, grid.high) == codes


def test_the_largest_magnitude_is_the_last_code():
    grid = Grid.symmetric(3)
    scale = found_scale(ROW, grid)
    assert scale.tolist() == [[pytest.approx(4 / 3)]]
    # -4, -1, 0, .9, 2 in units of 4/3: -3, -.75, 0, .675, 1.5, of which the last rounds to even.
    assert grid.codes(ROW, scale).tolist() == [[-3, -1, 0, 1, 2]]


def test_three_values_take_the_mean_magnitude_of_what_is_not_masked():
    # Over the four that are not 0: (4 + 1 + .9 + 2) / 4.
    assert mean_magnitude(ROW).item() == pytest.approx(7.9 / 4)
    grid = Grid.symmetric(1.58)
    assert grid.codes(ROW, found_scale(ROW, grid)).tolist() == [[-1, -1, 0, 0, 1]]


def test_one_bit_is_the_sign_times_the_mean_magnitude_and_zero_stays_zero():
    rounded = FoundQuantizer(Blocks((1, 5)), bits=1)(ROW)
    mean = 7.9 / 4
    torch.testing.assert_close(rounded, torch.tensor([[-mean, -mean, 0.0, mean, mean]]))


def test_learned_scales_start_at_twice_the_mean_over_the_root_of_the_last_code():
    assert learned_scale_start(ROW, Grid.full(8)).item() == pytest.approx(2 * 7.9 / 4 / 127**0.5)
    assert learned_scale_start(ROW, Grid.full(1)).item() == pytest.approx(7.9 / 4)


def test_a_row_of_zeros_starts_with_the_scale_of_a_linear_map():
    zeros = torch.zeros(1, 16)
    assert learned_scale_start(zeros, Grid.full(4)).item() == pytest.approx(2 * 0.5 / 4 / 7**0.5)
    for bits in FEW:
        assert not FoundQuantizer(Blocks((1, 16)), bits=bits)(zeros).any()


def test_the_best_clip_is_no_worse_than_the_largest_magnitude_and_better_where_one_is_far_out():
    x = torch.cat((drawn(4, 64), torch.full((4, 1), 6.0)), dim=1)
    for bits in FEW:
        grid = Grid.symmetric(bits)
        error = [
            (grid.codes(x, scale) * scale - x).square().sum()
            for scale in (best_scale(x, grid), found_scale(x, grid))
        ]
        assert error[0] <= error[1], bits
        assert error[0] < 0.8 * error[1] or bits not in (2, 3), bits


@pytest.mark.parametrize(("bits", "published"), [(1, 0.60), (1.58, 0.44), (2, 0.44), (4, 0.12), (6, 0.04)])
def test_the_relative_error_of_normal_weights_is_the_known_one(bits, published):
    x, grid = drawn(1, 200_000), Grid.symmetric(bits)
    scale = best_scale(x, grid)
    error = (grid.codes(x, scale) * scale - x).square().mean().sqrt()
    assert error.item() == pytest.approx(published, abs=0.012)


def test_two_bits_of_a_found_scale_are_the_three_values_of_1_58_and_of_a_learned_one_are_four():
    x, two, three = drawn(4, 64), Grid.symmetric(2), Grid.symmetric(1.58)
    assert [(grid.low, grid.high) for grid in (two, three, Grid.full(2))] == [(-1, 1), (-1, 1), (-2, 1)]
    assert torch.equal(best_scale(x, two), best_scale(x, three)), "the clip of the least squared error"
    assert not torch.equal(found_scale(x, two), found_scale(x, three)), "the largest magnitude and the mean"


def test_bits_without_a_grid_are_refused_with_the_nearest_that_has_one():
    message = r"bits = 7 has no grid; accepted: 1, 1.58, 2, 3, 4, 5, 6, 8, 32. Did you mean 6\?"
    with pytest.raises(ValueError, match=message):
        check_bits(7)


# ------------------------------------------------------------------ blocks


@pytest.mark.parametrize(("granularity", "n", "size"), [("row", 3, 10), ("group", 9, 4), ("tensor", 1, 30)])
@pytest.mark.parametrize("input_first", [False, True])
def test_blocks_come_back_as_the_weight_that_was_cut(granularity, n, size, input_first):
    weight = drawn(10, 3).mT if not input_first else drawn(10, 3)
    blocks = Blocks(tuple(weight.shape), granularity, 4, input_first)
    cut = blocks.split(weight)
    assert (blocks.n, blocks.size, tuple(cut.shape)) == (n, size, (n, size))
    assert torch.equal(blocks.join(cut), weight)
    if granularity == "row":
        assert torch.equal(cut[0], weight[:, 0] if input_first else weight[0])


def test_the_last_group_of_a_row_is_filled_up_with_zeros_that_change_no_scale():
    blocks = Blocks((1, 5), "group", 4)
    assert blocks.split(ROW).tolist() == [[-4, -1, 0, pytest.approx(0.9)], [2, 0, 0, 0]]
    assert mean_magnitude(blocks.split(ROW))[1].item() == 2


def test_experts_have_rows_of_their_own_and_tensors_do_not():
    experts = torch.stack((torch.ones(2, 4), 100 * drawn(2, 4)))
    by_row = FoundQuantizer(Blocks((2, 2, 4)), bits=2)(experts)
    assert torch.equal(by_row[0], experts[0])
    assert not FoundQuantizer(Blocks((2, 2, 4), "tensor"), bits=2)(experts)[0].any()


def test_an_unknown_granularity_is_refused():
    with pytest.raises(ValueError, match=r"unknown granularity 'rows'; .* Did you mean 'row'\?"):
        Blocks((2, 2), "rows")


# ------------------------------------------------------------------ gradients


def test_straight_through_is_the_value_to_the_bit_with_the_gradient_of_the_other():
    x = drawn(1000).requires_grad_()
    value = (x * 0.1).round() / 3
    passed = straight(value, through=x)
    assert torch.equal(passed, value)
    passed.sum().backward()
    assert torch.equal(x.grad, torch.ones(1000))


@pytest.mark.parametrize("bits", FEW)
def test_a_found_scale_lets_the_whole_gradient_through(bits):
    weight = drawn(3, 8).requires_grad_()
    factors = drawn(3, 8, seed=1)
    (FoundQuantizer(Blocks((3, 8)), bits=bits)(weight) * factors).sum().backward()
    assert torch.equal(weight.grad, factors)


def test_learned_scales_have_the_published_gradients():
    """s = 1/2 and 3 bits, codes -4 .. 3: one value below, one above, three inside."""
    x = torch.tensor([-3.0, 9.0, 0.6, -0.8, 0.1], dtype=torch.float64, requires_grad=True)
    s = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    rounded = learned_quantizer(x, s, grid=Grid.full(3))
    assert rounded.tolist() == [-2.0, 1.5, 0.5, -1.0, 0.0]
    of_x = torch.autograd.grad(rounded.sum(), x, retain_graph=True)[0]
    assert of_x.tolist() == [0, 0, 1, 1, 1]
    # At the rails -Qn and Qp; inside round(x/s) - x/s with x/s = 1.2, -1.6, .2.
    for at, expected in enumerate((-4, 3, 1 - 1.2, -2 + 1.6, 0 - 0.2)):
        of_s = torch.autograd.grad(rounded[at], s, retain_graph=True)[0]
        assert of_s.item() == pytest.approx(expected, abs=1e-12)


def test_the_gradient_scale_changes_the_gradient_of_the_step_alone():
    x, s = drawn(6, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    plain = learned_quantizer(x, s, grid=Grid.full(4))
    scaled = learned_quantizer(x, s, grid=Grid.full(4), gradient_scale=0.25)
    assert torch.equal(plain, scaled)
    of = [torch.autograd.grad((y * x).sum(), s)[0].item() for y in (plain, scaled)]
    assert of[1] == pytest.approx(0.25 * of[0])


def test_a_learned_quantiser_scales_its_gradient_by_the_root_of_weights_times_codes():
    weight = drawn(2, 16, dtype=torch.float64)
    module = LearnedQuantizer(Blocks((2, 16)), bits=4, weight=weight).double()
    of_factor = torch.autograd.grad(module(weight)[0].sum(), module.factor)[0]
    scale = module.size[0].clone().requires_grad_()
    of_scale = torch.autograd.grad(learned_quantizer(weight[0], scale, grid=Grid.full(4)).sum(), scale)[0]
    # factor is the scale in units of the size: d/dfactor = size d/ds.
    expected = of_scale * module.size[0] / (16 * 7) ** 0.5
    torch.testing.assert_close(of_factor, torch.stack((expected, torch.zeros_like(expected))))


@pytest.mark.parametrize("bits", [1, 1.58])
def test_learned_scales_below_two_bits_have_two_and_three_values(bits):
    weight = drawn(4, 32)
    module = LearnedQuantizer(Blocks((4, 32)), bits=bits, weight=weight)
    for row, scale in zip(module(weight), module.scale(torch.float32), strict=True):
        assert set((row / scale).tolist()) == ({-1.0, 1.0} if bits == 1 else {-1.0, 0.0, 1.0})
    assert torch.autograd.grad(module(weight).square().sum(), module.factor)[0].all()


def test_a_learned_scale_that_changes_its_sign_stays_positive():
    weight = drawn(1, 8)
    module = LearnedQuantizer(Blocks((1, 8)), bits=4, weight=weight)
    before = module(weight)
    with torch.no_grad():
        module.factor.neg_()
    assert torch.equal(module(weight), before)
    with torch.no_grad():
        module.factor.zero_()
    assert module.scale(torch.float32).item() > 0


# ------------------------------------------------------------------ what is left alone


@pytest.mark.parametrize("bits", FEW)
@pytest.mark.parametrize("granularity", ["row", "group", "tensor"])
@pytest.mark.parametrize("learned", [False, True])
def test_masked_weights_stay_masked(bits, granularity, learned):
    weight = drawn(4, 12) * (drawn(4, 12, seed=1) > 0)
    blocks = Blocks((4, 12), granularity, 5)
    kind = (
        LearnedQuantizer(blocks, bits=bits, weight=weight) if learned else FoundQuantizer(blocks, bits=bits)
    )
    assert not kind(weight)[weight == 0].any()


def test_rounding_twice_changes_nothing():
    for bits in FEW:
        if bits != 1.58:  # whose mean magnitude moves when the small ones go
            quantizer = FoundQuantizer(Blocks((3, 16)), bits=bits)
            once = quantizer(drawn(3, 16))
            torch.testing.assert_close(quantizer(once), once, rtol=1e-6, atol=0)


def test_rows_outside_the_spans_are_the_same_to_the_bit():
    weight = drawn(6, 8)
    inner = [FoundQuantizer(Blocks((2, 8)), bits=2), FoundQuantizer(Blocks((1, 8), "tensor"), bits=1)]
    changed = Rows(((1, 3), (4, 5)), inner)(weight)
    assert torch.equal(changed[[0, 3, 5]], weight[[0, 3, 5]])
    assert torch.equal(changed[1:3], inner[0](weight[1:3]))
    assert torch.equal(changed[4:5], inner[1](weight[4:5]))


def test_a_switch_that_is_off_leaves_weights_to_the_bit_and_their_gradient():
    weight, switch = drawn(2, 8).requires_grad_(), Switch()
    quantizer = FoundQuantizer(Blocks((2, 8)), bits=2, switch=switch)
    assert not torch.equal(quantizer(weight), weight)
    switch.on.fill_(0)
    assert torch.equal(quantizer(weight), weight)
    assert torch.equal(torch.autograd.grad(quantizer(weight).sum(), weight)[0], torch.ones(2, 8))
    assert not list(quantizer.buffers())  # one buffer of the model, not one for each weight


@pytest.mark.parametrize("learned", [False, True])
def test_weights_in_bfloat16_are_rounded_in_float32(learned):
    weight = drawn(4, 64)
    blocks = Blocks((4, 64))
    kind = LearnedQuantizer(blocks, bits=8, weight=weight) if learned else FoundQuantizer(blocks, bits=8)
    narrow = weight.bfloat16()
    rounded = kind(narrow)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded, kind(narrow.float()).bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("granularity", ["row", "group", "tensor"])
def test_stacked_quantisers_are_each_alone(granularity):
    weights, factors = drawn(3, 5, 8), drawn(3, 5, 8, seed=1)
    module = LearnedQuantizer(Blocks((5, 8), granularity, 3), bits=3, weight=weights[0])
    state = {"factor": 1 + 0.1 * drawn(3, module.blocks.n), "size": module.size.expand(3, -1)}

    def loss(weight, held, factor):
        return (functional_call(module, held, (weight,)) * factor).sum()

    together = vmap(grad(loss, argnums=(0, 1)))(weights, state, factors)
    for at in range(3):
        alone = grad(loss, argnums=(0, 1))(weights[at], {k: v[at] for k, v in state.items()}, factors[at])
        torch.testing.assert_close(together[0][at], alone[0])
        torch.testing.assert_close(together[1]["factor"][at], alone[1]["factor"])


# ------------------------------------------------------------------ activations


def test_a_token_is_rounded_by_its_own_largest_feature():
    x = torch.tensor([[[1.0, -2.0, 0.6], [100.0, 20.0, -70.0]]])
    rounded = ActivationQuantizer(bits=3)(x)
    expected = torch.tensor([[[4 / 3, -2.0, 2 / 3], [100.0, 100 / 3, -200 / 3]]])
    torch.testing.assert_close(rounded, expected)


def test_a_later_token_changes_no_earlier_one_to_the_bit():
    quantizer, x = ActivationQuantizer(bits=4), drawn(2, 6, 8)
    before = quantizer(x)
    x[:, 4] *= 1000
    assert torch.equal(quantizer(x)[:, [0, 1, 2, 3, 5]], before[:, [0, 1, 2, 3, 5]])


def test_a_limit_clips_and_stops_the_gradient_outside_of_it():
    x = torch.tensor([-5.0, -1.9, 0.3, 1.4, 7.0], requires_grad=True)
    rounded = ActivationQuantizer(bits=2, limit=2.0)(x)
    assert rounded.tolist() == [-2, -2, 0, 1, 1]  # a step of 1, codes -2 .. 1
    assert torch.autograd.grad(rounded.sum(), x)[0].tolist() == [0, 1, 1, 0, 0]


def test_a_token_of_zeros_stays_zeros_with_a_finite_gradient():
    x = torch.zeros(1, 4, requires_grad=True)
    rounded = ActivationQuantizer(bits=8)(x)
    assert not rounded.any()
    assert torch.autograd.grad(rounded.sum(), x)[0].tolist() == [[1, 1, 1, 1]]
