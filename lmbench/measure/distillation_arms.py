"""The arms that put quantized knowledge distillation to the test: a 2^4 factorial, sweeps, published forms.

The four factors are Q (quantised weights and activations), P (pruned weights), KD (a teacher beside
the targets) and ENT (entropy of the student rewarded); an arm is named by those that it has,
"hard" by none. Every arm trains the same student on the same batches for as many steps, so
that what the teacher costs is the only difference in compute, and it is counted.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from lmbench.config import make, unknown
from lmbench.measure.arms import Arm
from lmbench.methods.base import Method
from lmbench.models.base import ModelConfig
from lmbench.run import Run

FACTORS = ("Q", "P", "KD", "ENT")
HARD = "hard"
JOINT = "Q+P"
# One after the other within one training; both at once is the cell JOINT.
ORDERS = {
    "prune then quantize": ({"start": 0.1, "finish": 0.4}, {"start": 0.5}),
    "quantize then prune": ({"start": 0.5, "finish": 0.8}, {"start": 0.0}),
}
V1 = ("prune", {"parts": ("attention",)}), ("quantize_v1", {})
V2 = ("prune_v2", {}), ("quantize_v2", {})
PUBLISHED = {
    "V1 literal": (("prune_v1", {}), ("quantize_v1", {}), ("distill_v1_literal", {})),
    "V1 corrected": (*V1, ("distill_v1_corrected", {})),
    "V2 literal": (*V2, ("distill_v2_literal", {})),
    # What the letter replaces by a quantiser keeps its activation function, and is quantised behind it.
    "V2 corrected": (("prune_v2", {}), ("quantize", {"activations": 8.0}), ("distill_v2_corrected", {})),
}


def cells(*, half: bool) -> list[str]:
    """Names of the cells of the 2^4 factorial, or of its half with I = Q P KD ENT."""
    every = [
        tuple(itertools.compress(FACTORS, chosen))
        for chosen in itertools.product((0, 1), repeat=len(FACTORS))
    ]
    kept = [cell for cell in every if not half or len(cell) % 2 == 0]
    return ["+".join(cell) or HARD for cell in kept]


def distillation_arms(
    student: ModelConfig,
    teacher: Run,
    names: Sequence[str],
    *,
    bits: float = 8.0,
    activations: float | None = 8.0,
    density: float = 0.1,
    a: float = 0.5,
    tau: float = 2.0,
    entropy: float = 0.1,
    scheme: str = "lsq",
) -> dict[str, Arm]:
    """The arms of these names.

    Args:
        student: with the vocabulary of the teacher's task.
        teacher: the run that students learn from.
        names: cells such as "hard", "Q+P" or "Q+P+KD+ENT"; those of `ORDERS` and `PUBLISHED`;
            "bits=4 qat", "density=0.25", "tau=4 alpha=0.5".
        bits, activations, density, a, tau, entropy, scheme: of the factors where they are on.

    Raises:
        ValueError: an unknown arm.
    """
    factors = {
        "Q": ("quantize", {"bits": bits, "activations": activations, "scheme": scheme}),
        "P": ("prune", {"density": density}),
        "KD": ("distill", {"a": a, "tau": tau, "teacher": (teacher,)}),
    }

    def methods(name: str) -> tuple[Method, ...]:
        if name in PUBLISHED:
            return tuple(_made(kind, fields, teacher) for kind, fields in PUBLISHED[name])
        if name in ORDERS:
            pruned, quantised = ORDERS[name]
            kind, fields = factors["Q"]
            return (
                make("method", "prune", density=density, **pruned),
                make("method", kind, **fields | quantised),
            )
        if "=" in name:
            return _swept(name, factors, teacher)
        return _cell(name, factors, entropy)

    return {name: Arm(student, methods(name)) for name in names}


def _made(kind: str, fields: dict[str, Any], teacher: Run) -> Method:
    taught = {"teacher": (teacher,)} if kind.startswith("distill") else {}
    return make("method", kind, **fields | taught)


def _cell(name: str, factors: dict[str, tuple[str, dict[str, Any]]], entropy: float) -> tuple[Method, ...]:
    has = () if name == HARD else tuple(name.split("+"))
    for factor in has:
        if factor not in FACTORS:
            raise ValueError(
                unknown("arm of the distillation experiment", name, [*cells(half=False), *PUBLISHED])
            )
    made = [make("method", factors[one][0], **factors[one][1]) for one in ("P", "Q") if one in has]
    if "KD" in has:
        kind, fields = factors["KD"]
        made.append(make("method", kind, **fields, entropy=entropy if "ENT" in has else 0.0))
    elif "ENT" in has:
        made.append(make("method", "confidence_penalty", entropy=entropy))
    return tuple(made)


def _swept(name: str, factors: dict[str, tuple[str, dict[str, Any]]], teacher: Run) -> tuple[Method, ...]:
    """One number of a factor, the others off: "bits=4 qat", "density=0.25", "tau=4 alpha=0.5"."""
    said = dict(word.partition("=")[::2] for word in name.split())
    try:
        values = {key: float(value) for key, value in said.items() if value}
    except ValueError:
        values = {}
    if set(said) == {"bits", "qat"} and values:
        return (make("method", "quantize", bits=values["bits"], scheme=factors["Q"][1]["scheme"]),)
    if set(said) == set(values) == {"density"}:
        return (make("method", "prune", density=values["density"]),)
    if set(said) == set(values) == {"tau", "alpha"}:
        how = {"tau": values["tau"], "a": values["alpha"]}
        return (make("method", "distill", teacher=(teacher,), **how),) if how["a"] != 1 else ()
    accepted = ("bits=4 qat", "density=0.25", "tau=2 alpha=0.5")
    raise ValueError(unknown("sweep of the distillation experiment", name, accepted))
