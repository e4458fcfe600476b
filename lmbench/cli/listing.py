"""`lmbench list`: what there is, by name. `lmbench doctor`: whether it can work here."""

import inspect
from typing import Annotated, Any

import typer

from lmbench.cli import show
from lmbench.config import Config, as_plain, discover
from lmbench.errors import unknown

WHAT = ("models", "tasks", "methods", "corpora", "notebooks", "presets")
_ROLES = {"models": "model", "tasks": "task", "methods": "method"}


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command(name="list")(list_names)
    app.command()(doctor)


def list_names(
    what: Annotated[str | None, typer.Argument(help=f"{', '.join(WHAT)}; all if left out.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Everything, machine-readable.")] = False,
) -> None:
    """List models, tasks, methods, corpora, notebooks and presets."""
    if what is not None and what not in WHAT:
        raise ValueError(unknown("kind of thing to list", what, WHAT))
    found = {name: _collect(name) for name in ([what] if what else WHAT)}
    if json:
        show.write_json(found)
        return
    for name, entries in found.items():
        show.table(
            (name, ""), [(key, entry["summary"]) for key, entry in entries.items()] or [("none yet", "")]
        )
        show.line("")


def doctor() -> None:
    """Check this machine: Python, versions, devices, corpora, disk, Jupyter."""
    from lmbench.doctor import MARKS, checks

    failed = False
    for check in checks():
        remedy = f"\n     {check.remedy}" if check.remedy else ""
        show.line(f"{MARKS[check.status]} {check.name}: {check.detail}{remedy}")
        failed |= check.status == "fail"
    if failed:
        raise typer.Exit(1)


def _collect(what: str) -> dict[str, dict[str, Any]]:
    """Name -> plain values, among them a one-line `summary`."""
    if what in _ROLES:
        return {name: _kind(cls, name) for name, cls in discover(_ROLES[what]).items()}
    if what == "corpora":
        from lmbench.data.fetch import listing

        rows = {str(row["name"]): row for row in listing()}
        return {
            name: row | {"summary": f"{row['title']} (present: {row['present']})"}
            for name, row in rows.items()
        }
    return _presets() if what == "presets" else _notebooks()


def _kind(cls: type[Config], name: str) -> dict[str, Any]:
    """A kind or one of its variants."""
    fields = {
        key: "(required)" if info.is_required() else info.get_default(call_default_factory=True)
        for key, info in cls.model_fields.items()
    }
    changed = cls.variants.get(name, {})
    summary = (inspect.getdoc(cls) or "").partition("\n")[0]
    if changed:
        # What a variant holds at the kind's default, or leaves to the sizes, does not tell it apart.
        told = {key: value for key, value in changed.items() if value is not None and value != fields[key]}
        words = ", ".join(f"{key}={_shown(value)}" for key, value in told.items())
        summary = f"{cls.kind} with {words or 'its defaults'}"
    every = {key: as_plain(value) for key, value in (fields | changed).items()}
    return {"summary": summary, "kind": cls.kind, "version": cls.version, "fields": every}


def _shown(value: Any) -> str:
    """A value in a line of text; of a config its name, and of a constant curve its level."""
    if isinstance(value, Config):
        return f"{value.to_dict()['level']:g}" if value.kind == "const" else value.name
    return str(value)


def _notebooks() -> dict[str, dict[str, Any]]:
    from lmbench.notebook import notebooks, parameters_of, presets
    from lmbench.notebook.parameters import cells_of

    out = {}
    for name, path in notebooks().items():
        first = cells_of(path)[0]["source"] if cells_of(path) else ""
        parameters = {
            p.name: {"type": p.spelled, "default": p.default, "help": p.help}
            for p in parameters_of(path).values()
        }
        title = first.partition("\n")[0].lstrip("# ")
        out[name] = {"summary": title, "presets": list(presets(name)), "parameters": parameters}
    return out


def _presets() -> dict[str, dict[str, Any]]:
    from lmbench.notebook import notebooks, presets

    return {
        f"{name} {preset}": {
            "summary": ", ".join(f"{key}={value}" for key, value in values.items())
            or "the notebook's defaults",
            "parameters": values,
        }
        for name in notebooks()
        for preset, values in presets(name).items()
    }
