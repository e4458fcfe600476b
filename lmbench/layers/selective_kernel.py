"""Triton kernels of `fused_selective`: the selective scan of one sequence and some of its features.

The states of these features stay in registers from the first position to the last. Imported where
they are launched and nowhere else, because CPU builds of torch lack Triton.
"""

import triton
import triton.language as tl


@triton.jit
def _rates(A, row, rows, feature, state, D, STATES: tl.constexpr):
    """A of the row's replica, of `rows` sequences each; 0 outside of it, where states then stay 0."""
    inside = (feature < D)[:, None] & (state < STATES)[None, :]
    place = ((row // rows) * D + feature[:, None]) * STATES + state[None, :]
    return tl.load(A + place, mask=inside, other=0.0)


@triton.jit
def forward(
    dt, x, A, B, C, out, T, D, rows,
    STATES: tl.constexpr, PADDED: tl.constexpr, FEATURES: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """out = the states (rows, T, D, N) where KEPT, else what is read out of them (rows, T, D)."""
    row = tl.program_id(0).to(tl.int64)
    feature = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
    state = tl.arange(0, PADDED)
    is_feature, is_state = feature < D, state < STATES
    rates = _rates(A, row, rows, feature, state, D, STATES)
    h = tl.zeros_like(rates)
    for t in range(T):
        at = row * T + t
        step = tl.load(dt + at * D + feature, mask=is_feature, other=0.0)
        value = tl.load(x + at * D + feature, mask=is_feature, other=0.0)
        enter = tl.load(B + at * STATES + state, mask=is_state, other=0.0)
        h = tl.exp(step[:, None] * rates) * h + (step * value)[:, None] * enter[None, :]
        if KEPT:
            place = (at * D + feature[:, None]) * STATES + state[None, :]
            tl.store(out + place, h, mask=is_feature[:, None] & is_state[None, :])
        else:
            leave = tl.load(C + at * STATES + state, mask=is_state, other=0.0)
            tl.store(out + at * D + feature, tl.sum(h * leave[None, :], axis=1), mask=is_feature)


@triton.jit
def backward(
    grad, dt, x, A, B, C, h, d_dt, d_x, d_A, d_B, d_C, T, D, rows,
    STATES: tl.constexpr, PADDED: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """Gradients; of A for each row, of B and C for each row and block of features, for others to sum.

    With g the gradient of the states: g_t = dy_t C_t + exp(dt_{t+1} A) g_{t+1}, and all others from it.
    """
    row = tl.program_id(0).to(tl.int64)
    feature = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
    state = tl.arange(0, PADDED)
    is_feature, is_state = feature < D, state < STATES
    inside = is_feature[:, None] & is_state[None, :]
    rates = _rates(A, row, rows, feature, state, D, STATES)
    g, d_rates = tl.zeros_like(rates), tl.zeros_like(rates)
    block = feature[:, None] * STATES + state[None, :]
    here = tl.load(h + (row * T + T - 1) * D * STATES + block, mask=inside, other=0.0)
    for back in range(T):
        t = T - 1 - back
        at = row * T + t
        summed = ((row * tl.num_programs(1) + tl.program_id(1)) * T + t) * STATES + state
        step = tl.load(dt + at * D + feature, mask=is_feature, other=0.0)
        value = tl.load(x + at * D + feature, mask=is_feature, other=0.0)
        read = tl.load(grad + at * D + feature, mask=is_feature, other=0.0)
        enter = tl.load(B + at * STATES + state, mask=is_state, other=0.0)
        leave = tl.load(C + at * STATES + state, mask=is_state, other=0.0)
        g += read[:, None] * leave[None, :]
        tl.store(d_C + summed, tl.sum(here * read[:, None], axis=0), mask=is_state)
        tl.store(d_B + summed, tl.sum(g * (step * value)[:, None], axis=0), mask=is_state)
        d_input = tl.sum(g * enter[None, :], axis=1)
        # The states before it, zero before the first position.
        is_after = is_feature & (feature * 0 + t > 0)
        before = h + (at - 1) * D * STATES + block
        here = tl.load(before, mask=is_after[:, None] & is_state[None, :], other=0.0)
        g *= tl.exp(step[:, None] * rates)
        power = g * here  # the gradient of the exponent dt_t A
        d_rates += step[:, None] * power
        d_step = d_input * value + tl.sum(power * rates, axis=1)
        tl.store(d_dt + at * D + feature, d_step, mask=is_feature)
        tl.store(d_x + at * D + feature, d_input * step, mask=is_feature)
    tl.store(d_A + row * D * STATES + block, d_rates, mask=inside)
