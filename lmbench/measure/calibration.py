"""Whether probabilities can be believed: calibration errors beside those of the Bayes predictor.

Even the true probabilities show a calibration error on N outcomes, so each error stands beside its
finite-sample floor: what the Bayes predictor gets on these outcomes and on outcomes drawn from its own
posterior. A calibration error alone rewards constant predictors; the Brier skill and the information
captured do not. Calibration errors are of the answer that a predictor finds most likely.

Source: smooth ECE (Blasiok and Nakkiran 2023); debiased error (Kumar, Liang and Ma 2019).

Legend: N example, V answer, R resample, C cell of [0, 1], B bin.
"""

from typing import NamedTuple

import numpy as np

from lmbench.measure.probability_scores import aurc, brier, brier_skill, information_captured, mean_kl

CELLS = 1024
"""Predictions are rounded to the middles of so many cells of [0, 1]."""
NARROWEST = 2e-3
"""Standard deviation below which the smoothing kernel is not narrowed: two cells."""
HALVINGS = 12  # of [NARROWEST, 1] in search of the bandwidth, which is then known to 3e-4
N_BINS = 15


class TopLabel(NamedTuple):
    """What a predictor finds most likely."""

    confidence_N: np.ndarray
    """Probability of it."""
    correct_N: np.ndarray
    """1 where it is the outcome, 1/m where m tie and one is, else 0."""


def top_label(probability_NV: np.ndarray, outcome_N: np.ndarray) -> TopLabel:
    """Confidence and correctness of the most likely answer of each example."""
    highest_N1 = probability_NV.max(axis=1, keepdims=True)
    is_top_NV = probability_NV == highest_N1
    said_N = is_top_NV[np.arange(len(outcome_N)), outcome_N]
    return TopLabel(highest_N1[:, 0], said_N / is_top_NV.sum(axis=1))


# ------------------------------------------------------------------ calibration errors


def smooth_ece(confidence_N: np.ndarray, correct_N: np.ndarray) -> np.ndarray | float:
    """Smooth calibration error: the residuals, smoothed by a Gaussian that is reflected at 0 and 1.

    At bandwidth s it is the integral of |mean_i K_s(t, confidence_i) (correct_i - confidence_i)| over t;
    the bandwidth is the one at which the error equals it, so that there is nothing to choose.

    Args:
        correct_N: or (R, N), of several sets of outcomes.

    Returns:
        From 0, best, to 1; (R,) of several sets.

    Source: Blasiok and Nakkiran 2023. We smooth on a grid of CELLS, by cosine transform, whose
    basis the reflected Gaussian scales: that of exp(-(pi k s)^2 / 2) for k half waves.
    """
    residual_RN = np.atleast_2d(correct_N) - confidence_N
    cell_N = np.clip((confidence_N * CELLS).astype(np.int64), 0, CELLS - 1)
    mass_RC = np.stack([np.bincount(cell_N, weights=row, minlength=CELLS) for row in residual_RN])
    # The even extension has the cosine transform as its Fourier transform.
    wave_RC = np.fft.rfft(np.concatenate([mass_RC, mass_RC[:, ::-1]], axis=1) / len(confidence_N), axis=1)
    low_R, high_R = np.full(len(mass_RC), NARROWEST), np.ones(len(mass_RC))
    for _ in range(HALVINGS):
        middle_R = (low_R + high_R) / 2
        is_below_R = _smoothed(wave_RC, middle_R) < middle_R
        low_R, high_R = np.where(is_below_R, low_R, middle_R), np.where(is_below_R, middle_R, high_R)
    error_R = _smoothed(wave_RC, low_R)
    return error_R if np.ndim(correct_N) == 2 else float(error_R[0])


def _smoothed(wave_RC: np.ndarray, bandwidth_R: np.ndarray) -> np.ndarray:
    """(R,) smoothed error at a bandwidth each."""
    scale_RC = np.exp(-((np.pi * np.arange(CELLS + 1) * bandwidth_R[:, None]) ** 2) / 2)
    return np.abs(np.fft.irfft(wave_RC * scale_RC, axis=1)[:, :CELLS]).sum(axis=1)


def debiased_ece(
    confidence_N: np.ndarray, correct_N: np.ndarray, *, n_bins: int = N_BINS
) -> np.ndarray | float:
    """Debiased binned calibration error: root mean square over bins of equal mass.

    The squared gap between accuracy and confidence of a bin is too large by the variance of its accuracy,
    of which an unbiased estimate is subtracted; a negative sum counts as 0.

    Args:
        correct_N: or (R, N), of several sets of outcomes.
        n_bins: at most; equal confidences share a bin.

    Returns:
        From 0, best, to 1; (R,) of several sets.

    Source: Kumar, Liang and Ma 2019 (the l2 error with the plugin's bias removed).
    """
    correct_RN = np.atleast_2d(correct_N)
    is_in_NB = _bins(confidence_N, n_bins)
    count_B = is_in_NB.sum(axis=0)
    rate_RB = correct_RN @ is_in_NB / count_B
    spread_RB = (correct_RN**2) @ is_in_NB / count_B - rate_RB**2  # rate (1 - rate) of ones and zeros
    gap_RB = rate_RB - confidence_N @ is_in_NB / count_B
    square_RB = gap_RB**2 - spread_RB / np.maximum(count_B - 1, 1)
    error_R = np.sqrt(np.maximum((square_RB * count_B).sum(axis=1) / len(confidence_N), 0))
    return error_R if np.ndim(correct_N) == 2 else float(error_R[0])


def _bins(confidence_N: np.ndarray, n_bins: int) -> np.ndarray:
    """(N, B) 1 where an example is in a bin, without empty bins."""
    edges = np.unique(np.quantile(confidence_N, np.arange(1, n_bins) / n_bins, method="lower"))
    at_N = np.searchsorted(edges, confidence_N, side="left")
    return (at_N[:, None] == np.unique(at_N)).astype(np.float64)


def reliability(
    confidence_N: np.ndarray, correct_N: np.ndarray, *, n_bins: int = N_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean confidence, accuracy and number of examples of each bin, in the order of confidence."""
    is_in_NB = _bins(confidence_N, n_bins)
    count_B = is_in_NB.sum(axis=0)
    return confidence_N @ is_in_NB / count_B, correct_N @ is_in_NB / count_B, count_B.astype(np.int64)


# ------------------------------------------------------------------ all of them


def calibration(
    probability_NV: np.ndarray,
    outcome_N: np.ndarray,
    *,
    posterior_NV: np.ndarray | None,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, float]:
    """All scores here and in `probability_scores` by name, beside the Bayes predictor's where that is known.

    Args:
        probability_NV: predicted, each row sums to 1.
        outcome_N: places of the true answers.
        posterior_NV: exact probabilities, or None; they add bayes_* (on the same outcomes), floor_*,
            floor_low_* and floor_high_* (mean and 95% range over resampled outcomes), kl and information.
        resamples: sets of N outcomes drawn from the posterior for the floor, with `seed`.

    Raises:
        ValueError: probabilities that are none, shapes that do not fit, or fewer than 2 examples.
    """
    _check("probability_NV", probability_NV, outcome_N)
    out = {"brier_skill": brier_skill(probability_NV, outcome_N), **_of_top(probability_NV, outcome_N)}
    out["brier"] = brier(probability_NV, outcome_N)
    if posterior_NV is None:
        return out
    _check("posterior_NV", posterior_NV, outcome_N)
    if posterior_NV.shape != probability_NV.shape:
        raise ValueError(
            f"posterior_NV has shape {posterior_NV.shape}, not {probability_NV.shape} as probability_NV"
        )
    bayes = {"brier_skill": brier_skill(posterior_NV, outcome_N), **_of_top(posterior_NV, outcome_N)}
    out |= {f"bayes_{name}": value for name, value in bayes.items()}
    for name, value_R in floors(posterior_NV, resamples=resamples, seed=seed).items():
        out[f"floor_{name}"] = float(value_R.mean())
        out[f"floor_low_{name}"], out[f"floor_high_{name}"] = map(float, np.quantile(value_R, [0.025, 0.975]))
    out["kl"] = mean_kl(posterior_NV, probability_NV)
    out["information"] = information_captured(posterior_NV, probability_NV)
    return out


def floors(posterior_NV: np.ndarray, *, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """(R,) errors that the Bayes predictor gets on outcomes drawn from its own posterior."""
    confidence_N = posterior_NV.max(axis=1)
    ties_N = (posterior_NV == confidence_N[:, None]).sum(axis=1)
    drawn_RN = np.random.default_rng(seed).random((resamples, len(confidence_N)))
    correct_RN = (drawn_RN < ties_N * confidence_N) / ties_N  # one of the ties is true, and shared
    return {
        "smooth_ece": smooth_ece(confidence_N, correct_RN),
        "debiased_ece": debiased_ece(confidence_N, correct_RN),
    }


def _of_top(probability_NV: np.ndarray, outcome_N: np.ndarray) -> dict[str, float]:
    top = top_label(probability_NV, outcome_N)
    return {
        "accuracy": float(top.correct_N.mean()),
        "confidence": float(top.confidence_N.mean()),
        "smooth_ece": smooth_ece(*top),
        "debiased_ece": debiased_ece(*top),
        "aurc": aurc(*top),
    }


def _check(name: str, probability_NV: np.ndarray, outcome_N: np.ndarray) -> None:
    if len(outcome_N) < 2 or probability_NV.ndim != 2 or len(probability_NV) != len(outcome_N):
        raise ValueError(
            f"{name} has shape {probability_NV.shape} for {len(outcome_N)} outcomes: "
            "one row for each of at least 2 is needed"
        )
    odd_N = ~(probability_NV >= 0).all(axis=1) | (np.abs(probability_NV.sum(axis=1) - 1) > 1e-6)
    if odd_N.any():
        row = int(odd_N.argmax())
        raise ValueError(f"row {row} of {name} sums to {probability_NV[row].sum():g}: probabilities sum to 1")
    width = probability_NV.shape[1]
    if outcome_N.min() < 0 or outcome_N.max() >= width:
        raise ValueError(f"outcomes lie in 0 to {width - 1} for {width} answers, not {outcome_N.max()}")
