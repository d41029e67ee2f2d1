"""Matching of true signals with peaks, and of true events with events."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_truth import T0, make_peaks, make_truth, perfect_events, perfect_peaks

from amstrax import simulation
from amstrax.simulation import matching
from amstrax.simulation.matching import Outcome

PROPERTY = settings(max_examples=60, deadline=None, database=None)


def outcomes(truth, peaks):
    """Return the outcomes of S1 and S2 of each true event."""
    result = simulation.match_peaks(truth, peaks)
    return [(Outcome(row["s1_outcome"]).name, Outcome(row["s2_outcome"]).name) for row in result]


def test_light_intervals():
    """S1: five mean delays from the deposit. S2: as far before its mean as its end is behind."""
    start, end = matching.light_intervals(make_truth([0, 100_000], s2_pe=[5_000, 0]))
    assert (start - T0)[0].tolist() == [0, 19_030]
    assert (end - T0)[0].tolist() == [151, 21_030]
    assert (start - T0)[1, 0] == 100_000
    assert start[1, 1] == end[1, 1] == -1


def test_light_of_s1_and_s2_does_not_overlap_however_close_they_are():
    for drift in (0, 1, 10, 150, 500, 2_000):
        start, end = matching.light_intervals(make_truth([0], drift=drift))
        assert end[0, 0] <= start[0, 1] + 1, drift
        assert (start < end).all()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(-30, 200, 1, 99), (19_000, 21_000, 2, 5100)], ("FOUND", "FOUND")),
        ([], ("MISSED", "MISSED")),
        ([(30_000, 31_000, 2, 50)], ("MISSED", "MISSED")),  # light of nothing
        ([(-30, 200, 0, 99), (19_000, 21_000, 1, 50)], ("MISCLASSIFIED", "MISCLASSIFIED")),
        ([(-30, 70, 1, 60), (70, 200, 1, 39)], ("SPLIT", "MISSED")),
        ([(19_000, 20_000, 2, 60), (20_010, 21_000, 2, 39)], ("MISSED", "SPLIT")),
        ([(-30, 21_000, 2, 5200)], ("MERGED", "MERGED")),
        # Peaks end before their endtime, and begin at their time
        ([(-30, 0, 1, 99), (151, 200, 1, 99)], ("MISSED", "MISSED")),
        ([(-30, 1, 1, 99)], ("FOUND", "MISSED")),
        ([(150, 200, 1, 99)], ("FOUND", "MISSED")),
    ],
)
def test_outcomes(rows, expected):
    assert outcomes(make_truth([0]), make_peaks(rows)) == [expected]


def test_no_light():
    truth = make_truth([0, 1_000_000], s1_pe=[0, 10], s2_pe=[500, 0])
    assert outcomes(truth, perfect_peaks(truth)) == [("NO_LIGHT", "FOUND"), ("FOUND", "NO_LIGHT")]


def test_numbers_of_a_split_signal():
    peaks = make_peaks([(-30, 70, 0, 30), (70, 200, 1, 60), (19_000, 21_000, 2, 5_000)])
    row = simulation.match_peaks(make_truth([0]), peaks)[0]
    assert (row["s1_peak"], row["s1_type"], row["s1_n_peaks"], row["s1_n_signals"]) == (1, 1, 2, 1)
    assert (row["s1_area"], row["s1_area_sum"]) == (60, 90)
    assert (row["s2_peak"], row["s2_n_peaks"], row["s2_area"]) == (2, 1, 5_000)


def test_numbers_of_a_missed_signal():
    row = simulation.match_peaks(make_truth([0]), make_peaks([]))[0]
    assert (row["s1_peak"], row["s1_type"], row["s1_n_peaks"], row["s1_n_signals"]) == (
        -1,
        -1,
        0,
        0,
    )
    assert np.isnan(row["s1_area"])
    assert row["s1_area_sum"] == 0


def test_pile_up_of_an_s1_on_an_s2():
    """The S1 of the second lies in the S2 of the first: merged, and the peak is the S2's."""
    truth = make_truth([0, 20_000])
    peaks = make_peaks([(-30, 200, 1, 100), (19_000, 21_000, 2, 5_100), (39_000, 41_100, 2, 5_000)])
    assert outcomes(truth, peaks) == [("FOUND", "MERGED"), ("MERGED", "FOUND")]
    labels = matching.label_peaks(truth, peaks)
    assert labels["truth"].tolist() == [0, 0, 1]
    assert labels["kind"].tolist() == [1, 2, 2]
    assert labels["n_signals"].tolist() == [1, 2, 1]


def test_labels_of_peaks_without_true_signal():
    peaks = make_peaks([(-5_000, -4_000, 0, 10), (0, 100, 1, 80), (25_000, 25_100, 1, 12)])
    labels = matching.label_peaks(make_truth([0]), peaks)
    assert labels["kind"].tolist() == [0, 1, 0]
    assert labels["truth"].tolist() == [-1, 0, -1]
    assert labels["n_signals"].tolist() == [0, 1, 0]


@st.composite
def tables(draw):
    """Truth and disjoint peaks, close to each other."""
    times = sorted(draw(st.lists(st.integers(0, 60_000), max_size=8)))
    n = len(times)
    truth = make_truth(
        times,
        drift=np.array(draw(st.lists(st.integers(0, 30_000), min_size=n, max_size=n)), dtype=int),
        s1_pe=draw(st.lists(st.sampled_from([0, 5, 80]), min_size=n, max_size=n)),
        s2_pe=draw(st.lists(st.sampled_from([0, 50, 900]), min_size=n, max_size=n)),
    )
    edges = sorted(draw(st.lists(st.integers(-1_000, 95_000), max_size=24, unique=True)))
    pairs = list(zip(edges[::2], edges[1::2], strict=False))
    kinds = draw(st.lists(st.sampled_from([0, 1, 2]), min_size=len(pairs), max_size=len(pairs)))
    return truth, make_peaks([(a, b, k, b - a) for (a, b), k in zip(pairs, kinds, strict=True)])


@PROPERTY
@given(tables())
def test_peaks_are_those_that_overlap(tables):
    """Against a comparison of each signal with each peak."""
    truth, peaks = tables
    result = simulation.match_peaks(truth, peaks)
    labels = matching.label_peaks(truth, peaks)
    start, end = matching.light_intervals(truth)
    held = np.zeros((len(peaks), 2 * len(truth)), dtype=bool)
    for i, peak in enumerate(peaks):
        held[i] = ((peak["time"] < end) & (start < peak["endtime"]) & (start != -1)).ravel()
    assert labels["n_signals"].tolist() == held.sum(axis=1).tolist()
    sizes = np.stack([truth["s1_pe"], truth["s2_pe"]], axis=1).ravel()
    for label, row in zip(labels, held, strict=True):
        if not row.any():
            assert (label["truth"], label["kind"]) == (-1, 0)
        else:
            assert sizes[2 * label["truth"] + label["kind"] - 1] == sizes[row].max()
    for i, row in enumerate(result):
        for column, kind in enumerate(("s1", "s2")):
            mine = np.flatnonzero(held[:, 2 * i + column])
            assert row[f"{kind}_n_peaks"] == len(mine)
            assert row[f"{kind}_area_sum"] == peaks["area"][mine].sum()
            if len(mine):
                main = row[f"{kind}_peak"]
                assert main in mine
                assert row[f"{kind}_area"] == peaks["area"][mine].max() == peaks["area"][main]
                assert row[f"{kind}_n_signals"] == held[main].sum()
                assert row[f"{kind}_type"] == peaks["type"][main]


@PROPERTY
@given(tables())
def test_compiled_and_plain_python_agree(tables):
    truth, peaks = tables
    first, beyond = matching._peak_ranges(truth, peaks)
    ranges, n = (first.ravel(), beyond.ravel()), len(peaks)
    for function, arguments in (
        (matching._largest_in_ranges, (*ranges, peaks["area"].astype(float))),
        (matching._largest_covering, (*ranges, np.arange(2.0 * len(truth)), n)),
    ):
        np.testing.assert_equal(function(*arguments), function.py_func(*arguments))


def test_perfect_events():
    truth = make_truth(np.arange(5) * 1_000_000)
    result = simulation.match_truth(truth, perfect_events(truth))
    assert result["event"].tolist() == [0, 1, 2, 3, 4]
    assert (result["n_truth"] == 1).all()
    assert (result["n_events"] == 1).all()
    for field in ("s1_found", "s1_is_main", "s2_found", "s2_is_main"):
        assert result[field].all()


def test_true_events_that_share_an_event():
    """Only one has the main S2; the other's is the alternative one, or none."""
    truth = make_truth([0, 40_000, 5_000_000])
    events = perfect_events(truth)[[0, 2]]
    events["endtime"][0] += 40_000
    result = simulation.match_truth(truth, events)
    assert result["event"].tolist() == [0, 0, 1]
    assert result["n_truth"].tolist() == [2, 2, 1]
    assert result["s2_is_main"].tolist() == [True, False, True]
    assert result["s2_found"].tolist() == [True, False, True]
    second = truth["s2_center_time"][1]
    events["alt_s2_time"][0], events["alt_s2_endtime"][0] = second - 900, second + 900
    result = simulation.match_truth(truth, events)
    assert result["s2_is_main"].tolist() == [True, False, True]
    assert result["s2_found"].tolist() == [True, True, True]
    assert result["s1_found"].tolist() == [True, False, True]


def test_a_true_event_in_two_events():
    """Its S2 decides, and the main S1 of that event is not its own."""
    truth = make_truth([0])
    first, second = perfect_events(truth, window=0), perfect_events(truth, window=0)
    first["time"], first["endtime"] = T0 - 1_000, T0 + 5_000
    second["s1_time"] = second["s1_endtime"] = -1
    result = simulation.match_truth(truth, np.concatenate([first, second]))
    assert result["event"].tolist() == [1]
    assert result["n_events"].tolist() == [2]
    assert result["s2_is_main"].all()
    assert not result["s1_found"].any()


def test_where_events_overlap_the_first_counts():
    truth = make_truth([0])
    events = np.concatenate([perfect_events(truth, window) for window in (50_000, 40_000)])
    assert simulation.match_truth(truth, events)["event"].tolist() == [0]
    assert simulation.match_truth(truth, events)["n_events"].tolist() == [2]


@pytest.mark.parametrize(("offset", "event"), [(0, 0), (-1, -1), (1_999, 0), (2_000, -1)], ids=str)
def test_ends_of_an_event(offset, event):
    """The first ns belongs to it, the endtime does not."""
    truth = make_truth([0])
    events = perfect_events(truth)
    events["time"] = truth["s2_center_time"] - offset
    events["endtime"] = events["time"] + 2_000
    assert simulation.match_truth(truth, events)["event"].tolist() == [event]


def test_true_events_without_s2_have_no_event():
    truth = make_truth([0, 1_000_000], s2_pe=[0, 500])
    result = simulation.match_truth(truth, perfect_events(truth)[1:])
    assert result["event"].tolist() == [-1, 0]
    assert result["n_truth"].tolist() == [0, 1]
    assert not result["s1_found"][0]


@PROPERTY
@given(
    st.lists(st.integers(0, 2_000_000), max_size=10),
    st.lists(st.tuples(st.integers(0, 2_000_000), st.integers(1, 300_000)), max_size=10),
)
def test_event_is_the_first_that_contains_the_s2(times, windows):
    truth = make_truth(sorted(times))
    events = perfect_events(make_truth([0] * len(windows)))
    for row, (start, length) in zip(events, sorted(windows), strict=True):
        row["time"], row["endtime"] = T0 + start, T0 + start + length
    result = simulation.match_truth(truth, events)
    for row, true in zip(result, truth, strict=True):
        center = true["s2_center_time"]
        inside = np.flatnonzero((events["time"] <= center) & (center < events["endtime"]))
        assert row["event"] == (inside[0] if len(inside) else -1)
        overlap = (events["time"] < true["endtime"]) & (true["time"] < events["endtime"])
        assert row["n_events"] == overlap.sum()
    for event in range(len(events)):
        mine = result["event"] == event
        assert (result["n_truth"][mine] == mine.sum()).all()


def test_empty_tables():
    truth, none = make_truth([0, 1_000_000]), make_truth([])
    assert len(simulation.match_truth(none, perfect_events(truth))) == 0
    assert len(simulation.match_peaks(none, perfect_peaks(truth))) == 0
    assert len(matching.label_peaks(truth, make_peaks([]))) == 0
    assert matching.label_peaks(none, perfect_peaks(truth))["kind"].tolist() == [0] * 4
    result = simulation.match_truth(truth, perfect_events(none))
    assert result["event"].tolist() == [-1, -1]
    assert not result["s2_found"].any()
    assert outcomes(truth, make_peaks([])) == [("MISSED", "MISSED")] * 2


def test_unsorted_and_overlapping_tables_are_errors():
    truth = make_truth([0, 1_000_000])
    peaks, events = perfect_peaks(truth), perfect_events(truth)
    for function, table, name in (
        (simulation.match_peaks, peaks, "peaks"),
        (matching.label_peaks, peaks, "peaks"),
        (simulation.match_truth, events, "events"),
    ):
        with pytest.raises(ValueError, match=rf"{name} is not sorted by time: row 1, at {T0}"):
            function(truth, _backwards(table))
        with pytest.raises(ValueError, match="truth is not sorted"):
            function(truth[::-1], table)
    peaks["endtime"][0] = peaks["time"][1] + 1
    with pytest.raises(ValueError, match="peaks 0 and 1, .* overlap"):
        simulation.match_peaks(truth, peaks)


def _backwards(table):
    """Return two rows in the wrong order, the second of which begins at T0."""
    table = table[[1, 0]].copy()
    table["time"] = [T0 + 10, T0]
    return table
