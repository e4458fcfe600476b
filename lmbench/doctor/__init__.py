"""Whether lmbench can work on this machine, check by check, each with what to do about it.

A check is `ok`, `warn` (works, but slower or less) or `fail` (something that lmbench does
will not work). Nothing is changed, apart from a file that is written and removed again.
"""

import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lmbench.doctor.check import MARKS, Check
from lmbench.doctor.compute import dtype, threads, torch_device
from lmbench.home import results, root

__all__ = ["MARKS", "Check", "checks"]

INSTALL = "run `make env`"
NEEDED = ("notebooks", "pyproject.toml", "constraints.txt")  # of a project's folder
FREE_GB = 2.0  # the virtual environment is there already; results of the quick preset are far smaller


def checks() -> Iterator[Check]:
    """All checks, in the order in which a problem is best mended."""
    yield python()
    here = project()
    yield here
    if here.status == "fail":
        return  # the rest reads files of the project
    found = packages()
    yield from found
    if any(check.status == "fail" for check in found):
        return  # the rest would fail for the same reason
    device = torch_device()
    yield device
    yield threads()
    if device.status != "fail":
        yield dtype()
    yield kernel()
    yield from corpora()
    yield disk()
    yield writable()


def python() -> Check:
    """The interpreter's version."""
    detail = f"{platform.python_version()} at {sys.executable}"
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Check("ok", "python", detail)
    return Check("fail", "python", detail, "lmbench is tested on 3.11 and 3.12: make env PYTHON=python3.11")


def project() -> Check:
    """The folder of the project."""
    try:
        folder = root()
    except ValueError as error:
        return Check("fail", "project", "not found", str(error))
    missing = [name for name in NEEDED if not (folder / name).exists()]
    if missing:
        remedy = "change into the clone, or set LMBENCH_HOME to it"
        return Check("fail", "project", f"{folder} holds no {', '.join(missing)}", remedy)
    return Check("ok", "project", str(folder))


def packages() -> list[Check]:
    """Every package of constraints.txt that lmbench asks for itself, compared with what is installed."""
    pins = read_pins(root() / "constraints.txt")
    missing, other = [], []
    for name in required():
        try:
            installed = version(name)
        except PackageNotFoundError:
            missing.append(name)
            continue
        # A local version such as 2.13.0+cpu is a build of 2.13.0.
        if name in pins and installed.partition("+")[0] != pins[name]:
            other.append(f"{name} {installed} (tested: {pins[name]})")
    if missing:
        return [Check("fail", "packages", f"missing: {', '.join(missing)}", INSTALL)]
    if other:
        return [Check("warn", "packages", "; ".join(other), INSTALL)]
    return [Check("ok", "packages", f"{len(required())} packages have the tested versions")]


def read_pins(path: Path) -> dict[str, str]:
    """Normalised package name -> version of a constraints file, for this Python."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    pins = [Requirement(line) for line in lines if line]
    return {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version
        for pin in pins
        if pin.marker is None or pin.marker.evaluate()
    }


def required() -> list[str]:
    """Normalised names of the packages that pyproject.toml asks for at run time."""
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    table = tomllib.loads((root() / "pyproject.toml").read_text(encoding="utf-8"))
    return [canonicalize_name(Requirement(line).name) for line in table["project"]["dependencies"]]


def kernel() -> Check:
    """The Jupyter kernel that notebooks run on, which must be this very environment."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        argv = KernelSpecManager().get_kernel_spec("python3").argv
    except NoSuchKernel:
        return Check("fail", "kernel", "Jupyter knows no kernel called python3", INSTALL)
    name = argv[0]
    # Jupyter replaces a bare name by its own interpreter.
    if Path(name).is_absolute() and Path(name).parent.resolve() != Path(sys.executable).parent.resolve():
        remedy = (
            "another environment's kernel is found first: `jupyter kernelspec list`, then remove that one"
        )
        return Check("fail", "kernel", f"python3 is {name}, this is {sys.executable}", remedy)
    return Check(
        "ok", "kernel", f"python3, ipykernel {version('ipykernel')}, papermill {version('papermill')}"
    )


def corpora() -> Iterator[Check]:
    """Which corpora are here."""
    from lmbench.data.fetch import listing

    for row in listing():
        whole = row["present"] == "train valid test"
        remedy = "" if whole else f"when you need it: `lmbench data fetch {row['name']}`"
        yield Check("ok" if whole else "warn", f"corpus {row['name']}", f"present: {row['present']}", remedy)


def disk() -> Check:
    """Free space for results."""
    free = shutil.disk_usage(_existing(results())).free / 1e9
    detail = f"{free:.1f} GB free for {results()}"
    return (
        Check("ok", "disk", detail) if free >= FREE_GB else Check("warn", "disk", detail, "free some space")
    )


def writable() -> Check:
    """Whether results can be written."""
    folder = _existing(results())
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(b"x" * 4096)
            file.flush()
    except OSError as error:
        remedy = "change its owner or permissions, or set LMBENCH_HOME to a copy that can be written to"
        return Check("fail", "results", f"{folder} cannot be written: {error.strerror}", remedy)
    return Check("ok", "results", f"{folder} can be written")


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest parent that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
