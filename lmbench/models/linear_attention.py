"""A stack of linear attention: a memory of fixed size in place of all keys and values.

The default is the gated delta rule (Yang, Kautz, Hatamizadeh 2024); the variants are its relatives,
which differ in the rule of the memory alone, see `layers.matrix_memory`. The state does not grow
with the text, so neither does the cost of a generated token. Where the default departs from the
papers: the convolution stands in front of the map to queries, keys and values, not behind it, and the
start of the matrices and the untied head are those of the other stacks. Its module is the `Stack`.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field

from lmbench.layers.shape import Decay, Rule
from lmbench.models.stack import StackConfig


class LinearAttentionConfig(StackConfig):
    """Blocks of linear attention and feed-forward; the order of tokens shows in the decay and the writes."""

    kind: ClassVar[Literal["linear_attention"]] = "linear_attention"
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        # Yang et al. 2024: a key is overwritten, and nothing else is ever forgotten.
        "delta_net": {"rule": "delta", "decay": "none"},
        # A scalar decay for each head and position, as in Mamba-2 (Dao and Gu 2024).
        "gated_linear_attention": {"rule": "add", "decay": "data"},
        # Katharopoulos et al. 2020, with a norm in place of the normaliser.
        "plain_linear_attention": {"rule": "add", "decay": "none"},
    }

    conv_width: int = Field(4, ge=0)
    """Taps of a short causal convolution in front of each mixer; 0 is none."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Before each mixer's output map and after the feed-forward, in training; 0 switches it off."""
    positions: Literal["none", "learned", "sinusoidal"] = "none"
    """Vectors added to the embedding; the recurrence knows the order without them."""
    rule: Rule = "delta"
    """How a head writes: "add" puts the value on top, "delta" over what the key held."""
    decay: Decay = "data"
    """"data" multiplies each head's memory by a factor that the input decides, "none" by 1."""
    expand: int = Field(1, ge=1)
    """Width of the values in multiples of d_model; the memory grows with it."""

    def mixers(self) -> tuple[str, ...]:
        """See `StackConfig.mixers`."""
        return ("linear_attention",) * self.n_layer
