"""Executing a prepared notebook, with nothing believed that did not happen.

Notebook, tables and figures go to temporary names here; they take the place of older ones
only once the run raised nothing, no exception is flagged and every cell with code has its
execution count (see `cells`); and the record that makes the result reusable is written last.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmbench.config import digest_of
from lmbench.errors import NotebookFailed
from lmbench.home import commit, results
from lmbench.notebook.cells import flaw, run_cells
from lmbench.notebook.find import SMOKE
from lmbench.notebook.job import OUT_VARIABLE, PARAMETERS_VARIABLE, Job, prepare

SCHEMA = 1  # of the record


def execute(
    name: str,
    *,
    preset: str = SMOKE,
    parameters: Mapping[str, Any] | None = None,
    store: str = "local",
    out: Path | None = None,
    progress: bool = True,
    timeout: float | None = None,
) -> Path:
    """Run a notebook with a preset and parameters; returns the executed copy.

    Args:
        name, preset, parameters, store, out: see `prepare`.
        progress: show papermill's bar of cells on stderr.
        timeout: seconds that a single cell may take; None is without limit.

    Raises:
        ValueError: what was asked for does not exist or has the wrong type, or another process
            is making the same result.
        NotebookFailed: a cell raised, exited or took too long, or the kernel died. The target
            is as it was, and the failed copy lies under results/failed.
    """
    job = prepare(name, preset=preset, parameters=parameters, store=store, out=out)
    return run_job(job, progress=progress, timeout=timeout)


def run_job(job: Job, *, progress: bool = True, timeout: float | None = None) -> Path:
    """Execute one prepared job, whether or not its result exists already; see `execute`."""
    job.target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(job):
        _run_alone(job, progress=progress, timeout=timeout)
    return job.target


@contextlib.contextmanager
def _alone(job: Job) -> Iterator[None]:
    """While inside, no other process makes the result of `job`."""
    from filelock import FileLock, Timeout

    folder = results() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"notebook-{digest_of(str(job.target))}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"notebook {job.label} is being executed by another process, which writes {job.target}; "
            "wait for its end, or choose another file with --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _run_alone(job: Job, *, progress: bool, timeout: float | None) -> None:
    key = job.key()  # before the run: an edit during it must not pass for what was run
    started = time.monotonic()
    part = job.target.with_name(f".{job.target.stem}.{os.getpid()}.part.ipynb")
    folder = part.with_suffix("")
    try:
        folder.mkdir()
        told = {OUT_VARIABLE: str(folder), PARAMETERS_VARIABLE: json.dumps(job.settings, default=str)}
        with _environment(told):
            problem = run_cells(job, part, progress=progress, timeout=timeout) or flaw(part)
        if problem:
            raise NotebookFailed(f"notebook {job.label} {problem}{_keep_failed(job, part)}")
        _replace(job, _tidied(job, part), folder, key=key, seconds=time.monotonic() - started)
    finally:
        part.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    _failed_copy(job).unlink(missing_ok=True)


def _replace(job: Job, data: bytes, folder: Path, *, key: str, seconds: float) -> None:
    """Put a good result in its place; whatever stops this leaves no record, so nothing is trusted."""
    from lmbench.records import write_atomically, write_json  # pandas, which `lmbench --help` can do without

    job.record.unlink(missing_ok=True)
    shutil.rmtree(job.folder, ignore_errors=True)
    if any(folder.iterdir()):
        folder.replace(job.folder)
    write_atomically(job.target, data)
    record = {
        "schema": SCHEMA,
        "notebook": job.notebook,
        "preset": job.preset,
        "store": job.store,
        "overrides": job.overrides,
        "values": job.values,
        "commit": commit(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "wall_seconds": round(seconds, 3),
        "files": job.hashes(),
        "key": key,
    }
    write_json(job.record, record)


@contextlib.contextmanager
def _environment(told: Mapping[str, str]) -> Iterator[None]:
    """Variables that a kernel which starts inside inherits."""
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def _tidied(job: Job, part: Path) -> bytes:
    """The executed notebook without the paths of this machine."""
    import nbformat

    notebook = nbformat.read(part, as_version=4)
    # Without the .part name, and without the folder above the project.
    notebook.metadata.papermill["input_path"] = f"notebooks/{job.path.name}"
    notebook.metadata.papermill["output_path"] = job.target.name
    return nbformat.writes(notebook).encode()


def _keep_failed(job: Job, part: Path) -> str:
    """Move the failed copy to where it can be read; returns the words that say where."""
    if not part.is_file():
        return ""
    failed = _failed_copy(job)
    failed.parent.mkdir(parents=True, exist_ok=True)
    part.replace(failed)
    return f" (the failed copy is {failed})"


def _failed_copy(job: Job) -> Path:
    return results() / "failed" / job.notebook / job.target.name
