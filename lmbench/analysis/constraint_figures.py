"""Figures of training under constraints: loss over the constraint, and the course of a schedule.

What is claimed stands in the figure as a shaded band or a line, so that a reader sees claim and
measurement together. Forest plots of ratios are in `constraint_forests`, widths in `constraint_widths`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lmbench.analysis import axes, chart, style
from lmbench.analysis.checks import require
from lmbench.analysis.claims import BASE, SCHED, SMALL
from lmbench.analysis.constraint_costs import of_whole_task
from lmbench.analysis.constraint_shape import BAND, EQUAL_FLOPS, has_twins
from lmbench.analysis.formats import METRICS
from lmbench.analysis.optimum import optimum, sweep_values
from lmbench.analysis.stats import summarise
from lmbench.analysis.table import provenance
from lmbench.errors import unknown

BLUE, VERMILION, GREEN = "#0173b2", "#d55e00", "#029e73"
UNITS = {
    "n_head": ("heads", {"color": style.INK, "linestyle": "-"}),
    "d_model": ("embedding", {"color": style.GREY, "linestyle": (0, (5, 2))}),
    "d_ff": ("feed-forward", {"color": "#a3a3a3", "linestyle": (0, (1.5, 1.0))}),
}
ARMS = {
    BASE: style.Look(BLUE, "o", "-"),
    SMALL: style.Look("#a06000", "^", (0, (3, 1))),
    SCHED: style.Look(VERMILION, "s", (0, (5, 2))),
    "const C=0.5": style.Look("#56b4e9", "D", (0, (1.5, 1.5))),
    "sched without oscillation": style.Look(GREEN, "^", (0, (6, 2, 1.5, 2))),
    "sched without warm-up": style.Look("#cc78bc", "D", (0, (1.5, 1.5))),
    "sched without relaxation": style.Look("#882255", "v", (0, (3, 1))),
}
LATE = 0.85
"""Of the training: from here on the end is drawn larger."""
PHASES = (0.1, 0.9)
"""Of the training: where the published schedule goes over to its next phase."""
_SHADE = {"color": style.PALE, "alpha": 0.5, "lw": 0, "zorder": 0.1}
_PHASE = {"color": style.GREY, "lw": 0.6, "linestyle": (0, (1, 2)), "zorder": 0.5}


def sweep_panel(
    points: pd.DataFrame, *, runs: pd.DataFrame, metric: str = "bits_per_byte", seed: int = 0
) -> chart.Chart:
    """Loss against a constant constraint, a panel a budget; the claimed band, the interval of the best.

    Args:
        points: from `constraint_shape.sweep_budgets`: budget, C, init_seed and the metric.
        runs: the per-run table, which names corpus and device in the caption.
        seed: of the resampling behind the interval of the best C.

    Raises:
        ValueError: no points, or fewer than 3 levels of C.
    """
    for column in ("budget", "C", metric):
        require(points, column)
    budgets = list(dict.fromkeys(points["budget"]))
    means = summarise(points, by=["budget", "C"], value=metric)
    said = []
    with style.context():
        fig, panels = chart.new(width=style.PAGE_WIDTH, height=2.5, panels=len(budgets))
        for ax, budget in zip(panels, budgets, strict=True):
            own = means[means["budget"] == budget].sort_values("C")
            best = optimum(
                sweep_values(points[points["budget"] == budget], setting="C", value=metric), seed=seed
            )
            ax.axvspan(*BAND, **_SHADE)
            look = {"color": style.INK, "marker": "o"}
            ax.errorbar(own["C"], own["mean"], yerr=axes.errors(own), **look, **axes.ERROR_BAR)
            place = {"transform": ax.get_xaxis_transform(), "color": VERMILION, "clip_on": False}
            ax.plot([best.low, best.high], [0.04, 0.04], lw=2.2, solid_capstyle="butt", **place)
            ax.plot(best.best, 0.04, marker="v", ms=6, **place)
            axes.measured_ticks(ax, list(own["C"]), is_log=False)
            ax.set_xlim(own["C"].min() - 0.04, max(own["C"].max(), BAND[1]) + 0.04)
            ax.margins(y=0.12)
            ax.set_title(budget)
            ax.set_xlabel("constraint C (0: none)")
            said.append(f"{budget}: lowest at {best.best:g}, {best.low:g} to {best.high:g}")
        bottom, top = panels[0].get_ylim()
        panels[0].set_ylim(bottom - 0.1 * (top - bottom), top)  # room for the interval of the best
        panels[0].set_ylabel(METRICS.get(metric, metric))
        handles = [
            Line2D([], [], label="mean over seeds", color=style.INK, marker="o"),
            Line2D([], [], label="best C with 95% interval", color=VERMILION, marker="v", lw=2.2),
            Line2D([], [], label="claimed optimum", lw=6, color=style.PALE),
        ]
        chart.add_legend(fig, handles)
        how = _budgets_in_words(points, runs)
        caption = f"{how} {provenance(runs, by=['label'])}"
        return chart.finish(fig, caption=caption, alt=f"{metric} against C; {'; '.join(said)}.")


def _budgets_in_words(points: pd.DataFrame, runs: pd.DataFrame) -> str:
    """How losses at equal FLOPs were found, and which levels are missing there."""
    if EQUAL_FLOPS not in set(points["budget"]):
        return (
            "Final scores. Too few arms were validated at one number of active FLOPs to compare them there."
        )
    if has_twins(runs):
        return (
            "Final scores; at equal active FLOPs of runs that are as much longer as their steps are cheaper."
        )
    said = (
        "Equal tokens: final scores. Equal active FLOPs: validations where the cheapest arm ends; the best C "
        "depends on that budget."
    )
    levels = [set(own["C"]) for _, own in points.groupby("budget")]
    lost = sorted(set.union(*levels) - set.intersection(*levels))
    if lost:
        said += f" C = {', '.join(f'{at:g}' for at in lost)} ended before the first validation of another."
    return said


# ------------------------------------------------------------------ the course of a schedule


def schedule_panel(
    rows: pd.DataFrame,
    course: pd.DataFrame,
    *,
    full: Mapping[str, int],
    arms: Sequence[str] | None = None,
    metric: str = "bits_per_byte",
) -> chart.Chart:
    """Units in use and validation loss over the steps, and the last 15% of both drawn larger.

    Args:
        rows: tidy rows with validations, columns label, step.
        course: units in use at each step: step, n_head, d_model, d_ff.
        full: units in all, by the same names.
        arms: labels whose loss is drawn; None takes the base, the schedule and its variants.

    Raises:
        ValueError: no such rows, a kind of unit that is not known, no validation of an arm.
    """
    for name in UNITS:
        require(course, name)
        if name not in full:
            raise ValueError(unknown("full", name, full))
    rows, known = of_whole_task(rows), list(dict.fromkeys(map(str, rows["label"])))
    if arms is None:
        arms = [arm for arm in known if arm == BASE or arm.split(" without")[0] == SCHED]
    valid = rows[(rows["split"] == "valid") & (rows["metric"] == metric) & rows["label"].isin(list(arms))]
    for arm in arms:
        if arm not in set(valid["label"]):
            raise ValueError(unknown("label", arm, known))
    means = summarise(valid, by=["label", "step"], value="value").sort_values("step")
    looks, last = _looks(arms), int(course["step"].max()) + 1
    with style.context():
        fig = chart.Chart(figsize=(style.PAGE_WIDTH, 3.6), layout="constrained")
        fig.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.04)
        grid = fig.subplots(2, 2, sharex="col", width_ratios=(3, 2), height_ratios=(2, 3))
        for column, start in enumerate((0.0, LATE)):
            top, bottom = grid[0][column], grid[1][column]
            _draw_course(top, course[course["step"] >= start * last], full)
            _draw_losses(bottom, means, looks, start=start * last)
            for ax in (top, bottom):
                for edge in PHASES:
                    ax.axvline(edge * last, **_PHASE)
                ax.set_xlim(start * last, last + 0.02 * (1 - start) * last)  # room for the last marker
            bottom.set_xlabel("optimizer step")
            bottom.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ceiling = _ceiling(means, from_step=PHASES[0] * last / 2)
        is_cut = ceiling is not None and ceiling < means["mean"].max()
        grid[1][0].set_ylim(top=ceiling if is_cut else None)
        grid[0][1].set_title(f"from {LATE:.0%} of the steps on")
        grid[0][0].set_ylabel("units in use (%)")
        grid[1][0].set_ylabel(f"valid {METRICS.get(metric, metric)}")
        handles = [Line2D([], [], label=f"{name} in use", **look) for name, look in UNITS.values()]
        chart.add_legend(fig, [*handles, *chart.legend_handles(looks)])
        caption = (
            "Losses are means over seeds at the widths of their step; dotted: the schedule's phases."
            f"{f' Losses above {ceiling:.3g} are cut off on the left.' if is_cut else ''} "
            f"{provenance(rows[rows['label'].isin(list(arms))].drop_duplicates('run'), by=['label'])}"
        )
        ends = means.groupby("label")["mean"].last()
        said = ", ".join(f"{arm} {ends[arm]:.4g}" for arm in arms)
        return chart.finish(
            fig, caption=caption, alt=f"Units in use and {metric} over steps; at the end {said}."
        )


def _draw_course(ax: Axes, course: pd.DataFrame, full: Mapping[str, int]) -> None:
    # The last step lasts as long as any other.
    course = pd.concat([course, course.tail(1).assign(step=course["step"].max() + 1)])
    for name, (_, look) in UNITS.items():
        ax.step(course["step"], 100 * course[name] / full[name], where="post", lw=1.0, **look)
    ax.set_ylim(0, 103)


def _draw_losses(ax: Axes, means: pd.DataFrame, looks: Mapping[str, style.Look], *, start: float) -> None:
    for label, look in looks.items():
        own = means[means["label"] == label]
        # From one point before the part that is shown, so that its line enters from the left.
        own = (
            own[own["step"] >= own["step"][own["step"] <= start].max()]
            if (own["step"] <= start).any()
            else own
        )
        every = max(1, len(own) // 6)
        ax.plot(own["step"], own["mean"], markevery=every, ms=3.2, lw=1.2, **_line(look))
        ax.fill_between(own["step"], own["low"], own["high"], color=look.color, alpha=0.18, lw=0)
    shown = means[means["step"] >= start]
    if start and len(shown):
        limits = shown[["mean", "low", "high"]]
        low, high = float(np.nanmin(limits)), float(np.nanmax(limits))
        pad = 0.08 * max(high - low, 1e-3)
        ax.set_ylim(low - pad, high + pad)


def _looks(arms: Sequence[str]) -> dict[str, style.Look]:
    """The base and the schedule's variants told apart; others as everywhere."""
    return {arm: ARMS.get(arm) or style.looks([arm])[arm] for arm in arms}


def _line(look: style.Look) -> dict[str, Any]:
    return {"color": look.color, "marker": look.marker, "linestyle": look.linestyle}


def _ceiling(means: pd.DataFrame, *, from_step: float) -> float | None:
    """The highest loss after the first steps, which would flatten the rest."""
    later = means[means["step"] >= from_step]["mean"]
    return None if later.empty else float(later.max() * 1.03)
