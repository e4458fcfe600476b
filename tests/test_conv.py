"""The short causal convolution against torch's own, and its bill against what is computed."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from lmbench.layers.conv import ShortConv, conv_terms

WIDTHS = pytest.mark.parametrize("width", [1, 2, 4])


def conv(width: int, *, features: int = 3, bias: bool = True) -> ShortConv:
    module = ShortConv(width, features=features, bias=bias).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(width)))
    return module


def inputs(*, length: int = 6, features: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(2, length, features, generator=generator, dtype=torch.float64)


def test_each_output_is_the_weighted_sum_of_the_last_inputs() -> None:
    module = ShortConv(2, features=1, bias=False)
    with torch.no_grad():
        module.weight_WD.copy_(torch.tensor([[10.0], [1.0]]))  # of the newest, of the one before
    assert module(torch.tensor([[[1.0], [2.0], [3.0]]])).flatten().tolist() == [10.0, 21.0, 32.0]


@WIDTHS
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("length", [1, 2, 6])
def test_it_is_the_depthwise_convolution_of_torch_with_taps_reversed(
    width: int, bias: bool, length: int
) -> None:
    module, x_BTD = conv(width, bias=bias), inputs(length=length)
    kernel_D1W = module.weight_WD.flip(0).T.unsqueeze(1)
    padded_BDL = F.pad(x_BTD.transpose(1, 2), (width - 1, 0))
    expected = F.conv1d(padded_BDL, kernel_D1W, module.bias_D, groups=3).transpose(1, 2)
    torch.testing.assert_close(module(x_BTD), expected, rtol=0, atol=1e-14)


@WIDTHS
def test_a_changed_input_changes_only_the_outputs_that_reach_back_to_it(width: int) -> None:
    module, x_BTD = conv(width), inputs()
    changed = x_BTD.clone()
    changed[:, 2] += 1.0
    moved = (module(changed) != module(x_BTD)).any(-1).any(0)
    assert moved.nonzero().flatten().tolist() == list(range(2, min(2 + width, 6)))


@WIDTHS
@pytest.mark.parametrize("cuts", [[1, 1, 1, 1, 1, 1], [4, 2], [1, 5], [6]])
def test_pieces_of_a_sequence_give_what_the_whole_does(width: int, cuts: list[int]) -> None:
    module, x_BTD = conv(width), inputs()
    state, found = {}, []
    for piece in x_BTD.split(cuts, dim=1):
        y_BTD, state = module.extend(piece, state)
        found.append(y_BTD)
        assert state["inputs_BWD"].shape == (2, width - 1, 3)
    torch.testing.assert_close(torch.cat(found, dim=1), module(x_BTD), rtol=0, atol=1e-14)


def test_it_starts_as_a_depthwise_convolution_of_torch_does_with_a_bias_at_zero() -> None:
    module = ShortConv(4, features=500, bias=True)
    assert module.weight_WD.abs().max() <= 0.5
    assert module.weight_WD.std().item() == pytest.approx(0.5 / 3**0.5, rel=0.05)
    assert not module.bias_D.any()
    assert ShortConv(4, features=5, bias=False).bias_D is None


class Counted(TorchDispatchMode):
    """Counts element-wise products and sums."""

    def __init__(self) -> None:
        super().__init__()
        self.n = {torch.ops.aten.mul: 0, torch.ops.aten.add: 0}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in self.n:
            self.n[func._overloadpacket] += out.numel()
        return out


@WIDTHS
def test_the_bill_is_a_multiply_and_an_add_for_each_tap_where_the_first_add_is_that_of_the_bias(
    width: int,
) -> None:
    module, x_BTD = conv(width), inputs()[:1]
    with torch.no_grad(), Counted() as counted:
        module(x_BTD)
    (term,) = conv_terms(width=width, features=3, seq_len=6)
    assert set(counted.n.values()) == {width * 3 * 6}
    assert term.forward == sum(counted.n.values()) == 2 * width * 3 * 6
    assert term.elementwise
    assert term.causal is None


def test_stacked_under_vmap_each_is_as_alone_and_in_bfloat16_stays_so() -> None:
    modules, x_BTD = [conv(3), conv(3)], inputs()
    with torch.no_grad():
        modules[1].weight_WD.mul_(2)
    stacked, buffers = stack_module_state(modules)
    both = vmap(lambda weights: functional_call(modules[0], (weights, buffers), (x_BTD,)))(stacked)
    for together, module in zip(both, modules, strict=True):
        torch.testing.assert_close(together, module(x_BTD), rtol=0, atol=1e-14)
    assert conv(3).bfloat16()(x_BTD.bfloat16()).dtype == torch.bfloat16
