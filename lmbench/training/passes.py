"""One training pass of one replica: the model on a batch, and the loss that gradients are taken of.

The loss is the cross entropy summed over targets, or what a method puts in its place; that of each
exit of the model comes on top with its weight, and the model's own, such as that of a router.

Legend: B batch, T position, V vocabulary, M teacher, K term of the objective, N coefficient of it. In
`context_BK` K is the width of the context.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lmbench.measure.score import readout_of, summed_loss
from lmbench.methods.base import Method, Objective

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
"""What passes compute in, by the names that a Run has for it."""


class OnePass(nn.Module):
    """A training pass of the plain module as a module itself, for what wraps modules."""

    def __init__(self, model: nn.Module, *, parts: int, objective: Objective | None = None) -> None:
        super().__init__()
        self.model, self.parts, self.objective = model, parts, objective

    def forward(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor,
        n_targets: Tensor,
        context_BK: Tensor | None = None,
        teacher_MBTV: Tensor | None = None,
        segment_BT: Tensor | None = None,
        numbers_N: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The loss, a scalar, and its (K,) terms; see `Replicas.losses`."""
        batch = (tokens_BT, targets_BT, n_targets, context_BK, teacher_MBTV, segment_BT, numbers_N)
        return loss_of(self.model, *batch, parts=self.parts, objective=self.objective)


def loss_of(
    model,
    tokens_BT,
    targets_BT,
    n_targets,
    context_BK,
    teacher_MBTV,
    segment_BT,
    numbers_N,
    *,
    parts: int,
    objective,
) -> tuple[Tensor, Tensor]:
    """The loss of one replica's batch, a scalar, and the (K,) terms of its objective.

    Args:
        model: a module, or a function of the same arguments.
        n_targets: what sums over targets are divided by.
        parts: passes whose losses add up to that of a step; each has its share of the model's own loss.
    """

    def sums(logits_BTV: Tensor) -> Tensor:
        if objective is None:
            return summed_loss(logits_BTV, targets_BT).unsqueeze(0) / n_targets
        return objective(logits_BTV, targets_BT, teacher_MBTV, numbers_N) / n_targets

    how = {} if segment_BT is None else {"segment_BT": segment_BT}  # not every model takes it
    output = model(tokens_BT, context_BK, readout=readout_of(tokens_BT, targets_BT), **how)
    found = sums(output.logits_BTV)
    loss, terms_K = found[0], found[1:].detach()
    for weight, logits_BTV in output.exits:
        loss = loss + weight * sums(logits_BTV)[0]
    return loss if output.aux_loss is None else loss + output.aux_loss / parts, terms_K


def objective_of(methods: Sequence[Method]) -> Objective | None:
    """What replaces the cross entropy, if a method does.

    Raises:
        ValueError: two methods that do.
    """
    made = [(method.kind, objective) for method in methods if (objective := method.objective()) is not None]
    if len(made) > 1:
        raise ValueError(
            f"methods {made[0][0]!r} and {made[1][0]!r} both replace the objective; accepted: one"
        )
    return made[0][1] if made else None
