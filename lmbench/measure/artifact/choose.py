"""Which form each tensor takes in a file: tried, not guessed.

Every form that can hold a tensor is coded by itself, by the quick coders, and the smallest is its own
best. But tensors share streams, and a stream of two sorts of codes may compress worse than one of a
single sort; so the file is also tried with one form for all tensors that can take it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lmbench.measure.artifact.coders import quick, smallest
from lmbench.measure.artifact.coding import Coding
from lmbench.measure.artifact.format import Section
from lmbench.measure.artifact.streams import TOKENIZER, encoded, part_of, true_length
from lmbench.measure.artifact.tensors import FORMS, Coded, forms_of, pieces

Pieces = dict[str, np.ndarray]


class Candidates(NamedTuple):
    """One tensor in every form that can hold it."""

    pieces: dict[str, Pieces]
    """Form to what it adds to each stream."""
    sizes: dict[str, int]
    """Form to bytes when coded by itself; empty where there is one form only."""

    @property
    def best(self) -> str:
        """The smallest by itself."""
        return min(self.sizes, key=self.sizes.__getitem__) if self.sizes else next(iter(self.pieces))


class Payload(NamedTuple):
    """The sections of a file."""

    sections: list[Section]
    stored: dict[str, bytes]
    """Section name to coded bytes."""
    uncoded: dict[str, int]
    """Bytes by part at true width, before entropy coding."""

    @property
    def size(self) -> int:
        """Coded bytes."""
        return sum(len(data) for data in self.stored.values())


def candidates(coded: Coded, coding: Coding, *, coders: Sequence[str]) -> Candidates:
    """Try every form of a tensor; one without zeros has only one."""
    made = {form: pieces(coded, coding, form=form) for form in forms_of(coded, coding)}
    if len(made) == 1:
        return Candidates(made, {})
    sizes = {}
    for form, found in made.items():
        sizes[form] = sum(
            len(encoded(stream, values, coders=quick(coders))[3]) for stream, values in found.items()
        )
    return Candidates(made, sizes)


def smallest_payload(tried: Sequence[Candidates], *, coders: Sequence[str]) -> tuple[list[str], Payload]:
    """The form of each tensor and the sections of the smallest file."""
    own = [one.best for one in tried]
    plans = [own]
    for form in FORMS:
        plan = [form if form in one.pieces else best for one, best in zip(tried, own, strict=True)]
        if plan not in plans:
            plans.append(plan)
    if len(plans) > 1:
        plans.sort(key=lambda plan: _payload(tried, plan, coders=quick(coders)).size)
    return plans[0], _payload(tried, plans[0], coders=coders)


def with_tokenizer(payload: Payload, tokenizer: bytes, *, coders: Sequence[str]) -> Payload:
    """The sections and the tokenizer's."""
    _add(payload, TOKENIZER, len(tokenizer), *smallest(tokenizer, coders=coders))
    return payload._replace(uncoded=payload.uncoded | {TOKENIZER: len(tokenizer)})


def _payload(tried: Sequence[Candidates], plan: Sequence[str], *, coders: Sequence[str]) -> Payload:
    streams: dict[str, list[np.ndarray]] = {}
    for one, form in zip(tried, plan, strict=True):
        for stream, values in one.pieces[form].items():
            streams.setdefault(stream, []).append(values)
    payload = Payload([], {}, {})
    for stream, parts in sorted(streams.items()):
        values, part = np.concatenate(parts), part_of(stream)
        payload.uncoded[part] = payload.uncoded.get(part, 0) + true_length(stream, n=len(values))
        _add(payload, *encoded(stream, values, coders=coders))
    return payload


def _add(payload: Payload, name: str, length: int, coder: str, data: bytes) -> None:
    payload.sections.append(Section(name=name, coder=coder, stored=len(data), length=length))
    payload.stored[name] = data
