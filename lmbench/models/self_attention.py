"""The single-block model of the published study: attention and a wide feed-forward, once.

Its block is the transformer's; what is published of it is one layer with d_ff = 4 C. It
has few options on purpose: with n_layer = 1 and d_ff = 512 the `transformer` is the same
map and has them all. Legend: B batch, T position, K preceding tokens, V vocabulary.
"""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from lmbench.layers.block import Block, block_terms
from lmbench.layers.cost import Term
from lmbench.layers.embedding import Head, TokenEmbedding, head_terms
from lmbench.layers.mixer import Pass
from lmbench.layers.shape import BlockShape, NormOrder, Positions
from lmbench.models.base import LanguageModel, ModelConfig, Output, Readout, State


class SelfAttentionConfig(ModelConfig):
    """One post-norm block; the defaults are the published 231,617 parameters."""

    kind: ClassVar[Literal["self_attention"]] = "self_attention"
    crosses: ClassVar[str] = ""

    d_model: int = Field(128, ge=1)
    """Width of the residual stream; a multiple of n_head."""
    n_head: int = Field(4, ge=1)
    """Attention heads."""
    d_ff: int = Field(512, ge=1)
    """Width of the feed-forward layer."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """On attention weights and after the feed-forward, in training; 0 switches it off."""
    positions: Positions = "learned"
    """How positions are told apart."""
    norm_order: NormOrder = "post"
    """Norm after the residual sum (published) or before each branch."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        self.block_shape()
        return self

    def block_shape(self) -> BlockShape:
        """The block, with the published choice for all that is not a field."""
        return BlockShape(
            seq_len=self.seq_len,
            d_model=self.d_model,
            n_head=self.n_head,
            n_kv_head=self.n_head,
            d_ff=self.d_ff,
            dropout=self.dropout,
            norm_order=self.norm_order,
            norm="layernorm",
            positions=self.positions,
            activation="relu",
            qk_norm=False,
            bias=True,
            attention_init="multihead",
        )

    def build(self) -> "SelfAttention":
        """The module with freshly drawn weights."""
        return SelfAttention(self)

    def terms(self, readout: Readout) -> tuple[Term, ...]:
        """The block over all positions, the head where it is read."""
        shape = self.block_shape()
        head = head_terms(shape, vocab_size=self.vocab_size, readout=readout)
        return block_terms(shape, n_layer=1) + head


class SelfAttention(LanguageModel):
    """logits = W LN(block(e(tokens) + positions)) + b."""

    def __init__(self, config: SelfAttentionConfig) -> None:
        super().__init__()
        shape = config.block_shape()
        self.embedding = TokenEmbedding(shape, vocab_size=config.vocab_size, tied=False)
        self.block = Block(shape)
        self.head = Head(shape, vocab_size=config.vocab_size, tied=False)

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
        x_BTC = self.block(self.embedding(tokens_BT, offset_BT=shared.offset_BT), shared)
        return Output(self.head(x_BTC, embedding=self.embedding, readout=readout))

    def extend(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See `LanguageModel.extend`."""
        length, layers = (0, ({},)) if state is None else state
        x_BTC, layer = self.block.extend(self.embedding(tokens_BT, first=length), layers[0])
        logits_B1V = self.head(x_BTC, embedding=self.embedding, readout="last")
        return logits_B1V[:, 0], State(length + tokens_BT.shape[1], (layer,))
