"""Triton kernels of `short`: one program for each head of each sequence, its scores in one to three tiles.

Imported where they are launched and nowhere else, because CPU builds of torch lack Triton.
"""

import triton
import triton.language as tl

from lmbench.layers.dropout_kernel import is_kept


@triton.jit
def _kept(keys, sequence, per_replica, head, T, H, row, column, dropped):
    """Which weights dropout leaves, as `dropout.keep_mask` of shape (B H, T, T) has it."""
    index = (((sequence % per_replica) * H + head) * T + row) * T + column
    return is_kept(tl.load(keys + sequence // per_replica), index, dropped)


@triton.jit
def _scores(q, k, scale, row, column, T):
    """Scores of one tile, float32, with -inf where a column is later than its row or past the end."""
    scores = tl.dot(q, tl.trans(k)) * scale
    return tl.where((column <= row) & (column < T), scores, float("-inf"))


@triton.jit
def _load(base, first, T, stride, K: tl.constexpr, BLOCK: tl.constexpr):
    """Rows first .. first + BLOCK of a (T, K) matrix whose rows lie `stride` apart."""
    t = first + tl.arange(0, BLOCK)
    place = base + t[:, None] * stride + tl.arange(0, K)[None, :]
    return tl.load(place, mask=(t < T)[:, None], other=0.0)


@triton.jit
def _store(base, value, first, T, stride, K: tl.constexpr, BLOCK: tl.constexpr):
    t = first + tl.arange(0, BLOCK)
    place = base + t[:, None] * stride + tl.arange(0, K)[None, :]
    tl.store(place, value.to(base.dtype.element_ty), mask=(t < T)[:, None])


@triton.jit
def _used(weights, keys, sequence, per_replica, head, T, H, row, column, dropped, grow, DROPS: tl.constexpr):
    """Weights after dropout; also of their gradients, before it."""
    if DROPS:
        kept = _kept(keys, sequence, per_replica, head, T, H, row, column, dropped)
        weights = tl.where(kept, weights * grow, 0.0)
    return weights


@triton.jit
def forward(
    qkv, out, lse, keys, per_replica, T, H, scale, dropped, grow,
    K: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """out = dropout(softmax(q k' scale)) v, and the log-sum-exp of each row of scores."""
    sequence, head = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    t = tl.arange(0, BLOCK)
    stride = 3 * H * K
    base, target = qkv + sequence * T * stride + head * K, out + sequence * T * H * K + head * K
    sums = lse + (sequence * H + head) * T
    k0 = _load(base + H * K, 0, T, stride, K, BLOCK)
    v0 = _load(base + 2 * H * K, 0, T, stride, K, BLOCK)
    q = _load(base, 0, T, stride, K, BLOCK)
    row, column = t[:, None], t[None, :]
    scores = _scores(q, k0, scale, row, column, T)
    highest = tl.max(scores, axis=1)
    raised = tl.exp(scores - highest[:, None])
    total = tl.sum(raised, axis=1)
    weights = raised / total[:, None]
    weights = _used(weights, keys, sequence, per_replica, head, T, H, row, column, dropped, grow, DROPS)
    _store(target, tl.dot(weights.to(v0.dtype), v0), 0, T, H * K, K, BLOCK)
    tl.store(sums + t, highest + tl.log(total), mask=t < T)
    if BLOCKS == 2:
        k1 = _load(base + H * K, BLOCK, T, stride, K, BLOCK)
        v1 = _load(base + 2 * H * K, BLOCK, T, stride, K, BLOCK)
        q = _load(base, BLOCK, T, stride, K, BLOCK)
        row = BLOCK + t[:, None]
        left = _scores(q, k0, scale, row, column, T)
        right = _scores(q, k1, scale, row, BLOCK + column, T)
        highest = tl.maximum(tl.max(left, axis=1), tl.max(right, axis=1))
        left, right = tl.exp(left - highest[:, None]), tl.exp(right - highest[:, None])
        total = tl.sum(left, axis=1) + tl.sum(right, axis=1)
        left, right = left / total[:, None], right / total[:, None]
        left = _used(left, keys, sequence, per_replica, head, T, H, row, column, dropped, grow, DROPS)
        right = _used(
            right, keys, sequence, per_replica, head, T, H, row, BLOCK + column, dropped, grow, DROPS
        )
        mixed = tl.dot(left.to(v0.dtype), v0) + tl.dot(right.to(v1.dtype), v1)
        _store(target, mixed, BLOCK, T, H * K, K, BLOCK)
        tl.store(sums + BLOCK + t, highest + tl.log(total), mask=BLOCK + t < T)


@triton.jit
def _tile(
    q, k, v, back, lse, delta, scale, keys, sequence, per_replica, head, T, H, row, column,
    dropped, grow, DROPS: tl.constexpr,
):  # fmt: skip
    """What one tile of scores adds to the gradients of its q, k and v."""
    weights = tl.exp(_scores(q, k, scale, row, column, T) - lse[:, None])
    d_weights = tl.dot(back, tl.trans(v))
    used = _used(weights, keys, sequence, per_replica, head, T, H, row, column, dropped, grow, DROPS)
    d_weights = _used(d_weights, keys, sequence, per_replica, head, T, H, row, column, dropped, grow, DROPS)
    d_v = tl.dot(tl.trans(used.to(v.dtype)), back)
    d_scores = (weights * (d_weights - delta[:, None]) * scale).to(q.dtype)
    return tl.dot(d_scores, k), tl.dot(tl.trans(d_scores), q), d_v


@triton.jit
def backward(
    qkv, out, lse, grad, d_qkv, keys, per_replica, T, H, scale, dropped, grow,
    K: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """d_qkv = gradients of q, k and v, side by side as they are; the weights are formed again."""
    sequence, head = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    t = tl.arange(0, BLOCK)
    stride = 3 * H * K
    base, target = qkv + sequence * T * stride + head * K, d_qkv + sequence * T * stride + head * K
    mixed, back = out + sequence * T * H * K + head * K, grad + sequence * T * H * K + head * K
    sums = lse + (sequence * H + head) * T
    row, column = t[:, None], t[None, :]
    q0 = _load(base, 0, T, stride, K, BLOCK)
    k0 = _load(base + H * K, 0, T, stride, K, BLOCK)
    v0 = _load(base + 2 * H * K, 0, T, stride, K, BLOCK)
    g0 = _load(back, 0, T, H * K, K, BLOCK)
    o0 = _load(mixed, 0, T, H * K, K, BLOCK)
    delta0 = tl.sum(g0.to(tl.float32) * o0.to(tl.float32), axis=1)
    lse0 = tl.load(sums + t, mask=t < T, other=float("inf"))  # rows past the end weigh nothing
    d_q, d_k, d_v = _tile(
        q0, k0, v0, g0, lse0, delta0, scale, keys, sequence, per_replica, head, T, H, row, column,
        dropped, grow, DROPS,
    )  # fmt: skip
    _store(target, d_q, 0, T, stride, K, BLOCK)
    if BLOCKS == 2:
        q1 = _load(base, BLOCK, T, stride, K, BLOCK)
        g1 = _load(back, BLOCK, T, H * K, K, BLOCK)
        o1 = _load(mixed, BLOCK, T, H * K, K, BLOCK)
        delta1 = tl.sum(g1.to(tl.float32) * o1.to(tl.float32), axis=1)
        lse1 = tl.load(sums + BLOCK + t, mask=BLOCK + t < T, other=float("inf"))
        d_q1, more_k, more_v = _tile(
            q1, k0, v0, g1, lse1, delta1, scale, keys, sequence, per_replica, head, T, H, BLOCK + row,
            column, dropped, grow, DROPS,
        )  # fmt: skip
        d_k, d_v = d_k + more_k, d_v + more_v
        k1 = _load(base + H * K, BLOCK, T, stride, K, BLOCK)
        v1 = _load(base + 2 * H * K, BLOCK, T, stride, K, BLOCK)
        more_q, d_k1, d_v1 = _tile(
            q1, k1, v1, g1, lse1, delta1, scale, keys, sequence, per_replica, head, T, H, BLOCK + row,
            BLOCK + column, dropped, grow, DROPS,
        )  # fmt: skip
        _store(target, d_q1 + more_q, BLOCK, T, stride, K, BLOCK)
        _store(target + H * K, d_k1, BLOCK, T, stride, K, BLOCK)
        _store(target + 2 * H * K, d_v1, BLOCK, T, stride, K, BLOCK)
    _store(target + H * K, d_k, 0, T, stride, K, BLOCK)
    _store(target + 2 * H * K, d_v, 0, T, stride, K, BLOCK)
