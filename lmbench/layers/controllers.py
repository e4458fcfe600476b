"""The controller of an integrator: from context, position and velocity to what steers the motion.

    z = W_h h + W_x x + W_v v + b;   (a, b', g, c) = W_o relu(z) + b_o

a, b', g and c are vectors of the model's width: alpha = sigmoid(a) is the inertia, beta =
softplus(b') the pull to the equilibrium, gate = sigmoid(g) the step, c the candidate velocity
(the cell without it has three outputs). The context h does not change while the cell iterates,
so W_h h is made once, and at the first iteration v is 0 and has no product: exact, and
2 C H + (T - 1) 2 C H multiply-adds fewer for T iterations than without.

The layers may share one controller; then each has a scale and a shift of its own for every
output, before the activation. Legend: N token, C model width, H controller width, O output.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.layers.integrator_shape import IntegratorShape

# Where the motion starts: alpha, beta and gate at z = 0, and a candidate of 0.
ALPHA, BETA, GATE = 0.8, 0.5, 0.5
OUT_STD = 0.01


class Controller(nn.Module):
    """One controller; see the module's text.

    With a candidate it starts as published: Xavier-uniform maps, W_o from N(0, 0.01^2), b_o such
    that alpha, beta and gate begin at 0.8, 0.5 and 0.5. Without one, the three maps are one
    nn.Linear of 3 C features in torch's own start, and so is W_o (alpha and gate begin near 0.5,
    beta near 0.69).
    """

    def __init__(self, shape: IntegratorShape) -> None:
        super().__init__()
        C, H = shape.d_model, shape.d_controller
        # Three biases, of which only the sum matters; the cell without a candidate has one.
        self.context = nn.Linear(C, H)
        self.position = nn.Linear(C, H, bias=shape.candidate)
        self.velocity = nn.Linear(C, H, bias=shape.candidate)
        self.out = nn.Linear(H, shape.n_output * C)
        inward = (self.context, self.position, self.velocity)
        if shape.candidate:
            for linear in inward:
                nn.init.xavier_uniform_(linear.weight)
                nn.init.zeros_(linear.bias)
            nn.init.normal_(self.out.weight, std=OUT_STD)
            self._bias_out(C)
        else:
            for values in (*(linear.weight for linear in inward), self.context.bias):
                nn.init.uniform_(values, -((3 * C) ** -0.5), (3 * C) ** -0.5)

    def _bias_out(self, width: int) -> None:
        starts = (math.log(ALPHA / (1 - ALPHA)), math.log(math.expm1(BETA)), math.log(GATE / (1 - GATE)), 0.0)
        with torch.no_grad():
            for part, start in zip(self.out.bias.view(-1, width), starts, strict=True):
                part.fill_(start)

    def hoisted(self, h_NC: Tensor) -> Tensor:
        """What does not change over the iterations: W_h h and all biases of z, (N, H)."""
        z_NH = self.context(h_NC.to(self.context.weight.dtype))
        for linear in (self.position, self.velocity):
            z_NH = z_NH if linear.bias is None else z_NH + linear.bias
        return z_NH

    def forward(self, hoisted_NH: Tensor, x_NC: Tensor, v_NC: Tensor | None) -> Tensor:
        """The outputs before their activations, (N, O C), in the dtype of the weights.

        Args:
            hoisted_NH: of `hoisted`.
            v_NC: None is 0.
        """
        dtype = self.position.weight.dtype
        z_NH = hoisted_NH + F.linear(x_NC.to(dtype), self.position.weight)
        if v_NC is not None:
            z_NH = z_NH + F.linear(v_NC.to(dtype), self.velocity.weight)
        return self.out(F.relu(z_NH))


class LayerScales(nn.Module):
    """What a layer has of its own beside a shared controller: a scale and a shift of each output."""

    def __init__(self, shape: IntegratorShape) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(shape.n_output))
        self.shift = nn.Parameter(torch.zeros(shape.n_output))

    def forward(self, raw: Tensor) -> Tensor:
        """(..., O C) in the same shape and dtype."""
        parts = raw.unflatten(-1, (len(self.scale), -1))
        return (parts * self.scale.unsqueeze(-1) + self.shift.unsqueeze(-1)).flatten(-2).to(raw.dtype)


def controller_parameters(shape: IntegratorShape) -> int:
    """Numbers of one controller: 7 C H weights with a candidate, 6 C H without, and its biases."""
    C, H, n_output = shape.d_model, shape.d_controller, shape.n_output
    biases = (3 if shape.candidate else 1) * H + n_output * C
    return (3 + n_output) * C * H + biases
