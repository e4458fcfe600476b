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
from lmbench.report.performance import performance_table

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


def test_latex_inputs_every_table_and_includes_every_figure(project, folder, tmp_path):
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


# ------------------------------------------------------------------ performance

RESULT = {
    "name": "evaluation", "device": "cpu: <test> machine", "ours": 120.0, "baseline": 10.0,
    "ratio": 12.0, "ratio_min": 11.5, "ratio_max": 12.25, "unit": "k targets/s", "repeats": 3,
    "difference_to_naive": 2e-7,
}  # fmt: skip


def write_result(project, **changes):
    folder = project / "results" / "reference" / "performance"
    folder.mkdir(parents=True, exist_ok=True)
    result = {key: value for key, value in (RESULT | changes).items() if value is not ...}
    path = folder / f"{changes.get('name', RESULT['name'])}.json"
    path.write_text(json.dumps(result))
    return path


def performance_row(project, **changes):
    path = write_result(project, **changes)
    table = performance_table(path.parent)
    path.unlink()
    return dict(zip(table.columns, table.iloc[0], strict=True))


def test_performance_stands_in_the_index_with_ratio_target_and_verdict(project, folder, tmp_path):
    write_executed(folder, "quick")
    write_result(project)
    write_result(
        project, name="notebook_start", ours=4.5, baseline=4.0, ratio=0.9, ratio_min=0.8, ratio_max=1
    )
    text = build_report([folder], tmp_path / "out").read_text()
    part = text[text.index("<h2>Performance</h2>") :]
    cells = [
        re.findall(r'<td class="name words">(.*?)</td>', row)
        for row in re.findall(r"<tr><td.*?</tr>", part, re.DOTALL)
    ]
    assert cells == [
        ["scoring a whole split by sliding window", "120.0", "10.00", "k targets/s",
         "12.00 [11.50, 12.25]", "3", "at least 10 times, equal to 1e-5", "yes", "cpu: &lt;test&gt; machine"],
        ["starting a smoke notebook", "4.500", "4.000", "k targets/s",
         "0.9000 [0.8000, 1.000]", "3", "at most 4 s", "no", "cpu: &lt;test&gt; machine"],
    ]  # fmt: skip
    assert "the ratio, which is above 1 where lmbench is better" in part


def test_performance_stands_in_the_latex_report(project, folder, tmp_path):
    write_executed(folder, "quick")
    write_result(project)
    report = build_report([folder], tmp_path / "out", format="latex")
    assert r"\fitted{tables/performance.tex}" in report.read_text()
    table = (report.parent / "tables" / "performance.tex").read_text()
    assert "12.00 [11.50, 12.25]" in table
    assert r"\textless{}test\textgreater{}" in table


def test_a_project_without_performance_results_gets_no_such_table(project, folder, tmp_path):
    write_executed(folder, "quick")
    assert "Performance" not in build_report([folder], tmp_path / "out").read_text()
    report = build_report([folder], tmp_path / "tex", format="latex")
    assert "Performance" not in report.read_text()
    assert performance_table(None) is None


def test_a_report_on_folders_from_elsewhere_needs_no_project(folder, tmp_path, monkeypatch):
    write_executed(folder, "quick")
    monkeypatch.delenv("LMBENCH_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert build_report([folder], tmp_path / "out").is_file()


def test_a_target_is_judged_only_where_it_was_set(project):
    speed = {"name": "stacked_runs", "ours": 35.0, "unit": "Mtok/s"}
    assert performance_row(project, **speed)["met"] == "not asked here"
    assert performance_row(project, **speed, device="NVIDIA H200")["met"] == "yes"
    assert performance_row(project, **speed | {"ours": 33.9}, device="NVIDIA H200")["met"] == "no"


def test_a_target_needs_all_its_parts(project):
    assert performance_row(project)["met"] == "yes"
    assert performance_row(project, difference_to_naive=2e-5)["met"] == "no"
    assert performance_row(project, difference_to_naive=...)["met"] == "no"
    quality = {"name": "time_to_quality_gpu", "device": "NVIDIA H200", "ours": 11.0, "unit": "s"}
    assert performance_row(project, **quality, ours_seconds=[2.5, 2.9])["met"] == "yes"
    assert performance_row(project, **quality, ours_seconds=[2.5, 3.1])["met"] == "no"
    same_loss = {"name": "cpu_training", "nll_difference": -0.009}
    assert performance_row(project, **same_loss)["met"] == "yes"
    assert performance_row(project, **same_loss | {"nll_difference": -0.011})["met"] == "no"


def test_a_benchmark_without_a_target_is_named_in_words_and_not_judged(project):
    row = performance_row(project, name="three_gpus")
    assert (row["what"], row["target"], row["met"]) == ("three gpus", "", "")


def test_a_baseline_that_missed_its_goal_is_marked_as_a_bound(project):
    row = performance_row(project, name="cpu_time_to_quality", unit="s", baseline_reached=[True, False])
    assert (row["baseline"], row["ratio [range]"]) == ("≥ 10.00", "≥ 12.00 [11.50, 12.25]")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"ratio": ...}, "'ratio' is missing"),
        ({"ours": "fast"}, "ours = 'fast'"),
        ({"baseline": -1.0}, "baseline = -1.0"),
        ({"repeats": 0}, "repeats = 0"),
        ({"unit": ""}, "unit = ''"),
        ({"ratio": 13.0}, r"ratio = 13.0 lies outside of \[11.5, 12.25\]"),
    ],
)
def test_a_file_that_is_no_performance_result_is_named(project, folder, tmp_path, changes, said):
    write_executed(folder, "quick")
    path = write_result(project, **changes)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} is not a performance result: {said}$"):
        build_report([folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("body, said", [("{", "it is no JSON"), ("[1]", "it holds no JSON object")])
def test_a_file_that_is_no_json_object_is_named(project, body, said):
    path = write_result(project)
    path.write_text(body)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} is not a performance result: {said}"):
        performance_table(path.parent)
