"""How far a student agrees with its teacher on a split: the measures of `measure.token_agreement`, averaged.

Both models read the same batches. Sums are kept on the device and probabilities of a few tokens at a
time, so memory grows neither with the split nor with the vocabulary. Beside means of tokens stand what
only a whole split has: calibration errors, and ratios and gaps of means.

Legend: B batch, T position, V vocabulary, N scored token, C tokens of a chunk.
"""

import math

import torch
from torch import Tensor

from lmbench.config import Config
from lmbench.measure.score import readout_of, true_float32
from lmbench.measure.token_agreement import MEANS, check_agreement, token_agreement
from lmbench.measure.token_calibration import Bins
from lmbench.models.base import LanguageModel
from lmbench.progress import Progress
from lmbench.tasks.base import IGNORE, TaskData, View

CHUNK = 1 << 21  # probabilities held at once in float64: 16 MiB for each of a dozen tensors


@torch.no_grad()
def agreement(
    student: LanguageModel,
    teacher: LanguageModel,
    data: TaskData,
    *,
    split: str,
    protocol: Config,
    view: View,
    eval_seed: int = 0,
    alpha: float = 0.5,
    temperature: float = 1.0,
) -> dict[str, tuple[float, int]]:
    """Measures of a split: name to (value, number of tokens), with dropout off.

    Beside `MEANS`: student_ece and teacher_ece, expected calibration errors in bins; likelihood_ratio,
    exp(CE of the teacher - CE of the student), the teacher's perplexity over the student's (1 is as good,
    less is worse); accuracy_gap, teacher less student; sqrt_kl, the root of the mean forward KL;
    approximation_ratio_sequence, the published ratio with losses summed over each row of a batch, of n
    rows. Memory does not grow with the split.

    Args:
        view: of both models; each must be able to read its seq_len.

    Raises:
        ValueError: different vocabularies, a split without targets, an alpha or temperature out of range.
    """
    models, meter = (student, teacher), Meter(alpha=alpha, temperature=temperature)
    was_training = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        with true_float32():
            for batch in data.eval_batches(split, protocol, view, eval_seed=eval_seed):
                readout = readout_of(batch.tokens_BT, batch.targets_BT)
                read = (model(batch.tokens_BT, batch.context_BK, readout=readout) for model in models)
                meter.add(*(output.logits_BTV for output in read), batch.targets_BT)
                Progress.beat()
    finally:
        for model, was in zip(models, was_training, strict=True):
            model.train(was)
    return meter.measures()


class Meter:
    """Sums of the measures over batches of logits, on the device, in constant memory."""

    def __init__(self, *, alpha: float, temperature: float) -> None:
        self.how = {"alpha": alpha, "temperature": temperature}
        self.sums: dict[str, Tensor] = {}
        self.bins = {who: Bins() for who in ("student", "teacher")}
        self.n = self.rows = 0

    def add(self, student_BTV: Tensor, teacher_BTV: Tensor, targets_BT: Tensor) -> None:
        """Count the scored targets of one batch, a few at a time where the vocabulary is large."""
        check_agreement(student_BTV.shape[-1], teacher_BTV.shape[-1], **self.how)
        row_N, at_N = (targets_BT != IGNORE).nonzero(as_tuple=True)
        loss_B = student_BTV.new_zeros(len(targets_BT), dtype=torch.float64)
        for row_C, at_C in zip(
            *(x.split(max(1, CHUNK // student_BTV.shape[-1])) for x in (row_N, at_N)), strict=True
        ):
            chosen = (x[row_C, at_C] for x in (student_BTV, teacher_BTV, targets_BT))
            found = token_agreement(*chosen, **self.how)
            for name, value_C in found.items():
                self.sums[name] = self.sums.get(name, 0.0) + value_C.sum()
            for who, bins in self.bins.items():
                bins.add(found[f"{who}_confidence"], found[f"{who}_accuracy"])
            loss_B.index_add_(0, row_C, -found["approximation_ratio"].log())
        is_scored_B = torch.zeros_like(loss_B, dtype=torch.bool).index_fill_(0, row_N, True)
        ratio = torch.where(is_scored_B, (-loss_B).exp(), 0.0).sum()
        self.sums["approximation_ratio_sequence"] = self.sums.get("approximation_ratio_sequence", 0.0) + ratio
        self.n += len(row_N)
        self.rows += int(is_scored_B.sum())

    def measures(self) -> dict[str, tuple[float, int]]:
        """Name to (value, n); see `agreement`."""
        if self.n == 0:
            raise ValueError("agreement needs at least 1 scored target, got 0")
        sums = {name: float(total) for name, total in self.sums.items()}
        found = {name: (sums[name] / self.n, self.n) for name in MEANS}
        found["margin_violations"] = (sums["margin_violations"], self.n)
        found["approximation_ratio_sequence"] = (sums["approximation_ratio_sequence"] / self.rows, self.rows)
        found |= {f"{who}_ece": (bins.error, self.n) for who, bins in self.bins.items()}
        gain = found["teacher_nll"][0] - found["student_nll"][0]
        found["likelihood_ratio"] = (math.exp(min(gain, 700.0)), self.n)
        gap = found["teacher_accuracy"][0] - found["student_accuracy"][0]
        return found | {"accuracy_gap": (gap, self.n), "sqrt_kl": (math.sqrt(found["kl_forward"][0]), self.n)}
