"""One set of weights executed several times in a pass, with dropout that differs each time.

A `Dropout` draws its mask from its key, so a module that is called twice would drop the same
elements twice. A view is the module once more, with `Dropout` modules of its own and
everything else shared: the very module objects where no dropout lies below them, and the very
dicts of parameters and buffers where it does. Weights thus have one name, one place and one
gradient, and whatever puts other tensors under that name is seen by all views.
"""

import copy

from torch import nn

from lmbench.layers.dropout import Dropout


def shared_view(module: nn.Module) -> nn.Module:
    """The module once more, for a further execution in the same pass.

    It must not be registered in the model (its weights are, under their own names); its dropouts,
    see `dropouts_of`, must, and `train` has to be called on it too.
    """
    if isinstance(module, Dropout):
        return copy.deepcopy(module)
    if not dropouts_of(module):
        return module
    view = copy.copy(module)  # shares all of the module's dicts
    view._modules = {
        name: None if child is None else shared_view(child) for name, child in module._modules.items()
    }
    return view


def dropouts_of(module: nn.Module) -> list[Dropout]:
    """The dropouts of a module, in the order of its parts."""
    return [part for part in module.modules() if isinstance(part, Dropout)]
