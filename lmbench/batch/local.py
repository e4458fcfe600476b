"""The engine of local processes: one child process per job, some at a time.

Each job is a process of its own, not one of a pool: it can be interrupted alone, it gets
its number of threads before torch is imported, and whatever it does to itself ends with it.
On Linux it also ends when this process is killed. Children read a job as JSON on their
standard input and answer with one line of JSON. Training inside the notebook says how far
it is in a file (see `lmbench.progress`).
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from lmbench.batch.state import State, Watch
from lmbench.errors import NotebookFailed, sentence
from lmbench.home import root
from lmbench.notebook import Job, prepare, run_job

POLL_S = 0.5  # between two looks at how far the running jobs are
STOP_S = 15.0  # what a job gets to shut its kernel down after Ctrl-C
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent dies


def run_local(jobs: Sequence[Job], *, workers: int, timeout: float | None, watch: Watch) -> list[State]:
    """Run every job, `workers` at a time; their final states in the order of their ends.

    On Ctrl-C, and on any other exception, the running jobs are stopped before it is raised.
    """
    ended: list[State] = []
    with tempfile.TemporaryDirectory(prefix="lmbench-") as folder, ThreadPoolExecutor(workers) as pool:
        children = [
            _Child(job=job, timeout=timeout, threads=_threads(workers), progress=Path(folder) / f"{i}.json")
            for i, job in enumerate(jobs)
        ]
        pending: dict[Future[State], _Child] = {pool.submit(child.run): child for child in children}
        try:
            while pending:
                done, _ = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
                for future in done:
                    del pending[future]
                    ended.append(future.result())
                    watch(ended[-1])
                for child in pending.values():
                    if child.started is not None:
                        watch(child.state())
        except BaseException:
            for future in pending:
                future.cancel()
            for child in pending.values():
                child.interrupt()
            for child in pending.values():
                child.wait()
            raise
    return ended


@dataclass(kw_only=True)
class _Child:
    """One job and the process that runs it."""

    job: Job
    timeout: float | None
    threads: int | None
    progress: Path
    started: float | None = None
    process: subprocess.Popen[str] | None = None
    stopped: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> State:
        """Start the process and wait for its end. Runs in a thread of the pool."""
        with self.lock:
            if self.stopped:
                return self._end("failed", "was not started")
            self.started = time.monotonic()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lmbench.batch.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=root(),
                env=self._environment(),
                # Ctrl-C in a terminal reaches this process alone, which passes it on once.
                start_new_session=True,
            )
        out, err = self.process.communicate(json.dumps(self._request()))
        answer = _answer(out)
        if answer is None:
            said = [line.strip() for line in err.splitlines() if line.strip()]
            why = said[-1] if said else f"exit status {self.process.returncode}"
            return self._end("failed", f"notebook {self.job.label} could not be run: {why}")
        return self._end("failed" if answer else "done", answer)

    def state(self) -> State:
        """How far the running job is."""
        text = ""
        # The file appears with the first training and is replaced while we look.
        with contextlib.suppress(OSError, ValueError, KeyError):
            at = json.loads(self.progress.read_text())
            text = f"{at['done']:.1f}/{at['total']:g} {at['unit']} {at['what']}".rstrip()
        return self._end("running", text)

    def interrupt(self) -> None:
        """Ask the process to shut its kernel down and end; one that has not started never will."""
        with self.lock:
            self.stopped = True
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        """Wait for the end of an interrupted process, and enforce it if that takes too long."""
        if self.process is not None:
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def _end(self, status: str, message: str) -> State:
        seconds = time.monotonic() - self.started if self.started is not None else 0.0
        return State(job=self.job, status=status, seconds=seconds, message=message)

    def _request(self) -> dict:
        job = {"name": self.job.notebook, "preset": self.job.preset, "parameters": self.job.overrides}
        job |= {"store": self.job.store, "out": str(self.job.target)}
        return {"job": job, "timeout": self.timeout, "parent": os.getpid()}

    def _environment(self) -> dict[str, str]:
        out = dict(os.environ) | {"LMBENCH_PROGRESS_FILE": str(self.progress)}
        if self.threads is not None:
            out.setdefault("OMP_NUM_THREADS", str(self.threads))
        return out


def _threads(workers: int) -> int | None:
    """Threads for each of several jobs; None leaves torch its own choice, which knows hyper-threads."""
    if workers == 1:
        return None
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, cores // workers)


def _answer(out: str) -> str | None:
    """The child's answer: "" after success, else the error; None if there is no answer."""
    # A kernel inherits the child's output, so anything may stand around the answer.
    for line in reversed(out.splitlines()):
        with contextlib.suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict) and "lmbench_error" in answer:
                return answer["lmbench_error"]
    return None


def serve() -> None:
    """The child's side: one job from standard input, one answer on standard output."""
    # A shell starts background jobs with SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    request = json.load(sys.stdin)
    try:
        # The parent may have died before the signal was asked for.
        if os.getppid() != request["parent"]:
            _terminate(signal.SIGTERM, None)
        error = _served(request)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if os.getppid() != request["parent"]:
            _tidy_after_parent()
    # On a line of its own: a kernel may have left half a line.
    sys.stdout.write("\n" + json.dumps({"lmbench_error": error}) + "\n")


def _served(request: dict) -> str:
    """Run the job of a request; returns "" or what went wrong."""
    try:
        out = request["job"].pop("out")
        run_job(prepare(**request["job"], out=Path(out)), progress=False, timeout=request["timeout"])
    except (ValueError, OSError, NotebookFailed) as problem:
        return sentence(problem)
    return ""


def _terminate(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


def _tidy_after_parent() -> None:
    """Remove what a killed parent left: the progress file, and its folder with the last child."""
    progress = Path(os.environ["LMBENCH_PROGRESS_FILE"])
    progress.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        progress.parent.rmdir()
