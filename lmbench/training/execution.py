"""How a program's step is executed: plain, compiled, as a captured graph, and what it computes when.

A model may compute something else in its later stages, and a method may execute a pass by another
module (a slice of the model). Each way has a graph of its own; a new stage makes all older ones void.
"""

from collections.abc import Callable, Hashable

from lmbench.models.base import ModelConfig, stage_starts
from lmbench.run import Run
from lmbench.training.capture import Captured, free_memory
from lmbench.training.distributed import Ranks
from lmbench.training.passes import OnePass
from lmbench.training.replicas import Replicas
from lmbench.training.scorer import Scorer

COMPILED_SHAPES = 4096


def compile_if(is_compiled: bool, function: Callable) -> Callable:
    """The function with its kernels fused by torch.compile, or as it is."""
    if not is_compiled:
        return function
    import torch._dynamo

    # One compilation for each shape, and a process may train many; past its limit torch would go on
    # uncompiled, and the record would not be true.
    torch._dynamo.config.recompile_limit = COMPILED_SHAPES
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(function, dynamic=False)


class Execution:
    """The step of a group's program, by what it computes.

    Args:
        body: the step, which reads and writes tensors that stay where they are.
        plain_pass: of the replicas, whatever shares or compiles it.
        scorer: whose graphs are void where the step's are.
        compiled: whether the kernels of the step are fused.
    """

    def __init__(
        self,
        body: Callable[[], None],
        *,
        run: Run,
        replicas: Replicas,
        plain_pass: OnePass,
        scorer: Scorer,
        compiled: bool,
        ranks: Ranks,
    ) -> None:
        self.body, self.run, self.replicas, self.device = body, run, replicas, replicas.device
        self._plain_pass, self._scorer, self._compiled, self._ranks = plain_pass, scorer, compiled, ranks
        self.step = self._made()
        """Takes one step as the last `enter` says."""
        self.steps = {None: self.step}
        """The step by what executes its pass, see `Attached.pass_model`."""
        self._stages = stage_starts(run.model, steps=run.steps)
        self._pass: Hashable = None
        self.stage: ModelConfig | None = None
        """What the model computes as; None before the first step."""

    def _made(self) -> Callable[[], None]:
        return Captured(self.body, device=self.device) if self._ranks.is_alone else self.body

    def enter(self, done: int) -> None:
        """Execute the step after `done` steps as the model's stage and the methods say."""
        self._enter_stage(done)
        self._enter_pass(done)

    def is_last_stage(self, done: int) -> bool:
        """Whether `done` steps have reached what is computed in the end."""
        settled = all(method.settled(done, self.run.steps) for method in self.run.methods)
        return settled and done > self._stages[-1][0]

    def scored_model(self, done: int) -> ModelConfig:
        """What scores are of: the run's model, or before its last stage what is computed until then."""
        return self.run.model if self.is_last_stage(done) or self.stage is None else self.stage

    @property
    def engine(self) -> str:
        """How the steps are executed, in words."""
        parts = ["stacked" if self.replicas.n > 1 else "plain"]
        parts += ["compiled"] * self._compiled
        if not self._ranks.is_alone:
            return ", ".join([*parts, f"ddp x{self._ranks.n}"])
        return ", ".join(parts + ["graph"] * (self.device.type == "cuda"))

    def _enter_stage(self, done: int) -> None:
        """Compute as the model's stage of this step does; graphs of another stage are void."""
        stage = next(stage for start, stage in reversed(self._stages) if start <= done)
        if stage == self.stage:
            return
        self.stage = stage
        if self.replicas.module.enter(stage):
            self._scorer.forget_graphs()
            if self._ranks.is_alone:
                self.step = self._made()
                self.steps = {self._pass: self.step}
            free_memory(self.device)

    def _enter_pass(self, done: int) -> None:
        """Execute the pass of this step as its methods say; each way has a graph of its own."""
        found = [one.pass_model(done) for one in self.replicas.equipment.attached]
        key, module = next((one for one in found if one[1] is not None), (None, None))
        if key == self._pass:
            return
        self._pass, self._plain_pass.model = key, module or self.replicas.module
        if key not in self.steps:
            self.steps[key] = self._made()
        self.step = self.steps[key]
