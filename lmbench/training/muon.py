"""Muon: momentum, orthogonalised, for the hidden matrices; Adam for everything else.

Each hidden matrix's update is the nearest semi-orthogonal matrix to its averaged gradient,
approximated by five Newton-Schulz iterations of a quintic that pushes singular values to
about 1. Matrices of one shape, of all layers and all replicas, go through it as one stack.
Embeddings, the head, gains and biases are left to Adam with its own rate.

Source: Jordan et al. 2024 (Muon; the coefficients, and the factor sqrt(max(1, rows / columns))
on the rate), with the momentum of torch.optim.Muon. Where we depart: the products are made in
the arithmetic of the run, so that a float64 run is exact, and not always in bfloat16.
Legend: R replica, P parameter, S stacked matrix, M rows, N columns.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lmbench.training.adam import adam_rates, adam_step
from lmbench.training.layout import Layout
from lmbench.training.optimizer import OptimizerConfig, Rates, n_elements, rates_like

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
SMALLEST_NORM = 1e-7  # below it a matrix of gradients is taken for zero, not blown up


class Muon(OptimizerConfig):
    """`lr` is the rate of hidden matrices; all else follows `adam_lr`."""

    kind: ClassVar[Literal["muon"]] = "muon"

    lr: float = Field(0.02, gt=0)
    """Base learning rate of hidden matrices, multiplied by the run's schedule."""
    adam_lr: float = Field(3e-3, gt=0)
    """Base learning rate of embeddings, head, gains and biases; same schedule."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Decay of the mean of gradients."""
    nesterov: bool = True
    """Look ahead by one momentum step."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled decay of hidden matrices; 0 switches it off."""
    iterations: int = Field(5, ge=1)
    """Newton-Schulz iterations."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Adam's decay of the mean of gradients."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """Adam's decay of the mean of squared gradients."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of Adam's second moment."""

    def flops(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Newton-Schulz products of the matrices, 8 element-wise operations on them, Adam's on the rest."""
        products = sum(newton_schulz_flops(*shape) for shape in shapes if len(shape) == 2)
        hidden = n_elements([shape for shape in shapes if len(shape) == 2])
        return self.iterations * products + 8 * hidden + 13 * (n_elements(shapes) - hidden)

    def state(self, params_RP: Tensor) -> dict[str, Tensor]:
        return {name: torch.zeros_like(params_RP) for name in ("mean", "square")}

    def rates(self, hyper: Rates, *, factor: Tensor, count: Tensor) -> Rates:
        rate = hyper["lr"] * factor
        return adam_rates(hyper, rate=hyper["adam_lr"] * factor, count=count) | {
            "hidden_rate": rate,
            "momentum": hyper["momentum"],
            "hidden_keep": 1 - rate * hyper["weight_decay"],
        }

    def update(self, params_RP, grads_RP, state, *, rates, layout, dtype) -> None:
        at, like = layout.n_hidden, rates_like(rates, params_RP)
        grads, mean = grads_RP[:, :at], state["mean"][:, :at]
        mean.lerp_(grads, 1 - like["momentum"])
        moved = torch.lerp(grads, mean, like["momentum"]) if self.nesterov else mean
        if at:
            turned_RP = self._turn(moved.to(dtype), layout).to(params_RP.dtype)
            params_RP[:, :at].mul_(like["hidden_keep"]).sub_(turned_RP * like["hidden_rate"])
        rest = {name: value[:, at:] for name, value in state.items()}
        adam_step(params_RP[:, at:], grads_RP[:, at:], rest, rates=rates, n_matrix=layout.n_matrix - at)

    def _turn(self, moved_RP: Tensor, layout: Layout) -> Tensor:
        """The orthogonalised updates of all hidden matrices, in their places."""
        views, by_shape = layout.views_of(moved_RP, layout.hidden), defaultdict(list)
        for segment in layout.hidden:  # a tall matrix goes with the wide ones of its transposed shape
            by_shape[tuple(sorted(segment.shape))].append(segment)
        turned: dict[str, Tensor] = {}
        for segments in by_shape.values():
            wide = [views[s.name].mT if s.shape[0] > s.shape[1] else views[s.name] for s in segments]
            done = orthogonalise(torch.stack(wide, dim=1), iterations=self.iterations).unbind(1)
            for segment, matrix in zip(segments, done, strict=True):
                rows, columns = segment.shape
                turned[segment.name] = matrix.mT * (rows / columns) ** 0.5 if rows > columns else matrix
        return layout.join(turned, layout.hidden, like=moved_RP)


def orthogonalise(stacked_SMN: Tensor, *, iterations: int) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values between about 0.7 and 1.2.

    Args:
        stacked_SMN: (..., M, N), any leading axes; each matrix by itself.
    """
    a, b, c = COEFFICIENTS
    is_tall = stacked_SMN.shape[-2] > stacked_SMN.shape[-1]
    x = stacked_SMN.mT if is_tall else stacked_SMN
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(SMALLEST_NORM)
    shape, x = x.shape, x.reshape(-1, *x.shape[-2:])
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.view(shape)
    return x.mT if is_tall else x


def newton_schulz_flops(rows: int, columns: int) -> int:
    """FLOPs of the three products of one iteration: X X', its square, and their sum times X."""
    short, long = min(rows, columns), max(rows, columns)
    return 2 * (2 * short * short * long) + 2 * short**3
