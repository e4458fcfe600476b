"""A count of multiplies and adds that are done element by element, which no counter of products sees."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
ONE = {aten.mul, aten.add, aten.sub, aten.rsub, aten.add_, aten.mul_}
TWO = {aten.addcmul, aten.addcmul_}


class Operations(TorchDispatchMode):
    """Inside, `count` grows by one for each element of what a multiply, an add or a subtraction gives."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        self.count += out.numel() * ((packet in ONE) + 2 * (packet in TWO)) if packet in ONE | TWO else 0
        return out
