"""Plots and figures of merit, from tables of which the answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from make_truth import EVENT_DTYPE, T0, make_peaks, make_truth, perfect_events, perfect_peaks
from matplotlib.figure import Figure

from amstrax import analyses
from amstrax.analyses import statistics, validation, validation_data, validation_text
from amstrax.exceptions import InvalidOption
from amstrax.plugins.event_processing import BASICS_OF_SX
from amstrax.simulation.light import Origin
from amstrax.simulation.parts import DEPOSIT_DTYPE, LIGHT_DTYPE, Sensor, peak_composition
from amstrax.simulation.sources import Interaction

CONDITIONS = validation_data.Conditions(100.0, 50_000, 50_000, 30_000.0, 30_000.0)


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
    return validation.validation_report(validation_data.match(truth, peaks, events), conditions)


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
    matched = validation_data.match(truth, perfect_peaks(truth), events)
    assert matched.of_events["s1_is_main"].tolist() == [True, False, True]
    assert matched.clean.tolist() == [False, False, True]
    report = validation.validation_report(matched, CONDITIONS)
    assert value(report, "drift_time_bias") == 7
    # Those merged come in pairs, so that half as many are independent
    merged = report["numbers"]["events_merged"]
    assert merged["value"] == pytest.approx(2 / 3)
    one = statistics.fraction(2, 3)
    assert merged["error"] == pytest.approx(one.error * np.sqrt(2))


def test_saturated_signals_are_told_apart():
    """A third of the S2s saturates, and loses half of its area: found, but poor."""
    truth = make_run()
    truth["energy"] = np.where(np.arange(len(truth)) % 3 == 0, 662.0, np.arange(len(truth)))
    peaks = perfect_peaks(truth)
    s2 = np.flatnonzero(peaks["type"] == 2)
    peaks["area"][s2[::3]] /= 2
    peaks["n_saturated_channels"][s2[::3]] = 1
    report = report_of(truth, peaks, perfect_events(truth))
    assert value(report, "s2_efficiency") == 1
    assert value(report, "s2_saturated") == pytest.approx(134 / 400)
    assert value(report, "s2_whole") == pytest.approx(266 / 400)
    for name, expected in (("_unsaturated", 0.0), ("_saturated", -0.5), ("", 0.0)):
        bias = value(report, f"s2_area_bias{name}")
        assert bias == pytest.approx(expected, abs=1e-6)
    assert value(report, "line_s2_area_bias") == pytest.approx(-0.5, abs=1e-6)
    assert value(report, "line_s2_saturated") == 1 and value(report, "line_s1_saturated") == 0
    assert set(report["poor"]) == {"s2_whole", "line_s2_area_bias"}
    text = validation_text.format_report(report)
    assert "area of S2s at 662 keV: median of found/true - 1 [-5 to 5 %]" in text
    by_size = report["by_size"]["s2"]
    assert sum(by_size["n_saturated"]) == 134


def test_small_signals_are_in_the_text():
    """S1s are found from 8 PE on: the table says so for each size from 1 PE on."""
    truth = make_run()
    truth["s1_pe"] = 1 + np.arange(len(truth)) % 16
    peaks = perfect_peaks(truth)
    peaks = peaks[(peaks["type"] == 2) | (peaks["area"] >= 8)]
    report = report_of(truth, peaks, perfect_events(truth))
    text = validation_text.format_report(report)
    lines = text.partition("S1s by size")[2].partition("S2s by size")[0].strip().splitlines()
    rows = [line.split() for line in lines[1:]]
    assert [float(row[0]) for row in rows] == pytest.approx([1, 1.778, 3.162, 5.623, 10], rel=1e-3)
    assert [int(row[3]) for row in rows] == [25, 50, 50, 100, 175]
    assert [float(row[4]) for row in rows] == [0, 0, 0, 50, 100]


def test_rings_and_uniformity():
    """Events are found at 0.9 r, and give a tenth less light in the outer half."""
    truth = make_run(4_000)
    rng = np.random.default_rng(7)
    r, phi = 30 * np.sqrt(rng.random(len(truth))), rng.uniform(0, 2 * np.pi, len(truth))
    truth["x"], truth["y"] = r * np.cos(phi), r * np.sin(phi)
    truth["photons"], truth["electrons"], truth["energy"] = 5_000, 1_000, 100.0
    events = perfect_events(truth)
    events["x"] *= 0.9
    events["y"] *= 0.9
    outer = r > 30 * np.sqrt(0.5)
    events["cs1"] = np.where(outer, 450, 500)
    events["cs2"] = 8_000
    conditions = CONDITIONS._replace(radius=30.0, depth=50.5)
    report = report_of(truth, perfect_peaks(truth), events, conditions)
    rings = report["rings"]
    assert sum(rings["n"]) == len(truth) and min(rings["n"]) > 900
    middle = [30 * np.sqrt((i + 0.5) / 4) for i in range(4)]
    np.testing.assert_allclose(rings["bias"], [-0.1 * x for x in middle], rtol=0.05)
    np.testing.assert_allclose(rings["error"], [0.1 * x for x in middle], rtol=0.05)
    cs1 = np.array(report["uniformity"]["cs1"])
    assert cs1.shape == (4, 5)
    np.testing.assert_allclose(cs1[:2] / cs1[2:], 500 / 450, rtol=1e-6)
    assert value(report, "cs1_uniformity") == pytest.approx(0.05, rel=0.1)
    assert value(report, "cs2_uniformity") == pytest.approx(0, abs=1e-6)
    assert {"ring_4_bias", "ring_4_error"} & set(report["poor"]) == {"ring_4_bias"}
    # Half of the events are a tenth lower: the central 68 % is from one to the other
    assert value(report, "cs1_resolution") == pytest.approx(0.05, rel=0.2)
    assert value(report, "energy_resolution") < value(report, "cs1_resolution")


def make_parts(truth, deposits, light, peaks, **sensors):
    """Return parts of the truth of rows (time after T0, ...) of deposits and light."""
    times = [T0 + row[0] for row in light]
    rows = [(time, *row[1:]) for time, row in zip(times, light, strict=True)]
    light = np.array(rows, dtype=LIGHT_DTYPE)
    made = np.zeros(len(deposits), dtype=DEPOSIT_DTYPE)
    for row, (time, event, interaction) in zip(made, deposits, strict=True):
        row["time"], row["event_number"], row["interaction"] = T0 + time, event, interaction
    composition = peak_composition(peaks, light)
    for name, (own, sensor) in sensors.items():
        sensors[name] = validation_data.OfSensor(own, peak_composition(own, light, sensor))
    return validation_data.Parts(made, light, composition, **sensors)


def test_pairs_of_s1s_and_other_sensors():
    """Four pairs of Kr-83m: two peaks, one peak, one peak of no type; the last has no S1."""
    start = np.arange(4) * 10_000_000
    truth = make_truth(start, drift=np.array([9_000, 18_000, 20_000, 30_000]), s1_pe=150)
    truth["x"] = truth["y"] = [1, 2, 3, 4]
    first, second = 100, 50
    delay = [400, 60, 250, 90]
    deposits, light = [], []
    for i in range(4):
        for j, (t, size) in enumerate(((0, first), (delay[i], second))):
            deposits.append((start[i] + t, i, j * Interaction.KR83M_SECOND))
            s1 = (Origin.S1, Sensor.TPC, size, 150)
            light.append((start[i] + t + 20, 2 * i + j, i, *s1))
        light.append((start[i] + 10, 2 * i, i, Origin.S1, Sensor.SIPM, 5, 5))
        light.append((start[i] + 15, -1, i, Origin.S1, Sensor.EXTERNAL, 511, 511))
        s2 = (Origin.S2, Sensor.TPC, 5_000, 5_000)
        light.append((truth["s2_center_time"][i] - T0, 2 * i, i, *s2))
    light.sort()
    intervals = [
        *((start[0] - 20, start[0] + 200, 1, 100), (start[0] + 390, start[0] + 500, 1, 50)),
        (start[1] - 20, start[1] + 200, 1, 150),
        (start[2] - 20, start[2] + 400, 0, 150),
        *((t - 1_000, t + 1_000, 2, 5_000 + t % 7) for t in truth["s2_center_time"] - T0),
    ]
    peaks = make_peaks(intervals)
    sipm = make_peaks([(t - 20, t + 90, 0, 4) for t in start[:3]])
    external = make_peaks([(t - 20, t + 90, 0, 500) for t in start])
    parts = make_parts(
        truth, deposits, light, peaks,
        sipm=(sipm, Sensor.SIPM), external=(external, Sensor.EXTERNAL),
    )  # fmt: skip
    events = perfect_events(truth)
    events["cs2"] += np.arange(4)
    coincidences = np.zeros(4, dtype=[("is_coinc", bool)])
    coincidences["is_coinc"] = [True, True, False, True]
    truth["external_energy"] = [511, 511, 511, 0]
    matched = validation_data.match(truth, peaks, events)
    report = validation.validation_report(
        matched, CONDITIONS, parts._replace(coincidences=coincidences)
    )
    for name, expected in (("two", 0.25), ("one", 0.25), ("unknown", 0.25)):
        assert value(report, f"kr_{name}") == expected
    table = report["kr_delays"]
    assert sum(table["n"]) == 4
    assert table["two"][5] == table["one"][1] == table["unknown"][4] == 1
    assert value(report, "sipm_efficiency") == 0.75
    assert value(report, "sipm_area_bias") == pytest.approx(-0.2)
    assert value(report, "external_efficiency") == 1
    assert value(report, "external_area_bias") == pytest.approx(500 / 511 - 1, rel=1e-5)
    assert value(report, "peaks_s1_incomplete") == pytest.approx(1 / 3)  # one of 100 PE; 50 is none
    assert value(report, "peaks_s1_impure") == 0
    # The fourth has no main S1, so that it is not compared
    assert value(report, "coincidence_efficiency") == pytest.approx(2 / 3)
    text = validation_text.format_report(report)
    assert "S1 pairs of Kr-83m by delay" in text and "SiPMs by size" in text
    report["numbers"] |= validation.pile_up_numbers({5.0: report, 100.0: report})
    titles = [a.get_title() for a in drawn(analyses.plot_validation(matched, report))]
    assert {"S1 pairs of Kr-83m", "SiPM", "NaI detector", "Pile-up"} <= set(titles)


def test_scatters_with_s2s_apart_are_no_split_signals():
    """Of three events the second has S2s 3 us apart, the third only 0.5 us, as of one S2."""
    start = np.arange(3) * 10_000_000
    truth = make_truth(start, drift=np.full(3, 20_000), s2_pe=5_000)
    middle = truth["s2_center_time"] - T0
    light = [(start[i] + 20, 2 * i, i, Origin.S1, Sensor.TPC, 200, 200) for i in range(3)]
    rows = [
        *((0, 0, 4_990), (0, 3_000, 10)),  # too small to count
        *((1, -600, 4_000), (1, 2_400, 1_000)),
        *((2, -200, 3_000), (2, 300, 2_000)),
    ]
    for j, (i, shift, size) in enumerate(rows):
        light.append((middle[i] + shift, j, i, Origin.S2, Sensor.TPC, size, 5_000))
    # Light of the SiPM and after-pulses do not count
    light.append((middle[0] + 9_000, 1, 0, Origin.S2, Sensor.SIPM, 5_000, 5_000))
    light.append((middle[0] + 9_000, 1, 0, Origin.AFTERPULSE, Sensor.TPC, 500, 500))
    light.sort()
    peaks = make_peaks(
        [
            *((t - 20, t + 200, 1, 200) for t in start),
            *((t - 900, t + 900, 2, 5_000) for t in middle[[0, 2]]),
            (middle[1] - 1_400, middle[1] + 400, 2, 4_000),
            (middle[1] + 900, middle[1] + 3_500, 2, 1_000),
        ]
    )
    truth["endtime"][1] = T0 + middle[1] + 3_500
    parts = make_parts(truth, [], light, peaks)
    matched = validation_data.match(truth, peaks, perfect_events(truth), parts.light)
    assert matched.apart.tolist() == [False, True, False]
    assert matched.clean.tolist() == [True, False, True]
    report = validation.validation_report(matched, CONDITIONS, parts)
    assert value(report, "s2_split") == 0 and value(report, "s2_whole") == 1
    assert value(report, "peaks_s2_incomplete") == 0
    assert value(report, "scatters") == pytest.approx(1 / 3)
    assert value(report, "scatters_resolved") == 1
    assert sum(report["rings"]["n"]) == 2
    # Without truth_light, scatters are unknown
    unknown = report_of(truth, peaks, perfect_events(truth))
    assert value(unknown, "s2_split") == pytest.approx(1 / 3)
    assert "scatters" not in unknown["numbers"]


def test_truth_and_deposits_of_one_run():
    truth = make_truth(np.arange(3) * 10_000_000, drift=9_000)
    truth["s1_pe"], truth["energy"] = [100, 200, 300], 10.0
    deposits = np.zeros(4, dtype=DEPOSIT_DTYPE)
    deposits["event_number"] = [0, 1, 1, 2]
    deposits["s1_pe"], deposits["energy"] = [100, 150, 50, 300], [10, 7, 3, 10]
    for field in ("photons", "s2_pe"):
        deposits[field] = truth[field][deposits["event_number"]]
        deposits[field][2] = 0
    validation_data.check_same_run(truth, deposits)
    validation_data.check_same_run(truth[:0], deposits[:0])
    other = deposits.copy()
    other["s1_pe"][0] += 1
    for wrong in ((truth[:2], deposits), (truth, deposits[:3]), (truth, other)):
        with pytest.raises(InvalidOption, match="files of one"):
            validation_data.check_same_run(*wrong)


def test_words_on_saturation_and_pairs():
    """What the command says of caesium and krypton, from the numbers of reports."""
    entries = {
        "s1_efficiency": (1.0, 0.01),
        "s2_efficiency": (1.0, 0.01),
        "s2_saturated": (0.8, 0.01),
        "line_s1_area_bias": (-0.26, 0.01),
        "line_s1_saturated": (0.97, 0.01),
        "line_s2_area_bias": (-0.37, 0.01),
        "line_s2_saturated": (0.2, 0.01),  # something else, then
        "elife_left": (0.12, 0.01),
        "elife_per_electron_bias": (0.44, 0.02),
        "kr_unknown": (0.32, 0.01),
    }
    numbers = {
        name: {"value": x, "error": e, "unit": "1", "text": "area of S1s at 661.7 keV: median"}
        for name, (x, e) in entries.items()
    }
    report = {"numbers": numbers, "poor": validation.poor(numbers), "unknown": []}
    report["kr_delays"] = {"edges": [0, 150, 300], "n": [10, 10], "unknown": [0, 6]}
    words = validation_text.poor_lines(report)
    words = words[words.index("In words:") + 1 :]
    assert len(words) == 3
    assert "97 % of S1s at 661.7 keV saturate the ADC: area -26 %" in words[0]
    assert "by +12 % over all drift times, the electron lifetime is +44 % off" in words[1]
    assert "32 % of the S1 pairs" in words[2] and "from 150 ns on" in words[2]
    numbers["elife_per_electron_bias"]["value"] = np.nan
    assert "is not found" in "\n".join(validation_text.poor_lines(report))


def test_reports_at_different_rates():
    truth = make_run()
    report = report_of(truth, perfect_peaks(truth), perfect_events(truth))
    numbers = validation.pile_up_numbers({100.0: report, 5.0: report})
    assert list(numbers)[0] == "pile_up_s1_efficiency_5"
    assert numbers["pile_up_events_merged_100"]["text"].startswith("at 100 Hz: true events")
    numbers["pile_up_event_efficiency_100"]["value"] = 0.5
    assert validation.poor(numbers) == ["pile_up_event_efficiency_100"]
    report["numbers"] |= numbers
    report["poor"] = validation.poor(report["numbers"])
    poor = "\n".join(validation_text.poor_lines(report))
    assert "at 100 Hz: events" in poor and "[95 to 100 %]" in poor
    assert "Pile-up against rate" in validation_text.format_report(report)


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
    left, error = (report["numbers"]["elife_left"][key] for key in ("value", "error"))
    expected = np.expm1(np.ptp(drift) * (1 / CONDITIONS.elife - 1 / true_elife))
    assert abs(np.log1p(left) - np.log1p(expected)) < 4 * error


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


def test_each_number_is_in_one_section():
    others = ("scatters", "scatters_resolved", "scatters_purity", "stray_peaks", "s2_saturated")
    numbers = dict.fromkeys([*validation.LIMITS, *others])
    sections = validation_text._by_section({"numbers": numbers})
    found = [name for _, names in sections for name in names]
    assert sorted(found) == sorted(numbers)


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
    assert "same true events" not in compared(report, seed=1)
    assert "seed 1 and" in compared(report, seed=1)
    # Other light is another run, too
    settings = {"amstrax": "3", "optics": "geometry"}
    simulated = {**report, "made": report["made"] | {"simulation": settings}}
    assert "same true events" in compared(simulated)
    text = compared(simulated, simulation=settings | {"optics": "inverse"})
    assert "optics inverse and geometry" in text and "same true events" not in text
    text = compared(simulated, simulation=settings | {"amstrax": "4"})
    assert "Simulated by amstrax 4 and 3" in text and "same true events" not in text
    led = {**report, "numbers": {"led_gain_0": report["numbers"]["x_bias"]}}
    assert "no number in common" in validation_text.format_comparison(led, report)


def compared(report, **made):
    """Return the comparison with a report that was made in another way."""
    other = {**report, "made": report["made"] | made}
    return validation_text.format_comparison(other, report)


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
    assert set(BASICS_OF_SX) <= {name.removeprefix("s1_") for name in wide.dtype.names}
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
    matched = validation_data.match(truth, perfect_peaks(truth), perfect_events(truth))
    axes = drawn(analyses.plot_validation(matched, report))
    titles = [a.get_title() for a in axes if a.get_title()]
    assert len(titles) == 13 and len(axes) == 15  # with two scales of colours
    nothing = make_truth([])
    matched = validation_data.match(nothing, make_peaks([]), perfect_events(nothing))
    empty = validation.validation_report(matched, CONDITIONS)
    assert len(drawn(analyses.plot_validation(matched, empty))) == 15
    # Without events, as of XAMSL
    matched = validation_data.match(truth, perfect_peaks(truth), validation_data.NO_EVENTS)
    only_peaks = validation.validation_report(matched, CONDITIONS._replace(has_events=False))
    assert len(drawn(analyses.plot_validation(matched, only_peaks))) == 6
    assert "reconstructed" not in validation_text.format_report(only_peaks)


def test_colors_of_types_and_channels_differ_in_brightness():
    """Those of S1 and S2 are told apart in black and white, and with any colour blindness."""
    from matplotlib.colors import to_rgb

    from amstrax.analyses import style

    assert len(set(style.CHANNEL_COLORS)) == len(style.CHANNEL_COLORS) >= 7
    brightness = [np.dot(to_rgb(color), (0.3, 0.59, 0.11)) for color in style.TYPE_COLORS]
    assert np.diff(sorted(brightness)).min() > 0.04


def make_light(rows):
    """Return light of rows of deposit, event, time [ns], size [PE]; and some of other origins."""
    light = np.zeros(len(rows) + 2, dtype=LIGHT_DTYPE)
    for row, (deposit, event, time, size) in zip(light, rows, strict=False):
        row["deposit"], row["event_number"], row["time"], row["size"] = deposit, event, time, size
        row["origin"] = Origin.S2
    light["origin"][-2:] = Origin.S1, Origin.AFTERPULSE
    return light


def test_true_scatters():
    rows = [(0, 0, 9000, 10), (0, 0, 9600, 20), (1, 0, 12_000, 30), (2, 0, 16_000, 7)]
    rows += [(3, 1, 12_500, 50), (4, 1, 15_501, 60)]
    found = validation_data.true_scatters(make_light(rows))
    # Means of deposits are 9400 and 12000: one scatter; in event 1, 3001 ns are two
    assert found.tolist() == [(0, 10_700, 60), (1, 12_500, 50), (1, 15_501, 60), (0, 16_000, 7)]
    assert not len(validation_data.true_scatters(make_light([])))
