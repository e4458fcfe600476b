"""Mixture of experts: grouped products, routing, its losses, what is stored and what is active."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lmbench.config import make
from lmbench.layers import grouped
from lmbench.layers.experts import Experts, Routing, Sorted, balance_loss, expert_parameters, z_loss
from lmbench.layers.feedforward import FeedForward, feedforward_terms
from lmbench.layers.fused import flop_formulas
from lmbench.layers.grouped import grouped_product, reordered
from lmbench.layers.mixer import Pass
from lmbench.layers.row_blocks import outer_in_blocks, product_in_blocks
from lmbench.measure.flops import parameters
from lmbench.models.base import seeded

DOUBLE = torch.float64
SIZES = {"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_head": 2, "n_layer": 2, "d_ff": 24}
EXACT = {"rtol": 0, "atol": 1e-12}
# Groups of equal size, of none, of all rows, empty at both ends.
ENDS = ([4, 8, 12], [4, 4, 12], [12, 12, 12], [0, 12, 12], [0, 0, 12])


def moe(**fields):
    return make("model", "moe", **SIZES | {"n_expert": 4, "dropout": 0.0} | fields)


def experts(**fields) -> Experts:
    """Off its start, where biases are small."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layer = Experts(moe(**fields).block_shape()).eval()
        for parameter in layer.parameters():
            parameter.data.add_(0.3 * torch.randn(parameter.shape))
    return layer


def normal(*shape, seed=1, dtype=DOUBLE):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def int32(rows):
    return torch.tensor(rows, dtype=torch.int32)


# ------------------------------------------------------------------ grouped products


def test_each_row_meets_its_groups_matrix():
    x_NC = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    weight_ECF = torch.stack([10 * torch.eye(2), torch.zeros(2, 2), torch.ones(2, 2)])
    product_NF = grouped_product(x_NC, weight_ECF, int32([2, 2, 3]))
    assert product_NF.tolist() == [[10, 20], [30, 40], [11, 11]]


@pytest.mark.parametrize("ends", ENDS)
def test_blocks_of_rows_give_the_products_of_whole_groups(ends):
    """The form of GPUs without a grouped kernel, in shapes that do not depend on the ends."""
    ends_RE = int32([ends, ENDS[0]])
    x, weight, other = normal(2, 12, 5), normal(2, 3, 5, 7, seed=2), normal(2, 12, 7, seed=3)
    products = grouped._product(x, weight, ends_RE), product_in_blocks(x, weight, ends_RE)
    torch.testing.assert_close(*products, **EXACT)
    outers = grouped._outer(x, other, ends_RE), outer_in_blocks(x, other, ends_RE)
    torch.testing.assert_close(*outers, **EXACT)


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_blocks_hold_all_rows_of_any_number(n):
    ends_RE = int32([[n // 3, n // 3, n - n // 5, n]])
    x, weight = normal(1, n, 3), normal(1, 4, 3, 2, seed=2)
    products = grouped._product(x, weight, ends_RE), product_in_blocks(x, weight, ends_RE)
    torch.testing.assert_close(*products, **EXACT)


@pytest.mark.parametrize("ends", ENDS)
def test_gradients_of_grouped_products_are_those_of_differences(ends):
    x, weight = normal(12, 2).requires_grad_(), normal(3, 2, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: grouped_product(x, w, int32(ends)), (x, weight))


def test_the_gradient_of_an_order_is_the_inverse_order():
    x, order = normal(4, 2).requires_grad_(), torch.tensor([2, 0, 3, 1])
    assert reordered(x, order, order.argsort()).equal(x[order])
    assert torch.autograd.gradcheck(lambda x: reordered(x, order, order.argsort()), (x,))


class Calls(TorchDispatchMode):
    """Counts calls of operators by name."""

    def __init__(self):
        super().__init__()
        self.n = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._overloadpacket.__name__
        self.n[name] = self.n.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def product_of_a_stack(x_RNC, weight_RECF, ends_RE):
    return vmap(lambda x, w, ends: grouped_product(x, w, ends).square().sum())(x_RNC, weight_RECF, ends_RE)


def test_a_stack_of_replicas_is_one_call_forward_and_two_backward():
    x, weight = normal(5, 12, 2), normal(5, 3, 2, 3, seed=2)
    alone = [
        grad(lambda w, r: grouped_product(x[r], w, int32(ENDS[r])).square().sum())(weight[r], r)
        for r in range(5)
    ]
    weight.requires_grad_()
    x.requires_grad_()
    with Calls() as calls:
        product_of_a_stack(x, weight, int32(ENDS)).sum().backward()
    assert (calls.n["grouped_product"], calls.n["grouped_outer"]) == (2, 1)
    torch.testing.assert_close(weight.grad, torch.stack(alone), **EXACT)


def test_what_all_replicas_share_is_repeated():
    x, weight = normal(12, 2), normal(5, 3, 2, 3, seed=2)
    stacked = vmap(grouped_product, in_dims=(None, 0, None))(x, weight, int32(ENDS[1]))
    each = torch.stack([grouped_product(x, w, int32(ENDS[1])) for w in weight])
    assert stacked.equal(each)


def test_a_compiled_stack_has_the_gradients_of_the_plain_one():
    """The compiler takes the operator's own gradient; a `Function` it would lose under vmap."""
    found = []
    for compiled in (False, True):
        x, weight = normal(5, 12, 2).requires_grad_(), normal(5, 3, 2, 3, seed=2).requires_grad_()
        stack = torch.compile(product_of_a_stack, backend="aot_eager") if compiled else product_of_a_stack
        stack(x, weight, int32(ENDS)).sum().backward()
        found.append((x.grad, weight.grad))
    torch.testing.assert_close(*found, **EXACT)


def test_a_grouped_product_is_counted_as_one_matrix_for_each_row():
    x, weight = normal(12, 5).requires_grad_(), normal(3, 5, 7).requires_grad_()
    with FlopCounterMode(display=False, custom_mapping=flop_formulas()) as counter:
        product_NF = grouped_product(x, weight, int32(ENDS[1]))
        assert counter.get_total_flops() == 2 * 12 * 5 * 7
        product_NF.sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 12 * 5 * 7


# ------------------------------------------------------------------ routing


def test_assignments_are_sorted_by_expert_and_keep_their_order():
    placed = Sorted.of(torch.tensor([2, 0, 2, 0, 3]), n_expert=4)
    assert placed.order_M.tolist() == [1, 3, 0, 2, 4]
    assert placed.inverse_M.tolist() == [2, 0, 3, 1, 4]
    assert placed.ends_E.tolist() == [2, 2, 4, 5]


@pytest.mark.parametrize("fields", [{}, {"bias": True}, {"activation": "relu"}, {"top_k": 1}, {"top_k": 4}])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (DOUBLE, 1e-12)])
def test_grouped_experts_equal_all_experts_under_a_mask(fields, dtype, atol):
    layer, x_NC = experts(**fields).to(dtype), normal(30, 16, dtype=dtype)
    outputs, gradients = [], []
    for mixture in (layer.mixture, layer.masked_mixture):
        layer.zero_grad()
        outputs.append(mixture(x_NC, layer.route(x_NC)))
        outputs[-1].square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in layer.named_parameters()})
    torch.testing.assert_close(*outputs, rtol=0, atol=atol)
    torch.testing.assert_close(*gradients, rtol=0, atol=atol)


def test_no_token_is_dropped_however_many_choose_one_expert():
    layer = experts(top_k=1).double()
    layer.router.weight.data.zero_()
    layer.router.weight.data[2, 0] = 100.0
    x_BTC = normal(4, 8, 16)
    x_BTC[..., 0] = 1.0
    dense = F.linear(x_BTC, layer.up.weight[2])
    gate, value = dense.chunk(2, dim=-1)
    expected = F.linear(F.silu(gate) * value, layer.down.weight[2])
    torch.testing.assert_close(layer(x_BTC), expected, **EXACT)


def test_permuted_tokens_give_permuted_outputs():
    layer, x_NC, order = experts(bias=True).double(), normal(30, 16), torch.randperm(30)
    moved = layer(x_NC[order].unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(moved, layer(x_NC.unsqueeze(0))[0, order], **EXACT)


def test_all_experts_under_an_equal_router_are_a_mean_of_dense_ones():
    layer, x_BTC = experts(top_k=4, bias=True).double(), normal(2, 8, 16)
    layer.router.weight.data.zero_()
    dense = FeedForward(moe(bias=True).block_shape()).double().eval()
    outputs = []
    for expert in range(4):
        own = {name: value[expert] for name, value in layer.state_dict().items() if "router" not in name}
        outputs.append(functional_call(dense, own, (x_BTC,)))
    torch.testing.assert_close(layer(x_BTC), torch.stack(outputs).mean(0), **EXACT)


def one_expert_and_dense():
    """Both as they start from one seed, of one block."""
    options = SIZES | {"n_layer": 1, "dropout": 0.0, "bias": True}
    one = seeded(make("model", "moe", **options, n_expert=1, top_k=1), init_seed=0).eval()
    names = ("norm", "norm_order", "positions", "activation", "qk_norm", "attention_init")
    like = {name: getattr(moe(), name) for name in names}
    return one, seeded(make("model", "transformer", **options, **like), init_seed=0).eval()


def test_one_expert_starts_as_the_dense_feed_forward_does():
    one, dense = (model.blocks.state_dict() for model in one_expert_and_dense())
    assert one.keys() - dense.keys() == {"0.feedforward.router.weight"}
    assert all(one[name].reshape(weight.shape).equal(weight) for name, weight in dense.items())


def test_one_expert_is_the_transformer():
    one, dense = one_expert_and_dense()
    own = one.state_dict()
    one.load_state_dict(own | {k: v.reshape(own[k].shape) for k, v in dense.state_dict().items()})
    ids_BT = torch.arange(8).view(1, 8)
    torch.testing.assert_close(one(ids_BT).logits_BTV, dense(ids_BT).logits_BTV, rtol=0, atol=1e-6)


def test_weights_of_the_chosen_are_renormalised_but_a_lone_one_keeps_its_probability():
    x_NC = normal(5, 16)
    for top_k in (1, 2):
        layer = experts(top_k=top_k).double()
        routing = layer.route(x_NC)
        top_NK = routing.logits_NE.softmax(-1).sort(descending=True).values[:, :top_k]
        expected = top_NK if top_k == 1 else top_NK / top_NK.sum(-1, keepdim=True)
        torch.testing.assert_close(routing.weight_NK, expected, **EXACT)
        layer.mixture(x_NC, routing).sum().backward()
        assert layer.router.weight.grad.count_nonzero()


def test_the_router_decides_in_float32_where_all_else_is_bfloat16():
    layer = experts().bfloat16()
    assert layer.route(normal(5, 16).bfloat16()).logits_NE.dtype == torch.float32
    assert layer(normal(2, 3, 16).bfloat16()).dtype == torch.bfloat16


def test_replicas_choose_their_own_experts():
    layers = [experts().double(), experts(top_k=2).double()]
    layers[1].router.weight.data.neg_()
    stacked, buffers = stack_module_state(layers)
    x_BTC = normal(2, 8, 16)
    both = vmap(lambda state, keys: functional_call(layers[0], (state, keys), (x_BTC,)))(stacked, buffers)
    chosen = [layer.route(x_BTC.flatten(0, 1)).chosen_NK for layer in layers]
    assert not chosen[0].equal(chosen[1])
    torch.testing.assert_close(both, torch.stack([layer(x_BTC) for layer in layers]), **EXACT)


# ------------------------------------------------------------------ losses of the router


def routing(logits, chosen):
    chosen_NK = torch.tensor(chosen)
    return Routing(chosen_NK, torch.ones(chosen_NK.shape), torch.tensor(logits, dtype=DOUBLE))


def test_the_balance_loss_is_1_where_routing_is_uniform():
    uniform = routing([[0.0] * 4] * 2, [[0, 1], [2, 3]])
    assert balance_loss(uniform).item() == pytest.approx(1)


@pytest.mark.parametrize(("chosen", "collapsed"), [([[0]] * 3, 4.0), ([[0, 1]] * 3, 2.0)])
def test_the_balance_loss_of_a_collapsed_router_is_experts_by_choices(chosen, collapsed):
    sure = routing([[50.0, 0.0, 0.0, 0.0]] * 3, chosen)
    assert balance_loss(sure).item() == pytest.approx(collapsed)


def test_the_z_loss_is_the_mean_square_of_the_logsumexp():
    # logsumexp: log 2 and log 2 + 3
    found = z_loss(routing([[0.0, 0.0], [3.0, 3.0]], [[0], [0]])).item()
    assert found == pytest.approx((0.6931471805599453**2 + 3.6931471805599453**2) / 2)


def test_both_losses_reach_the_pass_with_their_weights():
    x_BTC = normal(2, 8, 16)
    layer = experts(balance_weight=0.5, z_weight=0.25).double()
    shared, routed = Pass(), layer.route(x_BTC.flatten(0, 1))
    layer(x_BTC, shared)
    assert shared.aux_loss.item() == pytest.approx((balance_loss(routed) / 2 + z_loss(routed) / 4).item())
    shared = Pass()
    experts(balance_weight=0.0, z_weight=0.0).double()(x_BTC, shared)
    assert shared.aux_loss is None


def test_each_block_with_experts_adds_its_losses():
    ids_BT = torch.arange(8).view(1, 8)
    one, two = (
        seeded(moe(n_layer=2, every=every, balance_weight=1.0, z_weight=0.0), init_seed=0).eval()
        for every in (2, 1)
    )
    for model in (one, two):
        for name, parameter in model.named_parameters():
            if "router" in name:
                parameter.data.zero_()
    assert one(ids_BT).aux_loss.item() == pytest.approx(1)
    assert two(ids_BT).aux_loss.item() == pytest.approx(2)


def test_the_balance_loss_alone_spreads_a_collapsed_router():
    layer, x_NC = experts(top_k=1), normal(200, 16, dtype=torch.float32)
    x_NC[:, 0] = 2.0
    layer.router.weight.data.mul_(0.1)
    layer.router.weight.data[0, 0] = 2.0
    before = balance_loss(layer.route(x_NC)).item()
    assert before > 3
    optimizer = torch.optim.SGD([layer.router.weight], lr=0.3)
    for _ in range(100):
        optimizer.zero_grad()
        balance_loss(layer.route(x_NC)).backward()
        optimizer.step()
    assert balance_loss(layer.route(x_NC)).item() < 1.3


# ------------------------------------------------------------------ start, cost, config


def test_experts_start_like_dense_feed_forwards():
    shape = moe(bias=True, d_model=64, d_ff=48).block_shape()
    layer = Experts(shape)
    assert layer.up.weight.shape == (4, 96, 64)
    assert layer.down.bias.shape == (4, 64)
    for part, d_in in ((layer.up, 64), (layer.down, 48)):
        for values in (part.weight, part.bias):  # U(-1/sqrt(d_in), 1/sqrt(d_in))
            assert 0.8 * d_in**-0.5 < values.abs().max() <= d_in**-0.5
        assert not part.weight[0].equal(part.weight[1])


def test_gpt2s_start_draws_experts_and_router():
    model = seeded(moe(init="gpt2", bias=True, d_model=64, d_ff=64), init_seed=0)
    layer = model.blocks[0].feedforward
    for weight, std in ((layer.up, 0.02), (layer.down, 0.01), (layer.router, 0.02)):
        assert weight.weight.std().item() == pytest.approx(std, rel=0.1)
    assert not layer.up.bias.any()
    assert not layer.down.bias.any()


def test_experts_that_start_at_zero_write_nothing():
    layer = seeded(moe(zero_init=True), init_seed=0).blocks[0].feedforward
    assert not layer(normal(2, 8, 16, dtype=torch.float32)).any()
    assert layer.up.weight.any()


def test_the_ledger_counts_active_experts_and_the_router():
    shape = moe(top_k=3).block_shape()
    (dense,) = feedforward_terms(shape, n_layer=2)
    terms = {term.name: term.forward for term in moe(top_k=3).terms("all")}
    assert terms["feedforward"] == 3 * dense.forward
    assert terms["router"] == 2 * 2 * 8 * 16 * 4  # blocks, multiply and add, tokens, width, experts
    fewer = {term.name: term.forward for term in moe(top_k=3, n_expert=3).terms("all")}
    assert fewer["feedforward"] == terms["feedforward"]


@pytest.mark.parametrize("fields", [{}, {"bias": True, "activation": "gelu"}, {"every": 2}])
def test_inactive_parameters_are_those_of_the_experts_not_chosen(fields):
    config = moe(n_expert=6, top_k=2, **fields)
    only_active = moe(n_expert=2, top_k=2, **fields)
    routers = 2 // config.every * 4 * 16  # rows of the routers that the smaller model lacks
    assert config.inactive_parameters() == parameters(config).total - parameters(only_active).total - routers
    assert only_active.inactive_parameters() == 0
    assert make("model", "transformer").inactive_parameters() == 0


def test_one_expert_holds_the_numbers_of_the_dense_feed_forward():
    assert expert_parameters(moe().block_shape()) == 16 * 48 + 24 * 16


def test_every_second_block_has_experts():
    assert moe(n_layer=5, every=2).feedforwards() == ("dense", "experts", "dense", "experts", "dense")
    assert moe().feedforwards() == ("experts", "experts")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_k": 5}, "top_k = 5 is more than n_expert = 4; accepted: 1 to 4"),
        ({"every": 3}, "every = 3 leaves no block of n_layer = 2 with experts; accepted: 1 to 2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        moe(**fields)


def test_a_gradient_of_a_fused_gradient_is_refused():
    x, weight = (torch.rand(*shape, requires_grad=True) for shape in ((4, 3), (2, 3, 5)))
    ends = torch.tensor([1, 4], dtype=torch.int32)
    (first,) = torch.autograd.grad(grouped_product(x, weight, ends).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="a fused operator has gradients of the first order only"):
        first.sum().backward()
