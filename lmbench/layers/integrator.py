"""The integrator cell: a controlled, damped oscillator for every feature, stepped T times.

    e = x - mu;  v' = alpha v + (1 - alpha) c - beta e + A sin(gamma t + phi);  x' = x + dt s gate v'

x starts at the normed residual stream (or at mu) and v at 0; alpha, beta, gate and c come from a
controller that reads the context h (attention's output) and x and v (`controllers`, or
`integrator_mixture`). The step is semi-implicit Euler: x' uses the new v. With constant
coefficients and k = dt s gate beta the motion is linear, with eigenvalues
l^2 - (1 + alpha - k) l + alpha = 0: stable iff |alpha| < 1 and 0 < k < 2 (1 + alpha). It rests at
mu + ((1 - alpha) c + force) / beta, so without a candidate every token would end at mu: the
useful signal is on the way. `dynamic_alpha` multiplies alpha by exp(-kappa |e|), as published, or
by exp(-kappa |e| / sqrt(C)); the first is 0 wherever |e| is the sqrt(C) of a normed vector.

The cell is position-wise; positions are flattened. The state is float32 or better, the products
are in the dtype of the weights. Legend: B batch, T position, N = B T token, C model width,
I iteration.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lmbench.layers.controllers import Controller, LayerScales
from lmbench.layers.cost import Term, matmul
from lmbench.layers.equilibrium import Equilibrium
from lmbench.layers.excitation import Excitation
from lmbench.layers.experts import balance_loss, z_loss
from lmbench.layers.integrator_losses import PathLosses
from lmbench.layers.integrator_mixture import ControllerMixture, Equation, Moved, Router
from lmbench.layers.integrator_shape import IntegratorShape
from lmbench.layers.integrator_stop import StopRule
from lmbench.layers.mixer import Pass

Drive = Callable[[Tensor, Tensor | None, Equation], Moved]
"""What a controller makes of (position, velocity, equation of motion): the next position and velocity."""
Step = Callable[[int, Tensor, Tensor | None], Moved]
"""(iteration, position, velocity) to the next position and velocity."""


def recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """`function(*inputs)`, whose activations are not kept but computed again in the backward pass."""
    # Dropout's masks are functions of a key, so there is no state of a generator to bring back.
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def make_controller(shape: IntegratorShape) -> Controller | ControllerMixture:
    """What steers one cell, or all of them."""
    return Controller(shape) if shape.n_expert == 1 else ControllerMixture(shape)


class Integrator(nn.Module):
    """One layer's cell; see the module's text. Without a controller of its own it is given one."""

    mean_weight: Tensor

    def __init__(self, shape: IntegratorShape) -> None:
        super().__init__()
        self.shape = shape
        self.controller = None if shape.shared_controller else make_controller(shape)
        self.scales = LayerScales(shape) if shape.shared_controller else None
        self.router = Router(shape) if shape.n_expert > 1 else None
        self.equilibrium = Equilibrium(shape)
        self.excitation = Excitation(shape) if shape.has_excitation else None
        # A tensor, so that a phase of training can change it under a captured graph.
        self.register_buffer("mean_weight", torch.tensor(float(shape.mean_weight)), persistent=False)

    def forward(
        self,
        x_BTC: Tensor | None,
        h_BTC: Tensor,
        shared: Pass | None = None,
        *,
        controller: Controller | ControllerMixture | None = None,
    ) -> Tensor:
        """The last position, (B, T, C) in the dtype of the context.

        Args:
            x_BTC: first position; None starts at mu.
            h_BTC: context.
            shared: takes up the losses, in training.
            controller: where it is shared among the layers.
        """
        pass_ = Pass() if shared is None else shared
        step, x_NC, mu_C = self._begin(x_BTC, h_BTC, controller, pass_)
        if self.training:
            x_NC, loss = self._travel(step, x_NC, mu_C)
            pass_.aux_losses.extend([] if loss is None else [loss / self.shape.n_layer])
        else:
            x_NC, _ = self._settle(step, x_NC, mu_C)
        return x_NC.unflatten(0, h_BTC.shape[:2]).to(h_BTC.dtype)

    def settled(
        self,
        x_BTC: Tensor | None,
        h_BTC: Tensor,
        *,
        controller: Controller | ControllerMixture | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The last position as in evaluation, and the iterations of each token, (B, T) int64."""
        step, x_NC, mu_C = self._begin(x_BTC, h_BTC, controller, Pass())
        x_NC, count_N = self._settle(step, x_NC, mu_C)
        x_BTC = x_NC.unflatten(0, h_BTC.shape[:2]).to(h_BTC.dtype)
        return x_BTC, count_N.unflatten(0, h_BTC.shape[:2])

    def _begin(
        self,
        x_BTC: Tensor | None,
        h_BTC: Tensor,
        controller: Controller | ControllerMixture | None,
        shared: Pass,
    ) -> tuple[Step, Tensor, Tensor]:
        """One iteration as a function, the first position (N, C), and mu (C,)."""
        shape, h_NC = self.shape, h_BTC.flatten(0, 1)
        wide = torch.promote_types(h_NC.dtype, torch.float32)
        mu_C = self.equilibrium.mu().to(wide)
        # Not a view of mu: without gradients, torch's counter of FLOPs trips over views of parameters.
        start_NC = mu_C + torch.zeros_like(h_NC, dtype=wide) if x_BTC is None else x_BTC.flatten(0, 1)
        is_excited = self.excitation is not None and (self.training or shape.excited == "always")
        force_IC = self.excitation.table(shape.n_iteration, dtype=wide) if is_excited else None
        drive = self._drive(h_NC, controller or self.controller, shared) if shape.n_iteration else None

        def step(t: int, x_NC: Tensor, v_NC: Tensor | None) -> Moved:
            def equation(x: Tensor, v: Tensor | None, raw: Tensor) -> Moved:
                raw = raw if self.scales is None else self.scales(raw)
                force_C = None if force_IC is None else force_IC[t]
                return advanced(x, v, raw.to(x.dtype), mu_C=mu_C, force_C=force_C, shape=shape)

            return drive(x_NC, v_NC, equation)

        return step, start_NC.to(wide), mu_C

    def _drive(self, h_NC: Tensor, controller: Controller | ControllerMixture, shared: Pass) -> Drive:
        """What the context decides, once for all iterations."""
        if self.router is None:
            hoisted_NH = controller.hoisted(h_NC)
            return lambda x, v, equation: equation(x, v, controller(hoisted_NH, x, v))
        routing = self.router.route(h_NC)
        if self.training:
            weighted = ((self.shape.balance_weight, balance_loss), (self.shape.z_weight, z_loss))
            shared.aux_losses.extend(weight * loss(routing) for weight, loss in weighted if weight)
        held = controller.assigned(h_NC, routing)
        return lambda x, v, equation: controller.step(held, x, v, equation)

    def _travel(self, step: Step, x_NC: Tensor, mu_C: Tensor) -> tuple[Tensor, Tensor | None]:
        """All iterations with the losses on their path, as in training."""
        shape = self.shape
        inner = (lambda *at: recomputed(step, *at)) if shape.checkpointing == "step" else step

        def whole(x_NC: Tensor) -> tuple[Tensor, Tensor | None]:
            losses, v_NC = PathLosses(shape), None
            for t in range(shape.n_iteration):
                x_NC, v_NC = inner(t, x_NC, v_NC)
                losses.step_taken(x_NC, v_NC, t=t)
            return x_NC, losses.total(x_NC, mu_C=mu_C, mean_weight=self.mean_weight)

        return recomputed(whole, x_NC) if shape.checkpointing == "stack" else whole(x_NC)

    def _settle(self, step: Step, x_NC: Tensor, mu_C: Tensor) -> tuple[Tensor, Tensor]:
        """All iterations, in which tokens that are done stay as they are; and (N,) how many each took."""
        rule, v_NC = StopRule(self.shape, like=x_NC), None
        for t in range(self.shape.n_iteration):
            new_NC, v_NC = step(t, x_NC, v_NC)
            new_NC = rule.keep(x_NC, new_NC)
            rule.step_taken(x_NC, new_NC, mu_C=mu_C, n_done=t + 1)
            x_NC = new_NC
        return x_NC, rule.count_N1.squeeze(1)


def advanced(
    x: Tensor, v: Tensor | None, raw: Tensor, *, mu_C: Tensor, force_C: Tensor | None, shape: IntegratorShape
) -> Moved:
    """One step of the equation of motion.

    Args:
        x: (..., C) position, of any leading axes that `raw` can be broadcast with.
        v: velocity; None is 0.
        raw: (..., O C) outputs of the controller before their activations.
        force_C: of the excitation; None is 0.
    """
    a, b, g, *candidate = raw.unflatten(-1, (shape.n_output, -1)).unbind(-2)
    error = x - mu_C
    new_v = -F.softplus(b) * error
    if v is not None or shape.candidate:
        alpha = torch.sigmoid(a)
        if shape.dynamic_alpha != "off":
            scale = x.shape[-1] ** -0.5 if shape.dynamic_alpha == "rms" else 1.0
            distance = scale * torch.linalg.vector_norm(error, dim=-1, keepdim=True)
            alpha = alpha * torch.exp(-shape.kappa * distance)
        new_v = new_v if v is None else new_v + alpha * v
        new_v = new_v + (1 - alpha) * candidate[0] if shape.candidate else new_v
    new_v = new_v if force_C is None else new_v + force_C
    return x + (shape.dt * shape.velocity_scale) * torch.sigmoid(g) * new_v, new_v


def integrator_terms(shape: IntegratorShape, *, seq_len: int, n_layer: int) -> tuple[Term, ...]:
    """Forward FLOPs of n_layer cells over seq_len tokens; early stopping saves none of them.

    The motion itself is left out, as element-wise work is that replaces no product: some ten operations
    a feature and iteration, 1.3% of the controller's products at H = 64.
    """
    C, H, n, rows = shape.d_model, shape.d_controller, shape.n_iteration, shape.top_k * seq_len
    if not n:
        return ()
    inward = matmul(rows, inner=C, columns=H)
    # At each iteration W_x and W_o; W_v from the second on.
    iterations = n * inward + (n - 1) * inward + n * matmul(rows, inner=H, columns=shape.n_output * C)
    terms = [
        Term(name="context", forward=n_layer * inward),
        Term(name="iterations", forward=n_layer * iterations),
    ]
    if shape.n_expert > 1:
        router = matmul(seq_len, inner=C, columns=shape.n_expert)
        terms.append(Term(name="router", forward=n_layer * router))
    return tuple(terms)
