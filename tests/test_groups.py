"""Groups: replicas trained side by side end as they would alone."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch

from lmbench.config import discover, kinds, make
from lmbench.layers import dropout
from lmbench.store import Store
from lmbench.training import execute, grouping
from lmbench.training.execute import fit_model, run_all
from lmbench.training.loop import train_group
from lmbench.training.program import Program

CPU = torch.device("cpu")
SIZES = {"seq_len": 6, "d_model": 8, "n_head": 2, "n_layer": 1, "d_ff": 12}
TIMED = {"train_seconds", "tokens_per_second", "inference_tokens_per_second", "peak_memory_bytes"}


def tiny_run(task, model="transformer", *, options=None, **fields):
    """A run of a few milliseconds a step; fields of SIZES that a model lacks are dropped."""
    known = discover("model")[model].model_fields
    sizes = {k: v for k, v in (SIZES | (options or {})).items() if k in known}
    defaults = {
        "steps": 50,
        "batch_size": 4,
        "protocol": make("protocol", "dense", eval_bytes=150),
        "schedule": make("schedule", "cosine", warmup=2),
        "dtype": "float64",
    }
    config = fit_model(make("model", model, **sizes), task)
    return make("run", "run", model=config, task=task, **(defaults | fields))


def three(run):
    """The run, and two that differ from it in all that runs of a group may differ in."""
    numbers = run.optimizer.scalars()
    seconds = {name: 0.7 * value if value else 0.1 for name, value in numbers.items()}
    return [
        run,
        run.with_seed(3).replace(optimizer=run.optimizer.replace(**seconds)),
        run.replace(
            init_seed=1, data_seed=5, dropout_seed=8, optimizer=run.optimizer.replace(lr=2 * run.optimizer.lr)
        ),
    ]


def trained(runs, *, steps=None):
    program = Program(runs, device=CPU)
    program.advance(steps or runs[0].steps)
    return program


def assert_group_is_alone(runs):
    """Weights and losses to 1e-8."""
    assert len({grouping.key(run) for run in runs}) == 1
    group = trained(runs)
    assert bool(torch.isfinite(group.losses_SR).all())
    for at, run in enumerate(runs):
        alone = trained([run])
        exact = {"rtol": 0, "atol": 1e-8}
        torch.testing.assert_close(group.losses_SR[:, at], alone.losses_SR[:, 0], **exact)
        torch.testing.assert_close(group.weights_RP[at], alone.weights_RP[0], **exact)
    return group
