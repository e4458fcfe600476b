"""Dropout whose mask is a pure function of a key, so that a run's masks do not depend on its company.

torch's dropout draws from one global stream: a run that trains beside others, or that is
resumed, would see other masks. Here each dropout module holds a `key`, which the trainer
sets from (dropout_seed, step, micro-batch, module), and the mask is made from the key and
the position of the element alone. Masks have a resolution of 2^-16: p = 0.1 drops 6554 of
65536, and the survivors are scaled by exactly 65536 / (65536 - 6554).

Source: Srivastava et al. 2014 (inverted scaling); counter-based streams, Salmon et al. 2011.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from lmbench.layers.operator import launched_on, operator

LEVELS = 1 << 16
DROP_BLOCK = 1024  # elements for each instance of the GPU's kernel


class Dropout(nn.Module):
    """Sets each element to 0 with probability p in training and scales the others up."""

    key: Tensor

    def __init__(self, p: float) -> None:
        super().__init__()
        self.dropped = min(round(p * LEVELS), LEVELS - 1)
        """Of LEVELS equally likely values, those that drop an element."""
        self.register_buffer("key", torch.zeros((), dtype=torch.int64), persistent=False)

    @property
    def is_active(self) -> bool:
        """Whether a forward pass draws a mask now."""
        return self.training and self.dropped > 0

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape, in its dtype."""
        if not self.is_active:
            return x
        if x.device.type == "cuda" and x.dtype != torch.float64 and not torch.compiler.is_compiling():
            return _drop(x.contiguous(), self.key.view(1), self.dropped)
        kept = keep_mask(self.key, list(x.shape), self.dropped)
        return x * kept.to(x.dtype) * (LEVELS / (LEVELS - self.dropped))


def dropout_sites(module: nn.Module) -> list[str]:
    """Names of the key buffers that a training pass reads, in the order of the modules."""
    return [
        f"{name}.key" if name else "key"
        for name, part in module.named_modules()
        if isinstance(part, Dropout) and part.dropped > 0
    ]


def dropout_keys(seeds_R: list[int], *, first: int, count: int, micro: int, sites: int) -> np.ndarray:
    """Keys of optimizer steps first .. first+count-1: (count, R, micro, sites) int64, not negative.

    Each is a hash (three rounds of splitmix64, Steele et al. 2014) of seed, step, micro-batch and
    site, so a key does not depend on which other steps, replicas or sites are asked for.
    """
    seed_R = np.array(seeds_R, dtype=np.uint64)[:, None, None]
    step_C = np.arange(first, first + count, dtype=np.uint64)[:, None, None, None]
    micro_M = np.arange(micro, dtype=np.uint64)[:, None]
    site_D = np.arange(sites, dtype=np.uint64)
    mixed = _splitmix(_splitmix(seed_R) ^ step_C)
    keys = _splitmix(mixed + (micro_M << np.uint64(32)) + site_D)
    return (keys >> np.uint64(1)).astype(np.int64)


def _splitmix(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def keep_mask(key: Tensor, shape: list[int], dropped: int) -> Tensor:
    """Booleans of `shape`, False with probability dropped / LEVELS.

    The CPU reads four values from each 64 bits of a fast generator, which eager tensor
    arithmetic could not match; elsewhere the mask is arithmetic on the element's index, which
    compilers fuse into the product and never store (`_drop` is the same as one kernel, where
    nothing is compiled). So masks differ between the two kinds of device.
    """
    return (
        _keep_mask_cpu(key, shape, dropped) if key.device.type == "cpu" else _keep_mask(key, shape, dropped)
    )


def _keep_mask(key: Tensor, shape: list[int], dropped: int) -> Tensor:
    index = torch.arange(math.prod(shape), dtype=torch.int32, device=key.device).view(shape)
    low, high = key.to(torch.int32), (key >> 32).to(torch.int32)
    # The index is mixed before the key comes in: with a plain xor two keys would permute one mask.
    value = _mix32(_mix32(index + high) + low)
    return ((value >> 16) & 0xFFFF) >= dropped


def _mix32(x: Tensor) -> Tensor:
    """A bijection of 32 bits in which every input bit moves every output bit (Wellons' lowbias32)."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * (0x846CA68B - (1 << 32))
    return x ^ ((x >> 16) & 0xFFFF)


@operator("keep_mask_cpu(Tensor key, int[] shape, int dropped) -> Tensor")
def _keep_mask_cpu(key: Tensor, shape: list[int], dropped: int) -> Tensor:
    n = math.prod(shape)
    words = np.random.SFC64(int(key)).random_raw(-(-n // 4))
    lanes = torch.from_numpy(words.view(np.int16)[:n])
    return (lanes >= dropped - LEVELS // 2).view(shape)


@_keep_mask_cpu.fake
def _(key: Tensor, shape: list[int], dropped: int) -> Tensor:
    return key.new_empty(shape, dtype=torch.bool)


@_keep_mask_cpu.vmap
def _(info, in_dims, key: Tensor, shape: list[int], dropped: int) -> tuple[Tensor, int]:
    masks = [_keep_mask_cpu(one, shape, dropped) for one in key.movedim(in_dims[0], 0)]
    return torch.stack(masks), 0


@operator("drop(Tensor x, Tensor keys_R, int dropped) -> Tensor")
def _drop(x: Tensor, keys_R: Tensor, dropped: int) -> Tensor:
    """Dropout on a GPU: x is R replicas end to end, each with its key; its own backward pass too."""
    from lmbench.layers import dropout_kernel

    out, per_replica = torch.empty_like(x), x.numel() // len(keys_R)
    grid = (-(-per_replica // DROP_BLOCK), len(keys_R))
    grow = LEVELS / (LEVELS - dropped)
    with launched_on(x):
        # Keys of one site are a column of all keys, and the kernel reads them side by side.
        dropout_kernel.drop[grid](x, out, keys_R.contiguous(), per_replica, dropped, grow, BLOCK=DROP_BLOCK)
    return out


@_drop.fake
def _(x: Tensor, keys_R: Tensor, dropped: int) -> Tensor:
    return torch.empty_like(x)


def _save_keys(ctx, inputs, output: Tensor) -> None:
    _, keys_R, ctx.dropped = inputs
    ctx.save_for_backward(keys_R)


def _drop_gradient(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
    return _drop(grad.contiguous(), *ctx.saved_tensors, ctx.dropped), None, None


_drop.autograd(_drop_gradient, _save_keys)


@_drop.vmap
def _(info, in_dims, x: Tensor, keys_R: Tensor, dropped: int) -> tuple[Tensor, int]:
    R = info.batch_size
    x = x.unsqueeze(0).expand(R, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
    keys = keys_R.expand(R, 1) if in_dims[1] is None else keys_R.movedim(in_dims[1], 0)
    return _drop(x.contiguous(), keys.reshape(R), dropped), 0
