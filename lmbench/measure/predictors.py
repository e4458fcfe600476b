"""Reference rows: what predictors without gradients reach on the same targets.

No text table is honest without them: the uniform distribution is chance, the unigram
needs no context, an n-gram is what counting gives, and a compressor knows no training
text at all. They are exempt from the model contracts (no config, no FLOPs, no seeds) but
are scored on exactly the targets that the models are scored on.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmbench.measure.compressors import COMPRESSORS, compressed_bytes
from lmbench.measure.ngram import NGram, flatten

LN2 = math.log(2)
COLUMNS = ("predictor", "order", "smoothing", "nll", "bits_per_byte", "n", "bytes")


def reference_rows(
    *,
    train_ids: Sequence[np.ndarray],
    split_ids: Sequence[np.ndarray],
    n_bytes: Sequence[np.ndarray] | None,
    vocab_size: int,
    split_text: bytes | None,
    orders: Sequence[int] = (2, 3, 4, 5),
    smoothings: Sequence[str] = ("witten_bell",),
    n_targets: int | None = None,
    first_target: int = 1,
    train_text: bytes | None = None,
) -> pd.DataFrame:
    """Score every reference predictor on one split.

    Args:
        train_ids: token ids, one array a document; no history crosses documents.
        split_ids: the same of the split that is scored.
        n_bytes: UTF-8 bytes of each token of `split_ids`; None where the tokenizer is lossy.
        vocab_size: number of token ids.
        split_text: UTF-8 of the whole split, documents end to end, for the compressors, which read the
            bytes of the targets (all bytes where the tokenizer is lossy); None skips them.
        orders: numbers of preceding tokens of the n-grams; the unigram always stands in the table.
        smoothings: of `ngram.SMOOTHINGS`.
        n_targets: score only the first so many targets; None is all.
        first_target: position in each document of its first target; the tokens before it are history
            only. 1 where a model predicts from what precedes, seq_len where only whole windows count.
        train_text: adds the compressors once more, after they have read this.

    Returns:
        One row a predictor: predictor, order (None but for n-grams), smoothing, nll (nats per
        target; lower is better), bits_per_byte, n (targets), bytes (of the targets). nll is
        NaN for a compressor of a lossy split, bits_per_byte wherever `n_bytes` is None.

    Raises:
        ValueError: no target, too few targets, byte counts that do not fit the split.
    """
    tokens, positions = flatten(split_ids, vocab_size=vocab_size)
    is_target = _targets(positions, n_targets=n_targets, first_target=first_target)
    lengths = None if n_bytes is None else _lengths(n_bytes, n_tokens=len(tokens))
    n = int(is_target.sum())
    size = math.nan if lengths is None else int(lengths[is_target].sum())

    def row(predictor: str, nats: float, order: int | None = None, smoothing: str = "") -> dict:
        bits = nats / LN2 / size
        return dict(zip(COLUMNS, (predictor, order, smoothing, nats / n, bits, n, size), strict=True))

    rows = [row("uniform", n * math.log(vocab_size))]
    rows.append(row("unigram", _unigram(train_ids, tokens[is_target], vocab_size=vocab_size), 0, "add_half"))
    for smoothing in smoothings if orders else ():
        model = NGram(train_ids, vocab_size=vocab_size, max_order=max(orders), smoothing=smoothing)
        for order, nats in model.nll_by_order(split_ids):
            if order in orders:
                rows.append(row("ngram", float(nats[is_target].sum()), order, smoothing))
    if split_text is not None:
        if lengths is None and n_targets is not None:
            raise ValueError("split_text cannot be cut to n_targets without n_bytes; pass split_text=None")
        text = split_text if lengths is None else _scored_text(split_text, is_target, lengths)
        prefixes = {"": b""} | ({" after train": train_text} if train_text is not None else {})
        for suffix, prefix in prefixes.items():
            for name in COMPRESSORS:
                nats = 8 * LN2 * compressed_bytes(text, name=name, prefix=prefix)
                entry = row(name + suffix, nats)
                if lengths is None:  # the text holds what the tokens lost: no price per token
                    entry |= {"nll": math.nan, "bits_per_byte": nats / LN2 / len(text), "bytes": len(text)}
                rows.append(entry)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"order": "Int64", "bytes": float})


def _unigram(train_ids: Sequence[np.ndarray], targets: np.ndarray, *, vocab_size: int) -> float:
    """Nats of the targets under train's frequencies, half a count added to each token."""
    tokens, _ = flatten(train_ids, vocab_size=vocab_size)
    counts = np.bincount(tokens, minlength=vocab_size) + 0.5
    return float(-np.log(counts / counts.sum())[targets].sum())


def _targets(positions: np.ndarray, *, n_targets: int | None, first_target: int) -> np.ndarray:
    """Which tokens are scored."""
    is_target = positions >= first_target
    n = int(is_target.sum())
    if n_targets is not None and not 1 <= n_targets <= n:
        raise ValueError(f"n_targets is {n_targets}; the split has {n} targets")
    if n == 0:
        raise ValueError(
            f"the split has no target: it holds {len(positions)} tokens, first_target {first_target}"
        )
    return is_target if n_targets is None else is_target & (np.cumsum(is_target) <= n_targets)


def _lengths(n_bytes: Sequence[np.ndarray], *, n_tokens: int) -> np.ndarray:
    lengths = np.concatenate([np.asarray(part, np.int64) for part in n_bytes])
    if len(lengths) != n_tokens:
        raise ValueError(f"n_bytes has {len(lengths)} entries for {n_tokens} tokens of the split")
    return lengths


def _scored_text(text: bytes, is_target: np.ndarray, lengths: np.ndarray) -> bytes:
    """The bytes of the targets alone, so that the compressors do what the models do."""
    if lengths.sum() != len(text):
        raise ValueError(f"n_bytes add up to {lengths.sum()} bytes, split_text has {len(text)}")
    return np.frombuffer(text, np.uint8)[np.repeat(is_target, lengths)].tobytes()
