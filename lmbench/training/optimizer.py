"""Update rules as configs: a kind names the rule, its fields are the hyperparameters.

A rule is arithmetic on flat buffers that hold all parameters of R replicas side by side, so
that one program serves a run alone, a stack of runs and a captured graph. Every number of a
rule may differ between replicas: it comes as a column (R, 1). The state is a dict of tensors,
which a checkpoint writes as it is.

Source: SGD with momentum as in PyTorch (Sutskever et al. 2013, with its convention for the rate).
Legend: R replica, P parameter of the flat layout.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lmbench.config import Config
from lmbench.training.layout import Layout

Rates = Mapping[str, Tensor]
# Elements that are updated together on a CPU: several passes over a piece that stays in its cache.
CACHED = 1 << 16


class OptimizerConfig(Config):
    """Abstract."""

    role: ClassVar[str] = "optimizer"

    lr: float = Field(1e-3, gt=0)
    """Base learning rate, multiplied by the run's schedule."""

    def scalars(self) -> dict[str, float]:
        """The numbers that may differ between the runs of a group."""
        return {name: value for name, value in self if isinstance(value, float)}

    def flops(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Element-wise operations, and matrix products where the rule has them, of one step.

        Args:
            shapes: of the hidden matrices, and of all else as one vector (see `Layout`).
        """
        raise TypeError(f"{type(self).__name__} is abstract")

    def state(self, params_RP: Tensor) -> dict[str, Tensor]:
        """The state before the first step."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def rates(self, hyper: Rates, *, factor: Tensor, count: Tensor) -> Rates:
        """The numbers of one step, each (R, 1).

        Apart from `update`, because a compiler would evaluate a power in float64 for every parameter.

        Args:
            hyper: the fields of `scalars`, each (R, 1), float64 where there is such.
            factor: the schedule's factor of this step.
            count: steps including this one.
        """
        raise TypeError(f"{type(self).__name__} is abstract")

    def update(
        self,
        params_RP: Tensor,
        grads_RP: Tensor,
        state: Mapping[str, Tensor],
        *,
        rates: Rates,
        layout: Layout,
        dtype: torch.dtype,
    ) -> None:
        """One step, in place.

        Args:
            rates: what `rates` gave.
            dtype: arithmetic of matrix products, where the rule has them: that of the run.
        """
        raise TypeError(f"{type(self).__name__} is abstract")


class SGD(OptimizerConfig):
    """Stochastic gradient descent with momentum; decay is added to the gradient of matrices."""

    kind: ClassVar[Literal["sgd"]] = "sgd"

    momentum: float = Field(0.9, ge=0, lt=1)
    """Decay of the running sum of gradients; 0 is plain gradient descent."""
    nesterov: bool = False
    """Look ahead by one momentum step."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty on matrices and embeddings; 0 switches it off."""

    def flops(self, shapes: Sequence[tuple[int, ...]]) -> int:
        return (6 + 2 * self.nesterov) * n_elements(shapes)  # decay 2, momentum 2, step 2, look-ahead 2

    def state(self, params_RP: Tensor) -> dict[str, Tensor]:
        return {"momentum": torch.zeros_like(params_RP)}

    def rates(self, hyper: Rates, *, factor: Tensor, count: Tensor) -> Rates:
        return {
            "rate": hyper["lr"] * factor,
            "momentum": hyper["momentum"],
            "decay": hyper["weight_decay"],
        }

    def update(self, params_RP, grads_RP, state, *, rates, layout, dtype) -> None:
        rates = rates_like(rates, params_RP)
        for part, decayed in pieces(params_RP, layout.n_matrix):
            grad, moving = grads_RP[:, part], state["momentum"][:, part]
            if decayed:
                grad = grad + rates["decay"] * params_RP[:, part]
            moving.mul_(rates["momentum"]).add_(grad)
            params_RP[:, part] -= rates["rate"] * (
                grad + rates["momentum"] * moving if self.nesterov else moving
            )


def rates_like(rates: Rates, params_RP: Tensor) -> Rates:
    """The numbers of a step in the dtype of the parameters, so that products keep it."""
    return {name: value.to(params_RP.dtype) for name, value in rates.items()}


def pieces(flat_RP: Tensor, n_matrix: int) -> Iterator[tuple[slice, bool]]:
    """Slices of the parameters and whether decay applies: matrices first, then vectors."""
    width = flat_RP.shape[1]
    size = max(1, CACHED // flat_RP.shape[0]) if flat_RP.device.type == "cpu" else max(1, width)
    for start, end, decayed in ((0, n_matrix, True), (n_matrix, width, False)):
        for at in range(start, end, size):
            yield slice(at, min(at + size, end)), decayed


def n_elements(shapes: Sequence[tuple[int, ...]]) -> int:
    """Elements of tensors of these shapes."""
    return sum(int(torch.Size(shape).numel()) for shape in shapes)
