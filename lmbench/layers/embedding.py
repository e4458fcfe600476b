"""The two ends of a language model: from token ids to vectors, and from vectors to logits.

With a tied head both ends share one matrix (Press and Wolf 2017). It then starts at
N(0, 1/C), so that logits have unit variance, and is scaled by sqrt(C) on the way in, so
that the input does (Vaswani et al. 2017, section 3.4); GPT-2's start is N(0, 0.02^2) for
all tables and no scale. The matrix may be held in two factors, see `layers.low_rank`, and a
token's vector may take from the token before it, see `layers.bigram`.
Legend: B batch, T position, C model width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.layers.bigram import BigramEmbedding, Smear, smear_terms
from lmbench.layers.cost import Term, matmul
from lmbench.layers.dropout import Dropout
from lmbench.layers.init import GPT2_STD, draw_normal, set_to_zero
from lmbench.layers.lookup import look_up as look_up
from lmbench.layers.lookup import one_hot as one_hot
from lmbench.layers.low_rank import LowRankEmbedding, low_rank_flops, low_rank_head_flops
from lmbench.layers.mixer import LayerState
from lmbench.layers.norm import make_norm
from lmbench.layers.positions import LearnedPositions, NoPositions, SinusoidalPositions
from lmbench.layers.shape import BlockShape, Readout


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
    """Token vectors plus the vectors of their positions, where the positions are of that kind.

    Args:
        tied: whether a head borrows the matrix.
    """

    def __init__(self, shape: BlockShape, *, vocab_size: int, tied: bool) -> None:
        super().__init__()
        self.seq_len = shape.seq_len
        self.scale = shape.d_model**0.5 if tied and shape.init == "torch" else 1.0
        std = GPT2_STD if shape.init == "gpt2" else shape.d_model**-0.5 if tied else 1.0
        if shape.embedding_rank is None:
            self.token: nn.Module = nn.Embedding(vocab_size, shape.d_model)
            if tied:
                nn.init.normal_(self.token.weight, std=shape.d_model**-0.5)
        else:
            factors = {"rank": shape.embedding_rank, "width": shape.d_model}
            self.token = LowRankEmbedding(vocab_size, **factors, std=std)
        sizes = {"seq_len": shape.seq_len, "d_model": shape.d_model}
        added = {"learned": LearnedPositions, "sinusoidal": SinusoidalPositions}
        self.position = added[shape.positions](**sizes) if shape.positions in added else NoPositions()
        self.dropout = Dropout(shape.dropout) if shape.residual_dropout else nn.Identity()
        if shape.init == "gpt2":
            for table in [part for part in self.modules() if isinstance(part, nn.Embedding)]:
                draw_normal(table, std=GPT2_STD)
        self.smear = Smear(shape.d_model) if shape.smear else None
        pairs = {"vocab_size": vocab_size, "width": shape.d_model}
        n = shape.bigram_buckets
        self.bigram = BigramEmbedding(n, **pairs) if n else None

    def forward(self, tokens_BT: Tensor, *, first: int = 0, offset_BT: Tensor | None = None) -> Tensor:
        """(B, T) ids to (B, T, C).

        Args:
            first: position of the first of them.
            offset_BT: of each one within its segment of the row, in place of that; None where each row is
                one segment.

        Raises:
            ValueError: more tokens than the context holds.
        """
        check_length(first + tokens_BT.shape[1], seq_len=self.seq_len)
        x_BTC = self._vectors(tokens_BT, offset_BT=offset_BT)
        return self.dropout(self.position(x_BTC, first=first, offset_BT=offset_BT))

    def extend(self, tokens_BT: Tensor, state: LayerState, *, first: int) -> tuple[Tensor, LayerState]:
        """The same for tokens after those that `state` stands for; {} is the start of a text."""
        if self.smear is None and self.bigram is None:
            return self(tokens_BT, first=first), {}
        remembered = {"tokens_B1": tokens_BT[:, -1:]}
        if not state:
            return self(tokens_BT, first=first), remembered
        check_length(first + tokens_BT.shape[1], seq_len=self.seq_len)
        # The token before is read again, as if nothing preceded it; only its successor's vector counts.
        x_BLC = self._vectors(torch.cat((state["tokens_B1"], tokens_BT), dim=1))
        return self.dropout(self.position(x_BLC[:, 1:], first=first)), remembered

    def logits(self, x_BTC: Tensor) -> Tensor:
        """(B, T, V) by the matrix of the token vectors, for a tied head."""
        factored = isinstance(self.token, LowRankEmbedding)
        return self.token.logits(x_BTC) if factored else F.linear(x_BTC, self.token.weight)

    def _vectors(self, tokens_BT: Tensor, *, offset_BT: Tensor | None = None) -> Tensor:
        """(B, T, C), without positions."""
        factored = isinstance(self.token, LowRankEmbedding)
        x_BTC = self.token(tokens_BT) if factored else look_up(self.token.weight, tokens_BT)
        x_BTC = x_BTC if self.scale == 1.0 else self.scale * x_BTC
        if self.smear is not None:
            x_BTC = self.smear(x_BTC, offset_BT=offset_BT)
        return x_BTC if self.bigram is None else x_BTC + self.bigram(tokens_BT, offset_BT=offset_BT)


def embedding_terms(shape: BlockShape) -> tuple[Term, ...]:
    """Forward FLOPs of the embedding over one sequence; look-ups cost none."""
    T, C, rank, terms = shape.seq_len, shape.d_model, shape.embedding_rank, ()
    if rank is not None:
        terms = (Term(name="embedding", forward=low_rank_flops(T, rank=rank, width=C)),)
    return terms + (smear_terms(width=C, seq_len=T) if shape.smear else ())


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
        logits_BTV = embedding.logits(x_BTC) if self.linear is None else self.linear(x_BTC)
        return logits_BTV if self.logit_cap is None else soft_cap(logits_BTV, cap=self.logit_cap)


def head_terms(shape: BlockShape, *, vocab_size: int, readout: Readout) -> tuple[Term, ...]:
    """Forward FLOPs of the head over one sequence; a tied one goes through the factors of its matrix."""
    rows, C = shape.seq_len if readout == "all" else 1, shape.d_model
    if shape.embedding_rank is None or not shape.tied_head:
        return (Term(name="head", forward=matmul(rows, inner=C, columns=vocab_size)),)
    factors = low_rank_head_flops(rows, rank=shape.embedding_rank, width=C, vocab_size=vocab_size)
    return (Term(name="head", forward=factors),)
