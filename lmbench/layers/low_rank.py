"""A table of tokens in two factors: V rows of E numbers, and one map of E to C for all of them.

y = A[id] U', so the table holds E (V + C) numbers in place of V C, which is fewer where E is
below V C / (V + C); all vectors lie in a space of E dimensions. As the map to the logits, with
the factors in reverse, it costs 2 E (C + V) FLOPs a token in place of 2 V C, and logits have
rank E at most. With E = C and U the identity it is the plain table.

Source: Lan et al. 2020 (ALBERT), section 3.1, "factorized embedding parameterization".
Legend: V vocabulary, E rank, C model width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.layers.cost import matmul
from lmbench.layers.init import draw_normal
from lmbench.layers.lookup import look_up


class LowRankEmbedding(nn.Module):
    """Token vectors from two factors, `rows` (V, E) and `up` (C, E).

    Args:
        std: of the entries of `rows` at the start, and of those of the token vectors.
        up_std: of the entries of `up`; None is 1 / sqrt(E), which makes the first sentence true.
            With another one the vectors start with std * up_std * sqrt(E).
    """

    def __init__(
        self, vocab_size: int, *, rank: int, width: int, std: float, up_std: float | None = None
    ) -> None:
        super().__init__()
        self.rows = nn.Embedding(vocab_size, rank)
        self.up = nn.Linear(rank, width, bias=False)
        draw_normal(self.rows, std=std)
        draw_normal(self.up, std=rank**-0.5 if up_std is None else up_std)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids of any shape to (*ids, C)."""
        return self.up(look_up(self.rows.weight, ids))

    def logits(self, x: Tensor) -> Tensor:
        """(..., C) to (..., V), through the same factors: (x U) A'."""
        return F.linear(x @ self.up.weight, self.rows.weight)


def low_rank_flops(n_tokens: int, *, rank: int, width: int) -> int:
    """Forward FLOPs of so many token vectors: the rows are looked up, the map is a product."""
    return matmul(n_tokens, inner=rank, columns=width)


def low_rank_head_flops(n_tokens: int, *, rank: int, width: int, vocab_size: int) -> int:
    """Forward FLOPs of `LowRankEmbedding.logits` at so many positions."""
    down = matmul(n_tokens, inner=width, columns=rank)
    return down + matmul(n_tokens, inner=rank, columns=vocab_size)
