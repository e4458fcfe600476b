"""A gated linear recurrence with one state a feature: the RG-LRU, in the block of Griffin.

One branch is GELU(W_1 u). The other is x = W_2 u, a short causal convolution, and

    r_t = sigmoid(W_a x_t + b_a),    i_t = sigmoid(W_x x_t + b_x),    log a_t = -c softplus(L) r_t,
    h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t x_t),    c = 8.

Their product goes through W_out. L is learned and starts such that exp(-c softplus(L)), the
slowest decay that a feature can have, is uniform between 0.9 and 0.999. W_a and W_x are
block-diagonal with n_head blocks, as in the authors' models; one head is the full matrix.
Source: De et al. 2024 (Griffin), section 2.4, equations 1 to 4, with L of the opposite sign.

Legend: B batch, T position, C model width, D inner width, H head, K inner width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.layers.conv import ShortConv, conv_terms
from lmbench.layers.cost import Term, matmul
from lmbench.layers.dropout import Dropout
from lmbench.layers.init import GPT2_STD
from lmbench.layers.mixer import LayerState, Mixer, Pass
from lmbench.layers.scan import linear_scan
from lmbench.layers.shape import BlockShape

SHARPNESS = 8.0  # c of the equations
SLOWEST_RANGE = (0.9, 0.999)
SMALLEST_ROOM = 1e-6
"""Of 1 - a^2: the slope of its root is infinite at 0, where a step that forgets nothing would land."""


class GatedRecurrence(Mixer):
    """Griffin's recurrent block; dropout acts on what goes into out_proj."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        D = shape.expand * shape.d_model
        self.in_proj = nn.Linear(shape.d_model, 2 * D, bias=shape.bias)
        self.conv = ShortConv(shape.conv_width, features=D, bias=True) if shape.conv_width else None
        self.gates = BlockDiagonal(shape, features=D)
        slowest_D = torch.empty(D).uniform_(*SLOWEST_RANGE)
        # softplus(L) = -log(slowest) / c, and its inverse log(e^s - 1).
        self.decay_D = nn.Parameter(torch.log(torch.expm1(-slowest_D.log() / SHARPNESS)))
        self.dropout = Dropout(shape.dropout)
        self.out_proj = nn.Linear(D, shape.d_model, bias=shape.bias)

    def forward(self, x_BTC: Tensor, shared: Pass | None = None) -> Tensor:
        """See `Mixer.forward`."""
        gate_BTD, x_BTD = self.in_proj(x_BTC).chunk(2, dim=-1)
        h_BTD = self._recur(x_BTD if self.conv is None else self.conv(x_BTD), None)
        return self.out_proj(self.dropout(F.gelu(gate_BTD) * h_BTD.to(gate_BTD.dtype)))

    def extend(
        self, x_BTC: Tensor, state: LayerState, shared: Pass | None = None
    ) -> tuple[Tensor, LayerState]:
        """See `Mixer.extend`; the last inputs of the convolution and the states are remembered."""
        gate_BTD, x_BTD = self.in_proj(x_BTC).chunk(2, dim=-1)
        start_BD, inputs = state.get("h_BD"), {k: v for k, v in state.items() if k != "h_BD"}
        if self.conv is not None:
            x_BTD, inputs = self.conv.extend(x_BTD, inputs)
        h_BTD = self._recur(x_BTD, start_BD)
        out_BTC = self.out_proj(F.gelu(gate_BTD) * h_BTD.to(gate_BTD.dtype))
        return out_BTC, inputs | {"h_BD": h_BTD[:, -1]}

    def _recur(self, x_BTD: Tensor, start_BD: Tensor | None) -> Tensor:
        """All states, in float32 or better."""
        dtype = torch.promote_types(x_BTD.dtype, torch.float32)
        r_BTD, i_BTD = self.gates(x_BTD).to(dtype).sigmoid().chunk(2, dim=-1)
        log_a_BTD = -SHARPNESS * F.softplus(self.decay_D.to(dtype)) * r_BTD
        # 1 - a^2 without the cancellation of a near 1.
        room_BTD = -torch.expm1(2 * log_a_BTD)
        input_BTD = room_BTD.clamp_min(SMALLEST_ROOM).sqrt() * (i_BTD * x_BTD.to(dtype))
        return linear_scan(log_a_BTD.exp(), input_BTD, start=start_BD)


class BlockDiagonal(nn.Module):
    """The maps of both gates: each head's features see only each other."""

    def __init__(self, shape: BlockShape, *, features: int) -> None:
        super().__init__()
        H, K = shape.n_head, features // shape.n_head
        bound = K**-0.5  # as nn.Linear starts
        self.weight_2HKK = nn.Parameter(torch.empty(2, H, K, K).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(2 * features))
        if shape.init == "gpt2":
            nn.init.normal_(self.weight_2HKK, std=GPT2_STD)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, 2 D), one gate after the other."""
        B, T, D = x_BTD.shape
        _, H, K, _ = self.weight_2HKK.shape
        x_HBTK = x_BTD.reshape(B * T, H, K).transpose(0, 1)
        # Both gates of a head in one product, (B T, K) with (K, 2 K).
        both_HBTG = torch.bmm(x_HBTK, self.weight_2HKK.permute(1, 2, 0, 3).reshape(H, K, 2 * K))
        both_BT2D = both_HBTG.view(H, B, T, 2, K).permute(1, 2, 3, 0, 4)
        return both_BT2D.reshape(B, T, 2 * D) + self.bias


def recurrence_terms(shape: BlockShape, *, n_layer: int) -> tuple[Term, ...]:
    """Forward FLOPs of n_layer mixers over seq_len tokens."""
    T, C, H = shape.seq_len, shape.d_model, shape.n_head
    D = shape.expand * C
    projections = matmul(T, inner=C, columns=2 * D) + matmul(T, inner=D, columns=C)
    gates = 2 * H * matmul(T, inner=D // H, columns=D // H)
    # Of each feature: the decay times r, a^2, 1 - a^2, i x, its product with the root, a h, the sum.
    scan = 7 * T * D
    convolution = conv_terms(width=shape.conv_width, features=D, seq_len=T) if shape.conv_width else ()
    return (
        Term(name="projections", forward=n_layer * projections),
        Term(name="gates", forward=n_layer * gates),
        Term(name="scan", forward=n_layer * scan, elementwise=True),
        *(Term(name=t.name, forward=n_layer * t.forward, elementwise=True) for t in convolution),
    )
