"""Plans: a TOML file of notebooks with grids of parameters, checked as a whole before anything starts.

[[run]]
notebook = "01_architecture_comparison"
preset = "quick"
[run.parameters]              # the same for all
steps = 60
[run.grid]                    # one job for each combination
corpus = ["ptb", "wikitext-2"]
"""

import itertools
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lmbench.errors import unknown
from lmbench.home import root
from lmbench.notebook import Job, prepare


class PlanRun(BaseModel):
    """One [[run]] of a plan."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    notebook: str
    preset: str = "smoke"
    store: str = "local"
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Parameters of every job of this entry."""
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    """Parameters with several values each; every combination is one job."""

    def combinations(self) -> list[dict[str, Any]]:
        """The parameters of each job, the last key of the grid running fastest."""
        return [
            self.parameters | dict(zip(self.grid, values, strict=True))
            for values in itertools.product(*self.grid.values())
        ]


def plans() -> dict[str, Path]:
    """The plans of the project by name."""
    return {path.stem: path for path in sorted((root() / "notebooks" / "plans").glob("*.toml"))}


def read_plan(name: str | Path) -> list[Job]:
    """The jobs of a plan, all of them checked.

    Args:
        name: a TOML file, or the name of one in notebooks/plans.

    Raises:
        ValueError: no such file, a wrong form, anything that `prepare` refuses, or one job twice.
    """
    path = Path(name)
    if not path.is_file() and str(name) in plans():
        path = plans()[str(name)]
    if not path.is_file():
        raise ValueError(
            f"there is no plan file {str(name)!r}; plans by name: {', '.join(plans()) or 'none'}"
        )
    try:
        plan = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as TOML: {error}") from None
    jobs: list[Job] = []
    for run in _entries(plan, path):
        for parameters in run.combinations():
            jobs.append(prepare(run.notebook, preset=run.preset, parameters=parameters, store=run.store))
    targets = [job.target for job in jobs]
    for job in jobs:
        if targets.count(job.target) > 1:
            raise ValueError(f"{path} asks for {job.label} twice")
    return jobs


def _entries(plan: dict[str, Any], path: Path) -> list[PlanRun]:
    for key in plan:
        if key != "run":
            raise ValueError(unknown(f"key of plan {path}", key, ["run"]))
    runs = plan.get("run")
    if not isinstance(runs, list) or not runs:
        raise ValueError(f"plan {path} holds no [[run]]")
    return [_entry(run, number, path) for number, run in enumerate(runs, start=1)]


def _entry(run: Any, number: int, path: Path) -> PlanRun:
    where = f"run {number} of plan {path}"
    try:
        entry = PlanRun.model_validate(run)
    except ValidationError as error:
        # A misspelt key is also a missing one; the misspelling says more.
        errors = error.errors(include_url=False)
        first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise ValueError(unknown(f"key in {where}", key, PlanRun.model_fields)) from None
        if first["type"] == "missing":
            raise ValueError(f"{where} names no {key}") from None
        reason = first["msg"][0].lower() + first["msg"][1:]
        raise ValueError(f"{key} = {first['input']!r} in {where} is not accepted: {reason}") from None
    for key, values in entry.grid.items():
        if not values:
            raise ValueError(f"grid.{key} in {where} is empty, so that no job would run")
        if key in entry.parameters:
            raise ValueError(f"{key} in {where} stands in both parameters and grid")
    return entry
