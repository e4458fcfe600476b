"""The lmbench side of the benchmarks: runs, their program, and the same maths as the plain model."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from benchmarks import plain
from lmbench.assignments import make_run
from lmbench.config import Config, make
from lmbench.models.base import LanguageModel
from lmbench.run import Run
from lmbench.tasks.base import load_task

# A recipe of seconds, which `--quick` puts in the place of a benchmark's own.
QUICK: dict[str, Any] = {
    "model": "transformer",
    "model.seq_len": 16,
    "model.d_model": 16,
    "model.d_ff": 32,
    "model.n_layer": 1,
    "batch_size": 4,
    "steps": 4,
}


def model_like(shape: plain.Shape, *, init: str = "torch") -> Config:
    """The lmbench model of the shape of a plain one.

    Args:
        init: "gpt2" for a model of nanoGPT.
    """
    fields = dataclasses.asdict(shape)
    fields["tied_head"] = fields.pop("tied")
    fields["residual_dropout"] = fields.pop("dropout_everywhere")
    return make("model", "transformer", norm_order="pre", activation="gelu", init=init, **fields)


def plain_like(shape: plain.Shape, model: LanguageModel) -> plain.GPT:
    """The plain model with the weights of `model`, which was built from `model_like(shape)`."""
    made = plain.GPT(shape)
    with torch.no_grad():
        for target, source in zip(made.parameters(), model.parameters(), strict=True):
            target.copy_(source)
    return made


def runs_of(base: Run, n: int) -> list[Run]:
    """`n` runs that differ in their seeds alone."""
    return [base.with_seed(seed) for seed in range(n)]


def recipe_run(recipe: Mapping[str, Any], task: Config, *, seed: int) -> Run:
    """A recipe, in the flat keys of `lmbench train -p`, as a run on a task.

    A split is scored by disjoint windows of the model's own context, like the other side's.
    """
    values = {"task": task, "test": False} | dict(recipe)
    run = make_run(values)
    return run.replace(protocol=make("protocol", "dense", stride=run.model.seq_len)).with_seed(seed)


def program(runs: Sequence[Run], *, device: torch.device, compiled: bool | None = None) -> Any:
    """The runs as one program of the engine; None compiles it where the engine would."""
    from lmbench.training.grouping import is_compiled
    from lmbench.training.program import Program

    if compiled is None:
        compiled = is_compiled(runs[0], len(runs), device=device)
    return Program(runs, device=device, compiled=compiled)


def valid_nll(program: Any) -> float:
    """Validation NLL of the first replica in nats per target."""
    return float(program.scores("valid")[0].metrics["nll"][0])


def ids(task: Config, split: str, device: torch.device) -> torch.Tensor:
    """A split of a task as ids on a device."""
    return torch.from_numpy(load_task(task).splits[split].ids_N).to(device)
