"""Running a notebook unattended: find it, check its parameters, execute it, believe it only when whole.

A notebook is a report whose settings stand in one typed `parameters` cell. `execute`
injects others with papermill. What a notebook left behind is trusted only after every
cell ran: papermill alone reports success when a cell calls `sys.exit(0)`, and marks cells
as completed that a dead kernel never reached.
"""

from lmbench.errors import NotebookFailed
from lmbench.notebook.execute import execute, run_job
from lmbench.notebook.find import find, notebooks, presets
from lmbench.notebook.job import Job, finished, prepare
from lmbench.notebook.parameters import Parameter, checked, parameters_of
from lmbench.notebook.setup import setup

__all__ = [
    "Job",
    "NotebookFailed",
    "Parameter",
    "checked",
    "execute",
    "find",
    "finished",
    "notebooks",
    "parameters_of",
    "prepare",
    "presets",
    "run_job",
    "setup",
]
