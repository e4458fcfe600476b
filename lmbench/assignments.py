"""Key=value pairs: as a command line or a notebook gives them, and the Run that they spell.

A key is a field of `Run` (`steps`), a dotted one of its parts (`model.d_model`), or a bare field that
exactly one part has (`d_ff`); a value is TOML. So what is to be changed of a run takes no more words
than the change, and a key that could mean two things is refused with those to choose from.
"""

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from lmbench.config import Config, discover
from lmbench.errors import unknown
from lmbench.run import Run

_PARTS = ("model", "task", "protocol", "optimizer", "schedule")


def parse_value(text: str) -> Any:
    """A command-line value is TOML; a bare word is a string (`true`, `3e-4`, `[1, 2]`, `ptb`)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def parse_assignments(pairs: Iterable[str]) -> dict[str, Any]:
    """`["a=1", "model.d_model=64"]` as a dict of dotted keys to values."""
    out: dict[str, Any] = {}
    for pair in pairs:
        key, sep, text = pair.partition("=")
        if not sep or not key.strip():
            raise ValueError(f"-p {pair!r} is not of the form key=value")
        if key.strip() in out:
            raise ValueError(f"-p {key.strip()} is given twice")
        out[key.strip()] = parse_value(text.strip())
    return out


def make_run(assignments: Mapping[str, Any]) -> Run:
    """A Run from flat keys: Run fields, dotted keys, or bare keys found in exactly one part.

    Methods are parts too: `methods` names one or several, and their fields are spelled with their
    kind, or with `method` where there is one.

    Args:
        assignments: such as `{"model": "mlp", "steps": 10, "task.corpus": "ptb", "lr": 1e-3}` or
            `{"methods": ["prune", "quantize"], "prune.density": 0.1, "bits": 4}`.

    Raises:
        ValueError: a key that no part has, or that several have, or a refused value.
    """
    top: dict[str, Any] = {part: assignments[part] for part in _PARTS if part in assignments}
    chosen = {part: _chosen_kind(part, top.get(part)) for part in _PARTS}
    methods = _chosen_methods(assignments.get("methods", ()))
    nested = _by_part(assignments, parts=chosen, methods=methods)
    top |= nested["run"]
    for part, (cls, fields) in chosen.items():
        if not isinstance(top.get(part), Config) or nested[part]:
            top[part] = cls(**(fields | nested[part]))
    if methods:
        top["methods"] = _made(methods, nested)
    return Run(**top)


def make_methods(assignments: Mapping[str, Any]) -> tuple[Config, ...]:
    """Methods alone, from the keys that name and set those of a run in `make_run`.

    Raises:
        ValueError: a key that no method has, or a refused value.
    """
    methods = _chosen_methods(assignments.get("methods", ()))
    nested = _by_part(assignments, parts={}, methods=methods)
    for key in nested["run"]:
        raise ValueError(
            f"{key!r} is a field of a run, and here one is finished; accepted: methods, their fields"
        )
    return _made(methods, nested)


_Chosen = Mapping[str, tuple[type[Config], dict[str, Any]]]


def _by_part(
    assignments: Mapping[str, Any], *, parts: _Chosen, methods: _Chosen
) -> dict[str, dict[str, Any]]:
    """Fields and their values by the part that has them, "run" among the parts."""
    nested: dict[str, dict[str, Any]] = {part: {} for part in ("run", *parts, *methods)}
    classes = {part: cls for part, (cls, _) in {**parts, **methods}.items()}
    for key, value in assignments.items():
        if key in parts or key == "methods":
            continue
        if key.startswith("method.") and len(methods) == 1:
            key = f"{next(iter(methods))}.{key.removeprefix('method.')}"
        part, field = resolve_key(key, classes)
        nested[part][field] = value
    return nested


def _made(methods: _Chosen, nested: Mapping[str, dict[str, Any]]) -> tuple[Config, ...]:
    return tuple(cls(**(fields | nested[part])) for part, (cls, fields) in methods.items())


def _chosen_methods(given: Any) -> dict[str, tuple[type[Config], dict[str, Any]]]:
    """The class of each method with the fields already chosen for it, by kind.

    Raises:
        ValueError: two of one kind, whose fields could not be told apart, or several names as one word.
    """
    if isinstance(given, str) and "," in given:
        names = ", ".join(f'"{name.strip()}"' for name in given.split(","))
        raise ValueError(f"methods = {given!r} is the name of no method; several are a list: [{names}]")
    given = [given] if isinstance(given, str | Mapping | Config) else list(given)
    made = [_chosen_kind("method", one) for one in given]
    names = [cls.kind for cls, _ in made]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"methods lists {twice[0]!r} twice; accepted here: each kind once")
    return dict(zip(names, made, strict=True))


def _chosen_kind(part: str, value: Any) -> tuple[type[Config], dict[str, Any]]:
    """The class of one part of a Run and the fields already chosen for it."""
    if isinstance(value, Config):
        return type(value), {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        rest = {k: v for k, v in value.items() if k not in ("kind", "version")}
        cls, fields = _chosen_kind(part, value.get("kind"))
        return cls, fields | rest
    if value is None:
        value = {"model": "transformer", "task": "text", "protocol": "dense", "optimizer": "adamw"}.get(
            part, "cosine"
        )
    known = discover(part)
    if value not in known:
        raise ValueError(unknown(part, str(value), known))
    return known[value], dict(known[value].variants.get(value, {}))


def resolve_key(key: str, parts: Mapping[str, type[Config]]) -> tuple[str, str]:
    """Which part of a Run a key names: `("run", field)` or `(part, field)`.

    Raises:
        ValueError: naming the nearest key, or the dotted keys to choose from.
    """
    spelled = {field: ("run", field) for field in Run.model_fields if field not in parts}
    spelled |= {f"{part}.{field}": (part, field) for part, cls in parts.items() for field in cls.model_fields}
    if key in spelled:
        return spelled[key]
    owners = [dotted for dotted, (_, field) in spelled.items() if "." in dotted and field == key]
    if len(owners) == 1:
        return spelled[owners[0]]
    if owners:
        raise ValueError(f"{key!r} is a field of several parts; write one of {', '.join(owners)}")
    names = {dotted.rpartition(".")[2] for dotted in spelled} | set(spelled)
    raise ValueError(unknown("key", key, names))
