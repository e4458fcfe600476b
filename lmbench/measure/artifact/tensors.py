"""How a tensor is kept: as codes of a few bits or as floats, all of them or the nonzero ones alone.

Three forms, the smallest after entropy coding is taken, and all three are reported:

    dense   every value
    mask    one bit per value for "is not zero", and the nonzero values; entropy coding takes the bits
            to H(density), 0.469 each at density 0.1
    csr16   for each row how many, and for each nonzero value its column, 16 bits each

Values of all tensors that are of one sort follow each other in one stream ("codes/4", "masks",
"float32"), in the order of the tensors. Three-valued codes without their zeros are signs: 1 bit.

Legend: N values, M nonzero values, G groups, R rows.
"""

import math
from typing import NamedTuple

import numpy as np

from lmbench.measure.artifact.coding import FLOATS, Coding
from lmbench.measure.artifact.lattice import OffGrid, code_range, find_grid

FORMS = ("dense", "mask", "csr16")
_WIDEST_ROW = 2**16 - 1  # columns that a csr16 index and count can tell


class Coded(NamedTuple):
    """One tensor as whole numbers and scales, or as floats, before a form is chosen."""

    values_N: np.ndarray
    """Codes, int16, or floats."""
    scales_G: np.ndarray
    """Of the coding's type; empty for floats."""
    shape: tuple[int, ...]

    @property
    def n_nonzero(self) -> int:
        """Values that are not zero."""
        return int(np.count_nonzero(self.values_N))


def code(name: str, *, values: np.ndarray, coding: Coding) -> Coded:
    """Codes and scales of a float32 tensor of any shape, found from its values.

    Raises:
        ValueError: values on no grid of the coding, or beyond the range of its floats.
    """
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite, which cannot be packed")
    if coding.is_float:
        with np.errstate(over="ignore"):  # refused below, by name
            kept = values.reshape(-1).astype(FLOATS[int(coding.bits)])
        if not np.isfinite(kept).all():
            raise ValueError(
                f"{name} holds {np.abs(values).max():g}, beyond the range of float16; keep float32"
            )
        return Coded(kept, np.empty(0, np.float32), values.shape)
    try:
        scales_G, codes_GN = find_grid(_grouped(values, coding), bits=coding.bits)
    except OffGrid as error:
        raise ValueError(
            f"{name} is not quantised to {coding.bits:g} bits per {_per(coding)}: {error}; quantise it, "
            "or keep it in 16 or 32 bits"
        ) from None
    with np.errstate(over="ignore"):
        kept_G = scales_G.astype(coding.scales)
    if coding.scales == "float16" and not np.allclose(
        kept_G.astype(np.float32), scales_G, rtol=2**-10, atol=0
    ):
        raise ValueError(f"{name} has scales beyond the range of float16; take scales = 'float32'")
    return Coded(_ungrouped(codes_GN, values.shape, coding), kept_G, values.shape)


def weights_of(coded: Coded, coding: Coding) -> np.ndarray:
    """The float32 tensor that is loaded: scale times code in float32."""
    if coding.is_float:
        return coded.values_N.astype(np.float32).reshape(coded.shape)
    codes_GN = _grouped(coded.values_N.reshape(coded.shape), coding).astype(np.float32)
    made_GN = codes_GN * coded.scales_G.astype(np.float32)[:, None]
    return _ungrouped(made_GN, coded.shape, coding).reshape(coded.shape)


# ------------------------------------------------------------------ forms


def forms_of(coded: Coded, coding: Coding) -> tuple[str, ...]:
    """The forms that can hold a tensor: without zeros only dense; one bit and zeros only without them."""
    n_zero = len(coded.values_N) - coded.n_nonzero
    if not n_zero:
        return ("dense",)
    rest = FORMS[1:] if coded.shape and coded.shape[-1] <= _WIDEST_ROW else FORMS[1:2]
    return rest if coding.bits == 1 else ("dense", *rest)


def pieces(coded: Coded, coding: Coding, *, form: str) -> dict[str, np.ndarray]:
    """What the tensor adds to each stream, by the stream's name."""
    is_kept_N = coded.values_N != 0
    values = coded.values_N if form == "dense" else coded.values_N[is_kept_N]
    found = {coding.value_key(form): values if coding.is_float else _unsigned(values, coding, form)}
    if len(coded.scales_G):
        found[f"scales/{coding.scales}"] = coded.scales_G
    if form == "mask":
        found["masks"] = is_kept_N.astype(np.uint8)
    if form == "csr16":
        is_kept_RC = is_kept_N.reshape(-1, coded.shape[-1])
        found["rows"] = is_kept_RC.sum(axis=1).astype(np.uint16)
        found["columns"] = np.nonzero(is_kept_RC)[1].astype(np.uint16)
    return found


def lengths(shape: tuple[int, ...], coding: Coding, *, form: str, nonzero: int) -> dict[str, int]:
    """How many values the tensor takes from each stream."""
    n = math.prod(shape)
    found = {coding.value_key(form): n if form == "dense" else nonzero}
    if coding.n_scales(shape):
        found[f"scales/{coding.scales}"] = coding.n_scales(shape)
    if form == "mask":
        found["masks"] = n
    if form == "csr16":
        found["rows"] = n // shape[-1] if n else 0
        found["columns"] = nonzero
    return found


def assemble(taken: dict[str, np.ndarray], shape: tuple[int, ...], coding: Coding, *, form: str) -> Coded:
    """The inverse of `pieces`.

    Raises:
        ValueError: a mask or columns that do not fit the values.
    """
    values = taken[coding.value_key(form)]
    values = values if coding.is_float else _signed(values, coding, form)
    scales_G = taken.get(f"scales/{coding.scales}", np.empty(0, np.float32))
    if form == "dense":
        return Coded(values, scales_G, shape)
    n = math.prod(shape)
    at_M = np.flatnonzero(taken["masks"]) if form == "mask" else _places(taken, shape)
    if len(at_M) != len(values):
        raise ValueError(f"it has {len(values):,} values, but places for {len(at_M):,}")
    whole_N = np.zeros(n, dtype=values.dtype)
    whole_N[at_M] = values
    return Coded(whole_N, scales_G, shape)


def _places(taken: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    columns_M, rows_R = taken["columns"].astype(np.int64), taken["rows"].astype(np.int64)
    if rows_R.sum() != len(columns_M) or (columns_M >= shape[-1]).any():
        raise ValueError("its rows and columns do not fit its shape")
    return np.repeat(np.arange(len(rows_R)) * shape[-1], rows_R) + columns_M


def _unsigned(codes_N: np.ndarray, coding: Coding, form: str) -> np.ndarray:
    if coding.value_key(form) == "codes/1":
        return (codes_N > 0).astype(np.uint8)
    return (codes_N - code_range(coding.bits)[0]).astype(np.uint8)


def _signed(codes_N: np.ndarray, coding: Coding, form: str) -> np.ndarray:
    if coding.value_key(form) == "codes/1":
        return codes_N.astype(np.int16) * 2 - 1
    return codes_N.astype(np.int16) + code_range(coding.bits)[0]


# ------------------------------------------------------------------ groups


def _grouped(values: np.ndarray, coding: Coding) -> np.ndarray:
    """(G, N), a short last group filled with zeros."""
    if not values.size:
        return values.reshape(0, 1)
    if coding.granularity == "tensor":
        return values.reshape(1, -1)
    rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
    if coding.granularity == "row":
        return rows
    size = min(coding.granularity, rows.shape[1])
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % size)))
    return padded.reshape(-1, size)


def _ungrouped(values_GN: np.ndarray, shape: tuple[int, ...], coding: Coding) -> np.ndarray:
    """(N,) in the order of the tensor, without the filling."""
    if coding.granularity in ("row", "tensor") or not math.prod(shape):
        return values_GN.reshape(-1)
    width = shape[-1] if shape else 1
    size = min(coding.granularity, width)
    return values_GN.reshape(-1, -(-width // size) * size)[:, :width].reshape(-1)


def _per(coding: Coding) -> str:
    return coding.granularity if isinstance(coding.granularity, str) else f"group of {coding.granularity}"
