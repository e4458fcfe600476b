"""What a notebook's cells talk to: the store, and the report that its tables and figures go into.

A notebook holds no path. `setup` opens a `Session`; its tables and figures are shown and
written to one folder, that of the executed copy, each with a stamp that names commit,
device, parameters and the digests of the runs behind it. `close` writes `session.json`
last: the list of all runs that the notebook read, from which a reference is packed.
"""

import html
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmbench.home import commit, results
from lmbench.notebook.job import OUT_VARIABLE, PARAMETERS_VARIABLE

if TYPE_CHECKING:
    import pandas as pd

    from lmbench.analysis.chart import Chart
    from lmbench.analysis.export import Stamp
    from lmbench.records import Records

# `lmbench.analysis` and `lmbench.records` bring matplotlib and pandas, half a second that starting a
# notebook, and the processes that only watch over one, can do without: they are imported at first use.

MOST_ROWS = 150
"""Of a table that a notebook shows; longer ones would make the executed copy too heavy to open."""


class Session:
    """An open notebook: its store, and where its tables and figures go."""

    def __init__(self, notebook: str, *, preset: str, store: "Records") -> None:
        self.notebook, self.preset, self.store, self._commit = notebook, preset, store, commit()
        chosen = os.environ.get(OUT_VARIABLE)
        self.folder = Path(chosen) if chosen else results() / "notebooks" / notebook / f"{preset}-interactive"
        # All parameters where the notebook runs unattended; by hand, only its name and preset are known.
        told = json.loads(os.environ.get(PARAMETERS_VARIABLE, "{}"))
        self._parameters = {"notebook": notebook, "preset": preset} | told
        self._written: list[str] = []
        self._headline = ""

    def table(self, table: "pd.DataFrame", name: str, *, caption: str = "", headline: bool = False) -> None:
        """Show a table, of a long one its first rows, and write all of it as CSV and LaTeX.

        Args:
            name: file name without ending.
            headline: this is the table that the index of reports and the terminal show.
        """
        from IPython.display import display

        from lmbench.analysis import export, readable
        from lmbench.records import write_atomically

        export.save_table(table, self.folder / "tables", name, stamp=self._stamp(), caption=caption)
        self._written.append(f"tables/{name}")
        if headline:
            self._headline = readable.as_text(table, caption=caption)
            write_atomically(self.folder / "headline.txt", (self._headline + "\n").encode())
        if len(table) > MOST_ROWS:
            caption += f" The first {MOST_ROWS} of {len(table):,} rows; all are in tables/{name}.csv."
        shown, said = table.head(MOST_ROWS), caption.strip()
        text = readable.as_text(shown, caption=said)
        display({"text/html": readable.styled(shown, caption=said).to_html(), "text/plain": text}, raw=True)

    def figure(self, chart: "Chart", name: str) -> None:
        """Show a figure and write it as SVG and PNG."""
        from IPython.display import display

        from lmbench.analysis import export

        export.save_figure(chart, self.folder / "figures", name, stamp=self._stamp())
        self._written.append(f"figures/{name}")
        display(chart)

    def say(self, text: str, name: str = "reading") -> None:
        """Show generated paragraphs, and keep them beside the tables they speak of.

        Args:
            name: file name without ending; a notebook with several readings gives each its own.

        Raises:
            ValueError: a name that is not a plain file name, or that of the headline.
        """
        from IPython.display import display

        from lmbench.records import write_atomically

        if not name or Path(name).name != name or name.startswith("."):
            raise ValueError(f"name {name!r} is not a plain file name without folders")
        if name == "headline":
            raise ValueError("name 'headline' is taken by the headline table; choose another")
        write_atomically(self.folder / f"{name}.txt", (text + "\n").encode())
        paragraphs = "".join(f"<p>{html.escape(part)}</p>" for part in text.split("\n\n"))
        display({"text/html": paragraphs, "text/plain": text}, raw=True)

    def close(self) -> None:
        """Write what this notebook read and made; the last call of a notebook."""
        from lmbench.records import write_json

        made = {
            "notebook": self.notebook,
            "preset": self.preset,
            "commit": self._commit,
            "device": self._device(),
            "runs": sorted(self.store.used),
            "written": self._written,
        }
        write_json(self.folder / "session.json", made)

    def _device(self) -> str:
        """The devices of the runs read so far."""
        devices = {self.store.record(digest)["env"].get("device") for digest in self.store.used}
        return "; ".join(sorted(device for device in devices if device))

    def _stamp(self) -> "Stamp":
        from lmbench.analysis.export import Stamp

        return Stamp(
            commit=self._commit,
            device=self._device(),
            parameters=self._parameters,
            digests=tuple(sorted(self.store.used)),
        )


def read_session(folder: Path) -> dict[str, Any]:
    """`session.json` of an executed notebook.

    Raises:
        ValueError: the notebook did not reach its `close`.
    """
    path = folder / "session.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no session.json: its notebook did not run to the end")
    return json.loads(path.read_text())
