"""What every task is: a config that loads its data, makes training batches and turns
per-target scores into metrics.

A task knows its vocabulary. It never sees a model: it is told the context length and
whether the model is a window model, and it is handed negative log-likelihoods.

Legend: B batch, T position, K preceding tokens, N target.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lmbench.config import Config

IGNORE = -100  # a target that is not scored; torch's cross_entropy skips it by default


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Model input and targets on one device. A stack of R batches has R in front of each shape."""

    tokens_BT: Tensor
    """(B, T) ids."""
    targets_BT: Tensor
    """(B, T) ids of the next tokens, IGNORE where not scored; (B, 1) where only the last is read out."""
    context_BK: Tensor | None = None
    """(B, seq_len - 1) ids before the first token, -1 before a document's start; window models only."""
    segment_BT: Tensor | None = None
    """(B, T) place in its row at which the segment of each position starts, whose number it is too. No
    prediction may read beyond its own segment. None where each row is one; training batches only."""

    def split(self, n: int) -> list["Batch"]:
        """`n` micro-batches of equal size, in order."""
        parts = {name: [None] * n if x is None else x.chunk(n, dim=-2) for name, x in vars(self).items()}
        return [Batch(**dict(zip(parts, one, strict=True))) for one in zip(*parts.values(), strict=True)]

    def stacked(self) -> "Batch":
        """A stack of R batches of B rows as one batch of R B rows."""
        return Batch(**{name: None if x is None else x.flatten(0, 1) for name, x in vars(self).items()})

    @property
    def borders(self) -> dict[str, Tensor]:
        """What a pass is told of segments, by its argument; nothing where each row is one."""
        return {} if self.segment_BT is None else {"segment_BT": self.segment_BT}


@dataclass(frozen=True, kw_only=True)
class View:
    """What a task needs to know of the model and the device to make batches for it."""

    seq_len: int
    """Most tokens in a sequence, and the most context of a prediction."""
    is_window: bool
    """Whether batches carry the tokens before the first one."""
    device: torch.device
    """Where the batches lie."""
    eval_tokens: int = 1 << 13
    """Tokens per evaluation batch, which bounds the memory of the logits; scores do not depend on it."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Metrics of one split, and the items behind them."""

    metrics: dict[str, tuple[float, int]]
    """metric -> (value, number of targets or items it is a mean of)."""
    items: pd.DataFrame = field(repr=False)
    """One row an item: item, nll (summed, nats), n (targets), bytes (0 where text is lossy), correct."""
    levels: dict[tuple[str, str], dict[str, tuple[float, int]]] = field(default_factory=dict)
    """(task, level) -> its metrics, of tasks that have levels; n counts examples."""


class Stream(ABC):
    """Abstract: the training batches of one run, in two halves.

    The host draws what a step needs (`index`); the device makes the batch from it (`batch`),
    in tensor operations that a captured graph can replay.
    """

    device: torch.device
    """Where the batches lie."""

    @abstractmethod
    def index(self, first: int, count: int) -> dict[str, np.ndarray]:
        """Arrays (count, B, ...) for optimizer steps first .. first + count - 1."""

    @abstractmethod
    def batch(self, row: dict[str, Tensor]) -> Batch:
        """The batch of one step from tensors (..., B, ...) of `index`; leading axes are kept."""

    def at(self, step: int) -> Batch:
        """The batch of one step: a pure function of (run's data_seed, step)."""
        row = self.index(step, 1)
        return self.batch({name: torch.from_numpy(value[0]).to(self.device) for name, value in row.items()})


class TaskData(ABC):
    """A loaded task. Abstract."""

    vocab_size: int
    """Token ids."""

    @abstractmethod
    def stream(self, run: Config, view: View) -> Stream:
        """Training batches of a run.

        Raises:
            ValueError: the training data are too small for one example.
        """

    @abstractmethod
    def eval_batches(self, split: str, protocol: Config, view: View, *, eval_seed: int) -> Iterator[Batch]:
        """The whole evaluation set of a split in order, each target exactly once."""

    @abstractmethod
    def check_split(self, split: str, protocol: Config, seq_len: int) -> None:
        """Raise ValueError, before anything is trained, where a split has nothing to score."""

    @abstractmethod
    def summarise(
        self,
        split: str,
        protocol: Config,
        view: View,
        nll_N: np.ndarray,
        correct_N: np.ndarray,
        *,
        items: bool = True,
        eval_seed: int = 0,
    ) -> Scores:
        """Metrics from per-target scores in the order in which `eval_batches` gave the targets.

        Args:
            items: whether the items are wanted; without them the table is empty.
            nll_N: negative log-likelihoods in nats.
            correct_N: 1 where the target has the highest logit, 1/m where m logits tie, else 0.
        """

    @abstractmethod
    def eval_hash(self, split: str, protocol: Config, *, eval_seed: int) -> str:
        """sha256 of the evaluation set, stored beside each score."""

    def certificate(
        self, learned: "TaskConfig", *, data_seed: int, eval_seed: int, seq_len: int
    ) -> dict[tuple[str, str], dict[str, tuple[float, int]]]:
        """What the test examples of each level share with training examples of a task that was learned.

        (task, level) -> "overlap": test examples with the canonical form, and "verbatim": with the very
        tokens, of one of n training examples; "distinct": forms among the n test examples; "log2_space".
        Empty for tasks whose splits are those of a corpus.
        """
        return {}


class TaskConfig(Config, ABC):
    """Abstract: the settings of a task."""

    role: ClassVar[str] = "task"

    @abstractmethod
    def load(self) -> TaskData:
        """Read or make the data. Cached by the caller, see `load_task`."""

    def load_like(self, trained: TaskData) -> TaskData:
        """This task's data under the vocabulary of another, which a model was trained on."""
        raise ValueError(f"task {self.kind!r} cannot be scored under the vocabulary of another task")

    def refuse_leak(self, scored: "TaskConfig", *, split: str) -> None:
        """Raise ValueError where weights that learned this task were shown text of another's split.

        Nothing to refuse where splits are decided by the examples themselves, as in synthetic tasks.
        """

    @property
    def levels(self) -> tuple["TaskConfig", ...]:
        """What has a difficulty and a known best score: a synthetic task itself, or those of a mixture."""
        return ()

    @property
    @abstractmethod
    def caption(self) -> str:
        """A few words for a figure's caption: what data, and any substitution."""


_LOADED: dict[str, TaskData] = {}


def load_task(config: TaskConfig) -> TaskData:
    """The loaded task, kept for the life of the process: many runs share one corpus."""
    if config.digest not in _LOADED:
        _LOADED[config.digest] = config.load()
    return _LOADED[config.digest]
