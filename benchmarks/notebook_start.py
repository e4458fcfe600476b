"""Seconds to start a smoke notebook: from no kernel to the end of its set-up cell.

A fresh kernel runs the notebook's cells up to the one that calls `setup`, as JupyterLab
would. There is no loop to beat; the baseline is the target. Beside it stand the whole command
`lmbench notebook` on these cells, the same cells in a plain Python process, and the packages
whose import takes longest there.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import common
from lmbench.home import root

TARGET = 4.0  # seconds
SLOWEST = 12  # packages listed


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure and report; returns what was printed."""
    parser = common.parser(__doc__, repeats=5)
    parser.add_argument("--notebook", default="00_quickstart", help="name (default: %(default)s)")
    options = parser.parse_args(arguments)
    device = common.settle(options)
    if options.quick:
        options.repeats = 1
    cells = start_cells(options.notebook)
    measured = [start_kernel(cells) for _ in range(options.repeats)]
    return [_report(options, measured, cells, device=common.named(device))]


def start_cells(name: str) -> list[str]:
    """The sources of a notebook's code cells up to the one that calls `setup`.

    Raises:
        ValueError: no cell of the notebook calls it.
    """
    import nbformat

    path = root() / "notebooks" / f"{name}.ipynb"
    cells: list[str] = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            cells.append(cell.source)
            if ".setup(" in cell.source:
                return cells
    raise ValueError(f"{path} has no cell that calls setup")


def start_kernel(cells: list[str]) -> float:
    """Seconds from launching a kernel to the end of the last cell."""
    from jupyter_client.manager import start_new_kernel

    start = time.perf_counter()
    manager, client = start_new_kernel(
        kernel_name="python3", cwd=str(root() / "notebooks"), stderr=subprocess.DEVNULL
    )
    try:
        for source in cells:
            reply = client.execute_interactive(source, store_history=False, output_hook=lambda message: None)
            if reply["content"]["status"] != "ok":
                raise RuntimeError(f"a cell failed: {reply['content'].get('evalue')}")
        return time.perf_counter() - start
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def start_command(name: str, cells: list[str]) -> float:
    """Seconds of the whole command `lmbench notebook` on a notebook that ends after its set-up."""
    import nbformat

    made = [nbformat.v4.new_code_cell(source) for source in [*cells, "report.close()"]]
    made[0].metadata["tags"] = ["parameters"]
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "notebooks").mkdir()
        nbformat.write(nbformat.v4.new_notebook(cells=made), Path(home) / "notebooks" / f"{name}.ipynb")
        paths = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = {"LMBENCH_HOME": home, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "lmbench", "notebook", name],
            env=os.environ | environment, check=True, capture_output=True,
        )  # fmt: skip
        return time.perf_counter() - start


def start_process(cells: list[str]) -> tuple[float, str]:
    """Seconds of the same cells in a plain Python process, and its import times as Python prints them."""
    # The set-up shows a line through IPython, which a plain process has but does not start.
    command = [sys.executable, "-X", "importtime", "-c", "\n".join(cells)]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=root(), capture_output=True, text=True, check=True)
    return time.perf_counter() - start, done.stderr


def import_seconds(told: str) -> dict[str, float]:
    """Seconds of importing each top-level package, its own modules alone, largest first.

    Args:
        told: what `python -X importtime` writes: own time, cumulated time, name.
    """
    own: dict[str, float] = defaultdict(float)
    for line in told.splitlines():
        found = re.match(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", line)
        if found:
            own[found[2].partition(".")[0]] += int(found[1]) / 1e6
    return dict(sorted(own.items(), key=lambda entry: -entry[1]))


def _report(
    options: argparse.Namespace, measured: list[float], cells: list[str], *, device: str
) -> dict[str, Any]:
    seconds, told = start_process(cells)
    imports = import_seconds(told)
    return common.report(
        name="notebook_start",
        device=device,
        ours=measured,
        baseline=[TARGET] * len(measured),
        unit="s",
        better="lower",
        out=options.out,
        ours_is=f"a kernel up to the set-up cell of {options.notebook}",
        baseline_is="the target",
        command_seconds=None if options.quick else start_command(options.notebook, cells),
        process_seconds=seconds,
        import_seconds={name: round(value, 3) for name, value in list(imports.items())[:SLOWEST]},
        settings={"notebook": options.notebook, "quick": options.quick},
    )


if __name__ == "__main__":
    main()
