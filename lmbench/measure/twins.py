"""A model's twins: what it is compared with, at its own sizes, its parameters and its FLOPs.

The twin of an integrator is the transformer that is left when the cell and the norm in front of
it are taken out of every block: pre-norm, with the same attention, feed-forward, norms, positions,
dropout, head and start of the embedding. Only the matrices inside the blocks start differently,
as GPT-2's do rather than as torch's parts. At equal parameters or FLOPs it is wider.
"""

from lmbench.config import make
from lmbench.measure.budget import Match, equal_flops, equal_parameters, flops_per_token
from lmbench.measure.flops import parameters
from lmbench.models.base import ModelConfig

SHARED = ("vocab_size", "seq_len", "d_model", "n_layer", "n_head", "d_ff", "dropout", "norm")
SHARED += ("positions", "activation", "qk_norm", "bias", "tied_head")


def transformer_of(config: ModelConfig) -> ModelConfig:
    """The transformer with the sizes and choices of an integrator, without its cell."""
    fields = {name: getattr(config, name) for name in SHARED}
    return make("model", "transformer", norm_order="pre", init="gpt2", residual_dropout=True, **fields)


def twins(config: ModelConfig) -> dict[str, Match]:
    """The transformer with an integrator's sizes, with its parameters, and with its FLOPs per token.

    Returns:
        Name to the model and how far it misses what is equal, relative; 0 for equal sizes.
    """
    twin = transformer_of(config)
    return {
        "transformer, equal sizes": Match(config=twin, miss=0.0),
        "transformer, equal parameters": equal_parameters(twin, target=parameters(config).total),
        "transformer, equal FLOPs": equal_flops(twin, target_per_token=flops_per_token(config)),
    }
