"""What every model is: a config that counts its own cost, and a module with one forward.

Legend: B batch, T position, K preceding tokens, V vocabulary.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from lmbench.config import Config
from lmbench.layers.cost import Term
from lmbench.layers.shape import Readout


class Output(NamedTuple):
    """What a model returns."""

    logits_BTV: Tensor
    """(B, T, V) of the next token at each position; T is 1 where only the last is read out."""
    aux_loss: Tensor | None = None
    """Scalar that is added to the loss in training; None where the model has none."""


class ModelConfig(Config, ABC):
    """Abstract: the settings of an architecture. Defaults are the published settings."""

    role: ClassVar[str] = "model"
    # A window model sees exactly seq_len tokens at every position, so with the dense
    # protocol it is also given the seq_len - 1 tokens before the first.
    is_window: ClassVar[bool] = False
    # Why replicas of this model cannot be stacked and are trained one at a time; "" where they can.
    alone: ClassVar[str] = ""
    sizes: ClassVar[frozenset[str]] = frozenset(
        {"vocab_size", "seq_len", "d_model", "d_ff", "n_layer", "n_head"}
    )

    vocab_size: int = Field(65, ge=2)
    """Token ids; must be the task's."""
    seq_len: int = Field(128, ge=1)
    """Context: the most previous tokens that a prediction may depend on."""

    @abstractmethod
    def build(self) -> "LanguageModel":
        """The module, with its initial weights drawn from torch's current generator."""

    @abstractmethod
    def terms(self, readout: Readout) -> tuple[Term, ...]:
        """Forward FLOPs over one sequence of seq_len tokens, by term.

        Args:
            readout: "all" gives seq_len predictions, "last" one.
        """


class LanguageModel(nn.Module, ABC):
    """Abstract: maps tokens to next-token logits. Functional: no hidden state, no `.item()`."""

    # Names of the parts at the two ends: look-up tables and the map to the vocabulary, whose
    # rows stand for tokens. An optimizer for matrices (Muon) leaves their parameters to Adam.
    ends: ClassVar[tuple[str, ...]] = ("embedding", "head")

    @abstractmethod
    def forward(
        self, tokens_BT: Tensor, context_BK: Tensor | None = None, *, readout: Readout = "all"
    ) -> Output:
        """Logits of the token after each position.

        Args:
            tokens_BT: (B, T) ids, T at most seq_len.
            context_BK: (B, seq_len - 1) preceding ids, -1 before a document's start; only
                window models read it, and for them None means that nothing precedes.
            readout: "all" returns (B, T, V), "last" (B, 1, V).
        """


def seeded(config: ModelConfig, *, init_seed: int) -> LanguageModel:
    """Build on the CPU from `init_seed`, so that every device starts from the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init_seed)
        return config.build()
