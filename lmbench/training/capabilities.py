"""The capability tracker at work: what a point of its grid scores, and what all points cost.

Points are scored inside the program that trains, for all replicas of a group at once; each run has
its own rows, and nothing is shared between runs.
"""

from functools import lru_cache

from lmbench.config import Config, make
from lmbench.measure.flops import ledger
from lmbench.run import Run
from lmbench.tasks.base import TaskData, load_task


@lru_cache(maxsize=256)
def tracked_task(run: Run, *, point: int) -> Config:
    """The mixture of levels that the i-th point of a run's tracker scores."""
    return make("task", "mixture", tasks=run.track.levels(point))


def check_tracker(run: Run, data: TaskData) -> None:
    """What only training can know of a tracker.

    Raises:
        ValueError: a run whose vocabulary is another, a level that its context is too short for, or one
            that is named twice.
    """
    for point in range(min(len(run.track.grid(run.steps)), 1 + len(run.track.others))):
        tracked = load_task(tracked_task(run, point=point))
        if tracked.vocab_size != data.vocab_size:
            raise ValueError(
                f"the tracker scores tasks of {tracked.vocab_size} symbols; {run.task.caption} has "
                f"{data.vocab_size} token ids"
            )
        tracked.check_split("valid", run.protocol, run.model.seq_len)


def tracker_flops(run: Run) -> int:
    """Forward passes of all points of a run's tracker."""
    forward = ledger(run.model, readout="all").forward
    grid = run.track.grid(run.steps)
    sequences = (task.n_eval * task.rewrites for at in range(len(grid)) for task in run.track.levels(at))
    return forward * sum(sequences)
