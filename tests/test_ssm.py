"""State-space and recurrent mixers: the published equations, step by step, and what they cost."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, vmap
from torch.utils.flop_counter import FlopCounterMode

from lmbench.config import make
from lmbench.layers import selective
from lmbench.layers.block import Block
from lmbench.layers.conv import ShortConv, conv_terms
from lmbench.layers.feedforwards import FEEDFORWARDS
from lmbench.layers.init import GPT2_STD
from lmbench.layers.recurrence import BlockDiagonal, GatedRecurrence, recurrence_terms
from lmbench.layers.selective import selective_scan, selective_states
from lmbench.layers.shape import BlockShape
from lmbench.layers.ssm import SelectiveSSM, ssm_terms, step_rank
from lmbench.measure.flops import parameters
from lmbench.models.base import seeded
from tests.operations import Operations

SIZES = {"vocab_size": 11, "seq_len": 7, "d_model": 16, "n_head": 2, "n_layer": 2, "d_ff": 24}
CONVOLUTIONS = pytest.mark.parametrize("conv_width", [0, 1, 4])


def shape_of(kind="ssm", **fields) -> BlockShape:
    return make("model", kind, **(SIZES | fields)).block_shape()


def off_its_start(module):
    """In float64 and with no weight left at a value that hides what it does."""
    generator = torch.Generator().manual_seed(3)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def inputs(shape, *, batch=1):
    generator = torch.Generator().manual_seed(4)
    return torch.randn(batch, shape.seq_len, shape.d_model, generator=generator, dtype=torch.float64)


# ------------------------------------------------------------------ Mamba


def mamba(mixer: SelectiveSSM, u_TC, *, operations):
    """One sequence through Mamba's equations, with torch's own convolution; the scan is counted."""
    N = mixer.d_state
    x_TD, z_TD = F.linear(u_TC, mixer.in_proj.weight, mixer.in_proj.bias).chunk(2, dim=-1)
    if mixer.conv1d is not None:
        # As a depthwise nn.Conv1d of Hugging Face's mixer holds it: the last tap is the position itself.
        weight_D1W = mixer.conv1d.weight_WD.flip(0).T.unsqueeze(1)
        W, D = mixer.conv1d.weight_WD.shape
        padded = F.pad(x_TD.T.unsqueeze(0), (W - 1, 0))
        x_TD = F.conv1d(padded, weight_D1W, mixer.conv1d.bias_D, groups=D)[0].T
    x_TD = F.silu(x_TD)
    low_TL, B_TN, C_TN = (x_TD @ mixer.x_proj.weight.T).split(mixer.sizes, dim=-1)
    dt_TD = F.softplus(low_TL @ mixer.dt_proj.weight.T + mixer.dt_proj.bias)
    A_DN = -mixer.A_log.view(-1, N).exp()
    h_DN, rows = torch.zeros_like(A_DN), []
    for x_D, dt_D, B_N, C_N in zip(x_TD, dt_TD, B_TN, C_TN, strict=True):
        with operations:
            a_DN = torch.exp(dt_D[:, None] * A_DN)
            h_DN = a_DN * h_DN + (dt_D * x_D)[:, None] * B_N
            rows.append(h_DN @ C_N + mixer.D * x_D)
    y_TD = torch.stack(rows) * F.silu(z_TD)
    return F.linear(y_TD, mixer.out_proj.weight, mixer.out_proj.bias)


@CONVOLUTIONS
@pytest.mark.parametrize("fields", [{}, {"bias": True}, {"d_state": 1, "expand": 1}, {"d_model": 34}])
def test_the_ssm_is_mambas_equations(conv_width, fields):
    shape = shape_of(conv_width=conv_width, **fields)
    mixer = off_its_start(SelectiveSSM(shape))
    x_BTC, operations = inputs(shape, batch=2), Operations()
    expected = torch.stack([mamba(mixer, x_TC, operations=operations) for x_TC in x_BTC])
    torch.testing.assert_close(mixer(x_BTC), expected, rtol=0, atol=1e-10)
    # Two sequences were counted.
    scan = next(term for term in ssm_terms(shape, n_layer=1) if term.name == "scan")
    assert operations.count == 2 * scan.forward


def test_the_ssm_has_mambas_parameters_by_name_and_size():
    """D = 2 C = 64 inner features, N = 16 states, rank ceil(32 / 16) = 2."""
    mixer = SelectiveSSM(shape_of(d_model=32))
    assert {name: tuple(p.shape) for name, p in mixer.named_parameters()} == {
        "A_log": (64 * 16,), "D": (64,), "in_proj.weight": (128, 32), "conv1d.taps": (4 * 64,),
        "conv1d.bias_D": (64,), "x_proj.weight": (2 + 2 * 16, 64), "dt_proj.weight": (64, 2),
        "dt_proj.bias": (64,), "out_proj.weight": (32, 64),
    }  # fmt: skip
    assert [step_rank(shape_of(d_model=width)) for width in (16, 18, 32)] == [1, 2, 2]


@pytest.mark.parametrize("init", ["torch", "gpt2"])
def test_the_ssm_starts_as_mamba_does(init):
    torch.manual_seed(0)
    block = Block(shape_of(d_model=256, init=init), mixer="ssm", feedforward="none")
    mixer = block.mixer
    # Decays exp(-dt n) for n from 1 to 16, alike in every feature.
    torch.testing.assert_close(mixer.A_log.view(-1, 16).exp(), torch.arange(1.0, 17).expand(512, 16))
    assert mixer.D.eq(1).all()
    steps = F.softplus(mixer.dt_proj.bias).detach()
    assert steps.min() > 0.99e-3 and steps.max() < 1.01e-1
    # Log-uniform: half of the steps lie below the geometric mean.
    assert (steps < 1e-2).float().mean() == pytest.approx(0.5, abs=0.08)
    assert mixer.dt_proj.weight.abs().max().item() == pytest.approx(16**-0.5, rel=0.01)
    assert (mixer.in_proj.weight.std() < 1.05 * GPT2_STD) == (init == "gpt2")


def test_a_feature_without_decay_and_gate_sums_its_inputs():
    """With A near 0, and B, C and dt set to 1, y_t is the sum of x over positions so far."""
    mixer = SelectiveSSM(shape_of(conv_width=0, d_state=1, expand=1)).double().eval()
    with torch.no_grad():
        mixer.A_log.fill_(-40)
        mixer.D.zero_()
    x_BTD = torch.rand(2, 5, 16, dtype=torch.float64)
    ones = torch.ones(2, 5, 1, dtype=torch.float64)
    mixer.x_proj.forward = lambda _: torch.cat((ones, ones, ones), dim=-1)
    mixer.dt_proj.forward = lambda low: torch.full_like(x_BTD, 1.0).expm1().log()
    y_BTD, h_BDN = selective_states(*mixer._select(x_BTD))
    torch.testing.assert_close(y_BTD, x_BTD.cumsum(1))
    torch.testing.assert_close(h_BDN[..., 0], x_BTD.sum(1))


def drawn(*, replicas=1, B=2, T=5, D=3, N=4):
    """Step sizes, inputs, rates, and two selections; (R, ...) each."""
    generator = torch.Generator().manual_seed(5)
    shapes = ((B, T, D), (B, T, D), (D, N), (B, T, N), (B, T, N))
    dt, x, A, B_, C = (
        torch.randn(replicas, *shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    return F.softplus(dt), x, -A.exp(), B_, C


@pytest.fixture
def in_order(monkeypatch):
    """Every selective scan goes through the positions in order, as large ones do on a CPU."""
    monkeypatch.setattr(selective, "IN_ORDER", 0)


@pytest.mark.parametrize("T", [1, 2, 7])
def test_the_scan_in_order_is_the_scan_in_full_with_its_gradients(T, in_order):
    inputs = [x[0].requires_grad_() for x in drawn(T=T)]
    found, expected = selective_scan(*inputs), selective_states(*inputs)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights = torch.randn_like(found)
    for one, other in zip(
        *(torch.autograd.grad((weights * y).sum(), inputs) for y in (found, expected)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_scan_in_order_of_stacked_replicas_is_that_of_each(in_order):
    """Gradients taken inside of vmap and outside of it, and rates that all replicas share."""
    stacked = drawn(replicas=3)

    def loss(*inputs):
        return selective_scan(*inputs).square().sum()

    inside = vmap(grad(loss, argnums=(0, 1, 2, 3, 4)))(*stacked)
    leaves = [x.clone().requires_grad_() for x in stacked]
    outside = torch.autograd.grad(vmap(loss)(*leaves).sum(), leaves)
    shared = vmap(selective_scan, in_dims=(0, 0, None, 0, 0))(*stacked[:2], stacked[2][1], *stacked[3:])
    for at in range(3):
        alone = [x[at].clone().requires_grad_() for x in stacked]
        for position, gradient in enumerate(torch.autograd.grad(loss(*alone), alone)):
            torch.testing.assert_close(inside[position][at], gradient, rtol=0, atol=1e-12)
            torch.testing.assert_close(outside[position][at], gradient, rtol=0, atol=1e-12)
    expected = selective_states(*(x[1] for x in stacked))[0]
    torch.testing.assert_close(shared[1], expected, rtol=0, atol=1e-12)


def test_both_ways_have_the_same_products(in_order, monkeypatch):
    """2 D N a position and sequence to read the states out, for all who count them on a CPU."""
    inputs, seen = [x[0] for x in drawn()], []
    for limit in (0, 10**9):
        monkeypatch.setattr(selective, "IN_ORDER", limit)
        with FlopCounterMode(display=False) as counter:
            selective_scan(*inputs)
        seen.append(counter.get_total_flops())
    assert seen == [2 * 5 * 2 * 3 * 4] * 2


def test_many_states_on_a_cpu_go_in_order_unless_somebody_looks_through(monkeypatch):
    calls, plain = [], selective.selective_states
    monkeypatch.setattr(
        selective, "selective_states", lambda *inputs: (calls.append(len(inputs)), plain(*inputs))[1]
    )
    few, many = ([x[0].float() for x in drawn(B=1, T=2, D=n, N=4)] for n in (3, selective.IN_ORDER // 4))
    selective_scan(*few)
    assert len(calls) == 1
    selective_scan(*many)
    assert len(calls) == 1
    selective_scan(*(x.to("meta") for x in many))
    assert len(calls) == 2
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    selective_scan(*many)
    assert len(calls) == 3


def test_a_gradient_of_the_scan_in_order_has_none_of_its_own(in_order):
    inputs = [x[0].requires_grad_() for x in drawn()]
    (first,) = torch.autograd.grad(selective_scan(*inputs).sum(), inputs[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match="first order only"):
        first.sum().backward()


# ------------------------------------------------------------------ RG-LRU


def griffin(mixer: GatedRecurrence, u_TC, *, operations):
    """One sequence through the recurrent block of Griffin; the recurrence is counted."""
    gate_TD, x_TD = F.linear(u_TC, mixer.in_proj.weight, mixer.in_proj.bias).chunk(2, dim=-1)
    if mixer.conv is not None:
        x_TD = mixer.conv(x_TD.unsqueeze(0))[0]
    full_a, full_x = (torch.block_diag(*weight_HKK) for weight_HKK in mixer.gates.weight_2HKK)
    bias_a, bias_x = mixer.gates.bias.chunk(2)
    r_TD, i_TD = (x_TD @ full_a + bias_a).sigmoid(), (x_TD @ full_x + bias_x).sigmoid()
    rate_D = -8 * F.softplus(mixer.decay_D)
    h_D, rows = torch.zeros_like(rate_D), []
    for x_D, r_D, i_D in zip(x_TD, r_TD, i_TD, strict=True):
        with operations:
            a_D = torch.exp(rate_D * r_D)
            h_D = a_D * h_D + torch.sqrt(1 - a_D * a_D) * (i_D * x_D)
        rows.append(h_D)
    y_TD = F.gelu(gate_TD) * torch.stack(rows)
    return F.linear(y_TD, mixer.out_proj.weight, mixer.out_proj.bias)


@CONVOLUTIONS
@pytest.mark.parametrize("fields", [{}, {"bias": True}, {"n_head": 1}, {"n_head": 4, "expand": 3}])
def test_the_recurrence_is_griffins_equations(conv_width, fields):
    shape = shape_of("linear_recurrence", conv_width=conv_width, **fields)
    mixer = off_its_start(GatedRecurrence(shape))
    x_BTC, operations = inputs(shape, batch=2), Operations()
    expected = torch.stack([griffin(mixer, x_TC, operations=operations) for x_TC in x_BTC])
    torch.testing.assert_close(mixer(x_BTC), expected, rtol=0, atol=1e-10)
    scan = next(term for term in recurrence_terms(shape, n_layer=1) if term.name == "scan")
    assert operations.count == 2 * scan.forward


def test_slowest_decays_start_uniformly_between_their_bounds():
    torch.manual_seed(0)
    mixer = GatedRecurrence(shape_of("linear_recurrence", d_model=512))
    slowest = torch.exp(-8 * F.softplus(mixer.decay_D)).detach()
    assert slowest.min() >= 0.8999 and slowest.max() <= 0.9991
    assert slowest.mean() == pytest.approx((0.9 + 0.999) / 2, abs=0.005)


def test_a_recurrence_that_forgets_nothing_has_finite_gradients():
    mixer = GatedRecurrence(shape_of("linear_recurrence"))
    with torch.no_grad():
        mixer.decay_D.fill_(-100)  # a = 1 to the last bit
    x_BTC = inputs(shape_of("linear_recurrence")).float().requires_grad_()
    mixer(x_BTC).sum().backward()
    assert x_BTC.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in mixer.parameters())


def test_the_gates_are_drawn_like_all_matrices():
    for init, std in (("torch", (1 / 32 / 3) ** 0.5), ("gpt2", GPT2_STD)):
        torch.manual_seed(0)
        gates = BlockDiagonal(shape_of("linear_recurrence", d_model=64, init=init), features=64)
        assert gates.weight_2HKK.std().item() == pytest.approx(std, rel=0.05)


# ------------------------------------------------------------------ both


@pytest.mark.parametrize("kind, attribute", [("ssm", "conv1d"), ("linear_recurrence", "conv")])
def test_the_convolution_costs_a_multiply_and_an_add_a_tap(kind, attribute):
    shape = shape_of(kind)
    build, terms = (SelectiveSSM, ssm_terms) if kind == "ssm" else (GatedRecurrence, recurrence_terms)
    conv: ShortConv = getattr(build(shape), attribute)
    with Operations() as operations:
        conv(torch.zeros(1, shape.seq_len, shape.expand * shape.d_model))
    (term,) = (term for term in terms(shape, n_layer=1) if term.name == "convolution")
    assert operations.count == term.forward
    assert conv_terms(width=4, features=shape.expand * 16, seq_len=7)[0].forward == term.forward
    bare = shape_of(kind, conv_width=0)
    assert getattr(build(bare), attribute) is None
    assert "convolution" not in {term.name for term in terms(bare, n_layer=1)}


@pytest.mark.parametrize("build, kind", [(SelectiveSSM, "ssm"), (GatedRecurrence, "linear_recurrence")])
@CONVOLUTIONS
def test_a_state_has_the_same_size_however_long_the_text(build, kind, conv_width):
    shape = shape_of(kind, conv_width=conv_width)
    mixer, x_BTC = off_its_start(build(shape)), inputs(shape, batch=3)
    out_BTC, state, sizes = [], {}, []
    for t in range(shape.seq_len):
        row_BTC, state = mixer.extend(x_BTC[:, t : t + 1], state)
        out_BTC.append(row_BTC)
        sizes.append({name: tuple(value.shape) for name, value in state.items()})
    torch.testing.assert_close(torch.cat(out_BTC, dim=1), mixer(x_BTC), rtol=0, atol=1e-12)
    D = shape.expand * 16
    expected = {"h_BDN": (3, D, 16)} if kind == "ssm" else {"h_BD": (3, D)}
    if conv_width:
        expected["inputs_BWD"] = (3, conv_width - 1, D)
    assert sizes == [expected] * shape.seq_len


@pytest.mark.parametrize("build, kind", [(SelectiveSSM, "ssm"), (GatedRecurrence, "linear_recurrence")])
def test_dropout_acts_on_what_goes_into_the_output_map(build, kind):
    mixer = build(shape_of(kind, dropout=0.5)).train()
    seen = []
    mixer.dropout.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0], out)))
    mixer.dropout.key.fill_(7)
    out_BTC = mixer(inputs(shape_of(kind)).float())
    ((before, after),) = seen
    assert after.eq(0).float().mean() == pytest.approx(0.5, abs=0.15)
    assert before.ne(0).all()
    torch.testing.assert_close(out_BTC, mixer.out_proj(after))


# ------------------------------------------------------------------ blocks without a feed-forward


@pytest.mark.parametrize("norm_order", ["pre", "post"])
def test_a_block_without_feedforward_has_one_norm_and_one_residual(norm_order):
    shape = shape_of(norm_order=norm_order)
    block = off_its_start(Block(shape, mixer="ssm", feedforward="none"))
    assert not [name for name, _ in block.named_parameters() if name.startswith("feedforward")]
    x_BTC, norm = inputs(shape), block.get_submodule("ssm_norm")
    expected = x_BTC + block.mixer(norm(x_BTC)) if norm_order == "pre" else norm(x_BTC + block.mixer(x_BTC))
    torch.testing.assert_close(block(x_BTC), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(block.extend(x_BTC, {})[0], expected, rtol=0, atol=1e-12)
    assert FEEDFORWARDS["none"].terms(shape, n_layer=3) == ()


def test_zero_init_makes_a_block_without_feedforward_the_identity():
    shape = shape_of(zero_init=True)
    x_BTC = inputs(shape).float()
    assert torch.equal(Block(shape, mixer="ssm", feedforward="none").eval()(x_BTC), x_BTC)


def test_mamba_has_no_feedforward_unless_asked_for():
    bare, dense = (make("model", "ssm", **SIZES, feedforward=name) for name in ("none", "dense"))
    # Per block: the feed-forward's 3 C F weights and its norm's gain.
    assert parameters(dense).total - parameters(bare).total == 2 * (3 * 16 * 24 + 16)
    assert "feedforward" not in {term.name for term in bare.terms("all")}
    assert "feedforward" in {term.name for term in dense.terms("all")}
    assert make("model", "ssm").feedforward == "none"


@pytest.mark.parametrize("kind", ["ssm", "linear_recurrence"])
@pytest.mark.parametrize("positions", ["rope", "alibi"])
def test_positions_that_only_attention_can_use_are_refused(kind, positions):
    with pytest.raises(ValueError, match="'none', 'learned' or 'sinusoidal'"):
        make("model", kind, positions=positions)


@pytest.mark.parametrize("kind", ["ssm", "linear_recurrence"])
def test_a_recurrence_tells_orders_apart_without_positions(kind):
    model = seeded(make("model", kind, **SIZES), init_seed=0).eval()
    one, other = (model(torch.tensor([ids])).logits_BTV[0, -1] for ids in ([1, 2, 3], [2, 1, 3]))
    assert not torch.allclose(one, other)
