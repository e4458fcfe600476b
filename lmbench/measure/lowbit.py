"""Inference in low precision or on sparse weights as it exists, timed beside the arithmetic claim.

A model whose weights are quantised or pruned computes in float32 unless a kernel uses it. Each form
here is a copy of a model whose linear maps run on such a kernel:

    bfloat16            dense, the plain alternative
    int8 dynamic        weights and, per batch, activations of 8 bits
    int8 weight-only    weights of 8 bits, read as they are, activations in bfloat16
    torchao ...         the same two by the library torchao, an extra
    csr                 the nonzero weights alone (compressed sparse rows)
    2:4                 two of four neighbours are zero: the pattern that recent CUDA devices skip

Where a form does not exist, on a device or for a model, the table says why. Activations of the first
have ranges over a whole batch, which leak later tokens into earlier ones: it is a form to be timed,
and no way to score a causal model. Weights that a model reads without calling their map stay as they are.

Legend: B batch, T position.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from lmbench.errors import unknown
from lmbench.measure.latency import timed
from lmbench.measure.lowbit_kernels import FORMS, without_notices
from lmbench.measure.lowbit_linears import stored_bytes
from lmbench.models.base import LanguageModel


class Converted(NamedTuple):
    """A model in one form, or why there is none."""

    model: LanguageModel | None
    reason: str
    """Why there is no model; "" where there is one."""
    linears: int = 0
    """Linear maps that run in this form."""
    stored_bytes: int = 0
    """Of the weights of all linear maps, as this form keeps them."""


class Arithmetic(NamedTuple):
    """Multiply-adds of the linear maps that a pass calls, per token."""

    dense: int
    nonzero: int
    """Those of weights that are not zero."""


def arithmetic(model: LanguageModel, tokens_BT: Tensor) -> Arithmetic:
    """Count the weights of the linear maps that a forward pass calls, a map as often as it is called."""
    dense = nonzero = 0
    linears = dict(model.named_modules())
    for name, calls in _called(model, tokens_BT).items():
        weight = linears[name].weight
        dense += calls * weight.numel()
        nonzero += calls * int(weight.count_nonzero())
    return Arithmetic(dense, nonzero)


def convert(model: LanguageModel, *, form: str, tokens_BT: Tensor) -> Converted:
    """A copy of a model, dropout off, in one of `FORMS`; the model itself stays as it is.

    Args:
        tokens_BT: of one batch, on the model's device: which maps a pass calls, and whether it runs.

    Raises:
        ValueError: an unknown form.
    """
    if form not in FORMS:
        raise ValueError(unknown("form of inference", form, FORMS))
    names = list(_called(model, tokens_BT))
    other = copy.deepcopy(model).eval()
    with without_notices():
        reason = FORMS[form](other, names)
        if not names and form != "float32":
            reason = "no linear map is called by itself: this model reads its weights directly"
        if reason:
            return Converted(None, reason)
        try:
            with torch.no_grad():
                logits_BTV = other(tokens_BT).logits_BTV
        except (RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
            # Which kernels take which shapes and types, only they know.
            return Converted(None, f"the kernel refuses this model: {' '.join(str(error).split())[:160]}")
    if not torch.isfinite(logits_BTV).all():
        return Converted(None, "the logits are not finite")
    return Converted(other, "", len(names), sum(stored_bytes(other.get_submodule(name)) for name in names))


def wall_clock(
    variants: Mapping[str, Converted],
    *,
    baseline: str,
    batch_sizes: Sequence[int],
    length: int,
    counted: Mapping[str, Arithmetic] | None = None,
    repeats: int = 15,
    warm_up: int = 3,
) -> pd.DataFrame:
    """Seconds of a forward pass over (batch size, length) tokens, for each variant.

    Args:
        variants: label to model, or to the reason why there is none, which makes a row without seconds.
        baseline: label of that against which times and multiply-adds are compared.
        counted: multiply-adds by label, for the arithmetic claim beside the clock's.

    Returns:
        One row a variant and batch size: form, batch size, seconds (median), low, high, n, times faster,
        times fewer multiply-adds, linear weights in bytes, reason.
    """
    if baseline not in variants or variants[baseline].model is None:
        raise ValueError(unknown("baseline", baseline, [name for name, one in variants.items() if one.model]))
    counted, rows = counted or {}, []
    for batch_size in batch_sizes:
        for label, variant in variants.items():
            row = {"form": label, "batch size": batch_size, "reason": variant.reason}
            if variant.model is not None:
                row |= _timed(variant.model, batch_size, length, repeats=repeats, warm_up=warm_up)
                row["linear weights, bytes"] = variant.stored_bytes
            if label in counted and baseline in counted:
                row["times fewer multiply-adds"] = counted[baseline].dense / max(1, counted[label].nonzero)
            rows.append(row)
    frame = pd.DataFrame(rows)
    reference = frame[frame["form"] == baseline].set_index("batch size")["seconds"]
    frame["times faster"] = frame["batch size"].map(reference) / frame["seconds"]
    return frame


def _timed(
    model: LanguageModel, batch_size: int, length: int, *, repeats: int, warm_up: int
) -> dict[str, float]:
    device = next(model.parameters()).device
    tokens_BT = torch.zeros(batch_size, length, dtype=torch.long, device=device)
    with torch.inference_mode(), without_notices():
        seconds = timed(lambda: model(tokens_BT), device=device, repeats=repeats, warm_up=warm_up)
    return {"seconds": seconds.median, "low": seconds.low, "high": seconds.high, "n": seconds.n}


def _called(model: LanguageModel, tokens_BT: Tensor) -> dict[str, int]:
    """How often a pass calls each plain linear map, by name."""
    calls: dict[str, int] = {}
    hooks = []
    for name, part in model.named_modules():
        if type(part) is nn.Linear:

            def count(*_: object, name: str = name) -> None:
                calls[name] = calls.get(name, 0) + 1

            hooks.append(part.register_forward_pre_hook(count))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(tokens_BT)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return calls
