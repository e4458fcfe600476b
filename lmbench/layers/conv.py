"""A short causal convolution over positions, each feature by itself.

Three or four taps let a recurrent mixer compare neighbours, which decides recall tasks (Fu et
al. 2023, "H3"; Arora et al. 2024, "Zoology"; Gu and Dao 2023, "Mamba", figure 3).
Computed as shifted products: torch's depthwise kernels are slow on a CPU, have no cheap rule
under vmap, and torch's counter charges their backward pass far too much. Legend: B batch, T
position, D feature, W taps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.layers.cost import Term
from lmbench.layers.mixer import LayerState


class ShortConv(nn.Module):
    """y_t = sum over j < W of w_j * x_{t-j} (+ b), element by element; zeros before the start.

    The taps lie in one flat parameter, because they are no matrix: Muon must not make them
    orthogonal, and weight decay leaves them alone as it does all vectors.
    """

    def __init__(self, width: int, *, features: int, bias: bool) -> None:
        super().__init__()
        bound = width**-0.5  # as nn.Conv1d starts a depthwise kernel
        self.width = width
        self.taps = nn.Parameter(torch.empty(width * features).uniform_(-bound, bound))
        self.bias_D = nn.Parameter(torch.zeros(features)) if bias else None

    @property
    def weight_WD(self) -> Tensor:
        """The taps, that of the present position first."""
        return self.taps.unflatten(0, (self.width, -1))

    def forward(self, x_BTD: Tensor, *, offset_BT: Tensor | None = None) -> Tensor:
        """(B, T, D) to (B, T, D).

        Args:
            offset_BT: of each position within its segment of the row, before whose start there are zeros
                too; None where each row is one.
        """
        W = self.width
        return self._convolve(F.pad(x_BTD, (0, 0, W - 1, 0)), offset_BT=offset_BT)

    def extend(self, x_BTD: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """Further positions; the last W - 1 inputs are remembered."""
        W = self.width
        if not state:
            state = {"inputs_BWD": x_BTD.new_zeros(x_BTD.shape[0], W - 1, x_BTD.shape[2])}
        x_BLD = torch.cat((state["inputs_BWD"], x_BTD), dim=1)
        return self._convolve(x_BLD), {"inputs_BWD": x_BLD[:, x_BLD.shape[1] - (W - 1) :]}

    def _convolve(self, x_BLD: Tensor, *, offset_BT: Tensor | None = None) -> Tensor:
        """(B, W - 1 + T, D) to (B, T, D)."""
        W = self.width
        T = x_BLD.shape[1] - (W - 1)
        weight_WD = self.weight_WD
        taps = [weight_WD[j] * x_BLD[:, W - 1 - j : W - 1 - j + T] for j in range(W)]
        if offset_BT is not None:
            taps = [tap.masked_fill((offset_BT < j).unsqueeze(-1), 0.0) for j, tap in enumerate(taps)]
        y_BTD = sum(taps[1:], start=taps[0])
        return y_BTD if self.bias_D is None else y_BTD + self.bias_D


def conv_terms(*, width: int, features: int, seq_len: int) -> tuple[Term, ...]:
    """Forward FLOPs over seq_len positions: a multiply and an add for each tap."""
    return (Term(name="convolution", forward=2 * width * features * seq_len, elementwise=True),)
