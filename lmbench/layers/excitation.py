"""The harmonic excitation of an integrator: A sin(gamma t + phi), added to the velocity.

t is the iteration, so the force is a table of one row for each iteration, the same for all
tokens, made once in a pass. gamma and phi are learned, one of each for every excited feature:
all features, or a share of them that lie evenly spread (the others get 0).

Starts: "random" draws gamma from N(1, 0.1^2) and phi from N(0, (2 pi)^2) in each layer anew.
"published" keeps the code's: the same draw (seed 42) in every layer, or, where a share is
excited, gamma = 1 and phi = 0 throughout, which gives every feature one and the same force.
Legend: I iteration, C model width, F excited feature.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.layers.integrator_shape import IntegratorShape

GAMMA_MEAN, GAMMA_STD, PHI_STD = 1.0, 0.1, 2 * math.pi
PUBLISHED_SEED = 42


class Excitation(nn.Module):
    """The force on each feature at each iteration."""

    amplitude: Tensor
    place_C: Tensor

    def __init__(self, shape: IntegratorShape) -> None:
        super().__init__()
        n = shape.n_excited
        self.gamma_F = nn.Parameter(torch.ones(n))
        self.phi_F = nn.Parameter(torch.zeros(n))
        if shape.harmonics == "random":
            nn.init.normal_(self.gamma_F, GAMMA_MEAN, GAMMA_STD)
            nn.init.normal_(self.phi_F, 0.0, PHI_STD)
        elif n == shape.d_model:
            self._published_draw(n)
        # A tensor, so that a phase of training can change it under a captured graph.
        self.register_buffer("amplitude", torch.tensor(float(shape.excitation)), persistent=False)
        self.is_sparse = n < shape.d_model
        place_C = torch.full((shape.d_model,), n)
        place_C[torch.tensor(excited_features(shape.d_model, n=n))] = torch.arange(n)
        self.register_buffer("place_C", place_C, persistent=False)

    def _published_draw(self, n: int) -> None:
        # On the CPU also where the module is built on the meta device, which has no generator.
        generator = torch.Generator().manual_seed(PUBLISHED_SEED)
        with torch.no_grad():
            for values, mean, std in ((self.gamma_F, GAMMA_MEAN, GAMMA_STD), (self.phi_F, 0.0, PHI_STD)):
                values.copy_(mean + std * torch.randn(n, generator=generator, device="cpu"))

    def table(self, n_iteration: int, *, dtype: torch.dtype) -> Tensor:
        """(I, C) of `dtype`, which is float32 or wider."""
        gamma_F, phi_F = self.gamma_F.to(dtype), self.phi_F.to(dtype)
        t_I1 = torch.arange(n_iteration, dtype=dtype, device=gamma_F.device).unsqueeze(1)
        force_IF = self.amplitude.to(dtype) * torch.sin(t_I1 * gamma_F + phi_F)
        if not self.is_sparse:
            return force_IF
        # Features that are not excited read the column of zeros behind the last.
        return F.pad(force_IF, (0, 1)).index_select(1, self.place_C)


def excited_features(d_model: int, *, n: int) -> list[int]:
    """n distinct features from the first to the last: floor(i (C - 1) / (n - 1)), in whole numbers."""
    return [at * (d_model - 1) // (n - 1) for at in range(n)] if n > 1 else [0]
