"""Causal self-attention with all its options: softmax(q k' / sqrt(K) + bias) v.

Legend: B batch, T position, C model width, H head, G key-value head, K head width.
Source: Vaswani et al. 2017 (multi-head), Ainslie et al. 2023 (grouped queries), Henry et
al. 2020 and Dehghani et al. 2023 (norm of queries and keys).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.layers.cost import Term, matmul
from lmbench.layers.norm import RMSNorm
from lmbench.layers.positions import Alibi, Rotary
from lmbench.layers.shape import BlockShape


def attend(
    q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, *, bias_HTT: Tensor | None, dropout: float
) -> Tensor:
    """Causal attention of each position to itself and those before it.

    The one place where attention is computed, so that a faster kernel has one place to go.
    Under vmap the fused kernels have no batching rule, and torch loops over the stack with a
    warning: ask for SDPBackend.MATH there.

    Args:
        q_BHTK: queries; keys and values have as many heads.
        bias_HTT: added to the scores and holding the causal mask; None is the mask alone,
            for which fused kernels exist.
        dropout: probability that an attention weight is set to 0; 0 switches it off.
    """
    if bias_HTT is None:
        return F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, dropout_p=dropout, is_causal=True)
    # Fused kernels take a bias in the queries' dtype and with a batch axis only.
    bias_1HTT = bias_HTT.to(q_BHTK.dtype).unsqueeze(0)
    return F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, attn_mask=bias_1HTT, dropout_p=dropout)


class CausalSelfAttention(nn.Module):
    """Projections to queries, keys and values in one product, attention, and back to C.

    `attention_init` is the published study's two ways: "multihead" starts like
    nn.MultiheadAttention (Xavier-uniform over the packed matrix, biases at 0), "linear"
    like four separate nn.Linear (uniform in +-1/sqrt(C), biases too).
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.heads = (shape.n_head, shape.n_kv_head, shape.n_kv_head)
        self.d_head, self.dropout = shape.d_head, shape.dropout
        self.in_proj = nn.Linear(shape.d_model, sum(self.heads) * shape.d_head, bias=shape.bias)
        self.out_proj = nn.Linear(shape.d_model, shape.d_model, bias=shape.bias)
        # One gain over K, shared by the heads.
        self.q_norm = RMSNorm(shape.d_head) if shape.qk_norm else None
        self.k_norm = RMSNorm(shape.d_head) if shape.qk_norm else None
        rope = shape.positions == "rope"
        self.rotary = Rotary(seq_len=shape.seq_len, d_head=shape.d_head) if rope else None
        self.alibi = Alibi(n_head=shape.n_head) if shape.positions == "alibi" else None
        if shape.attention_init == "multihead":
            nn.init.xavier_uniform_(self.in_proj.weight)
            if shape.bias:
                nn.init.zeros_(self.in_proj.bias)
                nn.init.zeros_(self.out_proj.bias)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C); position t reads positions 0 to t."""
        T = x_BTC.shape[1]
        q_BHTK, k_BGTK, v_BGTK = self._project(x_BTC)
        if self.q_norm is not None and self.k_norm is not None:
            q_BHTK, k_BGTK = self.q_norm(q_BHTK), self.k_norm(k_BGTK)
        if self.rotary is not None:
            q_BHTK, k_BGTK = self.rotary(q_BHTK), self.rotary(k_BGTK)
        group = self.heads[0] // self.heads[1]
        k_BHTK, v_BHTK = _repeat_heads(k_BGTK, times=group), _repeat_heads(v_BGTK, times=group)
        bias_HTT = None if self.alibi is None else self.alibi(T)
        dropout = self.dropout if self.training else 0.0
        mixed_BHTK = attend(q_BHTK, k_BHTK, v_BHTK, bias_HTT=bias_HTT, dropout=dropout)
        return self.out_proj(mixed_BHTK.transpose(1, 2).flatten(2))

    def _project(self, x_BTC: Tensor) -> tuple[Tensor, ...]:
        """Queries (B, H, T, K), keys and values (B, G, T, K)."""
        parts = self.in_proj(x_BTC).split([n * self.d_head for n in self.heads], dim=-1)
        return tuple(part.unflatten(-1, (-1, self.d_head)).transpose(1, 2) for part in parts)


def _repeat_heads(x_BGTK: Tensor, *, times: int) -> Tensor:
    """Each key-value head for `times` consecutive query heads; as it is for 1."""
    # SDPA's own enable_gqa would close its memory-efficient kernel to float32.
    return x_BGTK if times == 1 else x_BGTK.repeat_interleave(times, dim=1)


def attention_terms(shape: BlockShape, *, n_layer: int) -> tuple[Term, ...]:
    """Forward FLOPs of the attention halves of n_layer blocks over seq_len tokens."""
    T, C = shape.seq_len, shape.d_model
    kv_width = shape.n_kv_head * shape.d_head
    # Queries and the output C x C, keys and values C x GK.
    projections = 2 * matmul(T, inner=C, columns=C) + 2 * matmul(T, inner=C, columns=kv_width)
    # q k' and weights v, for each head (T, K) with (K, T) and (T, T) with (T, K).
    scores = 2 * shape.n_head * matmul(T, inner=shape.d_head, columns=T)
    # T (T + 1) / 2 of the T^2 pairs are allowed; `scores` has the factor 4 that makes this exact.
    allowed = scores // T * (T + 1) // 2
    return (
        Term(name="projections", forward=n_layer * projections),
        Term(name="attention", forward=n_layer * scores, causal=n_layer * allowed),
    )
