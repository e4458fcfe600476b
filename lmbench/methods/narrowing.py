"""What `constrain` puts into a model, and which models it can narrow.

Legend: S step, R replica, N units of any kind, L rows of ranks.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lmbench.config import Config
from lmbench.layers.dropout import dropout_keys
from lmbench.layers.slices import SlicedPass, sliced_weights
from lmbench.layers.width_masks import Rule, install
from lmbench.layers.widths import UNITS, Sizes, Widths, site_of
from lmbench.methods.attached import Attached
from lmbench.methods.equipment import trained_name
from lmbench.models.base import LanguageModel, ModelConfig, seeded

# What a model may not have, since it would put something between the units and their order.
_ACCEPTED: dict[str, tuple[Any, ...]] = {
    "positions": ("learned", "none", "rope"),
    "embedding_rank": (None,),
    "conv_width": (0,),
    "unet_skips": (False,),
    "embedding_mix": (False,),
    "branch_scales": (False,),
    "value_residual": (False,),
    "smear": (False,),
    "bigram_buckets": (0,),
}
_KEY_SALT = 0x776964746873
"""Tells the draws of widths from those of dropout with the same seed."""


def sizes_of(model: ModelConfig) -> Sizes:
    """The units of a model.

    Raises:
        ValueError: one that is no stack of attention and dense feed-forwards, or has options between them.
    """
    if model.kind != "transformer":
        raise ValueError(
            f"method 'constrain' narrows stacks of attention and dense feed-forwards, which "
            f"model = {model.kind!r} is not; accepted: 'transformer'"
        )
    for name, accepted in (_ACCEPTED | {"n_kv_head": (None, model.n_head)}).items():
        if getattr(model, name) not in accepted:
            raise ValueError(
                f"method 'constrain' cannot narrow a model with {name} = {getattr(model, name)!r}; "
                f"accepted: {', '.join(map(repr, accepted))}"
            )
    full = Widths(n_head=model.n_head, d_model=model.d_model, d_ff=model.d_ff)
    gated, d_head = model.activation == "swiglu", model.block_shape().d_head
    return Sizes(full=full, d_head=d_head, n_layer=model.n_layer, gated=gated)


def sliced_config(model: ModelConfig, widths: Widths) -> ModelConfig:
    """The plain model of the units in use; its heads are as wide as those of the full one."""
    sizes = sizes_of(model)
    if widths == sizes.full:
        return model
    return model.replace(**widths._asdict(), n_kv_head=None, d_head=sizes.d_head)


def deployed(
    model: ModelConfig, weights: Mapping[str, Tensor], widths: Widths
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The first units of trained weights as a plain small model that computes the same.

    Args:
        weights: of the full model by plain names.

    Raises:
        ValueError: see `layers.slices.sliced_weights`.
    """
    sizes, small = sizes_of(model), sliced_config(model, widths)
    scale = (model.d_model / small.d_model) ** 0.5 if _is_scaled(model) else 1.0
    return small, sliced_weights(weights, sizes=sizes, widths=widths, scale=scale)


def can_deploy(model: ModelConfig) -> bool:
    """Whether `deployed` can give a plain small model at any widths."""
    return model.norm_gain or not _is_scaled(model)


def _is_scaled(model: ModelConfig) -> bool:
    """Whether token vectors are multiplied by the root of the width."""
    return model.tied_head and model.init == "torch"


class Narrowed(Attached):
    """Masks in the module, and slices for its training passes where such are wanted.

    Args:
        course: the widths of each step.
        refresh_every: steps after which ranks of importance are computed anew.
        clipped: share of the steps in which a constraint is clipped, for the report.
    """

    def __init__(
        self,
        model: LanguageModel,
        config: ModelConfig,
        course: Sequence[Widths],
        *,
        rule: Rule,
        is_sliced: bool,
        freezes: bool,
        refresh_every: int,
        clipped: float,
    ) -> None:
        self.model, self.config, self.course, self.sizes = model, config, tuple(course), sizes_of(config)
        self.rule, self.is_sliced, self.freezes = rule, is_sliced, freezes
        self.refresh_every, self.clipped = refresh_every, clipped
        self.names = tuple(name for name, _ in seeded(config, init_seed=0).named_parameters())
        self.masks = install(model, self.sizes, rule=rule, names=self.names)
        self._passes: dict[Widths, nn.Module] = {}

    def controls(self, runs: Sequence[Config]) -> dict[str, Tensor]:
        """See `Attached.controls`: counts, and keys of random draws."""
        counts = torch.tensor(self.course, dtype=torch.float32)
        tables = {f"widths.{name}": counts[:, at : at + 1] for at, name in enumerate(Widths._fields)}
        if self.rule == "random":
            seeds = [run.dropout_seed ^ _KEY_SALT for run in runs]
            keys = dropout_keys(seeds, first=0, count=len(self.course), micro=1, sites=1)
            tables["widths.key"] = torch.from_numpy(keys[..., 0, 0])
        return tables

    @property
    def state(self) -> tuple[str, ...]:
        """See `Attached.state`: ranks of importance."""
        is_ranked = self.rule == "importance"
        return tuple(f"widths.rank_{unit}" for unit in Widths._fields) if is_ranked else ()

    @property
    def found_from_exported(self) -> bool:
        """See `Attached.found_from_exported`."""
        return self.rule == "importance"

    def due(self, done: int) -> bool:
        """See `Attached.due`."""
        return self.rule == "importance" and done % self.refresh_every == 0

    @torch.no_grad()
    def refresh(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor], *, done: int) -> None:
        """Rank the units of each layer, the features those of all, by the squares of their weights."""
        ranks = {name: state[name] for name in self.state}  # others' state, such as masks, is there too
        power = {name: torch.zeros_like(rank_RLN) for name, rank_RLN in ranks.items()}
        for name in self.names:
            site, value = site_of(name), weights[trained_name(self.model, name)]
            for dim, axis in enumerate(site.axes, start=1):
                if not axis:
                    continue
                others = [d for d in range(1, value.ndim) if d != dim]
                along = value.square().sum(others) if others else value.square()
                along_RN = self.sizes.gather(along, axis)
                row = 0 if axis == "d_model" else site.layer
                power[f"widths.rank_{UNITS[axis]}"][:, row] += along_RN
        for name, rank_RLN in ranks.items():
            order = power[name].argsort(dim=-1, descending=True, stable=True)
            rank_RLN.copy_(order.argsort(dim=-1))

    def active(self, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Attached.active`: a weight is in use where the units of all its axes are."""
        if not self.freezes:
            return {}
        held = {k.removeprefix("widths."): v for k, v in buffers.items() if k.startswith("widths.")}
        found = {}
        for name in self.names:
            site = site_of(name)
            for dim, axis in enumerate(site.axes):
                if not axis:
                    continue
                used = self.masks.used(UNITS[axis], layer=site.layer, held=held)
                along = self.sizes.spread(used, axis)
                along = along.unsqueeze(-1) if dim < len(site.axes) - 1 else along
                along = along.unsqueeze(-2) if dim > 0 else along
                found[name] = found[name] & along if name in found else along
        return {trained_name(self.model, name): used for name, used in found.items()}

    def pass_model(self, done: int) -> tuple[Hashable, nn.Module | None]:
        """See `Attached.pass_model`."""
        if not self.is_sliced:
            return None, None
        widths = self.course[done]
        if widths not in self._passes:
            with torch.device("meta"):
                small = seeded(sliced_config(self.config, widths), init_seed=0)
            sizes = {"sizes": self.sizes, "widths": widths}
            self._passes[widths] = SlicedPass(self.model, small, names=self.names, **sizes)
        return widths, self._passes[widths]

    def report(self) -> dict[str, float]:
        """Units in use in the end, and the share of the steps with a clipped constraint."""
        counts = {f"active_{name}": float(self.masks.get_buffer(name)) for name in Widths._fields}
        return counts | {"clipped_share": self.clipped}
