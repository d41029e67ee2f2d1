"""Plain, slow transcription of the rules of ../shared/spec/README.md, from peaks to events.

Each function makes rows of one data type, one row at a time. Peaks, events and options are those
of the plugins; `options` are attributes with the names of the plugins' options.
"""

import numpy as np
import strax

S1, S2 = 1, 2
PREFIXES = ("s1_", "alt_s1_", "s2_", "alt_s2_")
COPIED_TO_EVENTS = (
    "time", "center_time", "endtime", "area", "n_channels", "n_hits", "max_pmt", "max_pmt_area",
    "range_50p_area", "range_90p_area", "rise_time", "area_fraction_top", "tight_coincidence",
    "n_saturated_channels", "x_cgr", "y_cgr", "x_corr", "y_corr",
)  # fmt: skip


def as_array(rows, dtype, absent=None):
    """Return dicts as an array; missing fields are `absent`, by default -1 (integers) or NaN."""
    result = np.zeros(len(rows), dtype=dtype)
    for name in result.dtype.names:
        is_float = result.dtype[name].base.kind == "f"
        result[name] = (np.nan if is_float else -1) if absent is None else absent
    for i, row in enumerate(rows):
        for name, value in row.items():
            result[name][i] = value
    return result


def times_of(row):
    return {"time": row["time"], "endtime": strax.endtime(row)}


def radius(x, y):
    return np.sqrt(x * x + y * y)


def peak_basics(peaks, options, top, dtype):
    """Return peak_basics; `top` are the first and last channel of the top array."""
    rows = []
    for peak in peaks:
        areas = peak["area_per_channel"]
        area_top = areas[top[0] : top[1] + 1].sum()
        total = area_top + np.concatenate([areas[: top[0]], areas[top[1] + 1 :]]).sum()
        mean_time = 0
        if peak["area"] > 0:
            samples = np.arange(len(peak["data"])) * int(peak["dt"])
            mean_time = int(np.cumsum(samples * peak["data"].astype(float))[-1] / peak["area"])
        row = times_of(peak) | {
            **{name: peak[name] for name in ("area", "n_saturated_channels", "length", "dt")},
            **{name: peak[name] for name in ("n_hits", "tight_coincidence") if name in dtype.names},
            "n_channels": np.count_nonzero(areas > 0),
            "max_pmt": areas.argmax(),
            "max_pmt_area": areas.max(),
            "range_50p_area": peak["width"][5],
            "range_90p_area": peak["width"][9],
            "rise_time": -peak["area_decile_from_midpoint"][1],
            "area_fraction_top": area_top / total if total > 0 else np.nan,
            "center_time": peak["time"] + mean_time,
        }
        rows.append(row | {"type": peak_type(row, options) if options else 0})
    return as_array(rows, dtype)


def peak_type(row, options):
    """Return 1 (S1), 2 (S2), or 0 for neither and for both."""
    width, aft = row["range_50p_area"], row["area_fraction_top"]
    is_s1 = (
        row["area"] >= options.s1_min_area
        and options.s1_min_width < width < options.s1_max_width
        and aft <= options.s1_max_area_fraction_top
        and row["n_channels"] >= options.s1_min_channels
    )
    is_s2 = (
        row["area"] > options.s2_min_area
        and width > options.s2_min_width
        and aft >= options.s2_min_area_fraction_top
        and row["n_channels"] >= options.s2_min_channels
    )
    return 0 if is_s1 and is_s2 else S1 if is_s1 else S2 if is_s2 else 0


def peak_positions(peaks, basics, options, first_top, dtype):
    """Return peak_positions; `first_top` is the first channel of the top array."""
    rows = []
    for peak, basic in zip(peaks, basics, strict=True):
        a, b, c, _ = peak["area_per_channel"][first_top : first_top + 4]
        area_top = basic["area"] * basic["area_fraction_top"]
        row = times_of(peak)
        for axis, pair, p in zip("xy", (a + b, a + c), options.pos_rec_params, strict=True):
            fraction = pair / area_top if area_top != 0 else np.float32(np.nan)
            value = np.float32(0)
            for coefficient in p:
                value = value * fraction + np.float32(coefficient)
            row |= {f"{axis}_cgr": fraction, f"{axis}_corr": value}
        for kind in ("cgr", "corr"):
            row[f"r_{kind}"] = radius(row[f"x_{kind}"], row[f"y_{kind}"])
        kind = options.default_reconstruction_algorithm
        rows.append(row | {axis: row[f"{axis}_{kind}"] for axis in "xyr"})
    return as_array(rows, dtype)


def events(peaks, options, start, end, dtype):
    """Return events of a run from start to end: event_number counts on through the run."""
    is_trigger = (peaks["type"] == S2) & (peaks["area"] > options.trigger_min_area)
    left, right = options.left_event_extension, options.right_event_extension
    spans = strax.find_peak_groups(peaks[is_trigger], left + right + 1, left, right)
    rows = [
        {"event_number": i, "time": max(first, start), "endtime": min(last, end)}
        for i, (first, last) in enumerate(zip(*spans, strict=True))
    ]
    return as_array(rows, dtype)


def peaks_by_event(peaks, events):
    """Return for each event the indices of its peaks.

    Where events overlap, a peak is looked for in the first that ends after its start, only.
    """
    result = [[] for _ in events]
    for i, peak in enumerate(peaks):
        ends_later = np.flatnonzero(events["endtime"] > peak["time"])
        if len(ends_later):
            event = events[ends_later[0]]
            if event["time"] <= peak["time"] and strax.endtime(peak) <= event["endtime"]:
                result[ends_later[0]].append(i)
    return result


def choose(peaks, selection):
    """Return indices of main S1, alternative S1, main S2 and alternative S2 of one event, or -1.

    `selection` has the fields of `amstrax.processing.events.Selection`.
    """

    def largest(indices):
        indices = np.array(indices, dtype=int)
        return indices[np.argsort(peaks["area"][indices], kind="stable")[::-1]].tolist()

    s2s = largest([i for i in range(len(peaks)) if peaks["type"][i] == S2])
    s1s = largest(
        [
            i
            for i in range(len(peaks))
            if peaks["type"][i] == S1
            and peaks["tight_coincidence"][i] >= selection.s1_min_coincidence
            and (
                not s2s
                or selection.allow_posts2_s1s
                or peaks["time"][i] < peaks["time"][s2s[0]]
            )
        ]
    )  # fmt: skip
    if s1s and selection.force_alt_s2_in_max_drift_time:
        delay = peaks["center_time"] - peaks["center_time"][s1s[0]]
        limit = 1.01 * selection.max_drift_time
        s2s = s2s[:1] + [i for i in s2s[1:] if 0 < delay[i] < limit]
    result = []
    for found in (s1s[:2], s2s[:2]):
        if selection.force_main_before_alt:
            found = sorted(found, key=lambda i: peaks["time"][i])
        result += (found + [-1, -1])[:2]
    return result


def event_basics(events, peaks, selection, dtype):
    """Return event_basics; peaks have the fields of peak_basics and peak_positions."""
    rows = []
    for event, indices in zip(events, peaks_by_event(peaks, events), strict=True):
        inside = peaks[indices]
        chosen = choose(inside, selection)
        row = {name: event[name] for name in ("time", "endtime", "event_number")}
        row["n_peaks"] = len(inside)
        for prefix, i in zip(PREFIXES, chosen, strict=True):
            if i >= 0:
                row[f"{prefix}index"] = i
                row |= {prefix + name: inside[name][i] for name in COPIED_TO_EVENTS}
        s1, alt_s1, s2, alt_s2 = chosen
        center = inside["center_time"].tolist()
        if s1 >= 0 and s2 >= 0:  # else all times between peaks are absent
            row["drift_time"] = center[s2] - center[s1]
            if alt_s1 >= 0:
                row["alt_s1_interaction_drift_time"] = center[s2] - center[alt_s1]
                row["alt_s1_delay"] = center[alt_s1] - center[s1]
            if alt_s2 >= 0:
                row["alt_s2_interaction_drift_time"] = center[alt_s2] - center[s1]
                row["alt_s2_delay"] = center[alt_s2] - center[s2]
        if s2 >= 0:
            row["area_before_main_s2"] = row["large_s2_before_main_s2"] = np.float32(0)
            for peak in inside[inside["time"] < inside["time"][s2]]:
                row["area_before_main_s2"] += peak["area"]
                if peak["type"] == S2:
                    row["large_s2_before_main_s2"] = max(
                        row["large_s2_before_main_s2"], peak["area"]
                    )
        rows.append({name: value for name, value in row.items() if name in dtype.names})
    return as_array(rows, dtype)


def event_positions(basics, options, dtype):
    rows = []
    speed = options.gate_cathode_distance / (options.drift_time_cathode - options.drift_time_gate)
    for event in basics:
        row = times_of(event) | {"z": -speed * (event["drift_time"] - options.drift_time_gate)}
        for source, prefix in (("s2", ""), ("alt_s2", "alt_s2_")):
            x, y = (
                event[f"{source}_{axis}_{options.default_reconstruction_algorithm}"]
                for axis in "xy"
            )
            row |= {f"{prefix}x": x, f"{prefix}y": y, f"{prefix}r": radius(x, y)}
        rows.append(row)
    return as_array(rows, dtype)


def corrected_areas(basics, positions, options, dtype):
    z_min, z_max, y0, slope = options.s1_naive_z_correction
    rows = []
    for event, position in zip(basics, positions, strict=True):
        row = times_of(event)
        for prefix in ("", "alt_"):  # alternative ones with z and drift time of the main ones
            at_middle, at_z = y0 + slope * (z_min + z_max) / 2, y0 + slope * position["z"]
            row[f"{prefix}cs1"] = event[f"{prefix}s1_area"] * (at_middle / at_z)
            row[f"{prefix}cs2"] = event[f"{prefix}s2_area"] * np.exp(
                event["drift_time"] / options.elife
            )
        rows.append(row)
    return as_array(rows, dtype)


def copies_of_peaks(basics, peaks, field, dtype):
    """Return event_waveform (`field` data) or event_area_per_channel; absent peaks are 0."""
    rows = []
    for event, indices in zip(basics, peaks_by_event(peaks, basics), strict=True):
        row = times_of(event)
        for prefix in PREFIXES:
            if event[f"{prefix}index"] >= 0:
                peak = peaks[indices[event[f"{prefix}index"]]]
                row |= {f"{prefix}{name}": peak[name] for name in (field, "length", "dt")}
        if field == "area_per_channel":
            row["s1_n_channels"] = np.count_nonzero(row.get("s1_area_per_channel", np.zeros(1)) > 0)
        rows.append(row)
    return as_array(rows, dtype, absent=0)


def coincidences(signals, times, external, options, dtype):
    """Return coincidences of `signals` at `times` (negative: none) with external peaks."""
    is_511 = np.abs(external["area"] - 511) <= options.absorption_peak_delta
    unused = external["time"][is_511].tolist()
    rows = []
    for signal, time in zip(signals, times.tolist(), strict=True):
        partner = next(
            (t for t in unused if time >= 0 and 0 <= t - time <= options.max_delay), None
        )
        if partner is not None:
            unused.remove(partner)
        rows.append(times_of(signal) | {"is_coinc": partner is not None})
    return as_array(rows, dtype)


def led_rows(raw_records, options):
    """Return rows of records_led and led_calibration together, as dicts."""
    rows = []
    n_samples = options.n_records_per_pulse * options.record_length
    for first in raw_records[raw_records["record_i"] == 0]:
        mine = raw_records[raw_records["channel"] == first["channel"]]
        start = mine["time"] - mine["record_i"].astype(int) * options.record_length * mine["dt"]
        mine = mine[(start == first["time"]) & (mine["record_i"] < options.n_records_per_pulse)]
        data, present = np.zeros(n_samples, np.float32), np.zeros(n_samples, bool)
        for fragment in mine:
            begin, length = fragment["record_i"] * options.record_length, fragment["length"]
            data[begin : begin + length] = fragment["data"][:length]
            present[begin : begin + length] = True
        window = slice(*options.baseline_window)
        baseline = data[window][present[window]].mean()
        data = np.where(present, -(data - baseline), 0)
        led, noise = options.led_window, options.noise_window
        areas = [data[led[0] : led[1] + 2 * i].sum() for i in range(6)]
        rows.append(
            {
                **{name: first[name] for name in ("time", "dt", "channel", "pulse_length")},
                "length": mine["length"].sum(),
                "data": data,
                "amplitude_led": data[slice(*led)].max(),
                "amplitude_noise": data[slice(*noise)].max(),
                "area": np.mean(areas),
            }
        )
    return rows
