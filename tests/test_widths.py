"""Nested widths: a masked pass is the pass through the slices, and heads may have a width of their own."""

import itertools
import math

import pytest
import torch
from torch.func import functional_call, vmap

from lmbench.config import make
from lmbench.layers.norm import RMSNorm
from lmbench.layers.slices import SlicedPass, sliced
from lmbench.layers.width_masks import ActiveNorm, WidthMasks, install
from lmbench.layers.widths import Sizes, Widths, n_active, site_of
from lmbench.measure.flops import counted_flops, parameters
from lmbench.methods.narrowing import deployed, sizes_of, sliced_config
from lmbench.models.base import seeded
from tests import test_model_contracts as contracts
from tests.test_stack_options import CONTRACTS

SIZES = {
    "vocab_size": 13,
    "seq_len": 10,
    "d_model": 32,
    "n_head": 4,
    "n_layer": 2,
    "d_ff": 24,
    "dropout": 0.0,
}


def model_config(**fields):
    return make("model", "transformer", **(SIZES | fields))


def masked(config, widths, *, rule="prefix"):
    """A model off its start, with masks set to some widths."""
    model = contracts.moved(config)
    names = tuple(name for name, _ in model.named_parameters())
    masks = install(model, sizes_of(config), rule=rule, names=names)
    for name, n in widths._asdict().items():
        masks.get_buffer(name).fill_(n)
    return model.train(), names


def plain_weights(model, names):
    """The trained weights without masks."""
    held = {
        k.replace("parametrizations.", "").removesuffix(".original"): p for k, p in model.named_parameters()
    }
    return {name: held[name] for name in names}


def passes(config, widths):
    """The masked model, its sliced pass and the deployed small model."""
    model, names = masked(config, widths)
    with torch.device("meta"):
        small = seeded(sliced_config(config, widths), init_seed=0)
    fast = SlicedPass(model, small, names=names, sizes=sizes_of(config), widths=widths)
    own, weights = deployed(config, plain_weights(model, names), widths)
    alone = seeded(own, init_seed=0)
    alone.load_state_dict(weights)
    return model, fast, alone


# ------------------------------------------------------------------ how many


def test_active_units_at_the_published_optimum():
    kept = {total: n_active(total, removed=share) for total, share in ((768, 0.5), (12, 0.6), (3072, 0.7))}
    assert kept == {768: 384, 12: 4, 3072: 921}
    assert [n_active(total, removed=share) for total, share in ((128, 0.5), (4, 0.6), (256, 0.7))] == [
        64,
        1,
        76,
    ]


def test_exact_shares_are_not_lost_to_binary_floating_point():
    assert int(90 * 0.7) == 62
    assert n_active(90, removed=0.3) == 63
    exact = [(total, c, total * (100 - c) // 100) for total in range(1, 400) for c in range(100)]
    assert all(n_active(total, removed=c / 100) == max(1, kept) for total, c, kept in exact)


def test_a_share_is_clipped_so_that_a_unit_and_no_more_than_all_are_left():
    assert [n_active(8, removed=share) for share in (-1.0, 0.0, 0.999, 1.0, 1.7)] == [8, 8, 1, 1, 1]
    assert n_active(1, removed=0.9) == 1


def test_rounding_takes_the_nearest_multiple_and_at_least_one():
    assert [n_active(100, removed=1 - kept / 100, round_to=8) for kept in (1, 11, 12, 51, 52, 97, 100)] == [
        8, 8, 16, 48, 56, 96, 100,
    ]  # fmt: skip
    assert n_active(5, removed=0.5, round_to=8) == 5


def test_every_parameter_of_a_stack_has_a_site():
    for activation, norm, tied in itertools.product(
        ("gelu", "swiglu"), ("layernorm", "rmsnorm"), (True, False)
    ):
        config = model_config(activation=activation, norm=norm, tied_head=tied, qk_norm=True)
        sizes = sizes_of(config)
        widths = Widths(n_head=3, d_model=20, d_ff=7)
        small = dict(seeded(sliced_config(config, widths), init_seed=0).named_parameters())
        full = dict(seeded(config, init_seed=0).named_parameters())
        assert full.keys() == small.keys()
        for name, value in full.items():
            assert len(site_of(name).axes) == value.ndim
            assert sliced(value, name, sizes=sizes, widths=widths).shape == small[name].shape, name


# ------------------------------------------------------------------ mask = slice = small model

SOME_WIDTHS = [Widths(4, 32, 24), Widths(2, 19, 10), Widths(1, 16, 1), Widths(3, 1, 23), Widths(1, 31, 24)]
CHOICES = [
    {
        "norm": norm,
        "positions": positions,
        "activation": activation,
        "tied_head": tied,
        "bias": norm == "layernorm",
    }
    for norm in ("layernorm", "rmsnorm")
    for positions in ("learned", "rope", "none")
    for activation in ("gelu", "relu", "swiglu")
    for tied in (True, False)
]
OTHER_CHOICES = [
    {"norm_order": "post"},
    {"norm_order": "pre", "qk_norm": True, "norm": "rmsnorm", "positions": "rope", "activation": "relu2"},
    {"norm_order": "pre", "norm_gain": False, "tied_head": False},
    {"norm_order": "pre", "init": "gpt2", "tied_head": True, "norm_gain": False, "norm": "rmsnorm"},
    {"norm_order": "pre", "logit_cap": 5.0, "zero_init": True, "attention_init": "linear"},
    {"d_head": 6, "positions": "rope", "norm_order": "pre"},
]


@pytest.mark.parametrize("fields", [{"norm_order": "pre"} | one for one in CHOICES] + OTHER_CHOICES, ids=str)
def test_a_masked_pass_is_the_sliced_one_and_that_of_the_deployed_model(fields):
    config = model_config(**fields)
    ids = contracts.tokens(config)
    for widths in SOME_WIDTHS:
        model, fast, alone = passes(config, widths)
        expected = model(ids).logits_BTV
        scale = expected.abs().max()
        for other in (fast, alone):
            difference = (other(ids).logits_BTV - expected).abs().max()
            # One feature is at its own mean, where LayerNorm returns rounding over eps.
            assert difference <= (1e-6 if widths.d_model > 1 else 1e-4) * max(1.0, scale), widths


@pytest.mark.parametrize(
    "fields", [CHOICES[0], CHOICES[-1] | {"qk_norm": True, "norm_order": "pre"}], ids=str
)
def test_gradients_of_both_are_equal_and_zero_where_nothing_is_in_use(fields):
    config, widths = model_config(**fields), Widths(2, 19, 10)
    model, fast, _ = passes(config, widths)
    model, ids, names = model.double(), contracts.tokens(config), plain_weights(model, fast.names)
    trained = list(names.values())
    by_mask = torch.autograd.grad(model(ids).logits_BTV.square().sum(), trained)
    by_slice = torch.autograd.grad(fast(ids).logits_BTV.square().sum(), trained)
    for name, one, other in zip(names, by_mask, by_slice, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * one.abs().max().item(), msg=name)
        for grad in (one, other):
            part = sliced(grad, name, sizes=sizes_of(config), widths=widths)
            assert part.count_nonzero() == grad.count_nonzero() > 0, name


def test_dropout_of_a_sliced_pass_reads_the_keys_of_the_step():
    config = model_config(dropout=0.5, residual_dropout=True)
    _, fast, _ = passes(config, Widths(2, 16, 12))
    model, ids = fast._stacks[0], contracts.tokens(config)
    contracts.set_keys(model, first=0)
    one = fast(ids).logits_BTV
    assert torch.equal(one, fast(ids).logits_BTV)
    contracts.set_keys(model, first=100)
    assert not torch.equal(one, fast(ids).logits_BTV)


def test_all_units_in_use_are_the_plain_model():
    config = model_config(norm="rmsnorm", bias=False)
    model, _, alone = passes(config, Widths(4, 32, 24))
    plain, ids = contracts.moved(config), contracts.tokens(config)
    assert torch.equal(alone(ids).logits_BTV, plain(ids).logits_BTV)
    torch.testing.assert_close(model(ids).logits_BTV, plain(ids).logits_BTV, rtol=1e-6, atol=1e-6)


def test_generation_with_masks_is_that_of_the_deployed_model():
    config = model_config(norm_order="pre", positions="rope")
    model, _, alone = passes(config, Widths(2, 20, 10))
    ids = contracts.tokens(config)
    logits, state = model.eval().extend(ids[:, :6])
    small, small_state = alone.eval().extend(ids[:, :6])
    torch.testing.assert_close(logits, small, rtol=1e-5, atol=1e-5)
    one, other = model.extend(ids[:, 6:], state)[0], alone.extend(ids[:, 6:], small_state)[0]
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_sliced_tied_model_whose_scale_no_gain_can_carry_is_refused():
    config = model_config(tied_head=True, norm_gain=False)
    weights = dict(seeded(config, init_seed=0).named_parameters())
    with pytest.raises(
        ValueError, match=r"norm_gain = False leaves no gain.*accepted: True, or another head"
    ):
        deployed(config, weights, Widths(4, 16, 24))


# ------------------------------------------------------------------ norms and masks


@pytest.mark.parametrize("make_norm", [lambda n: torch.nn.LayerNorm(n), RMSNorm])
def test_norms_average_over_the_features_in_use(make_norm):
    masks = WidthMasks(Sizes(Widths(4, 32, 24), d_head=8, n_layer=1, gated=False), rule="prefix")
    masks.get_buffer("d_model").fill_(16)
    x = torch.randn(5, 7, 32, generator=torch.Generator().manual_seed(0)) * (torch.arange(32) < 16)
    found = ActiveNorm(make_norm(32), masks)(x)
    torch.testing.assert_close(found[..., :16], make_norm(16)(x[..., :16]), rtol=1e-5, atol=1e-6)
    assert (found[..., 16:] == 0).all()
    # Over all features, those in use would be inflated by the root of 32 / 16.
    inflated = RMSNorm(32)(x)[..., :16] / RMSNorm(16)(x[..., :16])
    assert inflated.mean().item() == pytest.approx(math.sqrt(2), abs=1e-3)


def test_random_units_are_as_many_as_asked_differ_by_layer_and_are_evenly_drawn():
    masks = WidthMasks(Sizes(Widths(4, 32, 24), d_head=8, n_layer=2, gated=False), rule="random")
    keys = torch.arange(2000) * 7919 + 3
    held = {"key": keys, "n_head": torch.full((2000,), 2.0), "d_model": torch.full((2000,), 20.0)}
    features = masks.used("d_model", layer=0, held=held)
    assert (features.sum(-1) == 20).all()
    assert torch.equal(features, masks.used("d_model", layer=1, held=held))  # one stream for all layers
    heads = [masks.used("n_head", layer=layer, held=held) for layer in (0, 1)]
    assert 0.05 < (heads[0] == heads[1]).all(-1).float().mean() < 0.3  # one in six by chance
    # 2000 draws of probability 5/8: a standard deviation of .011.
    assert (features.float().mean(0) - 20 / 32).abs().max() < 0.05


def test_random_units_are_for_training_only():
    config = model_config()
    model, _ = masked(config, Widths(2, 16, 12), rule="random")
    plain, ids = contracts.moved(config).eval(), contracts.tokens(config)
    assert not torch.allclose(model(ids).logits_BTV, plain(ids).logits_BTV)
    torch.testing.assert_close(model.eval()(ids).logits_BTV, plain(ids).logits_BTV, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", ["prefix", "random", "importance"])
def test_replicas_with_masks_of_their_own_are_stacked(rule):
    config = model_config(norm_order="pre")
    model, _ = masked(config, Widths(2, 16, 12), rule=rule)
    own = {"prefix": "d_model", "random": "key", "importance": "rank_d_model"}[rule]
    values = {
        "prefix": torch.tensor([16.0, 9.0]),
        "random": torch.tensor([5, 6]),
        "importance": torch.stack([torch.randperm(32), torch.arange(32)]).float().unsqueeze(1),
    }[rule]
    ids, name = contracts.tokens(config), f"widths.{own}"

    def logits(value):
        return functional_call(model, {name: value}, (ids,)).logits_BTV

    stacked = vmap(logits)(values)
    for at in range(2):
        torch.testing.assert_close(stacked[at], logits(values[at]), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(stacked[0], stacked[1])


# ------------------------------------------------------------------ heads of a width of their own


@pytest.mark.parametrize("contract", CONTRACTS)
def test_heads_of_any_width_keep_the_contracts_of_models(contract):
    sizes = {"d_model": 15, "n_head": 2, "d_head": 4}
    getattr(contracts, contract)(contracts.tiny("transformer", **sizes))
    grouped = {"n_head": 4, "n_kv_head": 2, "d_head": 6, "qk_norm": True}
    getattr(contracts, contract)(contracts.tiny("transformer_modern", **sizes | grouped))


def test_a_head_width_of_d_model_over_n_head_is_the_plain_model():
    plain, given = model_config(), model_config(d_head=8)
    one, other = (seeded(config, init_seed=0).state_dict() for config in (plain, given))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert plain.terms("all") == given.terms("all")
    assert plain.digest != given.digest and "d_head" not in plain.canonical()


def test_narrow_heads_cost_what_a_hand_count_says():
    config = model_config(d_model=30, n_head=2, d_head=4, bias=False)
    terms = {term.name: term.forward for term in config.terms("all")}
    assert terms["projections"] == 2 * (4 * 2 * 10 * 30 * 8)  # four maps of 30 to 8 or back, two layers
    assert terms["attention"] == 2 * (2 * 2 * 2 * 10 * 4 * 10)
    per_layer = 4 * 30 * 8 + 2 * 30 * 24
    assert parameters(config).total == (13 + 10) * 30 + 2 * (per_layer + 2 * 30) + 30 + 30 * 13
    counted = counted_flops(config, readout="all")
    assert counted.forward == sum(term.forward for term in config.terms("all"))


@pytest.mark.parametrize("fields", [{"name": "linear_attention"}, {"name": "hybrid", "n_layer": 3}])
def test_other_mixers_refuse_a_head_width(fields):
    with pytest.raises(
        ValueError, match=r"d_head = 8 is the width of attention's heads, but .* has layers of"
    ):
        contracts.tiny(**fields, d_head=8)


def test_odd_heads_are_refused_with_rotary_positions():
    with pytest.raises(ValueError, match=r"so d_head must be even, but d_head = 5"):
        model_config(d_head=5, positions="rope")
