"""What a run writes down while it trains: tidy rows, items, hashes, costs and circumstances."""

import math
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from lmbench.config import Config
from lmbench.measure.flops import published_flops
from lmbench.records import no_items
from lmbench.run import SCHEMA, Run
from lmbench.tasks.base import Batch, Scores, TaskConfig, TaskData
from lmbench.training.costs import active_flops, extra_flops, n_sequences, readout_of, run_flops
from lmbench.training.environment import environment, peak_memory
from lmbench.training.hashes import batch_hash, weights_hash


class RunRecord:
    """Collects everything that goes into a run's folder.

    Args:
        weights: the initial ones, by name.
        layout_shapes: of the hidden matrices and of all else, see `Layout.shapes`; empty where
            nothing is trained.
        replicas: runs of the program that trains this one.
        jobs: programs that share the device.
    """

    def __init__(
        self,
        run: Run,
        weights: dict[str, Tensor],
        device: torch.device,
        *,
        layout_shapes: Sequence[tuple[int, ...]] = (),
        replicas: int = 1,
        jobs: int = 1,
    ) -> None:
        self.run, self.device, self.replicas, self.jobs = run, device, replicas, jobs
        self.rows: list[dict[str, Any]] = []
        self.items: list[pd.DataFrame] = []
        self.hashes: dict[str, str] = {"initial_weights": weights_hash(weights)}
        self.engine = "plain"
        self._started = time.perf_counter()
        self._seconds = 0.0
        self.last_step = 0
        self.readout = readout_of(run)
        self.targets_per_sequence = 1 if self.readout == "last" else run.model.seq_len
        self.optimizer_flops = run.optimizer.flops(layout_shapes) if layout_shapes else 0
        self.n_parameters = sum(value.numel() for value in weights.values())

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        names = ("rows", "hashes", "last_step", "_seconds")
        return {name: getattr(self, name) for name in names} | {"wall": self.wall_seconds}

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on from what `to_dict` gave."""
        self.rows, self.hashes = kept["rows"], kept["hashes"]
        self.last_step, self._seconds = kept["last_step"], kept["_seconds"]
        self._started = time.perf_counter() - kept["wall"]

    @property
    def wall_seconds(self) -> float:
        """Since the run began, with its evaluations, without the time between a kill and a resume."""
        return time.perf_counter() - self._started

    def _row(
        self,
        step: int,
        split: str,
        metric: str,
        value: float,
        n: int,
        *,
        evaluation: str = "",
        level: tuple[str, str] | None = None,
    ) -> None:
        task, level_name = level or (self.run.task.kind, "")
        sequences = n_sequences(self.run, step)
        self.rows.append(
            {
                "evaluation": evaluation,
                "step": step,
                "tokens": sequences * self.targets_per_sequence,
                "flops": float(run_flops(self.run, step)),
                "seconds": self._seconds,
                "split": split,
                "task": task,
                "level": level_name,
                "metric": metric,
                "value": value,
                "n": n,
            }
        )

    def first_batch(self, batch: Batch) -> None:
        """Remember what the first batch was, so that paired runs can be shown to be paired."""
        self.hashes["first_batch"] = batch_hash(batch)

    def loss(self, step: int, value: float, seconds: float) -> None:
        """Mean training loss since the last such row, in nats per target; nothing if it is not finite."""
        self._seconds, self.last_step = seconds, step
        if math.isfinite(value):
            self._row(step, "train", "loss", value, self.run.batch_size * self.targets_per_sequence)

    def terms(self, step: int, values: Mapping[str, float]) -> None:
        """Means of the objective's parts since the last loss row, in nats per target."""
        for name, value in values.items():
            if math.isfinite(value):
                n = self.run.batch_size * self.targets_per_sequence
                self._row(step, "train", f"loss_{name}", value, n)

    def diverged(self, step: int) -> None:
        """The step at which the loss stopped being finite."""
        self._row(step, "train", "diverged", float(step), 1)

    def scores(self, evaluation: Config, step: int, scores: Scores) -> None:
        """Metrics of one evaluation and of its levels; items are kept for the test split."""
        for metric, (value, n) in scores.metrics.items():
            self._row(step, evaluation.split, metric, value, n, evaluation=evaluation.digest)
        self._levels(evaluation.split, step, scores.levels, evaluation.digest)
        if evaluation.split == "test":
            self.items.append(scores.items.assign(evaluation=evaluation.digest, split="test"))

    def tracked(self, evaluation: Config, step: int, scores: Scores) -> None:
        """A point of the capability tracker: levels only, under a split of their own."""
        self._levels("track", step, scores.levels, evaluation.digest)

    def certify(self, data: TaskData, learned: TaskConfig, *, eval_seed: int) -> None:
        """What the test examples share with those that the run learned from."""
        seeds = {"data_seed": self.run.data_seed, "eval_seed": eval_seed}
        found = data.certificate(learned, seq_len=self.run.model.seq_len, **seeds)
        self._levels("test", self.last_step, found)

    def _levels(
        self,
        split: str,
        step: int,
        levels: Mapping[tuple[str, str], Mapping[str, tuple[float, int]]],
        evaluation: str = "",
    ) -> None:
        for level, metrics in levels.items():
            for metric, (value, n) in metrics.items():
                self._row(step, split, metric, value, n, evaluation=evaluation, level=level)

    def close(
        self,
        data: TaskData,
        *,
        inference_tokens_per_second: float,
        report: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Costs of the whole run, and the hash of what it was tested on.

        Args:
            report: what the methods say of the finished model, by metric.
        """
        run, steps = self.run, self.last_step
        split = "test" if run.test else "valid"
        self.hashes["evaluation_set"] = data.eval_hash(split, run.protocol, eval_seed=run.eval_seed)
        if run.test:
            self.certify(data, run.task, eval_seed=run.eval_seed)
        windows = n_sequences(run, steps)
        costs = {
            "parameters": self.n_parameters,
            "weights_bytes": 4 * self.n_parameters,
            "train_flops": run_flops(run, steps),
            "published_flops": published_flops(
                self.n_parameters, n_windows=windows, seq_len=run.model.seq_len
            ),
            "optimizer_flops": self.optimizer_flops * steps,
            "train_seconds": self._seconds,
            "tokens_per_second": windows * self.targets_per_sequence / max(self._seconds, 1e-9),
            "inference_tokens_per_second": inference_tokens_per_second,
            # Its share: the replicas of a program lie in one memory.
            "peak_memory_bytes": peak_memory(self.device) // self.replicas,
        }
        if run.methods:
            costs["active_flops"] = active_flops(run, steps)
        extra = extra_flops(run, steps)
        costs |= {f"{name}_flops": value for name, value in extra.items()}
        if extra:
            # What the whole run computes: teachers and selection too.
            costs["all_flops"] = costs["train_flops"] + costs["optimizer_flops"] + sum(extra.values())
        for metric, value in (costs | dict(report)).items():
            self._row(steps, "", metric, float(value), 1)

    def run_json(self) -> dict[str, Any]:
        """The config with its digest, label and schema."""
        return describe(self.run, label=self.run.model.name)

    def env_json(self) -> dict[str, Any]:
        """Circumstances: what may change the speed or the last bits, and nothing else."""
        return environment(self.device, jobs=self.jobs * self.replicas) | {
            "engine": self.engine,
            "hashes": self.hashes,
            "wall_seconds": self.wall_seconds,
        }

    def items_frame(self) -> pd.DataFrame:
        """All kept items, an empty table where the run tested nothing."""
        return pd.concat(self.items, ignore_index=True) if self.items else no_items()


def describe(config: Config, *, label: str) -> dict[str, Any]:
    """run.json of any record."""
    return {
        "schema": SCHEMA,
        "kind": config.kind,
        "digest": config.digest,
        "label": label,
        "config": config.to_dict(),
    }
