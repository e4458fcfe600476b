"""Both passes of the selective scan of state-space models: lmbench against a loop over the positions.

The baseline is what one writes from the paper's equations, autograd through a loop over the
positions (as the reference implementation of Mamba's authors does). On a GPU lmbench has kernels of its
own, on a CPU it goes through the positions by hand; its plain form, a parallel scan in torch, is timed
beside them. Sizes are those of ten models of 200,000 weights side by side, as notebook 06 trains them.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import common
from lmbench.layers.selective import selective_scan, selective_states

SIZES = {"batch": 2560, "positions": 51, "features": 192, "states": 16}
CPU_SIZES = SIZES | {"batch": 64}
QUICK = {"batch": 2, "positions": 5, "features": 3, "states": 4}


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure and report; returns what was printed."""
    options = common.parser(__doc__, repeats=5).parse_args(arguments)
    device = common.settle(options)
    sizes = QUICK if options.quick else SIZES if device.type == "cuda" else CPU_SIZES
    return [_measure(sizes, options, device=device)]


def scan_in_loop(dt_BTD: Tensor, x_BTD: Tensor, A_DN: Tensor, B_BTN: Tensor, C_BTN: Tensor) -> Tensor:
    """y, (B, T, D), position by position."""
    h_BDN, y = torch.zeros_like(dt_BTD[:, 0].unsqueeze(-1) * A_DN), []
    for t in range(x_BTD.shape[1]):
        decay_BDN = torch.exp(dt_BTD[:, t].unsqueeze(-1) * A_DN)
        h_BDN = decay_BDN * h_BDN + (dt_BTD[:, t] * x_BTD[:, t]).unsqueeze(-1) * B_BTN[:, t].unsqueeze(1)
        y.append((h_BDN @ C_BTN[:, t].unsqueeze(-1)).squeeze(-1))
    return torch.stack(y, dim=1)


def drawn(sizes: dict[str, int], *, device: torch.device) -> list[Tensor]:
    """Step sizes, inputs, rates and the two selections, with gradients to make."""
    B, T, D, N = sizes.values()
    draw = torch.Generator().manual_seed(0)
    shapes = ((B, T, D), (B, T, D), (D, N), (B, T, N), (B, T, N))
    dt, x, A, B_, C = (torch.randn(*shape, generator=draw) for shape in shapes)
    made = (0.1 * F.softplus(dt), x, -A.exp(), B_, C)
    return [one.to(device).requires_grad_() for one in made]


def _measure(sizes: dict[str, int], options: argparse.Namespace, *, device: torch.device) -> dict[str, Any]:
    inputs = drawn(sizes, device=device)
    grad_BTD = torch.ones_like(inputs[1])
    gradients: dict[str, tuple[Tensor, ...]] = {}

    def both_passes(name: str, scan: Callable[..., Tensor]) -> Callable[[], None]:
        def work() -> None:
            gradients[name] = torch.autograd.grad(scan(*inputs), inputs, grad_BTD)

        work()  # kernels are built, memory is taken
        return work

    ours = both_passes("ours", selective_scan)
    loop = both_passes("loop", scan_in_loop)
    plain = both_passes("plain", lambda *given: selective_states(*given)[0])
    apart = max(
        float((a - b).norm() / b.norm()) for a, b in zip(gradients["ours"], gradients["loop"], strict=True)
    )
    measured = common.paired(
        lambda: 1e3 * common.seconds(ours, device=device),
        lambda: 1e3 * common.seconds(loop, device=device),
        repeats=options.repeats,
    )
    beside = [1e3 * common.seconds(plain, device=device) for _ in range(options.repeats)]
    return common.report(
        name="selective_scan",
        device=common.named(device),
        ours=measured[0],
        baseline=measured[1],
        unit="ms",
        better="lower",
        out=options.out,
        ours_is="lmbench, both passes of the selective scan",
        baseline_is="autograd through a loop over the positions",
        plain_form_each=beside,
        gradients_apart=apart,
        settings=sizes | {"quick": options.quick},
    )


if __name__ == "__main__":
    main()
