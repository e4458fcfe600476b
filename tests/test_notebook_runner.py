"""Running notebooks: what is refused before, what is believed after."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from lmbench.errors import sentence
from lmbench.home import root
from lmbench.notebook import (
    NotebookFailed,
    checked,
    execute,
    find,
    finished,
    notebooks,
    parameters_of,
    prepare,
    presets,
)
from tests.corpora import write_corpus

PARAMETERS = """\
steps: int = 3               # optimizer steps
lr: float = 0.1
# names of corpora,
# in order
corpora: list[str] = ["a"]
kind: Literal["x", "y"] = "x"
limit: int | None = None
"""


def outputs(path):
    """The text that the cells of an executed notebook printed."""
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.text for cell in cells for output in cell.get("outputs", []) if "text" in output)


# ------------------------------------------------------------------ finding


def test_a_notebook_answers_to_number_name_and_both(notebook):
    notebook("01_first", "1")
    notebook("02_second", "2")
    assert list(notebooks()) == ["01_first", "02_second"]
    assert {find("02"), find("second"), find("02_second"), find("02_second.ipynb")} == {"02_second"}


def test_an_unknown_notebook_is_refused_with_the_nearest_name(notebook):
    notebook("01_first", "1")
    with pytest.raises(
        ValueError, match="unknown notebook '01_fist'; accepted: 01_first. Did you mean '01_first'"
    ):
        find("01_fist")


def test_a_number_of_two_notebooks_is_refused(notebook):
    notebook("01_first", "1")
    notebook("01_other", "1")
    with pytest.raises(ValueError, match="'01' could be 01_first or 01_other"):
        find("01")


def test_smoke_is_the_first_preset_and_changes_nothing(notebook, project):
    notebook("01_first", "1", parameters=PARAMETERS)
    (project / "notebooks/presets.toml").write_text("[01_first.quick]\nsteps = 50\n")
    assert list(presets("01").items()) == [("smoke", {}), ("quick", {"steps": 50})]


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "[01_first.smoke]\nsteps = 1",
            "defaults in the notebook's own parameters cell are the preset 'smoke'",
        ),
        ("[01_frist.quick]\nsteps = 1", "unknown notebook '01_frist'.*Did you mean '01_first'"),
        ("[01_first]\nsteps = 1", "must hold tables only, one per preset"),
        ("[01_first", "cannot be read as TOML"),
    ],
)
def test_a_wrong_presets_file_is_refused(notebook, project, text, message):
    notebook("01_first", "1", parameters=PARAMETERS)
    (project / "notebooks/presets.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        presets("01_first")


# ------------------------------------------------------------------ parameters


def test_parameters_have_type_default_and_help(notebook):
    found = parameters_of(notebook("01_first", "1", parameters=PARAMETERS))
    assert list(found) == ["steps", "lr", "corpora", "kind", "limit"]
    assert (found["steps"].spelled, found["steps"].default, found["steps"].help) == (
        "int",
        3,
        "optimizer steps",
    )
    assert found["corpora"].help == "names of corpora, in order"
    assert found["lr"].help == ""


def test_values_of_the_right_type_are_accepted(notebook):
    path = notebook("01_first", "1", parameters=PARAMETERS)
    values = {"steps": 5, "lr": 1, "corpora": ["p", "q"], "kind": "y", "limit": None}
    assert checked(path, values) == values
    assert checked(path, {"corpora": ("p",)}) == {"corpora": ["p"]}


@pytest.mark.parametrize(
    "values, message",
    [
        ({"step": 1}, "unknown parameter of notebook 01_first 'step'; .*Did you mean 'steps'"),
        (
            {"steps": "5"},
            "steps = '5' is not accepted: input should be a valid integer .its type is int, its default 3",
        ),
        ({"steps": True}, "steps = True is not accepted"),
        ({"steps": 1.5}, "steps = 1.5 is not accepted"),
        ({"lr": "fast"}, "lr = 'fast' is not accepted: input should be a valid number"),
        ({"corpora": "ptb"}, "corpora = 'ptb' is not accepted: input should be a valid array"),
        ({"kind": "z"}, "kind = 'z' is not accepted: input should be 'x' or 'y'"),
        ({"steps": {1}}, r"steps = \{1\} is not accepted: object of type set is not JSON serializable"),
    ],
)
def test_a_wrong_parameter_is_refused(notebook, values, message):
    path = notebook("01_first", "1", parameters=PARAMETERS)
    with pytest.raises(ValueError, match=message):
        checked(path, values)


@pytest.mark.parametrize(
    "line", ["n = len('abc')", "import os", "n: int", "n: Array = 1", "a = b = 1", "n: print = 1"]
)
def test_a_parameters_cell_holds_typed_literals_only(notebook, line):
    path = notebook("01_first", "1", parameters=line)
    with pytest.raises(ValueError, match="in the parameters cell of 01_first.ipynb is not accepted"):
        parameters_of(path)


def test_a_file_that_is_no_notebook_is_refused(project):
    path = project / "notebooks/01_broken.ipynb"
    path.write_text('{"cells": ')
    with pytest.raises(ValueError, match=r"01_broken.ipynb is not a notebook: JSONDecodeError"):
        parameters_of(path)


# ------------------------------------------------------------------ preparing


def test_each_set_of_parameters_has_its_own_target(notebook, project):
    notebook("01_first", "1", parameters=PARAMETERS)
    plain, other = prepare("01"), prepare("01", parameters={"steps": 9})
    folder = project / "results/notebooks/01_first"
    assert plain.target == folder / "smoke.ipynb"
    assert other.target.parent == folder
    assert other.target.name.startswith("smoke-")
    assert prepare("01", parameters={"steps": 9}).target == other.target


def test_the_key_covers_cells_and_values(notebook):
    path = notebook("01_first", "print(1)", parameters=PARAMETERS)
    key = prepare("01").key()
    assert prepare("01").key() == key
    assert prepare("01", parameters={"steps": 9}).key() != key
    path.write_text(path.read_text().replace("print(1)", "print(2)"))
    assert prepare("01").key() != key


def edit(folder, split="train"):
    """Change one letter of a split, and its time too, since a fast test may edit within one tick."""
    path = folder / f"{split}.txt"
    path.write_text("X" + path.read_text()[1:])
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000_000))


@pytest.mark.parametrize("spelled", ["{project}/mine", "mine", "texts/other", "kept"])
def test_the_key_covers_the_text_of_a_local_corpus(notebook, project, monkeypatch, tmp_path_factory, spelled):
    # A relative path begins in the project folder, where notebooks run, wherever this process works.
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.delenv("LMBENCH_DATA", raising=False)
    name = spelled.format(project=project)
    folder = write_corpus(project / "datasets" / name if name == "kept" else project / name)
    notebook("01_first", "1", parameters=f'corpus: str = "{name}"\nsubstitute: str = ""')
    key = prepare("01").key()
    assert prepare("01").key() == key
    edit(folder)
    changed = prepare("01").key()
    assert changed != key
    valid = prepare("01", parameters={"substitute": "valid"})
    key = valid.key()
    edit(folder, "train")
    assert valid.key() == key, "train is not read where valid stands in for it"
    edit(folder, "valid")
    assert valid.key() != key
    assert prepare("01").key() != changed


def test_a_corpus_that_does_not_exist_leaves_the_error_to_the_run(notebook):
    notebook("01_first", "1", parameters='corpus: str = "nowhere"')
    assert prepare("01").key() != prepare("01", parameters={"corpus": "nothing"}).key()


def test_a_notebook_that_declares_preset_and_store_is_told_them(notebook, project):
    notebook("01_first", "1", parameters='preset: str = "smoke"\nstore: str = "local"\nn: int = 1')
    (project / "notebooks/presets.toml").write_text("[01_first.quick]\nn = 2\n")
    job = prepare("01", preset="quick", store="reference")
    assert job.values == {"preset": "quick", "store": "reference", "n": 2}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"preset": "fast"}, "unknown preset of notebook 01_first 'fast'; accepted: smoke"),
        ({"store": "cloud"}, "unknown store 'cloud'; accepted: local, reference"),
        ({"store": "reference"}, "no parameter 'store'"),
        ({"parameters": {"preset": "quick"}}, "preset is chosen with --preset"),
        ({"out": "x.html"}, "an executed notebook ends in .ipynb"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(notebook, arguments, message):
    notebook("01_first", "1", parameters=PARAMETERS)
    with pytest.raises(ValueError, match=message):
        prepare("01", **arguments)


def test_every_preset_of_this_project_is_accepted_by_its_notebook():
    for name, path in notebooks().items():
        for values in presets(name).values():
            checked(path, values)


# ------------------------------------------------------------------ running


def test_a_good_run_leaves_notebook_files_and_record(notebook, project):
    write = "import os, pathlib\nout = pathlib.Path(os.environ['LMBENCH_OUT'])\n"
    write += "(out / 't.csv').write_text(str(n))"
    notebook("01_first", "print('n is', n)", write, parameters="n: int = 1")
    path = execute("01", parameters={"n": 4}, progress=False)
    assert "n is 4" in outputs(path)
    assert path.with_suffix("").joinpath("t.csv").read_text() == "4"
    job = prepare("01", parameters={"n": 4})
    record = finished(job)
    assert record["values"] == {"n": 4}
    assert len(record["files"]) == 2
    left = {p.name for p in path.parent.iterdir()}
    assert left == {path.name, path.stem, f"{path.stem}.json"}, "temporary files are gone"
    assert str(project) not in path.read_text(), "no path of this machine in the result"
    (path.with_suffix("") / "t.csv").write_text("5")
    assert finished(job) is None, "a changed file is not trusted"


def test_a_result_is_not_trusted_without_its_record_or_after_an_edit(notebook):
    source = notebook("01_first", "print(1)")
    path = execute("01", progress=False)
    assert finished(prepare("01")) is not None
    source.write_text(source.read_text().replace("print(1)", "print(2)"))
    assert finished(prepare("01")) is None
    source.write_text(source.read_text().replace("print(2)", "print(1)"))
    path.with_suffix(".json").write_text("{")
    assert finished(prepare("01")) is None


BAD_CELLS = {
    "raises": ("raise KeyError('lost')", r"stopped in cell \[2\] with KeyError: 'lost'"),
    "exits": ("import sys\nsys.exit(0)", r"stopped in cell \[2\] with SystemExit: 0"),
    "dies": ("import os\nos._exit(0)", "stopped because its kernel died"),
}


@pytest.mark.parametrize("cell, message", BAD_CELLS.values(), ids=BAD_CELLS)
def test_a_failed_run_is_an_error_and_changes_nothing(notebook, project, cell, message):
    notebook("01_first", "print('good')")
    target = execute("01", progress=False)
    before = {path: path.read_bytes() for path in target.parent.rglob("*") if path.is_file()}
    notebook("01_first", "print('first')", cell, "print('never')")
    with pytest.raises(NotebookFailed, match=message) as caught:
        execute("01", progress=False)
    assert {path: path.read_bytes() for path in target.parent.rglob("*") if path.is_file()} == before
    failed = project / "results/failed/01_first/smoke.ipynb"
    assert str(failed) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "first" in outputs(failed)
    assert finished(prepare("01")) is None


def test_a_slow_cell_is_an_error(notebook):
    notebook("01_first", "while True:\n    pass")
    with pytest.raises(NotebookFailed, match="in a cell that took longer than 1 s"):
        execute("01", progress=False, timeout=1)


def test_a_foreign_kernel_name_in_the_notebook_does_not_matter(notebook):
    path = notebook("01_first", "print('ran')")
    body = json.loads(path.read_text())
    body["metadata"]["kernelspec"] = {"name": "julia-1.9", "display_name": "x", "language": "julia"}
    path.write_text(json.dumps(body))
    assert "ran" in outputs(execute("01", progress=False))


def test_a_results_folder_that_cannot_be_written_is_one_sentence(notebook, project):
    notebook("01_first", "1")
    (project / "results").rmdir()
    (project / "results").write_text("in the way")
    with pytest.raises(OSError) as caught:
        execute("01", progress=False)
    assert "a file stands where a folder is needed" in sentence(caught.value)


def test_a_full_disk_is_one_sentence_with_its_remedy():
    assert sentence(OSError(28, "No space left on device", "rows.parquet")) == (
        "rows.parquet: the disk is full; free some space and run the same command again"
    )


def test_setup_opens_a_session_that_writes_beside_the_executed_copy(notebook):
    cell = (
        "from lmbench.notebook import setup\nsession = setup('01_first')\nsession.say('42')\nsession.close()"
    )
    notebook("01_first", cell)
    path = execute("01", progress=False)
    assert (path.with_suffix("") / "reading.txt").read_text() == "42\n"
    assert "torch" in path.read_text()


def test_notebooks_run_in_the_project_folder(notebook, project):
    notebook(
        "01_first",
        "import os\nprint(os.getcwd() == os.environ['LMBENCH_HOME'], os.environ['GOMP_SPINCOUNT'])",
    )
    assert "True 10000" in outputs(execute("01", progress=False))
    assert root() == project


def test_ctrl_c_ends_with_status_130_and_leaves_nothing(notebook, project):
    mark = project / "started"
    notebook("01_first", f"open({str(mark)!r}, 'w').close()\nwhile True:\n    pass")
    process = subprocess.Popen(
        [sys.executable, "-m", "lmbench", "notebook", "01"], stderr=subprocess.PIPE, text=True, cwd=project
    )
    deadline = time.monotonic() + 60
    while not mark.exists() and time.monotonic() < deadline and process.poll() is None:
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped with 0 of 1 done" in err
    assert "Traceback" not in err
    assert list((project / "results/notebooks/01_first").iterdir()) == []


TABLE_CELL = """\
import pandas as pd
from lmbench.notebook import setup
session = setup("01_first", preset=preset)
session.table(pd.DataFrame({"a": [1]}), "t")
session.close()
"""


def test_stamps_hold_every_parameter_of_the_job(notebook, monkeypatch):
    monkeypatch.setenv("LMBENCH_PARAMETERS", "{}")
    notebook("01_first", TABLE_CELL, parameters='preset: str = "smoke"\nn: int = 1\nrates: list = [0.1]')
    path = execute("01", parameters={"n": 4}, progress=False)
    stamp = json.loads((path.with_suffix("") / "tables" / "t.json").read_text())
    told = {"notebook": "01_first", "preset": "smoke", "n": 4, "rates": [0.1]}
    assert stamp["parameters"] == told, "given values, and the defaults of the others"
    assert os.environ["LMBENCH_PARAMETERS"] == "{}", "the caller's own environment is as it was"


SAY_CELL = """\
from lmbench.notebook import setup
session = setup("01_first")
session.say("first")
session.say("second", "dense")
for name in ("../up", "headline"):
    try:
        session.say("third", name)
    except ValueError as error:
        print(error)
session.close()
"""


def test_a_notebook_keeps_several_readings(notebook):
    notebook("01_first", SAY_CELL)
    path = execute("01", progress=False)
    files = path.with_suffix("").glob("*.txt")
    assert {f.name: f.read_text() for f in files} == {"reading.txt": "first\n", "dense.txt": "second\n"}
    assert "name '../up' is not a plain file name without folders" in outputs(path)
    assert "name 'headline' is taken by the headline table" in outputs(path)


def test_the_line_of_the_set_up_says_that_it_speaks_of_this_machine(notebook):
    notebook("01_first", "from lmbench.notebook import setup\nsession = setup('01_first')\nsession.close()")
    cells = nbformat.read(execute("01", progress=False), as_version=4).cells
    assert cells[0].outputs[0].data["text/plain"].startswith("this machine: lmbench ")


def test_a_target_that_another_process_writes_is_refused(notebook, project):
    mark, go = project / "started", project / "go"
    cell = f"import os, time\nopen({str(mark)!r}, 'w').close()\n"
    cell += f"while not os.path.exists({str(go)!r}):\n    time.sleep(0.05)"
    notebook("01_first", cell, parameters="n: int = 1")
    command = [sys.executable, "-m", "lmbench", "notebook", "01"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, cwd=project)
    deadline = time.monotonic() + 60
    while not mark.exists() and time.monotonic() < deadline and process.poll() is None:
        os.sched_yield()
    try:
        with pytest.raises(ValueError, match="01_first smoke is being executed by another process") as caught:
            execute("01", progress=False, timeout=10)
        assert str(prepare("01").target) in str(caught.value)
    finally:
        go.touch()
    # Another target is free while the first is taken, and the first is free again after its end.
    assert execute("01", parameters={"n": 2}, progress=False).is_file()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert execute("01", progress=False).is_file()
    assert {path.parent for path in (project / "results").rglob("*.lock")} == {project / "results" / "locks"}
