"""What is measured on a device: seconds and bytes, which are those of the device that env.json names.

The same question on another device is another record's answer, and no table mixes them. What a config
holds decides what is executed, and how often it is timed.
"""

from typing import ClassVar, Literal

from pydantic import Field

from lmbench.config import Config, one_of
from lmbench.run import RunDigest


class Speed(Config):
    """Seconds that an optimizer step of a run takes, on the device that env.json names."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["speed"]] = "speed"

    run: one_of("run")
    """What is timed; its steps do not matter."""


class Latency(Config):
    """Seconds that a model takes to answer, and the memory it takes, on the device that env.json names."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["latency"]] = "latency"

    model: one_of("model")
    """What is timed; weights do not matter."""
    batch_sizes: tuple[int, ...]
    """Texts that are answered together."""
    lengths: tuple[int, ...]
    """Tokens of context, at most the model's seq_len."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Weights and arithmetic."""
    repeats: int = Field(15, ge=1)
    """Timings of each, of which the median and the range are kept."""
    warm_up: int = Field(3, ge=0)
    """Timings before them, which are thrown away."""


class Activations(Config):
    """Bytes that a training step holds, on the device that env.json names."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["activations"]] = "activations"

    model: one_of("model")
    """What is counted; weights do not matter."""
    batch_size: int = Field(ge=1)
    """Sequences of seq_len tokens."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Weights and arithmetic."""


class LowBit(Config):
    """Seconds of a finished run's forward pass in each low-precision or sparse form that exists, and its
    multiply-adds, on the device that env.json names."""

    role: ClassVar[str] = "run"
    kind: ClassVar[Literal["low_bit"]] = "low_bit"

    run: RunDigest
    """Digest of the run, whose reported weights are timed."""
    methods: tuple[one_of("method"), ...] = ()
    """Applied to the weights first, as a quantisation or pruning after training; empty is as they are."""
    batch_sizes: tuple[int, ...] = (1, 64)
    """Texts that are read together."""
    length: int | None = Field(None, ge=1)
    """Tokens of each, at most the model's seq_len; None is that many."""
    repeats: int = Field(15, ge=1)
    """Timings of each, of which the median and the range are kept."""
    warm_up: int = Field(3, ge=0)
    """Timings before them, which are thrown away."""
