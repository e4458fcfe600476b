"""How well one trained model is measured by this much text: a bootstrap over blocks of it.

The items of an evaluation are blocks of 256 bytes with their summed negative
log-likelihood. Resampling them says what another text of the same kind would have given
for the same weights. It says nothing about another training: a claim about an
architecture needs seeds (`stats`).
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lmbench.analysis.formats import HIGH, LOW, METRICS

BATCH = 100  # resamples held at once: bounds the memory at 100 x blocks


class BlockInterval(NamedTuple):
    """Bits per byte (or a difference of them), its percentile interval, and n resampled blocks."""

    value: float
    low: float
    high: float
    n: int


def bits_per_byte_interval(
    items: pd.DataFrame, *, seed: int, run_length: int = 1, confidence: float = 0.95, n_resamples: int = 2000
) -> BlockInterval:
    """Bits per byte of one evaluation with a block bootstrap interval.

    Args:
        items: one row a block in the order of the text: nll (summed, nats) and bytes.
        seed: of the resampling.
        run_length: consecutive items resampled together. Neighbours resemble each other,
            so 1 gives an interval that is too narrow where the style changes slowly.

    Raises:
        ValueError: fewer than 2 blocks, or a text whose bytes are not known.
    """
    blocks = _blocks(items, run_length)
    return _bootstrap(blocks, seed=seed, confidence=confidence, n_resamples=n_resamples)


def item_intervals(items: Mapping[str, pd.DataFrame], *, seed: int = 0) -> pd.DataFrame:
    """One row per model: how well this much text measures one trained model of each label.

    Args:
        items: label to the items of one evaluation of one run.
        seed: of the resampling, the same for all, so that equal blocks are drawn for equal texts.

    Returns:
        Columns model, bits per byte, 95% low, 95% high, blocks.

    Raises:
        ValueError: as `bits_per_byte_interval`, or items of several evaluations.
    """
    rows = []
    for label, table in items.items():
        for column in ("run", "evaluation", "split"):
            if column in table and table[column].nunique() > 1:
                raise ValueError(
                    f"the items of {label} come from {table[column].nunique()} values of {column}; keep one"
                )
        found = bits_per_byte_interval(table, seed=seed)
        rows.append((label, found.value, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=["model", METRICS["bits_per_byte"], LOW, HIGH, "blocks"])


def bits_per_byte_difference(
    items_a: pd.DataFrame,
    items_b: pd.DataFrame,
    *,
    seed: int,
    run_length: int = 1,
    confidence: float = 0.95,
    n_resamples: int = 2000,
) -> BlockInterval:
    """Bits per byte of a minus b on the same blocks; both lose or gain a block together.

    Raises:
        ValueError: as above, or blocks that are not the same text.
    """
    nll_a, size = _blocks(items_a, run_length)
    nll_b, size_b = _blocks(items_b, run_length)
    if len(size) != len(size_b) or not np.array_equal(size, size_b):
        raise ValueError(
            "the two evaluations do not score the same blocks; paired items need the same targets"
        )

    return _bootstrap((nll_a - nll_b, size), seed=seed, confidence=confidence, n_resamples=n_resamples)


def _bits_per_byte(nll: np.ndarray, size: np.ndarray, axis: int = -1) -> np.ndarray:
    return nll.sum(axis) / size.sum(axis) / math.log(2)


def _blocks(items: pd.DataFrame, run_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Summed nll and bytes of each run of items."""
    if run_length < 1:
        raise ValueError(f"run_length is {run_length}; it is 1 or more items")
    if not (items["bytes"] > 0).all():
        raise ValueError("bits per byte need the bytes of every item; a tokenizer that loses text has none")
    starts = np.arange(0, len(items), run_length)
    if len(starts) < 2:
        raise ValueError(f"a bootstrap needs at least 2 blocks, got {len(starts)}")
    return tuple(np.add.reduceat(items[name].to_numpy(float), starts) for name in ("nll", "bytes"))


def _bootstrap(
    blocks: tuple[np.ndarray, np.ndarray], *, seed: int, confidence: float, n_resamples: int
) -> BlockInterval:
    found = stats.bootstrap(
        blocks,
        _bits_per_byte,
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=confidence,
        n_resamples=n_resamples,
        batch=BATCH,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return BlockInterval(float(_bits_per_byte(*blocks)), float(found.low), float(found.high), len(blocks[0]))
