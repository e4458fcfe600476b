"""Kernels for linear maps in low precision or with few weights, and where each of them exists.

A converter puts its form of each named linear map into a model, in place, and returns "", or returns
why it cannot and leaves the model alone. Forms that torch has no module for are in
`measure.lowbit_linears`.
"""

import importlib.util
import logging
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from lmbench.measure.lowbit_linears import CsrLinear, HalfLinear, Int8WeightLinear, is_two_of_four


def float32(model: nn.Module, names: Sequence[str]) -> str:
    """As it is."""
    return ""


def bfloat16(model: nn.Module, names: Sequence[str]) -> str:
    """Dense products in bfloat16."""
    return _replace(model, names, lambda linear: HalfLinear(linear, sparse=False))


def int8_dynamic(model: nn.Module, names: Sequence[str]) -> str:
    """torch's eager-mode quantisation, with one range for the activations of a batch."""
    if _device(model).type != "cpu":
        return f"torch's dynamic int8 kernels exist on the CPU, not on {_device(model).type}"
    if (
        importlib.util.find_spec("torch.ao") is None
        or importlib.util.find_spec("torch.ao.quantization") is None
    ):
        return f"torch {torch.__version__} has no torch.ao.quantization; use the form of torchao"
    engines = [name for name in torch.backends.quantized.supported_engines if name != "none"]
    if not engines:
        return f"torch was built without int8 kernels for {platform.machine()}"
    from torch.ao.quantization import quantize_dynamic

    quantize_dynamic(model, set(names), dtype=torch.qint8, inplace=True)
    return ""


def int8_weight_only(model: nn.Module, names: Sequence[str]) -> str:
    """torch's product of floats with 8-bit weights."""
    if "_weight_int8pack_mm" not in dir(torch):
        return f"torch {torch.__version__} has no product with 8-bit weights"
    if _device(model).type not in ("cpu", "mps"):
        return f"torch's product with 8-bit weights exists on the CPU, not on {_device(model).type}"
    return _replace(model, names, Int8WeightLinear)


def torchao_int8_dynamic(model: nn.Module, names: Sequence[str]) -> str:
    """torchao: 8-bit weights, activations of 8 bits with a range for each token."""
    return _torchao(model, names, "Int8DynamicActivationInt8WeightConfig")


def torchao_int8_weight_only(model: nn.Module, names: Sequence[str]) -> str:
    """torchao: 8-bit weights."""
    return _torchao(model, names, "Int8WeightOnlyConfig")


def csr(model: nn.Module, names: Sequence[str]) -> str:
    """The nonzero weights alone."""
    parts = dict(model.named_modules())
    if all(int(parts[name].weight.count_nonzero()) == parts[name].weight.numel() for name in names):
        return "no weight is zero: prune first"
    if _device(model).type == "cpu" and not torch.backends.mkl.is_available():
        return "sparse products on the CPU need torch built with MKL"
    if _device(model).type == "mps":
        return "torch has no sparse products on mps"
    return _replace(model, names, CsrLinear)


def two_of_four(model: nn.Module, names: Sequence[str]) -> str:
    """2:4 products of CUDA devices from compute capability 8, in bfloat16; maps of another pattern stay."""
    device = _device(model)
    if device.type != "cuda":
        return f"2:4 kernels exist on CUDA devices, not on {device.type}"
    if torch.cuda.get_device_capability(device)[0] < 8:
        return f"2:4 kernels need compute capability 8.0, {torch.cuda.get_device_name(device)} has less"
    parts = dict(model.named_modules())
    fitting = [name for name in names if is_two_of_four(parts[name].weight)]
    if not fitting:
        return "no linear map has two zeros in every four neighbours: prune to 2:4 first"
    return _replace(model, fitting, lambda linear: HalfLinear(linear, sparse=True))


FORMS: dict[str, Callable[[nn.Module, Sequence[str]], str]] = {
    "float32": float32,
    "bfloat16": bfloat16,
    "int8 dynamic": int8_dynamic,
    "int8 weight-only": int8_weight_only,
    "torchao int8 dynamic": torchao_int8_dynamic,
    "torchao int8 weight-only": torchao_int8_weight_only,
    "csr": csr,
    "2:4": two_of_four,
}


def _torchao(model: nn.Module, names: Sequence[str], config: str) -> str:
    if importlib.util.find_spec("torchao") is None:
        return "the package torchao is not installed: pip install torchao"
    from torchao import quantization

    chosen = set(names)
    quantization.quantize_(model, getattr(quantization, config)(), filter_fn=lambda _, name: name in chosen)
    return ""


def _replace(model: nn.Module, names: Sequence[str], make: Callable[[nn.Linear], nn.Module]) -> str:
    for name in names:
        model.set_submodule(name, make(model.get_submodule(name)))
    return ""


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@contextmanager
def without_notices() -> Iterator[None]:
    """Inside, notices stay unsaid that quantisation moves to torchao and that sparse tensors are new.

    So do torchao's own, that its libraries for other devices do not load: they hold paths of the machine.
    """
    said = logging.getLogger("torchao")
    level = said.level
    said.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for about in (
                ".*torch.ao.quantization is deprecated",
                ".*Sparse CSR tensor",
                ".*semi.structured",
            ):
                warnings.filterwarnings("ignore", message=about)
            for about in (".*quantized tensor creation functions", ".*PyTorch API of SparseSemiStructured"):
                warnings.filterwarnings("ignore", message=about)
            yield
    finally:
        said.setLevel(level)
