"""The analyses' figures of one run, put together; they fit on a phone, and on a wide screen."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from bokeh.models import ColumnDataSource, Plot, Row

from amstrax.analyses import interactive
from amstrax.analyses.loading import area_unit
from amstrax.analyses.quantities import PE, Links, random_subset, rates, within
from amstrax.analyses.style import BLACK, TYPE_NAMES, channel_color
from amstrax.dashboard import stored
from amstrax.dashboard.page import wrapped

if TYPE_CHECKING:
    import strax

#: More peaks than this are shown as a histogram in two dimensions, with so many as points above
MOST_POINTS = 10_000
#: Of the peaks of selected events, where not all are points, so many are marked
MOST_MARKED = 2_000
#: Columns of these marks, and of which columns of peaks
_MARKED = {"area": "area", "width": "range_50p_area", "aft": "area_fraction_top"}


class Scales(NamedTuple):
    """Which scales are logarithmic, and which areas are shown."""

    log: bool = True
    log_counts: bool = False
    corrected: bool = True


def warm_up() -> None:
    """Draw what there is nothing of: the first time takes a second more than others."""
    kinds = [(name, np.int64 if name == "time" else np.float32) for name in stored.PEAK_COLUMNS]
    peaks = np.ones(MOST_POINTS + 1, dtype=[*kinds[:-1], ("type", np.int8)])
    _of_peaks(peaks, interactive.peak_source(peaks, 0, 10), Scales(), PE)
    events = np.ones(2, dtype=[(name, np.float64) for name in stored.EVENT_COLUMNS])
    _of_events(interactive.event_source(events), Scales())
    interactive.rates({"events": rates(peaks["time"], 0, 2)})


class Drawn(NamedTuple):
    """Figures by their group, how much data they show, and what links their selections.

    Attributes
    ----------
    groups
        Figures.
    text
        How much data there is.
    sources
        Of selections: ``events``, ``peaks``, ``pulses``; and ``marked``, for peaks of selected
        events where not all peaks are points.
    linked
        Which peaks are in which events; None without events.
    """

    groups: Mapping[str, list[Any]]
    text: str
    sources: Mapping[str, Any]
    linked: "Linked | None" = None


class Linked(NamedTuple):
    """Events that are points.

    Attributes
    ----------
    start, end
        Of them [ns since unix epoch].
    links
        Which peaks, of those that are points, are in which of them.
    """

    start: np.ndarray
    end: np.ndarray
    links: Links


def fit(figures: Iterable[Any], height: int = 330) -> Row:
    """Return figures beside each other, as many as there is room for."""
    figures = list(figures)
    for figure in figures:
        figure.width = None
        figure.height = height
        figure.sizing_mode = "stretch_width"
        figure.styles = {"flex": "1 1 400px", "min-width": "300px"}
        if len(figures) > 1:
            figure.styles |= {"max-width": "640px"}
    return wrapped(*figures)


def in_layout(layout: Any) -> list[Any]:
    """Return the figures in a layout of the analyses, in their order."""
    if isinstance(layout, Plot):
        return [layout]
    return [figure for child in layout.children for figure in in_layout(child)]


def of_run(st: "strax.Context", run_id: str, scales: Scales) -> Drawn:
    """Return the figures of what is stored of a run.

    Raises
    ------
    NotAvailable
        When nothing of it is.
    """
    if stored.name_of(st, "led_calibration") is not None:
        return _of_led(st, run_id, scales)
    times: dict[str, np.ndarray] = {}
    groups: dict[str, list[Any]] = {"Rates": []}
    text: list[str] = []
    sources: dict[str, Any] = {}
    intervals, linked = None, None
    span = stored.span(st, run_id, "peak_basics")
    unit = area_unit(st, run_id, stored.name_of(st, "peak_basics") or "peak_basics")
    peaks = stored.load(st, run_id, "peak_basics", stored.PEAK_COLUMNS)
    for kind in (1, 2, 0):
        times[TYPE_NAMES[kind]] = peaks["time"][peaks["type"] == kind]
    if stored.is_stored(st, run_id, "event_info"):
        events = stored.load(st, run_id, "event_info", stored.EVENT_COLUMNS)
        times["events"] = events["time"]
        text.append(f"{len(events):,} events")
        source = sources["events"] = interactive.event_source(events, span.start, unit=unit)
        groups["Events: what is selected in one is shown in the others, with its peaks"] = (
            _of_events(source, scales)
        )
        shown = events[source.data["index"]]
        intervals = shown["time"].copy(), shown["endtime"].copy()
    text.append(f"{len(peaks):,} peaks")
    source = sources["peaks"] = interactive.peak_source(peaks, span.start, MOST_POINTS, unit)
    marked = None
    if intervals is not None:
        points = peaks["time"][source.data["index"]]
        linked = Linked(*intervals, within(points, *intervals))
        if len(peaks) > MOST_POINTS:
            marked = sources["marked"] = ColumnDataSource({name: [] for name in _MARKED})
    also = "" if linked is None else ", with its events"
    groups[f"Peaks: what is selected in one is shown in the other{also}"] = _of_peaks(
        peaks, source, scales, unit, marked
    )
    longest = max(map(len, times.values()))
    n_bins = min(max(longest // 20, 10), 120)
    series = {name: rates(time, span.start, span.end, n_bins) for name, time in times.items()}
    groups["Rates"] = [interactive.rates(series, log=scales.log_counts)]
    return Drawn(groups, ", ".join(text), sources, linked)


class Marks(NamedTuple):
    """Peaks of selected events: columns of the source ``marked``, and how many there are."""

    columns: dict[str, np.ndarray]
    total: int


def marks(st: "strax.Context", run_id: str, start: np.ndarray, end: np.ndarray) -> Marks:
    """Return the peaks of events from `start` to `end`, of very many some at random.

    They are read again: to keep a million peaks for each page that shows them would be too much.
    """
    peaks = stored.load(st, run_id, "peak_basics", ("time", *_MARKED.values()))
    rows = within(peaks["time"], start, end).inside(np.arange(len(start)))
    shown = peaks[rows[random_subset(len(rows), MOST_MARKED)]]
    return Marks({name: shown[field].copy() for name, field in _MARKED.items()}, len(rows))


def _of_events(source: Any, scales: Scales) -> list[Any]:
    s1, s2 = ("cs1", "cs2") if scales.corrected else ("s1_area", "s2_area")
    return [
        interactive.s1_s2(source, s1, s2, log=scales.log),
        interactive.drift_time(source, log=scales.log_counts),
        interactive.positions(source),
        interactive.depth(source),
    ]


def _of_peaks(
    peaks: np.ndarray, source: Any, scales: Scales, unit: str, marked: Any = None
) -> list[Any]:
    if len(peaks) <= MOST_POINTS:
        return [
            interactive.area_width(source, log=scales.log),
            interactive.area_aft(source, log=scales.log),
        ]
    figures = []
    columns = (
        ("width", "range_50p_area", "Width of the central 50 % [ns]", (scales.log, scales.log)),
        ("aft", "area_fraction_top", "Area fraction top", (scales.log, False)),
    )
    for column, field, label, log in columns:
        figure = interactive.density(
            peaks["area"],
            peaks[field],
            log=log,
            labels=(f"Area [{unit}]", label),
            tools="pan,box_zoom,wheel_zoom,box_select,lasso_select,reset,save",
        )
        # Points are there to be selected: the picture below them has all peaks
        figure.scatter(
            "area",
            column,
            source=source,
            size=3,
            fill_color="color",
            line_color=None,
            alpha=0.15,
            selection_alpha=0.9,
            nonselection_alpha=0.02,
        )
        if marked is not None:
            figure.scatter("area", column, source=marked, marker="cross", size=6, line_color=BLACK)
        figures.append(figure)
    return figures


def _of_led(st: "strax.Context", run_id: str, scales: Scales) -> Drawn:
    pulses = stored.load(st, run_id, "led_calibration", stored.LED_COLUMNS)
    span = stored.span(st, run_id, "led_calibration")
    source = interactive.led_source(pulses)
    channels = np.unique(pulses["channel"]).tolist()
    by_channel = {
        f"channel {channel}": rates(pulses["time"][pulses["channel"] == channel], *span)
        for channel in channels
    }
    # As in the spectra
    colors = {f"channel {number}": channel_color(number) for number in channels}
    groups = {
        "Rates": [interactive.rates(by_channel, log=scales.log_counts, colors=colors)],
        "LED spectra": [
            interactive.led_spectrum(source, log=True),
            interactive.value_histogram(
                source, "amplitude_led", "Height of pulses [ADC counts]", log_y=scales.log_counts
            ),
        ],
    }
    return Drawn(groups, f"{len(pulses):,} pulses", {"pulses": source})
