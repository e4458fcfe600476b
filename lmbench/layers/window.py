"""A linear map of the last `width` embeddings, at one position or at every position.

At one position it is flatten and nn.Linear. At every position the same weights form a
causal convolution of that width over the sequence: position t reads embeddings t-width+1
to t, where those before a document's start are zero. Legend: B batch, T position, K
preceding tokens, L = K + T, C model width, O outputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.layers.embedding import look_up
from lmbench.layers.mixer import LayerState
from lmbench.layers.shape import Readout


def windows_of(tokens_BT: Tensor, context_BK: Tensor | None, *, width: int, readout: Readout) -> Tensor:
    """Tokens with those that precede them, -1 where there is none: (B, L) ids.

    Args:
        tokens_BT: (B, T) ids.
        context_BK: (B, width - 1) preceding ids; None means that nothing precedes.
        readout: "all" gives L = width - 1 + T, one window for each token; "last" L = width.

    Raises:
        ValueError: a context of another length.
    """
    if context_BK is None:
        context_BK = tokens_BT.new_full((tokens_BT.shape[0], width - 1), -1)
    elif context_BK.shape[1] != width - 1:
        raise ValueError(
            f"the context holds {context_BK.shape[1]} tokens, but must hold seq_len - 1 = {width - 1}"
        )
    tokens_BL = torch.cat((context_BK, tokens_BT), dim=1)
    return tokens_BL[:, -width:] if readout == "last" else tokens_BL


def extended(tokens_BT: Tensor, state: LayerState, *, width: int) -> tuple[Tensor, LayerState]:
    """The window that ends with these tokens, (B, width) ids, and what the next ones need of it.

    Args:
        state: what this gave for the tokens before them; {} is the start of a document.
    """
    tokens_BL = windows_of(tokens_BT[:, -width:], None, width=width, readout="last")
    if state:
        tokens_BL = torch.cat((state["last_BK"], tokens_BT), dim=1)[:, -width:]
    return tokens_BL, {"last_BK": tokens_BL[:, 1:]}


class ZeroPaddedEmbedding(nn.Module):
    """Token vectors; id -1 is the zero vector."""

    def __init__(self, *, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocab_size, d_model)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """(B, L) ids to (B, L, C)."""
        return look_up(self.token.weight, tokens_BL.clamp(min=0)) * (tokens_BL >= 0).unsqueeze(-1)


class WindowLinear(nn.Module):
    """The map from the `width` embeddings that end at a position to `d_out` features."""

    def __init__(self, *, width: int, d_model: int, d_out: int) -> None:
        super().__init__()
        self.width = width
        self.linear = nn.Linear(width * d_model, d_out)

    def forward(self, x_BLC: Tensor) -> Tensor:
        """(B, L, C) to (B, L - width + 1, O), one output for each full window."""
        if x_BLC.shape[1] == self.width:
            return self.linear(x_BLC.flatten(1)).unsqueeze(1)
        if x_BLC.is_cuda:
            # cuDNN has no fast float32 kernel of this width: 0.6 TFLOP/s were measured on an H200.
            x_BTWC = x_BLC.unfold(1, self.width, 1).transpose(2, 3)
            return self.linear(x_BTWC.flatten(2))
        # Measured on 2 cores, forward and backward at B=16, T=64, C=128, O=65: 17 ms, against
        # 31 ms for unfold and a matrix product, which also copies every window (T times x).
        kernel_OCW = self.linear.weight.unflatten(1, (self.width, -1)).transpose(1, 2)
        return F.conv1d(x_BLC.transpose(1, 2), kernel_OCW, self.linear.bias).transpose(1, 2)
