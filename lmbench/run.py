"""Runs and evaluations: all that can change a number, frozen and identified by digest.

A `Run` is one training. A `Protocol` says which positions are targets in training and how
a split is scored. An `Evaluation` scores one set of weights on one split. What changes
only place or speed (device, store, jobs, log interval) is an argument of the functions
that execute these, never a field. This module imports neither torch nor any model or
task: the fields are typed `Config`, and training checks what only it can know.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from lmbench.config import Config, make, one_of

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
RunDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""Type of a field that names a finished run, or another record, by its digest."""


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
    """sha256 of the weights (`training.hashes.weights_hash`), whatever run or file they come from."""
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
