"""What the maps of a model are given to read, for methods that fit weights to it after training.

For each weight the sum of x x' over all positions of some batches, in float64. Inputs are caught
where a module is called. Maps that a module applies by itself are known one by one: windows,
the recurrent map of an RNN (which reads the states before), experts (each its own rows),
routers, and the two inner maps of an integrator's controller. Tables have no inputs, and what is
not known here has none either: `inputs_of` says so by None.

Legend: N rows of input, C inputs, E expert, O outputs.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lmbench.layers.controllers import Controller
from lmbench.layers.experts import ExpertLinear, Experts
from lmbench.layers.rnn import RecurrentLayer
from lmbench.layers.window import WindowLinear
from lmbench.methods.parts import Part, is_conv1d
from lmbench.models.base import LanguageModel
from lmbench.tasks.base import Batch

Take = Callable[[Tensor], None]


@torch.no_grad()
def hessians(model: LanguageModel, part: Part, batches: Iterable[Batch]) -> Tensor | None:
    """(E, C, C) sums of x x' of the inputs of one weight, E being 1 but for experts; None where it has none.

    Args:
        batches: (B, T) tokens and so on.
    """
    sums: list[Tensor] = []

    def add(one_ECC: Tensor) -> None:
        if sums:
            sums[0] += one_ECC
        else:
            sums.append(one_ECC)

    was_training = model.training
    model.eval()
    try:
        with _caught(model, part, add):
            for batch in batches:
                model(batch.tokens_BT, batch.context_BK, **batch.borders)
    finally:
        model.train(was_training)
    return sums[0] if sums else None


def _square(x: Tensor) -> Tensor:
    x_NC = x.flatten(0, -2).double()
    return (x_NC.mT @ x_NC).unsqueeze(0)


@contextmanager
def _caught(model: LanguageModel, part: Part, add: Take) -> Iterator[None]:
    """Hooks that see the inputs of a weight."""
    path = part.weight.rpartition(".")[0]
    module, leaf = model.get_submodule(path), path.rpartition(".")[2]
    parent = model.get_submodule(path.rpartition(".")[0])
    handle = None
    if isinstance(parent, WindowLinear):
        handle = parent.register_forward_pre_hook(lambda _, x: add(_square(_windows(x[0], parent.width))))
    elif isinstance(parent, RecurrentLayer) and leaf == "hidden_proj":
        handle = parent.register_forward_hook(lambda _, x, out: add(_square(out[0][:, :-1])))
    elif isinstance(parent, Experts) and leaf == "router":
        handle = parent.register_forward_pre_hook(lambda _, x: add(_square(x[0])))
    elif isinstance(parent, Controller) and leaf in ("position", "velocity"):
        at = ("position", "velocity").index(leaf) + 1
        handle = parent.register_forward_pre_hook(lambda _, x: None if x[at] is None else add(_square(x[at])))
    elif isinstance(module, ExpertLinear):
        handle = module.register_forward_pre_hook(lambda _, x: add(_by_expert(*x)))
    elif isinstance(module, nn.Linear) or is_conv1d(module):
        handle = module.register_forward_pre_hook(lambda _, x: add(_square(x[0])))
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def _windows(x_BLC: Tensor, width: int) -> Tensor:
    """All windows of so many vectors, flat, as `WindowLinear` reads them."""
    return x_BLC.unfold(1, width, 1).transpose(2, 3).flatten(2)


def _by_expert(x_MC: Tensor, ends_E: Tensor) -> Tensor:
    """(E, C, C): rows are sorted by expert."""
    return torch.cat([_square(rows) for rows in torch.tensor_split(x_MC, ends_E.tolist()[:-1])])
