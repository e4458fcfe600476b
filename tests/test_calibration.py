"""Calibration: errors against hand values and slow forms, and records of stored runs."""

import numpy as np
import pandas as pd
import pytest
import torch

from lmbench.analysis.calibration_figures import reliability_panel, risk_coverage_panel
from lmbench.config import make
from lmbench.measure.calibration import calibration, debiased_ece, floors, reliability, smooth_ece, top_label
from lmbench.measure.probability_scores import (
    aurc,
    brier,
    brier_skill,
    information_captured,
    mean_kl,
    risk_coverage,
)
from lmbench.models.base import Output
from lmbench.probes.scores import Calibration
from lmbench.records import Reference, pack
from lmbench.run import Dense
from lmbench.tasks.base import View
from lmbench.tasks.examples import examples, parse
from lmbench.tasks.symbols import EQUALS, SYMBOLS, VALUE
from lmbench.training import calibration as calibration_module
from lmbench.training.calibration import answer_probabilities, calibrations
from lmbench.training.execute import run_all
from tests.test_training import small_run

RNG = np.random.default_rng(0)


def direct_error(confidence_N, correct_N, *, bandwidth):
    """Smoothed error by its definition: images of the Gaussian at -x, 2 - x, 2 + x, ..."""
    t_G = (np.arange(4000) + 0.5) / 4000
    kernel_GN = 0
    for image in range(-3, 4):
        for sign in (-1, 1):
            kernel_GN += np.exp(-((t_G[:, None] - 2 * image - sign * confidence_N) ** 2) / 2 / bandwidth**2)
    smoothed_G = (kernel_GN * (correct_N - confidence_N)).mean(axis=1) / bandwidth / np.sqrt(2 * np.pi)
    return np.abs(smoothed_G).mean()


def posteriors(n, *, seed=0):
    rng = np.random.default_rng(seed)
    posterior_NV = rng.dirichlet(np.ones(4), n)
    outcome_N = (rng.random(n)[:, None] > posterior_NV.cumsum(axis=1)).sum(axis=1).clip(max=3)
    return posterior_NV, outcome_N


# ------------------------------------------------------------------ calibration errors


@pytest.mark.parametrize("error_of", [smooth_ece, debiased_ece])
def test_errors_are_zero_where_accuracy_is_confidence(error_of):
    confidence_N = np.repeat([0.25, 0.75], 8)
    correct_N = np.array([1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0.0])
    assert error_of(confidence_N, correct_N) == pytest.approx(0, abs=1e-12)


def test_a_constant_predictor_is_off_by_its_bias():
    confidence_N, correct_N = np.full(10, 0.7), np.array([1.0] * 4 + [0] * 6)
    assert smooth_ece(confidence_N, correct_N) == pytest.approx(0.3, abs=1e-12)
    # 0.3 squared less the variance 0.4 * 0.6 / 9 of the accuracy.
    assert debiased_ece(confidence_N, correct_N) == pytest.approx(np.sqrt(0.09 - 0.24 / 9), abs=1e-12)


def test_the_smooth_error_is_the_fixed_point_of_its_definition():
    confidence_N = RNG.random(80)
    correct_N = (RNG.random(80) < 1 - confidence_N).astype(float)  # too low at one end, too high at the other
    found = smooth_ece(confidence_N, correct_N)
    assert 0.05 < found < 0.5
    assert direct_error(confidence_N, correct_N, bandwidth=found) == pytest.approx(found, abs=2e-3)


def test_far_apart_biases_do_not_cancel_in_the_smooth_error():
    """At distance 1 a Gaussian of bandwidth 0.2 mixes nothing, and the reflection loses nothing."""
    confidence_N, correct_N = np.repeat([0.0, 1.0], 5), np.array([1, 0, 0, 0, 0, 0, 1, 1, 1, 1.0])
    assert smooth_ece(confidence_N, correct_N) == pytest.approx(0.2, abs=5e-3)


def test_the_debiased_square_is_unbiased_where_the_plugin_is_not():
    """A hundred draws from 5 examples at each of 20 calibrated confidences: the plugin finds about 0.2."""
    confidence_N = np.repeat(np.linspace(0.3, 0.7, 15), 8)
    correct_RN = (RNG.random((400, len(confidence_N))) < confidence_N).astype(float)
    plugin_R = [np.square(np.subtract(*reliability(confidence_N, row)[:2])).mean() for row in correct_RN]
    assert np.mean(plugin_R) > 0.02
    square_R = debiased_ece(confidence_N, correct_RN) ** 2
    assert (square_R == 0).mean() > 0.3, "half of the unbiased values are negative, and cut at 0"
    off_N = np.clip(confidence_N - 0.2, 0, 1)
    gaps_R = debiased_ece(off_N, correct_RN) ** 2
    assert gaps_R.mean() == pytest.approx(0.04, abs=4 * gaps_R.std() / 20)


def test_several_sets_of_outcomes_are_scored_as_each_alone():
    confidence_N = RNG.random(40)
    correct_RN = (RNG.random((3, 40)) < confidence_N).astype(float)
    for error_of in (smooth_ece, debiased_ece):
        alone = [error_of(confidence_N, row) for row in correct_RN]
        assert error_of(confidence_N, correct_RN) == pytest.approx(alone, abs=1e-12)


def test_ties_share_the_correctness():
    top = top_label(np.array([[0.5, 0.5, 0], [0.2, 0.2, 0.6]]), np.array([1, 0]))
    assert top.correct_N.tolist() == [0.5, 0] and top.confidence_N.tolist() == [0.5, 0.6]


def test_the_floor_is_what_the_bayes_predictor_gets_and_shrinks_with_n():
    errors = {}
    for n in (100, 1600):
        found_R = floors(posteriors(n)[0], resamples=200, seed=0)["smooth_ece"]
        again_R = floors(posteriors(n)[0], resamples=200, seed=0)["smooth_ece"]
        assert found_R.tolist() == again_R.tolist()
        errors[n] = found_R.mean()
    assert errors[100] / errors[1600] == pytest.approx(4, rel=0.45), "about one over root n"
    inside = 0
    for seed in range(12):
        posterior_NV, outcome_N = posteriors(200, seed=seed)
        scores = calibration(posterior_NV, outcome_N, posterior_NV=posterior_NV, resamples=60)
        inside += scores["floor_low_smooth_ece"] <= scores["smooth_ece"] <= scores["floor_high_smooth_ece"]
        assert scores["smooth_ece"] == scores["bayes_smooth_ece"] and scores["kl"] == pytest.approx(0)
    assert inside >= 9


# ------------------------------------------------------------------ proper scores and ranking


def test_brier_and_its_skill_by_hand():
    outcome_N = np.array([0, 1])
    assert brier(np.eye(2), outcome_N) == 0 and brier_skill(np.eye(2), outcome_N) == 1
    assert brier(np.eye(2)[::-1], outcome_N) == 2
    uniform_NV = np.full((2, 4), 0.25)
    assert brier(uniform_NV, outcome_N) == 0.75 and brier_skill(uniform_NV, outcome_N) == 0
    assert brier(np.array([[0.8, 0.2], [0.4, 0.6]]), outcome_N) == pytest.approx((0.08 + 0.32) / 2)


def test_risk_coverage_by_hand():
    confidence_N, correct_N = np.array([0.6, 0.9, 0.7, 0.8]), np.array([0, 1, 0, 1.0])
    assert risk_coverage(confidence_N, correct_N).tolist() == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert aurc(confidence_N, correct_N) == pytest.approx(5 / 24)


def test_a_constant_confidence_has_the_error_rate_at_every_coverage():
    correct_N = np.array([1, 1, 1, 0.0])
    assert risk_coverage(np.full(4, 0.4), correct_N).tolist() == [0.25] * 4


def test_information_is_one_for_the_posterior_and_zero_for_the_uniform():
    posterior_NV, _ = posteriors(50)
    uniform_NV = np.full((50, 4), 0.25)
    assert information_captured(posterior_NV, posterior_NV) == 1
    assert information_captured(posterior_NV, uniform_NV) == 0
    assert mean_kl(np.array([[1.0, 0]]), np.array([[0.5, 0.5]])) == pytest.approx(np.log(2))
    assert mean_kl(np.array([[0.5, 0.5]]), np.array([[1.0, 0]])) == np.inf


def test_an_overconfident_predictor_is_told_from_the_bayes_predictor():
    posterior_NV, outcome_N = posteriors(1000)
    sharp_NV = posterior_NV**3 / (posterior_NV**3).sum(axis=1, keepdims=True)
    scores = calibration(sharp_NV, outcome_N, posterior_NV=posterior_NV)
    assert scores["smooth_ece"] > 5 * scores["floor_high_smooth_ece"]
    assert scores["debiased_ece"] > 2 * scores["floor_high_debiased_ece"]
    assert scores["brier_skill"] < scores["bayes_brier_skill"] and scores["information"] < 0.5
    assert scores["accuracy"] == scores["bayes_accuracy"]
    assert scores["aurc"] == pytest.approx(scores["bayes_aurc"], abs=0.02)
    assert not {"kl", "floor_smooth_ece"} & set(calibration(sharp_NV, outcome_N, posterior_NV=None))


@pytest.mark.parametrize(
    "probability, outcome, posterior, said",
    [
        (
            [[0.5, 0.6], [0.5, 0.5]],
            [0, 1],
            None,
            "row 0 of probability_NV sums to 1.1: probabilities sum to 1",
        ),
        ([[0.5, 0.5]], [0], None, r"shape \(1, 2\) for 1 outcomes: one row for each of at least 2 is needed"),
        ([[0.5, 0.5]] * 2, [0, 2], None, "outcomes lie in 0 to 1 for 2 answers, not 2"),
        ([[0.5, 0.5]] * 2, [0, 1], [[1, 0, 0.0]] * 2, r"posterior_NV has shape \(2, 3\), not \(2, 2\)"),
        ([[0.5, 0.5]] * 2, [0, 1], [[0.5, 0.5]] * 2, "all posteriors are uniform"),
    ],
)
def test_what_is_no_distribution_is_refused(probability, outcome, posterior, said):
    posterior_NV = None if posterior is None else np.array(posterior)
    with pytest.raises(ValueError, match=said):
        calibration(np.array(probability), np.array(outcome), posterior_NV=posterior_NV)


# ------------------------------------------------------------------ stored runs

REPORTS = make("task", "reports", n_eval=60)


def reports_run(task=REPORTS, **fields):
    sizes = {"vocab_size": 64, "seq_len": 28, "d_model": 16, "n_head": 2, "d_ff": 16, "n_layer": 1}
    model = make("model", "transformer", **sizes)
    return make("run", "run", model=model, task=task, steps=3, batch_size=4, schedule="constant", **fields)


@pytest.fixture
def scored(store):
    runs = [reports_run(init_seed=seed) for seed in range(2)]
    run_all(runs, store=store, device="cpu", progress=False)
    digests = [run.digest for run in runs]
    return digests, calibrations(digests, store=store, tasks=[REPORTS], device="cpu")


def test_calibrations_of_stored_runs_are_records(scored, store, monkeypatch):
    digests, table = scored
    assert list(dict.fromkeys(table["run"])) == digests and set(table["task"]) == {"reports"}
    one = table[table["run"] == digests[0]].set_index("metric")
    assert one.loc["information", "value"] < 1 and one.loc["outside", "value"] > 0.5
    risk = table[(table["run"] == digests[0]) & (table["metric"] == "risk")]
    assert risk["point"].tolist() == pytest.approx(np.arange(1, 21) / 20)
    assert risk["value"].iloc[-1] == pytest.approx(1 - one.loc["accuracy", "value"])
    counts = table[(table["run"] == digests[0]) & (table["metric"] == "bin_accuracy")]["n"]
    assert counts.sum() == 60 and store.verify() == []

    def refuse(*args, **fields):
        raise AssertionError("scored twice")

    monkeypatch.setattr(calibration_module, "load_run", refuse)
    again = calibrations(digests, store=store, tasks=[REPORTS], device="cpu")
    pd.testing.assert_frame_equal(again, table)


class Oracle(torch.nn.Module):
    """Gives each value of the asked key its posterior, by reading symbols, and "=" as much as all of them."""

    def forward(self, tokens_BT, context_BK=None, *, readout="all"):
        rows = [[SYMBOLS[token] for token in row if token] for row in tokens_BT.tolist()]
        posterior_BV = [REPORTS.posterior(*parse(row, surface="statement")[:2]) for row in rows]
        logits_BTV = torch.full((*tokens_BT.shape, 64), -torch.inf)
        logits_BTV[:, :, EQUALS] = 0
        at = torch.tensor([len(row) - 1 for row in rows])[:, None]
        where = torch.arange(len(rows))[:, None], at, torch.tensor(REPORTS.choices())
        logits_BTV[where] = torch.tensor(posterior_BV).log()
        return Output(logits_BTV=logits_BTV)


@pytest.mark.parametrize("seq_len", [28, 40])
def test_a_model_of_the_posterior_gets_the_bayes_scores_from_its_renormalised_choices(seq_len):
    asked = Calibration(run="0" * 16, task=REPORTS)
    view = View(seq_len=seq_len, is_window=False, device=torch.device("cpu"), eval_tokens=500)
    found = answer_probabilities(
        Oracle(), REPORTS, data=REPORTS.load(), protocol=Dense(), asked=asked, view=view
    )
    probability_NV, outcome_N, posterior_NV, outside_N = found
    assert np.abs(probability_NV - posterior_NV).max() < 1e-6 and np.abs(outside_N - 0.5).max() < 1e-6
    truth = examples(REPORTS, seed=0, split="test", index_N=np.arange(60))
    assert (truth.tokens_NT[truth.is_answer_NT] == VALUE + outcome_N).all()


def test_a_task_without_posteriors_is_scored_without_a_floor(store):
    chain = make("task", "chain", n_eval=20)
    run = reports_run()
    run_all([run], store=store, device="cpu", progress=False)
    table = calibrations([run.digest], store=store, tasks=[chain], device="cpu")
    assert {"smooth_ece", "brier_skill", "risk"} < set(table["metric"])
    assert not {"floor_smooth_ece", "bayes_risk", "information"} & set(table["metric"])
    assert (
        "Bayes" not in reliability_panel(table).caption and "Bayes" not in risk_coverage_panel(table).caption
    )


def test_what_cannot_be_scored_is_refused(scored, store, task):
    (digest, _), _ = scored

    def refused(said, tasks, digests=(digest,), records=store):
        with pytest.raises(ValueError, match=said):
            calibrations(digests, store=records, tasks=tasks, device="cpu")

    refused(
        "route level 10 has answers of 2 tokens in 1 writings; this needs 1",
        [make("task", "route", level=10)],
    )
    refused(
        "answers of 1 tokens in 2 writings; this needs 1 token in 1 writing", [REPORTS.replace(rewrites=2)]
    )
    refused("seq_len = 28 is too short: an example of reports level 1 needs 40", [REPORTS.replace(level=1)])
    refused("task 'text' has no choices of answers; calibration is of synthetic tasks", [task])
    text = small_run(task)
    run_all([text], store=store, device="cpu", progress=False)
    refused("task 'reports' needs a model of its 64 symbols", [REPORTS], digests=[text.digest])
    pack([digest], [store], store.root / "packed")
    reference = Reference(store.root / "packed")
    refused(f"lack the calibration of run {digest} on reports level 0", [REPORTS], records=reference)


def test_no_runs_give_an_empty_table(store):
    table = calibrations([], store=store, tasks=[REPORTS])
    assert table.empty and "point" in table


# ------------------------------------------------------------------ figures


def test_figures_name_seeds_errors_and_the_floor(scored):
    _, table = scored
    figure = reliability_panel(table)
    assert (
        "reports level 0: means over n = 2 seeds" in figure.caption
        and "Smooth ECE: transformer 0." in figure.caption
    )
    assert "the Bayes predictor on as many examples 0." in figure.caption
    area = risk_coverage_panel(table)
    value = table.loc[table["metric"] == "bayes_aurc", "value"].mean()
    assert f"Bayes predictor {value:.3f}" in area.caption
    assert figure.svg() == reliability_panel(table).svg()


@pytest.mark.parametrize("panel", [reliability_panel, risk_coverage_panel])
def test_levels_are_drawn_one_at_a_time(scored, panel):
    _, table = scored
    both = pd.concat([table, table.assign(level="2")])
    with pytest.raises(ValueError, match="one level at a time, got reports level 0, reports level 2"):
        panel(both)
    with pytest.raises(ValueError, match="the table"):
        panel(table.iloc[:0])
