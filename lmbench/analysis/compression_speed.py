"""What sparsity and low precision promise, count and take: multiply-adds beside the clock in every form.

A sketch promises 10 times less compute by 90% sparsity. Multiply-adds of weights that are not zero are
counted, and are a fact about the weights; whether a machine skips the others is a fact about a kernel, so
the same weights are timed in each form in which they can run.
"""

import math

import numpy as np
import pandas as pd

from lmbench.analysis.checks import refuse_mixed_devices, require
from lmbench.analysis.compression import CLAIMED_SIZE, size_ratio
from lmbench.analysis.distillation_arms import HARD
from lmbench.analysis.intervals import Estimate, welch
from lmbench.errors import unknown

CLAIMED_MACS = 10.0  # "10x or more due to 90% sparsity"
BASE_FORM = "float32"
EXACT = (BASE_FORM, "csr", "2:4")
"""Forms that leave the weights as they are: what else they save is not what few bits save."""
SKIPPING = ("csr", "2:4")
"""Of these, the forms that leave zeros out; a dense pass multiplies them all."""
NO_KERNEL = f"no kernel that skips zeros ({' or '.join(SKIPPING)}) ran"


def speed_table(
    latency: pd.DataFrame, *, base: str = HARD, base_form: str = BASE_FORM, batch: int | None = None
) -> pd.DataFrame:
    """How many times faster each arm runs in each form than the base arm in its own, at one batch size.

    Args:
        latency: label, form, batch, seconds: a row a timing; without seconds where a form does not exist.

    Returns:
        Columns label, form, batch, seconds (geometric mean), ratio, low, high, p (Welch's interval and test
        on the log scale, NaN with a single timing on either side and for the base), n (timings).

    Raises:
        ValueError: a missing column, times of several devices, a batch or a base that was not timed.
    """
    for column in ("label", "form", "batch", "seconds"):
        require(latency, column)
    refuse_mixed_devices(latency.assign(train_seconds=latency["seconds"]), ["train_seconds"])
    batch = int(latency["batch"].min()) if batch is None else batch
    timed = latency[(latency["batch"] == batch) & latency["seconds"].notna()]
    own = timed[(timed["label"] == base) & (timed["form"] == base_form)]["seconds"]
    if own.empty:
        known = [f"{row.label} {row.form} at {row.batch}" for row in latency.itertuples()]
        raise ValueError(unknown("base of times", f"{base} {base_form} at {batch}", dict.fromkeys(known)))
    rows = []
    for (label, form), part in timed.groupby(["label", "form"], sort=False):
        logs = np.log(own.to_numpy(float)), np.log(part["seconds"].to_numpy(float))
        gap = float(logs[0].mean() - logs[1].mean())
        found = welch(*logs) if min(map(len, logs)) > 1 else Estimate(gap, *[math.nan] * 3, 1, math.nan)
        seconds = math.exp(float(logs[1].mean()))
        is_base = (label, form) == (base, base_form)
        known = (math.nan,) * 3 if is_base else (math.exp(found.low), math.exp(found.high), found.p)
        rows.append((label, form, batch, seconds, math.exp(gap), *known, len(part)))
    columns = ["label", "form", "batch", "seconds", "ratio", "low", "high", "p", "n"]
    return pd.DataFrame(rows, columns=columns)


def exact_speeds(speeds: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The rows of `speed_table` that say what zeros save: of one arm, in the forms that are `EXACT`."""
    return speeds[(speeds["label"] == arm) & speeds["form"].isin(EXACT)]


def skipping_speeds(speeds: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The rows of `speed_table` of one arm in the forms that skip zeros, if any ran."""
    return speeds[(speeds["label"] == arm) & speeds["form"].isin(SKIPPING)]


def times_note(latency: pd.DataFrame, *, batch: int | None = None) -> str:
    """What a caption says of times: device, texts and tokens of a pass, repeats, and how many runs of an arm.

    Args:
        latency: as in `speed_table`, of forms that exist, with device, length and n (repeats).
        batch: of the times; None takes the smallest that there is.
    """
    for column in ("device", "length", "n", "label", "form", "batch"):
        require(latency, column)
    batch = int(latency["batch"].min()) if batch is None else batch
    rows = latency[latency["batch"] == batch]
    runs = sorted(set(rows.groupby(["label", "form"]).size()))
    counts = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    devices, lengths, repeats = (
        ", ".join(map(str, dict.fromkeys(rows[x]))) for x in ("device", "length", "n")
    )
    return (
        f"Times: {devices}, {batch} {'text' if batch == 1 else 'texts'} of {lengths} tokens a pass, "
        f"{repeats} repeats, n = {counts} run{'s' * (counts != '1')} an arm."
    )


def launch_sentence(latency: pd.DataFrame, *, label: str = HARD, most: float = 1.5) -> str:
    """How long a pass takes with few texts and with many; where hardly longer, that it is not arithmetic.

    Args:
        latency: as in `speed_table`, of forms that exist.
        most: how many times longer counts as hardly.
    """
    rows = latency[(latency["label"] == label) & (latency["form"] == BASE_FORM)]
    means = np.exp(np.log(rows["seconds"].astype(float)).groupby(rows["batch"]).mean())
    told = [f"{1e3 * value:.2g} ms with {batch}" for batch, value in means.items()]
    said = f"A pass of {label} in {BASE_FORM} takes {' and '.join(told)} texts at once"
    if len(means) < 2 or means.iloc[-1] > most * means.iloc[0]:
        return f"{said}."
    return f"{said}: that is the time of starting kernels, so these seconds say nothing of arithmetic."


def arithmetic_table(
    runs: pd.DataFrame, *, speeds: pd.DataFrame | None = None, claimed: float = CLAIMED_MACS
) -> pd.DataFrame:
    """What sparsity promises, counts and takes: one row for each arm whose weights are not all there.

    Args:
        runs: label, density, effective_density and, where counted, macs and nonzero_macs of a token.
        speeds: from `speed_table`.

    Returns:
        Columns arm, density, effective density (with the zeros that quantising adds), claimed (times), fewer
        multiply-adds (times, of weights that are not zero), then times faster in each timed form.

    Raises:
        ValueError: a missing column, or a number of multiply-adds that is 0.
    """
    for column in ("label", "density", "effective_density"):
        require(runs, column)
    means = runs.groupby("label", sort=False)[["density", "effective_density"]].mean()
    means = means[means["density"] < 1]
    table = pd.DataFrame({"arm": means.index, "density": means["density"]}, index=means.index)
    table["effective density"] = means["effective_density"]
    table["claimed"] = claimed
    if {"macs", "nonzero_macs"} <= set(runs):
        table["fewer multiply-adds"] = fewer_macs(runs).reindex(means.index)
    if speeds is not None:
        wide = speeds.pivot(index="label", columns="form", values="ratio").reindex(means.index)
        for form in dict.fromkeys(speeds["form"]):
            if wide[form].notna().any():
                table[f"faster, {form}"] = wide[form]
    return table.reset_index(drop=True)


def fewer_macs(runs: pd.DataFrame) -> pd.Series:
    """Multiply-adds of a token over those of weights that are not zero, by label."""
    for column in ("macs", "nonzero_macs"):
        require(runs, column)
    sums = runs.groupby("label", sort=False)[["macs", "nonzero_macs"]].sum()
    return sums["macs"] / sums["nonzero_macs"].clip(lower=1)


def promise_table(
    artifacts: pd.DataFrame,
    *,
    runs: pd.DataFrame,
    quantised: str | None = None,
    pruned: str | None = None,
    arithmetic: pd.DataFrame | None = None,
    speeds: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The sketch's two promises beside what came out: what (with the arm), kind, how, ratio, low, high, n.

    Args:
        artifacts: label, init_seed, bytes.
        runs: label, init_seed, parameters, of the same arms.
        quantised: arm of 8 bits on whose file the first promise is measured; None leaves it out.
        pruned: arm of 10% density for the second; None leaves it out.
        arithmetic: from `arithmetic_table`.
        speeds: from `speed_table`.

    Raises:
        ValueError: an arm that was not packed.
    """
    what, none = (f"size, 8 bits ({quantised})", f"compute, 90% zeros ({pruned})"), (math.nan, math.nan)
    rows: list[tuple[str, str, str, float, float, float, int]] = []
    if quantised is not None:
        size = size_ratio(artifacts, runs, label=quantised)
        rows.append((what[0], "claimed", "claimed", CLAIMED_SIZE, *none, 0))
        rows.append((what[0], "measured", "packed file", size.value, size.low, size.high, size.n))
    if pruned is not None:
        rows.append((what[1], "claimed", "claimed", CLAIMED_MACS, *none, 0))
        if arithmetic is not None and "fewer multiply-adds" in arithmetic:
            counted = arithmetic.set_index("arm")["fewer multiply-adds"].get(pruned, math.nan)
            rows.append((what[1], "counted", "multiply-adds", counted, *none, 0))
        for row in () if speeds is None else exact_speeds(speeds, pruned).itertuples():
            note = "" if row.form in SKIPPING else " (zeros multiplied)"
            rows.append(
                (what[1], "measured", f"seconds, {row.form}{note}", row.ratio, row.low, row.high, row.n)
            )
    table = pd.DataFrame(rows, columns=["what", "kind", "how", "ratio", "low", "high", "n"])
    return table[table["ratio"].notna()].reset_index(drop=True)
