"""Numbers as words: rounded as their interval allows, and never more than the table holds.

Estimates are rounded to two digits of the interval's half-width. Minus is the true sign.
"""

import math

MAX_DECIMALS = 6


def in_digits(value: float, low: float, high: float, *, signed: bool = False) -> tuple[str, str, str]:
    """A value and its interval, rounded alike; without an interval four digits and two empty strings.

    Decimals are added until no bound that is not 0 prints as 0.
    """
    sign = "+" if signed else ""
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{value:{sign}.4g}".replace("-", "−"), "", ""
    half = (high - low) / 2
    scale = half if half > 0 else abs(value) / 100
    decimals = max(0, 1 - math.floor(math.log10(scale))) if scale > 0 else 0
    while decimals < MAX_DECIMALS and any(x != 0 and round(x, decimals) == 0 for x in (low, high)):
        decimals += 1
    decimals = min(decimals, MAX_DECIMALS)
    return tuple(f"{x:{sign}.{decimals}f}".replace("-", "−") for x in (value, low, high))


def seeds(n: int) -> str:
    """`"1 seed"`, `"5 seeds"`."""
    return "1 seed" if n == 1 else f"{int(n)} seeds"


def difference_in_words(
    difference: float, low: float, high: float, p_holm: float, n: int, *, unit: str, confidence: float
) -> str:
    """`−0.120 bits per byte (95% interval −0.150 to −0.090, Holm's p = 0.003, 5 seeds)`."""
    value, bottom, top = in_digits(difference, low, high, signed=True)
    if not bottom:
        return f"{value} {unit} ({seeds(n)})"
    spread = f"{percent(confidence)} interval {bottom} to {top}"
    return f"{value} {unit} ({spread}, Holm's {p_value(p_holm)}, {seeds(n)})"


def p_value(p: float) -> str:
    """`p = 0.012`, and below a thousandth `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def percent(confidence: float) -> str:
    """`0.95` as `95%`."""
    return f"{100 * confidence:g}%"


def capital(text: str) -> str:
    """The text with its first letter large; names within it are left alone."""
    return text[:1].upper() + text[1:]
