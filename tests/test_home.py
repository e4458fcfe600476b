"""Finding the project, and naming the commit of the code."""

import subprocess

import pytest

from lmbench import home


def project(folder):
    for name in ("notebooks", "lmbench"):
        (folder / name).mkdir(parents=True)
    return folder


@pytest.fixture
def no_home(monkeypatch):
    monkeypatch.delenv("LMBENCH_HOME", raising=False)


@pytest.fixture
def fresh_commit(monkeypatch):
    monkeypatch.delenv("LMBENCH_COMMIT", raising=False)
    home.commit.cache_clear()
    yield
    home.commit.cache_clear()


def test_the_root_is_the_nearest_parent_that_holds_notebooks_and_code(tmp_path, monkeypatch, no_home):
    outer, inner = project(tmp_path / "outer"), project(tmp_path / "outer" / "work" / "inner")
    deep = inner / "notebooks" / "plans"
    deep.mkdir()
    for here, root in ((deep, inner), (inner, inner), (outer / "work", outer), (outer, outer)):
        monkeypatch.chdir(here)
        assert home.root() == root
    assert home.results() == outer / "results"


def test_a_folder_with_notebooks_alone_is_no_project(tmp_path, monkeypatch, no_home):
    (project(tmp_path / "outer") / "work" / "notebooks").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "outer" / "work" / "notebooks")
    assert home.root() == tmp_path / "outer"


def test_the_variable_wins_over_the_working_folder(tmp_path, monkeypatch):
    here, there = project(tmp_path / "here"), tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("LMBENCH_HOME", str(there))
    assert home.root() == there
    assert home.results() == there / "results"
    monkeypatch.setenv("LMBENCH_HOME", "")
    assert home.root() == here, "empty is unset"


def test_the_variable_may_start_with_a_tilde(tmp_path, monkeypatch):
    (tmp_path / "clone").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LMBENCH_HOME", "~/clone")
    assert home.root() == tmp_path / "clone"


def test_a_variable_that_names_no_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="LMBENCH_HOME = '.*gone' is not a folder"):
        home.root()


def test_outside_a_project_the_remedy_is_named(tmp_path, monkeypatch, no_home):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"no lmbench project at .* change into the clone or set LMBENCH_HOME"
    ):
        home.root()


def test_the_commit_is_marked_where_files_other_than_results_differ(tmp_path, fresh_commit, monkeypatch):
    def git(*words):
        user = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *user, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def commit():
        home.commit.cache_clear()
        return home.commit()

    for name in ("lmbench/home.py", "results/table.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(home, "__file__", str(tmp_path / "lmbench" / "home.py"))
    name = git("rev-parse", "HEAD")[:12]
    assert commit() == name
    (tmp_path / "results" / "table.csv").write_text("2")
    assert commit() == name, "a new result is no new code"
    (tmp_path / "lmbench" / "home.py").write_text("2")
    assert commit() == f"{name}-dirty"
    assert home.commit() is home.commit(), "asked once a process"


def test_a_copy_without_history_is_told_its_commit(fresh_commit, monkeypatch):
    monkeypatch.setenv("LMBENCH_COMMIT", "0123456789ab")
    assert home.commit() == "0123456789ab"


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("git"),
        subprocess.CalledProcessError(128, "git"),
        subprocess.TimeoutExpired("git", 10),
    ],
)
def test_without_git_the_commit_is_unknown(fresh_commit, monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(home.subprocess, "run", fail)
    assert home.commit() == "unknown"
