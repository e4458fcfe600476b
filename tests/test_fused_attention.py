"""Fused attention against the formed weights: alone, stacked, inside the layer, and on interpreted kernels.

Legend: R replica, N sequence of any replica, B batch, H head, T position, K head width.
"""

import math

import pytest
import torch
from torch.func import functional_call, vmap

from lmbench.layers import attention as attention_module
from lmbench.layers import fused
from lmbench.layers.attention import CausalSelfAttention, attend
from lmbench.layers.dropout import Dropout
from lmbench.layers.fused import SHORT, fused_attention, has_kernel
from lmbench.layers.short import is_short
from tests.test_attention import shape
from tests.test_dropout import interpreted

# Sums of a few hundred terms in another order.
CLOSE = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.float64: {"rtol": 1e-9, "atol": 1e-12},
    torch.bfloat16: {"rtol": 3e-2, "atol": 3e-2},
}


def draw(*sizes, seed=0, dtype=torch.float64):
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def formed(q_BHTK, k_BHTK, v_BHTK):
    """The plain formula: (B, T, H, K)."""
    T, K = q_BHTK.shape[-2:]
    scores = q_BHTK @ k_BHTK.mT / math.sqrt(K)
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    return (scores.masked_fill(later, -math.inf).softmax(-1) @ v_BHTK).transpose(-3, -2)


def both_passes(operator, inputs, grad):
    """What an operator returns, and the gradients of its inputs."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    mixed = operator(*leaves)
    mixed.backward(grad)
    return [mixed.detach(), *(leaf.grad for leaf in leaves)]


def assert_all_close(found, expected, dtype):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b.to(dtype), **CLOSE[dtype])


# ------------------------------------------------------------------ the operator


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("T", [SHORT + 1, 300])
def test_the_operator_equals_the_formula_in_both_passes(T, dtype):
    qkv = [draw(2, 3, T, 8, seed=seed, dtype=dtype) for seed in range(3)]
    grad = draw(2, T, 3, 8, seed=3, dtype=dtype)
    assert all(has_kernel(x) for x in qkv)
    found = both_passes(fused_attention, qkv, grad)
    exact = both_passes(formed, [x.double() for x in qkv], grad.double())
    assert_all_close(found, exact, dtype)
    assert found[0].is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_operator_equals_torchs_attention(dtype):
    qkv = [draw(2, 2, SHORT + 1, 8, seed=seed, dtype=dtype) for seed in range(3)]
    grad = draw(2, SHORT + 1, 2, 8, seed=3, dtype=dtype)

    def torchs(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    assert_all_close(both_passes(fused_attention, qkv, grad), both_passes(torchs, qkv, grad), dtype)


def test_inputs_may_lie_in_any_order_in_memory():
    T = SHORT + 1
    straight = [draw(2, 3, T, 8, seed=seed) for seed in range(3)]
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in straight]
    grad = draw(2, T, 3, 8, seed=3)
    strided = torch.stack([grad, grad], dim=-1)[..., 0]
    found = both_passes(fused_attention, turned, strided)
    assert_all_close(found, both_passes(fused_attention, straight, grad), torch.float64)


# Which inputs have a replica axis, and where; None is shared by all replicas.
@pytest.mark.parametrize(
    "in_dims", [(0, 0, 0), (0, None, 0), (None, 0, None), (1, 0, None), (0, 2, 1)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_stack_equals_each_replica_alone_in_both_passes(in_dims, dtype):
    R, T = 3, SHORT + 1
    qkv = []
    for seed, dim in enumerate(in_dims):
        x = draw(R, 2, 2, T, 8, seed=seed, dtype=dtype)
        qkv.append(x[0] if dim is None else x.movedim(0, dim))
    grad = draw(R, 2, T, 2, 8, seed=3, dtype=dtype)
    found = both_passes(vmap(fused_attention, in_dims=in_dims), qkv, grad)
    alone = []
    for at in range(R):
        own = [x if dim is None else x.select(dim, at) for x, dim in zip(qkv, in_dims, strict=True)]
        alone.append(both_passes(fused_attention, own, grad[at]))
    mixed, *grads = (torch.stack(parts) for parts in zip(*alone, strict=True))
    # A shared input's gradient is the sum over the replicas.
    grads = [g.sum(0) if dim is None else g.movedim(0, dim) for g, dim in zip(grads, in_dims, strict=True)]
    assert_all_close(found, [mixed, *grads], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_operators_keep_torchs_rules(dtype):
    q, k, v = (draw(1, 2, 5, 8, seed=seed, dtype=dtype).requires_grad_() for seed in range(3))
    # Compiled and plain gradients of bfloat16 differ by rounding.
    torch.library.opcheck(fused._forward.overload, (q, k, v), rtol=1e-2, atol=1e-2)
    with torch.no_grad():
        mixed, lse = fused._forward(q, k, v)
        inputs = (draw(1, 5, 2, 8, seed=3, dtype=dtype), q.detach(), k.detach(), v.detach(), mixed, lse)
    torch.library.opcheck(fused._backward.overload, inputs, rtol=1e-2, atol=1e-2)


def test_a_kernel_is_chosen_by_device_and_length():
    x = torch.zeros(1, 1, SHORT, 8)
    assert not has_kernel(x)
    assert has_kernel(torch.zeros(1, 1, SHORT + 1, 8))
    assert not has_kernel(torch.zeros(1, 1, SHORT + 1, 8, device="meta"))
    assert not is_short(torch.zeros(1, 64, 1, 16, dtype=torch.bfloat16)), "a kernel of GPUs"


# ------------------------------------------------------------------ inside the layer

OPTIONS = [
    {},
    {"positions": "rope"},
    {"qk_norm": True},
    {"n_kv_head": 1},
    {"n_kv_head": 2, "positions": "rope", "qk_norm": True, "norm_gain": False},
]


def layer_of(**fields):
    torch.manual_seed(0)
    return CausalSelfAttention(shape(seq_len=SHORT + 8, **fields)).double()


@pytest.mark.parametrize("fields", OPTIONS, ids=str)
def test_the_layer_reads_the_same_from_both_paths(fields, monkeypatch):
    layer, x, seen = layer_of(**fields), draw(2, SHORT + 8, 8), []
    for fits in (True, False):
        used = []

        def chosen(q_BHTK, fits=fits, used=used):
            used.append(has_kernel(q_BHTK))
            return fits

        monkeypatch.setattr(attention_module, "has_kernel", chosen)
        layer.zero_grad()
        out = layer(x)
        out.square().sum().backward()
        assert used == [True]
        seen.append([out.detach(), *(weights.grad for weights in layer.parameters())])
    assert_all_close(seen[0], seen[1], torch.float64)


@pytest.mark.parametrize("fields", OPTIONS, ids=str)
def test_a_long_text_begins_as_the_short_one_does(fields):
    """The first SHORT positions by formed weights, all by the fused kernel: the future is not seen."""
    layer, x = layer_of(**fields), draw(2, SHORT + 8, 8)
    torch.testing.assert_close(layer(x)[:, :SHORT], layer(x[:, :SHORT]), **CLOSE[torch.float64])


def test_attend_returns_the_same_whichever_path(monkeypatch):
    q, k, v = (draw(2, SHORT + 1, 3, 8, seed=seed) for seed in range(3))
    plain = Dropout(0.0)
    long = attend(q, k, v, bias_BHTT=None, dropout=plain)
    monkeypatch.setattr(attention_module, "has_kernel", lambda x: False)
    torch.testing.assert_close(attend(q, k, v, bias_BHTT=None, dropout=plain), long, **CLOSE[torch.float64])


def test_weights_are_formed_where_dropout_or_a_bias_must_reach_them(monkeypatch):
    monkeypatch.setattr(attention_module, "fused_attention", None)
    x = draw(1, SHORT + 8, 8)
    layer_of(positions="alibi").eval()(x)
    layer = layer_of(dropout=0.5).train()
    layer.dropout.key.fill_(3)
    dropped = layer(x)
    with pytest.raises(TypeError, match="not callable"):
        layer.eval()(x)
    assert torch.isfinite(dropped).all()


@pytest.mark.parametrize("T", [6, SHORT + 8])
def test_a_stack_of_layers_equals_each_alone(T):
    layers = [layer_of() for _ in range(2)]
    with torch.no_grad():
        for at, layer in enumerate(layers):
            for n, weights in enumerate(layer.parameters()):
                weights.copy_(draw(*weights.shape, seed=10 * at + n) / 3)
    states = [dict(layer.named_parameters()) for layer in layers]
    stacked = {
        name: torch.stack([state[name].detach() for state in states]).requires_grad_() for name in states[0]
    }
    x = draw(2, 2, T, 8, seed=5)
    together = vmap(lambda state, x: functional_call(layers[0], state, x))(stacked, x)
    together.square().sum().backward()
    for at, layer in enumerate(layers):
        alone = layer(x[at])
        alone.square().sum().backward()
        torch.testing.assert_close(together[at], alone, **CLOSE[torch.float64])
        for name, weights in layer.named_parameters():
            torch.testing.assert_close(stacked[name].grad[at], weights.grad, **CLOSE[torch.float64])


# ------------------------------------------------------------------ the kernel of short sequences

# Two replicas of two sequences, two heads.
KERNEL = """
import torch
from torch.func import vmap
from lmbench.layers.dropout import LEVELS, _keep_mask
from lmbench.layers.short import short_attention

KEYS = [0x123456789ABCDEF1, 7]

def masks(key, n, H, T, dropped):
    return _keep_mask(key, [n * H, T, T], dropped).view(n, H, T, T)

def formed(qkv, key, dropped):
    q, k, v = (x.transpose(1, 2) for x in qkv.unbind(2))
    n, H, T, K = q.shape
    later = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
    weights = (q @ k.mT * K**-0.5).masked_fill(later, float("-inf")).softmax(-1)
    weights = weights * masks(key, n, H, T, dropped) * (LEVELS / (LEVELS - dropped))
    return (weights @ v).transpose(1, 2)

def check(device, dtype, T, K, dropped, rtol, atol):
    keys_R = torch.tensor(KEYS, device=device)
    shape = (2, 2, T, 3, 2, K)
    qkv = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    grad = torch.randn(2, 2, T, 2, K, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    alone = []
    for at in range(2):
        leaf, exact = qkv[at].clone().requires_grad_(), qkv[at].double().requires_grad_()
        out = short_attention(leaf, keys_R[at], dropped)
        out.backward(grad[at])
        expected = formed(exact, keys_R[at], dropped)
        expected.backward(grad[at].double())
        torch.testing.assert_close(out.double(), expected, rtol=rtol, atol=atol)
        torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=rtol, atol=atol)
        alone.append((out.detach(), leaf.grad))
    leaf, column = qkv.clone().requires_grad_(), torch.stack((keys_R + 1, keys_R), dim=1)[:, 1]
    stacked = vmap(lambda one, key: short_attention(one, key, dropped))(leaf, column)
    stacked.backward(grad)
    assert torch.equal(stacked, torch.stack([out for out, _ in alone]))
    assert torch.equal(leaf.grad, torch.stack([grads for _, grads in alone]))
    shared = vmap(lambda key: short_attention(qkv[0], key, dropped))(keys_R)
    assert torch.equal(shared[0], alone[0][0])

def check_masks(device, dtype, T, K, dropped):
    # Equal scores, so that every allowed weight is positive, and values that show K of them at a time.
    key, unit = torch.tensor(KEYS[0], device=device), torch.eye(T, device=device, dtype=dtype)
    kept = masks(key, 2, 2, T, dropped) & torch.ones(T, T, dtype=torch.bool, device=device).tril()
    for first in range(0, T, K):
        some = unit[:, first : first + K]
        qkv = torch.zeros(2, T, 3, 2, K, device=device, dtype=dtype)
        qkv[:, :, 2, :, : some.shape[1]] = some[None, :, None]
        found = short_attention(qkv, key, dropped)[..., : some.shape[1]].transpose(1, 2)
        assert torch.equal(found != 0, kept[..., first : first + K]), "other masks than the arithmetic's"
"""
# A tile, a part of one, two, a part of the second.
LENGTHS = [16, 20, 64, 100]


def test_the_interpreted_kernel_equals_the_formula_with_the_same_masks():
    code = """
for T, K, dropped in ((16, 16, 0), (20, 32, 6554), (100, 16, 6554)):
    check("cpu", torch.float32, T, K, dropped, 1e-4, 1e-5)
check_masks("cpu", torch.float32, 20, 16, LEVELS // 2)
check_masks("cpu", torch.float32, 70, 64, 6554)
"""
    interpreted(KERNEL + code)


def test_the_interpreted_kernel_keeps_torchs_rules():
    code = """
from lmbench.layers import short
qkv = torch.randn(2, 16, 3, 2, 16, requires_grad=True)
rules = ("test_schema", "test_autograd_registration", "test_faketensor")
torch.library.opcheck(short._forward.overload, (qkv, torch.tensor([5]), 6554), test_utils=rules)
"""
    interpreted(KERNEL + code)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("K", [16, 32, 64, 128])
@pytest.mark.parametrize("T", [*LENGTHS, 128])
def test_the_kernel_equals_the_formula_with_the_same_masks(T, K):
    space = {}
    exec(KERNEL, space)
    for dropped in (0, 6554):
        space["check"]("cuda", torch.bfloat16, T, K, dropped, 3e-2, 3e-2)
    space["check_masks"]("cuda", torch.bfloat16, T, K, 32_768)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("T", [100, 256, 300])
def test_the_operator_equals_the_formula_on_a_gpu(T, dtype):
    qkv = [draw(2, 3, T, 32, seed=seed, dtype=dtype) for seed in range(3)]
    grad = draw(2, T, 3, 32, seed=3, dtype=dtype)
    found = both_passes(fused_attention, [x.cuda() for x in qkv], grad.cuda())
    exact = both_passes(formed, [x.double() for x in qkv], grad.double())
    assert_all_close([x.cpu() for x in found], exact, dtype)
    stacked = both_passes(
        vmap(fused_attention), [x.cuda().unsqueeze(0) for x in qkv], grad.cuda().unsqueeze(0)
    )
    assert_all_close([x[0].cpu() for x in stacked], exact, dtype)
