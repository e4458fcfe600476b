"""What every model is: a config that counts its own cost, and a module with one forward.

Legend: B batch, T position, K preceding tokens, V vocabulary.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field, ValidationInfo
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
    exits: tuple[tuple[float, Tensor], ...] = ()
    """Weights and (B, T, V) logits of earlier heads, each trained on the same targets."""


class State(NamedTuple):
    """All that a model remembers of the tokens it has read, explicit, for generation."""

    length: int
    """Tokens read so far."""
    layers: tuple[dict[str, Tensor], ...]
    """Of each layer that is executed, (B, ...) tensors: keys and values, hidden states, last inputs."""


class ModelConfig(Config, ABC):
    """Abstract: the settings of an architecture. Defaults are the published settings."""

    role: ClassVar[str] = "model"
    # A window model sees exactly seq_len tokens at every position, so with the dense
    # protocol it is also given the seq_len - 1 tokens before the first.
    is_window: ClassVar[bool] = False
    # Why replicas of this model cannot be stacked and are trained one at a time; "" where they can.
    alone: ClassVar[str] = ""
    # Why a prediction would read across the border of two segments of a row; "" where none does.
    crosses: ClassVar[str] = "it reads a row as one text"
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

    def recomputed(self) -> int:
        """Forward FLOPs over one sequence that a training step computes a second time, to save memory."""
        return 0

    def inactive_parameters(self) -> int:
        """Stored numbers that the pass of any one token does not use: those of experts not chosen."""
        return 0

    def stages(self) -> "tuple[tuple[float, ModelConfig], ...]":
        """What is computed in the course of training: (share of the steps at which it begins, config).

        The configs differ in what is executed, never in parameters. Most models have one stage.
        """
        return ((0.0, self),)


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

        A model whose config has no reason why it `crosses` borders also takes `segment_BT`: (B, T) place
        in the row at which the segment of each position starts, see `tasks.base.Batch`. Its logits are
        then those of the segments in rows of their own.
        """

    @abstractmethod
    def extend(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Read further tokens, for generation: (B, V) logits of the next one, and what is remembered now.

        Dropout off, equal to `forward` over all tokens so far, of which there are at most seq_len.

        Args:
            tokens_BT: (B, T) ids, at least one.
            state: of the tokens before them; None is the start of a text.
        """

    def effort(self, tokens_BT: Tensor) -> dict[str, Tensor]:
        """What the pass over each position took, (B, T) by name, where it depends on the text; else {}."""
        return {}

    def enter(self, stage: ModelConfig) -> bool:
        """Compute as this stage of `ModelConfig.stages` does from now on.

        Returns:
            Whether other operations are executed than before, so that a captured graph is void.
        """
        return False


def four_widths(value: Any, info: ValidationInfo) -> Any:
    """Validator of d_ff before its type is looked at: None is 4 d_model, a field in front of it."""
    # Where d_model itself was refused there is nothing to multiply.
    return 4 * info.data["d_model"] if value is None and "d_model" in info.data else value


def stage_starts(config: ModelConfig, *, steps: int) -> list[tuple[int, ModelConfig]]:
    """The first step of each stage of a training of so many steps, with what is computed from there.

    A stage that is shorter than half a step has no step of its own and is left out, but never the
    last one, which is what is scored in the end.
    """
    starts = {min(round(share * steps), steps - 1): stage for share, stage in config.stages()}
    return sorted(starts.items(), key=lambda one: one[0])


def seeded(config: ModelConfig, *, init_seed: int) -> LanguageModel:
    """Build on the CPU from `init_seed`, so that every device starts from the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init_seed)
        return config.build()


def on_meta(config: ModelConfig) -> LanguageModel:
    """The module without memory or values, for what can be counted; random numbers are left alone."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return config.build()
