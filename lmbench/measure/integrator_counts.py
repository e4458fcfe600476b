"""The integrator guide's claims that a count decides, each counted again.

Its example is a model of width 2,048 with 24 layers and 50,000 tokens. Numbers are taken from
modules that are built without memory, or from the closed forms that are tested against them. A
claim holds where the counted number, written with the claim's digits, is the claimed one. The
guide counts controllers without their biases; so does this. Numbers of claims are those of our
list of all of them. Legend: C model width.
"""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
from torch import nn

from lmbench.config import make
from lmbench.layers.controllers import LayerScales
from lmbench.layers.integrator import integrator_terms, make_controller
from lmbench.layers.integrator_shape import IntegratorShape
from lmbench.layers.integrator_sizes import VOCAB_SIZE
from lmbench.measure.flops import parameters
from lmbench.models.base import ModelConfig, on_meta

WIDTH, LAYERS = 2048, 24
_EXAMPLE = {"vocab_size": VOCAB_SIZE, "d_model": WIDTH, "n_layer": LAYERS, "n_head": 16, "d_ff": 4 * WIDTH}


class Count(NamedTuple):
    """One claim: its number and words, the number that it names, how that is written, how it is counted."""

    number: str
    claim: str
    claimed: str
    form: str
    counted: Callable[[], float]


def example(variant: str = "integrator", **fields: object) -> ModelConfig:
    """The guide's example, as one of the variants."""
    return make("model", variant, **_EXAMPLE | fields)


def _tables(variant: str) -> int:
    """Embedding and head, of which a tied head has none of its own."""
    model = on_meta(example(variant, n_layer=1))
    ends = nn.ModuleList([model.embedding.token, *([model.head.linear] if model.head.linear else [])])
    return sum(p.numel() for p in ends.parameters())


def _embedding(variant: str) -> int:
    return sum(p.numel() for p in on_meta(example(variant, n_layer=1)).embedding.token.parameters())


def _matrices(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.dim() > 1)


def _cell(**fields: object) -> IntegratorShape:
    return example(**fields).cell_shape()


def _own_controllers() -> int:
    """Of all layers, without biases."""
    return LAYERS * _matrices(_on_meta(_cell()))


def _shared_controller() -> int:
    """One for all layers, without biases, with each layer's scales and shifts."""
    return _matrices(_on_meta(_cell())) + LAYERS * _scales()


def _on_meta(shape: IntegratorShape) -> nn.Module:
    import torch

    with torch.device("meta"):
        return make_controller(shape)


def _scales() -> int:
    return sum(p.numel() for p in LayerScales(_cell()).parameters())


def _equilibrium() -> int:
    model = on_meta(example("integrator_ultra", n_layer=1))
    return sum(p.numel() for p in model.blocks[0].integrator.equilibrium.parameters())


def _published_controllers() -> int:
    """In the published ultra model: 3-output controllers in each layer, and a shared one in no use."""
    own = sum(p.numel() for p in _on_meta(_cell(candidate=False)).parameters())
    return LAYERS * own + _all_of_one() + LAYERS * _scales()


def _all_of_one() -> int:
    return sum(p.numel() for p in _on_meta(_cell()).parameters())


def _cell_flops(**fields: object) -> int:
    """Forward FLOPs of the cells of one token."""
    return sum(term.forward for term in integrator_terms(_cell(**fields), seq_len=1, n_layer=1))


def _sparse() -> IntegratorShape:
    return _cell(excitation_share=0.1)


def _step_operations(shape: IntegratorShape) -> float:
    """Products of a step of one token, and a sine and an addition for each feature that is excited."""
    products = sum(term.forward for term in integrator_terms(shape, seq_len=1, n_layer=1))
    return products / shape.n_iteration + 2 * shape.n_excited


def _mixed(n_expert: int, top_k: int) -> int:
    """FLOPs of a mixture's cell without its router, which the claim leaves out."""
    terms = integrator_terms(_cell(n_expert=n_expert, top_k=top_k), seq_len=1, n_layer=1)
    return sum(term.forward for term in terms if term.name != "router")


def _total(optimised: bool) -> int:
    """The guide's sum: one embedding, the controllers of all layers, one layer's equilibrium."""
    if optimised:
        return _embedding("integrator_level1") + _shared_controller() + _equilibrium()
    return _embedding("integrator") + _own_controllers() + WIDTH


def _whole(variant: str) -> int:
    return parameters(example(variant)).total


def _saving(before: Callable[[], int], after: Callable[[], int]) -> Callable[[], float]:
    return lambda: 1 - after() / before()


COUNTS = (
    Count("1", "parameters of the dense embedding", "102,400,000", "{:,.0f}",
          lambda: _embedding("integrator")),
    Count("2", "parameters of the low-rank embedding", "13,324,288", "{:,.0f}",
          lambda: _embedding("integrator_level1")),
    Count("2", "the low-rank embedding saves, of the input table", "87.0%", "{:.1%}",
          _saving(lambda: _embedding("integrator"), lambda: _embedding("integrator_level1"))),
    Count("3", "and so of embedding and head together, with the untied head as published", "87.0%", "{:.1%}",
          _saving(lambda: _tables("integrator"), lambda: _tables("integrator_level1"))),
    Count("14", "numbers that each layer adds to a shared controller", "8", "{:.0f}", _scales),
    Count("15", "parameters of 24 controllers", "22,020,096", "{:,.0f}", _own_controllers),
    Count("16", "parameters of the shared controller", "917,696", "{:,.0f}", _shared_controller),
    Count("17", "the shared controller saves, of all controllers at 24 layers", "95.8%", "{:.1%}",
          _saving(_own_controllers, _shared_controller)),
    Count("19", "the ultra model, as published, saves of its controllers", "96%", "{:.0%}",
          lambda: 1 - _published_controllers() / (LAYERS * _all_of_one())),
    Count("20", "features that the sparse excitation touches", "205", "{:.0f}",
          lambda: _sparse().n_excited),
    Count("21", "times fewer sines by the sparse excitation", "10", "{:.0f}",
          lambda: WIDTH / _sparse().n_excited),
    Count("21", "times fewer operations of a step of the cell by it, for one token", "10", "{:.0f}",
          lambda: _step_operations(_cell()) / _step_operations(_sparse())),
    Count("23", "numbers of a hierarchical equilibrium", "33", "{:.0f}", _equilibrium),
    Count("24", "times the capacity by a mixture of 8 controllers", "8.0", "{:.1f}",
          lambda: sum(p.numel() for p in _on_meta(_cell(n_expert=8, top_k=2)).parameters()) / _all_of_one()),
    Count("25", "compute of 2 of 8 controllers, of all 8", "25%", "{:.0%}",
          lambda: _mixed(8, 2) / _mixed(8, 8)),
    Count("26", "times the compute of the plain cell, by 2 of 8 controllers", "1.0", "{:.1f}",
          lambda: _mixed(8, 2) / _cell_flops()),
    Count("27", "sum of embedding, controllers and one equilibrium, before", "124.4 M", "{:.1f} M",
          lambda: _total(False) / 1e6),
    Count("27", "the same sum, after", "14.2 M", "{:.1f} M", lambda: _total(True) / 1e6),
    Count("28", "of the parameters of the whole model, ultra as published saves", "89%", "{:.0%}",
          _saving(lambda: _whole("integrator"), lambda: _whole("integrator_ultra"))),
    Count("28", "of the parameters of the whole model, ultra as described saves", "89%", "{:.0%}",
          _saving(lambda: _whole("integrator"), lambda: _whole("integrator_ultra_described"))),
)  # fmt: skip
"""In the order of the guide."""


def count_claims() -> pd.DataFrame:
    """One row a claim: number, claim, claimed, counted (both as text), verdict (holds or refuted)."""
    table = []
    for count in COUNTS:
        counted = count.form.format(count.counted()).replace("-", "−")
        verdict = "holds" if counted == count.claimed else "refuted"
        table.append(
            {
                "number": count.number,
                "claim": count.claim,
                "claimed": count.claimed,
                "counted": counted,
                "verdict": verdict,
            }
        )
    return pd.DataFrame(table)
