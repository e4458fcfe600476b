"""Frozen configs: one class per kind of thing, found by name, identified by digest.

Everything that a user chooses (a model, a task, a tokenizer, a schedule, a run) is a
``Config``: a frozen pydantic model with a `kind` and a `version`. Kinds are grouped in
roles ("model", "task", ...). A kind is registered by the act of defining its class, and
`discover` imports every module of a role's package, so a new kind is one new file.

The digest of a config is the sha256 of canonical JSON that holds its kind, its version
and the fields that differ from their defaults. So adding an option leaves old digests
alone, provided that a default never changes without a new version. Nested configs are
always written, even at their default, so that *their* version counts too.
"""

import hashlib
import importlib
import json
import pkgutil
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny, ValidationError

from lmbench.errors import nearest, unknown

# Where the kinds of each role live. Strings, so that this module imports nothing upward.
ROLE_PACKAGES = {
    "model": ("lmbench.models",),
    "task": ("lmbench.tasks",),
    "method": ("lmbench.methods",),
    "tokenizer": ("lmbench.data",),
    "protocol": ("lmbench.run",),
    "curve": ("lmbench.curves",),
    "schedule": ("lmbench.schedule",),
    "optimizer": ("lmbench.training",),
    "run": ("lmbench.run", "lmbench.probes"),
    "tracker": ("lmbench.tracking",),
}
_REGISTRY: dict[str, dict[str, type["Config"]]] = {role: {} for role in ROLE_PACKAGES}


class Config(BaseModel):
    """Base of all configs. Abstract: a final class sets `role` (through its base) and `kind`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    role: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    version: ClassVar[int] = 1
    # Named settings of this kind: name -> the fields that it changes.
    variants: ClassVar[dict[str, dict[str, Any]]] = {}
    # Fields that a variant sets but that do not make it: a resized variant keeps its name.
    sizes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, /, **fields: Any) -> None:
        """Checked fields.

        Raises:
            ValueError: an unknown field or a value that is not accepted; pydantic's report in one sentence.
        """
        for key in fields:
            if key not in type(self).model_fields:
                raise ValueError(
                    unknown(f"field of {self.role or 'config'} {self.kind!r}", key, type(self).model_fields)
                )
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ValueError(explain(type(self), error)) from None

    __init__.__pydantic_base_init__ = True  # as pydantic marks its own: nested configs need no call of it

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "kind" not in cls.__dict__:
            return  # an abstract base
        table = _REGISTRY[cls.role]
        for name in (cls.kind, *cls.variants):
            known = table.get(name)
            if known is not None and known.__qualname__ != cls.__qualname__:
                raise TypeError(f"two {cls.role} kinds are called {name!r}: {known} and {cls}")
            table[name] = cls

    @property
    def name(self) -> str:
        """The variant that this config is an instance of (the most specific), else its kind."""
        held = []
        for name, fields in self.variants.items():
            telling = {key: value for key, value in fields.items() if key not in self.sizes}
            if all(getattr(self, key) == value for key, value in telling.items()):
                held.append((len(telling), name))
        return max(held)[1] if held else self.kind

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values, with `kind` and `version` first."""
        out: dict[str, Any] = {"kind": self.kind, "version": self.version}
        return out | {name: as_plain(getattr(self, name)) for name in type(self).model_fields}

    def canonical(self) -> dict[str, Any]:
        """What the digest covers: kind, version, and every field that is not at its default."""
        out: dict[str, Any] = {"kind": self.kind, "version": self.version}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if _holds_config(value) or value != field.get_default(call_default_factory=True):
                out[name] = _canonical(value)
        return out

    @cached_property  # every row of a record asks for it, and a mixture of tasks has thousands of fields
    def digest(self) -> str:
        """First 16 hex digits of the sha256 of the canonical JSON."""
        return digest_of(self.canonical())

    def replace(self, **changes: Any) -> Self:
        """A validated copy with some fields changed."""
        return type(self)(**({name: getattr(self, name) for name in type(self).model_fields} | changes))


def digest_of(value: Any) -> str:
    """First 16 hex digits of the sha256 of `value` as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _holds_config(value: Any) -> bool:
    return isinstance(value, Config) or (isinstance(value, tuple) and any(map(_holds_config, value)))


def _canonical(value: Any) -> Any:
    if isinstance(value, Config):
        return value.canonical()
    return [_canonical(v) for v in value] if isinstance(value, tuple) else value


def as_plain(value: Any) -> Any:
    """A field's value as plain JSON values."""
    if isinstance(value, Config):
        return value.to_dict()
    return [as_plain(v) for v in value] if isinstance(value, tuple | list) else value


# ------------------------------------------------------------------ finding kinds by name


def discover(role: str) -> dict[str, type[Config]]:
    """Every kind and variant name of a role, after importing all modules of its packages."""
    for package in map(importlib.import_module, ROLE_PACKAGES[role]):
        for info in pkgutil.iter_modules(getattr(package, "__path__", [])):
            importlib.import_module(f"{package.__name__}.{info.name}")
    return dict(sorted(_REGISTRY[role].items()))


def kinds(role: str) -> dict[str, type[Config]]:
    """The kinds of a role without the variant names."""
    return {name: cls for name, cls in discover(role).items() if name == cls.kind}


def make(role: str, name: str, **fields: Any) -> Config:
    """Build a config from the name of a kind or variant; `fields` override the variant's.

    Raises:
        ValueError: unknown name or field, or a value that the kind refuses; one sentence.
    """
    known = discover(role)
    if name not in known:
        raise ValueError(unknown(role, name, known))
    cls = known[name]
    return cls(**(cls.variants.get(name, {}) | fields))


def from_dict(role: str, data: Mapping[str, Any]) -> Config:
    """The inverse of `to_dict`. Missing fields take their defaults (older files)."""
    fields = {key: value for key, value in data.items() if key not in ("kind", "version")}
    if "kind" not in data:
        raise ValueError(f"a {role} needs a 'kind', one of {', '.join(kinds(role))}")
    made = make(role, data["kind"], **fields)
    if data.get("version", made.version) != made.version:
        raise ValueError(
            f"this {role} was written as version {data['version']} of {made.kind!r}, whose numbers "
            f"are those of version {made.version} here; it can be read as a record but not built again"
        )
    return made


def one_of(role: str) -> Any:
    """Field type: a config of `role`, given as a config, a name, or a dict with a `kind`."""

    def coerce(value: Any) -> Any:
        if isinstance(value, str):
            return make(role, value)
        if isinstance(value, Mapping):
            return from_dict(role, value)
        if isinstance(value, Config) and value.role != role:
            raise ValueError(f"{value.kind!r} is a {value.role}, not a {role}")
        return value

    return Annotated[SerializeAsAny[Config], BeforeValidator(coerce)]


# ------------------------------------------------------------------ errors in one sentence


def explain(cls: type[Config], error: ValidationError) -> str:
    """The first problem of a pydantic report as one sentence with field, value and reason."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    if not where:
        return f"{cls.kind or cls.__name__}: {reason}"
    if first["type"] == "missing":
        return f"{cls.kind}.{where} is required"
    if first["type"] == "value_error":
        return f"{cls.kind}.{where}: {reason}"
    close = ""
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        close = nearest(first["input"], re.findall("'([^']*)'", first["ctx"]["expected"]))
        close = f".{close}" if close else ""
    return f"{cls.kind}.{where} = {first['input']!r} is not accepted: {reason[0].lower()}{reason[1:]}{close}"
