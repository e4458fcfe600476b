"""Nested widths by slices: the first units of a stack as a small stack of their own, and really faster.

The small stack's weights are slices of the full ones, taken anew in every pass, so gradients
flow to where the optimizer updates. It computes what masks compute (`layers.width_masks`) with
ordinary kernels on small matrices. Detached, the slices are the weights of a plain small model.
Legend: B batch, T position, K preceding tokens, C model width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from lmbench.layers.dropout import Dropout
from lmbench.layers.positions import Rotary
from lmbench.layers.shape import Readout
from lmbench.layers.width_masks import Masked
from lmbench.layers.widths import UNITS, Sizes, Widths, site_of


def sliced(value: Tensor, name: str, *, sizes: Sizes, widths: Widths) -> Tensor:
    """What a parameter is in the small stack.

    Args:
        name: of the parameter in the plain model.
    """
    for dim, axis in enumerate(site_of(name).axes):
        if not axis:
            continue
        n = getattr(widths, UNITS[axis])
        if axis == "n_head":
            value = value.narrow(dim, 0, n * sizes.d_head)
        elif axis == "qkv":
            parts = (3, sizes.full.n_head, sizes.d_head)
            value = value.unflatten(dim, parts).narrow(dim + 1, 0, n).flatten(dim, dim + 2)
        elif axis == "up" and sizes.gated:
            value = value.unflatten(dim, (2, sizes.full.d_ff)).narrow(dim + 1, 0, n).flatten(dim, dim + 1)
        else:
            value = value.narrow(dim, 0, n)
    return value


class SlicedPass(nn.Module):
    """The training pass of `full` at some widths, through slices of its weights.

    Args:
        full: a stack, with masks installed or without; it stays the owner of all weights.
        names: of its parameters in the plain model.
        small: built of the sliced config; its own weights are never read and may be on the meta device.
    """

    def __init__(
        self, full: nn.Module, small: nn.Module, *, names: tuple[str, ...], sizes: Sizes, widths: Widths
    ) -> None:
        super().__init__()
        for path, part in list(small.named_modules()):
            if isinstance(part, Dropout | Rotary):
                # Of no width but the head's; the keys of the step are the full model's.
                parent, _, leaf = path.rpartition(".")
                small.get_submodule(parent).add_module(leaf, full.get_submodule(path))
        # A tied head's token vectors are scaled by the full width, whatever part of them is read.
        small.embedding.scale = full.embedding.scale
        # In a tuple: neither is a part of this module, which owns nothing.
        self._stacks, self.names, self.sizes, self.widths = (full, small), names, sizes, widths

    def forward(
        self,
        tokens_BT: Tensor,
        context_BK: Tensor | None = None,
        *,
        readout: Readout = "all",
        segment_BT: Tensor | None = None,
    ) -> tuple:
        """See `LanguageModel.forward`."""
        full, small = self._stacks
        weights = {
            name: sliced(_unmasked(full, name), name, sizes=self.sizes, widths=self.widths)
            for name in self.names
        }
        how = {"readout": readout, "segment_BT": segment_BT}
        return functional_call(small, weights, (tokens_BT, context_BK), how)


def _unmasked(model: nn.Module, name: str) -> Tensor:
    """The parameter as its parametrizations make it, without masks of widths."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    if not parametrize.is_parametrized(owner, leaf):
        return getattr(owner, leaf)
    value = owner.parametrizations[leaf].original
    for step in owner.parametrizations[leaf]:
        value = value if isinstance(step, Masked) else step(value)
    return value


@torch.no_grad()
def sliced_weights(
    weights: Mapping[str, Tensor], *, sizes: Sizes, widths: Widths, scale: float
) -> dict[str, Tensor]:
    """The weights of a plain small model that computes what the masked one does.

    Args:
        scale: sqrt(C) of the full over that of the small model where a tied head's token vectors are
            scaled by it, else 1. The vectors take it, and the final norm's gain gives it back.

    Raises:
        ValueError: a scale other than 1 and no gain that could give it back.
    """
    small = {k: sliced(v, k, sizes=sizes, widths=widths).clone() for k, v in weights.items()}
    if scale == 1.0:
        return small
    if "head.norm.weight" not in small:
        raise ValueError(
            "norm_gain = False leaves no gain that could carry the embedding's scale of a sliced model "
            "with tied_head = True and init = 'torch'; accepted: True, or another head or init"
        )
    small["embedding.token.weight"] *= scale
    for name in ("head.norm.weight", "head.norm.bias"):
        if name in small:
            small[name] /= scale
    return small
