"""Scores of whole predicted distributions, and of how well confidence ranks the answers.

Unlike a calibration error, a proper score (Brier, KL divergence) is best for the true probabilities alone.

Source: Brier 1950; risk-coverage curve (El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017).

Legend: N example, V answer, G group of equal confidence.
"""

import numpy as np


def brier(probability_NV: np.ndarray, outcome_N: np.ndarray) -> float:
    """Mean over examples of the summed squared error of the probabilities: 0, best, to 2."""
    hit_N = probability_NV[np.arange(len(outcome_N)), outcome_N]
    return float((np.square(probability_NV).sum(axis=1) - 2 * hit_N + 1).mean())


def brier_skill(probability_NV: np.ndarray, outcome_N: np.ndarray) -> float:
    """Share of the uniform predictor's Brier score, 1 - 1/V, that is saved: 1 is best, 0 is uniform."""
    return 1 - brier(probability_NV, outcome_N) / (1 - 1 / probability_NV.shape[1])


def risk_coverage(confidence_N: np.ndarray, correct_N: np.ndarray) -> np.ndarray:
    """(N,) error rate among the 1, 2, ..., N most confident answers; equal confidences share their errors."""
    _, group_N, size_G = np.unique(-confidence_N, return_inverse=True, return_counts=True)
    wrong_G = np.bincount(group_N, weights=1 - correct_N)
    return np.repeat(wrong_G / size_G, size_G).cumsum() / np.arange(1, len(confidence_N) + 1)


def aurc(confidence_N: np.ndarray, correct_N: np.ndarray) -> float:
    """Area under the risk-coverage curve: its mean; 0 is best, a constant confidence gives the error rate."""
    return float(risk_coverage(confidence_N, correct_N).mean())


def mean_kl(posterior_NV: np.ndarray, probability_NV: np.ndarray) -> float:
    """Mean KL(posterior || predicted) in nats; infinite where something possible was excluded."""
    with np.errstate(divide="ignore", invalid="ignore"):
        term_NV = posterior_NV * (np.log(posterior_NV) - np.log(probability_NV))
    return float(np.where(posterior_NV > 0, term_NV, 0).sum(axis=1).mean())


def information_captured(posterior_NV: np.ndarray, probability_NV: np.ndarray) -> float:
    """1 - KL(posterior || predicted) / KL(posterior || uniform): 1 is Bayes, 0 the uniform predictor.

    Raises:
        ValueError: posteriors that are all uniform, so that there is no information.
    """
    uniform_NV = np.full_like(posterior_NV, 1 / posterior_NV.shape[1])
    there = mean_kl(posterior_NV, uniform_NV)
    if not there > 0:
        raise ValueError("all posteriors are uniform: there is no information to capture")
    return 1 - mean_kl(posterior_NV, probability_NV) / there
