"""`lmbench export`: a stored run as a folder that other libraries load, or packed into one file."""

from pathlib import Path
from typing import Annotated

import typer

from lmbench.cli import show
from lmbench.cli.runs import open_store, whole_digest
from lmbench.errors import unknown

PACKED = "packed"


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command()(export)


def export(
    digest: Annotated[
        str, typer.Argument(help="A finished run that kept its weights, or enough of its start.")
    ],
    to: Annotated[Path, typer.Option(help="The folder or file to make; it must not be there yet.")],
    format: Annotated[
        str,
        typer.Option(
            help="hf: a folder for transformers and lm-evaluation-harness, with a tokenizer. packed: one "
            "file, quantised and sparse weights at their true size."
        ),
    ] = "hf",
) -> None:
    """Write a trained model as a folder that other libraries load, or packed into one small file.

    A folder needs this package where it is loaded: from_pretrained(FOLDER, trust_remote_code=True). A packed
    file is read by lmbench.measure.artifact.
    """
    from lmbench.export.folder import FORMATS, export_run
    from lmbench.training.artifacts import write_artifact

    if format not in (*FORMATS, PACKED):
        raise ValueError(unknown("format", format, (*FORMATS, PACKED)))
    store, target = open_store(), to.absolute()
    whole = whole_digest(store, digest)
    if format == PACKED:
        show.line(f"{write_artifact(whole, store=store, to=target)}: {target.stat().st_size:,} bytes")
        return
    show.line(str(export_run(whole, store=store, to=target, form=format)))
