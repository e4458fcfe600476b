"""An arm of an experiment: a model, the methods it is trained with, and its share of the budget."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from lmbench.measure.flops import parameters
from lmbench.methods.base import Method
from lmbench.models.base import ModelConfig


@dataclass(frozen=True)
class Arm:
    """What one arm trains."""

    model: ModelConfig
    methods: tuple[Method, ...] = field(default=())
    share: float = 1.0
    """Of the budget that the others have: 0.35 where only so much of the text is to be seen."""


def arm_table(arms: Mapping[str, Arm]) -> pd.DataFrame:
    """One row for each arm: arm, parameters, methods in words, share of the budget."""
    rows = [
        {
            "arm": name,
            "parameters": parameters(arm.model).total,
            "methods": ", ".join(method.name for method in arm.methods) or "none",
            "budget": f"{arm.share:.0%}",
        }
        for name, arm in arms.items()
    ]
    return pd.DataFrame(rows)
