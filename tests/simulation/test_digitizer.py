"""The digitizer: self-trigger, ADC, dead time, the board's memory, windows and fragments."""

import numpy as np
import pytest
import strax
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax.processing.compiled import sort_by_time
from amstrax.simulation import digitizer
from amstrax.simulation.detector import XAMS, XAMSL
from amstrax.simulation.digitizer import Digitizer, Pulses
from amstrax.simulation.sensors import PHASES, Signals, pulse_shapes

PROPERTY = settings(max_examples=50, deadline=None, database=None)
QUIET = XAMS.with_values(noise=0.0, pmt_saturation_charge=1e18)
NEVER = -(2**62)


def rng(seed=1):
    return np.random.default_rng(seed)


def make_signals(times, channel=0, charge=1.0):
    n = len(times)
    channels, charges = (np.broadcast_to(value, n) for value in (channel, charge))
    return Signals(np.array(times, float), channels.astype(np.int16), charges.astype(float))


def digitized(detector, *parts, horizons=(np.inf,)):
    board = Digitizer(detector, rng())
    for part in parts:
        board.add(part)
    return [pulse for horizon in horizons for pulse in pulse_list(board.digitize(horizon))]


def pulse_list(pulses):
    """Return (channel, start, samples) of each pulse."""
    rows = zip(pulses.channel, pulses.start, pulses.length, pulses.offset, strict=True)
    return [
        (int(channel), int(start), pulses.samples[offset : offset + length].tolist())
        for channel, start, length, offset in rows
    ]


def waveform(detector, channel, signals, start, n):
    """Return all ADC counts of a channel without noise, from sample `start` on."""
    shapes, first = pulse_shapes(detector, channel)
    own = signals.channel == channel
    times, charges = signals.time[own], signals.charge[own]
    order = np.argsort(times, kind="stable")
    wave = np.zeros(n)
    for time, charge in zip(times[order], charges[order], strict=True):
        position = time / detector.dt
        sample = int(np.floor(position))
        phase = min(int((position - sample) * PHASES), PHASES - 1)
        begin = sample + first - start
        assert 0 <= begin <= n - shapes.shape[1]
        wave[begin : begin + shapes.shape[1]] += (
            charge * detector.unit_area(channel) * shapes[phase]
        )
    sign = 1 if channel == detector.sipm_channel else -1
    counts = np.floor(detector.baselines[channel] + sign * wave + 0.5)
    return np.clip(counts, 0, 2**detector.adc_bits - 1).astype(int)


def expected_pulses(detector, channel, signals):
    """Find pulses in the whole waveform, a sample after the other."""
    samples = signals.time / detector.dt
    margin = 20 + detector.pre_trigger + detector.post_trigger + detector.length_multiple
    start = int(samples.min(initial=0)) - 100 - margin
    n = int(samples.max(initial=0)) - start + 300 + 2 * margin
    counts = waveform(detector, channel, signals, start, n)
    sign = 1 if channel == detector.sipm_channel else -1
    over = sign * (counts - round(detector.baselines[channel])) >= detector.threshold
    found, free = [], 0
    for k in range(n):
        if not over[k] or k < free:
            continue
        begin = max(k - detector.pre_trigger, free)
        last = k
        while over[last + 1 : last + 1 + detector.post_trigger].any():
            last += 1 + int(np.argmax(over[last + 1 :]))
        end = last + 1 + detector.post_trigger
        end += (begin - end) % detector.length_multiple
        found.append((channel, start + begin, counts[begin:end].tolist()))
        free = end + detector.dead_samples
    return found


# positions and areas of one-sample signals, where the channel is free; pulses as (start, length)
TRIGGERS = [
    ([], [], NEVER, []),
    ([1000.3], [100.0], NEVER, [(970, 92)]),  # 30 before, itself, 60 after, and one to be even
    ([1000.3], [15.0], NEVER, [(970, 92)]),
    ([1000.3], [14.4], NEVER, []),  # 14 counts after rounding: under the threshold
    ([10.0], [100.0], NEVER, [(-20, 92)]),
    ([1000.0, 1000.5], [8.0, 7.0], NEVER, [(970, 92)]),  # together over it
    ([1000.0, 1001.0], [8.0, 7.0], NEVER, []),
    ([1000.0, 1060.0], [50.0, 50.0], NEVER, [(970, 152)]),  # goes on
    ([1000.0, 1061.0], [50.0, 50.0], NEVER, [(970, 92)]),  # in the sample that makes it even
    ([1000.0, 1062.0], [50.0, 50.0], NEVER, [(970, 92)]),  # in the dead time
    ([1000.0, 1064.0], [50.0, 50.0], NEVER, [(970, 92), (1064, 62)]),  # no samples before
    ([1000.0, 1090.0], [50.0, 50.0], NEVER, [(970, 92), (1064, 88)]),
    ([1000.0, 1100.0], [50.0, 50.0], NEVER, [(970, 92), (1070, 92)]),
    ([1000.0, 9000.0], [50.0, 50.0], NEVER, [(970, 92), (8970, 92)]),
    ([1000.0], [50.0], 990, [(990, 72)]),  # not free before
    ([1000.0], [50.0], 1000, [(1000, 62)]),
    ([1000.0], [50.0], 1001, []),
]


@pytest.mark.parametrize(("positions", "areas", "free", "pulses"), TRIGGERS)
@pytest.mark.parametrize("sign", [1, -1])
def test_trigger(positions, areas, free, pulses, sign):
    arguments = (
        np.array(positions),
        np.array(areas),
        np.ones((PHASES, 1)),
        0,
        np.inf,
        free,
        (8000.0, 0.0, sign, 0, 16383),
        (15, 30, 60, 2, 2),
    )
    n_done, start, length, offset, samples, free_after = digitizer._digitize(rng(), *arguments)
    assert n_done == len(positions)
    assert list(zip(start, length, strict=True)) == pulses
    assert free_after == (pulses[-1][0] + pulses[-1][1] + 2 if pulses else free)
    assert len(samples) == length.sum()
    for begin, n, where in zip(start, length, offset, strict=True):
        expected = np.full(n, 8000)
        for position, area in zip(positions, areas, strict=True):
            if begin <= position < begin + n:
                expected[int(position) - begin] += sign * area
        assert samples[where : where + n].tolist() == expected.tolist()
    plain = digitizer._digitize.py_func(rng(), *arguments)
    for one, other in zip((n_done, start, length, offset, samples, free_after), plain, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("pre", "step", "n"), [(1000, 90, 60), (30, 76, 60)])
def test_room_for_pulses_that_follow_each_other(pre, step, n):
    # each begins right behind the dead time of the one before: shorter than pre + post
    kernel = digitizer._digitize.py_func  # the compiled one would write beyond its arrays
    result = kernel(
        rng(),
        1000.0 + step * np.arange(n),
        np.full(n, 50.0),
        np.ones((PHASES, 1)),
        0,
        np.inf,
        NEVER,
        (8000.0, 0.0, -1, 0, 16383),
        (15, pre, 60, 2, 2),
    )
    assert len(result[1]) == n


def test_one_photoelectron():
    # 125.4 counts x samples within some 30 ns: 3 or 4 samples over the threshold
    ((channel, start, samples),) = digitized(QUIET, make_signals([50_004.0]))
    assert channel == 0
    samples = np.array(samples)
    over = np.flatnonzero(15_800 - samples >= 15)
    assert 2 <= len(over) <= 5
    assert over[0] == 30
    assert len(samples) - 61 - over[-1] in (0, 1)
    assert len(samples) % 2 == 0
    assert start + 27 < 5_000 < start + over[-1] + 4
    assert (15_800 - samples).sum() == pytest.approx(125.4, abs=5)
    assert (samples[:25] == 15_800).all()


@pytest.mark.parametrize(
    ("channel", "charge", "extreme"), [(0, 1e4, 0), (5, 1e6, 0), (6, 1e5, 2**14 - 1)]
)
def test_saturation(channel, charge, extreme):
    ((_, _, samples),) = digitized(QUIET, make_signals([50_000.0], channel, charge))
    samples = np.array(samples)
    baseline = QUIET.baselines[channel]
    assert (samples == extreme).sum() >= 3
    if channel == 6:  # positive pulses
        assert samples.min() == baseline
    else:
        assert samples.max() == baseline
    # and less light is not cut
    ((_, _, small),) = digitized(QUIET, make_signals([50_000.0], channel, 50.0))
    assert min(small) > 0
    assert max(small) < 2**14 - 1


signal_rows = st.lists(
    st.tuples(
        st.floats(0, 20_000),
        st.sampled_from([0.0, 0.05, 0.3, 1.0, 3.7, 50.0, 500.0, 1e6]),
        st.sampled_from([0, 5, 6]),
    ),
    max_size=8,
)
triggers = st.fixed_dictionaries(
    {
        "threshold": st.sampled_from([1, 15, 100]),
        "pre_trigger": st.sampled_from([1, 10]),
        "post_trigger": st.sampled_from([10, 60]),
        "length_multiple": st.sampled_from([1, 2, 7]),
        "dead_samples": st.sampled_from([0, 2, 90]),
    }
)


@PROPERTY
@given(signal_rows, triggers, st.lists(st.floats(-1_000, 30_000), max_size=4))
def test_pulses_are_those_of_the_whole_waveform(rows, values, horizons):
    detector = QUIET.with_values(**values)
    times, charges, channels = np.array(rows).reshape(-1, 3).T
    signals = make_signals(times, channels.astype(int), charges)
    found = digitized(detector, signals)
    expected = []
    for channel in (0, 5, 6):
        own = signals.channel == channel
        expected += expected_pulses(
            detector, channel, Signals(*(column[own] for column in signals))
        )
    assert sorted(found) == sorted(expected)
    # block by block, in whatever blocks, and handed over in any order
    again = digitized(
        detector,
        Signals(*(column[::-2] for column in signals)),
        Signals(*(column[-2::-2] for column in signals)),
        horizons=(*sorted(horizons), np.inf),
    )
    assert sorted(again) == sorted(found)
    for channel in (0, 5, 6):
        own = sorted((start, len(samples)) for c, start, samples in found if c == channel)
        for (start, length), (following, _) in zip(own, own[1:], strict=False):
            assert following >= start + length + detector.dead_samples
            assert length % detector.length_multiple == 0


@pytest.mark.parametrize("detector", [XAMS, XAMSL])
def test_many_signals(detector):
    detector = detector.with_values(noise=0.0, pmt_saturation_charge=1e18)
    n = 2_000
    times = 1e5 + np.sort(rng(5).uniform(0, 4e6, n))
    charges = rng(6).exponential(2.0, n)
    for channel in detector.channels:
        signals = make_signals(times, channel, charges)
        found = digitized(detector, signals)
        assert sorted(found) == expected_pulses(detector, channel, signals)
        horizons = (*np.arange(0, 4.5e6, 3e5), np.inf)
        assert sorted(digitized(detector, signals, horizons=horizons)) == sorted(found)


@PROPERTY
@given(signal_rows, triggers, st.floats(0, 3_000), st.floats(0, 2), st.integers(0, 2**32))
def test_digitize_and_its_twin(rows, values, known_until, noise, seed):
    rows = sorted(rows)
    shapes, first = pulse_shapes(XAMS, 0)
    arguments = (
        np.array([row[0] / 10 for row in rows], dtype=float),
        np.array([row[1] * 100 for row in rows], dtype=float),
        shapes,
        first,
        known_until,
        50,
        (15_800.3, noise, -1, 0, 16_383),
        (
            # higher than noise gets: at most one pulse for each signal
            values["threshold"] + 15,
            *(values[f] for f in ("pre_trigger", "post_trigger", "length_multiple")),
            values["dead_samples"],
        ),
    )
    # The plain one first: it says so when it leaves its arrays
    plain = digitizer._digitize.py_func(rng(seed), *arguments)
    compiled = digitizer._digitize(rng(seed), *arguments)
    for one, other in zip(plain, compiled, strict=True):
        np.testing.assert_array_equal(one, other)
    assert plain[0] <= sum(row[0] / 10 < known_until for row in rows)


def test_what_may_still_grow_waits():
    board = Digitizer(QUIET, rng())
    board.add(make_signals([10_000.0, 30_000.0], charge=5.0))
    ((_, first, _),) = pulse_list(board.digitize(20_000.0))
    assert 19_000 < board.complete_until < 20_000
    board.add(make_signals([30_010.0, 50_000.0], charge=5.0))
    assert pulse_list(board.digitize(30_000.0)) == []
    assert 29_000 < board.complete_until < 10 * 2_970
    (_, second, samples), (_, third, _) = pulse_list(board.digitize(np.inf))
    assert [start // 100 for start in (first, second, third)] == [9, 29, 49]
    # both that came at 30 us are in one pulse
    assert (15_800 - np.array(samples)).sum() == pytest.approx(10 * 125.4, rel=0.01)
    assert pulse_list(board.digitize(np.inf)) == []


def test_area_is_conserved():
    n = 3_000
    signals = make_signals(1e5 + 5_000.0 * np.arange(n), np.arange(n) % 5)
    found = digitized(XAMS, signals)
    assert len(found) == n
    for channel in range(5):
        own = [np.array(samples) for c, _, samples in found if c == channel]
        area = np.mean([(XAMS.baselines[channel] - samples).sum() for samples in own])
        # the noise of 100 samples is 16 counts
        assert area == pytest.approx(XAMS.photoelectron_areas[channel], abs=5 * 16 / np.sqrt(n / 5))


def test_noise():
    detector = XAMS.with_values(noise=3.0)
    found = digitized(detector, make_signals(1e5 + 5_000.0 * np.arange(1_000), charge=5.0))
    before = np.concatenate([samples[:20] for _, _, samples in found])
    assert before.mean() == pytest.approx(15_800, abs=0.15)
    assert before.std() == pytest.approx(np.sqrt(9 + 1 / 12), rel=0.03)


def test_board_memory():
    # 92 samples a pulse or two more; 0.01 of them are read out in a sample's time
    detector = QUIET.with_values(board_memory=200, readout_rate=0.001)
    times = [1e6, 1.01e6, 1.02e6, 1.03e6, 1.2e6, 2e6]
    board = Digitizer(detector, rng())
    board.add(make_signals(times, channel=[0, 1, 2, 0, 0, 0], charge=1.0))
    found = pulse_list(board.digitize(1.1e6))
    # all channels share it: no room for the third and the fourth
    assert sorted(channel for channel, _, _ in found) == [0, 1]
    assert board.lost_pulses == 2
    # 170 us later it is emptied by 170 samples
    found = pulse_list(board.digitize(1.5e6))
    assert len(found) == 1
    assert len(pulse_list(board.digitize(np.inf))) == 1
    assert board.lost_pulses == 2
    roomy = Digitizer(QUIET, rng())
    roomy.add(make_signals(times))
    assert len(pulse_list(roomy.digitize(np.inf))) == 6
    assert roomy.lost_pulses == 0


@pytest.mark.parametrize(
    # starts, lengths, kept, of a memory of 100 that loses 1 each sample
    ("starts", "lengths", "kept"),
    [
        ([], [], []),
        ([0], [100], [True]),
        ([0], [101], [False]),
        ([0, 0], [60, 40], [True, True]),
        ([0, 0, 0], [60, 41, 40], [True, False, True]),
        ([0, 10], [100, 10], [True, True]),
        ([0, 10], [100, 11], [True, False]),
        ([0, 50, 50], [100, 60, 50], [True, False, True]),  # what is lost takes no room
        ([0, 1000], [100, 100], [True, True]),  # no emptier than empty
    ],
)
def test_fits_memory(starts, lengths, kept):
    arrays = np.array(starts, dtype=np.int64), np.array(lengths, dtype=np.int64)
    memory, twin = np.zeros(2), np.zeros(2)
    assert digitizer._fits_memory(*arrays, memory, 100, 1.0).tolist() == kept
    assert digitizer._fits_memory.py_func(*arrays, twin, 100, 1.0).tolist() == kept
    assert memory.tolist() == twin.tolist()


@PROPERTY
@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(1, 80)), max_size=20),
    st.integers(1, 200),
    st.integers(1, 4),
)
def test_memory_is_never_overfull(rows, capacity, rate):
    rows = sorted(rows)
    starts, lengths = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    kept = digitizer._fits_memory(starts, lengths, np.zeros(2), capacity, float(rate))
    # emptied one sample after the other
    level, now = 0, 0
    for (start, length), fits in zip(rows, kept, strict=True):
        for _ in range(start - now):
            level = max(level - rate, 0)
        now = start
        assert fits == (level + length <= capacity)
        level += length if fits else 0
    twin = digitizer._fits_memory.py_func(starts, lengths, np.zeros(2), capacity, float(rate))
    assert kept.tolist() == twin.tolist()


ADDED = [
    (10.0, [0, 0, 0, 0, 0, 5, 7, 0, 0, 0]),  # phase 0: 5 and 7, from a sample before on
    (10.049, [0, 0, 0, 0, 0, 5, 7, 0, 0, 0]),
    (10.051, [0, 0, 0, 0, 0, 6, 8, 0, 0, 0]),
    (10.9999, [0, 0, 0, 0, 0, 24, 26, 0, 0, 0]),
    (4.0, [7, 0, 0, 0, 0, 0, 0, 0, 0, 0]),  # over the start
    (14.0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 5]),  # over the end
    (3.0, [0] * 10),
    (15.0, [0] * 10),
    (-0.5, [0] * 10),
]


@pytest.mark.parametrize(("position", "expected"), ADDED)
@pytest.mark.parametrize("kernel", [digitizer._add_pulse, digitizer._add_pulse.py_func])
def test_add_pulse(position, expected, kernel):
    phases = np.arange(PHASES, dtype=float)
    shapes = np.stack([5 + phases, 7 + phases], axis=1) / 2
    buffer = np.ones(10)
    kernel(buffer, 4, position, 2.0, shapes, -1)
    assert buffer.tolist() == [1 + value for value in expected]


def test_add_pulse_before_the_start_of_the_run():
    shapes = np.arange(PHASES, dtype=float)[:, np.newaxis]
    for kernel in (digitizer._add_pulse, digitizer._add_pulse.py_func):
        buffer = np.zeros(5)
        kernel(buffer, -3, -0.5, 1.0, shapes, 0)  # half a sample after sample -1
        assert buffer.tolist() == [0, 0, 10, 0, 0]


@pytest.mark.parametrize("kernel", [digitizer._to_counts, digitizer._to_counts.py_func])
def test_to_counts(kernel):
    buffer = np.array([0.0, 0.2, 0.8, 99.0, 101.0, 1e9, -1e9])
    counts = np.empty(7, dtype=np.int16)
    kernel(rng(), buffer, counts, (100.4, 0.0, -1, 0, 1023))
    assert counts.tolist() == [100, 100, 100, 1, 0, 0, 1023]
    kernel(rng(), buffer, counts, (100.4, 0.0, 1, 0, 1023))
    assert counts.tolist() == [100, 101, 101, 199, 201, 1023, 0]
    kernel(rng(), buffer, counts, (100.4, 0.0, -1, -32666, 32767))
    assert counts.tolist() == [100, 100, 100, 1, -1, -32666, 32767]


@pytest.mark.parametrize("kernel", [digitizer._cluster_end, digitizer._cluster_end.py_func])
def test_cluster_end(kernel):
    position = np.array([0.9, 10.2, 33.9, 57.0, 58.0])
    # shapes of 5 samples, from 2 before on: the first ends at 3; 20 samples more are near
    assert kernel(position, 0, -2, 5, 20) == (5, 61)
    assert kernel(position, 0, -2, 5, 18) == (3, 36)
    assert kernel(position, 0, -2, 5, 17) == (2, 13)
    assert kernel(position, 2, -2, 5, 18) == (3, 36)
    assert kernel(position, 3, -2, 5, 0) == (5, 61)
    assert kernel(position, 4, -2, 5, 20) == (5, 61)


@PROPERTY
@given(
    st.lists(st.tuples(st.floats(0, 9_000), st.floats(0, 30)), max_size=20),
    st.lists(st.integers(60, 700), max_size=4, unique=True),
    st.integers(1, 60),
)
def test_windows(rows, starts, length):
    times, charges = np.array(sorted(rows)).reshape(-1, 2).T
    signals = make_signals(times, 2, charges)
    starts = np.array(sorted(starts), dtype=np.int64)
    starts = starts[np.diff(starts, prepend=-1000) >= length]
    found = Digitizer(QUIET, rng()).windows(starts, length, signals)
    assert len(found.start) == 5 * len(starts)
    whole = waveform(QUIET, 2, signals, -100, 1_200)
    pulses = pulse_list(found)
    for channel, start, samples in pulses:
        if channel == 2:
            assert samples == whole[start + 100 : start + 100 + length].tolist()
        else:
            assert samples == [int(QUIET.baselines[channel])] * length
    expected = [(channel, start) for channel in range(5) for start in starts]
    assert [pulse[:2] for pulse in pulses] == expected
    shapes, first = pulse_shapes(QUIET, 2)
    arguments = (times / 10, charges * 100, shapes, first, starts, length, (8e3, 2.0, -1, 0, 16383))
    np.testing.assert_array_equal(
        digitizer._windows(rng(), *arguments), digitizer._windows.py_func(rng(), *arguments)
    )


def make_pulses(rows):
    length = np.array([row[2] for row in rows], dtype=np.int64)
    return Pulses(
        np.array([row[0] for row in rows], dtype=np.int16),
        np.array([row[1] for row in rows], dtype=np.int64),
        length,
        np.cumsum(length) - length,
        np.arange(length.sum()).astype(np.int16) % 10_007,
    )


def test_fragments():
    found = digitizer.fragments(make_pulses([(3, 70, 250), (6, 5, 110)]), XAMS)
    assert found.dtype == strax.raw_record_dtype()
    expected = {
        "time": [50, 700, 1800, 2900],
        "length": [110, 110, 110, 30],
        "channel": [6, 3, 3, 3],
        "pulse_length": [110, 250, 250, 250],
        "record_i": [0, 0, 1, 2],
        "baseline": [400, 15911, 15911, 15911],
        "dt": [10] * 4,
    }
    for field, values in expected.items():
        assert found[field].tolist() == values
    assert found["data"][0].tolist() == list(range(250, 360))
    assert found["data"][3].tolist() == [*range(220, 250), *[0] * 80]
    assert len(digitizer.fragments(make_pulses([]), XAMS)) == 0


@PROPERTY
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 300), st.integers(1, 300)), max_size=8),
    st.sampled_from([10, 110]),
)
def test_fragments_rebuild_pulses(rows, size):
    # pulses of a channel do not overlap
    rows = [(channel, start + 1_000 * i, length) for i, (channel, start, length) in enumerate(rows)]
    pulses = make_pulses(rows[::-1])
    detector = XAMS.with_values(fragment_samples=size)
    found = digitizer.fragments(pulses, detector)
    assert (np.diff(found["time"]) >= 0).all()
    for channel, start, samples in pulse_list(pulses):
        own = found[(found["channel"] == channel) & (found["time"] >= start * 10)]
        own = own[own["time"] < (start + len(samples)) * 10]
        assert own["record_i"].tolist() == list(range(-(-len(samples) // size)))
        assert (own["pulse_length"] == len(samples)).all()
        assert (own["length"][:-1] == size).all()
        rebuilt = np.concatenate([r["data"][: r["length"]] for r in own])
        assert rebuilt.tolist() == samples
        assert not any(r["data"][r["length"] :].any() for r in own)
    assert found["length"].sum() == pulses.length.sum()
    np.testing.assert_array_equal(plain_fragments(pulses, detector, found.dtype), found)


def plain_fragments(pulses, detector, dtype):
    """Return fragments made one by one, the twin."""
    rows = []
    size = detector.fragment_samples
    for channel, start, samples in pulse_list(pulses):
        for i in range(0, len(samples), size):
            row = np.zeros(1, dtype=dtype)
            part = samples[i : i + size]
            row["time"], row["dt"], row["length"] = (start + i) * 10, 10, len(part)
            row["channel"], row["baseline"] = channel, int(detector.baselines[channel])
            row["pulse_length"], row["record_i"] = len(samples), i // size
            row["data"][0, : len(part)] = part
            rows.append(row)
    return sort_by_time(np.concatenate(rows or [np.zeros(0, dtype=dtype)]))


def test_copy_samples():
    arguments = np.array([2, 3]), np.array([4, 1]), np.arange(10, dtype=np.int16)
    for kernel in (digitizer._copy_samples, digitizer._copy_samples.py_func):
        data = np.zeros((2, 3), dtype=np.int16)
        kernel(data, *arguments)
        assert data.tolist() == [[4, 5, 0], [1, 2, 3]]
