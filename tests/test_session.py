"""What a notebook's cells talk to: tables, figures, the headline, session.json, and the reference."""

import hashlib
import json

import pandas as pd
import pytest

from lmbench import cli
from lmbench.analysis import figures
from lmbench.home import commit
from lmbench.notebook.publish import publish, reference_folder
from lmbench.notebook.session import Session, read_session
from lmbench.notebook.setup import circumstances, setup
from lmbench.records import ROW_COLUMNS, Reference, write_json
from lmbench.store import Store
from tests.corpora import write_corpus

TABLE = pd.DataFrame({"model": ["mlp"], "n": [3], "test loss": [1.25]})
DIGESTS = ("a" * 16, "b" * 16, "c" * 16)


@pytest.fixture
def shown(monkeypatch):
    """What the cells of a notebook would show."""
    outputs = []
    monkeypatch.setattr("IPython.display.display", lambda value, **options: outputs.append(value))
    return outputs


@pytest.fixture
def open_session(project, shown, monkeypatch):
    """Open a session that writes to a folder of its own."""
    monkeypatch.setenv("LMBENCH_OUT", str(project / "out"))
    (project / "out").mkdir()
    store = fill(Store(project / "results"))
    return Session("01_first", preset="quick", store=store)


def fill(store, digests=DIGESTS, *, device="cpu: test", items=True):
    """Finished records of one row and one item each."""
    for i, digest in enumerate(digests):
        store.begin(digest)
        row = dict.fromkeys(ROW_COLUMNS, 0) | {
            "evaluation": "e",
            "split": "test",
            "task": "text",
            "level": "",
        }
        rows = pd.DataFrame([row | {"metric": "nll", "value": i + 0.5, "n": 3, "step": 7}])
        config = {"kind": "run", "version": 1, "steps": 7, "model": {"kind": "mlp", "version": 1}}
        run = {"schema": 1, "kind": "run", "label": "mlp", "config": config}
        kept = pd.DataFrame({"item": [0], "nll": [i + 0.5], "evaluation": ["e"], "split": ["test"]})
        env = {"device": device}
        store.finish(digest, run=run, env=env, rows=rows, items=kept if items else kept.iloc[:0])
    return store


def chart():
    runs = pd.DataFrame({"label": ["mlp"] * 2, "bits_per_byte": [2.0, 2.1], "train_flops": [1e9, 1e9]})
    return figures.loss_against(runs)


# ------------------------------------------------------------------ tables and figures


def test_a_table_is_shown_and_written_with_its_stamp(open_session, project, shown):
    open_session.store.frame(DIGESTS[:2])
    open_session.table(TABLE, "results", caption="Three seeds.")
    folder = project / "out" / "tables"
    assert pd.read_csv(folder / "results.csv").equals(TABLE)
    assert "mlp" in (folder / "results.tex").read_text()
    stamp = json.loads((folder / "results.json").read_text())
    assert stamp["digests"] == list(DIGESTS[:2]), "the runs read so far"
    assert stamp["device"] == "cpu: test"
    assert stamp["commit"] == commit()
    assert stamp["parameters"] == {"notebook": "01_first", "preset": "quick"}
    assert stamp["caption"] == "Three seeds."
    assert stamp["files"]["results.csv"] == hashlib.sha256((folder / "results.csv").read_bytes()).hexdigest()
    (bundle,) = shown
    assert "Three seeds." in bundle["text/html"] and "mlp" in bundle["text/html"]
    assert "Three seeds." in bundle["text/plain"] and "mlp" in bundle["text/plain"]


def test_only_the_headline_table_is_kept_as_the_headline(open_session, project):
    open_session.table(TABLE.assign(model="other"), "more")
    assert not (project / "out" / "headline.txt").exists()
    open_session.table(TABLE, "results", caption="Three seeds.", headline=True)
    text = (project / "out" / "headline.txt").read_text()
    assert "mlp" in text and "1.25" in text and "Three seeds." in text
    assert "other" not in text


def test_a_figure_is_shown_and_written_as_svg_and_png(open_session, project, shown):
    fig = chart()
    open_session.figure(fig, "loss")
    folder = project / "out" / "figures"
    assert sorted(path.name for path in folder.iterdir()) == ["loss.json", "loss.png", "loss.svg"]
    assert (folder / "loss.svg").read_bytes() == fig.svg()
    assert json.loads((folder / "loss.json").read_text())["caption"] == fig.caption
    assert shown == [fig]


def test_what_is_said_is_kept_and_cannot_be_taken_for_markup(open_session, project, shown):
    open_session.say("a < b & c\n\nSecond.")
    assert (project / "out" / "reading.txt").read_text() == "a < b & c\n\nSecond.\n"
    (bundle,) = shown
    assert bundle["text/html"] == "<p>a &lt; b &amp; c</p><p>Second.</p>"
    assert bundle["text/plain"] == "a < b & c\n\nSecond."


@pytest.mark.parametrize("name", ["../results", "a/b", ""])
def test_a_name_that_is_a_path_is_refused(open_session, project, name):
    with pytest.raises(ValueError, match="is not a plain file name"):
        open_session.table(TABLE, name)
    assert not (project / "out" / "tables").exists() or not list((project / "out" / "tables").iterdir())


# ------------------------------------------------------------------ session.json


def test_close_lists_the_runs_that_were_read_and_what_was_written(open_session, project):
    with pytest.raises(ValueError, match="holds no session.json: its notebook did not run to the end"):
        read_session(project / "out")
    open_session.store.frame([DIGESTS[2], DIGESTS[0]])
    open_session.table(TABLE, "results")
    open_session.figure(chart(), "loss")
    open_session.close()
    assert read_session(project / "out") == {
        "notebook": "01_first",
        "preset": "quick",
        "commit": commit(),
        "device": "cpu: test",
        "runs": [DIGESTS[0], DIGESTS[2]],
        "written": ["tables/results", "figures/loss"],
    }


def test_runs_of_two_devices_are_both_named(open_session, project):
    fill(open_session.store, ["d" * 16], device="NVIDIA H200")
    fill(open_session.store, ["e" * 16], device=None)
    open_session.store.frame()
    open_session.close()
    assert read_session(project / "out")["device"] == "NVIDIA H200; cpu: test"


def test_an_interactive_notebook_writes_into_the_results_folder(project, shown, monkeypatch):
    monkeypatch.delenv("LMBENCH_OUT", raising=False)
    opened = Session("01_first", preset="smoke", store=Store(project / "results"))
    opened.table(TABLE, "results")
    opened.close()
    folder = project / "results" / "notebooks" / "01_first" / "smoke-interactive"
    assert (folder / "tables" / "results.csv").is_file()
    assert read_session(folder)["runs"] == []


# ------------------------------------------------------------------ setup


def test_setup_says_what_it_runs_on_and_opens_the_local_store(notebook, project, shown):
    notebook("01_first", "1")
    opened = setup("first", preset="quick")
    assert (opened.notebook, opened.preset) == ("01_first", "quick")
    assert isinstance(opened.store, Store)
    assert opened.store.root == project / "results"
    assert shown == [{"text/plain": circumstances()}]
    assert all(word in circumstances() for word in ("lmbench", "Python 3", "torch"))


def test_setup_opens_the_reference_read_only(notebook, project, shown, tmp_path):
    notebook("01_first", "1")
    with pytest.raises(ValueError, match=r"no reference results in .*01_first: it holds no runs.jsonl"):
        setup("01_first", store="reference")
    reference(project, "full", DIGESTS[:1])
    fill(Store(project / "results"))
    publish("01_first")
    opened = setup("01_first", store="reference")
    assert isinstance(opened.store, Reference)
    assert opened.store.digests() == [DIGESTS[0]]


def test_setup_refuses_unknown_stores_and_notebooks(notebook, shown):
    notebook("01_first", "1")
    with pytest.raises(ValueError, match=r"unknown store 'referense'; .*Did you mean 'reference'\?"):
        setup("01_first", store="referense")
    with pytest.raises(ValueError, match=r"unknown notebook '01_frist'; .*Did you mean '01_first'\?"):
        setup("01_frist")
    assert shown == []


# ------------------------------------------------------------------ publishing


def reference(project, preset, digests):
    """An executed reference copy that read these records."""
    folder = project / "results" / "reference" / "01_first" / preset
    folder.mkdir(parents=True)
    write_json(folder / "session.json", {"notebook": "01_first", "preset": preset, "runs": list(digests)})
    return folder


def test_publish_packs_the_records_that_the_copies_read_and_no_others(project):
    store = fill(Store(project / "results"))
    reference(project, "full", DIGESTS[:1])
    reference(project, "published", DIGESTS[:2])
    folder = publish("01_first")
    assert folder == reference_folder("01_first") == project / "results" / "reference" / "01_first"
    packed = Reference(folder)
    assert packed.digests() == list(DIGESTS[:2])
    pd.testing.assert_frame_equal(packed.frame(), store.frame(DIGESTS[:2]))
    pd.testing.assert_frame_equal(packed.items(DIGESTS[1]), store.items(DIGESTS[1]))


def test_publish_keeps_the_records_of_another_machine(project, tmp_path):
    elsewhere = fill(Store(tmp_path / "elsewhere"), DIGESTS[:1], device="NVIDIA H200")
    reference(project, "full", DIGESTS[:1])
    from lmbench.records import pack

    pack(DIGESTS[:1], [elsewhere], reference_folder("01_first"))
    fill(Store(project / "results"), DIGESTS[1:2])
    reference(project, "quick", DIGESTS[1:2])
    packed = Reference(publish("01_first"))
    assert packed.digests() == list(DIGESTS[:2])
    assert packed.record(DIGESTS[0])["env"]["device"] == "NVIDIA H200"
    assert Reference(publish("01_first")).frame().equals(packed.frame()), "safe to repeat"


def test_publish_drops_what_no_copy_reads_any_more(project):
    fill(Store(project / "results"))
    first = reference(project, "full", DIGESTS)
    publish("01_first")
    write_json(first / "session.json", {"notebook": "01_first", "preset": "full", "runs": [DIGESTS[1]]})
    assert Reference(publish("01_first")).digests() == [DIGESTS[1]]


def test_publish_refuses_what_it_cannot_pack_and_leaves_the_old_reference(project):
    with pytest.raises(ValueError, match="holds no executed notebook to publish"):
        publish("01_first")
    folder = reference(project, "full", [])
    with pytest.raises(ValueError, match="there are no records to pack into .*: its notebooks read none"):
        publish("01_first")
    fill(Store(project / "results"), DIGESTS[:1])
    write_json(folder / "session.json", {"notebook": "01_first", "preset": "full", "runs": [DIGESTS[0]]})
    publish("01_first")
    before = {path.name: path.read_bytes() for path in folder.parent.iterdir() if path.is_file()}
    reference(project, "quick", DIGESTS[2:])
    with pytest.raises(ValueError, match=f"run {DIGESTS[2]} cannot be packed: no store holds it"):
        publish("01_first")
    assert {p.name: p.read_bytes() for p in folder.parent.iterdir() if p.is_file()} == before


def test_records_without_items_can_be_published(project):
    fill(Store(project / "results"), DIGESTS[:1], items=False)
    reference(project, "full", DIGESTS[:1])
    packed = Reference(publish("01_first"))
    assert packed.digests() == [DIGESTS[0]]
    assert packed.items(DIGESTS[0]).empty


# ------------------------------------------------------------------ the command line


def lmbench(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    return caught.value.code, *capsys.readouterr()


@pytest.mark.parametrize("option", [("--out", "here.ipynb"), ("--store", "reference")])
def test_publish_takes_neither_out_nor_store(notebook, project, capsys, option):
    notebook("01_first", "1", parameters='store: str = "local"')
    status, _, err = lmbench(capsys, "notebook", "01", "--publish", *option)
    assert status != 0
    assert "leave out --out and --store" in err
    assert not (project / "results" / "reference").exists()


CELL = """\
from lmbench.config import make
from lmbench.notebook import setup
from lmbench.training.execute import run_all
from tests.test_training import small_run
report = setup("01_first", preset=preset)
run = small_run(make("task", "text", corpus={corpus!r}, tokenizer="char"), "linear")
rows = run_all([run], store=report.store, device="cpu", progress=False)
report.table(rows[["metric", "value"]].head(2), "rows", headline=True)
report.close()
"""


def test_a_published_notebook_lies_in_the_reference_with_its_records(notebook, project, capsys, monkeypatch):
    monkeypatch.setattr("lmbench.notebook.publish.commit", lambda: "0123456789ab")
    corpus = str(write_corpus(project / "corpus"))
    notebook("01_first", CELL.format(corpus=corpus), parameters='preset: str = "smoke"')
    status, out, err = lmbench(capsys, "notebook", "01", "--publish")
    assert status == 0, err
    folder = project / "results" / "reference" / "01_first"
    assert (folder / "smoke.ipynb").is_file()
    assert (folder / "smoke" / "tables" / "rows.csv").is_file()
    assert f"records: {folder}" in out
    store = Store(project / "results")
    assert Reference(folder).digests() == read_session(folder / "smoke")["runs"] == store.digests()
    assert len(store.digests()) == 1
    pd.testing.assert_frame_equal(Reference(folder).frame(), store.frame())
    assert not (project / "results" / "notebooks").exists()


def test_of_a_long_table_the_first_rows_are_shown_and_all_are_written(open_session, project, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    long = pd.DataFrame({"model": ["mlp"] * 151, "value": range(1000, 1151)})
    for table in (long, long.head(150)):
        open_session.table(table, "long", caption="All seeds.")
    assert "The first 150 of 151 rows; all are in tables/long.csv." in shown[0]["text/plain"]
    assert "The first" not in shown[1]["text/plain"]
    assert "1,149" in shown[0]["text/html"] and "1,150" not in shown[0]["text/html"]
    open_session.table(long, "whole")
    assert len(pd.read_csv(project / "out" / "tables" / "whole.csv", comment="#")) == 151
