"""What the recurrent baselines of the word-level data sets share: embedding, gated layers, head.

Dropout acts on what goes into a layer or into the head and never on what a layer hands to the
next position (Zaremba et al. 2014, figure 2); the head may borrow the embedding's matrix (Merity
et al. 2017, section 4). Each sequence starts from a zero state.

Where we depart: the embedding starts as in all other kinds, with inputs of unit variance (see
`layers.embedding`), and not uniformly within 0.1. That start is meant for SGD at a rate of 30;
after 100 steps of Adam on Tiny Shakespeare it is behind by 0.25 nats at a rate of 0.001 and by
0.36 at 0.01.
Legend: B batch, T position, K preceding tokens, C width, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lmbench.layers.cost import Term, matmul
from lmbench.layers.dropout import Dropout
from lmbench.layers.embedding import check_length
from lmbench.layers.lookup import look_up
from lmbench.layers.rnn import RecurrentLayer, rnn_terms
from lmbench.models.base import LanguageModel, ModelConfig, Output, Readout, State


class RecurrentConfig(ModelConfig, ABC):
    """Abstract: the settings that recurrent models share."""

    crosses: ClassVar[str] = "its state runs on through the row"

    d_model: int = Field(128, ge=1)
    """Width of the embedding and of each layer's state."""
    n_layer: int = Field(2, ge=1)
    """Recurrent layers; two as in both publications' smaller models."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """On the embedding and on each layer's output, in training; 0 switches it off. The published
    models have 40 times the parameters and 0.5 to 0.65."""
    tied_head: bool = False
    """The head borrows the embedding's matrix and has no bias."""

    @abstractmethod
    def layers(self) -> list[RecurrentLayer]:
        """The layers with freshly drawn weights."""

    @abstractmethod
    def cell(self) -> tuple[int, int]:
        """(gates, operations beside the products) of a feature; see `rnn_terms`."""

    def build(self) -> "Recurrent":
        """The module with freshly drawn weights."""
        return Recurrent(self)

    def terms(self, readout: Readout) -> tuple[Term, ...]:
        """The layers over all positions, the head where it is read."""
        n_gate, cell = self.cell()
        sizes = {"seq_len": self.seq_len, "width": self.d_model, "n_layer": self.n_layer}
        rows = self.seq_len if readout == "all" else 1
        head = matmul(rows, inner=self.d_model, columns=self.vocab_size)
        return (*rnn_terms(n_gate=n_gate, cell=cell, **sizes), Term(name="head", forward=head))


class Recurrent(LanguageModel):
    """logits = head(drop(layer_n(... drop(layer_1(drop(embedding(tokens)))))))."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.seq_len = config.seq_len
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.scale = config.d_model**0.5 if config.tied_head else 1.0
        if config.tied_head:
            nn.init.normal_(self.embedding.weight, std=config.d_model**-0.5)
        self.layers = nn.ModuleList(config.layers())
        self.dropouts = nn.ModuleList([Dropout(config.dropout) for _ in range(config.n_layer + 1)])
        self.head = None if config.tied_head else nn.Linear(config.d_model, config.vocab_size)

    def forward(
        self, tokens_BT: Tensor, context_BK: Tensor | None = None, *, readout: Readout = "all"
    ) -> Output:
        """See `LanguageModel.forward`."""
        check_length(tokens_BT.shape[1], seq_len=self.seq_len)
        x_BTC, _ = self._run(tokens_BT, ({},) * len(self.layers))
        return Output(self._logits(x_BTC[:, -1:] if readout == "last" else x_BTC))

    def extend(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See `LanguageModel.extend`."""
        length, layers = (0, ({},) * len(self.layers)) if state is None else state
        length += tokens_BT.shape[1]
        check_length(length, seq_len=self.seq_len)
        x_BTC, layers = self._run(tokens_BT, layers)
        return self._logits(x_BTC[:, -1]), State(length, layers)

    def _run(
        self, tokens_BT: Tensor, states: Sequence[dict[str, Tensor]]
    ) -> tuple[Tensor, tuple[dict[str, Tensor], ...]]:
        """What the head reads, and the states after the last token."""
        first, *others = self.dropouts
        x_BTC, after = first(self.scale * look_up(self.embedding.weight, tokens_BT)), []
        for layer, dropout, state in zip(self.layers, others, states, strict=True):
            x_BTC, state = layer(x_BTC, state)
            x_BTC = dropout(x_BTC)
            after.append(state)
        return x_BTC, tuple(after)

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(x, self.embedding.weight) if self.head is None else self.head(x)
