"""The threshold explorer: controls where a person can use them, and the same fixed panel everywhere."""

import base64
import re

import IPython.display
import ipywidgets
import pytest

from lmbench.analysis.emergence_survival import survival_curves
from lmbench.analysis.ladders import normalise
from lmbench.analysis.onset import onsets
from lmbench.notebook import explore
from lmbench.notebook.job import OUT_VARIABLE
from tests.test_emergence_figures import TASKS, ladder, points

SMALL = TASKS[:1]


@pytest.fixture
def asked(monkeypatch):
    """A cell of a front end that can answer questions."""
    monkeypatch.delenv(OUT_VARIABLE, raising=False)
    monkeypatch.setattr(explore, "_request", lambda: {"content": {"allow_stdin": True}})


@pytest.fixture
def displayed(monkeypatch):
    found = []
    monkeypatch.setattr(IPython.display, "display", found.append)
    return found


def svg_of(box):
    """The picture that the controls show."""
    return base64.b64decode(re.search(r"base64,([^\"]+)\"", box.children[1].value).group(1))


def test_a_cell_that_can_be_answered_is_attended_unless_the_notebook_was_started_unattended(
    asked, monkeypatch
):
    assert explore.is_attended()
    monkeypatch.setenv(OUT_VARIABLE, "somewhere")
    assert not explore.is_attended()


@pytest.mark.parametrize("request_", [{}, {"content": {}}, {"content": {"allow_stdin": False}}])
def test_a_cell_that_nobody_can_answer_is_not_attended(asked, monkeypatch, request_):
    monkeypatch.setattr(explore, "_request", lambda: request_)
    assert not explore.is_attended()


def test_plain_python_is_not_attended(monkeypatch):
    monkeypatch.delenv(OUT_VARIABLE, raising=False)
    assert explore._request() == {}
    assert not explore.is_attended()


def test_a_kernel_knows_whether_the_front_end_can_answer(monkeypatch, tmp_path):
    from jupyter_client.manager import KernelManager

    monkeypatch.delenv(OUT_VARIABLE, raising=False)
    manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(tmp_path / "k"))
    manager.start_kernel()
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        code = "from lmbench.notebook.explore import is_attended; print(is_attended())"
        said = {}
        for answers in (True, False):
            out = said.setdefault(answers, [])
            client.execute_interactive(
                code, allow_stdin=answers, timeout=60,
                output_hook=lambda message, out=out: out.append(message["content"].get("text", "")),
            )  # fmt: skip
        assert {key: "".join(out).strip() for key, out in said.items()} == {True: "True", False: "False"}
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def test_unattended_the_fixed_panel_is_all_there_is(monkeypatch, displayed):
    monkeypatch.setattr(explore, "_request", dict)
    panel = explore.threshold_explorer(points(SMALL), ladder(SMALL))
    assert panel.alt.startswith("Median onset against the threshold")
    assert displayed == []


def test_attended_the_controls_are_shown_and_the_same_panel_is_returned(asked, displayed):
    panel = explore.threshold_explorer(points(SMALL), ladder(SMALL))
    assert panel.alt.startswith("Median onset against the threshold")
    (box,) = displayed
    assert isinstance(box, ipywidgets.VBox)


def test_without_ipywidgets_there_are_no_controls(asked, displayed, monkeypatch):
    monkeypatch.setattr(explore, "find_spec", lambda name: None)
    assert explore.threshold_explorer(points(SMALL), ladder(SMALL), metrics=["score"]).alt
    assert displayed == []


def test_the_controls_show_the_survival_figure():
    rows = normalise(points(SMALL), ladder(SMALL))
    box = explore.controls(rows, unit="flops", metrics=["answer_nll"])
    found = onsets(rows[rows["metric"] == "answer_nll"], units=["flops"])
    assert svg_of(box) == survival_curves(found, metric="answer_nll", unit="flops").svg()
    assert 'alt="Share of runs without a capability over training FLOPs' in box.children[1].value


def test_moving_a_control_redraws_the_figure(monkeypatch):
    monkeypatch.setattr(explore, "survival", lambda rows, **how: how)
    monkeypatch.setattr(explore, "picture", str)
    box = explore.controls(normalise(points(SMALL), ladder(SMALL)))
    figure, (slider, metric, unit) = box.children[1], box.children[0].children
    assert figure.value == str({"threshold": 0.5, "metric": "score", "unit": "step"})
    slider.value = 0.1 + 0.05
    metric.value = "answer_nll"
    assert figure.value == str({"threshold": 0.15, "metric": "answer_nll", "unit": "step"})
    unit.value = "flops"
    assert figure.value == str({"threshold": 0.15, "metric": "answer_nll", "unit": "flops"})


def test_seconds_of_several_devices_are_no_choice():
    rows = normalise(points(SMALL), ladder(SMALL))
    assert explore._units(rows) == ["step", "tokens", "flops", "seconds"]
    assert explore._units(rows.assign(device=rows["label"])) == ["step", "tokens", "flops"]
    assert explore._units(rows.drop(columns="tokens")) == ["step", "flops", "seconds"]


def test_the_explorer_refuses_a_metric_that_was_not_tracked():
    with pytest.raises(ValueError, match="unknown metric 'locus'"):
        explore.threshold_explorer(points(SMALL), ladder(SMALL), metrics=["score", "locus"])
