"""The integrator's way to the logits: a norm, then the embedding's matrix or a full map without bias.

Legend: B batch, T position, C model width, V vocabulary.
"""

from torch import Tensor, nn

from lmbench.layers.embedding import TokenEmbedding
from lmbench.layers.init import GPT2_STD, draw_normal
from lmbench.layers.norm import make_norm
from lmbench.layers.shape import BlockShape, Readout


class BiasFreeHead(nn.Module):
    """Unlike `Head`, without a bias also where all other maps have one."""

    def __init__(self, shape: BlockShape, *, vocab_size: int) -> None:
        super().__init__()
        self.norm = make_norm(shape.norm, width=shape.d_model, bias=shape.bias, gain=shape.norm_gain)
        self.linear = None if shape.tied_head else nn.Linear(shape.d_model, vocab_size, bias=False)
        if self.linear is not None:
            draw_normal(self.linear, std=GPT2_STD)

    def forward(self, x_BTC: Tensor, *, embedding: TokenEmbedding, readout: Readout) -> Tensor:
        """Logits (B, T, V), or (B, 1, V) of the last position alone."""
        x_BTC = self.norm(x_BTC[:, -1:] if readout == "last" else x_BTC)
        return embedding.logits(x_BTC) if self.linear is None else self.linear(x_BTC)
