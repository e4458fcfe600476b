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
    """Commit of the code, with "-dirty" where files other than results differ; "unknown" outside a clone.

    `$LMBENCH_COMMIT` says it where the code was copied without its history.
    """
    given = os.environ.get("LMBENCH_COMMIT")
    if given:
        return given
    here = Path(__file__).resolve().parents[1]
    git = ["git", "-C", str(here)]
    try:
        name = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        )
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", ":/", ":(exclude,top)results"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return name.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")
