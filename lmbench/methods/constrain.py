"""Constraint in the course of training: nested widths that follow a published schedule C(t).

Of each kind of unit k a share c_k(t) = m_k C(t), clipped to [0, 1 - 1/N_k], is taken out:
heads, features of the residual stream (embedding), feed-forward units. The first
max(1, floor((1 - c_k) N_k)) stay, so narrower models lie nested in wider ones, the constraint
can be relaxed again, and a slice of the weights is a smaller model. With the published
multipliers and q = 2 C these are the shares of the published compression funnel
(`measure.funnel`), but with heads of constant width, so that fewer heads save weights too.

The publication fixes the schedule and nothing of how it acts on a network; this reading is
reversible, monotone in C, deterministic, and can save the work it claims to. `random` (units
drawn anew each step) and `importance` (the heaviest units stay) are its controls.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field

from lmbench.config import Config
from lmbench.curves.base import CurveField, per_component
from lmbench.curves.combinators import Clip, Piecewise, Scale
from lmbench.curves.primitives import Const, Sine
from lmbench.layers.width_masks import Rule
from lmbench.layers.widths import Widths, n_active
from lmbench.methods.base import Method
from lmbench.methods.narrowing import Narrowed, sizes_of, sliced_config
from lmbench.models.base import LanguageModel, ModelConfig


def _published(cls: type[Config], name: str) -> Config:
    return cls(**cls.variants[name])


class Constrain(Method):
    """Fewer units in use while training; the multipliers default to the published ones."""

    kind: ClassVar[Literal["constrain"]] = "constrain"
    place: ClassVar[int] = 2
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "constrain_sliced": {"execution": "slice", "round_to": 8},
        # The preprint's: each component has a curve of its own.
        "constrain_preprint": {
            "curve": Const(level=1.0),
            "heads": _published(Piecewise, "constraint_preprint_heads"),
            "embedding": _published(Sine, "constraint_preprint_embedding"),
            "feedforward": _published(Piecewise, "constraint_preprint_feedforward"),
        },
        # Published by dimension of constraint; architecture is read as heads, representation as
        # the embedding, computation as the feed-forward.
        "constrain_pattern": {
            "curve": _published(Scale, "constraint_pattern"),
            "heads": Const(level=0.9),
            "embedding": Const(level=1.0),
            "feedforward": Const(level=1.2),
        },
        # The example script's, which computed them and threw them away.
        "constrain_example_funnel": {"curve": _published(Clip, "constraint_example_funnel")},
        "constrain_example_scaffold": {"curve": _published(Clip, "constraint_example_scaffold")},
    }

    curve: CurveField = _published(Piecewise, "constraint")
    """C(t); a number is a constant constraint, and 0 is none."""
    heads: CurveField = Const(level=1.2)
    """Share of the heads taken out, in units of C; 0 leaves all of them in."""
    embedding: CurveField = Const(level=1.0)
    """The same of the features of the residual stream."""
    feedforward: CurveField = Const(level=1.4)
    """The same of the feed-forward units."""
    rule: Rule = "prefix"
    """Who stays: the first ones, others at each step, or those whose weights are largest."""
    refresh_every: int = Field(100, ge=1)
    """Steps after which `importance` ranks the units anew."""
    execution: Literal["mask", "slice"] = "mask"
    """Multiply by zeros, which saves no work but joins groups, or compute with slices of the weights. Both
    are the same function; dropout draws other masks for tensors of other shapes."""
    round_to: int = Field(1, ge=1)
    """The features and feed-forward units in use are the nearest multiple of this; 1 switches it off.
    Each width that occurs is one captured graph where passes are sliced."""
    inactive: Literal["freeze", "decay"] = "freeze"
    """Weights that are not in use stay as they are, or go on with momentum and weight decay."""

    # ---------------------------------------------------------------- numbers

    def shares(self, step: float, *, steps: int) -> dict[str, float]:
        """c_k at this step, as published: not clipped."""
        parts = {"n_head": self.heads, "d_model": self.embedding, "d_ff": self.feedforward}
        return per_component(self.curve, by=parts, step=step, steps=steps)

    def widths(self, model: ModelConfig, step: float, *, steps: int) -> Widths:
        """The units of a model that are in use at this step."""
        full, shares = sizes_of(model).full, self.shares(step, steps=steps)
        rounding = {"n_head": 1, "d_model": self.round_to, "d_ff": self.round_to}
        return Widths(
            **{
                name: n_active(n, removed=shares[name], round_to=rounding[name])
                for name, n in full._asdict().items()
            }
        )

    def executed(self, model: ModelConfig, *, steps: int) -> list[tuple[int, ModelConfig]]:
        """(first step, model of the units in use), from step to step where it changes."""
        found: list[tuple[int, Widths]] = []
        for step in range(steps):
            widths = self.widths(model, step, steps=steps)
            if not found or widths != found[-1][1]:
                found.append((step, widths))
        return [(step, sliced_config(model, widths)) for step, widths in found]

    def clipped_share(self, model: ModelConfig, *, steps: int) -> float:
        """Share of the steps in which a c_k asks for more units than there are and is clipped."""
        full = sizes_of(model).full._asdict()
        asked = (self.shares(step, steps=steps) for step in range(steps))
        return sum(any(c > 1 - 1 / full[name] for name, c in one.items()) for one in asked) / steps

    def at(self, level: float) -> "Constrain":
        """The same units at a constant C, to score weights with; by the published multipliers where the
        method's own change in the course of training, and the first ones where they were drawn: drawn units
        are all in use where weights are scored."""
        names = ("heads", "embedding", "feedforward")
        parts = {name: getattr(self, name) for name in names}
        own = parts if all(isinstance(part, Const) for part in parts.values()) else {}
        rule = "prefix" if self.rule == "random" else self.rule
        return type(self)(curve=level, rule=rule, round_to=self.round_to, **own)

    # ---------------------------------------------------------------- the contract of methods

    @property
    def alone(self) -> str:
        """See `Method.alone`."""
        return "constrain slices its passes to widths of the step" if self.execution == "slice" else ""

    def check(self, run: Config) -> None:
        """See `Method.check`."""
        sizes_of(run.model)
        if sum(isinstance(one, Constrain) for one in run.methods) > 1:
            raise ValueError("a run takes one method 'constrain', and this one has several")
        if self.execution == "slice" and self.rule != "prefix":
            raise ValueError(f"rule = {self.rule!r} has no contiguous slices; accepted: execution = 'mask'")
        others = [one.kind for one in run.methods if one.rounds_activations]
        if self.execution == "slice" and others:
            raise ValueError(
                f"execution = 'slice' passes by what {others[0]!r} does to activations; accepted: 'mask'"
            )

    def attach(self, model: LanguageModel, config: ModelConfig, *, steps: int) -> "Narrowed | None":
        """See `Method.attach`."""
        sizes = sizes_of(config)
        course = [self.widths(config, step, steps=steps) for step in range(steps)]
        if set(course) == {sizes.full}:
            return None
        return Narrowed(
            model,
            config,
            course,
            rule=self.rule,
            is_sliced=self.execution == "slice",
            freezes=self.inactive == "freeze",
            refresh_every=self.refresh_every,
            clipped=self.clipped_share(config, steps=steps),
        )

    def in_force(self, step: int, steps: int) -> "Constrain | None":
        """See `Method.in_force`; random widths are for training only, as dropout is."""
        if self.rule == "random":
            return None
        last = max(step - 1, 0)  # the widths that the last update was made at
        parts = {"heads": self.heads, "embedding": self.embedding, "feedforward": self.feedforward}
        held = {name: part.value(last, steps=steps) for name, part in parts.items()}
        level = self.curve.value(last, steps=steps)
        if all(level * part <= 0 for part in held.values()):
            return None
        return type(self)(curve=level, rule=self.rule, round_to=self.round_to, **held)

    def settled(self, step: int, steps: int) -> bool:
        """See `Method.settled`."""
        now, end = (self.shares(max(at - 1, 0), steps=steps) for at in (step, steps))
        return self.rule == "random" or all(abs(now[name] - end[name]) < 1e-12 for name in end)

    def stages(self, stages: list[tuple[int, ModelConfig]], *, steps: int) -> list[tuple[int, ModelConfig]]:
        """See `Method.stages`; masks cost what the full model does."""
        return self.active_stages(stages, steps=steps) if self.execution == "slice" else stages

    def active_stages(
        self, stages: list[tuple[int, ModelConfig]], *, steps: int
    ) -> list[tuple[int, ModelConfig]]:
        """See `Method.active_stages`."""
        return self.executed(stages[-1][1], steps=steps)
