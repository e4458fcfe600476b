"""What `prune` puts into a model: masks, and the weights that they are found from.

A site is what is ranked together where each tensor keeps its own share: the weights of one part,
or the heads or units of one layer with all the weights that only they use. Key and value heads
that several query heads share are no head's own and stay; so do biases, whose features meet zeros
in the next map. Legend: R replica, U unit, F feed-forward width, E expert.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lmbench.layers.attention import CausalSelfAttention
from lmbench.layers.experts import Experts
from lmbench.layers.feedforward import FeedForward
from lmbench.layers.masks import (
    Mask,
    UnitWeight,
    kept,
    largest,
    largest_of_each,
    masks_by_magnitude,
    unit_mask,
    unit_scores,
)
from lmbench.methods.attached import Attached
from lmbench.methods.base import Method
from lmbench.methods.equipment import effective, trained_name
from lmbench.methods.installed import install, rows_of
from lmbench.methods.parts import Part
from lmbench.models.base import LanguageModel

Structure = Literal["weights", "2:4", "heads", "units"]


class Site(NamedTuple):
    """Weights that are ranked together."""

    parts: tuple[Part, ...]
    units: tuple[Tensor, ...] = ()
    """For heads and units: to which each row or column of a part belongs, see `masks.UnitWeight`. The
    last part's covers all units."""
    n_unit: int = 0
    """U; 0 where single weights are ranked."""


def sites_of(model: LanguageModel, parts: Sequence[Part], *, structure: Structure) -> tuple[Site, ...]:
    """The sites of a model.

    Raises:
        ValueError: parts that have no such structure.
    """
    if structure in ("weights", "2:4"):
        for part in parts if structure == "2:4" else ():
            shape = model.get_parameter(trained_name(model, part.weight)).shape
            n_input = shape[-2] if part.input_first else shape[-1]
            if n_input % 4:
                raise ValueError(
                    f"prune.structure = '2:4' takes inputs by fours, but {part.label} has {n_input}; "
                    f"accepted: weights with a multiple of 4 inputs"
                )
        return tuple(Site((part,)) for part in parts)
    whole = {part.weight: part for part in parts if part.rows is None}
    found = [
        site
        for path, module in model.named_modules()
        if (site := _site(path, module, whole, structure)) is not None
    ]
    if not found:
        maps = (
            "in_proj and out_proj of attention" if structure == "heads" else "up and down of a feed-forward"
        )
        raise ValueError(
            f"prune.structure = {structure!r} needs {maps}, both whole among `parts`, and this model has "
            f"none; accepted: 'weights', or other parts"
        )
    return tuple(found)


def _site(path: str, module: nn.Module, whole: Mapping[str, Part], structure: Structure) -> Site | None:
    kinds = CausalSelfAttention if structure == "heads" else FeedForward | Experts
    maps = ("in_proj", "out_proj") if structure == "heads" else ("up", "down")
    names = [f"{path}.{one}.weight" for one in maps]
    if not isinstance(module, kinds) or not all(name in whole for name in names):
        return None
    parts = tuple(whole[name] for name in names)
    if isinstance(module, CausalSelfAttention):
        n_head, n_kv_head, _ = module.heads
        head = torch.arange(n_head).repeat_interleave(module.d_head)
        nobody = torch.full((n_kv_head * module.d_head,), -1)
        rows = torch.cat((head, *(2 * (head if n_kv_head == n_head else nobody,))))
        return Site(parts, (rows.unsqueeze(1), head.unsqueeze(0)), n_head)
    up, down = (module.get_submodule(one).weight.shape for one in maps)
    unit = torch.arange(down[-1])
    rows = unit.repeat(up[-2] // down[-1])  # a gate and a value for each unit, or one row
    if isinstance(module, FeedForward):
        return Site(parts, (rows.unsqueeze(1), unit.unsqueeze(0)), down[-1])
    expert_E11 = torch.arange(up[0]).view(-1, 1, 1) * down[-1]
    return Site(parts, (expert_E11 + rows.unsqueeze(1), expert_E11 + unit.unsqueeze(0)), up[0] * down[-1])


class Pruned(Attached):
    """The masks of one method in one model.

    Args:
        method: a `Prune`.
        steps: of the training.
    """

    def __init__(self, method: Method, model: LanguageModel, parts: Sequence[Part], *, steps: int) -> None:
        self.method, self.model, self.steps = method, model, steps
        self.sites = sites_of(model, parts, structure=method.structure)
        units = {
            part: index for site in self.sites for part, index in zip(site.parts, site.units, strict=False)
        }

        def build(weight: Tensor, part: Part) -> nn.Module:
            shape = units[part].shape if part in units else weight.shape
            return Mask(tuple(shape), shadow=method.shadow)

        self.parts = tuple(part for site in self.sites for part in site.parts)
        made = install(model, self.parts, build=build)
        self.names = {part: f"{name}.mask" for part, name in made.items()}

    @property
    def state(self) -> tuple[str, ...]:
        """The masks."""
        return tuple(self.names.values())

    def due(self, done: int) -> bool:
        """From the first update to the last, every so many steps."""
        first, last, every = self.method.updates(self.steps)
        return first <= done <= last and (done - first) % every == 0

    @torch.no_grad()
    def refresh(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor], *, done: int) -> None:
        """See `Attached.refresh`."""
        density = self.method.density_at(done, self.steps)
        held = {
            part: rows_of(weights[trained_name(self.model, part.weight)], part, axis=1) for part in self.parts
        }
        masks = {part: state[name] for part, name in self.names.items()}
        choose = self._weights if self.method.structure in ("weights", "2:4") else self._units
        for part, mask in choose(held, masks, density).items():
            masks[part].copy_(mask)

    def _weights(
        self, weights: Mapping[Part, Tensor], masks: Mapping[Part, Tensor], density: float
    ) -> dict[Part, Tensor]:
        scores = {part: weight.abs() for part, weight in weights.items()}
        if self.method.shadow == "hard":  # what is removed ranks below all else
            scores = {part: torch.where(masks[part] > 0, score, -1.0) for part, score in scores.items()}
        if self.method.structure == "weights":
            named = {part.label: score for part, score in scores.items()}
            chosen = masks_by_magnitude(named, density=density, scope=self.method.scope)
            return {part: chosen[part.label] for part in scores}
        found = {}
        for part, score in scores.items():
            # None of 4, then one, then two: rounded down, so that no update removes more than its share.
            of_inputs = score.mT if part.input_first else score
            mask = largest_of_each(of_inputs, keep=4 - kept_out(density), of=4)
            found[part] = mask.mT if part.input_first else mask
        return found

    def _units(
        self, weights: Mapping[Part, Tensor], masks: Mapping[Part, Tensor], density: float
    ) -> dict[Part, Tensor]:
        by_label = {part.label: weight for part, weight in weights.items()}
        scores, index = [], {}
        for site in self.sites:
            named = [UnitWeight(part.label, unit) for part, unit in zip(site.parts, site.units, strict=True)]
            index |= dict(zip(site.parts, named, strict=True))
            scores_RU = unit_scores(by_label, named, n_unit=site.n_unit)
            if self.method.shadow == "hard":
                is_left_RU = _units_of(masks[site.parts[-1]], site)
                scores_RU = torch.where(is_left_RU > 0, scores_RU, -1.0)
            scores.append(scores_RU)
        if self.method.scope == "tensor":
            chosen = [largest(one_RU, keep=kept(density, one_RU.shape[1])) for one_RU in scores]
        else:
            every_RU = torch.cat(scores, dim=1)
            every_RU = largest(every_RU, keep=kept(density, every_RU.shape[1]))
            chosen = every_RU.split([one_RU.shape[1] for one_RU in scores], dim=1)
        return {
            part: unit_mask(one_RU, index[part])
            for site, one_RU in zip(self.sites, chosen, strict=True)
            for part in site.parts
        }

    def report(self) -> dict[str, float]:
        """Shares of weights that survive: by masks, and after all methods, overall and by weight."""
        found, sizes = {}, [0, 0.0, 0]
        for part, name in self.names.items():
            value = rows_of(effective(self.model, part.weight), part)
            left = float(self.model.get_buffer(name).expand_as(value).sum())
            nonzero = int(value.count_nonzero())
            found[f"density/{part.label}"] = left / value.numel()
            found[f"effective_density/{part.label}"] = nonzero / value.numel()
            sizes = [sizes[0] + value.numel(), sizes[1] + left, sizes[2] + nonzero]
        overall = {"density": sizes[1] / sizes[0], "effective_density": sizes[2] / sizes[0]}
        return overall | {"sparsity": 1 - overall["density"]} | found


def kept_out(density: float) -> int:
    """Of 4 inputs, how many an update removes: 0, 1 or 2."""
    return min(2, int(4 * (1 - density) + 1e-9))


def _units_of(mask: Tensor, site: Site) -> Tensor:
    """(R, U) from the mask of a site's last part."""
    index = site.units[-1].to(mask.device).flatten()
    return mask.new_zeros(len(mask), site.n_unit).index_copy(1, index, mask.flatten(1))
