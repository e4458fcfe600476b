"""The report: complete, offline, readable, and honest about what did not run."""

import json
import re
from html.parser import HTMLParser

import nbformat
import pandas as pd
import pytest

from lmbench.analysis.export import Stamp, escape_latex, save_figure, save_table
from lmbench.analysis.figures import loss_against
from lmbench.analysis.table import result_table
from lmbench.report import build_report

COMMIT = "0c1d2e3f4a5b6c7d8e9f00112233445566778899-dirty"
STAMP = Stamp(commit="other", device="cpu: test machine")
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SVG = '<svg xmlns="http://www.w3.org/2000/svg"/>'


def output(data, metadata=None):
    return nbformat.v4.new_output("display_data", data=data, metadata=metadata or {})


def write_executed(folder, stem, *, title="A comparison", outputs=(), ran=True, record=True):
    """An executed notebook with its record, as the notebook runner leaves them."""
    cells = [
        nbformat.v4.new_markdown_cell(f"# {title}\n\nWhich is *best* & why?"),
        nbformat.v4.new_code_cell(
            "secret_call(1 < 2)", execution_count=1 if ran else None, outputs=list(outputs)
        ),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{stem}.ipynb")
    if record:
        known = {
            "notebook": folder.name,
            "preset": stem,
            "commit": COMMIT,
            "finished": "2026-11-22T00:10:00Z",
        }
        (folder / f"{stem}.json").write_text(json.dumps(known | {"values": {"seeds": 3}}))
    return folder / f"{stem}.ipynb"


def write_results(folder):
    runs = pd.DataFrame(
        {
            "label": ["mlp"] * 3,
            "bits_per_byte": [3.0, 3.1, 3.2],
            "train_flops": 1e12,
            "device": "cpu: test machine",
        }
    )
    table = result_table(runs, references={"unigram": 4.8})
    save_table(table, folder / "tables", "results", stamp=STAMP, caption="Losses & costs.")
    save_table(pd.DataFrame({"a": [1]}), folder / "tables", "another", stamp=STAMP)
    save_figure(loss_against(runs), folder / "figures", "loss", stamp=STAMP)


class Loads(HTMLParser):
    """Collects what a browser would fetch, and descriptions and widths of the images."""

    def __init__(self):
        super().__init__()
        self.fetched, self.images = [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in ("img", "script", "iframe", "source", "video"):
            self.fetched += [given["src"]] if "src" in given else []
        if tag == "link":
            self.fetched.append(given["href"])
        if tag == "img":
            self.images.append((given.get("alt"), given.get("width")))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "notebooks" / "01_architecture_comparison"


# ------------------------------------------------------------------ web pages


def test_a_page_loads_nothing_from_anywhere(folder, tmp_path):
    pictures = [
        output(
            {"image/svg+xml": SVG, "text/plain": "Figure"},
            {"image/svg+xml": {"alt": 'loss "a" < b', "width": 400}},
        ),
        output({"image/png": PIXEL}),
        output({"application/javascript": "require(['https://example.org/x.js'])"}),
        output({"text/html": "<table><tr><td>cell</td></tr></table>"}),
    ]
    write_executed(folder, "quick", outputs=pictures)
    index = build_report([folder], tmp_path / "out")
    images = []
    for path in sorted(index.parent.glob("*.html")):
        page = Loads()
        page.feed(path.read_text())
        images += page.images
        assert all(source.startswith("data:") for source in page.fetched)
        assert not re.search(r"@import|url\(|cdn|mathjax|require", path.read_text(), re.IGNORECASE)
    assert images == [('loss "a" < b', "400"), ("figure", None)]
    assert "<td>cell</td>" in (index.parent / "01_architecture_comparison-quick.html").read_text()


def test_a_page_has_language_title_facts_and_folded_code(folder, tmp_path):
    write_executed(folder, "quick")
    write_results(folder / "quick")
    text = (
        build_report([folder], tmp_path / "out").parent / "01_architecture_comparison-quick.html"
    ).read_text()
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert "<title>A comparison</title>" in text
    for fact in ("quick", "2026-11-22", COMMIT, "cpu: test machine", "<dt>seeds</dt><dd>3</dd>"):
        assert fact in text
    code = text.partition('<details class="code"><summary>Code</summary>')[2].partition("</details>")[0]
    assert "secret_call" in code
    assert text.count("secret_call") == 1
    assert "In [" not in text
    assert "In&nbsp;[" not in text


def test_progress_bars_leave_only_their_end_and_widgets_nothing(folder, tmp_path):
    bars = [
        nbformat.v4.new_output("stream", name="stderr", text="10%\r 50%\r100% done\n"),
        output({"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "HBox(bar)"}),
    ]
    write_executed(folder, "quick", outputs=bars)
    text = (
        build_report([folder], tmp_path / "out").parent / "01_architecture_comparison-quick.html"
    ).read_text()
    assert "100% done" in text
    assert "50%" not in text
    assert "HBox" not in text


def test_the_index_lists_every_notebook_with_its_facts_and_headline_table(folder, tmp_path):
    write_executed(folder, "quick")
    write_results(folder / "quick")
    write_executed(folder.parent / "00_quickstart", "smoke", title="First <steps>")
    index = build_report([folder.parent], tmp_path / "out")
    text = index.read_text()
    assert index.name == "index.html"
    assert '<a href="00_quickstart-smoke.html">First &lt;steps&gt;</a>' in text
    assert text.index("00_quickstart-smoke.html") < text.index("01_architecture_comparison-quick.html")
    for fact in ("quick", "2026-11-22", "0c1d2e3f4a5b-dirty", "cpu: test machine"):
        assert f'<td class="name">{fact}</td>' in text
    assert "<td>3.10 [2.85, 3.35]</td>" in text
    assert '<tr class="reference first"><td>unigram</td>' in text
    assert all((index.parent / name).is_file() for name in re.findall(r'href="([^"]+)"', text))


def test_results_in_a_folder_of_another_notebook_are_not_taken(folder, tmp_path):
    write_executed(folder, "quick")
    write_executed(folder, "smoke")
    write_results(folder / "quick")
    text = build_report([folder], tmp_path / "out").read_text()
    assert text.count("<td>unigram</td>") == 1
    assert "(quick)</h2>" in text
    assert "(smoke)</h2>" not in text


def test_results_beside_the_only_notebook_are_its_own(tmp_path):
    folder = tmp_path / "reference" / "01_architecture_comparison"
    write_executed(folder, "01_architecture_comparison", record=False)
    write_results(folder)
    text = build_report([folder], tmp_path / "out").read_text()
    assert 'href="01_architecture_comparison.html"' in text
    assert '<td class="name">other</td><td class="name">cpu: test machine</td>' in text
    assert "<td>unigram</td>" in text


def test_notebooks_of_one_name_get_pages_of_their_own(tmp_path):
    folders = [tmp_path / place / "01_x" for place in ("a", "b")]
    for place in folders:
        write_executed(place, "quick", title=f"From {place.parent.name}")
    out = build_report(folders, tmp_path / "out").parent
    assert "From a" in (out / "01_x-quick.html").read_text()
    assert "From b" in (out / "01_x-quick-2.html").read_text()


def test_a_report_is_the_same_when_built_again(folder, tmp_path):
    write_executed(folder, "quick", outputs=[output({"image/svg+xml": SVG})])
    first = {
        path.name: path.read_bytes() for path in build_report([folder], tmp_path / "out").parent.iterdir()
    }
    again = {
        path.name: path.read_bytes() for path in build_report([folder], tmp_path / "out").parent.iterdir()
    }
    assert first == again


def test_all_executed_notebooks_are_taken_where_no_folder_is_named(project, tmp_path):
    write_executed(project / "results" / "notebooks" / "00_quickstart", "smoke", title="Found by itself")
    assert "Found by itself" in build_report(None, tmp_path / "out").read_text()


# ------------------------------------------------------------------ LaTeX


def test_latex_inputs_every_table_and_includes_every_figure(folder, tmp_path):
    write_executed(folder, "quick", title="Costs & losses_1")
    write_results(folder / "quick")
    report = build_report([folder], tmp_path / "out", format="latex")
    text = report.read_text()
    assert report.name == "report.tex"
    assert r"\section{Costs \& losses\_1}" in text
    assert r"\caption{Losses \& costs.}" in text
    # The figure carries its own caption and the alternative text is for those who do not see it.
    assert r"\caption{Costs \& losses\_1: loss}" in text
    alt = json.loads((folder / "quick" / "figures" / "loss.json").read_text())["alt"]
    assert alt and escape_latex(alt) not in text
    used = re.findall(r"\\(?:fitted|includegraphics)\{([^}#]+)\}", text)
    assert used == [
        "tables/01_architecture_comparison-quick-another.tex",
        "tables/01_architecture_comparison-quick-results.tex",
        "figures/01_architecture_comparison-quick-loss.png",
    ]
    assert all((report.parent / name).is_file() for name in used)
    assert text.count(r"\begin{") == text.count(r"\end{")


# ------------------------------------------------------------------ refusals


def test_nothing_executed_yet_is_one_clear_error_and_leaves_no_report(tmp_path):
    (tmp_path / "notebooks" / ".ipynb_checkpoints").mkdir(parents=True)
    write_executed(tmp_path / "notebooks" / ".ipynb_checkpoints", "quick")
    with pytest.raises(
        ValueError, match=r"no executed notebook in .*; run one first, such as `lmbench notebook"
    ):
        build_report([tmp_path / "notebooks"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_notebook_that_did_not_run_to_its_end_is_refused(folder, tmp_path):
    path = write_executed(folder, "quick", ran=False)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} did not run to its end; run it again"):
        build_report([folder], tmp_path / "out")
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
    write_executed(folder, "quick", outputs=[error])
    with pytest.raises(ValueError, match="did not run to its end"):
        build_report([folder], tmp_path / "out")


def test_an_unknown_format_is_refused(folder, tmp_path):
    with pytest.raises(
        ValueError, match=r"unknown report format 'htm'; accepted: html, latex. Did you mean 'html'\?"
    ):
        build_report([folder], tmp_path / "out", format="htm")
