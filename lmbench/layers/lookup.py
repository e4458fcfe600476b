"""Rows of a table by id: the one way in which all tables are read.

Legend: V rows of the table, C width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

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
