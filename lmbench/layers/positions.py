"""How a block learns where a token stands: five answers behind three small modules.

`learned` and `sinusoidal` add a vector to the token's embedding, `rope` turns queries and
keys by an angle that grows with the position, `alibi` lowers attention scores with the
distance, and `none` leaves it to the causal mask. In a row of several segments the vectors that
are added start anew with each, as in a row of its own; distances need no such care. Legend: B
batch, H head, T position, C model width, K head width.
"""

import math

import torch
from torch import Tensor, nn

from lmbench.layers.lookup import look_up

ROPE_BASE = 10_000.0


class LearnedPositions(nn.Module):
    """One trained vector for each of seq_len positions, N(0, 1) as nn.Embedding starts it."""

    def __init__(self, *, seq_len: int, d_model: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(seq_len, d_model)

    def forward(self, x_BTC: Tensor, *, first: int = 0, offset_BT: Tensor | None = None) -> Tensor:
        """x plus the vectors of T positions from `first` on, or of the places given."""
        if offset_BT is not None:
            return x_BTC + look_up(self.embedding.weight, offset_BT)
        return x_BTC + self.embedding.weight[first : first + x_BTC.shape[1]]


class SinusoidalPositions(nn.Module):
    """Fixed vectors: PE(t, 2i) = sin(t / 10000^(2i/C)), PE(t, 2i+1) = cos of the same.

    Source: Vaswani et al. 2017, section 3.5. There, too, a token's features have unit
    variance where the vector is added (embeddings are scaled by sqrt(C)).
    """

    def __init__(self, *, seq_len: int, d_model: int) -> None:
        super().__init__()
        angle_TF = _angles(seq_len, width=d_model)
        table_TC = torch.stack((angle_TF.sin(), angle_TF.cos()), dim=-1).flatten(1).float()
        self.register_buffer("table_TC", table_TC, persistent=False)

    def forward(self, x_BTC: Tensor, *, first: int = 0, offset_BT: Tensor | None = None) -> Tensor:
        """x plus the vectors of T positions from `first` on, or of the places given; the dtype of x."""
        if offset_BT is not None:
            return (x_BTC + look_up(self.table_TC, offset_BT)).to(x_BTC.dtype)
        return (x_BTC + self.table_TC[first : first + x_BTC.shape[1]]).to(x_BTC.dtype)


class NoPositions(nn.Module):
    """x as it is, where positions are told apart elsewhere."""

    def forward(self, x_BTC: Tensor, *, first: int = 0, offset_BT: Tensor | None = None) -> Tensor:
        """x."""
        return x_BTC


class Rotary(nn.Module):
    """Turns feature pairs (i, i + K/2) of position t by the angle t / 10000^(2i/K).

    The dot product of a turned query and key then depends on their distance only. Source:
    Su et al. 2021, eq. 34, with features paired by halves (as GPT-NeoX does and the study
    did) and not by neighbours, which is the same up to a permutation of the features.
    """

    def __init__(self, *, seq_len: int, d_head: int) -> None:
        super().__init__()
        angle_TF = _angles(seq_len, width=d_head)
        cos_TK = torch.cat((angle_TF.cos(), angle_TF.cos()), dim=-1)
        # (a, b) turns to (a cos - b sin, b cos + a sin): the other half comes with this sign.
        sin_TK = torch.cat((-angle_TF.sin(), angle_TF.sin()), dim=-1)
        self.register_buffer("cos_TK", cos_TK.float(), persistent=False)
        self.register_buffer("sin_TK", sin_TK.float(), persistent=False)

    def forward(self, x_BHTK: Tensor, *, first: int = 0) -> Tensor:
        """Queries or keys of T positions from `first` on, turned; the dtype of x."""
        cos_TK, sin_TK = self.tables(x_BHTK.shape[-2], first=first)
        other_BHTK = x_BHTK.roll(x_BHTK.shape[-1] // 2, dims=-1)
        return (x_BHTK * cos_TK + other_BHTK * sin_TK).to(x_BHTK.dtype)

    def tables(self, n_positions: int, *, first: int = 0) -> tuple[Tensor, Tensor]:
        """Cosines, and sines with the sign of the half that they bring over: (T, K) each."""
        last = first + n_positions
        return self.cos_TK[first:last], self.sin_TK[first:last]


class Alibi(nn.Module):
    """Additive scores: -slope_h * distance to earlier positions, -inf to later ones.

    Source: Press et al. 2022, section 3; for a number of heads that is no power of two,
    the slopes of the next lower power and every other slope of twice that power.
    """

    def __init__(self, *, n_head: int) -> None:
        super().__init__()
        self.register_buffer("slope_H", torch.tensor(alibi_slopes(n_head)), persistent=False)

    def forward(self, n_positions: int) -> Tensor:
        """(H, T, T) bias, rows are queries; the causal mask is in it."""
        t_T = torch.arange(n_positions, device=self.slope_H.device)
        distance_TT = t_T[:, None] - t_T[None, :]
        bias_HTT = -self.slope_H[:, None, None] * distance_TT
        return bias_HTT.masked_fill(distance_TT < 0, -math.inf)


def alibi_slopes(n_head: int) -> list[float]:
    """Slopes of the heads, a geometric sequence from 2^(-8/H) to 2^-8 for a power of two."""
    power = 2 ** (n_head.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (h + 1) / power) for h in range(power)]
    if power == n_head:
        return slopes
    return slopes + alibi_slopes(2 * power)[0::2][: n_head - power]


def _angles(seq_len: int, *, width: int) -> Tensor:
    """(T, width / 2) angles t / base^(2i/width), in float64 until the sine is taken."""
    i_F = torch.arange(0, width, 2, dtype=torch.float64)
    t_T = torch.arange(seq_len, dtype=torch.float64)
    return torch.outer(t_T, ROPE_BASE ** (-i_F / width))
