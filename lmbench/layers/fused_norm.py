"""Root-mean-square norm without gain and rotary turn, each or both in one kernel, on a GPU.

In plain operations the two take ten kernels a layer forward and more backward, and torch's
norm gives a whole block of threads to a row, which for heads of 32 features is seven eighths
idle. A compiler fuses them too; this is for programs too short to be compiled.

Legend: N outer row (a sequence's position), P inner row (a head), K width, T position.
"""

import torch
from torch import Tensor

from lmbench.layers.operator import launched_on, operator

ELEMENTS = 4096  # of each instance of the kernel


def is_fused(x: Tensor) -> bool:
    """Whether `norm_and_turn` takes x and would be faster than plain operations."""
    is_known = x.device.type == "cuda" and x.dtype in (torch.bfloat16, torch.float32)
    return is_known and x.shape[-1] <= ELEMENTS and not torch.compiler.is_compiling()


def norm_and_turn(
    x_BTPK: Tensor, cos_TK: Tensor | None, sin_TK: Tensor | None, *, normed: bool, eps: float
) -> Tensor:
    """turn(norm(x)) over the last axis, contiguous, in the dtype of x.

    Args:
        x_BTPK: (..., T, P, K); the last axis is contiguous.
        cos_TK: of `positions.Rotary`, with its `sin_TK`; None leaves out the turn.
        normed: False leaves out the norm.
    """
    empty = x_BTPK.new_empty(0, dtype=torch.float32)
    cos, sin = (empty, empty) if cos_TK is None or sin_TK is None else (cos_TK, sin_TK)
    return _forward(x_BTPK, cos, sin, normed, eps)


@operator("norm_and_turn(Tensor x, Tensor cos, Tensor sin, bool normed, float eps) -> Tensor")
def _forward(x: Tensor, cos: Tensor, sin: Tensor, normed: bool, eps: float) -> Tensor:
    from lmbench.layers import norm_kernel

    x, out = _rows(x), torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(norm_kernel.forward, x, (out,), cos, sin, normed, eps)
    return out


@_forward.fake
def _(x: Tensor, cos: Tensor, sin: Tensor, normed: bool, eps: float) -> Tensor:
    return x.new_empty(x.shape)


@operator(
    "norm_and_turn_backward(Tensor grad, Tensor x, Tensor cos, Tensor sin, bool normed, float eps) -> Tensor"
)
def _backward(grad: Tensor, x: Tensor, cos: Tensor, sin: Tensor, normed: bool, eps: float) -> Tensor:
    from lmbench.layers import norm_kernel

    x, out = _rows(x), torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(norm_kernel.backward, x, (grad.contiguous(), out), cos, sin, normed, eps)
    return out


@_backward.fake
def _(grad: Tensor, x: Tensor, cos: Tensor, sin: Tensor, normed: bool, eps: float) -> Tensor:
    return x.new_empty(x.shape)


def _rows(x: Tensor) -> Tensor:
    """x where all axes but the last two are one stride apart, else a copy."""
    lead = [x.stride(at) == x.stride(at + 1) * x.shape[at + 1] for at in range(x.ndim - 3)]
    return x if all(lead) and x.stride(-1) == 1 else x.contiguous()


def _launch(
    kernel, x: Tensor, others: tuple[Tensor, ...], cos: Tensor, sin: Tensor, normed: bool, eps: float
):
    (T, P, K), n_rows = x.shape[-3:], x.numel() // x.shape[-1]
    padded = 1 << (K - 1).bit_length()
    rows = max(1, ELEMENTS // padded)
    with launched_on(x):
        kernel[(-(-n_rows // rows),)](
            x, *others, cos, sin, n_rows, P, T, x.stride(-3), x.stride(-2), eps,
            WIDTH=K, PADDED=padded, ROWS=rows, NORM=normed, TURN=cos.numel() > 0, num_warps=4,
        )  # fmt: skip


def _save(ctx, inputs, output: Tensor) -> None:
    x, cos, sin, ctx.normed, ctx.eps = inputs
    ctx.save_for_backward(x, cos, sin)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
    return _backward(grad, *ctx.saved_tensors, ctx.normed, ctx.eps), None, None, None, None


_forward.autograd(_differentiate, _save)


# Replicas are one more leading axis, and positions do not differ between them.
@_forward.vmap
def _(info, in_dims, x: Tensor, cos: Tensor, sin: Tensor, normed: bool, eps: float) -> tuple[Tensor, int]:
    return _forward(x.movedim(in_dims[0], 0), cos, sin, normed, eps), 0


@_backward.vmap
def _(info, in_dims, grad: Tensor, x: Tensor, cos: Tensor, sin: Tensor, normed: bool, eps: float):
    grad, x = (
        one.unsqueeze(0).expand(info.batch_size, *one.shape) if dim is None else one.movedim(dim, 0)
        for one, dim in zip((grad, x), in_dims[:2], strict=True)
    )
    return _backward(grad, x, cos, sin, normed, eps), 0
