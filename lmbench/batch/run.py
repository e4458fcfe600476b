"""Running the jobs of a plan: what is done is not repeated, what fails does not stop the others.

An engine is one function from jobs to their final states; `ENGINES` names them.
"""

from collections.abc import Callable, Sequence

from lmbench.batch.local import run_local
from lmbench.batch.state import State, Watch
from lmbench.errors import unknown
from lmbench.notebook import Job, finished

Engine = Callable[..., list[State]]
ENGINES: dict[str, Engine] = {"local": run_local}


def check_engine(engine: str, workers: int) -> None:
    """Refuse an engine that does not exist, or no worker, with a ValueError."""
    if engine not in ENGINES:
        raise ValueError(unknown("engine", engine, ENGINES))
    if workers < 1:
        raise ValueError(f"workers = {workers} is not accepted: at least 1 is needed")


def run_batch(
    jobs: Sequence[Job],
    *,
    engine: str = "local",
    workers: int = 1,
    timeout: float | None = None,
    repeat: bool = False,
    watch: Watch = lambda state: None,
) -> list[State]:
    """Run the jobs whose results do not exist yet; one result per job, in their order.

    Args:
        engine: name of the function that runs them.
        workers: jobs at a time.
        timeout: seconds that a single cell may take; None is without limit.
        repeat: run finished jobs again.
        watch: told of every change, as it happens.

    Raises:
        ValueError: unknown engine, or no worker.
    """
    check_engine(engine, workers)
    ended = {job.target: state for job in jobs if (state := _reused(job)) and not repeat}
    for state in ended.values():
        watch(state)
    left = [job for job in jobs if job.target not in ended]
    if left:
        states = ENGINES[engine](left, workers=workers, timeout=timeout, watch=watch)
        ended |= {state.job.target: state for state in states}
    return [ended[job.target] for job in jobs]


def _reused(job: Job) -> State | None:
    record = finished(job)
    return State(job=job, status="reused", seconds=record["wall_seconds"]) if record else None
