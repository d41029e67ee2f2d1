"""LED calibration: joining fragments, baselines, areas in windows."""

import numpy as np
import pytest
import strax
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amstrax.exceptions import IndexOutOfBounds
from amstrax.processing import led

PROPERTY = settings(max_examples=50, deadline=None, database=None)
SAMPLES, DT = 10, 2
FRAGMENT = SAMPLES * DT  # 20 ns
DTYPE = np.dtype(strax.raw_record_dtype(SAMPLES))


def make_raw(rows, data=0):
    """Rows of time, channel, record_i."""
    raw = np.zeros(len(rows), dtype=DTYPE)
    for record, row in zip(raw, rows, strict=True):
        record["time"], record["channel"], record["record_i"] = row
    raw["dt"] = DT
    raw["length"] = SAMPLES
    raw["data"] = data
    return raw


def join(rows, n_fragments=2):
    raw = make_raw(rows)
    begins, pulse = led.join_fragments(raw, n_fragments)
    return begins.tolist(), pulse.tolist()


@pytest.mark.parametrize(
    ("rows", "begins", "pulse"),
    [
        pytest.param([], [], [], id="nothing"),
        pytest.param([(100, 0, 0), (120, 0, 1)], [0], [0, 0], id="one pulse"),
        pytest.param(
            [(100, 0, 0), (100, 3, 0), (120, 0, 1), (120, 3, 1)],
            [0, 1],
            [0, 1, 0, 1],
            id="two channels at once",
        ),
        pytest.param(
            [(100, 0, 0), (500, 0, 0), (520, 0, 1)], [0, 1], [0, 1, 1], id="second one missing"
        ),
        pytest.param(
            [(120, 0, 1), (500, 0, 0), (520, 0, 1)], [1], [-1, 0, 0], id="first one missing"
        ),
        pytest.param(
            [(100, 0, 0), (520, 0, 1), (900, 0, 0)], [0, 2], [0, -1, 1], id="of a lost pulse"
        ),
        pytest.param(
            [(100, 0, 0), (120, 0, 1), (140, 0, 2)], [0], [0, 0, -1], id="one too many"
        ),
        pytest.param([(100, 0, 0), (120, 1, 1)], [0], [0, -1], id="of another channel"),
        pytest.param([(100, 0, 0), (118, 0, 1)], [0], [0, -1], id="at another time"),
    ],
)  # fmt: skip
def test_join_fragments(rows, begins, pulse):
    assert join(rows) == (begins, pulse)


def test_join_three_fragments():
    rows = [(100, 0, 0), (120, 0, 1), (140, 0, 2)]
    assert join(rows, 3) == ([0], [0, 0, 0])
    assert join(rows, 1) == ([0], [0, -1, -1])
    del rows[1]
    assert join(rows, 3) == ([0], [0, 0])


@PROPERTY
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), max_size=8, unique=True), st.data()
)
def test_a_missing_fragment_spoils_one_pulse(pulses, data):
    # pulses of three fragments, at least 100 ns apart in a channel
    whole = [
        (100 * slot + i * FRAGMENT, channel, i, (slot, channel))
        for slot, channel in pulses
        for i in range(3)
    ]
    kept = sorted(row for row in whole if data.draw(st.integers(0, 4)))
    begins, pulse = join([row[:3] for row in kept], n_fragments=3)
    assert begins == [k for k, row in enumerate(kept) if row[2] == 0]
    names = [kept[k][3] for k in begins]
    for (*_, name), p in zip(kept, pulse, strict=True):
        assert p == (names.index(name) if name in names else -1)


def test_baselined_pulses():
    rows = [(100, 0, 0), (120, 0, 1), (500, 0, 0), (920, 0, 1)]
    raw = make_raw(rows)
    raw["data"][0] = [10, 12, 14, 12, 5, 5, 5, 5, 5, 5]
    raw["data"][1] = 20
    raw["data"][2] = 7
    raw["data"][3] = 99  # belongs to no pulse
    begins, pulse = led.join_fragments(raw, 2)
    result = led.baselined_pulses(raw, pulse, len(begins), 20, (0, 4))
    assert result.dtype == np.float32
    assert result.tolist() == [
        [2, 0, -2, 0, 7, 7, 7, 7, 7, 7] + [-8] * 10,  # baseline 12
        [0] * 20,  # baseline 7, and no second fragment
    ]
    assert led.baselined_pulses(raw, pulse, len(begins), 20, (4, 9))[0, 4:9].tolist() == [0] * 5


def test_no_pulses():
    raw = make_raw([])
    begins, pulse = led.join_fragments(raw, 2)
    assert (len(begins), len(pulse)) == (0, 0)
    assert led.baselined_pulses(raw, pulse, 0, 20, (0, 4)).shape == (0, 20)
    assert led.window_areas(np.zeros((0, 20)), (3, 5)).shape == (0,)


@PROPERTY
@given(arrays(np.int16, (6, SAMPLES), elements=st.integers(0, 2**14)), st.integers(1, 2 * SAMPLES))
def test_baselined_pulses_have_no_baseline(data, window):
    rows = [(100 * p + i * FRAGMENT, 0, i) for p in range(3) for i in range(2)]
    raw = make_raw(rows, data)
    begins, pulse = led.join_fragments(raw, 2)
    result = led.baselined_pulses(raw, pulse, len(begins), 20, (0, window))
    np.testing.assert_allclose(result[:, :window].mean(axis=1), 0, atol=0.01)
    # turned over: the differences between samples are those of the raw data, with the other sign
    expected = -np.diff(data.reshape(3, 20).astype(int), axis=1)
    np.testing.assert_allclose(np.diff(result, axis=1), expected, atol=0.01)


def test_window_areas():
    # windows [2, 4), [2, 6), ... [2, 14): 2, 4, 6, 8, 10, 12 samples
    data = np.zeros((3, 20))
    data[0] = 1  # mean of these lengths
    data[1, 5] = 6  # in all but the first
    data[2, [1, 14]] = 100  # in none
    np.testing.assert_allclose(led.window_areas(data, (2, 4)), [7, 5, 0])


@PROPERTY
@given(
    arrays(np.float64, (2, 40), elements=st.integers(-50, 50)),
    st.integers(0, 20),
    st.integers(0, 9),
)
def test_window_areas_weigh_samples(data, start, length):
    stop = start + length
    areas = led.window_areas(data, (start, stop))
    for row, area in zip(data, areas, strict=True):
        # a sample counts as often as there are windows [start, stop + 2 i) that hold it
        times = [sum(start <= j < stop + 2 * i for i in range(6)) for j in range(40)]
        assert area == pytest.approx(np.dot(row, times) / 6)


# ---- Fragments one after another, without gaps ----


def concatenated(raw, n_samples):
    """Return channel, start and samples of each pulse; a plain twin of concatenate_fragments."""
    found = {}
    for record in raw:
        start = int(record["time"]) - int(record["record_i"]) * SAMPLES * int(record["dt"])
        found.setdefault((start, int(record["channel"])), []).append(record)
    result = []
    for key, fragments in sorted(found.items()):
        fragments.sort(key=lambda r: (r["record_i"], r["time"]))
        samples = np.concatenate([r["data"][: r["length"]] for r in fragments])[:n_samples]
        result.append((key, np.pad(samples, (0, n_samples - len(samples))).tolist()))
    return result


def concatenate(raw, n_samples=20):
    """Return what concatenate_fragments does as its twin has it."""
    order, first, data = led.concatenate_fragments(raw, n_samples)
    assert sorted(order.tolist()) == list(range(len(raw)))
    assert data.dtype == np.float32 and data.shape == (len(first), n_samples)
    ahead = raw[order][first]
    start = ahead["time"] - ahead["record_i"].astype(int) * SAMPLES * ahead["dt"]
    keys = zip(start.tolist(), ahead["channel"].tolist(), strict=True)
    return list(zip(keys, data.tolist(), strict=True))


ONES, TWOS, THREES = ([float(i)] * SAMPLES for i in (1, 2, 3))
NOTHING = [0.0] * SAMPLES


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([(100, 0, 0), (120, 0, 1)], [((100, 0), ONES + TWOS)], id="one pulse"),
        pytest.param([(120, 0, 1), (100, 0, 0)], [((100, 0), TWOS + ONES)], id="out of order"),
        pytest.param([(100, 0, 0)], [((100, 0), ONES + NOTHING)], id="second one missing"),
        pytest.param([(120, 0, 1)], [((100, 0), ONES + NOTHING)], id="first one missing"),
        pytest.param(
            [(100, 0, 0), (120, 0, 1), (140, 0, 2)], [((100, 0), ONES + TWOS)], id="one too many"
        ),
        pytest.param(
            [(100, 0, 0), (140, 0, 2)], [((100, 0), ONES + TWOS)], id="middle one missing"
        ),
        pytest.param(
            [(100, 3, 0), (100, 1, 0), (90, 7, 0)],
            [((90, 7), THREES + NOTHING), ((100, 1), TWOS + NOTHING), ((100, 3), ONES + NOTHING)],
            id="by start and channel",
        ),
        pytest.param(
            [(100, 0, 0), (118, 0, 1)],
            [((98, 0), TWOS + NOTHING), ((100, 0), ONES + NOTHING)],
            id="at another time",
        ),
    ],
)  # fmt: skip
def test_concatenate_fragments(rows, expected):
    """Samples of the n-th row are n."""
    raw = make_raw(rows, np.arange(1, len(rows) + 1)[:, np.newaxis])
    assert concatenate(raw) == expected == concatenated(raw, 20)


def test_concatenated_fragments_are_cut_to_their_lengths():
    raw = make_raw([(100, 0, 0), (120, 0, 1), (140, 0, 2)], [[1], [2], [3]])
    raw["length"] = 4, 0, 8
    raw["data"][0, 4:] = 99
    ((key, samples),) = concatenate(raw)
    assert key == (100, 0) and samples == [1] * 4 + [3] * 8 + [0] * 8
    ((_, samples),) = concatenate(raw, 6)
    assert samples == [1] * 4 + [3] * 2


@pytest.mark.parametrize("length", [-1, SAMPLES + 1])
def test_fragments_of_impossible_length_are_refused(length):
    raw = make_raw([(100, 0, 0), (120, 0, 1)])
    raw["length"][1] = length
    with pytest.raises(IndexOutOfBounds, match="length.*copy it again from the DAQ"):
        led.concatenate_fragments(raw, 20)


@PROPERTY
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),  # slot: pulses of a channel overlap
            st.integers(0, 2),  # channel
            st.integers(0, 4),  # record_i
            st.integers(0, SAMPLES),  # length
        ),
        max_size=20,
        unique_by=lambda row: row[:3],
    ),
    st.integers(1, 40),
    st.randoms(use_true_random=False),
)
def test_concatenated_fragments_are_those_of_a_plain_loop(rows, n_samples, random):
    random.shuffle(rows)
    raw = make_raw([(30 * slot + i * FRAGMENT, channel, i) for slot, channel, i, _ in rows])
    raw["length"] = [row[3] for row in rows]
    raw["data"] = np.arange(1, raw["data"].size + 1).reshape(raw["data"].shape)
    assert concatenate(raw, n_samples) == concatenated(raw, n_samples)
