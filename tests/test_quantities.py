"""What plots show, as numbers, and the interactive figures that show it."""

import numpy as np
import pytest
import strax
from analysed_runs import analysed  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from make_runs import RUN_ID

from amstrax.analyses import quantities
from amstrax.exceptions import InvalidOption, NotAvailable

numbers = st.lists(
    st.floats(-100, 1e4, width=32) | st.sampled_from([np.nan, np.inf, 0.0]), max_size=60
)


# --- numbers


@settings(deadline=None, max_examples=60, database=None)
@given(numbers, st.integers(1, 20), st.booleans())
def test_every_finite_value_is_counted(values, n_bins, log):
    values = np.array(values)
    result = quantities.histogram(values, n_bins, log=log)
    good = np.isfinite(values) & ((values > 0) | (not log))
    assert result.counts.sum() == good.sum()
    assert len(result.edges) == n_bins + 1
    assert (np.diff(result.edges) > 0).all()


@settings(deadline=None, max_examples=60, database=None)
@given(numbers, st.integers(1, 12), st.tuples(st.booleans(), st.booleans()))
def test_every_pair_is_counted(values, n_bins, log):
    x = np.array(values)
    y = x[::-1]
    result = quantities.histogram_2d(x, y, n_bins, log=log)
    good = np.isfinite(x) & np.isfinite(y)
    for v, is_log in zip((x, y), log, strict=True):
        good &= (v > 0) | (not is_log)
    assert result.counts.sum() == good.sum()
    assert result.counts.shape == (n_bins, n_bins)


def test_pairs_are_in_the_bins_in_which_numpy_has_them():
    rng = np.random.default_rng(1)
    x, y = rng.lognormal(3, 2, 5_000), rng.normal(0, 1, 5_000)
    limits = ((0.5, 900.0), (-2.0, 2.0))
    result = quantities.histogram_2d(x, y, (30, 20), limits, (True, False))
    expected, *_ = np.histogram2d(x, y, bins=(result.x_edges, result.y_edges))
    np.testing.assert_array_equal(result.counts, expected)


def test_random_subset():
    assert quantities.random_subset(3, 5).tolist() == [0, 1, 2]
    rows = quantities.random_subset(1_000, 100)
    assert len(np.unique(rows)) == 100
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, quantities.random_subset(1_000, 100))


def test_rates():
    start = 1_700_000_000_000_000_000
    time = start + np.array([0, 1, 999_999_999, 1_000_000_000, 2_400_000_000, -1, 2_500_000_000])
    result = quantities.rates(time, start, start + 2_500_000_000, width=1.0)
    assert result.edges.tolist() == [0, 1, 2, 2.5]
    assert result.counts.tolist() == [3, 1, 1]
    assert result.rate.tolist() == [3, 1, 2]
    np.testing.assert_allclose(result.error, [np.sqrt(3), 1, 2])
    # What is left over by less than half a bin belongs to the last one
    longer = quantities.rates(time, start, start + 2_400_000_001, width=1.0)
    np.testing.assert_allclose(longer.edges, [0, 1, 2.400000001])
    assert longer.counts.tolist() == [3, 2]
    assert quantities.rates(time, start, start + 10**9, width=5).edges.tolist() == [0, 1]
    assert len(quantities.rates(time, start, start + 10**9).counts) == 10
    assert quantities.rates(time[:0], start, start + 10**9, n_bins=4).error.tolist() == [4] * 4
    for bad in ({"n_bins": 0}, {"width": 0}):
        with pytest.raises(InvalidOption):
            quantities.rates(time, start, start + 10**9, **bad)
    with pytest.raises(InvalidOption, match="after the start"):
        quantities.rates(time, start, start)


def test_outline_has_the_area_of_the_peak():
    data = np.array([1, 4, 2, 99], dtype=np.float32)
    times, heights = quantities.outline(data, 3, 10, 5)
    assert times.tolist() == [5, 5, 15, 15, 25, 25, 35, 35]
    assert np.trapezoid(heights, times) == pytest.approx(7)


# --- matrix


def make_records(rows, length=10):
    records = np.zeros(len(rows), dtype=strax.record_dtype(length))
    for record, (time, channel, dt, value, n) in zip(records, rows, strict=True):
        record["time"], record["channel"], record["dt"], record["length"] = time, channel, dt, n
        record["data"][:n] = value
    return records


def test_matrix_by_hand():
    records = make_records([(100, 2, 10, 5, 3), (120, 0, 10, 7, 2), (90, 9, 10, 50, 10)])
    gains = np.array([1.0, 1.0, 2.0])
    matrix, edges = quantities.records_to_matrix(records, 100, 140, [0, 2], gains)
    np.testing.assert_allclose(matrix, [[0, 1], [0, 1], [0.7, 1], [0.7, 0]])
    assert edges.tolist() == [100, 110, 120, 130, 140]
    coarse, edges = quantities.records_to_matrix(records, 100, 140, [0, 2], max_samples=2)
    assert edges.tolist() == [100, 120, 140]
    np.testing.assert_allclose(coarse, [[0, 0.5], [0.7, 0.25]])


def test_matrix_of_two_digitizers():
    records = make_records([(0, 0, 10, 5, 2), (0, 1, 4, 4, 5)])
    matrix, edges = quantities.records_to_matrix(records, 0, 20, [0, 1])
    assert edges.tolist() == [0, 20]
    np.testing.assert_allclose(matrix, [[10 / 20, 20 / 20]])


@settings(deadline=None, max_examples=40, database=None)
@given(
    st.lists(
        st.tuples(
            st.integers(-100, 300), st.integers(0, 3), st.sampled_from([2, 10]),
            st.integers(-9, 9), st.integers(1, 10),
        ),
        max_size=12,
    ),
    st.integers(1, 40),
)  # fmt: skip
def test_areas_are_kept(rows, max_samples):
    records = make_records(rows)
    channels = [0, 1, 2, 3]
    matrix, edges = quantities.records_to_matrix(records, -200, 500, channels, None, max_samples)
    assert len(matrix) <= max_samples
    for channel in range(4):
        area = records["data"][records["channel"] == channel].sum()
        found = matrix[:, channel].sum(dtype=float) * (edges[1] - edges[0])
        assert found == pytest.approx(area, abs=1e-3)


def test_matrix_as_plain_python_makes_it():
    records = make_records([(100, 1, 10, 5, 3), (95, 0, 10, 7, 9)])
    results = []
    for function in (quantities._add_samples, quantities._add_samples.py_func):
        result = np.zeros((4, 2))
        function(
            records["time"], records["dt"].astype(int), records["length"].astype(int),
            records["data"], records["channel"].astype(int), 100, 140, 10, result,
        )  # fmt: skip
        results.append(result)
    np.testing.assert_array_equal(*results)
    assert results[0].any()


def test_matrix_of_what_cannot_be():
    records = make_records([])
    assert not quantities.records_to_matrix(records, 0, 100, [0])[0].any()
    with pytest.raises(InvalidOption, match="after the start"):
        quantities.records_to_matrix(records, 5, 5, [0])
    with pytest.raises(InvalidOption, match="max_samples is 0"):
        quantities.records_to_matrix(records, 0, 5, [0], max_samples=0)
    with pytest.raises(InvalidOption, match="none for channel 3"):
        quantities.records_to_matrix(records, 0, 5, [3], np.ones(2))


# --- interactive figures


@pytest.fixture(scope="module")
def data(analysed):  # noqa: F811
    st, led = analysed["xams"], analysed["xams_led"]
    event_types = ("event_info", "event_waveform", "event_area_per_channel")
    return {
        "peaks": st.get_array(RUN_ID, ("peaks", "peak_basics"), progress_bar=False),
        "events": st.get_array(RUN_ID, event_types, progress_bar=False),
        "records": st.get_array(RUN_ID, "records", progress_bar=False)[:50],
        "pulses": led.get_array(RUN_ID, "led_calibration", progress_bar=False),
    }


def figures(peaks, events, records, pulses):
    """Return every interactive figure of this data."""
    from amstrax.analyses import interactive

    start = int(peaks["time"].min()) if len(peaks) else 0
    by_peak, by_event = interactive.peak_source(peaks, start), interactive.event_source(events)
    series = {
        name: quantities.rates(peaks["time"][peaks["type"] == kind], start, start + 5 * 10**9)
        for kind, name in ((1, "S1"), (2, "S2"))
    }
    return {
        "s1_s2": interactive.s1_s2(by_event),
        "linear": interactive.s1_s2(by_event, log=False, width=300),
        "drift": interactive.drift_time(by_event, 3_000, 39_500),
        "positions": interactive.positions(by_event, 31),
        "depth": interactive.depth(by_event, 31, 50.5),
        "width": interactive.area_width(by_peak),
        "aft": interactive.area_aft(by_peak),
        "histogram": interactive.value_histogram(by_peak, "area", log_x=True, log_y=True),
        "density": interactive.density(peaks["area"], peaks["range_50p_area"]),
        "led": interactive.led_spectrum(interactive.led_source(pulses)),
        "rates": interactive.rates(series),
        "rates_log": interactive.rates(series, log=True),
        "waveforms": interactive.waveforms(peaks[:20]),
        "waveforms_log": interactive.waveforms(peaks[:20], log=True),
        "channels": interactive.channels(records, names={0: "bottom"}),
    }


def as_document(*shown):
    """Return figures as the browser gets them, which have to be complete, in one page."""
    from bokeh.document import Document

    document = Document()
    for figure in shown:
        document.add_root(figure)
    document.validate()
    assert document.to_json()
    return document.roots


def labels(figure):
    from bokeh.models import Label

    return [label.text for label in figure.select({"type": Label})]


def test_interactive_figures(data):
    made = figures(**data)
    assert len(as_document(*made.values())) == len(made)
    for name, figure in made.items():
        assert figure.renderers, name
        assert figure.xaxis.axis_label and figure.yaxis.axis_label, name
        assert not labels(figure), name


def test_interactive_figures_of_nothing(data):
    made = figures(**{key: rows[:0] for key, rows in data.items()})
    assert len(as_document(*made.values())) == len(made)
    for name, figure in made.items():
        assert labels(figure), name


def test_event_layout(data):
    from bokeh.models import DataRange1d, Plot

    from amstrax.analyses import interactive

    event = data["events"][3]
    (layout,) = as_document(interactive.event(event, data["peaks"]))
    (pattern,) = [
        figure
        for figure in layout.select({"type": Plot})
        if figure.title.text == "S2 in the top PMTs"
    ]
    # A circle stays one, whole, whatever room there is: of ranges that follow the points alone
    assert pattern.match_aspect and pattern.frame_width is None
    assert type(pattern.x_range) is type(pattern.y_range) is DataRange1d
    empty = event.copy()
    for field in ("s1_area", "s2_area", "x"):
        empty[field] = np.nan
    layout = interactive.event(empty)
    assert as_document(layout)
    assert {"none", "no S2"} <= set(labels(layout))


def test_histograms_count_every_value(data):
    from amstrax.analyses import interactive

    source = interactive.peak_source(data["peaks"])
    figure = interactive.value_histogram(source, "area", log_x=True)
    (bins,) = {
        id(r.data_source): r.data_source
        for r in figure.renderers
        if "selected" in r.data_source.data
    }.values()
    assert bins.data["n"].sum() == len(data["peaks"])
    with pytest.raises(InvalidOption, match="did you mean area"):
        interactive.value_histogram(source, "aera")


def test_a_million_rows_are_thinned_and_say_so(data):
    from amstrax.analyses import interactive

    peaks = np.zeros(1_000_000, dtype=[("time", "<i8"), ("area", "<f4"), ("type", "<i1")])
    peaks["area"] = np.arange(1, len(peaks) + 1)
    source = interactive.peak_source(peaks, most=500)
    assert len(source.data["area"]) == 500
    np.testing.assert_array_equal(source.data["area"], source.data["index"] + 1)
    figure = interactive.area_aft(source)
    assert figure.title.text.endswith("500 of 1,000,000, at random")
    figure = interactive.density(peaks["area"], peaks["area"])
    [picture] = figure.renderers[0].data_source.data["image"]
    assert picture.sum() == 1_000_000
    # Rows of the picture are bins of y, here as x
    np.testing.assert_array_equal(np.nonzero(picture)[0], np.nonzero(picture)[1])


def test_without_bokeh(monkeypatch, analysed):  # noqa: F811
    import sys

    monkeypatch.setitem(sys.modules, "bokeh.plotting", None)
    with pytest.raises(NotAvailable, match=r"pip install 'amstrax\[dashboard\]'"):
        analysed["xams"].waveform_display(RUN_ID, seconds_range=(0, 0.1))
