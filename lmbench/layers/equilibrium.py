"""Where an integrator is pulled to: the point mu, one number for each feature, or fewer.

`features` learns C numbers, `scalar` one for all, `groups` one for all and an offset for each
group of neighbouring features (1 + ceil(C / g) numbers, of which one is redundant), `fixed`
none. All begin at the target. Legend: C model width, G group.
"""

import torch
from torch import Tensor, nn

from lmbench.layers.integrator_shape import IntegratorShape


class Equilibrium(nn.Module):
    """Holds mu in one of the four forms."""

    def __init__(self, shape: IntegratorShape) -> None:
        super().__init__()
        self.kind, self.width, self.group_size = shape.equilibrium, shape.d_model, shape.group_size
        n_base = self.width if self.kind == "features" else 1
        base = torch.full((n_base,), float(shape.target))
        if self.kind == "fixed":
            self.register_buffer("base", base, persistent=False)
        else:
            self.base = nn.Parameter(base)
        n_group = -(-self.width // self.group_size)
        self.offset_G = nn.Parameter(torch.zeros(n_group)) if self.kind == "groups" else None

    def mu(self) -> Tensor:
        """(C,)."""
        if self.offset_G is None:
            return self.base.expand(self.width)
        offset_C = self.offset_G.unsqueeze(1).expand(-1, self.group_size).reshape(-1)[: self.width]
        return self.base + offset_C


def equilibrium_parameters(shape: IntegratorShape) -> int:
    """Numbers that are learned, in closed form."""
    n_group = -(-shape.d_model // shape.group_size)
    return {"features": shape.d_model, "groups": 1 + n_group, "scalar": 1, "fixed": 0}[shape.equilibrium]
