"""One block of attention and feed-forward with residuals, in either norm order.

Post-norm, as published: x = LN(x + attention(x)); x = LN(x + ff(x)) (Vaswani et al. 2017).
Pre-norm: x = x + attention(LN(x)); x = x + ff(LN(x)) (Xiong et al. 2020).
"""

from torch import Tensor, nn

from lmbench.layers.attention import CausalSelfAttention, attention_terms
from lmbench.layers.cost import Term
from lmbench.layers.feedforward import FeedForward, feedforward_terms
from lmbench.layers.norm import make_norm
from lmbench.layers.shape import BlockShape, NormOrder


class Block(nn.Module):
    """Attention, then feed-forward, each with its norm and its residual."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.norm_order: NormOrder = shape.norm_order
        self.attention = CausalSelfAttention(shape)
        self.attention_norm = make_norm(shape.norm, width=shape.d_model, bias=shape.bias)
        self.feedforward = FeedForward(shape)
        self.feedforward_norm = make_norm(shape.norm, width=shape.d_model, bias=shape.bias)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C); position t reads positions 0 to t."""
        if self.norm_order == "pre":
            x_BTC = x_BTC + self.attention(self.attention_norm(x_BTC))
            return x_BTC + self.feedforward(self.feedforward_norm(x_BTC))
        x_BTC = self.attention_norm(x_BTC + self.attention(x_BTC))
        return self.feedforward_norm(x_BTC + self.feedforward(x_BTC))


def block_terms(shape: BlockShape, *, n_layer: int) -> tuple[Term, ...]:
    """Forward FLOPs of n_layer blocks over seq_len tokens."""
    return attention_terms(shape, n_layer=n_layer) + feedforward_terms(shape, n_layer=n_layer)
