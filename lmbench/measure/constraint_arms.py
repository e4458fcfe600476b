"""The arms that put constraint acceleration to the test, one factor at a time.

The base is trained at full width on all data. Others are narrower from the start (small: the sizes
that the published schedule has at C = 0.5; funnel: the literal compression funnel, which keeps
the products of attention at full size), constrained in training by a constant or by the
published schedule and parts of it, or trained on a share of the text. Random selection of the
same share stands beside every other one. Names of arms are those of tables and figures.
"""

from collections.abc import Sequence

from lmbench.config import make
from lmbench.errors import unknown
from lmbench.measure.arms import Arm
from lmbench.measure.funnel import funnel
from lmbench.methods.base import Method
from lmbench.methods.constrain import Constrain
from lmbench.models.base import ModelConfig

BASE, SMALL, FUNNEL, SCHED = "base", "small", "funnel", "sched"
OPTIMUM = 0.5  # C of the published examples
CONSTANT = "const C="
# Curves that a part of the published schedule is left out of, and other readings of "constraint".
SCHEDULES = {
    SCHED: {},
    "sched without oscillation": {"curve": "constraint_without_oscillation"},
    "sched without warm-up": {"curve": "constraint_without_warmup"},
    "sched without relaxation": {"curve": "constraint_without_relaxation"},
    "sched, random units": {"rule": "random", "execution": "mask"},
    "sched, heaviest units": {"rule": "importance", "execution": "mask"},
    "sched, decaying units": {"inactive": "decay"},
}
DATA = {"random": "select_random", "stratified": "select_stratified"}
DATA |= {"filtered": "select_filtered", "ordered": "select_ordered"}
PARTS = {"heads": "heads", "embedding": "embedding", "feed-forward": "feedforward"}
"""Kinds of units, of which an arm such as "heads c=0.5" takes out a share and leaves the others whole."""
UNIQUE = " unique"  # at the end of an arm that sees its share of the text as often as it takes


def arms_of_constraints(
    base: ModelConfig,
    names: Sequence[str],
    *,
    share: float = 0.35,
    piece: int | None = 512,
    round_to: int = 8,
    execution: str = "slice",
) -> dict[str, Arm]:
    """The arms of these names.

    Args:
        base: a stack of attention and dense feed-forwards with the vocabulary of the task.
        names: such as "base", "small", "const C=0.5", "sched", "base, random 35%", "sched, filtered 35%",
            "base, random 35% unique".
        share: of the training text, in the arms with data.
        piece: tokens of the units that are selected.
        round_to: multiple that widths are rounded to.
        execution: of constrained passes, "slice" or "mask".

    Raises:
        ValueError: an unknown arm.
    """
    how = {"round_to": round_to, "execution": execution}

    def arm(name: str) -> Arm:
        architecture, _, data = name.partition(", ")
        if not data or name in SCHEDULES:
            return Arm(*_architecture(base, name, how))
        model, methods = _architecture(base, architecture, how)
        selected, is_unique = _selection(name, data, share=share, piece=piece)
        return Arm(model, (*methods, selected), share=1.0 if is_unique else share)

    return {name: arm(name) for name in names}


def _architecture(
    base: ModelConfig, name: str, how: dict[str, object]
) -> tuple[ModelConfig, tuple[Method, ...]]:
    if name == BASE:
        return base, ()
    if name == SMALL:
        half = Constrain(curve=OPTIMUM, round_to=how["round_to"], execution="slice")
        return half.executed(base, steps=1)[0][1], ()
    if name == FUNNEL:
        return funnel(base, OPTIMUM), ()
    if name in SCHEDULES:
        return base, (make("method", "constrain", **how | SCHEDULES[name]),)
    if name.startswith(CONSTANT):
        return base, (make("method", "constrain", curve=_level(name, CONSTANT), **how),)
    part, _, rest = name.partition(" ")
    if part in PARTS and rest.startswith("c="):
        shares = dict.fromkeys(PARTS.values(), 0.0) | {PARTS[part]: _level(rest, "c=")}
        return base, (make("method", "constrain", curve=1.0, **shares, **how),)
    accepted = (BASE, SMALL, FUNNEL, f"{CONSTANT}0.5", *(f"{one} c=0.5" for one in PARTS), *SCHEDULES)
    raise ValueError(unknown("arm of the constraint experiment", name, accepted))


def _level(name: str, front: str) -> float:
    try:
        return float(name.removeprefix(front))
    except ValueError:
        raise ValueError(f"arm {name!r} needs a number behind {front!r}; accepted: '{front}0.5'") from None


def _selection(name: str, data: str, *, share: float, piece: int | None) -> tuple[Method, bool]:
    is_unique = data.endswith(UNIQUE)
    rule, _, said = data.removesuffix(UNIQUE).partition(" ")
    if rule not in DATA or said != f"{share:.0%}":
        accepted = [f"{one} {share:.0%}{end}" for one in DATA for end in ("", UNIQUE)]
        raise ValueError(unknown(f"data of arm {name!r}:", data, accepted))
    return make("method", DATA[rule], share=share, piece=piece, form="U" if is_unique else "S"), is_unique
