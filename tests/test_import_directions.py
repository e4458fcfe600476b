"""Imports point one way: from later levels to earlier ones, also those inside functions."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lmbench

PACKAGE = Path(lmbench.__file__).parent

# Each module or package may import what stands on an earlier line, and itself.
LEVELS = (
    ("errors", "home", "progress"),
    ("config",),
    ("curves",),
    ("schedule", "tracking"),
    ("run",),
    ("assignments", "probes"),
    ("records", "folders"),
    ("entries", "locks", "run_folders"),
    ("index",),
    ("store",),
    ("asked",),
    ("data", "layers"),
    ("tasks", "models"),
    ("methods",),
    ("measure",),
    ("training",),
    ("export",),
    ("notebook",),
    ("batch",),
    ("report", "report_pages"),
    ("doctor",),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
# analysis/ stands beside the ladder: it reads results, so it needs these and no torch ...
ANALYSIS_MAY_IMPORT = {"errors", "home", "config", "schedule", "run", "records", "store", "analysis"}
# ... and only what presents results may import it.
MAY_IMPORT_ANALYSIS = {"analysis", "notebook", "batch", "report", "report_pages", "cli"}
# Drawing a report page is part of the report.
SIBLINGS = {("report", "report_pages")}
WITHOUT_TORCH = ("analysis", "asked", "assignments", "config", "curves", "entries", "errors", "folders")
WITHOUT_TORCH += ("home", "index", "locks", "probes", "progress", "records", "run", "run_folders", "schedule")
WITHOUT_TORCH += ("store", "tracking")
# Installed by `make env`, but not where models are only trained and measured.
LAZY = {"papermill", "jupyter_client", "nbclient", "nbformat", "nbconvert", "IPython", "fvcore", "pooch"}
LAZY |= {"datasketch", "tokenizers"}


def modules():
    """Dotted name below lmbench -> file, without the package's own __init__."""
    found = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    del found["__init__"]
    return found


def imported(node):
    """Dotted names that one import statement may load; `from a import b` may load a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide their direction"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def imports_of(path):
    """All names that a module imports, at its top or inside functions."""
    return [name for node in ast.walk(ast.parse(path.read_text())) for name in imported(node)]


def own_parts(path):
    """The parts of lmbench that a module imports."""
    names = [name.split(".") for name in imports_of(path) if name.split(".")[0] == "lmbench"]
    parts = {name[1] for name in names if len(name) > 1}
    # `from lmbench import __version__` would import no part.
    return {
        part for part in parts if part in LEVEL or part == "analysis" or (PACKAGE / f"{part}.py").exists()
    }


def may_import(source, target):
    if source == target or (source, target) in SIBLINGS:
        return True
    if source == "analysis":
        return target in ANALYSIS_MAY_IMPORT
    if target == "analysis":
        return source in MAY_IMPORT_ANALYSIS
    return LEVEL[target] < LEVEL[source]


def test_every_module_has_a_level():
    assert {name.partition(".")[0] for name in modules()} - {"analysis"} <= set(LEVEL)


@pytest.mark.parametrize("name", modules())
def test_imports_point_to_earlier_levels(name):
    source = name.partition(".")[0]
    wrong = sorted(target for target in own_parts(modules()[name]) if not may_import(source, target))
    assert not wrong, f"lmbench.{name} imports lmbench.{', lmbench.'.join(wrong)}"


def test_the_rule_refuses_an_upward_import_and_sees_lazy_ones(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("def f():\n    from lmbench import training\n    import lmbench.cli.show\n")
    assert own_parts(path) == {"training", "cli"}
    assert not may_import("models", "training")
    assert not may_import("models", "tasks")
    assert may_import("training", "models")
    assert not may_import("training", "analysis")
    assert not may_import("analysis", "training")


def defines_a_kind(path):
    """Whether a module defines a config class with a `kind`."""
    classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    fields = [node.target for cls in classes for node in cls.body if isinstance(node, ast.AnnAssign)]
    return any(isinstance(field, ast.Name) and field.id == "kind" for field in fields)


@pytest.mark.parametrize("package", ["models", "tasks"])
def test_no_kind_imports_another_kind(package):
    kinds = {
        f"lmbench.{name}"
        for name, path in modules().items()
        if name.startswith(f"{package}.") and defines_a_kind(path)
    } - {f"lmbench.{package}.base"}
    assert kinds, f"{package}/ defines no kind: this test has lost its subject"
    for name in kinds:
        names = imports_of(modules()[name.removeprefix("lmbench.")])
        others = {kind for kind in kinds - {name} for found in names if f"{found}.".startswith(f"{kind}.")}
        assert not others, f"{name} imports {others}"


@pytest.mark.parametrize("name", modules())
def test_packages_that_training_can_do_without_are_imported_lazily(name):
    tree = ast.parse(modules()[name].read_text())
    at_top = {found.partition(".")[0] for node in tree.body for found in imported(node)}
    assert not at_top & LAZY


def test_reading_results_needs_no_torch():
    names = [f"lmbench.{name}" for name in modules() if name.partition(".")[0] in WITHOUT_TORCH]
    code = f"import importlib, sys\nfor n in {names}: importlib.import_module(n)\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_training_and_measuring_need_no_notebook_packages():
    code = (
        "import sys\n"
        f"for name in {sorted(LAZY)} + ['typer', 'rich', 'matplotlib', 'seaborn']: sys.modules[name] = None\n"
        "import lmbench.training.loop, lmbench.measure.flops\n"
        "from lmbench.config import discover\n"
        "assert all(discover(role) for role in ('model', 'task', 'tokenizer', 'optimizer'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_line_starts_without_heavy_packages():
    code = (
        "import sys\nimport lmbench.cli\n"
        "heavy = {'torch', 'pandas', 'numpy', 'scipy', 'matplotlib', 'papermill', 'pyarrow'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
