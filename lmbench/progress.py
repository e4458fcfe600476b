"""Progress of anything that takes longer than a few seconds, wherever it is watched from.

In a terminal: a bar (rich). In a notebook: one line that is updated in place, so that an
executed copy keeps one line and not a thousand. Under a batch runner: a small JSON file,
named by $LMBENCH_PROGRESS_FILE, that the runner reads and shows. Else: nothing.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

INTERVAL_S = 0.5  # between two updates: often enough to watch, too seldom to cost


class Progress:
    """`with Progress(total, "runs") as p: p.update(done, "transformer, step 10/300")`."""

    # Callbacks run now and then by long inner loops; locks use it as their heartbeat.
    beats: ClassVar[list[Callable[[], None]]] = []
    _last_beat: ClassVar[float] = 0.0

    def __init__(self, total: float, unit: str, *, show: bool = True) -> None:
        self.total, self.unit, self.show = total, unit, show
        self._start = self._shown = 0.0
        self._bar = self._display = None

    @classmethod
    def beat(cls) -> None:
        """Run the registered callbacks, at most once in ten intervals."""
        now = time.monotonic()
        if now - cls._last_beat > 10 * INTERVAL_S:
            cls._last_beat = now
            for callback in cls.beats:
                callback()

    def __enter__(self) -> "Progress":
        self._start = time.monotonic()
        if self.show and _in_notebook():
            from IPython.display import display

            self._display = display({"text/plain": ""}, raw=True, display_id=True)
        elif self.show and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), TextColumn("{task.completed:.1f}/{task.total:.0f} {task.description}"))
            self._bar = Bar(
                *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)
            )
            self._bar.start()
            self._bar.add_task(self.unit, total=self.total)
        return self

    def update(self, done: float, what: str = "") -> None:
        """`done` of `total` units, some of which may be in part; `what` is being done now."""
        self.beat()
        now = time.monotonic()
        if now - self._shown >= INTERVAL_S:
            self._shown = now
            self._write(done, what)

    def _write(self, done: float, what: str) -> None:
        seconds = time.monotonic() - self._start
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, description=f"{self.unit} {what}")
        if self._display is not None:
            left = (
                f", about {seconds / done * (self.total - done):.0f} s left" if 0 < done < self.total else ""
            )
            text = f"{done:.1f} of {self.total:g} {self.unit} in {seconds:.0f} s{left} {what}"
            self._display.update({"text/plain": text.rstrip()}, raw=True)
        target = os.environ.get("LMBENCH_PROGRESS_FILE")
        if target and self.show:
            part = Path(f"{target}.{os.getpid()}.tmp")
            state = {"done": done, "total": self.total, "unit": self.unit, "what": what, "seconds": seconds}
            part.write_text(json.dumps(state))
            part.replace(target)

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self._write(self.total, "")
        if self._bar is not None:
            self._bar.stop()


def _in_notebook() -> bool:
    """Whether an IPython kernel runs this code; a terminal IPython has no kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"
