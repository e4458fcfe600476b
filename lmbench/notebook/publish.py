"""Making committed results: the records behind the executed notebooks of `results/reference/<name>`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lmbench.home import commit, results
from lmbench.notebook.job import Job
from lmbench.notebook.session import read_session

if TYPE_CHECKING:
    from lmbench.records import Records


def reference_folder(notebook: str) -> Path:
    """Where the committed results of a notebook lie."""
    return results() / "reference" / notebook


def published(job: Job) -> Job:
    """The same execution with its copy, tables and figures going to the reference."""
    return replace(job, target=reference_folder(job.notebook) / job.target.name)


def check_commit() -> None:
    """Refuse to publish what no commit holds: a published result names the code that made it.

    Raises:
        ValueError: the code has uncommitted changes, or lies in no git clone.
    """
    made_by = commit()
    if made_by == "unknown":
        raise ValueError(
            "--publish needs a commit to name as the origin of the results, and this code lies in no "
            "git clone (or git is missing); publish from a clone"
        )
    if made_by.endswith("-dirty"):
        raise ValueError(
            "--publish needs a commit to name as the origin of the results, and this code has changes "
            f"beyond {made_by.removesuffix('-dirty')}; commit them and run the same command again"
        )


def publish(notebook: str) -> Path:
    """Pack every record that the notebook's executed reference copies read; returns the folder.

    Records of copies that were made on another machine are kept from the earlier reference.

    Raises:
        ValueError: no executed copy, or a record that neither the store nor the reference holds.
    """
    from lmbench.records import Reference, pack
    from lmbench.store import Store

    folder = reference_folder(notebook)
    sessions = [read_session(path.parent) for path in sorted(folder.glob("*/session.json"))]
    if not sessions:
        raise ValueError(f"{folder} holds no executed notebook to publish")
    sources: list[Records] = [Store(results())]
    if (folder / "runs.jsonl").is_file():
        sources.append(Reference(folder))
    pack((digest for session in sessions for digest in session["runs"]), sources, folder)
    return folder
