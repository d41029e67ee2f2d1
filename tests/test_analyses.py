"""Plots and figures of merit, from tables of which the answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from make_truth import EVENT_DTYPE, T0, make_peaks, make_truth, perfect_events, perfect_peaks
from matplotlib.figure import Figure

from amstrax import analyses
from amstrax.analyses import statistics, validation, validation_text
from amstrax.exceptions import InvalidOption
from amstrax.plugins.event_processing import basics_of_sx

CONDITIONS = validation.Conditions(100.0, 50_000, 50_000, 30_000.0, 30_000.0)


# --- statistics


def test_fraction():
    """Wilson's interval for 8 of 10 and one sigma: (8.5 +- sqrt(1.6 + 0.25)) / 11."""
    number = statistics.fraction(8, 10)
    assert number.value == 0.8
    assert number.error == pytest.approx(np.sqrt(1.6 + 0.25) / 11)
    low, high = statistics.fraction_interval(np.array([8]), np.array([10]))
    assert low[0] == pytest.approx((8.5 - np.sqrt(1.85)) / 11)
    assert high[0] == pytest.approx((8.5 + np.sqrt(1.85)) / 11)


def test_fractions_at_the_ends():
    low, high = statistics.fraction_interval(np.array([0, 9, 0]), np.array([9, 9, 0]))
    assert (low[0], high[0]) == (0, pytest.approx(0.1))
    assert (low[1], high[1]) == (pytest.approx(0.9), 1)
    assert np.isnan([low[2], high[2]]).all()
    assert np.isnan(statistics.fraction(0, 0)).all()
    assert statistics.fraction(9, 9).error > 0


def test_errors_of_median_and_spread_are_those_of_many_samples():
    rng = np.random.default_rng(1)
    samples = rng.normal(3, 2, size=(2_000, 200))
    medians = [statistics.median(sample) for sample in samples]
    spreads = [statistics.spread(sample) for sample in samples]
    for numbers, truth in ((medians, 3), (spreads, 2)):
        values, errors = np.array(numbers).T
        assert values.mean() == pytest.approx(truth, rel=0.02)
        assert errors.mean() == pytest.approx(values.std(), rel=0.06)


def test_few_values():
    assert np.isnan(statistics.median(np.array([]))).all()
    assert np.isnan(statistics.spread(np.array([1.0]))).all()
    assert statistics.median(np.array([4.0])).value == 4


def test_line_with_outliers():
    rng = np.random.default_rng(2)
    pulls = []
    for _ in range(200):
        x = rng.uniform(0, 10, 300)
        y = 3 - 0.5 * x + rng.normal(0, 0.2, 300)
        y[:15] += rng.uniform(5, 50, 15)
        x[20], y[21] = np.nan, np.inf
        line = statistics.fit_line(x, y)
        pulls.append(
            [
                (line.slope.value + 0.5) / line.slope.error,
                (line.intercept.value - 3) / line.intercept.error,
            ]
        )
    assert np.abs(np.mean(pulls, axis=0)).max() < 0.25
    assert np.std(pulls, axis=0) == pytest.approx([1, 1], abs=0.15)


@pytest.mark.parametrize("x", [[], [1], [1, 2], [3, 3, 3, 3]])
def test_no_line(x):
    line = statistics.fit_line(np.array(x, dtype=float), np.arange(len(x)))
    assert np.isnan(line.slope).all()


@hypothesis_settings(max_examples=40, deadline=None, database=None)
@given(st.floats(-5, 5), st.floats(-100, 100), st.integers(4, 50))
def test_exact_line(slope, intercept, n):
    x = np.arange(n, dtype=float)
    line = statistics.fit_line(x, intercept + slope * x)
    assert line.slope.value == pytest.approx(slope, abs=1e-9)
    assert line.intercept.value == pytest.approx(intercept, abs=1e-8)


# --- figures of merit


def make_run(n=400):
    """Return truth of events 10 ms apart, at all depths and of several sizes."""
    rng = np.random.default_rng(3)
    truth = make_truth(
        np.arange(n) * 10_000_000,
        drift=rng.integers(3_000, 39_500, n),
        s1_pe=rng.integers(60, 400, n),
        s2_pe=rng.integers(1_000, 9_000, n),
    )
    truth["x"], truth["y"] = rng.uniform(-30, 30, (2, n))
    return truth


def report_of(truth, peaks, events, conditions=CONDITIONS):
    return validation.validation_report(validation.match(truth, peaks, events), conditions)


def value(report, name):
    return report["numbers"][name]["value"]


def test_report_of_a_perfect_reconstruction():
    truth = make_run()
    report = report_of(truth, perfect_peaks(truth), perfect_events(truth))
    for name in ("s1_efficiency", "s2_efficiency", "event_efficiency"):
        assert value(report, name) == 1
    for kind in ("s1", "s2"):
        for name in ("missed", "misclassified", "split", "merged"):
            assert value(report, f"{kind}_{name}") == 0
        assert report["outcomes"][kind]["found"] == len(truth)
        assert sum(report["outcomes"][kind].values()) == len(truth)
        assert sum(report["by_size"][kind]["n"]) == len(truth)
        assert report["by_size"][kind]["n_found"] == report["by_size"][kind]["n"]
    for name in ("s1_area", "s2_area", "drift_time", "z", "x", "y"):
        assert value(report, f"{name}_bias") == pytest.approx(0, abs=2e-3)
        assert value(report, f"{name}_resolution") == pytest.approx(0, abs=2e-3)
    assert value(report, "x_slope") == pytest.approx(1, abs=1e-6)
    assert report["matrix"]["counts"] == [[400, 0, 0, 0], [0, 400, 0, 0], [0, 0, 0, 0]]
    assert value(report, "events_merged") == value(report, "events_merged_expected") == 0
    # cs2 is in proportion to the true electrons, but for rounding: no losses are left
    assert value(report, "elife_per_electron") == pytest.approx(30_000, rel=1e-3)


def test_report_finds_what_is_wrong():
    """A quarter of the S1s is lost, a tenth of the S2s split, and so on."""
    truth = make_run()
    peaks, events = perfect_peaks(truth), perfect_events(truth)
    is_s1 = peaks["type"] == 1
    peaks["area"] *= np.where(is_s1, 1.05, 0.98)
    peaks["type"][np.flatnonzero(~is_s1)[::8]] = 1
    split = np.flatnonzero(~is_s1)[1::10]
    halves = peaks[split].copy()
    halves["area"] *= 0.4
    peaks["area"][split] *= 0.6
    peaks["endtime"][split] -= 1_000
    halves["time"] = peaks["endtime"][split]
    stray = make_peaks([(505_000_000, 505_000_100, 0, 11), (5_000_000, 5_000_100, 1, 12)])
    peaks = np.concatenate([np.delete(peaks, np.flatnonzero(is_s1)[::4]), halves, stray])
    peaks = peaks[np.argsort(peaks["time"])]
    events["drift_time"] += 40
    events["z"] -= 1
    events["x"] *= 1.2
    report = report_of(truth, peaks, events)
    assert value(report, "s1_efficiency") == 0.75
    assert value(report, "s1_missed") == 0.25
    assert value(report, "s2_efficiency") == pytest.approx(1 - 1 / 8)
    assert value(report, "s2_split") == 0.1
    assert value(report, "s1_area_bias") == pytest.approx(0.05, abs=1e-6)
    assert value(report, "s2_area_bias") == pytest.approx(-0.02, abs=1e-6)
    assert value(report, "drift_time_bias") == 40
    assert value(report, "z_bias") == pytest.approx(-1, abs=1e-4)
    assert value(report, "x_slope") == pytest.approx(1.2)
    assert value(report, "stray_peaks") == pytest.approx(2 / CONDITIONS.duration)
    assert report["matrix"]["counts"] == [[300, 0, 0, 100], [50, 350, 0, 0], [1, 0, 1, 0]]


def test_positions_are_of_events_that_are_alone_in_theirs():
    """Two true events in one, of which one has both the main S1 and the main S2."""
    truth = make_truth([0, 60_000, 10_000_000])
    events = perfect_events(truth)[[0, 2]]
    events["endtime"][0] += 60_000
    events["drift_time"] += [500, 7]
    matched = validation.match(truth, perfect_peaks(truth), events)
    assert matched.of_events["s1_is_main"].tolist() == [True, False, True]
    assert matched.clean.tolist() == [False, False, True]
    report = validation.validation_report(matched, CONDITIONS)
    assert value(report, "drift_time_bias") == 7
    # Those merged come in pairs, so that half as many are independent
    merged = report["numbers"]["events_merged"]
    assert merged["value"] == pytest.approx(2 / 3)
    one = statistics.fraction(2, 3)
    assert merged["error"] == pytest.approx(one.error * np.sqrt(2))


@pytest.mark.parametrize("true_elife", [10_000.0, 30_000.0, 90_000.0])
def test_electron_lifetime(true_elife):
    """Losses at one lifetime, corrected with another, among outliers."""
    rng = np.random.default_rng(4)
    truth = make_run(2_000)
    events = perfect_events(truth)
    drift = truth["drift_time"]
    losses = np.exp(-drift / true_elife + drift / CONDITIONS.elife)
    events["cs2"] = 8_000 * losses * rng.lognormal(0, 0.1, len(truth))
    events["cs2"][::20] *= 6
    truth["electrons"] = 800
    report = report_of(
        truth, perfect_peaks(truth), events, CONDITIONS._replace(true_elife=true_elife)
    )
    for name in ("elife", "elife_per_electron"):
        entry = report["numbers"][name]
        assert abs(entry["value"] - true_elife) < 3 * entry["error"]
        assert entry["error"] < 0.03 * true_elife
        bias = report["numbers"][f"{name}_bias"]["value"]
        assert bias == pytest.approx(entry["value"] / true_elife - 1)


def test_electron_lifetime_that_cannot_be():
    """A slope so steep that electrons would have to be gained."""
    drift = np.linspace(3_000, 39_000, 50)
    assert np.isnan(validation.electron_lifetime(drift, np.exp(drift / 10_000), 30_000)).all()


def test_events_merged_by_the_window():
    """At a high rate: what the window predicts is what is seen, and the Poisson formula agrees."""
    rng = np.random.default_rng(5)
    times = np.cumsum(rng.exponential(1e6, 4_000)).astype(int)  # 1 kHz
    truth = make_truth(times)
    duration = times[-1] / 1e9
    # Peaks that would overlap are left to the first
    peaks = perfect_peaks(truth)
    peaks = peaks[np.argsort(peaks["time"])]
    while (overlap := peaks["time"][1:] < peaks["endtime"][:-1]).any():
        peaks = np.delete(peaks, np.flatnonzero(overlap)[0] + 1)
    s2 = peaks[peaks["type"] == 2]
    limits = validation.find_groups(s2["time"], s2["endtime"], 50_000, 50_000)
    events = np.zeros(len(limits[0]), dtype=EVENT_DTYPE)
    events["time"], events["endtime"] = limits
    report = report_of(truth, peaks, events, CONDITIONS._replace(duration=duration))
    merged, expected, poisson = (
        report["numbers"][f"events_merged{suffix}"] for suffix in ("", "_expected", "_poisson")
    )
    assert merged["value"] == pytest.approx(expected["value"], abs=2e-3)
    assert abs(merged["value"] - poisson["value"]) < 3 * merged["error"]
    assert 0.1 < poisson["value"] < 0.25


def test_report_of_nothing():
    truth = make_truth([])
    for events, peaks in (
        (perfect_events(truth), make_peaks([])),
        (perfect_events(make_run(3)), perfect_peaks(make_run(3))),
    ):
        report = report_of(truth, peaks, events)
        assert np.isnan(value(report, "s1_efficiency"))
        assert "0 true events" in validation_text.format_report(report)


# --- reports as text and files


@pytest.fixture(scope="module")
def report():
    truth = make_run()
    events = perfect_events(truth)
    events["drift_time"][::2] += 13
    result = report_of(truth, perfect_peaks(truth), events)
    result["made"] = {
        "amstrax": "3.0.0", "detector": "xams", "source": "flat", "rate": 4.0, "duration": 100.0,
        "seed": 0, "run_id": "100101",
    }  # fmt: skip
    return result


def test_report_as_text(report):
    text = validation_text.format_report(report)
    assert "flat in xams, 100 s, 4 Hz, seed 0: 400 true events" in text
    assert "100.00 +- 0.12     %    S1s above 50 PE whose largest peak is an S1" in text
    for entry in report["numbers"].values():
        assert entry["text"] in text, entry
    assert "nan" not in text


def test_report_as_file(report, tmp_path):
    report = {**report, "numbers": {**report["numbers"]}}
    report["numbers"]["s1_missed"] = dict(value=np.nan, error=np.nan, unit="1", text="none")
    path = tmp_path / "report.json"
    validation_text.write_report(report, path)
    assert "NaN" not in path.read_text()
    again = validation_text.read_report(path)
    assert validation_text.format_report(again) == validation_text.format_report(report)
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"numbers": {}, "format": 0}', None])
def test_files_that_are_no_report(text, tmp_path):
    path = tmp_path / "other.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidOption, match=str(path)):
        validation_text.read_report(path)


def test_comparison(report):
    worse = {**report, "numbers": {name: {**e} for name, e in report["numbers"].items()}}
    worse["numbers"]["drift_time_bias"]["value"] += 30
    text = validation_text.format_comparison(worse, report)
    assert "same true events" in text
    lines = {line.split("  ")[-1].strip(): line.split() for line in text.splitlines()}
    row = next(
        line for text, line in lines.items() if text.endswith("drift time: median of found - true")
    )
    error = report["numbers"]["drift_time_bias"]["error"] * np.sqrt(2)
    assert float(row[1]) == pytest.approx(30, rel=0.01)
    assert float(row[3]) == pytest.approx(30 / error, rel=0.02)
    other = {**report, "made": report["made"] | {"seed": 1}}
    assert "same true events" not in validation_text.format_comparison(other, report)


# --- plots


def drawn(figure):
    """Return the axes of a figure that can be written as a picture."""
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    return figure.axes


def texts(axes):
    return [text.get_text() for text in axes.texts]


def has_labels(axes):
    return bool(axes.get_xlabel() and axes.get_ylabel())


def wide_event(truth, n_channels=5):
    """Return an event with the columns that its display needs."""
    events = perfect_events(truth)
    extra = []
    for prefix in ("s1", "alt_s1", "s2", "alt_s2"):
        extra += [
            (f"{prefix}_data", np.float32, 200),
            (f"{prefix}_length", np.int32),
            (f"{prefix}_dt", np.int32),
            (f"{prefix}_area_per_channel", np.float32, n_channels),
        ]
    wide = np.zeros(len(events), dtype=EVENT_DTYPE.descr + extra)
    for name in EVENT_DTYPE.names:
        wide[name] = events[name]
    for prefix, length in (("s1", 20), ("s2", 200)):
        wide[f"{prefix}_length"], wide[f"{prefix}_dt"] = length, 10
        wide[f"{prefix}_data"][:, :length] = wide[f"{prefix}_area"][:, np.newaxis] / length
        wide[f"{prefix}_area_per_channel"] = [50, 1, 2, 30, 17]
    assert set(basics_of_sx()) <= {name.removeprefix("s1_") for name in wide.dtype.names}
    return wide


def peaks_with_data(truth):
    import strax

    basics = perfect_peaks(truth)
    peaks = np.zeros(len(basics), dtype=strax.peak_dtype(n_channels=5))
    peaks["time"], peaks["type"], peaks["dt"] = basics["time"], basics["type"], 10
    peaks["length"] = (basics["endtime"] - basics["time"]) // 10
    for peak, area in zip(peaks, basics["area"], strict=True):
        peak["data"][: peak["length"]] = area / peak["length"]
    return peaks


def test_event_display():
    truth = make_truth([0])
    event = wide_event(truth)[0]
    axes = drawn(analyses.event_display(event, peaks_with_data(truth)))
    titles = [a.get_title(loc="left") for a in axes]
    assert titles[:5] == ["Event 0, whole", "S1", "Alternative S1", "S2", "Alternative S2"]
    assert [a.get_title(loc="right") for a in axes[1:5]] == ["100 PE", "", "5000 PE", ""]
    assert texts(axes[2]) == texts(axes[4]) == ["none"]
    # The area under the waveform is that of the peak, in PE
    for a, area in ((axes[1], 100), (axes[3], 5_000)):
        values, edges, _ = a.patches[0].get_data()
        scale = 1 if "[ns]" in a.get_xlabel() else 1_000
        assert (values * np.diff(edges)).sum() * scale == pytest.approx(area)
    # PMT 1 is at large x and y, 2 at large x, 3 at large y
    places = {text.get_text(): text.get_position() for text in axes[6].texts}
    assert {name: (x > 0, y > 0) for name, (x, y) in places.items()} == {
        "1\n1 PE": (True, True),
        "2\n2 PE": (True, False),
        "3\n30 PE": (False, True),
        "4\n17 PE": (False, False),
    }
    assert "drift time       20.0 µs" in texts(axes[7])[0]


def test_event_display_without_anything():
    event = wide_event(make_truth([0]))[0]
    for name in event.dtype.names:
        if name.endswith("_area"):
            event[name] = np.nan
    event["drift_time"] = event["x"] = np.nan
    axes = drawn(analyses.event_display(event))
    assert [texts(a) for a in axes[:5]] == [["none"]] * 5
    assert texts(axes[5]) == ["no S2"]
    assert "drift time          - µs" in texts(axes[6])[0]


def test_quadrants_are_those_of_the_reconstruction():
    """Light in one top PMT alone: it is drawn where the position is."""
    from amstrax.processing.peaks import reconstruct_positions

    for column in range(4):
        areas = np.zeros((1, 5), dtype=np.float32)
        areas[0, 1 + column] = 10
        one = np.ones(1, dtype=np.float32)
        # Positions that rise with the share of light, from -30 to 30 mm
        xy = reconstruct_positions(10 * one, one, areas, 1, ((60.0, -30.0), (60.0, -30.0)))
        event = wide_event(make_truth([0]))[0]
        event["s2_area_per_channel"] = areas[0]
        pattern = drawn(analyses.event_display(event))[5]
        x, y = pattern.texts[column].get_position()
        assert pattern.texts[column].get_text().endswith("10 PE")
        assert (np.sign(x), np.sign(y)) == (np.sign(xy["x_corr"][0]), np.sign(xy["y_corr"][0]))


def test_plots_of_events():
    events = perfect_events(make_run())
    events["s1_area"][:3] = np.nan
    (axes,) = drawn(analyses.event_scatter(events))
    assert axes.get_title() == "397 of 400 events have S1 and S2"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("S1 [PE]", "S2 [PE]")
    assert len(axes.lines[0].get_xdata()) == 397
    (axes,) = drawn(analyses.plot_drift_time(events, gate=3_000, cathode=39_500))
    assert texts(axes) == ["gate", "cathode"]
    counts = [patch.get_xy()[:, 1].max() for patch in axes.patches]
    assert max(counts) < 60
    above, side = drawn(analyses.plot_positions(events, radius=31, depth=50.5))
    assert len(above.lines[0].get_xdata()) == len(side.lines[0].get_xdata()) == 400
    for a in (axes, above, side):
        assert has_labels(a)


def test_many_events_are_a_histogram():
    events = np.tile(perfect_events(make_run()), 10)
    axes, bar = drawn(analyses.event_scatter(events))
    assert np.nansum(axes.collections[0].get_array()) == 4_000
    assert bar.get_ylabel() == "Events"


def test_plot_peaks():
    truth = make_truth([0])
    peaks = peaks_with_data(truth)
    (axes,) = drawn(analyses.plot_peaks(peaks))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["S1", "S2"]
    assert axes.get_xlabel() == "Time [µs]"
    outline = axes.collections[0].get_paths()[0].vertices
    assert outline[:, 0].max() == pytest.approx(0.23)  # the S1, 230 ns long
    assert outline[:, 1].max() == pytest.approx(100 / 230, rel=1e-5)
    with pytest.raises(ValueError, match="1 types for 2 peaks"):
        analyses.plot_peaks(peaks, types=[1])


def test_plot_records():
    import strax

    records = np.zeros(3, dtype=strax.record_dtype(110))
    records["time"], records["length"], records["dt"] = [T0, T0, T0 + 1_100], [110, 110, 50], 10
    records["channel"] = [0, 3, 0]
    records["data"][2, 7] = 90
    (axes,) = drawn(analyses.plot_records(records))
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["channel 0", "channel 3"]
    last = axes.collections[0].get_segments()[1]
    assert len(last) == 50
    assert last[7].tolist() == [1_170, 90]


def test_plots_of_nothing():
    events = perfect_events(make_truth([]))
    peaks = peaks_with_data(make_truth([]))
    for figure in (
        analyses.event_scatter(events),
        analyses.plot_drift_time(events),
        analyses.plot_drift_time(events, gate=3_000, cathode=39_500),
        analyses.plot_positions(events),
        analyses.plot_positions(events, radius=31, depth=50.5),
        analyses.plot_peaks(peaks),
        analyses.plot_records(np.zeros(0, dtype=peaks.dtype)),
    ):
        for axes in drawn(figure):
            assert any("no " in text for text in texts(axes))
            assert has_labels(axes)


def test_plots_of_nan():
    events = perfect_events(make_truth([0, 10_000_000]))
    for name in events.dtype.names:
        if events.dtype[name].kind == "f":
            events[name] = np.nan
    for figure in (
        analyses.event_scatter(events),
        analyses.plot_drift_time(events),
        analyses.plot_positions(events),
    ):
        assert all(texts(axes) for axes in drawn(figure))


def test_axes_that_are_given_are_drawn_into():
    figure = Figure()
    axes = figure.subplots(2, 2).ravel()
    events, truth = perfect_events(make_run()), make_truth([0])
    assert analyses.event_scatter(events, axes[0]) is figure
    assert analyses.plot_drift_time(events, axes[1]) is figure
    assert analyses.plot_peaks(peaks_with_data(truth), axes=axes[2]) is figure
    assert len(drawn(figure)) == 4
    part = Figure().subfigures(1, 2)[0]
    assert isinstance(analyses.event_scatter(events, part.subplots()), Figure)


def test_page_of_validation(report):
    truth = make_run()
    matched = validation.match(truth, perfect_peaks(truth), perfect_events(truth))
    axes = drawn(analyses.plot_validation(matched, report))
    assert len(axes) == 9
    assert all(a.get_title() for a in axes)
    nothing = make_truth([])
    matched = validation.match(nothing, make_peaks([]), perfect_events(nothing))
    empty = validation.validation_report(matched, CONDITIONS)
    assert len(drawn(analyses.plot_validation(matched, empty))) == 9


def test_colors_of_types_and_channels_differ_in_brightness():
    """Those of S1 and S2 are told apart in black and white, and with any colour blindness."""
    from matplotlib.colors import to_rgb

    from amstrax.analyses import style

    assert len(set(style.CHANNEL_COLORS)) == len(style.CHANNEL_COLORS) >= 7
    brightness = [np.dot(to_rgb(color), (0.3, 0.59, 0.11)) for color in style.TYPE_COLORS]
    assert np.diff(sorted(brightness)).min() > 0.04
