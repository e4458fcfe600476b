"""lmbench: an honest benchmark suite for small language models.

The public names below are loaded on first use, so that reading the store and drawing
figures never imports torch.
"""

import importlib
import os
from typing import Any

# libgomp spins at barriers; with a busy neighbour on the cores that slows small steps 30 to
# 100 times. A short spin costs nothing on a quiet machine. Must be set before torch loads.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"

_PUBLIC = {
    "lmbench.config": ("make", "discover"),
    "lmbench.run": ("Run", "Evaluation", "make_run"),
    "lmbench.store": ("Store",),
    "lmbench.records": ("Reference",),
    "lmbench.data.corpus": ("load_corpus",),
    "lmbench.tasks.base": ("load_task",),
    "lmbench.measure.flops": ("cost", "parameters", "train_flops"),
    "lmbench.measure.disagreement": ("disagreement_table",),
    "lmbench.measure.budget": ("equal_parameters", "equal_flops"),
    "lmbench.measure.references": ("references",),
    "lmbench.training.execute": ("run_all", "fit_model"),
    "lmbench.training.plan": ("plan", "plan_table"),
    "lmbench.training.tune": ("tune", "fresh"),
    "lmbench.training.rescore": ("evaluate_run",),
    "lmbench.notebook": ("setup",),
    "lmbench.analysis.table": ("caption", "final_table", "result_table"),
    "lmbench.analysis.references": ("leading_references",),
    "lmbench.analysis.stats": ("summarise", "paired_differences"),
    "lmbench.analysis.reading": ("comparison_reading",),
    "lmbench.analysis.bootstrap": ("item_intervals",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
_MODULES = {"figures": "lmbench.analysis.figures", "sweeps": "lmbench.analysis.sweeps"}
__all__ = sorted([*_HOME, *_MODULES, "model", "protocol", "task"])


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in ("model", "task", "protocol"):
        from functools import partial

        from lmbench.config import make

        return partial(make, name)
    raise AttributeError(f"module 'lmbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
