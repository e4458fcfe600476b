"""The losses on an integrator's path: a mean at the equilibrium, an early arrival, a low speed.

    mean    sum_i w_i mean_n (x_T[n,i] - mu_i)^2 / C,  w_i = (1 / (1 + Var_n x_T[n,i])) C / sum of these
    speed   mean_{n,i} sum_t omega_t |x_t - target|,   omega_t ~ exp(-3 t / T), sum 1, t = 1 .. T
    energy  mean_{n,t,i} v^2 over t = 0 .. T, the start (v = 0) included

Tokens are the batch. The published code computes the variance of a single token as NaN; it is 0
here. It also detaches the path in two of its models, which leaves three of its four losses
without a gradient; here all have one. Legend: N token, C model width.
"""

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from lmbench.layers.integrator_shape import IntegratorShape

ANNEALED_TO = 0.1
"""Share of its first weight that the mean loss keeps in the end."""


class PathLosses:
    """Sums over the iterations of one pass, thrown away with it."""

    def __init__(self, shape: IntegratorShape) -> None:
        self.shape, self.weights_I = shape, speed_weights(shape.n_iteration)
        self.parts: list[Tensor] = []

    def step_taken(self, x_NC: Tensor, v_NC: Tensor, *, t: int) -> None:
        """Take in iteration t, 0 being the first."""
        shape = self.shape
        if shape.speed_weight:
            distance = (x_NC - shape.target).abs().mean()
            self.parts.append(shape.speed_weight * self.weights_I[t] * distance)
        if shape.energy_weight:
            self.parts.append(shape.energy_weight / (shape.n_iteration + 1) * v_NC.square().mean())

    def total(self, x_NC: Tensor, *, mu_C: Tensor, mean_weight: Tensor) -> Tensor | None:
        """The weighted sum over the path that ends in x_NC; None where no loss is wanted."""
        mean = [mean_weight.to(x_NC.dtype) * mean_loss(x_NC, mu_C)] if self.shape.has_mean_loss else []
        parts = self.parts + mean
        return sum(parts[1:], start=parts[0]) if parts else None


def mean_loss(x_NC: Tensor, mu_C: Tensor) -> Tensor:
    """Squared distance to mu, with features that vary little among the tokens weighted up."""
    n_token, width = x_NC.shape
    variance_C = x_NC.var(0, correction=1 if n_token > 1 else 0)
    weight_C = 1 / (1 + variance_C)
    weight_C = weight_C * width / weight_C.sum()
    return (weight_C * (x_NC - mu_C).square().mean(0)).mean()


def speed_weights(n_iteration: int) -> Sequence[float]:
    """omega of the iterations 1 .. T."""
    raw = [math.exp(-3 * t / n_iteration) for t in range(1, n_iteration + 1)]
    return [value / sum(raw) for value in raw]


def annealed(progress: float, *, kind: Literal["exponential", "linear"]) -> float:
    """Factor of the mean loss's weight after this share of the training: from 1 to ANNEALED_TO, then so.

    Args:
        progress: share of the annealing, published as epochs / 100.
    """
    share = min(progress, 1.0)
    if kind == "linear":
        return 1 - share * (1 - ANNEALED_TO)
    return ANNEALED_TO**share
