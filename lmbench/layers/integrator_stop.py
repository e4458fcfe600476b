"""When a token's integration is over, in evaluation: tokens that are done are frozen, not removed.

Shapes and operations are those of all iterations, so the pass stays static; what is saved is
counted, not timed.

    relative    rms(x' - x) < eps * (FLOOR + rms(x')), after the step
    published   |x - mu| < eps, with x before the step

Both are looked at when `min_iteration` steps are done, and each token stops by itself, so that its
output depends neither on its company nor on what follows it. The published code marks tokens
as here but goes on with all of them until the last is marked: what it pays is the largest count
of a batch (`whole_batch`), and its outputs change with the batch, the future included, which a
language model must not do. Its rule compares with a point that is not where the cell comes
to rest (mu + ((1 - alpha) c + force) / beta), which is why it seldom acts.
Legend: N token, C model width, L layer, B batch, T position.
"""

import torch
from torch import Tensor

from lmbench.layers.integrator_shape import IntegratorShape

FLOOR = 1e-3
"""Of the size that a step is compared with; a token at 0 would never be still otherwise."""


class StopRule:
    """Which tokens are done; starts with none, and is thrown away with the pass."""

    def __init__(self, shape: IntegratorShape, *, like: Tensor) -> None:
        self.shape = shape
        self.done_N1 = torch.zeros_like(like[:, :1], dtype=torch.bool)
        self.count_N1 = torch.zeros_like(self.done_N1, dtype=torch.int64)
        """Iterations that each token has been through."""

    def keep(self, old_NC: Tensor, new_NC: Tensor) -> Tensor:
        """The new values of tokens that still move, the old ones of those that are done."""
        return torch.where(self.done_N1, old_NC, new_NC)

    def step_taken(self, old_NC: Tensor, new_NC: Tensor, *, mu_C: Tensor, n_done: int) -> None:
        """Count a step of all tokens that move, and decide which stop after it.

        Args:
            old_NC: positions before the step; `new_NC`, after it.
            n_done: steps so far, this one included.
        """
        self.count_N1 = self.count_N1 + ~self.done_N1
        shape = self.shape
        if shape.stopping == "off" or n_done < shape.min_iteration:
            return
        if shape.stopping == "relative":
            is_still_N1 = _rms(new_NC - old_NC) < shape.tolerance * (FLOOR + _rms(new_NC))
        else:
            is_still_N1 = torch.linalg.vector_norm(old_NC - mu_C, dim=-1, keepdim=True) < shape.tolerance
        self.done_N1 = self.done_N1 | is_still_N1


def whole_batch(count_LBT: Tensor) -> Tensor:
    """(L,) iterations of each layer where a batch goes on until its last token is done, as published."""
    return count_LBT.flatten(1).amax(1)


def _rms(x_NC: Tensor) -> Tensor:
    return x_NC.square().mean(-1, keepdim=True).sqrt()
