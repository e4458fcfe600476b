"""What is known of the units of a training text before any is chosen: copies, scores, domain weights.

Independent of a run's seeds, so runs of one text share it: what takes long is computed once in a
process. Nothing of it reads validation or test text but the search for copies of that text.

Legend: N position in the text, U unit, D domain, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lmbench.config import Config
from lmbench.data.selection import dedup, quotas, scores
from lmbench.data.selection.units import Units, cut
from lmbench.errors import unknown
from lmbench.methods.reference_losses import reference_losses
from lmbench.tasks.base import View
from lmbench.tasks.text_data import TextData

_FACTS: dict[tuple[str, str, bool], "Facts"] = {}
_LOSSES: dict[tuple[str, str], np.ndarray] = {}


@dataclass(frozen=True, eq=False)
class Facts:
    """Units, and what a selection asks of them."""

    units: Units
    duplicates: dict[str, dedup.Found]
    """Stage -> units that are copies; empty where none are looked for."""
    scores: dict[str, np.ndarray]
    """Score -> (U,) values, those that are needed; higher is harder, or more to be learned."""
    weights_D: np.ndarray | None
    """Of the domains' quotas; None is natural."""
    counts: dict[str, int]
    """Operations that the scores took."""


def facts_of(
    how: Config, data: TextData, *, view: View | None, weights: Mapping[str, Mapping[str, Tensor]]
) -> Facts:
    """The facts that a setting of method `select` needs.

    Args:
        view: where a reference is read; None is the CPU.
        weights: of the reference run, by digest; without them the n-gram stands in for it.
    """
    read = how.reference is not None and how.reference.digest in weights
    # What only decides how many are kept, or how they are drawn, changes no fact.
    asked = how.replace(share=0.5, form="U", band="mid", competence=0.1, packing=None)
    key = (data.config.digest, asked.digest, read)
    if key not in _FACTS:
        losses_N = _losses(how.reference, weights, data=data, view=view) if read else None
        _FACTS[key] = _compute(how, data, losses_N)
    return _FACTS[key]


def _compute(how: Config, data: TextData, losses_N: np.ndarray | None) -> Facts:
    units, asked, found, counts = units_of(data, how.piece), how.scores_needed, {}, {}
    if asked & {"ngram", "excess", "reference"}:
        short_N, long_N = _ngram(data, how.piece, how.order)
        counts["ngram_lookups"] = len(long_N) * (how.order + 1)
        # Against a run the n-gram is the student; alone, the student is one that sees a token.
        student_N, reference_N = (short_N, long_N) if losses_N is None else (long_N, losses_N)
        excess_N = scores.excess(student_N, reference_N)
        found["ngram"] = scores.per_byte(units, long_N)
        found["reference"] = scores.per_byte(units, reference_N)
        found["excess"] = scores.per_byte(units, excess_N)
    if "compression" in asked:
        texts = [data.tokenizer.decode(ids).encode() for ids in units.every()]
        found["compression"] = scores.compression(texts)
        counts["compressed_bytes"] = sum(map(len, texts))
    if "length" in asked:
        found["length"] = units.tokens_U.astype(float)
    weights_D = None
    if how.rule != "random" and how.quota == "temperature":
        weights_D = quotas.tempered(units.per_domain(units.tokens_U), tau=how.tau)
    elif how.rule != "random" and how.quota == "excess":
        excess_D = _given(how, units) if how.domain_excess else _mean_excess(units, excess_N)
        weights_D = quotas.by_excess(units.per_domain(units.tokens_U), excess_D, step=how.eta)
    copies = {} if how.dedup is None else _duplicates(data, how.piece, _hashing(how))
    return Facts(units, copies, {name: found[name] for name in asked}, weights_D, counts)


def _mean_excess(units: Units, excess_N: np.ndarray) -> np.ndarray:
    """(D,) nats per predicted token."""
    predicted_N = ~np.isnan(excess_N)
    nats_D = units.per_domain(units.sums(np.where(predicted_N, excess_N, 0.0)))
    return nats_D / np.maximum(units.per_domain(units.sums(predicted_N)), 1)


def _given(how: Config, units: Units) -> np.ndarray:
    """(D,) the excess losses that the setting lists; a domain that it leaves out has none."""
    for name, _ in how.domain_excess:
        if name not in units.domains:
            raise ValueError(unknown("domain in select.domain_excess", name, units.domains))
    given = dict(how.domain_excess)
    return np.array([given.get(name, 0.0) for name in units.domains])


def _hashing(how: Config) -> dedup.MinHashing | None:
    if how.dedup == "exact":
        return None
    return dedup.MinHashing(bands=how.bands, rows=how.rows, shingle=how.shingle, similar=how.similar)


@lru_cache(maxsize=16)
def _duplicates(
    data: TextData, piece: int | None, hashing: dedup.MinHashing | None
) -> dict[str, dedup.Found]:
    units, held_out = units_of(data, piece).every(), []
    for name in ("valid", "test"):
        part = data.splits[name]
        held_out += [part.ids_N[start:end] for start, end in part.bounds]
    found = {"exact": dedup.exact(units, held_out=held_out)}
    if hashing is not None:
        found["near"] = dedup.near(units, how=hashing, held_out=held_out, piece=piece)
    return found


@lru_cache(maxsize=4)
def _ngram(data: TextData, piece: int | None, order: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) nats per token of an n-gram of one token at most, and of `order`."""
    every = scores.ngram_nll(units_of(data, piece), vocab_size=data.vocab_size, order=order)
    return every[min(1, order)], every[order]


@lru_cache(maxsize=16)
def units_of(data: TextData, piece: int | None) -> Units:
    """The units of train. Where the tokenizer loses text, a token counts the bytes of its entry."""
    train, documents = data.splits["train"], data.corpus.splits["train"]
    # A document of white space alone may have no tokens, and then no bounds either.
    filled = [one for one in documents if one.text.strip() or len(data.tokenizer.encode(one.text).ids)]
    bytes_N = train.n_bytes_N
    if bytes_N is None:
        entries = [one if isinstance(one, bytes) else one.encode() for one in data.tokenizer.vocabulary]
        bytes_N = np.array([len(entry) for entry in entries])[train.ids_N]
    return cut(
        train.ids_N,
        bounds=train.bounds,
        domain_B=[one.domain for one, _ in zip(filled, train.bounds, strict=False)],
        bytes_N=bytes_N,
        piece=piece,
    )


@lru_cache(maxsize=8)
def unit_starts(data: TextData, piece: int | None, device: torch.device) -> Tensor:
    """(N,) for each position of train the start of its unit: no context reaches before it."""
    units = units_of(data, piece)
    return torch.from_numpy(np.repeat(units.start_U, units.tokens_U)).to(device)


def _losses(
    reference: Config, weights: Mapping[str, Mapping[str, Tensor]], *, data: TextData, view: View | None
) -> np.ndarray:
    key = (reference.digest, data.config.digest)
    if key not in _LOSSES:
        here = view or View(
            seq_len=reference.model.seq_len, is_window=reference.model.is_window, device=torch.device("cpu")
        )
        _LOSSES[key] = reference_losses(reference, weights[reference.digest], data=data, view=here)
    return _LOSSES[key]
