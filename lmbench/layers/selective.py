"""The selective scan: h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t and y_t = h_t C_t, states never all at hand.

Written out, decays and inputs of all positions and states are the largest tensors of a model,
N times its activations, and each is written and read several times in both passes. That is the
plain form, a linear scan. On a CPU large sizes go through the positions in order, so that all but
the states stays in the cache, and the backward pass makes the decays again; on a GPU kernels do
the same, see `fused_selective` (Gu and Dao 2023, section 3.3.2). Products stay products, seen by
counters.

Legend: R replica, B batch, T position, D feature, N state.
"""

import torch
from torch import Tensor

from lmbench.layers.fused_selective import fused_selective_scan, is_fused
from lmbench.layers.operator import fold
from lmbench.layers.scan import linear_scan

# Measured on one core, CPU time of both passes, 128 positions: with 65,536 states (16 x 256 x 16)
# 75 ms in order and 199 ms in full, with 16,384 20 and 25, with 8,192 16 and 12.
IN_ORDER = 16384
"""States of one position, over the batch, from which on a CPU goes in order."""


def selective_scan(dt_BTD: Tensor, x_BTD: Tensor, A_DN: Tensor, B_BTN: Tensor, C_BTN: Tensor) -> Tensor:
    """y, (B, T, D), from a state of zero. All in one dtype, float32 or better.

    Args:
        dt_BTD: step sizes, of the inputs `x_BTD`.
        A_DN: rates of the states.
        B_BTN: how an input enters the states, and `C_BTN` how they are read.
    """
    if is_fused(x_BTD):
        return fused_selective_scan(dt_BTD, x_BTD, A_DN, B_BTN, C_BTN)
    # On a CPU a compiler fuses the plain form; a trace (fvcore's) cannot look into a class.
    seen_through = torch.compiler.is_compiling() or torch.jit.is_tracing()
    n_state = x_BTD.shape[0] * A_DN.numel()
    if x_BTD.device.type != "cpu" or seen_through or n_state < IN_ORDER:
        return selective_states(dt_BTD, x_BTD, A_DN, B_BTN, C_BTN)[0]
    inputs = (dt_BTD, x_BTD, A_DN, B_BTN, C_BTN)
    return _InOrder.apply(*(x.unsqueeze(0) for x in inputs))[0][0]


def selective_states(
    dt_BTD: Tensor,
    x_BTD: Tensor,
    A_DN: Tensor,
    B_BTN: Tensor,
    C_BTN: Tensor,
    *,
    start_BDN: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The plain form: y, and the states after the last position, from the states before the first."""
    decay_BTDN = torch.exp(dt_BTD.unsqueeze(-1) * A_DN)
    input_BTDN = (dt_BTD * x_BTD).unsqueeze(-1) * B_BTN.unsqueeze(-2)
    h_BTDN = linear_scan(decay_BTDN, input_BTDN, start=start_BDN)
    # A product, and not a sum over products of its own size: half the time on a CPU.
    return (h_BTDN @ C_BTN.unsqueeze(-1)).squeeze(-1), h_BTDN[:, -1]


class _InOrder(torch.autograd.Function):
    """One position after the other, for R replicas side by side."""

    @staticmethod
    def forward(
        dt_RBTD: Tensor, x_RBTD: Tensor, A_RDN: Tensor, B_RBTN: Tensor, C_RBTN: Tensor
    ) -> tuple[Tensor, Tensor]:
        """y, and all states in the order (R, T, B, D, N), which only the backward pass needs."""
        R, B, T, D = x_RBTD.shape
        A_R1DN, input_RBTD = A_RDN.unsqueeze(1), dt_RBTD * x_RBTD
        h_RTBDN, y_RBTD = x_RBTD.new_empty(R, T, B, D, A_RDN.shape[-1]), torch.empty_like(x_RBTD)
        for t in range(T):
            h_RBDN, factors = h_RTBDN[:, t], _factors(input_RBTD[:, :, t], B_RBTN[:, :, t])
            if t:
                torch.mul(_decay(dt_RBTD, A_R1DN, t), h_RTBDN[:, t - 1], out=h_RBDN).addcmul_(*factors)
            else:
                torch.mul(*factors, out=h_RBDN)
            y_RBTD[:, :, t] = _times(h_RBDN, C_RBTN[:, :, t])
        return y_RBTD, h_RTBDN

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx, grad_RBTD: Tensor, _: Tensor | None) -> tuple[Tensor, ...]:
        return _Backward.apply(grad_RBTD, *ctx.saved_tensors)

    @staticmethod
    def vmap(info, in_dims, *inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return _stacked(_InOrder, info, in_dims, inputs)


class _Backward(torch.autograd.Function):
    """Its gradients. A function too, so that its loop never meets the tensors of a vmap around it."""

    @staticmethod
    def forward(
        grad_RBTD: Tensor,
        dt_RBTD: Tensor,
        x_RBTD: Tensor,
        A_RDN: Tensor,
        B_RBTN: Tensor,
        C_RBTN: Tensor,
        h_RTBDN: Tensor,
    ) -> tuple[Tensor, ...]:
        """With g the gradient of h: g_t = dy_t C_t + exp(dt_{t+1} A) g_{t+1}, and all others from it."""
        A_R1DN, input_RBTD = A_RDN.unsqueeze(1), dt_RBTD * x_RBTD
        g_RBDN, dA_RBDN = torch.zeros_like(h_RTBDN[:, 0]), torch.zeros_like(h_RTBDN[:, 0])
        ones_RBN = torch.ones_like(B_RBTN[:, :, 0])
        d_dt, d_input = torch.zeros_like(x_RBTD), torch.empty_like(x_RBTD)
        d_B, d_C = torch.empty_like(B_RBTN), torch.empty_like(C_RBTN)
        for t in reversed(range(x_RBTD.shape[2])):
            g_RBDN.addcmul_(*_factors(grad_RBTD[:, :, t], C_RBTN[:, :, t]))
            d_C[:, :, t] = _times(h_RTBDN[:, t].mT, grad_RBTD[:, :, t])
            d_B[:, :, t] = _times(g_RBDN.mT, input_RBTD[:, :, t])
            d_input[:, :, t] = _times(g_RBDN, B_RBTN[:, :, t])
            if t:  # the first decay meets no state
                g_RBDN.mul_(_decay(dt_RBTD, A_R1DN, t))
                power_RBDN = g_RBDN * h_RTBDN[:, t - 1]  # the gradient of the exponent dt_t A
                dA_RBDN.addcmul_(dt_RBTD[:, :, t].unsqueeze(-1), power_RBDN)
                d_dt[:, :, t] = _times(power_RBDN.mul_(A_R1DN), ones_RBN)
        return d_dt.addcmul_(d_input, x_RBTD), d_input.mul_(dt_RBTD), dA_RBDN.sum(1), d_B, d_C

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx, *grads: Tensor) -> None:
        raise NotImplementedError("a large selective scan on a CPU has gradients of the first order only")

    @staticmethod
    def vmap(info, in_dims, *inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return _stacked(_Backward, info, in_dims, inputs)


def _stacked(function: type, info, in_dims, inputs: tuple[Tensor, ...]) -> tuple[tuple, tuple]:
    """The rule of vmap for both: what is stacked becomes more replicas."""
    n = info.batch_size
    outputs = function.apply(*(fold(x, dim, n) for x, dim in zip(inputs, in_dims, strict=True)))
    return tuple(x.unflatten(0, (n, -1)) for x in outputs), (0,) * len(outputs)


def _factors(x_RBD: Tensor, y_RBN: Tensor) -> tuple[Tensor, Tensor]:
    """Whose product, spread over (R, B, D, N), is the outer one."""
    return x_RBD.unsqueeze(-1), y_RBN.unsqueeze(-2)


def _times(x_RBMN: Tensor, y_RBN: Tensor) -> Tensor:
    return (x_RBMN @ y_RBN.unsqueeze(-1)).squeeze(-1)


def _decay(dt_RBTD: Tensor, A_R1DN: Tensor, t: int) -> Tensor:
    return (dt_RBTD[:, :, t].unsqueeze(-1) * A_R1DN).exp_()
