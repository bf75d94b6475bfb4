"""From a matplotlib figure to an SVG that stands in a page: in its colours, the same bytes always.

Colours are names here, `INK` and the like, and become variables of the page's style sheet, so that
a drawing follows a light and a dark page. Text stays text, in the page's font; what a class is
called is never read as mathematics, and is escaped.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_NAMES = ("ink", "muted", "line", "paper", "accent", "bad", "s0", "s1", "s2", "s3", "s4", "s5")
"""Variables of the style sheet."""

# Colours that no drawing has by chance: what is drawn in one of them is drawn in the variable.
_HEX = {name: f"#0a0b{number:02x}" for number, name in enumerate(_NAMES)}

INK, MUTED, LINE, PAPER, ACCENT, BAD = (_HEX[name] for name in _NAMES[:6])
SERIES = tuple(_HEX[name] for name in _NAMES[6:])
"""Of folds or systems, in turn."""

DASHES = ("-", (0, (4, 2)), (0, (1.5, 1.5)))
"""Where there are more series than colours, they begin again in the next of these."""

LONGEST_LABEL = 22
"""Letters of a name that a drawing shows: a class may be called anything."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "roomsmith",
    "text.parse_math": False,
    "axes.unicode_minus": False,
    "axes.formatter.use_mathtext": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1.0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


@contextmanager
def styled() -> Iterator[None]:
    """The style that all figures of a page are made and drawn in."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # whatever the user's matplotlibrc says
        mpl.rcParams.update(_STYLE)
        # Names in any script: the font that measures them lacks some, the reader's has its own.
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
        yield


def axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of `width` x `height` inches with one pair of axes; within `styled` alone."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def svg(figure: Figure, name: str, told: str) -> Markup:
    """The figure as an `<svg>`, safe to stand in a page.

    Args:
        figure: made within `styled`.
        name: a word of letters, of no other drawing of the page: it begins all ids.
        told: what it shows, for who cannot see it.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\n?", "", body, flags=re.DOTALL)
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body)
    for colour, hexed in _HEX.items():
        body = body.replace(hexed, f"var(--{colour})")
    width, height = (round(side * 96) for side in figure.get_size_inches())
    box = re.search(r'viewBox="([^"]*)"', body)
    assert box is not None
    label, widest = Markup.escape(told), round(1.25 * width)
    head = f'<svg class="plot" role="img" aria-label="{label}" viewBox="{box[1]}"'
    head += f' width="{width}" height="{height}" style="max-width: {widest}px"'
    head += ' xmlns:xlink="http://www.w3.org/1999/xlink">'
    return Markup(head + body[body.index(">") + 1 :].strip())


def short(name: str) -> str:
    """A name as a drawing shows it: on one line, cut where it is long."""
    line = " ".join(name.split())
    return line if len(line) <= LONGEST_LABEL else f"{line[: LONGEST_LABEL - 1]}…"


def series(number: int) -> dict[str, Any]:
    """Colour and dashes of a series by its number."""
    turn, place = divmod(number, len(SERIES))
    return {"color": SERIES[place], "linestyle": DASHES[turn % len(DASHES)]}
