"""Sweeps of one setting: which runs belong to which cell, their table, and the published findings.

A sweep is (model, field, values). A regime is how its cells were trained: the published
protocol, or a dense budget. The findings of the published study are judged per regime.
"""

import itertools
from collections.abc import Mapping, Sequence

import pandas as pd

from lmbench.analysis.findings import (
    capacity_must_match_compute,
    depth_or_context_degrades,
    learned_positions_beat_rope,
)
from lmbench.analysis.formats import HIGH, LOW
from lmbench.analysis.stats import paired_differences, summarise
from lmbench.analysis.table import final_table
from lmbench.analysis.verdict import comparison_sentences

UNIT = "NLL (nats per token)"
Sweep = Sequence  # (model name, field, values)


def sweep_results(
    rows: pd.DataFrame, groups: Mapping[tuple[str, str], Sequence[str]], sweeps: Mapping[str, Sweep]
) -> pd.DataFrame:
    """One row per run and cell: the final table with columns sweep, regime, level, seed, value.

    Args:
        rows: tidy rows of all runs.
        groups: (sweep, regime) -> digests of its runs. A run may stand in several.
    """
    runs = final_table(rows).set_index("run", drop=False)
    parts = []
    for (sweep, regime), digests in groups.items():
        part = runs.loc[list(digests)].assign(sweep=sweep, regime=regime)
        part["level"] = part[f"model.{sweeps[sweep][1]}"].map(_written)
        parts.append(part)
    out = pd.concat(parts, ignore_index=True)
    return out.assign(seed=out["init_seed"], value=out["nll"])


def sweep_table(
    results: pd.DataFrame, sweeps: Mapping[str, Sweep], *, published: Mapping[str, Sequence[float]]
) -> pd.DataFrame:
    """One row per cell: mean test loss with its interval, parameters, FLOPs, rate, published value."""
    keys = ["sweep", "regime", "level"]
    table = summarise(results, by=keys, value="value")
    first = results.drop_duplicates(keys).set_index(keys)
    index = pd.MultiIndex.from_frame(table[keys])
    table["parameters"] = first.loc[index, "parameters"].to_numpy()
    table["training FLOPs"] = first.loc[index, "train_flops"].to_numpy()
    table["learning rate"] = first.loc[index, "optimizer.lr"].to_numpy()
    known = {
        (sweep, _written(level)): value
        for sweep, values in published.items()
        for level, value in zip(sweeps[sweep][2], values, strict=True)
    }
    table["published, 1 seed"] = [
        known.get((row.sweep, row.level)) if row.regime == "published" else None for row in table.itertuples()
    ]
    names = {"mean": f"test {UNIT}", "low": LOW, "high": HIGH}
    return table.drop(columns="sd").rename(columns=names)


def sweep_reading(results: pd.DataFrame, sweeps: Mapping[str, Sweep]) -> str:
    """Paragraphs: per regime the verdicts on the published findings, then all neighbouring pairs."""
    paragraphs = []
    for regime in dict.fromkeys(results["regime"]):
        part = results[results["regime"] == regime]
        texts = _findings(part, sweeps)
        paragraphs += [f"Regime {regime}. {text}" for text in texts]
    paragraphs += _capacity(results, sweeps)
    paragraphs += _neighbours(results, sweeps)
    return "\n\n".join(paragraphs)


def _labelled(results: pd.DataFrame, sweep: str) -> pd.DataFrame:
    rows = results[results["sweep"] == sweep]
    return pd.DataFrame({"label": rows["level"], "seed": rows["seed"], "value": rows["value"]})


def _pairs(sweep: Sweep) -> list[tuple[str, str]]:
    """Neighbouring levels, smaller first."""
    levels = [_written(level) for level in sweep[2]]
    return list(itertools.pairwise(levels))


def _findings(results: pd.DataFrame, sweeps: Mapping[str, Sweep]) -> list[str]:
    texts = []
    for sweep, name in (("context", "linear model's context"), ("layers", "transformer's depth")):
        if sweep in sweeps:
            levels = [_written(level) for level in sweeps[sweep][2]]
            ends = [(levels[0], levels[-1])]
            found = depth_or_context_degrades(_labelled(results, sweep), pairs=ends, unit=UNIT)
            texts.append(f"On the {name}: {found.text}")
    if {"learned", "rope"} <= set(sweeps.get("positions", ("", "", ()))[2]):
        found = learned_positions_beat_rope(
            _labelled(results, "positions"), pairs=[("learned", "rope")], unit=UNIT
        )
        texts.append(found.text)
    return texts


def _capacity(results: pd.DataFrame, sweeps: Mapping[str, Sweep]) -> list[str]:
    """Smallest against largest, with the short and the long dense budget."""
    texts = []
    for sweep in ("width", "layers"):
        if sweep not in sweeps or not {"dense short", "dense long"} <= set(results["regime"]):
            continue
        levels = [_written(level) for level in sweeps[sweep][2]]
        few, many = (_labelled(results[results["regime"] == r], sweep) for r in ("dense short", "dense long"))
        found = capacity_must_match_compute(few, pairs=[(levels[0], levels[-1])], unit=UNIT, longer=many)
        texts.append(f"Capacity and compute, on the sweep over {sweep}. {found.text}")
    return texts


def _neighbours(results: pd.DataFrame, sweeps: Mapping[str, Sweep]) -> list[str]:
    texts = []
    for regime in dict.fromkeys(results["regime"]):
        for sweep in sweeps:
            table = _labelled(results[results["regime"] == regime], sweep)
            pairs = paired_differences(table, group="label", unit="seed", pairs=_pairs(sweeps[sweep]))
            said = " ".join(comparison_sentences(pairs, unit=UNIT))
            texts.append(f"Neighbouring levels of {sweep}, regime {regime}. {said}")
    return texts


def _written(level: object) -> str:
    """A level as a label: `32`, `rope`."""
    return f"{level:g}" if isinstance(level, int | float) else str(level)
