"""How figures look: one colour, marker and line style a model, the same in every figure.

A model keeps its style when others join or leave a figure, and when new models are added
to the suite: well-known names have fixed places, and any other name has a place computed
from its letters alone. Colours are seaborn's colour-blind-safe set without its grey and
its two palest entries, black, and for the later models four dark ones of Paul Tol's "muted"
set; no two models share colour and marker, and markers and dashes tell them apart in grey print.
Reference predictors are grey and dashed. Sizes are those of print: a column is 3.4 inches wide, a
page 7.0. SVG is deterministic (fixed salt, no date), text is drawn as outlines of a font
that ships with matplotlib, so a figure looks the same on every machine.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

COLUMN_WIDTH, PAGE_WIDTH = 3.4, 7.0  # inches
MANY = 8  # lines of one figure, above which a column is too narrow to tell them apart
FONT_SIZE, SMALL = 8.0, 7.0  # points
INK, GREY, PALE = "#222222", "#6b6b6b", "#d0d0d0"
REFERENCE = {"color": GREY, "linestyle": (0, (4, 2.5)), "linewidth": 0.8}

_SALT = "lmbench"
# Places in seaborn's "colorblind" palette: blue, orange, green, vermilion, pink, brown, sky.
_COLOURS = (0, 1, 2, 3, 4, 5, 9)
# Places beyond the palette, which only known models take, so that they move no other name.
_BLACK, _INDIGO, _TEAL, _OLIVE, _WINE = range(len(_COLOURS), len(_COLOURS) + 5)
_BEYOND = (INK, "#332288", "#44aa99", "#999933", "#882255")
_SOLID, _DASH, _DASHDOT, _DOT = "-", (0, (5, 2)), (0, (6, 2, 1.5, 2)), (0, (1.5, 1.5))
# name -> (place among the colours, marker, line); append, never reorder.
_KNOWN: dict[str, tuple[int, Any, Any]] = {
    "linear": (6, "s", _DASH),
    "mlp": (1, "^", _DASHDOT),
    "self_attention": (2, "D", _DOT),
    "transformer": (0, "o", _SOLID),
    "transformer_modern": (3, "v", _SOLID),
    "transformer_rope": (4, "P", _DASH),
    "transformer_nanogpt": (5, (4, 1, 0), _DASH),  # stars of 4 and 6 points
    "transformer_fast": (_BLACK, (6, 1, 0), _SOLID),
    "lstm": (_WINE, "s", _SOLID),
    "gru": (_WINE, "D", _DASH),
    "ssm": (_TEAL, "o", _SOLID),
    "linear_recurrence": (_TEAL, "^", _DASHDOT),
    "linear_attention": (_INDIGO, "v", _DASH),
    "delta_net": (_INDIGO, "s", _DOT),
    "gated_linear_attention": (_INDIGO, "^", _DASHDOT),
    "plain_linear_attention": (_INDIGO, "D", _DASH),
    "hybrid": (_OLIVE, "P", _SOLID),
    "moe": (_OLIVE, (4, 1, 0), _DASHDOT),
    "early_exit": (_BLACK, "^", _DOT),
    "integrator": (_BLACK, "D", _DASH),
    "depth_recurrent": (5, "v", _DASHDOT),
    "huggingface": (6, "P", _DOT),
    "transformer_prenorm": (0, "s", _DASH),
    "transformer_conv": (1, "P", _SOLID),
}
# Markers that no known model uses, so that an unknown one is never taken for a known one.
_OTHER_MARKERS = ("X", "<", ">", "h", "p", "*", "d")
_OTHER_LINES = (_DASH, _DASHDOT, _DOT, _SOLID)


def width_for(n: int) -> float:
    """Inches for a figure of n lines: a column, or a page where they are many."""
    return PAGE_WIDTH if n > MANY else COLUMN_WIDTH


class Look(NamedTuple):
    """How one model is drawn: hex colour, matplotlib marker, matplotlib line style."""

    color: str
    marker: Any
    linestyle: Any


def looks(labels: Iterable[str], *, own: Mapping[str, Look] | None = None) -> dict[str, Look]:
    """The look of each label, in drawing order: the known models first, then the others by name.

    A name that is not known takes the place that the sum of its letters gives (each times its
    position; not `hash`, which changes from process to process). If that place is taken by
    another unknown name of the same call, the later name moves to the next free one. `own` are looks of
    names that are no models, such as arms; these come first.
    """
    wanted = set(labels)
    given = {name: look for name, look in (own or {}).items() if name in wanted}
    wanted -= set(given)
    places: dict[str, int] = {}
    count = len(_COLOURS) * len(_OTHER_MARKERS)
    for name in sorted(wanted - set(_KNOWN)):
        place = sum(i * ord(letter) for i, letter in enumerate(name, start=1)) % count
        while place in places.values() and len(places) < count:
            place = (place + 1) % count
        places[name] = place
    colours = _palette()
    known_colours = [*colours, *_BEYOND]
    known = {
        name: Look(known_colours[c], marker, line)
        for name, (c, marker, line) in _KNOWN.items()
        if name in wanted
    }
    return given | known | {name: _other(place, colours) for name, place in places.items()}


def _other(place: int, colours: list[str]) -> Look:
    marker = place // len(_COLOURS)
    return Look(
        colours[place % len(_COLOURS)], _OTHER_MARKERS[marker], _OTHER_LINES[marker % len(_OTHER_LINES)]
    )


def _palette() -> list[str]:
    from seaborn import color_palette

    colours = color_palette("colorblind").as_hex()
    return [colours[i].lower() for i in _COLOURS]


def context() -> Any:
    """matplotlib settings under which figures are made and written; use as `with context():`."""
    import matplotlib
    from seaborn import axes_style

    return matplotlib.rc_context(rc=axes_style("ticks") | _settings())


def _settings() -> dict[str, Any]:
    return {
        "svg.hashsalt": _SALT,
        "svg.fonttype": "path",
        "savefig.dpi": 300,
        "font.family": ["sans-serif"],
        "font.sans-serif": ["DejaVu Sans"],
        "mathtext.fontset": "dejavusans",
        # Hinted glyphs are up to 5% wider at some resolutions, and text would leave the canvas.
        "text.hinting": "no_hinting",
        "font.size": FONT_SIZE,
        "axes.labelsize": FONT_SIZE,
        "axes.titlesize": FONT_SIZE,
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
        "legend.fontsize": SMALL,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.minor.width": 0.4,
        "ytick.minor.width": 0.4,
        "xtick.major.size": 3.0,
        "ytick.major.size": 3.0,
        "xtick.minor.size": 1.6,
        "ytick.minor.size": 1.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": True,
        "lines.linewidth": 1.2,
        "lines.markersize": 4.5,
        "legend.frameon": False,
    }
