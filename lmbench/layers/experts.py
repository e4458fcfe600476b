"""Experts: E feed-forwards of which each position uses k, chosen by a router (a mixture of experts).

    p = softmax(W_r x);  y = sum over the k largest p_e of (p_e / their sum) * expert_e(x)

(Shazeer et al. 2017; the choice without noise and the softmax before it as in Fedus et al.
2022). With k = 1 the quotient would always be 1 and teach the router nothing, so p_e itself
is the weight, as there. No expert has a capacity: assignments are sorted by expert, each
expert computes exactly the rows that chose it, and no position is ever dropped. The cost is
that of k experts, however unequal their shares.

Two losses keep the router in order. Balance: E * sum_e f_e p_e with f_e the expert's share of
all assignments and p_e its mean probability, 1 where routing is uniform and up to E / k where it
collapses (Fedus et al. 2022, eq. 4). z: the mean of logsumexp(W_r x)^2 (Zoph et al. 2022, eq. 5).

Legend: B batch, T position, N = B T, C model width, F feed-forward width, E expert, K choice,
M = N K assignment.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.layers.cost import Term, matmul
from lmbench.layers.dropout import Dropout
from lmbench.layers.feedforward import FeedForward, activate, feedforward_terms
from lmbench.layers.grouped import grouped_product, reordered
from lmbench.layers.init import GPT2_STD, draw_normal
from lmbench.layers.lookup import look_up
from lmbench.layers.mixer import Pass
from lmbench.layers.shape import Activation, BlockShape


class Routing(NamedTuple):
    """What the router decides."""

    chosen_NK: Tensor
    """Experts of each position, the likeliest first."""
    weight_NK: Tensor
    """What their outputs are multiplied by."""
    logits_NE: Tensor
    """In float32 or better: a choice between near equals should not depend on rounding."""


class Sorted(NamedTuple):
    """Assignments in the order of their experts, within an expert as they came."""

    order_M: Tensor
    """Which assignment stands where."""
    inverse_M: Tensor
    """Where each assignment stands."""
    ends_E: Tensor
    """For each expert the place after its last assignment, int32."""

    @classmethod
    def of(cls, expert_M: Tensor, *, n_expert: int) -> "Sorted":
        """By counting, in one running sum: experts are few, and sorting on a GPU is many kernels."""
        M, device = len(expert_M), expert_M.device
        is_EM = expert_M == torch.arange(n_expert, device=device).unsqueeze(1)
        upto_EM = is_EM.flatten().cumsum(0, dtype=torch.int32).view(n_expert, M)
        inverse_M = upto_EM.gather(0, expert_M.unsqueeze(0)).squeeze(0).long() - 1
        order_M = torch.zeros_like(inverse_M).scatter(0, inverse_M, torch.arange(M, device=device))
        return cls(order_M, inverse_M, upto_EM[:, -1])


class ExpertLinear(nn.Module):
    """E linear maps side by side: weight (E, F, C), bias (E, F) or None."""

    def __init__(self, maps: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([one.weight.detach() for one in maps]))
        biases = [one.bias.detach() for one in maps if one.bias is not None]
        self.bias = nn.Parameter(torch.stack(biases)) if biases else None

    def forward(self, x_MC: Tensor, ends_E: Tensor) -> Tensor:
        """(M, C) rows, sorted by expert, to (M, F)."""
        # Under autocast rows may be narrower than the weights; elsewhere the two agree.
        y_MF = grouped_product(x_MC.to(self.weight.dtype), self.weight.mT, ends_E)
        if self.bias is None:
            return y_MF
        row_M = torch.arange(len(x_MC), dtype=ends_E.dtype, device=x_MC.device)
        expert_M = (row_M.unsqueeze(1) >= ends_E).sum(1)
        return y_MF + look_up(self.bias, expert_M)

    def every(self, x_NC: Tensor) -> Tensor:
        """The plain form: each row through all maps, (E, N, C) or (N, C) to (E, N, F)."""
        y_ENF = x_NC @ self.weight.mT
        return y_ENF if self.bias is None else y_ENF + self.bias.unsqueeze(1)


class Experts(nn.Module):
    """Top-k of `n_expert` feed-forwards, then dropout."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.activation: Activation = shape.activation
        self.n_expert, self.top_k = shape.n_expert, shape.top_k
        self.balance_weight, self.z_weight = shape.balance_weight, shape.z_weight
        experts = [FeedForward(shape) for _ in range(shape.n_expert)]
        self.up = ExpertLinear([expert.up for expert in experts])
        self.down = ExpertLinear([expert.down for expert in experts])
        # Drawn after the experts, so that a single one starts as the dense feed-forward does.
        self.router = nn.Linear(shape.d_model, shape.n_expert, bias=False)
        self.dropout = Dropout(shape.dropout)
        if shape.init == "gpt2":  # the block draws the matrices of `up` and `down`
            draw_normal(self.router, std=GPT2_STD)
            for bias in (self.up.bias, self.down.bias):
                if bias is not None:
                    nn.init.zeros_(bias)

    def forward(self, x_BTC: Tensor, shared: Pass | None = None) -> Tensor:
        """(B, T, C) to (B, T, C), each position by itself; the losses go to `shared`."""
        x_NC = x_BTC.flatten(0, 1)
        routing = self.route(x_NC)
        if shared is not None:
            shared.aux_losses.extend(self._losses(routing))
        return self.dropout(self.mixture(x_NC, routing).to(x_BTC.dtype).view(x_BTC.shape))

    def route(self, x_NC: Tensor) -> Routing:
        """Choose experts."""
        exact = torch.promote_types(x_NC.dtype, torch.float32)
        logits_NE = F.linear(x_NC.to(exact), self.router.weight.to(exact)).to(exact)
        top_NK, chosen_NK = logits_NE.softmax(-1).topk(self.top_k)
        weight_NK = top_NK / top_NK.sum(-1, keepdim=True) if self.top_k > 1 else top_NK
        return Routing(chosen_NK, weight_NK, logits_NE)

    def mixture(self, x_NC: Tensor, routing: Routing) -> Tensor:
        """The weighted sum of the chosen experts' outputs, (N, C)."""
        N, C = x_NC.shape
        order_M, inverse_M, ends_E = Sorted.of(routing.chosen_NK.flatten(), n_expert=self.n_expert)
        x_MC = reordered(x_NC.unsqueeze(1).expand(N, self.top_k, C).reshape(-1, C), order_M, inverse_M)
        y_MC = self.down(activate(self.up(x_MC, ends_E), kind=self.activation), ends_E)
        y_NKC = reordered(y_MC, inverse_M, order_M).view(N, self.top_k, C)
        return (y_NKC * routing.weight_NK.unsqueeze(-1).to(y_NKC.dtype)).sum(1)

    def masked_mixture(self, x_NC: Tensor, routing: Routing) -> Tensor:
        """The same in plain form: all experts compute all positions, those not chosen weigh 0."""
        weight_NE = torch.zeros_like(routing.logits_NE)
        weight_NE = weight_NE.scatter(1, routing.chosen_NK, routing.weight_NK).to(x_NC.dtype)
        y_ENC = self.down.every(activate(self.up.every(x_NC), kind=self.activation))
        return (weight_NE.mT.unsqueeze(-1) * y_ENC).sum(0)

    def _losses(self, routing: Routing) -> list[Tensor]:
        weighted = ((self.balance_weight, balance_loss), (self.z_weight, z_loss))
        return [weight * loss(routing) for weight, loss in weighted if weight]


def balance_loss(routing: Routing) -> Tensor:
    """E * sum_e f_e p_e: 1 where routing is uniform."""
    n_expert = routing.logits_NE.shape[-1]
    expert_E = torch.arange(n_expert, device=routing.chosen_NK.device)
    share_E = (routing.chosen_NK.unsqueeze(-1) == expert_E).to(routing.logits_NE.dtype).mean((0, 1))
    return n_expert * (share_E * routing.logits_NE.softmax(-1).mean(0)).sum()


def z_loss(routing: Routing) -> Tensor:
    """The mean of logsumexp^2: 0 where the exponentials of the logits sum to 1."""
    return routing.logits_NE.logsumexp(-1).square().mean()


def experts_terms(shape: BlockShape, *, n_layer: int) -> tuple[Term, ...]:
    """Forward FLOPs of the chosen experts and the router in n_layer blocks over seq_len tokens."""
    router = matmul(shape.seq_len, inner=shape.d_model, columns=shape.n_expert)
    experts = [
        replace(term, forward=shape.top_k * term.forward)
        for term in feedforward_terms(shape, n_layer=n_layer)
    ]
    return (Term(name="router", forward=n_layer * router), *experts)


def expert_parameters(shape: BlockShape) -> int:
    """Numbers that one expert holds."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return sum(parameter.numel() for parameter in FeedForward(shape).parameters())
