"""What is loaded when: no command, notebook or training waits at its start for what it does not use."""

import subprocess
import sys

import pytest

import lmbench
from lmbench.notebook.cells import SLOW_GRAMMAR, absent

FIGURES = {"matplotlib", "seaborn", "scipy", "jinja2"}
NOTEBOOKS = {"papermill", "nbclient", "nbformat", "jsonschema", "jupyter_client", "IPython"}
COMMANDS = {"typer", "rich", "joblib", "requests"}
COMPILER = {"torch._dynamo", "torch._inductor", "sympy"}


def loaded(code):
    """Names of the modules that a process has after `code`."""
    code += "\nimport sys\nprint('\\n'.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines())


def test_whoever_watches_over_a_notebook_needs_none_of_what_it_uses():
    names = loaded("import lmbench.notebook, lmbench.notebook.publish, lmbench.batch.local")
    assert not names & (FIGURES | NOTEBOOKS | COMPILER | {"torch", "numpy", "pandas", "pyarrow"})


def test_the_setup_cell_of_a_notebook_loads_no_figures_and_no_compiler(notebook, project):
    notebook("01_first", "1")
    names = loaded("import lmbench as lb\nlb.setup('01_first')")
    assert not names & (FIGURES | COMPILER | COMMANDS), names & (FIGURES | COMPILER | COMMANDS)
    assert "torch" in names, "the line that it shows names the device"


def test_training_can_start_without_notebooks_figures_and_the_compiler():
    code = (
        "import importlib, pkgutil, lmbench.training\n"
        "for info in pkgutil.iter_modules(lmbench.training.__path__):\n"
        "    importlib.import_module('lmbench.training.' + info.name)\n"
    )
    names = loaded(code)
    unused = FIGURES | NOTEBOOKS | COMMANDS | COMPILER
    assert not names & unused, names & unused


def test_threads_are_told_to_spin_briefly_before_torch_is_loaded(monkeypatch):
    code = "import lmbench, os, sys\nassert 'torch' not in sys.modules\n"
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    loaded(
        code + f"assert os.environ.get('GOMP_SPINCOUNT') == {'10000' if sys.platform == 'linux' else None!r}"
    )
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    loaded(code + "assert os.environ['GOMP_SPINCOUNT'] == '7'")


def test_an_absent_package_cannot_be_imported_until_the_end():
    assert "wave" not in sys.modules, "any small module that nobody here has imported"
    with absent("wave"), pytest.raises(ImportError):
        import wave
    import wave

    with absent("wave"):
        assert sys.modules["wave"] is wave, "what is there already stays"
    assert sys.modules["wave"] is wave


def test_papermill_works_without_the_slow_grammar_of_its_validator():
    code = (
        "from lmbench.notebook.cells import SLOW_GRAMMAR, absent\n"
        "with absent(SLOW_GRAMMAR):\n    import papermill\n"
        "import nbformat\n"
        "nbformat.validate(nbformat.v4.new_notebook())\n"
    )
    names = loaded(code)
    assert "papermill" in names and SLOW_GRAMMAR not in names


def test_every_public_name_has_one_home():
    named = [name for names in lmbench._PUBLIC.values() for name in names] + list(lmbench._MODULES)
    assert sorted(set(named)) == sorted(named)
    assert all(getattr(lmbench, name) is not None for name in named)
