"""The README tells the truth: its commands, files, variables and folders exist."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.S))


def commands():
    return [line.partition("#")[0].split() for line in SHELL.splitlines() if line.startswith("lmbench ")]


def test_every_lmbench_command_exists():
    import typer

    from lmbench.cli import app

    known = typer.main.get_command(app).commands
    assert len(commands()) > 8
    for _, name, *rest in commands():
        assert name in known, name
        nested = getattr(known[name], "commands", None)
        assert nested is None or rest[0] in nested, f"{name} {rest[0]}"


def test_every_make_target_exists():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"^make (\w+)", SHELL, re.M))
    assert {"bench", "test"} <= named <= targets


@pytest.mark.parametrize("line", [" ".join(words) for words in commands() if "-p" in words])
def test_every_parameter_in_an_example_is_accepted(line):
    from lmbench.assignments import make_methods, make_run, parse_assignments
    from lmbench.notebook import checked, find, notebooks

    words = shlex.split(line)
    given = parse_assignments([words[i + 1] for i, word in enumerate(words) if word == "-p"])
    if words[1] == "notebook":
        assert checked(notebooks()[find(words[2])], given)
    elif words[1] == "export":
        assert make_methods(given)
    else:
        given.pop("teacher", None)  # the digest of a run, which only a store knows
        assert make_run({"model": words[2], "steps": 1} | given)


def test_every_notebook_of_the_table_exists_and_none_is_missing():
    listed = set(re.findall(r"^\| `(\d\d_\w+)` \|", README, re.M))
    assert listed == {path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}


def test_every_linked_file_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_every_folder_of_the_layout_exists():
    for name in re.findall(r"\b(\w+)/", README.partition("## Layout")[2].partition("```\n\nImports")[0]):
        if name not in ("runs", "plans"):
            found = [ROOT / name, ROOT / "lmbench" / name, ROOT / "results" / name]
            assert any(path.is_dir() for path in found), name
