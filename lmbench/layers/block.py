"""One block of attention and feed-forward with residuals, in either norm order.

Post-norm, as published: x = LN(x + attention(x)); x = LN(x + ff(x)) (Vaswani et al. 2017).
Pre-norm: x = x + attention(LN(x)); x = x + ff(LN(x)) (Xiong et al. 2020).
With `residual_dropout` the attention branch ends in dropout, as the feed-forward always does.
"""

from torch import Tensor, nn

from lmbench.layers.attention import CausalSelfAttention, attention_terms
from lmbench.layers.cost import Term
from lmbench.layers.dropout import Dropout
from lmbench.layers.feedforward import FeedForward, feedforward_terms
from lmbench.layers.init import GPT2_STD, draw_normal, residual_std, set_to_zero
from lmbench.layers.norm import make_norm
from lmbench.layers.shape import BlockShape, NormOrder


class Block(nn.Module):
    """Attention, then feed-forward, each with its norm and its residual."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.norm_order: NormOrder = shape.norm_order
        norm = {"width": shape.d_model, "bias": shape.bias, "gain": shape.norm_gain}
        self.attention = CausalSelfAttention(shape)
        self.attention_dropout = Dropout(shape.dropout) if shape.residual_dropout else nn.Identity()
        self.attention_norm = make_norm(shape.norm, **norm)
        self.feedforward = FeedForward(shape)
        self.feedforward_norm = make_norm(shape.norm, **norm)
        self._start(shape)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C); position t reads positions 0 to t."""
        if self.norm_order == "pre":
            x_BTC = x_BTC + self._attend(self.attention_norm(x_BTC))
            return x_BTC + self.feedforward(self.feedforward_norm(x_BTC))
        x_BTC = self.attention_norm(x_BTC + self._attend(x_BTC))
        return self.feedforward_norm(x_BTC + self.feedforward(x_BTC))

    def _attend(self, x_BTC: Tensor) -> Tensor:
        return self.attention_dropout(self.attention(x_BTC))

    def _start(self, shape: BlockShape) -> None:
        """Set the first weights where they are not those of the parts themselves."""
        to_stream = (self.attention.out_proj, self.feedforward.down)
        if shape.init == "gpt2":
            for linear in (self.attention.in_proj, self.feedforward.up):
                draw_normal(linear, std=GPT2_STD)
            for linear in to_stream:
                draw_normal(linear, std=residual_std(shape.n_layer))
        if shape.zero_init:
            for linear in to_stream:
                set_to_zero(linear)


def block_terms(shape: BlockShape, *, n_layer: int) -> tuple[Term, ...]:
    """Forward FLOPs of n_layer blocks over seq_len tokens."""
    return attention_terms(shape, n_layer=n_layer) + feedforward_terms(shape, n_layer=n_layer)
