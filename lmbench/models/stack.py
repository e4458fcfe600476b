"""The stack that most kinds are: embedding, blocks of mixer and feed-forward, head.

A kind of this family is a `StackConfig` with a mixer for each block, and perhaps an order of
its own in which blocks are executed. The defaults are what small models are built of today;
a kind that stands for a publication sets its own. Legend: C model width, V vocabulary.
"""

from abc import ABC
from collections import Counter
from typing import Self

from pydantic import Field, field_validator, model_validator

from lmbench.layers.block import block_terms
from lmbench.layers.cost import Term, merged
from lmbench.layers.embedding import embedding_terms, head_terms
from lmbench.layers.mixers import MIXERS
from lmbench.layers.shape import Activation, AttentionInit, BlockShape, Init, NormKind, NormOrder, Positions
from lmbench.models.base import ModelConfig, Readout, four_widths
from lmbench.models.stack_module import Stack


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

    _four_widths = field_validator("d_ff", mode="before")(four_widths)

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

    def build(self) -> Stack:
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
