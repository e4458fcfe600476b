"""Progress: seldom, wherever it is watched from, and the heartbeat of locks."""

import io
import itertools
import json
import sys
import types

import pytest

from lmbench import progress
from lmbench.progress import INTERVAL_S, Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when told to."""
    now = types.SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(Progress, "_last_beat", 0.0)
    return now


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The file that a batch runner reads."""
    path = tmp_path / "progress.json"
    monkeypatch.setenv("LMBENCH_PROGRESS_FILE", str(path))
    return path


def read(path):
    return json.loads(path.read_text())


def test_a_batch_runner_reads_how_far_the_work_is(clock, file):
    with Progress(4, "runs") as bar:
        clock.seconds += 3
        bar.update(1.5, "mlp, step 5/10")
        assert read(file) == {"done": 1.5, "total": 4, "unit": "runs", "what": "mlp, step 5/10", "seconds": 3}
        assert list(file.parent.iterdir()) == [file], "written whole, under another name first"
    assert read(file)["done"] == 4


def test_updates_in_quick_succession_are_written_once(clock, file):
    with Progress(100, "runs") as bar:
        bar.update(1)
        for done in (2, 3, 4):
            clock.seconds += INTERVAL_S / 4
            bar.update(done)
        assert read(file)["done"] == 1
        clock.seconds += INTERVAL_S / 4
        bar.update(5)
        assert read(file)["done"] == 5


def test_work_that_failed_does_not_look_finished(clock, file):
    bar = Progress(4, "runs").__enter__()
    bar.update(1)
    bar.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert read(file)["done"] == 1


def test_a_hidden_progress_writes_nothing_anywhere(clock, file, monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress(2, "runs", show=False) as bar:
        bar.update(1)
    assert not file.exists()
    assert screen.getvalue() == ""


class Screen(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self):
        return True


def test_a_terminal_shows_a_bar_and_a_pipe_shows_nothing(clock, monkeypatch):
    monkeypatch.delenv("LMBENCH_PROGRESS_FILE", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for screen in (Screen(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", screen)
        with Progress(3, "runs") as bar:
            clock.seconds += 1
            bar.update(2, "mlp")
        shown = screen.getvalue()
        assert ("3.0/3" in shown and "runs" in shown) == screen.isatty()
        assert bool(shown) == screen.isatty()


def test_a_notebook_updates_one_line_in_place(clock, monkeypatch):
    monkeypatch.delenv("LMBENCH_PROGRESS_FILE", raising=False)
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    shown, updated = [], []

    def display(bundle, **options):
        shown.append(options)
        return types.SimpleNamespace(update=lambda bundle, raw: updated.append(bundle["text/plain"]))

    monkeypatch.setattr("IPython.display.display", display)
    with Progress(4, "runs") as bar:
        clock.seconds += 10
        bar.update(1, "mlp")
    assert shown == [{"raw": True, "display_id": True}], "one output, which later ones replace"
    assert updated == ["1.0 of 4 runs in 10 s, about 30 s left mlp", "4.0 of 4 runs in 10 s"]


def test_only_a_kernel_is_a_notebook(monkeypatch):
    def running(shell):
        module = types.SimpleNamespace(get_ipython=lambda: shell)
        monkeypatch.setitem(sys.modules, "IPython", module)
        return progress._in_notebook()

    assert running(type("ZMQInteractiveShell", (), {})())
    assert not running(type("TerminalInteractiveShell", (), {})())
    assert not running(None)
    monkeypatch.delitem(sys.modules, "IPython")
    assert not progress._in_notebook()


def test_beats_are_run_now_and_then_whether_or_not_anything_is_shown(clock, monkeypatch):
    beats = []
    monkeypatch.setattr(Progress, "beats", [lambda: beats.append(clock.seconds)])
    with Progress(100, "steps", show=False) as bar:
        for step in range(100):
            clock.seconds += INTERVAL_S
            bar.update(step)
    gaps = [later - earlier for earlier, later in itertools.pairwise(beats)]
    assert len(beats) == 10
    assert min(gaps) > 10 * INTERVAL_S


def test_a_lock_is_kept_alive_while_its_run_trains(clock, tmp_path):
    import os

    from lmbench.store import Store
    from lmbench.training.filing import Heartbeat

    store = Store(tmp_path)
    with store.lock("d"):
        owner = tmp_path / "locks" / "d.owner"
        os.utime(owner, (0, 0))
        with Heartbeat(store, "d"):
            Progress.beat()
        assert owner.stat().st_mtime > 0
        os.utime(owner, (0, 0))
        clock.seconds += 100
        Progress.beat()
        assert owner.stat().st_mtime == 0, "no beat once the run has ended"
