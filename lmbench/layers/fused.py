"""Fused causal attention that runs under vmap: replicas fold into the batch, and one kernel serves all.

torch's own fused kernels have no batching rule that keeps them (the backward of flash
attention refuses the layout it is given under vmap, or falls back to forming the weights).
Here the forward and the backward pass are operators of their own, with a rule that folds the
stacked axis into the batch. Below them are torch's kernels, chosen by device and dtype:

    CPU, long sequences     flash attention
    CUDA, bfloat16          flash attention
    CUDA, float32           memory-efficient attention

Elsewhere (short sequences on the CPU, float64 on CUDA, MPS) the weights are formed.

Legend: B batch, H head, T position, K head width. Source: Dao et al. 2022 (flash attention).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lmbench.layers.cost import matmul
from lmbench.layers.fused_selective import readout_formulas
from lmbench.layers.grouped import product_formulas
from lmbench.layers.operator import fold, operator

aten = torch.ops.aten
# Measured on one core, 16 x 4 heads x 128 positions, forward and backward: forming the weights
# takes 5.4 ms in float32 and 3.1 ms in bfloat16, flash attention 6.0 and 20. At 256
# positions the two are level in float32, at 1,024 flash attention wins in both.
SHORT = 256
MULTIPLE = 8  # CUDA's kernels want head widths of whole 16-byte words


def has_kernel(q_BHTK: Tensor) -> bool:
    """Whether a fused kernel is there, and faster than forming the weights."""
    if q_BHTK.device.type == "cuda":
        return q_BHTK.dtype in (torch.bfloat16, torch.float32) and q_BHTK.shape[-1] % MULTIPLE == 0
    return q_BHTK.device.type == "cpu" and q_BHTK.shape[-2] > SHORT


def fused_attention(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
    """softmax(q k' / sqrt(K)) v under the causal mask: (B, T, H, K), contiguous."""
    return _forward(q_BHTK, k_BHTK, v_BHTK)[0]


def flop_formulas() -> dict[Any, Callable[..., int]]:
    """For torch's FLOP counter, which cannot see into an operator: FLOPs from the shapes of its arguments.

    All T^2 pairs are counted, as where the weights are formed; the scores that the backward pass
    forms again are recomputation and left out. So is a triangular solve, which torch counts as
    nothing, as the product with the dense inverse; autograd makes one more of its backward pass,
    and one product.
    """

    def forward(q_BHTK: torch.Size, *others: torch.Size, out_shape: object) -> int:
        B, H, T, K = q_BHTK
        return 2 * B * H * matmul(T, inner=K, columns=T)  # scores; mixed values

    def backward(grad_BTHK: torch.Size, *others: torch.Size, out_shape: object) -> int:
        B, T, H, K = grad_BTHK
        return 4 * B * H * matmul(T, inner=K, columns=T)  # of weights, values, queries and keys

    def solve(
        triangle: torch.Size, right: torch.Size, *, upper: bool, unitriangular: bool, out_shape: object
    ) -> int:
        *batch, rows, columns = right
        return math.prod(batch) * matmul(rows, inner=rows, columns=columns)

    ours = torch.ops.lmbench
    return (
        {
            ours.causal_attention: forward,
            ours.causal_attention_backward: backward,
            aten.linalg_solve_triangular: solve,
        }
        | product_formulas()
        | readout_formulas()
    )


@operator("causal_attention(Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor)")
def _forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Mixed values (B, T, H, K) and the log-sum-exp of the scores, which the backward pass needs."""
    if q.device.type == "cpu":
        mixed, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)
    elif q.dtype == torch.bfloat16:
        mixed, lse = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True)[:2]
    else:
        mixed, lse = aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, True)[:2]
    return mixed.transpose(1, 2).contiguous(), lse.contiguous()


@_forward.fake
def _(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    B, H, T, K = q.shape
    rows = T if q.device.type != "cuda" or q.dtype == torch.bfloat16 else -(-T // 32) * 32
    lse_dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty(B, T, H, K), q.new_empty(B, H, rows, dtype=lse_dtype)


@operator(
    "causal_attention_backward("
    "Tensor grad, Tensor q, Tensor k, Tensor v, Tensor mixed, Tensor lse) -> (Tensor, Tensor, Tensor)"
)
def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, mixed: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, each (B, H, T, K) and contiguous in the order (B, T, H, K)."""
    grad, mixed = grad.transpose(1, 2), mixed.transpose(1, 2)
    if q.device.type == "cpu":
        grads = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, mixed, lse, 0.0, True
        )
    elif q.dtype == torch.bfloat16:
        T = q.shape[2]
        state = torch.zeros(2, dtype=torch.uint64, device=q.device)  # of dropout, which is off
        offset = torch.zeros((), dtype=torch.uint64, device=q.device)
        grads = aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, mixed, lse, None, None, T, T, 0.0, True, state, offset
        )
    else:
        zero = torch.zeros((), dtype=torch.int64, device=q.device)
        grads = aten._scaled_dot_product_efficient_attention_backward(
            grad, q, k, v, None, mixed, lse, zero, zero, 0.0, [True, True, True, False], True
        )[:3]
    return tuple(g.transpose(1, 2).contiguous().transpose(1, 2) for g in grads)


@_backward.fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, mixed: Tensor, lse: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.transpose(1, 2).shape).transpose(1, 2) for x in (q, k, v))


def _save(ctx, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _differentiate(ctx, grad_mixed: Tensor, grad_lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _backward(grad_mixed, *ctx.saved_tensors)


_forward.autograd(_differentiate, _save)


@_forward.vmap
def _(info, in_dims, q: Tensor, k: Tensor, v: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    R = info.batch_size
    outputs = _forward(*(fold(x, dim, R) for x, dim in zip((q, k, v), in_dims, strict=True)))
    return tuple(x.unflatten(0, (R, -1)) for x in outputs), (0, 0)


@_backward.vmap
def _(info, in_dims, *tensors: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    R = info.batch_size
    grads = _backward(*(fold(x, dim, R) for x, dim in zip(tensors, in_dims, strict=True)))
    return tuple(x.unflatten(0, (R, -1)) for x in grads), (0, 0, 0)
