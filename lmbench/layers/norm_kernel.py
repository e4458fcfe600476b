"""Triton kernels of `fused_norm`: root-mean-square norm and rotary turn of rows, in one pass.

Imported where they are launched and nowhere else, because CPU builds of torch lack Triton.
"""

import triton
import triton.language as tl


@triton.jit
def _rows(base, row, column, inside, outer, inner, n_inner):
    """Rows of a tensor (n_outer, n_inner, width) whose last axis is contiguous, float32."""
    place = base + (row // n_inner).to(tl.int64) * outer + (row % n_inner) * inner
    return tl.load(place[:, None] + column[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _turned(x, other, cos, sin, row, column, inside, n_inner, T, WIDTH: tl.constexpr):
    """x cos + other sin, by the position that the row stands at."""
    place = ((row // n_inner) % T)[:, None] * WIDTH + column[None, :]
    return x * tl.load(cos + place, mask=inside, other=0.0) + other * tl.load(
        sin + place, mask=inside, other=0.0
    )


@triton.jit
def forward(
    x, out, cos, sin, n_rows, n_inner, T, outer, inner, eps,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, NORM: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    """out (contiguous) = turn(norm(x))."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, PADDED)
    inside = (row < n_rows)[:, None] & (column < WIDTH)[None, :]
    value = _rows(x, row, column, inside, outer, inner, n_inner)
    scale = tl.full((ROWS,), 1.0, tl.float32)
    if NORM:
        scale = tl.rsqrt(tl.sum(value * value, axis=1) / WIDTH + eps)
    value = value * scale[:, None]
    if TURN:
        rolled = (column + WIDTH // 2) % WIDTH
        other = _rows(x, row, rolled, inside, outer, inner, n_inner) * scale[:, None]
        value = _turned(value, other, cos, sin, row, column, inside, n_inner, T, WIDTH)
    place = out + row.to(tl.int64)[:, None] * WIDTH + column[None, :]
    tl.store(place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def backward(
    x, grad, out, cos, sin, n_rows, n_inner, T, outer, inner, eps,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, NORM: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    """out (contiguous) = the gradient of x, from that of the result (contiguous)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, PADDED)
    inside = (row < n_rows)[:, None] & (column < WIDTH)[None, :]
    first = row.to(tl.int64)[:, None] * WIDTH
    back = tl.load(grad + first + column[None, :], mask=inside, other=0.0).to(tl.float32)
    if TURN:  # the transposed turn: each half gives back what it took from the other
        rolled = (column + WIDTH // 2) % WIDTH
        other = tl.load(grad + first + rolled[None, :], mask=inside, other=0.0).to(tl.float32)
        place = ((row // n_inner) % T)[:, None] * WIDTH
        here = tl.load(cos + place + column[None, :], mask=inside, other=0.0)
        there = tl.load(sin + place + rolled[None, :], mask=inside, other=0.0)
        back = back * here + other * there
    if NORM:
        value = _rows(x, row, column, inside, outer, inner, n_inner)
        scale = tl.rsqrt(tl.sum(value * value, axis=1) / WIDTH + eps)
        unit = value * scale[:, None]
        back = (back - unit * (tl.sum(back * unit, axis=1) / WIDTH)[:, None]) * scale[:, None]
    tl.store(out + first + column[None, :], back.to(out.dtype.element_ty), mask=inside)
