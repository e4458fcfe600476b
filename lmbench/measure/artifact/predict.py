"""How large a packed model will be, counted from its config without its weights.

What training decides, the share of each tensor that is not zero, is given or taken to be all of it; so is
the form of each tensor. Beside a finished file the two are the file's own, and the count then says how
well the bytes of codes, masks and scales are understood, not how well they were foreseen.

Before entropy coding the count is exact: bits times values, scales, masks, the rest, the header.
After it, codes take their entropy. For weights that are roughly Gaussian in a row and clipped at k
standard deviations (SDClip), a step is 2 k sigma / 2^b, and the entropy of a Gaussian in such steps is

    h(sigma) - log2(step) = log2(sigma sqrt(2 pi e)) - log2(2 k sigma / 2^b) = b - log2 k + 1.047 bits

where nothing is lost at the clip. (A symmetric grid has 2^b - 1 levels, so its steps are a little wider
and its codes take less: 0.05 bits at b = 6, 0.19 at b = 4.) So b and k set the file's size, not b alone.
A mask of density d takes H(d) bits a weight. Bytes are decimal: 16 MB are 16,000,000 bytes.
"""

import math
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from lmbench.errors import unknown
from lmbench.measure.artifact.bits import TERNARY
from lmbench.measure.artifact.coding import FLOAT_BITS, Coding
from lmbench.measure.artifact.format import (
    MAX_BYTES,
    Header,
    Section,
    Stored,
    header_json,
    plain_header_bytes,
)
from lmbench.measure.artifact.hostile import shapes_of
from lmbench.measure.artifact.streams import PARTS, TOKENIZER, part_of, true_length
from lmbench.measure.artifact.tensors import FORMS, lengths
from lmbench.models.base import ModelConfig

_GAUSSIAN = math.log2(2 * math.pi * math.e) / 2 - 1  # 1.047


class Prediction(NamedTuple):
    """Bytes by part, of `streams.PARTS`."""

    uncoded: dict[str, int]
    """Before entropy coding."""
    coded: dict[str, int]
    """With codes and masks at their entropy. Scales, floats and the tokenizer are left as they are."""
    forms: dict[str, str]
    """The form counted for each tensor."""


def information(bits: float) -> float:
    """Bits that a code can carry: log2 3 for three values."""
    return math.log2(3) if bits == TERNARY else bits


def capacity(budget_bytes: int, *, bits: float, group: int | None = None, scale_bits: int = 16) -> float:
    """Parameters that fit, nothing else being stored.

    Args:
        group: weights that share a scale; None counts no scales.
    """
    return 8 * budget_bytes / (information(bits) + (scale_bits / group if group else 0))


def mask_entropy(density: float) -> float:
    """H(density), bits a weight of a mask without pattern."""
    return -sum(p * math.log2(p) for p in (density, 1 - density) if p > 0)


def sparse_bits(bits: float, *, density: float) -> dict[str, float]:
    """Bits a weight of a sparse tensor by how its places are told, its values taking `bits` each."""
    return {
        "mask": density * bits + 1,
        "coded mask": density * bits + mask_entropy(density),
        "csr16": density * (bits + 16),
    }


def clipped_entropy(bits: float, *, clip: float) -> float:
    """Bits a weight of Gaussian rows quantised with their clip at `clip` standard deviations, after coding.

    Never more than the bits themselves. Holds from a clip of about 3, where little is clipped, while
    the step stays below a standard deviation.
    """
    return min(information(bits), bits - math.log2(clip) + _GAUSSIAN)


def predicted_bytes(
    model: ModelConfig,
    *,
    codings: Mapping[str, Coding],
    other: str = "float32",
    densities: Mapping[str, float] | None = None,
    clips: Mapping[str, float] | None = None,
    forms: Mapping[str, str] | None = None,
    tokenizer_bytes: int = 0,
) -> Prediction:
    """Count the bytes of a model that `pack` would make.

    Args:
        codings, other: as for `pack`.
        densities: part of the values that are not zero by parameter name; 1 where none is named.
        clips: standard deviations of a row at which its codes end, for those whose entropy is estimated so.
        forms: by parameter name; where none is named, that of the fewest bits with a coded mask.

    Raises:
        ValueError: a name that is no parameter's.
    """
    densities, clips, forms = dict(densities or {}), dict(clips or {}), dict(forms or {})
    shapes = shapes_of(model, max_bytes=MAX_BYTES)
    for name in (*codings, *densities, *clips, *forms):
        if name not in shapes:
            raise ValueError(unknown("parameter", name, shapes))
    counts: dict[str, int] = {}
    coded, entries, table = dict.fromkeys(PARTS, 0.0), [], []
    for name, shape in shapes.items():
        coding, density = codings.get(name, Coding(FLOAT_BITS[other])), densities.get(name, 1.0)
        nonzero = round(density * math.prod(shape))
        form = forms.setdefault(name, _form(coding, density))
        if coding not in table:
            table.append(coding)
        entries.append(Stored(name=name, coding=table.index(coding), form=form, nonzero=nonzero))
        for stream, n in lengths(shape, coding, form=form, nonzero=nonzero).items():
            counts[stream] = counts.get(stream, 0) + n
            coded[part_of(stream)] += n * _entropy(stream, coding, density, form, clips.get(name)) / 8
    uncoded = dict.fromkeys(PARTS, 0) | {TOKENIZER: tokenizer_bytes}
    for stream, n in counts.items():
        uncoded[part_of(stream)] += true_length(stream, n=n)
    sections = [Section(name=s, coder="lzma", stored=n, length=n) for s, n in sorted(counts.items())]
    columns = [(coding.bits, coding.granularity, coding.scales) for coding in table]
    header = Header(model=model.canonical(), methods=[], codings=columns, tensors=entries, sections=sections)
    uncoded["header"] = plain_header_bytes(header)
    plain = header_json(header)
    coded["header"] = uncoded["header"] - len(plain) + len(zlib.compress(plain, 9))
    coded[TOKENIZER] = tokenizer_bytes
    return Prediction(uncoded, {part: round(value) for part, value in coded.items()}, forms)


def _form(coding: Coding, density: float) -> str:
    if density == 1:
        return "dense"
    kept = 1 if coding.bits == TERNARY else coding.bits
    sparse = sparse_bits(kept, density=density)
    found = {"mask": sparse["coded mask"], "csr16": sparse["csr16"]}
    if coding.bits != 1:
        found["dense"] = information(coding.bits)
    return min(FORMS, key=lambda form: found.get(form, math.inf))


def _entropy(stream: str, coding: Coding, density: float, form: str, clip: float | None) -> float:
    """Bits of one value of a stream after entropy coding."""
    if stream == "masks":
        return mask_entropy(density)
    if part_of(stream) == "codes":
        bits = 1 if stream == "codes/1" else information(coding.bits)
        return bits if clip is None or form != "dense" else clipped_entropy(coding.bits, clip=clip)
    return 32 if stream.endswith("float32") else 16
