"""Settings of every training method at work, for the contract tests: none of them is neutral."""

from lmbench.config import make

NEUTRAL = {
    "constrain": {"curve": 0.0},
    "quantize": {"bits": 32},
    "prune": {"density": 1.0},
    "distill": {"a": 1.0, "entropy": 0.0},
    "select": {"share": 1.0},
}
"""The setting of each kind that changes nothing."""


def at_work(teacher):
    """name -> methods of a run, some alone and some together."""
    one = {
        "constrain": ("constrain", {}),
        "constrain_random": ("constrain", {"rule": "random"}),
        "constrain_importance": ("constrain", {"rule": "importance", "refresh_every": 3}),
        "constrain_slice": ("constrain", {"execution": "slice", "curve": "constraint"}),
        "quantize": ("quantize", {"bits": 4}),
        "quantize_lsq": ("quantize", {"bits": 3, "scheme": "lsq", "start": 0.4}),
        "quantize_ternary": (
            "quantize",
            {"bits": 1.58, "activations": 8, "granularity": "group", "group": 4},
        ),
        "prune": ("prune", {"density": 0.25, "every": 2, "start": 0.1, "finish": 0.6}),
        "prune_hard": ("prune", {"density": 0.5, "every": 2, "shadow": "hard", "scope": "global"}),
        "prune_units": ("prune", {"density": 0.5, "parts": ("feedforward",), "structure": "units"}),
        "prune_2:4": ("prune", {"density": 0.5, "structure": "2:4"}),
        "distill": ("distill", {"teacher": (teacher,)}),
        "distill_ramp": ("distill_v1_corrected", {"teacher": (teacher,)}),
        "distill_cached": ("distill", {"teacher": (teacher,), "cache": 4}),
        "penalty": ("confidence_penalty", {}),
        "select": ("select_stratified", {"share": 0.5, "piece": 32}),
        "select_ordered": ("select_ordered", {"share": 0.5, "piece": 32, "dedup": None}),
        "select_masked": ("select_stratified", {"share": 0.5, "piece": 4, "packing": "masked"}),
    }
    made = {name: (make("method", kind, **fields),) for name, (kind, fields) in one.items()}
    return made | {
        "joint": (*made["prune"], *made["quantize_lsq"], *made["distill"]),
        "heaviest, pruned and quantized": (
            *made["constrain_importance"],
            *made["prune"],
            *made["quantize_lsq"],
        ),
        "narrow and quantized": (*made["constrain"], *made["quantize"]),
        "narrow, distilled and masked": (*made["constrain"], *made["distill"], *made["select_masked"]),
        "sliced and masked": (*made["constrain_slice"], *made["select_masked"]),
        "distill_cached and masked": (*made["distill_cached"], *made["select_masked"]),
        "all": (*made["constrain"], *made["prune"], *made["quantize"], *made["distill"], *made["select"]),
    }


NAMES = (
    "constrain", "constrain_random", "constrain_importance", "constrain_slice", "quantize", "quantize_lsq",
    "quantize_ternary", "prune", "prune_hard", "prune_units", "prune_2:4", "distill", "distill_ramp",
    "distill_cached", "penalty", "select", "select_ordered", "select_masked", "joint",
    "heaviest, pruned and quantized", "narrow and quantized", "narrow, distilled and masked",
    "sliced and masked", "distill_cached and masked", "all",
)  # fmt: skip
