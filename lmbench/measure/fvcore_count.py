"""What fvcore says about a forward pass, beside what is right for each operation that it sees.

fvcore counts a multiply-add once and the forward only, has no formula for attention's scores,
fused attention, recurrent networks or operators of our own, and does count LayerNorm. It is a
cross-check only, imported when asked for.

Its handles see one operation of a TorchScript trace at a time. So the right FLOPs are added up over
the same kind of trace, operation by operation, from the shapes that stand in it.
"""

import inspect
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lmbench.layers.fused import flop_formulas
from lmbench.layers.shape import Readout
from lmbench.models.base import LanguageModel, ModelConfig

_TRACED = {"conv": "aten::_convolution"}  # what fvcore calls otherwise than a trace does


class FvcoreCount(NamedTuple):
    """What fvcore says about one forward pass, in its own unit of one per multiply-add."""

    total: int
    layer_norm: int
    """Part of the total that is LayerNorm, 5 per feature (4 without gain and bias)."""
    unsupported: Mapping[str, int]
    """Operations that it counted as 0, with how often each occurs."""
    by_operator: Mapping[str, tuple[int, int]]
    """What fvcore counts for an operation, and the right FLOPs of it (2 per multiply-add)."""


def fvcore_flops(config: ModelConfig, *, readout: Readout, batch_size: int = 1) -> FvcoreCount:
    """fvcore's count of a forward pass, traced on the CPU.

    Raises:
        ValueError: fvcore is not installed.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # It rests on TorchScript, which announces its end on import and on every trace.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)  # it reads deprecated properties of modules, too
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # sizes are fixed here, and may be
        try:
            from fvcore.nn import FlopCountAnalysis
        except ImportError:
            raise ValueError("fvcore is not installed; install it with: pip install fvcore") from None
        # On the CPU: sizes are tensors in a trace, which convolutions on the meta device refuse.
        module = _TensorsOnly(config.build().eval(), readout=readout).requires_grad_(False)
        tokens_BT = torch.zeros(batch_size, config.seq_len, dtype=torch.long)
        analysis = FlopCountAnalysis(module, tokens_BT)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        theirs = {name: int(count) for name, count in analysis.by_operator().items()}
        # As a function, whose weights are constants: of a module all attributes would be looked at.
        traced = torch.jit.trace(lambda ids_BT: module(ids_BT), tokens_BT, check_trace=False)
        right = _right_by_operator(traced.inlined_graph)
    named = {_TRACED.get(name, f"aten::{name}"): count for name, count in theirs.items()}
    return FvcoreCount(
        total=sum(theirs.values()),
        layer_norm=theirs.get("layer_norm", 0),
        unsupported=dict(analysis.unsupported_ops()),
        by_operator={name: (named.get(name, 0), right[name]) for name in sorted({*named, *right})},
    )


def _right_by_operator(graph: Any) -> Counter:
    """FLOPs of each operation in which a trace can hold products, 2 per multiply-add."""
    right: Counter = Counter()
    formulas = _formulas()
    for node in _nodes(graph):
        if node.kind() in formulas:
            inputs = [_value(x) for x in node.inputs()]
            right[node.kind()] += formulas[node.kind()](inputs, _value(next(node.outputs())))
    return right


def _nodes(graph: Any) -> Iterator[Any]:
    """All operations of a trace, those inside functions of autograd too."""
    for node in graph.nodes():
        yield node
        if node.hasAttribute("Subgraph"):
            yield from _nodes(node.g("Subgraph"))


def _value(node: Any) -> Any:
    """A tensor's shape, a list of such, or a constant of the trace; None where it is none of them."""
    if node.isCompleteTensor():
        return torch.Size(node.type().sizes())
    if node.node().kind() == "prim::ListConstruct":
        return [_value(part) for part in node.node().inputs()]
    return node.toIValue() if node.node().kind() == "prim::Constant" else None


class _TensorsOnly(nn.Module):
    """A model as TorchScript can trace it: a tensor in, tensors out. What is not put out, it drops."""

    def __init__(self, model: LanguageModel, *, readout: Readout) -> None:
        super().__init__()
        self.model, self.readout = model, readout

    def forward(self, tokens_BT: Tensor) -> tuple[Tensor, ...]:
        output = self.model(tokens_BT, readout=self.readout)
        return output.logits_BTV, *(logits_BTV for _, logits_BTV in output.exits)


# ------------------------------------------------------------------ the right FLOPs, by shapes

Formula = Callable[[list[Any], torch.Size], int]


def _formulas() -> dict[str, Formula]:
    """FLOPs of each operation in which a trace can hold products: f(inputs, output)."""
    ours = {str(packet).replace(".", "::"): _shapes_only(f) for packet, f in flop_formulas().items()}
    return ours | {
        "aten::matmul": lambda inputs, out: 2 * math.prod(out) * inputs[0][-1],
        "aten::mm": lambda inputs, out: 2 * math.prod(out) * inputs[0][-1],
        "aten::bmm": lambda inputs, out: 2 * math.prod(out) * inputs[0][-1],
        "aten::linear": lambda inputs, out: 2 * math.prod(out) * inputs[0][-1],
        "aten::addmm": lambda inputs, out: 2 * math.prod(out) * inputs[1][-1],
        "aten::baddbmm": lambda inputs, out: 2 * math.prod(out) * inputs[1][-1],
        # The kernel's (O, C, W): each output is a sum over C W products.
        "aten::_convolution": lambda inputs, out: 2 * math.prod(out) * math.prod(inputs[1][1:]),
        "aten::einsum": _einsum,
    }


def _shapes_only(formula: Callable[..., int]) -> Formula:
    """A formula for torch's counter, as one of a trace; its keywords other than out_shape decide nothing."""
    keywords = [p.name for p in inspect.signature(formula).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def from_trace(inputs: list[Any], out: torch.Size) -> int:
        shapes = [x for x in inputs if isinstance(x, torch.Size)]
        return formula(*shapes, **dict.fromkeys(keywords))

    return from_trace


def _einsum(inputs: list[Any], out: torch.Size) -> int:
    """Of two factors: a product where a letter that both have is summed; else element-wise, so 0."""
    left, right = inputs[0].replace(" ", "").partition("->")[0].split(",")
    sizes = dict(zip(left + right, [*inputs[1][0], *inputs[1][1]], strict=True))
    summed = set(left) & set(right) - set(inputs[0].partition("->")[2])
    return 2 * math.prod(out) * math.prod(sizes[letter] for letter in summed) if summed else 0
