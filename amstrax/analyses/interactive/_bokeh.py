"""Import of Bokeh, and the look of figures."""

from typing import Any

from amstrax.exceptions import NotAvailable

#: Tools of every figure, but for hover
TOOLS = "pan,box_zoom,wheel_zoom,box_select,lasso_select,reset,save"


def bokeh() -> Any:
    """Return the package bokeh with its modules; raises NotAvailable when it is not installed."""
    try:
        import bokeh
        import bokeh.layouts
        import bokeh.models
        import bokeh.plotting
    except ImportError as error:
        raise NotAvailable(
            f"interactive figures need Bokeh ({error}): pip install 'amstrax[dashboard]'"
        ) from None
    return bokeh


def new_figure(
    title: str,
    x_label: str,
    y_label: str,
    log: tuple[bool, bool] = (False, False),
    tools: str = TOOLS,
    **options: Any,
) -> Any:
    """Return an empty figure; `options` are those of `bokeh.plotting.figure`."""
    given = tools.split(",")
    # Dragging selects; the wheel zooms with Ctrl, since without it the page moves
    drag = next(
        (tool for tool in ("box_select", "xbox_select", "box_zoom") if tool in given), "auto"
    )
    defaults = {"width": 450, "height": 350, "output_backend": "canvas"}
    figure = bokeh().plotting.figure(
        title=title,
        x_axis_label=x_label,
        y_axis_label=y_label,
        x_axis_type="log" if log[0] else "linear",
        y_axis_type="log" if log[1] else "linear",
        tools=tools,
        active_drag=drag,
        **defaults | {name: value for name, value in options.items() if value is not None},
    )
    figure.toolbar.logo = None
    wheels = figure.select({"type": bokeh().models.WheelZoomTool})
    for wheel in wheels:
        wheel.modifiers = {"ctrl": True}
        figure.toolbar.active_scroll = wheel
    for is_log, axis in zip(log, (figure.xaxis, figure.yaxis), strict=True):
        if is_log:
            axis.ticker.mantissas = [1, 2, 5]
            axis.ticker.num_minor_ticks = 2
            axis.major_label_policy = bokeh().models.NoOverlap()
    figure.title.text_font_size = "10pt"
    return figure


def note(figure: Any, text: str) -> Any:
    """Write into the middle of a figure, such as why it is empty, and return it."""
    if figure.frame_width:
        x, y = figure.frame_width // 2, figure.frame_height // 2
    else:  # Axes and title take some of it
        x, y = (figure.width or 420) // 2 - 60, (figure.height or 300) // 2 - 40
    look = {"text_color": "#666666", "text_font_size": "10pt", "text_align": "center"}
    figure.add_layout(
        bokeh().models.Label(x=x, y=y, x_units="screen", y_units="screen", text=text, **look)
    )
    return figure


def add_hover(figure: Any, glyph: Any, *tooltips: tuple[str, str]) -> None:
    """Show names and values of a glyph under the mouse."""
    figure.add_tools(bokeh().models.HoverTool(renderers=[glyph], tooltips=list(tooltips)))


def add_line(figure: Any, location: float, dimension: str, name: str | None = None) -> None:
    """Add a dashed line over the whole ``height`` or ``width`` of a figure."""
    look = {"line_dash": "dashed", "line_color": "#000000", "name": name}
    figure.add_layout(bokeh().models.Span(location=location, dimension=dimension, **look))


def set_legend(figure: Any) -> None:
    """Put the legend below the figure, small, and make a click in it hide its line."""
    legend = figure.legend[0]
    figure.add_layout(legend, "below")
    legend.orientation, legend.ncols = "horizontal", min(len(legend.items), 4)
    legend.margin, legend.padding, legend.border_line_alpha = 2, 2, 0
    figure.legend.click_policy = "hide"
    figure.legend.label_text_font_size = "8pt"
    figure.legend.background_fill_alpha = 0.7


def range_over(low: float, high: float, log: bool = False) -> Any:
    """Return a range with a margin, which Bokeh does not find for images and quads."""
    if log:
        factor = (high / low) ** 0.03 if high > low > 0 else 2.0
        return bokeh().models.Range1d(low / factor, high * factor)
    margin = 0.03 * (high - low) or 0.5
    return bokeh().models.Range1d(low - margin, high + margin)
