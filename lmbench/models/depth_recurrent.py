"""Depth recurrence: k stored blocks executed n times over, so depth costs FLOPs but no parameters.

    x = block_i(x)            for the blocks in front of the loop, once each
    x = block_i(x + e_n)      for the looped blocks in order, n = 1 .. n_loop times over
    x = block_i(x)            for the blocks behind it, once each

By default all blocks are looped (Dehghani et al. 2019, "Universal Transformers", without
their halting; Lan et al. 2020, ALBERT). Looping some middle blocks, from a later step of
the training on, is what the records of OpenAI's Parameter Golf (2026) do. One loop without
e_n is the transformer of the same fields. Every other option of a stack applies: weights of
skips belong to executed places, all other weights to stored blocks. Legend: B batch, T
position, C model width.
"""

from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from lmbench.layers.block import Block
from lmbench.layers.shape import BlockShape
from lmbench.layers.shared import dropouts_of, shared_view
from lmbench.layers.vectors import Vectors
from lmbench.models.base import ModelConfig
from lmbench.models.stack import StackConfig
from lmbench.models.stack_module import Stack

NEVER = 1.0
"""`loop_from` with which the loops stay off."""


class DepthRecurrentConfig(StackConfig):
    """A stack of attention blocks of which some are executed n_loop times."""

    kind: ClassVar[Literal["depth_recurrent"]] = "depth_recurrent"

    n_layer: int = Field(4, ge=1)
    """Stored blocks."""
    n_loop: int = Field(3, ge=1)
    """Passes through the looped blocks; 1 is the plain stack."""
    loop_first: int = Field(0, ge=0)
    """The first looped block, counted from 0."""
    loop_last: int | None = Field(None, ge=0)
    """The last looped block; None is the last of all."""
    loop_from: float = Field(0.0, ge=0, le=1)
    """Share of the training steps after which the loops are switched on; before, each block runs once.
    0 is from the start, 1 leaves them off."""
    loop_embedding: bool = False
    """A learned vector for each pass, from 0 on, is added to the stream at its start."""

    @model_validator(mode="after")
    def _loop_fits(self) -> Self:
        ends = (("loop_first", self.loop_first, 0), ("loop_last", self.last, self.loop_first))
        for name, value, least in ends:
            if not least <= value < self.n_layer:
                raise ValueError(
                    f"{name} = {value} is not among the n_layer = {self.n_layer} stored blocks from "
                    f"{least} on; accepted: {least} to {self.n_layer - 1}"
                )
        return self

    @property
    def last(self) -> int:
        """The last looped block."""
        return self.n_layer - 1 if self.loop_last is None else self.loop_last

    def block_shape(self) -> BlockShape:
        """As in every stack, with the executed depth for the "gpt2" start."""
        return replace(super().block_shape(), n_layer=len(self.longest_order()))

    def longest_order(self) -> tuple[int, ...]:
        """With the loops on."""
        looped = tuple(range(self.loop_first, self.last + 1))
        return (
            *range(self.loop_first),
            *(looped * self.n_loop),
            *range(self.last + 1, self.n_layer),
        )

    def order(self) -> tuple[int, ...]:
        """With the loops on, unless they stay off."""
        return super().order() if self.loop_from == NEVER else self.longest_order()

    def stages(self) -> tuple[tuple[float, ModelConfig], ...]:
        """Each block once, then the loops."""
        if self.loop_from in (0.0, NEVER):
            return ((0.0, self),)
        return ((0.0, self.replace(loop_from=NEVER)), (self.loop_from, self))

    def build(self) -> "DepthRecurrent":
        """The module with freshly drawn weights."""
        return DepthRecurrent(self)


class DepthRecurrent(Stack):
    """A `Stack` that goes through some of its blocks again, each time with dropout of its own."""

    def __init__(self, config: DepthRecurrentConfig) -> None:
        super().__init__(config)
        order = config.longest_order()
        again = [at for at, stored in enumerate(order) if stored in order[:at]]
        # A list: views are no parts of the module, or their weights would be saved once more.
        self._path: list[Block] = [
            shared_view(self.blocks[stored]) if at in again else self.blocks[stored]
            for at, stored in enumerate(order)
        ]
        self.passes = nn.ModuleList([nn.ModuleList(dropouts_of(self._path[at])) for at in again])
        """Dropouts of all executions after a block's first."""
        self.n_looped, self.loop_first = config.last + 1 - config.loop_first, config.loop_first
        vectors = {"width": config.d_model, "value": 0.0}
        self.loops = Vectors(config.n_loop, **vectors) if config.loop_embedding else None

    def executed(self) -> list[Block]:
        """See `Stack.executed`."""
        return self._path if len(self.order) == len(self._path) else list(self.blocks)

    def read(self, at: int, x_BTC: Tensor, earlier: list[Tensor]) -> Tensor:
        """See `Stack.read`; a pass begins with its vector."""
        number, place = divmod(at - self.loop_first, self.n_looped)
        n_passes = 1 + (len(self.order) - len(self.blocks)) // self.n_looped
        if self.loops is not None and place == 0 and 0 <= number < n_passes:
            x_BTC = x_BTC + self.loops(number)
        return super().read(at, x_BTC, earlier)

    def enter(self, stage: ModelConfig) -> bool:
        """See `LanguageModel.enter`."""
        assert isinstance(stage, DepthRecurrentConfig)
        changed, self.order = stage.order() != self.order, stage.order()
        return changed

    def train(self, mode: bool = True) -> Self:
        """Also of the views, which are no parts of the module."""
        for block in self._path:
            block.train(mode)
        return super().train(mode)
