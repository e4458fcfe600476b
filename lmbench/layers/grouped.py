"""Products of rows with the matrix of their group: what experts compute, without padding to a capacity.

Rows lie sorted by group; row n belongs to the first group whose end is beyond n. Shapes are
static and nothing is dropped, whatever the sizes of the groups. Forward and backward are
operators of our own, with a rule for vmap that sets the replicas side by side, so a stack of
models is one call. Below them, by device and dtype:

    CPU                             one product for each group
    CUDA, bfloat16, where there is  torch's grouped kernel
    CUDA, all else                  blocks of rows, see `layers.row_blocks`

Legend: R replica, N row, E group, C and F widths (of input and output).
Source: Gale et al. 2023 (MegaBlocks), for products without a capacity.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lmbench.layers.cost import matmul
from lmbench.layers.operator import fold, operator, with_gradient
from lmbench.layers.row_blocks import outer_in_blocks, product_in_blocks

HAVE_OPERATORS = ("cpu", "cuda", "meta")
MULTIPLE = 8  # the kernel wants rows of whole 16-byte words
MOST_GROUPS = 1024  # the kernel's setup has one thread for each
MAJORS = (9, 10)  # compute capabilities; on others torch's grouped product asks the host for the ends


def grouped_product(x_NC: Tensor, weight_ECF: Tensor, ends_E: Tensor) -> Tensor:
    """Each row times its group's matrix: (N, F).

    Args:
        ends_E: int32, for each group the row after its last; ascending, the last is N.
    """
    rows = (x_NC.unsqueeze(0), weight_ECF.unsqueeze(0), ends_E.unsqueeze(0))
    product = _product_with_gradient if x_NC.device.type in HAVE_OPERATORS else product_in_blocks
    return product(*rows).squeeze(0)


def reordered(x_NC: Tensor, order_N: Tensor, inverse_N: Tensor) -> Tensor:
    """Rows in another order; the gradient comes back by the inverse, which sums nothing.

    torch's own gradient of an index adds rows up, on a GPU one by one in an order that changes.
    """
    if x_NC.device.type not in HAVE_OPERATORS:
        return x_NC[order_N]
    rows = (x_NC.unsqueeze(0), order_N.unsqueeze(0), inverse_N.unsqueeze(0))
    return _reorder_with_gradient(*rows).squeeze(0)


def product_formulas() -> dict[Any, Callable[..., int]]:
    """For torch's FLOP counter, see `fused.flop_formulas`: each row meets one matrix, whatever its group."""

    def product(x: torch.Size, weight: torch.Size, *ends: torch.Size, out_shape: object) -> int:
        return x[0] * matmul(x[1], inner=x[2], columns=weight[-1])

    ours = torch.ops.lmbench
    return {ours.grouped_product: product, ours.grouped_outer: product}


# ------------------------------------------------------------------ rows times matrices


@operator("grouped_product(Tensor x, Tensor weight, Tensor ends) -> Tensor")
def _product(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """(R, N, C) rows, (R, E, C, F) matrices and (R, E) ends to (R, N, F)."""
    if x.device.type == "cpu":
        out = x.new_empty(*x.shape[:2], weight.shape[-1])
        for r, e, start, end in _spans(ends):
            torch.mm(x[r, start:end], weight[r, e], out=out[r, start:end])
        return out
    if not _has_kernel(x, weight):
        return product_in_blocks(x, weight, ends)
    flat = _flat(ends, n=x.shape[1])
    rows = torch.ops.aten._grouped_mm(x.contiguous().flatten(0, 1), weight.flatten(0, 1), flat)
    return rows.view(*x.shape[:2], -1)


@_product.fake
def _(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:2], weight.shape[-1])


@operator("grouped_outer(Tensor x, Tensor grad, Tensor ends) -> Tensor")
def _outer(x: Tensor, grad: Tensor, ends: Tensor) -> Tensor:
    """Of each group x' grad, the gradient of its matrix: (R, N, C) and (R, N, F) to (R, E, C, F)."""
    if x.device.type == "cpu":
        out = x.new_zeros(*ends.shape, x.shape[-1], grad.shape[-1])
        for r, e, start, end in _spans(ends):
            torch.mm(x[r, start:end].mT, grad[r, start:end], out=out[r, e])
        return out
    if not _has_kernel(x, grad, groups=ends.numel()):
        return outer_in_blocks(x, grad, ends)
    flat = _flat(ends, n=x.shape[1])
    out = torch.ops.aten._grouped_mm(x.contiguous().flatten(0, 1).mT, grad.flatten(0, 1), flat)
    # A group without rows sums nothing, and its matrix must not depend on what the kernel leaves there.
    is_empty = flat == torch.nn.functional.pad(flat[:-1], (1, 0))
    return out.masked_fill_(is_empty.view(-1, 1, 1), 0).view(*ends.shape, *out.shape[1:])


@_outer.fake
def _(x: Tensor, grad: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(*ends.shape, x.shape[-1], grad.shape[-1])


def _save(ctx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    x, weight, ends = ctx.saved_tensors
    grad = grad.contiguous()
    return _product(grad, weight.mT, ends), _outer(x, grad, ends), None


_product_with_gradient = with_gradient(_product, _differentiate, _save)


@_product.vmap
def _(info, in_dims, *inputs: Tensor) -> tuple[Tensor, int]:
    R = info.batch_size
    rows = _product(*(fold(x, dim, R) for x, dim in zip(inputs, in_dims, strict=True)))
    return rows.unflatten(0, (R, -1)), 0


@_outer.vmap
def _(info, in_dims, *inputs: Tensor) -> tuple[Tensor, int]:
    R = info.batch_size
    matrices = _outer(*(fold(x, dim, R) for x, dim in zip(inputs, in_dims, strict=True)))
    return matrices.unflatten(0, (R, -1)), 0


def _spans(ends: Tensor) -> list[tuple[int, int, int, int]]:
    """(replica, group, first row, row after the last) of all groups, on the CPU."""
    return [
        (r, e, start, end)
        for r, row in enumerate(ends.tolist())
        for e, (start, end) in enumerate(zip([0, *row], row, strict=False))
    ]


def _has_kernel(x: Tensor, other: Tensor, *, groups: int | None = None) -> bool:
    """Whether torch's kernel takes these, without asking the host for the ends."""
    n = other.shape[0] * other.shape[1] if groups is None else groups
    widths = x.shape[-1] % MULTIPLE == 0 == other.shape[-1] % MULTIPLE
    has_one = torch.cuda.get_device_capability(x.device)[0] in MAJORS
    return x.dtype == torch.bfloat16 and widths and has_one and n <= MOST_GROUPS


def _flat(ends: Tensor, *, n: int) -> Tensor:
    """(R E,) ends where the rows of replica r follow those of r - 1."""
    first = torch.arange(len(ends), dtype=ends.dtype, device=ends.device) * n
    return (ends + first.unsqueeze(1)).flatten()


@operator("reorder(Tensor x, Tensor order, Tensor inverse) -> Tensor")
def _reorder(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """(R, N, C) rows in the order (R, N), whose inverse the gradient needs."""
    first = torch.arange(len(x), device=x.device).unsqueeze(1) * x.shape[1]
    return x.flatten(0, 1).index_select(0, (order + first).flatten()).view(x.shape)


@_reorder.fake
def _(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _save_order(ctx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _put_back(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
    order, inverse = ctx.saved_tensors
    return _reorder(grad.contiguous(), inverse, order), None, None


_reorder_with_gradient = with_gradient(_reorder, _put_back, _save_order)


@_reorder.vmap
def _(info, in_dims, *inputs: Tensor) -> tuple[Tensor, int]:
    R = info.batch_size
    rows = _reorder(*(fold(x, dim, R) for x, dim in zip(inputs, in_dims, strict=True)))
    return rows.unflatten(0, (R, -1)), 0
