"""Early exit: a transformer with heads at chosen depths, where a token stops once a head is sure of it.

In training all heads learn the same targets and their losses are added, the last one's with
weight 1 (Teerapittayanon et al. 2016, BranchyNet). When scoring and generating, a token
whose largest probability at an exit reaches `exit_threshold` stops there: it takes that
head's logits, and its hidden state stays as it is, so that in deeper blocks later tokens read
keys and values made from the frozen state (Schuster et al. 2022, CALM, section 3.1).

    z_i = head_i(x_i);   done |= max softmax(z_i) >= threshold;   x_{i+1} = done ? x_i : block(x_i)

Frozen tokens are computed here all the same and thrown away, so that shapes are static; what
a pass would have to execute is counted by `measure.early_exit`. Threshold 1 never stops, and
without exits this is the transformer. Legend: B batch, T position, K preceding tokens, C model
width, V vocabulary.
"""

from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lmbench.layers.cost import Term
from lmbench.layers.embedding import Head
from lmbench.layers.mixer import Pass
from lmbench.layers.shape import Readout
from lmbench.models.base import Output, State
from lmbench.models.stack import StackConfig
from lmbench.models.stack_module import Stack

NEVER = 1.0
"""The threshold at which no token stops, not even one whose probability rounds to 1."""


class EarlyExitConfig(StackConfig):
    """A stack of attention blocks with earlier heads."""

    kind: ClassVar[Literal["early_exit"]] = "early_exit"

    exits: tuple[int, ...] | None = None
    """Numbers of blocks after which there is a head, ascending; None is after every block but the last."""
    exit_weight: float = Field(1.0, ge=0)
    """Of the loss of each earlier head; the last one's is 1."""
    exit_threshold: float = Field(NEVER, gt=0, le=1)
    """Probability at which a token stops when scoring and generating; 1 never stops."""
    shared_head: bool = False
    """All exits read out through the last head, with its norm."""

    @model_validator(mode="after")
    def _exits_fit(self) -> Self:
        exits = self.exits or ()
        if list(exits) != sorted(set(exits)) or any(not 1 <= at < self.n_layer for at in exits):
            accepted = f"from 1 to {self.n_layer - 1}" if self.n_layer > 1 else "none, as there is one block"
            raise ValueError(
                f"exits = {exits} must be ascending numbers of blocks before the last of n_layer = "
                f"{self.n_layer}; accepted: {accepted}"
            )
        return self

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks below each earlier head."""
        return tuple(range(1, self.n_layer)) if self.exits is None else self.exits

    def build(self) -> "EarlyExit":
        """The module with freshly drawn weights."""
        return EarlyExit(self)

    def terms(self, readout: Readout) -> tuple[Term, ...]:
        """Those of the stack, and every earlier head, as in training."""
        terms = super().terms(readout)
        head = sum(term.forward for term in terms if term.name == "head")
        exits = (Term(name="exit heads", forward=len(self.depths) * head),) if self.depths else ()
        return terms + exits


class Stopped(NamedTuple):
    """What a pass with a threshold gives."""

    logits_BTV: Tensor
    """Of the head at which each token stopped."""
    blocks_BT: Tensor
    """Blocks that each token went through."""


class EarlyExit(Stack):
    """A `Stack` with a head of its own after some of its blocks."""

    ends = (*Stack.ends, "exit_heads")

    def __init__(self, config: EarlyExitConfig) -> None:
        super().__init__(config)
        self.depths, self.exit_weight = config.depths, config.exit_weight
        self.exit_threshold, self.n_block = config.exit_threshold, config.n_layer
        sizes = {"vocab_size": config.vocab_size, "tied": config.tied_head, "logit_cap": config.logit_cap}
        own = () if config.shared_head else self.depths
        # Drawn last, so that the rest starts as the transformer does.
        self.exit_heads = nn.ModuleList([Head(config.block_shape(), **sizes) for _ in own])

    def exit_logits(self, x_BTC: Tensor, *, depth: int, readout: Readout) -> Tensor:
        """What the head after so many blocks says; after the last, the last head."""
        has_own = depth < self.n_block and len(self.exit_heads)
        head = self.exit_heads[self.depths.index(depth)] if has_own else self.head
        return head(x_BTC, embedding=self.embedding, readout=readout)

    def forward(
        self,
        tokens_BT: Tensor,
        context_BK: Tensor | None = None,
        *,
        readout: Readout = "all",
        segment_BT: Tensor | None = None,
    ) -> Output:
        """See `LanguageModel.forward`; earlier heads' logits are there where all tokens go to the end."""
        if self.training or self.exit_threshold == NEVER:
            return self.full(tokens_BT, readout=readout, segment_BT=segment_BT)
        how = {"threshold": self.exit_threshold, "readout": readout, "segment_BT": segment_BT}
        return Output(self.stopped(tokens_BT, **how).logits_BTV)

    def full(
        self, tokens_BT: Tensor, *, readout: Readout = "all", segment_BT: Tensor | None = None
    ) -> Output:
        """A pass in which no token stops, with what every head says."""
        shared, earlier, exits = Pass(segment_BT=segment_BT), [], []
        x_BTC = self.embedding(tokens_BT, offset_BT=shared.offset_BT)
        for depth, block in enumerate(self.executed(), start=1):
            x_BTC = block(self.read(depth - 1, x_BTC, earlier), shared)
            if depth in self.depths:
                exits.append((self.exit_weight, self.exit_logits(x_BTC, depth=depth, readout=readout)))
        logits_BTV = self.exit_logits(x_BTC, depth=self.n_block, readout=readout)
        return Output(logits_BTV, shared.aux_loss, tuple(exits))

    def stopped(
        self,
        tokens_BT: Tensor,
        *,
        threshold: float,
        readout: Readout = "all",
        segment_BT: Tensor | None = None,
    ) -> Stopped:
        """A pass in which a token stops at the first exit that gives one token this probability."""
        shared, earlier = Pass(segment_BT=segment_BT), []

        def advance(at: int, x_BTC: Tensor) -> Tensor:
            return self.blocks[at](self.read(at, x_BTC, earlier), shared)

        x_BTC = self.embedding(tokens_BT, offset_BT=shared.offset_BT)
        return self._stop(x_BTC, advance, threshold=threshold, readout=readout)

    def effort(self, tokens_BT: Tensor) -> dict[str, Tensor]:
        """Blocks that each token goes through, where some may stop."""
        if self.exit_threshold == NEVER:
            return {}
        return {"blocks": self.stopped(tokens_BT, threshold=self.exit_threshold).blocks_BT}

    def extend(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See `LanguageModel.extend`."""
        length, (tokens, *layers) = (0, ({},) * (self.n_block + 1)) if state is None else state
        x_BTC, tokens = self.embedding.extend(tokens_BT, tokens, first=length)
        shared, earlier = Pass(), []

        def advance(at: int, x_BTC: Tensor) -> Tensor:
            x_BTC, layers[at] = self.blocks[at].extend(self.read(at, x_BTC, earlier), layers[at], shared)
            return x_BTC

        logits_B1V = self._stop(x_BTC, advance, threshold=self.exit_threshold, readout="last").logits_BTV
        return logits_B1V[:, 0], State(length + tokens_BT.shape[1], (tokens, *layers))

    def _stop(
        self,
        x_BTC: Tensor,
        advance: Callable[[int, Tensor], Tensor],
        *,
        threshold: float,
        readout: Readout,
    ) -> Stopped:
        """Through all blocks; `advance(at, x_BTC)` is one of them."""
        depths = self.depths if threshold < NEVER else ()
        done_BT = torch.zeros_like(x_BTC[..., 0], dtype=torch.bool)
        blocks_BT, taken_BTV = torch.zeros_like(done_BT, dtype=torch.long), None
        for depth in range(1, self.n_block + 1):
            x_BTC = torch.where(done_BT.unsqueeze(-1), x_BTC, advance(depth - 1, x_BTC))
            blocks_BT = blocks_BT + ~done_BT
            if depth in depths:
                # Of all positions, since a frozen one changes what later ones read.
                logits_BTV = self.exit_logits(x_BTC, depth=depth, readout="all")
                taken_BTV = logits_BTV if taken_BTV is None else _kept(done_BT, taken_BTV, logits_BTV)
                done_BT = done_BT | (logits_BTV.float().softmax(-1).amax(-1) >= threshold)
        logits_BTV = self.exit_logits(x_BTC, depth=self.n_block, readout=readout)
        if taken_BTV is not None:
            last = slice(-logits_BTV.shape[1], None)
            logits_BTV = _kept(done_BT[:, last], taken_BTV[:, last], logits_BTV)
        return Stopped(logits_BTV, blocks_BT)


def _kept(done_BT: Tensor, old_BTV: Tensor, new_BTV: Tensor) -> Tensor:
    """The old where a token had stopped before."""
    return torch.where(done_BT.unsqueeze(-1), old_BTV, new_BTV)
