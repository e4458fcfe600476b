"""The update of a step: all that follows the gradients, a few operations on flat buffers.

Gradients are clipped, the optimizer moves the weights, numbers that methods leave out of use are put
back, the average follows, and the step is counted. What the optimizer's numbers are at a step is worked
out on the device from the count that lies there, so a captured step needs nothing from the host.

Legend: R replica, P parameter of the flat layout, S step.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lmbench.run import Run
from lmbench.training.replicas import Replicas


class Update:
    """Updates the weights of a group's replicas.

    Args:
        grads_RP: gradients of the trained parameters, which the passes of a step leave here.
    """

    def __init__(self, runs: Sequence[Run], replicas: Replicas, *, grads_RP: Tensor) -> None:
        self.run, self.replicas, self.grads_RP = runs[0], replicas, grads_RP
        # float64 where there is any: rates and corrections are then those of a plain Python loop.
        exact = torch.float32 if grads_RP.device.type == "mps" else torch.float64
        place = {"device": grads_RP.device, "dtype": exact}
        scalars = [one.optimizer.scalars() for one in runs]
        self.hyper = {
            name: torch.tensor([[values[name]] for values in scalars], **place) for name in scalars[0]
        }
        self.factor_S = torch.tensor(self.run.schedule.factors(self.run.steps), **place)
        self.count = torch.zeros(1, dtype=torch.int64, device=grads_RP.device)
        """Steps taken, where captured steps can read it."""
        self.state = self.run.optimizer.state(grads_RP)
        self.ema_RP = None if self.run.ema is None else replicas.master_RP.clone()
        """The averaged weights, where the run averages."""
        self._freezes = replicas.active() is not None

    def tensors(self) -> dict[str, Tensor]:
        """All that an update changes beside the weights and the count, by name."""
        held = {f"optimizer.{name}": value for name, value in self.state.items()}
        return held if self.ema_RP is None else held | {"ema": self.ema_RP}

    def rates(self) -> dict[str, Tensor]:
        """The optimizer's numbers of this step, in float64 where there is such."""
        return self.run.optimizer.rates(
            self.hyper,
            factor=self.factor_S.index_select(0, self.count),
            count=(self.count + 1).to(self.factor_S.dtype),
        )

    @torch.no_grad()
    def apply(self, rates: dict[str, Tensor]) -> None:
        """Clip, update, average, count."""
        run, replicas = self.run, self.replicas
        if run.grad_clip is not None:
            norm_R1 = torch.linalg.vector_norm(self.grads_RP, dim=1, keepdim=True)
            self.grads_RP.mul_((run.grad_clip / (norm_R1 + 1e-6)).clamp(max=1.0))
        trained_RP = replicas.master_RP[:, : replicas.layout.n_trained]
        held = {"": trained_RP} | self.state if self._freezes else {}
        before = {name: value.clone() for name, value in held.items()}
        if self._freezes:
            active_RP = replicas.active()
            for value in self.state.values():  # or Muon would turn what is in use by old moments of the rest
                value.masked_fill_(~active_RP, 0.0)
        run.optimizer.update(
            trained_RP,
            self.grads_RP,
            self.state,
            rates=rates,
            layout=replicas.layout,
            dtype=replicas.compute_RP.dtype,
        )
        if self._freezes:
            for name, value in held.items():
                value.copy_(torch.where(active_RP, value, before[name]))
        replicas.refresh()
        if self.ema_RP is not None:
            self._average(trained_RP)
        self.count += 1

    def _average(self, trained_RP: Tensor) -> None:
        # A young average follows the weights, or it would remember the initial ones for long.
        count = self.count.to(self.factor_S.dtype)
        keep = ((1 + count) / (10 + count)).clamp(max=self.run.ema).to(self.ema_RP.dtype)
        n = self.replicas.layout.n_trained  # masks are not averaged
        self.ema_RP[:, :n].lerp_(trained_RP, 1 - keep)
        self.ema_RP[:, n:].copy_(self.replicas.master_RP[:, n:])
