"""A mixture of integrators: E controllers of which each token uses k, with their next states mixed.

    w = the k largest of softmax(W_r h + b_r), divided by their sum
    v' = sum_j w_j v'_j,  x' = sum_j w_j x'_j     with (x'_j, v'_j) one step of expert j from (x, v)

The router reads the context, which does not change, so the choice is made once in a block. All
experts share the equilibrium; without a candidate they share the fixed point too and differ in
speed alone. The cost is that of k controllers, not of one: "capacity without compute" it is not.

`grouped` computes the chosen controllers only, on rows sorted by expert; `dense` all of them, with
weights of 0. They agree; the model uses the first. Legend: N token, C model width, H controller
width, E expert, K choice, M = N K assignment, O output.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.layers.controllers import Controller
from lmbench.layers.experts import ExpertLinear, Routing, Sorted
from lmbench.layers.grouped import reordered
from lmbench.layers.integrator_shape import IntegratorShape

Moved = tuple[Tensor, Tensor]
Equation = Callable[[Tensor, Tensor | None, Tensor], Moved]
"""(position, velocity, controller's outputs) to the next position and velocity, row by row."""


class Assigned(NamedTuple):
    """What a pass fixes before the first iteration."""

    weight_NK: Tensor
    hoisted: Tensor
    """(M, H) in the order of `rows`, or (E, N, H) in the dense form."""
    rows: Sorted
    weight_EN1: Tensor
    """Of the dense form, 0 where an expert is not chosen."""


class Router(nn.Module):
    """Chooses controllers for each token, by its context."""

    def __init__(self, shape: IntegratorShape) -> None:
        super().__init__()
        self.top_k = shape.top_k
        self.linear = nn.Linear(shape.d_model, shape.n_expert)

    def route(self, h_NC: Tensor) -> Routing:
        """The choice, in float32 or better: between near equals it should not depend on rounding."""
        exact = torch.promote_types(h_NC.dtype, torch.float32)
        weight_EC, bias_E = self.linear.weight.to(exact), self.linear.bias.to(exact)
        logits_NE = F.linear(h_NC.to(exact), weight_EC, bias_E).to(exact)
        top_NK, chosen_NK = logits_NE.softmax(-1).topk(self.top_k)
        # Also with k = 1: a weight below 1 would pull the state to 0. Then only the losses teach the router.
        return Routing(chosen_NK, top_NK / top_NK.sum(-1, keepdim=True), logits_NE)


class ControllerMixture(nn.Module):
    """E controllers side by side; only the context's map has the bias of z, which is one sum anyway."""

    def __init__(self, shape: IntegratorShape) -> None:
        super().__init__()
        self.form: Literal["grouped", "dense"] = "grouped"
        self.n_expert, self.top_k = shape.n_expert, shape.top_k
        experts = [Controller(shape) for _ in range(shape.n_expert)]
        for expert in experts:  # all biases of z start as one
            for linear in (expert.position, expert.velocity):
                linear.register_parameter("bias", None)
        self.context = ExpertLinear([expert.context for expert in experts])
        self.position = ExpertLinear([expert.position for expert in experts])
        self.velocity = ExpertLinear([expert.velocity for expert in experts])
        self.out = ExpertLinear([expert.out for expert in experts])

    def assigned(self, h_NC: Tensor, routing: Routing) -> Assigned:
        """The choice of a pass, and the product with the context, which is hoisted out of the iterations."""
        rows = Sorted.of(routing.chosen_NK.flatten(), n_expert=self.n_expert)
        weight_NE = torch.zeros_like(routing.logits_NE).scatter(1, routing.chosen_NK, routing.weight_NK)
        h_NC = h_NC.to(self.context.weight.dtype)
        if self.form == "dense":
            hoisted = self.context.every(h_NC)
        else:
            hoisted = self.context(self._spread(h_NC, rows), rows.ends_E)
        return Assigned(routing.weight_NK, hoisted, rows, weight_NE.mT.unsqueeze(-1))

    def step(self, held: Assigned, x_NC: Tensor, v_NC: Tensor | None, equation: Equation) -> Moved:
        """One iteration of all tokens."""
        form = self._dense_step if self.form == "dense" else self._grouped_step
        return form(held, x_NC, v_NC, equation)

    def _grouped_step(self, held: Assigned, x_NC: Tensor, v_NC: Tensor | None, equation: Equation) -> Moved:
        rows, dtype = held.rows, self.position.weight.dtype
        x_MC = self._spread(x_NC, rows)
        v_MC = None if v_NC is None else self._spread(v_NC, rows)
        z_MH = held.hoisted + self.position(x_MC.to(dtype), rows.ends_E)
        if v_MC is not None:
            z_MH = z_MH + self.velocity(v_MC.to(dtype), rows.ends_E)
        moved = equation(x_MC, v_MC, self.out(F.relu(z_MH), rows.ends_E))
        weight_NK1 = held.weight_NK.unsqueeze(-1).to(x_NC.dtype)
        x_MC, v_MC = (reordered(y_MC, rows.inverse_M, rows.order_M) for y_MC in moved)
        return self._mixed(x_MC, weight_NK1), self._mixed(v_MC, weight_NK1)

    def _dense_step(self, held: Assigned, x_NC: Tensor, v_NC: Tensor | None, equation: Equation) -> Moved:
        dtype = self.position.weight.dtype
        z_ENH = held.hoisted + self.position.every(x_NC.to(dtype))
        if v_NC is not None:
            z_ENH = z_ENH + self.velocity.every(v_NC.to(dtype))
        x_ENC, v_ENC = equation(x_NC, v_NC, self.out.every(F.relu(z_ENH)))
        weight_EN1 = held.weight_EN1.to(x_NC.dtype)
        return (weight_EN1 * x_ENC).sum(0), (weight_EN1 * v_ENC).sum(0)

    def _spread(self, x_NC: Tensor, rows: Sorted) -> Tensor:
        """Each token once for each of its choices, sorted by expert: (M, C)."""
        x_NKC = x_NC.unsqueeze(1).expand(-1, self.top_k, -1)
        return reordered(x_NKC.flatten(0, 1), rows.order_M, rows.inverse_M)

    def _mixed(self, x_MC: Tensor, weight_NK1: Tensor) -> Tensor:
        return (x_MC.unflatten(0, (-1, self.top_k)) * weight_NK1).sum(1)


def mixture_parameters(shape: IntegratorShape) -> int:
    """Numbers of one expert: a controller with a single bias in front."""
    C, H, n_output = shape.d_model, shape.d_controller, shape.n_output
    return (3 + n_output) * C * H + H + n_output * C


def unchosen_parameters(shape: IntegratorShape, *, n_layer: int) -> int:
    """Numbers of the controllers that a token does not choose; from a shared set, each layer chooses anew."""
    if shape.n_expert == 1:
        return 0
    sets = 1 if shape.shared_controller else n_layer
    used = shape.top_k * (n_layer if shape.shared_controller else 1)
    return sets * max(shape.n_expert - used, 0) * mixture_parameters(shape)
