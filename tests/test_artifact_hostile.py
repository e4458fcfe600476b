"""Artifacts that are damaged or made to harm: one sentence, and never more memory than allowed."""

import hashlib
import json
import re
import resource
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch

from lmbench.config import kinds, make
from lmbench.measure.artifact import Coding, load, pack, unpack
from lmbench.measure.artifact.coders import smallest
from lmbench.measure.artifact.format import _FIXED, MAX_HEADER
from lmbench.measure.artifact.hostile import shapes_of, trusted_config
from lmbench.models.base import ModelConfig, seeded


def config() -> ModelConfig:
    return make(
        "model", "transformer_modern", d_model=4, n_layer=1, n_head=1, seq_len=4, vocab_size=5, d_ff=4
    )


@cache
def artifact() -> bytes:
    """With every kind of section: codes of three widths, masks, scales, floats, a tokenizer."""
    generator = torch.Generator().manual_seed(0)
    weights, codings = {}, {}
    for at, (name, p) in enumerate(seeded(config(), init_seed=0).named_parameters()):
        weights[name] = p.detach().clone()
        if p.dim() == 2:
            bits = (1.58, 4, 8)[at % 3]
            most = 1 if bits == 1.58 else 2 ** (bits - 1) - 1
            codes = torch.randint(-most, most + 1, p.shape, generator=generator).float()
            codes *= torch.rand(p.shape, generator=generator) < 0.4
            codes[0, 0] = most
            weights[name], codings[name] = 0.5 * codes, Coding(bits, "tensor")
    return pack(config(), weights=weights, codings=codings, tokenizer=b"a" * 9, coders=("none", "zlib")).data


def sealed(data: bytes) -> bytes:
    """The file with the seal that belongs to its content."""
    return data[:5] + hashlib.sha256(data[21:]).digest()[:16] + data[21:]


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header, and the sections behind it."""
    end = _FIXED + int.from_bytes(data[21:25], "little")
    return json.loads(zlib.decompress(data[_FIXED:end])), data[end:]


def changed(change: Callable[[dict[str, Any]], None]) -> bytes:
    """The artifact with another header, and a seal that fits."""
    header, sections = header_of(artifact())
    change(header)
    text = json.dumps(header).encode()
    coded = zlib.compress(text)
    lengths = len(coded).to_bytes(4, "little") + len(text).to_bytes(4, "little")
    return sealed(artifact()[:21] + lengths + coded + sections)


def refused(data: bytes, *, match: str | None = None) -> None:
    with pytest.raises(ValueError, match=match):
        unpack(data, max_bytes=1 << 24)


@contextmanager
def little_memory(most: int = 100_000_000) -> Iterator[None]:
    """Inside, this process takes no more bytes than that, those of torch's modules and tensors included."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert 1024 * grown < most  # Linux counts kilobytes


def test_a_flip_of_any_byte_is_noticed() -> None:
    data = artifact()
    for at in range(len(data)):
        refused(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])


def test_a_file_cut_off_anywhere_is_refused_also_with_the_right_seal() -> None:
    data = artifact()
    for at in range(len(data)):
        refused(data[:at])
        if at > 21:
            refused(sealed(data[:at]))
    refused(data + b"x")
    refused(sealed(data + b"x"), match="sections declare .* bytes, .* follow")


def test_a_flip_under_the_right_seal_is_refused_or_loads_a_model_of_finite_weights() -> None:
    data, accepted = artifact(), 0
    for at in range(5, len(data)):
        try:
            found = unpack(sealed(data[:at] + bytes([data[at] ^ 0x81]) + data[at + 1 :]), max_bytes=1 << 24)
        except ValueError:
            continue
        accepted += 1
        assert all(torch.isfinite(weight).all() for weight in found.weights.values())
        assert found.model == config()
    assert accepted  # other codes are other weights, which a seal that fits makes as good as any


def test_a_file_of_something_else_or_of_another_version_says_so() -> None:
    refused(b"PK\x03\x04" + bytes(100), match="this is no artifact: it starts with b'PK")
    refused(b"", match="this is no artifact")
    refused(b"LMBA\x01", match="cut off: 5 bytes, its frame alone has 29")
    refused(artifact()[:4] + b"\x02" + artifact()[5:], match="is of version 2, this package reads version 1")


PATHS = ("model", "methods", "codings", "tensors", "sections")
WRONG = (None, -1, 1 << 20, 1 << 70, "x", [], {}, True, float("nan"), [["x"] * 4])


@pytest.mark.parametrize("part", PATHS)
@pytest.mark.parametrize("value", WRONG, ids=str)
def test_a_part_of_the_header_of_another_kind_is_refused(part: str, value: object) -> None:
    if (part, value) != ("methods", []):  # the artifact has none
        refused(changed(lambda header: header.update({part: value})))
    refused(changed(lambda header: header.pop(part)))


@pytest.mark.parametrize("row", ["tensors", "sections", "codings"])
@pytest.mark.parametrize("value", [None, -1, 1 << 20, 1 << 70, "x", [], 1.5], ids=str)
def test_a_field_of_a_row_of_another_kind_or_size_is_refused(row: str, value: object) -> None:
    for column in range(len(header_of(artifact())[0][row][0])):
        if row == "codings" and column == 1 and value == 1 << 20:
            continue  # a group larger than any row is a row

        def change(header: dict[str, Any], column: int = column) -> None:
            header[row][0][column] = value

        refused(changed(change))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"n_layer": 10**9}, "the config holds 1000000000, in an artifact such a number is at most 256"),
        ({"n_layer": 3e8}, "the config holds 300000000.0, in an artifact such a number is at most 256"),
        ({"n_layer": 1e9}, "the config holds 1000000000.0, in an artifact such a number is at most 256"),
        ({"n_layer": "1000000000"}, "holds '1000000000', in an artifact a number is not written as text"),
        ({"n_layer": " 3e8"}, "holds ' 3e8', in an artifact a number is not written as text"),
        ({"n_layer": [1e9]}, "the config holds 1000000000.0, in an artifact such a number is at most 256"),
        ({"d_model": float("nan")}, "the config holds nan, in an artifact such a number is at most"),
        ({"d_model": float("-inf")}, "the config holds -inf, in an artifact such a number is at most"),
        ({"n_layer": 256}, "more parts than its [0-9]+ tensors can fill"),
        ({"d_model": 1 << 30}, "the config holds 1073741824, .* at most 1,048,576"),
        ({"d_model": 1 << 18}, "takes [0-9,]+ bytes, more than max_bytes = 16,777,216"),
        ({"seq_len": 1 << 20, "positions": "learned"}, "takes [0-9,]+ bytes, more than max_bytes"),
        ({"d_model": 6}, "the artifact's section .* declares"),
        ({"kind": "no_model"}, "unknown model 'no_model'"),
        ({"kind": "lstm"}, "unknown field of model 'lstm'"),
        ({"version": 99}, "was written as version 99"),
        ({"kind": "huggingface", "path": "/etc"}, "needs a folder beside the artifact"),
    ],
)
def test_a_model_too_large_or_unknown_is_refused_before_it_is_built(
    fields: dict[str, object], message: str
) -> None:
    data = changed(lambda header: header["model"].update(fields))
    with little_memory():
        refused(data, match=message)


def test_no_model_is_built_with_a_count_without_end_in_any_form() -> None:
    counts = [
        (kind, field)
        for kind, cls in kinds("model").items()
        for field in cls.model_fields
        if field.startswith("n_")
    ]
    assert {"moe", "ssm", "hybrid", "integrator"} <= {kind for kind, _ in counts}
    with little_memory():
        for kind, field in counts:
            for value in (10**9, 1e9, "1000000000", "1e9", 3e8):
                with pytest.raises(ValueError, match="in an artifact"):
                    shapes_of(trusted_config("model", {"kind": kind, field: value}), max_bytes=1 << 24)


def test_no_method_may_name_a_folder_either() -> None:
    teacher = {"kind": "huggingface", "path": "/etc"}
    refused(
        changed(lambda header: header.update(methods=[{"kind": "x", "teacher": teacher}])), match="folder"
    )


def test_a_section_that_expands_beyond_its_length_is_stopped() -> None:
    header, sections = header_of(artifact())
    at = [row[0] for row in header["sections"]].index("float32")
    before = sum(row[2] for row in header["sections"][:at])
    bomb = smallest(bytes(50_000_000), coders=("zlib",))[1]
    after = sections[before + header["sections"][at][2] :]
    header["sections"][at][1:3] = ["zlib", len(bomb)]
    text = json.dumps(header).encode()
    coded = zlib.compress(text)
    data = artifact()[:21] + len(coded).to_bytes(4, "little") + len(text).to_bytes(4, "little") + coded
    data = sealed(data + sections[:before] + bomb + after)
    tracemalloc.start()
    try:
        refused(data, match="coded by zlib declares [0-9]+ bytes but holds more than")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_header_that_expands_without_end_is_refused() -> None:
    coded = zlib.compress(bytes(50_000_000), 9)
    for declared in (100, 50_000_000):
        lengths = len(coded).to_bytes(4, "little") + declared.to_bytes(4, "little")
        refused(sealed(artifact()[:21] + lengths + coded), match="declares")
    assert MAX_HEADER < 50_000_000


def test_nesting_without_end_is_refused() -> None:
    text = b'{"model":' + b"[" * 200_000
    coded = zlib.compress(text)
    lengths = len(coded).to_bytes(4, "little") + len(text).to_bytes(4, "little")
    refused(sealed(artifact()[:21] + lengths + coded), match="the artifact's header is not valid")


def test_more_decoded_bytes_than_allowed_are_refused() -> None:
    with pytest.raises(ValueError, match="declares [0-9,]+ bytes decoded, more than max_bytes = 100"):
        unpack(artifact(), max_bytes=100)


def test_sections_that_no_tensor_needs_are_refused() -> None:
    refused(
        changed(lambda header: header["sections"].append(["rows", "none", 0, 0])),
        match="the artifact's sections are not those that its tensors need",
    )
    refused(
        changed(lambda header: header["sections"].append(["elsewhere", "none", 0, 0])),
        match="a section 'elsewhere', which no artifact has",
    )
    refused(changed(lambda header: header["sections"].append(header["sections"][0])))


def test_tensors_of_another_model_are_refused() -> None:
    def renamed(header: dict[str, Any]) -> None:
        header["tensors"][0][0] = "other"

    message = "the artifact's tensors are not those of its model transformer_modern"
    refused(changed(renamed), match=re.escape(message))
    refused(changed(lambda header: header["tensors"].pop()), match=re.escape(message))
    refused(changed(lambda header: header["tensors"].reverse()), match=re.escape(message))


def test_the_artifact_of_these_tests_is_itself_accepted() -> None:
    assert unpack(changed(lambda header: None)).tokenizer == b"a" * 9
    tokens_BT = torch.zeros(1, 4, dtype=torch.long)
    assert torch.isfinite(load(artifact())(tokens_BT).logits_BTV).all()
