"""The report: executed notebooks as web pages with an index, or their tables and figures for LaTeX.

The project's performance results, where it holds any, stand as one table beside them.

A page needs nothing but itself: no formula renderer, no script library, no font is loaded
from elsewhere, so it reads the same offline and in ten years. Code is folded away behind a
native toggle. What has not run to its end is refused, never shown half.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from lmbench.errors import unknown
from lmbench.home import results
from lmbench.records import write_atomically
from lmbench.report.found import Executed, find_executed
from lmbench.report.latex import write_latex
from lmbench.report.pages import index_page, notebook_page
from lmbench.report.performance import performance_folder, performance_table

FORMATS = ("html", "latex")
WIDGET = "application/vnd.jupyter.widget-view+json"


def build_report(folders: list[Path] | None, out: Path, *, format: str = "html") -> Path:
    """Write a report on all executed notebooks below `folders` into the folder `out`.

    Args:
        folders: such as `results/notebooks/<name>` or `results/reference/<name>`: executed notebooks,
            each with its record (.json), and tables and figures with their stamps, at any depth. Files in
            a folder called like an executed notebook belong to that notebook. None is all of
            `results/notebooks`.
        format: "html" gives index.html and a page a notebook; "latex" gives report.tex, which
            inputs tables/*.tex and includes figures/*.png.

    Returns:
        index.html or report.tex.

    Raises:
        ValueError: unknown format, nothing executed yet, a notebook that did not run to its end, or a
            file among the performance results that is none.
    """
    if format not in FORMATS:
        raise ValueError(unknown("report format", format, FORMATS))
    found = find_executed(
        [results() / "notebooks"] if folders is None else [Path(folder) for folder in folders]
    )
    speeds, out = performance_table(performance_folder()), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    return _html(found, out, speeds) if format == "html" else write_latex(found, out, speeds)


def _html(found: list[Executed], out: Path, speeds: pd.DataFrame | None) -> Path:
    for entry in found:
        page = notebook_page(
            _without_progress(entry.notebook),
            title=entry.title,
            facts=entry.facts,
            parameters=entry.parameters,
        )
        write_atomically(out / f"{entry.page}.html", page.encode())
    entries = [(entry.page, entry.title, entry.facts, entry.headline) for entry in found]
    # Last, so that it never links to a page that is not there.
    write_atomically(out / "index.html", index_page(entries, speeds=speeds).encode())
    return out / "index.html"


def _without_progress(notebook: Any) -> Any:
    """The notebook without widgets and with each progress line as it stood in the end."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            if WIDGET in output.get("data", {}):
                continue
            if output.output_type == "stream":
                lines = output.text.replace("\r\n", "\n").split("\n")
                output.text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
            kept.append(output)
        cell.outputs = kept
    return notebook
