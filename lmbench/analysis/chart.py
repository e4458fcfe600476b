"""A figure with its caption, its description in words and its bytes, all deterministic.

`Chart` is a matplotlib Figure that never touches pyplot's global state: it shows itself in
a notebook as SVG (with PNG beside it and the description as alternative text), and gives
the same bytes in every process. Under the axes stands a wrapped caption, above them a
legend in as many columns as fit.
"""

import base64
import functools
import io
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from lmbench.analysis import style

_LINE_HEIGHT = 1.3  # of the font size
_ON_SCREEN = 1.3  # enlargement over the printed size


class Chart(Figure):
    """A matplotlib Figure with `caption` and `alt` texts and deterministic bytes."""

    caption: str = ""
    alt: str = ""

    def svg(self) -> bytes:
        """The figure as SVG: equal bytes for equal figures, in any process."""
        return self._bytes(format="svg", metadata={"Date": None, "Title": self.alt or None})

    def png(self, *, dpi: int = 300) -> bytes:
        """The figure as PNG at `dpi` dots an inch, without the version of matplotlib in it."""
        return self._bytes(format="png", dpi=dpi, metadata={"Software": None})

    def _bytes(self, **how: Any) -> bytes:
        out = io.BytesIO()
        with style.context():
            self.savefig(out, **how)
        return out.getvalue()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        """What a notebook shows and stores."""
        png = base64.b64encode(self.png(dpi=150)).decode()
        # Print sizes are small for a screen, so a notebook shows them enlarged.
        about = {"alt": self.alt, "width": round(self.get_figwidth() * 96 * _ON_SCREEN)}
        data = {"image/svg+xml": self.svg().decode(), "image/png": png}
        return data, dict.fromkeys(data, about)


def new(*, width: float, height: float, panels: int = 1) -> tuple[Chart, list[Axes]]:
    """An empty chart of `width` x `height` inches with panels side by side on one y axis."""
    fig = Chart(figsize=(width, height), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.04)
    axes = fig.subplots(1, panels, sharey=True, squeeze=False)[0]
    fig.align_xlabels(axes)
    return fig, list(axes)


def finish(fig: Chart, *, caption: str, alt: str) -> Chart:
    """Add the caption below and the legend above, settle the layout, then fix it."""
    fig.caption, fig.alt = caption, alt
    lines = wrap(caption, width=fig.get_figwidth() - 0.12)
    width, height = fig.get_size_inches()
    inches = (len(lines) * _LINE_HEIGHT * style.SMALL + 6) / 72 if lines else 0.0
    fig.set_size_inches(width, height + inches)
    bottom = inches / (height + inches)
    fig.get_layout_engine().set(rect=(0, bottom, 1, 1 - bottom))
    if lines:
        fig.text(
            0.05 / width, bottom - 2 / 72 / height, "\n".join(lines), va="top", size=style.SMALL,
            color=style.GREY, linespacing=_LINE_HEIGHT, in_layout=False,
        )  # fmt: skip
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
    for ax in fig.axes:  # the solver's last digits depend on where its objects lie in memory
        ax.set_position([round(value, 6) for value in ax.get_position().bounds])
    for axis in (axis for ax in fig.axes for axis in (ax.xaxis, ax.yaxis)):
        # How many ticks there are would otherwise depend on the settings at the time of drawing.
        axis.set_major_locator(FixedLocator(axis.get_majorticklocs()))
    return fig


def wrap(text: str, *, width: float) -> list[str]:
    """`text` broken into lines of at most `width` inches in the caption's font."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _text_width(longer) <= width * 72:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@functools.lru_cache(maxsize=4096)
def _text_width(text: str) -> float:
    """Points that `text` takes in the small font."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", size=style.SMALL)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def add_legend(fig: Chart, handles: list[Line2D]) -> None:
    """A legend above the axes, in as many columns as the longest name leaves room for."""
    sample = 2.6 if any(handle.get_linestyle() != "None" for handle in handles) else 1.0
    beside = (sample + 0.5 + 1.4) * style.SMALL  # points: the sample line, its gap and the column's
    longest = max(_text_width(handle.get_label()) for handle in handles)
    room = int((fig.get_figwidth() * 72 - 4) / (longest + beside))
    rows = -(-len(handles) // max(1, room))
    fig.legend(
        handles=handles, loc="outside upper center", ncols=-(-len(handles) // rows), handlelength=sample,
        columnspacing=1.4, handletextpad=0.5, borderaxespad=0.2,
    )  # fmt: skip


def legend_handles(looks: Mapping[str, style.Look], *, lines: bool = True) -> list[Line2D]:
    """One legend entry a model: its marker and colour and, where the figure draws lines, its line."""
    return [
        Line2D(
            [],
            [],
            color=look.color,
            marker=look.marker,
            linestyle=look.linestyle if lines else "",
            label=label,
        )
        for label, look in looks.items()
    ]
