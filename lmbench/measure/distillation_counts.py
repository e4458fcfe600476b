"""What a small model of a sketch costs, counted: multiply-adds of a pass, and bytes that are stored.

Multiply-adds are what torch's counter sees of a forward pass on each weight, times the share of it that
real masks leave. Bytes are counted tensor by tensor, as the ledger of packed files does, before entropy
coding and without the header; keys and values are those that a model really remembers.
`distillation_laws` puts formulas of the model as a whole beside these numbers.

Multiply-adds are those of a pass over all positions, with all pairs of attention, head included.
"""

from functools import lru_cache
from typing import NamedTuple

import pandas as pd
import torch

from lmbench.config import make
from lmbench.measure.artifact import Coding, predicted_bytes
from lmbench.measure.flops import parameters
from lmbench.measure.memory import state_bytes
from lmbench.measure.products import flops_by_weight
from lmbench.measure.sparsity import densities, nonzero_flops
from lmbench.methods.equipment import Equipment
from lmbench.models.base import ModelConfig, on_meta


class Shape(NamedTuple):
    """A model with learned positions, biases, two norms a block and one before an untied head."""

    positions: int = 64
    layers: int = 2
    heads: int = 4
    width: int = 64
    vocabulary: int = 256
    density: float = 0.25
    """Of the weights that a sketch prunes."""
    bits: float = 8
    """Of the weights that the second sketch quantises; the first one has 8."""


@lru_cache(maxsize=256)
def pruned_macs(shape: Shape, pruning: str) -> float:
    """Multiply-adds with the weights that a variant of `prune` leaves, and those of attention without any."""
    config = model_of(shape)
    flops = dict(flops_by_weight(config, readout="all"))
    unweighted = flops.pop("")
    return (nonzero_flops(flops, _densities(shape, pruning)).nonzero + unweighted) / 2


@lru_cache(maxsize=256)
def dense_macs(shape: Shape) -> float:
    """Multiply-adds of the model with all its weights."""
    return sum(flops_by_weight(model_of(shape), readout="all").values()) / 2


def n_parameters(shape: Shape) -> int:
    """Numbers that the model holds."""
    return parameters(model_of(shape)).total


@lru_cache(maxsize=256)
def stored_bytes(shape: Shape, pruning: str, quantizing: str) -> int:
    """Bytes of codes, scales, masks and floats: pruned tensors as a mask and what it leaves."""
    config = model_of(shape)
    bits = {"bits": shape.bits} if quantizing == "quantize" else {}
    coded = make("method", quantizing, **bits).coded(config)
    share = _densities(shape, pruning).set_index("weight")["structural"].drop("all")
    pruned = share[share < 1].to_dict()
    found = predicted_bytes(
        config,
        codings={name: Coding(one.bits, one.granularity) for name, one in coded.items()},
        densities=pruned,
        forms=dict.fromkeys(pruned, "mask"),
    )
    return sum(found.uncoded.values()) - found.uncoded["header"]


@lru_cache(maxsize=256)
def cache_bytes(shape: Shape) -> int:
    """Bytes of the keys and values that are remembered after n positions, in float32."""
    model = on_meta(model_of(shape)).eval()
    _, state = model.extend(torch.zeros(1, shape.positions, dtype=torch.long, device="meta"))
    return state_bytes(state)


def model_of(shape: Shape) -> ModelConfig:
    """The model of a shape."""
    sizes = {"seq_len": shape.positions, "n_layer": shape.layers, "n_head": shape.heads}
    widths = {"d_model": shape.width, "d_ff": 4 * shape.width, "vocab_size": shape.vocabulary}
    return make("model", "transformer_prenorm", dropout=0.0, **sizes, **widths)


def _densities(shape: Shape, pruning: str) -> pd.DataFrame:
    method = make("method", pruning, density=shape.density)
    made = Equipment.of(model_of(shape), [method], init_seed=0, steps=1)
    made.settle()
    return densities(made)
