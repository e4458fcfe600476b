"""Low-precision and sparse inference: the clock in every form that exists, beside the arithmetic claim.

Rows are those of `training.lowbit.low_bit_rows`. The claim is what a forward pass would take if time fell as
the multiply-adds of weights that are not zero: float32 seconds of the same weights, divided by that
factor. A form that does not exist on the device is not drawn, and the caption says why.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from lmbench.analysis import axes, chart, style
from lmbench.analysis.checks import refuse_mixed_devices, require
from lmbench.errors import unknown

BASE_FORM = "float32"
CLAIM = "arithmetic claim"
ROW_HEIGHT, MARKER_HEIGHT = 0.12, 0.085  # inches of a form, and of each arm within it
_HALF = 0.36  # of the height of a form, over which its arms are spread


def low_bit_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each arm, form and batch size: geometric means over seeds.

    Args:
        rows: label, form, batch, seconds, low, high, n, linear_bytes, times_fewer, reason and, where
            they are of several devices, device.

    Returns:
        Columns arm, form, batch, seconds, low and high (means of the fastest and slowest repeats), times
        faster (than float32 of the same arm and batch size), times fewer multiply-adds, linear weights
        (bytes), seeds, why not ("" where the form exists).

    Raises:
        ValueError: a missing column, no timing in float32, or times of several devices.
    """
    for column in (
        "label",
        "form",
        "batch",
        "seconds",
        "low",
        "high",
        "n",
        "linear_bytes",
        "times_fewer",
        "reason",
    ):
        require(rows, column)
    refuse_mixed_devices(rows.assign(train_seconds=rows["seconds"]), ["train_seconds"])
    made = []
    for (label, form, batch), part in rows.groupby(["label", "form", "batch"], sort=False):
        timed = part[part["reason"] == ""]
        reasons = list(dict.fromkeys(part.loc[part["reason"] != "", "reason"]))
        made.append(
            {
                "arm": label,
                "form": form,
                "batch": batch,
                **{name: _geometric(timed[name]) for name in ("seconds", "low", "high")},
                "times fewer multiply-adds": _geometric(part["times_fewer"]),
                "linear weights (bytes)": timed["linear_bytes"].mean(),
                "seeds": len(timed),
                "why not": "" if len(timed) else "; ".join(reasons),
            }
        )
    table = pd.DataFrame(made)
    base = table[table["form"] == BASE_FORM].set_index(["arm", "batch"])["seconds"]
    if base.isna().all():
        raise ValueError(
            f"the rows have no seconds of form {BASE_FORM!r}, which the others are compared with"
        )
    own = [base.get((row.arm, row.batch), math.nan) for row in table.itertuples()]
    table.insert(6, "times faster", np.array(own) / table["seconds"])
    return table


def low_bit_panel(
    rows: pd.DataFrame, *, batches: Sequence[int] | None = None, arms: Sequence[str] | None = None
) -> chart.Chart:
    """Milliseconds of a forward pass in each form, a panel a batch size, beside what arithmetic claims.

    Forms are rows, arms have their colours and markers, bars are the range of the repeats.

    Args:
        rows: as in `low_bit_table`, with device, length and n for the caption.
        batches: batch sizes to show; None shows all.
        arms: to show, in this order; None shows all.

    Raises:
        ValueError: as `low_bit_table`, or an arm or batch size that was not timed.
    """
    for column in ("device", "length"):
        require(rows, column)
    arms = _chosen("arm", arms, rows["label"])
    batches = _chosen("batch size", batches, rows["batch"])
    rows = rows[rows["label"].isin(arms) & rows["batch"].isin(batches)]
    table = low_bit_table(rows)
    timed = table[table["seconds"].notna()]
    forms = [form for form in dict.fromkeys(table["form"]) if form in set(timed["form"])]
    looks = style.looks(arms)
    with style.context():
        height = 0.95 + (len(forms) + 1) * (ROW_HEIGHT + MARKER_HEIGHT * len(arms))
        fig, panels = chart.new(width=style.PAGE_WIDTH, height=height, panels=len(batches))
        for ax, batch in zip(panels, batches, strict=True):
            own = timed[timed["batch"] == batch]
            _draw(ax, pd.concat([own, claims(own)]), looks, [*forms, CLAIM], arms)
            ax.set_xlabel(f"forward pass (ms)\n{batch} {'text' if batch == 1 else 'texts'} at a time")
        panels[0].set_yticks(range(len(forms) + 1), [*forms, CLAIM])
        panels[0].set_ylim(len(forms) + 0.5, -0.5)
        chart.add_legend(fig, chart.legend_handles({arm: looks[arm] for arm in arms}, lines=False))
        return chart.finish(fig, caption=_caption(rows, table), alt=_alt(timed))


def claims(table: pd.DataFrame) -> pd.DataFrame:
    """What arithmetic claims of each arm and batch size, as rows of a form of its own.

    Args:
        table: from `low_bit_table`.
    """
    base = table[(table["form"] == BASE_FORM) & table["times fewer multiply-adds"].notna()]
    fewer = base["times fewer multiply-adds"]
    ends = {name: base["seconds"] / fewer for name in ("seconds", "low", "high")}
    return base.assign(form=CLAIM, **ends, **{"times faster": fewer})


def low_bit_reading(rows: pd.DataFrame) -> str:
    """Sentences: for each arm and batch size, its fastest other form against what arithmetic claims.

    Raises:
        ValueError: as `low_bit_table`.
    """
    table = low_bit_table(rows)
    timed = table[table["seconds"].notna()]
    said = []
    for (arm, batch), part in timed.groupby(["arm", "batch"], sort=False):
        others = part[part["form"] != BASE_FORM]
        if others.empty:
            continue
        best = others.loc[others["times faster"].idxmax()]
        claimed = best["times fewer multiply-adds"]
        said.append(
            f"{arm}, {batch} at a time: arithmetic claims {claimed:.3g} times as fast as {BASE_FORM}; the "
            f"fastest other form, {best['form']}, is {best['times faster']:.3g} times as fast."
        )
    return " ".join(said) or f"No form but {BASE_FORM} exists here."


def _draw(
    ax: Axes, table: pd.DataFrame, looks: dict[str, style.Look], forms: Sequence[str], arms: Sequence[str]
) -> None:
    """One panel: a marker for each arm and form."""
    offsets = np.linspace(-_HALF, _HALF, len(arms)) if len(arms) > 1 else [0.0]
    for row in table.to_dict("records"):
        look, place = looks[row["arm"]], forms.index(row["form"]) + offsets[arms.index(row["arm"])]
        bars = [[1e3 * (row["seconds"] - row["low"])], [1e3 * (row["high"] - row["seconds"])]]
        face = "none" if row["form"] == CLAIM else look.color
        ax.errorbar(
            1e3 * row["seconds"], place, xerr=bars, color=look.color, marker=look.marker, mfc=face, ms=3.5,
            ls="", elinewidth=0.5,
        )  # fmt: skip
    for at in range(len(forms) - 1):
        ax.axhline(at + 0.5, color=style.GREY if at == len(forms) - 2 else style.PALE, lw=0.4, zorder=0.5)
    axes.log_axis(ax, 1e3 * pd.concat([table["low"], table["high"]]).rename("milliseconds"), max_labels=4)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _geometric(values: pd.Series) -> float:
    return float(np.exp(np.log(values.to_numpy(float)).mean())) if len(values) else math.nan


def _chosen(what: str, wanted: Sequence | None, there: pd.Series) -> list:
    known = list(dict.fromkeys(there))
    for one in wanted or ():
        if one not in known:
            raise ValueError(unknown(what, one, map(str, known)))
    return list(known if wanted is None else wanted)


def _caption(rows: pd.DataFrame, table: pd.DataFrame) -> str:
    repeats, lengths = sorted(set(rows.loc[rows["n"] > 0, "n"])), sorted(set(rows["length"]))
    counts = sorted(set(table.loc[table["seeds"] > 0, "seeds"]))
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    told = [
        f"Medians of {' or '.join(map(str, repeats))} repeats with their range, texts of "
        f"{' or '.join(map(str, lengths))} tokens, {rows['device'].iloc[0]}; n = {n} "
        f"{'run' if n == '1' else 'runs'} each. Hollow: {BASE_FORM} divided by the factor by which "
        "multiply-adds of the linear maps are fewer where zeros are left out.",
    ]
    lacking = table[table["why not"] != ""]
    for (form, reason), part in lacking.groupby(["form", "why not"], sort=False):
        absent = list(dict.fromkeys(part["arm"]))
        who = "" if len(absent) == table["arm"].nunique() else f" ({', '.join(absent)})"
        told.append(f"No {form}{who}: {reason}.")
    return " ".join(told)


def _alt(timed: pd.DataFrame) -> str:
    parts = [
        f"{arm}, {batch} at a time: "
        + ", ".join(f"{row.form} {1e3 * row.seconds:.3g} ms" for row in part.itertuples())
        for (arm, batch), part in timed.groupby(["arm", "batch"], sort=False)
    ]
    return "; ".join(parts) + "."
