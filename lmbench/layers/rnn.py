"""Recurrent layers with gates: the LSTM and the GRU, with the equations of torch.nn.

LSTM:  i, f, o = sigmoid(.), g = tanh(.) of W x_t + U h_{t-1} + b,
       c_t = f c_{t-1} + i g,   h_t = o tanh(c_t).
GRU:   r, z = sigmoid(.) of W x_t + U h_{t-1} + b,   n = tanh(W_n x_t + b_n + r (U_n h_{t-1} + d)),
       h_t = n + z (h_{t-1} - n).

All positions go through W in one product; U needs a loop over them, in plain torch, so that
replicas stack and counters see the products (they see nothing in torch's own kernels). States
are kept in float32 or better. Source: Hochreiter and Schmidhuber 1997 with the forget gate of
Gers et al. 2000; Cho et al. 2014, in the variant of torch and cuDNN, where r comes after U.

Legend: B batch, T position, C width of input and state, G all gates' features side by side.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lmbench.layers.cost import Term, matmul
from lmbench.layers.mixer import LayerState

LSTM_GATES, GRU_GATES = 4, 3


class RecurrentLayer(nn.Module, ABC):
    """Abstract: (B, T, C) to (B, T, C), position by position. Both maps start as in torch.nn.

    Args:
        width: C.
        n_gate: maps of that width that a position goes through.
    """

    def __init__(self, width: int, *, n_gate: int) -> None:
        super().__init__()
        self.input_proj = nn.Linear(width, n_gate * width)
        """W and b. torch.nn has a second bias beside it, which only adds to the first."""
        self.hidden_proj = nn.Linear(width, n_gate * width, bias=False)
        """U."""

    def forward(self, x_BTC: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """States h of all positions after those that `state` stands for, {} at the start."""
        gates_BTG = self.input_proj(x_BTC)
        if not state:
            # Zero, but a function of x: so the first position costs the products of all others.
            state = self._start(0 * x_BTC[:, 0])
        hidden, weight_GC = [], self.hidden_proj.weight  # read once: methods may compute it
        for gates_BG in gates_BTG.unbind(1):
            state = self._step(gates_BG, state, weight_GC)
            hidden.append(state["h_BC"])
        return torch.stack(hidden, dim=1), state

    @abstractmethod
    def _start(self, zero_BC: Tensor) -> LayerState:
        """The state before the first position."""

    @abstractmethod
    def _step(self, gates_BG: Tensor, state: LayerState, weight_GC: Tensor) -> LayerState:
        """One position, given W x_t + b and U."""


class LSTMLayer(RecurrentLayer):
    """Gates in torch's order i, f, g, o.

    Args:
        forget_bias: b_f at the start. At 1 the cell remembers before it has learned to (Gers et al.
            2000; Jozefowicz et al. 2015, section 4).
    """

    def __init__(self, width: int, *, forget_bias: float) -> None:
        super().__init__(width, n_gate=LSTM_GATES)
        nn.init.constant_(self.input_proj.bias[width : 2 * width], forget_bias)

    def _start(self, zero_BC: Tensor) -> LayerState:
        return {"h_BC": zero_BC, "c_BC": zero_BC.to(_wide(zero_BC))}

    def _step(self, gates_BG: Tensor, state: LayerState, weight_GC: Tensor) -> LayerState:
        h_BC, c_BC = state["h_BC"], state["c_BC"]
        gates_BG = torch.addmm(gates_BG, h_BC, weight_GC.t()).to(c_BC.dtype)
        i_BC, f_BC, g_BC, o_BC = gates_BG.chunk(LSTM_GATES, dim=1)
        c_BC = f_BC.sigmoid() * c_BC + i_BC.sigmoid() * g_BC.tanh()
        return {"h_BC": (o_BC.sigmoid() * c_BC.tanh()).to(h_BC.dtype), "c_BC": c_BC}


class GRULayer(RecurrentLayer):
    """Gates in torch's order r, z, n. The bias d inside the reset gate cannot be joined with b."""

    def __init__(self, width: int) -> None:
        super().__init__(width, n_gate=GRU_GATES)
        bound = width**-0.5
        self.reset_bias_C = nn.Parameter(torch.empty(width).uniform_(-bound, bound))

    def _start(self, zero_BC: Tensor) -> LayerState:
        return {"h_BC": zero_BC}

    def _step(self, gates_BG: Tensor, state: LayerState, weight_GC: Tensor) -> LayerState:
        h_BC = state["h_BC"]
        C, wide = h_BC.shape[1], _wide(h_BC)
        rz_BG = torch.addmm(gates_BG[:, : 2 * C], h_BC, weight_GC[: 2 * C].t()).to(wide)
        inner_BC = torch.addmm(self.reset_bias_C, h_BC, weight_GC[2 * C :].t()).to(wide)
        r_BC, z_BC = rz_BG.sigmoid().chunk(2, dim=1)
        n_BC = torch.tanh(gates_BG[:, 2 * C :].to(wide) + r_BC * inner_BC)
        return {"h_BC": (n_BC + z_BC * (h_BC.to(wide) - n_BC)).to(h_BC.dtype)}


def _wide(x: Tensor) -> torch.dtype:
    """float32 or better."""
    return torch.promote_types(x.dtype, torch.float32)


def rnn_terms(*, seq_len: int, width: int, n_gate: int, cell: int, n_layer: int) -> tuple[Term, ...]:
    """Forward FLOPs of n_layer layers over seq_len tokens.

    Args:
        cell: multiplies and adds of each feature beside the products, the functions apart. LSTM, 4:
            f c, i g, their sum, o tanh(c). GRU, 5: r times U_n h, its sum with W_n x, h - n, z
            times it, the sum with n.
    """
    product = seq_len * matmul(1, inner=width, columns=n_gate * width)
    return (
        Term(name="input products", forward=n_layer * product),
        Term(name="recurrent products", forward=n_layer * product),
        Term(name="cell", forward=n_layer * seq_len * cell * width, elementwise=True),
    )
