"""The arms of a test of the integrator: each optimisation by itself, all together, and what it must beat.

An arm is the base with some fields changed, trained like the base. Three more are transformers
(`twins`), and some are the base with fewer iterations, which early stopping has to beat. What
changes no training (stopping) or no number (checkpointing) is no arm. Names of arms are those of
tables and figures.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lmbench.errors import unknown
from lmbench.measure.budget import flops_per_token
from lmbench.measure.flops import parameters
from lmbench.measure.twins import twins
from lmbench.models.base import ModelConfig

BASE = "integrator"
ARMS: dict[str, dict[str, Any]] = {
    "low rank, untied head": {"embedding": "low_rank_published", "tied_head": False},
    "low rank, tied head": {"embedding": "low_rank"},
    "shared controller": {"shared_controller": True},
    "sparse excitation": {"excitation_share": 0.1},
    "no excitation": {"excitation": 0.0},
    "grouped equilibrium": {"equilibrium": "groups"},
    # Two controllers of half the width cost what the plain one does.
    "mixture": {"n_expert": 8, "top_k": 2},
    "dynamic alpha": {"dynamic_alpha": "rms"},
    "three outputs": {"candidate": False},
    # Weights of the published example for language models.
    "three losses": {"mean_weight": 0.1, "speed_weight": 0.01, "energy_weight": 0.001},
    "phases": {"phases": "balanced"},
    # Several times as large as the token vectors that they are added to, at the start.
    "published positions": {"positions": "sinusoidal"},
    "all as described": {
        "embedding": "low_rank",
        "shared_controller": True,
        "equilibrium": "groups",
        "excitation_share": 0.1,
    },
}
"""Fields that differ from the base; ranks and group sizes are the base's."""


def fewer_name(n_iteration: int) -> str:
    """What the arm is called that is trained with so many iterations."""
    return f"trained with {n_iteration} iteration{'s' * (n_iteration != 1)}"


def integrator_arms(
    base: ModelConfig, *, arms: Sequence[str] = (), fewer: Sequence[int] = ()
) -> dict[str, ModelConfig]:
    """The models to train, by name: the base, its arms, the base with fewer iterations, its transformers.

    Args:
        base: an integrator with the vocabulary of the task.
        arms: names of `ARMS`; empty takes all that change something.
        fewer: iterations, each below the base's.

    Raises:
        ValueError: an unknown arm, an arm that changes nothing, or not fewer iterations.
    """
    made = {BASE: base}
    for name in arms or ARMS:
        if name not in ARMS:
            raise ValueError(unknown("arm of the integrator", name, ARMS))
        half = {"d_controller": max(1, base.d_controller // 2)} if name == "mixture" else {}
        made[name] = base.replace(**ARMS[name], **half)
        if made[name] == base and not arms:
            del made[name]
        elif made[name] == base:
            raise ValueError(f"arm {name!r} is the base itself; leave it out, or change the base")
    for n_iteration in fewer:
        if not 1 <= n_iteration < base.n_iteration:
            raise ValueError(
                f"fewer lists {n_iteration} iterations, but the base has {base.n_iteration}; "
                f"accepted: 1 to {base.n_iteration - 1}"
            )
        made[fewer_name(n_iteration)] = base.replace(n_iteration=n_iteration)
    return made | {name: match.config for name, match in twins(base).items()}


def arm_table(models: Mapping[str, ModelConfig]) -> pd.DataFrame:
    """One row an arm: what it changes, and what it costs beside the base.

    Returns:
        Columns model, changed, parameters, FLOPs per target (of training), and both divided by the base's.
    """
    base, table = models[BASE], []
    for name, config in models.items():
        n, flops = parameters(config).total, flops_per_token(config)
        own, of_base = config.to_dict(), base.to_dict()
        changed = {key: own[key] for key in own if own[key] != of_base.get(key, own[key]) and key != "kind"}
        table.append(
            {
                "model": name,
                "changed": ", ".join(f"{key} = {value}" for key, value in changed.items()),
                "parameters": n,
                "to the base": n / parameters(base).total,
                "FLOPs per target": flops,
                "of the base's": f"{flops / flops_per_token(base):.3f}",
            }
        )
    return pd.DataFrame(table)


def arm_pairs(models: Mapping[str, ModelConfig]) -> list[tuple[str, str]]:
    """The declared family: every arm against the base, and the base against every transformer."""
    arms = [(name, BASE) for name in models if name in ARMS]
    return arms + [(BASE, name) for name in models if name.startswith("transformer")]
