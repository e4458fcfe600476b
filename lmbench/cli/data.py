"""`lmbench data`: corpora on this machine."""

from typing import Annotated

import typer

from lmbench.cli import show

app = typer.Typer(help="Corpora: list, fetch, verify, locate.", no_args_is_help=True)

Names = Annotated[list[str] | None, typer.Argument(help="Corpora; see `lmbench data list`.")]


@app.command(name="list")
def list_corpora(json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False) -> None:
    """Known corpora, their sizes, licences, and which splits are here."""
    from lmbench.data.fetch import listing

    rows = listing()
    if json:
        show.write_json(rows)
        return
    keys = ("name", "train_bytes", "valid_bytes", "test_bytes", "present", "card")
    heads = ("corpus", "train bytes", "valid", "test", "present", "card")
    show.table(heads, [[row[key] for key in keys] for row in rows])


@app.command()
def fetch(
    names: Names = None,
    force: Annotated[bool, typer.Option("--force", help="Download again what is already here.")] = False,
) -> None:
    """Download and verify corpora; the default corpus if none is named."""
    from lmbench.data.fetch import fetch as fetch_one

    for name in names or [_default()]:
        for path in fetch_one(name, force=force):
            show.line(f"{name}: {path}")


@app.command()
def verify(names: Names = None) -> None:
    """Compare files with their hashes; without names of every corpus that is here."""
    from lmbench.data.fetch import listing
    from lmbench.data.fetch import verify as verify_one

    rows = [(name, *row) for name in names or [row["name"] for row in listing()] for row in verify_one(name)]
    show.table(("corpus", "file", "status"), rows)
    # Asked for by name, a corpus has to be whole.
    accepted = ("ok",) if names else ("ok", "missing")
    bad = [(name, file) for name, file, status in rows if status not in accepted]
    if bad:
        files, corpora = [f"{name}/{file}" for name, file in bad], dict.fromkeys(name for name, _ in bad)
        raise ValueError(
            f"{', '.join(files)}: missing or damaged; "
            f"`lmbench data fetch {' '.join(corpora)} --force` replaces them"
        )


@app.command()
def where(names: Names = None) -> None:
    """Where each split lies; without names of every corpus, where a missing one is no error."""
    from lmbench.data.fetch import listing
    from lmbench.data.fetch import where as where_is

    rows = [
        (name, split, path or "missing")
        for name in names or [row["name"] for row in listing()]
        for split, path in where_is(name).items()
    ]
    show.table(("corpus", "split", "file"), rows)
    missing = [f"{name} {split}" for name, split, path in rows if path == "missing"]
    if names and missing:
        raise ValueError(f"{', '.join(missing)}: not on this machine; see `lmbench data fetch`")


def _default() -> str:
    """The corpus that the default task reads."""
    from lmbench.config import kinds

    return kinds("task")["text"].model_fields["corpus"].get_default()
