"""Why FLOP counts of one and the same model differ: every count in use, and what each leaves out.

Each row of the table compares one count with the closed form that covers the same passes,
and splits the difference into named parts. The parts are measured, not fitted: how often
each weight enters a product is seen in a forward pass on the meta device and owes nothing
to the closed form. What the parts leave over is the column `unexplained`; it is 0 for every
model of the suite, and a wrong closed form shows in it.

fvcore counts a multiply-add once and the forward only, has no formula for attention's scores
nor for fused attention, and does count LayerNorm; it is imported when asked for, and is a
cross-check only.
"""

import warnings
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lmbench.layers.shape import Readout
from lmbench.measure.flops import counted_flops, ledger, parameters, published_flops
from lmbench.models.base import LanguageModel, ModelConfig

_FUSED, _SCORES = "lmbench::causal_attention", "aten::baddbmm"
_NO_ATTENTION = "attention's scores and values are left out"


class FvcoreCount(NamedTuple):
    """What fvcore says about one forward pass, in its own unit of one per multiply-add."""

    total: int
    layer_norm: int
    """Part of the total that is LayerNorm, 5 per feature (4 without gain and bias)."""
    unsupported: Mapping[str, int]
    """Operations that it counted as 0, with how often each occurs."""


def fvcore_flops(config: ModelConfig, *, readout: Readout, batch_size: int = 1) -> FvcoreCount:
    """fvcore's count of a forward pass, traced on the CPU.

    Raises:
        ValueError: fvcore is not installed.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # It rests on TorchScript, which announces its end on import and on every trace.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            from fvcore.nn import FlopCountAnalysis
        except ImportError:
            raise ValueError("fvcore is not installed; install it with: pip install fvcore") from None
        # On the CPU: sizes are tensors in a trace, which convolutions on the meta device refuse.
        module = _LogitsOnly(config.build().eval(), readout=readout)
        tokens_BT = torch.zeros(batch_size, config.seq_len, dtype=torch.long)
        analysis = FlopCountAnalysis(module, tokens_BT)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        by_operator = analysis.by_operator()
        return FvcoreCount(
            total=int(sum(by_operator.values())),
            layer_norm=int(by_operator.get("layer_norm", 0)),
            unsupported=dict(analysis.unsupported_ops()),
        )


class _LogitsOnly(nn.Module):
    """A model as TorchScript can trace it: one tensor in, one tensor out."""

    def __init__(self, model: LanguageModel, *, readout: Readout) -> None:
        super().__init__()
        self.model, self.readout = model, readout

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.model(tokens_BT, readout=self.readout).logits_BTV


# ------------------------------------------------------------------ where products are spent


class Products(NamedTuple):
    """FLOPs of the matrix products of one forward pass over one sequence, by what is multiplied."""

    tables: int
    """With a look-up table, as a tied head does."""
    matrices: int
    """With any other weight matrix."""
    scores: int
    """Without a weight: attention's queries times keys."""
    mixed: int
    """Without a weight: attention's weights times values."""

    @property
    def activations(self) -> int:
        """Attention's scores and values."""
        return self.scores + self.mixed


class _ProductMode(TorchDispatchMode):
    """Adds up torch's own FLOPs of each operation under the weight that it multiplies by."""

    def __init__(self, weights: Mapping[int, str]) -> None:
        super().__init__()
        self.weights, self.flops = weights, {_SCORES: 0, "": 0}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            # A view such as W' shares the memory of its weight.
            operands = [self.weights.get(_memory(arg), "") for arg in args if isinstance(arg, Tensor)]
            name = next(filter(None, operands), "")
            if not name and func._overloadpacket is torch.ops.aten.baddbmm:
                name = _SCORES  # of what has no weight, only scores have a bias: the causal mask
            self.flops[name] = self.flops.get(name, 0) + formula(*args, **(kwargs or {}), out_val=out)
        return out


def products(config: ModelConfig, *, readout: Readout) -> Products:
    """Watch one forward pass on the meta device, where nothing is computed."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = config.build().eval()
        tokens_BT = torch.zeros(1, config.seq_len, dtype=torch.long)
    weights = {_memory(p): name for name, p in model.named_parameters() if p.dim() > 1}
    lookups = [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    with _ProductMode(weights) as mode:
        model(tokens_BT, readout=readout)
    scores, mixed = mode.flops.pop(_SCORES), mode.flops.pop("")
    tables = sum(mode.flops.get(f"{name}.weight", 0) for name in lookups)
    return Products(tables, sum(mode.flops.values()) - tables, scores, mixed)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


# ------------------------------------------------------------------ the table


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
    seen = products(config, readout=readout)
    meta = counted_flops(config, readout=readout)
    cpu = counted_flops(config, readout=readout, device="cpu")
    fvcore = fvcore_flops(config, readout=readout)
    n, T = parameters(config), config.seq_len
    halved = {"scores of later positions are not counted": ours.forward_causal - ours.forward}
    six_parts = _parts_of_six_n(config, seen)
    published_parts = six_parts | {"no backward pass": -4 * n.total * T}
    published = published_flops(n.total, n_windows=1, seq_len=T)
    both = meta.forward + meta.backward
    forward, train = ("forward", ours.forward), ("forward + backward", ours.train)
    counts = (
        ("closed form", train, ours.train, {}),
        ("closed form, causal half", forward, ours.forward_causal, halved),
        ("torch, meta device", train, both, {}),
        ("torch, CPU", forward, cpu.forward, {}),
        ("fvcore x 2", forward, 2 * fvcore.total, _parts_of_fvcore(fvcore, seen)),
        ("6 N per token", train, 6 * n.total * T, six_parts),
        ("published, 2 N per token", train, published, published_parts),
    )
    name = config.name
    return [_row(name, count=c, covers=v, flops=f, parts=parts) for c, v, f, parts in counts]


def _parts_of_fvcore(fvcore: FvcoreCount, seen: Products) -> dict[str, int]:
    """Twice fvcore's count minus the forward pass, part by part."""
    blind = fvcore.unsupported
    return {
        f"no formula for the fused kernel: {_NO_ATTENTION}": -seen.activations * (_FUSED in blind),
        "no formula for baddbmm: attention's scores are left out": -seen.scores * (_SCORES in blind),
        "LayerNorm is counted": 2 * fvcore.layer_norm,
    }


def _parts_of_six_n(config: ModelConfig, seen: Products) -> dict[str, int]:
    """6 N T minus forward and backward, part by part (6 = 2 per multiply-add, three passes).

    Every weight is charged 6 T. Right is 6 per weight and use: T uses where a matrix is
    applied to each token, one where a window or the last position passes once. A tied
    matrix is a table and is used as a matrix besides.
    """
    n, T = parameters(config), config.seq_len
    spare = 6 * T * (n.total - n.embedding - n.vectors) - 3 * seen.matrices
    return {
        "look-up tables are counted as products": 6 * T * n.embedding,
        "biases and norm gains are counted": 6 * T * n.vectors,
        "products done once per window are charged per token": max(spare, 0),
        "matrices used more than once per token are counted once": min(spare, 0),
        "the tied matrix is counted once": -3 * seen.tables,
        _NO_ATTENTION: -3 * seen.activations,
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
