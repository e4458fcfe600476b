"""prune: weights of small magnitude are set to zero, more and more of them in the course of a training.

The share that survives falls from 1 to `density` along a cubic curve between two points of the
training, in steps of `every`, and then stands still, so that what is left can settle:

    s(t) = s_f + (0 - s_f) (1 - (t - t0) / (n dt))^3,  density = 1 - s

Between updates the masks are fixed. With the shadow "dense" removed weights go on learning and may
come back at an update; with "hard" they are gone. Where both points are one there is one cut, and
where given weights are scored (an Evaluation) they are cut at once. density 1 is off.

Source: Zhu and Gupta 2017, eq. 1. The published pseudo-code of seed 001 calls the share of weights
that are not zero its sparsity, and sets it to .9: variant `prune_v1`, read to the letter.
"""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from lmbench.config import Config
from lmbench.curves.primitives import Cubic
from lmbench.layers.masks import Shadow
from lmbench.methods.attached import Attached
from lmbench.methods.base import Method
from lmbench.methods.installed import refuse_overlap
from lmbench.methods.parts import PartNames, parts_of
from lmbench.methods.pruned import Pruned, Structure, sites_of
from lmbench.models.base import LanguageModel, ModelConfig, on_meta


class Prune(Method):
    """Masks by magnitude."""

    kind: ClassVar[Literal["prune"]] = "prune"
    place: ClassVar[int] = 0
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        # Seed 001, first form: "Eq(Sparsity(M), 0.9)" with Sparsity(M) := CountNonZero(M) / Size(M).
        "prune_v1": {"density": 0.9, "parts": ("attention",)},
        # Its second form sparsifies query, key, value and the feed-forward, each matrix to the same count.
        "prune_v2": {"parts": ("q", "k", "v", "feedforward")},
    }

    density: float = Field(0.1, gt=0, le=1)
    """Share of weights (or of units) that survive in the end; the sparsity is 1 - density."""
    parts: PartNames = ("body",)
    """Which weights, by the names of `methods.parts` or patterns of their dotted names."""
    structure: Structure = "weights"
    """What is removed together: nothing, 2 of 4 neighbouring inputs, heads of attention, units of a
    feed-forward."""
    scope: Literal["tensor", "global"] = "tensor"
    """Whether each tensor (for heads and units: each layer) keeps its share, or all together do."""
    shadow: Shadow = "dense"
    """Whether removed weights go on learning and may come back."""
    start: float = Field(0.1, ge=0, le=1)
    """Share of the training at which removing begins; best behind the warm-up of the learning rate."""
    finish: float = Field(0.7, ge=0, le=1)
    """Share of the training by which `density` is reached."""
    every: int = Field(10, ge=1)
    """Steps between two updates of the masks."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.finish < self.start:
            raise ValueError(
                f"finish = {self.finish:g} is before start = {self.start:g}; accepted: {self.start:g} to 1"
            )
        if self.structure == "2:4" and self.density not in (0.5, 1.0):
            raise ValueError(
                f"density = {self.density:g} does not fit structure = '2:4', which keeps half; accepted: 0.5"
            )
        if self.structure == "2:4" and self.scope == "global":
            raise ValueError("scope = 'global' has no meaning for structure = '2:4'; accepted: 'tensor'")
        return self

    @property
    def sparsity(self) -> float:
        """Share of weights that are zero in the end."""
        return 1 - self.density

    def updates(self, steps: int) -> tuple[int, int, int]:
        """First update, last update, and steps between two (t0, t0 + n dt, dt) of a training."""
        first, last = (min(round(share * steps), steps - 1) for share in (self.start, self.finish))
        every = max(1, min(self.every, last - first))
        return first, first + (last - first) // every * every, every

    def density_at(self, step: int, steps: int) -> float:
        """The share that survives from the last update at or before a step on."""
        first, last, every = self.updates(steps)
        if step < first:
            return 1.0
        if step >= last:
            return self.density
        at = first + (step - first) // every * every
        return Cubic(start=1.0, end=self.density).at(at, first=first, last=last)

    def check(self, run: Config) -> None:
        """See `Method.check`."""
        model = on_meta(run.model)
        refuse_overlap([one for one in run.methods if isinstance(one, Prune) and one.density < 1], model)
        sites_of(model, parts_of(model, self.parts), structure=self.structure)

    def attach(self, model: LanguageModel, config: ModelConfig, *, steps: int) -> Attached | None:
        """See `Method.attach`."""
        if self.density == 1:
            return None
        return Pruned(self, model, parts_of(model, self.parts), steps=steps)

    def settled(self, step: int, steps: int) -> bool:
        """Whether a step has been taken with the last masks."""
        return self.density == 1 or step > self.updates(steps)[1]
