"""Knowledge distillation: a student learns from teachers' probabilities beside the targets.

The objective is the five-parameter family of `layers.objective`, every term of which is logged.
Two published objectives (the quantised distillation of the seed documents) are variants, as
they are written and with their formulas put right:

    distill_v1_literal     KL(S || T) - entropy H(S) alone. It is least at S ~ T^(1 / (1 + entropy)),
                           below 0: a perfect student is less sure than its teacher
    distill_v1_corrected   the entropy's weight falls to 0, so that in the end S = T is best, at 0
    distill_v2_literal     a CE + (1 - a) KL(S || T) at the temperature: the call passes the student
                           first, and without tau^2 the soft gradient falls as 1 / tau^2
    distill_v2_corrected   the teacher weighs the errors, and tau^2 stands in front (Hinton et al. 2015)
    confidence_penalty     CE - entropy H(S), without a teacher (Pereyra et al. 2017)

A teacher is a finished run, which is trained first where the store lacks it, or a model that
brings its weights. Teachers read the batches of the student (live) or, with `cache`, the text
once: see `methods.teacher_cache`. Earlier exits of a student learn by the same objective.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from lmbench.config import Config, from_dict, make
from lmbench.curves import Curve
from lmbench.curves.primitives import Const, Line
from lmbench.layers.objective import Direction
from lmbench.methods.base import Method
from lmbench.methods.distill_objective import BOUNDS, DistillObjective, check_bounds
from lmbench.methods.teacher_cache import TeacherCache, fill
from lmbench.methods.teachers import check_cache, check_teacher, forward_flops, model_of
from lmbench.methods.unit_rows import refuse_crossing
from lmbench.models.base import LanguageModel, ModelConfig
from lmbench.run import Run
from lmbench.tasks.base import TaskData, View


def _teacher(value: Any) -> Any:
    """A run or a model, from a dict too."""
    if isinstance(value, Mapping):
        return from_dict("run" if value.get("kind") == Run.kind else "model", value)
    if not isinstance(value, Run | ModelConfig):
        raise ValueError(f"a teacher is a run or a model that brings its weights, not {value!r}")
    return value


def _number(value: Any) -> Any:
    """A plain number, or a curve from its name or a dict."""
    if isinstance(value, str):
        return make("curve", value)
    if isinstance(value, Mapping):
        return from_dict("curve", value)
    if isinstance(value, bool) or not isinstance(value, int | float | Curve):
        raise ValueError(f"{value!r} is neither a number nor a curve")
    return value if isinstance(value, Curve) else float(value)


def _stays(number: Any, level: float) -> bool:
    """Whether a plain number, or a constant curve, is this at every step."""
    return number in (level, Const(level=level))


Teacher = Annotated[SerializeAsAny[Config], BeforeValidator(_teacher)]
Number = Annotated[float | SerializeAsAny[Config], BeforeValidator(_number)]
_V1 = {"a": 0.0, "tau": 1.0, "direction": "reverse"}


class Distill(Method):
    """Hard targets, a teacher's probabilities and the student's entropy, in any mixture."""

    kind: ClassVar[Literal["distill"]] = "distill"
    scores_weights: ClassVar[bool] = False
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "distill_v1_literal": _V1 | {"entropy": 0.1},
        "distill_v1_corrected": _V1 | {"entropy": Line(start=0.1, end=0.0)},
        "distill_v2_literal": {"power": 0.0, "direction": "reverse", "entropy": 0.0},
        "distill_v2_corrected": {"power": 2.0, "direction": "forward", "entropy": 0.0},
        "confidence_penalty": {"a": 1.0, "entropy": 0.1},
    }

    a: Number = 0.5
    """Weight of the cross entropy with the targets, 0 to 1; 1 - a is the teacher's. 1 needs no teacher."""
    tau: Number = 2.0
    """Temperature of teacher and student in the soft term, above 0; 1 leaves both as they are."""
    power: float = Field(2.0, ge=0)
    """Of tau in front of the soft term; 2 makes its gradient independent of a high tau, 0 is off."""
    direction: Direction = "forward"
    """KL(T || S) is forward, covering all that the teacher thinks likely; KL(S || T) reverse."""
    entropy: Number = 0.0
    """Weight of the student's entropy, which is rewarded; 0 is off."""
    teacher: tuple[Teacher, ...] = ()
    """Runs, or models that bring their weights; the probabilities of several are averaged."""
    shares: tuple[float, ...] = ()
    """Of each teacher in that average, in any unit; () is equal shares."""
    cache: int | None = Field(None, ge=1)
    """Tokens kept for each position of the training text, read once beforehand: the soft term is then
    one between these and all others together, at most the true one. None asks the teachers each step."""

    @model_validator(mode="after")
    def _fits_itself(self) -> Self:
        for name in BOUNDS:
            if isinstance(getattr(self, name), float):
                check_bounds(name, [getattr(self, name)])
        if self.shares and len(self.shares) != len(self.teacher):
            raise ValueError(f"shares has {len(self.shares)} numbers for {len(self.teacher)} teachers")
        if any(share <= 0 for share in self.shares):
            raise ValueError(f"shares = {self.shares} is not accepted: each must be above 0")
        if self.cache is not None and not isinstance(self.tau, float):
            raise ValueError("cache keeps probabilities at one temperature, so tau must be a number")
        return self

    # ---------------------------------------------------------------- what the engine asks

    @property
    def has_soft_term(self) -> bool:
        """Whether the teachers count at any step."""
        return not _stays(self.a, 1.0)

    @property
    def teachers(self) -> tuple[Config, ...]:
        """See `Method.teachers`; none where they have no weight."""
        return self.teacher if self.has_soft_term else ()

    def objective(self) -> "DistillObjective | None":
        """See `Method.objective`; None where only the targets have weight."""
        return None if not self.has_soft_term and _stays(self.entropy, 0.0) else DistillObjective(self)

    def check(self, run: Config) -> None:
        """See `Method.check`.

        Raises:
            ValueError: no teacher, one that does not fit the student, or a cache that cannot be.
        """
        for name in BOUNDS:
            if not isinstance(getattr(self, name), float):
                check_bounds(name, getattr(self, name).values(run.steps))
        if not self.has_soft_term:
            return
        if not self.teacher:
            raise ValueError(
                f"distill.teacher is empty, but a = {self.a} gives weight to one; accepted: a run, a "
                "model that brings its weights, or a = 1"
            )
        for teacher in self.teacher:
            check_teacher(teacher, run)
            if self.cache is None and any(method.divides_rows for method in run.methods):
                refuse_crossing(model_of(teacher), who="teacher", instead="a table of it (distill.cache)")
        if self.cache is not None:
            check_cache(self.cache, run)

    def cached(
        self, models: Sequence[LanguageModel], *, data: TaskData, run: Config, view: View
    ) -> TeacherCache | None:
        """What replaces the passes of the teachers over the batches; None where they are live.

        Args:
            models: the teachers with their weights, in the order of `teachers`.
        """
        if self.cache is None or not models:
            return None
        how = {"k": self.cache, "tau": self.tau, "shares": self.mixture, "disjoint": self._is_disjoint}
        return fill(models, data, view, **how)

    def extra_flops(self, run: Config, step: int) -> dict[str, float]:
        """See `Method.extra_flops`: forward passes of the teachers, over the text once where cached."""
        if not self.teachers:
            return {}
        how = {"cached": self.cache is not None, "disjoint": self._is_disjoint}
        return {"teacher": forward_flops(self.teachers, run, step, **how)}

    @property
    def mixture(self) -> tuple[float, ...]:
        """Shares of the teachers, adding up to 1."""
        shares = self.shares or (1.0,) * len(self.teacher)
        return tuple(share / sum(shares) for share in shares)

    @property
    def _is_disjoint(self) -> bool:
        return all(model_of(teacher).is_window for teacher in self.teacher)
