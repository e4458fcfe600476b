"""The two ends of a language model: from token ids to vectors, and from vectors to logits.

With a tied head both ends share one matrix. It then starts at N(0, 1/C), so that logits
have unit variance, and is scaled by sqrt(C) on the way in, so that the input does (Press
and Wolf 2017; Vaswani et al. 2017, section 3.4). Legend: B batch, T position, C model
width, V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.layers.cost import Term, matmul
from lmbench.layers.norm import make_norm
from lmbench.layers.positions import LearnedPositions, SinusoidalPositions
from lmbench.layers.shape import BlockShape, Readout


class TokenEmbedding(nn.Module):
    """Token vectors plus the vectors of their positions, where the positions are of that kind."""

    def __init__(self, shape: BlockShape, *, vocab_size: int, tied: bool) -> None:
        super().__init__()
        self.seq_len = shape.seq_len
        self.token = nn.Embedding(vocab_size, shape.d_model)
        self.scale = shape.d_model**0.5 if tied else 1.0
        if tied:
            nn.init.normal_(self.token.weight, std=shape.d_model**-0.5)
        sizes = {"seq_len": shape.seq_len, "d_model": shape.d_model}
        added = {"learned": LearnedPositions, "sinusoidal": SinusoidalPositions}
        self.position = added[shape.positions](**sizes) if shape.positions in added else nn.Identity()

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """(B, T) ids to (B, T, C).

        Raises:
            ValueError: more tokens than the context holds.
        """
        if tokens_BT.shape[1] > self.seq_len:
            raise ValueError(f"got {tokens_BT.shape[1]} tokens, but the context seq_len is {self.seq_len}")
        x_BTC = self.token(tokens_BT)
        return self.position(x_BTC if self.scale == 1.0 else self.scale * x_BTC)


class Head(nn.Module):
    """Final norm and the linear map to the vocabulary; a tied head borrows its matrix."""

    def __init__(self, shape: BlockShape, *, vocab_size: int, tied: bool) -> None:
        super().__init__()
        self.norm = make_norm(shape.norm, width=shape.d_model, bias=shape.bias)
        self.linear = None if tied else nn.Linear(shape.d_model, vocab_size, bias=shape.bias)

    def forward(self, x_BTC: Tensor, *, embedding: TokenEmbedding, readout: Readout) -> Tensor:
        """Logits (B, T, V), or (B, 1, V) of the last position alone.

        Args:
            embedding: whose matrix a tied head uses; it has no bias.
            readout: "all" or "last".
        """
        x_BTC = self.norm(x_BTC[:, -1:] if readout == "last" else x_BTC)
        return F.linear(x_BTC, embedding.token.weight) if self.linear is None else self.linear(x_BTC)


def head_terms(shape: BlockShape, *, vocab_size: int, readout: Readout) -> tuple[Term, ...]:
    """Forward FLOPs of the head over one sequence; the embedding is a look-up and costs none."""
    rows = shape.seq_len if readout == "all" else 1
    return (Term(name="head", forward=matmul(rows, inner=shape.d_model, columns=vocab_size)),)
