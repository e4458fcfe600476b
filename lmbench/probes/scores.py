"""What is scored: of a task, the predictors that stand beside models; of a finished run, its weights.

Scores are the same on every device up to rounding. A run is named by its digest: what it was trained
on, and which of its weights it reports, is read from its own record.
"""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from lmbench.config import Config, one_of
from lmbench.run import MAX_SEED, RunDigest


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


class LadderRungs(Config):
    """Exact scores of chance, shortcuts and the Bayes-optimal strategy on one level of a synthetic task."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["ladder"]] = "ladder"

    task: one_of("task")
    """A synthetic task."""


class ExitCurve(Config):
    """Quality against executed FLOPs of a finished run whose model stops early."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["exit_curve"]] = "exit_curve"

    run: RunDigest
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


class Calibration(Config):
    """How far the probabilities of a finished run can be believed, on a task with a known posterior."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["calibration"]] = "calibration"

    run: RunDigest
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

    run: RunDigest
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

    student: RunDigest
    """Digest of the run, whose reported weights are compared."""
    teacher: RunDigest
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

    run: RunDigest
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

    artifact: RunDigest
    """Digest of the packed run's record; what is read back from its file is scored."""
    alpha: float = Field(0.01, gt=0, lt=1)
    """Share of the uniform distribution in the smoothed cross entropy."""
    draws: int | None = Field(2048, ge=1)
    """Windows or documents drawn from the training sample to be scored; None scores all of it."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Of these draws."""
