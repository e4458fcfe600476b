"""Whether models know how sure to be: reliability, and the errors among the most confident answers.

Both are drawn beside the Bayes predictor, whose calibration error on so many examples is not 0 and whose
error rate is the least.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lmbench.analysis import axes, chart, style
from lmbench.analysis.checks import require
from lmbench.analysis.stats import summarise

DIAGONAL, BAYES = "accuracy = confidence", "Bayes predictor"


def reliability_panel(calibrations: pd.DataFrame) -> chart.Chart:
    """Accuracy against confidence, in bins of equal mass, a line for each model.

    Args:
        calibrations: from `training.calibration.calibrations`, of one level.

    Raises:
        ValueError: no rows, or those of several levels.
    """
    rows, level = _of_one_level(calibrations)
    said = _means(rows, "bin_accuracy").merge(_means(rows, "bin_confidence"), on=["label", "point"])
    looks = style.looks(rows["label"])
    with style.context():
        fig, (ax,) = chart.new(width=style.width_for(len(looks)), height=2.6)
        ax.plot([0, 1], [0, 1], **style.REFERENCE)
        for label, line in said.sort_values("point").groupby("label", sort=False):
            bars = axes.errors(line.rename(columns=lambda name: name.removesuffix("_x")))
            _line(ax, line["mean_y"], line["mean_x"], look=looks[label], yerr=bars)
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        ax.set_xlabel("confidence in the answer")
        ax.set_ylabel("accuracy")
        chart.add_legend(
            fig, [*chart.legend_handles(looks), Line2D([], [], label=DIAGONAL, **style.REFERENCE)]
        )
        errors = _errors_in_words(rows)
        caption = f"{level}: means over {_seeds(rows)} with 95% t intervals, bins of equal mass. {errors}."
        return chart.finish(fig, caption=caption, alt=f"Accuracy against confidence on {level}. {errors}.")


def risk_coverage_panel(calibrations: pd.DataFrame) -> chart.Chart:
    """Error rate among the most confident answers, against the share that is answered.

    Args:
        calibrations: from `training.calibration.calibrations`, of one level.

    Raises:
        ValueError: no rows, or those of several levels.
    """
    rows, level = _of_one_level(calibrations)
    risks = _means(rows, "risk").sort_values("point")
    looks = style.looks(rows["label"])
    with style.context():
        fig, (ax,) = chart.new(width=style.width_for(len(looks)), height=2.4)
        handles = chart.legend_handles(looks)
        bayes = rows[rows["metric"] == "bayes_risk"]
        if not bayes.empty:
            best = bayes.groupby("point")["value"].mean()
            ax.plot(best.index, best, **style.REFERENCE)
            handles.append(Line2D([], [], label=BAYES, **style.REFERENCE))
        for label, line in risks.groupby("label", sort=False):
            _line(ax, line["point"], line["mean"], look=looks[label], yerr=axes.errors(line))
        ax.set_xlim(0, 1.02)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("coverage: share of the examples answered")
        ax.set_ylabel("error rate of these")
        chart.add_legend(fig, handles)
        areas = _means(rows, "aurc").set_index("label")["mean"]
        said = "; ".join(f"{label} {areas[label]:.3f}" for label in looks)
        if not bayes.empty:
            said += f"; {BAYES} {rows.loc[rows['metric'] == 'bayes_aurc', 'value'].mean():.3f}"
        caption = f"{level}: means over {_seeds(rows)} with 95% t intervals. Area under the curve: {said}."
        return chart.finish(
            fig, caption=caption, alt=f"Error rate against coverage on {level}. Area: {said}."
        )


def _line(ax: Axes, x: pd.Series, y: pd.Series, *, look: style.Look, yerr: object) -> None:
    marks = {"marker": look.marker, "linestyle": look.linestyle, "ms": 3.2, "lw": 1.2}
    ax.errorbar(x, y, yerr=yerr, color=look.color, **marks, **axes.ERROR_BAR)


def _of_one_level(calibrations: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows, and the level in words."""
    for column in ("run", "label", "task", "level", "metric", "point", "value"):
        require(calibrations, column)
    levels = sorted(set(calibrations["task"] + " level " + calibrations["level"].astype(str)))
    if len(levels) != 1:
        raise ValueError(f"calibration is drawn for one level at a time, got {', '.join(levels)}")
    return calibrations, levels[0]


def _means(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Means over runs of each model at each point."""
    return summarise(rows[rows["metric"] == metric], by=["label", "point"])


def _seeds(rows: pd.DataFrame) -> str:
    counts = rows.groupby("label")["run"].nunique()
    few, many = counts.min(), counts.max()
    return f"n = {few} seeds" if few == many else f"n = {few} to {many} seeds"


def _errors_in_words(rows: pd.DataFrame) -> str:
    """Smooth calibration error of each model, and the floor, where it is known."""
    means = rows.groupby(["metric", "label"], sort=False)["value"].mean()
    said = ", ".join(f"{label} {means['smooth_ece', label]:.3f}" for label in style.looks(rows["label"]))
    floor = rows.groupby("metric")["value"].mean()
    if "floor_smooth_ece" not in floor:
        return f"Smooth ECE: {said}"
    low, high = floor["floor_low_smooth_ece"], floor["floor_high_smooth_ece"]
    least = f"{floor['floor_smooth_ece']:.3f} (95% {low:.3f} to {high:.3f})"
    return f"Smooth ECE: {said}; the {BAYES} on as many examples {least}"
