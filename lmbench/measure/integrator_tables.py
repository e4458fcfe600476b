"""The integrator guide's table of model sizes, counted again on the models themselves.

The guide gives each size a number of parameters before and after its optimisations. Here every
size is built without memory and counted: the transformer without the cell, the published baseline,
and the published and described combinations. Parts that the published code builds and never
calls are not built here; they are the difference to `published_parameters` and stand in a column
of their own. Parameters are exact, so a verdict on them needs no interval: a claim holds where the
counted number, rounded as the claim is, is the claimed one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import pandas as pd

from lmbench.config import make
from lmbench.errors import unknown
from lmbench.layers.integrator_sizes import SIZES, VOCAB_SIZE, Level, SizeName, published_parameters
from lmbench.measure.flops import parameters
from lmbench.measure.twins import transformer_of
from lmbench.models.base import ModelConfig


class Claimed(NamedTuple):
    """Parameters of a size before and after all optimisations, as the guide has them."""

    before: float
    after: float


GUIDE: dict[SizeName, Claimed] = {
    "small": Claimed(43e6, 30e6),
    "medium": Claimed(112e6, 80e6),
    "large": Claimed(303e6, 220e6),
    "xlarge": Claimed(808e6, 590e6),
    "3b": Claimed(3e9, 2.2e9),
    "7b": Claimed(7e9, 5.2e9),
    "13b": Claimed(13e9, 9.8e9),
    "30b": Claimed(30e9, 22e9),
    "70b": Claimed(70e9, 52e9),
}
"""A size of 100 billion is claimed too, but no settings of it were published."""
COUNTED: dict[str, tuple[Level, str]] = {
    "transformer": ("transformer", ""),
    "baseline": ("baseline", "integrator"),
    "level 1": ("level1", "integrator_level1"),
    "ultra as published": ("ultra", "integrator_ultra"),
    "ultra as described": ("described", "integrator_ultra_described"),
}
"""Name in the tables -> level of the closed form, variant that is built ("" is the transformer)."""
OPTIMISED = ("level 1", "ultra as published", "ultra as described")
SEQ_LEN = 2048  # published; the fixed positions hold no parameters, so no count depends on it


def sized(name: str, size: SizeName, *, vocab_size: int = VOCAB_SIZE) -> ModelConfig:
    """A model of `COUNTED` at a published size.

    Raises:
        ValueError: an unknown model or size.
    """
    if name not in COUNTED:
        raise ValueError(unknown("counted model", name, COUNTED))
    if size not in SIZES:
        raise ValueError(unknown("published size", size, SIZES))
    fixed = {"vocab_size": vocab_size, "seq_len": SEQ_LEN, "published_size": size}
    config = make("model", COUNTED[name][1] or "integrator", **fixed)
    return config if COUNTED[name][1] else transformer_of(config)


def size_table(sizes: Sequence[SizeName] = ()) -> pd.DataFrame:
    """One row for each size and model: what is built here, and what the published code builds.

    Args:
        sizes: published sizes; empty takes all.

    Returns:
        Columns size, model, parameters, never called (parts of the published code that are not built
        here), to the baseline (ratio, with them).
    """
    table = []
    for size in sizes or get_args(SizeName):
        of_baseline = published_parameters("baseline", size)
        for name, (level, _) in COUNTED.items():
            built, published = parameters(sized(name, size)).total, published_parameters(level, size)
            table.append(
                {
                    "size": size,
                    "model": name,
                    "parameters": built,
                    "never called": published - built,
                    "to the baseline": published / of_baseline,
                }
            )
    return pd.DataFrame(table)


def saving_table(counted: pd.DataFrame) -> pd.DataFrame:
    """One row a size: the guide's numbers and its saving, and what each combination saves of the baseline.

    Args:
        counted: from `size_table`.

    Returns:
        Columns size, claimed before, baseline (counted), baseline / claimed, claimed after, claimed
        saving, for each of `OPTIMISED` its saving, and verdict: whether ultra as published saves what
        is claimed, to a whole per cent. A negative saving is a model that grew.
    """
    table = []
    for size, rows in counted.groupby("size", sort=False):
        found = rows.set_index("model")
        claimed = GUIDE[size]
        share = 1 - claimed.after / claimed.before
        savings = {name: 1 - found.loc[name, "to the baseline"] for name in OPTIMISED}
        baseline = int(found.loc["baseline", "parameters"])
        row: dict[str, Any] = {
            "size": size,
            "claimed before": claimed.before,
            "baseline": baseline,
            "baseline / claimed": baseline / claimed.before,
            "claimed after": claimed.after,
            "claimed saving": f"{share:.0%}",
        }
        row |= {name: f"{saving:.2%}".replace("-", "−") for name, saving in savings.items()}
        row["verdict"] = "holds" if round(savings["ultra as published"], 2) >= round(share, 2) else "refuted"
        table.append(row)
    return pd.DataFrame(table)
