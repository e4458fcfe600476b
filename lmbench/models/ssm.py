"""Mamba: a stack of selective state-space mixers, each a whole block by itself.

As published there is no feed-forward: the mixer's inner width is twice that of the model, and
two of its blocks have about the parameters of one block of a transformer, so that a Mamba has
twice the layers (Gu and Dao 2023, section 3.4). How many is left to the user, as for all stacks.
Where the default departs from the paper's language models, it is as the other kinds are: dropout
is 0.1, the head untied, and matrices start as torch draws them. Its module is the `Stack` as it is.
"""

from typing import ClassVar, Literal

from pydantic import Field

from lmbench.models.stack import StackConfig


class SSMConfig(StackConfig):
    """Blocks x + SSM(RMSNorm(x)); what concerns attention, and d_ff without a feed-forward, has no effect."""

    kind: ClassVar[Literal["ssm"]] = "ssm"

    n_head: int = Field(1, ge=1)
    """Without effect here: a state-space mixer has no heads, so the width may be any."""
    d_state: int = Field(16, ge=1)
    """States of each inner feature."""
    expand: int = Field(2, ge=1)
    """Inner width in multiples of d_model."""
    conv_width: int = Field(4, ge=0)
    """Taps of the causal convolution before the scan; 0 leaves it out."""
    feedforward: Literal["none", "dense"] = "none"
    """"dense" gives each block the feed-forward of the other stacks."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Before each mixer's output map and after a feed-forward, in training; 0 is as published."""
    positions: Literal["none", "learned", "sinusoidal"] = "none"
    """What is added to the embedding; a recurrence knows the order without it."""

    def mixers(self) -> tuple[str, ...]:
        """See `StackConfig.mixers`."""
        return ("ssm",) * self.n_layer

    def feedforwards(self) -> tuple[str, ...]:
        """See `StackConfig.feedforwards`."""
        return (self.feedforward,) * self.n_layer
