"""Which weights of a model a method acts on, by the names that people use for its parts.

    all           every matrix and table; vectors (biases, gains, steps) never belong to a part
    body          all but embedding and head; in a model that is nothing but these, the head
    embedding     tables of tokens and of positions; with a tied head that matrix too
    head          maps to the vocabulary
    mixer         what carries something from position to position: attention, recurrences, windows
    attention     those of the mixers that are attention
    q, k, v, o    rows of attention's packed input map, and its output map, as tensors of their own
    feedforward   what computes each position by itself, experts and their router too

Every other name is a pattern of the dotted names of weights, as a shell reads it: `*` is
anything, so `blocks.0.*` is all of the first block.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator
from torch import nn
from torch.nn.utils import parametrize

from lmbench.errors import unknown
from lmbench.layers.attention import CausalSelfAttention
from lmbench.layers.recurrence import BlockDiagonal
from lmbench.models.base import LanguageModel

ROLES = ("embedding", "mixer", "feedforward", "head")
PROJECTIONS = ("q", "k", "v", "o")
NAMES = ("all", "body", *ROLES, "attention", *PROJECTIONS)
_POSITION_WISE = {"feedforward", "mlp", "hidden"}  # components of names, ours and of Hugging Face's models
_TABLES = {"wpe", "embed_positions"}
_ATTENTION = {"attention", "attn", "self_attn"}


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


PartNames = Annotated[tuple[str, ...], BeforeValidator(_several)]
"""Type of a field of such names; one may stand by itself."""


class Part(NamedTuple):
    """A weight of a model, or some rows of one."""

    weight: str
    """Dotted name in the plain model."""
    rows: tuple[int, int] | None
    """First row and row after the last along the first axis; None is all."""
    role: str
    """One of `ROLES`."""
    input_first: bool
    """Whether it is stored as (inputs, outputs)."""

    @property
    def label(self) -> str:
        """For tables: the name, with the rows where these are not all."""
        return self.weight if self.rows is None else f"{self.weight}[{self.rows[0]}:{self.rows[1]}]"


def parts_of(model: LanguageModel, names: Sequence[str]) -> tuple[Part, ...]:
    """The parts of a model that one of `names` means, in the model's order, none of them twice.

    What is named as a whole and in parts is taken as a whole.

    Raises:
        ValueError: a name that means nothing in this model.
    """
    every = matrices(model)
    found: dict[str, list[Part]] = {part.weight: [] for part in every}
    for name in names:
        meant = [one for part in every for one in _meant(model, part, name)]
        if name == "body" and not meant:
            meant = [part for part in every if part.role == "head"]
        if not meant:
            raise ValueError(unknown("part of this model", name, _names(model, every)))
        for one in meant:
            found[one.weight].append(one)
    chosen: list[Part] = []
    for parts in found.values():
        whole = [part for part in parts if part.rows is None]
        chosen += whole[:1] or sorted(set(parts), key=lambda part: part.rows or ())
    return tuple(chosen)


def matrices(model: LanguageModel) -> tuple[Part, ...]:
    """Every weight of two axes or more, whether parametrized already or not."""
    found, seen = [], set()
    for path, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList) or ".parametrizations." in f".{path}.":
            continue
        changed = list(module.parametrizations) if parametrize.is_parametrized(module) else []
        for leaf, value in [
            *((leaf, module.parametrizations[leaf].original) for leaf in changed),
            *module.named_parameters(recurse=False),
        ]:
            if value.ndim >= 2 and id(value) not in seen:
                seen.add(id(value))
                name = f"{path}.{leaf}" if path else leaf
                input_first = isinstance(module, BlockDiagonal) or is_conv1d(module)
                found.append(Part(name, None, _role(name, model.ends), input_first))
    return tuple(found)


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is the transposed linear map of Hugging Face's GPT-2, whose package may be absent."""
    return type(module).__name__.endswith("Conv1D")


def _role(name: str, ends: Sequence[str]) -> str:
    path = name.split(".")[:-1]
    if path[0] in ends:
        return "embedding" if path[0] == "embedding" else "head"
    if _TABLES & set(path):
        return "embedding"
    return "feedforward" if _POSITION_WISE & set(path) else "mixer"


def _meant(model: LanguageModel, part: Part, name: str) -> list[Part]:
    """What of one weight a name means."""
    path = part.weight.split(".")
    in_body = part.role in ("mixer", "feedforward")
    if name in ("all", part.role) or (name == "body" and in_body) or fnmatchcase(part.weight, name):
        return [part]
    if name == "attention":
        return [part] if _ATTENTION & set(path) else []
    if name not in PROJECTIONS:
        return []
    module = _attention(model, part)
    if module is None:
        return []
    if path[-2] == "out_proj":
        return [part] if name == "o" else []
    if path[-2] != "in_proj" or name == "o":
        return []
    ends = list(accumulate((n * module.d_head for n in module.heads), initial=0))
    at = PROJECTIONS.index(name)
    return [part._replace(rows=(ends[at], ends[at + 1]))]


def _attention(model: nn.Module, part: Part) -> CausalSelfAttention | None:
    """The attention that a weight is the input or output map of."""
    path = part.weight.split(".")
    parent = model.get_submodule(".".join(path[:-2])) if len(path) > 2 else None
    return parent if isinstance(parent, CausalSelfAttention) else None


def _names(model: nn.Module, every: Sequence[Part]) -> set[str]:
    """The names, and one weight of each kind of place, that mean something in this model."""
    named = {name for name in NAMES if any(_meant(model, part, name) for part in every)}
    return named | {re.sub(r"\.\d+\.", ".*.", part.weight) for part in every}
