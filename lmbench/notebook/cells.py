"""Running the cells of a notebook under papermill, and finding out whether they all ran.

papermill writes its output in place and cell by cell, returns normally after `sys.exit(0)`
in a cell, and after the death of a kernel calls every cell completed, the ones never
reached too.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lmbench.home import root
from lmbench.notebook.job import Job

START_TIMEOUT_S = 120  # a kernel starts in 0.5 s; a busy or cold machine may need far longer
# Optional part of jsonschema, which papermill imports: it compiles a grammar of international web
# addresses, 0.7 s at every start, for a check that no notebook asks for.
SLOW_GRAMMAR = "rfc3987_syntax"


def run_cells(job: Job, part: Path, *, progress: bool, timeout: float | None) -> str:
    """Execute into `part`; returns what went wrong, or "" if nothing was raised."""
    with absent(SLOW_GRAMMAR):
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


def flaw(part: Path) -> str:
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


@contextlib.contextmanager
def absent(package: str) -> Iterator[None]:
    """While inside, an optional package cannot be imported, as if it were not installed."""
    if package in sys.modules:
        yield  # it has cost its time already
        return
    sys.modules[package] = None  # what Python itself takes for "not there"
    try:
        yield
    finally:
        del sys.modules[package]


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:500] if lines else "(no message)"
