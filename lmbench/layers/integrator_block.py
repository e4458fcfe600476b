"""The integrator's block: attention, the integrator with attention's output as context, a feed-forward.

    a = attention(norm(x));  x = x + drop(a);  x = x + drop(integrate(from norm(x), context a));
    x = x + feedforward(norm(x))

The integrator's last position is near its first, a norm of x, so that even without iterations
the block adds norm(x) to the stream. Where it starts at mu instead, its norm has no use and is
left out. Legend: B batch, T position, C model width.
"""

from torch import Tensor, nn

from lmbench.layers.attention import CausalSelfAttention, attention_terms
from lmbench.layers.controllers import Controller
from lmbench.layers.cost import Term
from lmbench.layers.dropout import Dropout
from lmbench.layers.feedforward import FeedForward, feedforward_terms
from lmbench.layers.integrator import Integrator, integrator_terms, recomputed
from lmbench.layers.integrator_mixture import ControllerMixture
from lmbench.layers.integrator_shape import IntegratorShape
from lmbench.layers.mixer import LayerState, Pass
from lmbench.layers.norm import make_norm
from lmbench.layers.shape import BlockShape


class IntegratorBlock(nn.Module):
    """Three pre-norm branches. `controller` is what all layers share, or None."""

    def __init__(self, shape: BlockShape, *, cell: IntegratorShape) -> None:
        super().__init__()
        self.is_recomputed = cell.checkpointing == "block"
        norm = {"width": shape.d_model, "bias": shape.bias, "gain": shape.norm_gain}
        self.attention_norm = make_norm(shape.norm, **norm)
        self.attention = CausalSelfAttention(shape)
        self.attention_dropout = Dropout(shape.dropout)
        self.integrator_norm = make_norm(shape.norm, **norm) if cell.start == "norm" else None
        self.integrator = Integrator(cell)
        self.integrator_dropout = Dropout(shape.dropout)
        self.feedforward_norm = make_norm(shape.norm, **norm)
        self.feedforward = FeedForward(shape)

    def forward(
        self, x_BTC: Tensor, shared: Pass, *, controller: Controller | ControllerMixture | None
    ) -> Tensor:
        """(B, T, C) to (B, T, C); position t reads positions 0 to t."""

        def whole(x_BTC: Tensor) -> tuple[Tensor, list[Tensor]]:
            # Computed twice, the block must not write twice to what others read.
            inner = Pass(segment_BT=shared.segment_BT)
            h_BTC = self.attention(self.attention_norm(x_BTC), inner)
            x_BTC = self._after_attention(x_BTC, h_BTC, inner, controller)
            return x_BTC, inner.aux_losses

        is_recomputed = self.is_recomputed and self.training
        x_BTC, losses = recomputed(whole, x_BTC) if is_recomputed else whole(x_BTC)
        shared.aux_losses.extend(losses)
        return x_BTC

    def extend(
        self,
        x_BTC: Tensor,
        state: LayerState,
        shared: Pass,
        *,
        controller: Controller | ControllerMixture | None,
    ) -> tuple[Tensor, LayerState]:
        """Further positions; attention alone remembers the ones before. See `Mixer.extend`."""
        h_BTC, state = self.attention.extend(self.attention_norm(x_BTC), state, shared)
        return self._after_attention(x_BTC, h_BTC, shared, controller), state

    def counted(
        self, x_BTC: Tensor, *, controller: Controller | ControllerMixture | None
    ) -> tuple[Tensor, Tensor]:
        """As `forward` in evaluation, and the iterations of each token, (B, T) int64."""
        h_BTC = self.attention(self.attention_norm(x_BTC))
        x_BTC = x_BTC + h_BTC
        moved_BTC, count_BT = self.integrator.settled(self._start(x_BTC), h_BTC, controller=controller)
        x_BTC = x_BTC + moved_BTC
        return x_BTC + self.feedforward(self.feedforward_norm(x_BTC)), count_BT

    def _after_attention(
        self, x_BTC: Tensor, h_BTC: Tensor, shared: Pass, controller: Controller | ControllerMixture | None
    ) -> Tensor:
        x_BTC = x_BTC + self.attention_dropout(h_BTC)
        moved_BTC = self.integrator(self._start(x_BTC), h_BTC, shared, controller=controller)
        x_BTC = x_BTC + self.integrator_dropout(moved_BTC)
        return x_BTC + self.feedforward(self.feedforward_norm(x_BTC), shared)

    def _start(self, x_BTC: Tensor) -> Tensor | None:
        return None if self.integrator_norm is None else self.integrator_norm(x_BTC)


def integrator_block_terms(shape: BlockShape, *, cell: IntegratorShape, n_layer: int) -> tuple[Term, ...]:
    """Forward FLOPs of n_layer blocks over seq_len tokens."""
    return (
        *attention_terms(shape, n_layer=n_layer),
        *integrator_terms(cell, seq_len=shape.seq_len, n_layer=n_layer),
        *feedforward_terms(shape, n_layer=n_layer),
    )


def recomputed_flops(shape: BlockShape, *, cell: IntegratorShape, n_layer: int) -> int:
    """Forward FLOPs over seq_len tokens that the backward pass computes a second time."""
    if cell.checkpointing == "none":
        return 0
    terms = {t.name: t.forward for t in integrator_block_terms(shape, cell=cell, n_layer=n_layer)}
    if cell.checkpointing != "block":
        return terms.get("iterations", 0)  # the hoisted product is kept
    # Recomputation ends where nothing is needed any more: without dropout before the block's last product.
    last = 2 * shape.seq_len * shape.d_ff * shape.d_model * n_layer
    return sum(terms.values()) - (0 if shape.dropout else last)
