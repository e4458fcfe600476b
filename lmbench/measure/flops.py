"""The FLOP ledger: what a training step costs, in closed form and as torch counts it.

A model states the matrix products of its forward pass (`ModelConfig.terms`); this module
adds the rest. The backward pass is twice the forward: each product Y = X W needs dX and
dW, of the same size, and every matrix here has a trained matrix or an activation before
it. The optimizer's work, a teacher's forward and recomputed activations stand apart, so
that "FLOPs" without an adjective is always forward plus backward of the trained model.

`counted_flops` is torch's own counter on the meta device, where nothing is computed and
attention is broken down to plain products, and is asserted equal to the closed form for
every model. `disagreement` compares the other counts in use.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn

from lmbench.layers.cost import Term
from lmbench.layers.fused import flop_formulas
from lmbench.layers.shape import Readout
from lmbench.models.base import ModelConfig, on_meta, seeded

BACKWARD_PER_FORWARD = 2
ADAM_FLOPS_PER_PARAMETER = 14
"""Element-wise: moments (3 + 4), bias corrections (2), root, epsilon, quotient, rate, update (5)."""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """FLOPs of one optimizer step of `batch_size` sequences."""

    terms: tuple[Term, ...]
    """Forward over one sequence, by term."""
    batch_size: int
    targets: int
    """Predictions that the step is trained on."""
    optimizer: int = 0
    """Element-wise work of the update."""
    teacher: int = 0
    """Forward of a distillation teacher."""
    recompute: int = 0
    """Activations computed again in the backward pass."""

    @property
    def forward(self) -> int:
        """Forward, with all T^2 pairs of attention, as the kernels without a causal shortcut do."""
        return self.batch_size * sum(term.forward for term in self.terms)

    @property
    def forward_causal(self) -> int:
        """Forward, with only the T (T + 1) / 2 allowed pairs of attention."""
        return self.batch_size * sum(t.forward if t.causal is None else t.causal for t in self.terms)

    @property
    def backward(self) -> int:
        """Backward of the trained model."""
        return BACKWARD_PER_FORWARD * self.forward

    @property
    def train(self) -> int:
        """Forward and backward: the number that runs and tables call FLOPs."""
        return self.forward + self.backward

    @property
    def total(self) -> int:
        """Everything that the step computes."""
        return self.train + self.optimizer + self.teacher + self.recompute

    def per_target(self) -> dict[str, Any]:
        """The step's FLOPs divided by its targets, without the parts that it has not; JSON-ready."""
        parts = ["forward", "forward_causal", "backward", "total"]
        parts += [part for part in ("optimizer", "teacher", "recompute") if getattr(self, part)]
        by_term = {t.name: self._per_target(self.batch_size * t.forward) for t in self.terms}
        return {"by_term": by_term} | {part: self._per_target(getattr(self, part)) for part in parts}

    def _per_target(self, flops: int) -> int | float:
        """An int where it divides evenly, which is easier to read."""
        whole, rest = divmod(flops, self.targets)
        return flops / self.targets if rest else whole


def ledger(
    config: ModelConfig,
    *,
    readout: Readout,
    batch_size: int = 1,
    optimizer_flops_per_parameter: int = 0,
    teacher: int = 0,
    recompute: int = 0,
) -> Ledger:
    """The ledger of one step on batch_size sequences of seq_len tokens.

    Args:
        readout: "all" trains on seq_len targets a sequence, "last" on one.
        optimizer_flops_per_parameter: such as ADAM_FLOPS_PER_PARAMETER; 0 leaves it out.
        teacher, recompute: FLOPs of the step, known to the method that causes them; what the model itself
            recomputes is added.
    """
    return Ledger(
        terms=config.terms(readout),
        batch_size=batch_size,
        targets=batch_size * (config.seq_len if readout == "all" else 1),
        # Counting parameters builds the model; who asks for none of them does not wait for it.
        optimizer=optimizer_flops_per_parameter and optimizer_flops_per_parameter * parameters(config).total,
        teacher=teacher,
        recompute=recompute + batch_size * config.recomputed(),
    )


def train_flops(config: ModelConfig, *, readout: Readout, sequences: int) -> int:
    """Forward and backward matrix products of training on `sequences` sequences."""
    return ledger(config, readout=readout, batch_size=sequences).train


def mean_step_flops(config: ModelConfig, *, readout: Readout, batch_size: int) -> float:
    """What a step costs on average over a long training; of a model with one stage, what each costs."""
    shares = [share for share, _ in config.stages()] + [1.0]
    return sum(
        (end - start) * train_flops(stage, readout=readout, sequences=batch_size)
        for (start, stage), end in zip(config.stages(), shares[1:], strict=True)
    )


def published_flops(n_parameters: int, *, n_windows: int, seq_len: int) -> int:
    """The published study's formula, 2 * parameters * windows * T, kept to be shown beside ours.

    It has no backward pass and no attention, counts look-up tables as products, and charges
    window models T times too much (each window passes once through their weights).
    """
    return 2 * n_parameters * n_windows * seq_len


# ------------------------------------------------------------------ parameters


class Parameters(NamedTuple):
    """How many numbers a model holds."""

    total: int
    embedding: int
    """In look-up tables: tokens and learned positions. A tied head's matrix is one of them."""
    vectors: int
    """In biases, norm gains and other numbers that are no matrix."""
    inactive: int
    """Stored, but not used by any one token: those of experts that it does not choose."""

    @property
    def active(self) -> int:
        """What a token uses."""
        return self.total - self.inactive

    @property
    def non_embedding(self) -> int:
        """All but the look-up tables."""
        return self.total - self.embedding


@lru_cache(maxsize=4096)
def parameters(config: ModelConfig) -> Parameters:
    """Counted on the module itself, built on the meta device: no memory, no random numbers."""
    model = on_meta(config)
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    return Parameters(
        total=sum(p.numel() for p in model.parameters()),
        embedding=sum(p.numel() for table in tables for p in table.parameters()),
        vectors=sum(p.numel() for p in model.parameters() if p.dim() < 2),
        inactive=config.inactive_parameters(),
    )


# ------------------------------------------------------------------ torch's counter


class Counted(NamedTuple):
    """FLOPs that a tool saw."""

    forward: int
    backward: int


def counted_flops(
    config: ModelConfig, *, readout: Readout, batch_size: int = 1, device: str = "meta"
) -> Counted:
    """FLOPs of one step by torch's counter, 2 per multiply-add.

    Args:
        device: "meta" computes nothing and forms attention's weights; "cpu" runs the model for
            real, with fused attention where that is faster.
    """
    # On first use: it loads Triton where that is installed, a third of a second.
    from torch.utils.flop_counter import FlopCounterMode

    model = (on_meta(config) if device == "meta" else seeded(config, init_seed=0)).eval()
    tokens_BT = torch.zeros(batch_size, config.seq_len, dtype=torch.long, device=device)
    with FlopCounterMode(display=False, custom_mapping=flop_formulas()) as counter:
        output = model(tokens_BT, readout=readout)
        forward = counter.get_total_flops()
        loss = output.logits_BTV.sum()
        for _, logits_BTV in output.exits:
            loss = loss + logits_BTV.sum()
        (loss if output.aux_loss is None else loss + output.aux_loss).backward()
    return Counted(forward=forward, backward=counter.get_total_flops() - forward)
