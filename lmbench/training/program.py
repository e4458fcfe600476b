"""The training program of a group of runs: everything a step needs lies on the device.

One step gathers the batches of all replicas from the text, takes their losses and gradients,
clips, updates and counts, without a word from Python on a GPU: after a few plain calls it is
one captured graph. The host only draws what the next steps will read (window starts,
dropout keys) and copies it over, a block of steps at a time.

The same program trains one run: then the replica is the plain module, see `Replicas`.
Legend: R replica, P parameter, S step, C step of a block, B batch, M micro-batch, D dropout,
K term of the objective, N coefficient of it.
"""

from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from lmbench.layers.dropout import dropout_keys
from lmbench.measure.score import true_float32
from lmbench.models.base import ModelConfig, stage_starts
from lmbench.run import Run
from lmbench.tasks.base import IGNORE, Scores, TaskData, load_task
from lmbench.training.capture import Captured, free_memory
from lmbench.training.distributed import ALONE, Ranks
from lmbench.training.replicas import Replicas
from lmbench.training.scorer import Scorer, view_of
from lmbench.training.teachers import Teachers, stream_of

COMPILED_SHAPES = 4096
BLOCK = 256  # steps whose draws travel to the device at once


class Program:
    """R runs that differ only in seeds and in numbers of the optimizer, trained side by side.

    Args:
        runs: at least one; `grouping.key` is the same for all.
        compiled: whether kernels are fused by torch.compile, which takes tens of seconds once.
        ranks: the processes that train it together; only one run, and without a graph.
        teachers: weights of the runs that methods read, by digest; where one is missing, as in what is
            only timed, it has those that it starts with.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        device: torch.device,
        compiled: bool = False,
        ranks: Ranks = ALONE,
        teachers: Mapping[str, dict[str, Tensor]] | None = None,
    ) -> None:
        assert ranks.is_alone or len(runs) == 1
        self.runs, self.run, self.device, self.compiled = list(runs), runs[0], device, compiled
        self.ranks = ranks
        run, R = self.run, len(runs)
        self.data = load_task(run.task)
        self.view = view_of(run, replicas=R, device=device)
        self.streams = [stream_of(one, self.data, self.view, teachers) for one in runs]
        self.replicas = Replicas(
            run.model,
            [one.init_seed for one in runs],
            dtype=run.dtype,
            device=device,
            parts=run.grad_accum,
            methods=run.methods,
            steps=run.steps,
        )
        self._allocate()
        self.teachers = Teachers(run, teachers or {}, data=self.data, view=self.view)
        self.weights_read = dict(teachers or {})
        """Of the runs that methods read, by digest."""
        self._update = self._compile(self._apply)
        self._numbers = self._compile(self._rates)
        self._plain_pass = self.replicas.one_pass  # itself, whatever shares or compiles it
        if ranks.is_alone:
            self._losses = self._compile(self.replicas.losses)
            self._step = Captured(self._one_step, device=device)
        else:
            self.replicas.one_pass = ranks.wrap(self._compile(self.replicas.one_pass), device=device)
            self._losses, self._step = self.replicas.losses, self._one_step
        self._scorer = Scorer(run, self.replicas, self.data, self.view, ranks)
        self._stages = stage_starts(run.model, steps=run.steps)
        self._stage: ModelConfig | None = None
        self._pass: Hashable = None
        self._steps = {None: self._step}
        """The step by what executes its pass, see `Attached.pass_model`."""
        self.done = 0
        """Steps taken."""

    def _compile(self, function):
        if not self.compiled:
            return function
        import torch._dynamo

        # One compilation for each shape, and a process may train many; past its limit torch would go on
        # uncompiled, and the record would not be true.
        torch._dynamo.config.recompile_limit = COMPILED_SHAPES
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        return torch.compile(function, dynamic=False)

    def _allocate(self) -> None:
        run, R, replicas = self.run, len(self.runs), self.replicas
        trained_RP = replicas.master_RP[:, : replicas.layout.n_trained]
        # float64 where there is any: rates and corrections are then those of a plain Python loop.
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        place = {"device": self.device, "dtype": exact}
        scalars = [one.optimizer.scalars() for one in self.runs]
        self.hyper = {
            name: torch.tensor([[values[name]] for values in scalars], **place) for name in scalars[0]
        }
        self.factor_S = torch.tensor(run.schedule.factors(run.steps), **place)
        self.count = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.losses_SR = torch.zeros(run.steps, R, dtype=trained_RP.dtype, device=self.device)
        self.terms = () if replicas.objective is None else replicas.objective.terms
        """Names of the objective's parts."""
        self.terms_SRK = self.losses_SR.new_zeros(run.steps, R, len(self.terms))
        self.numbers_SN = None
        if replicas.objective is not None:
            self.numbers_SN = replicas.objective.numbers(run.steps).to(self.device)
        self.controls = {
            name: table.to(self.device) for name, table in replicas.equipment.controls(self.runs).items()
        }
        replicas.hold_controls({name: table[0].clone() for name, table in self.controls.items()})
        self.grads_RP = torch.zeros_like(trained_RP, memory_format=torch.contiguous_format)
        self.state = run.optimizer.state(self.grads_RP)
        self.ema_RP = None if run.ema is None else replicas.master_RP.clone()
        self._freezes = replicas.active() is not None
        self.block: dict[str, Tensor] = {}
        self._is_stale = True  # the block holds the draws of other steps

    # ---------------------------------------------------------------- training

    def advance(self, steps: int) -> None:
        """Take `steps` optimizer steps; on a GPU this returns before they are finished.

        Raises:
            ValueError: more steps than the runs have left.
        """
        if self.done + steps > self.run.steps:
            raise ValueError(f"{steps} steps after step {self.done} are more than the run's {self.run.steps}")
        with true_float32():
            for _ in range(steps):
                self._enter_stage()
                self._enter_pass()
                self._refresh()
                if self.done % BLOCK == 0 or self._is_stale:
                    self._refill()
                self._step()
                self.done += 1

    @property
    def is_last_stage(self) -> bool:
        """Whether the steps taken so far have reached what is computed in the end."""
        settled = all(method.settled(self.done, self.run.steps) for method in self.run.methods)
        return settled and self.done > self._stages[-1][0]

    @property
    def scored_model(self) -> ModelConfig:
        """What scores are of: the run's model, or before its last stage what is computed until then."""
        return self.run.model if self.is_last_stage or self._stage is None else self._stage

    def _enter_stage(self) -> None:
        """Compute as the model's stage of this step does; graphs of another stage are void."""
        stage = next(stage for start, stage in reversed(self._stages) if start <= self.done)
        if stage == self._stage:
            return
        self._stage = stage
        if self.replicas.module.enter(stage):
            self._scorer.forget_graphs()
            if self.ranks.is_alone:
                self._step = Captured(self._one_step, device=self.device)
                self._steps = {self._pass: self._step}
            free_memory(self.device)

    def _enter_pass(self) -> None:
        """Execute the pass of this step as its methods say; each way has a graph of its own."""
        found = [one.pass_model(self.done) for one in self.replicas.equipment.attached]
        key, module = next((one for one in found if one[1] is not None), (None, None))
        if key == self._pass:
            return
        self._pass, self._plain_pass.model = key, module or self.replicas.module
        if key not in self._steps:
            alone = self.ranks.is_alone
            self._steps[key] = Captured(self._one_step, device=self.device) if alone else self._one_step
        self._step = self._steps[key]

    def _refresh(self) -> None:
        """Let methods whose state is due compute it anew from the weights."""
        replicas = self.replicas
        due = [one for one in replicas.equipment.attached if one.due(self.done)]
        for one in due:
            one.refresh(replicas.trained_views(), replicas.state_views(), done=self.done)
        if due:
            replicas.refresh()

    def _refill(self) -> None:
        """Draw what the steps of this block read, into the same tensors each time."""
        first = self.done - self.done % BLOCK
        count = min(BLOCK, self.run.steps - first)
        # Generating examples takes as long as learning them, and numpy works without the lock.
        with ThreadPoolExecutor(min(len(self.streams), torch.get_num_threads())) as threads:
            drawn = list(threads.map(lambda stream: stream.index(first, count), self.streams))
        fresh = {name: np.stack([one[name] for one in drawn], axis=1) for name in drawn[0]}
        fresh["dropout"] = dropout_keys(
            [run.dropout_seed for run in self.runs],
            first=first,
            count=count,
            micro=self.run.grad_accum * self.ranks.n,
            sites=len(self.replicas.sites),
        )
        for name, value in fresh.items():
            if name not in self.block:
                shape = (min(BLOCK, self.run.steps), *value.shape[1:])
                self.block[name] = torch.zeros(shape, dtype=torch.from_numpy(value).dtype, device=self.device)
            self.block[name][:count].copy_(torch.from_numpy(value))
        self._is_stale = False

    def _one_step(self) -> None:
        run = self.run
        row = {name: value.index_select(0, self.count % BLOCK)[0] for name, value in self.block.items()}
        for name, table in self.controls.items():
            self.replicas.controls[name].copy_(table.index_select(0, self.count)[0])
        keys_RMD = row.pop("dropout")
        batch = self.streams[0].batch(row)
        numbers_N = None if self.numbers_SN is None else self.numbers_SN.index_select(0, self.count)[0]
        n_targets_R = (batch.targets_BT != IGNORE).flatten(1).sum(1).clamp_min(1)
        n_targets_R = n_targets_R.to(self.losses_SR.dtype) / self.ranks.n  # the ranks' losses are averaged
        total_R, terms_RK = torch.zeros_like(self.losses_SR[0]), torch.zeros_like(self.terms_SRK[0])
        parts, mine = batch.split(run.grad_accum * self.ranks.n), self.ranks.share(run.grad_accum)
        taught = self.teachers.parts(batch, row, n=len(parts))
        for at in mine:
            with self.ranks.averaging(self.replicas.one_pass, self.grads_RP, at=at, of=mine):
                losses_R, found_RK = self._losses(
                    parts[at], keys_RMD[:, at], n_targets_R, taught[at], numbers_N
                )
                losses_R.sum().backward()
            self.replicas.collect(self.grads_RP, add=at > mine[0])
            total_R += losses_R.detach()
            terms_RK += found_RK
        self.ranks.average_(total_R)
        self.losses_SR.index_copy_(0, self.count, total_R.unsqueeze(0))
        if self.terms:
            self.ranks.average_(terms_RK)
            self.terms_SRK.index_copy_(0, self.count, terms_RK.unsqueeze(0))
        self._update(self._numbers())

    def _rates(self) -> dict[str, Tensor]:
        """The optimizer's numbers of this step, in float64 where there is such."""
        return self.run.optimizer.rates(
            self.hyper,
            factor=self.factor_S.index_select(0, self.count),
            count=(self.count + 1).to(self.factor_S.dtype),
        )

    @torch.no_grad()
    def _apply(self, rates: dict[str, Tensor]) -> None:
        """Clip, update, average, count: all that follows the gradients."""
        run, replicas = self.run, self.replicas
        if run.grad_clip is not None:
            norm_R1 = torch.linalg.vector_norm(self.grads_RP, dim=1, keepdim=True)
            self.grads_RP.mul_((run.grad_clip / (norm_R1 + 1e-6)).clamp(max=1.0))
        trained_RP = replicas.master_RP[:, : replicas.layout.n_trained]
        held = {"": trained_RP} | self.state if self._freezes else {}
        before = {name: value.clone() for name, value in held.items()}
        if self._freezes:
            active_RP = replicas.active()
            for value in self.state.values():  # or Muon would turn what is in use by old moments of the rest
                value.masked_fill_(~active_RP, 0.0)
        run.optimizer.update(
            trained_RP,
            self.grads_RP,
            self.state,
            rates=rates,
            layout=replicas.layout,
            dtype=replicas.compute_RP.dtype,
        )
        if self._freezes:
            for name, value in held.items():
                value.copy_(torch.where(active_RP, value, before[name]))
        replicas.refresh()
        if self.ema_RP is not None:
            # A young average follows the weights, or it would remember the initial ones for long.
            count = self.count.to(self.factor_S.dtype)
            keep = ((1 + count) / (10 + count)).clamp(max=run.ema).to(self.ema_RP.dtype)
            n = replicas.layout.n_trained  # masks are not averaged
            self.ema_RP[:, :n].lerp_(trained_RP, 1 - keep)
            self.ema_RP[:, n:].copy_(replicas.master_RP[:, n:])
        self.count += 1

    @property
    def engine(self) -> str:
        """How the steps are executed, in words."""
        parts = ["stacked" if len(self.runs) > 1 else "plain"]
        parts += ["compiled"] * self.compiled
        if not self.ranks.is_alone:
            return ", ".join([*parts, f"ddp x{self.ranks.n}"])
        return ", ".join(parts + ["graph"] * (self.device.type == "cuda"))

    # ---------------------------------------------------------------- state

    def tensors(self) -> dict[str, Tensor]:
        """All that a step changes, by name; what is not here is a function of the runs and the step."""
        held = {"master": self.replicas.master_RP, "losses": self.losses_SR, "terms": self.terms_SRK}
        held |= {f"optimizer.{name}": value for name, value in self.state.items()}
        return held if self.ema_RP is None else held | {"ema": self.ema_RP}

    def restore(self, tensors: dict[str, Tensor] | None, *, done: int) -> None:
        """Take over what `tensors` gave after `done` steps of the same runs; only rank 0 has to give them."""
        held = self.tensors()
        for name, value in held.items() if tensors is not None else ():
            value.copy_(tensors[name])
        self.ranks.broadcast_(held.values())
        self.replicas.refresh()
        self.count.fill_(done)
        self.done, self._is_stale, self._stage = done, True, None
        for name, table in self.controls.items():
            self.replicas.controls[name].copy_(table[max(done - 1, 0)])

    # ---------------------------------------------------------------- scoring

    @property
    def weights_RP(self) -> Tensor:
        """What is scored and kept: the averaged weights where the run averages, else the weights."""
        return self.replicas.master_RP if self.ema_RP is None else self.ema_RP

    def scores(
        self,
        split: str,
        *,
        weights_RP: Tensor | None = None,
        items: bool = False,
        data: TaskData | None = None,
    ) -> list[Scores]:
        """Scores of each replica on a split, in float32 or better.

        Args:
            weights_RP: None takes those that are kept.
            items: whether the items behind the scores are wanted.
            data: another task with the same vocabulary; None is what is learned.
        """
        weights_RP = self.weights_RP if weights_RP is None else weights_RP
        weights_RP = self.replicas.with_fresh_state(weights_RP)
        return self._scorer.scores(split, weights_RP=weights_RP, items=items, data=data)
