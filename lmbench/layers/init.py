"""How weights start where it is not torch's own way: GPT-2's normal draws, and maps that start at zero.

`gpt2` draws every matrix and table from N(0, 0.02^2) and sets every bias to 0; the two maps
of a block that write to the residual stream are drawn smaller by sqrt(2 n_layer), so that
the sum of all 2 n_layer branches starts with the variance of one (Radford et al. 2019,
section 2.3). A map that starts at zero makes each block the identity at the first step and
leaves the deviation to the optimizer (Zhang et al. 2019, "Fixup"; for the last map to the
logits, Yang et al. 2022, appendix D.2).
"""

from torch import nn

GPT2_STD = 0.02


def residual_std(n_layer: int) -> float:
    """GPT-2's standard deviation of a map that writes to the residual stream of n_layer blocks."""
    return GPT2_STD / (2 * n_layer) ** 0.5


def draw_normal(module: nn.Linear | nn.Embedding, *, std: float) -> None:
    """Weights from N(0, std^2), a bias at 0."""
    nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def set_to_zero(linear: nn.Linear) -> None:
    """Weights and bias at 0."""
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
