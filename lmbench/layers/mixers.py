"""The sequence mixers by name: what a block can be built of, and what each costs."""

from collections.abc import Callable
from typing import NamedTuple

from lmbench.layers.attention import CausalSelfAttention, attention_terms
from lmbench.layers.cost import Term
from lmbench.layers.linear_attention import LinearAttention, linear_attention_terms
from lmbench.layers.mixer import Mixer
from lmbench.layers.recurrence import GatedRecurrence, recurrence_terms
from lmbench.layers.shape import BlockShape
from lmbench.layers.ssm import SelectiveSSM, ssm_terms


class MixerKind(NamedTuple):
    """A mixer's module and the closed form of its forward FLOPs."""

    build: Callable[[BlockShape], Mixer]
    terms: Callable[..., tuple[Term, ...]]
    """`terms(shape, n_layer=...)` over one sequence of seq_len tokens."""
    has_conv: bool = False
    """Whether `conv_width` is a convolution inside it; a block puts one in front of the others."""
    crosses: str = ""
    """Why a position would read across the border of its segment of a row; "" where it never does."""


_RUNS_ON = "its state runs on through the row"


MIXERS: dict[str, MixerKind] = {
    "attention": MixerKind(CausalSelfAttention, attention_terms),
    "linear_attention": MixerKind(LinearAttention, linear_attention_terms, crosses=_RUNS_ON),
    "recurrence": MixerKind(GatedRecurrence, recurrence_terms, has_conv=True, crosses=_RUNS_ON),
    "ssm": MixerKind(SelectiveSSM, ssm_terms, has_conv=True, crosses=_RUNS_ON),
}
