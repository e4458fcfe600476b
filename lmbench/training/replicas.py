"""The weights of R replicas of one model in flat buffers, and the passes that read them.

One replica is the plain module whose parameters lie in the buffer. Several are stacked:
torch.func.vmap over (R, ...) views of the same buffer, so any functional model joins without
a line of its own. The passes of training compute in the arithmetic of the run; in bfloat16
they read a copy that is made anew after each update, and gradients flow into float32. What
methods have put into the module reads its buffers: controls of the step, and state that lies in
the flat buffer behind the weights.

Legend: R replica, P parameter of the flat layout, B batch, T position, V vocabulary, D dropout,
M teacher, K term of the objective.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lmbench.layers.dropout import dropout_sites
from lmbench.measure.score import readout_of
from lmbench.methods.base import Method
from lmbench.methods.equipment import Equipment
from lmbench.models.base import ModelConfig, Output
from lmbench.tasks.base import Batch
from lmbench.training.layout import Layout
from lmbench.training.passes import DTYPES, OnePass, loss_of, objective_of


class Replicas:
    """R models that differ in nothing but their numbers.

    Args:
        init_seeds: one for each replica; each starts as it would alone.
        dtype: of the passes, "float32", "bfloat16" or "float64".
        parts: passes whose losses add up to that of a step.
        methods: what changes the modules, and the objective.
        steps: of the training.
    """

    def __init__(
        self,
        config: ModelConfig,
        init_seeds: Sequence[int],
        *,
        dtype: str,
        device: torch.device,
        parts: int = 1,
        methods: Sequence[Method] = (),
        steps: int = 1,
    ) -> None:
        self.n, self.device, self.parts = len(init_seeds), device, parts
        self.config, self.methods, self.steps = config, tuple(methods), steps
        made = [Equipment.of(config, methods, init_seed=seed, steps=steps) for seed in init_seeds]
        self.equipment, models = made[0], [one.model for one in made]
        self.objective = objective_of(methods)
        self.module = models[0].double() if dtype == "float64" else models[0]
        self.layout = Layout.of(self.module, self.equipment.state)
        exact = torch.float64 if dtype == "float64" else torch.float32
        rows_RP = torch.zeros(self.n, self.layout.width, dtype=exact)
        for row_P, model in zip(rows_RP, models, strict=True):
            self.layout.fill(row_P, model)
        self.module.to(device).train()
        self.master_RP = rows_RP.to(device)
        """The weights that are updated, scored and kept."""
        self.compute_RP = self.master_RP.to(DTYPES[dtype])
        """The weights that training passes read; the same memory unless dtype is bfloat16."""
        self.sites = dropout_sites(self.module)
        self.keys_RD = torch.zeros(self.n, len(self.sites), dtype=torch.int64, device=device)
        self.controls: dict[str, Tensor] = {}
        """(R, *shape) values of this step, by buffer name; see `hold_controls`."""
        self.leaves = self._leaves()
        self.one_pass: nn.Module = OnePass(self.module, parts=parts, objective=self.objective)
        """What a lone replica trains with; several processes put their shared one in its place."""

    def _leaves(self) -> dict[str, Tensor]:
        """What gradients are taken of: views of `compute_RP`."""
        views = self.layout.views_of(self.compute_RP, self.layout.trained)
        if self.n > 1:
            return {name: view.detach().requires_grad_() for name, view in views.items()}
        for name, view in views.items():
            _parent(self.module, name).register_parameter(name.rpartition(".")[2], nn.Parameter(view[0]))
        self._hold(self.state_views())
        for at, name in enumerate(self.sites):
            _parent(self.module, name).key = self.keys_RD[0, at]
        return dict(self.module.named_parameters())

    def _hold(self, buffers: Mapping[str, Tensor]) -> None:
        """Let the module's buffers be the first row of (R, *shape) tensors."""
        for name, value in buffers.items():
            path, _, leaf = name.rpartition(".")
            self.module.get_submodule(path)._buffers[leaf] = value[0]

    def hold_controls(self, controls: Mapping[str, Tensor]) -> None:
        """Read the controls from these (R, *shape) tensors from now on."""
        self.controls = dict(controls)
        if self.n == 1:
            self._hold(self.controls)

    def state_views(self, weights_RP: Tensor | None = None) -> dict[str, Tensor]:
        """(R, *shape) of the state of methods, in float32 or better whatever the passes compute in."""
        flat_RP = self.master_RP if weights_RP is None else weights_RP
        trained = self.layout.n_trained
        return self.layout.views_of(flat_RP, [s for s in self.layout.segments if s.start >= trained])

    def trained_views(self) -> dict[str, Tensor]:
        """(R, *shape) of the parameters, sharing the memory of the master weights."""
        return self.layout.views_of(self.master_RP, self.layout.trained)

    def losses(
        self,
        batch: Batch,
        keys_RD: Tensor,
        n_targets_R: Tensor,
        teacher_RMBTV: Tensor | None = None,
        numbers_N: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(R,) losses of a training pass and (R, K) terms of the objective.

        Both are summed over the targets of each batch and divided by `n_targets_R`.

        Args:
            batch: (R, B, T) tokens and so on.
            keys_RD: of the dropout sites.
            teacher_RMBTV: logits of the teachers, where the objective has such.
            numbers_N: coefficients of the objective at this step.
        """
        self.keys_RD.copy_(keys_RD)
        tokens, context = (batch.tokens_BT, batch.targets_BT), batch.context_BK
        inputs = (*tokens, n_targets_R, context, teacher_RMBTV, batch.segment_BT)
        if self.n == 1:
            loss, terms_K = self.one_pass(*(None if x is None else x[0] for x in inputs), numbers_N)
            return loss.unsqueeze(0), terms_K.unsqueeze(0)
        keys = dict(zip(self.sites, self.keys_RD.unbind(1), strict=True))
        dims = tuple(None if x is None else 0 for x in inputs)
        return vmap(self._loss_of, in_dims=(0, *dims, None))(
            self.leaves | keys | self.state_views() | self.controls, *inputs, numbers_N
        )

    def _loss_of(self, state: dict[str, Tensor], *batch: Tensor | None) -> tuple[Tensor, Tensor]:
        def model(*inputs: Tensor | None, **how: str | Tensor) -> Output:
            return functional_call(self.module, state, inputs, how)

        return loss_of(model, *batch, parts=self.parts, objective=self.objective)

    def collect(self, grads_RP: Tensor, *, add: bool) -> None:
        """Move the gradients of the leaves into the flat buffer, over what it holds or on top of it."""
        grads = {}
        for name, leaf in self.leaves.items():
            grads[name] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            leaf.grad = None
        if self.n == 1 and not add:  # views of a single row are dense: one call copies them all
            places = self.layout.views_of(grads_RP, self.layout.trained)
            torch._foreach_copy_([places[name][0] for name in grads], list(grads.values()))
            return
        flat_RP = self.layout.join(grads, self.layout.trained, like=self.compute_RP)
        if add:
            grads_RP += flat_RP
        else:
            grads_RP.copy_(flat_RP)

    def recompute_state(self, done: int) -> None:
        """Let methods whose state is due after `done` steps compute it anew from the weights."""
        due = [one for one in self.equipment.attached if one.due(done)]
        for one in due:
            one.refresh(self.trained_views(), self.state_views(), done=done)
        if due:
            self.refresh()

    def refresh(self) -> None:
        """Bring the weights that passes read up to date with the master weights."""
        if self.compute_RP is not self.master_RP:
            self.compute_RP.copy_(self.master_RP)

    @torch.no_grad()
    def logits(self, batch: Batch, weights_RP: Tensor) -> Tensor:
        """(R, B, T, V) logits of all replicas on one batch, dropout off.

        Args:
            batch: (B, T) tokens and so on, the same for all replicas.
            weights_RP: such as `master_RP`.
        """
        how = {"readout": readout_of(batch.tokens_BT, batch.targets_BT)} | batch.borders
        inputs, views = (batch.tokens_BT, batch.context_BK), self.layout.views(weights_RP)
        self.module.eval()
        try:
            if self.n == 1:
                one = {name: view[0] for name, view in views.items()}
                return functional_call(self.module, one, inputs, how).logits_BTV.unsqueeze(0)
            held = views | self.controls
            return vmap(lambda state: functional_call(self.module, state, inputs, how).logits_BTV)(held)
        finally:
            self.module.train()

    def active(self) -> Tensor | None:
        """(R, P) booleans: which trained numbers are in use at this step; None where all are."""
        buffers, found = self.controls | self.state_views(), {}
        for one in self.equipment.attached:
            found |= one.active(buffers)
        if not found:
            return None
        views, every = self.trained_views(), {}
        for name, view in views.items():
            used = found.get(name)
            every[name] = torch.ones_like(view, dtype=torch.bool) if used is None else used.expand_as(view)
        return self.layout.join(every, self.layout.trained, like=self.master_RP.to(torch.bool))


def _parent(module: nn.Module, name: str) -> nn.Module:
    """The submodule that holds a parameter or buffer."""
    return module.get_submodule(name.rpartition(".")[0])
