"""The threshold explorer: sliders where somebody is there to move them, a fixed panel where not.

A notebook that is executed unattended and one that a person reads must hold the same figure. So the
explorer always returns the panel of all thresholds, and shows its controls only where the cell was
sent by a front end that can answer questions: papermill, nbconvert and nbval say with every cell that
they cannot (`allow_stdin` of Jupyter's execute request), and so does nobody at a plain Python prompt.
"""

import base64
import html
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lmbench.notebook.job import OUT_VARIABLE

if TYPE_CHECKING:
    import ipywidgets
    import pandas as pd

    from lmbench.analysis.chart import Chart

FIRST, LAST, STEP, USUAL = 0.1, 0.9, 0.05, 0.5
"""Thresholds of the slider."""
SCREEN_DPI = 125  # a figure's print size is small for a screen


def threshold_explorer(
    points: "pd.DataFrame",
    ladder: "pd.DataFrame",
    *,
    unit: str = "step",
    metrics: Sequence[str] = ("score", "answer_nll"),
    units: Sequence[str] | None = None,
) -> "Chart":
    """Show controls of the survival figure where somebody can move them; the fixed panel is returned.

    Args:
        points: tracked rows with run, label, init_seed, step, task, level, metric, value and the units.
        ladder: rows with task, level, metric, rung, value.
        unit: of the panel, and of the controls at first.
        metrics: one or two, the first of them shown at first.
        units: to choose from, by default all that the points have for every row.

    Raises:
        ValueError: as `ladders.normalise`, `onset.onsets` and `emergence_thresholds.threshold_panel`.
    """
    from lmbench.analysis.checks import require
    from lmbench.analysis.emergence_thresholds import threshold_panel
    from lmbench.analysis.ladders import normalise

    require(points, "metric")
    normalised = normalise(points[points["metric"].isin(metrics)], ladder)
    panel = threshold_panel(normalised, unit=unit, metrics=metrics)
    if is_attended() and find_spec("ipywidgets"):
        from IPython.display import display

        display(controls(normalised, unit=unit, metrics=metrics, units=units))
    return panel


def is_attended() -> bool:
    """Whether the running cell was sent by a person's front end, one that could move a slider."""
    # `lmbench notebook` tells its kernel where to write; nobody is there then, whatever else is true.
    if os.environ.get(OUT_VARIABLE):
        return False
    return bool(_request().get("content", {}).get("allow_stdin", False))


def _request() -> dict[str, Any]:
    """The message that the running cell came in; {} outside a Jupyter kernel."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return {}
    from ipykernel.zmqshell import ZMQInteractiveShell

    return (shell.get_parent() or {}) if isinstance(shell, ZMQInteractiveShell) else {}


def controls(
    normalised: "pd.DataFrame",
    *,
    unit: str = "step",
    metrics: Sequence[str] = ("score", "answer_nll"),
    units: Sequence[str] | None = None,
) -> "ipywidgets.VBox":
    """A slider for the threshold, menus for metric and unit, and the survival figure that they redraw.

    Args:
        normalised: rows of `ladders.normalise`.
    """
    import ipywidgets

    choices = _units(normalised) if units is None else list(units)
    slider = ipywidgets.FloatSlider(
        value=USUAL, min=FIRST, max=LAST, step=STEP, description="threshold", continuous_update=False
    )
    metric = ipywidgets.Dropdown(options=list(metrics), value=metrics[0], description="metric")
    axis = ipywidgets.Dropdown(options=choices, value=unit, description="unit")
    figure = ipywidgets.HTML()

    def redraw(_: object = None) -> None:
        threshold = round(slider.value, 3)  # a slider's 0.15 is 0.15000000000000002
        figure.value = picture(
            survival(normalised, threshold=threshold, metric=metric.value, unit=axis.value)
        )

    for control in (slider, metric, axis):
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([ipywidgets.HBox([slider, metric, axis]), figure])


def survival(normalised: "pd.DataFrame", *, threshold: float, metric: str, unit: str) -> "Chart":
    """The survival figure at one threshold, from scores."""
    from lmbench.analysis.emergence_survival import survival_curves
    from lmbench.analysis.onset import onsets

    found = onsets(normalised[normalised["metric"] == metric], thresholds=[threshold], units=[unit])
    return survival_curves(found, unit=unit, threshold=threshold, metric=metric)


def picture(chart: "Chart") -> str:
    """The figure as an HTML image with its description."""
    source = base64.b64encode(chart.svg()).decode()
    width = round(chart.get_figwidth() * SCREEN_DPI)
    return f'<img src="data:image/svg+xml;base64,{source}" width="{width}" alt="{html.escape(chart.alt)}">'


def _units(normalised: "pd.DataFrame") -> list[str]:
    """Units that every row has; seconds of several devices are none."""
    from lmbench.analysis.onset import UNITS

    known = [unit for unit in UNITS if unit in normalised and normalised[unit].notna().all()]
    is_mixed = "device" in normalised and normalised["device"].nunique() > 1
    return [unit for unit in known if not (is_mixed and unit == "seconds")]
