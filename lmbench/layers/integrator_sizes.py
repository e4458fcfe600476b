"""The sizes under which the integrator's models were published, and how many parameters they really have.

The counts are closed forms, so that also what was built and never called is in them: the
ultra models hold a shared controller without use, and Level 1 a norm. All models have a
vocabulary of 50,000 and fixed positions, which hold no parameters.

    transformer     pre-norm, tied head, the same attention and feed-forward
    baseline        with the integrator, tied head
    level1          low-rank embedding, untied full head
    ultra           that, three-output cells with grouped equilibria, and a shared controller in no use
    described       what the guide says of ultra: one shared controller, grouped equilibria, sparse
                    excitation, low-rank embedding tied through its factors
    attention_free  the baseline without attention (a linear map in its place) and with four separate
                    networks for a controller: with 50,257 tokens these are the published "43M", "112M" ...

Legend: V vocabulary, C model width, F feed-forward width, H controller width.
"""

import math
from typing import Literal, NamedTuple

from lmbench.errors import unknown

Level = Literal["transformer", "baseline", "level1", "ultra", "described", "attention_free"]
SizeName = Literal["small", "medium", "large", "xlarge", "3b", "7b", "13b", "30b", "70b"]
VOCAB_SIZE = 50_000
D_CONTROLLER = 64
GROUP_SIZE = 64
EXCITATION_SHARE = 0.1
RANK_SHARE, LEAST_RANK = 0.125, 64


class PublishedSize(NamedTuple):
    """Widths and depths."""

    d_model: int
    n_layer: int
    n_head: int
    n_iteration: int
    d_ff: int


SIZES: dict[SizeName, PublishedSize] = {
    "small": PublishedSize(512, 6, 8, 5, 2048),
    "medium": PublishedSize(768, 12, 12, 7, 3072),
    "large": PublishedSize(1024, 24, 16, 10, 4096),
    "xlarge": PublishedSize(1536, 32, 24, 12, 6144),
    "3b": PublishedSize(2048, 40, 32, 15, 8192),
    "7b": PublishedSize(4096, 32, 32, 10, 16384),
    "13b": PublishedSize(5120, 40, 40, 12, 20480),
    "30b": PublishedSize(6656, 60, 52, 12, 26624),
    "70b": PublishedSize(8192, 80, 64, 12, 32768),
}


def published_rank(d_model: int) -> int:
    """Of the low-rank embedding: an eighth of the width, but 64 at least."""
    return max(LEAST_RANK, math.floor(RANK_SHARE * d_model))


def published_parameters(level: Level, size: SizeName, *, vocab_size: int = VOCAB_SIZE) -> int:
    """What the published code holds, what it never calls included.

    Raises:
        ValueError: an unknown level or size.
    """
    if level not in _CELLS:
        raise ValueError(unknown("level of the integrator", level, _CELLS))
    if size not in SIZES:
        raise ValueError(unknown("published size", size, SIZES))
    C, n_layer, _, _, F = SIZES[size]
    of_cell, once = _CELLS[level](C, n_layer)
    mixing = C * C + C if level == "attention_free" else 4 * C * C + 4 * C
    n_norm = 2 if level in ("transformer", "attention_free") else 3
    block = mixing + 2 * n_norm * C + (2 * C * F + F + C) + of_cell
    ends = vocab_size * C
    if level in ("level1", "ultra", "described"):
        factors = published_rank(C) * (vocab_size + C)
        ends = factors if level == "described" else factors + ends
    return ends + n_layer * block + once + 2 * C


def _fused(C: int) -> int:
    """Controller of 4 outputs with its three biases."""
    return 7 * C * D_CONTROLLER + 3 * D_CONTROLLER + 4 * C


def _separate(C: int) -> int:
    """Four networks of 3 C - H - C."""
    return 4 * ((3 * C + 1) * D_CONTROLLER + (D_CONTROLLER + 1) * C)


def _three_outputs(C: int) -> int:
    """Linear 3 C - H - 3 C."""
    return D_CONTROLLER * (3 * C + 1) + 3 * C * (D_CONTROLLER + 1)


def _groups(C: int) -> int:
    return 1 + -(-C // GROUP_SIZE)


# For each level (width, layers) -> numbers of each layer's cell, and of what all layers share.
_CELLS = {
    "transformer": lambda C, n: (0, 0),
    # Beside the controller mu, gamma and phi.
    "baseline": lambda C, n: (_fused(C) + 3 * C, 0),
    "level1": lambda C, n: (_fused(C) + 3 * C, 0),
    "ultra": lambda C, n: (_three_outputs(C) + _groups(C), _fused(C) + 8 * n),
    "described": lambda C, n: (_groups(C) + 2 * math.floor(EXCITATION_SHARE * C), _fused(C) + 8 * n),
    "attention_free": lambda C, n: (_separate(C) + 3 * C, 0),
}
