"""Everything that shapes one integrator cell, checked once; the model's config has fields of these names.

The defaults of the guide and of the code behind it are the defaults of the config; where a
choice is spelled "published" it keeps what that code computes although another reading is
the better one.
"""

import math
from dataclasses import dataclass, fields
from typing import Literal

DynamicAlpha = Literal["off", "published", "rms"]
Start = Literal["norm", "mu"]
EquilibriumKind = Literal["features", "groups", "scalar", "fixed"]
Excited = Literal["training", "always"]
Harmonics = Literal["random", "published"]
Stopping = Literal["off", "relative", "published"]
Checkpointing = Literal["none", "step", "stack", "block"]
Phases = Literal["off", "conservative", "balanced", "aggressive", "exponential", "linear"]


@dataclass(frozen=True, kw_only=True)
class IntegratorShape:
    """Sizes and choices of one cell.

    Raises:
        ValueError: choices that do not fit each other.
    """

    d_model: int
    d_controller: int
    n_iteration: int
    dt: float
    velocity_scale: float
    candidate: bool
    """Whether the controller has a fourth output, the velocity that it would like."""
    dynamic_alpha: DynamicAlpha
    kappa: float
    start: Start
    equilibrium: EquilibriumKind
    target: float
    group_size: int
    excitation: float
    excitation_share: float
    excited: Excited
    harmonics: Harmonics
    shared_controller: bool
    n_expert: int
    top_k: int
    balance_weight: float
    z_weight: float
    stopping: Stopping
    tolerance: float
    min_iteration: int
    mean_weight: float
    speed_weight: float
    energy_weight: float
    phases: Phases
    checkpointing: Checkpointing
    n_layer: int
    """Layers of the model, over which the losses are averaged."""

    def __post_init__(self) -> None:
        if self.top_k > self.n_expert:
            raise ValueError(
                f"top_k = {self.top_k} is more than n_expert = {self.n_expert}; "
                f"accepted: 1 to {self.n_expert}"
            )
        if self.start == "mu" and self.equilibrium == "fixed":
            raise ValueError(
                "start = 'mu' begins where equilibrium = 'fixed' holds no number to learn, so the first "
                "iteration would not depend on the token; accepted with it: start = 'norm'"
            )
        if self.min_iteration > self.n_iteration and self.stopping != "off":
            raise ValueError(
                f"min_iteration = {self.min_iteration} is more than n_iteration = {self.n_iteration}, so "
                f"stopping = {self.stopping!r} would never act; accepted: 1 to {self.n_iteration}"
            )

    @classmethod
    def names(cls) -> list[str]:
        """Of the fields."""
        return [field.name for field in fields(cls)]

    @property
    def n_output(self) -> int:
        """Of the controller, each of width d_model: alpha, beta, gate and perhaps the candidate."""
        return 4 if self.candidate else 3

    @property
    def has_excitation(self) -> bool:
        """Whether frequencies and phases are learned: the amplitude may be 0 now and not in another phase."""
        return self.excitation > 0 or self.phases in ("conservative", "balanced", "aggressive")

    @property
    def has_mean_loss(self) -> bool:
        """Whether the mean loss is computed; its weight may be 0 for a while."""
        return self.mean_weight > 0 or self.phases != "off"

    @property
    def n_excited(self) -> int:
        """Features that the excitation touches."""
        # The share of 10% of 2,048 is 204.8 features; the code takes the floor.
        return max(1, math.floor(self.excitation_share * self.d_model))
