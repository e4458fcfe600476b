"""The memory of linear attention: a matrix that maps keys to values, with decay, and two ways to write.

With g the decay and b the strength of a write, each head's state S follows

    add    S_t = g_t S_{t-1} + k_t v_t'                     (Katharopoulos et al. 2020; Dao and Gu 2024)
    delta  S_t = g_t (I - b_t k_t k_t') S_{t-1} + b_t k_t v_t'         (Yang, Kautz, Hatamizadeh 2024)

and the output is S_t' q_t. The delta rule first takes out what k_t held, so a key can be
overwritten; with g = 1 it is DeltaNet (Schlag et al. 2021; Yang et al. 2024), add with g = 1
plain linear attention. (Some of the papers write S transposed.)

`recur` is the definition. `in_chunks` computes the same in products: positions of a chunk see each
other through an L x L matrix, and earlier chunks through the state at the chunk's start.
Legend: B batch, T position, H head, K key width, V value width, N chunk, L position in a chunk;
within chunks q, k and v are (N, B, H, L, K or V).
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Most positions of a chunk. On one core (16 x 4 heads x 128 or 512 positions, K = 32, both passes) 32
# and 64 are level, 16 and 128 behind by 5 to 60%; a GPU waits for each chunk, so the longer one.
CHUNK = 64


class Reads(NamedTuple):
    """What a head's memory is asked and told at each position, in float32 or wider."""

    q_BTHK: Tensor
    k_BTHK: Tensor
    v_BTHV: Tensor
    log_decay_BTH: Tensor
    """log g, at most 0."""
    strength_BTH: Tensor | None
    """b of the delta rule; None is the rule "add"."""


def recur(reads: Reads, state_BHKV: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Position by position, as defined: (B, T, H, V) outputs and the state after the last.

    Args:
        state_BHKV: before the first position; None is 0.
    """
    q_BTHK, k_BTHK, v_BTHV, log_decay_BTH, strength_BTH = reads
    if state_BHKV is None:
        B, _, H, K = k_BTHK.shape
        state_BHKV = k_BTHK.new_zeros(B, H, K, v_BTHV.shape[-1])
    out = []
    for t in range(q_BTHK.shape[1]):
        state_BHKV = state_BHKV * log_decay_BTH[:, t, :, None, None].exp()
        k_BHK1, written_BH1V = k_BTHK[:, t].unsqueeze(-1), v_BTHV[:, t].unsqueeze(-2)
        if strength_BTH is not None:
            held_BH1V = (k_BHK1 * state_BHKV).sum(-2, keepdim=True)
            written_BH1V = strength_BTH[:, t, :, None, None] * (written_BH1V - held_BH1V)
        state_BHKV = state_BHKV + k_BHK1 * written_BH1V
        out.append((q_BTHK[:, t].unsqueeze(-1) * state_BHKV).sum(-2))
    return torch.stack(out, dim=1), state_BHKV


def in_chunks(
    reads: Reads, state_BHKV: Tensor | None = None, *, chunk: int = CHUNK, keeps_state: bool = True
) -> tuple[Tensor, Tensor | None]:
    """`recur` in matrix products: chunks one after the other, the positions of a chunk at once.

    Args:
        chunk: most positions of a chunk.
        keeps_state: False saves the last update and returns no state.
    """
    n, length = chunking(reads.q_BTHK.shape[1], chunk=chunk)
    inputs = (*reads[:3], *(x.unsqueeze(-1) for x in reads[3:] if x is not None))
    q, k, v, log_decay, *strength = (_split(x, n=n, length=length) for x in inputs)
    decays = _decays(log_decay)
    kept_k_t, has_state = (decays.until_NBHL1 * k).mT, n > 1 or state_BHKV is not None
    own, by_state = _writes(k, v, strength[0], decays, has_state=has_state) if strength else (v, None)
    written, states = [], []
    for at in range(n):
        u_BHLV = own[at]
        if state_BHKV is not None:
            states.append(state_BHKV)
            u_BHLV = u_BHLV if by_state is None else u_BHLV - by_state[at] @ state_BHKV
        written.append(u_BHLV)
        if at < n - 1 or keeps_state:
            added_BHKV = kept_k_t[at] @ u_BHLV
            carried = 0 if state_BHKV is None else decays.whole_NBH11[at] * state_BHKV
            state_BHKV = carried + added_BHKV
    out_NBHLV = ((q @ k.mT) * decays.between_NBHLL) @ torch.stack(written)
    if states:  # that all chunks read, or all but the first
        old = n - len(states)
        read = (decays.since_NBHL1 * q)[old:] @ torch.stack(states)
        out_NBHLV = torch.cat((out_NBHLV[:old], out_NBHLV[old:] + read))
    out_BTHV = out_NBHLV.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, : reads.q_BTHK.shape[1]]
    return out_BTHV, state_BHKV if keeps_state else None


def chunking(seq_len: int, *, chunk: int = CHUNK) -> tuple[int, int]:
    """Chunks, and the length of each: as few as may be, and of these the shortest."""
    n = -(-seq_len // chunk)
    return n, -(-seq_len // n)


def _split(x_BTHK: Tensor, *, n: int, length: int) -> Tensor:
    """(N, B, H, L, K), chunks first, each in one piece; zeros, which write nothing, at the end."""
    padded = F.pad(x_BTHK, (0, 0, 0, 0, 0, n * length - x_BTHK.shape[1]))
    return padded.unflatten(1, (n, length)).permute(1, 0, 3, 2, 4).contiguous()


class _Decays(NamedTuple):
    """Products of g over positions of a chunk, each between 0 and 1."""

    between_NBHLL: Tensor
    """j + 1 to i; 0 where j is later than i."""
    since_NBHL1: Tensor
    """The first to i."""
    until_NBHL1: Tensor
    """i + 1 to the last."""
    whole_NBH11: Tensor


def _decays(log_decay_NBHL1: Tensor) -> _Decays:
    """Sums over pairs are taken as sums, not as differences of sums from the chunk's start.

    One strong decay would otherwise cost all later pairs their digits (Dao and Gu 2024, "segsum").
    """
    L = log_decay_NBHL1.shape[-2]
    is_later_LL = torch.ones(L, L, dtype=torch.bool, device=log_decay_NBHL1.device).tril(-1)
    terms_NBHLL = log_decay_NBHL1.expand(*log_decay_NBHL1.shape[:-1], L).masked_fill(~is_later_LL, 0)
    between_NBHLL = terms_NBHLL.cumsum(-2).masked_fill(is_later_LL.mT, -math.inf).exp()
    since_NBHL1 = log_decay_NBHL1.cumsum(-2).exp()
    return _Decays(between_NBHLL, since_NBHL1, between_NBHLL[..., -1:, :].mT, since_NBHL1[..., -1:, :])


def _writes(
    k: Tensor, v: Tensor, strength: Tensor, decays: _Decays, *, has_state: bool
) -> tuple[Tensor, Tensor | None]:
    """What the delta rule writes: u = own - by_state S, of each chunk (N, B, H, L, V) and (N, B, H, L, K).

    With G_i the decay from the chunk's start to i, u solves the unit lower triangular system

        u_i + b_i sum over j < i of (G_i / G_j) (k_i' k_j) u_j = b_i v_i - b_i G_i k_i' S

    whose two right-hand sides are solved for all chunks at once (the WY form of Yang et al. 2024,
    section 3.2). By substitution: the power series of the inverse ends, too, but its terms
    grow to 10^17 for 64 equal keys, and what is left of their sum in float32 is noise.
    """
    strong_k = strength * k
    sides = (strength * v, decays.since_NBHL1 * strong_k) if has_state else (strength * v,)
    system, right = (strong_k @ k.mT) * decays.between_NBHLL, torch.cat(sides, dim=-1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    return solved[..., : v.shape[-1]], solved[..., v.shape[-1] :] if has_state else None
