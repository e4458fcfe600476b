"""What tests share: one thread, a project of their own, notebooks made on the spot."""

import json
import os
import signal
from pathlib import Path

# Before anything imports torch: test processes run side by side on few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Notebook kernels and command lines are processes of their own, which must find this package too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
)

import pytest

# Shells start background jobs with Ctrl-C ignored, and children of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def write_notebook(path, *cells, parameters=None):
    """A notebook of code cells at `path`; `parameters` is the source of its tagged first cell."""
    sources = [(source, []) for source in cells]
    if parameters is not None:
        sources.insert(0, (parameters, ["parameters"]))
    body = [
        {
            "cell_type": "code",
            "id": f"cell-{i}",
            "metadata": {"tags": tags} if tags else {},
            "source": source.splitlines(keepends=True),
            "outputs": [],
            "execution_count": None,
        }
        for i, (source, tags) in enumerate(sources)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": body, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project folder that lmbench takes for its own."""
    for name in ("notebooks", "results"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def notebook(project):
    """Write a notebook of the project: `notebook("01_name", *cells, parameters="n: int = 1")`."""

    def write(name, *cells, parameters=None):
        return write_notebook(project / "notebooks" / f"{name}.ipynb", *cells, parameters=parameters)

    return write


@pytest.fixture
def task(tmp_path):
    """A small text by characters."""
    from lmbench.config import make
    from tests.corpora import write_corpus

    return make("task", "text", corpus=str(write_corpus(tmp_path / "small")), tokenizer="char")


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    from lmbench.store import Store

    return Store(tmp_path / "results")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A test of a kind whose library is not installed is skipped, for the reason that the kind gives."""
    try:
        return (yield)
    except ValueError as error:
        if "is not installed; install it with" not in str(error):
            raise
        pytest.skip(str(error))
