"""Causal attention over short sequences on a GPU: one program of the kernel holds all scores of a head.

At 128 positions the scores are three tiles of 64 x 64. So keys and values are read once, the
gradients need no second pass to be summed, and dropout's masks, which are arithmetic on the
index (see `dropout`), cost no memory. Flash attention, built for long sequences, took five
times as long for its backward pass as its reads and writes do (H200, 4 heads of 32).

Legend: N sequence of any replica, T position, H head, K head width, R replica.
"""

import functools
from types import SimpleNamespace

import torch
from torch import Tensor

from lmbench.layers.dropout import LEVELS
from lmbench.layers.operator import fold, launched_on, operator

TILE = 64  # positions: one tile of 128 x 128 fills the registers, and took 1.5 times as long
LONGEST = 2 * TILE
WIDEST = 128  # features of a head


def is_short(x_BTHK: Tensor) -> bool:
    """Whether `short_attention` takes queries like these."""
    T, _, K = x_BTHK.shape[-3:]
    # The tensor cores' smallest tile is 16; wider steps than a power of two would be padding.
    fits = 16 <= T <= LONGEST and K <= WIDEST and K >= 16 and K & (K - 1) == 0
    return fits and x_BTHK.device.type == "cuda" and x_BTHK.dtype == torch.bfloat16


def short_attention(qkv_NT3HK: Tensor, key: Tensor, dropped: int) -> Tensor:
    """softmax(q k' / sqrt(K)), dropout, times v, under the causal mask: (N, T, H, K).

    Args:
        qkv_NT3HK: queries, keys and values side by side, bfloat16, contiguous.
        key: of `dropout.keep_mask` for weights of shape (N H, T, T).
        dropped: of 2^16, the share of weights that are set to 0.
    """
    return _forward(qkv_NT3HK, key.view(1), dropped)[0]


@operator("short_attention(Tensor qkv, Tensor keys_R, int dropped) -> (Tensor, Tensor)")
def _forward(qkv: Tensor, keys_R: Tensor, dropped: int) -> tuple[Tensor, Tensor]:
    N, T, _, H, K = qkv.shape
    out, lse = qkv.new_empty(N, T, H, K), qkv.new_empty(N, H, T, dtype=torch.float32)
    _launch(kernels().forward, (qkv.contiguous(), out, lse), keys_R, dropped)
    return out, lse


@_forward.fake
def _(qkv: Tensor, keys_R: Tensor, dropped: int) -> tuple[Tensor, Tensor]:
    N, T, _, H, K = qkv.shape
    return qkv.new_empty(N, T, H, K), qkv.new_empty(N, H, T, dtype=torch.float32)


@operator(
    "short_attention_backward("
    "Tensor grad, Tensor qkv, Tensor out, Tensor lse, Tensor keys_R, int dropped) -> Tensor"
)
def _backward(grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, keys_R: Tensor, dropped: int) -> Tensor:
    d_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    tensors = (qkv.contiguous(), out, lse, grad.contiguous(), d_qkv)
    _launch(kernels().backward, tensors, keys_R, dropped)
    return d_qkv


@_backward.fake
def _(grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, keys_R: Tensor, dropped: int) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _launch(kernel, tensors: tuple[Tensor, ...], keys_R: Tensor, dropped: int) -> None:
    N, T, _, H, K = tensors[0].shape
    block = min(TILE, max(16, 1 << (T - 1).bit_length()))
    numbers = (N // len(keys_R), T, H, K**-0.5, dropped, LEVELS / (LEVELS - dropped))
    shape = {"K": K, "BLOCK": block, "BLOCKS": -(-T // block), "DROPS": dropped > 0}
    with launched_on(keys_R):
        kernel[(N * H,)](*tensors, keys_R.contiguous(), *numbers, **shape, num_warps=4)


def _save(ctx, inputs, output: tuple[Tensor, Tensor]) -> None:
    qkv, keys_R, ctx.dropped = inputs
    ctx.save_for_backward(qkv, *output, keys_R)


def _differentiate(ctx, grad: Tensor, grad_lse: Tensor) -> tuple[Tensor, None, None]:
    return _backward(grad, *ctx.saved_tensors, ctx.dropped), None, None


_forward.autograd(_differentiate, _save)


@_forward.vmap
def _(info, in_dims, qkv: Tensor, keys_R: Tensor, dropped: int) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    R = info.batch_size
    outputs = _forward(fold(qkv, in_dims[0], R), fold(keys_R, in_dims[1], R), dropped)
    return tuple(x.unflatten(0, (R, -1)) for x in outputs), (0, 0)


@_backward.vmap
def _(info, in_dims, *inputs) -> tuple[Tensor, int]:
    R, (*tensors, dropped) = info.batch_size, inputs
    folded = (fold(x, dim, R) for x, dim in zip(tensors, in_dims, strict=False))
    return _backward(*folded, dropped).unflatten(0, (R, -1)), 0


@functools.cache
def kernels() -> SimpleNamespace:
    """The two Triton kernels; made when first asked for, because CPU builds of torch lack Triton."""
    from lmbench.layers import short_kernels

    return SimpleNamespace(forward=short_kernels.forward, backward=short_kernels.backward)
