"""Writing figures and tables: every file deterministic, written whole or not at all, and stamped.

A figure becomes NAME.svg and NAME.png, a table NAME.csv (all digits) and NAME.tex (booktabs,
as a reader sees it). NAME.json beside them says what they come from: commit, device,
parameters, digests of the runs, caption, and the sha256 of each file.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from lmbench.analysis import readable
from lmbench.analysis.chart import Chart
from lmbench.records import write_atomically, write_json

_SIGNS = {letter: "\\" + letter for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": r"$-$",
}

# A long text has a fixed width and breaks its lines, rather than shrinking the whole table.
_PLACES = {"number": "r", "text": "l", "long": "p{6cm}"}


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What a result comes from."""

    commit: str
    """Of the code that made it."""
    device: str
    """That its runs were trained on."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Of the notebook, as plain JSON values."""
    digests: tuple[str, ...] = ()
    """Of the runs and evaluations behind it."""


def save_figure(fig: Chart, folder: Path, name: str, *, stamp: Stamp) -> list[Path]:
    """Write NAME.svg, NAME.png (300 dots an inch) and NAME.json into `folder`, which is made if needed.

    Raises:
        ValueError: a name that is not a plain file name.
        OSError: the folder cannot be written.
    """
    files = {f"{name}.svg": fig.svg(), f"{name}.png": fig.png(dpi=300)}
    return _write(files, folder, name, stamp, {"caption": fig.caption, "alt": fig.alt})


def save_table(
    table: pd.DataFrame, folder: Path, name: str, *, stamp: Stamp, caption: str = ""
) -> list[Path]:
    """Write NAME.csv, NAME.tex and NAME.json into `folder`; the .tex holds a `tabular` to \\input.

    Raises:
        ValueError: a name that is not a plain file name.
        OSError: the folder cannot be written.
    """
    files = {
        f"{name}.csv": table.to_csv(index=False, lineterminator="\n").encode(),
        f"{name}.tex": to_latex(table).encode(),
    }
    return _write(files, folder, name, stamp, {"caption": caption})


def to_latex(table: pd.DataFrame) -> str:
    """A booktabs `tabular` of the readable table: words left, numbers right, references below a rule."""
    text, reference = readable.readable(table), readable.is_reference(table)
    kinds = readable.kinds(table)
    text = text.map(escape_latex)
    text.columns = [_latex_heading(title, kind) for title, kind in zip(text.columns, kinds, strict=True)]
    places = "".join(_PLACES[kind] for kind in kinds)
    body = text.style.hide(axis="index").to_latex(hrules=True, column_format=places)
    n_models = int((~reference).sum())
    if not 0 < n_models < len(text):
        return body
    lines = body.splitlines()
    first = lines.index(r"\midrule") + 1 + n_models
    return "\n".join([*lines[:first], r"\midrule", *lines[first:]]) + "\n"


def _latex_heading(title: str, kind: readable.Kind) -> str:
    """A heading of several words on two lines, broken before its bracket, else near its middle."""
    breaks = [i for i, letter in enumerate(title) if letter == " "]
    if not breaks or len(title) < 12:
        return escape_latex(title)
    bracket = title.find(" [")
    at = bracket if bracket >= 0 else min(breaks, key=lambda i: abs(i - len(title) / 2))
    # The empty group keeps LaTeX from reading a bracket after the line break as its length.
    side = "r" if kind == "number" else "l"
    return rf"\shortstack[{side}]{{{escape_latex(title[:at])}\\{{}}{escape_latex(title[at + 1 :])}}}"


def escape_latex(text: str) -> str:
    """Plain text with the signs escaped that LaTeX takes for commands."""
    return "".join(_SIGNS.get(letter, letter) for letter in str(text))


def _write(
    files: dict[str, bytes], folder: Path, name: str, stamp: Stamp, words: dict[str, str]
) -> list[Path]:
    if not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"name {name!r} is not a plain file name without folders")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        write_atomically(folder / file, data)
    hashes = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    # Last, so that a stamp never describes files that are not there yet.
    write_json(folder / f"{name}.json", asdict(stamp) | words | {"files": hashes})
    return [folder / file for file in (*files, f"{name}.json")]
