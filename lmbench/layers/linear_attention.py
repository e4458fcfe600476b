"""Linear attention: heads whose memory is one matrix, in place of all keys and values.

Queries, keys and values pass SiLU (Yang et al. 2024, section 4). The delta rule needs keys of length 1,
or I - b k k' could expand, so queries and keys are normed; the rule "add" leaves the length
of a key to say how strongly it writes. There is no normaliser, whose gradient has no bound
(Qin et al. 2022): an RMSNorm over each head's output stands in for it, which undoes any scale
of the queries too, and a SiLU gate follows, as in RetNet (Sun et al. 2023) and after. The decay is
exp(-rate softplus(step)), with the step read from the input (Dao and Gu 2024).
Legend: B batch, T position, C model width, H head, K key width, V value width, P = H V.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.layers.cost import Term, matmul
from lmbench.layers.dropout import Dropout
from lmbench.layers.matrix_memory import Reads, chunking, in_chunks, recur
from lmbench.layers.mixer import LayerState, Mixer, Pass
from lmbench.layers.norm import RMSNorm
from lmbench.layers.shape import BlockShape

# Where the decay starts: Mamba-2's ranges (Dao and Gu 2024), memories of one to 1,000 positions.
STEP_RANGE = (1e-3, 1e-1)
RATE_RANGE = (1.0, 16.0)
TINY = 1e-6  # under the root of a squared length


class LinearAttention(Mixer):
    """One map to all that the memories read, the recurrence, norm and gate of each head, and back to C.

    `expand` widens values, and so the state, to expand * K each. Dropout acts on what goes into out_proj.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.n_head, self.d_key, self.d_value = shape.n_head, shape.d_head, shape.expand * shape.d_head
        self.is_delta, self.has_decay = shape.rule == "delta", shape.decay == "data"
        self.in_proj = nn.Linear(shape.d_model, sum(self._widths()), bias=shape.bias)
        if self.has_decay:
            low, high = (math.log(x) for x in STEP_RANGE)
            step_H = torch.empty(shape.n_head).uniform_(low, high).exp()
            self.decay_bias_H = nn.Parameter(step_H + (-torch.expm1(-step_H)).log())  # softplus's inverse
            self.log_decay_rate_H = nn.Parameter(torch.empty(shape.n_head).uniform_(*RATE_RANGE).log())
        self.out_norm = RMSNorm(self.d_value, gain=shape.norm_gain)  # one gain over V, shared by the heads
        self.dropout = Dropout(shape.dropout)
        self.out_proj = nn.Linear(shape.n_head * self.d_value, shape.d_model, bias=shape.bias)

    def _widths(self) -> list[int]:
        """Of queries, keys and values, of gates, write strengths and decays in the map's output."""
        H = self.n_head
        read = H * (2 * self.d_key + self.d_value)
        return [read, H * self.d_value, H * self.is_delta, H * self.has_decay]

    def forward(self, x_BTC: Tensor, shared: Pass | None = None) -> Tensor:
        """See `Mixer.forward`."""
        reads, gate_BTP = self._reads(x_BTC)
        out_BTHV, _ = in_chunks(reads, keeps_state=False)
        return self.out_proj(self.dropout(self._gated(out_BTHV, gate_BTP)))

    def extend(
        self, x_BTC: Tensor, state: LayerState, shared: Pass | None = None
    ) -> tuple[Tensor, LayerState]:
        """See `Mixer.extend`; the matrix of each head is remembered."""
        reads, gate_BTP = self._reads(x_BTC)
        forms = recur if x_BTC.shape[1] == 1 else in_chunks
        out_BTHV, state_BHKV = forms(reads, state.get("memory_BHKV"))
        return self.out_proj(self._gated(out_BTHV, gate_BTP)), {"memory_BHKV": state_BHKV}

    def _reads(self, x_BTC: Tensor) -> tuple[Reads, Tensor]:
        """What the memories are asked and told, and the (B, T, P) gates of their outputs."""
        read, gate_BTP, strength_BTH, step_BTH = self.in_proj(x_BTC).split(self._widths(), dim=-1)
        wide = torch.promote_types(read.dtype, torch.float32)
        n_qk = 2 * self.n_head * self.d_key
        qk, v = F.silu(read.to(wide)).tensor_split((n_qk,), dim=-1)
        qk = qk.unflatten(-1, (2 * self.n_head, -1))
        if self.is_delta:
            qk = qk * torch.rsqrt(qk.square().sum(-1, keepdim=True) + TINY)
        q, k = qk.chunk(2, dim=-2)
        log_decay_BTH = q.new_zeros(q.shape[:-1])
        if self.has_decay:
            step_BTH = F.softplus(step_BTH.to(wide) + self.decay_bias_H.to(wide))
            log_decay_BTH = -step_BTH * self.log_decay_rate_H.to(wide).exp()
        strength = torch.sigmoid(strength_BTH.to(wide)) if self.is_delta else None
        return Reads(q, k, v.unflatten(-1, (self.n_head, -1)), log_decay_BTH, strength), gate_BTP

    def _gated(self, out_BTHV: Tensor, gate_BTP: Tensor) -> Tensor:
        """(B, T, P) of what the memories answered."""
        normed_BTHV = self.out_norm(out_BTHV.to(gate_BTP.dtype))
        return normed_BTHV.flatten(2) * F.silu(gate_BTP)


def linear_attention_terms(shape: BlockShape, *, n_layer: int) -> tuple[Term, ...]:
    """Forward FLOPs of the linear-attention halves of n_layer blocks over seq_len tokens.

    All L^2 pairs of a chunk are counted, and the triangular solve as the dense product it
    replaces; its backward pass is one more solve, for the right-hand side, and one product, for
    the matrix, so twice its forward like all else. Softmax-like work (decays, norms) is left out.
    """
    C, H, K, V = shape.d_model, shape.n_head, shape.d_head, shape.expand * shape.d_head
    n, L = chunking(shape.seq_len)
    is_delta, has_decay = shape.rule == "delta", shape.decay == "data"
    columns = H * (2 * K + 2 * V + is_delta + has_decay)
    projections = matmul(shape.seq_len, inner=C, columns=columns + H * V)  # to all that is read, and back
    # q k' and what is written; for the delta rule k k' and the solve, of V columns and, where
    # there are several chunks, K more.
    pairs = matmul(L, inner=K, columns=L) + matmul(L, inner=L, columns=V)
    if is_delta:
        pairs += matmul(L, inner=K, columns=L) + matmul(L, inner=L, columns=V + (K if n > 1 else 0))
    # The first chunk reads no state and the last leaves none: written, read and, for the delta
    # rule, read by the keys.
    states = (2 + is_delta) * matmul(L, inner=K, columns=V)
    return (
        Term(name="projections", forward=n_layer * projections),
        Term(name="linear_attention", forward=n_layer * H * (n * pairs + (n - 1) * states)),
    )
