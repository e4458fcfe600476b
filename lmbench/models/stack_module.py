"""The module of all stacks of blocks; their config is in `models.stack`.

Embedding, blocks of mixer and feed-forward in the order of their execution, head. What a block reads
may be more than the stream: what earlier blocks wrote, or the embedding once more.

Legend: B batch, T position, K preceding tokens, C model width, V vocabulary.
"""

from dataclasses import replace

from torch import Tensor, nn

from lmbench.layers.block import Block
from lmbench.layers.embedding import Head, TokenEmbedding
from lmbench.layers.mixer import Pass
from lmbench.layers.vectors import Vectors
from lmbench.models.base import LanguageModel, ModelConfig, Output, Readout, State


class Stack(LanguageModel):
    """logits = head(norm(block_n(... block_1(embedding(tokens))))).

    Args:
        config: a `models.stack.StackConfig`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        shape = config.block_shape()
        sizes = {"vocab_size": config.vocab_size, "tied": config.tied_head}
        self.embedding = TokenEmbedding(shape, **sizes)
        parts = zip(config.mixers(), config.feedforwards(), strict=True)
        first = config.mixers().index("attention") if config.value_residual else None
        self.blocks = nn.ModuleList(
            [
                Block(replace(shape, is_first=at == first), mixer=mixer, feedforward=feedforward)
                for at, (mixer, feedforward) in enumerate(parts)
            ]
        )
        self.head = Head(shape, **sizes, logit_cap=config.logit_cap)
        self.order, n_skips = config.order(), len(config.longest_order()) // 2
        width, mixed = shape.d_model, config.embedding_mix
        self.skips = Vectors(n_skips, width=width, value=1.0) if config.unet_skips and n_skips else None
        self.stream_gains = Vectors(config.n_layer, width=width, value=1.0) if mixed else None
        self.embedding_gains = Vectors(config.n_layer, width=width, value=0.0) if mixed else None

    def executed(self) -> list[Block]:
        """The blocks that a pass goes through, from the embedding to the head."""
        return list(self.blocks)

    def read(self, at: int, x_BTC: Tensor, earlier: list[Tensor]) -> Tensor:
        """What the block reads that is executed at this place: the stream, and what is added to it.

        Args:
            earlier: a list of the pass, empty at first, for what the stream was in front of each block.

        Source: the baseline of OpenAI's Parameter Golf, 2026; U-Net skips, Ronneberger et al. 2015.
        """
        if self.skips is None and self.stream_gains is None:
            return x_BTC
        earlier.append(x_BTC)
        half = len(self.order) // 2
        if self.skips is not None and 0 <= at - half < half:
            # Block `half` reads what the one before it wrote once more, the next what two before that wrote.
            x_BTC = x_BTC + self.skips(at - half) * earlier[2 * half - at]
        if self.stream_gains is not None and self.embedding_gains is not None:
            stored = self.order[at]
            x_BTC = self.stream_gains(stored) * x_BTC + self.embedding_gains(stored) * earlier[0]
        return x_BTC

    def forward(
        self,
        tokens_BT: Tensor,
        context_BK: Tensor | None = None,
        *,
        readout: Readout = "all",
        segment_BT: Tensor | None = None,
    ) -> Output:
        """See `LanguageModel.forward`."""
        shared, earlier = Pass(segment_BT=segment_BT), []
        x_BTC = self.embedding(tokens_BT, offset_BT=shared.offset_BT)
        for at, block in enumerate(self.executed()):
            x_BTC = block(self.read(at, x_BTC, earlier), shared)
        return Output(self.head(x_BTC, embedding=self.embedding, readout=readout), shared.aux_loss)

    def extend(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See `LanguageModel.extend`; the embedding's memory stands before those of the blocks."""
        blocks = self.executed()
        length, (tokens, *states) = (0, ({},) * (len(blocks) + 1)) if state is None else state
        x_BTC, tokens = self.embedding.extend(tokens_BT, tokens, first=length)
        shared, layers, earlier = Pass(), [tokens], []
        for at, (block, layer) in enumerate(zip(blocks, states, strict=True)):
            x_BTC, layer = block.extend(self.read(at, x_BTC, earlier), layer, shared)
            layers.append(layer)
        logits_B1V = self.head(x_BTC, embedding=self.embedding, readout="last")
        return logits_B1V[:, 0], State(length + tokens_BT.shape[1], tuple(layers))
