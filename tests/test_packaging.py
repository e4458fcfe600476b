"""Packaging: one set of versions, said once, and the same for pip, make and conda users."""

import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, version

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lmbench
from lmbench.doctor import read_pins, required
from lmbench.home import root


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((root() / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def pins():
    return read_pins(root() / "constraints.txt")


@pytest.fixture(scope="module")
def asked(pyproject):
    """Every requirement of the project, those for development too."""
    project = pyproject["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name != "lm_eval"}
    lines = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def environment():
    return yaml.safe_load((root() / "environment.yml").read_text())


def test_every_requirement_has_a_pin_that_satisfies_it(asked, pins):
    for name, requirement in asked.items():
        assert name in pins, f"constraints.txt has no line for {name}"
        assert requirement.specifier.contains(pins[name]), (
            f"{name}: {pins[name]} is not {requirement.specifier}"
        )


def test_every_pin_is_exact_and_stands_once():
    lines = [
        line for line in (root() / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    ]
    pattern = re.compile(r'([A-Za-z0-9._-]+)==[0-9][^;*\s]*(; python_version (<|>=) "3.12")?')
    assert [line for line in lines if not pattern.fullmatch(line)] == []
    names = [canonicalize_name(line.partition("==")[0]) for line in lines]
    assert len(set(names)) == len(names)


def test_everything_that_comes_along_is_pinned(asked, pins):
    """Follow the requirements of requirements through what is installed here."""
    todo, seen = [(name, req.extras) for name, req in asked.items()], set()
    while todo:
        name, extras = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:
            pytest.skip(f"{name} is not installed: this is not the environment of `make env`")
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                todo.append((canonicalize_name(requirement.name), requirement.extras))
    # torch pins the packages of its CUDA builds itself.
    free = {name for name in seen if re.match(r"nvidia-|cuda-|triton$", name)}
    assert sorted(seen - free - set(pins)) == []


def test_what_is_installed_is_what_is_pinned(asked, pins):
    try:
        found = {name: version(name).partition("+")[0] for name in asked}
    except PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed: this is not the environment of `make env`")
    wrong = {name: found[name] for name in found if found[name] != pins[name]}
    assert not wrong, f"installed versions differ from constraints.txt: {wrong}"


def test_torch_is_pinned_to_the_vetted_version(pins):
    assert pins["torch"] == "2.13.0"


def test_conda_users_get_the_same_packages(pyproject, asked):
    (pip,) = [entry["pip"] for entry in environment()["dependencies"] if isinstance(entry, dict)]
    assert pip[0] == "--constraint constraints.txt"
    assert pip[-1] == "--editable ."
    assert {canonicalize_name(name) for name in pip[1:-1]} == set(asked)


def test_conda_users_get_a_python_that_the_project_accepts(pyproject):
    (python,) = [entry for entry in environment()["dependencies"] if str(entry).startswith("python=")]
    assert Requirement(f"python{pyproject['project']['requires-python']}").specifier.contains(
        python.partition("=")[2]
    )


def recipe(*targets, **variables):
    """The commands that make would run, every target built anew."""
    words = [f"{key}={value}" for key, value in variables.items()]
    command = ["make", "--always-make", "--dry-run", "--no-print-directory", *targets, *words]
    return subprocess.run(command, cwd=root(), capture_output=True, text=True, check=True).stdout


def test_make_installs_under_the_constraints_only():
    installs = [
        line for line in recipe("env", TORCH_INDEX="https://cpu").splitlines() if "pip install" in line
    ]
    assert len(installs) == 2
    assert all("-c constraints.txt" in line for line in installs)
    # The CPU-only index is asked for torch alone: it offers other packages too, in other versions.
    assert "--no-deps --index-url" in installs[0]
    assert "--index-url" not in installs[1]


def test_make_bench_runs_the_quick_plan_and_writes_the_report():
    text = recipe("bench")
    assert text.index("lmbench batch notebooks/plans/quick.toml") < text.index("lmbench report")


def test_make_test_runs_every_notebook_too(pyproject):
    text = recipe("test")
    assert "--nbval-lax --nbval-current-env" in text
    assert "--dist loadfile" in text  # any other way breaks notebooks into cells without their state
    assert pyproject["tool"]["pytest"]["ini_options"]["testpaths"] == ["tests", "notebooks"]
    assert pyproject["tool"]["pytest"]["ini_options"]["filterwarnings"][0] == "error"


def test_make_names_the_remedy_when_python_is_too_old_or_new(tmp_path):
    for name in ("python3", "python3.12", "python3.11"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["make", "env", f"VENV={tmp_path}/venv", f"PATH={tmp_path}:/usr/bin:/bin"],
        cwd=root(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert "lmbench needs Python 3.11 or 3.12" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_the_doctor_asks_for_every_package_of_the_project(pyproject):
    assert len(required()) == len(pyproject["project"]["dependencies"])


def test_versions_agree(pyproject):
    citation = yaml.safe_load((root() / "CITATION.cff").read_text())
    assert citation["version"] == pyproject["project"]["version"]
    assert pyproject["project"]["version"] == lmbench.__version__
    assert citation["license"] == pyproject["project"]["license"] == "Apache-2.0"
