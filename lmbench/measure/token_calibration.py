"""The calibration error of a whole split's tokens, in constant memory.

A model is calibrated where it is right in 70% of the tokens whose most likely one it gives 70%. Tokens are
sorted into bins of equal width by that probability, and the error is the mean over tokens of how far
the accuracy of their bin lies from its mean confidence (Naeini et al. 2015). With as many tokens as a
split has, the bias of small bins does not matter; few examples want `calibration.smooth_ece`.

Legend: N token, K bin.
"""

from torch import Tensor

N_BINS = 15


class Bins:
    """Sums of confidence and correctness in bins of confidence, on the device of what is added."""

    def __init__(self, n_bins: int = N_BINS) -> None:
        self.n_bins, self.gap_K, self.n = n_bins, None, 0

    def add(self, confidence_N: Tensor, correct_N: Tensor) -> None:
        """Count tokens.

        Args:
            confidence_N: probability of the most likely token, 0 to 1.
            correct_N: 1 where it was right, 0 where not; 1/m of m that tie.
        """
        bin_N = (confidence_N * self.n_bins).long().clamp(0, self.n_bins - 1)
        if self.gap_K is None:
            self.gap_K = confidence_N.new_zeros(self.n_bins)
        self.gap_K.index_add_(0, bin_N, correct_N - confidence_N)
        self.n += len(confidence_N)

    @property
    def error(self) -> float:
        """Expected calibration error, 0 to 1; 0 is calibrated.

        Raises:
            ValueError: nothing was counted.
        """
        if self.gap_K is None or self.n == 0:
            raise ValueError("a calibration error needs at least 1 token, got 0")
        return float(self.gap_K.abs().sum()) / self.n
