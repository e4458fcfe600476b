"""Update rules as configs: a kind names the rule, its fields are the hyperparameters.

Sources: Adam, Kingma & Ba 2015 (algorithm 1); AdamW, Loshchilov & Hutter 2019 (algorithm 2,
decoupled decay). The defaults of Adam are the published study's, which are PyTorch's.
"""

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from lmbench.config import Config


class OptimizerConfig(Config):
    """Abstract."""

    role: ClassVar[str] = "optimizer"
    # Element-wise operations per parameter and step, for the ledger; matrix products are none.
    flops_per_parameter: ClassVar[int] = 0

    lr: float = Field(1e-3, gt=0)
    """Base learning rate, multiplied by the run's schedule."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The torch optimizer over all parameters of a model."""
        raise TypeError(f"{type(self).__name__} is abstract")


class Adam(OptimizerConfig):
    """Adam with bias correction."""

    kind: ClassVar[Literal["adam"]] = "adam"
    # m: 3, v: 4, root and bias correction: 3, step: 3.
    flops_per_parameter: ClassVar[int] = 13

    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the mean of gradients."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of the mean of squared gradients."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        every = list(model.parameters())
        return torch.optim.Adam(
            every, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, fused=every[0].is_cuda
        )


class AdamW(OptimizerConfig):
    """Adam with decoupled weight decay, on matrices and embeddings only (not on gains and biases)."""

    kind: ClassVar[Literal["adamw"]] = "adamw"
    flops_per_parameter: ClassVar[int] = 14  # Adam's 13 and the decay

    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the mean of gradients."""
    beta2: float = Field(0.99, ge=0, lt=1)
    """Decay of the mean of squared gradients; 0.999 is too slow for runs of a few hundred steps."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled decay; 0 switches it off."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        matrices, vectors = split_by_rank(model.parameters())
        groups = [
            {"params": matrices, "weight_decay": self.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            groups, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, fused=matrices[0].is_cuda
        )


def split_by_rank(parameters: Iterable[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of two or more axes, and the others."""
    every = list(parameters)
    return [p for p in every if p.ndim >= 2], [p for p in every if p.ndim < 2]
