"""Linear maps in low precision or with few weights, each made from a plain one, and the bytes they keep.

A form holds its weights as a kernel reads them: 8-bit codes with a scale for each row, the nonzero ones
with their places, or bfloat16, dense or 2:4. The bias stays that of the plain map.

Legend: N rows of an input, C its width, F rows of a weight.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_VECTOR = 64  # weights that kernels read at once, at most


class Int8WeightLinear(nn.Module):
    """y = s * (x q') + b with q int8 and a scale s for each row: the weights are read in 8 bits.

    Products are of bfloat16, for which alone torch's kernel is a fast one on the CPU; scales stay float32.
    The kernel reads whole vectors and beyond the end of a row that is none, so both sides are filled up.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight_FC = linear.weight.detach()
        scale_F = weight_FC.abs().amax(dim=1).clamp_min(torch.finfo(weight_FC.dtype).tiny) / 127
        codes_FC = (weight_FC / scale_F[:, None]).round().to(torch.int8)
        self.rows, self.fill = linear.out_features, -linear.in_features % _VECTOR
        codes_FC = F.pad(codes_FC, (0, self.fill, 0, -linear.out_features % _VECTOR)).contiguous()
        self.register_buffer("codes_FC", codes_FC)
        self.register_buffer("scale_F", scale_F)
        self.register_buffer("one_F", torch.ones(len(codes_FC), dtype=torch.bfloat16, device=scale_F.device))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., F), of x's type."""
        x_NC = F.pad(x.to(torch.bfloat16).reshape(-1, x.shape[-1]), (0, self.fill)).contiguous()
        y_NF = torch._weight_int8pack_mm(x_NC, self.codes_FC, self.one_F)[:, : self.rows].to(x.dtype)
        y = (y_NF * self.scale_F).reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


class CsrLinear(nn.Module):
    """y = x W' + b with W in compressed sparse rows: zeros are neither kept nor multiplied."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight_FC", linear.weight.detach().to_sparse_csr())
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., F)."""
        y_NF = (self.weight_FC @ x.reshape(-1, x.shape[-1]).t()).t()
        y = y_NF.reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


class HalfLinear(nn.Module):
    """y = x W' + b in bfloat16, in between a model in float32; W dense or 2:4."""

    def __init__(self, linear: nn.Linear, *, sparse: bool) -> None:
        super().__init__()
        weight_FC = linear.weight.detach().to(torch.bfloat16)
        self.weight_FC = nn.Parameter(
            torch.sparse.to_sparse_semi_structured(weight_FC) if sparse else weight_FC, requires_grad=False
        )
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., F), of x's type."""
        y = F.linear(x.to(torch.bfloat16).reshape(-1, x.shape[-1]), self.weight_FC)
        y = y.reshape(*x.shape[:-1], -1).to(x.dtype)
        return y if self.bias is None else y + self.bias


def is_two_of_four(weight_FC: Tensor) -> bool:
    """Whether at most two of any four neighbours in a row are not zero."""
    if weight_FC.shape[-1] % 4:
        return False
    return bool(((weight_FC.reshape(-1, 4) != 0).sum(dim=1) <= 2).all())


def stored_bytes(part: nn.Module) -> int:
    """Bytes of the weights, scales and indices of one linear map in any of the forms, biases left out."""
    if isinstance(part, CsrLinear):
        w = part.weight_FC
        tensors = [w.values(), w.crow_indices(), w.col_indices()]
    elif isinstance(part, Int8WeightLinear):
        tensors = [part.codes_FC, part.scale_F]
    elif isinstance(part, nn.Linear):
        tensors = _parts(part.weight)
    elif isinstance(part, HalfLinear):
        tensors = _parts(part.weight_FC)
    else:  # torch's own, whose packed weights tell nothing: 8 bits and a float32 scale and sum for all
        return part.in_features * part.out_features + 8
    return sum(t.numel() * t.element_size() for t in tensors)


def _parts(tensor: Tensor) -> list[Tensor]:
    """The plain tensors of one that wraps several."""
    if not is_traceable_wrapper_subclass(tensor):
        return [tensor]
    found = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
    return [part for one in found if one is not None for part in _parts(one)]
