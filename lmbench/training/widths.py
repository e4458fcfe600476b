"""Scores of finished runs at other widths: as trained, at the constraint of the examples, in full.

A net that was trained under a constraint is two results: a small one, its slice, and a large one,
its full width. To quote one of them hides the trade, so each is scored at the same three.
"""

from collections.abc import Sequence

import pandas as pd

from lmbench.config import from_dict
from lmbench.methods.constrain import Constrain
from lmbench.records import Records
from lmbench.run import Run
from lmbench.training.rescore import evaluate_run

SCHEDULED, FULL = "scheduled", "full"


def width_scores(
    digests: Sequence[str],
    *,
    store: Records,
    level: float = 0.5,
    split: str = "test",
    device: str | None = None,
) -> pd.DataFrame:
    """A row for each run and width: run, label (its model's), init_seed, width, and the task's metrics.

    Widths are "scheduled" (what is in force at the run's end), "C=0.5" (or another level) and "full".

    Args:
        level: C of the second width, by the run's own multipliers, or the published ones where it was
            not constrained.

    Raises:
        ValueError: as `evaluate_run`.
    """
    rows = []
    for digest in digests:
        run = from_dict("run", store.record(digest)["run"]["config"])
        for width, methods in _widths(run, level).items():
            found = evaluate_run(digest, store=store, split=split, methods=methods, device=device)
            scored = found[found["level"] == ""].set_index("metric")["value"]
            told = {"run": digest, "label": found["label"].iloc[0], "init_seed": run.init_seed, "width": width}
            rows.append(told | scored.to_dict())
    return pd.DataFrame(rows)


def _widths(run: Run, level: float) -> dict[str, tuple | None]:
    """What is in force at each width; None is what the run ended with."""
    own = [method for method in run.methods if isinstance(method, Constrain)]
    others = tuple(
        held
        for method in run.methods
        if not isinstance(method, Constrain) and (held := method.in_force(run.steps, run.steps)) is not None
    )
    narrow = (own[0] if own else Constrain()).at(level)
    return {SCHEDULED: None, f"C={level:g}": (*others, narrow), FULL: others}
