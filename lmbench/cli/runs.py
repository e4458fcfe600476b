"""`lmbench runs`: the store of finished runs and evaluations."""

from typing import TYPE_CHECKING, Annotated

import typer

from lmbench.cli import show
from lmbench.errors import nearest

if TYPE_CHECKING:
    import pandas as pd

    from lmbench.store import Store

app = typer.Typer(help="Finished runs: list, show, verify, prune.", no_args_is_help=True)

_AGAIN = "then the same notebook or command makes them again"
Json = Annotated[bool, typer.Option("--json", help="Machine-readable.")]


@app.command(name="list")
def list_runs(json: Json = False) -> None:
    """Every finished run and evaluation of results/."""
    frame = open_store().list()
    if json:
        show.write_json(frame.astype(object).where(frame.notna(), None).to_dict("records"))
        return
    show.table(list(frame.columns), frame.itertuples(index=False))
    show.line(f"\n{len(frame)} records in {open_store().runs}")


@app.command(name="show")
def show_run(
    digest: Annotated[str, typer.Argument(help="A digest, or enough of its start.")], json: Json = False
) -> None:
    """Settings, circumstances and final numbers of one run."""
    store = open_store()
    digest = whole_digest(store, digest)
    record, rows = store.record(digest), store.rows(digest)
    final = final_rows(rows)
    if json:
        show.write_json(record | {"rows": final.to_dict("records")})
        return
    from lmbench.records import flatten

    show.table(("setting", "value"), [*flatten(record["run"]["config"]).items(), *record["env"].items()])
    show.line("")
    show.table(list(final.columns), final.itertuples(index=False))
    show.line(f"\n{store.folder(digest)}")


@app.command()
def verify(digest: Annotated[str | None, typer.Argument(help="One run; all if left out.")] = None) -> None:
    """Compare every file of the store with its recorded hash."""
    store = open_store()
    problems = store.verify(whole_digest(store, digest) if digest else None)
    for problem in problems:
        show.line(str(problem))
    if problems:
        damaged = any(store.has(problem.digest) for problem in problems)
        command = "lmbench runs prune" + (" --damaged" if damaged else "")
        raise ValueError(f"{len(problems)} problems; `{command}` removes these runs, {_AGAIN}")
    show.line(f"{1 if digest else len(store.digests())} records are whole")


@app.command()
def prune(
    damaged: Annotated[bool, typer.Option("--damaged", help="Also runs whose files are damaged.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove unfinished runs that nobody is writing, and checkpoints that no unfinished run needs."""
    store = open_store()
    removed = store.prune(damaged=damaged, dry_run=dry_run)
    for name in removed:
        show.line(name)
    checkpoints = sum(name.startswith(f"{store.checkpoints.name}/") for name in removed)
    what = f"{len(removed) - checkpoints} runs" + (f" and {checkpoints} checkpoints" if checkpoints else "")
    show.line(f"{what} {'would be removed' if dry_run else 'removed'}")


def final_rows(rows: "pd.DataFrame") -> "pd.DataFrame":
    """The last row of each metric of a run, as it was written."""
    # Not groupby().last(): that takes each column's last value that is not NaN, from whichever row.
    last = rows.sort_values("step", kind="stable").groupby(["split", "metric"]).tail(1)
    return last.sort_values(["split", "metric"])[["split", "metric", "value", "n", "step"]]


def open_store() -> "Store":
    from lmbench.home import results
    from lmbench.store import Store

    return Store(results())


def whole_digest(store: "Store", start: str) -> str:
    """The one digest in the store that begins with `start`.

    Raises:
        ValueError: none does, or several do.
    """
    folders = [path.name for path in store.runs.glob("*") if path.is_dir()]
    fits = [name for name in folders if name.startswith(start)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise ValueError(f"{len(fits)} runs begin with {start!r}; write more digits")
    beginnings = [name[: len(start)] for name in folders]
    raise ValueError(f"no run {start!r} in {store.runs}.{nearest(start, beginnings)}")
