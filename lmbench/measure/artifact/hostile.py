"""Building the model that a file names, when the file may come from anyone.

The config decides what is built, so it is checked before: no number, in whatever form a config would
take it, may be larger than any real model needs, nothing may name a folder of this machine, and the
model is first built on the meta device, where tensors take no memory, under a guard that stops it when
it registers more parts than a model of the suite has. Only then are the shapes known that everything
else is held against.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as registry

from lmbench.config import from_dict
from lmbench.models.base import ModelConfig

LARGEST = 1 << 20  # of a number in a config: rows of a table, tokens of context
LARGEST_COUNT = 256  # of a field whose name starts with "n_": layers, heads, experts, repetitions
_PARTS_PER_TENSOR = 32  # modules, buffers and parameters beside each parameter; the suite's have at most ten


def trusted_config(role: str, data: Mapping[str, Any]) -> Any:
    """The config that a file describes.

    Raises:
        ValueError: no config, numbers beyond any model's, or one that would read a folder of this machine.
    """
    _check_values(data)
    try:
        return from_dict(role, data)
    except ValueError:
        raise
    except Exception as error:
        # A validator that was never shown such values; what it raises depends on the kind.
        raise ValueError(f"the artifact's {role} is not valid: {type(error).__name__}") from None


def shapes_of(
    model: ModelConfig, *, max_bytes: int, n_tensors: int | None = None
) -> dict[str, tuple[int, ...]]:
    """Parameter name to shape, each parameter once, without memory for them.

    Args:
        n_tensors: parameters that it is said to have, beyond which it is not built; None trusts it.

    Raises:
        ValueError: a model whose parameters and tables take more than max_bytes, or that cannot be built.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), _guarded(n_tensors):
            built = model.build()
    except ValueError:
        raise
    except Exception as error:
        # Sizes that torch refuses, each in its own way.
        raise ValueError(
            f"the model {model.name} of the artifact cannot be built: {type(error).__name__}"
        ) from None
    tensors = [*built.parameters(), *built.buffers()]
    held = sum(math.prod(tensor.shape) * tensor.element_size() for tensor in tensors)
    if held > max_bytes:
        raise ValueError(f"the model {model.name} takes {held:,} bytes, more than max_bytes = {max_bytes:,}")
    return {name: tuple(parameter.shape) for name, parameter in built.named_parameters()}


def _check_values(value: Any, *, largest: int = LARGEST) -> None:
    """Walk a config of the file; its depth is bounded by the reader of the header."""
    if isinstance(value, Mapping):
        if value.get("kind") == "huggingface" and value.get("path"):
            raise ValueError("the model needs a folder beside the artifact, which must stand by itself")
        for name, held in value.items():
            _check_values(held, largest=LARGEST_COUNT if name.startswith("n_") else LARGEST)
    elif isinstance(value, list | tuple):
        for held in value:
            _check_values(held, largest=largest)
    elif isinstance(value, str) and _is_numeric(value):
        # A config would read it as the number that it spells, past the limit.
        raise ValueError(f"the config holds {value[:40]!r}, in an artifact a number is not written as text")
    elif isinstance(value, int | float) and not abs(value) <= largest:  # so that NaN is refused too
        raise ValueError(f"the config holds {value}, in an artifact such a number is at most {largest:,}")


def _is_numeric(text: str) -> bool:
    """Whether anything could read the text as a number: Python accepts all that pydantic does."""
    try:
        float(text)
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def _guarded(n_tensors: int | None) -> Iterator[None]:
    """Inside, a model may register so many parts and no more."""
    if n_tensors is None:
        yield
        return
    count, most = 0, _PARTS_PER_TENSOR * (n_tensors + 1)

    def seen(owner: nn.Module, name: str, part: Any) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise ValueError(f"the artifact's model has more parts than its {n_tensors:,} tensors can fill")

    register = (
        registry.register_module_parameter_registration_hook,
        registry.register_module_buffer_registration_hook,
        registry.register_module_module_registration_hook,
    )
    hooks = [one(seen) for one in register]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
