"""Sources of the interactive figures: what they show of peaks, events and LED pulses."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from amstrax.analyses.interactive import _bokeh
from amstrax.analyses.quantities import ADC_COUNTS, PE, thin
from amstrax.analyses.style import BLUE, CHANNEL_COLORS, TYPE_COLORS, TYPE_NAMES

#: Rows of a source, unless more are asked for: so many points can be moved smoothly
MOST = 20_000
#: Columns of an event source: name, field of event_info, factor
_EVENT_COLUMNS = (
    ("event_number", "event_number", 1),
    ("s1_area", "s1_area", 1),
    ("s2_area", "s2_area", 1),
    ("cs1", "cs1", 1),
    ("cs2", "cs2", 1),
    ("drift_us", "drift_time", 1e-3),
    ("x", "x", 1),
    ("y", "y", 1),
    ("z", "z", 1),
    ("r", "r", 1),
    ("s1_width", "s1_range_50p_area", 1),
    ("s2_width", "s2_range_50p_area", 1),
    ("s1_aft", "s1_area_fraction_top", 1),
    ("s2_aft", "s2_area_fraction_top", 1),
    ("n_peaks", "n_peaks", 1),
)
_PEAK_COLUMNS = (
    ("area", "area", 1),
    ("width", "range_50p_area", 1),
    ("aft", "area_fraction_top", 1),
    ("rise_time", "rise_time", 1),
    ("n_channels", "n_channels", 1),
)
#: Of axes, by column; {unit} is that of areas
_LABELS = {
    "s1_area": "S1 [{unit}]",
    "s2_area": "S2 [{unit}]",
    "cs1": "cS1 [{unit}]",
    "cs2": "cS2 [{unit}]",
    "drift_us": "Drift time [µs]",
    "x": "x [mm]",
    "y": "y [mm]",
    "z": "z [mm]",
    "r": "r [mm]",
    "area": "Area [{unit}]",
    "width": "Width of the central 50 % [ns]",
    "aft": "Area fraction top",
    "time_s": "Time since the start of the run [s]",
}


def peak_source(peaks: np.ndarray, start: int = 0, most: int = MOST, unit: str = PE) -> Any:
    """Return a source of peaks for the figures below.

    Parameters
    ----------
    peaks
        As of peak_basics, shape (n,).
    start
        Of the run [ns since unix epoch].
    most
        Rows; of more peaks, so many are taken at random, the same each time.
    unit
        Of areas, as of `amstrax.analyses.loading.area_unit`.

    Returns
    -------
    ColumnDataSource with the columns ``index`` (the row in `peaks`), ``time_s``, ``area``,
    ``width`` [ns], ``aft``, ``rise_time`` [ns], ``n_channels``, ``type``, ``type_name`` and
    ``color`` (RGBA, a byte each). Its ``tags`` are ``[{"shown": rows, "of": n, "unit": unit}]``.
    """
    rows = thin(len(peaks), most)
    peaks_shown = peaks[rows]
    types = np.clip(peaks_shown["type"], 0, len(TYPE_NAMES) - 1)
    data = _columns(peaks_shown, _PEAK_COLUMNS, start)
    data["type"] = types.astype(np.int32)
    data["type_name"] = np.array(TYPE_NAMES)[types]
    data["color"] = _rgba(TYPE_COLORS)[types]
    return _source(data, rows, len(peaks), unit)


def event_source(events: np.ndarray, start: int = 0, most: int = MOST, unit: str = PE) -> Any:
    """Return a source of events for the figures below.

    Parameters are those of `peak_source`, with events as of event_info.

    Returns
    -------
    ColumnDataSource with the columns ``index``, ``event_number``, ``time_s``, ``s1_area``,
    ``s2_area``, ``cs1``, ``cs2``, ``drift_us`` [µs], ``x``, ``y``, ``z``, ``r`` [mm],
    ``s1_width``, ``s2_width`` [ns], ``s1_aft``, ``s2_aft``, ``n_peaks`` and ``color``.
    """
    rows = thin(len(events), most)
    data = _columns(events[rows], _EVENT_COLUMNS, start)
    data["color"] = np.full(len(rows), _rgba((BLUE,)))
    return _source(data, rows, len(events), unit)


def led_source(pulses: np.ndarray, most: int = 50_000) -> Any:
    """Return a source of pulses of an LED run.

    Parameters are those of `peak_source`, with pulses as of led_calibration.

    Returns
    -------
    ColumnDataSource with the columns ``index``, ``channel``, ``area`` [ADC counts x samples],
    ``amplitude_led`` [ADC counts], ``color``.
    """
    rows = thin(len(pulses), most)
    shown = pulses[rows]
    data = {name: np.asarray(shown[name]) for name in ("channel", "area", "amplitude_led")}
    colors = _rgba(CHANNEL_COLORS)
    data["color"] = colors[shown["channel"] % len(colors)]
    return _source(data, rows, len(pulses), ADC_COUNTS)


def _columns(
    rows: np.ndarray, columns: Sequence[tuple[str, str, float]], start: int
) -> dict[str, np.ndarray]:
    fields = rows.dtype.names or ()
    data = {"time_s": (rows["time"] - start) / 1e9}
    for name, field, factor in columns:
        if field in fields:
            values = rows[field]
            # 64-bit integers do not fit into the numbers of JavaScript, nor into Bokeh's
            whole = values.dtype.kind in "iub"
            data[name] = values.astype(np.int32 if whole else np.float64)
            if factor != 1:
                data[name] = values * factor
        else:
            data[name] = np.full(len(rows), np.nan)
    return data


def _rgba(colors: Sequence[str]) -> np.ndarray:
    """Return colours as numbers, red first and opaque: a tenth of the work that texts are."""
    return np.array([int(f"{color[1:]}ff", 16) for color in colors], dtype=np.uint32)


def _source(data: dict[str, np.ndarray], rows: np.ndarray, of: int, unit: str) -> Any:
    data["index"] = rows.astype(np.int32)
    return _bokeh.bokeh().models.ColumnDataSource(
        {name: values for name, values in data.items()},
        tags=[{"shown": len(rows), "of": of, "unit": unit}],
    )


def _tags(source: Any) -> dict[str, Any] | None:
    return next((tag for tag in source.tags if isinstance(tag, dict) and "shown" in tag), None)


def label_of(column: str, source: Any) -> str:
    """Return the label of an axis with a column of a source."""
    unit = (_tags(source) or {}).get("unit", PE)
    return _LABELS.get(column, column).replace("{unit}", unit)


def counted_title(title: str, source: Any) -> str:
    """Return a title that says how many of all rows are shown, if not all are."""
    tags = _tags(source)
    if tags is None or tags["shown"] == tags["of"]:
        return title
    return f"{title}: {tags['shown']:,} of {tags['of']:,}, at random"
