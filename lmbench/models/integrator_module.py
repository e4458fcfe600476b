"""The module of the integrator language model; its config is in `models.integrator`.

Legend: B batch, T position, K preceding tokens, C model width, L layer, V vocabulary.
"""

import torch
from torch import Tensor, nn

from lmbench.layers.embedding import TokenEmbedding
from lmbench.layers.init import GPT2_STD, draw_normal
from lmbench.layers.integrator import make_controller
from lmbench.layers.integrator_block import IntegratorBlock
from lmbench.layers.integrator_head import BiasFreeHead
from lmbench.layers.integrator_shape import IntegratorShape
from lmbench.layers.integrator_stop import whole_batch
from lmbench.layers.mixer import Pass
from lmbench.layers.shape import BlockShape
from lmbench.models.base import LanguageModel, ModelConfig, Output, Readout, State


class IntegratorModel(LanguageModel):
    """logits = head(norm(block_n(... block_1(embedding(tokens))))).

    Args:
        cell: of the integrator in each block.
        published_factors: both factors of a low-rank embedding from N(0, 0.02^2).
    """

    def __init__(
        self, shape: BlockShape, *, cell: IntegratorShape, vocab_size: int, published_factors: bool
    ) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(shape, vocab_size=vocab_size, tied=shape.tied_head)
        if published_factors:
            draw_normal(self.embedding.token.up, std=GPT2_STD)
        self.controller = make_controller(cell) if cell.shared_controller else None
        self.stopping = cell.stopping
        self.blocks = nn.ModuleList([IntegratorBlock(shape, cell=cell) for _ in range(shape.n_layer)])
        self.head = BiasFreeHead(shape, vocab_size=vocab_size)

    def forward(
        self,
        tokens_BT: Tensor,
        context_BK: Tensor | None = None,
        *,
        readout: Readout = "all",
        segment_BT: Tensor | None = None,
    ) -> Output:
        """See `LanguageModel.forward`."""
        shared = Pass(segment_BT=segment_BT)
        x_BTC = self.embedding(tokens_BT, offset_BT=shared.offset_BT)
        for block in self.blocks:
            x_BTC = block(x_BTC, shared, controller=self.controller)
        return Output(self.head(x_BTC, embedding=self.embedding, readout=readout), shared.aux_loss)

    def extend(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See `LanguageModel.extend`."""
        length, states = (0, ({},) * len(self.blocks)) if state is None else state
        shared, x_BTC, layers = Pass(), self.embedding(tokens_BT, first=length), []
        for block, layer in zip(self.blocks, states, strict=True):
            x_BTC, layer = block.extend(x_BTC, layer, shared, controller=self.controller)
            layers.append(layer)
        logits_B1V = self.head(x_BTC, embedding=self.embedding, readout="last")
        return logits_B1V[:, 0], State(length + tokens_BT.shape[1], tuple(layers))

    def enter(self, stage: ModelConfig) -> bool:
        """Fill a phase's numbers into the tensors that hold them; see `LanguageModel.enter`."""
        for block in self.blocks:
            block.integrator.mean_weight.fill_(stage.mean_weight)
            if block.integrator.excitation is not None:
                block.integrator.excitation.amplitude.fill_(stage.excitation)
        return False

    def effort(self, tokens_BT: Tensor) -> dict[str, Tensor]:
        """Iterations of a cell, averaged over the layers, where a stopping rule decides; else nothing.

        `iterations` are the token's own, which is what stopping could save at best;
        `iterations_of_batch` those of the slowest token of the batch in each layer, which is what a
        batch that is computed together has to wait for.
        """
        if self.stopping == "off":
            return {}
        count_LBT = self.count_iterations(tokens_BT).double()
        slowest = whole_batch(count_LBT).mean()
        return {"iterations": count_LBT.mean(0), "iterations_of_batch": slowest.expand(tokens_BT.shape)}

    def count_iterations(self, tokens_BT: Tensor) -> Tensor:
        """Iterations of each token in each layer, (L, B, T) int64; dropout is off."""
        was_training = self.training
        self.eval()
        try:
            x_BTC, counts = self.embedding(tokens_BT), []
            for block in self.blocks:
                x_BTC, count_BT = block.counted(x_BTC, controller=self.controller)
                counts.append(count_BT)
            return torch.stack(counts)
        finally:
            self.train(was_training)
