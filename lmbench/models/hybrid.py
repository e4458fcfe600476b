"""Stacks of different mixers by a pattern: mostly recurrent layers, now and then attention.

A recurrent layer costs the same at any length and forgets; an attention layer can look anything
up. A few of the latter among the former keep most of both (Lieber et al. 2024, "Jamba"; De et
al. 2024, "Griffin"; Yang, Kautz, Hatamizadeh 2024). The pattern is repeated over the layers
and cut where they end. Every block has a feed-forward, and positions are told to attention alone:
the recurrent mixers know the order without them. Its module is the `Stack` as it is.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from lmbench.layers.shape import Decay, Rule
from lmbench.models.stack import StackConfig

LETTERS = {"A": "attention", "M": "ssm", "R": "recurrence", "D": "linear_attention"}
"""The mixer, by its name in `layers.mixers`, that each letter of a pattern stands for."""


class HybridConfig(StackConfig):
    """Blocks whose mixers follow a pattern; each option is read by the mixers that have it."""

    kind: ClassVar[Literal["hybrid"]] = "hybrid"
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        # The layouts of Griffin, Samba (Ren et al. 2024) and of hybrids with the gated delta rule,
        # all with attention over the whole context.
        "hybrid_recurrence": {"pattern": "RRA", "expand": 1},
        "hybrid_alternating": {"pattern": "MA"},
        "hybrid_delta": {"pattern": "DDA", "expand": 1},
    }

    pattern: str = "MMA"
    """Mixers of the first layers, then again from the start: A attention, M selective state-space
    model, R gated linear recurrence, D linear attention."""
    expand: int = Field(2, ge=1)
    """Inner width of M and R, and width of the values of D, in multiples of d_model."""
    conv_width: int = Field(4, ge=0)
    """Taps of a short causal convolution inside M and R, in front of A and D; 0 is none."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """On A's weights, before the others' output maps, and after the feed-forward, in training."""
    d_state: int = Field(16, ge=1)
    """State of M for each inner feature."""
    rule: Rule = "delta"
    """How D writes to its memory: on top, or over what the key held."""
    decay: Decay = "data"
    """Of D's memory: a factor that the input decides, or none."""

    @field_validator("pattern")
    @classmethod
    def _only_letters(cls, pattern: str) -> str:
        unknown = sorted(set(pattern) - set(LETTERS))
        if unknown or not pattern:
            meant = pattern.upper()
            close = f" Did you mean {meant!r}?" if meant and set(meant) <= set(LETTERS) else ""
            what = f"has {', '.join(map(repr, unknown))}" if unknown else "names no layer"
            accepted = ", ".join(f"{letter} ({mixer})" for letter, mixer in LETTERS.items())
            raise ValueError(f"{pattern!r} {what}; accepted: one or more of {accepted}.{close}")
        return pattern

    def mixers(self) -> tuple[str, ...]:
        """See `StackConfig.mixers`."""
        return tuple(LETTERS[self.pattern[at % len(self.pattern)]] for at in range(self.n_layer))
