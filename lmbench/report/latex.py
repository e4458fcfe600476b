"""The report for LaTeX: one document that inputs every table and includes every figure."""

from pathlib import Path

import pandas as pd

from lmbench.analysis.export import escape_latex, to_latex
from lmbench.records import write_atomically
from lmbench.report.found import Executed, read_json
from lmbench.report.pages import short
from lmbench.report.performance import CAPTION

PERFORMANCE = "tables/performance.tex"

_LATEX = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[margin=0.7in]{geometry}
\usepackage{booktabs,graphicx}
% A table is shrunk to the width of the text where it is wider, never enlarged.
\newsavebox{\tablebox}
\newcommand{\fitted}[1]{\sbox{\tablebox}{\input{#1}}%
  \ifdim\wd\tablebox>\textwidth\resizebox{\textwidth}{!}{\usebox{\tablebox}}\else\usebox{\tablebox}\fi}
\begin{document}
\raggedright
CONTENT
\end{document}
"""


def write_latex(found: list[Executed], out: Path, speeds: pd.DataFrame | None) -> Path:
    """report.tex with its tables and figures in `out`; `speeds` is the table of performance, if any."""
    parts = []
    for entry in found:
        facts = "; ".join(f"{name} {short(value)}" for name, value in entry.facts.items())
        parts.append(f"\\section{{{escape_latex(entry.title)}}}\n\\noindent {escape_latex(facts)}.\n")
        for table in (path.with_suffix(".tex") for path in entry.tables):
            if table.is_file():
                name = _copied(table, out, "tables", entry.page)
                parts.append(_float("table", rf"\fitted{{{name}}}", _caption(table)))
        for figure in (path.with_suffix(".png") for path in entry.figures):
            if figure.is_file():
                name = _copied(figure, out, "figures", entry.page)
                # The figure carries its own caption; this one only says which figure it is.
                words = f"{entry.title}: {figure.stem.replace('_', ' ')}"
                parts.append(_float("figure", rf"\includegraphics{{{name}}}", words))
    if speeds is not None:
        (out / "tables").mkdir(exist_ok=True)
        write_atomically(out / PERFORMANCE, _with_signs(to_latex(speeds)).encode())
        shown = _with_signs(_float("table", rf"\fitted{{{PERFORMANCE}}}", CAPTION))
        parts.append(f"\\section{{Performance}}\n{shown}")
    write_atomically(out / "report.tex", _LATEX.replace("CONTENT", "\n".join(parts)).encode())
    return out / "report.tex"


def _copied(source: Path, out: Path, kind: str, page: str) -> str:
    (out / kind).mkdir(exist_ok=True)
    name = f"{kind}/{page}-{source.name}"
    write_atomically(out / name, source.read_bytes())
    return name


def _with_signs(text: str) -> str:
    """The sign of a lower bound as LaTeX's fonts have it."""
    return text.replace("≥", r"$\geq$")


def _caption(table: Path) -> str:
    return read_json(table.with_suffix(".json")).get("caption") or table.stem.replace("_", " ")


def _float(kind: str, body: str, caption: str) -> str:
    words = f"\\caption{{{escape_latex(caption)}}}"
    return f"\\begin{{{kind}}}[htbp]\n\\centering\n{body}\n{words}\n\\end{{{kind}}}\n"
