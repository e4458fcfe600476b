"""What a student is trained on: hard targets, a teacher's probabilities and its own entropy.

One family of five numbers covers the objectives of knowledge distillation,

    L = a CE(S, y) + (1 - a) tau^power KL - entropy H(S)
    KL = KL(T_tau || S_tau)  forward        P_tau = softmax(logits / tau)
         KL(S_tau || T_tau)  reverse        H(S) = -sum S log S, at temperature 1

    power = 2, forward        Hinton et al. 2015 (arXiv 1503.02531): the gradient of KL falls with
                              1 / tau^2, and tau^2 keeps the balance of a where it was
    a = 1                     confidence penalty (Pereyra et al. 2017, arXiv 1701.06548)
    a = 0, tau = 1, reverse   KL(S || T) - entropy H(S), least at S ~ T^(1 / (1 + entropy)): the entropy's
                              weight is a temperature of the teacher, and the least value is below 0

Each term is returned on its own, in nats summed over the targets, so that none hides in the
total. Several teachers are one: their probabilities are averaged at the temperature. What is
known of a teacher may be its `k` likeliest tokens and the mass of all others; the divergence
is then one between distributions over k + 1 outcomes, which is never more than the true one.

All of it is tensor operations of fixed shapes: it runs inside vmap and inside a captured graph.
Legend: M teacher, B batch, T position, V vocabulary, K known token (with the others: outcome).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Direction = Literal["forward", "reverse"]


class Soft(NamedTuple):
    """What the teachers say of each position, in nats at the temperature; float32 or better."""

    log_p_BTK: Tensor
    """(..., K) log-probabilities of the known tokens."""
    ids_BTK: Tensor | None = None
    """(..., K) which tokens these are, int64; None is all of them in order."""
    log_tail_BT: Tensor | None = None
    """(...) log of the mass of all other tokens; None where there are none."""


class Terms(NamedTuple):
    """The parts of the objective, nats summed over the targets, before any weight."""

    hard: Tensor
    """Cross entropy with the targets."""
    soft: Tensor
    """Divergence between teacher and student at the temperature; 0 without a teacher."""
    entropy: Tensor
    """Of the student at temperature 1; no gradient where its weight is the number 0."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """The five numbers. Those that change with the step are 0-dimensional tensors, the others plain."""

    a: float | Tensor
    """Weight of the hard targets; 1 - a is that of the teacher."""
    tau: float | Tensor
    """Temperature of teacher and student in the soft term."""
    power: float
    """Of tau, in front of the soft term: 0 or 2."""
    direction: Direction
    """Forward weighs the disagreement by the teacher's probabilities, reverse by the student's."""
    entropy: float | Tensor
    """Weight of the student's entropy, which is rewarded."""

    def terms(
        self, logits_BTV: Tensor, targets_BT: Tensor, soft: Soft | None = None, *, ignore: int = -100
    ) -> Terms:
        """The parts, in float32 or better whatever the logits are.

        Args:
            logits_BTV: of the student.
            targets_BT: ids; a position of `ignore` counts in no term.
            soft: at this temperature; None is no teacher.
        """
        logits_BTV = _exact(logits_BTV)
        log_s_BTV, is_target_BT = F.log_softmax(logits_BTV, dim=-1), targets_BT != ignore
        hard = F.nll_loss(
            log_s_BTV.flatten(0, -2), targets_BT.flatten(), ignore_index=ignore, reduction="sum"
        )
        # A weight of 0 for good: the backward pass need not go through the entropy to multiply by it.
        own_BTV = log_s_BTV.detach() if isinstance(self.entropy, float) and not self.entropy else log_s_BTV
        entropy = _sum_over(is_target_BT, -(own_BTV.exp() * own_BTV).sum(-1))
        if soft is None:
            return Terms(hard, torch.zeros_like(hard), entropy)
        is_plain = isinstance(self.tau, float) and self.tau == 1
        tempered_BTV = log_s_BTV if is_plain else F.log_softmax(logits_BTV / self.tau, dim=-1)
        return Terms(hard, _sum_over(is_target_BT, self.divergence(tempered_BTV, soft)), entropy)

    def divergence(self, log_s_BTV: Tensor, soft: Soft) -> Tensor:
        """(B, T) divergence in nats between the student's log-probabilities and the teachers'."""
        log_s_BTK, log_t_BTK = _outcomes(log_s_BTV, soft)
        ahead, behind = (log_t_BTK, log_s_BTK) if self.direction == "forward" else (log_s_BTK, log_t_BTK)
        return (ahead.exp() * (ahead - behind)).sum(-1)

    def total(self, terms: Terms) -> Tensor:
        """The objective, in nats over the same targets as the terms."""
        soft = (1 - self.a) * self.tau**self.power * terms.soft
        return self.a * terms.hard + soft - self.entropy * terms.entropy


# ------------------------------------------------------------------ teachers


def average(logits_MBTV: Tensor, *, shares: Sequence[float], tau: float | Tensor) -> Soft:
    """The mean of the teachers' probabilities at a temperature.

    Args:
        logits_MBTV: (M, ..., V) logits or log-probabilities, which are logits too.
        shares: of each teacher in the mean, adding up to 1.
    """
    log_p_MBTV = F.log_softmax(_exact(logits_MBTV) / tau, dim=-1)
    if len(shares) == 1:
        return Soft(log_p_MBTV[0])
    weighted = [log_p + math.log(share) for log_p, share in zip(log_p_MBTV.unbind(0), shares, strict=True)]
    return Soft(torch.logsumexp(torch.stack(weighted), dim=0))


def likeliest(soft: Soft, *, k: int) -> Soft:
    """Only the k tokens of the most mass, and that of the others together.

    Args:
        k: at most V; with V nothing is left out.
    """
    log_p_BTK, ids_BTK = soft.log_p_BTK.topk(k, dim=-1)
    if k == soft.log_p_BTK.shape[-1]:
        return Soft(log_p_BTK, ids_BTK)
    return Soft(log_p_BTK, ids_BTK, _log_rest(soft.log_p_BTK, ids_BTK))


def packed(soft: Soft) -> Tensor:
    """(..., 2K + 1) ids, log-probabilities and log tail in one tensor, which a table can hold.

    float32 holds ids below 2^24 exactly.
    """
    tail_BT = soft.log_tail_BT
    if tail_BT is None:
        tail_BT = torch.full_like(soft.log_p_BTK[..., 0], -torch.inf)
    return torch.cat((soft.ids_BTK.to(soft.log_p_BTK.dtype), soft.log_p_BTK, tail_BT.unsqueeze(-1)), dim=-1)


def unpacked(packed_BTX: Tensor, *, vocab_size: int) -> Soft:
    """The inverse of `packed`."""
    k = packed_BTX.shape[-1] // 2
    ids_BTK, log_p_BTK, tail_BT1 = packed_BTX.split((k, k, 1), dim=-1)
    return Soft(log_p_BTK, ids_BTK.long(), None if k == vocab_size else tail_BT1.squeeze(-1))


def _outcomes(log_s_BTV: Tensor, soft: Soft) -> tuple[Tensor, Tensor]:
    """Student's and teachers' log-probabilities of the outcomes that the teachers tell apart."""
    if soft.ids_BTK is None:
        return log_s_BTV, soft.log_p_BTK
    log_s_BTK = log_s_BTV.gather(-1, soft.ids_BTK)
    if soft.log_tail_BT is None:
        return log_s_BTK, soft.log_p_BTK
    rest_BT1 = _log_rest(log_s_BTV, soft.ids_BTK).unsqueeze(-1)
    return torch.cat((log_s_BTK, rest_BT1), -1), torch.cat((soft.log_p_BTK, soft.log_tail_BT[..., None]), -1)


def _log_rest(log_p_BTV: Tensor, ids_BTK: Tensor) -> Tensor:
    """Log of the mass outside `ids`; as a sum, because 1 - the mass inside would lose its digits."""
    return torch.logsumexp(log_p_BTV.scatter(-1, ids_BTK, -torch.inf), dim=-1)


def _exact(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _sum_over(is_target_BT: Tensor, values_BT: Tensor) -> Tensor:
    return torch.where(is_target_BT, values_BT, 0).sum()
