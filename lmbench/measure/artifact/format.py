"""The file: magic, version, seal, header, sections.

    4 bytes   "LMBA"
    1 byte    version
    16 bytes  seal: the first half of the sha256 of all that follows
    4 bytes   length of the header as stored, little-endian
    4 bytes   its length as JSON
    ...       the header, coded by zlib
    ...       the sections, one after another, as the header lists them

A file may come from anyone. Its lengths must add up to the file's, limits are held before anything
is decoded, and whatever is wrong is a ValueError of one sentence. The seal finds damage; it is no
signature, so everything else is checked also when the seal is right.
"""

import hashlib
import json
import zlib
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lmbench.measure.artifact.coders import decode

MAGIC, VERSION = b"LMBA", 1
_SEAL = 16
_FIXED = len(MAGIC) + 1 + _SEAL + 8
MAX_HEADER = 1 << 20  # bytes of JSON
MAX_BYTES = 1 << 32  # of what may be held when a file is loaded: a billion float32 weights
_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Section(BaseModel):
    """One stretch of the payload."""

    model_config = _STRICT

    name: str = Field(max_length=32)
    coder: str = Field(max_length=8)
    stored: int = Field(ge=0)
    """Bytes in the file."""
    length: int = Field(ge=0)
    """Bytes decoded."""


class Stored(BaseModel):
    """How one tensor is kept."""

    model_config = _STRICT

    name: str = Field(max_length=256)
    coding: int = Field(ge=0, le=255)
    """Which of the header's codings."""
    form: Literal["dense", "mask", "csr16"]
    nonzero: int = Field(ge=0)


class Header(BaseModel):
    """What the file says of itself. Which tensors there are, and their shapes, the model says."""

    model_config = _STRICT

    model: dict[str, Any]
    methods: list[dict[str, Any]] = Field(max_length=64)
    codings: list[tuple[float, str | int, str]] = Field(max_length=256)
    """Bits, granularity, type of the scales."""
    tensors: list[Stored] = Field(max_length=65_536)
    sections: list[Section] = Field(max_length=64)


class File(NamedTuple):
    """A file taken apart, its sections still coded."""

    header: Header
    header_bytes: int
    """All that is not a section."""
    stored: dict[str, bytes]
    """Section name to its bytes in the file."""


def header_json(header: Header) -> bytes:
    """The header as compact JSON: lists instead of objects, for they are many."""
    rows = header.model_dump()
    rows["tensors"] = [list(row.values()) for row in rows["tensors"]]
    rows["sections"] = [list(row.values()) for row in rows["sections"]]
    return json.dumps(rows, separators=(",", ":"), allow_nan=False).encode()


def plain_header_bytes(header: Header) -> int:
    """Bytes of all that is not a section, before entropy coding."""
    return _FIXED + len(header_json(header))


def write(header: Header, sections: dict[str, bytes]) -> bytes:
    """The file of a header and the coded bytes of its sections, in its order."""
    plain = header_json(header)
    coded = _zlib(plain)
    body = len(coded).to_bytes(4, "little") + len(plain).to_bytes(4, "little") + coded
    body += b"".join(sections[section.name] for section in header.sections)
    return MAGIC + bytes([VERSION]) + _seal(body) + body


def read(data: bytes, *, max_bytes: int) -> File:
    """Take a file apart without decoding its sections.

    Args:
        max_bytes: the most that all sections may decode to.

    Raises:
        ValueError: anything that is not as `write` makes it, or more than the limit.
    """
    coded_length, plain_length = _check_frame(data)
    coded = data[_FIXED : _FIXED + coded_length]
    header = _parse(decode(coded, name="zlib", length=plain_length))
    total = sum(section.stored for section in header.sections)
    if _FIXED + coded_length + total != len(data):
        raise ValueError(
            f"the artifact's sections declare {total:,} bytes, {len(data) - _FIXED - coded_length:,} follow"
        )
    declared = sum(section.length for section in header.sections)
    if declared > max_bytes:
        raise ValueError(
            f"the artifact declares {declared:,} bytes decoded, more than max_bytes = {max_bytes:,}"
        )
    names = [section.name for section in header.sections]
    if len(set(names)) < len(names):
        raise ValueError(f"the artifact has two sections of one name among {', '.join(names)}")
    stored, at = {}, _FIXED + coded_length
    for section in header.sections:
        stored[section.name] = data[at : at + section.stored]
        at += section.stored
    return File(header, _FIXED + coded_length, stored)


def _check_frame(data: bytes) -> tuple[int, int]:
    """Lengths of the header, stored and as JSON."""
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError(f"this is no artifact: it starts with {data[:4]!r} instead of {MAGIC!r}")
    if len(data) < _FIXED:
        raise ValueError(f"the artifact is cut off: {len(data)} bytes, its frame alone has {_FIXED}")
    if data[len(MAGIC)] != VERSION:
        raise ValueError(
            f"the artifact is of version {data[len(MAGIC)]}, this package reads version {VERSION}"
        )
    at = len(MAGIC) + 1
    if data[at : at + _SEAL] != _seal(data[at + _SEAL :]):
        raise ValueError("the artifact is damaged: its content differs from its sha256")
    coded, plain = (int.from_bytes(data[i : i + 4], "little") for i in (_FIXED - 8, _FIXED - 4))
    if plain > MAX_HEADER or coded > len(data) - _FIXED:
        raise ValueError(
            f"the artifact declares a header of {coded:,} bytes, {plain:,} decoded; accepted are at most "
            f"{len(data) - _FIXED:,}, and {MAX_HEADER:,} decoded"
        )
    return coded, plain


def _parse(text: bytes) -> Header:
    try:
        rows = json.loads(text)
        for field, cls in (("tensors", Stored), ("sections", Section)):
            rows[field] = [dict(zip(cls.model_fields, row, strict=True)) for row in rows[field]]
        return Header.model_validate_json(json.dumps(rows))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"the artifact's header is not valid at {where}: {first['msg'][:120]}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"the artifact's header is not valid: {type(error).__name__}") from None


def _zlib(plain: bytes) -> bytes:
    return zlib.compress(plain, 9)


def _seal(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_SEAL]
