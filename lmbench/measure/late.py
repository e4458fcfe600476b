"""Progress that appears only where one has to wait: work of a second or two shows no bar."""

import time
from types import TracebackType

from lmbench.progress import Progress

PATIENCE_S = 3.0


class LateProgress:
    """`Progress` that begins after PATIENCE_S seconds, and then counts what is left.

    Args:
        total: in `unit`s.
        show: False shows nothing at all.
    """

    def __init__(self, total: float, unit: str, *, show: bool = True) -> None:
        self.total, self.unit, self.show = total, unit, show
        self._begun, self._from, self._progress = time.monotonic(), 0.0, None

    def __enter__(self) -> "LateProgress":
        self._begun = time.monotonic()
        return self

    def update(self, done: float, what: str = "") -> None:
        """`done` of `total` units; `what` is being done now."""
        Progress.beat()
        if self._progress is None and self.show and time.monotonic() - self._begun > PATIENCE_S:
            self._from = done
            self._progress = Progress(self.total - done, self.unit)
            self._progress.__enter__()
        if self._progress is not None:
            self._progress.update(done - self._from, what)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.__exit__(kind, error, trace)
