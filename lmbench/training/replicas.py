"""The weights of R replicas of one model in flat buffers, and the passes that read them.

One replica is the plain module whose parameters lie in the buffer. Several are stacked:
torch.func.vmap over (R, ...) views of the same buffer, so any functional model joins without
a line of its own. The passes of training compute in the arithmetic of the run; in bfloat16
they read a copy that is made anew after each update, and gradients flow into float32.

Legend: R replica, P parameter of the flat layout, B batch, T position, V vocabulary, D dropout.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lmbench.layers.dropout import dropout_sites
from lmbench.measure.score import readout_of, summed_loss
from lmbench.models.base import ModelConfig, Output, seeded
from lmbench.tasks.base import Batch
from lmbench.training.layout import Layout

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


class OnePass(nn.Module):
    """A training pass of the plain module as a module itself, for what wraps modules."""

    def __init__(self, model: nn.Module, *, parts: int) -> None:
        super().__init__()
        self.model, self.parts = model, parts

    def forward(
        self, tokens_BT: Tensor, targets_BT: Tensor, n_targets: Tensor, context_BK: Tensor | None
    ) -> Tensor:
        """The loss, a scalar; see `Replicas.losses`."""
        return _loss(self.model, tokens_BT, targets_BT, n_targets, context_BK, parts=self.parts)


class Replicas:
    """R models that differ in nothing but their numbers.

    Args:
        init_seeds: one for each replica; each starts as it would alone.
        dtype: of the passes, "float32", "bfloat16" or "float64".
        parts: passes whose losses add up to that of a step.
    """

    def __init__(
        self,
        config: ModelConfig,
        init_seeds: Sequence[int],
        *,
        dtype: str,
        device: torch.device,
        parts: int = 1,
    ) -> None:
        self.n, self.device, self.parts = len(init_seeds), device, parts
        models = [seeded(config, init_seed=seed) for seed in init_seeds]
        self.module = models[0].double() if dtype == "float64" else models[0]
        self.layout = Layout.of(self.module)
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
        self.leaves = self._leaves()
        self.one_pass: nn.Module = OnePass(self.module, parts=parts)
        """What a lone replica trains with; several processes put their shared one in its place."""

    def _leaves(self) -> dict[str, Tensor]:
        """What gradients are taken of: views of `compute_RP`."""
        views = self.layout.views(self.compute_RP)
        if self.n > 1:
            return {name: view.detach().requires_grad_() for name, view in views.items()}
        for name, view in views.items():
            _parent(self.module, name).register_parameter(name.rpartition(".")[2], nn.Parameter(view[0]))
        for at, name in enumerate(self.sites):
            _parent(self.module, name).key = self.keys_RD[0, at]
        return dict(self.module.named_parameters())

    def losses(self, batch: Batch, keys_RD: Tensor, n_targets_R: Tensor) -> Tensor:
        """(R,) losses of a training pass: summed over the targets of each batch, divided by `n_targets_R`.

        Args:
            batch: (R, B, T) tokens and so on.
            keys_RD: of the dropout sites.
        """
        self.keys_RD.copy_(keys_RD)
        if self.n == 1:
            one = (batch.tokens_BT[0], batch.targets_BT[0], n_targets_R[0])
            context_BK = None if batch.context_BK is None else batch.context_BK[0]
            return self.one_pass(*one, context_BK).unsqueeze(0)
        keys = dict(zip(self.sites, self.keys_RD.unbind(1), strict=True))
        context_dim = None if batch.context_BK is None else 0
        return vmap(self._loss_of, in_dims=(0, 0, 0, 0, context_dim))(
            self.leaves | keys, batch.tokens_BT, batch.targets_BT, n_targets_R, batch.context_BK
        )

    def _loss_of(self, state: dict[str, Tensor], *batch: Tensor | None) -> Tensor:
        def model(*inputs: Tensor | None, **how: str) -> Output:
            return functional_call(self.module, state, inputs, how)

        return _loss(model, *batch, parts=self.parts)

    def collect(self, grads_RP: Tensor, *, add: bool) -> None:
        """Move the gradients of the leaves into the flat buffer, over what it holds or on top of it."""
        grads = {}
        for name, leaf in self.leaves.items():
            grads[name] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            leaf.grad = None
        if self.n == 1 and not add:  # views of a single row are dense: one call copies them all
            places = self.layout.views(grads_RP)
            torch._foreach_copy_([places[name][0] for name in grads], list(grads.values()))
            return
        flat_RP = self.layout.join(grads, self.layout.segments, like=self.compute_RP)
        if add:
            grads_RP += flat_RP
        else:
            grads_RP.copy_(flat_RP)

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
        how = {"readout": readout_of(batch.tokens_BT, batch.targets_BT)}
        inputs, views = (batch.tokens_BT, batch.context_BK), self.layout.views(weights_RP)
        self.module.eval()
        try:
            if self.n == 1:
                one = {name: view[0] for name, view in views.items()}
                return functional_call(self.module, one, inputs, how).logits_BTV.unsqueeze(0)
            return vmap(lambda state: functional_call(self.module, state, inputs, how).logits_BTV)(views)
        finally:
            self.module.train()

    def state(self, replica: int, weights_RP: Tensor | None = None) -> dict[str, Tensor]:
        """One replica's weights by name, as copies on the CPU."""
        return self.layout.state((self.master_RP if weights_RP is None else weights_RP)[replica])


def _loss(model, tokens_BT, targets_BT, n_targets, context_BK, *, parts: int) -> Tensor:
    output = model(tokens_BT, context_BK, readout=readout_of(tokens_BT, targets_BT))
    loss = summed_loss(output.logits_BTV, targets_BT) / n_targets
    for weight, logits_BTV in output.exits:
        loss = loss + weight * summed_loss(logits_BTV, targets_BT) / n_targets
    return loss if output.aux_loss is None else loss + output.aux_loss / parts


def _parent(module: nn.Module, name: str) -> nn.Module:
    """The submodule that holds a parameter or buffer."""
    return module.get_submodule(name.rpartition(".")[0])
