"""What methods have put into a model: a module with its equipment, and the weights that it computes with.

In training the engine drives it; afterwards the same code makes given weights ready to be scored.
Under a parametrization the trained tensor has another name than the plain model's parameter;
weights are saved, hashed and exchanged under the plain ones, as what is computed with.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lmbench.config import Config
from lmbench.methods.attached import Attached
from lmbench.methods.base import Method
from lmbench.models.base import LanguageModel, ModelConfig, on_meta, seeded
from lmbench.tasks.base import Batch


class Equipment:
    """All that the methods of a run have put into one module.

    Args:
        methods: in any order; they act in that of their `place`.
    """

    def __init__(
        self, model: LanguageModel, config: ModelConfig, methods: Sequence[Method], *, steps: int
    ) -> None:
        self.model = model
        self.plain = tuple(name for name, _ in model.named_parameters())
        """Names of the parameters without methods, in their order."""
        made = [method.attach(model, config, steps=steps) for method in in_order(methods)]
        self.attached: list[Attached] = [one for one in made if one is not None]
        self.state = tuple(name for one in self.attached for name in one.state)

    @classmethod
    def of(cls, config: ModelConfig, methods: Sequence[Method], *, init_seed: int, steps: int) -> Self:
        """A fresh model with its equipment."""
        return cls(seeded(config, init_seed=init_seed), config, methods, steps=steps)

    def controls(self, runs: Sequence[Config]) -> dict[str, Tensor]:
        """(S, R, *shape) by buffer name."""
        found = {name: table for one in self.attached for name, table in one.controls(runs).items()}
        return {name: table.expand(-1, len(runs), *table.shape[2:]) for name, table in found.items()}

    def load_plain(self, weights: Mapping[str, Tensor]) -> None:
        """Put plain weights under the parametrizations, and forget their state."""
        for name, value in weights.items():
            self.original(name).data.copy_(value)

    def original(self, name: str) -> nn.Parameter:
        """The trained tensor behind a plain name."""
        return self.model.get_parameter(trained_name(self.model, name))

    def exported(self) -> dict[str, Tensor]:
        """The weights that the model computes with, by plain name: masked, quantised, not narrowed."""
        return _exported(self.model, self.plain)

    def settle(self, batches: Iterable[Batch] = ()) -> None:
        """Make weights that were loaded ready to be scored: controls and state of the first step."""
        weights = {name: value.data.unsqueeze(0) for name, value in self.model.named_parameters()}
        for one in self.attached:
            for name, table in one.controls([_ONE_STEP]).items():
                self.model.get_buffer(name).copy_(table[0, 0])
            state = {name: self.model.get_buffer(name).unsqueeze(0) for name in one.state}
            if one.due(0):
                one.refresh(weights, state, done=0)
        seen = list(batches)
        for one in self.attached:
            one.calibrate(seen)

    def report(self) -> dict[str, float]:
        """Numbers of the finished model, by metric."""
        return {name: value for one in self.attached for name, value in one.report().items()}


def equipped(
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    *,
    methods: Sequence[Method] = (),
    batches: Iterable[Batch] = (),
) -> LanguageModel:
    """A model with given weights, and what computes with them beside it.

    Args:
        weights: under the plain names.
        methods: such as those of an `Evaluation`.
        batches: of the training split, for methods that look at data after training.

    Raises:
        ValueError: a method that does not fit the model, or that changes training alone.
    """
    for method in methods:
        if not method.scores_weights:
            raise ValueError(
                f"method {method.kind!r} changes training and nothing of finished weights; accepted where "
                "weights are scored: constrain, prune, quantize"
            )
    made = Equipment.of(config, methods, init_seed=0, steps=1)
    made.load_plain(weights)
    made.settle(batches)
    return made.model


class _OneStep:
    """Stands for a run where weights are only scored."""

    steps, dropout_seed = 1, 0


_ONE_STEP = _OneStep()


def in_order(methods: Sequence[Method]) -> list[Method]:
    """Methods in the order in which they act."""
    return sorted(methods, key=lambda method: method.place)


def exported(model: LanguageModel, config: ModelConfig) -> dict[str, Tensor]:
    """The weights that an equipped model computes with, under the names of the plain one."""
    return _exported(model, [name for name, _ in on_meta(config).named_parameters()])


@torch.no_grad()
def _exported(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    return {name: _kept(effective(model, name)) for name in names}


def _kept(weight: Tensor) -> Tensor:
    """A copy with its numbers in a row, as files want it: what was rounded by columns comes transposed."""
    return weight.detach().clone(memory_format=torch.contiguous_format)


def in_force(methods: Sequence[Method], *, step: int, steps: int) -> tuple[Method, ...]:
    """What is needed beside exported weights to score them after `step` of `steps` steps."""
    found = [method.in_force(step, steps) for method in in_order(methods)]
    return tuple(method for method in found if method is not None)


def trained_name(model: nn.Module, name: str) -> str:
    """Dotted name of the tensor that is trained where the model reads the parameter `name`."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if parametrize.is_parametrized(module, leaf):
        return f"{path}.parametrizations.{leaf}.original" if path else f"parametrizations.{leaf}.original"
    return name


def effective(model: nn.Module, name: str) -> Tensor:
    """What the permanent parametrizations make of a parameter; the parameter itself where it has none."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if not parametrize.is_parametrized(module, leaf):
        return model.get_parameter(name)
    steps = module.parametrizations[leaf]
    value = steps.original
    for step in steps:
        if step.permanent:
            value = step(value)
    return value
