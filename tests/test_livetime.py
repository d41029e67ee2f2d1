"""Live and dead time of runs: intervals, what live data says, and rates per live time."""

import re
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from make_runs import LENGTH, OVERLAP, RUN_ID, START, context, load, pulses, rundoc, write_run

from amstrax.analyses.quantities import rates
from amstrax.exceptions import InvalidOption
from amstrax.processing import live_data
from amstrax.processing.compiled import sort_by_time

PROPERTY = settings(max_examples=60, deadline=None, database=None)
T0 = START * 1_000_000_000
INTERVALS = some.lists(some.tuples(some.integers(0, 40), some.integers(0, 40)), max_size=8)


@PROPERTY
@given(intervals=INTERVALS, edges=some.lists(some.integers(0, 50), min_size=2, max_size=6))
def test_merge_and_covered(intervals, edges):
    """Beside sets of nanoseconds."""
    merged = live_data.merge_intervals(intervals)
    seconds = {t for start, end in intervals for t in range(start, end)}
    assert {t for start, end in merged for t in range(start, end)} == seconds
    assert (merged[1:, 0] > merged[:-1, 1]).all()
    edges = np.sort(edges)
    expected = [len(seconds & {*range(a, b)}) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    assert live_data.covered(merged, edges).tolist() == expected


def test_silences():
    first, last = np.array([10, 50, 90]), np.array([40, 60, 95])
    found = live_data.silences(first, last, 0, 100, 9)
    assert found.tolist() == [[0, 10], [40, 50], [60, 90]]
    assert live_data.silences(first[:0], last[:0], 0, 100, 9).tolist() == [[0, 100]]


def test_rates_are_per_live_time():
    second = 1_000_000_000
    times = np.array([0, 1, 2, 3]) * second + 5
    dead = np.array([[second // 2, second], [2 * second, 3 * second]])
    found = rates(times, 0, 4 * second, n_bins=4, dead=dead)
    np.testing.assert_array_equal(found.live, [0.5, 1, 0, 1])
    np.testing.assert_array_equal(found.rate, [2, 1, np.nan, 1])
    np.testing.assert_array_equal(rates(times, 0, 4 * second, n_bins=4).live, np.ones(4))


def dead_fragments(start, n_samples, channel=799):
    """Return fragments of redax that mark dead time from `start` on."""
    result = pulses([start], channel, n_fragments=n_samples // 110)
    result["data"] = 0
    return result


@pytest.mark.parametrize("channel", [790, 799])
def test_dead_time_of_redax(tmp_path, channel):
    """It is taken out of the data, and counted; where chunks are cut it is no data."""
    times = np.arange(1, 100) * 100_000_000
    dead = [
        dead_fragments(30_000_000, 1100, channel),
        dead_fragments(30_005_000, 1100, channel),  # overlaps with the first by 6 us
        dead_fragments(LENGTH + OVERLAP // 2, 110, channel),  # in both copies of an overlap
    ]
    records = pulses(times, range(7))
    write_run(tmp_path, sort_by_time(np.concatenate([records, *dead])), 2)
    st = context(tmp_path)
    assert len(load(st, "raw_records")) == 99 * 5
    table = st.livetime(RUN_ID)
    assert table["data_type"].tolist() == ["raw_records", "raw_records_ext", "raw_records_sipm"]
    assert (table["digitizer"] == 16_000 + 1_100).all() and (table["dead"] == 17_100).all()
    assert (table["live"] + table["dead"] == table["stop"] - table["start"]).all()
    assert (table["start"] == T0).all() and table["is_known"].all()
    assert (table["first"] == T0 + 100_000_000).all()
    # What is made from raw data says so, too
    st.make(RUN_ID, "peaks", progress_bar=False)
    assert len(st.get_metadata(RUN_ID, "peaks")["dead_time"]) >= 2


def test_dead_time_of_xamsl(tmp_path):
    records = [pulses(np.arange(1, 9) * 100_000_000, 0), dead_fragments(50_000_000, 110, 40)]
    write_run(tmp_path, sort_by_time(np.concatenate(records)))
    st = context(tmp_path, "xams_little")
    assert len(load(st, "raw_records_aqmon")) == 1  # as before
    assert st.livetime(RUN_ID)["digitizer"].tolist() == [1100, 1100]


def test_gaps_of_a_run(tmp_path):
    """A missing chunk, a late start, and an end before that of the run document."""
    times = np.arange(1, 150) * 100_000_000
    run_dir = write_run(tmp_path, pulses(times[times > 2_000_000_000], range(7)), 3)
    shutil.rmtree(run_dir / "000001")
    document = rundoc() | {"end": {"$date": "2024-01-02T03:04:30Z"}}
    st = context(tmp_path, document=document, allow_incomplete=True)
    load(st, "raw_records")
    [row] = st.livetime(RUN_ID)[:1]
    end = 3 * (LENGTH + OVERLAP) - OVERLAP
    assert row["stop"] == T0 + 25_000_000_000
    # The last overlap may have data
    lost = row["missing"] - LENGTH
    assert 25_000_000_000 - end - OVERLAP - 2_000 <= lost <= 25_000_000_000 - end
    assert row["digitizer"] == row["dropped"] == row["silent"] == 0
    [late] = st.livetime([RUN_ID], silence=1.5)[:1]
    assert late["silent"] >= 2_000_000_000 and late["live"] < row["live"]
    with pytest.raises(InvalidOption, match="silence=0"):
        st.livetime(RUN_ID, silence=0)
    assert len(st.livetime([])) == 0


def test_data_that_does_not_say_what_was_dead(tmp_path, caplog):
    write_run(tmp_path, pulses([1_000_000]))
    st = context(tmp_path)
    load(st, "raw_records")
    for path in (tmp_path / "out").glob("*/*metadata.json"):
        path.write_text(path.read_text().replace('"dead_time"', '"other"'))
    assert not st.livetime(RUN_ID)["is_known"].any()
    assert "did not record dead time" in caplog.text


def test_busy_digitizers_on_truth(flat_run):
    """The live fraction is that of the simulated events that are seen."""
    events = flat_run.get_array("100002", "event_info", progress_bar=False)
    truth = flat_run.get_array("100002", "truth_events", progress_bar=False)
    [row] = flat_run.livetime("100002")[:1]
    fraction = row["live"] / (row["stop"] - row["start"])
    assert row["dead"] == row["digitizer"] > 0 and 0.88 < fraction < 0.94
    seen = len(events) / len(truth)
    # An S2 of 2 us and an S1 are lost if busy stretches of 1 ms touch them
    assert abs(seen - fraction) < 4 * np.sqrt(fraction * (1 - fraction) / len(truth))
    figure = flat_run.plot_rates("100002", bin_seconds=1)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    [label] = [label for label in labels if label.startswith("events")]
    shown = float(re.fullmatch(r"events: ([\d.]+) Hz", label)[1])
    assert shown == pytest.approx(len(events) / (row["live"] / 1e9), rel=0.02)
