"""Data selection: train on a share of the text, chosen and ordered before the first step.

The training text is cut into units (`piece` tokens of one document) and goes through fixed
stages: duplicates out, a score inside each domain, a quota of tokens for each domain, pacing from
easy to hard. Every number is counted on train alone; validation and test text only removes what
copies it. Random selection of the same share, `select_random`, is the control of every other rule:
equal seeds keep exactly as many tokens, unless duplicates leave fewer than the share; then all are kept.

A share of the text has two meanings. "S": 35% of the tokens are seen, so the run is `steps_of`
the whole run's steps; "U": 35% of the tokens are kept, for as many steps as before, so each is seen
1 / share times as often. Both draw from the same units, and the number of steps is the run's.

Units shorter than a window are learned from in packed rows, see `methods.unit_rows`.

Which units a run keeps depends on its data_seed, so paired seeds sample selections too.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from lmbench.config import Config, one_of
from lmbench.data.selection.choose import Selection
from lmbench.data.selection.packing import Packing
from lmbench.data.selection.report import Report
from lmbench.methods.base import Method
from lmbench.methods.kept_units import kept_units, numbers_of, refuse_unread, report_of
from lmbench.methods.reference_losses import check_reference, scoring_flops, training_flops
from lmbench.methods.unit_facts import unit_starts, units_of
from lmbench.methods.unit_rows import check_rows
from lmbench.run import Run
from lmbench.tasks.base import Stream, TaskData, View, load_task
from lmbench.tasks.selected import selected_stream
from lmbench.tasks.text_data import TextData
from lmbench.tasks.windows import WindowStream

Score = Literal["ngram", "compression", "length", "reference", "excess"]
_FILTERED = {"rule": "filtered", "dedup": "minhash", "score": "ngram"}


class Select(Method):
    """A share of the training text; `share = 1` without duplicates, pacing and packing installs nothing."""

    kind: ClassVar[Literal["select"]] = "select"
    scores_weights: ClassVar[bool] = False
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "select_random": {"rule": "random", "dedup": None, "pace": None},
        "select_stratified": {"rule": "stratified", "dedup": None, "pace": None},
        "select_filtered": _FILTERED | {"pace": None},
        "select_ordered": _FILTERED | {"pace": "ngram"},
    }

    share: float = Field(0.35, gt=0, le=1)
    """Kept tokens over all tokens of train; 1 keeps all that is no duplicate."""
    form: Literal["U", "S"] = "U"
    """Unique tokens, or tokens seen: which steps `steps_of` gives. The units are the same."""
    rule: Literal["random", "stratified", "filtered"] = "random"
    """Units at random, at random within each domain's quota, or by score within it."""
    piece: int | None = Field(512, ge=2)
    """Tokens of a unit, which lies inside one document; None is whole documents."""

    dedup: Literal["exact", "minhash"] | None = None
    """Remove exact copies, or near ones too, of other units and of validation and test; None removes none."""
    similar: float = Field(0.7, gt=0, le=1)
    """Jaccard of sets of shingles from which two units are near copies."""
    bands: int = Field(16, ge=2)
    """Bands of the MinHash signature."""
    rows: int = Field(8, ge=1)
    """Its numbers in each band."""
    shingle: int = Field(5, ge=1)
    """Tokens of a shingle."""

    quota: Literal["natural", "temperature", "excess"] = "natural"
    """Weights of the domains; see `data.selection.quotas`."""
    tau: float = Field(0.5, ge=0, le=1)
    """Power of the natural shares under "temperature"; 1 is natural, 0 uniform."""
    eta: float = Field(1.0, ge=0)
    """How strongly "excess" tilts the natural shares; 0 is natural."""
    domain_excess: tuple[tuple[str, float], ...] = ()
    """Excess loss of each domain, nats per token, for "excess"; empty measures it."""

    score: Score = "ngram"
    """What "filtered" ranks units by: nats per byte of an n-gram or of `reference`, their excess, ..."""
    band: Literal["low", "mid", "high"] = "mid"
    """Which part of each domain's ranking is kept."""
    order: int = Field(3, ge=1, le=8)
    """Preceding tokens of the n-gram; where there is no `reference`, its excess is over one token's."""
    reference: one_of("run") | None = None
    """Run on the same text whose losses "reference" and "excess" read; None counts an n-gram."""

    pace: Literal["ngram", "compression", "length", "reference"] | None = None
    """Difficulty by which training goes from easy to hard; None draws from everything throughout."""
    competence: float = Field(0.1, gt=0, le=1)
    """Share of the data, the easiest, that pacing starts with."""
    packing: Packing | None = None
    """Rows of units, for those shorter than a window: "separate" gives each one its own; "masked" puts
    several into one and keeps them apart: a token attends within its unit alone, and learned or sinusoidal
    positions start anew with each, so its loss is that of "separate" and fewer places are padding;
    "concatenate" does so without a mask, and later units see earlier ones: for models that cannot keep
    units apart, and the control of those that do. None draws windows."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        asked = self.scores_needed
        if "reference" in asked and self.reference is None:
            raise ValueError("score, pace = 'reference' needs reference, a run; None has no losses")
        if self.reference is not None and not asked & {"reference", "excess"}:
            raise ValueError("reference is a run that nothing reads; take score = 'reference' or 'excess'")
        refuse_unread(self)
        return self

    @property
    def scores_needed(self) -> set[str]:
        """The scores that this setting computes."""
        asked = {self.score} if self.rule == "filtered" else set()
        asked |= {self.pace} if self.pace else set()
        tilts = self.rule != "random" and self.quota == "excess" and not self.domain_excess
        return asked | ({"excess"} if tilts else set())

    @property
    def is_neutral(self) -> bool:
        """Whether this setting selects everything in no order."""
        return self.share == 1 and self.dedup is None and self.pace is None and self.packing is None

    @property
    def divides_rows(self) -> bool:
        return self.packing == "masked"

    @property
    def teachers(self) -> tuple[Config, ...]:
        return () if self.reference is None or self.is_neutral else (self.reference,)

    def steps_of(self, steps: int) -> int:
        """Steps of a run on this share beside one of `steps` steps on everything."""
        return max(1, round(self.share * steps)) if self.form == "S" else steps

    def check(self, run: Run) -> None:
        """Raises ValueError where the run's task is no text, or its windows do not fit into units."""
        if self.is_neutral:
            return
        if run.task.kind != "text":
            raise ValueError(
                f"method select chooses among documents; task {run.task.kind!r} has none, take 'text'"
            )
        if sum(method.kind == self.kind for method in run.methods) > 1:
            raise ValueError("a run takes one method select; put what both do into one")
        check_rows(self.packing, piece=self.piece, run=run)
        if self.reference is not None:
            check_reference(self.reference, run)

    # ---------------------------------------------------------------- what is learned from

    def selection(
        self,
        data: TextData,
        *,
        data_seed: int,
        view: View | None = None,
        weights: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> Selection:
        """See `methods.kept_units.kept_units`."""
        return kept_units(self, data, data_seed=data_seed, view=view, weights=weights)

    def stream(
        self,
        stream: Stream,
        *,
        data: TaskData,
        run: Run,
        view: View,
        weights: Mapping[str, Mapping[str, Tensor]],
    ) -> Stream:
        """Windows, or packed rows, of the kept units alone.

        Raises:
            ValueError: every kept unit is too short for a window, or another method made the stream.
        """
        if self.is_neutral:
            return stream
        if type(stream) is not WindowStream or not isinstance(data, TextData):
            raise ValueError("method select chooses from the windows of a text; another method made its own")
        return selected_stream(
            self.selection(data, data_seed=run.data_seed, view=view, weights=weights),
            run=run,
            view=view,
            ids_N=stream.ids_N,
            unit_N=unit_starts(data, self.piece, view.device) if view.is_window else None,
            packing=self.packing,
            competence=self.competence if self.pace else None,
        )

    # ---------------------------------------------------------------- what it took

    def provenance(self, run: Run, *, weights: Mapping[str, Mapping[str, Tensor]] | None = None) -> Report:
        """Where a run's kept tokens come from, and how its windows or rows use them, see `usage`."""
        chosen = self.selection(load_task(run.task), data_seed=run.data_seed, weights=weights)
        return report_of(chosen, run=run, packing=self.packing)

    def told(self, run: Config, *, weights: Mapping[str, Mapping[str, Tensor]]) -> dict[str, float]:
        """See `Method.told`: the provenance as numbers."""
        if self.is_neutral or not run.test:
            return {}  # of a run that only chose a learning rate nobody asks what it kept
        data = load_task(run.task)
        chosen = self.selection(data, data_seed=run.data_seed, weights=weights)
        return numbers_of(chosen, run=run, packing=self.packing, everything=units_of(data, self.piece))

    def extra_flops(self, run: Run, step: int) -> dict[str, float]:
        """Reading the text with the reference, and what the reference was trained with.

        Spent before the first step. n-grams, hashes and compressors make no matrix products; what they
        take is counted in the report.
        """
        if not self.teachers:
            return {}
        return {
            "selection": float(scoring_flops(self.reference, load_task(run.task))),
            "selection_reference": float(training_flops(self.reference)),
        }
