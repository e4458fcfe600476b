"""Parametrizations on parts of a model: how methods that change weights put them there.

A parametrization of the whole weight stands on it alone; those of some rows stand side by side in
`layers.quantizer.Rows`. Several methods on one weight act in the order in which they came.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lmbench.layers.masks import Mask
from lmbench.layers.quantizer import Rows
from lmbench.methods.base import Method
from lmbench.methods.parts import Part, parts_of
from lmbench.models.base import LanguageModel


def by_weight(parts: Sequence[Part]) -> dict[str, list[Part]]:
    """The parts of each weight, in their order."""
    found: dict[str, list[Part]] = {}
    for part in parts:
        found.setdefault(part.weight, []).append(part)
    return found


def rows_of(weight: Tensor, part: Part, *, axis: int = 0) -> Tensor:
    """A view of those rows of a weight that are the part.

    Args:
        axis: of the rows; 1 where replicas stand before them.
    """
    return weight if part.rows is None else weight.narrow(axis, part.rows[0], part.rows[1] - part.rows[0])


def install(
    model: LanguageModel, parts: Sequence[Part], *, build: Callable[[Tensor, Part], nn.Module]
) -> dict[Part, str]:
    """Put a parametrization on each part, behind those that are there already.

    Args:
        build: from what the model computes with now, and its part.

    Returns:
        The dotted name of each module that was built.
    """
    names = {}
    for name, held in by_weight(parts).items():
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        weight = getattr(module, leaf).detach()
        inner = [build(rows_of(weight, part), part) for part in held]
        is_whole = held[0].rows is None
        outer = inner[0] if is_whole else Rows(tuple(part.rows for part in held), inner)
        parametrize.register_parametrization(module, leaf, outer)
        at = f"{path}.parametrizations.{leaf}.{len(module.parametrizations[leaf]) - 1}".removeprefix(".")
        names |= {part: at if is_whole else f"{at}.inner.{j}" for j, part in enumerate(held)}
    return names


def refuse_overlap(methods: Sequence[Method], model: LanguageModel) -> None:
    """Methods of one kind may not change the same weight of a run.

    Args:
        methods: those of one kind that change weights, each with a field `parts`.
        model: the run's, on any device.

    Raises:
        ValueError: naming the weight.
    """
    rows: dict[str, list[Part]] = {}
    for method in methods:
        for part in parts_of(model, method.parts):
            for held in rows.setdefault(part.weight, []):
                if held.rows is None or part.rows is None or _meet(held.rows, part.rows):
                    raise ValueError(
                        f"two methods {method.kind!r} of this run act on {part.label}; "
                        f"accepted: one for each weight"
                    )
            rows[part.weight].append(part)


def _meet(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def masks_on(model: LanguageModel, name: str) -> tuple[tuple[str, tuple[int, int] | None], ...]:
    """The masks on a weight: names of their buffers, with the rows that each is of."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if not parametrize.is_parametrized(module, leaf):
        return ()
    found: list[tuple[str, tuple[int, int] | None]] = []
    for at, step in enumerate(module.parametrizations[leaf]):
        place = f"{path}.parametrizations.{leaf}.{at}".removeprefix(".")
        if isinstance(step, Mask):
            found.append((f"{place}.mask", None))
        elif isinstance(step, Rows):
            inner = [(j, one) for j, one in enumerate(step.inner) if isinstance(one, Mask)]
            found += [(f"{place}.inner.{j}.mask", step.spans[j]) for j, _ in inner]
    return tuple(found)


def masked(
    weight: Tensor, masks: Sequence[tuple[str, tuple[int, int] | None]], held: Mapping[str, Tensor]
) -> Tensor:
    """(R, *shape) weights with zeros where they are removed.

    Args:
        masks: of `masks_on`.
        held: (R, *shape) of the masks by name.
    """
    for name, rows in masks:
        mask = held[name]
        if rows is not None:
            full = torch.ones_like(weight)
            full[:, rows[0] : rows[1]] = mask
            mask = full
        weight = weight * mask
    return weight
