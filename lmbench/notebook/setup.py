"""The first call of every notebook: say what it runs on, and open the store and the report."""

import gc
import platform

from lmbench.errors import unknown
from lmbench.home import results
from lmbench.notebook.find import find
from lmbench.notebook.job import STORES
from lmbench.notebook.publish import reference_folder
from lmbench.notebook.session import Session


def setup(notebook: str, *, preset: str = "smoke", store: str = "local") -> Session:
    """Show versions and device in one line, and open a notebook's session.

    Args:
        notebook: name of the calling notebook, such as "01_architecture_comparison".
        preset: name of its settings, for captions and file names.
        store: "local" is results/, which trains what it lacks; "reference" the committed,
            read-only results of `notebook`.

    Raises:
        ValueError: unknown store or notebook, or no reference results.
    """
    from lmbench.records import Reference
    from lmbench.store import Store

    if store not in STORES:
        raise ValueError(unknown("store", store, STORES))
    name = find(notebook)
    _show(circumstances())
    # What was imported stays for good; each run ends with a collection, which need not look at it again.
    gc.freeze()
    records = Store(results()) if store == "local" else Reference(reference_folder(name))
    return Session(name, preset=preset, store=records)


def circumstances() -> str:
    """One line with the versions and the device that a notebook runs on.

    The records that it draws may come from another machine, so the line says whose it is.
    """
    import torch

    from lmbench import __version__
    from lmbench.training.environment import device_name
    from lmbench.training.execute import default_device

    device = default_device()
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return (
        f"this machine: lmbench {__version__}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {device_name(device)}{threads}"
    )


def _show(text: str) -> None:
    from IPython.display import display

    # The mime bundle rather than the string, whose repr would have quotes.
    display({"text/plain": text}, raw=True)
