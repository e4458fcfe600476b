"""The position-wise parts by name: what the second half of a block can be, and what each costs."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from lmbench.layers.cost import Term
from lmbench.layers.experts import Experts, experts_terms
from lmbench.layers.feedforward import FeedForward, feedforward_terms
from lmbench.layers.shape import BlockShape


class FeedForwardKind(NamedTuple):
    """A module with maps `up` and `down`, or None, and the closed form of its forward FLOPs."""

    build: Callable[[BlockShape], nn.Module | None]
    terms: Callable[..., tuple[Term, ...]]
    """`terms(shape, n_layer=...)` over one sequence of seq_len tokens."""


FEEDFORWARDS: dict[str, FeedForwardKind] = {
    "dense": FeedForwardKind(FeedForward, feedforward_terms),
    "experts": FeedForwardKind(Experts, experts_terms),
    # The mixer is all of the block, which then has one norm and one residual.
    "none": FeedForwardKind(lambda shape: None, lambda shape, *, n_layer: ()),
}
