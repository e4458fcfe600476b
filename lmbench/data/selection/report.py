"""Provenance of a selection, and what of the whole text it still covers.

`Report` says where the kept tokens come from, what each stage removed and what finding that out
took: counts of operations, which are the same on every machine, rather than seconds. `coverage`
answers whether a part of a text still holds its concepts, as far as these are n-grams and words.

Legend: D domain, U unit, K kept unit, N position.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from lmbench.data.selection.units import Units

RARE = 3  # a type with at most so many occurrences in the whole is rare
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Report:
    """Where the kept text comes from."""

    domains: pd.DataFrame
    """One row a domain: domain, tokens, bytes, quota (tokens), kept_tokens, kept_bytes, kept (share of its
    tokens), of_quota (kept tokens over its natural share of all that is kept; 1 is proportional)."""
    stages: pd.DataFrame
    """One row a stage in its order: stage, units, tokens and bytes that it removed."""
    counts: Mapping[str, float] = field(default_factory=dict)
    """Operations by name, and how the kept tokens are used."""

    @property
    def share(self) -> float:
        """Kept tokens over all tokens."""
        return float(self.domains["kept_tokens"].sum() / self.domains["tokens"].sum())

    def with_counts(self, more: Mapping[str, float]) -> "Report":
        """The same with more numbers."""
        return replace(self, counts=dict(self.counts) | dict(more))

    def metrics(self) -> dict[str, float]:
        """The same as numbers by name."""
        out = {"kept_share": self.share, "kept_tokens": float(self.domains["kept_tokens"].sum())}
        out |= {f"kept_share_{row.domain}": float(row.kept) for row in self.domains.itertuples()}
        out |= {f"removed_tokens_{row.stage}": float(row.tokens) for row in self.stages.itertuples()}
        return out | {name: float(value) for name, value in self.counts.items()}


def domain_table(units: Units, kept: Units, quota_D: np.ndarray) -> pd.DataFrame:
    """See `Report.domains`."""
    tokens_D, held_D = units.per_domain(units.tokens_U), kept.per_domain(kept.tokens_U)
    expected_D = tokens_D * (held_D.sum() / tokens_D.sum())
    return pd.DataFrame(
        {
            "domain": units.domains,
            "tokens": tokens_D.astype(np.int64),
            "bytes": units.per_domain(units.bytes_U).astype(np.int64),
            "quota": quota_D,
            "kept_tokens": held_D.astype(np.int64),
            "kept_bytes": kept.per_domain(kept.bytes_U).astype(np.int64),
            "kept": held_D / np.maximum(tokens_D, 1),
            "of_quota": held_D / np.maximum(expected_D, 1e-9),
        }
    )


def removed(stage: str, units: Units, indices: Sequence[int] | np.ndarray) -> dict[str, object]:
    """One row of `Report.stages`."""
    at = np.asarray(indices, dtype=np.int64)
    sizes = {"tokens": int(units.tokens_U[at].sum()), "bytes": int(units.bytes_U[at].sum())}
    return {"stage": stage, "units": len(at)} | sizes


# ------------------------------------------------------------------ coverage


def coverage(
    whole: Sequence[np.ndarray], part: Sequence[np.ndarray], *, orders: Sequence[int] = (1, 2, 3)
) -> pd.DataFrame:
    """What share of a text's n-grams a part of it holds.

    Args:
        whole: ids of each unit of the text; no n-gram crosses units.
        part: those of the units that are kept.
        orders: tokens of an n-gram.

    Returns:
        One row an order: n, types (share of the different n-grams, in [0, 1]), occurrences (the same,
        each weighed by how often it stands in the whole), rare (types with at most `RARE` occurrences;
        NaN where there are none), n_types, n_rare. Higher is better; a part of share s that were
        drawn token by token would hold a share s of the hapaxes.
    """
    rows = []
    for order in orders:
        both = [*whole, *part]
        gram_G, ends = _grams(both, order=order)
        cut = ends[len(whole) - 1] if whole else 0
        types, count = np.unique(gram_G[:cut], return_counts=True)
        held = np.isin(types, gram_G[cut:])
        rare = count <= RARE
        rows.append(
            {
                "n": order,
                "types": _share(held),
                "occurrences": float(count[held].sum() / max(1, count.sum())),
                "rare": _share(held[rare]),
                "n_types": len(types),
                "n_rare": int(rare.sum()),
            }
        )
    return pd.DataFrame(rows)


def _share(held: np.ndarray) -> float:
    return float(held.mean()) if len(held) else float("nan")


def _grams(texts: Sequence[np.ndarray], *, order: int) -> tuple[np.ndarray, np.ndarray]:
    """The n-grams of all texts end to end as numbers, and where those of each text end."""
    lengths = [max(0, len(text) - order + 1) for text in texts]
    number = np.zeros(sum(lengths), dtype=np.int64)
    base = 1 + max((int(text.max(initial=0)) for text in texts), default=0)
    fits = base**order < 2**63  # then the digits themselves are the number
    for offset in range(order):
        tokens = [
            text[offset : offset + length].astype(np.int64)
            for text, length in zip(texts, lengths, strict=True)
        ]
        token = np.concatenate([*tokens, np.zeros(0, np.int64)])
        number = number * base + token
        if not fits:
            number = np.unique(number, return_inverse=True)[1]
    return number, np.cumsum(lengths)


def words(texts: Sequence[str]) -> list[np.ndarray]:
    """Lower-case words of each text as ids, whatever the tokenizer: for coverage of types."""
    split = [_WORD.findall(text.lower()) for text in texts]
    number = {word: i for i, word in enumerate(sorted(set().union(*split)))} if split else {}
    return [np.array([number[word] for word in part], dtype=np.int64) for part in split]
