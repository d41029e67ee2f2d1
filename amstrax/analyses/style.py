"""How plots look: colours that colour-blind readers can tell apart, axes, notes."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# M. Okabe and K. Ito, Color Universal Design (2008)
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#999999"
#: Of peaks by type: 0 unknown, 1 S1, 2 S2
TYPE_COLORS = (GREY, BLUE, VERMILLION)
TYPE_NAMES = ("unknown", "S1", "S2")
#: Lines of types, for those who do not see colours
TYPE_STYLES = (":", "-", "--")
CHANNEL_COLORS = (BLACK, BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, YELLOW)
#: Color map from few to many, and from bad to good, without hue
COLOR_MAP = "viridis"
#: Angles [degree] at which the quadrants of the top PMTs a, b, c, d begin in hit patterns: x is
#: large with light in a and b, y in a and c (`amstrax.processing.peaks.reconstruct_positions`)
QUADRANTS = (0, 270, 90, 180)


def new_figure(size: tuple[float, float]) -> "Figure":
    """Return a new figure of `size` [inch] that notebooks show and pyplot does not manage."""
    from amstrax.analyses._figure import NotebookFigure

    return NotebookFigure(figsize=size, layout="constrained")


def new_axes(size: tuple[float, float] = (7, 5)) -> "Axes":
    """Return the axes of a new figure of `size` [inch]."""
    return new_figure(size).add_subplot()


def panels_of(
    figure: "Figure | None", n: int, size: tuple[float, float] = (4.6, 3.4)
) -> "tuple[Figure, list[Axes]]":
    """Return a figure (None: a new one) and its `n` panels, at most three in a row, at least one.

    Panels of a new figure have this `size` [inch].
    """
    n = max(n, 1)
    n_columns = min(n, 3)
    n_rows = -(-n // n_columns)
    if figure is None:
        figure = new_figure((size[0] * n_columns, size[1] * n_rows))
    panels = list(figure.subplots(n_rows, n_columns, squeeze=False).ravel())
    for axes in panels[n:]:
        axes.set_axis_off()
    return figure, panels[:n]


def figure_of(axes: "Axes") -> "Figure":
    """Return the figure of these axes, also where they are in a subfigure."""
    return axes.figure.get_figure(root=True)  # type: ignore[return-value]


def note(axes: "Axes", text: str) -> "Figure":
    """Write into the middle of axes, such as why they are empty, and return their figure."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.4")
    return figure_of(axes)


def channel_color(channel: int) -> str:
    """Return the colour of a channel."""
    return CHANNEL_COLORS[channel % len(CHANNEL_COLORS)]


def tidy_log_axes(axes: "Axes") -> None:
    """Label decades of logarithmic axes, and 1, 2 and 5 below two decades, without overlaps."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() != "log":
            continue
        axis.set_minor_formatter(NullFormatter())
        low, high = sorted(axis.get_view_interval())
        if low > 0 and high / low < 100:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    return f"{value:,g}" if abs(value) < 1e6 else f"{value / 1e6:,g}M"
