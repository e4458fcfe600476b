"""The grid that quantised weights lie on: their scales and whole-number codes, found from the values.

A quantised tensor is scale times code, one scale for each row, group or tensor. Which scale was used
is not asked: the coarsest grid {s k} that holds all values of a group is found, with s = max|w| / k for
the smallest k that makes every w / s whole. It covers whatever a quantiser did (absolute maximum,
learned steps, GPTQ, three values, two values), and is never finer than the one that was used. Where float32
rounded the values, a finer one is taken if it alone gives them bit by bit. Values that lie on no
grid are refused, because to round them here would change the model in silence.

Legend: G group (with its own scale), N values of it.
"""

import numpy as np

from lmbench.measure.artifact.bits import TERNARY

TOLERANCE = 1e-4  # of a code's distance from a whole number; codes of 8 bits in float32 stay below 2e-5
_SAMPLE = 32  # values by which a scale is tried before all are


class OffGrid(ValueError):
    """Values that no grid of the bits holds. The message says which group."""


def code_range(bits: float) -> tuple[int, int]:
    """The lowest and the highest code: -1 to 1 for one bit (without 0) and for 1.58."""
    return (-1, 1) if bits in (1, TERNARY) else (-(2 ** (int(bits) - 1)), 2 ** (int(bits) - 1) - 1)


def find_grid(values_GN: np.ndarray, *, bits: float) -> tuple[np.ndarray, np.ndarray]:
    """Scales (G,) float32 and codes (G, N) int16 with scale * code equal to the values.

    With one bit, 0 is accepted where a value is masked. A group of zeros has scale 0.

    Raises:
        OffGrid: naming the first group that is on no grid.
    """
    lowest, highest = code_range(bits)
    most_G = np.abs(values_GN).max(axis=1, initial=0).astype(np.float64)
    if not np.isfinite(most_G).all():
        raise OffGrid(f"group {int(np.argmin(np.isfinite(most_G)))} holds a value that is not finite")
    steps_G = np.zeros(len(most_G), dtype=np.int64)
    for k in range(1, -lowest + 1):
        open_G = np.flatnonzero((steps_G == 0) & (most_G > 0))
        open_G = open_G[_fits(values_GN[open_G, :_SAMPLE], k / most_G[open_G], lowest, highest)]
        open_G = open_G[_fits(values_GN[open_G], k / most_G[open_G], lowest, highest)]
        steps_G[open_G] = k
    lost_G = np.flatnonzero((steps_G == 0) & (most_G > 0))
    if lost_G.size:
        raise OffGrid(
            f"{lost_G.size} of {len(most_G)} groups, first group {lost_G[0]}, hold values that are not a "
            f"scale times whole numbers from {lowest} to {highest}"
        )
    inverse_G = np.divide(steps_G, most_G, out=np.zeros_like(most_G), where=most_G > 0)
    codes_GN = np.rint(values_GN * inverse_G[:, None]).astype(np.int16)
    scales_G = (most_G / np.maximum(steps_G, 1)).astype(np.float32)
    open_G = _exact_scales(scales_G, codes_GN, values_GN, np.arange(len(scales_G)))
    # What the rounding of float32 leaves over on the coarsest grid, the one that was used gives exactly.
    for finer in range(2, -lowest + 1):
        tried_G = open_G[steps_G[open_G] * finer <= -lowest]
        tried_G = tried_G[(codes_GN[tried_G].max(axis=1, initial=0) * finer) <= highest]
        if not tried_G.size:
            break
        scales, codes = scales_G[tried_G] / np.float32(finer), codes_GN[tried_G] * np.int16(finer)
        left = _exact_scales(scales, codes, values_GN[tried_G], np.arange(len(tried_G)))
        exact = np.setdiff1d(np.arange(len(tried_G)), left)
        scales_G[tried_G[exact]], codes_GN[tried_G[exact]] = scales[exact], codes[exact]
        open_G = np.setdiff1d(open_G, tried_G[exact])
    return scales_G, codes_GN


def _fits(values_GN: np.ndarray, inverse_G: np.ndarray, lowest: int, highest: int) -> np.ndarray:
    """Whether all values of a group are whole multiples, in range, of 1 / inverse."""
    codes_GN = values_GN * inverse_G[:, None]
    whole_GN = np.rint(codes_GN)
    is_whole_GN = np.abs(codes_GN - whole_GN) < TOLERANCE
    return (is_whole_GN & (whole_GN >= lowest) & (whole_GN <= highest)).all(axis=1)


def _exact_scales(
    scales_G: np.ndarray, codes_GN: np.ndarray, values_GN: np.ndarray, open_G: np.ndarray
) -> np.ndarray:
    """Move scales, in place, to the neighbouring float32 that gives the values bit by bit, where one does.

    A maximum divided by its code is within two units in the last place of the scale that made it.

    Returns:
        Which of the groups `open_G` none does.
    """
    for ulps in (0, 1, -1, 2, -2):
        tried_G = (scales_G[open_G].view(np.int32) + np.int32(ulps)).view(np.float32)
        tried_G[scales_G[open_G] == 0] = 0
        made_GN = codes_GN[open_G].astype(np.float32) * tried_G[:, None]
        is_exact_G = (made_GN == values_GN[open_G]).all(axis=1)
        scales_G[open_G[is_exact_G]] = tried_G[is_exact_G]
        open_G = open_G[~is_exact_G]
    return open_G
