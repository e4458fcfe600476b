"""The stack that most kinds are: embedding, blocks of mixer and feed-forward, head.

A kind of this family is a `StackConfig` with a mixer for each block, and perhaps an order of
its own in which blocks are executed. The defaults are what small models are built of today;
a kind that stands for a publication sets its own. Legend: B batch, T position, K preceding
tokens, C model width, V vocabulary.
"""

from abc import ABC
from collections import Counter
from dataclasses import replace
from typing import Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

from lmbench.layers.block import Block, block_terms
from lmbench.layers.cost import Term, merged
from lmbench.layers.embedding import Head, TokenEmbedding, embedding_terms, head_terms
from lmbench.layers.mixer import Pass
from lmbench.layers.mixers import MIXERS
from lmbench.layers.shape import Activation, AttentionInit, BlockShape, Init, NormKind, NormOrder, Positions
from lmbench.layers.vectors import Vectors
from lmbench.models.base import LanguageModel, ModelConfig, Output, Readout, State


class StackConfig(ModelConfig, ABC):
    """Abstract: the settings that all stacks of blocks share."""

    d_model: int = Field(128, ge=1)
    """Width of the residual stream; a multiple of n_head where d_head is not given."""
    n_layer: int = Field(3, ge=1)
    """Blocks."""
    n_head: int = Field(4, ge=1)
    """Heads of the mixers that have such; query heads of attention."""
    n_kv_head: int | None = Field(None, ge=1)
    """Key and value heads of attention, a divisor of n_head; None is n_head."""
    d_head: int | None = Field(None, ge=1)
    """Width of attention's heads, where it is not d_model / n_head; None is that. Other mixers refuse it."""
    d_ff: int = Field(192, ge=1)
    """Width of the feed-forward layers; None is turned into 4 d_model."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """On attention weights and after the feed-forward, in training; 0 switches it off."""
    residual_dropout: bool = False
    """Dropout also after the embedding and after the mixer's output map (GPT-2's places)."""
    norm_order: NormOrder = "pre"
    """Norm after the residual sum (published) or before each branch."""
    norm: NormKind = "rmsnorm"
    """Kind of every norm but that of queries and keys."""
    norm_gain: bool = True
    """False leaves the learned gain and bias out of every norm, that of queries and keys too."""
    positions: Positions = "rope"
    """How positions are told apart."""
    activation: Activation = "swiglu"
    """Of the feed-forward; swiglu has 3 C d_ff weights, the others 2 C d_ff."""
    qk_norm: bool = True
    """RMSNorm of attention's queries and keys over the head width."""
    tied_head: bool = False
    """The head borrows the embedding's matrix and has no bias."""
    bias: bool = False
    """Biases of all linear maps and LayerNorms; a tied head has none."""
    attention_init: AttentionInit = "linear"
    """Attention starts like nn.MultiheadAttention (published) or like separate nn.Linear."""
    init: Init = "torch"
    """"gpt2" draws all matrices and tables from N(0, 0.02^2), the maps that write to the residual
    stream smaller by sqrt(2 n_layer), with biases at 0 (Radford et al. 2019), and scales no
    embedding; it leaves attention_init nothing to decide."""
    zero_init: bool = False
    """The output maps of mixer and feed-forward, and an untied head, start at 0, after `init`."""
    logit_cap: float | None = Field(None, gt=0)
    """Logits become cap * tanh(logits / cap) (Gemma 2); None switches it off."""
    embedding_rank: int | None = Field(None, ge=1)
    """Token vectors from two factors, V x rank and rank x d_model (ALBERT). A tied head goes back through
    both; an untied one is a full d_model x V matrix. None is a plain table."""
    conv_width: int = Field(0, ge=0)
    """Taps of a short causal convolution: inside the mixers that have one, in front of all others;
    0 is none."""
    unet_skips: bool = False
    """What the first half of the executed blocks wrote is added, in reverse, to what the second half
    reads, with learned weights from 1 on; of an odd number, the last block reads no addition."""
    embedding_mix: bool = False
    """Each block reads a learned mix of the stream and the embedding, from the stream alone on."""
    branch_scales: bool = False
    """A learned factor, from 1 on, for each feature of what mixer and feed-forward add to the stream."""
    value_residual: bool = False
    """Attention mixes the values of the first attention layer into its own (ResFormer). Other mixers
    are left as they are; a stack with fewer than two attention layers is refused."""
    smear: bool = False
    """A token's vector takes from the one before it, through a gate that starts without effect."""
    bigram_buckets: int = Field(0, ge=0)
    """Rows of a table, from 0 on, that pairs of neighbouring tokens are hashed to, added to the token's
    vector; from V (V + 1) on each pair has its own. 0 is none."""

    @field_validator("d_ff", mode="before")
    @classmethod
    def _four_widths(cls, value: Any, info: ValidationInfo) -> Any:
        """d_ff where it is None; d_model stands before it and is checked already."""
        return 4 * info.data["d_model"] if value is None and "d_model" in info.data else value

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        others = sorted(set(self.mixers()) - {"attention"})
        if self.d_head is not None and others:
            raise ValueError(
                f"d_head = {self.d_head} is the width of attention's heads, but {self.kind!r} has layers of "
                f"{others[0]!r}; accepted: None"
            )
        self.block_shape()
        n_attention = self.mixers().count("attention") if self.value_residual else 2
        if n_attention < 2:
            raise ValueError(
                f"value_residual = True mixes the first attention layer's values into later ones', so it "
                f"needs at least 2 attention layers, but {self.kind!r} has {n_attention}; "
                f"accepted: False"
            )
        return self

    def block_shape(self) -> BlockShape:
        """What every block of the stack looks like."""
        own = {name: getattr(self, name) for name in BlockShape.names() if hasattr(self, name)}
        return BlockShape(**own | {"n_kv_head": self.n_kv_head or self.n_head})

    def mixers(self) -> tuple[str, ...]:
        """The mixer of each stored block, by its name in `layers.mixers`."""
        return ("attention",) * self.n_layer

    def feedforwards(self) -> tuple[str, ...]:
        """The position-wise part of each stored block, by its name in `layers.feedforwards`."""
        return ("dense",) * self.n_layer

    @property
    def crosses(self) -> str:
        """Why a prediction would read across the border of two segments; see `ModelConfig`."""
        found = [(mixer, MIXERS[mixer].crosses) for mixer in self.mixers() if MIXERS[mixer].crosses]
        return f"it has layers of {found[0][0]!r}, and {found[0][1]}" if found else ""

    def order(self) -> tuple[int, ...]:
        """Stored blocks in the order in which they are executed."""
        return tuple(range(self.n_layer))

    def longest_order(self) -> tuple[int, ...]:
        """That of the stage which executes most; the parameters are those that it needs."""
        return self.order()

    def build(self) -> "Stack":
        """The module with freshly drawn weights."""
        return Stack(self)

    def terms(self, readout: Readout) -> tuple[Term, ...]:
        """The executed blocks over all positions, the head where it is read."""
        shape, parts = self.block_shape(), list(zip(self.mixers(), self.feedforwards(), strict=True))
        alike = Counter(parts[at] for at in self.order())
        blocks = [
            term
            for (mixer, feedforward), n in alike.items()
            for term in block_terms(shape, n_layer=n, mixer=mixer, feedforward=feedforward)
        ]
        head = head_terms(shape, vocab_size=self.vocab_size, readout=readout)
        return embedding_terms(shape) + merged(blocks) + head


class Stack(LanguageModel):
    """logits = head(norm(block_n(... block_1(embedding(tokens)))))."""

    def __init__(self, config: StackConfig) -> None:
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
