"""The command line. One module per group of commands; every error ends up in `main`.

Exit status: 0 when everything that was asked for was done, 1 when not, 2 for a command
line that makes no sense, 130 after Ctrl-C. An error is one sentence on standard error.
Modules with heavy imports (torch, pandas, jupyter) are imported inside the commands.
"""

import signal
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from lmbench.cli import data, export, generate, listing, models, notebooks, runs
from lmbench.cli.show import complain
from lmbench.errors import NotebookFailed, sentence

app = typer.Typer(
    name="lmbench",
    help="An honest benchmark suite for small language models.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (listing, notebooks, models, generate, export):
    module.add_to(app)
app.add_typer(data.app, name="data")
app.add_typer(runs.app, name="runs")


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command. `main` takes --debug out before typer sees it, so it may stand anywhere."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command line and exit with its status."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    # Whoever stops a batch with SIGTERM gets the same orderly end as with Ctrl-C.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = app(
            [word for word in given if word != "--debug"], prog_name="lmbench", standalone_mode=False
        )
    except typer.TyperException as error:  # a command line that makes no sense
        if error.format_message():  # a group without a command has shown its help
            complain(error.format_message())
        status = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        status = 130
    except ImportError as error:
        _traceback_if(debug)
        complain(f"{sentence(error)}; `make env` installs everything that lmbench needs")
        status = 1
    except Exception as error:
        _traceback_if(debug)
        if _is_out_of_memory(error):
            error = ValueError("memory ran out; a smaller batch_size, model or context needs less")
        expected = isinstance(error, ValueError | OSError | NotebookFailed)
        name = "" if expected else f"internal error, {type(error).__name__}: "
        hint = "" if expected else " (--debug shows where)"
        complain(f"{name}{sentence(error)}{hint}")
        status = 1
    if status == 130:
        complain("interrupted; nothing half-written is left that a later command would trust")
    sys.exit(status or 0)


def _traceback_if(debug: bool) -> None:
    if debug:
        traceback.print_exc()


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, torch or the device ran out of memory; torch has an own type for GPUs only."""
    said = str(error).lower()
    words = ("out of memory", "can't allocate memory", "cannot allocate memory")
    by_torch = isinstance(error, RuntimeError) and any(part in said for part in words)
    return by_torch or isinstance(error, MemoryError)


def _terminate(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)
