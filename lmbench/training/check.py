"""What only training can know of a run: whether its parts fit together.

A config checks its own fields when it is made. That a model's vocabulary is the task's, that a schedule
has room in the steps, or that a split is long enough for the context, takes the loaded task.
"""

from lmbench.run import Run
from lmbench.tasks.base import TaskData
from lmbench.training.capabilities import check_tracker
from lmbench.training.passes import objective_of


def check(run: Run, data: TaskData) -> None:
    """Refuse a run that cannot be trained, before anything is.

    Raises:
        ValueError: naming the field.
    """
    if run.model.vocab_size != data.vocab_size:
        raise ValueError(
            f"model.vocab_size = {run.model.vocab_size}, but {run.task.caption} has "
            f"{data.vocab_size} token ids"
        )
    if run.batch_size % run.grad_accum:
        raise ValueError(f"grad_accum = {run.grad_accum} does not divide batch_size = {run.batch_size}")
    run.schedule.factors(run.steps)
    for method in run.methods:
        method.check(run)
    objective_of(run.methods)
    if run.track is not None:
        check_tracker(run, data)
    for split in ("valid", "test") if run.test else ("valid",):
        data.check_split(split, run.protocol, run.model.seq_len)
