"""`lmbench cost` and `lmbench train`: one model from the command line."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from lmbench.assignments import parse_assignments
from lmbench.cli import show
from lmbench.cli.notebooks import Assignments
from lmbench.cli.runs import final_rows
from lmbench.config import make

DEFAULT_STEPS = 300  # of `lmbench train`: enough to see a loss fall on any machine
_RUNS_OF = {"teacher": "distill", "reference": "select"}
"""Fields that hold runs, and the method that has them."""

Model = Annotated[str, typer.Argument(help="A kind or variant; see `lmbench list models`.")]


Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; the best there is if left out.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command()(cost)
    app.command()(train)


def cost(
    model: Model,
    p: Assignments = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also time prefill and decode on this device.")
    ] = False,
    device: Device = None,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Parameters, bytes and FLOPs of a model, term by term.

    FLOPs per target are those of training, forward and backward. A generated token is counted at the end
    of a full context: its matrix products, 2 per multiply-add, with what was read before remembered.
    """
    from lmbench.measure.cost import cost as cost_of

    fields = {key.removeprefix("model."): value for key, value in parse_assignments(p or []).items()}
    config = make("model", model, **fields)
    found = cost_of(config)
    if measure:
        found["measured"] = _measured(config, device)
    if json:
        show.write_json(found)
        return
    apart = ("config", "flops_per_token", "flops_per_generated_token", "elementwise_terms", "measured")
    show.table(("cost", ""), [(key, value) for key, value in found.items() if key not in apart])
    show.line("")
    flops = _flops(found["flops_per_token"], elementwise=found["elementwise_terms"])
    show.table(("FLOPs per target", "every position", "last position"), flops)
    show.line("")
    written = found["flops_per_generated_token"]
    names = {
        "cached": "with a cache",
        "cached_elementwise": "additions and multiplications beside the products",
        "uncached": "without a cache",
    }
    title = f"FLOPs per generated token, {written['length']:,} tokens of context"
    show.table((title, ""), [(name, written[key]) for key, name in names.items()])
    if measure:
        _show_measured(found["measured"])


def _flops(
    by_readout: Mapping[str, Mapping[str, Any]], *, elementwise: list[str]
) -> list[tuple[str, float, float]]:
    """The terms of a forward pass, then its sums, for both readouts."""
    sides = [by_readout[readout]["by_term"] | by_readout[readout] for readout in ("all", "last")]
    names = dict.fromkeys(name for side in sides for name in side if name != "by_term")
    mark = {name: " (element by element)" for name in elementwise}
    return [
        (name.replace("_", " ") + mark.get(name, ""), *(side.get(name) for side in sides)) for name in names
    ]


def _measured(config: Any, device: str | None) -> dict[str, Any]:
    """Prefill of a full context and decode at its end, for one text, on this device."""
    from lmbench.measure.latency import latencies
    from lmbench.training.environment import device_name
    from lmbench.training.execute import resolve_device

    where = resolve_device(device)
    timed = latencies(config, batch_sizes=[1], lengths=[config.seq_len], device=where)
    seconds = {
        one.kind: one.seconds._asdict() | {"tokens_per_second": one.tokens_per_second} for one in timed
    }
    return {"device": device_name(where), "length": config.seq_len, "batch_size": 1} | seconds


def _show_measured(measured: Mapping[str, Any]) -> None:
    names = {
        "prefill": "prefill",
        "decode": "a token with a cache",
        "decode_uncached": "a token without a cache",
    }
    rows = []
    for key, name in names.items():
        one = measured[key]
        span = f"{1e3 * one['low']:.3g} to {1e3 * one['high']:.3g}"
        rows.append((name, f"{1e3 * one['median']:.3g}", span, one["n"], one["tokens_per_second"]))
    show.line("")
    title = f"{measured['device']}, {measured['length']:,} tokens of context, one text"
    show.table((title, "ms, median", "range", "repeats", "tokens/s"), rows)


def train(
    model: Model,
    p: Assignments = None,
    device: Device = None,
    json: Annotated[bool, typer.Option("--json", help="The final rows, machine-readable.")] = False,
) -> None:
    """Train one model, or take its result from the store.

    Keys of -p are fields of a run: -p steps=1000 -p lr=1e-3 -p task.corpus=tiny_shakespeare -p d_model=64.
    Methods are named and set the same way: -p methods=quantize -p bits=4, several as a list; a teacher and a
    reference are digests of runs.
    A run whose loss stopped being finite ends in exit status 1. A large model trains on several GPUs
    by torchrun --nproc-per-node 2 -m lmbench train ...
    """
    from lmbench.assignments import make_run
    from lmbench.home import results
    from lmbench.store import Store
    from lmbench.training.execute import fit_model, resolve_device, run_all
    from lmbench.training.torchrun import joined, own_device

    assignments = parse_assignments(p or [])
    if "model" in assignments:
        raise ValueError(
            f"-p model = {assignments['model']!r} is not accepted: the model is the argument, here {model!r}"
        )
    store = Store(results())
    assignments = _with_runs(assignments, store=store)
    place = own_device(resolve_device(device))  # before a text is read, which can take minutes
    run = make_run({"model": model, "steps": DEFAULT_STEPS} | assignments)
    if not {"vocab_size", "model.vocab_size"} & set(assignments):
        run = run.replace(model=fit_model(run.model, run.task))
    with joined(place) as ranks:
        rows = run_all([run], store=store, device=str(place), ranks=ranks)
    final, diverged = final_rows(rows), rows[rows["metric"] == "diverged"]["value"]
    if json and ranks.is_first:
        show.write_json({"run": run.digest, "rows": final.to_dict("records")})
    if len(diverged):
        raise ValueError(
            f"{run.model.name} diverged at step {diverged.iloc[0]:.0f} of {run.steps}: its loss is not "
            f"finite, so nothing was tested; try a learning rate below {run.optimizer.lr:g} (-p lr=...)"
        )
    if json or not ranks.is_first:
        return
    show.table(list(final.columns), final.itertuples(index=False))
    show.line(f"\n{run.model.name}, {run.steps} steps: {store.folder(run.digest)}")


def _with_runs(assignments: Mapping[str, Any], *, store: Any) -> dict[str, Any]:
    """Assignments with the runs that methods ask for in place of their digests, in tables of methods too."""
    found = dict(assignments)
    for field, owner in _RUNS_OF.items():
        for key in {field, f"{owner}.{field}", f"method.{field}"} & set(found):
            found[key] = _runs_of(field, found[key], store=store)
    if isinstance(found.get("methods"), Mapping | list):
        found["methods"] = [
            {
                key: _runs_of(key, value, store=store) if key in _RUNS_OF else value
                for key, value in one.items()
            }
            if isinstance(one, Mapping)
            else one
            for one in _listed(found["methods"])
        ]
    return found


def _runs_of(field: str, value: Any, *, store: Any) -> Any:
    if field == "teacher":
        return [_stored_run(store, one) for one in _listed(value)]
    if isinstance(value, list):
        raise ValueError(f"{field} = {value} is not accepted: it is one run and no list")
    return _stored_run(store, value)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _stored_run(store: Any, named: Any) -> Any:
    """The config of a run in the store, from its digest or the start of it; a table is a config already."""
    from lmbench.asked import config_of
    from lmbench.cli.runs import whole_digest

    return named if isinstance(named, Mapping) else config_of(whole_digest(store, str(named)), store=store)
