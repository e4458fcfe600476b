"""`lmbench export`: a stored run as a folder that other libraries load, or packed into one file."""

from pathlib import Path
from typing import Annotated

import typer

from lmbench.assignments import make_methods, parse_assignments
from lmbench.cli import show
from lmbench.cli.notebooks import Assignments
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
    p: Assignments = None,
) -> None:
    """Write a trained model as a folder that other libraries load, or packed into one small file.

    A folder needs this package where it is loaded: from_pretrained(FOLDER, trust_remote_code=True). A packed
    file is read by lmbench.measure.artifact; -p names and sets methods that act on the weights first:
    -p methods=quantize -p bits=4 -p post=gptq. A run that a schedule left narrow is packed as narrow.
    """
    from lmbench.export.folder import FORMATS, export_run
    from lmbench.training.artifacts import write_artifact

    if format not in (*FORMATS, PACKED):
        raise ValueError(unknown("format", format, (*FORMATS, PACKED)))
    store, target = open_store(), to.absolute()
    whole = whole_digest(store, digest)
    methods = make_methods(parse_assignments(p or []))
    if format == PACKED:
        file = write_artifact(whole, store=store, to=target, methods=methods)
        show.line(f"{file}: {file.stat().st_size:,} bytes")
        return
    if methods:
        raise ValueError(
            f"-p names methods, but format = {format!r} takes weights as they are; accepted: packed"
        )
    show.line(str(export_run(whole, store=store, to=target, form=format)))
