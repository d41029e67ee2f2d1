"""How a run grows while it is taken and processed, chunk by chunk."""

from typing import Any, NamedTuple

from bokeh.models import Column, ColumnDataSource
from bokeh.plotting import figure

from amstrax.auto_processing import growth
from amstrax.dashboard import render
from amstrax.dashboard.page import Page
from amstrax.rundb import documents

#: Time between two looks at a run that grows [s]
EVERY = 2.0
#: Colours that colour-blind readers can tell apart, and dashes for those who see none
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_DASHES = ("solid", "dashed", "dotted", "dotdash")


class _Found(NamedTuple):
    is_growing: bool
    live: growth.Live | None
    types: list[growth.Growing]
    start: int


class LivePart:
    """Part of a page that shows how a run grows.

    Parameters
    ----------
    page
        The page.
    run_id
        Run.
    """

    def __init__(self, page: Page, run_id: str):
        self._page, self._run_id = page, run_id
        self._text = page.html("", name="growth")
        self._figure: Any = None
        self._sources: dict[str, ColumnDataSource] = {}
        self.model = Column(self._text, sizing_mode="stretch_width")

    def start(self) -> None:
        """Show it from now on."""
        self._page.repeat(self.refresh, min(EVERY, self._page.site.refresh))

    def refresh(self) -> None:
        """Look how far the run is."""
        self._page.load("how far the run is", self._find, self._take, again=False)

    def _find(self) -> _Found:
        site = self._page.site
        document = documents.find_run(site.collection(), self._run_id)
        status = documents.status_of(document).status
        start, end = (documents.utc_time_of(document, field) for field in ("start", "end"))
        is_growing = end is None or status in ("submitted", "running")
        types = growth.stored(site.context(site.context_for(document)), self._run_id)
        is_growing = is_growing or any(not each.is_complete for each in types)
        live = growth.live(document, site.detector, site.live_data_dir)
        if start is None:
            starts = [each.chunks[0].start for each in types if each.chunks]
            return _Found(is_growing, live, types, min(starts, default=0))
        return _Found(is_growing, live, types, int(start.timestamp()) * 10**9)

    def _take(self, found: _Found) -> None:
        types = [each for each in found.types if each.chunks]
        text = render.html(
            "growth.html",
            growing=found.is_growing,
            live=found.live,
            types=found.types,
        )
        if self._text.text != text:
            self._text.text = text
        if not found.is_growing and self._figure is None:
            return
        for each in types:
            data = _steps(each, found.start)
            if each.data_type not in self._sources:
                self._add(each.data_type, data)
            elif len(self._sources[each.data_type].data["time"]) != len(data["time"]):
                self._sources[each.data_type].data = data
        if self._figure is not None:
            self._figure.visible = found.is_growing

    def _make_figure(self) -> Any:
        made = figure(
            height=280,
            sizing_mode="stretch_width",
            x_axis_label="Time since the start of the run [s]",
            y_axis_label="Rows per second",
            y_axis_type="log",
            tools="pan,box_zoom,reset,save",
            name="growth_figure",
        )
        made.toolbar.logo = None
        return made

    def _add(self, data_type: str, data: dict[str, Any]) -> None:
        is_first = self._figure is None
        if is_first:
            self._figure = self._make_figure()
        number = len(self._sources)
        source = self._sources[data_type] = ColumnDataSource(data)
        self._figure.step(
            "time",
            "rate",
            source=source,
            mode="after",
            line_width=2,
            color=_COLORS[number % len(_COLORS)],
            line_dash=_DASHES[number // len(_COLORS) % len(_DASHES)],
            legend_label=data_type,
        )
        self._figure.legend.click_policy = "hide"
        self._figure.legend.label_text_font_size = "11px"
        if is_first:
            self._figure.add_layout(self._figure.legend[0], "right")
            self.model.children = [self._text, self._figure]


def _steps(growing: growth.Growing, start: int) -> dict[str, list[float]]:
    """Return the corners of the rate of rows in each chunk [Hz], by time [s]."""
    times = [(chunk.start - start) / 1e9 for chunk in growing.chunks]
    rates = [
        max(chunk.rows, 0.5) / max((chunk.end - chunk.start) / 1e9, 1e-9)
        for chunk in growing.chunks
    ]
    last = (growing.chunks[-1].end - start) / 1e9
    return {"time": [*times, last], "rate": [*rates, rates[-1]]}
