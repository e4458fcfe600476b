"""`lmbench cost` and `lmbench train`: one model from the command line."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from lmbench.cli import show
from lmbench.cli.notebooks import Assignments
from lmbench.cli.runs import final_rows
from lmbench.config import make, parse_assignments

DEFAULT_STEPS = 300  # of `lmbench train`: enough to see a loss fall on any machine

Model = Annotated[str, typer.Argument(help="A kind or variant; see `lmbench list models`.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command()(cost)
    app.command()(train)


def cost(
    model: Model,
    p: Assignments = None,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Parameters, bytes and FLOPs of a model, term by term."""
    from lmbench.measure.flops import cost as cost_of

    fields = {key.removeprefix("model."): value for key, value in parse_assignments(p or []).items()}
    found = cost_of(make("model", model, **fields))
    if json:
        show.write_json(found)
        return
    plain = {key: value for key, value in found.items() if key not in ("config", "flops_per_token")}
    show.table(("cost", ""), list(plain.items()))
    show.line("")
    show.table(("FLOPs per target", "every position", "last position"), _flops(found["flops_per_token"]))


def _flops(by_readout: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """The terms of a forward pass, then its sums, for both readouts."""
    sides = [by_readout[readout]["by_term"] | by_readout[readout] for readout in ("all", "last")]
    names = dict.fromkeys(name for side in sides for name in side if name != "by_term")
    return [(name.replace("_", " "), *(side.get(name) for side in sides)) for name in names]


def train(
    model: Model,
    p: Assignments = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps; the best there is if left out.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The final rows, machine-readable.")] = False,
) -> None:
    """Train one model, or take its result from the store.

    Keys of -p are fields of a run: -p steps=1000 -p lr=1e-3 -p task.corpus=tiny_shakespeare -p d_model=64.
    A run whose loss stopped being finite ends in exit status 1. A large model trains on several GPUs
    by torchrun --nproc-per-node 2 -m lmbench train ...
    """
    from lmbench.home import results
    from lmbench.run import make_run
    from lmbench.store import Store
    from lmbench.training.execute import fit_model, resolve_device, run_all
    from lmbench.training.torchrun import joined, own_device

    assignments = parse_assignments(p or [])
    if "model" in assignments:
        raise ValueError(
            f"-p model = {assignments['model']!r} is not accepted: the model is the argument, here {model!r}"
        )
    place = own_device(resolve_device(device))  # before a text is read, which can take minutes
    run = make_run({"model": model, "steps": DEFAULT_STEPS} | assignments)
    if not {"vocab_size", "model.vocab_size"} & set(assignments):
        run = run.replace(model=fit_model(run.model, run.task))
    store = Store(results())
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
