"""Why FLOP counts of one and the same model differ: every count in use, and what each leaves out.

Each row of the table compares one count with the closed form that covers the same passes,
and splits the difference into named parts. The parts are measured, not fitted: how often
each weight enters a product is seen in a forward pass on the meta device, and what fvcore is
blind to is seen operation by operation in fvcore's own trace; neither owes anything to the
closed form. What the parts leave over is the column `unexplained`; it is 0 for every model of
the suite, and a wrong closed form of products shows in it. Element-wise terms (scans, short
convolutions) are seen by no counter of products, so their part is their closed form, which
tests of their own hold to a count of operations.
"""

from collections.abc import Iterable, Mapping

import pandas as pd

from lmbench.layers.shape import Readout
from lmbench.measure.flops import counted_flops, ledger, parameters, published_flops
from lmbench.measure.fvcore_count import FvcoreCount, fvcore_flops
from lmbench.measure.products import SCORES, Seen, watch
from lmbench.models.base import ModelConfig

_FUSED = "lmbench::causal_attention"
_NO_ATTENTION = "attention's scores and values are left out"
_NO_ELEMENTWISE = "element-wise work is invisible"
# What an operation that fvcore has no formula for stands for, where that is known.
_MEANING = {
    _FUSED: f"no formula for the fused kernel: {_NO_ATTENTION}",
    SCORES: "no formula for baddbmm: attention's scores are left out",
}


def disagreement_table(configs: Iterable[ModelConfig], *, readout: Readout = "all") -> pd.DataFrame:
    """One row for each model and count, over one sequence of seq_len tokens.

    Args:
        readout: "all" for models trained on every position, "last" for one prediction a sequence.

    Columns: model, count, covers ("forward" or "forward + backward"), flops, closed_form (of
    the same passes), difference, ratio, reason, unexplained (FLOPs, 0 when all is named).
    """
    rows = [row for config in configs for row in _rows(config, readout=readout)]
    return pd.DataFrame(rows)


def _rows(config: ModelConfig, *, readout: Readout) -> list[dict[str, object]]:
    ours = ledger(config, readout=readout)
    seen = watch(config, readout=readout)
    meta = counted_flops(config, readout=readout)
    cpu = counted_flops(config, readout=readout, device="cpu")
    fvcore = fvcore_flops(config, readout=readout)
    n, T = parameters(config), config.seq_len
    halved = {"scores of later positions are not counted": ours.forward_causal - ours.forward}
    elementwise = sum(term.forward for term in ours.terms if term.elementwise)
    unseen = {_NO_ELEMENTWISE: -elementwise}
    six_parts = _parts_of_six_n(config, seen) | {_NO_ELEMENTWISE: -3 * elementwise}
    published_parts = six_parts | {"no backward pass": -4 * n.total * T}
    published = published_flops(n.total, n_windows=1, seq_len=T)
    both = meta.forward + meta.backward
    forward, train = ("forward", ours.forward), ("forward + backward", ours.train)
    counts = (
        ("closed form", train, ours.train, {}),
        ("closed form, causal half", forward, ours.forward_causal, halved),
        ("torch, meta device", train, both, {_NO_ELEMENTWISE: -3 * elementwise}),
        ("torch, CPU", forward, cpu.forward, unseen),
        ("fvcore x 2", forward, 2 * fvcore.total, _parts_of_fvcore(fvcore) | unseen),
        ("6 N per token", train, 6 * n.total * T, six_parts),
        ("published, 2 N per token", train, published, published_parts),
    )
    name = config.name
    return [_row(name, count=c, covers=v, flops=f, parts=parts) for c, v, f, parts in counts]


def _parts_of_fvcore(fvcore: FvcoreCount) -> dict[str, int]:
    """Twice fvcore's count minus the products of the forward pass, operation by operation."""
    parts: dict[str, int] = {}
    for name, (theirs, right) in fvcore.by_operator.items():
        if not right:
            what = "LayerNorm is counted" if name == "aten::layer_norm" else f"{name} is counted"
        elif not theirs:
            what = _MEANING.get(name, f"no formula for {name}")
        else:
            what = f"wrong formula for {name}"
        parts[what] = parts.get(what, 0) + 2 * theirs - right
    return parts


def _parts_of_six_n(config: ModelConfig, seen: Seen) -> dict[str, int]:
    """6 N T minus forward and backward, part by part (6 = 2 per multiply-add, three passes).

    Every weight is charged 6 T. Right is 6 per weight and use: T uses where a matrix is
    applied to each token, one where a window or the last position passes once. A tied
    matrix is a table and is used as a matrix besides.
    """
    n, T = parameters(config), config.seq_len
    has_attention = any(term.causal is not None for term in config.terms("all"))
    no_activations = _NO_ATTENTION if has_attention else "products of activations are left out"
    return {
        "look-up tables are counted as products": 6 * T * n.embedding,
        "biases, norm gains and other vectors are counted": 6 * T * n.vectors,
        **seen.spare,
        "the tied matrix is counted once": -3 * seen.products.tables,
        no_activations: -3 * seen.products.activations,
    }


def _row(
    model: str, *, count: str, covers: tuple[str, int], flops: int, parts: Mapping[str, int]
) -> dict[str, object]:
    passes, closed_form = covers
    named = [f"{what} ({amount:+,})" for what, amount in parts.items() if amount]
    unexplained = flops - closed_form - sum(parts.values())
    return {
        "model": model,
        "count": count,
        "covers": passes,
        "flops": flops,
        "closed_form": closed_form,
        "difference": flops - closed_form,
        "ratio": flops / closed_form,
        "reason": "; ".join(named) or ("agrees" if not unexplained else "not explained"),
        "unexplained": unexplained,
    }
