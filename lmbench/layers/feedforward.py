"""The position-wise half of a block: C to F, an activation, and back to C.

Legend: B batch, T position, C model width, F feed-forward width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.layers.cost import Term, matmul
from lmbench.layers.dropout import Dropout
from lmbench.layers.mixer import Pass
from lmbench.layers.shape import Activation, BlockShape


class FeedForward(nn.Module):
    """down(activation(up(x))), then dropout.

    `swiglu` gates: silu(a) * b with (a, b) from one product of twice the width (Shazeer
    2020, eq. 6), so it has 3 C F weights and not 2. `relu2` is max(x, 0)^2 (So et al. 2021).
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.activation: Activation = shape.activation
        self.up = nn.Linear(shape.d_model, _up_width(shape), bias=shape.bias)
        self.down = nn.Linear(shape.d_ff, shape.d_model, bias=shape.bias)
        self.dropout = Dropout(shape.dropout)

    def forward(self, x_BTC: Tensor, shared: Pass | None = None) -> Tensor:
        """(B, T, C) to (B, T, C), each position by itself."""
        return self.dropout(self.down(activate(self.up(x_BTC), kind=self.activation)))


def activate(x: Tensor, *, kind: Activation) -> Tensor:
    """The activation of `kind`; `swiglu` halves the last axis."""
    if kind == "relu":
        return F.relu(x)
    if kind == "gelu":
        return F.gelu(x)
    if kind == "relu2":
        return F.relu(x).square()
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


def feedforward_terms(shape: BlockShape, *, n_layer: int) -> tuple[Term, ...]:
    """Forward FLOPs of the feed-forward halves of n_layer blocks over seq_len tokens."""
    T, C = shape.seq_len, shape.d_model
    up = matmul(T, inner=C, columns=_up_width(shape))
    down = matmul(T, inner=shape.d_ff, columns=C)
    return (Term(name="feedforward", forward=n_layer * (up + down)),)


def _up_width(shape: BlockShape) -> int:
    return 2 * shape.d_ff if shape.activation == "swiglu" else shape.d_ff
