"""Attention: grouped heads, normed queries and keys, dropout, and the plain sum it stands for."""

import math

import pytest
import torch

from lmbench.layers.attention import CausalSelfAttention, attend, attention_terms
from lmbench.layers.dropout import Dropout, keep_mask
from lmbench.layers.shape import BlockShape

DEFAULTS = {
    "seq_len": 6, "d_model": 8, "n_head": 4, "n_kv_head": 4, "d_ff": 16, "dropout": 0.0, "norm_order": "post",
    "norm": "layernorm", "positions": "none", "activation": "relu", "qk_norm": False, "bias": True,
    "attention_init": "linear",
}  # fmt: skip


def shape(**fields: object) -> BlockShape:
    return BlockShape(**(DEFAULTS | fields))


def attention(**fields: object) -> CausalSelfAttention:
    torch.manual_seed(0)
    return CausalSelfAttention(shape(**fields)).double()


def draw(*sizes: int) -> torch.Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def attended(*qkv_BHTK: torch.Tensor, bias_HTT: torch.Tensor | None = None) -> torch.Tensor:
    """`attend` with heads before positions, without dropout."""
    q, k, v = (x.transpose(1, 2) for x in qkv_BHTK)
    return attend(q, k, v, bias_BHTT=bias_HTT, dropout=Dropout(0.0)).transpose(1, 2)


def naive(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """One query at a time over the positions up to its own."""
    out = torch.zeros_like(q)
    for t in range(q.shape[-2]):
        weights = (k[..., : t + 1, :] @ q[..., t, :, None] / math.sqrt(q.shape[-1])).softmax(-2)
        out[..., t, :] = (weights * v[..., : t + 1, :]).sum(-2)
    return out


def test_attention_is_a_softmax_average_over_positions_up_to_its_own() -> None:
    q, k, v = draw(3, 2, 4, 6, 2).unbind(0)
    torch.testing.assert_close(attended(q, k, v), naive(q, k, v))


def test_a_bias_of_zero_and_the_causal_mask_equals_no_bias() -> None:
    q, k, v = draw(3, 2, 4, 6, 2).unbind(0)
    bias = torch.zeros(4, 6, 6, dtype=torch.float64).masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf)
    torch.testing.assert_close(attended(q, k, v, bias_HTT=bias), attended(q, k, v))


def test_the_first_position_reads_itself_only() -> None:
    layer, x = attention(), draw(1, 6, 8)
    value = layer.in_proj(x)[:, :1, 16:]
    torch.testing.assert_close(layer(x)[:, :1], layer.out_proj(value))


@pytest.mark.parametrize("n_kv_head", [1, 2])
def test_grouped_queries_equal_full_heads_with_repeated_weights(n_kv_head: int) -> None:
    grouped, full = attention(n_kv_head=n_kv_head), attention()
    width, times = 2 * n_kv_head, 4 // n_kv_head

    def repeat(rows: torch.Tensor) -> torch.Tensor:
        return rows.unflatten(0, (n_kv_head, 2)).repeat_interleave(times, dim=0).flatten(0, 1)

    with torch.no_grad():
        for target, source in zip(full.in_proj.parameters(), grouped.in_proj.parameters(), strict=True):
            q, k, v = source.split([8, width, width])
            target.copy_(torch.cat((q, repeat(k), repeat(v))))
    full.out_proj.load_state_dict(grouped.out_proj.state_dict())
    torch.testing.assert_close(grouped(draw(2, 6, 8)), full(draw(2, 6, 8)))


def test_normed_queries_and_keys_do_not_see_the_scale_of_their_projection() -> None:
    layer, x = attention(qk_norm=True, bias=False), 100 * draw(2, 6, 8)
    before = layer(x)
    with torch.no_grad():
        layer.in_proj.weight[:16] *= 7
    torch.testing.assert_close(layer(x), before, rtol=1e-4, atol=1e-4)


def test_dropout_acts_in_training_only_and_follows_its_key() -> None:
    layer, x = attention(dropout=0.5), draw(2, 6, 8)
    plain = attention()(x)
    found = {}
    for training in (True, False):
        layer.train(training)
        for key in (1, 2):
            layer.dropout.key.fill_(key)
            found[training, key] = layer(x)
            assert torch.equal(layer(x), found[training, key]), "nothing but the key decides"
    assert torch.equal(found[False, 1], plain) and torch.equal(found[False, 2], plain)
    assert not torch.equal(found[True, 1], found[True, 2])
    assert not torch.equal(found[True, 1], plain)


def test_dropped_weights_are_0_and_the_others_grow() -> None:
    dropout = Dropout(0.25).train()
    dropout.key.fill_(7)
    B, H, T = 2, 3, 5
    q, v_BTHK = torch.zeros(B, T, H, 4), torch.eye(T)[:, None].expand(B, T, H, T)
    weights_BHTT = attend(q, q, v_BTHK, bias_BHTT=None, dropout=dropout).transpose(1, 2)
    kept = keep_mask(dropout.key, [B * H, T, T], dropout.dropped).view(B, H, T, T)
    uniform = torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None]
    torch.testing.assert_close(weights_BHTT, kept * uniform / 0.75)


def test_terms_are_those_of_a_hand_count() -> None:
    # T 6, C 8, one key-value head of width 2. Projections: 2 T C (C + C + 2 + 2) = 1920.
    # Scores and values: 2 * 2 T T C = 1152; the 21 of 36 allowed pairs: 672.
    projections, scores = attention_terms(shape(n_kv_head=1), n_layer=1)
    assert (projections.forward, projections.causal) == (1920, None)
    assert (scores.forward, scores.causal) == (1152, 672)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"n_head": 3}, r"d_model = 8 must be a multiple of n_head = 3 \(the nearest is 9\)"),
        ({"n_kv_head": 3}, r"n_kv_head = 3 must divide n_head = 4; accepted: 1, 2, 4"),
        ({"n_head": 8, "n_kv_head": 8, "positions": "rope"}, r"d_model / n_head must be even, but 8 / 8 = 1"),
        (
            {"d_model": 9, "n_head": 1, "n_kv_head": 1, "positions": "sinusoidal"},
            r"even d_model.*d_model = 9",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shape(**fields)
