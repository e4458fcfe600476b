"""`lmbench export`: a stored run as a folder that other libraries load."""

from pathlib import Path
from typing import Annotated

import typer

from lmbench.cli import show
from lmbench.cli.runs import open_store, whole_digest


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command()(export)


def export(
    digest: Annotated[
        str, typer.Argument(help="A finished run that kept its weights, or enough of its start.")
    ],
    to: Annotated[Path, typer.Option(help="The folder to make; it must not be there yet.")],
    format: Annotated[
        str, typer.Option(help="hf: for transformers and lm-evaluation-harness, with a tokenizer.")
    ] = "hf",
) -> None:
    """Write a trained model as a folder that other libraries load.

    It needs this package where it is loaded: from_pretrained(FOLDER, trust_remote_code=True).
    """
    from lmbench.export.folder import export_run

    store = open_store()
    folder = export_run(whole_digest(store, digest), store=store, to=to.absolute(), form=format)
    show.line(str(folder))
