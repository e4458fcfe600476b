"""Linear attention: the rules of its memory, their form in chunks, and what they cost."""

import math

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils.flop_counter import FlopCounterMode

from lmbench.config import make
from lmbench.layers.fused import flop_formulas
from lmbench.layers.linear_attention import RATE_RANGE, STEP_RANGE, LinearAttention
from lmbench.layers.matrix_memory import CHUNK, Reads, chunking, in_chunks, recur
from lmbench.measure.flops import Ledger, counted_flops
from lmbench.models.base import seeded

TINY = {"vocab_size": 11, "d_model": 8, "n_head": 2, "n_layer": 1, "d_ff": 8, "dropout": 0.0}
VARIANTS = ["linear_attention", "delta_net", "gated_linear_attention", "plain_linear_attention"]
RULES = pytest.mark.parametrize("rule", ["add", "delta"])


def drawn(T: int, *, rule: str, decay: float = 1.0, dtype: torch.dtype = torch.float64) -> Reads:
    """Keys of length 1, and decays between `decay` and 1, even on a logarithmic scale of log g."""
    generator = torch.Generator().manual_seed(T)

    def draw(*shape: int, of=torch.randn) -> Tensor:
        return of(2, T, 2, *shape, generator=generator, dtype=torch.float64)

    q, k = (x / x.norm(dim=-1, keepdim=True) for x in (draw(4), draw(4)))
    log_decay = math.log(decay) * 10 ** (-4 * draw(of=torch.rand))
    strength = draw(of=torch.rand) if rule == "delta" else None
    reads = (q, k, draw(6), log_decay, strength)
    return Reads(*(None if x is None else x.to(dtype) for x in reads))


def told(*writes: tuple[list[float], float, float, float], rule: str, query: list[float]) -> Reads:
    """One head with values of width 1: (key, value, decay, strength) at each position, one query at all."""
    keys, values, decays, strengths = (
        torch.tensor(x, dtype=torch.float64) for x in zip(*writes, strict=True)
    )
    T = len(writes)
    q = torch.tensor(query, dtype=torch.float64).expand(1, T, 1, -1)
    strength = strengths.view(1, T, 1) if rule == "delta" else None
    return Reads(q, keys.view(1, T, 1, -1), values.view(1, T, 1, 1), decays.log().view(1, T, 1), strength)


def answers(reads: Reads) -> list[float]:
    return recur(reads)[0].flatten().tolist()


# ------------------------------------------------------------------ the rules


def test_add_sums_the_values_of_a_key_and_delta_keeps_the_last() -> None:
    writes = [([1.0, 0.0], 3.0, 1.0, 1.0), ([1.0, 0.0], 5.0, 1.0, 1.0)]
    assert answers(told(*writes, rule="add", query=[1.0, 0.0])) == [3, 8]
    assert answers(told(*writes, rule="delta", query=[1.0, 0.0])) == [3, 5]


def test_delta_moves_a_held_value_by_the_strength_and_leaves_other_keys_alone() -> None:
    writes = [([1.0, 0.0], 4.0, 1.0, 1.0), ([1.0, 0.0], 8.0, 1.0, 0.25), ([0.0, 1.0], 9.0, 1.0, 1.0)]
    assert answers(told(*writes, rule="delta", query=[1.0, 0.0])) == [4, 5, 5]


@RULES
def test_the_decay_of_a_position_acts_on_all_before_it_and_not_on_its_own_write(rule: str) -> None:
    writes = [([1.0, 0.0], 8.0, 0.5, 1.0), ([0.0, 1.0], 1.0, 0.5, 1.0), ([0.0, 1.0], 1.0, 0.25, 1.0)]
    torch.testing.assert_close(answers(told(*writes, rule=rule, query=[1.0, 0.0])), [8.0, 4.0, 1.0])


def test_with_orthonormal_keys_and_full_strength_delta_is_add() -> None:
    reads = drawn(4, rule="delta", decay=0.5)
    reads = reads._replace(k_BTHK=torch.eye(4, dtype=torch.float64)[None, :, None].expand(2, 4, 2, 4))
    full = reads._replace(strength_BTH=torch.ones(2, 4, 2, dtype=torch.float64))
    torch.testing.assert_close(recur(full), recur(reads._replace(strength_BTH=None)))


def test_add_without_decay_is_the_causal_sum_of_products() -> None:
    q, k, v, *_ = reads = drawn(7, rule="add")
    scores = torch.einsum("bthk,bshk->bhts", q, k).tril()
    torch.testing.assert_close(in_chunks(reads, chunk=3)[0], torch.einsum("bhts,bshv->bthv", scores, v))


# ------------------------------------------------------------------ chunks


def assert_same(found: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], *, tolerance: float) -> None:
    for one, other in zip(found, right, strict=True):
        size = float(other.abs().max())
        torch.testing.assert_close(one, other.to(one.dtype), rtol=0, atol=tolerance * max(size, 1))


@RULES
@pytest.mark.parametrize("decay", [1e-40, 1e-3, 0.9, 1.0])
@pytest.mark.parametrize(("T", "chunk"), [(1, 4), (3, 4), (4, 4), (9, 4), (16, 4), (65, 64), (300, 64)])
def test_chunks_are_the_recurrence(rule: str, decay: float, T: int, chunk: int) -> None:
    """Strong and weak decays stand side by side, down to 10^-40 of a memory in one step."""
    right = recur(drawn(T, rule=rule, decay=decay))
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        found = in_chunks(drawn(T, rule=rule, decay=decay, dtype=dtype), chunk=chunk)
        assert_same(found, right, tolerance=tolerance)


@RULES
@pytest.mark.parametrize("cut", [1, 5, 8])
def test_a_state_stands_for_all_before_it(rule: str, cut: int) -> None:
    whole = drawn(9, rule=rule, decay=0.5)
    first, rest = (
        Reads(*(None if x is None else x[:, part] for x in whole)) for part in (slice(cut), slice(cut, None))
    )
    for form in (recur, lambda *reads: in_chunks(*reads, chunk=3)):
        start, state = form(first)
        out, state = form(rest, state)
        assert_same((torch.cat((start, out), dim=1), state), recur(whole), tolerance=1e-12)


def test_the_last_update_is_saved_where_no_state_is_kept() -> None:
    reads = drawn(9, rule="delta", decay=0.5)
    out, state = in_chunks(reads, chunk=4, keeps_state=False)
    assert state is None
    assert torch.equal(out, in_chunks(reads, chunk=4)[0])


@RULES
def test_gradients_of_chunks_are_those_of_the_recurrence_alone_and_stacked(rule: str) -> None:
    stack = [drawn(9, rule=rule, decay=decay) for decay in (0.9, 0.1, 1e-9)]
    inputs = [torch.stack(x) for x in zip(*stack, strict=True) if x[0] is not None]
    weight = torch.randn(2, 9, 2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(form, *given: Tensor) -> Tensor:
        out, state = form(Reads(*given, *([None] * (5 - len(given)))))
        return (out * weight).sum() + state.square().sum()

    places = tuple(range(1, 1 + len(inputs)))
    right = [grad(loss, argnums=places)(recur, *(x[at] for x in inputs)) for at in range(3)]
    stacked = vmap(lambda *given: grad(loss, argnums=places)(lambda reads: in_chunks(reads, chunk=4), *given))
    for at, found in enumerate(stacked(*inputs)):
        torch.testing.assert_close(found, torch.stack([one[at] for one in right]), rtol=1e-10, atol=1e-10)


def test_one_strong_decay_costs_later_pairs_no_digits() -> None:
    """Differences of sums from the chunk's start would be off by 10^6 times float32's 6e-8, so entirely."""
    reads = drawn(8, rule="add", decay=0.9)
    reads.log_decay_BTH[:, 1] = -1e6
    narrow = Reads(*(None if x is None else x.float() for x in reads))
    assert_same(in_chunks(narrow), recur(reads), tolerance=1e-6)


def test_equal_keys_leave_the_last_value_where_a_power_series_would_leave_noise() -> None:
    T = 64
    k = torch.zeros(1, T, 1, 2)
    k[..., 0] = 1
    v, still = torch.arange(1.0, T + 1).view(1, T, 1, 1), torch.zeros(1, T, 1)
    out, _ = in_chunks(Reads(k, k, v, still, torch.ones(1, T, 1)))
    assert torch.equal(out, v)


def test_chunks_are_as_few_and_as_short_as_may_be() -> None:
    cases = {(1, 64): (1, 1), (64, 64): (1, 64), (65, 64): (2, 33), (300, 64): (5, 60), (128, 64): (2, 64)}
    assert {case: chunking(case[0], chunk=case[1]) for case in cases} == cases


# ------------------------------------------------------------------ the mixer


def test_a_long_text_under_autocast_stays_near_that_in_float32() -> None:
    config = make("model", "linear_attention", seq_len=2 * CHUNK + 3, **TINY)
    model, ids = seeded(config, init_seed=0), torch.arange(config.seq_len).remainder(11).unsqueeze(0)
    wide = model(ids).logits_BTV
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = model(ids).logits_BTV
        narrow.float().sum().backward()
    assert (narrow.float() - wide).norm() < 0.05 * wide.norm()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", VARIANTS)
def test_a_text_longer_than_a_chunk_is_read_in_pieces_as_a_whole(name: str) -> None:
    config = make("model", name, seq_len=CHUNK + 9, **TINY)
    model, ids = (
        seeded(config, init_seed=0).double().eval(),
        torch.arange(CHUNK + 9).remainder(11).unsqueeze(0),
    )
    every, state = model(ids).logits_BTV, None
    for start, end in ((0, 2), (2, 3), (3, CHUNK + 8), (CHUNK + 8, CHUNK + 9)):
        logits_BV, state = model.extend(ids[:, start:end], state)
        torch.testing.assert_close(logits_BV, every[:, end - 1], rtol=0, atol=1e-10)


def test_the_memory_has_one_size_for_any_text_and_widens_with_the_values() -> None:
    config = make("model", "linear_attention", seq_len=8, conv_width=0, expand=3, **TINY)
    model = seeded(config, init_seed=0)
    for length in (1, 8):
        _, state = model.extend(torch.zeros(2, length, dtype=torch.long))
        held = [tensor for layer in state.layers for tensor in layer.values()]
        assert [tuple(tensor.shape) for tensor in held] == [(2, 2, 4, 12)]


def test_decays_start_in_the_published_range() -> None:
    config = make("model", "linear_attention", d_model=64, n_head=32)
    mixer = seeded(config, init_seed=0).get_submodule("blocks.0.linear_attention")
    assert isinstance(mixer, LinearAttention)
    steps, rates = torch.nn.functional.softplus(mixer.decay_bias_H), mixer.log_decay_rate_H.exp()
    for found, (low, high) in ((steps, STEP_RANGE), (rates, RATE_RANGE)):
        assert low * 0.999 <= found.min() < 2 * low + 1
        assert high / 3 < found.max() <= high * 1.001


def test_variants_differ_by_a_strength_and_a_decay_for_each_head() -> None:
    sizes = {name: sum(p.numel() for p in seeded(make("model", name, **TINY), init_seed=0).parameters())
             for name in VARIANTS}  # fmt: skip
    # 8 features to one number for each of 2 heads; a decay has a bias and a rate besides.
    assert sizes["delta_net"] - sizes["plain_linear_attention"] == 16
    assert sizes["gated_linear_attention"] - sizes["plain_linear_attention"] == 16 + 4
    assert sizes["linear_attention"] - sizes["delta_net"] == 16 + 4


def test_the_kind_is_the_gated_delta_rule_by_default() -> None:
    config = make("model", "linear_attention")
    assert (config.rule, config.decay, config.name) == ("delta", "data", "linear_attention")


def test_a_rule_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"linear_attention.rule = 'deltas' .*'add' or 'delta'. Did you mean 'delta'"
    ):
        make("model", "linear_attention", rule="deltas")


def test_turned_positions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"positions = 'rope' is not accepted: .*'none', 'learned' or 'sin"):
        make("model", "linear_attention", positions="rope")


# ------------------------------------------------------------------ FLOPs


def test_the_closed_form_by_hand() -> None:
    """Two heads, K = V = 4, in two chunks of 50: per chunk and head, in multiply-adds."""
    config = make("model", "linear_attention", seq_len=100, conv_width=0, **TINY)
    terms = {term.name: term.forward for term in config.terms("all")}
    pairs = 50 * 50 * (4 + 4 + (4 + 4) + 4)  # q k'; k k'; the solve of V + K columns; weights times u
    states = 3 * 50 * 4 * 4  # read by q and by k, written; between two chunks once
    assert terms["linear_attention"] == 2 * 2 * (2 * pairs + states)
    # 2 K + 2 V + strength + decay of each head, and back.
    assert terms["projections"] == 2 * 100 * 8 * (2 * 18 + 8)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("seq_len", [1, CHUNK, CHUNK + 1, 3 * CHUNK - 2])
def test_closed_form_flops_equal_those_counted_for_any_number_of_chunks(name: str, seq_len: int) -> None:
    config = make("model", name, seq_len=seq_len, expand=2, **TINY)
    terms = tuple(term for term in config.terms("all") if not term.elementwise)
    closed = Ledger(terms=terms, batch_size=2, targets=1)
    for device in ("meta", "cpu"):
        counted = counted_flops(config, readout="all", batch_size=2, device=device)
        assert (counted.forward, counted.backward) == (closed.forward, closed.backward), device


def test_a_triangular_solve_counts_as_the_product_it_replaces() -> None:
    triangle = torch.eye(5).expand(3, 2, 5, 5).clone().requires_grad_()
    right = torch.ones(3, 2, 5, 7, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=flop_formulas()) as counter:
        solved = torch.linalg.solve_triangular(triangle, right, upper=False, unitriangular=True)
        assert counter.get_total_flops() == 6 * 2 * 5 * 5 * 7
        solved.sum().backward()
        assert counter.get_total_flops() == 3 * 6 * 2 * 5 * 5 * 7
