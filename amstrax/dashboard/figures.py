"""Stored data of a run, read without making any, and figures of it for pages."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import strax
from bokeh.models import ColumnDataSource, Plot, Row

from amstrax.analyses import interactive
from amstrax.analyses.loading import SORTS, area_unit, dead_intervals, end_of_run
from amstrax.analyses.quantities import PE, Links, random_subset, rates, within
from amstrax.analyses.style import BLACK, TYPE_NAMES, channel_color
from amstrax.dashboard.page import wrapped
from amstrax.exceptions import NotAvailable
from amstrax.strax_ext.checks import joined_dtype

#: Columns of the figures, of which a context may lack some
EVENT_COLUMNS = (
    *("time", "endtime", "event_number", "s1_area", "s2_area", "cs1", "cs2", "drift_time"),
    *("x", "y", "z", "r", "s1_range_50p_area", "s2_range_50p_area", "s1_area_fraction_top"),
    *("s2_area_fraction_top", "n_peaks"),
)
PEAK_COLUMNS = (
    *("time", "area", "range_50p_area", "area_fraction_top", "rise_time", "n_channels", "type"),
)
LED_COLUMNS = ("time", "channel", "area", "amplitude_led")
#: Above this number of peaks, figures are 2D histograms with this number of points on top
MOST_POINTS = 10_000
#: Number of peaks of selected events that are marked, if not all peaks are points
MOST_MARKED = 2_000
#: Held while matplotlib draws: its fonts and caches belong to the whole process
DRAWING = threading.Lock()
#: Columns of these marks -> fields of peaks
_MARKED = {"area": "area", "width": "range_50p_area", "aft": "area_fraction_top"}


# Stored data


def name_of(st: "strax.Context", sort: str) -> str | None:
    """Return the name of a sort of data, as ``peak_basics``, in a context; None without it."""
    names = SORTS.get(sort, (sort,))
    return next((name for name in names if name in st._plugin_class_registry), None)


def is_stored(st: "strax.Context", run_id: str, *sorts: str) -> bool:
    """Return whether the context can load data of all these sorts."""
    names = [name_of(st, sort) for sort in sorts]
    return all(name is not None and st.is_stored(run_id, name) for name in names)


def span(st: "strax.Context", run_id: str, sort: str) -> tuple[int, int]:
    """Return start and end of stored data [ns since unix epoch], at most the end of the run."""
    chunks = st.get_metadata(run_id, _stored_name(st, run_id, sort))["chunks"]
    if not chunks:
        raise NotAvailable(f"{sort} of run {run_id} has no chunks yet")
    start, end = chunks[0]["start"], chunks[-1]["end"]
    return start, max(end_of_run(st, run_id, end), start + 1)


def load(
    st: "strax.Context",
    run_id: str,
    sort: str | Sequence[str],
    columns: Sequence[str] | None = None,
    time_range: tuple[int, int] | None = None,
) -> np.ndarray:
    """Return stored data, or raise NotAvailable.

    `sort` is a sort of data as of `amstrax.analyses.loading.SORTS`, or a data type, or several of
    one kind. `columns` are loaded if the data has them, `time_range` is in ns since unix epoch.
    """
    sorts = (sort,) if isinstance(sort, str) else tuple(sort)
    names = tuple(_stored_name(st, run_id, each) for each in sorts)
    if columns is not None:
        fields = joined_dtype(st._get_plugins(names, run_id), names).names or ()
        columns = tuple(name for name in columns if name in fields)
    return st.get_array(
        run_id, names, time_range=time_range, keep_columns=columns, progress_bar=False
    )


def windows(st: "strax.Context", run_id: str) -> tuple[np.ndarray, str, str]:
    """Return what a run can be browsed by: windows in time, their name, and the sort of data.

    These are events, or the peaks or LED pulses of contexts that make no events; windows have the
    columns ``time``, ``endtime``, ``event_number`` and ``drift_time``.
    """
    columns = ("time", "endtime", "event_number", "drift_time")
    if name_of(st, "event_info") is not None:
        return load(st, run_id, "event_info", columns), "event", "event_info"
    sort, noun = ("peak_basics", "peak") if name_of(st, "peak_basics") else ("records", "pulse")
    rows = load(st, run_id, sort, ("time", "endtime", "length", "dt"))
    # Records of all channels begin at the same time
    times, first = np.unique(rows["time"], return_index=True)
    result = np.zeros(len(times), dtype=[(name, np.int64) for name in columns])
    result["time"], result["event_number"] = times, np.arange(len(times))
    result["endtime"] = strax.endtime(rows[first])
    return result, noun, sort


def _stored_name(st: "strax.Context", run_id: str, sort: str) -> str:
    name = name_of(st, sort)
    if name is None:
        raise NotAvailable(f"this context has no {sort}: choose another one")
    if not st.is_stored(run_id, name):
        raise NotAvailable(
            f"{name} of run {run_id} is not stored here with the lineage of this context: the page "
            "of the run lists stored data, and can submit a job"
        )
    return name


# Figures


class Scales(NamedTuple):
    """Which scales are logarithmic, whether areas are corrected, and number of bins if given."""

    log: bool = True
    log_counts: bool = False
    corrected: bool = True
    bins: int | None = None

    @property
    def bin_options(self) -> dict[str, int]:
        """Options of figures with bins."""
        return {} if self.bins is None else {"n_bins": self.bins}


class Linked(NamedTuple):
    """Start and end of the events that are points [ns since unix epoch], and their peaks."""

    start: np.ndarray
    end: np.ndarray
    links: Links


class Drawn(NamedTuple):
    """Figures in groups, amount of data, and what links the selections in them."""

    groups: Mapping[str, list[Any]]  #: title -> figures
    text: str  #: amount of data
    #: Data of the figures: ``events``, ``peaks``, ``pulses``; and ``marked``, for peaks of selected
    #: events if not all peaks are points
    sources: Mapping[str, Any]
    linked: Linked | None = None  #: None without events


class Marks(NamedTuple):
    """Peaks of selected events: columns of the source ``marked``, and total number."""

    columns: dict[str, np.ndarray]
    total: int


def warm_up() -> None:
    """Draw figures of empty data, since the first ones take a second longer."""
    kinds = [(name, np.int64 if name == "time" else np.float32) for name in PEAK_COLUMNS]
    peaks = np.ones(MOST_POINTS + 1, dtype=[*kinds[:-1], ("type", np.int8)])
    _of_peaks(peaks, interactive.peak_source(peaks, 0, 10), Scales(), PE)
    events = np.ones(2, dtype=[(name, np.float64) for name in EVENT_COLUMNS])
    _of_events(interactive.event_source(events), Scales())
    interactive.rates({"events": rates(peaks["time"], 0, 2)})


def fit(figures: Iterable[Any]) -> Row:
    """Return figures in rows, as many in a row as the width of the page allows."""
    figures = list(figures)
    for figure in figures:
        figure.width = None
        if isinstance(figure, Plot):
            figure.height = 360 if figure.below[1:] else 330
        figure.sizing_mode = "stretch_width"
        figure.styles = {"flex": "1 1 400px", "min-width": "300px"}
        if len(figures) > 1:
            figure.styles |= {"max-width": "640px"}
    return wrapped(*figures)


def of_run(st: "strax.Context", run_id: str, scales: Scales) -> Drawn:
    """Return figures of the stored data of a run; raise NotAvailable if nothing is stored."""
    if name_of(st, "led_calibration") is not None:
        return _of_led(st, run_id, scales)
    start, end = span(st, run_id, "peak_basics")
    unit = area_unit(st, run_id, name_of(st, "peak_basics") or "peak_basics")
    peaks = load(st, run_id, "peak_basics", PEAK_COLUMNS)
    if not len(peaks):
        raise NotAvailable(f"run {run_id} has no peaks, so there is nothing to plot")
    times = {TYPE_NAMES[kind]: peaks["time"][peaks["type"] == kind] for kind in (1, 2, 0)}
    points = interactive.peak_source(peaks, start, MOST_POINTS, unit)
    groups: dict[str, list[Any]] = {}
    sources: dict[str, Any] = {}
    text, linked = f"{len(peaks):,} peaks", None
    title = "Peaks: selecting some shows them in both figures"
    if is_stored(st, run_id, "event_info"):
        events = load(st, run_id, "event_info", EVENT_COLUMNS)
        times["events"] = events["time"]
        text = f"{len(events):,} events, {text}"
        source = sources["events"] = interactive.event_source(events, start, unit=unit)
        groups["Events: selecting some shows them in all figures, with their peaks"] = _of_events(
            source, scales
        )
        shown = events[source.data["index"]]
        bounds = shown["time"].copy(), shown["endtime"].copy()
        linked = Linked(*bounds, within(peaks["time"][points.data["index"]], *bounds))
        title += ", with their events"
        if len(peaks) > MOST_POINTS:
            sources["marked"] = ColumnDataSource({name: [] for name in _MARKED})
    sources["peaks"] = points
    groups[title] = _of_peaks(peaks, points, scales, unit, sources.get("marked"))
    n_bins = scales.bins or min(max(max(map(len, times.values())) // 20, 10), 120)
    dead = dead_intervals(st, run_id)
    series = {name: rates(time, start, end, n_bins, dead=dead) for name, time in times.items()}
    rate = interactive.rates(series, log=scales.log_counts)
    return Drawn({"Rates": [rate], **groups}, text, sources, linked)


def marks(st: "strax.Context", run_id: str, start: np.ndarray, end: np.ndarray) -> Marks:
    """Return the peaks of events from `start` to `end`, at most `MOST_MARKED`, at random.

    They are loaded again, since millions of peaks in memory for each open page are too many.
    """
    peaks = load(st, run_id, "peak_basics", ("time", *_MARKED.values()))
    rows = within(peaks["time"], start, end).inside(np.arange(len(start)))
    chosen = peaks[rows[random_subset(len(rows), MOST_MARKED)]]
    return Marks({name: chosen[field].copy() for name, field in _MARKED.items()}, len(rows))


def _of_events(source: Any, scales: Scales) -> list[Any]:
    s1, s2 = ("cs1", "cs2") if scales.corrected else ("s1_area", "s2_area")
    return [
        interactive.s1_s2(source, s1, s2, log=scales.log),
        interactive.drift_time(source, log=scales.log_counts, **scales.bin_options),
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
    for column, label, log in (
        ("width", "Width of the central 50 % [ns]", (scales.log, scales.log)),
        ("aft", "Area fraction top", (scales.log, False)),
    ):
        figure = interactive.density(
            peaks["area"],
            peaks[_MARKED[column]],
            log=log,
            labels=(f"Area [{unit}]", label),
            tools="pan,box_zoom,wheel_zoom,box_select,lasso_select,reset,save",
            **scales.bin_options,
        )
        # Faint points for selections, above the histogram of all peaks
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
    pulses = load(st, run_id, "led_calibration", LED_COLUMNS)
    if not len(pulses):
        raise NotAvailable(f"run {run_id} has no LED pulses, so there is nothing to plot")
    times = span(st, run_id, "led_calibration")
    source = interactive.led_source(pulses)
    by_channel, colors, dead = {}, {}, dead_intervals(st, run_id)
    for channel in np.unique(pulses["channel"]).tolist():
        name = f"channel {channel}"
        of_channel = pulses["time"][pulses["channel"] == channel]
        by_channel[name] = rates(of_channel, *times, scales.bins, dead=dead)
        # The same colours as in the spectra
        colors[name] = channel_color(channel)
    groups = {
        "Rates": [interactive.rates(by_channel, log=scales.log_counts, colors=colors)],
        "LED spectra": [
            interactive.led_spectrum(source, **scales.bin_options),
            interactive.led_spectrum(
                source, log=scales.log_counts, column="amplitude_led", **scales.bin_options
            ),
        ],
    }
    return Drawn(groups, f"{len(pulses):,} pulses", {"pulses": source})
