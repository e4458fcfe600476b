"""The objective of distillation with its numbers: those that stay, and those that change with the step.

A number is a plain one or a curve. The plain ones stand in the compiled pass as they are; the curves
are read beforehand, one value for each step, and reach the pass as a row of a buffer.

Legend: S step, M teacher, B batch, T position, V vocabulary, N number that changes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lmbench.layers.objective import Family, average, unpacked
from lmbench.methods.base import Method, Objective
from lmbench.tasks.base import IGNORE

# Values that a number may take at any step: least, whether that itself is allowed, most.
BOUNDS = {"a": (0.0, True, 1.0), "tau": (0.0, False, float("inf")), "entropy": (0.0, True, float("inf"))}


class DistillObjective(Objective):
    """The family with the numbers of a method.

    Args:
        method: the `methods.distill.Distill`.
    """

    terms = ("hard", "soft", "entropy")

    def __init__(self, method: Method) -> None:
        # Plain attributes: a compiled pass reads them, and would stumble over a config.
        self.shares, self.cache, self.has_soft_term = method.mixture, method.cache, method.has_soft_term
        self.power, self.direction = method.power, method.direction
        self.values = {name: getattr(method, name) for name in BOUNDS}
        self.ramps = tuple(name for name, value in self.values.items() if not isinstance(value, float))
        """Numbers that change with the step, in the order of `numbers`."""

    def numbers(self, steps: int) -> Tensor:
        """(S, N) values of the ramps."""
        columns = [torch.tensor(self.values[name].values(steps)) for name in self.ramps]
        return torch.stack(columns, dim=1) if columns else torch.zeros(steps, 0)

    def __call__(
        self, logits_BTV: Tensor, targets_BT: Tensor, teacher_MBTV: Tensor | None, numbers_N: Tensor
    ) -> Tensor:
        """See `Objective`; with a cache `teacher_MBTV` holds its rows, see `TeacherCache.rows`."""
        values = self.values | {name: numbers_N[at] for at, name in enumerate(self.ramps)}
        family = Family(power=self.power, direction=self.direction, **values)
        soft = None
        if teacher_MBTV is not None and self.has_soft_term:
            if self.cache is None:
                soft = average(teacher_MBTV, shares=self.shares, tau=family.tau)
            else:
                soft = unpacked(teacher_MBTV[0], vocab_size=logits_BTV.shape[-1])
        terms = family.terms(logits_BTV, targets_BT, soft, ignore=IGNORE)
        return torch.stack((family.total(terms), *terms))


def check_bounds(name: str, values: Sequence[float]) -> None:
    """Raise ValueError where a number takes a value, at any step, that it may not."""
    least, is_closed, most = BOUNDS[name]
    for value in values:
        if not (least <= value if is_closed else least < value) or value > most:
            wanted = f"{'at least' if is_closed else 'above'} {least:g}"
            wanted += f" and at most {most:g}" if most < float("inf") else ""
            raise ValueError(f"{name} = {value:g} is not accepted: {wanted}")
