"""Where the project lies: one root for notebooks, corpora and results, from any working folder."""

import functools
import os
import subprocess
from pathlib import Path


def root() -> Path:
    """`$LMBENCH_HOME`, else the nearest parent of the working folder that holds notebooks/ and lmbench/.

    Raises:
        ValueError: neither exists.
    """
    chosen = os.environ.get("LMBENCH_HOME")
    if chosen:
        path = Path(chosen).expanduser()
        if not path.is_dir():
            raise ValueError(f"LMBENCH_HOME = {chosen!r} is not a folder")
        return path.resolve()
    here = Path.cwd().resolve()
    for path in (here, *here.parents):
        if (path / "notebooks").is_dir() and (path / "lmbench").is_dir():
            return path
    raise ValueError(
        f"no lmbench project at {here} or above it (a folder holding notebooks/ and lmbench/); "
        "change into the clone or set LMBENCH_HOME to it"
    )


def results() -> Path:
    """The folder of all results, `<root>/results`."""
    return root() / "results"


@functools.cache
def commit() -> str:
    """Commit of the code, with a mark where it has uncommitted changes; "unknown" outside a clone."""
    asked = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
