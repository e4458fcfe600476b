"""Griffin without its attention (Hawk): a stack of gated linear recurrences and feed-forwards.

Source: De et al. 2024, section 2. Where the default departs from the paper: the inner width is
that of the model and not 4/3 of it, and the feed-forward, the start of the matrices and the
untied head are those of the other stacks. Its module is the `Stack` as it is.
"""

from typing import ClassVar, Literal

from pydantic import Field

from lmbench.models.stack import StackConfig


class LinearRecurrenceConfig(StackConfig):
    """Blocks of RG-LRU and feed-forward; n_head is the number of blocks of the gates' matrices."""

    kind: ClassVar[Literal["linear_recurrence"]] = "linear_recurrence"

    expand: int = Field(1, ge=1)
    """Inner width in multiples of d_model."""
    conv_width: int = Field(4, ge=0)
    """Taps of the causal convolution before the recurrence; 0 leaves it out."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Before each mixer's output map and after the feed-forward, in training; 0 switches it off."""
    positions: Literal["none", "learned", "sinusoidal"] = "none"
    """What is added to the embedding; a recurrence knows the order without it."""

    def mixers(self) -> tuple[str, ...]:
        """See `StackConfig.mixers`."""
        return ("recurrence",) * self.n_layer
