"""The linear scan: its sweeps equal the recurrence itself, and so do their gradients."""

import pytest
import torch
from torch.func import grad, vmap

from lmbench.layers import scan
from lmbench.layers.scan import linear_scan

LENGTHS = [1, 2, 3, 5, 8, 13, 31, 32, 33, 100]


def sequential(a_E, b_E, *, dim=1, start=None):
    """h_t = a_t h_{t-1} + b_t as it is written."""
    a_E, b_E = a_E.movedim(dim, 0), b_E.movedim(dim, 0)
    h, states = torch.zeros_like(b_E[0]) if start is None else start, []
    for a, b in zip(a_E, b_E, strict=True):
        h = a * h + b
        states.append(h)
    return torch.stack(states).movedim(0, dim)


def drawn(*shape, dtype=torch.float64):
    """Decays between 0 and 1, and inputs."""
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)
    return a, torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.fixture(params=["in pairs", "in order"])
def way(request, monkeypatch):
    """Both ways of computing it, whatever the size."""
    monkeypatch.setattr(scan, "IN_ORDER", 0 if request.param == "in order" else 10**9)


def test_five_states_by_hand(way):
    # 1; 0.5 + 1; 0.75 + 0; 3 * 0.75 + 2; 0 * 4.25 + 7. The first decay meets no state.
    a, b = torch.tensor([[9.0, 0.5, 0.5, 3.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0, 2.0, 7.0]])
    assert linear_scan(a, b).tolist() == [[1.0, 1.5, 0.75, 4.25, 7.0]]


@pytest.mark.parametrize("T", LENGTHS)
def test_the_scan_equals_the_recurrence(T, way):
    for dtype, exact in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        a, b = drawn(3, T, 4, dtype=dtype)
        torch.testing.assert_close(linear_scan(a, b), sequential(a, b), rtol=0, atol=exact)


@pytest.mark.parametrize("T", LENGTHS)
def test_its_gradients_are_those_of_the_recurrence(T, way):
    a, b = (x.requires_grad_() for x in drawn(3, T, 4))
    weights = drawn(3, T, 4)[1]
    found, expected = (
        torch.autograd.grad((weights * f(a, b)).sum(), (a, b)) for f in (linear_scan, sequential)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_gradients_of_first_and_second_order_agree_with_finite_differences(way):
    a, b = (x.requires_grad_() for x in drawn(2, 5, 2))
    assert torch.autograd.gradcheck(linear_scan, (a, b))
    assert torch.autograd.gradgradcheck(linear_scan, (a, b))


def test_decays_of_one_sum_and_decays_of_zero_forget(way):
    _, b = drawn(2, 9, 3)
    torch.testing.assert_close(linear_scan(torch.ones_like(b), b), b.cumsum(1))
    assert torch.equal(linear_scan(torch.zeros_like(b), b), b)


def test_a_scan_goes_on_from_a_state(way):
    a, b = drawn(2, 9, 3)
    whole = linear_scan(a, b)
    rest = linear_scan(a[:, 4:], b[:, 4:], start=whole[:, 3])
    torch.testing.assert_close(rest, whole[:, 4:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_time_may_be_any_axis(dim, way):
    a, b = drawn(4, 5, 6)
    start = drawn(4, 5, 6)[1].select(dim, 0)
    found = linear_scan(a, b, dim=dim, start=start)
    torch.testing.assert_close(found, sequential(a, b, dim=dim, start=start), rtol=0, atol=1e-12)


def test_arguments_are_left_as_they_were(way):
    a, b = drawn(2, 9, 3)
    before = a.clone(), b.clone()
    linear_scan(a, b)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


def test_a_broadcast_decay_is_read_as_if_written_out(way):
    a, b = drawn(2, 9, 3)
    spread = a[:, :, :1].expand_as(b)
    torch.testing.assert_close(linear_scan(spread, b), sequential(spread, b), rtol=0, atol=1e-12)


def test_narrow_numbers_are_computed_in_float32(way):
    a, b = drawn(2, 64, 3, dtype=torch.bfloat16)
    found = linear_scan(a, b)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, sequential(a.float(), b.float()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("in_dims", [(0, 0), (None, 0), (0, None), (1, 2)])
def test_stacked_scans_are_the_scans_one_by_one(in_dims, way):
    a, b = drawn(3, 3, 3, 2)
    a, b = (x[0] if dim is None else x for x, dim in zip((a, b), in_dims, strict=True))

    def loss(one, other):
        return linear_scan(one, other).square().sum()

    together = vmap(grad(loss, argnums=(0, 1)), in_dims=in_dims)(a, b)
    for at in range(3):
        alone = [x if dim is None else x.select(dim, at) for x, dim in zip((a, b), in_dims, strict=True)]
        for stacked, gradient in zip(together, grad(loss, argnums=(0, 1))(*alone), strict=True):
            torch.testing.assert_close(stacked[at], gradient, rtol=0, atol=1e-12)


def test_a_compiled_scan_has_the_gradients_of_a_plain_one_also_when_stacked():
    a, b = (x.requires_grad_() for x in drawn(3, 2, 9, 4))

    def stacked(a, b):
        return vmap(lambda one, other: linear_scan(one, other).square().sum())(a, b).sum()

    compiled = torch.compile(stacked, backend="aot_eager", fullgraph=True)
    found, expected = (torch.autograd.grad(f(a, b), (a, b)) for f in (compiled, stacked))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_many_elements_on_a_cpu_go_in_order_and_few_in_pairs(monkeypatch):
    seen = []
    for name in ("scan_in_order", "scan_in_pairs"):
        plain = getattr(scan, name)
        monkeypatch.setattr(
            scan,
            name,
            lambda a, h, *, back, name=name, plain=plain: (seen.append(name), plain(a, h, back=back)),
        )
    linear_scan(*drawn(2, 4, scan.IN_ORDER // 2 - 1))
    linear_scan(*drawn(2, 4, scan.IN_ORDER // 2))
    assert seen == ["scan_in_pairs", "scan_in_order"]


def test_the_sweep_does_work_in_proportion_to_the_length():
    """At most three operations a position, where one joining of all with all would take T."""
    for T in (8, 64, 512):
        joined = 0
        spans = [2**k for k in range((T - 1).bit_length())]
        for span in spans:
            up, down = (scan._every(n * span - 1, span, T, False)[0] for n in (2, 3))
            joined += 2 * len(range(T)[up]) + len(range(T)[down])
        assert 2 * T < joined <= 3 * T


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"one shape, but got \(2, 3, 1\) and \(2, 3, 4\)"):
        linear_scan(torch.ones(2, 3, 1), torch.ones(2, 3, 4))
