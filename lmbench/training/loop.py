"""The training loop of one run: the plain program that every faster engine must agree with.

Everything that can change a number comes from the `Run`; the arguments only say where and
how it is watched. The batch of a step is a pure function of (data_seed, step), weights
start from init_seed on the CPU whatever the device, dropout draws from dropout_seed.
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from lmbench.measure.score import evaluate, run_model, true_float32
from lmbench.models.base import LanguageModel, seeded
from lmbench.run import Evaluation, Run
from lmbench.tasks.base import IGNORE, Batch, Scores, TaskData, View, load_task
from lmbench.training.record import RunRecord, weights_hash

LOG_POINTS = 50  # training-loss rows per run: enough for a curve, few enough to store thousands of runs


@dataclass
class Trained:
    """What a finished training leaves: its record, its weights and whether it diverged."""

    model: LanguageModel
    record: RunRecord
    best: dict[str, Tensor]
    """State of the best validation, on the CPU."""
    final: dict[str, Tensor]
    """State after the last step, on the CPU."""
    diverged_at: int | None = None


def check(run: Run, data: TaskData) -> None:
    """What only training can know of a run: its parts fit together.

    Raises:
        ValueError: naming the field.
    """
    if run.model.vocab_size != data.vocab_size:
        raise ValueError(
            f"model.vocab_size = {run.model.vocab_size}, but {run.task.caption} has "
            f"{data.vocab_size} token ids"
        )
    if run.batch_size % run.grad_accum:
        raise ValueError(f"grad_accum = {run.grad_accum} does not divide batch_size = {run.batch_size}")
    run.schedule.factors(run.steps)
    for split in ("valid", "test") if run.test else ("valid",):
        data.check_split(split, run.protocol, run.model.seq_len)


def train(
    run: Run, *, device: torch.device, jobs: int = 1, on_step: Callable[[int], None] = lambda step: None
) -> Trained:
    """Train, validate and test one run.

    Args:
        device: where to train.
        jobs: how many runs share the device; only recorded.
        on_step: called after each optimizer step with the number of steps done.
    """
    data = load_task(run.task)
    check(run, data)
    view = View(seq_len=run.model.seq_len, is_window=run.model.is_window, device=device)
    model = seeded(run.model, init_seed=run.init_seed)
    model = (model.double() if run.dtype == "float64" else model).to(device).train()
    trained = Trained(model=model, record=RunRecord(run, model, device, jobs=jobs), best={}, final={})
    with deterministic_dropout(run.dropout_seed, device), true_float32():
        _fit(trained, run, data, view, on_step)
    if trained.diverged_at is None and run.test:
        model.load_state_dict(trained.best if run.weights == "best" else trained.final)
        _score(trained, run, data, view, "test", run.steps)
    trained.record.close(data, view, trained.model)
    return trained


@dataclass
class _Clock:
    """Training seconds, without the evaluations in between."""

    device: torch.device
    seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def pause(self) -> float:
        """Stop; returns the seconds trained so far."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds += time.perf_counter() - self.started
        return self.seconds

    def resume(self) -> None:
        self.started = time.perf_counter()


def _fit(trained: Trained, run: Run, data: TaskData, view: View, on_step: Callable[[int], None]) -> None:
    """All optimizer steps of a run, with its validations."""
    model, record = trained.model, trained.record
    optimizer, factors = run.optimizer.build(model), run.schedule.factors(run.steps)
    batch_at = data.sampler(run, view)
    record.first_batch(batch_at(0))
    losses_S = torch.zeros(run.steps, device=view.device)
    log_every = max(1, run.steps // LOG_POINTS)
    logged, best_nll, clock = 0, float("inf"), _Clock(view.device)
    for step in range(run.steps):
        for group in optimizer.param_groups:
            group["lr"] = run.optimizer.lr * factors[step]
        losses_S[step] = train_step(model, optimizer, batch_at(step), run, view.device)
        done = step + 1
        on_step(done)
        validate = done == run.steps or (run.eval_every is not None and done % run.eval_every == 0)
        if not validate and done % log_every:
            continue
        seconds = clock.pause()
        trained.diverged_at = first_bad(losses_S[logged:done], logged)
        record.loss(done, float(losses_S[logged:done].mean()), seconds)
        logged = done
        if trained.diverged_at is not None:
            record.diverged(trained.diverged_at)
            return
        if validate:
            nll = _score(trained, run, data, view, "valid", done).metrics["nll"][0]
            if not math.isfinite(nll):  # the last update ruined the weights after a finite loss
                trained.diverged_at = done
                record.diverged(done)
                return
            if nll < best_nll:
                best_nll, trained.best = nll, cpu_state(model)
        clock.resume()
    trained.final = cpu_state(model)


def train_step(
    model: LanguageModel, optimizer: torch.optim.Optimizer, batch: Batch, run: Run, device: torch.device
) -> Tensor:
    """One optimizer step; returns the mean loss over the batch's targets, still on the device."""
    optimizer.zero_grad()
    n_targets = (batch.targets_BT != IGNORE).sum().clamp_min(1)
    total = torch.zeros((), device=device)
    for part in batch.split(run.grad_accum):
        with autocast(run, device):
            loss = summed_loss(run_model(model, part), part.targets_BT) / n_targets
        loss.backward()
        total += loss.detach().to(total.dtype)
    if run.grad_clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), run.grad_clip)
    optimizer.step()
    return total


def summed_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Cross entropy in nats summed over the targets, in float32 or better."""
    logits_BTV = logits_BTV if logits_BTV.dtype == torch.float64 else logits_BTV.float()
    return F.cross_entropy(
        logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE, reduction="sum"
    )


def autocast(run: Run, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """bfloat16 arithmetic over float32 weights where the run asks for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=run.dtype == "bfloat16")


def _score(trained: Trained, run: Run, data: TaskData, view: View, split: str, step: int) -> Scores:
    """Score a split and file the result as an Evaluation of the current weights."""
    scores = evaluate(
        trained.model, data, split=split, protocol=run.protocol, view=view, eval_seed=run.eval_seed
    )
    evaluation = Evaluation(
        weights=weights_hash(trained.model.state_dict()),
        model=run.model,
        task=run.task,
        protocol=run.protocol,
        split=split,
        eval_seed=run.eval_seed,
    )
    trained.record.scores(evaluation, step, scores)
    return scores


def first_bad(losses_S: Tensor, offset: int) -> int | None:
    """1-based step of the first loss that is NaN or infinite."""
    bad = (~torch.isfinite(losses_S)).nonzero()
    return int(bad[0]) + offset + 1 if len(bad) else None


def cpu_state(model: LanguageModel) -> dict[str, Tensor]:
    """A real copy of the weights: on the CPU, `.cpu()` alone would alias the live ones."""
    return {name: copy.deepcopy(value.detach()).cpu() for name, value in model.state_dict().items()}


@contextlib.contextmanager
def deterministic_dropout(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout masks from `seed` inside the block, the caller's random state untouched after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
