"""Batches: plans are checked whole, what is done is not repeated, failures are honest."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from lmbench.batch import ENGINES, State, read_plan, run_batch
from lmbench.batch.local import _threads
from lmbench.home import root
from lmbench.notebook import find, finished

PARAMETERS = 'n: int = 1\nword: str = "a"'


@pytest.fixture
def plan(project, notebook):
    """Write a plan over two notebooks, 01_good and 02_bad (which fails for n > 2)."""
    notebook("01_good", "print(n, word)", parameters=PARAMETERS)
    notebook("02_bad", "if n > 2:\n    raise ValueError('n is too large\\nfor this')", parameters=PARAMETERS)
    (project / "notebooks/plans").mkdir()

    def write(text):
        path = project / "notebooks/plans/night.toml"
        path.write_text(text)
        return path

    return write


def test_a_grid_gives_every_combination(plan):
    path = plan('[[run]]\nnotebook = "01_good"\n[run.parameters]\n[run.grid]\nn = [1, 2]\nword = ["x", "y"]')
    found = [job.overrides for job in read_plan(path)]
    assert found == [{"n": n, "word": word} for n in (1, 2) for word in ("x", "y")]


def test_parameters_join_the_grid_and_a_plan_answers_to_its_name(plan):
    plan('[[run]]\nnotebook = "good"\n[run.parameters]\nword = "z"\n[run.grid]\nn = [1, 2]')
    assert [job.overrides for job in read_plan("night")] == [{"word": "z", "n": 1}, {"word": "z", "n": 2}]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no ..run.."),
        ('[[runs]]\nnotebook = "01"', "unknown key of plan .* 'runs'; accepted: run. Did you mean 'run'"),
        ('[[run]]\npreset = "smoke"', "run 1 of plan .* names no notebook"),
        ('[[run]]\nnotebok = "01"', "unknown key in run 1 of plan .* 'notebok'.* Did you mean 'notebook'"),
        (
            "[[run]]\nnotebook = 1",
            "notebook = 1 in run 1 of plan .* is not accepted: input should be a valid string",
        ),
        ('[[run]]\nnotebook = "03"', "unknown notebook '03'"),
        ('[[run]]\nnotebook = "01"\npreset = "fast"', "unknown preset of notebook 01_good 'fast'"),
        ('[[run]]\nnotebook = "01"\n[run.parameters]\nm = 1', "unknown parameter of notebook 01_good 'm'"),
        ('[[run]]\nnotebook = "01"\n[run.grid]\nn = ["1"]', "n = '1' is not accepted"),
        ('[[run]]\nnotebook = "01"\n[run.grid]\nn = []', "grid.n in run 1 .* is empty"),
        (
            '[[run]]\nnotebook = "01"\n[run.parameters]\nn = 1\n[run.grid]\nn = [2]',
            "both parameters and grid",
        ),
        ('[[run]]\nnotebook = "01"\n[[run]]\nnotebook = "good"', "asks for 01_good smoke twice"),
        ("[[run]", "cannot be read as TOML"),
    ],
)
def test_a_wrong_plan_is_refused_before_anything_runs(plan, text, message):
    with pytest.raises(ValueError, match=message):
        read_plan(plan(text))


def test_an_unknown_plan_names_those_there_are(plan):
    plan("")
    with pytest.raises(ValueError, match="no plan file 'nigth'; plans by name: night"):
        read_plan("nigth")


def test_an_unknown_engine_and_no_worker_are_refused():
    with pytest.raises(ValueError, match="unknown engine 'ray'; accepted: local"):
        run_batch([], engine="ray")
    with pytest.raises(ValueError, match="workers = 0 is not accepted: at least 1"):
        run_batch([], workers=0)


def test_a_batch_goes_on_after_a_failure_and_repeats_only_what_is_not_done(plan):
    text = '[[run]]\nnotebook = "02"\n[run.grid]\nn = [3, 1]\n[[run]]\nnotebook = "01"'
    jobs = read_plan(plan(text))
    seen = []
    states = run_batch(jobs, workers=2, watch=seen.append)
    assert [state.status for state in states] == ["failed", "done", "done"]
    assert "ValueError: n is too large" in states[0].message
    assert "\n" not in states[0].message
    assert {state.status for state in seen} <= {"running", "failed", "done"}
    assert [finished(job) is not None for job in jobs] == [False, True, True]
    assert [state.status for state in run_batch(jobs[1:])] == ["reused", "reused"]
    # In the order of the plan, whoever ended first.
    assert [state.job for state in states] == jobs


def test_engines_are_functions_from_jobs_to_states(plan, monkeypatch):
    jobs = read_plan(plan('[[run]]\nnotebook = "01"'))

    def other(jobs, *, workers, timeout, watch):
        return [State(job=job, status="done", seconds=workers) for job in jobs]

    monkeypatch.setitem(ENGINES, "other", other)
    (state,) = run_batch(jobs, engine="other", workers=3)
    assert (state.job, state.seconds) == (jobs[0], 3)


def test_several_workers_share_the_cores():
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    assert _threads(1) is None
    assert _threads(max(2, cores)) == 1
    assert _threads(10 * cores) == 1


def test_jobs_run_with_their_share_of_threads_and_report_progress(plan, notebook, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    cell = (
        "import json, os, pathlib, time\n"
        "state = {'done': 1, 'total': 4, 'unit': 'runs', 'what': 'mlp', 'seconds': 0}\n"
        "pathlib.Path(os.environ['LMBENCH_PROGRESS_FILE']).write_text(json.dumps(state))\n"
        "go = pathlib.Path(os.environ['LMBENCH_HOME'], 'go')\n"
        "while not go.exists():\n    time.sleep(0.05)\n"
        "assert os.environ['OMP_NUM_THREADS'] == '1'"
    )
    notebook("01_good", cell, parameters=PARAMETERS)
    jobs = read_plan(plan('[[run]]\nnotebook = "01"'))
    messages = []

    def watch(state):
        messages.append(state.message)
        if state.message.startswith("1.0/4 runs mlp"):
            (root() / "go").touch()

    # Far more workers than cores, so that each gets one thread.
    (state,) = run_batch(jobs, workers=1000, watch=watch)
    assert state.status == "done", state.message
    assert "1.0/4 runs mlp" in messages


def test_ctrl_c_stops_a_batch_with_status_130_and_it_can_go_on(plan, notebook, project):
    mark = project / "started"
    notebook("01_good", "1", parameters=PARAMETERS)
    notebook("02_bad", f"open({str(mark)!r}, 'w').close()\nwhile True:\n    pass", parameters=PARAMETERS)
    path = plan('[[run]]\nnotebook = "01"\n[[run]]\nnotebook = "02"')
    command = [sys.executable, "-m", "lmbench", "batch", str(path)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=project
    )
    deadline = time.monotonic() + 60
    while not mark.exists() and time.monotonic() < deadline and process.poll() is None:
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "stopped with 1 of 2 done" in err
    assert "Traceback" not in err
    assert [finished(job) is not None for job in read_plan(path)] == [True, False]
    assert list((project / "results/notebooks/02_bad").iterdir()) == []


def test_the_plans_of_this_project_name_notebooks_that_exist():
    import tomllib

    for path in sorted((root() / "notebooks/plans").glob("*.toml")):
        for run in tomllib.loads(path.read_text())["run"]:
            assert find(run["notebook"])
        assert read_plan(path)


def test_a_child_that_dies_without_an_answer_is_a_failure(plan, monkeypatch):
    jobs = read_plan(plan('[[run]]\nnotebook = "01"'))
    monkeypatch.setenv("PYTHONHOME", "/nonexistent")
    (state,) = run_batch(jobs)
    assert state.status == "failed"
    assert "01_good smoke could not be run" in state.message


def lives(pid):
    """Whether a process runs; one that has ended but that nobody has waited for does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_a_killed_command_takes_its_jobs_and_kernels_with_it(plan, notebook, project, monkeypatch):
    temporary, mark = project / "tmp", project / "started"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    cell = (
        "import os, pathlib, time\n"
        f"part = pathlib.Path({str(mark)!r} + '.part')\n"
        "part.write_text(f'{os.getpid()} {os.getppid()}')\n"
        f"part.rename({str(mark)!r})\n"
        "pathlib.Path(os.environ['LMBENCH_PROGRESS_FILE']).write_text('{}')\n"
        "while True:\n    time.sleep(0.05)"
    )
    notebook("01_good", cell, parameters=PARAMETERS)
    path = plan('[[run]]\nnotebook = "01"')
    command = [sys.executable, "-m", "lmbench", "batch", str(path)]
    with subprocess.Popen(command, stderr=-3, stdout=-3, cwd=project) as process:
        deadline = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < deadline and process.poll() is None:
            os.sched_yield()
        process.kill()
    kernel, child = map(int, mark.read_text().split())
    try:
        deadline = time.monotonic() + 30
        while (lives(kernel) or lives(child)) and time.monotonic() < deadline:
            os.sched_yield()
        assert [lives(kernel), lives(child)] == [False, False]
    finally:
        for pid in (kernel, child):
            if lives(pid):
                os.kill(pid, signal.SIGKILL)
    assert list((project / "results/notebooks/01_good").iterdir()) == []
    assert [found.name for found in temporary.iterdir() if found.name.startswith("lmbench-")] == []


def test_a_job_whose_parent_died_before_it_listened_does_not_start(plan, project):
    (job,) = read_plan(plan('[[run]]\nnotebook = "01"'))
    request = {"job": {"name": "01_good", "out": str(job.target)}, "timeout": None, "parent": -1}
    environment = os.environ | {"LMBENCH_PROGRESS_FILE": str(project / "progress" / "0.json")}
    (project / "progress").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "lmbench.batch.child"],
        input=json.dumps(request),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, "", "")
    assert not job.target.parent.exists()
    assert not (project / "progress").exists()
