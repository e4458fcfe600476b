"""What every training method is: a config, and what it has to say when the engine asks.

A method changes training without being the model. It may change a module in place (see
`methods.attached`), what is learned from (the stream), what is minimised (the objective), or what
a step costs; most do one of these.

Legend: S step, R replica, M teacher, B batch, T position, V vocabulary, K number.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from lmbench.config import Config
from lmbench.layers.shape import Readout
from lmbench.methods.attached import Attached
from lmbench.models.base import LanguageModel, ModelConfig
from lmbench.tasks.base import Stream, TaskData, View


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
    def rounds_activations(self) -> bool:
        """Whether the method acts on what maps read, and not on weights alone."""
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
