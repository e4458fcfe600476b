"""The calibration error of tokens in bins of confidence, against sums by hand."""

import pytest
import torch

from lmbench.measure.token_calibration import Bins


def error(confidence, correct, *, parts=1, n_bins=2):
    bins = Bins(n_bins)
    pairs = zip(torch.tensor(confidence).chunk(parts), torch.tensor(correct).chunk(parts), strict=True)
    for confidence_N, correct_N in pairs:
        bins.add(confidence_N, correct_N)
    return bins.error


def test_the_error_is_the_mean_over_tokens_of_the_gap_of_their_bin():
    # Below 1/2: 0.3 and 0.4 of confidence, one right: gap 0.3. From 1/2 on: 0.9 and 0.8, both right: 0.3.
    assert error([0.3, 0.4, 0.9, 0.8], [1.0, 0.0, 1.0, 1.0]) == pytest.approx(0.6 / 4)
    assert error([0.3, 0.4, 0.9, 0.8], [1.0, 0.0, 1.0, 1.0], parts=4) == pytest.approx(0.6 / 4)


def test_gaps_cancel_inside_a_bin_and_not_between_bins():
    assert error([0.75, 0.75, 0.75, 0.75], [1.0, 1.0, 1.0, 0.0]) == 0
    assert error([0.25, 0.75], [1.0, 0.0]) == pytest.approx(0.75)
    assert error([0.25, 0.75], [1.0, 0.0], n_bins=1) == 0


def test_full_confidence_has_a_bin_and_nothing_counted_has_no_error():
    assert error([1.0], [1.0]) == 0
    with pytest.raises(ValueError, match="needs at least 1 token"):
        Bins().error  # noqa: B018
