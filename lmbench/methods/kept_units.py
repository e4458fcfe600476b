"""The units that a run learns from: chosen by its setting of `select` and its seed, and counted.

What is known of units (`methods.unit_facts`) is the same for all seeds. Which are kept depends on the
data_seed: random ones, and which of those that score alike. The counts say where kept tokens come
from, how often training reads them, and what of the text's n-grams they still cover.

Legend: U unit, D domain.
"""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from lmbench.config import Config
from lmbench.data.selection.choose import Selection, choose
from lmbench.data.selection.packing import Packing
from lmbench.data.selection.report import Report, coverage
from lmbench.data.selection.units import Units
from lmbench.methods.unit_facts import facts_of
from lmbench.run import Run
from lmbench.tasks.base import View
from lmbench.tasks.selected import usage
from lmbench.tasks.text_data import TextData


def kept_units(
    how: Config,
    data: TextData,
    *,
    data_seed: int,
    view: View | None,
    weights: Mapping[str, Mapping[str, Tensor]] | None,
) -> Selection:
    """The units of train that a run with this data_seed learns from, and where they come from.

    Args:
        how: a setting of method `select`.
        view: where the reference is read; None is the CPU.
        weights: of the reference, by digest; without them the n-gram stands in for it.
    """
    facts = facts_of(how, data, view=view, weights=weights or {})
    # Windows are drawn with key (data_seed, 0): another key is another stream of numbers.
    generator = np.random.Generator(np.random.Philox(key=[data_seed, 1]))
    return choose(
        facts.units,
        share=how.share,
        rule=how.rule,
        generator=generator,
        duplicates=facts.duplicates,
        weights_D=facts.weights_D,
        score_U=facts.scores.get(how.score) if how.rule == "filtered" else None,
        band=how.band,
        difficulty_U=facts.scores[how.pace] if how.pace else None,
        counts=facts.counts,
    )


def refuse_unread(how: Config) -> None:
    """Raise ValueError where a setting of method `select` has a value, not its default, that nothing reads.

    Being set is no sign of it: stored configs set every field.
    """
    read_by = {"quota": ("stratified", "filtered"), "score": ("filtered",), "band": ("filtered",)}
    for name, rules in read_by.items():
        value = getattr(how, name)
        if how.rule not in rules and value != type(how).model_fields[name].default:
            accepted = ", ".join(map(repr, rules))
            raise ValueError(f"{name} = {value!r} is read by no rule = {how.rule!r}; accepted: {accepted}")


def report_of(chosen: Selection, *, run: Run, packing: Packing | None) -> Report:
    """Where kept tokens come from, and how a run's windows or rows use them, see `usage`."""
    read = run.steps * run.batch_size * run.model.seq_len
    return chosen.report.with_counts(usage(chosen, seq_len=run.model.seq_len, packing=packing, read=read))


def numbers_of(
    chosen: Selection, *, run: Run, packing: Packing | None, everything: Units
) -> dict[str, float]:
    """The report by metric, and what the kept units cover of the n-grams of all."""
    told = report_of(chosen, run=run, packing=packing).metrics()
    for row in coverage(list(everything.every()), list(chosen.kept.every())).to_dict("records"):
        told |= {f"covered_{name}_{row['n']:g}grams": row[name] for name in ("types", "occurrences", "rare")}
    return {f"selection/{name}": float(value) for name, value in told.items()}
