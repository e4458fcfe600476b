"""The arms that put quantized knowledge distillation to the test: a 2^4 factorial, sweeps, published forms.

The four factors are Q (quantised weights and activations), P (pruned weights), KD (a teacher beside
the targets) and ENT (entropy of the student rewarded); an arm is named by those that it has,
"hard" by none. Every arm trains the same student on the same batches for as many steps, so
that what the teacher costs is the only difference in compute, and it is counted. Two sorts of arms are
other models, and controls: "dense small" has as many parameters as the pruned student has weights left, and
"equal bytes bits=8" fills with 8 bits the file that the student fills with 2.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from lmbench.config import make
from lmbench.errors import unknown
from lmbench.layers.masks import kept
from lmbench.measure.arms import Arm
from lmbench.measure.budget import equal_parameters
from lmbench.measure.equal_bytes import equal_bytes
from lmbench.measure.flops import parameters
from lmbench.methods.base import Method
from lmbench.methods.installed import rows_of
from lmbench.methods.parts import parts_of
from lmbench.methods.prune import Prune
from lmbench.models.base import ModelConfig, on_meta
from lmbench.run import Run

FACTORS = ("Q", "P", "KD", "ENT")
HARD = "hard"
JOINT = "Q+P"
SMALL = "dense small"
SMALL_MISS = 0.05  # relative; a control further off in parameters would decide by its size
EQUAL_BYTES = "equal bytes"
MORE_BITS = (3, 4, 5, 6, 8)  # than the 2 whose file is filled
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
            "bits=4 qat", "density=0.25", "tau=4 alpha=0.5"; "dense small", the control of the cell P;
            "equal bytes bits=8", that of "bits=2 qat".
        bits, activations, density, a, tau, entropy, scheme: of the factors where they are on.

    Raises:
        ValueError: an unknown arm, or as `dense_small` and `equal_bytes`.
    """
    factors = {
        "Q": ("quantize", {"bits": bits, "activations": activations, "scheme": scheme}),
        "P": ("prune", {"density": density}),
        "KD": ("distill", {"a": a, "tau": tau, "teacher": (teacher,)}),
    }

    def methods(name: str) -> tuple[Method, ...]:
        if name == SMALL:
            return ()
        if name.startswith(EQUAL_BYTES):
            return (make("method", "quantize", bits=_bits(name), scheme=scheme),)
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

    def model(name: str) -> ModelConfig:
        if name == SMALL:
            return dense_small(student, density=density)
        return equal_bytes(student, bits=_bits(name)) if name.startswith(EQUAL_BYTES) else student

    return {name: Arm(model(name), methods(name)) for name in names}


def dense_small(student: ModelConfig, *, density: float) -> ModelConfig:
    """The dense net of the student's family and depth with as many parameters as a pruned student has left.

    Raises:
        ValueError: as `equal_parameters`, or none within `SMALL_MISS`.
    """
    target = nonzero_parameters(student, make("method", "prune", density=density))
    match = equal_parameters(student, target=target)
    if abs(match.miss) > SMALL_MISS:
        raise ValueError(
            f"{SMALL!r} needs {target:,} parameters, and the nearest {student.name} has "
            f"{parameters(match.config).total:,}; accepted: within {SMALL_MISS:.0%}, as wider students have"
        )
    return match.config


def _bits(name: str) -> float:
    known = {f"{EQUAL_BYTES} bits={bits}": float(bits) for bits in MORE_BITS}
    if name not in known:
        raise ValueError(unknown("arm of equal bytes", name, known))
    return known[name]


def nonzero_parameters(model: ModelConfig, pruning: Prune) -> int:
    """Parameters that are left when each tensor has been cut to its share; vectors and tables count too."""
    bare = on_meta(model)
    sizes = [rows_of(bare.get_parameter(part.weight), part).numel() for part in parts_of(bare, pruning.parts)]
    return parameters(model).total - sum(size - kept(pruning.density, size) for size in sizes)


def _made(kind: str, fields: dict[str, Any], teacher: Run) -> Method:
    taught = {"teacher": (teacher,)} if kind.startswith("distill") else {}
    return make("method", kind, **fields | taught)


def _cell(name: str, factors: dict[str, tuple[str, dict[str, Any]]], entropy: float) -> tuple[Method, ...]:
    has = () if name == HARD else tuple(name.split("+"))
    for factor in has:
        if factor not in FACTORS:
            raise ValueError(
                unknown("arm of the distillation experiment", name, [*cells(half=False), *PUBLISHED, SMALL])
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
