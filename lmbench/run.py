"""Runs and evaluations: all that can change a number, frozen and identified by digest.

A `Run` is one training. A `Protocol` says which positions are targets in training and how
a split is scored. An `Evaluation` scores one set of weights on one split. What changes
only place or speed (device, store, jobs, log interval) is an argument of the functions
that execute these, never a field. This module imports neither torch nor any model or
task: the fields are typed `Config`, and training checks what only it can know.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from lmbench.config import Config, build, discover, make, one_of, unknown

MAX_SEED = 2**63 - 1  # what torch's generators take
SCHEMA = 1  # of run.json and rows.parquet; readers accept this and older ones


class Protocol(Config):
    """Abstract: which positions are targets, and how a split is scored."""

    role: ClassVar[str] = "protocol"


class Dense(Protocol):
    """Every position is a target; a split is scored by sliding window, each token once.

    A window model scores the same map at every position, with real preceding tokens.
    """

    kind: ClassVar[Literal["dense"]] = "dense"

    stride: int | None = Field(None, ge=1)
    """Targets by which the evaluation window moves; None is seq_len // 2."""
    eval_bytes: int | None = Field(None, ge=1)
    """Score only the first targets that together make up this many bytes; None is all."""


class LastToken(Protocol):
    """Only the token after a window is a target (the published study).

    Scores the first `eval_windows` windows of a split (starts 0, 1, 2, ...), and averages
    as the study did: the plain mean of the means of batches, the last of which is short.
    """

    kind: ClassVar[Literal["last_token"]] = "last_token"

    eval_windows: int | None = Field(10_000, ge=1)
    """Windows scored per split, from its start; None is all."""
    average: Literal["batch_mean", "example"] = "batch_mean"
    """`example` weighs every window alike."""
    eval_batch_size: int = Field(64, ge=1)
    """Windows per batch of the published average (64 by characters, 32 by words)."""


def _in_order(methods: tuple[Config, ...]) -> tuple[Config, ...]:
    """Methods as they act on a weight, so that runs which train the same have one digest."""
    return tuple(sorted(methods, key=lambda one: (type(one).place, one.kind, one.digest)))


Methods = Annotated[tuple[one_of("method"), ...], AfterValidator(_in_order)]
"""Type of a field of methods, which may be given in any order."""


class Run(Config):
    """One training of one model on one task, with its seeds."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["run"]] = "run"

    model: one_of("model")
    """The architecture; its vocab_size must be the task's, its seq_len is the context."""
    task: one_of("task")
    """What is learned and scored."""
    protocol: one_of("protocol") = Field(default_factory=Dense)
    """Which positions are targets, and how splits are scored."""
    methods: Methods = ()
    """What changes training without being the model; empty is plain training."""

    steps: int = Field(ge=1)
    """Optimizer steps."""
    batch_size: int = Field(16, ge=1)
    """Sequences per optimizer step."""
    grad_accum: int = Field(1, ge=1)
    """Micro-batches that a step is split into; must divide batch_size. 1 is off."""
    epoch_windows: int | None = Field(None, ge=1)
    """Windows per epoch, whose last batch is then short (the published study); None is an endless stream."""

    optimizer: one_of("optimizer") = Field(default_factory=lambda: make("optimizer", "adamw"))
    """Update rule with its base learning rate."""
    schedule: one_of("schedule") = Field(default_factory=lambda: make("schedule", "cosine"))
    """Factor on the learning rate over the steps."""
    grad_clip: float | None = Field(1.0, gt=0)
    """Largest global gradient norm; None switches clipping off."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Arithmetic of training. bfloat16 is that of both passes, over float32 weights that are updated
    and scored; scoring is float32 or better."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then what is scored and kept;
    None scores the weights themselves."""

    eval_every: int | None = Field(None, ge=1)
    """Steps between validations; None validates at the end only."""
    weights: Literal["best", "final"] = "best"
    """Which weights are tested: the best on validation, or the last."""
    track: one_of("tracker") | None = None
    """Capabilities that are scored while it trains; None is none."""
    test: bool = True
    """Whether the test split is scored at the end; tuning runs leave it untouched."""

    init_seed: int = Field(0, ge=0, le=MAX_SEED)
    """Initial weights."""
    data_seed: int = Field(0, ge=0, le=MAX_SEED)
    """Order of the batches, the same for every model."""
    dropout_seed: int = Field(0, ge=0, le=MAX_SEED)
    """Dropout masks."""
    eval_seed: int = Field(0, ge=0, le=MAX_SEED)
    """Examples of tasks that draw their evaluation set."""

    def with_seed(self, seed: int) -> "Run":
        """The same run with the init, data and dropout seeds set to `seed`."""
        return self.replace(init_seed=seed, data_seed=seed, dropout_seed=seed)


class Evaluation(Config):
    """Scores of one set of weights on one split: the final test is one, and so is any later scoring."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["evaluation"]] = "evaluation"

    weights: str = Field(pattern=r"^[0-9a-f]{64}$")
    """sha256 of the weights (`training.weights_hash`), whatever run or file they come from."""
    model: one_of("model")
    """The architecture that the weights belong to."""
    task: one_of("task")
    """What is scored."""
    protocol: one_of("protocol")
    """How it is scored."""
    split: Literal["train", "valid", "test"] = "test"
    """Part of the task's data."""
    eval_seed: int = Field(0, ge=0, le=MAX_SEED)
    """Examples of tasks that draw their evaluation set."""
    methods: Methods = ()
    """What computes with the weights beside the model: a width, quantised activations, a quantisation
    after training; empty is the plain model."""
    trained_on: one_of("task") | None = None
    """Task that the weights learned, where it is another: its vocabulary stays in force."""


# ------------------------------------------------------------------ from key=value pairs

_PARTS = ("model", "task", "protocol", "optimizer", "schedule")


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
    nested: dict[str, dict[str, Any]] = {part: {} for part in (*_PARTS, *methods)}
    for key, value in assignments.items():
        if key in _PARTS or key == "methods":
            continue
        if key.startswith("method.") and len(methods) == 1:
            key = f"{next(iter(methods))}.{key.removeprefix('method.')}"
        part, field = resolve_key(key, {part: cls for part, (cls, _) in (chosen | methods).items()})
        if part == "run":
            top[field] = value
        else:
            nested[part][field] = value
    for part, (cls, fields) in chosen.items():
        if not isinstance(top.get(part), Config) or nested[part]:
            top[part] = build(cls, fields | nested[part])
    if methods:
        top["methods"] = tuple(build(cls, fields | nested[part]) for part, (cls, fields) in methods.items())
    return build(Run, top)


def _chosen_methods(given: Any) -> dict[str, tuple[type[Config], dict[str, Any]]]:
    """The class of each method with the fields already chosen for it, by kind.

    Raises:
        ValueError: two of one kind, whose fields could not be told apart.
    """
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
