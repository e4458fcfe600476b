"""The command line: names, exit statuses, and errors of one sentence."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from lmbench import cli
from lmbench.batch import State
from lmbench.records import ROW_COLUMNS
from lmbench.store import Store
from tests.corpora import write_corpus

COMMANDS = ("list", "notebook", "batch", "train", "cost", "data", "runs", "report", "doctor")


@pytest.fixture
def lmbench(capsys):
    """Run a command line in this process: (status, standard output, standard error)."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(list(arguments))
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    yield run
    signal.signal(signal.SIGTERM, before)


def fill(project, digest="0123456789abcdef", *, value=1.25):
    """One finished record in the store of a project."""
    import pandas as pd

    store = Store(project / "results")
    store.begin(digest)
    row = dict.fromkeys(ROW_COLUMNS, 0) | {"evaluation": "", "split": "test", "task": "text", "level": ""}
    rows = pd.DataFrame([row | {"metric": "nll", "value": value, "n": 3, "step": 7}])
    config = {"kind": "run", "version": 1, "steps": 7, "model": {"kind": "mlp", "version": 1, "d_ff": 8}}
    run = {"schema": 1, "kind": "run", "label": "mlp", "config": config}
    store.finish(digest, run=run, env={"device": "cpu"}, rows=rows, items=pd.DataFrame({"evaluation": ["e"]}))
    return store


def test_help_names_every_command_of_the_contract(lmbench):
    status, out, _ = lmbench("--help")
    assert status == 0
    assert [name for name in COMMANDS if f" {name} " not in out] == []


@pytest.mark.parametrize(
    "group, names", [("data", "list fetch verify where"), ("runs", "list show verify prune")]
)
def test_groups_have_the_commands_of_the_contract(lmbench, group, names):
    status, out, err = lmbench(group)
    assert status == 2
    assert [name for name in names.split() if f" {name} " not in out + err] == []


def test_python_m_lmbench_is_the_command():
    done = subprocess.run([sys.executable, "-m", "lmbench", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "small language models" in done.stdout


@pytest.mark.parametrize(
    "line, status, message",
    [
        ("lst", 2, "No such command 'lst'. Did you mean 'list'?"),
        ("cost mlp --jsn", 2, "No such option: --jsn .Possible options: --json."),
        ("list model", 1, "unknown kind of thing to list 'model'; .* Did you mean 'models'"),
        ("cost transfomer", 1, "unknown model 'transfomer'; .* Did you mean 'transformer'"),
        ("cost mlp -p d_fff=2", 1, "'d_fff'; accepted: .* Did you mean 'd_ff'"),
        ("cost mlp -p d_ff=wide", 1, "d_ff = 'wide' is not accepted"),
        ("cost mlp -p d_ff", 1, "-p 'd_ff' is not of the form key=value"),
        ("cost transformer -p d_model=30", 1, "n_head"),
        (
            "cost transformer -p norm=rms",
            1,
            "norm = 'rms' is not accepted: input should be 'layernorm' or 'rmsnorm'. Did you mean 'rmsnorm'",
        ),
        ("train mlp -p model=linear", 1, "-p model = 'linear' is not accepted: the model is the argument"),
        ("train mlp --device gpu -p corpus=ptbb", 1, "unknown device 'gpu'"),
        ("train mlp -p stps=3", 1, "unknown key 'stps'.* Did you mean 'steps'"),
        ("train mlp -p corpus=ptbb", 1, "ptbb"),
        ("notebook 17", 1, "unknown notebook '17'"),
        ("batch nightly.toml", 1, "there is no plan file 'nightly.toml'"),
        ("runs show feed", 1, "no run 'feed'"),
        ("data where ptbb", 1, "'ptbb'.*Did you mean 'ptb'"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_on_standard_error(lmbench, line, status, message):
    found, out, err = lmbench(*line.split())
    assert (found, out) == (status, "")
    assert re.search(message, err)
    assert err.startswith("lmbench: ")
    assert err.count("\n") == 1


def test_an_error_has_a_traceback_only_with_debug(lmbench):
    _, _, plain = lmbench("cost", "nothing")
    status, _, debugged = lmbench("cost", "nothing", "--debug")
    assert "Traceback" not in plain
    assert "Traceback" in debugged
    assert status == 1


@pytest.mark.parametrize(
    "error, status, message",
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "rows.parquet"),
            1,
            "rows.parquet: the disk is full",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "runs"),
            1,
            "runs: permission denied; change the owner",
        ),
        (KeyboardInterrupt(), 130, "interrupted; nothing half-written is left"),
        (
            ModuleNotFoundError("No module named 'papermill'"),
            1,
            "'papermill'; `make env` installs everything",
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you"
            ),
            1,
            "lmbench: memory ran out; a smaller batch_size, model or context needs less",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
            1,
            "lmbench: memory ran out",
        ),
        (MemoryError(), 1, "lmbench: memory ran out"),
        (RuntimeError("a\nb"), 1, "internal error, RuntimeError: a b (--debug shows where)"),
        (KeyError("x"), 1, "internal error, KeyError: 'x' (--debug shows where)"),
    ],
)
def test_errors_of_all_kinds_end_in_one_sentence(lmbench, monkeypatch, error, status, message):
    def failing():
        raise error

    monkeypatch.setattr("lmbench.data.fetch.listing", failing)
    found, _, err = lmbench("data", "list")
    assert found == status
    assert message in err
    assert err.count("\n") == 1


# ------------------------------------------------------------------ what there is


def test_list_finds_every_kind_and_variant(lmbench):
    from lmbench.config import discover

    status, out, _ = lmbench("list", "models", "--json")
    assert status == 0
    found = json.loads(out)["models"]
    assert set(found) == set(discover("model"))
    assert found["mlp"]["fields"]["vocab_size"] == 65
    assert found["mlp"]["summary"]


def test_list_shows_notebooks_with_parameters_and_presets(lmbench, notebook, project):
    notebook("01_first", "1", parameters="n: int = 1  # how many")
    (project / "notebooks/presets.toml").write_text("[01_first.quick]\nn = 2\n")
    found = json.loads(lmbench("list", "notebooks", "--json")[1])["notebooks"]["01_first"]
    assert found["presets"] == ["smoke", "quick"]
    assert found["parameters"] == {"n": {"type": "int", "default": 1, "help": "how many"}}
    assert json.loads(lmbench("list", "presets", "--json")[1])["presets"]["01_first quick"]["parameters"] == {
        "n": 2
    }
    assert "n=2" in lmbench("list", "presets")[1]


def test_plain_list_names_everything(lmbench):
    status, out, _ = lmbench("list")
    assert status == 0
    for name in (
        "models",
        "transformer",
        "tasks",
        "methods",
        "corpora",
        "shakespeare_plays",
        "notebooks",
        "presets",
    ):
        assert name in out


def test_cost_gives_the_published_parameter_count_and_flops_by_term(lmbench):
    status, out, _ = lmbench("cost", "transformer", "-p", "vocab_size=65", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["parameters"] == 430_785
    every = found["flops_per_token"]["all"]
    assert sum(every["by_term"].values()) == every["forward"]


def test_cost_accepts_dotted_keys_and_prints_a_table(lmbench):
    status, out, _ = lmbench("cost", "transformer", "-p", "model.vocab_size=65")
    assert status == 0
    assert "430,785" in out
    assert "backward" in out


# ------------------------------------------------------------------ the store


def test_runs_are_listed_shown_and_found_by_the_start_of_their_digest(lmbench, project):
    fill(project)
    assert json.loads(lmbench("runs", "list", "--json")[1])[0]["run"] == "0123456789abcdef"
    assert "1 records" in lmbench("runs", "list")[1]
    status, out, _ = lmbench("runs", "show", "0123")
    assert status == 0
    assert "1.25" in out
    assert json.loads(lmbench("runs", "show", "0123", "--json")[1])["rows"][0]["value"] == 1.25


def test_a_digest_that_is_not_unique_is_refused(lmbench, project):
    fill(project, "0123000000000000")
    fill(project, "0123111111111111")
    assert "2 runs begin with '0123'; write more digits" in lmbench("runs", "show", "0123")[2]


def test_verify_finds_damage_and_prune_removes_what_is_unfinished(lmbench, project):
    store = fill(project)
    assert lmbench("runs", "verify")[0] == 0
    store.begin("feedfeedfeedfeed")
    status, out, err = lmbench("runs", "verify")
    assert (status, "never finished" in out, "`lmbench runs prune` removes" in err) == (1, True, True)
    assert "1 runs would be removed" in lmbench("runs", "prune", "--dry-run")[1]
    assert "1 runs removed" in lmbench("runs", "prune")[1]
    assert store.digests() == ["0123456789abcdef"]
    (store.folder("0123456789abcdef") / "rows.parquet").write_bytes(b"")
    assert "prune --damaged` removes" in lmbench("runs", "verify", "0123")[2]
    assert "0 runs removed" in lmbench("runs", "prune")[1]
    assert "1 runs removed" in lmbench("runs", "prune", "--damaged")[1]


def test_reading_a_damaged_run_is_one_sentence_with_its_remedy(lmbench, project):
    store = fill(project)
    (store.folder("0123456789abcdef") / "rows.parquet").write_bytes(b"")
    status, out, err = lmbench("runs", "show", "0123")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "0123456789abcdef is damaged: rows.parquet has 0 bytes, expected" in err
    status, out, err = lmbench("runs", "verify")
    assert (status, out.count("0123456789abcdef/rows.parquet: has 0 bytes, expected")) == (1, 1)
    assert "`lmbench runs prune --damaged` removes these runs, then the same notebook" in err


def test_prune_says_which_checkpoints_go(lmbench, project):
    store = fill(project)
    folder = store.checkpoints / "group"
    folder.mkdir(parents=True)
    (folder / "members.json").write_text('{"members": ["0123456789abcdef"]}')
    said = lmbench("runs", "prune", "--dry-run")[1]
    assert said == "checkpoints/group\n0 runs and 1 checkpoints would be removed\n"
    assert lmbench("runs", "prune")[1] == "checkpoints/group\n0 runs and 1 checkpoints removed\n"
    assert lmbench("runs", "prune")[1] == "0 runs removed\n"


def test_train_runs_once_and_prints_the_final_rows(lmbench, project):
    from tests.corpora import write_corpus

    corpus = write_corpus(project / "corpus")
    words = ["train", "linear", "--device", "cpu", "--json", "-p", f"task.corpus={corpus}", "-p", "steps=2"]
    words += ["-p", "batch_size=2", "-p", "seq_len=8", "-p", "d_model=4"]
    status, out, err = lmbench(*words)
    assert status == 0, err
    first = json.loads(out)
    assert {("test", "bits_per_byte"), ("valid", "nll")} <= {(r["split"], r["metric"]) for r in first["rows"]}
    assert json.loads(lmbench(*words)[1]) == first, "the second time it comes from the store"
    assert Store(project / "results").digests() == [first["run"]]


def test_a_diverged_training_is_one_sentence_with_its_step_and_status_1(lmbench, project):
    from tests.corpora import write_corpus

    corpus = write_corpus(project / "corpus")
    words = ["train", "mlp", "--device", "cpu", "-p", f"task.corpus={corpus}", "-p", "steps=6"]
    words += ["-p", "batch_size=2", "-p", "seq_len=8", "-p", "optimizer.lr=1e30", "-p", "schedule=constant"]
    for _ in range(2):  # trained, then read from the store
        status, out, err = lmbench(*words)
        assert (status, out, err.count("\n")) == (1, "", 1), err
        assert re.match(r"lmbench: mlp diverged at step [1-6] of 6: its loss is not finite", err)
    status, out, err = lmbench(*words, "--json")
    assert (status, err.count("\n")) == (1, 1)
    found = json.loads(out, parse_constant=pytest.fail)["rows"]
    assert 1 <= next(row["value"] for row in found if row["metric"] == "diverged") <= 6
    assert not [row for row in found if row["split"] == "test"]


def test_final_rows_are_rows_as_they_were_written_and_json_has_no_nan(lmbench, project):
    import pandas as pd

    from lmbench.cli.runs import final_rows

    rows = pd.DataFrame({"split": "valid", "metric": "nll", "value": [3.0, float("nan")], "step": [1, 2]})
    rows = rows.assign(n=[10, 20]).iloc[::-1]
    (last,) = final_rows(rows).to_dict("records")
    assert (last["step"], last["n"], last["value"] != last["value"]) == (2, 20, True), "not 3.0, of step 1"
    fill(project, value=float("nan"))
    (row,) = json.loads(lmbench("runs", "show", "0123", "--json")[1], parse_constant=pytest.fail)["rows"]
    assert row["value"] is None


# ------------------------------------------------------------------ notebooks


def test_notebook_runs_and_says_where_its_result_lies(lmbench, notebook, project):
    notebook("01_first", "print(n)", parameters="n: int = 1")
    status, out, err = lmbench("notebook", "first", "-p", "n=5", "--out", str(project / "here.ipynb"))
    assert status == 0, err
    assert str(project / "here.ipynb") in out
    assert json.loads((project / "here.json").read_text())["values"] == {"n": 5}


def test_a_failed_notebook_is_status_1(lmbench, notebook):
    notebook("01_first", "1 / 0")
    status, _, err = lmbench("notebook", "first")
    assert status == 1
    assert "stopped in cell [1] with ZeroDivisionError: division by zero" in err


def test_batch_says_what_was_done_and_fails_if_a_job_failed(lmbench, notebook, project, monkeypatch):
    notebook("01_first", "1", parameters="n: int = 1")
    (project / "plan.toml").write_text('[[run]]\nnotebook = "01"\n[run.grid]\nn = [1, 2]')
    plan = str(project / "plan.toml")
    assert lmbench("batch", plan, "--dry-run")[1].count("to do") == 2

    def engine(jobs, *, workers, timeout, watch):
        states = [State(job=jobs[0], status="done"), State(job=jobs[1], status="failed", message="n is even")]
        for state in states:
            watch(state)
        return states

    monkeypatch.setitem(__import__("lmbench.batch.run").batch.ENGINES, "fake", engine)
    status, out, err = lmbench("batch", plan, "--engine", "fake")
    assert status == 1
    assert "[1/2] 01_first smoke (n=1): done" in err
    assert "n is even" in err
    assert "1 of 2 jobs failed" in err
    assert "failed" in out


def test_batch_refuses_an_unknown_engine_even_in_a_dry_run(lmbench, notebook, project):
    notebook("01_first", "1")
    (project / "plan.toml").write_text('[[run]]\nnotebook = "01"')
    status, _, err = lmbench("batch", str(project / "plan.toml"), "--engine", "ray", "--dry-run")
    assert status == 1
    assert "unknown engine 'ray'; accepted: local" in err


def test_a_report_without_results_names_the_remedy(lmbench, project):
    status, _, err = lmbench("report")
    assert status == 1
    assert "lmbench notebook" in err
    assert lmbench("report", "--format", "pdf")[2].startswith("lmbench: unknown report format 'pdf'")


@pytest.mark.parametrize(
    "made_by, message",
    [
        ("0123456789ab-dirty", "this code has changes beyond 0123456789ab; commit them and run the same"),
        ("unknown", "this code lies in no git clone .or git is missing.; publish from a clone"),
    ],
)
def test_publish_refuses_code_that_no_commit_holds(lmbench, notebook, project, monkeypatch, made_by, message):
    monkeypatch.setattr("lmbench.notebook.publish.commit", lambda: made_by)
    notebook("01_first", "1")
    status, out, err = lmbench("notebook", "01", "--publish")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert re.search(message, err)
    assert list((project / "results").iterdir()) == [], "before anything runs"


def test_verify_names_the_damaged_corpora_in_its_remedy(lmbench, monkeypatch):
    monkeypatch.setattr("lmbench.data.fetch.verify", lambda name: [("train.txt", "missing"), ("b.txt", "ok")])
    status, _, err = lmbench("data", "verify", "ptb", "text8")
    assert status == 1
    assert "ptb/train.txt, text8/train.txt: missing or damaged" in err
    assert "`lmbench data fetch ptb text8 --force` replaces them" in err


# ------------------------------------------------------------------ the doctor


def test_the_doctor_has_a_line_for_everything_it_checks(lmbench, monkeypatch):
    monkeypatch.setattr("lmbench.doctor.precision.BUDGET_S", 0.0)
    status, out, _ = lmbench("doctor")
    names = ("python", "project", "packages", "device", "threads", "dtype", "kernel", "corpus ptb", "disk")
    assert [name for name in (*names, "results") if f" {name}: " not in out] == []
    assert status == int("FAIL" in out)


def test_a_folder_that_is_no_project_is_a_failing_line_of_the_doctor(lmbench, tmp_path, monkeypatch):
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    status, out, err = lmbench("doctor")
    assert (status, err) == (1, "")
    assert f"FAIL project: {tmp_path} holds no notebooks, pyproject.toml, constraints.txt" in out
    assert "set LMBENCH_HOME to it" in out
    monkeypatch.delenv("LMBENCH_HOME")
    monkeypatch.chdir(tmp_path)
    status, out, err = lmbench("doctor")
    assert (status, err) == (1, "")
    assert "FAIL project: not found" in out


def test_the_doctor_fails_when_results_cannot_be_written(monkeypatch):
    from lmbench import doctor

    def refuse(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    check = doctor.writable()
    assert (check.status, "Read-only file system" in check.detail) == ("fail", True)
    assert check.remedy


def test_the_doctor_notices_another_version_and_a_missing_package(monkeypatch):
    from importlib.metadata import PackageNotFoundError, version

    from lmbench import doctor

    monkeypatch.setattr(doctor, "version", lambda name: "0.1" if name == "scipy" else version(name))
    (check,) = doctor.packages()
    assert (check.status, "scipy 0.1 (tested: " in check.detail) == ("warn", True)

    def lost(name):
        if name == "papermill":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor, "version", lost)
    (check,) = doctor.packages()
    assert (check.status, check.detail, check.remedy) == ("fail", "missing: papermill", "run `make env`")


def test_sigterm_ends_a_batch_as_orderly_as_ctrl_c(notebook, project):
    mark = project / "started"
    notebook("01_first", f"open({str(mark)!r}, 'w').close()\nwhile True:\n    pass")
    process = subprocess.Popen(
        [sys.executable, "-m", "lmbench", "notebook", "01"], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not mark.exists() and time.monotonic() < deadline and process.poll() is None:
        os.sched_yield()
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in err) == (128 + signal.SIGTERM, False)
    assert list((project / "results/notebooks/01_first").iterdir()) == []


# ------------------------------------------------------------------ methods


@pytest.fixture
def train(tmp_path):
    """The words of a command that trains a tiny model on a tiny text, methods and others as given."""
    sizes = {"seq_len": 8, "d_model": 8, "n_head": 2, "n_layer": 1, "d_ff": 8, "batch_size": 2, "steps": 2}
    fields = sizes | {"eval_bytes": 100, "task.corpus": write_corpus(tmp_path / "small")}

    def words(**others):
        found = ["train", "transformer", "--device", "cpu", "--json"]
        for key, value in (fields | others).items():
            found += ["-p", f"{key}={value}"]
        return found

    return words


@pytest.fixture
def quantized(lmbench, project, train):
    """The digest of a run that is trained."""
    status, out, _ = lmbench(*train(methods="quantize", bits=4))
    assert status == 0
    return json.loads(out)["run"]


def test_methods_are_named_and_set_like_any_field(lmbench, train, quantized, tmp_path):
    assert lmbench(*train(methods="distill", teacher=quantized[:8]))[0] == 0
    file = tmp_path / "model.lmb"
    packed = ("export", quantized, "--to", str(file), "--format", "packed")
    assert f"{file}: " in lmbench(*packed)[1] and file.stat().st_size > 1000
    for arguments, said in (
        (packed, "is there already; name a file that is not"),
        ((*packed[:-1], "paked"), "Did you mean 'packed'?"),
        (train(methods="distill", teacher="ffff"), "no run 'ffff'"),
        (train(methods="quantise"), "Did you mean 'quantize'?"),
        (train(methods='["prune", "prune"]'), "lists 'prune' twice; accepted here: each kind once"),
        (train(methods="prune,quantize"), 'several are a list: ["prune", "quantize"]'),
    ):
        status, _, err = lmbench(*arguments)
        assert status == 1 and said in err, arguments


def test_a_selection_reads_the_losses_of_a_run_named_by_its_digest(lmbench, train, quantized, project):
    how = {"methods": "select", "rule": "filtered", "score": "excess", "share": 0.5, "piece": 16}
    made = set()
    for key in ("reference", "select.reference", "method.reference"):
        status, out, err = lmbench(*train(**how, **{key: quantized[:8]}))
        assert status == 0, err
        made.add(json.loads(out)["run"])
    table = (
        f'[{{kind="select",rule="filtered",score="excess",share=0.5,piece=16,reference="{quantized[:8]}"}}]'
    )
    made.add(json.loads(lmbench(*train(methods=table))[1])["run"])
    (digest,) = made
    (select,) = Store(project / "results").record(digest)["run"]["config"]["methods"]
    assert select["reference"]["methods"][0]["kind"] == "quantize"
    status, _, err = lmbench(*train(**how, reference=f'["{quantized}"]'))
    assert status == 1 and "it is one run and no list" in err


def test_digests_in_tables_of_methods_are_runs_too(lmbench, train, quantized, project):
    status, out, err = lmbench(*train(methods=f'[{{kind="distill",teacher=["{quantized}"]}},"quantize"]'))
    assert status == 0, err
    methods = Store(project / "results").record(json.loads(out)["run"])["run"]["config"]["methods"]
    assert {one["kind"]: len(one.get("teacher", ())) for one in methods} == {"distill": 1, "quantize": 0}


def test_a_folder_of_hugging_face_teaches_from_the_command_line(lmbench, train, project, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the extra hf (transformers) is not installed")
    status, out, err = lmbench(*train())
    config = Store(project / "results").record(json.loads(out)["run"])["run"]["config"]
    vocab_size = config["model"]["vocab_size"]
    settings = transformers.GPT2Config(vocab_size=vocab_size, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    transformers.AutoModelForCausalLM.from_config(settings).save_pretrained(tmp_path / "gpt2")
    table = f'{{kind="huggingface",path="{tmp_path / "gpt2"}",pretrained=true}}'
    for teacher in (table, f"[{table}]"):
        status, _, err = lmbench(*train(methods="distill", teacher=teacher))
        assert status == 0, err


def test_a_run_is_packed_with_a_quantisation_after_training(lmbench, train, project, tmp_path):
    from lmbench.measure.artifact import unpack

    digest = json.loads(lmbench(*train())[1])["run"]
    plain, small = tmp_path / "plain.lmb", tmp_path / "small.lmb"
    words = ("export", digest, "--format", "packed", "--to")
    how = ("-p", "methods=quantize", "-p", "bits=4", "-p", "post=gptq")
    assert lmbench(*words, str(plain))[0] == 0
    status, out, err = lmbench(*words, str(small), *how)
    assert status == 0 and f"{small}: {small.stat().st_size:,} bytes" in out, err
    codings = unpack(small.read_bytes()).codings
    assert codings["head.norm.weight"].bits == 32 and 4 in {coding.bits for coding in codings.values()}
    assert small.stat().st_size < plain.stat().st_size
    new = str(tmp_path / "new")
    for arguments, said in (
        ((*words, new, "-p", "methods=distill"), "changes training and nothing of finished weights"),
        ((*words, new, "-p", "steps=3"), "'steps' is a field of a run"),
        (("export", digest, "--to", new, *how), "takes weights as they are; accepted: packed"),
    ):
        status, _, err = lmbench(*arguments)
        assert status == 1 and said in err, arguments


def test_variants_of_methods_are_listed_in_words_and_as_json(lmbench):
    assert "constrain with execution=slice, round_to=8" in lmbench("list", "methods")[1]
    assert "constrain_preprint" in json.dumps(json.loads(lmbench("list", "methods", "--json")[1]))
