"""Named combinations of the integrator's optimisations: its published levels, and one of today.

    integrator_level1             low-rank embedding under an untied full head, early stopping
    integrator_level1_published   the same with the published stopping rule, which starts at mu
    integrator_ultra              as published: three-output cells, grouped equilibria, no excitation
    integrator_ultra_described    as described: one shared controller, sparse excitation, a head tied
                                  through the factors
    integrator_mixture            eight controllers, two for each token, at the cost of the plain one
    integrator_modern             the same cell in a block of today

What a guide says of a level and what its code does are two variants where they differ.
"""

from typing import Any

_LOW_RANK = {"embedding": "low_rank_published", "tied_head": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "integrator_level1": _LOW_RANK | {"stopping": "relative", "min_iteration": 2},
    "integrator_level1_published": _LOW_RANK | {"stopping": "published", "min_iteration": 2, "start": "mu"},
    "integrator_ultra": _LOW_RANK | {"candidate": False, "equilibrium": "groups", "excitation": 0.0},
    "integrator_ultra_described": {
        "embedding": "low_rank",
        "shared_controller": True,
        "equilibrium": "groups",
        "excitation_share": 0.1,
    },
    # Two controllers of half the width cost what the plain cell's one does; published are eight of 64.
    "integrator_mixture": {"n_expert": 8, "top_k": 2, "d_controller": 32},
    "integrator_modern": {
        "norm": "rmsnorm",
        "positions": "rope",
        "activation": "swiglu",
        "qk_norm": True,
        "bias": False,
    },
}
"""Fields of `models.integrator.IntegratorConfig` by the name of the variant."""
