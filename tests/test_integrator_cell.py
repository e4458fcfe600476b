"""The integrator cell: its equation of motion, what steers it, where it rests, when it stops, its losses."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from lmbench.config import make
from lmbench.layers.controllers import Controller, controller_parameters
from lmbench.layers.equilibrium import Equilibrium, equilibrium_parameters
from lmbench.layers.excitation import Excitation, excited_features
from lmbench.layers.experts import Routing, balance_loss
from lmbench.layers.integrator import Integrator, advanced, integrator_terms
from lmbench.layers.integrator_losses import annealed, mean_loss, speed_weights
from lmbench.layers.integrator_mixture import ControllerMixture, mixture_parameters
from lmbench.layers.integrator_phases import PRESETS, phase_starts
from lmbench.layers.integrator_shape import IntegratorShape
from lmbench.layers.integrator_stop import whole_batch
from lmbench.layers.mixer import Pass

DOUBLE = torch.float64
B, T, C, H = 2, 5, 6, 4


def cell_shape(**fields) -> IntegratorShape:
    return make("model", "integrator", **{"d_model": C, "n_head": 1, "d_controller": H} | fields).cell_shape()


def normal(*shape, seed=1):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def cell(*, seed=0, moved=True, **fields) -> Integrator:
    """In evaluation, off its start where `moved`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Integrator(cell_shape(**fields)).double().eval()
        for parameter in made.parameters() if moved else ():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return made


def numbers(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def plain_path(made: Integrator, x, h):
    """The published loop, nothing hoisted, for one token after the other: positions after each iteration."""
    s, net, mu, path = made.shape, made.controller, made.equilibrium.mu(), []
    v = torch.zeros_like(x)
    for t in range(s.n_iteration):
        z = sum(linear(y) for linear, y in ((net.context, h), (net.position, x), (net.velocity, v)))
        parts = net.out(z.relu()).split(x.shape[-1], dim=-1)
        alpha, beta, gate = parts[0].sigmoid(), F.softplus(parts[1]), parts[2].sigmoid()
        error = x - mu
        norm = error.norm(dim=-1, keepdim=True)
        if s.dynamic_alpha != "off":
            alpha = alpha * (-s.kappa * norm / (1 if s.dynamic_alpha == "published" else C**0.5)).exp()
        v = alpha * v + ((1 - alpha) * parts[3] if s.candidate else 0) - beta * error
        if made.excitation is not None and s.excited == "always":
            force = torch.zeros(x.shape[-1], dtype=x.dtype)
            features = excited_features(s.d_model, n=s.n_excited)
            force[features] = made.excitation.amplitude * torch.sin(
                made.excitation.gamma_F * t + made.excitation.phi_F
            )
            v = v + force
        x = x + s.dt * s.velocity_scale * gate * v
        path.append(x)
    return path


# ------------------------------------------------------------------ the motion


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"candidate": False},
        {"excited": "always", "dt": 0.3, "velocity_scale": 2.0},
        {"excited": "always", "excitation_share": 0.5, "excitation": 0.4, "harmonics": "published"},
        {"dynamic_alpha": "published", "kappa": 0.3},
        {"dynamic_alpha": "rms"},
        {"equilibrium": "groups", "group_size": 4},
    ],
    ids=str,
)
def test_the_hoisted_cell_equals_the_published_loop_without_hoisting(fields) -> None:
    made, x, h = cell(**fields), normal(B, T, C), normal(B, T, C, seed=2)
    with torch.no_grad():
        torch.testing.assert_close(made(x, h), plain_path(made, x, h)[-1], rtol=0, atol=1e-12)


def test_without_iterations_the_cell_is_the_identity() -> None:
    made, x = cell(n_iteration=0), normal(B, T, C)
    assert torch.equal(made(x, normal(B, T, C, seed=2)), x)
    assert torch.equal(made.train()(x, normal(B, T, C, seed=2)), x)


def test_from_the_equilibrium_without_candidate_and_force_nothing_moves_whatever_the_context() -> None:
    made = cell(candidate=False, excitation=0.0, start="mu")
    for seed in (2, 3):
        torch.testing.assert_close(
            made(None, normal(B, T, C, seed=seed)), made.equilibrium.mu().expand(B, T, C)
        )


def test_the_guides_start_gives_alpha_beta_gate_and_candidate() -> None:
    with torch.random.fork_rng(devices=[]):
        controller = Controller(cell_shape())
    a, b, g, c = controller.out.bias.view(4, C)
    assert torch.allclose(a.sigmoid(), torch.tensor(0.8))
    assert torch.allclose(F.softplus(b), torch.tensor(0.5))
    assert torch.allclose(g.sigmoid(), torch.tensor(0.5))
    assert not c.any()
    assert not any(
        linear.bias.any() for linear in (controller.context, controller.position, controller.velocity)
    )


def constant(*, alpha, beta, gate, **fields) -> Integrator:
    """A cell whose coefficients depend on nothing, without candidate, force and equilibrium."""
    made = cell(candidate=False, excitation=0.0, equilibrium="fixed", **fields)
    with torch.no_grad():
        made.controller.out.weight.zero_()
        values = (math.log(alpha / (1 - alpha)), math.log(math.expm1(beta)), math.log(gate / (1 - gate)))
        made.controller.out.bias.copy_(torch.tensor(values, dtype=DOUBLE).repeat_interleave(C))
    return made


@pytest.mark.parametrize("n_iteration", [1, 2, 7])
def test_with_constant_coefficients_the_motion_is_a_power_of_a_matrix(n_iteration) -> None:
    alpha, beta, gate, dt = 0.8, 0.5, 0.5, 0.1
    made = constant(alpha=alpha, beta=beta, gate=gate, dt=dt, n_iteration=n_iteration)
    # (v', e') from (v, e): v' = alpha v - beta e, e' = e + dt gate v'.
    step = np.array([[alpha, -beta], [dt * gate * alpha, 1 - dt * gate * beta]])
    k = dt * gate * beta
    roots = np.roots([1, -(1 + alpha - k), alpha])
    assert np.allclose(sorted(np.linalg.eigvals(step), key=np.imag), sorted(roots, key=np.imag))
    x = normal(B, T, C)
    expected = x * np.linalg.matrix_power(step, n_iteration)[1, 1]
    torch.testing.assert_close(made(x, normal(B, T, C, seed=2)), expected, rtol=1e-12, atol=0)


def test_the_base_cell_shrinks_a_deviation_by_two_thirds_in_ten_iterations() -> None:
    # The complex pair of alpha = 0.8, k = 0.025 has modulus sqrt(0.8) = 0.894; its envelope leaves 0.33.
    step = np.array([[0.8, -0.5], [0.04, 0.975]])
    assert max(abs(np.linalg.eigvals(step))) == pytest.approx(0.8944, abs=1e-4)
    assert pytest.approx(0.33, abs=0.005) == 0.8944**10


@pytest.mark.parametrize(("beta", "diverges"), [(71.0, False), (73.0, True)])
def test_the_motion_diverges_beyond_twice_one_plus_alpha(beta, diverges) -> None:
    # k = dt gate beta = 0.05 beta against 2 (1 + 0.8) = 3.6, so beta = 72.
    made = constant(alpha=0.8, beta=beta, gate=0.5, n_iteration=400)
    moved = made(torch.ones(1, 1, C, dtype=DOUBLE), normal(1, 1, C)).abs().max()
    assert (moved > 1e3) == diverges
    assert diverges or moved < 1.0


def test_the_cell_rests_beside_mu_where_a_candidate_pulls() -> None:
    made = cell(excitation=0.0, n_iteration=600, moved=False)
    with torch.no_grad():
        made.controller.out.weight.zero_()
        made.controller.out.bias[-C:] = 0.7
        made.equilibrium.base.fill_(2.0)
        # mu + (1 - alpha) c / beta = 2 + 0.2 * 0.7 / 0.5
        rest = made(normal(B, T, C), normal(B, T, C, seed=2))
    torch.testing.assert_close(rest, torch.full_like(rest, 2.28), rtol=0, atol=1e-6)


def test_the_published_dynamic_alpha_is_nothing_at_the_width_of_a_normed_vector() -> None:
    shapes = [cell_shape(d_model=512, dynamic_alpha=kind) for kind in ("published", "rms", "off")]
    x, v = torch.ones(1, 512, dtype=DOUBLE), torch.ones(1, 512, dtype=DOUBLE)
    raw = torch.zeros(1, 4 * 512, dtype=DOUBLE)
    still = {"mu_C": torch.zeros(512, dtype=DOUBLE), "force_C": None}
    # raw = 0: alpha 1/2, beta ln 2, candidate 0, so v' = alpha factor - ln 2.
    factor = [float(advanced(x, v, raw, shape=s, **still)[1][0, 0] + math.log(2)) / 0.5 for s in shapes]
    assert factor[0] == pytest.approx(math.exp(-(512**0.5)), rel=1e-3)
    assert factor[1:] == pytest.approx([math.exp(-1), 1.0])


def test_the_state_is_not_rounded_to_bfloat16_on_its_way() -> None:
    made, x, h = cell(moved=False, n_iteration=20), normal(B, T, C), normal(B, T, C, seed=2)
    exact = made(x, h)
    rounded = made.bfloat16()(x.bfloat16(), h.bfloat16())
    assert rounded.dtype == torch.bfloat16
    # One rounding of the start and one of the end, each at most 2^-9 of 2.5 or so, and small ones on the way.
    assert (rounded.double() - exact).abs().max() < 0.02


# ------------------------------------------------------------------ controllers


def test_a_controller_has_the_published_number_of_weights() -> None:
    shape = cell_shape(d_model=2048, n_head=32, d_controller=64)
    with torch.device("meta"):
        controller = Controller(shape)
    weights = sum(p.numel() for p in controller.parameters() if p.dim() == 2)
    assert weights == 917_504
    assert 24 * weights == 22_020_096
    assert weights + 24 * 8 == 917_696
    assert numbers(controller) == controller_parameters(shape) == 925_888
    assert numbers(controller) + 24 * 8 == 926_080


def test_the_cell_of_three_outputs_has_one_bias_in_front() -> None:
    shape = cell_shape(d_model=2048, n_head=32, d_controller=64, candidate=False, equilibrium="groups")
    shape_sparse = cell_shape(**{"d_model": 2048, "n_head": 32, "d_controller": 64}, candidate=False)
    with torch.device("meta"):
        assert numbers(Controller(shape)) == controller_parameters(shape) == 64 * (3 * 2048 + 1) + 195 * 2048
        assert numbers(Controller(shape)) + numbers(Equilibrium(shape)) == 792_673
        assert numbers(Controller(shape_sparse)) + 2048 == 794_688


def test_the_gradient_of_a_shared_controller_comes_from_every_layer() -> None:
    """And layers whose scales differ move differently."""
    config = make(
        "model", "integrator", shared_controller=True, vocab_size=11, d_model=16, n_head=2, d_ff=24, n_layer=3
    )
    model = config.build().double().eval()
    x, h = normal(B, T, 16), normal(B, T, 16, seed=2)
    cells = [block.integrator for block in model.blocks]
    assert all(made.controller is None and len(made.scales.scale) == 4 for made in cells)
    assert sum(numbers(made.scales) for made in cells) == 8 * 3
    ends = []
    for made in cells:
        model.zero_grad()
        end = made(x, h, controller=model.controller)
        end.sum().backward()
        assert model.controller.out.weight.grad.abs().sum() > 0
        ends.append(end.detach())
    torch.testing.assert_close(ends[0], ends[1])
    with torch.no_grad():
        cells[1].scales.scale[1] = 2.0
        assert not torch.allclose(cells[1](x, h, controller=model.controller), ends[0])


def test_scales_and_shifts_act_before_the_activation() -> None:
    made, x, h = cell(shared_controller=True, excitation=0.0, n_iteration=1), normal(1, 1, C), normal(1, 1, C)
    with torch.random.fork_rng(devices=[]):
        controller = Controller(cell_shape()).double()
    raw = controller(controller.hoisted(h), x, None)
    scale, shift = made.scales.scale.unsqueeze(1), made.scales.shift.unsqueeze(1)
    a, b, g, c = (raw.unflatten(-1, (4, C)) * scale + shift).unbind(-2)
    v = (1 - a.sigmoid()) * c - F.softplus(b) * (x - made.equilibrium.mu())
    torch.testing.assert_close(made(x, h, controller=controller), x + 0.1 * g.sigmoid() * v)


# ------------------------------------------------------------------ equilibrium and excitation


@pytest.mark.parametrize(("kind", "count"), [("features", 2048), ("groups", 33), ("scalar", 1), ("fixed", 0)])
def test_the_equilibrium_holds_as_many_numbers_as_its_kind_says(kind, count) -> None:
    shape = cell_shape(d_model=2048, n_head=32, equilibrium=kind, target=5.0)
    held = Equilibrium(shape)
    assert numbers(held) == equilibrium_parameters(shape) == count
    assert held.mu().tolist() == [5.0] * 2048


def test_neighbours_of_a_group_share_their_offset() -> None:
    held = Equilibrium(cell_shape(d_model=200, equilibrium="groups"))
    with torch.no_grad():
        held.offset_G.copy_(torch.arange(4.0))
        held.base.fill_(0.5)
    assert held.mu().tolist() == [0.5] * 64 + [1.5] * 64 + [2.5] * 64 + [3.5] * 8


def test_a_tenth_of_2048_features_is_204_of_them_evenly_spread() -> None:
    features = excited_features(2048, n=cell_shape(d_model=2048, n_head=32, excitation_share=0.1).n_excited)
    assert len(set(features)) == len(features) == 204
    assert (features[0], features[-1]) == (0, 2047)
    assert set(np.diff(features)) == {10, 11}
    assert excited_features(7, n=1) == [0]
    assert excited_features(5, n=5) == [0, 1, 2, 3, 4]


def test_the_sparse_force_touches_no_other_feature() -> None:
    made = Excitation(cell_shape(d_model=40, excitation_share=0.1))
    table_IC = made.table(6, dtype=DOUBLE)
    assert set(table_IC.abs().sum(0).nonzero().flatten().tolist()) == {0, 13, 26, 39}
    assert made.gamma_F.shape == made.phi_F.shape == (4,)


def test_the_force_is_a_sine_of_the_iteration() -> None:
    made = Excitation(cell_shape(excitation=0.5))
    expected = 0.5 * torch.sin(3 * made.gamma_F.double() + made.phi_F.double())
    torch.testing.assert_close(made.table(4, dtype=DOUBLE)[3], expected)


def test_published_harmonics_are_those_of_every_layer_and_of_every_sparse_feature() -> None:
    dense = [Excitation(cell_shape(harmonics="published")) for _ in range(2)]
    assert torch.equal(dense[0].phi_F, dense[1].phi_F)
    assert torch.equal(
        dense[0].gamma_F, 1 + 0.1 * torch.randn(C, generator=torch.Generator().manual_seed(42))
    )
    sparse = Excitation(cell_shape(harmonics="published", excitation_share=0.5))
    assert (sparse.gamma_F.tolist(), sparse.phi_F.tolist()) == ([1.0] * 3, [0.0] * 3)
    assert not sparse.table(1, dtype=DOUBLE).any()
    own = [Excitation(cell_shape()) for _ in range(2)]
    assert not torch.equal(own[0].phi_F, own[1].phi_F)


def test_the_force_acts_in_training_alone_unless_always() -> None:
    x, h = normal(B, T, C), normal(B, T, C, seed=2)
    for excited, acts_in_evaluation in (("training", False), ("always", True)):
        made, quiet = cell(excited=excited), cell(excited=excited)
        quiet.excitation.amplitude.zero_()
        assert torch.equal(made(x, h), quiet(x, h)) != acts_in_evaluation
        assert not torch.equal(made.train()(x, h), quiet.train()(x, h))


# ------------------------------------------------------------------ mixture


def plain_mixture(made: Integrator, x, h):
    """The published way: for each token, for each of its choices, one small network."""
    s, net, mu = made.shape, made.controller, made.equilibrium.mu()
    x, h = x.flatten(0, 1), h.flatten(0, 1)
    routing, ends = made.router.route(h), []
    for n in range(len(x)):
        x_n, v_n = x[n], torch.zeros(C, dtype=DOUBLE)
        for _ in range(s.n_iteration):
            moved = []
            for expert, weight in zip(routing.chosen_NK[n], routing.weight_NK[n], strict=True):
                z = net.context.weight[expert] @ h[n] + net.context.bias[expert]
                z = z + net.position.weight[expert] @ x_n + net.velocity.weight[expert] @ v_n
                parts = (net.out.weight[expert] @ z.relu() + net.out.bias[expert]).view(-1, C)
                alpha = parts[0].sigmoid()
                v = alpha * v_n - F.softplus(parts[1]) * (x_n - mu)
                v = v + (1 - alpha) * parts[3] if s.candidate else v
                moved.append((weight * (x_n + s.dt * parts[2].sigmoid() * v), weight * v))
            x_n, v_n = (sum(part) for part in zip(*moved, strict=True))
        ends.append(x_n)
    return torch.stack(ends).view(B, T, C)


@pytest.mark.parametrize("candidate", [True, False])
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_grouped_dense_and_looped_mixtures_are_one(top_k, candidate) -> None:
    made = cell(n_expert=4, top_k=top_k, candidate=candidate)
    x, h = normal(B, T, C), normal(B, T, C, seed=2)
    ends, gradients = [], []
    for form in ("grouped", "dense"):
        made.controller.form = form
        made.zero_grad()
        ends.append(made(x, h))
        ends[-1].square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None})
    torch.testing.assert_close(ends[0], plain_mixture(made, x, h), rtol=0, atol=1e-10)
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-10)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-10)


def test_a_mixture_of_one_is_the_plain_cell() -> None:
    single, x, h = cell(), normal(B, T, C), normal(B, T, C, seed=2)
    made = cell(n_expert=2, top_k=1)
    one = ControllerMixture(cell_shape()).double()
    with torch.no_grad():
        for name in ("context", "position", "velocity", "out"):
            getattr(one, name).weight[0] = getattr(single.controller, name).weight
        one.out.bias[0] = single.controller.out.bias
        biases = (single.controller.context, single.controller.position, single.controller.velocity)
        one.context.bias[0] = sum(linear.bias for linear in biases)
        made.equilibrium.base.copy_(single.equilibrium.base)
        made.router.linear.weight.data = made.router.linear.weight[:1]
        made.router.linear.bias.data = made.router.linear.bias[:1]
        torch.testing.assert_close(made(x, h, controller=one), single(x, h), rtol=0, atol=1e-12)


def test_a_mixture_stores_all_experts() -> None:
    shape = cell_shape(
        d_model=2048, n_head=32, d_controller=64, n_expert=8, top_k=2, candidate=False, excitation=0.0
    )
    with torch.device("meta"):
        made = Integrator(shape)
    assert numbers(made) == 8 * mixture_parameters(shape) + 8 * 2049 + 2048 == 6_359_560
    assert 2 * mixture_parameters(shape) == 1_585_280


def test_the_balance_loss_is_one_where_routing_is_uniform() -> None:
    chosen_NK = torch.tensor([[0, 1], [2, 3]])
    routing = Routing(chosen_NK, torch.full((2, 2), 0.5), torch.zeros(2, 4))
    assert balance_loss(routing).item() == pytest.approx(1.0)


def test_the_routers_losses_are_told_in_training_alone() -> None:
    made, shared = cell(n_expert=4, top_k=2), Pass()
    made(normal(B, T, C), normal(B, T, C), shared)
    assert shared.aux_losses == []
    made.train()(normal(B, T, C), normal(B, T, C), shared)
    assert len(shared.aux_losses) == 2


# ------------------------------------------------------------------ stopping


def settled(x, h, **fields):
    return cell(n_iteration=12, excitation=0.0, **fields).settled(x, h)


@pytest.mark.parametrize("stopping", ["relative", "published"])
def test_a_tolerance_of_zero_takes_all_iterations_and_a_large_one_the_least(stopping) -> None:
    x, h = normal(B, T, C), normal(B, T, C, seed=2)
    end, count = settled(x, h, stopping=stopping, tolerance=0.0)
    assert (count == 12).all()
    assert torch.equal(end, settled(x, h)[0])
    for least in (1, 3, 12):
        end, count = settled(x, h, stopping=stopping, tolerance=1e30, min_iteration=least)
        assert (count == least).all()
        short = cell(n_iteration=least, excitation=0.0, min_iteration=1)
        assert torch.equal(end, short(x, h))


@pytest.mark.parametrize(("stopping", "tolerance", "dt"), [("relative", 0.2, 0.6), ("published", 1.2, 0.1)])
def test_a_stopped_token_is_where_it_would_be_alone(stopping, tolerance, dt) -> None:
    """Each token is run by itself with a plain loop that breaks, and every step of it is counted."""
    x, h = normal(B, T, C), normal(B, T, C, seed=2)
    fields = {"stopping": stopping, "tolerance": tolerance, "min_iteration": 2, "dt": dt}
    made = cell(n_iteration=12, excitation=0.0, **fields)
    end, count = made.settled(x, h)
    assert len(count.unique()) > 2, "the tolerance tells the tokens apart"
    mu, steps = made.equilibrium.mu(), []
    for b in range(B):
        for t in range(T):
            before = x[b, t]
            for n, after in enumerate(plain_path(made, x[b, t], h[b, t]), start=1):
                change, size = (after - before).square().mean().sqrt(), after.square().mean().sqrt()
                is_still = change < tolerance * (1e-3 + size)
                is_near = (before - mu).norm() < tolerance
                if n >= 2 and (is_still if stopping == "relative" else is_near):
                    break
                before = after
            steps.append(n)
            torch.testing.assert_close(end[b, t], after, rtol=0, atol=1e-12)
            alone, _ = made.settled(x[b : b + 1, t : t + 1], h[b : b + 1, t : t + 1])
            torch.testing.assert_close(alone[0, 0], end[b, t], rtol=0, atol=1e-12)
    assert count.flatten().tolist() == steps


def test_a_batch_that_goes_on_together_waits_for_its_slowest_token() -> None:
    assert whole_batch(torch.tensor([[[3, 5], [2, 4]], [[1, 1], [1, 2]]])).tolist() == [5, 2]


def test_in_training_nothing_stops() -> None:
    x, h = normal(B, T, C), normal(B, T, C, seed=2)
    hasty = cell(excitation=0.0, stopping="relative", tolerance=1e30, min_iteration=1)
    assert torch.equal(hasty.train()(x, h), cell(excitation=0.0)(x, h))


# ------------------------------------------------------------------ losses, checkpoints, cost


def test_the_mean_loss_weighs_by_variance_and_is_finite_for_one_token() -> None:
    x, mu = torch.tensor([[1.0, 0.0], [3.0, 0.0]], dtype=DOUBLE), torch.tensor([2.0, 1.0], dtype=DOUBLE)
    # Variances 2 and 0: weights 1/3 and 1, scaled to sum 2: 1/2 and 3/2. Squared distances 1 and 1.
    assert mean_loss(x, mu).item() == pytest.approx((0.5 * 1 + 1.5 * 1) / 2)
    assert mean_loss(x[:1], mu).item() == pytest.approx(1.0)


def test_the_weights_of_the_speed_loss_sum_to_one_and_fall() -> None:
    weights = speed_weights(6)
    assert sum(weights) == pytest.approx(1.0)
    assert weights[0] / weights[1] == pytest.approx(math.exp(0.5))


def test_losses_are_those_of_the_path_and_differentiable() -> None:
    weights = {"mean_weight": 0.7, "speed_weight": 0.2, "energy_weight": 0.05}
    made = cell(excitation=0.0, target=0.4, n_layer=2, **weights)
    x, h, shared = normal(B, T, C), normal(B, T, C, seed=2), Pass()
    made.train()(x, h, shared)
    path, v, last = plain_path(made, x, h), [torch.zeros_like(x)], x
    raw_gate = []
    for position in path:  # the velocity from x' = x + dt gate v', with the gate computed anew
        gate = gate_of(made, last, v[-1], h)
        raw_gate.append(gate)
        v.append((position - last) / (0.1 * gate))
        last = position
    speed = sum(w * (p - 0.4).abs().mean() for w, p in zip(speed_weights(5), path, strict=True))
    energy = torch.stack(v).square().mean()
    mean = mean_loss(path[-1].flatten(0, 1), made.equilibrium.mu())
    expected = (0.7 * mean + 0.2 * speed + 0.05 * energy) / 2
    torch.testing.assert_close(shared.aux_loss, expected)
    shared.aux_loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.controller.parameters())


def gate_of(made, x, v, h):
    net = made.controller
    z = net.context(h) + net.position(x) + net.velocity(v)
    return net.out(z.relu())[..., 2 * C : 3 * C].sigmoid()


def test_losses_are_off_at_the_default_and_in_evaluation() -> None:
    shared = Pass()
    cell().train()(normal(B, T, C), normal(B, T, C), shared)
    cell(mean_weight=1.0, speed_weight=1.0)(normal(B, T, C), normal(B, T, C), shared)
    assert shared.aux_loss is None


@pytest.mark.parametrize(
    ("kind", "progress", "factor"),
    [
        ("exponential", 0.0, 1.0),
        ("exponential", 0.5, 0.316),
        ("linear", 0.5, 0.55),
        ("exponential", 1.0, 0.1),
        ("linear", 2.5, 0.1),
    ],
)
def test_the_mean_loss_is_annealed_to_a_tenth(kind, progress, factor) -> None:
    assert annealed(progress, kind=kind) == pytest.approx(factor, abs=5e-4)


@pytest.mark.parametrize(("name", "epochs"), [("conservative", 140), ("balanced", 160), ("aggressive", 185)])
def test_phases_have_the_published_lengths_and_fill_the_run(name, epochs) -> None:
    preset = PRESETS[name]
    assert preset.epochs == sum(phase.epochs for phase in preset.phases()) == epochs
    starts = phase_starts(name)
    assert len(starts) == 1 + 2 * preset.n_cycle
    assert starts[0][0] == 0.0
    assert starts[-1][0] == pytest.approx(1 - preset.exploration.epochs / epochs)


def test_the_default_phases_are_sixteenths_of_the_run() -> None:
    # Warm-up, then rest and exploration in turn: 1 and 5 times (1 + 2).
    expected = [0, *(at + offset for at in range(1, 16, 3) for offset in (0, 1))]
    assert [16 * share for share, _ in phase_starts("balanced")] == expected
    numbers_of = {(phase.mean_weight, phase.excitation) for _, phase in phase_starts("balanced")}
    assert numbers_of == {(0.5, 0.0), (0.05, 0.05)}


@pytest.mark.parametrize("checkpointing", ["step", "stack"])
@pytest.mark.parametrize(
    "fields", [{}, {"n_expert": 4, "top_k": 2}, {"speed_weight": 0.3, "mean_weight": 1.0}]
)
def test_recomputed_gradients_are_the_plain_ones(checkpointing, fields) -> None:
    gradients = []
    for how in ("none", checkpointing):
        made, shared = cell(checkpointing=how, **fields).train(), Pass()
        x, h = normal(B, T, C).requires_grad_(), normal(B, T, C, seed=2).requires_grad_()
        end = made(x, h, shared)
        (end.square().sum() + (shared.aux_loss if shared.aux_losses else 0)).backward()
        held = {name: p.grad for name, p in made.named_parameters()}
        gradients.append(held | {"x": x.grad, "h": h.grad})
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)


def test_the_hoisted_product_and_the_missing_first_velocity_cost_what_they_save() -> None:
    # 14 C H FLOPs a token and iteration with all in the loop; of T W_h h one is left, of T W_v v T - 1.
    shape = cell_shape(d_model=512, n_head=8, d_controller=64, n_iteration=5)
    flops = sum(term.forward for term in integrator_terms(shape, seq_len=1, n_layer=1))
    assert flops == 5 * 14 * 512 * 64 - 4 * 2 * 512 * 64 - 2 * 512 * 64 == 5 * 12 * 512 * 64
    assert integrator_terms(cell_shape(n_iteration=0), seq_len=1, n_layer=1) == ()


def test_of_a_mixture_the_chosen_controllers_are_paid_for_or_all_in_the_dense_form() -> None:
    made = cell(n_expert=4, top_k=2)
    by_name = {t.name: t.forward for t in integrator_terms(made.shape, seq_len=B * T, n_layer=1)}
    router = by_name.pop("router")
    assert router == 2 * B * T * C * 4
    for form, times in (("grouped", 1), ("dense", 2)):
        made.controller.form = form
        with FlopCounterMode(display=False, custom_mapping=formulas()) as counter:
            made(normal(B, T, C), normal(B, T, C))
        assert counter.get_total_flops() == router + times * sum(by_name.values())


def formulas():
    from lmbench.layers.fused import flop_formulas

    return flop_formulas()
