"""Everything that shapes one attention block, checked once for all models that use it.

The defaults of the models that hold a `BlockShape` are the published settings (Vaswani et
al. 2017: post-norm, LayerNorm, ReLU); each field names the value that a later paper chose.
"""

from dataclasses import dataclass, fields
from typing import Literal

Readout = Literal["all", "last"]
NormOrder = Literal["post", "pre"]
NormKind = Literal["layernorm", "rmsnorm"]
Positions = Literal["learned", "none", "sinusoidal", "rope", "alibi"]
Activation = Literal["relu", "gelu", "swiglu", "relu2"]
AttentionInit = Literal["multihead", "linear"]
Init = Literal["torch", "gpt2"]
Rule = Literal["add", "delta"]
Decay = Literal["none", "data"]


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """Sizes and choices of one block.

    Raises:
        ValueError: sizes that do not fit each other.
    """

    seq_len: int
    d_model: int
    n_head: int
    n_kv_head: int
    """Key and value heads; n_head is plain multi-head attention, 1 is multi-query."""
    d_ff: int
    dropout: float
    norm_order: NormOrder
    norm: NormKind
    positions: Positions
    activation: Activation
    qk_norm: bool
    bias: bool
    attention_init: AttentionInit
    d_head: int | None = None
    """Width of one head; None is turned into d_model / n_head. Only attention can have another."""
    norm_gain: bool = True
    """False leaves the learned gain and bias out of every norm, that of queries and keys too."""
    residual_dropout: bool = False
    """Dropout also after the embedding and after the attention's output map."""
    init: Init = "torch"
    """"gpt2" draws all matrices as GPT-2 does, whatever `attention_init` is."""
    n_layer: int = 1
    """Blocks of the stack that this one belongs to; only the "gpt2" start reads it."""
    zero_init: bool = False
    """The maps that write to the residual stream, and an untied head, start at 0."""

    conv_width: int = 0
    """Taps of a short causal convolution: inside the mixers that have one (`MixerKind.has_conv`), in
    front of all others; 0 is none."""
    value_residual: bool = False
    """Attention mixes the values of the first attention layer into its own."""
    is_first: bool = False
    """No attention layer is executed before this block's, which gives the values that later ones mix in."""
    tied_head: bool = False
    """The head borrows the matrix of the token vectors."""
    embedding_rank: int | None = None
    """Rank of that matrix, held in two factors; None is a plain table."""
    smear: bool = False
    """A token's vector takes from the one before it, through a gate."""
    bigram_buckets: int = 0
    """Rows of a table for pairs of neighbours, added to the token's vector; 0 is none."""
    branch_scales: bool = False
    """A learned factor for each feature of what mixer and feed-forward add to the stream."""
    expand: int = 1
    """Inner width of a recurrent mixer, in multiples of d_model."""
    n_expert: int = 1
    """Feed-forwards of a mixture of experts."""
    top_k: int = 1
    """Experts that each position uses."""
    balance_weight: float = 0.0
    """Of the loss that keeps the shares of the experts equal; 0 leaves it out."""
    z_weight: float = 0.0
    """Of the loss that keeps a router's logits small; 0 leaves it out."""
    d_state: int = 16
    """State of a selective state-space model, per inner feature."""
    rule: Rule = "delta"
    """How linear attention writes to its memory: on top, or over what the key held."""
    decay: Decay = "data"
    """Of linear attention's memory: a factor for each head and position, drawn from the input, or none."""

    def __post_init__(self) -> None:
        divided = self.d_head is None
        if divided and self.d_model % self.n_head:
            raise ValueError(
                f"d_model = {self.d_model} must be a multiple of n_head = {self.n_head}"
                f" (the nearest is {_nearest_multiple(self.d_model, of=self.n_head)})"
            )
        if divided:
            object.__setattr__(self, "d_head", self.d_model // self.n_head)
        if self.n_kv_head < 1 or self.n_head % self.n_kv_head:
            divisors = [str(n) for n in range(1, self.n_head + 1) if self.n_head % n == 0]
            raise ValueError(
                f"n_kv_head = {self.n_kv_head} must divide n_head = {self.n_head}; "
                f"accepted: {', '.join(divisors)}"
            )
        if self.positions == "rope" and self.d_head % 2:
            named = f"d_model / n_head must be even, but {self.d_model} / {self.n_head}"
            raise ValueError(
                f"positions = 'rope' turns pairs of features, so "
                f"{named if divided else 'd_head must be even, but d_head'} = {self.d_head}"
            )
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ValueError(
                f"positions = 'sinusoidal' needs an even d_model, one sine and one cosine for each "
                f"frequency, but d_model = {self.d_model}"
            )

    @classmethod
    def names(cls) -> list[str]:
        """Of the fields."""
        return [field.name for field in fields(cls)]


def _nearest_multiple(value: int, *, of: int) -> int:
    return max(round(value / of), 1) * of
