"""A mixture of experts: a transformer whose feed-forwards are the top k of E, chosen for each token.

It stores E feed-forwards and computes k, so it is paid for twice in different coin: in bytes
by its stored parameters, in FLOPs by its active ones. With one expert it is the transformer.
Routing, losses and the grouped products are those of `layers.experts` and `layers.grouped`
(Shazeer et al. 2017; Fedus et al. 2022; Gale et al. 2023).
"""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from lmbench.layers.experts import expert_parameters
from lmbench.models.stack import StackConfig


class MixtureOfExpertsConfig(StackConfig):
    """A stack of attention and experts; `d_ff` is the width of one expert."""

    kind: ClassVar[Literal["moe"]] = "moe"

    n_expert: int = Field(8, ge=1)
    """Feed-forwards to choose from; 1 is the dense feed-forward."""
    top_k: int = Field(2, ge=1)
    """Experts that each token uses, at most n_expert."""
    every: int = Field(1, ge=1)
    """Each every-th block has experts, the others one dense feed-forward; 1 gives experts to all."""
    balance_weight: float = Field(0.01, ge=0)
    """Of the balance loss of each such block, 1 where the experts share evenly; 0 switches it off."""
    z_weight: float = Field(1e-3, ge=0)
    """Of the mean square of the router's logsumexp in each such block; 0 switches it off."""

    @model_validator(mode="after")
    def _experts_fit(self) -> Self:
        if self.top_k > self.n_expert:
            raise ValueError(
                f"top_k = {self.top_k} is more than n_expert = {self.n_expert}; "
                f"accepted: 1 to {self.n_expert}"
            )
        if self.every > self.n_layer:
            raise ValueError(
                f"every = {self.every} leaves no block of n_layer = {self.n_layer} with experts; "
                f"accepted: 1 to {self.n_layer}"
            )
        return self

    def feedforwards(self) -> tuple[str, ...]:
        """The last of each `every` blocks has experts."""
        return tuple("dense" if at % self.every else "experts" for at in range(1, self.n_layer + 1))

    def inactive_parameters(self) -> int:
        """Those of the n_expert - top_k experts of each such block that a token does not choose."""
        spare = self.feedforwards().count("experts") * (self.n_expert - self.top_k)
        return spare * expert_parameters(self.block_shape())
