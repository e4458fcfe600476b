"""Norms, feed-forwards, norm order, tied head, and the settings at which variants meet."""

import pytest
import torch
import torch.nn.functional as F

from lmbench.config import discover, make
from lmbench.layers.feedforward import activate
from lmbench.layers.norm import RMSNorm, make_norm
from lmbench.models.base import Output, seeded

SMALL = {"vocab_size": 7, "seq_len": 5, "d_model": 8, "n_head": 2, "dropout": 0.0}
TOKENS = torch.tensor([[0, 3, 6, 2, 1], [5, 5, 0, 1, 4]])


def small(name: str = "transformer", **fields: object) -> torch.nn.Module:
    known = discover("model")[name].model_fields
    sizes = {key: value for key, value in SMALL.items() if key in known}
    return seeded(make("model", name, **(sizes | fields)), init_seed=0).double()


def test_rmsnorm_divides_by_the_root_mean_square() -> None:
    norm = RMSNorm(2)
    assert norm(torch.tensor([3.0, 4.0])).tolist() == pytest.approx([3 / 12.5**0.5, 4 / 12.5**0.5], rel=1e-5)
    assert norm(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_layernorm_without_bias_is_rmsnorm_of_centred_features() -> None:
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    layernorm, rmsnorm = (make_norm(kind, width=8, bias=False) for kind in ("layernorm", "rmsnorm"))
    torch.testing.assert_close(layernorm(x), rmsnorm(x - x.mean(-1, keepdim=True)))


def test_activations_have_their_textbook_values() -> None:
    x = torch.tensor([-2.0, 3.0])
    assert activate(x, kind="relu").tolist() == [0, 3]
    assert activate(x, kind="relu2").tolist() == [0, 9]
    assert activate(x, kind="gelu").tolist() == pytest.approx([-0.0455, 2.99595], abs=1e-4)
    # silu(-2) * 3 = -2 / (1 + e^2) * 3
    assert activate(x, kind="swiglu").tolist() == pytest.approx([-0.715219], abs=1e-5)


def test_post_norm_normalises_the_stream_and_pre_norm_leaves_it() -> None:
    for order, is_normed in (("post", True), ("pre", False)):
        model = small(norm_order=order)
        block, x = model.blocks[0], 5 * model.embedding(TOKENS)
        assert (
            torch.allclose(block(x).std(-1, unbiased=False), torch.ones(2, 5).double(), atol=1e-3)
            == is_normed
        )


def test_a_pre_norm_block_with_zero_output_maps_is_the_identity() -> None:
    block = small(norm_order="pre").blocks[0]
    for linear in (block.attention.out_proj, block.feedforward.down):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(block(x), x)


def test_a_transformer_of_one_block_is_the_self_attention_model() -> None:
    one = make("model", "transformer", **SMALL, n_layer=1, d_ff=512)
    other = make("model", "self_attention", **SMALL)
    transformer, attention = (seeded(config, init_seed=0) for config in (one, other))
    assert torch.equal(transformer(TOKENS).logits_BTV, attention(TOKENS).logits_BTV)
    assert one.terms("all") == other.terms("all")


def test_an_mlp_whose_hidden_layer_passes_everything_is_the_linear_model() -> None:
    sizes = {"vocab_size": 7, "seq_len": 5, "d_model": 8}
    linear = seeded(make("model", "linear", **sizes), init_seed=0).double()
    mlp = seeded(make("model", "mlp", **sizes, n_layer=1, d_ff=40, dropout=0.0), init_seed=1).double()
    with torch.no_grad():
        mlp.embedding.token.weight.copy_(linear.embedding.token.weight)
        mlp.window.linear.weight.copy_(torch.eye(40))
        mlp.window.linear.bias.fill_(100.0)  # far above 0, where ReLU is the identity
        mlp.head.weight.copy_(linear.head.linear.weight)
        mlp.head.bias.copy_(linear.head.linear.bias - 100.0 * linear.head.linear.weight.sum(1))
    torch.testing.assert_close(mlp(TOKENS).logits_BTV, linear(TOKENS).logits_BTV)


def test_missing_context_is_the_zero_vector() -> None:
    model = seeded(make("model", "linear", vocab_size=7, seq_len=5, d_model=8), init_seed=0).double()
    newest = model.head.linear.weight[:, -8:]
    expected = model.embedding.token.weight[TOKENS[:, 0]] @ newest.T + model.head.linear.bias
    torch.testing.assert_close(model(TOKENS).logits_BTV[:, 0], expected)
    assert not model.embedding(torch.full((1, 3), -1)).any()


def test_dropout_zeroes_half_and_doubles_the_rest_of_what_it_is_put_after() -> None:
    mlp = small("mlp", n_layer=1, d_ff=64, dropout=0.5)
    mlp.head = torch.nn.Identity()
    block = small(dropout=0.5).blocks[0]
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)).double()
    for module, inputs in ((mlp, TOKENS), (block.feedforward, x)):
        outputs = {}
        for mode in (True, False):
            torch.manual_seed(0)
            out = module.train(mode)(inputs)
            outputs[mode] = out.logits_BTV if isinstance(out, Output) else out
        kept = outputs[True] != 0
        torch.testing.assert_close(outputs[True][kept], 2 * outputs[False][kept])
        alive = outputs[False] != 0
        assert 0.3 < kept[alive].double().mean() < 0.7


def test_as_many_key_value_heads_as_heads_is_the_plain_model() -> None:
    assert torch.equal(small(n_kv_head=2)(TOKENS).logits_BTV, small()(TOKENS).logits_BTV)


def test_a_tied_head_reads_with_the_embedding_and_starts_at_unit_scale() -> None:
    model = seeded(make("model", "transformer", tied_head=True, dropout=0.0), init_seed=0)
    tokens = torch.randint(65, (4, 128), generator=torch.Generator().manual_seed(0))
    assert "head.linear.weight" not in model.state_dict()
    x = model.embedding(tokens) - model.embedding.position.embedding.weight
    assert x.std().item() == pytest.approx(1, abs=0.05)
    # A matrix of N(0, 1), as untied embeddings start, would give logits of sqrt(128) = 11.
    assert 0.5 < model(tokens).logits_BTV.std().item() < 2
    hidden = model.head.norm(torch.ones(1, 1, 128).cumsum(-1))
    by_hand = F.linear(hidden, model.embedding.token.weight)
    out = model.head(torch.ones(1, 1, 128).cumsum(-1), embedding=model.embedding, readout="all")
    assert torch.equal(out, by_hand)


def test_a_model_without_biases_has_none() -> None:
    assert not [name for name in small(bias=False).state_dict() if name.endswith("bias")]


def test_the_modern_variant_is_named_and_the_plain_one_is_not() -> None:
    assert make("model", "transformer_modern", n_layer=5).name == "transformer_modern"
    assert (
        make("model", "transformer", norm_order="pre", attention_init="linear").name == "transformer_prenorm"
    )
    assert make("model", "transformer", norm_order="pre").name == "transformer"


@pytest.mark.parametrize(
    "kind, fields, message",
    [
        (
            "transformer",
            {"d_model": 100, "n_head": 3},
            r"transformer: d_model = 100 must be a multiple of n_head = 3",
        ),
        ("self_attention", {"n_head": 3}, r"self_attention: d_model = 128 must be a multiple of n_head = 3"),
        ("transformer", {"positions": "rotary"}, r"transformer.positions = 'rotary' is not accepted.*'rope'"),
        ("transformer", {"d_modle": 64}, r"Did you mean 'd_model'\?"),
        ("transformer", {"dropout": 1.0}, r"transformer.dropout = 1.0 is not accepted"),
        ("mlp", {"n_layer": 0}, r"mlp.n_layer = 0 is not accepted"),
    ],
)
def test_refused_settings_are_one_sentence(kind: str, fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make("model", kind, **fields)
    assert "\n" not in str(caught.value)
