"""One block: a sequence mixer and a feed-forward, each with its norm and its residual.

Post-norm, as published: x = LN(x + mix(x)); x = LN(x + ff(x)) (Vaswani et al. 2017).
Pre-norm: x = x + mix(LN(x)); x = x + ff(LN(x)) (Xiong et al. 2020).
With `residual_dropout` the mixer's branch ends in dropout, as the feed-forward always does.
With `conv_width` a mixer that has no convolution of its own reads y + conv(y) in place of y
(Allen-Zhu 2025, "Canon layers" A: a causal convolution with a residual, after the norm).
With `branch_scales` each branch has a learned factor for every feature (Touvron et al. 2021,
"LayerScale", here from 1 on).
Legend: B batch, T position, C model width.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from lmbench.layers.conv import ShortConv, conv_terms
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
        feedforward: name in `FEEDFORWARDS`; "none" leaves out its norm and its residual too.
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
        has_feedforward = self.feedforward is not None
        self.feedforward_norm = make_norm(shape.norm, **norm) if has_feedforward else None
        self._start(shape)
        features = {"features": shape.d_model, "bias": shape.bias}
        self.conv = ShortConv(shape.conv_width, **features) if _has_conv(shape, mixer) else None
        self.mixer_scale = nn.Parameter(torch.ones(shape.d_model)) if shape.branch_scales else None
        scaled = shape.branch_scales and has_feedforward
        self.feedforward_scale = nn.Parameter(torch.ones(shape.d_model)) if scaled else None

    @property
    def mixer(self) -> Mixer:
        """The part that mixes positions."""
        return self.get_submodule(self.mixer_name)

    def forward(self, x_BTC: Tensor, shared: Pass | None = None) -> Tensor:
        """(B, T, C) to (B, T, C); position t reads positions 0 to t."""
        return self._residual(x_BTC, shared, self.mixer(self._before_mixer(x_BTC, shared), shared))

    def extend(
        self, x_BTC: Tensor, state: LayerState, shared: Pass | None = None
    ) -> tuple[Tensor, LayerState]:
        """Further positions after those that `state` stands for; see `Mixer.extend`."""
        if self.conv is None:
            mixed_BTC, state = self.mixer.extend(self._normed(x_BTC), state, shared)
            return self._residual(x_BTC, shared, mixed_BTC), state
        y_BTC, inner = self._normed(x_BTC), {k: v for k, v in state.items() if not k.startswith(_CONV)}
        outer = {k.removeprefix(_CONV): v for k, v in state.items() if k.startswith(_CONV)}
        added_BTC, outer = self.conv.extend(y_BTC, outer)
        mixed_BTC, inner = self.mixer.extend(y_BTC + added_BTC, inner, shared)
        return self._residual(x_BTC, shared, mixed_BTC), inner | {_CONV + k: v for k, v in outer.items()}

    def _before_mixer(self, x_BTC: Tensor, shared: Pass | None) -> Tensor:
        y_BTC = self._normed(x_BTC)
        if self.conv is None:
            return y_BTC
        return y_BTC + self.conv(y_BTC, offset_BT=None if shared is None else shared.offset_BT)

    def _normed(self, x_BTC: Tensor) -> Tensor:
        return self._mixer_norm(x_BTC) if self.norm_order == "pre" else x_BTC

    def _residual(self, x_BTC: Tensor, shared: Pass | None, mixed_BTC: Tensor) -> Tensor:
        """All that follows the mixer."""
        x_BTC = x_BTC + _scaled(self.mixer_dropout(mixed_BTC), self.mixer_scale)
        if self.feedforward is None:
            return x_BTC if self.norm_order == "pre" else self._mixer_norm(x_BTC)
        if self.norm_order == "pre":
            inner_BTC = self.feedforward(self.feedforward_norm(x_BTC), shared)
            return x_BTC + _scaled(inner_BTC, self.feedforward_scale)
        x_BTC = self._mixer_norm(x_BTC)
        return self.feedforward_norm(x_BTC + _scaled(self.feedforward(x_BTC, shared), self.feedforward_scale))

    @property
    def _mixer_norm(self) -> nn.Module:
        return self.get_submodule(f"{self.mixer_name}_norm")

    def _start(self, shape: BlockShape) -> None:
        """Set the first weights where they are not those of the parts themselves."""
        feedforward = self.feedforward
        to_inner = () if feedforward is None else (feedforward.up,)
        to_stream = (self.mixer.out_proj, *(() if feedforward is None else (feedforward.down,)))
        if shape.init == "gpt2":
            inner = [part for part in self.mixer.modules() if isinstance(part, nn.Linear)]
            for linear in (*(part for part in inner if part is not to_stream[0]), *to_inner):
                draw_normal(linear, std=GPT2_STD)
            for linear in to_stream:
                draw_normal(linear, std=residual_std(shape.n_layer))
        if shape.zero_init:
            for linear in to_stream:
                set_to_zero(linear)


_CONV = "conv."
"""What the block's own convolution remembers is told apart by this in front of its name."""


def _has_conv(shape: BlockShape, mixer: str) -> bool:
    return shape.conv_width > 0 and not MIXERS[mixer].has_conv


def _scaled(x_BTC: Tensor, scale_C: Tensor | None) -> Tensor:
    return x_BTC if scale_C is None else scale_C * x_BTC


def block_terms(
    shape: BlockShape, *, n_layer: int, mixer: str = "attention", feedforward: str = "dense"
) -> tuple[Term, ...]:
    """Forward FLOPs of n_layer blocks over seq_len tokens."""
    parts = MIXERS[mixer].terms, FEEDFORWARDS[feedforward].terms
    terms = tuple(term for terms in parts for term in terms(shape, n_layer=n_layer))
    if not _has_conv(shape, mixer):
        return terms
    conv = conv_terms(width=shape.conv_width, features=shape.d_model, seq_len=shape.seq_len)
    return tuple(replace(term, forward=n_layer * term.forward) for term in conv) + terms
