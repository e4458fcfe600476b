"""What `quantize` puts into a model: quantisers of weights, hooks on activations, a switch for both.

And what it does to given weights after training, one map after the other, each with inputs from
a model whose earlier maps are rounded already. Maps whose inputs are unknown to `methods.seen`
(tables among them) take the clip of the least squared error where GPTQ is asked for; the report
says how many. Legend: S step, R replica, N block with one scale, E expert, O output, C input.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lmbench.config import Config
from lmbench.layers.experts import ExpertLinear
from lmbench.layers.feedforward import FeedForward
from lmbench.layers.gptq import gptq
from lmbench.layers.quantizer import FoundQuantizer, LearnedQuantizer, Switch
from lmbench.layers.quantizer_activations import ActivationQuantizer, LiteralFeedForward
from lmbench.layers.quantizer_grids import FULL, Blocks, Grid, best_scale, found_scale
from lmbench.layers.recurrence import BlockDiagonal
from lmbench.layers.window import WindowLinear
from lmbench.methods.attached import Attached
from lmbench.methods.base import Method
from lmbench.methods.equipment import effective, trained_name
from lmbench.methods.installed import install, masked, masks_on, rows_of
from lmbench.methods.parts import Part, is_conv1d
from lmbench.methods.seen import hessians
from lmbench.models.base import LanguageModel
from lmbench.models.stack_module import Stack
from lmbench.tasks.base import Batch

NamedSwitch = tuple[str, Switch]


class Quantized(Attached):
    """The quantisers of one method in one model.

    Args:
        method: a `Quantize`.
        first: the first step at which they act.
        switch: under its name in the model; None is on at all steps.
    """

    def __init__(
        self,
        method: Method,
        model: LanguageModel,
        parts: Sequence[Part],
        *,
        first: int,
        switch: NamedSwitch | None,
    ) -> None:
        self.method, self.model, self.parts = method, model, tuple(parts)
        self.first, self.switch = first, switch
        self.masks = {part: masks_on(model, part.weight) for part in parts}
        in_training = method.post is None and method.bits != FULL
        self.names = install(model, parts, build=self._build) if in_training else {}
        self.left_out = 0
        """Weights that GPTQ was asked for and knew no inputs of."""

    def _build(self, weight: Tensor, part: Part) -> nn.Module:
        method, switch = self.method, None if self.switch is None else self.switch[1]
        blocks = self._blocks(weight.shape, part)
        if method.scheme == "lsq":
            return LearnedQuantizer(blocks, bits=method.bits, weight=weight, switch=switch)
        return FoundQuantizer(blocks, bits=method.bits, switch=switch)

    def _blocks(self, shape: Sequence[int], part: Part) -> Blocks:
        return Blocks(tuple(shape), self.method.granularity, self.method.group, part.input_first)

    def controls(self, runs: Sequence[Config]) -> dict[str, Tensor]:
        """The switch, 0 before the first step and 1 from it on."""
        if self.switch is None:
            return {}
        is_on_S = torch.arange(runs[0].steps) >= self.first
        return {f"{self.switch[0]}.on": is_on_S.float().unsqueeze(1)}

    @property
    def state(self) -> tuple[str, ...]:
        """The sizes of learned scales."""
        learned = self.method.scheme == "lsq"
        return tuple(f"{name}.size" for name in self.names.values()) if learned else ()

    def due(self, done: int) -> bool:
        """Sizes are found when rounding begins, from what the weights are then."""
        return bool(self.state) and done == self.first

    @torch.no_grad()
    def refresh(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor], *, done: int) -> None:
        """See `Attached.refresh`; masked weights do not count."""
        for part, name in self.names.items():
            # Where weights are only scored, the masks stand in the model alone.
            held = {
                mask: state[mask] if mask in state else self.model.get_buffer(mask).unsqueeze(0)
                for mask, _ in self.masks[part]
            }
            surviving = masked(weights[trained_name(self.model, part.weight)], self.masks[part], held)
            quantizer = self.model.get_submodule(name)
            rows = rows_of(surviving, part, axis=1)
            state[f"{name}.size"].copy_(torch.stack([quantizer.start(one) for one in rows]))

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Round given weights, where the method does so after training."""
        if self.method.post is None or self.method.bits == FULL:
            return
        seen = list(batches)
        for part in self.parts:
            weight = rows_of(effective(self.model, part.weight).detach(), part)
            place = rows_of(self.model.get_parameter(trained_name(self.model, part.weight)).data, part)
            place.copy_(self._rounded(weight, part, seen))

    def _rounded(self, weight: Tensor, part: Part, batches: Sequence[Batch]) -> Tensor:
        grid, blocks = Grid.symmetric(self.method.bits), self._blocks(weight.shape, part)
        if self.method.post == "gptq":
            seen_ECC = hessians(self.model, part, batches)
            # One scale over several maps, each with its own inputs, is not what GPTQ solves.
            if seen_ECC is not None and not (len(seen_ECC) > 1 and blocks.granularity == "tensor"):
                return self._by_gptq(weight, part, seen_ECC, grid)
            self.left_out += 1
        x_NG = blocks.split(weight)
        scale_N1 = found_scale(x_NG, grid) if self.method.post == "absmax" else best_scale(x_NG, grid)
        return blocks.join(grid.codes(x_NG, scale_N1) * scale_N1).to(weight.dtype)

    def _by_gptq(self, weight: Tensor, part: Part, seen_ECC: Tensor, grid: Grid) -> Tensor:
        stored = weight.mT if part.input_first else weight
        maps_EOC = stored.reshape(len(seen_ECC), -1, stored.shape[-1])
        blocks = Blocks(tuple(maps_EOC.shape[1:]), self.method.granularity, self.method.group)
        how = {"grid": grid, "blocks": blocks, "act_order": self.method.act_order, "damp": self.method.damp}
        made = [gptq(one_OC, seen_CC, **how) for one_OC, seen_CC in zip(maps_EOC, seen_ECC, strict=True)]
        made = torch.stack(made).reshape(stored.shape)
        return made.mT if part.input_first else made

    def report(self) -> dict[str, float]:
        """The share of codes that are not 0, by weight, and what GPTQ left to plain rounding."""
        found = {}
        if self.method.bits != FULL:
            for part in self.parts:
                codes = rows_of(effective(self.model, part.weight), part)
                found[f"quantized_density/{part.label}"] = float(codes.count_nonzero()) / codes.numel()
        return found | ({"gptq_left_out": float(self.left_out)} if self.method.post == "gptq" else {})


def add_switch(model: LanguageModel) -> NamedSwitch:
    """A switch as a part of the model, under the first name that is free."""
    taken = dict(model.named_children())
    name = next(name for at in range(len(taken) + 1) if (name := f"quantize_{at}") not in taken)
    model.add_module(name, Switch())
    return name, model.get_submodule(name)


def round_activations(
    model: LanguageModel,
    parts: Sequence[Part],
    *,
    bits: float,
    limit: float | None,
    literal: bool,
    switch: NamedSwitch | None,
) -> None:
    """Quantisers in front of the maps of these parts; literally, inside their feed-forwards and nowhere else.

    A map that another module applies without calling it (a router, the recurrent map of an RNN, a tied
    head) reads what it did before.
    """
    quantizer = ActivationQuantizer(bits=bits, limit=limit, switch=None if switch is None else switch[1])
    if literal:
        for path in plain_feedforwards(model, parts):
            leaf = path.rpartition(".")[2]
            for owner in _owners(model, path):
                setattr(owner, leaf, LiteralFeedForward(getattr(owner, leaf), quantizer=quantizer))
        return
    for path in dict.fromkeys(part.weight.rpartition(".")[0] for part in parts):
        module, parent = model.get_submodule(path), model.get_submodule(path.rpartition(".")[0])
        if isinstance(parent, WindowLinear):  # of which some passes call the inner map, and some do not
            module = parent
        if isinstance(module, WindowLinear | nn.Linear | ExpertLinear | BlockDiagonal) or is_conv1d(module):
            module.register_forward_pre_hook(quantizer.hook)


def _owners(model: LanguageModel, path: str) -> list[nn.Module]:
    """What holds a feed-forward: its block, and the views of it by which a stack executes it again."""
    parent, _, leaf = path.rpartition(".")
    own, up = model.get_submodule(parent), model.get_submodule(path).up
    again = model.executed() if isinstance(model, Stack) else []
    return [own, *(block for block in again if block is not own and getattr(block, leaf).up is up)]


def plain_feedforwards(model: LanguageModel, parts: Sequence[Part]) -> tuple[str, ...]:
    """Names of the feed-forwards that parts belong to.

    Raises:
        ValueError: there is none, or one whose activation gates.
    """
    paths = dict.fromkeys(part.weight.rpartition(".")[0].rpartition(".")[0] for part in parts)
    found = [path for path in paths if path and isinstance(model.get_submodule(path), FeedForward)]
    if not found:
        raise ValueError(
            "quantize.literal = True replaces the activation of feed-forwards, but `parts` names none of "
            "this model; accepted: False, or parts with a dense feed-forward"
        )
    for path in found:
        if (kind := model.get_submodule(path).activation) == "swiglu":
            raise ValueError(
                f"quantize.literal = True leaves one map on each side of a quantiser, but {path} gates "
                f"(model.activation = {kind!r}); accepted activations: gelu, relu, relu2"
            )
    return tuple(found)
