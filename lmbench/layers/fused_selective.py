"""The selective scan on a GPU: one kernel forward, two backward.

In plain operations decays, inputs and states of all positions are written and read a dozen times
each way, and at these sizes nothing else of a model takes as long. Here a program of the kernel
goes through a sequence with the states of some features in registers; the backward pass makes the
states again and writes them down once (Gu and Dao 2023, section 3.3.2).

Legend: R replica, B batch, T position, D feature, N state, F block of features.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lmbench.layers.cost import matmul
from lmbench.layers.operator import fold, launched_on, operator, with_gradient

ELEMENTS = 512  # states in the registers of each instance of the kernel


def is_fused(x: Tensor) -> bool:
    """Whether `fused_selective_scan` takes x. A trace (fvcore's) cannot look into it."""
    return x.is_cuda and not torch.jit.is_tracing()


def fused_selective_scan(dt_BTD: Tensor, x_BTD: Tensor, A_DN: Tensor, B_BTN: Tensor, C_BTN: Tensor) -> Tensor:
    """See `selective.selective_scan`; gradients are of the first order only."""
    return _differentiable(*(x.unsqueeze(0) for x in (dt_BTD, x_BTD, A_DN, B_BTN, C_BTN)))[0]


def readout_formulas() -> dict[Any, Callable[..., int]]:
    """For torch's FLOP counter, see `fused.flop_formulas`: what the plain form has as products."""

    def forward(dt: torch.Size, x: torch.Size, A: torch.Size, *others: torch.Size, out_shape: object) -> int:
        R, B, T, D = x
        return R * B * T * matmul(D, inner=A[-1], columns=1)  # states times C

    def backward(grad: torch.Size, *inputs: torch.Size, out_shape: object) -> int:
        return 2 * forward(*inputs, out_shape=out_shape)  # of the states, and of C

    ours = torch.ops.lmbench
    return {ours.selective_scan: forward, ours.selective_scan_backward: backward}


@operator("selective_scan(Tensor dt, Tensor x, Tensor A, Tensor B, Tensor C) -> Tensor")
def _forward(dt_RBTD: Tensor, x_RBTD: Tensor, A_RDN: Tensor, B_RBTN: Tensor, C_RBTN: Tensor) -> Tensor:
    return _launched(dt_RBTD, x_RBTD, A_RDN, B_RBTN, C_RBTN, kept=False)


@_forward.fake
def _(dt: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@_forward.vmap
def _(info, in_dims, *inputs: Tensor) -> tuple[Tensor, int]:
    folded = (fold(x, dim, info.batch_size) for x, dim in zip(inputs, in_dims, strict=True))
    return _forward(*folded).unflatten(0, (info.batch_size, -1)), 0


@operator(
    "selective_scan_backward(Tensor grad, Tensor dt, Tensor x, Tensor A, Tensor B, Tensor C)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
def _backward(grad: Tensor, dt: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, ...]:
    from lmbench.layers import selective_kernel

    inputs = [one.contiguous() for one in (dt, x, A, B, C)]
    h_RBTDN = _launched(*inputs, kept=True)
    (R, B_, T, D), N = x.shape, A.shape[-1]
    grid, numbers, sizes = _layout(x, A)
    d_dt, d_x = torch.empty_like(inputs[0]), torch.empty_like(inputs[1])
    d_A_RBDN = x.new_empty(R, B_, D, N)
    d_B_RBFTN, d_C_RBFTN = (x.new_empty(R, B_, grid[1], T, N) for _ in range(2))
    with launched_on(x):
        selective_kernel.backward[grid](
            grad.contiguous(), *inputs, h_RBTDN, d_dt, d_x, d_A_RBDN, d_B_RBFTN, d_C_RBFTN, *numbers,
            **sizes, num_warps=1,
        )  # fmt: skip
    return d_dt, d_x, d_A_RBDN.sum(1), d_B_RBFTN.sum(2), d_C_RBFTN.sum(2)


@_backward.fake
def _(grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(one.new_empty(one.shape) for one in inputs)


@_backward.vmap
def _(info, in_dims, *inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    n = info.batch_size
    found = _backward(*(fold(x, dim, n) for x, dim in zip(inputs, in_dims, strict=True)))
    return tuple(x.unflatten(0, (n, -1)) for x in found), (0,) * len(found)


def _launched(dt: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor, *, kept: bool) -> Tensor:
    """What is read out (R, B, T, D), or the states (R, B, T, D, N)."""
    from lmbench.layers import selective_kernel

    inputs = [one.contiguous() for one in (dt, x, A, B, C)]
    out = x.new_empty(*x.shape, A.shape[-1]) if kept else x.new_empty(x.shape)
    grid, numbers, sizes = _layout(x, A)
    with launched_on(x):
        selective_kernel.forward[grid](*inputs, out, *numbers, **sizes, KEPT=kept, num_warps=1)
    return out


def _layout(x: Tensor, A: Tensor) -> tuple[tuple[int, int], tuple[int, int, int], dict[str, int]]:
    """Instances (sequences, blocks of features), the kernels' numbers, and their sizes."""
    (R, B, T, D), N = x.shape, A.shape[-1]
    padded = 1 << (N - 1).bit_length()
    features = max(1, ELEMENTS // padded)
    return (R * B, -(-D // features)), (T, D, B), {"STATES": N, "PADDED": padded, "FEATURES": features}


def _save(ctx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx, grad: Tensor) -> tuple[Tensor, ...]:
    return _backward(grad, *ctx.saved_tensors)


_differentiable = with_gradient(_forward, _gradients, _save)
