"""A selective state-space model: each feature has N states whose decay and input depend on the token.

With (x, z) = W_in u, a short causal convolution and SiLU on x, and step size, input and readout
made from x itself, dt = softplus(W_dt W_r x + b), B = W_B x, C = W_C x:

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t,    y_t = h_t C_t + D x_t,    out = W_out (y * SiLU(z))

with A = -exp(A_log) < 0, -1 to -N in every feature at the start (S4D-real: Gu et al. 2022).
Source: Gu and Dao 2023 (Mamba), algorithm 2 and section 3.4. The recurrence is a selective
scan, in float32 or better.

Legend: B batch, T position, C model width, D inner width, N state, L low rank, W taps.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.layers.conv import ShortConv, conv_terms
from lmbench.layers.cost import Term, matmul
from lmbench.layers.dropout import Dropout
from lmbench.layers.mixer import LayerState, Mixer, Pass
from lmbench.layers.selective import selective_scan, selective_states
from lmbench.layers.shape import BlockShape

FEATURES_PER_RANK = 16  # of the model width, for each of the low rank that step sizes are made from
STEP_RANGE = (1e-3, 1e-1)
SMALLEST_STEP = 1e-4


class SelectiveSSM(Mixer):
    """Mamba's mixer.

    Named as `MambaMixer` of Hugging Face's transformers, whose weights fit one to one: in_proj,
    x_proj, dt_proj, out_proj and D as they are; `A_log` is theirs (D, N) flattened, so that
    optimizers leave it alone as they do a vector (the authors exempt it from weight decay);
    `conv1d.taps` is their `conv1d.weight` (D, 1, W) as `weight[:, 0].flip(1).T.flatten()`, because
    tap j here is that of the input j positions ago, and `conv1d.bias_D` their `conv1d.bias`.
    Theirs has no dropout; here it acts on what goes into out_proj.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        D, rank = shape.expand * shape.d_model, step_rank(shape)
        self.d_state, self.sizes = shape.d_state, (rank, shape.d_state, shape.d_state)
        self.in_proj = nn.Linear(shape.d_model, 2 * D, bias=shape.bias)
        self.conv1d = ShortConv(shape.conv_width, features=D, bias=True) if shape.conv_width else None
        self.x_proj = nn.Linear(D, sum(self.sizes), bias=False)
        self.dt_proj = StepSize(rank, features=D)
        self.A_log = nn.Parameter(torch.arange(1.0, shape.d_state + 1).log().repeat(D))
        self.D = nn.Parameter(torch.ones(D))
        self.dropout = Dropout(shape.dropout)
        self.out_proj = nn.Linear(D, shape.d_model, bias=shape.bias)

    def forward(self, x_BTC: Tensor, shared: Pass | None = None) -> Tensor:
        """See `Mixer.forward`."""
        x_BTD, z_BTD = self.in_proj(x_BTC).chunk(2, dim=-1)
        x_BTD = F.silu(x_BTD if self.conv1d is None else self.conv1d(x_BTD))
        y_BTD = self._read_out(selective_scan(*self._select(x_BTD)), x_BTD)
        return self.out_proj(self.dropout(y_BTD * F.silu(z_BTD)))

    def extend(
        self, x_BTC: Tensor, state: LayerState, shared: Pass | None = None
    ) -> tuple[Tensor, LayerState]:
        """See `Mixer.extend`; the last inputs of the convolution and the states are remembered."""
        x_BTD, z_BTD = self.in_proj(x_BTC).chunk(2, dim=-1)
        start_BDN, inputs = state.get("h_BDN"), {k: v for k, v in state.items() if k != "h_BDN"}
        if self.conv1d is not None:
            x_BTD, inputs = self.conv1d.extend(x_BTD, inputs)
        x_BTD = F.silu(x_BTD)
        y_BTD, h_BDN = selective_states(*self._select(x_BTD), start_BDN=start_BDN)
        out_BTC = self.out_proj(self._read_out(y_BTD, x_BTD) * F.silu(z_BTD))
        return out_BTC, inputs | {"h_BDN": h_BDN}

    def _select(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Step sizes, x, A, B and C, in float32 or better."""
        low_BTL, B_BTN, C_BTN = self.x_proj(x_BTD).split(self.sizes, dim=-1)
        dtype = torch.promote_types(x_BTD.dtype, torch.float32)
        dt_BTD = F.softplus(self.dt_proj(low_BTL).to(dtype))
        A_DN = -self.A_log.to(dtype).exp().unflatten(0, (-1, self.d_state))
        return dt_BTD, x_BTD.to(dtype), A_DN, B_BTN.to(dtype), C_BTN.to(dtype)

    def _read_out(self, y_BTD: Tensor, x_BTD: Tensor) -> Tensor:
        """y + D x, in the dtype of x."""
        return (y_BTD + self.D.to(y_BTD.dtype) * x_BTD.to(y_BTD.dtype)).to(x_BTD.dtype)


class StepSize(nn.Module):
    """The map to step sizes before their softplus; they start between 0.001 and 0.1, log-uniformly.

    Not an nn.Linear, because no other start of a model's matrices may redraw it.
    """

    def __init__(self, rank: int, *, features: int) -> None:
        super().__init__()
        bound = rank**-0.5
        self.weight = nn.Parameter(torch.empty(features, rank).uniform_(-bound, bound))
        low, high = (math.log(step) for step in STEP_RANGE)
        steps_D = torch.empty(features).uniform_(low, high).exp().clamp_min(SMALLEST_STEP)
        # The inverse of softplus: log(e^dt - 1) = dt + log(1 - e^-dt).
        self.bias = nn.Parameter(steps_D + torch.log(-torch.expm1(-steps_D)))

    def forward(self, low_BTL: Tensor) -> Tensor:
        """(B, T, L) to (B, T, D)."""
        return F.linear(low_BTL, self.weight, self.bias)


def step_rank(shape: BlockShape) -> int:
    """Width of what the step sizes are made from: ceil(C / 16)."""
    return -(-shape.d_model // FEATURES_PER_RANK)


def ssm_terms(shape: BlockShape, *, n_layer: int) -> tuple[Term, ...]:
    """Forward FLOPs of n_layer mixers over seq_len tokens."""
    T, C, N, rank = shape.seq_len, shape.d_model, shape.d_state, step_rank(shape)
    D = shape.expand * C
    # C to 2 D and D back to C; D to L + 2 N, and L to D.
    projections = matmul(T, inner=C, columns=2 * D) + matmul(T, inner=D, columns=C)
    selection = matmul(T, inner=D, columns=rank + 2 * N) + matmul(T, inner=rank, columns=D)
    readout = T * matmul(D, inner=N, columns=1)
    # Of each state dt A, (dt x) B, a h and a sum; of each feature dt x, D x and its sum with y.
    scan = T * (4 * D * N + 3 * D)
    convolution = conv_terms(width=shape.conv_width, features=D, seq_len=T) if shape.conv_width else ()
    return (
        Term(name="projections", forward=n_layer * projections),
        Term(name="selection", forward=n_layer * selection),
        Term(name="state readout", forward=n_layer * readout),
        Term(name="scan", forward=n_layer * scan, elementwise=True),
        *(Term(name=t.name, forward=n_layer * t.forward, elementwise=True) for t in convolution),
    )
