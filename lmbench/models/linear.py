"""The linear model: all embeddings of the context, flattened, and one linear map to logits.

The published baseline that every model with a non-linearity has to beat. Legend: B batch,
T position, K preceding tokens, V vocabulary.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from lmbench.layers.cost import Term, matmul
from lmbench.layers.window import WindowLinear, ZeroPaddedEmbedding, extended, windows_of
from lmbench.models.base import LanguageModel, ModelConfig, Output, Readout, State


class LinearConfig(ModelConfig):
    """Embedding, flatten, linear; the defaults are the published 1,073,345 parameters."""

    kind: ClassVar[Literal["linear"]] = "linear"
    is_window: ClassVar[bool] = True
    crosses: ClassVar[str] = "its windows reach over all that stands before in the row"

    d_model: int = Field(128, ge=1)
    """Width of a token's embedding."""

    def build(self) -> "Linear":
        """The module with freshly drawn weights."""
        return Linear(self)

    def terms(self, readout: Readout) -> tuple[Term, ...]:
        """One product of the whole window with the head, for each prediction."""
        targets = self.seq_len if readout == "all" else 1
        flops = matmul(targets, inner=self.seq_len * self.d_model, columns=self.vocab_size)
        return (Term(name="head", forward=flops),)


class Linear(LanguageModel):
    """logits_t = b + sum over j of W_j e(token at t - j), j from 0 to seq_len - 1."""

    def __init__(self, config: LinearConfig) -> None:
        super().__init__()
        self.embedding = ZeroPaddedEmbedding(vocab_size=config.vocab_size, d_model=config.d_model)
        self.head = WindowLinear(width=config.seq_len, d_model=config.d_model, d_out=config.vocab_size)

    def forward(
        self, tokens_BT: Tensor, context_BK: Tensor | None = None, *, readout: Readout = "all"
    ) -> Output:
        """See `LanguageModel.forward`."""
        tokens_BL = windows_of(tokens_BT, context_BK, width=self.head.width, readout=readout)
        return Output(self.head(self.embedding(tokens_BL)))

    def extend(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See `LanguageModel.extend`; the last seq_len - 1 tokens are all that is remembered."""
        length, layers = (0, ({},)) if state is None else state
        tokens_BL, last = extended(tokens_BT, layers[0], width=self.head.width)
        context_BK, last_B1 = tokens_BL[:, :-1], tokens_BL[:, -1:]
        logits_B1V = self(last_B1, context_BK, readout="last").logits_BTV
        return logits_B1V[:, 0], State(length + tokens_BT.shape[1], (last,))
