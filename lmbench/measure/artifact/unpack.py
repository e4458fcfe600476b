"""Load a packed model from nothing but its bytes, each part checked before it is believed.

The order matters: the frame and the header first, then the model's shapes on the meta device, then
the length that every section must have, and only then is anything decoded. So a file can make this
take no more memory than `max_bytes`, whatever it says. Weights are held in float32.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmbench.config import Config
from lmbench.measure.artifact.coders import decode
from lmbench.measure.artifact.coding import Coding
from lmbench.measure.artifact.format import MAX_BYTES, Header, read
from lmbench.measure.artifact.hostile import shapes_of, trusted_config
from lmbench.measure.artifact.streams import TOKENIZER, section_length, stream_of, values_of
from lmbench.measure.artifact.tensors import assemble, lengths, weights_of
from lmbench.models.base import LanguageModel, ModelConfig, seeded


@dataclass(frozen=True)
class Unpacked:
    """What a file holds."""

    model: ModelConfig
    weights: dict[str, Tensor]
    """float32 by parameter name."""
    codings: dict[str, Coding]
    methods: tuple[Config, ...]
    """What is in force beside the weights when the model is scored."""
    tokenizer: bytes | None


def unpack(data: bytes, *, max_bytes: int = MAX_BYTES) -> Unpacked:
    """What a file holds, each part checked before it is believed.

    Args:
        max_bytes: the most that its decoded sections, and its weights in float32, may take.

    Raises:
        ValueError: a file that is damaged, that asks for more than the limit, or that no `pack` made.
    """
    file = read(data, max_bytes=max_bytes)
    header = file.header
    model = trusted_config("model", header.model)
    shapes = shapes_of(model, max_bytes=max_bytes, n_tensors=len(header.tensors))
    methods = tuple(trusted_config("method", method) for method in header.methods)
    codings = [Coding(bits, granularity, scales) for bits, granularity, scales in header.codings]
    if [entry.name for entry in header.tensors] != list(shapes):
        raise ValueError(f"the artifact's tensors are not those of its model {model.name}")
    if any(entry.coding >= len(codings) for entry in header.tensors):
        raise ValueError("the artifact has a tensor whose coding its header lacks")
    streams = _decoded(header, file.stored, _expected(header, shapes, codings))
    weights, at = {}, dict.fromkeys(streams, 0)
    for entry in header.tensors:
        coding, shape, taken = codings[entry.coding], shapes[entry.name], {}
        for stream, n in lengths(shape, coding, form=entry.form, nonzero=entry.nonzero).items():
            taken[stream] = streams[stream][at[stream] : at[stream] + n]
            at[stream] += n
        try:
            coded = assemble(taken, shape, coding, form=entry.form)
        except ValueError as error:
            raise ValueError(f"the artifact's tensor {entry.name} is not valid: {error}") from None
        made = weights_of(coded, coding)
        if not np.isfinite(made).all():
            raise ValueError(f"the artifact's tensor {entry.name} holds values that are not finite")
        weights[entry.name] = torch.from_numpy(made)
    of = {entry.name: codings[entry.coding] for entry in header.tensors}
    return Unpacked(model, weights, of, methods, _tokenizer(header, file.stored))


def load(data: bytes, *, max_bytes: int = MAX_BYTES) -> LanguageModel:
    """A new model with the weights of a file, dropout off.

    Raises:
        ValueError: as `unpack`.
    """
    return built(unpack(data, max_bytes=max_bytes))


def built(unpacked: Unpacked) -> LanguageModel:
    """A new model with these weights, dropout off."""
    model = seeded(unpacked.model, init_seed=0)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, values in unpacked.weights.items():
            parameters[name].copy_(values)
    return model.eval()


def _expected(
    header: Header, shapes: Mapping[str, tuple[int, ...]], codings: Sequence[Coding]
) -> dict[str, int]:
    """How many values each stream must hold."""
    found: dict[str, int] = {}
    for entry in header.tensors:
        shape = shapes[entry.name]
        if entry.nonzero > math.prod(shape) or (entry.form == "csr16" and not shape):
            raise ValueError(f"the artifact's tensor {entry.name} does not fit its form {entry.form}")
        needed = lengths(shapes[entry.name], codings[entry.coding], form=entry.form, nonzero=entry.nonzero)
        for stream, n in needed.items():
            found[stream] = found.get(stream, 0) + n
    return found


def _decoded(
    header: Header, stored: Mapping[str, bytes], expected: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """The values of every stream; lengths are compared before anything is decoded."""
    sections = {stream_of(one.name): one for one in header.sections if one.name != TOKENIZER}
    if sections.keys() != expected.keys() or len(sections) < sum(
        one.name != TOKENIZER for one in header.sections
    ):
        raise ValueError("the artifact's sections are not those that its tensors need")
    for stream, section in sections.items():
        if section.length != section_length(section.name, n=expected[stream]):
            raise ValueError(
                f"the artifact's section {section.name} declares {section.length:,} bytes, its "
                f"{expected[stream]:,} values take {section_length(section.name, n=expected[stream]):,}"
            )
    found = {}
    for stream, section in sections.items():
        plain = decode(stored[section.name], name=section.coder, length=section.length)
        found[stream] = values_of(section.name, plain, n=expected[stream])
    return found


def _tokenizer(header: Header, stored: Mapping[str, bytes]) -> bytes | None:
    for section in header.sections:
        if section.name == TOKENIZER:
            return decode(stored[TOKENIZER], name=section.coder, length=section.length)
    return None
