"""Tables of compression: bytes predicted and packed, loss over bits and density, joint against in sequence.

Bytes are those of the packed file, decimal, and what packing does to the loss is read off the model that
was reloaded from it. Every arm is compared with the dense student that learned from the targets alone, in
pairs of seeds. Multiply-adds and seconds are the module `compression_speed`'s.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmbench.analysis.checks import require
from lmbench.analysis.distillation_arms import HARD, JOINT, SEQUENTIAL, TEACHER, settings_of
from lmbench.analysis.equivalence import MARGIN, equivalences
from lmbench.analysis.intervals import Estimate, t_interval
from lmbench.analysis.pairing import seed_table
from lmbench.analysis.stats import paired_differences, summarise
from lmbench.errors import unknown

CLAIMED_SIZE = 8.0  # "8x or more due to 8-bit quantization"
FLOAT_BYTES = 4  # of a float32 parameter
UNIT = "init_seed"


def size_table(artifacts: pd.DataFrame, *, runs: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row an arm: predicted and packed bytes, how far they are apart, and what packing did to the loss.

    Args:
        artifacts: label, init_seed, bytes, predicted_bytes, float_bits_per_byte, packed_bits_per_byte.
        runs: label and parameters, of the same arms; without them no ratios to float32.

    Returns:
        Columns arm, n, predicted, packed (bytes, means), off (mean of packed / predicted - 1), most off
        (the largest of its sizes), bits a parameter, smaller than float32 (times, of the same shape), smaller
        than teacher (times, of packed files), gap (bits per byte) (reloaded less float, mean) with low, high.
    """
    for column in ("label", UNIT, "bytes", "predicted_bytes", "float_bits_per_byte", "packed_bits_per_byte"):
        require(artifacts, column)
    rows = artifacts.assign(
        off=artifacts["bytes"] / artifacts["predicted_bytes"] - 1,
        gap=artifacts["packed_bits_per_byte"] - artifacts["float_bits_per_byte"],
    )
    table = summarise(rows, by="label", value="gap").set_index("label")
    groups = rows.groupby("label", sort=False)
    packed = groups["bytes"].mean()
    out = pd.DataFrame(
        {
            "arm": table.index,
            "n": table["n"],
            "predicted": groups["predicted_bytes"].mean().round(),
            "packed": packed.round(),
            "off": groups["off"].mean(),
            "most off": groups["off"].agg(lambda off: off.abs().max()),
        }
    )
    if runs is not None:
        require(runs, "parameters")
        parameters = table.index.map(runs.groupby("label")["parameters"].first()).to_numpy(float)
        out["bits a parameter"] = 8 * packed / parameters
        out["smaller than float32"] = FLOAT_BYTES * parameters / packed
    if TEACHER in packed:
        out["smaller than teacher"] = packed[TEACHER] / packed
    out[["gap (bits per byte)", "low", "high"]] = table[["mean", "low", "high"]]
    return out.reset_index(drop=True)


def size_ratio(artifacts: pd.DataFrame, runs: pd.DataFrame, *, label: str) -> Estimate:
    """How many times smaller an arm's packed files are than its parameters in float32, over seeds."""
    rows = artifacts[artifacts["label"] == label].merge(
        runs[["label", UNIT, "parameters"]], on=["label", UNIT]
    )
    if rows.empty:
        raise ValueError(unknown("arm with a packed file", label, dict.fromkeys(artifacts["label"])))
    return _ratio(np.log(FLOAT_BYTES * rows["parameters"].to_numpy(float) / rows["bytes"].to_numpy(float)))


def sweep_table(
    runs: pd.DataFrame,
    *,
    setting: str = "bits",
    base: str = HARD,
    metric: str = "bits_per_byte",
    margin: float = MARGIN,
) -> pd.DataFrame:
    """One row for each arm that a name such as `bits=4 qat` sets: its level, method and loss beside the base.

    Returns:
        Columns method, the setting, n, mean, low, high, worse (mean of its ratio to the base - 1, in pairs of
        seeds), worse_low, worse_high (its 90% interval), equal (whether it is shown to be the base's to
        within the margin: yes, no, not decided), by method and falling level; without the base the last four
        are left out.

    Raises:
        ValueError: no arm that sets it, seeds that do not match the base's.
    """
    for column in ("label", UNIT, metric):
        require(runs, column)
    levels = {label: settings_of(label) for label in dict.fromkeys(runs["label"])}
    arms = [label for label, found in levels.items() if setting in found]
    if not arms:
        raise ValueError(f"no arm sets {setting}; arms: {', '.join(levels)}")
    table = summarise(runs[runs["label"].isin(arms)], by="label", value=metric).drop(columns="sd")
    table.insert(0, "method", [str(levels[label].get("method", "")) for label in table["label"]])
    table.insert(1, setting, [levels[label][setting] for label in table["label"]])
    if base in levels:
        pairs = equivalences(runs, [(arm, base) for arm in table["label"]], metric=metric, margin=margin)
        table["worse"] = pairs["ratio"] - 1
        table["worse_low"], table["worse_high"] = pairs["low"] - 1, pairs["high"] - 1
        words = {"equal": "yes", "higher": "no", "lower": "no"}
        table["equal"] = [words.get(decided, "not decided") for decided in pairs["decided"]]
    first = ["method", setting, "n"]
    table = table[[*first, *table.columns.drop([*first, "label"])]]
    falling = table.sort_values(first[:2], ascending=[True, False], kind="stable")
    return falling.reset_index(drop=True)


def joint_table(
    runs: pd.DataFrame,
    *,
    metric: str = "packed_bits_per_byte",
    sequential: Sequence[str] = SEQUENTIAL,
    same: Sequence[str] = ("steps", "train_flops", "bytes"),
) -> pd.DataFrame:
    """Learning masks and scales together against one after the other: paired differences and what was equal.

    Args:
        runs: label, init_seed, metric; and of `same` what there is, which should be equal in both arms.

    Returns:
        The columns of `stats.paired_differences`, and for each of `same` the ratio of both means.

    Raises:
        ValueError: no joint arm, or none in sequence.
    """
    others = [label for label in sequential if label in set(runs["label"])]
    if not others or JOINT not in set(runs["label"]):
        raise ValueError(f"joint against sequential needs {JOINT!r} and one of {', '.join(sequential)}")
    rows = runs[runs["label"].isin([JOINT, *others])]
    pairs = paired_differences(
        rows, group="label", unit=UNIT, value=metric, pairs=[(JOINT, b) for b in others]
    )
    for name in (name for name in same if name in rows):
        means = rows.groupby("label")[name].mean()
        pairs[f"{name} ratio"] = (means[JOINT] / pairs["b"].map(means)).to_numpy()
    return pairs


def log_ratio(runs: pd.DataFrame, a: str, b: str, *, value: str) -> Estimate:
    """Geometric mean over shared seeds of a / b, with its t interval and the test of 1."""
    table = seed_table(runs, [a, b], value=value)
    return _ratio(np.log(table[a].to_numpy(float) / table[b].to_numpy(float)))


def _ratio(logs: np.ndarray) -> Estimate:
    if len(logs) < 2:
        return Estimate(math.exp(logs.mean()), math.nan, math.nan, math.nan, len(logs), math.nan)
    found = t_interval(logs)
    return found._replace(value=math.exp(found.value), low=math.exp(found.low), high=math.exp(found.high))
