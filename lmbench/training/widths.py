"""Other widths: finished runs scored and slices timed, at a constraint, in full, along a schedule.

A net that was trained under a constraint is two results: a small one, its slice, and a large one,
its full width. To quote one of them hides the trade, so each is scored at the same three.
"""

from collections.abc import Sequence

import pandas as pd

from lmbench.asked import config_of
from lmbench.measure.flops import parameters
from lmbench.methods.constrain import Constrain
from lmbench.methods.equipment import in_force
from lmbench.methods.narrowing import sliced_config
from lmbench.models.base import ModelConfig
from lmbench.records import Records
from lmbench.run import Run
from lmbench.training.latency import latency_rows
from lmbench.training.measured import of_one_device
from lmbench.training.rescore import evaluate_run

TIMINGS = 3  # of a slice, each a median: fewer have no interval
SCHEDULED, FULL = "scheduled", "full"


def width_scores(
    digests: Sequence[str],
    *,
    store: Records,
    levels: Sequence[float] = (0.5,),
    round_to: int = 1,
    split: str = "test",
    device: str | None = None,
) -> pd.DataFrame:
    """A row for each run and width: run, label (its model's), init_seed, width, parameters in use, metrics.

    Widths are "scheduled" (what is in force at the run's end), "C=0.5" for each level, and "full".

    Args:
        levels: C of the widths between, by the run's own multipliers, or the published ones where it was
            not constrained.
        round_to: multiple that widths are rounded to where the run was not constrained, and has none.

    Raises:
        ValueError: as `evaluate_run`.
    """
    rows = []
    for digest in digests:
        run = config_of(digest, store=store)
        for width, methods in _widths(run, levels, round_to).items():
            found = evaluate_run(digest, store=store, split=split, methods=methods, device=device)
            scored = found[found["level"] == ""].set_index("metric")["value"]
            told = {
                "run": digest,
                "label": found["label"].iloc[0],
                "init_seed": run.init_seed,
                "width": width,
            }
            told["parameters"] = parameters(_in_use(run, methods)).total
            rows.append(told | scored.to_dict())
    return pd.DataFrame(rows)


def _widths(run: Run, levels: Sequence[float], round_to: int) -> dict[str, tuple | None]:
    """What is in force at each width; None is what the run ended with."""
    own = [method for method in run.methods if isinstance(method, Constrain)]
    others = tuple(
        held
        for method in run.methods
        if not isinstance(method, Constrain) and (held := method.in_force(run.steps, run.steps)) is not None
    )
    narrow = own[0] if own else Constrain(round_to=round_to)
    between = {f"C={level:g}": (*others, narrow.at(level)) for level in levels}
    return {SCHEDULED: None, **between, FULL: others}


def _in_use(run: Run, methods: tuple | None) -> ModelConfig:
    """The model of the units that are in use under these methods; None is those of the run's end."""
    held = in_force(run.methods, step=run.steps, steps=run.steps) if methods is None else methods
    own = [method for method in held if isinstance(method, Constrain)]
    return own[0].executed(run.model, steps=1)[0][1] if own else run.model


def width_course(run: Run) -> pd.DataFrame:
    """Units in use at each step of a constrained run: step, n_head, d_model, d_ff.

    Raises:
        ValueError: a run without a constraint.
    """
    own = [method for method in run.methods if isinstance(method, Constrain)]
    if not own:
        raise ValueError(
            f"run {run.digest} has no method 'constrain', so all its units are in use throughout"
        )
    steps = range(run.steps)
    widths = [own[0].widths(run.model, step, steps=run.steps)._asdict() for step in steps]
    return pd.DataFrame([{"step": step} | one for step, one in zip(steps, widths, strict=True)])


def slice_latencies(
    model: ModelConfig,
    *,
    levels: Sequence[float],
    batch_sizes: Sequence[int],
    store: Records,
    round_to: int = 1,
    repeats: int = 15,
    device: str | None = None,
) -> pd.DataFrame:
    """How fast slices of a model answer.

    Columns: width ("full" or "C=0.445"), batch, seconds, tokens_per_second, flops_per_token, device.

    TIMINGS rows of each, so that a ratio has an interval; they are records of the store, told apart by
    their warm-up.

    Args:
        levels: constraints C by the published multipliers; 0 is the full width.
        round_to: multiple that widths are rounded to.
        repeats: passes over a batch of full context behind each timing.
    """
    rows, length = [], model.seq_len
    for level in levels:
        widths = Constrain(curve=level, round_to=round_to).widths(model, 0, steps=1)
        sliced = model if level == 0 else sliced_config(model, widths)
        flops = sum(term.forward for term in sliced.terms("all")) / length
        for timing in range(TIMINGS):
            how = {"batch_sizes": batch_sizes, "lengths": [length], "repeats": repeats, "warm_up": 3 + timing}
            found = latency_rows([sliced], store=store, device=device, **how)
            found = found[found["metric"] == "prefill_seconds"]
            for said, seconds, where in zip(found["level"], found["value"], found["device"], strict=True):
                batch = int(said.split("|")[0])
                told = {"width": f"C={level:g}" if level else FULL, "batch": batch, "seconds": seconds}
                told |= {"tokens_per_second": batch * length / seconds, "flops_per_token": flops}
                rows.append(told | {"device": where})
    return of_one_device(pd.DataFrame(rows), what="latency")
