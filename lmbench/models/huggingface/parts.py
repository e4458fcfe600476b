"""Between a module of Hugging Face's transformers and a model of the suite: its ends, masks and caches.

Legend: B batch, T position, C model width, H head, K head width or key position, D feature,
L length with padding, W taps, N state.
"""

import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lmbench.models.huggingface.library import library

# Architectures in which every position sees all before it, so that one mask serves every layer.
_FULL_ATTENTION = ("gpt2", "llama")


def accepts(body: nn.Module, argument: str) -> bool:
    """Whether the forward of a module has an argument of that name."""
    return argument in inspect.signature(body.forward).parameters


def take_ends(body: nn.Module, *, name: str) -> tuple[nn.Module, nn.Module]:
    """The look-up table and the head of a body, which keeps on using them but no longer lists them.

    Every parameter then has one name, also where the two share a matrix.

    Raises:
        ValueError: a body that has no such parts.
    """
    table, head = body.get_input_embeddings(), body.get_output_embeddings()
    if not isinstance(table, nn.Embedding) or not isinstance(head, nn.Linear):
        raise ValueError(
            f"a model of type {name!r} has no plain look-up table and linear head, so it cannot be used"
        )
    # By the config: where weights are about to be loaded, the library has not tied them yet.
    own: nn.Module = TiedHead(table, bias=head.bias) if body.config.tie_word_embeddings else head
    body.set_input_embeddings(Borrowed(table))
    body.set_output_embeddings(Borrowed(own))
    body.all_tied_weights_keys = {}  # the library must not look for two names
    return table, own


def mask_for(body: nn.Module, tokens_BT: Tensor, *, n_before: int) -> Tensor | None:
    """What the library is told about the positions that a token may see; None where it is told nothing.

    Left to itself it looks at the data (for texts laid end to end), which neither a stack of
    replicas nor a captured graph nor the meta device can.
    """
    n_queries = tokens_BT.shape[1]
    if body.config.model_type in _FULL_ATTENTION:
        place = {"device": tokens_BT.device}
        q_T1 = torch.arange(n_before, n_before + n_queries, **place).unsqueeze(1)
        later_TK = torch.arange(n_before + n_queries, **place) > q_T1
        mask_TK = torch.zeros(later_TK.shape, dtype=body.get_input_embeddings().weight.dtype, **place)
        return mask_TK.masked_fill(later_TK, -math.inf)[None, None]
    if accepts(body, "cache_params") or not accepts(body, "attention_mask"):
        return None
    return tokens_BT.new_ones(tokens_BT.shape[0], n_before + n_queries)  # no padding


class Borrowed(nn.Module):
    """Stands where the library looks for a part that is listed elsewhere."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = (part,)  # in a tuple, so that it is no submodule

    @property
    def weight(self) -> Tensor:
        """The part's matrix."""
        return self.part[0].weight

    def forward(self, x: Tensor) -> Tensor:
        """What the part returns."""
        return self.part[0](x)


class TiedHead(nn.Module):
    """The map to the vocabulary by the matrix of a look-up table."""

    def __init__(self, table: nn.Embedding, *, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.table, self.bias = (table,), bias

    @property
    def weight(self) -> Tensor:
        """The table's matrix."""
        return self.table[0].weight

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, V) logits."""
        return F.linear(x_BTC, self.weight, self.bias)


class ShiftedConvolutions(TorchFunctionMode):
    """While inside, depthwise convolutions are sums of shifted products.

    As in `layers.conv`, for the same reasons: torch's counter charges the backward pass of its
    own kernel far too much, and that kernel is slow on a CPU.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not F.conv1d:
            return func(*args, **(kwargs or {}))
        return _convolve(*args, **(kwargs or {}))


def _convolve(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):  # torch's names
    """`F.conv1d`, in shifted products where each of several features has its own taps."""
    is_depthwise = groups == weight.shape[0] > 1 and weight.shape[1] == 1
    if not is_depthwise or (stride, dilation) != (1, 1) or not isinstance(padding, int):
        return F.conv1d(input, weight, bias, stride, padding, dilation, groups)
    x_BDL, W = F.pad(input, (padding, padding)), weight.shape[2]
    length = x_BDL.shape[-1] - W + 1
    taps = [weight[:, 0, j, None] * x_BDL[..., j : j + length] for j in range(W)]
    y_BDT = sum(taps[1:], start=taps[0])
    return y_BDT if bias is None else y_BDT + bias[:, None]


# ------------------------------------------------------------------ caches as tensors


def read_cache(cache: Any, *, dtype: torch.dtype) -> tuple[dict[str, Tensor], ...] | None:
    """The tensors of each layer of the library's cache; None where it is more than these.

    Args:
        dtype: of the model. The library steps its recurrence in float32 whatever that is, so
            in float64 such a cache would lose what the forward pass has.
    """
    kinds = library().cache_utils
    layers = []
    for layer in () if cache is None else cache.layers:
        if type(layer) is kinds.DynamicLayer and layer.keys is not None:
            layers.append({"keys_BHTK": layer.keys, "values_BHTK": layer.values})
        elif type(layer) is kinds.LinearAttentionLayer and layer.number_of_states == 1:
            layers.append({"conv_BDW": layer.conv_states[0], "scan_BDN": layer.recurrent_states[0]})
        else:
            return None
    whole = all(tensor is not None for layer in layers for tensor in layer.values())
    exact = dtype != torch.float64 or all("scan_BDN" not in layer for layer in layers)
    return tuple(layers) if layers and whole and exact else None


def make_cache(settings: Any, layers: tuple[dict[str, Tensor], ...]) -> Any:
    """The library's cache of such tensors, which it does not change."""
    cache = library().DynamicCache(config=settings)
    for layer, tensors in zip(cache.layers, layers, strict=True):
        if "scan_BDN" in tensors:
            layer.update_conv_state(tensors["conv_BDW"], conv_kernel_size=tensors["conv_BDW"].shape[-1])
            layer.update_recurrent_state(tensors["scan_BDN"])
        else:
            layer.update(tensors["keys_BHTK"], tensors["values_BHTK"])
    return cache
