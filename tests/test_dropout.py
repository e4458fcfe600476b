"""Dropout's masks: functions of a key and a place, fair, unlike each other, and the same in any company.

Legend: R replica, C step of a block, M micro-batch, D dropout site.
"""

import importlib.util
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from lmbench.layers.dropout import (
    LEVELS,
    Dropout,
    _keep_mask,
    _keep_mask_cpu,
    dropout_keys,
    dropout_sites,
    keep_mask,
)
from lmbench.run import MAX_SEED

# The generator of the CPU, and the arithmetic that other devices and compilers use.
PATHS = pytest.mark.parametrize("draw", [_keep_mask_cpu, _keep_mask], ids=["cpu", "arithmetic"])
KEY = 0x1234_5678_9ABC_DEF1
HALF = LEVELS // 2


def key(value=KEY):
    return torch.tensor(value, dtype=torch.int64)


def within(share, expected, n):
    """Whether a mean of n fair draws lies within five standard errors, which is certain at a fixed key."""
    return abs(share - expected) < 5 * (expected * (1 - expected) / n) ** 0.5


def interpreted(code):
    """What `code` prints in a process whose Triton kernels are interpreted, without a GPU."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed, as with every CPU build of torch")
    code = f"import os\nos.environ['TRITON_INTERPRET'] = '1'\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------ masks


@PATHS
@pytest.mark.parametrize("dropped", [1, 66, 6554, HALF, 60_000, LEVELS - 1])
def test_the_share_that_is_dropped_is_that_asked_for(draw, dropped):
    n = 1 << 20
    share = 1 - draw(key(), [n], dropped).double().mean().item()
    assert within(share, dropped / LEVELS, n)


@PATHS
def test_a_mask_is_a_function_of_its_key_and_of_the_place_in_row_major_order(draw):
    mask = draw(key(), [7, 5, 3], HALF)
    assert mask.dtype == torch.bool and mask.shape == (7, 5, 3)
    assert torch.equal(mask, draw(key(), [7, 5, 3], HALF))
    assert torch.equal(mask.flatten(), draw(key(), [105], HALF))
    assert torch.equal(mask[:2].flatten(), draw(key(), [30], HALF)), "a longer mask begins with the shorter"


@PATHS
def test_a_higher_rate_drops_all_that_a_lower_one_drops(draw):
    low, high = (draw(key(), [4096], dropped) for dropped in (6554, HALF))
    assert not (high & ~low).any()


def test_the_global_generator_neither_moves_nor_matters():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = keep_mask(key(), [64], HALF)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(keep_mask(key(), [64], HALF), first)


@PATHS
def test_masks_of_neighbouring_steps_micro_batches_sites_and_seeds_have_half_in_common(draw):
    keys = dropout_keys([0, 1], first=0, count=2, micro=2, sites=3).ravel().tolist()
    assert len(set(keys)) == 24
    n = 4096
    masks = [draw(key(one), [n], HALF) for one in keys]
    for a, b in combinations(masks, 2):
        assert within((a == b).double().mean().item(), 0.5, n)


@PATHS
@pytest.mark.parametrize("change", [1, 2, 3, 1 << 31, 1 << 32, (1 << 32) + 1, 1 << 61])
def test_masks_of_neighbouring_keys_have_half_in_common(draw, change):
    n = 1 << 16
    a, b = draw(key(), [n], HALF), draw(key(KEY + change), [n], HALF)
    assert within((a == b).double().mean().item(), 0.5, n)


@PATHS
@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 7, 8, 16, 64, 127, 128, 1024])
def test_elements_at_a_distance_agree_by_chance_only(draw, lag):
    n = 1 << 16
    mask = draw(key(), [n], HALF)
    assert within((mask[lag:] == mask[:-lag]).double().mean().item(), 0.5, n - lag)


def test_the_arithmetic_is_wellons_hash_of_the_index_and_then_of_the_key():
    """In numpy's unsigned 32 bits: the bits may not move, or stored runs could not be made again."""

    def mix(x):
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
        return x ^ (x >> np.uint32(16))

    index, low, high = np.arange(4096, dtype=np.uint32), np.uint32(KEY & 0xFFFFFFFF), np.uint32(KEY >> 32)
    expected = (mix(mix(index + high) + low) >> np.uint32(16)) >= 6554
    assert np.array_equal(_keep_mask(key(), [4096], 6554).numpy(), expected)


def test_the_cpus_mask_is_four_numbers_from_each_word_of_numpys_generator():
    words = np.random.SFC64(KEY).random_raw(16)
    expected = words.astype("<u8").view("<i2")[:62] >= 6554 - HALF
    assert np.array_equal(_keep_mask_cpu(key(), [62], 6554).numpy(), expected)
    assert not expected.all()


# ------------------------------------------------------------------ the module


def dropout(p, training=True, value=KEY):
    layer = Dropout(p).train(training)
    layer.key.fill_(value)
    return layer


def test_survivors_are_scaled_exactly_and_the_others_are_zero():
    x = torch.full((64, 64), 3.0, dtype=torch.float64)
    y = dropout(0.1)(x)
    kept = keep_mask(key(), [64, 64], 6554)
    assert torch.equal(y[kept], torch.full((int(kept.sum()),), 3 * (65536 / (65536 - 6554)), dtype=x.dtype))
    assert torch.equal(y[~kept], torch.zeros(int((~kept).sum()), dtype=x.dtype))
    assert 0 < kept.sum() < kept.numel()


def test_a_half_is_dropped_and_doubled_in_every_dtype():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        y = dropout(0.5)(torch.full((1000,), 1.25, dtype=dtype))
        assert y.dtype == dtype
        assert set(y.tolist()) == {0.0, 2.5}


def test_the_gradient_passes_where_the_value_did():
    x = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    y = dropout(0.3)(x)
    y.backward(torch.ones_like(y))
    torch.testing.assert_close(x.grad * x, y)
    assert torch.equal(x.grad == 0, ~keep_mask(key(), [100], round(0.3 * LEVELS)))


@pytest.mark.parametrize("p, training", [(0.0, True), (0.0, False), (0.5, False), (0.9, False), (1e-6, True)])
def test_no_mask_is_drawn_in_evaluation_or_at_a_rate_of_zero(p, training, monkeypatch):
    monkeypatch.setattr("lmbench.layers.dropout.keep_mask", None)
    x, layer = torch.randn(5), dropout(p, training)
    assert not layer.is_active
    assert layer(x) is x


def test_a_rate_next_to_one_leaves_the_smallest_share_that_there_is():
    layer = dropout(1 - 1e-9)
    assert layer.dropped == LEVELS - 1
    assert set(layer(torch.ones(1 << 19)).tolist()) == {0.0, float(LEVELS)}


def test_a_key_is_no_weight():
    assert list(dropout(0.5).state_dict()) == []
    assert list(dropout(0.5).parameters()) == []


def test_sites_are_the_dropouts_that_draw_in_the_order_of_the_modules():
    model = nn.Sequential(
        Dropout(0.1), nn.Linear(2, 2), nn.ModuleDict({"b": Dropout(0.0), "a": Dropout(0.2)})
    )
    assert dropout_sites(model) == ["0.key", "2.a.key"]
    assert dropout_sites(Dropout(0.5)) == ["key"]
    assert dropout_sites(nn.Linear(2, 2)) == []
    buffers = dict(model.named_buffers())
    assert all(name in buffers for name in dropout_sites(model))


# ------------------------------------------------------------------ keys


def test_keys_do_not_depend_on_what_else_is_asked_for():
    every = dropout_keys([5, 6, 7], first=0, count=9, micro=3, sites=4)
    assert every.shape == (9, 3, 3, 4) and every.dtype == np.int64
    assert np.array_equal(dropout_keys([6], first=0, count=9, micro=3, sites=4), every[:, 1:2])
    assert np.array_equal(dropout_keys([7, 5], first=4, count=2, micro=3, sites=4), every[4:6][:, [2, 0]])
    assert np.array_equal(dropout_keys([5, 6, 7], first=8, count=1, micro=1, sites=2), every[8:, :, :1, :2])


def test_keys_are_all_different_and_not_negative():
    keys = dropout_keys([0, 1, 2, 2**32, MAX_SEED], first=10**6, count=200, micro=4, sites=7)
    assert keys.min() >= 0
    assert len(np.unique(keys)) == keys.size


def test_seeds_and_steps_do_not_stand_in_for_each_other():
    """A sum of seed and step would give run 1 at step 0 the masks of run 0 at step 1."""
    keys = dropout_keys(list(range(30)), first=0, count=30, micro=2, sites=2)
    assert len(np.unique(keys)) == keys.size


def test_the_first_keys_do_not_move():
    # Three rounds of splitmix64 in Python's integers.
    def mix(x):
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    keys = dropout_keys([3], first=6, count=2, micro=2, sites=2)
    for step, micro, site in np.ndindex(2, 2, 2):
        mixed = mix(mix(3) ^ (6 + step))
        expected = mix((mixed + (micro << 32) + site) % 2**64) >> 1
        assert int(keys[step, 0, micro, site]) == expected


# ------------------------------------------------------------------ replicas


@PATHS
def test_stacked_masks_are_those_of_each_replica_alone(draw):
    keys_R = torch.from_numpy(dropout_keys([0, 1, 9], first=0, count=1, micro=1, sites=1)).flatten()
    stacked = vmap(lambda one: draw(one, [4, 6], HALF))(keys_R)
    assert torch.equal(stacked, torch.stack([draw(one, [4, 6], HALF) for one in keys_R]))


@pytest.mark.parametrize("x_dim", [0, None])
def test_a_stacked_module_drops_for_each_replica_what_it_drops_alone(x_dim):
    keys_R = torch.tensor([11, 12, 13])
    x = torch.randn((3, 4, 5) if x_dim == 0 else (4, 5), generator=torch.Generator().manual_seed(0))
    layer = dropout(0.3)
    stacked = vmap(lambda one, x: functional_call(layer, {"key": one}, x), in_dims=(0, x_dim))(keys_R, x)
    for at in range(3):
        assert torch.equal(stacked[at], dropout(0.3, value=11 + at)(x[at] if x_dim == 0 else x))


def test_the_gradient_of_a_stack_is_that_of_each_replica_alone():
    x = torch.randn(2, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    layer = dropout(0.5)
    stacked = vmap(lambda one, x: functional_call(layer, {"key": one}, x))(torch.tensor([1, 2]), x)
    stacked.sum().backward()
    for at in range(2):
        assert torch.equal(x.grad[at], 2.0 * keep_mask(key(at + 1), [40], HALF))


def test_the_cpus_operator_keeps_torchs_rules():
    torch.library.opcheck(_keep_mask_cpu.overload, (key(), [3, 5], HALF))


# ------------------------------------------------------------------ the GPU's kernel

# Two replicas whose elements do not fill the kernel's last block.
KERNEL = """
import torch
from torch.func import vmap
from lmbench.layers.dropout import LEVELS, _drop, _keep_mask

def check(device, dtype):
    keys_R = torch.tensor([0x123456789ABCDEF1, 7], device=device)
    x = torch.randn(2, 30, 70, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    for dropped in (6554, LEVELS // 2):
        kept = torch.stack([_keep_mask(key, [30, 70], dropped) for key in keys_R])
        leaf = x.clone().requires_grad_()
        y = _drop(leaf, keys_R, dropped)
        assert torch.equal(y != 0, kept), "other masks than the arithmetic's"
        torch.testing.assert_close(y, x * kept.to(dtype) * (LEVELS / (LEVELS - dropped)))
        y.backward(torch.ones_like(y))
        torch.testing.assert_close(leaf.grad * x, y.detach())
        stacked = vmap(lambda x, key: _drop(x, key.view(1), dropped))(x, keys_R)
        assert torch.equal(stacked, y.detach())
        columns = torch.stack((keys_R + 1, keys_R, keys_R + 2), dim=1).unbind(1)  # as the trainer's keys lie
        strided = vmap(lambda x, key: _drop(x, key.view(1), dropped))(x, columns[1])
        assert torch.equal(strided, y.detach()), "keys were read as if they lay side by side"
        shared = vmap(lambda key: _drop(x[0], key.view(1), dropped))(keys_R)
        assert torch.equal(shared[1], _drop(x[0], keys_R[1:], dropped))
"""


def test_the_interpreted_kernel_drops_what_the_arithmetic_drops():
    interpreted(f"{KERNEL}\ncheck('cpu', torch.float32)")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_kernel_drops_what_the_arithmetic_drops(dtype):
    space = {}
    exec(KERNEL, space)
    space["check"]("cuda", getattr(torch, dtype))
