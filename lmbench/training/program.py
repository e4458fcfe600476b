"""The training program of a group of runs: everything a step needs lies on the device.

One step gathers the batches of all replicas from the text, takes their losses and gradients,
clips, updates and counts, without a word from Python on a GPU: after a few plain calls it is
one captured graph (see `execution`). The host only draws what the next steps will read (see
`draws`), and scores weights when it is asked to.

The same program trains one run: then the replica is the plain module, see `Replicas`.
Legend: R replica, P parameter, S step, B batch, M micro-batch, D dropout, K term of the objective,
N coefficient of it.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lmbench.measure.score import true_float32
from lmbench.run import Run
from lmbench.tasks.base import IGNORE, Scores, TaskData, load_task
from lmbench.training.distributed import ALONE, Ranks
from lmbench.training.draws import Draws
from lmbench.training.execution import Execution, compile_if
from lmbench.training.kept import Kept
from lmbench.training.replicas import Replicas
from lmbench.training.scorer import Scorer, view_of
from lmbench.training.teachers import Teachers, stream_of
from lmbench.training.update import Update


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
        self.runs, self.run, self.device, self.ranks = list(runs), runs[0], device, ranks
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
        self.kept = Kept(self.replicas)
        self._allocate()
        self.teachers = Teachers(run, teachers or {}, data=self.data, view=self.view)
        self.weights_read = dict(teachers or {})
        """Of the runs that methods read, by digest."""
        self._update = compile_if(compiled, self.update.apply)
        self._numbers = compile_if(compiled, self.update.rates)
        plain_pass = self.replicas.one_pass
        if ranks.is_alone:
            self._losses = compile_if(compiled, self.replicas.losses)
        else:
            self.replicas.one_pass = ranks.wrap(compile_if(compiled, plain_pass), device=device)
            self._losses = self.replicas.losses
        self._scorer = Scorer(run, self.replicas, self.data, self.view, ranks)
        self.execution = Execution(
            self._one_step,
            run=run,
            replicas=self.replicas,
            plain_pass=plain_pass,
            scorer=self._scorer,
            compiled=compiled,
            ranks=ranks,
        )
        self.done = 0
        """Steps taken."""

    def _allocate(self) -> None:
        run, R, replicas = self.run, len(self.runs), self.replicas
        trained_RP = replicas.master_RP[:, : replicas.layout.n_trained]
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
        self.update = Update(self.runs, replicas, grads_RP=self.grads_RP)
        self.draws = Draws(
            self.runs,
            self.streams,
            micro=run.grad_accum * self.ranks.n,
            sites=len(replicas.sites),
            device=self.device,
        )

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
                self.execution.enter(self.done)
                self.replicas.recompute_state(self.done)
                self.draws.prepare(self.done)
                self.execution.step()
                self.done += 1

    def _one_step(self) -> None:
        run, count = self.run, self.update.count
        row = self.draws.row(count)
        for name, table in self.controls.items():
            self.replicas.controls[name].copy_(table.index_select(0, count)[0])
        keys_RMD = row.pop("dropout")
        batch = self.streams[0].batch(row)
        numbers_N = None if self.numbers_SN is None else self.numbers_SN.index_select(0, count)[0]
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
        self.losses_SR.index_copy_(0, count, total_R.unsqueeze(0))
        if self.terms:
            self.ranks.average_(terms_RK)
            self.terms_SRK.index_copy_(0, count, terms_RK.unsqueeze(0))
        self._update(self._numbers())

    # ---------------------------------------------------------------- state

    def tensors(self) -> dict[str, Tensor]:
        """All that a step changes, by name; what is not here is a function of the runs and the step."""
        held = {"master": self.replicas.master_RP, "losses": self.losses_SR, "terms": self.terms_SRK}
        return held | self.update.tensors()

    def restore(self, tensors: dict[str, Tensor] | None, *, done: int) -> None:
        """Take over what `tensors` gave after `done` steps of the same runs; only rank 0 has to give them."""
        held = self.tensors()
        for name, value in held.items() if tensors is not None else ():
            value.copy_(tensors[name])
        self.ranks.broadcast_(held.values())
        self.replicas.refresh()
        self.update.count.fill_(done)
        self.draws.forget()
        self.done, self.execution.stage = done, None
        for name, table in self.controls.items():
            self.replicas.controls[name].copy_(table[max(done - 1, 0)])

    # ---------------------------------------------------------------- scoring

    @property
    def weights_RP(self) -> Tensor:
        """What is scored and kept: the averaged weights where the run averages, else the weights."""
        return self.replicas.master_RP if self.update.ema_RP is None else self.update.ema_RP

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
        weights_RP = self.kept.with_fresh_state(weights_RP)
        return self._scorer.scores(split, weights_RP=weights_RP, items=items, data=data)

    def score_first(self, split: str) -> None:
        """One batch of `scores`, for its memory alone."""
        self._scorer.score_first(split, weights_RP=self.kept.with_fresh_state(self.weights_RP))
