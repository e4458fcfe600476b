"""What a step reads beside the weights that it trains: the stream of batches, and logits of teachers.

A teacher is a finished run of the store, or a model that brings its own weights. Its passes are
those of the step's own batches, made without gradients; all replicas of a group learn from the
same teachers, so their batches go through each of them as one.

Legend: R replica, M teacher, B batch, T position, V vocabulary.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lmbench.config import Config
from lmbench.measure.score import readout_of, true_float32
from lmbench.methods.equipment import Equipment, in_force
from lmbench.models.base import LanguageModel, seeded
from lmbench.run import Run
from lmbench.tasks.base import Batch, Stream, TaskData, View
from lmbench.training.passes import DTYPES


def stream_of(
    run: Run, data: TaskData, view: View, weights: Mapping[str, Mapping[str, Tensor]] | None = None
) -> Stream:
    """The training batches of a run: those of its task, as its methods choose and order them.

    Args:
        weights: of the runs that methods read, by digest.
    """
    stream = data.stream(run, view)
    for method in run.methods:
        stream = method.stream(stream, data=data, run=run, view=view, weights=weights or {})
    return stream


def teachers_of(runs: Sequence[Run]) -> dict[str, Run]:
    """The runs whose weights the methods of some runs read, by digest."""
    found = [one for run in runs for method in run.methods for one in method.teachers]
    return {one.digest: one for one in found if isinstance(one, Run)}


class Teachers:
    """The teachers of a group's objective; none where no method asks for any.

    Args:
        weights: of teachers that are runs, by digest.
    """

    def __init__(
        self, run: Run, weights: Mapping[str, dict[str, Tensor]], *, data: TaskData, view: View
    ) -> None:
        taught = [method for method in run.methods if method.objective() is not None]
        asked = [one for method in taught for one in method.teachers]
        self.run = run
        dtype = DTYPES[run.dtype]
        self.models = [_teacher(one, weights, dtype=dtype).to(view.device).eval() for one in asked]
        for model in self.models:
            model.requires_grad_(False)
        with true_float32():
            found = [method.cached(self.models, data=data, run=run, view=view) for method in taught]
        self.table = next((one for one in found if one is not None), None)
        """What replaces their passes; None where they are asked at each step."""
        if self.table is not None:
            self.models = []

    def parts(self, batch: Batch, row: Mapping[str, Tensor], *, n: int) -> list[Tensor | None]:
        """(R, M, B, T, V) logits, or rows of a table, for each of n micro-batches of (R, B, T) tokens.

        Args:
            row: what the stream made the batch of.
        """
        if self.table is not None:
            how = {"seq_len": self.run.model.seq_len}
            how["readout"] = readout_of(batch.tokens_BT, batch.targets_BT)
            return list(self.table.rows(row, **how).chunk(n, dim=2))
        if not self.models:
            return [None] * n
        with torch.no_grad():
            logits_RMBTV = self._logits(batch)
        return list(logits_RMBTV.chunk(n, dim=2))

    def _logits(self, batch: Batch) -> Tensor:
        R, flat = batch.tokens_BT.shape[0], batch.stacked()
        how = {"readout": readout_of(flat.tokens_BT, flat.targets_BT)} | flat.borders
        found = [model(flat.tokens_BT, flat.context_BK, **how).logits_BTV for model in self.models]
        return torch.stack([logits.unflatten(0, (R, -1)) for logits in found], dim=1)


def _teacher(asked: Config, weights: Mapping[str, dict[str, Tensor]], *, dtype: torch.dtype) -> LanguageModel:
    """A teacher with its weights, and with what computes beside them, such as the widths that it ended at."""
    if not isinstance(asked, Run):
        return seeded(asked, init_seed=0).to(dtype)  # a model that reads its weights from its own folder
    methods = in_force(asked.methods, step=asked.steps, steps=asked.steps)
    made = Equipment.of(asked.model, methods, init_seed=asked.init_seed, steps=1)
    if asked.digest in weights:
        made.load_plain(weights[asked.digest])
    made.settle()
    if dtype == torch.float64:
        return made.model.double()
    # As in a student's passes: buffers, which may count to more than bfloat16 does, stay as they are.
    for parameter in made.model.parameters():
        parameter.data = parameter.data.to(dtype)
    return made.model
