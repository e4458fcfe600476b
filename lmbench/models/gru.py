"""The GRU language model: the LSTM's with three quarters of its weights and no cell.

Source: Cho et al. 2014 for the unit (see `layers.rnn`), Zaremba et al. 2014 for the model.
"""

from typing import ClassVar, Literal

from lmbench.layers.rnn import GRU_GATES, GRULayer, RecurrentLayer
from lmbench.models.recurrent import RecurrentConfig


class GRUConfig(RecurrentConfig):
    """Embedding, GRU layers, head."""

    kind: ClassVar[Literal["gru"]] = "gru"

    def layers(self) -> list[RecurrentLayer]:
        """See `RecurrentConfig.layers`."""
        return [GRULayer(self.d_model) for _ in range(self.n_layer)]

    def cell(self) -> tuple[int, int]:
        """See `RecurrentConfig.cell`."""
        return GRU_GATES, 5
