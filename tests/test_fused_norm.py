"""Norm and turn in one kernel are what the plain modules compute, forward and backward."""

import pytest
import torch

from lmbench.layers.fused_norm import is_fused
from tests.test_dropout import interpreted

CHECK = """
import torch
import torch.nn.functional as F
from lmbench.layers.fused_norm import norm_and_turn
from lmbench.layers.norm import EPS
from lmbench.layers.positions import Rotary


def check(device, dtype, T, heads, K, normed, turned, tolerance):
    draw = torch.Generator().manual_seed(T * K)
    whole = torch.randn(2, T, heads + 2, K, generator=draw).to(device, dtype).requires_grad_()
    grad = torch.randn(2, T, heads, K, generator=draw).to(device, dtype)
    rotary = Rotary(seq_len=T + 3, d_head=K).to(device)
    tables = rotary.tables(T) if turned else (None, None)
    out = norm_and_turn(whole[:, :, :heads], *tables, normed=normed, eps=EPS)
    (d_out,) = torch.autograd.grad(out, whole, grad)
    exact = whole.detach().double().requires_grad_()
    x = F.rms_norm(exact[:, :, :heads], (K,), None, EPS) if normed else exact[:, :, :heads]
    x = rotary.double()(x.transpose(1, 2)).transpose(1, 2) if turned else x
    (d_exact,) = torch.autograd.grad(x, exact, grad.double())
    for found, wanted in ((out, x), (d_out, d_exact)):
        assert found.dtype == dtype and found.is_contiguous()
        torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)
    stack = torch.stack((whole.detach(), 2 * whole.detach()))
    rule = torch.vmap(lambda one: norm_and_turn(one[:, :, :heads], *tables, normed=normed, eps=EPS))(stack)
    for found, one in zip(rule, stack):
        alone = norm_and_turn(one[:, :, :heads], *tables, normed=normed, eps=EPS)
        torch.testing.assert_close(found, alone)


def check_all(device, dtype, tolerance):
    for normed, turned in ((True, True), (True, False), (False, True)):
        check(device, dtype, 5, 3, 8, normed, turned, tolerance)
        check(device, dtype, 7, 1, 24, normed, turned, tolerance)  # a width that is no power of two
"""


def test_the_interpreted_kernel_equals_the_plain_modules():
    interpreted(CHECK + 'check_all("cpu", torch.float32, 1e-5)')


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_kernel_equals_the_plain_modules_on_a_gpu():
    space = {}
    exec(CHECK, space)
    space["check_all"]("cuda", torch.float32, 1e-5)
    space["check_all"]("cuda", torch.bfloat16, 2e-2)


def test_a_cpu_keeps_to_plain_operations():
    assert not is_fused(torch.zeros(2, 3, 8))
