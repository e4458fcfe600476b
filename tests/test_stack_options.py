"""Options of every stack: each keeps the contracts of models, and does by hand what it says."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmbench.config import discover, kinds, make
from lmbench.layers.attention import CausalSelfAttention
from lmbench.layers.bigram import BigramEmbedding, Smear
from lmbench.layers.mixer import Pass
from lmbench.layers.mixers import MIXERS
from lmbench.measure.flops import counted_flops, ledger, parameters, train_flops
from lmbench.models.base import ModelConfig, seeded
from lmbench.models.stack import StackConfig
from lmbench.models.stack_module import Stack
from tests import test_model_contracts as contracts

OPTIONS: dict[str, dict[str, object]] = {
    "factors": {"embedding_rank": 3},
    "tied factors": {"embedding_rank": 3, "tied_head": True},
    "convolution": {"conv_width": 3},
    "skips": {"unet_skips": True},
    "mix": {"embedding_mix": True},
    "scales": {"branch_scales": True},
    "values": {"value_residual": True},
    "smear": {"smear": True},
    "hashed pairs": {"bigram_buckets": 7},
    "all pairs": {"bigram_buckets": 200},
}
ALL_OPTIONS = {key: value for fields in OPTIONS.values() for key, value in fields.items()}
STACKS = sorted(name for name, cls in kinds("model").items() if issubclass(cls, StackConfig))


def options_of(name: str, fields: dict[str, object]) -> dict[str, object]:
    """Without value residuals where there are not two attention layers to share values."""
    mixers = contracts.tiny(name).mixers()
    return {k: v for k, v in fields.items() if k != "value_residual" or mixers.count("attention") > 1}


def cases() -> list[ModelConfig]:
    """Each option alone on the transformer, all together on every stack, and in other sizes."""
    one = [contracts.tiny("transformer", **fields) for fields in OPTIONS.values()]
    every = [contracts.tiny(name, **options_of(name, ALL_OPTIONS)) for name in STACKS]
    deep = ALL_OPTIONS | {"n_layer": 5, "n_kv_head": 1}
    loop = {"loop_first": 1, "loop_last": 3, "loop_embedding": True}
    sizes = [
        contracts.tiny("transformer_modern", **deep),
        contracts.tiny("transformer_fast", **deep),
        contracts.tiny("transformer_nanogpt", **deep),
        contracts.tiny("depth_recurrent", **(deep | loop)),
        # Of one token the first is the last: none has a neighbour to smear.
        contracts.tiny("transformer", **(ALL_OPTIONS | {"seq_len": 1, "smear": False})),
    ]
    return [*one, *every, *sizes]


CONTRACTS = sorted(
    name
    for name, function in inspect.getmembers(contracts, inspect.isfunction)
    if name.startswith("test_") and list(inspect.signature(function).parameters) == ["config"]
)


@pytest.mark.parametrize("config", cases(), ids=lambda config: f"{config.kind}-{config.digest[:6]}")
@pytest.mark.parametrize("contract", CONTRACTS)
def test_every_option_keeps_the_contracts_of_models(contract: str, config: ModelConfig) -> None:
    getattr(contracts, contract)(config)


def test_an_option_that_draws_nothing_leaves_the_start_of_all_other_weights_and_of_the_function() -> None:
    plain = seeded(contracts.tiny("transformer"), init_seed=0).eval()
    ids = contracts.tokens(contracts.tiny("transformer"))
    for name in ("mix", "scales", "smear", "hashed pairs", "all pairs"):
        model = seeded(contracts.tiny("transformer", **OPTIONS[name]), init_seed=0).eval()
        assert model.load_state_dict(plain.state_dict(), strict=False).missing_keys, name
        assert all(torch.equal(model.get_parameter(key), p) for key, p in plain.named_parameters())
        assert torch.equal(model(ids).logits_BTV, plain(ids).logits_BTV), name


def test_an_optimizer_for_matrices_and_decay_leave_the_vectors_of_options_alone() -> None:
    vectors = ("unet_skips", "embedding_mix", "branch_scales", "value_residual")
    config = contracts.tiny("transformer", **dict.fromkeys(vectors, True))
    plain = dict(seeded(contracts.tiny("transformer"), init_seed=0).named_parameters())
    added = {k: p for k, p in seeded(config, init_seed=0).named_parameters() if k not in plain}
    # C for one skip, 2 C for each of two mixes, 4 scales, and 2 factors of the second layer's values.
    assert sorted(p.numel() for p in added.values()) == [2, 16, 16, 16, 16, 16, 32, 32]
    assert all(p.dim() == 1 for p in added.values())


def test_the_names_of_published_recipes_are_lost_with_an_option() -> None:
    for name in ("transformer_nanogpt", "transformer_fast"):
        assert make("model", name).name == name
        for fields in OPTIONS.values():
            assert make("model", name, **fields).name != name


# ------------------------------------------------------------------ skips and mixes


def by_hand(model: Stack, x: Tensor, *, skips: Tensor | None, mix: tuple[Tensor, Tensor] | None) -> Tensor:
    """The published baseline's two loops, over the blocks of a model."""
    first, stored, half = x, [], len(model.blocks) // 2
    for at, block in enumerate(model.blocks):
        if at >= half and stored and skips is not None:
            x = x + skips[at - half] * stored.pop()
        if mix is not None:
            x = mix[0][at] * x + mix[1][at] * first
        x = block(x)
        if at < half:
            stored.append(x)
    return x


@pytest.mark.parametrize("n_layer", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("mixed", [False, True])
def test_skips_and_mixes_are_those_of_two_plain_loops(n_layer: int, mixed: bool) -> None:
    config = contracts.tiny("transformer", n_layer=n_layer, unet_skips=True, embedding_mix=mixed)
    model, ids = contracts.double(config), contracts.tokens(config)
    skips = None if n_layer == 1 else model.skips.weight.view(n_layer // 2, 16)
    gains = (model.stream_gains, model.embedding_gains)
    mix = tuple(gain.weight.view(n_layer, 16) for gain in gains) if mixed else None
    hidden = by_hand(model, model.embedding(ids), skips=skips, mix=mix)
    expected = model.head(hidden, embedding=model.embedding, readout="all")
    torch.testing.assert_close(model(ids).logits_BTV, expected, rtol=0, atol=1e-12)


def test_skips_without_weight_and_scales_of_one_are_the_plain_stack() -> None:
    fields = {"n_layer": 4, "unet_skips": True, "branch_scales": True, "embedding_mix": True}
    config = contracts.tiny("transformer", **fields)
    model, plain = seeded(config, init_seed=0).eval(), contracts.tiny("transformer", n_layer=4)
    ids = contracts.tokens(plain)
    with torch.no_grad():
        model.skips.weight.zero_()
    expected = seeded(plain, init_seed=0).eval()(ids).logits_BTV
    assert torch.equal(model(ids).logits_BTV, expected)
    with torch.no_grad():
        for block in model.blocks:
            block.mixer_scale.zero_()
            block.feedforward_scale.zero_()
    no_blocks = contracts.tiny("transformer", norm_order="pre", branch_scales=True)
    model = seeded(no_blocks, init_seed=0).eval()
    with torch.no_grad():
        for block in model.blocks:
            block.mixer_scale.zero_()
            block.feedforward_scale.zero_()
    expected = model.head(model.embedding(ids), embedding=model.embedding, readout="all")
    assert torch.equal(model(ids).logits_BTV, expected)


# ------------------------------------------------------------------ values of the first layer


def test_values_are_mixed_with_those_of_the_first_attention_layer() -> None:
    config = contracts.tiny("transformer", value_residual=True)
    model, ids = contracts.double(config), contracts.tokens(config)
    first, second = model.blocks
    assert (first.attention.value_mix, second.attention.value_mix.shape) == (None, (2,))
    x = model.embedding(ids)
    v_first = first.attention.in_proj(x)[..., 32:]
    x = first(x)
    q, k, v = second.attention.in_proj(x).split(16, dim=-1)
    v = second.attention.value_mix[0] * v + second.attention.value_mix[1] * v_first
    heads = [part.unflatten(-1, (2, 8)).transpose(1, 2) for part in (q, k, v)]
    mixed = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)
    x = second.attention_norm(x + second.attention.out_proj(mixed))
    x = second.feedforward_norm(x + second.feedforward(x))
    expected = model.head(x, embedding=model.embedding, readout="all")
    torch.testing.assert_close(model(ids).logits_BTV, expected, rtol=0, atol=1e-12)


def test_a_mix_of_ones_own_values_alone_is_plain_attention() -> None:
    config, plain = (contracts.tiny("transformer", value_residual=on) for on in (True, False))
    model, ids = seeded(config, init_seed=0).eval(), contracts.tokens(plain)
    with torch.no_grad():
        model.blocks[1].attention.value_mix.copy_(torch.tensor([1.0, 0.0]))
    assert torch.equal(model(ids).logits_BTV, seeded(plain, init_seed=0).eval()(ids).logits_BTV)


def test_attention_by_itself_has_no_first_layer_and_keeps_its_values() -> None:
    shape = contracts.tiny("transformer", value_residual=True).block_shape()
    layer, x = CausalSelfAttention(shape).eval(), torch.randn(2, 8, 16)
    assert torch.equal(layer(x), layer(x, Pass()))


def test_value_residuals_of_a_stack_without_two_attention_layers_are_refused() -> None:
    one = r"value_residual = True .* needs at least 2 attention layers, but 'transformer' has 1; accepted:"
    with pytest.raises(ValueError, match=one):
        make("model", "transformer", n_layer=1, value_residual=True)
    with pytest.raises(ValueError, match="but 'ssm' has 0; accepted: False"):
        make("model", "ssm", value_residual=True)


# ------------------------------------------------------------------ the token before


def test_smearing_adds_the_gated_vector_before() -> None:
    smear, x = Smear(16), torch.randn(1, 3, 16)
    with torch.no_grad():
        smear.gate[0, 0], smear.amount[0] = 1.0, 0.5
    out = smear(x)
    assert torch.equal(out[:, 0], x[:, 0])
    for t in (1, 2):
        expected = x[0, t] + 0.5 * torch.sigmoid(x[0, t, 0]) * x[0, t - 1]
        torch.testing.assert_close(out[0, t], expected)


def test_each_pair_has_a_row_of_its_own_where_they_fit_and_the_start_has_too() -> None:
    pairs = BigramEmbedding(5 * 6, vocab_size=5, width=2)
    first, second = torch.cartesian_prod(torch.arange(5), torch.arange(5)).unbind(1)
    rows = pairs.bucket(torch.stack((first, second), dim=1))
    assert sorted(rows[:, 1].tolist()) == list(range(25))
    assert rows[:, 0].tolist() == [25 + t for t in first.tolist()]
    with torch.no_grad():
        pairs.rows.weight[3 * 5 + 4] = torch.tensor([7.0, 8.0])  # of 4 after 3
    assert pairs(torch.tensor([[3, 4, 3]])).tolist() == [[[0.0, 0.0], [7.0, 8.0], [0.0, 0.0]]]


def test_hashed_pairs_spread_evenly_over_the_buckets() -> None:
    """Of a fair hash the fullest of 64 buckets with 66 pairs each holds about 66 + 3 sqrt(66) = 90."""
    pairs = BigramEmbedding(64, vocab_size=65, width=2)
    ids = torch.cartesian_prod(torch.arange(65), torch.arange(65))
    load = torch.bincount(pairs.bucket(ids)[:, 1], minlength=64)
    assert (load.min(), load.max()) > (40, 0)
    assert load.max() < 90
    # Buckets say more than the token itself: neighbours of one token lie in many of them.
    of_one_token = pairs.bucket(ids)[ids[:, 1] == 7, 1]
    assert len(of_one_token.unique()) > 30


def test_bigram_rows_are_a_table_of_the_ledger_and_cost_no_flops() -> None:
    plain, config = contracts.tiny("transformer"), contracts.tiny("transformer", bigram_buckets=50)
    assert parameters(config).embedding == parameters(plain).embedding + 50 * 16
    assert config.terms("all") == plain.terms("all")


# ------------------------------------------------------------------ convolution


def test_a_convolution_stands_in_front_of_mixers_that_have_none_and_within_the_others() -> None:
    for name in STACKS:
        config = contracts.tiny(name, conv_width=3)
        model = seeded(config, init_seed=0)
        for mixer, block in zip(config.mixers(), model.blocks, strict=True):
            assert (block.conv is None) == MIXERS[mixer].has_conv, name
        found = [key for key, _ in model.named_parameters() if key.endswith(".taps")]
        assert len(found) == config.n_layer, name
    assert {name for name, kind in MIXERS.items() if kind.has_conv} >= {"ssm", "recurrence"}


def test_a_convolution_is_added_to_what_the_mixer_reads() -> None:
    config = contracts.tiny("transformer_prenorm", n_layer=1, conv_width=2)
    model, ids = contracts.double(config), contracts.tokens(config)
    (block,), x = model.blocks, model.embedding(ids)
    y = block.attention_norm(x)
    taps, before = block.conv.weight_WD, F.pad(y, (0, 0, 1, 0))[:, :-1]
    y = y + taps[0] * y + taps[1] * before + block.conv.bias_D
    x = x + block.attention(y)
    x = x + block.feedforward(block.feedforward_norm(x))
    expected = model.head(x, embedding=model.embedding, readout="all")
    torch.testing.assert_close(model(ids).logits_BTV, expected, rtol=0, atol=1e-12)


def test_taps_of_zero_are_the_plain_block() -> None:
    config = contracts.tiny("transformer", conv_width=4)
    model, plain = (
        seeded(config, init_seed=0).eval(),
        seeded(contracts.tiny("transformer"), init_seed=0).eval(),
    )
    model.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        for block in model.blocks:
            block.conv.weight_WD.zero_()
    assert torch.equal(model(contracts.tokens(config)).logits_BTV, plain(contracts.tokens(config)).logits_BTV)


# ------------------------------------------------------------------ the ledger


def test_the_options_cost_what_a_hand_count_says() -> None:
    plain = contracts.tiny("transformer")
    base = ledger(plain, readout="all").forward
    more = {
        "convolution": 2 * 2 * 3 * 16 * 8,  # 2 layers, a multiply and an add for each of 3 taps
        "smear": 2 * 12 * 8,  # the gate reads 12 features
        "factors": 2 * 8 * 3 * 16,
        "tied factors": 2 * 8 * 3 * 16 + 2 * 8 * 3 * (16 + 11) - 2 * 8 * 16 * 11,
    }
    for name, fields in OPTIONS.items():
        config = contracts.tiny("transformer", **fields)
        assert ledger(config, readout="all").forward == base + more.get(name, 0), name
        assert train_flops(config, readout="all", sequences=2) == 6 * (base + more.get(name, 0)), name


def test_only_the_convolution_escapes_the_counter_of_products() -> None:
    config = contracts.tiny("transformer", **ALL_OPTIONS)
    unseen = [term for term in config.terms("all") if term.elementwise]
    assert [term.name for term in unseen] == ["convolution"]
    counted = counted_flops(config, readout="all").forward
    assert counted == ledger(config, readout="all").forward - unseen[0].forward


def test_the_plain_stack_executes_no_operation_more_than_its_parts() -> None:
    """No option may cost a kernel where it is off."""

    class Names(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.seen.append(str(func))
            return func(*args, **(kwargs or {}))

    config = contracts.tiny("transformer")
    model, ids = seeded(config, init_seed=0).eval(), contracts.tokens(config)
    with torch.no_grad():
        with Names() as whole:
            model(ids)
        with Names() as parts:
            x = model.embedding.position(F.embedding(ids, model.embedding.token.weight))
            for block in model.blocks:
                x = block.attention_norm(x + block.attention(x))
                x = block.feedforward_norm(x + block.feedforward(x))
            model.head.linear(model.head.norm(x))
    assert whole.seen == parts.seen


def test_every_stack_kind_has_every_option() -> None:
    for name in STACKS:
        assert set(ALL_OPTIONS) <= set(discover("model")[name].model_fields), name
