"""Names of the arms of the distillation study, and what a name says.

A cell of the 2^4 design is named by what is switched on, joined by "+" in the order of `FACTORS`;
with nothing on it is the student that learns from the targets alone. A sweep's arm is named by its
settings, such as `bits=4 ptq` or `tau=2 alpha=0.5`. Tables and figures group arms by family.
"""

import itertools
from collections.abc import Iterable, Sequence

import pandas as pd

TEACHER, HARD, NONE, SMALL = "teacher", "hard", "none", "dense small"
LONGER = "hard longer"  # hard labels with the FLOPs that a distilled student and its teacher's passes take
FEWEST, EQUAL_BYTES = "bits=2 qat", "equal bytes"  # such as `equal bytes bits=8`, in a file as large as of 2
FACTORS = ("Q", "P", "KD", "ENT")
FACTOR_NAMES = {"Q": "quantising", "P": "pruning", "KD": "distilling", "ENT": "rewarding entropy"}
V1, V1_CORRECTED, V2, V2_CORRECTED = "V1 literal", "V1 corrected", "V2 literal", "V2 corrected"
JOINT, SEQUENTIAL = "joint", ("prune then quantize", "quantize then prune")
NUMBERS = ("bits", "density", "tau", "alpha", "power", "entropy")
"""What a name may set; other words of a name are its method."""
_FAMILIES = {
    TEACHER: "teacher",
    **dict.fromkeys((HARD, NONE, SMALL, LONGER), "dense student"),
    **dict.fromkeys((V1, V1_CORRECTED, V2, V2_CORRECTED), "published objective"),
    **dict.fromkeys((JOINT, *SEQUENTIAL), "joint or in sequence"),
}  # fmt: skip
_SWEEPS = {"tau": "temperature and alpha", "alpha": "temperature and alpha", "entropy": "entropy weight"}
_SWEEPS |= {"bits": "bits", "density": "density"}
FAMILIES = (
    "teacher", "dense student", "factorial cell", "published objective", "joint or in sequence", "bits",
    "density", "temperature and alpha", "entropy weight", "other",
)  # fmt: skip


def cell(on: Iterable[str], *, factors: Sequence[str] = FACTORS) -> str:
    """The arm in which these factors are on: `Q+KD`, and `hard` with none of them.

    Raises:
        ValueError: a factor that the design does not have.
    """
    on = set(on)
    odd = sorted(on - set(factors))
    if odd:
        raise ValueError(f"factor {odd[0]!r} is not one of the design; accepted: {', '.join(factors)}")
    return "+".join(name for name in factors if name in on) or HARD


def factorial_cells(*, half: bool = False, factors: Sequence[str] = FACTORS) -> list[str]:
    """The arms of the full design, or of the half in which an even number of factors is on.

    With four factors that half has the defining relation I = Q×P×KD×ENT: main effects are confused with
    interactions of three factors, and the interactions of two factors with each other in pairs.
    """
    counts = range(0, len(factors) + 1, 2 if half else 1)
    return [cell(on, factors=factors) for count in counts for on in itertools.combinations(factors, count)]


def factors_of(label: str, *, factors: Sequence[str] = FACTORS) -> frozenset[str] | None:
    """What is on in a cell; None for an arm that is no cell."""
    if label in (HARD, NONE):
        return frozenset()
    on = label.split("+")
    is_cell = set(on) <= set(factors) and label == cell(on, factors=factors)
    return frozenset(on) if is_cell else None


def settings_of(label: str) -> dict[str, float | str]:
    """The numbers that a name sets, and its other words: bits 4.0 and method `ptq` of `bits=4 ptq`."""
    pairs = [word.partition("=") for word in label.split()]
    if not any(name in NUMBERS for name, equals, _ in pairs if equals):
        return {}
    settings: dict[str, float | str] = {
        name: float(value) for name, equals, value in pairs if equals and name in NUMBERS
    }
    rest = " ".join(f"{name}{equals}{value}" for name, equals, value in pairs if name not in NUMBERS)
    return settings | ({"method": rest} if rest else {})


def with_settings(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of arms whose names set something, with a column for each setting that any of them has.

    A setting is missing where the name does not say it, also where a column of that name was there.
    """
    found = [settings_of(label) for label in runs["label"]]
    rows = runs[[bool(settings) for settings in found]]
    settings = pd.DataFrame([one for one in found if one], index=rows.index)
    return rows.assign(**{name: settings[name] for name in settings})


def is_rounded_after(label: str) -> bool:
    """Whether an arm's weights are rounded after training: `bits=2 ptq mse`, `bits=2 gptq`."""
    return str(settings_of(label).get("method", "")).startswith(("ptq", "gptq"))


def rounding_note(labels: Iterable[str]) -> str:
    """That 2 bits after training are three values, where an arm has them; "" where none does.

    Weights are rounded after training to codes that lie symmetrically around 0 (`layers.quantizer_grids`):
    of the four values of 2 bits one is never used, which a learned scale in training does use.
    """
    if any(is_rounded_after(label) and settings_of(label).get("bits") == 2 for label in labels):
        return "after training, 2 bits have the three values of a symmetric grid, as 1.58 bits have"
    return ""


def family_of(label: str) -> str:
    """The one of `FAMILIES` that an arm belongs to, by its name."""
    if label in _FAMILIES:
        return _FAMILIES[label]
    if factors_of(label):
        return "factorial cell"
    settings = settings_of(label)
    return next((family for name, family in _SWEEPS.items() if name in settings), "other")
