"""quantize: weights on a grid of few values, in training with straight-through gradients or after it.

In training the pass reads rounded weights and the dense ones learn, from the first step or from
`start` on. After training (`post`), given weights are rounded once: by their largest magnitudes,
with the clip of the least squared error, or by GPTQ. Activations that maps of the chosen parts
read can be rounded too, each token by itself. Norms, biases, scales, softmax and logits stay as
they are. On one weight masks come first: Q(M * W), and Q(0) = 0. 32 bits change nothing.

Source: see `layers.quantizer_grids`, `layers.quantizer` and `layers.gptq`; per-token activations,
Yao et al. 2022 (ZeroQuant).
"""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from lmbench.config import Config
from lmbench.layers.gptq import DAMP
from lmbench.layers.quantizer_grids import FULL, Granularity, check_bits
from lmbench.methods.attached import Attached
from lmbench.methods.base import Coded, Method
from lmbench.methods.installed import by_weight, refuse_overlap
from lmbench.methods.parts import PartNames, parts_of
from lmbench.methods.quantized import Quantized, add_switch, plain_feedforwards, round_activations
from lmbench.models.base import LanguageModel, ModelConfig, on_meta

_GROUP = 128  # inputs that share a scale where nothing else is said, as in GPTQ


class Quantize(Method):
    """Few-bit weights and activations; 32 bits without activations is off."""

    kind: ClassVar[Literal["quantize"]] = "quantize"
    place: ClassVar[int] = 1
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        # Seed 001, first form: tables and feed-forwards in 8 bits, attention as it is.
        "quantize_v1": {"parts": ("embedding", "feedforward")},
        # Second form: everything in 8 bits, and a quantiser for an activation function.
        "quantize_v2": {"activations": 8.0, "activation_limit": 4.0, "literal": True},
    }

    bits: float = 8.0
    """Of a weight: 1 (two values), 1.58 (three), 2, 3, 4, 5, 6, 8; 32 leaves weights alone. b bits of a
    found scale are 2^b - 1 values, so that 2 are three as well; of a learned one they are 2^b."""
    parts: PartNames = ("all",)
    """Which weights, by the names of `methods.parts` or patterns of their dotted names."""
    granularity: Granularity = "row"
    """What shares a scale: the inputs of one output, a group of them, or a tensor."""
    group: int = Field(_GROUP, ge=1)
    """Inputs to a group, where granularity is "group"."""
    scheme: Literal["absmax", "lsq"] = "absmax"
    """Scales found from the weights at each step (below 2 bits their mean magnitude), or learned."""
    start: float = Field(0.0, ge=0, lt=1)
    """Share of the training after which rounding begins; 0 is from the first step on."""
    activations: float | None = None
    """Bits of what the maps of `parts` read, 2 to 8; None leaves activations alone."""
    activation_limit: float | None = Field(None, gt=0)
    """Activations are clipped to plus and minus this; None is each token's own largest magnitude."""
    literal: bool = False
    """The activation quantiser replaces the activation function of the feed-forwards among `parts`, and
    acts nowhere else (the published pseudo-code, read to the letter)."""
    post: Literal["absmax", "mse", "gptq"] | None = None
    """How given weights are rounded after training, in an Evaluation; None rounds in training."""
    act_order: bool = False
    """GPTQ takes the inputs with the largest mean square first."""
    damp: float = Field(DAMP, gt=0)
    """GPTQ's share of the mean diagonal that is added to the diagonal."""
    calibration: int = Field(8, ge=1)
    """Training batches that GPTQ looks at."""

    @field_validator("bits")
    @classmethod
    def _known_bits(cls, value: float) -> float:
        return check_bits(value)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.activations is not None and not (2 <= self.activations <= 8 and self.activations % 1 == 0):
            raise ValueError(f"activations = {self.activations:g} bits; accepted: 2 to 8, whole, or None")
        if self.activations is None and (self.literal or self.activation_limit is not None):
            named = "literal = True" if self.literal else f"activation_limit = {self.activation_limit:g}"
            raise ValueError(f"{named} needs bits of activations, but activations = None; accepted: 2 to 8")
        if self.post is not None and (self.start > 0 or self.scheme == "lsq"):
            named = f"start = {self.start:g}" if self.start > 0 else "scheme = 'lsq'"
            raise ValueError(f"{named} is of training, but post = {self.post!r} is after it; accepted: one")
        if self.act_order and self.post != "gptq":
            raise ValueError(f"act_order = True is of GPTQ, but post = {self.post!r}; accepted: 'gptq'")
        if self.group != _GROUP and self.granularity != "group":
            raise ValueError(
                f"group = {self.group} is read by no granularity = {self.granularity!r}; accepted: 'group'"
            )
        return self

    @property
    def calibration_batches(self) -> int:
        """Training batches that the method looks at."""
        return self.calibration if self.post == "gptq" else 0

    @property
    def is_off(self) -> bool:
        """Whether nothing is rounded."""
        return self.bits == FULL and self.activations is None

    @property
    def rounds_activations(self) -> bool:
        """See `Method.rounds_activations`."""
        return self.activations is not None

    def first_step(self, steps: int) -> int:
        """The first step at which values are rounded."""
        return min(round(self.start * steps), steps - 1)

    def check(self, run: Config) -> None:
        """See `Method.check`."""
        if self.post is not None:
            raise ValueError(
                f"quantize.post = {self.post!r} rounds weights after training, so it stands in the methods "
                f"of an Evaluation (evaluate_run(..., methods=...)), not of a Run; accepted here: None"
            )
        model = on_meta(run.model)
        refuse_overlap([one for one in run.methods if isinstance(one, Quantize) and one.bits != FULL], model)
        parts = parts_of(model, self.parts)
        if self.literal:
            plain_feedforwards(model, parts)

    def attach(self, model: LanguageModel, config: ModelConfig, *, steps: int) -> Attached | None:
        """See `Method.attach`."""
        if self.is_off:
            return None
        parts, first = parts_of(model, self.parts), self.first_step(steps)
        switch = add_switch(model) if first > 0 else None
        if self.activations is not None:
            how = {"bits": self.activations, "limit": self.activation_limit, "switch": switch}
            round_activations(model, parts, literal=self.literal, **how)
        return Quantized(self, model, parts, first=first, switch=switch)

    def in_force(self, step: int, steps: int) -> Method | None:
        """Activations are rounded wherever weights are scored that were trained so."""
        if self.activations is None or not self.settled(step, steps):
            return None
        return self.replace(bits=FULL, start=0.0, scheme="absmax", post=None, act_order=False)

    def coded(self, config: ModelConfig) -> dict[str, Coded]:
        """See `Method.coded`.

        Two sorts are left out, and so written as floats: weights of which only some rows are rounded, and
        those that are stored by inputs, whose scales run across their rows.
        """
        if self.bits == FULL:
            return {}
        model, found = on_meta(config), {}
        for name, parts in by_weight(parts_of(model, self.parts)).items():
            height = model.get_parameter(name).shape[0]
            spans = [part.rows or (0, height) for part in parts]
            is_by_row = not parts[0].input_first or self.granularity == "tensor"
            if sum(last - first for first, last in spans) == height and is_by_row:
                # Rows that stand side by side have scales of their own.
                shared = self.granularity if len(parts) == 1 else "row"
                found[name] = Coded(self.bits, self.group if self.granularity == "group" else shared)
        return found

    def settled(self, step: int, steps: int) -> bool:
        """Whether the step before this one has rounded."""
        first = self.first_step(steps)
        return step > first or first == 0
