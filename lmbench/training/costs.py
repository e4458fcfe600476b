"""What a run costs in FLOPs: of the passes that its stages and methods execute, and of what comes beside.

Everything is counted from the run's config alone, before or after it is trained.
"""

from collections.abc import Sequence

from lmbench.layers.shape import Readout
from lmbench.measure.flops import mean_step_flops, train_flops
from lmbench.models.base import ModelConfig, stage_starts
from lmbench.run import Run

PLANNED_STEPS = 1000  # over which the cost of schedules is averaged before the number of steps is known


def n_sequences(run: Run, step: int) -> int:
    """Sequences seen after `step` steps; the last batch of an epoch may be short."""
    if run.epoch_windows is None:
        return step * run.batch_size
    epochs, rest = divmod(step, -(-run.epoch_windows // run.batch_size))
    return epochs * run.epoch_windows + rest * run.batch_size


def run_flops(run: Run, step: int) -> int:
    """Forward and backward matrix products of the first `step` steps, of what each stage executes."""
    return _spent(run, step, _course(run, is_active=False))


def active_flops(run: Run, step: int) -> int:
    """The same of the units in use, where methods only mask the others."""
    return _spent(run, step, _course(run, is_active=True))


def _spent(run: Run, step: int, course: Sequence[tuple[int, int]]) -> int:
    ends = [start for start, _ in course[1:]] + [run.steps]
    return sum(
        each * (n_sequences(run, min(step, end)) - n_sequences(run, start))
        for (start, each), end in zip(course, ends, strict=True)
        if start < step
    )


_COURSES: dict[tuple[str, bool], list[tuple[int, int]]] = {}


def _course(run: Run, *, is_active: bool) -> list[tuple[int, int]]:
    """(first step, FLOPs of training on one sequence); kept, because every row of a record asks for it."""
    key = (run.digest, is_active)
    if key not in _COURSES:
        readout, stages = readout_of(run), in_use(run) if is_active else executed(run)
        _COURSES[key] = [(start, train_flops(one, readout=readout, sequences=1)) for start, one in stages]
    return _COURSES[key]


def executed(run: Run) -> list[tuple[int, ModelConfig]]:
    """(first step, model whose passes cost as much) over the course of a run, with its methods."""
    stages = stage_starts(run.model, steps=run.steps)
    for method in run.methods:
        stages = method.stages(stages, steps=run.steps)
    return stages


def in_use(run: Run) -> list[tuple[int, ModelConfig]]:
    """The same with a model of the units in use, though masks execute all of them."""
    stages = stage_starts(run.model, steps=run.steps)
    for method in run.methods:
        stages = method.active_stages(stages, steps=run.steps)
    return stages


def extra_flops(run: Run, step: int) -> dict[str, float]:
    """FLOPs of the first `step` steps that are not the trained model's, by what they are for."""
    found: dict[str, float] = {}
    for method in run.methods:
        for name, value in method.extra_flops(run, step).items():
            found[name] = found.get(name, 0.0) + value
    return found


def mean_flops(run: Run, *, is_active: bool = False) -> float:
    """Forward and backward FLOPs of a step on average over a long training, whatever the run's length.

    Args:
        is_active: count those of the units in use, see `active_flops`.
    """
    if not run.methods:
        return mean_step_flops(run.model, readout=readout_of(run), batch_size=run.batch_size)
    long = run.replace(steps=PLANNED_STEPS, epoch_windows=None)
    return (active_flops if is_active else run_flops)(long, PLANNED_STEPS) / PLANNED_STEPS


def readout_of(run: Run) -> Readout:
    """What the run trains on: every position, or the last."""
    return "last" if run.protocol.kind == "last_token" else "all"
