"""Causal self-attention with all its options: softmax(q k' / sqrt(K) + bias) v.

Legend: B batch, T position, C model width, H head, G key-value head, K head width,
P any head, A batch and head.
Source: Vaswani et al. 2017 (multi-head), Ainslie et al. 2023 (grouped queries), Henry et
al. 2020 and Dehghani et al. 2023 (norm of queries and keys), Zhou et al. 2024 (value residual).
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.layers.cost import Term, matmul
from lmbench.layers.dropout import Dropout
from lmbench.layers.fused import fused_attention, has_kernel
from lmbench.layers.fused_norm import is_fused, norm_and_turn
from lmbench.layers.mixer import LayerState, Mixer, Pass
from lmbench.layers.norm import EPS, RMSNorm
from lmbench.layers.positions import Alibi, Rotary
from lmbench.layers.shape import BlockShape
from lmbench.layers.short import is_short, short_attention


def attend(
    q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor, *, bias_BHTT: Tensor | None, dropout: Dropout
) -> Tensor:
    """Causal attention of each position to itself and those before it: (B, T, H, K).

    The one place where a kernel of attention is chosen. The fast ones know the causal mask alone, so
    with a bias (of distances, of segments) the scores are formed as they are written, on any device.

    Args:
        q_BTHK: queries; keys and values have as many heads.
        bias_BHTT: added to the scores and holding the causal mask, or what broadcasts to it; None is
            the mask alone.
        dropout: applied to the attention weights.
    """
    if bias_BHTT is None and is_short(q_BTHK):
        return attend_packed(torch.stack((q_BTHK, k_BTHK, v_BTHK), dim=-3), dropout=dropout)
    q_BHTK, k_BHTK, v_BHTK = (x.transpose(1, 2) for x in (q_BTHK, k_BTHK, v_BTHK))
    if bias_BHTT is None and not dropout.is_active and has_kernel(q_BHTK):
        return fused_attention(q_BHTK, k_BHTK, v_BHTK)
    B, H, T, K = q_BHTK.shape
    if bias_BHTT is None:
        bias_BHTT = _causal_bias(T, q_BHTK)
    bias_ATT = bias_BHTT.to(q_BHTK.dtype).expand(B, H, T, T).flatten(0, 1)
    q_ATK, k_ATK, v_ATK = (x.flatten(0, 1) for x in (q_BHTK, k_BHTK, v_BHTK))
    scores_ATT = torch.baddbmm(bias_ATT, q_ATK, k_ATK.transpose(1, 2), alpha=K**-0.5)
    weights_ATT = dropout(torch.softmax(scores_ATT, dim=-1))
    return (weights_ATT @ v_ATK).unflatten(0, (B, H)).transpose(1, 2)


def _causal_bias(n_positions: int, like: Tensor) -> Tensor:
    """(1, T, T) zeros, -inf where the key is later than the query; on a CPU the same tensor each time."""
    # Elsewhere it may be made while a graph is captured, whose memory nobody else may keep.
    make = _cached_bias if like.device.type == "cpu" else _cached_bias.__wrapped__
    return make(n_positions, like.device, like.dtype)


@lru_cache(maxsize=8)
def _cached_bias(n_positions: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    later_TT = torch.ones(n_positions, n_positions, dtype=torch.bool, device=device).triu(1)
    return torch.zeros(1, n_positions, n_positions, dtype=dtype, device=device).masked_fill(
        later_TT, -math.inf
    )


def attend_packed(qkv_BT3HK: Tensor, *, dropout: Dropout) -> Tensor:
    """`attend` where `is_short`, on queries, keys and values side by side as a projection leaves them."""
    return short_attention(qkv_BT3HK, dropout.key, dropout.dropped if dropout.is_active else 0)


class CausalSelfAttention(Mixer):
    """Projections to queries, keys and values in one product, attention, and back to C.

    `attention_init` is the published study's two ways: "multihead" starts like
    nn.MultiheadAttention (Xavier-uniform over the packed matrix, biases at 0), "linear"
    like four separate nn.Linear (uniform in +-1/sqrt(C), biases too).
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.heads = (shape.n_head, shape.n_kv_head, shape.n_kv_head)
        self.d_head, self.dropout = shape.d_head, Dropout(shape.dropout)
        self.in_proj = nn.Linear(shape.d_model, sum(self.heads) * shape.d_head, bias=shape.bias)
        self.out_proj = nn.Linear(shape.n_head * shape.d_head, shape.d_model, bias=shape.bias)
        # One gain over K, shared by the heads.
        self.q_norm = RMSNorm(shape.d_head, gain=shape.norm_gain) if shape.qk_norm else None
        self.k_norm = RMSNorm(shape.d_head, gain=shape.norm_gain) if shape.qk_norm else None
        rope = shape.positions == "rope"
        self.rotary = Rotary(seq_len=shape.seq_len, d_head=shape.d_head) if rope else None
        self.value_residual = shape.value_residual
        mixes = shape.value_residual and not shape.is_first
        # Of its own values and of the first layer's.
        self.value_mix = nn.Parameter(torch.full((2,), 0.5)) if mixes else None
        self.alibi = Alibi(n_head=shape.n_head) if shape.positions == "alibi" else None
        if shape.attention_init == "multihead":
            nn.init.xavier_uniform_(self.in_proj.weight)
            if shape.bias:
                nn.init.zeros_(self.in_proj.bias)
                nn.init.zeros_(self.out_proj.bias)

    def forward(self, x_BTC: Tensor, shared: Pass | None = None) -> Tensor:
        """See `Mixer.forward`."""
        x_BTPK = self.in_proj(x_BTC).unflatten(-1, (-1, self.d_head))
        q_BTHK, k_BTGK, v_BTGK = x_BTPK.split(self.heads, dim=-2)
        if self.value_residual:
            v_BTGK = self._mix_values(v_BTGK, shared)
        bias_BHTT = self._bias(q_BTHK, shared)
        if bias_BHTT is None and self._is_plain and is_short(q_BTHK):
            qkv_BT3HK = x_BTPK.unflatten(-2, (3, -1))
            return self.out_proj(attend_packed(qkv_BT3HK, dropout=self.dropout).flatten(2))
        if self.q_norm is not None or self.rotary is not None:
            q_BTHK, k_BTGK = self._place(x_BTPK[..., : sum(self.heads[:2]), :]).split(self.heads[:2], dim=-2)
        group = self.heads[0] // self.heads[1]
        k_BTHK, v_BTHK = _repeat_heads(k_BTGK, times=group), _repeat_heads(v_BTGK, times=group)
        mixed_BTHK = attend(q_BTHK, k_BTHK, v_BTHK, bias_BHTT=bias_BHTT, dropout=self.dropout)
        return self.out_proj(mixed_BTHK.flatten(2))

    def extend(
        self, x_BTC: Tensor, state: LayerState, shared: Pass | None = None
    ) -> tuple[Tensor, LayerState]:
        """See `Mixer.extend`; keys and values of all positions so far are remembered."""
        first = state["k_BTGK"].shape[1] if state else 0
        x_BTPK = self.in_proj(x_BTC).unflatten(-1, (-1, self.d_head))
        q_BTHK, k_BTGK, v_BTGK = x_BTPK.split(self.heads, dim=-2)
        if self.value_residual:
            v_BTGK = self._mix_values(v_BTGK, shared)
        if self.q_norm is not None or self.rotary is not None:
            qk_BTPK = self._place(x_BTPK[..., : sum(self.heads[:2]), :], first=first)
            q_BTHK, k_BTGK = qk_BTPK.split(self.heads[:2], dim=-2)
        if state:
            k_BTGK = torch.cat((state["k_BTGK"], k_BTGK), dim=1)
            v_BTGK = torch.cat((state["v_BTGK"], v_BTGK), dim=1)
        n_keys, group = k_BTGK.shape[1], self.heads[0] // self.heads[1]
        bias_HTT = _causal_bias(n_keys, q_BTHK) if self.alibi is None else self.alibi(n_keys)
        q_BHTK, k_BHTK, v_BHTK = (
            x.transpose(1, 2)
            for x in (q_BTHK, _repeat_heads(k_BTGK, times=group), _repeat_heads(v_BTGK, times=group))
        )
        mixed_BHTK = F.scaled_dot_product_attention(
            q_BHTK, k_BHTK, v_BHTK, attn_mask=bias_HTT[:, first:].to(q_BHTK.dtype)
        )
        return self.out_proj(mixed_BHTK.transpose(1, 2).flatten(2)), {"k_BTGK": k_BTGK, "v_BTGK": v_BTGK}

    def _bias(self, q_BTHK: Tensor, shared: Pass | None) -> Tensor | None:
        """What is added to the scores, see `attend`. Rotary and ALiBi read distances, which segments keep."""
        alibi_HTT = None if self.alibi is None else self.alibi(q_BTHK.shape[1])
        bias_B1TT = None if shared is None else shared.segment_bias(dtype=q_BTHK.dtype)
        if alibi_HTT is None or bias_B1TT is None:
            return alibi_HTT if bias_B1TT is None else bias_B1TT
        return bias_B1TT + alibi_HTT

    def _place(self, qk_BTPK: Tensor, *, first: int = 0) -> Tensor:
        """Queries and keys side by side, normed and turned: half the kernels of one after the other.

        Args:
            first: position of the first of them.
        """
        has_gain = self.q_norm is not None and self.q_norm.weight is not None
        if self.rotary is not None and not has_gain and is_fused(qk_BTPK):
            tables = self.rotary.tables(qk_BTPK.shape[1], first=first)
            return norm_and_turn(qk_BTPK, *tables, normed=self.q_norm is not None, eps=EPS)
        if self.q_norm is not None and not has_gain:
            qk_BTPK = self.q_norm(qk_BTPK)
        elif self.q_norm is not None and self.k_norm is not None:
            q_BTHK, k_BTGK = qk_BTPK.split(self.heads[:2], dim=-2)
            qk_BTPK = torch.cat((self.q_norm(q_BTHK), self.k_norm(k_BTGK)), dim=-2)
        if self.rotary is None:
            return qk_BTPK
        return self.rotary(qk_BTPK.transpose(1, 2), first=first).transpose(1, 2)

    def _mix_values(self, v_BTGK: Tensor, shared: Pass | None) -> Tensor:
        """l1 v + l2 v_first, as they are where this is the first attention layer of the pass.

        Source: Zhou et al. 2024 (ResFormer), eq. 4, with both factors learned from 0.5 on.
        """
        if shared is not None and shared.first_value is None:
            shared.first_value = v_BTGK
        if self.value_mix is None or shared is None:
            return v_BTGK
        return self.value_mix[0] * v_BTGK + self.value_mix[1] * shared.first_value

    @property
    def _is_plain(self) -> bool:
        """Whether the kernel may read what the projection leaves, as it lies."""
        changed = self.q_norm, self.rotary, self.alibi, self.value_mix
        return self.heads[0] == self.heads[1] and changed == (None, None, None, None)


def _repeat_heads(x_BTGK: Tensor, *, times: int) -> Tensor:
    """Each key-value head for `times` consecutive query heads; as it is for 1."""
    # SDPA's own enable_gqa would close its memory-efficient kernel to float32.
    return x_BTGK if times == 1 else x_BTGK.repeat_interleave(times, dim=2)


def attention_terms(shape: BlockShape, *, n_layer: int) -> tuple[Term, ...]:
    """Forward FLOPs of the attention halves of n_layer blocks over seq_len tokens.

    The scores are those of all T^2 pairs, which is what is executed, and `causal` those of the pairs
    that the causal mask allows, of a row that is one segment. With several the mask leaves fewer,
    which depends on the row and is not taken off either number.
    """
    T, C = shape.seq_len, shape.d_model
    # Queries and the output C x HK, keys and values C x GK.
    width, kv_width = shape.n_head * shape.d_head, shape.n_kv_head * shape.d_head
    projections = 2 * matmul(T, inner=C, columns=width) + 2 * matmul(T, inner=C, columns=kv_width)
    # q k' and weights v, for each head (T, K) with (K, T) and (T, T) with (T, K).
    scores = 2 * shape.n_head * matmul(T, inner=shape.d_head, columns=T)
    # T (T + 1) / 2 of the T^2 pairs are allowed; `scores` has the factor 4 that makes this exact.
    allowed = scores // T * (T + 1) // 2
    return (
        Term(name="projections", forward=n_layer * projections),
        Term(name="attention", forward=n_layer * scores, causal=n_layer * allowed),
    )
