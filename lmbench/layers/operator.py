"""Operators of our own, seen by torch as one step: by autograd, by vmap, by compilers.

`torch.library.custom_op` does the same and more, but its first call imports torch's compiler,
close to a second that a short run would spend for nothing.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

NAMESPACE = "lmbench"


class Operator:
    """An operator with its schema, such as "double(Tensor x) -> Tensor", and its implementation.

    Called like a function. What torch needs to look through it is registered by decorators,
    whose functions are those of `torch.library` (register_fake, register_autograd, register_vmap).
    """

    def __init__(self, schema: str, implementation: Callable[..., Any]) -> None:
        name, _, signature = schema.partition("(")
        self.name = f"{NAMESPACE}::{name}"
        torch.library.define(self.name, f"({signature}")
        torch.library.impl(self.name, ("cpu", "cuda"), implementation)
        self.overload = getattr(getattr(torch.ops, NAMESPACE), name).default

    def __call__(self, *inputs: Any) -> Any:
        return self.overload(*inputs)

    def fake(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Shapes and dtypes of the result, without values."""
        return torch.library.register_fake(self.name, function)

    def vmap(self, function: Callable[..., Any]) -> None:
        """`function(info, in_dims, *inputs)` gives the result for a stack of inputs, and its dims."""
        torch.library.register_vmap(self.name, function)

    def autograd(self, backward: Callable[..., Any], save: Callable[..., None]) -> None:
        """`save(ctx, inputs, output)` in the forward pass, `backward(ctx, *grads)` later."""
        torch.library.register_autograd(self.name, backward, setup_context=save)


def operator(schema: str) -> Callable[[Callable[..., Any]], Operator]:
    """Make an `Operator` of the decorated function."""
    return lambda implementation: Operator(schema, implementation)


def with_gradient(
    op: Operator, backward: Callable[..., Any], save: Callable[..., None]
) -> Callable[..., Tensor]:
    """The operator with its gradient, in the two forms that torch needs of it; of the first order only.

    Compilers look through an operator's own gradient, and lose a `Function` under vmap;
    `torch.func.grad` takes the `Function` alone. Of what `save` keeps, `backward` finds the saved tensors.
    """
    op.autograd(backward, save)

    class Function(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs: Tensor) -> Tensor:
            return op(*inputs)

        @staticmethod
        def setup_context(ctx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            save(ctx, inputs, output)

        @staticmethod
        def backward(ctx, grad: Tensor) -> Any:
            saved = ctx.saved_tensors  # once: where passes are made again, they are gone afterwards
            with torch.no_grad():
                found = backward(SimpleNamespace(saved_tensors=saved), grad)
            made = iter(_FirstOrder.apply(*(x for x in found if x is not None), grad, *saved))
            return tuple(None if x is None else next(made) for x in found)

    return lambda *inputs: (op if torch.compiler.is_compiling() else Function.apply)(*inputs)


class _FirstOrder(torch.autograd.Function):
    """Gradients as they are, behind which there are no further ones: it would else be zero in silence.

    The inputs are the gradients and all that they were made of; more outputs than gradients are not read.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.view_as(x) for x in inputs)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx, *grads: Tensor) -> None:
        raise NotImplementedError("a fused operator has gradients of the first order only")


def fold(x: Tensor, dim: int | None, replicas: int) -> Tensor:
    """(R, N, ...) as (R N, ...), for rules of vmap; what all replicas share (`dim` None) is repeated."""
    x = x.unsqueeze(0).expand(replicas, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.flatten(0, 1)


def launched_on(x: Tensor) -> AbstractContextManager:
    """Inside, Triton launches on the GPU of x, and not on the current one; its interpreter needs none."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
