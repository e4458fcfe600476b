"""The multi-layer perceptron over a window: flattened embeddings, hidden ReLU layers, logits.

A fixed-window neural language model (Bengio et al. 2003) in the published study's form:
dropout after each hidden layer, no direct connections. Legend: B batch, T position, K
preceding tokens, F hidden width, V vocabulary.
"""

from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lmbench.layers.cost import Term, matmul
from lmbench.layers.dropout import Dropout
from lmbench.layers.window import WindowLinear, ZeroPaddedEmbedding, extended, windows_of
from lmbench.models.base import LanguageModel, ModelConfig, Output, Readout, State


class MLPConfig(ModelConfig):
    """Embedding, flatten, hidden layers, head; the defaults are the published 4,285,377 parameters."""

    kind: ClassVar[Literal["mlp"]] = "mlp"
    is_window: ClassVar[bool] = True
    crosses: ClassVar[str] = "its windows reach over all that stands before in the row"

    d_model: int = Field(128, ge=1)
    """Width of a token's embedding."""
    d_ff: int = Field(256, ge=1)
    """Width of the hidden layers."""
    n_layer: int = Field(2, ge=1)
    """Hidden layers; the first reads the window."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Probability that a hidden feature is set to 0 in training; 0 switches it off."""

    def build(self) -> "MLP":
        """The module with freshly drawn weights."""
        return MLP(self)

    def terms(self, readout: Readout) -> tuple[Term, ...]:
        """All layers once for each prediction."""
        targets = self.seq_len if readout == "all" else 1
        window = matmul(targets, inner=self.seq_len * self.d_model, columns=self.d_ff)
        hidden = (self.n_layer - 1) * matmul(targets, inner=self.d_ff, columns=self.d_ff)
        head = matmul(targets, inner=self.d_ff, columns=self.vocab_size)
        return (
            Term(name="window", forward=window),
            Term(name="hidden", forward=hidden),
            Term(name="head", forward=head),
        )


class MLP(LanguageModel):
    """h_1 = relu(W_1 window), h_i = relu(W_i h_{i-1}), logits = W h_n, with dropout on each h."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.embedding = ZeroPaddedEmbedding(vocab_size=config.vocab_size, d_model=config.d_model)
        self.window = WindowLinear(width=config.seq_len, d_model=config.d_model, d_out=config.d_ff)
        layers = range(config.n_layer - 1)
        self.hidden = nn.ModuleList([nn.Linear(config.d_ff, config.d_ff) for _ in layers])
        # One for each layer: a dropout module has one mask a pass.
        self.dropouts = nn.ModuleList([Dropout(config.dropout) for _ in range(config.n_layer)])
        self.head = nn.Linear(config.d_ff, config.vocab_size)

    def forward(
        self, tokens_BT: Tensor, context_BK: Tensor | None = None, *, readout: Readout = "all"
    ) -> Output:
        """See `LanguageModel.forward`."""
        tokens_BL = windows_of(tokens_BT, context_BK, width=self.window.width, readout=readout)
        h_BTF = self.dropouts[0](F.relu(self.window(self.embedding(tokens_BL))))
        for layer, dropout in zip(self.hidden, self.dropouts[1:], strict=True):
            h_BTF = dropout(F.relu(layer(h_BTF)))
        return Output(self.head(h_BTF))

    def extend(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See `LanguageModel.extend`; the last seq_len - 1 tokens are all that is remembered."""
        length, layers = (0, ({},)) if state is None else state
        tokens_BL, last = extended(tokens_BT, layers[0], width=self.window.width)
        context_BK, last_B1 = tokens_BL[:, :-1], tokens_BL[:, -1:]
        logits_B1V = self(last_B1, context_BK, readout="last").logits_BTV
        return logits_B1V[:, 0], State(length + tokens_BT.shape[1], (last,))
