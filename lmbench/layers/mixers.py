"""The sequence mixers by name: what a block can be built of, and what each costs."""

from collections.abc import Callable
from typing import NamedTuple

from lmbench.layers.attention import CausalSelfAttention, attention_terms
from lmbench.layers.cost import Term
from lmbench.layers.mixer import Mixer
from lmbench.layers.shape import BlockShape


class MixerKind(NamedTuple):
    """A mixer's module and the closed form of its forward FLOPs."""

    build: Callable[[BlockShape], Mixer]
    terms: Callable[..., tuple[Term, ...]]
    """`terms(shape, n_layer=...)` over one sequence of seq_len tokens."""


MIXERS: dict[str, MixerKind] = {
    "attention": MixerKind(CausalSelfAttention, attention_terms),
}
