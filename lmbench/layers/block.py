"""One block: a sequence mixer and a feed-forward, each with its norm and its residual.

Post-norm, as published: x = LN(x + mix(x)); x = LN(x + ff(x)) (Vaswani et al. 2017).
Pre-norm: x = x + mix(LN(x)); x = x + ff(LN(x)) (Xiong et al. 2020).
With `residual_dropout` the mixer's branch ends in dropout, as the feed-forward always does.
Legend: B batch, T position, C model width.
"""

from torch import Tensor, nn

from lmbench.layers.cost import Term
from lmbench.layers.dropout import Dropout
from lmbench.layers.feedforwards import FEEDFORWARDS
from lmbench.layers.init import GPT2_STD, draw_normal, residual_std, set_to_zero
from lmbench.layers.mixer import LayerState, Mixer, Pass
from lmbench.layers.mixers import MIXERS
from lmbench.layers.norm import make_norm
from lmbench.layers.shape import BlockShape, NormOrder


class Block(nn.Module):
    """A mixer, then a feed-forward.

    Args:
        mixer: name in `MIXERS`, and of the part, so that a weight's name says where it belongs.
        feedforward: name in `FEEDFORWARDS`.
    """

    def __init__(self, shape: BlockShape, *, mixer: str = "attention", feedforward: str = "dense") -> None:
        super().__init__()
        self.norm_order: NormOrder = shape.norm_order
        self.mixer_name = mixer
        norm = {"width": shape.d_model, "bias": shape.bias, "gain": shape.norm_gain}
        self.add_module(mixer, MIXERS[mixer].build(shape))
        self.mixer_dropout = Dropout(shape.dropout) if shape.residual_dropout else nn.Identity()
        self.add_module(f"{mixer}_norm", make_norm(shape.norm, **norm))
        self.feedforward = FEEDFORWARDS[feedforward].build(shape)
        self.feedforward_norm = make_norm(shape.norm, **norm)
        self._start(shape)

    @property
    def mixer(self) -> Mixer:
        """The part that mixes positions."""
        return self.get_submodule(self.mixer_name)

    def forward(self, x_BTC: Tensor, shared: Pass | None = None) -> Tensor:
        """(B, T, C) to (B, T, C); position t reads positions 0 to t."""
        return self._residual(x_BTC, shared, self.mixer(self._before_mixer(x_BTC), shared))

    def extend(
        self, x_BTC: Tensor, state: LayerState, shared: Pass | None = None
    ) -> tuple[Tensor, LayerState]:
        """Further positions after those that `state` stands for; see `Mixer.extend`."""
        mixed_BTC, state = self.mixer.extend(self._before_mixer(x_BTC), state, shared)
        return self._residual(x_BTC, shared, mixed_BTC), state

    def _before_mixer(self, x_BTC: Tensor) -> Tensor:
        return self._mixer_norm(x_BTC) if self.norm_order == "pre" else x_BTC

    def _residual(self, x_BTC: Tensor, shared: Pass | None, mixed_BTC: Tensor) -> Tensor:
        """All that follows the mixer."""
        x_BTC = x_BTC + self.mixer_dropout(mixed_BTC)
        if self.norm_order == "pre":
            return x_BTC + self.feedforward(self.feedforward_norm(x_BTC), shared)
        x_BTC = self._mixer_norm(x_BTC)
        return self.feedforward_norm(x_BTC + self.feedforward(x_BTC, shared))

    @property
    def _mixer_norm(self) -> nn.Module:
        return self.get_submodule(f"{self.mixer_name}_norm")

    def _start(self, shape: BlockShape) -> None:
        """Set the first weights where they are not those of the parts themselves."""
        to_stream = (self.mixer.out_proj, self.feedforward.down)
        if shape.init == "gpt2":
            inner = [part for part in self.mixer.modules() if isinstance(part, nn.Linear)]
            for linear in (*(part for part in inner if part is not to_stream[0]), self.feedforward.up):
                draw_normal(linear, std=GPT2_STD)
            for linear in to_stream:
                draw_normal(linear, std=residual_std(shape.n_layer))
        if shape.zero_init:
            for linear in to_stream:
                set_to_zero(linear)


def block_terms(
    shape: BlockShape, *, n_layer: int, mixer: str = "attention", feedforward: str = "dense"
) -> tuple[Term, ...]:
    """Forward FLOPs of n_layer blocks over seq_len tokens."""
    parts = MIXERS[mixer].terms, FEEDFORWARDS[feedforward].terms
    return tuple(term for terms in parts for term in terms(shape, n_layer=n_layer))
