"""What a token's vector may take from the token before it, ahead of all blocks.

`Smear` adds the previous token's vector through a gate; `BigramEmbedding` adds a row of a
table that the pair of tokens is hashed to. Both leave the vectors as they are at the start
of training, and both spare the first attention layer the work of looking one token back.
Nothing precedes the first token of a segment of the row.

Source: Jordan et al. 2024, modded-nanogpt (the smeared embedding: a gate that reads the first
12 features and a weight that starts at 0; the hashed bigram table). Where we depart: pairs
are hashed by multiplication (Knuth 1998, section 6.4), and not at all where each has a row.
Legend: B batch, T position, C model width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.layers.cost import Term, matmul
from lmbench.layers.lookup import look_up

GATE_FEATURES = 12
# 2^64 divided by the golden ratio, as a signed number; the high bits of a product are the mixed ones.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_KEPT_BITS = 31


class Smear(nn.Module):
    """x_t + a sigmoid(w x_t) x_{t-1}; a and w start at 0, and nothing precedes the first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1, min(GATE_FEATURES, width)))
        self.amount = nn.Parameter(torch.zeros(1))

    def forward(self, x_BTC: Tensor, *, offset_BT: Tensor | None = None) -> Tensor:
        """(B, T, C) to (B, T, C).

        Args:
            offset_BT: of each position within its segment; None where each row is one.
        """
        previous_BTC = F.pad(x_BTC, (0, 0, 1, 0))[:, :-1]
        if offset_BT is not None:
            previous_BTC = previous_BTC.masked_fill((offset_BT == 0).unsqueeze(-1), 0.0)
        open_BT1 = torch.sigmoid(F.linear(x_BTC[..., : self.gate.shape[1]], self.gate))
        return x_BTC + self.amount * open_BT1 * previous_BTC


def smear_terms(*, width: int, seq_len: int) -> tuple[Term, ...]:
    """Forward FLOPs over seq_len tokens: the gate's product, one number a token."""
    return (Term(name="smear", forward=matmul(seq_len, inner=min(GATE_FEATURES, width), columns=1)),)


class BigramEmbedding(nn.Module):
    """A row for each pair of neighbours, or for each bucket of such; rows start at 0.

    Args:
        buckets: rows. From V (V + 1) on every pair has one of its own.
    """

    def __init__(self, buckets: int, *, vocab_size: int, width: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        # Nothing is drawn, so that with and without it all other weights start alike.
        self.rows = nn.Embedding.from_pretrained(torch.zeros(buckets, width), freeze=False)

    def forward(self, tokens_BT: Tensor, *, offset_BT: Tensor | None = None) -> Tensor:
        """(B, T) ids to (B, T, C).

        Args:
            offset_BT: as in `Smear`.
        """
        return look_up(self.rows.weight, self.bucket(tokens_BT, offset_BT=offset_BT))

    def bucket(self, tokens_BT: Tensor, *, offset_BT: Tensor | None = None) -> Tensor:
        """(B, T) row of each token and the one before it; the id V stands before the first."""
        previous_BT = F.pad(tokens_BT, (1, 0), value=self.vocab_size)[:, :-1]
        if offset_BT is not None:
            previous_BT = previous_BT.masked_fill(offset_BT == 0, self.vocab_size)
        pair_BT = previous_BT * self.vocab_size + tokens_BT
        buckets = self.rows.num_embeddings
        if buckets >= self.vocab_size * (self.vocab_size + 1):
            return pair_BT
        mixed_BT = (pair_BT * _GOLDEN >> (64 - _KEPT_BITS)) & ((1 << _KEPT_BITS) - 1)
        return mixed_BT % buckets
