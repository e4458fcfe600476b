"""lmbench: an honest benchmark suite for small language models.

The public names below are loaded on first use, so that reading the store and drawing
figures never imports torch.
"""

import importlib
import os
import sys
from typing import Any

# libgomp, torch's thread library on Linux, lets a thread that waits for the others spin. With a busy
# neighbour on the cores the others wait for the spinning one's core, and small steps take 30 to 100
# times as long. A short spin costs nothing on a quiet machine. libgomp reads this once, when torch is
# loaded; it stands here because this module runs before any other of the package, and kernels, batch
# jobs and workers inherit it.
if sys.platform == "linux":
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"

_PUBLIC = {
    "lmbench.config": ("make", "discover"),
    "lmbench.run": ("Run", "Evaluation"),
    "lmbench.assignments": ("make_run",),
    "lmbench.store": ("Store",),
    "lmbench.records": ("Reference",),
    "lmbench.data.corpus": ("load_corpus",),
    "lmbench.tasks.base": ("load_task",),
    "lmbench.measure.flops": ("parameters", "train_flops"),
    "lmbench.measure.cost": ("cost", "cost_table", "families", "ledger_table"),
    "lmbench.measure.generate": ("generate",),
    "lmbench.measure.disagreement": ("disagreement_table",),
    "lmbench.measure.budget": ("equal_parameters", "equal_flops"),
    "lmbench.measure.references": ("references",),
    "lmbench.training.execute": ("run_all", "fit_model"),
    "lmbench.measure.distillation_laws": ("formula_counts",),
    "lmbench.measure.integrator_tables": ("saving_table", "size_table"),
    "lmbench.measure.integrator_counts": ("count_claims",),
    "lmbench.measure.integrator_arms": ("arm_pairs", "arm_table", "fewer_name", "integrator_arms"),
    "lmbench.training.plan": ("distinct_labels", "plan", "plan_table"),
    "lmbench.training.tune": ("tune", "fresh"),
    "lmbench.training.rescore": ("evaluate_run",),
    "lmbench.training.exits": ("exit_curves",),
    "lmbench.analysis.exits": ("exit_reading",),
    "lmbench.training.latency": ("latency_rows",),
    "lmbench.tracking": ("CapabilityTracker",),
    "lmbench.training.levels": ("ladders", "level_scores", "runs_of", "shift_scores", "shifts"),
    "lmbench.training.calibration": ("calibrations",),
    "lmbench.training.robustness": ("domain_scores", "flip_curves"),
    "lmbench.analysis.ladders": ("divergence_note", "normalise"),
    "lmbench.analysis.onset": ("onsets",),
    "lmbench.analysis.emerged": ("emerged_table", "metric_dependence"),
    "lmbench.analysis.order": ("onset_table", "order_table"),
    "lmbench.analysis.earlier_table": ("claim_sentence", "earlier_table"),
    "lmbench.analysis.planning": ("plan_seeds",),
    "lmbench.analysis.emergence_words": ("earlier_caption", "earlier_sentences"),
    "lmbench.analysis.emergence": ("emergence_reading", "ladder_table", "seeds_needed", "tracked"),
    "lmbench.analysis.generalization": ("family_table", "gaps", "generalization_sentences"),
    "lmbench.analysis.text_domains": ("domain_reading", "domain_table"),
    "lmbench.notebook.explore": ("threshold_explorer",),
    "lmbench.training.integrator_scores": ("iteration_scores",),
    "lmbench.training.checkpointing": ("checkpointing_costs",),
    "lmbench.measure.arms": ("Arm",),
    "lmbench.measure.bounds_coverage": ("family_coverage",),
    "lmbench.training.arms": (
        "arm_of",
        "arm_plan",
        "fresh_arms",
        "longer_arms",
        "named",
        "plan_arms",
        "tune_arms",
    ),
    "lmbench.training.artifacts": ("artifacts",),
    "lmbench.training.agreement": ("agreements",),
    "lmbench.training.costs": ("active_flops",),
    "lmbench.training.bounds": ("run_bounds",),
    "lmbench.training.lowbit": ("low_bit_rows",),
    "lmbench.training.widths": ("slice_latencies", "width_course", "width_scores"),
    "lmbench.measure.constraint_arms": ("arms_of_constraints",),
    "lmbench.notebook": ("setup",),
    "lmbench.analysis.table": ("caption", "edge_note", "final_table", "result_table"),
    "lmbench.analysis.references": ("leading_references",),
    "lmbench.analysis.stats": ("summarise", "paired_differences"),
    "lmbench.analysis.reading": ("comparison_reading",),
    "lmbench.analysis.reversals": ("rank_table", "reversals", "reversal_reading"),
    "lmbench.analysis.bootstrap": ("item_intervals",),
    "lmbench.analysis.time_to_quality": (
        "crossings",
        "crossing_table",
        "crossing_ratios",
        "differing_settings",
    ),
    "lmbench.analysis.crossing_reading": ("crossing_reading",),
    "lmbench.analysis.cost_tables": ("decode_table", "latency_table", "memory_table", "readable_memory"),
    "lmbench.analysis.cost_reading": ("cost_reading",),
    "lmbench.analysis.integrator_checkpointing": ("checkpointing_table",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
_MODULES = {
    "against": "lmbench.analysis.against",
    "against_panel": "lmbench.analysis.against_panel",
    "bounds_table": "lmbench.analysis.bounds_table",
    "calibration_figures": "lmbench.analysis.calibration_figures",
    "compression": "lmbench.analysis.compression",
    "compression_speed": "lmbench.analysis.compression_speed",
    "claims": "lmbench.analysis.claims",
    "constraint_capabilities": "lmbench.analysis.constraint_capabilities",
    "constraint_claims": "lmbench.analysis.constraint_claims",
    "constraint_costs": "lmbench.analysis.constraint_costs",
    "constraint_figures": "lmbench.analysis.constraint_figures",
    "constraint_forests": "lmbench.analysis.constraint_forests",
    "constraint_quality": "lmbench.analysis.constraint_quality",
    "constraint_names": "lmbench.analysis.constraint_arms",
    "constraint_shape": "lmbench.analysis.constraint_shape",
    "constraint_widths": "lmbench.analysis.constraint_widths",
    "cost_figures": "lmbench.analysis.cost_figures",
    "distillation_arms": "lmbench.measure.distillation_arms",
    "distillation_claims": "lmbench.analysis.distillation_claims",
    "distillation_evidence": "lmbench.analysis.distillation_evidence",
    "distillation_figures": "lmbench.analysis.distillation_figures",
    "distillation_formulas": "lmbench.analysis.distillation_formulas",
    "distillation_frames": "lmbench.analysis.distillation_frames",
    "distillation_registry": "lmbench.analysis.distillation_registry",
    "emergence_curves": "lmbench.analysis.emergence_curves",
    "emergence_ratios": "lmbench.analysis.emergence_ratios",
    "emergence_survival": "lmbench.analysis.emergence_survival",
    "generalization_figures": "lmbench.analysis.generalization_figures",
    "equivalence": "lmbench.analysis.equivalence",
    "factorial": "lmbench.analysis.factorial",
    "factorial_design": "lmbench.analysis.factorial_design",
    "factorial_simple": "lmbench.analysis.factorial_simple",
    "figures": "lmbench.analysis.figures",
    "front_panel": "lmbench.analysis.front_panel",
    "fronts": "lmbench.analysis.fronts",
    "integrator_claims": "lmbench.analysis.integrator_claims",
    "integrator_iterations": "lmbench.analysis.integrator_iterations",
    "interaction": "lmbench.analysis.interaction",
    "sweeps": "lmbench.analysis.sweeps",
    "temperature_grid": "lmbench.analysis.temperature_grid",
}
__all__ = sorted([*_HOME, *_MODULES, "method", "model", "protocol", "task"])


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in ("method", "model", "task", "protocol"):
        from functools import partial

        from lmbench.config import make

        return partial(make, name)
    raise AttributeError(f"module 'lmbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
