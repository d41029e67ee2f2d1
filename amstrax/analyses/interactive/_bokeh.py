"""What the Bokeh figures share: the import of Bokeh, and how they look."""

from typing import Any

from amstrax.exceptions import NotAvailable

#: Tools of every figure, but for hover
TOOLS = "pan,box_zoom,wheel_zoom,box_select,lasso_select,reset,save"


def bokeh() -> Any:
    """Return the package bokeh, with ``plotting``, ``models`` and ``layouts``.

    Raises
    ------
    NotAvailable
        When it is not installed.
    """
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
    defaults = {"width": 450, "height": 350, "output_backend": "canvas"}
    figure = bokeh().plotting.figure(
        title=title,
        x_axis_label=x_label,
        y_axis_label=y_label,
        x_axis_type="log" if log[0] else "linear",
        y_axis_type="log" if log[1] else "linear",
        tools=tools,
        active_drag="box_zoom" if "box_zoom" in tools else "auto",
        **defaults | {name: value for name, value in options.items() if value is not None},
    )
    figure.toolbar.logo = None
    for is_log, axis in zip(log, (figure.xaxis, figure.yaxis), strict=True):
        if is_log:  # More labels overlap where the scale spans little
            axis.ticker.mantissas = [1, 2, 5]
    figure.title.text_font_size = "10pt"
    return figure


def note(figure: Any, text: str) -> None:
    """Write into the middle of a figure that there is nothing to show."""
    if figure.frame_width:
        x, y = figure.frame_width // 2, figure.frame_height // 2
    else:  # Axes and title take some of it
        x, y = (figure.width or 420) // 2 - 60, (figure.height or 300) // 2 - 40
    figure.add_layout(
        bokeh().models.Label(
            x=x,
            y=y,
            x_units="screen",
            y_units="screen",
            text=text,
            text_color="#666666",
            text_font_size="10pt",
            text_align="center",
        )
    )


def range_over(low: float, high: float, log: bool = False) -> Any:
    """Return a range with a margin around, which Bokeh cannot find of images and quads itself."""
    if log:
        factor = (high / low) ** 0.03 if high > low > 0 else 2.0
        return bokeh().models.Range1d(low / factor, high * factor)
    margin = 0.03 * (high - low) or 0.5
    return bokeh().models.Range1d(low - margin, high + margin)
