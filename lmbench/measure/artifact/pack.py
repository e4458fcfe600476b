"""Pack a trained model into bytes.

What counts is all that a reader needs: codes at their true width, scales, masks, the other tensors,
the model's config, the tokenizer. The weights given are those that the model computes with, so
whatever a quantiser rounded is already in them; their grids are found again (`lattice`), and values
that are on none are refused. The code that reads the file is this package, and is not counted.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmbench.config import Config, from_dict
from lmbench.errors import unknown
from lmbench.measure.artifact.choose import candidates, smallest_payload, with_tokenizer
from lmbench.measure.artifact.coders import check_coders, installed_coders
from lmbench.measure.artifact.coding import FLOAT_BITS, Coding
from lmbench.measure.artifact.format import MAX_BYTES, Header, Section, Stored, plain_header_bytes, write
from lmbench.measure.artifact.hostile import shapes_of, trusted_config
from lmbench.measure.artifact.streams import PARTS, part_of
from lmbench.measure.artifact.tensors import Coded, code, weights_of
from lmbench.models.base import ModelConfig


class TensorSize(NamedTuple):
    """One tensor of a file."""

    name: str
    shape: tuple[int, ...]
    bits: float
    form: str
    """The one that was taken."""
    n: int
    """Values."""
    nonzero: int
    candidates: dict[str, int]
    """Bytes of each form, coded by itself by the quick coders; empty where no value is zero: one form."""
    error: float
    """The largest |loaded - given| over the largest |given|; 0 is bit by bit the same."""

    @property
    def density(self) -> float:
        """Part of the values that are not zero."""
        return self.nonzero / self.n if self.n else 1.0


@dataclass(frozen=True)
class Packed:
    """A packed model with the account of its bytes."""

    data: bytes
    """The file."""
    split: dict[str, int]
    """Bytes by part, of `PARTS`; they add up to the file."""
    uncoded: dict[str, int]
    """The same parts before entropy coding."""
    sections: tuple[tuple[str, str, int, int], ...]
    """Of each section its name, coder, bytes before and after coding."""
    tensors: tuple[TensorSize, ...]
    coders: tuple[str, ...]
    """Those that were tried; a file made without zstd may be larger."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.data)

    @property
    def n_parameters(self) -> int:
        """Values of all tensors."""
        return sum(tensor.n for tensor in self.tensors)

    @property
    def bits_per_parameter(self) -> float:
        """Of the whole file, tokenizer and header included."""
        return 8 * self.size / self.n_parameters


def pack(
    model: ModelConfig,
    *,
    weights: Mapping[str, Tensor],
    codings: Mapping[str, Coding] | None = None,
    tokenizer: bytes | Mapping[str, Any] | None = None,
    methods: Sequence[Config] = (),
    other: str = "float32",
    coders: Sequence[str] | None = None,
) -> Packed:
    """Pack a model into bytes.

    Args:
        weights: of every parameter, those that it computes with: masked ones 0, quantised ones a scale
            times a whole number, up to the rounding of float32.
        codings: by parameter name; those without one are kept in `other`.
        tokenizer: bytes, or a dict that is written as JSON; None where the task has none.
        other: "float32", or "float16", whose rounding then is part of the weights.
        coders: entropy coders to choose from, of `coders.CODERS`; None is all that are installed.

    Raises:
        ValueError: weights that are not the model's, a coding for no parameter, values that are on no
            grid of their coding, a config that could not be read back, or an unknown coder.
    """
    tried = tuple(installed_coders() if coders is None else coders)
    check_coders(tried)
    if other not in FLOAT_BITS:
        raise ValueError(unknown("type of the other tensors", other, FLOAT_BITS))
    described = _described(model), [_described(method) for method in methods]
    shapes = shapes_of(trusted_config("model", described[0]), max_bytes=MAX_BYTES)
    for method in described[1]:
        trusted_config("method", method)  # what could not be read is not written
    codings = dict(codings or {})
    _check_weights(model, weights, shapes, codings)
    of = {name: codings.get(name, Coding(FLOAT_BITS[other])) for name in shapes}
    given = {name: weights[name].detach().to("cpu", torch.float32).numpy() for name in shapes}
    coded = {name: code(name, values=given[name], coding=of[name]) for name in shapes}
    found = {name: candidates(coded[name], of[name], coders=tried) for name in shapes}
    forms, payload = smallest_payload(list(found.values()), coders=tried)
    if tokenizer is not None:
        plain = tokenizer if isinstance(tokenizer, bytes) else _json(tokenizer)
        payload = with_tokenizer(payload, plain, coders=tried)
    sizes = [
        _size(name, given[name], coded[name], of[name], form=form, candidates=found[name].sizes)
        for name, form in zip(shapes, forms, strict=True)
    ]
    table = list(dict.fromkeys(of.values()))
    header = Header(
        model=described[0],
        methods=described[1],
        codings=[(coding.bits, coding.granularity, coding.scales) for coding in table],
        tensors=[
            Stored(name=size.name, coding=table.index(of[size.name]), form=size.form, nonzero=size.nonzero)
            for size in sizes
        ],
        sections=payload.sections,
    )
    uncoded = dict.fromkeys(PARTS, 0) | payload.uncoded | {"header": plain_header_bytes(header)}
    data = write(header, payload.stored)
    rows = tuple((one.name, one.coder, one.length, one.stored) for one in payload.sections)
    return Packed(data, _split(data, payload.sections), uncoded, rows, tuple(sizes), tried)


def _size(
    name: str,
    given: np.ndarray,
    coded: Coded,
    coding: Coding,
    *,
    form: str,
    candidates: dict[str, int],
) -> TensorSize:
    most = float(np.abs(given).max(initial=0))
    off = float(np.abs(weights_of(coded, coding) - given).max(initial=0))
    return TensorSize(
        name=name,
        shape=given.shape,
        bits=coding.bits,
        form=form,
        n=given.size,
        nonzero=coded.n_nonzero,
        candidates=candidates,
        error=off / most if most else 0.0,
    )


def _check_weights(
    model: ModelConfig,
    weights: Mapping[str, Tensor],
    shapes: Mapping[str, Any],
    codings: Mapping[str, Coding],
) -> None:
    odd = sorted(name for name in shapes if name not in weights or tuple(weights[name].shape) != shapes[name])
    odd += sorted(weights.keys() - shapes.keys())
    if odd:
        raise ValueError(
            f"the weights are not those of {model.name}: {odd[0]} is missing, or not of its shape"
        )
    for name in codings:
        if name not in shapes:
            raise ValueError(unknown("parameter in codings", name, shapes))


def _described(config: Config) -> dict[str, Any]:
    """What a file says of a config: the short form that its digest covers, where that can be read back."""
    short = json.loads(_json(config.canonical()))
    return short if from_dict(config.role, short) == config else json.loads(_json(config.to_dict()))


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _split(data: bytes, sections: Sequence[Section]) -> dict[str, int]:
    """Bytes of the file by part; what is no section is the header."""
    split = dict.fromkeys(PARTS, 0)
    for section in sections:
        split[part_of(section.name)] += section.stored
    return split | {"header": len(data) - sum(split.values())}
