"""One notebook with one set of parameters: what it is, where its result lies, whether that still holds.

A job's key is a digest of the notebook's cells, of every parameter value, of the text of
its corpus, and of all source files of this package. Its result counts as done as long as
the record beside it has that key and every file of the result still has its recorded hash.
Any edit of the code therefore repeats the notebook; its runs, which have digests of their
own, come from the store, so repeating is cheap. The commit, the machine and library
versions are recorded but not in the key.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmbench.config import digest_of
from lmbench.errors import unknown
from lmbench.home import results, root
from lmbench.notebook.find import SMOKE, find, notebooks, preset_values
from lmbench.notebook.parameters import cells_of, checked, parameters_of

STORES = ("local", "reference")
OUT_VARIABLE = "LMBENCH_OUT"  # tells a notebook's session where its tables and figures go
PARAMETERS_VARIABLE = "LMBENCH_PARAMETERS"  # and what to write into their stamps, as JSON
# Parameters with an option of their own; a notebook that declares one is told its value.
RESERVED = ("preset", "store")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One execution of one notebook, checked and ready to run."""

    notebook: str
    preset: str
    store: str
    overrides: dict[str, Any]
    """Parameters given on top of the preset."""
    path: Path
    """The notebook."""
    values: dict[str, Any]
    """All parameters that are injected."""
    target: Path
    """Where the executed notebook goes."""

    @property
    def record(self) -> Path:
        """The file beside the target that says what it is."""
        return self.target.with_suffix(".json")

    @property
    def folder(self) -> Path:
        """Where the notebook's tables and figures go."""
        return self.target.with_suffix("")

    @property
    def settings(self) -> dict[str, Any]:
        """Every parameter of the notebook: those that are injected, and the defaults of the others."""
        return {name: p.default for name, p in parameters_of(self.path).items()} | self.values

    @property
    def label(self) -> str:
        """Short name for tables and messages."""
        given = ", ".join(f"{key}={json.dumps(value)}" for key, value in self.overrides.items())
        return f"{self.notebook} {self.preset}" + (f" ({given})" if given else "")

    def key(self) -> str:
        """Digest of all that the result depends on, as far as this project's files say."""
        cells = [[cell["cell_type"], cell["source"]] for cell in cells_of(self.path)]
        text = _corpus_fingerprint(self.settings)
        return digest_of({"cells": cells, "values": self.values, "corpus": text, "code": _code_digest()})

    def hashes(self) -> dict[str, str]:
        """sha256 of each file of the result, by its path beside the target; {} where there is none."""
        files = [self.target, *sorted(path for path in self.folder.rglob("*") if path.is_file())]
        return {
            path.relative_to(self.target.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if path.is_file()
        }


def prepare(
    name: str,
    *,
    preset: str = SMOKE,
    parameters: Mapping[str, Any] | None = None,
    store: str = "local",
    out: Path | None = None,
) -> Job:
    """Check everything about one execution that can be checked before it starts.

    Args:
        name: number, name, or both, of a notebook.
        preset: named settings; `smoke` is the notebook's own defaults.
        parameters: values on top of the preset's.
        store: where the notebook takes its runs from.
        out: file for the executed notebook; None is
            `results/notebooks/<name>/<preset>[-<digest of the parameters>].ipynb`.

    Raises:
        ValueError: unknown notebook, preset, parameter or store, or a refused value; one sentence.
    """
    notebook = find(name)
    path = notebooks()[notebook]
    if store not in STORES:
        raise ValueError(unknown("store", store, STORES))
    given = dict(parameters or {})
    for key in RESERVED:
        if key in given:
            raise ValueError(f"{key} is chosen with --{key}, not as a parameter of {notebook}")
    overrides = checked(path, given)
    declared = parameters_of(path)
    told = {key: value for key, value in (("preset", preset), ("store", store)) if key in declared}
    if store != "local" and "store" not in declared:
        raise ValueError(f"notebook {notebook} has no parameter 'store', so it cannot use store={store}")
    values = checked(path, preset_values(notebook, preset) | told | overrides)
    named = overrides | ({"store": store} if store != "local" else {})
    stem = preset + (f"-{digest_of(named)[:8]}" if named else "")
    target = Path(out).resolve() if out else results() / "notebooks" / notebook / f"{stem}.ipynb"
    if target.suffix != ".ipynb":
        raise ValueError(f"out = {str(out)!r} is not accepted: an executed notebook ends in .ipynb")
    return Job(
        notebook=notebook,
        preset=preset,
        store=store,
        overrides=overrides,
        path=path,
        values=values,
        target=target,
    )


def finished(job: Job) -> dict[str, Any] | None:
    """The record of the job's result if that is whole and still what the job would give, else None."""
    try:
        record = json.loads(job.record.read_text(encoding="utf-8"))
        holds = record["files"] == job.hashes() and record["key"] == job.key()
        return record if holds else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        # No result yet, or a record that is damaged: either way the job has to run.
        return None


def _corpus_fingerprint(settings: Mapping[str, Any]) -> str:
    """What identifies the text of the parameter `corpus`; "" where there is none, or no such corpus.

    A notebook runs in the project folder, so that is where a relative path begins, wherever
    this process works. Of a corpus that does not exist, the run itself says so.
    """
    from lmbench.data.corpus import corpora, fingerprint
    from lmbench.data.manifest import search_folders

    name, substitute = settings.get("corpus"), settings.get("substitute", "")
    if not isinstance(name, str) or not name:
        return ""
    places = [name]
    if name not in corpora():
        given = root() / Path(name).expanduser()
        places = [str(given), *map(str, search_folders(name) if len(Path(name).parts) == 1 else ())]
    for place in places:
        with contextlib.suppress(ValueError, OSError):
            return fingerprint(place, substitute=substitute)
    return ""


def _code_digest() -> str:
    """sha256 over the names and contents of all modules of this package."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
