"""How far a student agrees with its teacher on one token.

A sketch promises that the student's accuracy is that of its teacher less O(KL), though a small
divergence does not imply the same most likely token. What holds: if the student's and the teacher's
choice differ, then the gap between the teacher's two highest probabilities, its margin, is at most the L1
distance of the two distributions, and so at most sqrt(2 KL) (Pinsker). Hence

    Pr[choices differ] <= Pr[margin <= 2 TV] <= Pr[margin <= sqrt(2 KL)],

which is counted here token by token; a violation is a bug. The sketch's approximation ratio, mean
exp(-(a CE + (1 - a) KL)), compares nothing with the teacher and stands beside as published; its KL is
that of the call, student first, at a temperature and without its square. Logits that tie for the highest
share the choice.

Legend: V vocabulary, N scored token.
"""

import torch
from torch import Tensor

ROUNDING = 1e-12  # of differences of float64 probabilities
MEANS = {
    "kl_forward": "KL(teacher || student), nats; 0 is agreement",
    "kl_reverse": "KL(student || teacher), nats; 0 is agreement",
    "total_variation": "half the L1 distance of the distributions, 0 to 1; 0 is agreement",
    "top1_agreement": "share of tokens with the same most likely token; 1 is agreement",
    "student_nll": "cross entropy of the student, nats per token",
    "teacher_nll": "cross entropy of the teacher, nats per token",
    "student_accuracy": "of the student; m tied tokens earn 1/m",
    "teacher_accuracy": "of the teacher",
    "student_confidence": "mean of the student's highest probability; less than its accuracy is cautious",
    "teacher_confidence": "mean of the teacher's",
    "student_entropy": "mean entropy of the student's distributions, nats",
    "teacher_entropy": "mean entropy of the teacher's distributions, nats",
    "teacher_margin": "teacher's highest probability less its second highest",
    "choices_differ": "share of tokens whose most likely token is not the teacher's alone",
    "margin_bound": "share of tokens with margin <= sqrt(2 KL(teacher || student)), at least choices_differ",
    "margin_bound_tv": "share of tokens with margin <= 2 TV, between the two",
    "margin_violations": "number of tokens whose choices differ with a margin above sqrt(2 KL); 0",
    "approximation_ratio": "as published, of tokens",
}
"""What each measure of a token is; all are means over tokens but margin_violations, a sum."""


def token_agreement(
    student_NV: Tensor, teacher_NV: Tensor, targets_N: Tensor, *, alpha: float, temperature: float
) -> dict[str, Tensor]:
    """The measures of `MEANS` for each token, (N,) float64.

    Args:
        student_NV: (N, V) logits, like the teacher's.
        targets_N: (N,) ids.
        alpha: share of the cross entropy in the published ratio.
        temperature: divides the logits of both in its divergence.

    Raises:
        ValueError: different vocabularies, or an alpha or temperature out of range.
    """
    check_agreement(student_NV.shape[-1], teacher_NV.shape[-1], alpha=alpha, temperature=temperature)
    log_s, log_t = (logits.double().log_softmax(-1) for logits in (student_NV, teacher_NV))
    s_NV, t_NV = log_s.exp(), log_t.exp()
    forward_N, reverse_N = _kl(t_NV, log_t, log_s), _kl(s_NV, log_s, log_t)
    distance_N = (s_NV - t_NV).abs().sum(-1)
    top_N2 = t_NV.topk(2, dim=-1).values
    margin_N = top_N2[:, 0] - top_N2[:, 1]
    best_s, best_t = _choices(student_NV), _choices(teacher_NV)
    agree_N = (best_s * best_t).sum(-1)
    differ_N = agree_N < 1
    # With a tie of the teacher's choices the margin is 0, so "differ" there is within every bound.
    within_N = margin_N <= (2 * forward_N).sqrt() + ROUNDING
    nll_s, nll_t = (-log.gather(-1, targets_N[:, None])[:, 0] for log in (log_s, log_t))
    tempered_N = _tempered(student_NV, teacher_NV, reverse_N, temperature=temperature)
    loss_N = alpha * nll_s + (1 - alpha) * tempered_N
    return {
        "kl_forward": forward_N,
        "kl_reverse": reverse_N,
        "total_variation": distance_N / 2,
        "top1_agreement": agree_N,
        "student_nll": nll_s,
        "teacher_nll": nll_t,
        "student_accuracy": best_s.gather(-1, targets_N[:, None])[:, 0],
        "teacher_accuracy": best_t.gather(-1, targets_N[:, None])[:, 0],
        "student_confidence": s_NV.amax(-1),
        "teacher_confidence": top_N2[:, 0],
        "student_entropy": -torch.xlogy(s_NV, s_NV).sum(-1),
        "teacher_entropy": -torch.xlogy(t_NV, t_NV).sum(-1),
        "teacher_margin": margin_N,
        "choices_differ": differ_N.double(),
        "margin_bound": within_N.double(),
        "margin_bound_tv": (margin_N <= distance_N + ROUNDING).double(),
        "margin_violations": (differ_N & ~within_N).double(),
        "approximation_ratio": (-loss_N).exp(),
    }


def _kl(p_NV: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """(N,) sum of q - p - p ln(q/p): no term is negative, so near agreement nothing cancels."""
    ratio_NV = torch.where(p_NV > 0, log_q - log_p, 0.0)
    far_NV = log_q.exp() - p_NV - p_NV * ratio_NV
    # Within 1/2 the difference is taken of what is left of ln(q/p) and its exponential.
    near_NV = p_NV * (ratio_NV.clamp(-0.5, 0.5).expm1() - ratio_NV)
    return torch.where((p_NV > 0) & (ratio_NV.abs() < 0.5), near_NV, far_NV).sum(-1)


def _choices(logits_NV: Tensor) -> Tensor:
    """(N, V) share of each token in the choice: 1/m for m logits that tie for the highest."""
    best_NV = (logits_NV == logits_NV.amax(-1, keepdim=True)).double()
    return best_NV / best_NV.sum(-1, keepdim=True)


def _tempered(student_NV: Tensor, teacher_NV: Tensor, reverse_N: Tensor, *, temperature: float) -> Tensor:
    """(N,) KL(student || teacher) at a temperature."""
    if temperature == 1:
        return reverse_N
    log_s, log_t = ((x.double() / temperature).log_softmax(-1) for x in (student_NV, teacher_NV))
    return _kl(log_s.exp(), log_s, log_t)


def check_agreement(student: int, teacher: int, *, alpha: float, temperature: float) -> None:
    """Raise ValueError where the vocabularies differ or a number of the published ratio is out of range.

    Args:
        student: its number of token ids, like the teacher's.
    """
    if student != teacher:
        raise ValueError(
            f"the student has {student} token ids and the teacher {teacher}; agreement needs one vocabulary"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha = {alpha} is not accepted: 0 (divergence only) to 1 (cross entropy only)")
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature} is not accepted: more than 0; 1 changes nothing")
