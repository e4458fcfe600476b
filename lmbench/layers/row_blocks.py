"""Products of rows with the matrix of their group, in shapes that do not depend on the groups' sizes.

For GPUs on which torch has no kernel for groups, or only one that asks the host for their sizes
and so cannot be captured in a graph. Every group starts a new block; then one batched product
multiplies each block by its group's matrix, as in Gale et al. 2023 (MegaBlocks), section 5.
Plain torch throughout, so that it can be differentiated where operators of our own are unknown.

Legend: R replica, N row, E group, C and F widths (of input and output), M block, S row of a block.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def product_in_blocks(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """(R, N, C) rows, (R, E, C, F) matrices and (R, E) ends to (R, N, F)."""
    blocks = _Blocks.of(ends, n=x.shape[1])
    replica_R1 = torch.arange(len(x), device=x.device).unsqueeze(1)
    return blocks.gathered(blocks.spread(x) @ weight[replica_R1, blocks.group_RM])


def outer_in_blocks(x: Tensor, grad: Tensor, ends: Tensor) -> Tensor:
    """Of each group x' grad: (R, N, C) and (R, N, F) to (R, E, C, F)."""
    blocks = _Blocks.of(ends, n=x.shape[1])
    each_RMCF = blocks.spread(x).mT @ blocks.spread(grad)
    group_E1 = torch.arange(ends.shape[1], device=x.device).unsqueeze(1)
    is_of_REM = (blocks.group_RM.unsqueeze(1) == group_E1).to(x.dtype)
    return (is_of_REM @ each_RMCF.flatten(2)).unflatten(2, each_RMCF.shape[2:])


class _Blocks(NamedTuple):
    """Rows where every group starts a new block, in shapes that do not depend on the groups' sizes."""

    place_RN: Tensor
    """Where each row lies."""
    group_RM: Tensor
    """Whose rows each block holds; a spare block holds zeros, and any group does."""
    size: int
    """Rows of a block, S: half a group's fair share, so that at most 1.5 N rows are computed."""

    @classmethod
    def of(cls, ends_RE: Tensor, *, n: int) -> "_Blocks":
        """Where each of n rows goes."""
        R, E = ends_RE.shape
        ends_RE = ends_RE.contiguous()  # as searchsorted wants its edges; under vmap they may be a view
        size = max(1, -(-n // (2 * E)))
        starts_RE = F.pad(ends_RE[:, :-1], (1, 0))
        last_RE = ((ends_RE - starts_RE + size - 1) // size).cumsum(1, dtype=ends_RE.dtype)
        first_RE = F.pad(last_RE[:, :-1], (1, 0))
        count = {"dtype": ends_RE.dtype, "device": ends_RE.device}
        row_RN = torch.arange(n, **count).repeat(R, 1)
        group_RN = torch.searchsorted(ends_RE, row_RN, right=True)
        place_RN = row_RN - starts_RE.gather(1, group_RN) + size * first_RE.gather(1, group_RN)
        block_RM = torch.arange(-(-n // size) + E, **count).repeat(R, 1)
        group_RM = torch.searchsorted(last_RE, block_RM, right=True).clamp_max(E - 1)
        return cls(place_RN.long(), group_RM, size)

    def spread(self, x_RNC: Tensor) -> Tensor:
        """Rows in their places among zeros: (R, M, S, C)."""
        R, M = self.group_RM.shape
        index_RNC = self.place_RN.unsqueeze(-1).expand(x_RNC.shape)
        spread = x_RNC.new_zeros(R, M * self.size, x_RNC.shape[-1]).scatter(1, index_RNC, x_RNC)
        return spread.unflatten(1, (M, self.size))

    def gathered(self, rows_RMSF: Tensor) -> Tensor:
        """The inverse of `spread`."""
        rows = rows_RMSF.flatten(1, 2)
        return rows.gather(1, self.place_RN.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))
