"""What a method has put into a module, as the engine drives it.

A method may change a module in place: masks and quantisers as parametrizations of weights, hooks on
activations. All that then changes with the step stands in buffers that the engine fills, so that any
method trains stacked, as one captured graph, and goes on after a kill.

    controls   buffers with a value for each step, known beforehand (a width, a switch)
    state      buffers of each replica that depend on its weights (pruning masks); they lie in
               the flat buffer behind the weights, so checkpoints and best weights hold them

Legend: S step, R replica.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence

from torch import Tensor, nn

from lmbench.config import Config
from lmbench.tasks.base import Batch


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
