"""What a report is made of: executed notebooks with their records, tables, figures and stamps."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lmbench.analysis import readable


@dataclass(frozen=True, kw_only=True)
class Executed:
    """One executed notebook, what it comes from, and the files that it made."""

    path: Path
    page: str
    """Name for files made from it, unique within the report."""
    title: str
    notebook: Any
    facts: dict[str, str]
    """notebook, preset, date, commit, device, as far as they are known."""
    parameters: dict[str, Any]
    tables: tuple[Path, ...]
    """CSV files."""
    figures: tuple[Path, ...]
    """SVG files."""

    @property
    def headline(self) -> pd.DataFrame | None:
        """The first result table, one called `results` before all others."""
        for path in sorted(self.tables, key=lambda path: (path.stem != "results", path.stem)):
            table = pd.read_csv(path)
            if readable.is_result(table):
                return table
        return None


def find_executed(folders: list[Path]) -> list[Executed]:
    paths = [
        path for folder in folders for path in sorted(folder.rglob("*.ipynb")) if not _is_hidden(path, folder)
    ]
    if not paths:
        where = ", ".join(str(folder) for folder in folders) or "no folder"
        raise ValueError(
            f"no executed notebook in {where}; run one first, such as `lmbench notebook 00_quickstart`"
        )
    names: dict[str, int] = {}
    found = []
    for path in dict.fromkeys(paths):
        name = path.stem if path.stem == path.parent.name else f"{path.parent.name}-{path.stem}"
        names[name] = names.get(name, 0) + 1
        found.append(_read(path, page=name if names[name] == 1 else f"{name}-{names[name]}"))
    return found


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _read(path: Path, *, page: str) -> Executed:
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    failed = any(output.output_type == "error" for cell in code for output in cell.outputs)
    if failed or any(cell.execution_count is None for cell in code):
        raise ValueError(f"{path} did not run to its end; run it again with `lmbench notebook`")
    files = _files_of(path)
    stamps = [stamp for file in files if file.suffix == ".json" and (stamp := read_json(file)).get("files")]
    record, ran = read_json(path.with_suffix(".json")), notebook.metadata.get("papermill", {})
    facts = {
        "notebook": record.get("notebook", path.parent.name),
        "preset": record.get("preset", ""),
        "date": (record.get("finished") or ran.get("end_time") or "")[:10],
        "commit": record.get("commit") or _joined(stamps, "commit"),
        "device": _joined(stamps, "device"),
    }
    return Executed(
        path=path,
        page=page,
        title=_title(notebook) or path.stem,
        notebook=notebook,
        facts={name: str(value) for name, value in facts.items() if value},
        parameters=record.get("values") or dict(ran.get("parameters", {})),
        tables=tuple(file for file in files if file.suffix == ".csv"),
        figures=tuple(file for file in files if file.suffix == ".svg"),
    )


def _files_of(path: Path) -> list[Path]:
    """The files that belong to an executed notebook: in the folder of its own name, else beside it."""
    own = path.with_suffix("")
    if own.is_dir():
        return sorted(own.rglob("*.*"))
    others = {other.with_suffix("") for other in path.parent.glob("*.ipynb")} - {own}
    return [file for file in sorted(path.parent.rglob("*.*")) if not others & set(file.parents)]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or {} where there is no such file or it holds something else."""
    value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _joined(stamps: list[dict[str, Any]], key: str) -> str:
    return "; ".join(sorted({str(stamp[key]) for stamp in stamps if stamp.get(key)}))


def _title(notebook: Any) -> str:
    for cell in notebook.cells:
        heading = re.search(r"^# +(.+?)\s*#*$", cell.source, re.M) if cell.cell_type == "markdown" else None
        if heading:
            return re.sub(r"[*_`]", "", heading[1]) if "`" in heading[1] or "*" in heading[1] else heading[1]
    return ""
