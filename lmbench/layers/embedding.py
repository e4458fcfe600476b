"""The two ends of a language model: from token ids to vectors, and from vectors to logits.

With a tied head both ends share one matrix (Press and Wolf 2017). It then starts at
N(0, 1/C), so that logits have unit variance, and is scaled by sqrt(C) on the way in, so
that the input does (Vaswani et al. 2017, section 3.4); GPT-2's start is N(0, 0.02^2) for
all tables and no scale. Legend: B batch, T position, C model width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.layers.cost import Term, matmul
from lmbench.layers.dropout import Dropout
from lmbench.layers.init import GPT2_STD, draw_normal, set_to_zero
from lmbench.layers.norm import make_norm
from lmbench.layers.positions import LearnedPositions, NoPositions, SinusoidalPositions
from lmbench.layers.shape import BlockShape, Readout

ONE_HOT_LIMIT = 512
"""Largest vocabulary that a GPU looks up by a matrix product."""


def look_up(weight: Tensor, ids: Tensor) -> Tensor:
    """Rows of `weight` (V, C) by `ids` of any shape: (*ids, C).

    On CUDA a small table is read by a product with one-hot rows, which sums one value and
    zeros and so is exact. Its gradient is a product too; torch's own adds thousands of tokens
    to a few dozen rows one by one, in an order that changes. The ledger counts a look-up in both.
    """
    if weight.is_cuda and weight.shape[0] <= ONE_HOT_LIMIT:
        return one_hot(ids, n=weight.shape[0], dtype=weight.dtype) @ weight
    return F.embedding(ids, weight)


def one_hot(ids: Tensor, *, n: int, dtype: torch.dtype) -> Tensor:
    """(*ids, n) rows with a 1 at the id; element-wise, so that compilers need not store it."""
    return (ids.unsqueeze(-1) == torch.arange(n, device=ids.device)).to(dtype)


def soft_cap(logits: Tensor, *, cap: float) -> Tensor:
    """cap * tanh(logits / cap): the identity near 0, never beyond +-cap.

    Source: Gemma Team 2024 (Gemma 2), section 2, "logit soft-capping".
    """
    return cap * torch.tanh(logits / cap)


def check_length(n_tokens: int, *, seq_len: int) -> None:
    """Refuse a sequence that is longer than the context.

    Raises:
        ValueError: naming both lengths.
    """
    if n_tokens > seq_len:
        raise ValueError(f"got {n_tokens} tokens, but the context seq_len is {seq_len}")


class TokenEmbedding(nn.Module):
    """Token vectors plus the vectors of their positions, where the positions are of that kind."""

    def __init__(self, shape: BlockShape, *, vocab_size: int, tied: bool) -> None:
        super().__init__()
        self.seq_len = shape.seq_len
        self.token = nn.Embedding(vocab_size, shape.d_model)
        self.scale = shape.d_model**0.5 if tied and shape.init == "torch" else 1.0
        if tied:
            nn.init.normal_(self.token.weight, std=shape.d_model**-0.5)
        sizes = {"seq_len": shape.seq_len, "d_model": shape.d_model}
        added = {"learned": LearnedPositions, "sinusoidal": SinusoidalPositions}
        self.position = added[shape.positions](**sizes) if shape.positions in added else NoPositions()
        self.dropout = Dropout(shape.dropout) if shape.residual_dropout else nn.Identity()
        if shape.init == "gpt2":
            for table in [part for part in self.modules() if isinstance(part, nn.Embedding)]:
                draw_normal(table, std=GPT2_STD)

    def forward(self, tokens_BT: Tensor, *, first: int = 0) -> Tensor:
        """(B, T) ids to (B, T, C).

        Args:
            first: position of the first of them.

        Raises:
            ValueError: more tokens than the context holds.
        """
        check_length(first + tokens_BT.shape[1], seq_len=self.seq_len)
        x_BTC = look_up(self.token.weight, tokens_BT)
        x_BTC = x_BTC if self.scale == 1.0 else self.scale * x_BTC
        return self.dropout(self.position(x_BTC, first=first))


class Head(nn.Module):
    """Final norm, the linear map to the vocabulary, and a cap; a tied head borrows its matrix."""

    def __init__(
        self, shape: BlockShape, *, vocab_size: int, tied: bool, logit_cap: float | None = None
    ) -> None:
        super().__init__()
        self.logit_cap = logit_cap
        self.norm = make_norm(shape.norm, width=shape.d_model, bias=shape.bias, gain=shape.norm_gain)
        self.linear = None if tied else nn.Linear(shape.d_model, vocab_size, bias=shape.bias)
        if self.linear is not None and shape.init == "gpt2":
            draw_normal(self.linear, std=GPT2_STD)
        if self.linear is not None and shape.zero_init:
            set_to_zero(self.linear)

    def forward(self, x_BTC: Tensor, *, embedding: TokenEmbedding, readout: Readout) -> Tensor:
        """Logits (B, T, V), or (B, 1, V) of the last position alone.

        Args:
            embedding: whose matrix a tied head uses; it has no bias.
            readout: "all" or "last".
        """
        x_BTC = self.norm(x_BTC[:, -1:] if readout == "last" else x_BTC)
        tied = self.linear is None
        logits_BTV = F.linear(x_BTC, embedding.token.weight) if tied else self.linear(x_BTC)
        return logits_BTV if self.logit_cap is None else soft_cap(logits_BTV, cap=self.logit_cap)


def head_terms(shape: BlockShape, *, vocab_size: int, readout: Readout) -> tuple[Term, ...]:
    """Forward FLOPs of the head over one sequence; the embedding is a look-up and costs none."""
    rows = shape.seq_len if readout == "all" else 1
    return (Term(name="head", forward=matmul(rows, inner=shape.d_model, columns=vocab_size)),)
