"""The Triton kernel of dropout: mask and product in one pass over the data.

Imported where it is launched and nowhere else, because CPU builds of torch lack Triton.
"""

import triton
import triton.language as tl


@triton.jit
def mix32(x):
    """`dropout._mix32`, on unsigned numbers: the same bits, so that masks are those of any other path."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def is_kept(key, index, dropped):
    """Which elements a key leaves, by their index within one replica."""
    low, high = (key & 0xFFFFFFFF).to(tl.uint32), (key >> 32).to(tl.uint32)
    return (mix32(mix32(index.to(tl.uint32) + high) + low) >> 16) >= dropped


@triton.jit
def drop(x, out, keys, per_replica, dropped, grow, BLOCK: tl.constexpr):
    """out = x where kept, times `grow`; one axis of programs for replicas, one for their elements."""
    replica = tl.program_id(1)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < per_replica
    place = replica.to(tl.int64) * per_replica + index
    value = tl.load(x + place, mask=inside, other=0.0)
    kept = is_kept(tl.load(keys + replica), index, dropped)
    tl.store(out + place, tl.where(kept, value * grow, 0.0).to(out.dtype.element_ty), mask=inside)
