"""What a model costs: parameters, bytes and FLOPs, in training and for each token that it writes.

Training is the ledger (`flops`), closed forms by term; a generated token is counted (`generated`).
One model's bill is JSON; many models stand side by side in tables, made equally large first.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lmbench.config import discover, kinds, make
from lmbench.errors import unknown
from lmbench.measure.budget import Match, equal_parameters
from lmbench.measure.flops import ADAM_FLOPS_PER_PARAMETER, ledger, parameters
from lmbench.measure.generated import generated_flops
from lmbench.models.base import ModelConfig

BYTES_PER_WEIGHT = {"float32": 4, "bfloat16": 2, "int8": 1}


def cost(config: ModelConfig) -> dict[str, Any]:
    """Parameters, bytes and FLOPs of a model; JSON-ready.

    `flops_per_token` is training's, per predicted token: with readout "all" each of the seq_len
    tokens of a sequence, with "last" one prediction for seq_len tokens of input.
    `flops_per_generated_token` is that of writing one token at the end of a full context.
    """
    count = parameters(config)
    return {
        "model": config.name,
        "config": config.to_dict(),
        "parameters": count.total,
        "parameters_embedding": count.embedding,
        "parameters_non_embedding": count.non_embedding,
        "parameters_active": count.active,
        "weights_bytes": {dtype: size * count.total for dtype, size in BYTES_PER_WEIGHT.items()},
        "seq_len": config.seq_len,
        "flops_per_token": {
            readout: ledger(config, readout=readout).per_target() for readout in ("all", "last")
        },
        "elementwise_terms": [term.name for term in config.terms("all") if term.elementwise],
        "flops_per_generated_token": generated_flops(config, length=config.seq_len)._asdict(),
        "adam_flops_per_step": ADAM_FLOPS_PER_PARAMETER * count.total,
    }


# ------------------------------------------------------------------ families side by side


def families(
    names: Sequence[str], *, target: int, vocab_size: int, seq_len: int, **fields: Any
) -> list[Match]:
    """Models of equal parameters, each with how far it is off.

    Args:
        names: kinds or variants; empty takes every kind that can be built from its defaults alone.
        target: parameters of each.
        fields: further settings, for the kinds that have them.

    Raises:
        ValueError: an unknown name, or a model that cannot be made so small.
    """
    known = discover("model")
    for name in names:
        if name not in known:
            raise ValueError(unknown("model", name, known))
    matches = []
    for name in names or _buildable():
        own = {key: value for key, value in fields.items() if key in known[name].model_fields}
        config = make("model", name, vocab_size=vocab_size, seq_len=seq_len, **own)
        matches.append(equal_parameters(config, target=target))
    return matches


def _buildable() -> list[str]:
    """Kinds that need no setting and have a width to be resized by."""
    found = []
    for name in kinds("model"):
        fields = discover("model")[name].model_fields
        if "d_model" in fields and not any(field.is_required() for field in fields.values()):
            found.append(name)
    return found


def cost_table(configs: Sequence[ModelConfig]) -> pd.DataFrame:
    """One row a model: parameters, and FLOPs per token of training and of generation."""
    rows = []
    for config in configs:
        count, step = parameters(config), ledger(config, readout="all")
        written = generated_flops(config, length=config.seq_len)
        rows.append(
            {
                "model": config.name,
                "parameters": count.total,
                "embedding": count.embedding,
                "active": count.active,
                "training FLOPs per token": step.train / config.seq_len,
                "of them element-wise": 3 * _elementwise(config) / config.seq_len,
                "generated token, FLOPs": written.cached,
                "its element-wise FLOPs": written.cached_elementwise,
                "without a cache, FLOPs": written.uncached,
            }
        )
    return pd.DataFrame(rows)


def ledger_table(configs: Sequence[ModelConfig]) -> pd.DataFrame:
    """One row for each model and term of its forward pass, readout "all", per token of a full context.

    Columns: model, term, forward FLOPs per token, share (of the model's), element-wise.
    """
    rows = []
    for config in configs:
        whole = sum(term.forward for term in config.terms("all"))
        rows += [
            {
                "model": config.name,
                "term": term.name.replace("_", " "),
                "forward FLOPs per token": term.forward / config.seq_len,
                "share": term.forward / whole,
                "element-wise": term.elementwise,
            }
            for term in config.terms("all")
            if term.forward
        ]
    return pd.DataFrame(rows)


def _elementwise(config: ModelConfig) -> int:
    return sum(term.forward for term in config.terms("all") if term.elementwise)
