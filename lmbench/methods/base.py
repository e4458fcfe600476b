"""What every training method is: a config, and what it puts into a model, as the engine drives it.

A method changes training without being the model. It may change a module in place (masks and
quantisers as parametrizations of weights, hooks on activations), what is learned from (the
stream), what is minimised (the objective), or what a step costs; most do one of these. All
that changes with the step stands in buffers that the engine fills, so that any method trains
stacked, as one captured graph, and goes on after a kill.

    controls   buffers with a value for each step, known beforehand (a width, a switch)
    state      buffers of each replica that depend on its weights (pruning masks); they lie in
               the flat buffer behind the weights, so checkpoints and best weights hold them

Legend: S step, R replica, M teacher, B batch, T position, V vocabulary, K number.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from lmbench.config import Config
from lmbench.layers.shape import Readout
from lmbench.models.base import LanguageModel, ModelConfig
from lmbench.tasks.base import Batch, Stream, TaskData, View


class Attached:
    """What one method has put into one module. This base does nothing; methods override what they need."""

    def controls(self, runs: Sequence[Config]) -> dict[str, Tensor]:
        """Values of buffers by dotted name: (S, R, *shape), or (S, 1, *shape) where replicas share them.

        Args:
            runs: the R runs of the group; S is their number of steps.
        """
        return {}

    @property
    def state(self) -> tuple[str, ...]:
        """Dotted names of the buffers that belong to each replica; floating point."""
        return ()

    @property
    def found_from_exported(self) -> bool:
        """Whether weights are scored with state that is computed from them as they are exported.

        So it is wherever they are loaded; in training it may be as old as the last `refresh`.
        """
        return False

    def due(self, done: int) -> bool:
        """Whether `refresh` is to be called before step number `done`, the first being 0."""
        return False

    def refresh(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor], *, done: int) -> None:
        """Compute state anew, in place, outside of any graph; learned scales may be set here too.

        Args:
            weights: (R, *shape) of the parameters by dotted name, sharing the memory that is trained.
            state: (R, *shape) of the buffers named by `state`.
        """

    def active(self, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Which weights are in use: booleans that broadcast to (R, *shape), by parameter name.

        Updates of the others are undone, moments too. Parameters that are not named are in use.

        Args:
            buffers: (R, *shape) of all controls and state of this step.
        """
        return {}

    def pass_model(self, done: int) -> tuple[Hashable, nn.Module | None]:
        """What executes the training pass of a step, with a key that is equal where the module is.

        None is the module itself. Others must compute the same from the same parameters.
        """
        return None, None

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Fit what a post-training form needs to see data for; `batches` are of the training split."""

    def report(self) -> dict[str, float]:
        """Numbers of the finished model by metric, such as densities; read when its state is in place."""
        return {}


class Objective(ABC):
    """What is minimised in place of the cross entropy of the targets. Abstract."""

    terms: tuple[str, ...] = ()
    """Names of the parts that are logged apart."""

    def numbers(self, steps: int) -> Tensor:
        """(S, K) coefficients that change with the step, read by `__call__`; K may be 0."""
        return torch.zeros(steps, 0)

    @abstractmethod
    def __call__(
        self, logits_BTV: Tensor, targets_BT: Tensor, teacher_MBTV: Tensor | None, numbers_K: Tensor
    ) -> Tensor:
        """(1 + number of terms,) sums over the targets in nats: the objective, then each of its terms.

        Args:
            targets_BT: IGNORE where a position does not count.
            teacher_MBTV: logits of the teachers at the same positions; None where there is none.
        """


class Coded(NamedTuple):
    """How the values of one weight are to be written: whole numbers of so many bits times a scale."""

    bits: float
    granularity: str | int
    """What shares a scale: "row", "tensor", or so many neighbours of a row."""


class TeacherTable(ABC):
    """What teachers say of all the data that a training can draw. Abstract."""

    @abstractmethod
    def rows(self, row: Mapping[str, Tensor], *, seq_len: int, readout: Readout) -> Tensor:
        """(R, M, B, T, X) in place of logits, for the batch that the stream makes of `row`.

        Args:
            row: (R, B, ...) tensors of `Stream.index`.
        """


def refuse_crossing(model: ModelConfig, *, who: str, instead: str) -> None:
    """Refuse a model for rows of several segments where its predictions would cross their borders.

    Args:
        who: what the model is in the run.
        instead: what is accepted there, beside packing = 'separate'.

    Raises:
        ValueError: saying what crosses.
    """
    if model.crosses:
        raise ValueError(
            f"select.packing = 'masked' keeps the units of a row apart, which {who} {model.name!r} cannot: "
            f"{model.crosses}; accepted: 'separate', or {instead}"
        )


class Method(Config, ABC):
    """Abstract: the settings of a training method."""

    role: ClassVar[str] = "method"
    # Order in which methods act on one weight: Q(M * W) is prune, then quantize.
    place: ClassVar[int] = 9

    # Whether the method says something of finished weights, so that an Evaluation may hold it.
    scores_weights: ClassVar[bool] = True
    # Training batches that the method looks at where it is applied after training.
    calibration_batches: ClassVar[int] = 0

    @property
    def alone(self) -> str:
        """Why runs with this method cannot be stacked; "" where they can."""
        return ""

    @property
    def divides_rows(self) -> bool:
        """Whether rows of the training batches hold several segments, see `Batch.segment_BT`."""
        return False

    @property
    def teachers(self) -> tuple[Config, ...]:
        """Runs whose weights the method reads, or models that bring theirs; an objective's in its order."""
        return ()

    def check(self, run: Config) -> None:
        """Raise ValueError, in one sentence, where the method does not fit the rest of the run."""

    def attach(self, model: LanguageModel, config: ModelConfig, *, steps: int) -> Attached | None:
        """Change a module in place; None where this setting changes nothing.

        Args:
            config: what `model` was built from.
            steps: of the training; 1 where given weights are scored.
        """
        return None

    def in_force(self, step: int, steps: int) -> "Method | None":
        """What is still needed to score the exported weights after `step` of `steps` steps; None is nothing.

        Masks and quantised weights are exported as they are. A width and quantised activations are not
        in the weights.
        """
        return None

    def coded(self, config: ModelConfig) -> dict[str, Coded]:
        """The weights that are whole numbers times scales once the method has acted, by parameter name."""
        return {}

    def settled(self, step: int, steps: int) -> bool:
        """Whether after `step` steps that is in force which is so in the end; earlier weights are no best."""
        return True

    def objective(self) -> Objective | None:
        """What replaces the cross entropy; at most one method of a run has one."""
        return None

    def cached(
        self, models: Sequence[LanguageModel], *, data: TaskData, run: Config, view: View
    ) -> "TeacherTable | None":
        """What the teachers say of the training data, made before the first step; None asks them at each.

        Args:
            models: the teachers with their weights, in the order of `teachers`.
        """
        return None

    def stream(
        self,
        stream: Stream,
        *,
        data: TaskData,
        run: Config,
        view: View,
        weights: Mapping[str, Mapping[str, Tensor]],
    ) -> Stream:
        """The training batches, from those that the task would give.

        Args:
            weights: of the runs among `teachers`, by digest; where one is missing, as in what is only
                timed, the method does without.
        """
        return stream

    def stages(self, stages: list[tuple[int, ModelConfig]], *, steps: int) -> list[tuple[int, ModelConfig]]:
        """(first step, model whose passes cost as much); `stages` are those without this method."""
        return stages

    def active_stages(
        self, stages: list[tuple[int, ModelConfig]], *, steps: int
    ) -> list[tuple[int, ModelConfig]]:
        """The same as `stages`, with a model of the units in use where masks execute all of them."""
        return self.stages(stages, steps=steps)

    def told(self, run: Config, *, weights: Mapping[str, Mapping[str, Tensor]]) -> dict[str, float]:
        """Numbers of what the method chose for a run, by metric, such as what a selection kept.

        Args:
            weights: as in `stream`.
        """
        return {}

    def extra_flops(self, run: Config, step: int) -> dict[str, float]:
        """FLOPs until a step that are not the trained model's, by purpose ("teacher", "selection")."""
        return {}
