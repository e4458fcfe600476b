"""The published compression funnel and its relatives: exact integers and exact parameter counts."""

import pytest

from lmbench.config import make
from lmbench.measure.flops import parameters
from lmbench.measure.funnel import (
    HEADS,
    UNITS,
    WIDTH,
    Shape,
    constrained_config,
    factored,
    floored,
    funnel,
    funnel_shape,
)
from lmbench.methods.constrain import Constrain

# A GPT-2: tied head, biases, learned positions.
GPT2 = {"norm_order": "pre", "activation": "gelu", "tied_head": True, "init": "gpt2"}
SMALL = make(
    "model",
    "transformer",
    vocab_size=50257,
    seq_len=1024,
    d_model=768,
    n_head=12,
    d_ff=3072,
    n_layer=12,
    **GPT2,
)
TINY = make(
    "model", "transformer", vocab_size=256, seq_len=128, d_model=128, n_head=4, d_ff=256, n_layer=4, **GPT2
)
LARGE = make(
    "model",
    "transformer",
    vocab_size=50257,
    seq_len=2048,
    d_model=2048,
    n_head=16,
    d_ff=8192,
    n_layer=24,
    **GPT2,
)


def sizes(config):
    return config.d_model, config.n_head, config.d_ff


def total(config):
    return parameters(config).total


def body(config):
    """Parameters without token and position vectors."""
    return total(config) - (config.vocab_size + config.seq_len) * config.d_model


@pytest.mark.parametrize(
    ("q", "expected", "d_head", "millions", "change"),
    [
        (0.25, (670, 10, 2534), 67, 96.8, -0.22),
        (0.5, (576, 8, 1996), 72, 73.1, -0.41),
        (0.75, (480, 6, 1459), 80, 52.6, -0.58),
        (0.9, (420, 5, 1136), 84, 41.5, -0.67),
        (1.0, (384, 4, 921), 96, 35.3, -0.72),
    ],
)
def test_a_gpt2_small_in_the_funnel(q, expected, d_head, millions, change):
    small = funnel(SMALL, q)
    assert sizes(small) == expected
    assert small.d_model / small.n_head == d_head
    assert total(small) / 1e6 == pytest.approx(millions, abs=0.05)
    assert total(small) / total(SMALL) - 1 == pytest.approx(change, abs=0.005)
    assert (small.n_layer, small.vocab_size, small.seq_len) == (12, 50257, 1024)


@pytest.mark.parametrize(
    ("q", "expected", "d_head", "millions", "change"),
    [
        (0.25, (111, 3, 211), 37, 0.432, -0.25),
        (0.5, (96, 2, 166), 48, 0.316, -0.45),
        (0.75, (80, 2, 121), 40, 0.214, -0.63),
        (0.9, (70, 1, 94), 70, 0.161, -0.72),
        (1.0, (64, 1, 76), 64, 0.132, -0.77),
    ],
)
def test_a_tiny_model_in_the_funnel(q, expected, d_head, millions, change):
    small = funnel(TINY, q)
    assert sizes(small) == expected
    assert small.d_model / small.n_head == d_head
    assert total(small) / 1e6 == pytest.approx(millions, abs=0.0005)
    assert total(small) / total(TINY) - 1 == pytest.approx(change, abs=0.005)


def test_the_full_models_have_the_parameters_that_the_tables_start_from():
    assert total(SMALL) == 124_439_808
    assert total(TINY) == 579_328
    assert body(funnel(SMALL, 0.5)) / body(SMALL) - 1 == pytest.approx(-0.49, abs=0.005)


@pytest.mark.parametrize(
    ("q", "expected", "millions", "change"),
    [
        (0.5, (1529, 11, 5324), 696, -0.47),
        (0.9, (1120, 7, 3031), 342, -0.74),
        (1.0, (1020, 6, 2457), 274, -0.79),
    ],
)
def test_the_published_size_needs_a_compression_of_nine_tenths(q, expected, millions, change):
    small = funnel(LARGE, q)
    assert sizes(small) == expected
    assert round(total(small) / 1e6) == millions
    assert total(small) / total(LARGE) - 1 == pytest.approx(change, abs=0.005)


def test_heads_of_the_funnel_save_no_parameter():
    assert total(TINY.replace(n_head=2)) == total(TINY)


def test_no_compression_is_the_model_itself():
    assert funnel(SMALL, 0.0) == SMALL
    assert funnel_shape(Shape(d_model=130, n_head=4, d_ff=8), 0.0).d_model == 128
    assert factored(SMALL, heads=1.0, width=1.0, units=1.0) == SMALL
    assert constrained_config(SMALL, 0.0) == SMALL


def test_the_floor_does_not_lose_a_unit_to_binary_floating_point():
    assert int(90 * 0.7) == 62 and floored(90, 0.7) == 63
    cells = [(n, q, coefficient) for n in range(1, 300) for q in range(101) for coefficient in (5, 6, 7)]
    wrong = [cell for cell in cells if floored(cell[0], 1 - cell[1] / 100 * cell[2] / 10) != _exact(*cell)]
    assert wrong == []
    # The plain floor is wrong in some of them, so there is something to lose.
    assert any(int(n * (1 - q / 100 * c / 10)) != _exact(n, q, c) for n, q, c in cells)


def _exact(n, q, coefficient):
    """floor(n (1 - q/100 c/10)) in integers."""
    return n * (1000 - q * coefficient) // 1000


def test_the_published_factors_keep_shares_and_round_to_multiples_of_eight():
    small = factored(SMALL)
    # 460 and 2150 to multiples of 8; heads keep their 64 features.
    assert sizes(small) == (464, 6, 2152) and small.d_head == 64
    assert small.d_ff / SMALL.d_ff == pytest.approx(0.7, abs=0.001)
    assert sizes(factored(TINY, heads=0.5, width=0.5, units=0.01)) == (64, 2, 8)


def test_the_published_constrained_config_shrinks_depth_too_and_misses_its_multiple_of_eight():
    small = constrained_config(SMALL)
    assert (*sizes(small), small.n_layer) == (576, 8, 2000, 9)
    other = TINY.replace(d_model=256, n_head=8, d_ff=1024, n_layer=6)
    small = constrained_config(other)
    assert (*sizes(small), small.n_layer) == (190, 5, 664, 4)
    assert body(small) / body(other) - 1 == pytest.approx(-0.66, abs=0.005)
    assert sizes(funnel(other, 0.5)) == (190, 5, 665)


def test_the_schedule_takes_out_what_the_funnel_does_at_twice_the_compression():
    assert [part / WIDTH for part in (HEADS, WIDTH, UNITS)] == pytest.approx([1.2, 1.0, 1.4])
    for model in (SMALL, TINY):
        assert tuple(Constrain(curve=0.5).widths(model, 0, steps=1)) == (
            funnel(model, 1.0).n_head, funnel(model, 1.0).d_model, funnel(model, 1.0).d_ff,
        )  # fmt: skip


# ------------------------------------------------------------------ refusals


def test_a_compression_that_leaves_nothing_is_refused():
    with pytest.raises(
        ValueError, match=r"^compression = 1.43 leaves d_ff = -4 of 3072; accepted: 0 to 1.428$"
    ):
        funnel(SMALL, 1.43)
    assert funnel(SMALL, 1.428).d_ff == 1
    with pytest.raises(
        ValueError, match=r"^compression = -1 must not be negative; 0 leaves the model as it is$"
    ):
        funnel(SMALL, -1)


def test_a_model_without_the_sizes_or_with_heads_of_its_own_width_is_refused():
    with pytest.raises(
        ValueError, match=r"^gru has no n_head, so a funnel cannot shrink it; accepted: models with"
    ):
        funnel(make("model", "gru"))
    with pytest.raises(ValueError, match=r"^d_head = 16 is kept by no funnel"):
        funnel(TINY.replace(d_head=16))


def test_factors_and_constraints_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"^width = 1.5 is the share that is kept; accepted: 0 to 1$"):
        factored(SMALL, width=1.5)
    with pytest.raises(ValueError, match=r"^constraint = 1.1; accepted: 0 to 1$"):
        constrained_config(SMALL, 1.1)


def test_sizes_that_a_model_cannot_take_are_refused_in_one_sentence():
    with pytest.raises(
        ValueError, match=r"^transformer: positions = 'rope' turns pairs of features"
    ) as error:
        funnel(TINY.replace(positions="rope"), 0.25)
    assert "\n" not in str(error.value)
