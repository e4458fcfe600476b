"""What checkpointing saves and costs, with intervals of its seconds, as one table.

Bytes and FLOPs are counted and have no spread; seconds are timings, several for each way, whose
ratio to no checkpointing is a geometric mean with a t interval on the log scale.
"""

import math

import numpy as np
import pandas as pd

from lmbench.analysis.checks import require
from lmbench.analysis.intervals import t_interval

MODES = {"none": "nothing", "step": "each step", "stack": "a cell's steps", "block": "each block"}
"""Way as the config spells it, and what is computed again, in words."""


def checkpointing_table(costs: pd.DataFrame) -> pd.DataFrame:
    """One row a way of checkpointing.

    Args:
        costs: from `checkpointing_costs`.

    Returns:
        Columns checkpointing (of `MODES`), computed again (words), saved (bytes for the backward pass),
        of none's (ratio), peak, training (peak, float32 weights and two moments of AdamW, bytes),
        training ratio, recomputed (share of the forward FLOPs), ms (median step, mean over timings),
        ratio, low, high (of its seconds to those of none), n.

    Raises:
        ValueError: no rows, or seconds of several devices.
    """
    require(costs, "saved")
    devices = sorted(costs["device"].unique())
    if len(devices) > 1:
        raise ValueError(
            f"seconds cannot be compared over several devices ({', '.join(devices)}); keep the rows of one"
        )
    seconds = costs.pivot(index="init_seed", columns="checkpointing", values="seconds")
    held = costs.drop_duplicates("checkpointing").set_index("checkpointing")
    # The peak holds gradients and not what the optimizer keeps from step to step.
    training = held["peak"] + held["state"] * 3 // 4
    table = []
    for mode, row in held.iterrows():
        logs = np.log(seconds[mode] / seconds["none"])
        ratio = math.exp(logs.mean())
        low = high = math.nan
        if mode != "none" and len(logs) > 1:
            found = t_interval(logs)
            low, high = math.exp(found.low), math.exp(found.high)
        table.append(
            {
                "checkpointing": mode,
                "computed again": MODES[str(mode)],
                "saved": int(row["saved"]),
                "of none's": f"{row['saved'] / held.loc['none', 'saved']:.3f}",
                "peak": int(row["peak"]),
                "training": int(training[mode]),
                "training ratio": f"{training[mode] / training['none']:.3f}",
                "recomputed": f"{row['recomputed']:.0%}",
                "ms": 1e3 * seconds[mode].mean(),
                "ratio": ratio,
                "low": low,
                "high": high,
                "n": len(logs),
            }
        )
    return pd.DataFrame(table)
