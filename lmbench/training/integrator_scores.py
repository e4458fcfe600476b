"""Trained integrators scored with fewer or more iterations, and with early stopping: nothing is trained.

Each score is an `Evaluation` of the store. Where a rule stops the iterations their number depends on
the text; it is the mean over the scored positions and the layers, as every token stops by itself,
and beside it what a batch waits for when it goes on until its slowest token is done.
"""

from collections.abc import Sequence

import pandas as pd

from lmbench.asked import config_of
from lmbench.models.base import ModelConfig
from lmbench.records import Records
from lmbench.training.rescore import evaluate_run

CUT, STOPPED, PUBLISHED = "cut off", "stopping", "published rule"
"""How a score was reached: so many iterations for all tokens; the relative rule; the published one."""
KEPT = ("bits_per_byte", "nll", "perplexity", "accuracy")


def iteration_scores(
    digests: Sequence[str],
    *,
    iterations: Sequence[int],
    tolerances: Sequence[float],
    min_iteration: int,
    store: Records,
    device: str | None = None,
) -> pd.DataFrame:
    """Score finished runs of integrators on the test split, each in every way.

    Args:
        digests: runs whose weights were kept.
        iterations: for all tokens alike; 0 leaves the cell's start as it is.
        tolerances: of the relative rule. The published rule is scored with its published tolerance.
        min_iteration: steps that every token takes under both rules.

    Returns:
        One row for each run and way: trained (digest), init_seed, how (`CUT`, `STOPPED`, `PUBLISHED`),
        setting (iterations or tolerance), at_most (iterations), iterations (mean per position), of_batch
        (mean of what a batch waits for), and those of `KEPT` that the task has.

    Raises:
        ValueError: runs without weights, or a read-only store that lacks an evaluation.
    """
    table = []
    for digest in digests:
        run = config_of(digest, store=store)
        for how, setting, model in _ways(run.model, iterations, tolerances, min_iteration):
            rows = evaluate_run(digest, store=store, model=model, device=device)
            found = rows[rows["split"] == "test"].set_index("metric")["value"]
            fixed = {"trained": digest, "init_seed": run.init_seed, "how": how, "setting": setting}
            n = float(model.n_iteration)
            took = {"iterations": found.get("iterations", n), "of_batch": found.get("iterations_of_batch", n)}
            scores = {name: found[name] for name in KEPT if name in found}
            table.append(fixed | {"at_most": model.n_iteration} | took | scores)
    return pd.DataFrame(table)


def _ways(
    model: ModelConfig, iterations: Sequence[int], tolerances: Sequence[float], min_iteration: int
) -> list[tuple[str, float, ModelConfig]]:
    plain = model.replace(stopping="off")
    ruled = {"min_iteration": min_iteration}
    published = type(model).model_fields["tolerance"].default
    ways = [(CUT, float(n), plain.replace(n_iteration=n)) for n in iterations]
    ways += [(STOPPED, eps, model.replace(stopping="relative", tolerance=eps, **ruled)) for eps in tolerances]
    rule = model.replace(stopping="published", tolerance=published, **ruled)
    return [*ways, (PUBLISHED, published, rule)]
