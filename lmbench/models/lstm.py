"""The LSTM language model, the baseline of the word-level data sets.

Source: Zaremba et al. 2014; Merity et al. 2017 (AWD-LSTM) without its dropped recurrent weights,
averaging and state carried from one batch to the next.
"""

from typing import ClassVar, Literal

from lmbench.layers.rnn import LSTM_GATES, LSTMLayer, RecurrentLayer
from lmbench.models.recurrent import RecurrentConfig


class LSTMConfig(RecurrentConfig):
    """Embedding, LSTM layers, head."""

    kind: ClassVar[Literal["lstm"]] = "lstm"

    forget_bias: float = 1.0
    """Of the forget gates at the start (Jozefowicz et al. 2015, section 4); Zaremba's is 0."""

    def layers(self) -> list[RecurrentLayer]:
        """See `RecurrentConfig.layers`."""
        return [LSTMLayer(self.d_model, forget_bias=self.forget_bias) for _ in range(self.n_layer)]

    def cell(self) -> tuple[int, int]:
        """See `RecurrentConfig.cell`."""
        return LSTM_GATES, 4
