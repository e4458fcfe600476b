"""Executing a prepared notebook under papermill, with nothing believed that did not happen.

papermill writes its output in place and cell by cell, returns normally after `sys.exit(0)`
in a cell, and after the death of a kernel calls every cell completed, the ones never
reached too. So notebook, tables and figures go to temporary names here; they take the
place of older ones only once the run raised nothing, no exception is flagged and every
cell with code has its execution count; and the record that makes the result reusable is
written last.
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmbench.config import digest_of
from lmbench.errors import NotebookFailed
from lmbench.home import commit, results, root
from lmbench.notebook.find import SMOKE
from lmbench.notebook.job import OUT_VARIABLE, PARAMETERS_VARIABLE, Job, prepare

SCHEMA = 1  # of the record
START_TIMEOUT_S = 120  # a kernel starts in 0.5 s; a busy or cold machine may need far longer


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
            problem = _run(job, part, progress=progress, timeout=timeout) or _flaw(part)
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


def _run(job: Job, part: Path, *, progress: bool, timeout: float | None) -> str:
    """Execute into `part`; returns what went wrong, or "" if nothing was raised."""
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    try:
        with tempfile.TemporaryDirectory(prefix="lmbench-") as sockets:
            # Sockets instead of six open TCP ports per kernel, about which ipykernel warns. Their names
            # must be given: Jupyter's own choice is the same for all kernels that start in one folder.
            manager = {"transport": "ipc", "ip": str(Path(sockets) / "kernel")}
            papermill.execute_notebook(
                str(job.path),
                str(part),
                parameters=job.values,
                # A notebook's own metadata may name a kernel of the machine it was written on.
                kernel_name="python3",
                language="python",
                progress_bar=progress,
                cwd=str(root()),
                start_timeout=START_TIMEOUT_S,
                execution_timeout=timeout,
                config=Config({"KernelManager": manager}),
            )
    except PapermillExecutionError as error:
        return f"stopped in cell [{error.exec_count}] with {error.ename}: {_first_line(error.evalue)}"
    except DeadKernelError:
        return "stopped because its kernel died, as it does when memory runs out or a cell ends the process"
    except CellTimeoutError:
        return f"stopped in a cell that took longer than {timeout:g} s"
    except NoSuchKernel:
        return "cannot start: Jupyter knows no kernel called python3 (ipykernel is missing; run `make env`)"
    return ""


def _flaw(part: Path) -> str:
    """Why a notebook that papermill returned from has not run through, or ""."""
    import nbformat

    notebook = nbformat.read(part, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if output.output_type == "error":
                where = f"stopped in cell [{cell.execution_count}]"
                return f"{where} with {output.ename}: {_first_line(output.evalue)}"
    for position, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            return f"ended before cell {position} of {len(notebook.cells)} had run"
    if notebook.metadata.get("papermill", {}).get("exception"):
        return "ended with an exception that no cell shows"
    return ""


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


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:500] if lines else "(no message)"
