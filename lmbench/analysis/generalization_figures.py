"""Figures of generalization: what is shifted beside what was learned, a pair of markers a model.

`family_panel` is drawn on the normalised axis, where chance is 0 and the Bayes-optimal score 1 for
every member; `domain_panel` in bits per byte, beside predictors without gradients; `curve_panel` on
the axis of its metric, along what the tests vary.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from lmbench.analysis import axes, chart, style
from lmbench.analysis.against_panel import METRICS, curve_panel, means_caption
from lmbench.analysis.checks import require
from lmbench.analysis.generalization import MEMBER, Families, gaps, rung
from lmbench.analysis.ladders import ENDS, divergence_note
from lmbench.analysis.stats import summarise

__all__ = ["curve_panel", "domain_panel", "family_panel"]

STEP, GAP = 0.15, 0.12  # inches of a model's row, and between members
_HOLLOW = {"mfc": "white", "mew": 0.9}
_SHORTCUT = {"color": style.GREY, "lw": 0.8, "ls": (0, (1, 1.5)), "zorder": 0.5}


def family_panel(
    rows: pd.DataFrame,
    ladder: pd.DataFrame,
    *,
    families: Families,
    metric: str = "score",
    confidence: float = 0.95,
    looks: Mapping[str, style.Look] | None = None,
) -> chart.Chart:
    """Each model on each member of each family: shifted (filled) beside in distribution (hollow).

    Args:
        rows, ladder, families, metric: as `generalization.family_table`.
        looks: of labels that are no models, such as arms; the others have their own.

    Raises:
        ValueError: as there.
    """
    every, by = gaps(rows, ladder, families=families, metric=metric), [*MEMBER, "label"]
    points = summarise(every, by=by, value="normalised", confidence=confidence)
    within = summarise(every, by=by, value="normalised_within", confidence=confidence)
    looks = style.looks(every["label"], own=looks)
    members = every.drop_duplicates(MEMBER)["family"].value_counts(sort=False)
    slot = STEP * len(looks) + GAP
    with style.context():
        height = 0.65 + members.sum() * slot + 0.22 * len(members)
        fig = chart.Chart(figsize=(style.PAGE_WIDTH, height), layout="constrained")
        fig.get_layout_engine().set(w_pad=0.03, h_pad=0.03, hspace=0.0)
        panels = fig.subplots(len(members), 1, sharex=True, squeeze=False, height_ratios=members)[:, 0]
        for ax, family in zip(panels, members.index, strict=True):
            own = [table[table["family"] == family] for table in (within, points)]
            _draw_family(ax, *own, looks, ladder, metric=metric, slot=slot)
            ax.set_title(family, loc="left", pad=3)
        _normalised_axis(panels, pd.concat([points, within]))
        panels[-1].set_xlabel(f"normalised {METRICS.get(metric, metric)}: 0 chance, 1 Bayes-optimal")
        kinds = _kinds("in distribution", "shifted")
        chart.add_legend(fig, [*chart.legend_handles(looks, lines=False), *kinds])
        shortcuts = (
            " Dotted: the best shortcut on the shifted level." if any(ax.texts for ax in panels) else ""
        )
        told = "; ".join(
            f"{row.family}, {row.task} {row.level}, {row.label} {row.mean:.2f} of {inside:.2f}"
            for row, inside in zip(points.itertuples(), within["mean"], strict=True)
        )
        return chart.finish(
            fig,
            caption=means_caption(points["n"], confidence) + shortcuts + divergence_note(rows),
            alt=f"Normalised value after each shift, of the value in distribution: {told}.",
        )


def _draw_family(
    ax: Axes,
    within: pd.DataFrame,
    points: pd.DataFrame,
    looks: Mapping[str, style.Look],
    ladder: pd.DataFrame,
    *,
    metric: str,
    slot: float,
) -> None:
    """One family: its members from top to bottom, the models of each below one another."""
    names = points[MEMBER].drop_duplicates().reset_index(drop=True)
    for place, member in names.iterrows():
        own = [table[(table[MEMBER] == member).all(axis=1)].set_index("label") for table in (within, points)]
        for row, (label, look) in enumerate(looks.items()):
            if label in own[0].index:
                y = place + (row - (len(looks) - 1) / 2) * STEP / slot
                _draw_pair(ax, own[0].loc[[label]], own[1].loc[[label]], y=y, look=look)
        half = 0.5 - 0.5 * GAP / slot
        for name, x in _best_shortcut(ladder, member["task"], member["level"], metric=metric):
            ax.plot([x, x], [place - half, place + half], **_SHORTCUT)
            # In the gap below the models, where no marker is.
            ax.text(x, place + half, f" {name}", size=style.SMALL, color=style.GREY, va="center")
    ax.set_yticks(range(len(names)), names["task"] + " " + names["level"])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(names) - 0.5, -0.5)
    for edge in range(1, len(names)):
        ax.axhline(edge - 0.5, color=style.PALE, lw=0.4, zorder=0)


def _draw_pair(ax: Axes, hollow: pd.DataFrame, filled: pd.DataFrame, *, y: float, look: style.Look) -> None:
    """Two means with their intervals on one height, joined."""
    ends = [float(point["mean"].iloc[0]) for point in (hollow, filled)]
    ax.plot(ends, [y, y], color=look.color, lw=0.6, alpha=0.6, zorder=1)
    for point, fill in ((hollow, _HOLLOW), (filled, {})):
        bars = {"xerr": axes.errors(point), "linestyle": "", "ms": 4.0, **axes.ERROR_BAR, **fill}
        ax.errorbar(point["mean"], [y], color=look.color, marker=look.marker, zorder=2, **bars)


def _best_shortcut(ladder: pd.DataFrame, task: str, level: str, *, metric: str) -> list[tuple[str, float]]:
    """The shortcut nearest to Bayes with its normalised value; none where none is better than chance."""
    chance, bayes = (rung(ladder, task, level, metric=metric, name=end) for end in ENDS)
    is_here = (ladder["task"] == task) & (ladder["level"].astype(str) == level) & (ladder["metric"] == metric)
    rows = ladder[is_here & ~ladder["rung"].isin(ENDS)]
    found = zip(rows["rung"].str.replace("_", " "), (rows["value"] - chance) / (bayes - chance), strict=True)
    return sorted((one for one in found if 0 < one[1] <= 1), key=lambda one: one[1])[-1:]


def _normalised_axis(panels: Sequence[Axes], points: pd.DataFrame) -> None:
    """One x axis from chance to Bayes, and as far beyond as the points go."""
    shown = axes.value_range(points)
    low, high = min(0.0, shown["low"]), max(1.0, shown["high"])
    # At most about ten labels, also where an NLL far worse than chance stretches the axis.
    step = next(size for size in (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 100.0) if (high - low) / size <= 10)
    ticks = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    for ax in panels:
        ax.set_xlim(low - 0.03, high + 0.03)
        for x in (0.0, 1.0):
            ax.axvline(x, zorder=0.5, **style.REFERENCE)
        ax.xaxis.set_major_locator(FixedLocator(ticks))


def _kinds(hollow: str, filled: str) -> list[Line2D]:
    """Legend entries of the two markers of a pair."""
    fixed = {"color": style.GREY, "marker": "o", "linestyle": ""}
    return [Line2D([], [], label=hollow, **fixed, **_HOLLOW), Line2D([], [], label=filled, **fixed)]


# ------------------------------------------------------------------ text


def domain_panel(table: pd.DataFrame, *, domain: str, confidence: float = 0.95) -> chart.Chart:
    """Bits per byte on the held-out domain (filled) and on the known ones (hollow), a row a predictor.

    Args:
        table: from `text_domains.domain_table` with `is_short`.
        domain: that was held out, for the legend and caption.

    Raises:
        ValueError: an empty table, one without its columns, or without a model.
    """
    for column in ("predictor", "n", "in_domain", "held_out"):
        require(table, column)
    n = table["n"][table["n"] > 0]
    if n.empty:
        raise ValueError("the table has reference predictors only; a figure of domains shows models")
    looks = style.looks(table["predictor"][table["n"] > 0])
    plain = style.Look(style.GREY, "o", "-")
    with style.context():
        fig, (ax,) = chart.new(width=style.COLUMN_WIDTH, height=0.75 + 0.2 * len(table))
        for place, (name, row) in enumerate(zip(table["predictor"], table.to_dict("records"), strict=True)):
            points = [
                pd.DataFrame({"mean": [row[key]], "low": [row[f"{key}_low"]], "high": [row[f"{key}_high"]]})
                for key in ("in_domain", "held_out")
            ]
            _draw_pair(ax, *points, y=place, look=looks.get(name, plain))
        ax.set_yticks(range(len(table)), table["predictor"])
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(table) - 0.5, -0.5)
        ax.set_xlabel("test bits per byte")
        chart.add_legend(fig, _kinds("known domains", domain))
        told = "; ".join(
            f"{row.predictor} {row.in_domain:.3f} and {row.held_out:.3f}" for row in table.itertuples()
        )
        grey = " Grey: predictors without seeds." if len(n) < len(table) else ""
        return chart.finish(
            fig,
            caption=f"{domain.capitalize()} left out of training. {means_caption(n, confidence)}{grey}",
            alt=f"Bits per byte on the known domains and on {domain}: {told}.",
        )
