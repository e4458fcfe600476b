"""The compression funnel and its published relatives, as transforms of a model's config.

Three ways were published by which a constraint shrinks a transformer; they contradict each
other, and each is here as it was published, in exact integers. All set attributes of a config
(on a built model they would resize nothing). Depth, vocabulary and context stay, except in
`constrained_config`. Heads shrink faster than the stream, so the width of a head grows; heads
alone save no weight here, since all projections are d_model wide. `methods.constrain` is the
reading in which heads keep their width.

A floor adds 1e-9 first: in binary floating point 90 * (1 - 0.3) is a little less than 63.
"""

import math
from typing import Any, NamedTuple

from lmbench.layers.widths import ROUNDING
from lmbench.models.base import ModelConfig

WIDTH, HEADS, UNITS, LAYERS = 0.5, 0.6, 0.7, 0.4
"""Share of each that the funnel takes out at a compression of 1; of the layers, `constrained_config` only."""
MULTIPLE = 8
"""What two of the transforms round widths to."""


class Shape(NamedTuple):
    """What is shrunk."""

    d_model: int
    n_head: int
    d_ff: int

    @property
    def d_head(self) -> float:
        """Width of one head."""
        return self.d_model / self.n_head


def floored(total: int, factor: float) -> int:
    """floor(total * factor), with exact products kept exact."""
    return math.floor(total * factor + ROUNDING)


def funnel_shape(shape: Shape, compression: float = 0.5) -> Shape:
    """The published funnel: floors, at least one head, then the largest multiple of the heads.

    Args:
        compression: q; 0 is the shape itself where its d_model is a multiple of n_head.

    Raises:
        ValueError: a negative compression, or one at which no feature or feed-forward unit is left.
    """
    if compression < 0:
        raise ValueError(f"compression = {compression:g} must not be negative; 0 leaves the model as it is")
    width = floored(shape.d_model, 1 - WIDTH * compression)
    heads = max(1, floored(shape.n_head, 1 - HEADS * compression))
    made = Shape(
        d_model=width // heads * heads, n_head=heads, d_ff=floored(shape.d_ff, 1 - UNITS * compression)
    )
    for name, value in made._asdict().items():
        if value < 1:
            share, total = {"d_model": WIDTH, "n_head": HEADS, "d_ff": UNITS}[name], getattr(shape, name)
            raise ValueError(
                f"compression = {compression:g} leaves {name} = {value} of {total}; "
                f"accepted: 0 to {math.floor(1000 * (1 - 1 / total) / share) / 1000:g}"
            )
    return made


def funnel(config: ModelConfig, compression: float = 0.5) -> ModelConfig:
    """A model's config after the funnel.

    Raises:
        ValueError: see `funnel_shape`; or a model without these three sizes, or with heads of a width of
            their own.
    """
    return _resized(config, funnel_shape(shape_of(config), compression))


def factored(
    config: ModelConfig, *, heads: float = 0.5, width: float = 0.6, units: float = 0.7
) -> ModelConfig:
    """The published `TransformerConstraints`: factors, widths to multiples of 8.

    Its text calls the factors reductions, its code keeps those shares; this is the code. There, too,
    heads keep their width, whether or not they then divide d_model.

    Args:
        heads: share of the heads kept; likewise of d_model and d_ff. 1 leaves all.

    Raises:
        ValueError: a factor outside of [0, 1], or a model whose heads cannot have a width of their own.
    """
    for name, factor in {"heads": heads, "width": width, "units": units}.items():
        if not 0 <= factor <= 1:
            raise ValueError(f"{name} = {factor:g} is the share that is kept; accepted: 0 to 1")
    shape = shape_of(config)
    made = Shape(
        d_model=_reduced(shape.d_model, width),
        n_head=max(1, floored(shape.n_head, heads)),
        d_ff=_reduced(shape.d_ff, units),
    )
    d_head = shape.d_model // shape.n_head
    return _resized(config, made, **{} if made.d_model == d_head * made.n_head else {"d_head": d_head})


def _reduced(total: int, factor: float) -> int:
    """Published rule: floor, at least 8, to the multiple of 8; never more than there was."""
    made = _to_multiple(max(MULTIPLE, floored(total, factor)))
    return min(made, total)


def constrained_config(config: ModelConfig, constraint: float = 0.5) -> ModelConfig:
    """The published `ConstrainedTransformerConfig`: the funnel at q = C, fewer layers, multiples of 8.

    Rounding comes before the width is made a multiple of the heads, so the result need not be a
    multiple of 8.

    Raises:
        ValueError: a constraint outside of [0, 1].
    """
    if not 0 <= constraint <= 1:
        raise ValueError(f"constraint = {constraint:g}; accepted: 0 to 1")
    if constraint == 0:
        return config
    shape = shape_of(config)
    width = _to_multiple(max(MULTIPLE, floored(shape.d_model, 1 - WIDTH * constraint)))
    heads = max(1, floored(shape.n_head, 1 - HEADS * constraint))
    units = _to_multiple(max(MULTIPLE, floored(shape.d_ff, 1 - UNITS * constraint)))
    layers = max(1, floored(config.n_layer, 1 - LAYERS * constraint))
    made = Shape(d_model=width // heads * heads, n_head=heads, d_ff=units)
    return _resized(config, made, n_layer=layers)


def _to_multiple(value: int) -> int:
    return round(value / MULTIPLE) * MULTIPLE  # ties go to the even multiple, as published


def shape_of(config: ModelConfig) -> Shape:
    """The sizes that are shrunk.

    Raises:
        ValueError: a model that lacks one, or whose heads are not d_model / n_head wide.
    """
    known = type(config).model_fields
    for name in Shape._fields:
        if name not in known:
            raise ValueError(
                f"{config.name} has no {name}, so a funnel cannot shrink it; accepted: models with "
                f"{', '.join(Shape._fields)}"
            )
    if "d_head" in known and config.d_head is not None:
        raise ValueError(
            f"d_head = {config.d_head} is kept by no funnel, which makes heads wider; accepted: None"
        )
    return Shape(*(getattr(config, name) for name in Shape._fields))


def _resized(config: ModelConfig, shape: Shape, **others: Any) -> ModelConfig:
    fields = {name: getattr(config, name) for name in type(config).model_fields}
    return type(config)(**(fields | shape._asdict() | others))
