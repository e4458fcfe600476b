"""The linear recurrence h_t = a_t h_{t-1} + b_t, element by element, without going through it in order.

Two steps of the recurrence are one of the same form, so neighbours are joined pairwise, the
pairs pairwise, and so on: 2 log2(T) kernels of T elements together, and not T kernels (Blelloch
1990, section 1.4; for these models Martin and Cundy 2018). The reverse recurrence, which is
the gradient, is the same sweep from the other end. On a CPU, where starting a kernel costs
little, positions with many elements are gone through in order, which moves less memory.

Legend: B all axes before time, T position, X all axes after it, E any axes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lmbench.layers.operator import fold, operator

# Measured on one core, forward: 16 x 128 x 256 takes 1.0 ms in pairs and 0.9 ms in order, with
# 4,096 features 37 and 17 ms, with 4 x 64 x 128 0.1 and 0.3 ms.
IN_ORDER = 4096
"""Elements of one position from which on a CPU goes in order."""


def linear_scan(a_E: Tensor, b_E: Tensor, *, dim: int = 1, start: Tensor | None = None) -> Tensor:
    """All states h_t = a_t h_{t-1} + b_t, in float32 or better.

    Args:
        a_E: decays, and `b_E` inputs, of one shape with time on axis `dim`.
        start: the state before the first position, in that shape without the axis; None is zero.

    Raises:
        ValueError: shapes that differ.
    """
    if a_E.shape != b_E.shape:
        raise ValueError(f"a and b of a scan must have one shape, but got {_text(a_E)} and {_text(b_E)}")
    dtype = torch.promote_types(torch.promote_types(a_E.dtype, b_E.dtype), torch.float32)
    a_E, b_E, dim = a_E.to(dtype), b_E.to(dtype), dim % b_E.dim()
    if start is not None:
        first, T = a_E.narrow(dim, 0, 1) * start.to(dtype).unsqueeze(dim), b_E.shape[dim]
        b_E = torch.cat((b_E.narrow(dim, 0, 1) + first, b_E.narrow(dim, 1, T - 1)), dim)
    shape = b_E.shape
    folded = (math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :]))
    return _differentiable(a_E.reshape(folded), b_E.reshape(folded), False).view(shape)


def _text(x: Tensor) -> str:
    return f"({', '.join(map(str, x.shape))})"


@operator("linear_scan(Tensor a, Tensor b, bool back) -> Tensor")
def _scan(a_BTX: Tensor, b_BTX: Tensor, back: bool) -> Tensor:
    """The states; with `back` those of the transposed map, g_t = b_t + a_{t+1} g_{t+1}."""
    h_BTX = b_BTX.clone(memory_format=torch.contiguous_format)
    if h_BTX.device.type == "cpu" and h_BTX.shape[0] * h_BTX.shape[2] >= IN_ORDER:
        scan_in_order(a_BTX, h_BTX, back=back)
    else:
        scan_in_pairs(a_BTX, h_BTX, back=back)
    return h_BTX


@_scan.fake
def _(a_BTX: Tensor, b_BTX: Tensor, back: bool) -> Tensor:
    return torch.empty_like(b_BTX, memory_format=torch.contiguous_format)


@_scan.vmap
def _(info, in_dims, a_BTX: Tensor, b_BTX: Tensor, back: bool) -> tuple[Tensor, int]:
    R = info.batch_size
    h_BTX = _scan(fold(a_BTX, in_dims[0], R), fold(b_BTX, in_dims[1], R), back)
    return h_BTX.unflatten(0, (R, -1)), 0


def _save(ctx, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
    a_BTX, _, ctx.back = inputs
    ctx.save_for_backward(a_BTX, output)


def _gradients(ctx, grad_BTX: Tensor) -> tuple[Tensor, Tensor, None]:
    """Of h_t = a_t h_{t-1} + b_t: db_t = dh_t + a_{t+1} db_{t+1} and da_t = db_t h_{t-1}.

    The map and its transpose are each other's gradient, so `back` only swaps the two factors of da.
    """
    a_BTX, done_BTX = ctx.saved_tensors
    db_BTX = _differentiable(a_BTX, grad_BTX, not ctx.back)
    here, before = (done_BTX, db_BTX) if ctx.back else (db_BTX, done_BTX)
    # Before the first position there is no state that its decay could act on.
    return F.pad(here[:, 1:] * before[:, :-1], (0, 0, 1, 0)), db_BTX, None


_scan.autograd(_gradients, _save)


class _Scan(torch.autograd.Function):
    """The operator with its gradient where torch.func.grad may ask for it: it refuses an operator's own."""

    generate_vmap_rule = True
    setup_context, backward = staticmethod(_save), staticmethod(_gradients)

    @staticmethod
    def forward(a_BTX: Tensor, b_BTX: Tensor, back: bool) -> Tensor:
        return _scan(a_BTX, b_BTX, back)


def _differentiable(a_BTX: Tensor, b_BTX: Tensor, back: bool) -> Tensor:
    """`_scan`, for all ways of differentiation: the compiler in turn loses such a class under vmap."""
    scan = _scan if torch.compiler.is_compiling() else _Scan.apply
    return scan(a_BTX, b_BTX, back)


def scan_in_order(a_BTX: Tensor, h_BTX: Tensor, *, back: bool) -> None:
    """Turn inputs into states, in place, one position after the other."""
    T = h_BTX.shape[1]
    for t in range(T - 2, -1, -1) if back else range(1, T):
        if back:
            h_BTX[:, t].addcmul_(a_BTX[:, t + 1], h_BTX[:, t + 1])
        else:
            h_BTX[:, t].addcmul_(a_BTX[:, t], h_BTX[:, t - 1])


def scan_in_pairs(a_BTX: Tensor, h_BTX: Tensor, *, back: bool) -> None:
    """The same by doubling: first sums over ever longer spans, then these handed to what lies between.

    After the first sweep the position that ends a span of length s, at a multiple of s, holds
    the state that the span alone would reach, and `decay` the product over it. The second sweep
    adds what came before the span.
    """
    T = h_BTX.shape[1]
    # Turned around, position t is reached from t + 1 with the decay of t + 1.
    decay_BTX = a_BTX.roll(-1, dims=1) if back else a_BTX.clone()
    spans = [2**k for k in range((T - 1).bit_length())]
    for span in spans:
        late, early = _every(2 * span - 1, span, T, back)
        h_BTX[:, late].addcmul_(decay_BTX[:, late], h_BTX[:, early])
        decay_BTX[:, late].mul_(decay_BTX[:, early])
    for span in reversed(spans):
        late, early = _every(3 * span - 1, span, T, back)
        h_BTX[:, late].addcmul_(decay_BTX[:, late], h_BTX[:, early])


def _every(first: int, span: int, T: int, back: bool) -> tuple[slice, slice]:
    """Positions first, first + 2 span, ... below T and those a span before; `back` counts from the end."""
    count = max(-(-(T - first) // (2 * span)), 0)
    if not count:
        return slice(0, 0), slice(0, 0)
    last = first + 2 * span * (count - 1)
    if not back:
        return slice(first, last + 1, 2 * span), slice(first - span, last - span + 1, 2 * span)
    low, high = T - 1 - last, T - 1 - first
    return slice(low, high + 1, 2 * span), slice(low + span, high + span + 1, 2 * span)
