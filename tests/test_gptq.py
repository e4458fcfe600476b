"""GPTQ: never worse than plain rounding for the outputs, the same where inputs do not hang together."""

import pytest
import torch

from lmbench.config import kinds, make
from lmbench.layers.gptq import gptq, output_error
from lmbench.layers.quantizer_grids import Blocks, Grid, best_scale
from lmbench.methods.parts import matrices
from lmbench.methods.seen import hessians
from lmbench.models.base import seeded
from lmbench.tasks.base import Batch

OUT, IN = 12, 24


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def problem(seed=0):
    """A weight and the Hessian of inputs that depend on each other strongly."""
    inputs = drawn(400, 6, seed=seed) @ drawn(6, IN, seed=seed + 1) + 0.3 * drawn(400, IN, seed=seed + 2)
    return drawn(OUT, IN, seed=seed + 3), inputs.T @ inputs


def nearest(weight, *, grid, blocks):
    x = blocks.split(weight)
    scale = best_scale(x, grid)
    return blocks.join(grid.codes(x, scale) * scale)


@pytest.mark.parametrize("bits", [1, 1.58, 2, 3, 4, 8])
@pytest.mark.parametrize("granularity", ["row", "group", "tensor"])
@pytest.mark.parametrize("act_order", [False, True])
def test_outputs_are_no_worse_than_by_plain_rounding(bits, granularity, act_order):
    grid, blocks = Grid.symmetric(bits), Blocks((OUT, IN), granularity, 7)
    for seed in range(3):
        weight, hessian = problem(seed)
        made = gptq(weight, hessian, grid=grid, blocks=blocks, act_order=act_order)
        plain = nearest(weight, grid=grid, blocks=blocks)
        for row in range(OUT):  # each row for itself
            one = slice(row, row + 1)
            errors = [output_error(w[one], weight[one], hessian) for w in (made, plain)]
            assert errors[0] <= errors[1] * (1 + 1e-6)


def test_outputs_of_inputs_that_hang_together_are_much_better():
    weight, hessian = problem()
    how = {"grid": Grid.symmetric(3), "blocks": Blocks((OUT, IN))}
    errors = [
        output_error(w, weight, hessian) for w in (gptq(weight, hessian, **how), nearest(weight, **how))
    ]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("granularity", ["row", "group"])
def test_with_inputs_that_do_not_hang_together_it_is_plain_rounding(granularity):
    how = {"grid": Grid.symmetric(3), "blocks": Blocks((OUT, IN), granularity, 7)}
    weight = problem()[0]
    for hessian in (torch.eye(IN), torch.diag(drawn(IN).square() + 0.1), torch.zeros(IN, IN)):
        for act_order in (False, True):
            made = gptq(weight, hessian, act_order=act_order, **how)
            torch.testing.assert_close(made, nearest(weight, **how), rtol=1e-6, atol=0)


def test_what_one_weight_loses_the_next_makes_good():
    """Codes -1, 0, 1 with a scale of 1, which ten weights of 1 see to; the first two inputs are the same.

    Plain rounding takes (.4, .4) to (0, 0), and .8 of the output is lost. In turn .4 becomes 0, passes its
    .4 on, and .8 becomes 1: an error of .2.
    """
    weight = torch.tensor([[0.4, 0.4, *[1.0] * 10]])
    hessian = torch.eye(12)
    hessian[0, 1] = hessian[1, 0] = 1
    how = {"grid": Grid.symmetric(2), "blocks": Blocks((1, 12))}
    assert nearest(weight, **how)[0, :2].tolist() == [0, 0]
    assert output_error(nearest(weight, **how), weight, hessian) == pytest.approx(0.64)
    made = gptq(weight, hessian, **how)
    assert made[0, :2].tolist() == [0, 1]
    assert output_error(made, weight, hessian) == pytest.approx(0.04)


def test_zeros_stay_zeros_and_values_lie_on_the_grid():
    weight, hessian = problem()
    weight = weight * (drawn(OUT, IN, seed=9) > 0)
    made = gptq(weight, hessian, grid=Grid.symmetric(4), blocks=Blocks((OUT, IN)))
    assert not made[weight == 0].any()
    scale = best_scale(weight, Grid.symmetric(4))
    codes = made / scale
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-5)
    assert codes.abs().max() <= 7 + 1e-5


def test_a_hessian_that_does_not_fit_is_refused():
    how = {"grid": Grid.symmetric(4), "blocks": Blocks((OUT, IN))}
    with pytest.raises(ValueError, match=r"of a map with 24 inputs must be finite and 24 x 24, not \(3, 3\)"):
        gptq(problem()[0], torch.eye(3), **how)
    with pytest.raises(ValueError, match="must be finite"):
        gptq(problem()[0], torch.full((IN, IN), torch.nan), **how)


# ------------------------------------------------------------------ what maps are given to read

SIZES = {"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_head": 2, "n_layer": 1, "d_ff": 24}


def batch_of(config):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(11, (1, 2), generator=generator)
    context = torch.randint(11, (1, 7), generator=generator) if config.is_window else None
    return Batch(tokens_BT=tokens, targets_BT=tokens.roll(-1, 1), context_BK=context)


def changed_outputs(model, part, batch, direction):
    """How far logits move when a weight moves by a little in a direction."""
    with torch.no_grad():
        before = model(batch.tokens_BT, batch.context_BK).logits_BTV
        model.get_parameter(part.weight).add_(direction)
        after = model(batch.tokens_BT, batch.context_BK).logits_BTV
        model.get_parameter(part.weight).sub_(direction)
    return (after - before).abs().max().item()


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("transformer", "blocks.0.feedforward.down.weight"),
        ("transformer", "blocks.0.attention.in_proj.weight"),
        ("linear", "head.linear.weight"),
        ("mlp", "window.linear.weight"),
        ("lstm", "layers.0.hidden_proj.weight"),
        ("gru", "layers.0.input_proj.weight"),
        ("moe", "blocks.0.feedforward.up.weight"),
        ("moe", "blocks.0.feedforward.router.weight"),
        ("integrator", "blocks.0.integrator.controller.position.weight"),
        ("ssm", "blocks.0.ssm.x_proj.weight"),
    ],
)
def test_a_direction_that_no_input_has_changes_no_output(name, weight):
    """So the sums of x x' are those of exactly the inputs that the weight meets."""
    known = kinds("model")[name].model_fields
    config = make("model", name, **{k: v for k, v in SIZES.items() if k in known})
    model = seeded(config, init_seed=0).double().eval()
    part = next(part for part in matrices(model) if part.weight == weight)
    batch = batch_of(config)  # of fewer positions than inputs, so that a direction is left free
    seen = hessians(model, part, [batch])
    stored = model.get_parameter(weight)
    maps = stored.reshape(len(seen), -1, stored.shape[-1])
    values, vectors = torch.linalg.eigh(seen)
    free, met = vectors[..., 0], vectors[..., -1]
    assert bool((values[:, 0].abs() <= 1e-10 * values[:, -1].clamp_min(1)).all())
    for direction, moves in ((free, False), (met, True)):
        # Of another size in each row: what is the same in all, a norm or a softmax would not show.
        sizes = torch.arange(1.0, 1 + maps.shape[1]).unsqueeze(1) / maps.shape[1]
        step = (sizes * direction.unsqueeze(1)).reshape(stored.shape)
        moved = changed_outputs(model, part, batch, step)
        assert (moved > 1e-7) == moves, moved


def test_tables_and_unknown_maps_have_no_inputs():
    model = seeded(make("model", "transformer", **SIZES), init_seed=0)
    table = next(part for part in matrices(model) if part.role == "embedding")
    assert hessians(model, table, [batch_of(make("model", "transformer", **SIZES))]) is None
    assert model.training
