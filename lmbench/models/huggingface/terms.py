"""What the models of Hugging Face's transformers cost: closed forms read off the library's own config.

Three architectures have one. For any other, torch's counter is asked, on the meta device, and
the term says so: such a count is right for what consists of matrix products, and leaves out
scans and other element-wise work. Every closed form counts as the rest of the suite does.
Legend: T position, C model width, F feed-forward width, H head, G key-value head, K head width,
D inner width, N state, L low rank, W taps.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from lmbench.layers.conv import conv_terms
from lmbench.layers.cost import Term, matmul
from lmbench.layers.shape import Readout
from lmbench.models.base import ModelConfig


def closed_form(settings: Any, *, seq_len: int, readout: Readout) -> tuple[Term, ...]:
    """Forward FLOPs over one sequence of seq_len tokens, by term.

    Args:
        settings: the library's config, of an architecture in `CLOSED_FORMS`.
    """
    rows = seq_len if readout == "all" else 1
    head = matmul(rows, inner=settings.hidden_size, columns=settings.vocab_size)
    blocks = CLOSED_FORMS[settings.model_type](settings, seq_len)
    return (*blocks, Term(name="head", forward=head))


def _gpt2(settings: Any, T: int) -> tuple[Term, ...]:
    C, n_layer = settings.hidden_size, settings.num_hidden_layers
    F = 4 * C if settings.n_inner is None else settings.n_inner
    up_and_down = matmul(T, inner=C, columns=F) + matmul(T, inner=F, columns=C)
    return (
        # Queries, keys, values and the output, C x C each.
        Term(name="projections", forward=n_layer * 4 * matmul(T, inner=C, columns=C)),
        _attention(T, n_layer=n_layer, n_head=settings.num_attention_heads, width=C),
        Term(name="feedforward", forward=n_layer * up_and_down),
    )


def _llama(settings: Any, T: int) -> tuple[Term, ...]:
    C, H, n_layer = settings.hidden_size, settings.num_attention_heads, settings.num_hidden_layers
    K = settings.head_dim or C // H
    GK = settings.num_key_value_heads * K
    # Queries and the output C x HK, keys and values C x GK; the gated feed-forward has three of C x F.
    projections = 2 * matmul(T, inner=C, columns=H * K) + 2 * matmul(T, inner=C, columns=GK)
    feedforward = 3 * matmul(T, inner=C, columns=settings.intermediate_size)
    return (
        Term(name="projections", forward=n_layer * projections),
        _attention(T, n_layer=n_layer, n_head=H, width=H * K),
        Term(name="feedforward", forward=n_layer * feedforward),
    )


def _mamba(settings: Any, T: int) -> tuple[Term, ...]:
    """As `layers.ssm.ssm_terms`, with an inner width of its own."""
    C, D, n_layer = settings.hidden_size, settings.intermediate_size, settings.num_hidden_layers
    N, L = settings.state_size, int(settings.time_step_rank)
    projections = matmul(T, inner=C, columns=2 * D) + matmul(T, inner=D, columns=C)
    selection = matmul(T, inner=D, columns=L + 2 * N) + matmul(T, inner=L, columns=D)
    # Of each state dt A, (dt x) B, a h and a sum; of each feature dt x, D x and its sum with y.
    scan = T * (4 * D * N + 3 * D)
    (convolution,) = conv_terms(width=settings.conv_kernel, features=D, seq_len=T)
    return (
        Term(name="projections", forward=n_layer * projections),
        Term(name="selection", forward=n_layer * selection),
        Term(name="state readout", forward=n_layer * T * matmul(D, inner=N, columns=1)),
        Term(name="scan", forward=n_layer * scan, elementwise=True),
        Term(name="convolution", forward=n_layer * convolution.forward, elementwise=True),
    )


def _attention(T: int, *, n_layer: int, n_head: int, width: int) -> Term:
    """q k' and weights v of all heads; `width` is that of the heads together."""
    scores = 2 * n_head * matmul(T, inner=width // n_head, columns=T)
    # T (T + 1) / 2 of the T^2 pairs are allowed.
    return Term(name="attention", forward=n_layer * scores, causal=n_layer * (scores // T * (T + 1) // 2))


CLOSED_FORMS: dict[str, Callable[[Any, int], tuple[Term, ...]]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "mamba": _mamba,
}


@lru_cache(maxsize=256)
def counted_term(config: ModelConfig, *, readout: Readout) -> tuple[Term, ...]:
    """One term: the matrix products of a forward pass as torch counts them on the meta device."""
    # On first use: it loads Triton where that is installed.
    from torch.utils.flop_counter import FlopCounterMode

    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        model = config.build().eval()
        tokens_BT = torch.zeros(1, config.seq_len, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            model(tokens_BT, readout=readout)
    return (Term(name="counted by torch", forward=counter.get_total_flops()),)
