"""What is measured of models and scored of finished runs, each a record of the store like a run.

The digest of such a config names its folder; whatever it says was measured or scored once, is read
from there by every table and figure. Like `run`, this module knows neither models nor tasks.
"""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from lmbench.config import Config, one_of
from lmbench.run import MAX_SEED


class Predictors(Config):
    """Scores of the reference predictors (uniform, unigram, n-grams, compressors) on one split."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["predictors"]] = "predictors"

    task: one_of("task")
    """What is scored; a text task."""
    protocol: one_of("protocol")
    """Decides which targets are scored."""
    seq_len: int = Field(ge=1)
    """Context of the models that stand beside them; under last_token it decides the first target."""
    split: Literal["valid", "test"] = "test"
    """Part of the task's data."""
    orders: tuple[int, ...] = (2, 3, 4, 5)
    """Preceding tokens of the n-grams."""
    smoothings: tuple[str, ...] = ("witten_bell", "modified_kneser_ney")
    """Of `measure.ngram`; the second is the stronger, the first the better known."""


class Speed(Config):
    """Seconds that an optimizer step of a run takes, on the device that env.json names."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["speed"]] = "speed"

    run: one_of("run")
    """What is timed; its steps do not matter."""


class Latency(Config):
    """Seconds that a model takes to answer, and the memory it takes, on the device that env.json names."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["latency"]] = "latency"

    model: one_of("model")
    """What is timed; weights do not matter."""
    batch_sizes: tuple[int, ...]
    """Texts that are answered together."""
    lengths: tuple[int, ...]
    """Tokens of context, at most the model's seq_len."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Weights and arithmetic."""
    repeats: int = Field(15, ge=1)
    """Timings of each, of which the median and the range are kept."""
    warm_up: int = Field(3, ge=0)
    """Timings before them, which are thrown away."""


class ExitCurve(Config):
    """Quality against executed FLOPs of a finished run whose model stops early."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["exit_curve"]] = "exit_curve"

    run: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Digest of the run, whose reported weights are scored on its own task and protocol."""
    split: Literal["valid", "test"] = "valid"
    """Part of the task's data; a threshold is a choice, so it is read off the valid split."""
    thresholds: tuple[float, ...] = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
    """Probabilities at which a token stops, more than 0; at 1 none does."""

    @field_validator("thresholds")
    @classmethod
    def _probabilities(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        wrong = [one for one in value if not 0 < one <= 1]
        if wrong:
            raise ValueError(f"{wrong[0]} is not accepted: more than 0, at most 1 (never stops)")
        return value


class Activations(Config):
    """Bytes that a training step holds, on the device that env.json names."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["activations"]] = "activations"

    model: one_of("model")
    """What is counted; weights do not matter."""
    batch_size: int = Field(ge=1)
    """Sequences of seq_len tokens."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Weights and arithmetic."""


class LadderRungs(Config):
    """Exact scores of chance, shortcuts and the Bayes-optimal strategy on one level of a synthetic task."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["ladder"]] = "ladder"

    task: one_of("task")
    """A synthetic task."""


class Calibration(Config):
    """How far the probabilities of a finished run can be believed, on a task with a known posterior."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["calibration"]] = "calibration"

    run: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Digest of the run, whose reported weights are scored."""
    task: one_of("task")
    """What is scored; one level of a task that states posteriors."""
    split: Literal["valid", "test"] = "test"
    """Part of the task's data."""
    eval_seed: int = Field(0, ge=0, le=MAX_SEED)
    """Examples."""


class FlipCurve(Config):
    """Loss of a finished run on text in which a few characters were changed, by chance and to do harm."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["flip_curve"]] = "flip_curve"

    run: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Digest of the run, whose reported weights are scored."""
    split: Literal["valid", "test"] = "test"
    """Part of the task's text."""
    budgets: tuple[int, ...] = (0, 1, 2, 4, 8)
    """Characters changed in a window."""
    windows: int = Field(64, ge=2)
    """Windows of seq_len tokens, spread over the split."""
    candidates: int = Field(64, ge=1)
    """Changes tried for each flip, of which the worst is kept."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Windows and candidates."""


class Agreement(Config):
    """How far a finished run agrees with another, its teacher, on the same tokens."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["agreement"]] = "agreement"

    student: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Digest of the run, whose reported weights are compared."""
    teacher: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Digest of the run that it is compared with; its own where methods changed the weights."""
    methods: tuple[one_of("method"), ...] | None = None
    """What computes with the student's weights, as a quantisation after training; None is what was in
    force at the run's end."""
    task: one_of("task") | None = None
    """What is scored; None is the student's own task."""
    split: Literal["train", "valid", "test"] = "test"
    """Part of the task's data."""
    eval_seed: int = Field(0, ge=0, le=MAX_SEED)
    """Examples of tasks that draw their evaluation set."""
    alpha: float = Field(0.5, ge=0, le=1)
    """Share of the cross entropy in the published approximation ratio."""
    temperature: float = Field(1.0, gt=0)
    """Divides the logits in the divergence of that ratio; 1 leaves them."""


class Artifact(Config):
    """A finished run packed into a file of so many bytes, and the scores of what is read back from it."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["artifact"]] = "artifact"

    run: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Digest of the run, whose reported weights are packed."""
    methods: tuple[one_of("method"), ...] = ()
    """Applied to the weights first: a quantisation after training; empty packs them as they are."""
    other: Literal["float32", "float16"] = "float32"
    """Type of the weights that no method quantised; the rounding of float16 is part of the scores."""
    scales: Literal["float32", "float16"] = "float32"
    """Type of the scales of those that one did."""
    split: Literal["valid", "test"] = "test"
    """Part of the task's data that is scored."""


class FileRisk(Config):
    """Bounded losses of a packed run on the data that it was made from, and on data kept from it."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["file_risk"]] = "file_risk"

    artifact: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Digest of the packed run's record; what is read back from its file is scored."""
    alpha: float = Field(0.01, gt=0, lt=1)
    """Share of the uniform distribution in the smoothed cross entropy."""
    draws: int | None = Field(2048, ge=1)
    """Windows or documents drawn from the training sample to be scored; None scores all of it."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Of these draws."""


class LowBit(Config):
    """Seconds of a finished run's forward pass in each low-precision or sparse form that exists, and its
    multiply-adds, on the device that env.json names."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["low_bit"]] = "low_bit"

    run: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Digest of the run, whose reported weights are timed."""
    methods: tuple[one_of("method"), ...] = ()
    """Applied to the weights first, as a quantisation or pruning after training; empty is as they are."""
    batch_sizes: tuple[int, ...] = (1, 64)
    """Texts that are read together."""
    length: int | None = Field(None, ge=1)
    """Tokens of each, at most the model's seq_len; None is that many."""
    repeats: int = Field(15, ge=1)
    """Timings of each, of which the median and the range are kept."""
    warm_up: int = Field(3, ge=0)
    """Timings before them, which are thrown away."""
