"""What an engine tells about a job, while it runs and at its end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lmbench.notebook import Job

Status = Literal["running", "done", "reused", "failed"]


@dataclass(frozen=True, kw_only=True)
class State:
    """Where one job stands, or what became of it."""

    job: Job
    status: Status
    seconds: float = 0.0
    """Wall time so far; of a reused result, what making it took."""
    message: str = ""
    """Why it failed; while it runs, how far it is."""


Watch = Callable[[State], None]
