"""The exit curve of a stored run: its weights loaded, its own task scored."""

from collections.abc import Sequence

import pandas as pd

from lmbench.config import Config
from lmbench.measure.early_exit import THRESHOLDS, exit_curve
from lmbench.models.early_exit import EarlyExit
from lmbench.store import Store
from lmbench.tasks.base import View, load_task
from lmbench.training.execute import resolve_device
from lmbench.training.rescore import load_run


def exit_curve_of_run(
    digest: str,
    *,
    store: Store,
    split: str = "valid",
    thresholds: Sequence[float] = THRESHOLDS,
    protocol: Config | None = None,
    device: str | None = None,
) -> pd.DataFrame:
    """See `measure.early_exit.exit_curve`; what is None is as in the run.

    A threshold is a choice: read it off the valid split, and the test split only once it is made.

    Raises:
        ValueError: unknown run, a run without weights, or of a model without exits.
    """
    where = resolve_device(device)
    loaded = load_run(digest, store=store, device=where)
    run, model = loaded.run, loaded.model
    if not isinstance(model, EarlyExit):
        raise ValueError(f"run {digest} is of model {run.model.kind!r}; exit curves need 'early_exit'")
    return exit_curve(
        model,
        run.model,
        load_task(run.task),
        split=split,
        protocol=protocol or run.protocol,
        view=View(seq_len=run.model.seq_len, is_window=run.model.is_window, device=where),
        thresholds=thresholds,
        eval_seed=run.eval_seed,
    )
