"""The distillation objective against closed forms: gradients, limits, minima, and what is known of a teacher.

Legend: M teacher, B batch, T position, V vocabulary, K known token.
"""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.func import vmap

from lmbench.layers.objective import Family, Soft, average, likeliest, packed, unpacked

IGNORE = -100
B, T, V = 2, 3, 7


def numbers(*shape, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, dtype=torch.float64, generator=generator)


def family(**changed):
    return Family(**({"a": 0.3, "tau": 2.0, "power": 2.0, "direction": "forward", "entropy": 0.0} | changed))


def one_teacher(logits_BTV, tau=1.0):
    return average(logits_BTV.unsqueeze(0), shares=(1.0,), tau=tau)


def targets():
    found_BT = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(3))
    found_BT[0, 1] = IGNORE
    return found_BT


def divergence(p_V, q_V):
    """KL(p || q) in plain Python."""
    return sum(p * math.log(p / q) for p, q in zip(p_V.tolist(), q_V.tolist(), strict=True))


def soft_gradient(student_V, teacher_V, **how):
    """Of the divergence at one position with respect to the student's logits."""
    student_V = student_V.clone().requires_grad_()
    made = family(a=0.0, **how)
    soft = one_teacher(teacher_V.reshape(1, 1, V), made.tau)
    made.terms(student_V.reshape(1, 1, V), torch.zeros(1, 1, dtype=torch.long), soft).soft.backward()
    return student_V.grad


# ------------------------------------------------------------------ the terms, one by one


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_terms_are_sums_over_the_targets_of_plain_formulas(direction):
    student_BTV, teacher_BTV, targets_BT = numbers(B, T, V, seed=1), numbers(B, T, V, seed=2), targets()
    found = family(direction=direction).terms(student_BTV, targets_BT, one_teacher(teacher_BTV, 2.0))
    hard = soft = entropy = 0.0
    for b in range(B):
        for t in range(T):
            if targets_BT[b, t] == IGNORE:
                continue
            s_V, p_V = student_BTV[b, t].softmax(0), (teacher_BTV[b, t] / 2).softmax(0)
            q_V = (student_BTV[b, t] / 2).softmax(0)
            hard -= math.log(s_V[targets_BT[b, t]])
            soft += divergence(p_V, q_V) if direction == "forward" else divergence(q_V, p_V)
            entropy -= sum(s * math.log(s) for s in s_V.tolist())
    assert [x.item() for x in found] == pytest.approx([hard, soft, entropy], rel=1e-12)


@pytest.mark.parametrize("power, factor", [(0.0, 1), (1.0, 3), (2.0, 9)])
def test_the_total_weighs_the_terms(power, factor):
    made = family(a=0.25, tau=3.0, power=power, entropy=0.5)
    terms = made.terms(numbers(B, T, V), targets(), one_teacher(numbers(B, T, V, seed=1), 3.0))
    wanted = 0.25 * terms.hard + 0.75 * factor * terms.soft - 0.5 * terms.entropy
    assert made.total(terms).item() == pytest.approx(wanted.item(), rel=1e-14)


def test_the_hard_term_is_the_cross_entropy_bit_for_bit_and_all_of_the_loss_at_a_1():
    logits_BTV = numbers(B, T, V).float()
    plain = F.cross_entropy(logits_BTV.flatten(0, 1), targets().flatten(), reduction="sum")
    made = family(a=1.0)
    terms = made.terms(logits_BTV, targets())
    assert terms.hard.item() == plain.item() == made.total(terms).item()
    assert terms.soft.item() == 0


def test_a_uniform_student_has_the_entropy_log_v():
    terms = family().terms(torch.zeros(1, 1, V, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.long))
    assert terms.entropy.item() == pytest.approx(math.log(V), rel=1e-14)


def test_positions_without_a_target_count_in_no_term_and_get_no_gradient():
    student_BTV, teacher_BTV = numbers(B, T, V).requires_grad_(), numbers(B, T, V, seed=1)
    made = family(entropy=0.1)
    made.total(made.terms(student_BTV, targets(), one_teacher(teacher_BTV, 2.0))).backward()
    assert not student_BTV.grad[0, 1].any()
    assert student_BTV.grad[0, 0].any()


def test_bfloat16_logits_are_cast_up_before_anything_is_computed():
    student_BTV, teacher_BTV = numbers(B, T, V).bfloat16(), numbers(B, T, V, seed=1).bfloat16()
    low = family(entropy=0.1).terms(student_BTV, targets(), one_teacher(teacher_BTV, 2.0))
    high = family(entropy=0.1).terms(student_BTV.float(), targets(), one_teacher(teacher_BTV.float(), 2.0))
    assert all(x.dtype == torch.float32 for x in low)
    assert [x.item() for x in low] == [x.item() for x in high]


def test_an_entropy_of_weight_0_is_still_measured_and_has_no_gradient():
    logits_BTV = numbers(B, T, V).requires_grad_()
    terms = family(entropy=0.0).terms(logits_BTV, targets())
    assert terms.entropy > 0 and not terms.entropy.requires_grad
    assert family(entropy=0.1).terms(logits_BTV, targets()).entropy.requires_grad


# ------------------------------------------------------------------ gradients


def test_the_forward_gradient_is_the_difference_of_probabilities_over_tau():
    student_V, teacher_V, tau = numbers(V, seed=1), numbers(V, seed=2), 3.0
    found_V = soft_gradient(student_V, teacher_V, tau=tau)
    wanted_V = ((student_V / tau).softmax(0) - (teacher_V / tau).softmax(0)) / tau
    torch.testing.assert_close(found_V, wanted_V, rtol=1e-12, atol=1e-15)


def test_the_reverse_gradient_weighs_the_log_ratio_by_the_student():
    student_V, teacher_V, tau = numbers(V, seed=1), numbers(V, seed=2), 3.0
    found_V = soft_gradient(student_V, teacher_V, tau=tau, direction="reverse")
    s_V, t_V = (student_V / tau).softmax(0), (teacher_V / tau).softmax(0)
    ratio_V = (s_V / t_V).log()
    wanted_V = s_V * (ratio_V - (s_V * ratio_V).sum()) / tau
    torch.testing.assert_close(found_V, wanted_V, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_at_a_high_temperature_both_gradients_fall_with_the_square_of_tau(direction):
    """tau^2 times the gradient goes to the difference of centred logits over V, Hinton et al. section 2.1."""
    student_V, teacher_V = numbers(V, seed=1), numbers(V, seed=2)
    tau = 1e4
    found_V = tau**2 * soft_gradient(student_V, teacher_V, tau=tau, direction=direction)
    gap_V = student_V - teacher_V
    torch.testing.assert_close(found_V, (gap_V - gap_V.mean()) / V, rtol=2e-3, atol=1e-4)


def test_without_tau_squared_the_soft_gradient_fades_and_with_it_it_stays_in_place():
    student_V, teacher_V = numbers(V, seed=1), numbers(V, seed=2)
    size = {tau: soft_gradient(student_V, teacher_V, tau=tau).norm().item() for tau in (1.0, 2.0, 4.0, 8.0)}
    assert size[1.0] / size[8.0] > 25
    kept = [tau**2 * found for tau, found in size.items()]
    assert max(kept) / min(kept) < 2.5


def test_the_family_passes_gradcheck_in_both_directions_and_with_a_tail():
    student_BTV, soft = numbers(1, 2, V).requires_grad_(), one_teacher(numbers(1, 2, V, seed=1), 2.0)
    targets_BT = torch.tensor([[1, IGNORE]])
    for direction in ("forward", "reverse"):
        for known in (soft, likeliest(soft, k=3)):
            made = family(direction=direction, entropy=0.2)

            def loss(logits_BTV, made=made, known=known):
                return made.total(made.terms(logits_BTV, targets_BT, known))

            assert torch.autograd.gradcheck(loss, (student_BTV,))


# ------------------------------------------------------------------ limits and minima


def test_at_a_high_temperature_the_divergence_is_half_the_variance_of_the_logits_difference():
    student_BTV, teacher_BTV, tau = numbers(1, 1, V, seed=1), numbers(1, 1, V, seed=2), 1e3
    wanted = 0.5 * (student_BTV - teacher_BTV).var(correction=0).item()
    for direction in ("forward", "reverse"):
        made = family(a=0.0, tau=tau, direction=direction)
        terms = made.terms(student_BTV, torch.zeros(1, 1, dtype=torch.long), one_teacher(teacher_BTV, tau))
        assert made.total(terms).item() == pytest.approx(wanted, rel=0.02)


def test_at_a_low_temperature_tau_times_the_divergence_is_what_the_teachers_choice_lacks():
    student_V, teacher_V, tau = numbers(V, seed=1), numbers(V, seed=2), 1e-3
    best = int(teacher_V.argmax())
    assert best != int(student_V.argmax())  # else there is nothing to measure
    made = family(tau=tau)
    terms = made.terms(
        student_V.reshape(1, 1, V),
        torch.zeros(1, 1, dtype=torch.long),
        one_teacher(teacher_V.reshape(1, 1, V), tau),
    )
    assert tau * terms.soft.item() == pytest.approx((student_V.max() - student_V[best]).item(), rel=1e-3)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_divergence_is_0_where_the_student_is_the_teacher_and_positive_elsewhere(direction):
    teacher_BTV, made = numbers(B, T, V), family(direction=direction)
    soft = one_teacher(teacher_BTV, 2.0)
    assert made.terms(teacher_BTV + 5.0, targets(), soft).soft.item() == pytest.approx(0, abs=1e-14)
    assert made.terms(numbers(B, T, V, seed=9), targets(), soft).soft > 0.1


def test_forward_covers_a_teacher_of_two_modes_and_reverse_seeks_one():
    """Among students with one mode, forward prefers the flat one, reverse the one that sits on a mode."""
    teacher = torch.tensor([0.495, 0.01, 0.495], dtype=torch.float64).log().reshape(1, 1, 3)
    flat = torch.full((3,), 1 / 3, dtype=torch.float64).log().reshape(1, 1, 3)
    mode = torch.tensor([0.98, 0.01, 0.01], dtype=torch.float64).log().reshape(1, 1, 3)
    found = {
        (direction, name): family(tau=1.0, direction=direction)
        .terms(student, torch.zeros(1, 1, dtype=torch.long), one_teacher(teacher))
        .soft.item()
        for direction in ("forward", "reverse")
        for name, student in (("flat", flat), ("mode", mode))
    }
    assert found["forward", "flat"] < found["forward", "mode"]
    assert found["reverse", "mode"] < found["reverse", "flat"]


@pytest.mark.parametrize("weight", [0.01, 0.1, 0.3, 1.0])
def test_reverse_divergence_less_entropy_is_least_at_a_tempered_teacher_and_below_0(weight):
    """S = T^(1 / (1 + weight)) / Z, where the loss is -(1 + weight) log Z."""
    teacher_V = numbers(V, seed=4).log_softmax(0)
    best_V = (teacher_V / (1 + weight)).clone().requires_grad_()
    made = family(a=0.0, tau=1.0, direction="reverse", entropy=weight)
    soft, target = one_teacher(teacher_V.reshape(1, 1, V)), torch.zeros(1, 1, dtype=torch.long)

    def loss(logits_V):
        return made.total(made.terms(logits_V.reshape(1, 1, V), target, soft))

    least = loss(best_V)
    least.backward()
    assert best_V.grad.abs().max() < 1e-14
    log_z = torch.logsumexp(teacher_V / (1 + weight), 0).item()
    assert least.item() == pytest.approx(-(1 + weight) * log_z, abs=1e-13)
    assert least.item() < 0
    assert loss(teacher_V) > least  # a student equal to its teacher is not the best
    for seed in range(20):
        assert loss(best_V.detach() + numbers(V, seed=seed, scale=0.3)) > least
    # The best student is less sure of itself than the teacher.
    sure = best_V.detach().softmax(0)
    assert sure.max() < teacher_V.exp().max()


def test_gradient_descent_finds_the_tempered_teacher():
    teacher_V, weight = numbers(V, seed=4, scale=1.0).log_softmax(0), 0.5
    made = family(a=0.0, tau=1.0, direction="reverse", entropy=weight)
    logits_V, soft = (
        torch.zeros(V, dtype=torch.float64, requires_grad=True),
        one_teacher(teacher_V.reshape(1, 1, V)),
    )
    adam = torch.optim.Adam([logits_V], lr=0.1)
    for _ in range(400):
        adam.zero_grad()
        made.total(
            made.terms(logits_V.reshape(1, 1, V), torch.zeros(1, 1, dtype=torch.long), soft)
        ).backward()
        adam.step()
    torch.testing.assert_close(
        logits_V.softmax(0).detach(), (teacher_V / 1.5).softmax(0), rtol=1e-4, atol=1e-6
    )


def test_a_confidence_penalty_is_cross_entropy_less_entropy():
    logits_BTV, made = numbers(B, T, V), family(a=1.0, entropy=0.1)
    terms = made.terms(logits_BTV, targets())
    assert made.total(terms).item() == pytest.approx((terms.hard - 0.1 * terms.entropy).item(), rel=1e-14)


# ------------------------------------------------------------------ teachers


def test_several_teachers_are_the_mean_of_their_probabilities_at_the_temperature():
    logits_MBTV, tau = numbers(3, B, T, V), 2.0
    found = average(logits_MBTV, shares=(0.5, 0.3, 0.2), tau=tau).log_p_BTK.exp()
    p_MBTV = (logits_MBTV / tau).softmax(-1)
    torch.testing.assert_close(found, 0.5 * p_MBTV[0] + 0.3 * p_MBTV[1] + 0.2 * p_MBTV[2], rtol=1e-12, atol=0)


def test_log_probabilities_are_taken_as_logits_at_any_temperature():
    logits_MBTV = numbers(2, B, T, V)
    for tau in (1.0, 3.0):
        plain = average(logits_MBTV, shares=(0.5, 0.5), tau=tau)
        normed = average(logits_MBTV.log_softmax(-1), shares=(0.5, 0.5), tau=tau)
        torch.testing.assert_close(plain.log_p_BTK, normed.log_p_BTK, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_k_tokens_and_a_tail_never_diverge_more_than_all_tokens_and_grow_with_k(direction):
    student_BTV, soft = numbers(4, 5, V, seed=1), one_teacher(numbers(4, 5, V, seed=2), 2.0)
    made, tempered_BTV = family(direction=direction), (student_BTV / 2).log_softmax(-1)
    true_BT = made.divergence(tempered_BTV, soft)
    found = [made.divergence(tempered_BTV, likeliest(soft, k=k)) for k in range(1, V + 1)]
    for less_BT, more_BT in itertools.pairwise(found):
        assert (less_BT >= 0).all() and (less_BT <= more_BT + 1e-14).all()
    assert (found[1] < true_BT - 1e-3).any()
    # One token and the rest of two: nothing is merged. All tokens: nothing is left out.
    torch.testing.assert_close(found[V - 2], true_BT, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found[V - 1], true_BT, rtol=1e-12, atol=1e-14)


def test_the_tail_holds_the_mass_that_is_left():
    soft = one_teacher(torch.tensor([0.5, 0.1, 0.3, 0.1], dtype=torch.float64).log().reshape(1, 1, 4))
    found = likeliest(soft, k=2)
    assert found.ids_BTK.tolist() == [[[0, 2]]]
    assert found.log_p_BTK.exp().flatten().tolist() == pytest.approx([0.5, 0.3])
    assert found.log_tail_BT.exp().item() == pytest.approx(0.2)


def test_a_tail_too_small_for_float32_gives_finite_terms_and_gradients():
    teacher_BTV = torch.tensor([[[300.0, 0.0, -5.0]]])
    student_BTV = torch.tensor([[[-300.0, 0.0, 300.0]]], requires_grad=True)
    for direction in ("forward", "reverse"):
        made = family(direction=direction, tau=1.0, entropy=0.1)
        soft = likeliest(one_teacher(teacher_BTV), k=1)
        loss = made.total(made.terms(student_BTV, torch.zeros(1, 1, dtype=torch.long), soft))
        (grad_BTV,) = torch.autograd.grad(loss, student_BTV)
        assert loss.isfinite() and grad_BTV.isfinite().all()


def test_what_is_packed_comes_back():
    soft = one_teacher(numbers(B, T, V).float())
    for k in (1, 3, V):
        known = likeliest(soft, k=k)
        row_BTX = packed(known)
        assert row_BTX.shape == (B, T, 2 * k + 1) and row_BTX.dtype == torch.float32
        back = unpacked(row_BTX, vocab_size=V)
        assert torch.equal(back.ids_BTK, known.ids_BTK) and torch.equal(back.log_p_BTK, known.log_p_BTK)
        assert (back.log_tail_BT is None) == (k == V)
        assert k == V or torch.equal(back.log_tail_BT, known.log_tail_BT)


# ------------------------------------------------------------------ how the engine runs it


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("k", [None, 3])
def test_a_stack_of_students_equals_a_loop(direction, k):
    R = 3
    student_RBTV, teacher_RMBTV = numbers(R, B, T, V, seed=1).float(), numbers(R, 2, B, T, V, seed=2).float()
    targets_RBT = torch.stack([targets(), targets().flip(0), targets().flip(1)])
    made = family(direction=direction, tau=torch.tensor(2.0), a=torch.tensor(0.3), entropy=torch.tensor(0.1))

    def loss(student_BTV, targets_BT, teacher_MBTV):
        soft = average(teacher_MBTV, shares=(0.5, 0.5), tau=made.tau)
        soft = soft if k is None else unpacked(packed(likeliest(soft, k=k)), vocab_size=V)
        terms = made.terms(student_BTV, targets_BT, soft)
        return torch.stack((made.total(terms), *terms))

    stacked = student_RBTV.clone().requires_grad_()
    found_RK = vmap(loss)(stacked, targets_RBT, teacher_RMBTV)
    found_RK[:, 0].sum().backward()
    for r in range(R):
        alone = student_RBTV[r].clone().requires_grad_()
        wanted_K = loss(alone, targets_RBT[r], teacher_RMBTV[r])
        wanted_K[0].backward()
        torch.testing.assert_close(found_RK[r], wanted_K, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(stacked.grad[r], alone.grad, rtol=1e-5, atol=1e-6)


def test_numbers_that_change_give_what_plain_numbers_give():
    student_BTV, soft = numbers(B, T, V), one_teacher(numbers(B, T, V, seed=1), 2.0)
    plain, tensors = (
        family(entropy=0.1),
        family(
            a=torch.tensor(0.3, dtype=torch.float64),
            tau=torch.tensor(2.0, dtype=torch.float64),
            entropy=torch.tensor(0.1, dtype=torch.float64),
        ),
    )
    found = [made.total(made.terms(student_BTV, targets(), soft)).item() for made in (plain, tensors)]
    assert found[0] == pytest.approx(found[1], rel=1e-14)


def test_a_soft_target_without_ids_is_of_all_tokens():
    log_p_BTV = numbers(B, T, V).log_softmax(-1)
    student_BTV = numbers(B, T, V, seed=1).log_softmax(-1)
    every = Soft(log_p_BTV, torch.arange(V).expand(B, T, V))
    torch.testing.assert_close(
        family().divergence(student_BTV, Soft(log_p_BTV)), family().divergence(student_BTV, every)
    )
