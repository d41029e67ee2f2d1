"""How plots look: colours that colour-blind readers can tell apart, axes, notes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# M. Okabe and K. Ito, Color Universal Design (2008)
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY = "#999999"
#: Of peaks by type: 0 unknown, 1 S1, 2 S2
TYPE_COLORS = (GREY, BLUE, VERMILLION)
TYPE_NAMES = ("unknown", "S1", "S2")
CHANNEL_COLORS = (BLACK, BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, YELLOW)
#: Maps from few to many, and from bad to good, without hue
COLOR_MAP = "viridis"


def new_axes(size: tuple[float, float] = (7, 5)) -> Axes:
    """Return the axes of a new figure of `size` [inch], which pyplot does not know."""
    return Figure(figsize=size, layout="constrained").add_subplot()


def figure_of(axes: Axes) -> Figure:
    """Return the figure that has these axes, also where they are in one of its parts."""
    return axes.figure.get_figure(root=True)  # type: ignore[return-value]


def note(axes: Axes, text: str) -> None:
    """Write into the middle of axes, as that there is nothing to show."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.4")


def channel_color(channel: int) -> str:
    """Return the colour of a channel."""
    return CHANNEL_COLORS[channel % len(CHANNEL_COLORS)]


def bin_edges(
    values: np.ndarray, n: int, limits: Sequence[float] | None = None, log: bool = False
) -> np.ndarray:
    """Return edges of `n` bins over finite `values` (with `log`, those above 0), or `limits`."""
    good = values[np.isfinite(values)]
    if log:
        good = good[good > 0]
    if limits is None:
        limits = (good.min(), good.max()) if len(good) else (1, 10)
    low, high = limits
    if not low < high:
        low, high = (low / 2, low * 2) if log else (low - 0.5, low + 0.5)
    return np.geomspace(low, high, n + 1) if log else np.linspace(low, high, n + 1)
