"""Models of one budget: the same family, resized until parameters or FLOPs match a target.

d_model moves in multiples of 2 n_head, so that every head keeps an even width, with d_ff
in proportion; then d_ff alone closes the gap, to multiples of 8 where that is within 2%
(tensor cores like them) and to the unit otherwise. A model without d_ff cannot close the
gap, and its miss is what tables must state.
"""

from collections.abc import Callable
from typing import NamedTuple

from lmbench.measure.flops import mean_step_flops, parameters
from lmbench.models.base import ModelConfig

TOLERANCE = 0.02


class Match(NamedTuple):
    """A resized model and how far it is off."""

    config: ModelConfig
    miss: float
    """Relative: 0.01 is one per cent above the target."""


def equal_parameters(config: ModelConfig, *, target: int) -> Match:
    """`config` resized to `target` parameters.

    Raises:
        ValueError: a model without d_model, or a target that even its smallest size exceeds twice.
    """
    return _resize(config, target=target, cost=lambda c: parameters(c).total, unit="parameters")


def equal_flops(config: ModelConfig, *, target_per_token: float) -> Match:
    """`config` resized to a number of training FLOPs per predicted token, readout "all".

    Raises:
        ValueError: as `equal_parameters`.
    """
    return _resize(config, target=target_per_token, cost=flops_per_token, unit="FLOPs per token")


def flops_per_token(config: ModelConfig) -> float:
    """Training FLOPs per predicted token, on average over a training, readout "all"."""
    return mean_step_flops(config, readout="all", batch_size=1) / config.seq_len


def _resize(config: ModelConfig, *, target: float, cost: Callable[[ModelConfig], float], unit: str) -> Match:
    fields = set(type(config).model_fields)
    if "d_model" not in fields:
        raise ValueError(f"{config.name} has no d_model, so it cannot be resized to equal {unit}")
    sizes = config.to_dict()
    # A stack without feed-forwards has the field, which then decides nothing.
    if "d_ff" in fields and cost(config.replace(d_ff=2 * sizes["d_ff"])) == cost(config):
        fields.remove("d_ff")
    step = 2 * (sizes["n_head"] if "n_head" in fields else 1)

    def at_width(multiple: int) -> ModelConfig:
        d_model = multiple * step
        if "d_ff" not in fields:
            return config.replace(d_model=d_model)
        return config.replace(d_model=d_model, d_ff=max(round(sizes["d_ff"] * d_model / sizes["d_model"]), 1))

    best = _nearest(at_width, target=target, cost=cost)
    if "d_ff" in fields:
        for unit_of_width in (8, 1):
            closed = _nearest(lambda n, u=unit_of_width: best.replace(d_ff=n * u), target=target, cost=cost)
            if abs(cost(closed) / target - 1) <= TOLERANCE:
                break
        best = closed
    miss = cost(best) / target - 1
    if miss > 1:
        raise ValueError(
            f"{config.name} cannot be made as small as {target:,.0f} {unit}; "
            f"its smallest size at seq_len = {config.seq_len} has {cost(best):,.0f}"
        )
    return Match(config=best, miss=miss)


def _nearest(
    make: Callable[[int], ModelConfig], *, target: float, cost: Callable[[ModelConfig], float]
) -> ModelConfig:
    """make(n) whose cost is nearest to the target, n >= 1; the cost grows with n."""
    high = 1
    while cost(make(high)) < target:
        high *= 2
    low = high // 2  # below the target, or 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(make(middle)) < target else (low, middle)
    return min((make(n) for n in (low, high) if n), key=lambda candidate: abs(cost(candidate) - target))
