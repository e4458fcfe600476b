"""`lmbench notebook`, `lmbench batch`, `lmbench report`: running notebooks and showing what they gave."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lmbench.assignments import parse_assignments
from lmbench.cli import show

if TYPE_CHECKING:
    from lmbench.batch import State
    from lmbench.notebook import Job

Assignments = Annotated[
    list[str] | None,
    typer.Option("-p", "--parameter", metavar="KEY=VALUE", help="A TOML value; may be repeated."),
]
Timeout = Annotated[
    float | None, typer.Option(help="Seconds that a single cell may take; no limit if left out.")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command()(notebook)
    app.command()(batch)
    app.command()(report)


def notebook(
    name: Annotated[str, typer.Argument(help="Number, name or both: 01, architecture_comparison.")],
    preset: Annotated[str, typer.Option(help="Named settings; see `lmbench list presets`.")] = "smoke",
    p: Assignments = None,
    store: Annotated[str, typer.Option(help="local trains what is missing; reference only reads.")] = "local",
    out: Annotated[
        Path | None, typer.Option(help="The executed notebook; results/notebooks/... if left out.")
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Into results/reference, with the records that it read.")
    ] = False,
    timeout: Timeout = None,
) -> None:
    """Execute one notebook; the runs that are finished are reused."""
    from lmbench.errors import NotebookFailed
    from lmbench.notebook import prepare
    from lmbench.notebook.publish import check_commit, published
    from lmbench.notebook.publish import publish as pack_records

    if publish and (out or store != "local"):
        raise ValueError(
            "--publish writes what the local store holds to results/reference; leave out --out and --store"
        )
    job = prepare(name, preset=preset, parameters=parse_assignments(p or []), store=store, out=out)
    if publish:
        check_commit()
        job = published(job)
    (state,) = _run([job], engine="local", workers=1, timeout=timeout, repeat=True)
    if state.status == "failed":
        raise NotebookFailed(state.message)
    _show_result(job)
    if publish:
        show.line(f"records: {pack_records(job.notebook)}")


def batch(
    plan: Annotated[str, typer.Argument(help="A TOML file, or the name of one in notebooks/plans.")],
    engine: Annotated[
        str, typer.Option(help="Who runs the jobs; `local` is processes on this machine.")
    ] = "local",
    workers: Annotated[int, typer.Option(help="Jobs at a time.")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the jobs and what is done; run nothing.")
    ] = False,
    timeout: Timeout = None,
) -> None:
    """Run a plan of notebooks; what is done is not repeated.

    A failure does not stop the other jobs, and ends in exit status 1.
    """
    from lmbench.batch import check_engine, read_plan
    from lmbench.notebook import finished

    jobs = read_plan(plan)
    check_engine(engine, workers)
    if dry_run:
        rows = [(job.label, "done" if finished(job) else "to do", job.target) for job in jobs]
        show.table(("job", "state", "result"), rows)
        return
    states = _run(jobs, engine=engine, workers=workers, timeout=timeout)
    show.table(
        ("job", "state", "seconds", "result"),
        [
            (s.job.label, s.status, round(s.seconds), _relative(s.job.target) if not s.message else "")
            for s in states
        ],
    )
    for state in states:
        if state.status != "failed":
            _show_result(state.job)
    failed = [state for state in states if state.status == "failed"]
    for state in failed:
        show.complain(state.message)
    if failed:
        show.complain(f"{len(failed)} of {len(states)} jobs failed")
        raise typer.Exit(1)


def report(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of executed notebooks; results/notebooks if left out."),
    ] = None,
    format: Annotated[str, typer.Option(help="html or latex.")] = "html",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report; results/report if left out.")
    ] = None,
) -> None:
    """Write a report from the executed notebooks, tables and figures."""
    from lmbench.home import results
    from lmbench.report import build_report

    path = build_report(folders or [results() / "notebooks"], out or results() / "report", format=format)
    show.line(f"report: {_relative(path)}")


def _show_result(job: "Job") -> None:
    """The notebook's headline table, where it has one, and where its files lie."""
    headline = job.folder / "headline.txt"
    if headline.is_file():
        show.line(f"\n{job.label}\n\n{headline.read_text(encoding='utf-8').rstrip()}\n")
    show.line(f"notebook: {_relative(job.target)}")
    for name in ("tables", "figures"):
        if (job.folder / name).is_dir():
            show.line(f"{name}: {_relative(job.folder / name)}")


def _relative(path: Path) -> Path:
    """The path from the working folder where it lies below that."""
    here = Path.cwd().resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _run(jobs: Sequence["Job"], **options: object) -> list["State"]:
    """Run jobs with a display: live in a terminal, else one line at the end of each."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from lmbench.batch import run_batch

    bars: dict[Path, int] = {}
    ended: list[State] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    screen = show.console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as live:

        def watch(state: "State") -> None:
            key = state.job.target
            if state.status == "running":
                bar = bars.setdefault(key, -1)
                if bar < 0:
                    bars[key] = bar = live.add_task(state.job.label)
                    if not screen.is_terminal:
                        screen.print(f"{state.job.label}: started", markup=False, soft_wrap=True)
                live.update(bar, description=f"{state.job.label}  {state.message}".rstrip())
                return
            ended.append(state)
            if bars.get(key, -1) >= 0:
                live.remove_task(bars[key])
            took = f"made in {state.seconds:.0f} s" if state.status == "reused" else f"{state.seconds:.0f} s"
            said = f"[{len(ended)}/{len(jobs)}] {state.job.label}: {state.status}, {took}"
            live.console.print(said, markup=False, soft_wrap=True)

        try:
            return run_batch(jobs, **options, watch=watch)
        except BaseException:
            live.stop()
            done = [state for state in ended if state.status != "failed"]
            show.complain(f"stopped with {len(done)} of {len(jobs)} done; the same command goes on from here")
            raise
