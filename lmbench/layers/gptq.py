"""GPTQ: weights rounded one input after the other, each error made good by the inputs still to come.

A map y = W x is rounded for the sake of its output: sum |(W - W^) x|^2 = tr((W - W^) H (W - W^)')
over calibration inputs with H = sum x x'. Inputs are fixed in turn; the error of one, divided by
its entry of the Cholesky factor of H^-1, is taken off the weights of the later ones. Rows do not
see each other, so a row for which plain rounding gives the smaller error keeps that; the result
is never worse. Where H is diagonal the two are the same.

Source: Frantar et al. 2023, "GPTQ", algorithm 1 (without its blocks of columns, which only save
memory traffic); zeros stay zeros, as in Frantar and Alistarh 2023, "SparseGPT", section 3.5.
Legend: O output, C input, N block of weights with one scale, G weights of it.
"""

import torch
from torch import Tensor

from lmbench.layers.quantizer_grids import Blocks, Grid, best_scale

DAMP = 0.01
"""Share of the mean diagonal of H that is added to the diagonal, so that it can be inverted."""


def gptq(
    weight_OC: Tensor,
    hessian_CC: Tensor,
    *,
    grid: Grid,
    blocks: Blocks,
    act_order: bool = False,
    damp: float = DAMP,
) -> Tensor:
    """The weight on the grid, (O, C), in its own dtype.

    Scales are those of the least squared error of the weights. Those of a group are found when its turn
    comes, from what the weights are by then; with `act_order`, which scatters groups, beforehand.

    Args:
        hessian_CC: sum of x x' over inputs, times any factor.
        blocks: of a weight of this shape, which lies as (O, C).
        act_order: take inputs by falling diagonal of H, not as they lie.

    Raises:
        ValueError: a Hessian of another width, or one that is not finite.
    """
    C = weight_OC.shape[1]
    if hessian_CC.shape != (C, C) or not hessian_CC.isfinite().all():
        raise ValueError(
            f"the Hessian of a map with {C} inputs must be finite and {C} x {C}, "
            f"not {tuple(hessian_CC.shape)}"
        )
    exact_OC, exact_CC = weight_OC.double(), hessian_CC.double()
    x_NG = blocks.split(weight_OC)
    # In the dtype of the weight, so that scale times code there is what is made here.
    scales_OC = blocks.join(best_scale(x_NG, grid).expand_as(x_NG)).to(weight_OC.dtype).double()
    plain_OC = grid.codes(exact_OC, scales_OC) * scales_OC
    order_C = exact_CC.diagonal().argsort(descending=True, stable=True) if act_order else torch.arange(C)
    made_OC = torch.empty_like(exact_OC)
    made_OC[:, order_C] = _in_turn(
        exact_OC[:, order_C],
        exact_CC[order_C][:, order_C],
        scales_OC[:, order_C],
        grid=grid,
        group=blocks.size if blocks.granularity == "group" and not act_order else None,
        dtype=weight_OC.dtype,
        damp=damp,
    )
    errors = [_row_errors(one_OC - exact_OC, exact_CC) for one_OC in (made_OC, plain_OC)]
    return torch.where(errors[0] < errors[1], made_OC, plain_OC).to(weight_OC.dtype)


def output_error(made_OC: Tensor, weight_OC: Tensor, hessian_CC: Tensor) -> float:
    """tr((W^ - W) H (W^ - W)'): the squared error of the outputs, times the factor of H."""
    return float(_row_errors((made_OC - weight_OC).double(), hessian_CC.double()).sum())


def _row_errors(error_OC: Tensor, hessian_CC: Tensor) -> Tensor:
    return ((error_OC @ hessian_CC) * error_OC).sum(1, keepdim=True)


def _in_turn(
    weight_OC: Tensor,
    hessian_CC: Tensor,
    scales_OC: Tensor,
    *,
    grid: Grid,
    group: int | None,
    dtype: torch.dtype,
    damp: float,
) -> Tensor:
    """Algorithm 1 over the inputs as they lie.

    Args:
        group: inputs whose scales are found when their turn comes; None leaves all scales as they are.
    """
    eye_CC = torch.eye(len(hessian_CC), dtype=hessian_CC.dtype)
    # An H of zeros, of a map that saw nothing, is one that treats all inputs alike.
    mean = hessian_CC.diagonal().mean()
    damped_CC = hessian_CC + (damp * mean if mean > 0 else 1.0) * eye_CC
    factor_CC = torch.linalg.cholesky(torch.linalg.inv(damped_CC), upper=True)
    is_alive_OC, left_OC = weight_OC != 0, weight_OC.clone()
    scales_OC, made_OC = scales_OC.clone(), torch.empty_like(weight_OC)
    for c in range(weight_OC.shape[1]):
        if group is not None and c % group == 0:
            ahead = slice(c, c + group)
            found_O1 = best_scale(left_OC[:, ahead] * is_alive_OC[:, ahead], grid)
            scales_OC[:, ahead] = found_O1.to(dtype).double()
        made_O = grid.codes(left_OC[:, c], scales_OC[:, c]) * scales_OC[:, c] * is_alive_OC[:, c]
        error_O = (left_OC[:, c] - made_O) / factor_CC[c, c]
        left_OC[:, c + 1 :] -= error_O.unsqueeze(1) * factor_CC[c, c + 1 :]
        made_OC[:, c] = made_O
    return made_OC
