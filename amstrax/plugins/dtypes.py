"""Dtypes of peak_basics and event_basics, with units in titles, and columns that stay empty."""

import numpy as np
import strax
from numpy.typing import DTypeLike

_SX = ("s1", "s2")
_DIFFERENCES = ("max_diff", "min_diff")

#: Position reconstruction algorithms: suffix of the fields, unit, description
ALGORITHMS = (
    ("cgr", "1", "share of the light among top channels"),
    ("corr", "mm", "polynomial of that share"),
)

_UNSET = "unless tight_coincidence_window is set"
_OF_HITS = ("first_channel", "last_channel", "min_diff", "max_diff")
_PEAKS = {
    "channel": "always -1, the sum of channels",
    "type": "always 0",
    "area_fraction_top": "always NaN",
    "data_top": "always 0",
    "data_start": "always 0",
    "tight_coincidence": f"0 {_UNSET}",
    "n_hits": f"0 for parts of split peaks {_UNSET}",
    "max_gap": f"-1 for parts of split peaks {_UNSET}",
    **dict.fromkeys(_OF_HITS, f"0, or -1 for parts of split peaks, {_UNSET}"),
}
_SPLIT_AT_MINIMA = {"max_goodness_of_split": "always 0, since peaks are split at local minima"}
_RECORDS = {"reduction_level": "always 0", "amplitude_bit_shift": "always 0"}
_NOT_INTEGRATED = {"left_integration": "always 0", "right_integration": "always 0"}
_HITS = _NOT_INTEGRATED | {"threshold": "always 15, which no option changes"}
_TIGHT = {"tight_coincidence": f"0 {_UNSET}"}
_ONE_DETECTOR = _TIGHT | {"area_fraction_top": "always 0"}
_SIPM = {"n_saturated_channels": "always 1 for positive pulses, unless correct_positive_polarity"}
_EVENTS = {
    **{f"{prefix}{sx}_tight_coincidence": f"0 {_UNSET}" for prefix in ("", "alt_") for sx in _SX},
    **{f"{prefix}s1_{name}": "always -1" for prefix in ("", "alt_") for name in _DIFFERENCES},
    **{f"{prefix}s2_{axis}": "always NaN" for prefix in ("", "alt_") for axis in "xy"},
}

#: Columns without information, always or by default: data type -> column -> content
EMPTY_COLUMNS: dict[str, dict[str, str]] = {
    "records": _RECORDS,
    "records_ext": _RECORDS,
    "records_sipm": _RECORDS,
    "radon_records": _RECORDS | {"reduction_level": "always 2, cut outside hits"},
    "hits": _HITS,
    "lone_hits": _HITS,
    "radon_hits": _NOT_INTEGRATED,
    "peaks": _PEAKS | _SPLIT_AT_MINIMA,
    "peaks_ext": _PEAKS | _SPLIT_AT_MINIMA,
    "peaks_sipm": _PEAKS | _SPLIT_AT_MINIMA | _SIPM,
    "radon_peaks": {name: text for name, text in _PEAKS.items() if name != "n_hits"},
    "peak_basics": _TIGHT,
    "peak_basics_ext": _ONE_DETECTOR,
    "peak_basics_sipm": _ONE_DETECTOR | _SIPM,
    "radon_peak_basics": {"type": "always 0"},
    "event_basics": _EVENTS,
    # Those of alternative S2s are filled from event_positions
    "event_info": {c: text for c, text in _EVENTS.items() if c not in ("alt_s2_x", "alt_s2_y")},
}


def rows_for(intervals: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """Return rows of `dtype` with ``time`` and ``endtime`` of intervals, and zeros else."""
    result = np.zeros(len(intervals), dtype=dtype)
    result["time"] = intervals["time"]
    result["endtime"] = strax.endtime(intervals)
    return result


def peak_basics_dtype(
    with_hits: bool = True, type_dtype: type = np.int16, data_type: str = "peak_basics"
) -> list:
    """Return the dtype of basic properties of peaks.

    `with_hits` adds n_hits and tight_coincidence; `type_dtype` is the type of the field ``type``;
    titles name the empty columns of `data_type`.
    """
    n_hits = [(("Number of hits at least partly inside the peak", "n_hits"), np.int32)]
    coincidence = [
        (("Channels with a hit near the peak's largest sample", "tight_coincidence"), np.int16)
    ]
    fields = [
        (("Start time of the peak since unix epoch [ns]", "time"), np.int64),
        (("Exclusive end time of the peak since unix epoch [ns]", "endtime"), np.int64),
        (("Mean time of the waveform since unix epoch [ns]", "center_time"), np.int64),
        (("Area [PE]", "area"), np.float32),
        *(n_hits if with_hits else []),
        (("Number of channels with a positive area", "n_channels"), np.int16),
        (("Channel with the largest area", "max_pmt"), np.int16),
        (("Area in that channel [PE]", "max_pmt_area"), np.float32),
        (("Number of channels that reach the end of the ADC", "n_saturated_channels"), np.int16),
        (("Width of the central 50% of the area [ns]", "range_50p_area"), np.float32),
        (("Width of the central 90% of the area [ns]", "range_90p_area"), np.float32),
        (("Fraction of the area that the top array saw [1]", "area_fraction_top"), np.float32),
        (("Length of the waveform [samples]", "length"), np.int32),
        (("Width of a sample [ns]", "dt"), np.int16),
        (("Time from 10% to 50% of the area [ns]", "rise_time"), np.float32),
        *(coincidence if with_hits else []),
        (("Kind of peak: 1 S1, 2 S2, 0 unknown", "type"), type_dtype),
    ]
    empty = EMPTY_COLUMNS[data_type]
    return [
        ((f"{title}; {empty[name]}" if name in empty else title, name), dtype)
        for (title, name), dtype in fields
    ]


def basics_of_sx() -> dict[str, tuple[str, type]]:
    """Return title and type of the properties of S1s and S2s in event_basics."""
    wanted = {
        "n_channels": np.int16,
        "n_hits": np.int16,
        "max_pmt": np.int16,
        "max_pmt_area": np.float32,
        "range_50p_area": np.float32,
        "range_90p_area": np.float32,
        "rise_time": np.float32,
        "area_fraction_top": np.float32,
        "tight_coincidence": np.int16,
        "n_saturated_channels": np.int16,
    }
    titles = {name: title for (title, name), *_ in peak_basics_dtype()}
    return {name: (titles[name], dtype) for name, dtype in wanted.items()}


def event_basics_dtype() -> list:
    """Return the dtype of event_basics."""
    times = {
        "time": ("start time since unix epoch [ns]", np.int64),
        "center_time": ("mean time since unix epoch [ns]", np.int64),
        "endtime": ("exclusive end time since unix epoch [ns]", np.int64),
        "area": ("area [PE]", np.float32),
    }
    basics = {
        name: (title[0].lower() + title[1:], dtype)
        for name, (title, dtype) in basics_of_sx().items()
    }

    def pair(sx, name, title, dtype):
        s = sx.upper()
        return [
            ((f"Main {s}: {title}", f"{sx}_{name}"), dtype),
            ((f"Alternative {s}: {title}", f"alt_{sx}_{name}"), dtype),
        ]

    fields = [
        (("Start time of the event since unix epoch [ns]", "time"), np.int64),
        (("Exclusive end time of the event since unix epoch [ns]", "endtime"), np.int64),
        (("Number of peaks in the event", "n_peaks"), np.int32),
        (("Time between the centres of main S1 and main S2 [ns]", "drift_time"), np.float32),
        (("Number of the event in the run", "event_number"), np.int64),
    ]
    for sx, drift in (
        ("s1", "Time between the centres of alternative S1 and main S2 [ns]"),
        ("s2", "Time between the centres of main S1 and alternative S2 [ns]"),
    ):
        fields += pair(sx, "index", "number of the peak in the event", np.int32)
        for name, (title, dtype) in (times | basics).items():
            fields += pair(sx, name, title, dtype)
        delay = f"Time from the centre of the main to that of the alternative {sx.upper()} [ns]"
        fields += [
            ((drift, f"alt_{sx}_interaction_drift_time"), np.float32),
            ((delay, f"alt_{sx}_delay"), np.int32),
        ]
    for name, title in (("max_diff", "largest"), ("min_diff", "smallest")):
        fields += pair("s1", name, f"{title} time between hits [ns], not known: -1", np.int32)

    def position(suffix, title):
        return [
            ((f"{which} S2: reconstructed {axis}, {title}", f"{prefix}_{axis}{suffix}"), np.float32)
            for which, prefix in (("Main", "s2"), ("Alternative", "alt_s2"))
            for axis in "xy"
        ]

    fields += position("", "always NaN, use x, y, alt_s2_x, alt_s2_y of event_positions [mm]")
    fields += [
        (("Area of peaks that start before the main S2 [PE]", "area_before_main_s2"), np.float32),
        (
            (
                "Area of the largest S2 that starts before the main S2 [PE]",
                "large_s2_before_main_s2",
            ),
            np.float32,
        ),
    ]
    for suffix, unit, description in ALGORITHMS:
        fields += position(f"_{suffix}", f"{description} [{unit}]")
    return fields
