"""The flat update rules against torch's optimizers and against the published formulas."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lmbench.config import kinds, make
from lmbench.models.base import seeded
from lmbench.training.layout import Layout
from lmbench.training.loop import train
from lmbench.training.muon import newton_schulz_flops, orthogonalise
from tests.test_groups import CPU, tiny_run

STEPS = 20
# A tall, a wide and a square hidden matrix, an embedding, a head, gains and biases.
MODEL = make("model", "transformer", vocab_size=7, seq_len=4, d_model=8, n_head=2, n_layer=2, d_ff=12)
LAYOUT = Layout.of(seeded(MODEL, init_seed=0))
FACTORS = make("schedule", "cosine", warmup=3).factors(STEPS)
EXACT = {"rtol": 1e-10, "atol": 1e-12}
KINDS = sorted(kinds("optimizer"))


def flat(seed: int, *, scale: float = 1.0) -> torch.Tensor:
    """(P,) random numbers where there are parameters, zeros in the gaps between them."""
    generator = torch.Generator().manual_seed(seed)
    row_P = torch.zeros(LAYOUT.width, dtype=torch.float64)
    for view in LAYOUT.views(row_P[None]).values():
        view.copy_(scale * torch.randn(view.shape, generator=generator, dtype=torch.float64))
    return row_P


def gradients(replica: int) -> list[torch.Tensor]:
    return [flat(100 * replica + step, scale=0.1 + step % 3) for step in range(STEPS)]


def ours(configs: list, *, replicas: list[int] | None = None, steps: int = STEPS) -> torch.Tensor:
    """(R, P) weights after some steps of replicas that differ in their numbers."""
    replicas = list(range(len(configs))) if replicas is None else replicas
    params_RP = torch.stack([flat(7 + replica) for replica in replicas])
    grads = [gradients(replica) for replica in replicas]
    rule, state = configs[0], configs[0].state(params_RP)
    hyper = {
        name: torch.tensor([[config.scalars()[name]] for config in configs], dtype=torch.float64)
        for name in rule.scalars()
    }
    for step in range(steps):
        rates = rule.rates(
            hyper, factor=torch.tensor([FACTORS[step]], dtype=torch.float64), count=torch.tensor([step + 1.0])
        )
        grads_RP = torch.stack([one[step] for one in grads])
        rule.update(params_RP, grads_RP, state, rates=rates, layout=LAYOUT, dtype=torch.float64)
    return params_RP


def parameters(replica: int) -> dict[str, nn.Parameter]:
    return {
        name: nn.Parameter(value[0].clone()) for name, value in LAYOUT.views(flat(7 + replica)[None]).items()
    }


def drive(optimizers: list, params: dict[str, nn.Parameter], *, replica: int, steps: int = STEPS) -> None:
    """Steps of torch's optimizers under the schedule, with the gradients of `ours`."""
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    for step, grads_P in enumerate(gradients(replica)[:steps]):
        for name, grad in LAYOUT.views(grads_P[None]).items():
            params[name].grad = grad[0].clone()
        for optimizer, bases in zip(optimizers, rates, strict=True):
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                group["lr"] = base * FACTORS[step]
            optimizer.step()


def assert_same(params_P: torch.Tensor, expected: dict[str, nn.Parameter]) -> None:
    for name, value in LAYOUT.views(params_P[None]).items():
        torch.testing.assert_close(value[0], expected[name].detach(), **EXACT)


def matrices(params: dict[str, nn.Parameter]) -> list[nn.Parameter]:
    return [value for value in params.values() if value.ndim >= 2]


def vectors(params: dict[str, nn.Parameter]) -> list[nn.Parameter]:
    return [value for value in params.values() if value.ndim < 2]


def decayed(params: dict[str, nn.Parameter], weight_decay: float) -> list[dict]:
    return [
        {"params": matrices(params), "weight_decay": weight_decay},
        {"params": vectors(params), "weight_decay": 0.0},
    ]


# ------------------------------------------------------------------ against torch


def test_adam_is_torchs():
    configs = [make("optimizer", "adam", lr=1e-2), make("optimizer", "adam", lr=3e-3, beta1=0.8, beta2=0.9)]
    for replica, (config, got_P) in enumerate(zip(configs, ours(configs), strict=True)):
        params = parameters(replica)
        betas = (config.beta1, config.beta2)
        drive([torch.optim.Adam(params.values(), config.lr, betas, config.eps)], params, replica=replica)
        assert_same(got_P, params)


def test_adamw_is_torchs_with_decay_on_matrices_and_embeddings_only():
    configs = [make("optimizer", "adamw", lr=1e-2, weight_decay=w) for w in (0.5, 0.0)]
    for replica, (config, got_P) in enumerate(zip(configs, ours(configs), strict=True)):
        params = parameters(replica)
        groups, betas = decayed(params, config.weight_decay), (config.beta1, config.beta2)
        drive([torch.optim.AdamW(groups, config.lr, betas, config.eps)], params, replica=replica)
        assert_same(got_P, params)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_torchs_with_decay_on_matrices_and_embeddings_only(nesterov):
    configs = [
        make("optimizer", "sgd", lr=1e-2, momentum=m, nesterov=nesterov, weight_decay=w)
        for m, w in ((0.9, 0.1), (0.5, 0.0))
    ]
    for replica, (config, got_P) in enumerate(zip(configs, ours(configs), strict=True)):
        params = parameters(replica)
        groups = decayed(params, config.weight_decay)
        drive(
            [torch.optim.SGD(groups, config.lr, momentum=config.momentum, nesterov=nesterov)],
            params,
            replica=replica,
        )
        assert_same(got_P, params)


def test_sgd_without_momentum_is_gradient_descent():
    config = make("optimizer", "sgd", lr=0.5, momentum=0.0)
    expected = flat(7) - 0.5 * sum(f * g for f, g in zip(FACTORS, gradients(0), strict=True))
    torch.testing.assert_close(ours([config])[0], expected, **EXACT)


# ------------------------------------------------------------------ Muon


def published_newton_schulz(matrix: torch.Tensor, steps: int) -> torch.Tensor:
    """Jordan et al. 2024, one matrix: X <- a X + b (X X') X + c (X X')^2 X, from X / |X|."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / matrix.norm()
    if matrix.shape[0] > matrix.shape[1]:
        x = x.T
    for _ in range(steps):
        x = a * x + b * (x @ x.T) @ x + c * (x @ x.T) @ (x @ x.T) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class PublishedMuon:
    """Momentum as a mean, Nesterov's look-ahead, Newton-Schulz, decoupled decay: one matrix at a time."""

    def __init__(self, params: list[nn.Parameter], config) -> None:
        self.config, self.means = config, [torch.zeros_like(p) for p in params]
        self.param_groups = [{"params": params, "lr": config.lr}]

    @torch.no_grad()
    def step(self) -> None:
        (group,), m = self.param_groups, self.config.momentum
        for param, mean in zip(group["params"], self.means, strict=True):
            mean.copy_(m * mean + (1 - m) * param.grad)
            moved = m * mean + (1 - m) * param.grad if self.config.nesterov else mean
            rows, columns = param.shape
            step = published_newton_schulz(moved, self.config.iterations) * max(1, rows / columns) ** 0.5
            param.copy_((1 - group["lr"] * self.config.weight_decay) * param - group["lr"] * step)


def hidden(params: dict[str, nn.Parameter]) -> list[nn.Parameter]:
    """What stands neither at the input nor at the output and has two axes."""
    return [v for name, v in params.items() if v.ndim == 2 and not name.startswith(("embedding", "head"))]


def others(params: dict[str, nn.Parameter]) -> list[nn.Parameter]:
    taken = {id(value) for value in hidden(params)}
    return [value for value in params.values() if id(value) not in taken]


@pytest.mark.parametrize("fields", [{}, {"nesterov": False, "iterations": 3}])
def test_muon_is_the_published_formula_on_hidden_matrices_and_adam_on_the_rest(fields):
    configs = [
        make("optimizer", "muon", lr=0.05, momentum=0.9, weight_decay=0.3, **fields),
        make("optimizer", "muon", adam_lr=1e-2, beta1=0.8, **fields),
    ]
    assert {tuple(p.shape) for p in hidden(parameters(0))} == {(24, 8), (8, 8), (12, 8), (8, 12)}
    for replica, (config, got_P) in enumerate(zip(configs, ours(configs), strict=True)):
        params = parameters(replica)
        adam = torch.optim.Adam(others(params), config.adam_lr, (config.beta1, config.beta2), config.eps)
        drive([PublishedMuon(hidden(params), config), adam], params, replica=replica)
        assert_same(got_P, params)


def test_muon_steps_where_torchs_does_which_multiplies_in_bfloat16():
    config, params = make("optimizer", "muon", lr=0.05, weight_decay=0.3), parameters(0)
    start, got = parameters(0), LAYOUT.views(ours([config], steps=1))
    rule = torch.optim.Muon(
        hidden(params),
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        nesterov=config.nesterov,
        ns_steps=config.iterations,
    )
    drive([rule], params, replica=0, steps=1)
    for segment in LAYOUT.hidden:
        name = segment.name
        mine, theirs = got[name][0] - start[name].detach(), (params[name] - start[name]).detach()
        # bfloat16 keeps 8 bits, and five iterations add up their rounding.
        assert (mine - theirs).norm() < 0.03 * theirs.norm(), name


def conditioned(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random matrices whose singular values lie between 0.3 and 1, times 50."""
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    return 50 * (u * torch.linspace(0.3, 1, s.shape[-1], dtype=torch.float64)) @ vh


@pytest.mark.parametrize("rows, columns", [(16, 48), (48, 16), (24, 24)])
def test_orthogonalise_brings_singular_values_to_about_one(rows, columns):
    turned = orthogonalise(conditioned(3, rows, columns), iterations=5)
    values = torch.linalg.svdvals(turned)
    assert turned.shape == (3, rows, columns)
    assert values.min() > 0.6 and values.max() < 1.3


@pytest.mark.parametrize("rows, columns", [(6, 10), (10, 6)])
def test_orthogonalise_keeps_singular_vectors(rows, columns):
    matrix = conditioned(rows, columns)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonalise(matrix, iterations=5) @ vh.T
    torch.testing.assert_close(inside, torch.diag(inside.diagonal()), rtol=0, atol=1e-10)


def test_a_stack_of_matrices_is_orthogonalised_one_by_one():
    stacked = conditioned(2, 3, 5, 8)
    turned = orthogonalise(stacked, iterations=5)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(turned[i, j], orthogonalise(stacked[i, j], iterations=5), **EXACT)


def test_a_gradient_of_zero_moves_no_matrix():
    assert torch.equal(orthogonalise(torch.zeros(2, 4, 6), iterations=5), torch.zeros(2, 4, 6))


# ------------------------------------------------------------------ costs


@pytest.mark.parametrize("rows, columns", [(6, 10), (10, 6), (7, 7)])
def test_flops_of_newton_schulz_are_those_that_torch_counts(rows, columns):
    with FlopCounterMode(display=False) as counter:
        orthogonalise(torch.ones(2, 3, rows, columns), iterations=5)
    assert counter.get_total_flops() == 6 * 5 * newton_schulz_flops(rows, columns)


def test_flops_of_muons_products_are_those_that_torch_counts_in_a_step():
    config = make("optimizer", "muon")
    with FlopCounterMode(display=False) as counter:
        ours([config], steps=1)
    n_hidden = sum(p.numel() for p in hidden(parameters(0)))
    n_other = sum(p.numel() for p in others(parameters(0)))
    assert config.flops(LAYOUT.shapes) == counter.get_total_flops() + 8 * n_hidden + 13 * n_other


@pytest.mark.parametrize("kind, each", [("sgd", 6), ("adam", 13), ("adamw", 14)])
def test_flops_of_elementwise_rules_are_a_number_for_each_parameter(kind, each):
    n = sum(value.numel() for value in parameters(0).values())
    assert make("optimizer", kind).flops(LAYOUT.shapes) == each * n


@pytest.mark.parametrize("kind", KINDS)
def test_the_ledger_holds_the_optimizers_flops_of_all_steps(kind, task):
    run = tiny_run(task, steps=3, optimizer=make("optimizer", kind))
    rows = {row["metric"]: row["value"] for row in train(run, device=CPU).record.rows}
    shapes = Layout.of(seeded(run.model, init_seed=0)).shapes
    assert rows["optimizer_flops"] == 3 * run.optimizer.flops(shapes) > 0


# ------------------------------------------------------------------ replicas


@pytest.mark.parametrize("kind", KINDS)
def test_each_number_of_a_rule_may_differ_between_replicas(kind):
    plain = make("optimizer", kind)
    for name, value in plain.scalars().items():
        changed = plain.replace(**{name: 0.5 * value if value else 0.3})
        # Adam divides by a root beside which its eps is nothing, unless it is large.
        changed = changed.replace(eps=0.1) if name == "eps" else changed
        beside = ours([plain, changed], replicas=[0, 0])
        torch.testing.assert_close(beside[0], ours([plain])[0], **EXACT)
        torch.testing.assert_close(beside[1], ours([changed])[0], **EXACT)
        assert (beside[0] - beside[1]).abs().max() > 1e-6, name


@pytest.mark.parametrize("kind", KINDS)
def test_gaps_between_parameters_stay_zero(kind):
    params_RP = ours([make("optimizer", kind)])
    for view in LAYOUT.views(params_RP).values():
        assert view.abs().sum() > 0
        view.zero_()
    assert torch.equal(params_RP, torch.zeros_like(params_RP))


def test_every_rule_says_which_of_its_fields_are_numbers():
    for kind in KINDS:
        fields = kinds("optimizer")[kind].model_fields
        numbers = {name for name, info in fields.items() if info.annotation is float}
        assert set(make("optimizer", kind).scalars()) == numbers
        assert "lr" in numbers
