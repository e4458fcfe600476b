"""Made-up results of the study of constraints, with known answers: what its analysis is tested on."""

import numpy as np
import pandas as pd

STEPS, EVERY = 400, 20
QUICK = (
    "base", "small", "const C=0.3", "const C=0.5", "sched", "base, random 35%", "base, filtered 35%",
    "sched, filtered 35%",
)  # fmt: skip
FINAL = {
    "base": 2.0, "small": 2.2, "funnel": 2.1, "sched": 2.1,
    "base, random 35%": 2.05, "base, filtered 35%": 2.04,
    "sched, filtered 35%": 2.16, "sched, random 35%": 2.18,
    "base, random 35% unique": 2.02, "base, filtered 35% unique": 2.0,
    "sched without oscillation": 2.1, "sched without warm-up": 2.11, "sched without relaxation": 2.13,
}  # fmt: skip
FULL = list(QUICK) + [f"const C={c / 10:.1f}" for c in (1, 2, 4, 6, 7)] + [a for a in FINAL if a not in QUICK]
"""Arms of the quick and of the full preset."""


def level(arm):
    """C of an arm; that of the schedule is its mean."""
    return float(arm[8:]) if arm.startswith("const") else 0.481 if arm.startswith("sched") else 0.0


def final(arm):
    return 2.0 + 0.4 * level(arm) ** 2 if arm.startswith("const") else FINAL[arm]


def share(arm):
    """FLOPs of a step over those of the base."""
    return 0.22 if arm == "small" else (1 - level(arm)) * (1 - 1.3 * level(arm))


def curve_of(arm, step, *, noise):
    """Loss at a step: a power law down to the arm's final loss."""
    return (final(arm) + noise) * (step / STEPS) ** -0.15


def frames(arms=QUICK, *, seeds=3, noise=0.004, jobs=1, losses=None):
    """`runs` and `rows` of these arms; `losses` overrides final losses."""
    rng, runs, rows = np.random.default_rng(0), [], []
    of_seed = rng.normal(0, 5 * noise, seeds)
    for arm in arms:
        for seed in range(seeds):
            off = of_seed[seed] + rng.normal(0, noise) + (losses or {}).get(arm, final(arm)) - final(arm)
            fixed = {
                "run": f"{arm}/{seed}",
                "label": arm,
                "init_seed": seed,
                "device": "cpu: test",
                "jobs": jobs,
            }
            steps = STEPS * 35 // 100 // EVERY * EVERY if arm.endswith("35%") else STEPS
            for step in range(EVERY, steps + 1, EVERY):
                cost = {"step": step, "tokens": step * 1024, "flops": step * 1e9 * share(arm)}
                cost |= {"seconds": step * 0.02 * share(arm) ** 0.5 * (1 + 0.01 * seed)}
                at = curve_of(arm, step * STEPS / steps, noise=off)
                rows.append(fixed | cost | {"split": "valid", "metric": "bits_per_byte", "value": at})
            rows.append(rows[-1] | {"split": "", "metric": "optimizer_flops", "value": 0.0})
            runs.append(
                fixed
                | {"bits_per_byte": at, "nll": at * 0.7, "train_flops": cost["flops"]}
                | {"train_seconds": cost["seconds"], "parameters": 125_000 if arm == "small" else 580_000}
                | {"model.n_head": 8, "task.corpus": "plays"}
            )
    return pd.DataFrame(runs), pd.DataFrame(rows)


def widths_of(runs, arms=("base", "sched"), widths=("scheduled", "C=0.5", "full")):
    """Scores of finished weights at several widths."""
    off = {"scheduled": 0.0, "C=0.5": 0.06, "C=0.3": 0.0, "full": 0.02}
    used = {"scheduled": 240_000, "C=0.5": 116_000, "C=0.3": 260_000, "full": 580_000}
    parts = []
    for width in widths:
        own = runs[runs["label"].isin(arms)].copy()
        is_base = own["label"] == "base"
        own["bits_per_byte"] += off[width] * (1 + 9 * is_base)
        parts.append(own.assign(width=width, parameters=used[width]))
    return pd.concat(parts, ignore_index=True)[
        ["run", "label", "init_seed", "width", "bits_per_byte", "parameters"]
    ]


def course():
    """Units in use along the published schedule, of 8 heads, 128 features and 256 feed-forward units."""
    table = []
    for step in range(STEPS):
        p = step / STEPS
        c = (
            0.3 + 2 * p
            if p < 0.1
            else 0.5 + 0.05 * np.sin(20 * (p - 0.1) / 0.8)
            if p < 0.9
            else 0.5 - 2 * (p - 0.9)
        )
        kept = (int(8 * (1 - 1.2 * c)), int(128 * (1 - c)), int(256 * (1 - 1.4 * c)))
        table.append((step, *kept))
    return pd.DataFrame(table, columns=["step", "n_head", "d_model", "d_ff"])
