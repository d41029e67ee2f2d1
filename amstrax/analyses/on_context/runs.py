"""Analyses on a context of whole runs: rates, and several runs beside each other."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from amstrax.analyses import quantities, run_plots
from amstrax.analyses.loading import Part
from amstrax.analyses.mini_analysis import on_context
from amstrax.analyses.style import BLACK, TYPE_COLORS, TYPE_NAMES, TYPE_STYLES, new_axes
from amstrax.exceptions import InvalidOption, NoSuchDataType, did_you_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class _Shown(NamedTuple):
    """How a column is drawn; {unit} in the label is that of areas."""

    label: str
    log: bool
    factor: float = 1.0
    limits: tuple[float, float] | None = None


_COLUMNS = {
    "area": _Shown("Area of peaks [{unit}]", True),
    "range_50p_area": _Shown("Width of peaks, central 50 % [ns]", True),
    "area_fraction_top": _Shown("Area fraction top of peaks", False, limits=(-0.05, 1.05)),
    "cs1": _Shown("cS1 [{unit}]", True),
    "cs2": _Shown("cS2 [{unit}]", True),
    "s1_area": _Shown("S1 [{unit}]", True),
    "s2_area": _Shown("S2 [{unit}]", True),
    "drift_time": _Shown("Drift time [µs]", False, 1e-3),
    "x": _Shown("x [mm]", False),
    "y": _Shown("y [mm]", False),
    "z": _Shown("z [mm]", False),
}
_LED_COLUMNS = {
    "area": _Shown("Area of pulses [ADC counts x samples]", False),
    "amplitude_led": _Shown("Height of pulses [ADC counts]", False),
}
#: Sorts of data in which columns are looked for, and what is drawn of each unless it is said
_DEFAULTS = {
    "peak_basics": ("area", "range_50p_area", "area_fraction_top"),
    "event_info": ("cs1", "cs2", "drift_time"),
    "led_calibration": ("area", "amplitude_led"),
}
_NORMALIZE = {"rate": "Hz per bin", "counts": "Number per bin", "shape": "Share per bin"}


@on_context("peak_basics", "led_calibration", "event_info", any_of=True)
def plot_rates(part: Part, bin_seconds: float | None = None, ax: "Axes | None" = None) -> "Figure":
    """Draw rates over a run: of S1s, S2s, other peaks and events, or of pulses in each LED channel.

    Events are drawn where event_info is stored. The run ends when its run document says or, where
    the context knows of none, with the last data that is stored of it.

    Parameters
    ----------
    bin_seconds
        Width of a bin [s]; None: such that there are between 10 and 120 bins.
    ax
        Draw into these axes; None: into those of a new figure.

    Returns
    -------
    The figure.
    """
    ax = new_axes((9, 4)) if ax is None else ax
    times: dict[str, np.ndarray] = {}
    colors, styles = {}, {}
    if part.has("peak_basics"):
        peaks = part.load("peak_basics", columns=("time", "type"))
        start, end = part.start, part.taken_until(peaks)
        for kind in (1, 2, 0):
            name = TYPE_NAMES[kind]
            times[name] = peaks["time"][peaks["type"] == kind]
            colors[name], styles[name] = TYPE_COLORS[kind], TYPE_STYLES[kind]
        if part.has_given("events") or (
            part.has("event_info") and part.context.is_stored(part.run_id, "event_info")
        ):
            times["events"] = part.load("event_info", columns=("time",))["time"]
            colors["events"], styles["events"] = BLACK, "-"
    else:
        pulses = part.load("led_calibration", columns=("time", "channel"))
        start, end = part.start, part.taken_until(pulses)
        for channel in np.unique(pulses["channel"]):
            times[f"channel {channel}"] = pulses["time"][pulses["channel"] == channel]
    series = {}
    if end > start:
        longest = max((len(time) for time in times.values()), default=0)
        n_bins = min(max(longest // 20, 10), 120)
        for name, time in times.items():
            bins = {"n_bins": n_bins} if bin_seconds is None else {"width": bin_seconds}
            rates = quantities.rates(time, start, end, **bins)  # type: ignore[arg-type]
            since = (start - part.run_start) / 1e9
            series[name] = rates._replace(edges=rates.edges + since)
    figure = run_plots.plot_rates(series, ax, colors, styles, part.nothing("data"))
    ax.set_title(part.title, loc="left", fontsize="medium")
    return figure


@on_context("peak_basics", "event_info", "led_calibration", several=True, any_of=True)
def compare_runs(
    parts: list[Part],
    fields: Sequence[str] | None = None,
    normalize: str = "rate",
    n_bins: int = 60,
    figure: "Figure | None" = None,
) -> "Figure":
    """Draw distributions of several runs over each other, a panel a column, a line a run.

    Parameters
    ----------
    fields
        Columns of event_info, peak_basics or led_calibration; None: areas, widths, and what
        events have where event_info of all runs is stored.
    normalize
        ``rate`` for rates per bin, ``counts`` for numbers, ``shape`` for shares of each run's.
    n_bins
        Number of bins in each panel.
    figure
        Draw into this; None: into a new one.

    Returns
    -------
    The figure.

    Raises
    ------
    InvalidOption
        (a ValueError) for no runs, an unknown column, or another `normalize`.
    """
    if not parts:
        raise InvalidOption("there are no runs to compare: give their names, as ['999999']")
    if normalize not in _NORMALIZE:
        raise InvalidOption(
            f"normalize is {normalize!r}" + did_you_mean(str(normalize), _NORMALIZE)
        )
    by_sort = _sorts_of(parts, fields)
    panels = []
    for sort, names in by_sort.items():
        tables = {}
        for part in parts:
            part.main = next(iter(by_sort))
            tables[part.run_id] = part.load(sort, columns=("time", *names))
        spans = {
            part.run_id: (part.taken_until(tables[part.run_id]) - part.start) / 1e9
            for part in parts
        }
        unit = " or ".join(dict.fromkeys(part.area_unit(sort) for part in parts))
        table_of_labels = _LED_COLUMNS if sort == "led_calibration" else _COLUMNS
        for name in names:
            shown = table_of_labels.get(name, _Shown(name, False))
            values = {run: table[name] * shown.factor for run, table in tables.items()}
            histograms = _histograms(values, spans, shown, n_bins, normalize)
            panels.append((shown.label.replace("{unit}", unit), histograms, shown.log))
    return run_plots.plot_comparison(panels, _NORMALIZE[normalize], figure)


def _sorts_of(parts: list[Part], fields: Sequence[str] | None) -> dict[str, list[str]]:
    """Return sort of data -> the columns of it that are drawn.

    Raises InvalidOption when there is no such column, and NoSuchDataType without any such data.
    """
    context, run_id = parts[0].context, parts[0].run_id
    sorts = [sort for sort in _DEFAULTS if parts[0].has(sort)]
    if not sorts:
        raise NoSuchDataType(
            f"this context has none of {', '.join(_DEFAULTS)}: there is nothing to compare"
        )
    columns = {}
    for sort in sorts:
        columns[sort] = parts[0].dtype(*parts[0].names(sort)[:1]).names or ()
    found: dict[str, list[str]] = {}
    if fields is None:
        for sort in sorts:
            if sort != "event_info" or all(
                context.is_stored(part.run_id, "event_info") for part in parts
            ):
                found[sort] = [name for name in _DEFAULTS[sort] if name in columns[sort]]
        return found
    for field in (fields,) if isinstance(fields, str) else fields:
        having = [sort for sort in sorts if field in columns[sort]]
        if not having:
            known = [name for names in columns.values() for name in names]
            raise InvalidOption(
                f"run {run_id} has no column {field!r} in {', '.join(sorts)}"
                + did_you_mean(field, known)
            )
        found.setdefault(having[0], []).append(field)
    return found


def _histograms(
    values: dict[str, np.ndarray],
    spans: dict[str, float],
    shown: _Shown,
    n_bins: int,
    normalize: str,
) -> dict[str, quantities.Histogram]:
    """Return run -> histogram, in bins that are the same for all."""
    together = np.concatenate(list(values.values())).astype(np.float64)
    together = together[np.isfinite(together)]
    if shown.log:
        together = together[together > 0]
    limits = shown.limits
    if limits is None and len(together):
        limits = tuple(np.percentile(together, (0.05, 99.95)))
    result = {}
    for run_id, of_run in values.items():
        edges, counts = quantities.histogram(of_run, n_bins, limits, shown.log)
        scale = {"rate": spans[run_id], "counts": 1.0, "shape": float(counts.sum())}[normalize]
        result[run_id] = quantities.Histogram(edges, counts / (scale or 1.0))
    return result
