"""Writing live data: directories in redax's order, at once or as time goes by."""

import itertools

import numpy as np
import pytest
import strax
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax import redax
from amstrax.simulation import writer
from amstrax.simulation.writer import Pace, RunWriter

PROPERTY = settings(max_examples=25, deadline=None, database=None)
THREADS = {"xams-daq_reader_0": 2, "xams-daq_reader_1": 1}
LENGTH, OVERLAP = 100, 20


def make_records(times):
    records = np.zeros(len(times), dtype=strax.raw_record_dtype())
    records["time"] = times
    records["channel"] = np.arange(len(times)) % 5
    records["length"] = 110
    records["dt"] = 10
    records["data"] = np.arange(len(times))[:, np.newaxis] % 1_000
    return records


class Watch(Pace):
    """Nothing is held back; what there was at each moment is noted down."""

    def __init__(self, run_dir):
        super().__init__(None, bool)
        self.run_dir = run_dir
        self.seen = []

    def wait_for(self, moment):
        there = self.run_dir.iterdir() if self.run_dir.exists() else ()
        self.seen.append((moment, {path.name for path in there}))


def new_writer(run_dir, compressor="lz4", pace=None, fragment_samples=110):
    pace = Pace(None, bool) if pace is None else pace
    return RunWriter(run_dir, THREADS, LENGTH, OVERLAP, compressor, fragment_samples, pace)


def read(directory, compressor="lz4"):
    parts = [
        redax.read_file(path, compressor, strax.raw_record_dtype())
        for path in redax.list_files(directory)
    ]
    return np.concatenate(parts)


def test_directories_come_in_the_order_of_redax(tmp_path):
    watch = Watch(tmp_path)
    run = new_writer(tmp_path, pace=watch)
    run.add(make_records(np.arange(0, 330, 10)), 330)
    run.end(345)
    # each after the end of its time, before and central part of a chunk at once
    moments = [moment for moment, _ in watch.seen]
    assert moments[:5] == [100, 120, 220, 240, 345]
    there = [names for _, names in watch.seen] + [{path.name for path in tmp_path.iterdir()}]
    new = [after - before for before, after in itertools.pairwise(there)]
    assert new[:4] == [
        {"000000"},
        {"000000_post"},
        {"000001_pre", "000001"},
        {"000001_post"},
    ]
    # the third chunk has not come to its end, but the run has
    assert set().union(*new[4:]) == {"000002_pre", "000002", "000002_post", "THE_END"}
    assert run.n_records == 33


def test_times_of_each_directory(tmp_path):
    run = new_writer(tmp_path)
    times = np.arange(0, 345, 5)
    run.add(make_records(times), 345)
    run.end(345)
    for name, start, end in (
        ("000000", 0, 100),
        ("000000_post", 100, 120),
        ("000001_pre", 100, 120),
        ("000001", 120, 220),
        ("000001_post", 220, 240),
        ("000002_pre", 220, 240),
        ("000002", 240, 340),
        ("000002_post", 340, 360),
    ):
        found = np.sort(read(tmp_path / name)["time"])
        assert found.tolist() == times[(times >= start) & (times < end)].tolist()
        assert redax.is_complete(tmp_path / name, THREADS)
    assert redax.run_has_ended(tmp_path, THREADS)
    assert redax.last_chunk(tmp_path) == 2


@pytest.mark.parametrize("compressor", ["lz4", "blosc"])
def test_overlaps_are_written_twice_byte_for_byte(compressor, tmp_path):
    run = new_writer(tmp_path, compressor)
    run.add(make_records(np.arange(0, 600, 3)), 600)
    run.end(600)
    for chunk_i in range(4):
        post = redax.list_files(tmp_path / f"{chunk_i:06d}_post")
        pre = redax.list_files(tmp_path / f"{chunk_i + 1:06d}_pre")
        assert [path.name for path in pre] == [path.name for path in post]
        assert [path.read_bytes() for path in pre] == [path.read_bytes() for path in post]
        assert len(read(tmp_path / f"{chunk_i:06d}_post", compressor)) > 5


@PROPERTY
@given(
    times=st.lists(st.integers(0, 499), max_size=40),
    parts=st.lists(st.integers(0, 500), max_size=6),
    duration=st.sampled_from([1, 99, 100, 101, 120, 121, 240, 500]),
)
def test_in_whatever_parts_all_is_written_once(times, parts, duration, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("runs")
    records = make_records([time for time in sorted(times) if time < duration])
    run = new_writer(tmp_path / "parts")
    done = 0
    for until in sorted(min(part, duration) for part in parts):
        own = records[(records["time"] >= done) & (records["time"] < until)]
        run.add(own, until)
        done = until
    run.add(records[records["time"] >= done], duration)
    run.end(duration)
    # as all at once
    n_chunks = -(-duration // (LENGTH + OVERLAP))
    assert redax.last_chunk(tmp_path / "parts") == n_chunks - 1
    found = []
    for chunk_i in range(n_chunks):
        redax.write_chunk(tmp_path / "all", chunk_i, records, THREADS, LENGTH, OVERLAP)
        for part in ("", "_post"):
            found += read(tmp_path / "parts" / f"{chunk_i:06d}{part}")["time"].tolist()
    redax.write_end(tmp_path / "all", THREADS)
    assert sorted(found) == records["time"].tolist()
    one, other = (
        {
            path.relative_to(tmp_path / folder): path.read_bytes()
            for path in (tmp_path / folder).rglob("*")
            if path.is_file()
        }
        for folder in ("parts", "all")
    )
    assert one == other


def test_nothing_is_left_of_what_is_written(tmp_path):
    run = new_writer(tmp_path)
    run.add(make_records(np.arange(0, 100)), 100)
    assert [path.name for path in tmp_path.iterdir()] == ["000000"]
    run.add(make_records(np.arange(100, 119)), 119)
    assert len(list(tmp_path.iterdir())) == 1
    run.add(make_records([119]), 120)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000", "000000_post"]
    # the overlap is kept for the next chunk, and nothing else
    assert np.concatenate(run._waiting)["time"].tolist() == list(range(100, 120))


def test_fragments_of_another_size(tmp_path):
    run = new_writer(tmp_path, fragment_samples=50)
    run.add(np.zeros(3, dtype=strax.raw_record_dtype(50)), 50)
    run.end(50)
    assert sum(path.stat().st_size > 0 for path in (tmp_path / "000000").iterdir())


class Clock:
    """A clock that goes on when someone sleeps."""

    def __init__(self):
        self.now = 1_000.0
        self.sleeps = []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(writer, "time", clock)
    return clock


@pytest.mark.parametrize(("speed", "expected"), [(1.0, 3.0), (10.0, 0.3), (0.5, 6.0)])
def test_pace_waits_for_the_run(clock, speed, expected):
    pace = Pace(speed, bool)
    pace.wait_for(3e9)
    assert clock.now - 1_000 == pytest.approx(expected)
    # so often that it can be stopped
    assert max(clock.sleeps) <= 0.1
    # what has passed is not waited for
    clock.now += 50
    before = len(clock.sleeps)
    pace.wait_for(3.1e9)
    assert len(clock.sleeps) == before


def test_pace_counts_from_its_start(clock):
    pace = Pace(1.0, bool)
    clock.now += 2.0  # work takes time as well
    pace.wait_for(3e9)
    assert clock.now == pytest.approx(1_003)


def test_no_pace(clock):
    Pace(None, bool).wait_for(1e18)
    assert clock.sleeps == []


def test_pace_stops(clock):
    pace = Pace(1.0, lambda: clock.now >= 1_005)
    pace.wait_for(1e12)
    assert clock.now == pytest.approx(1_005, abs=0.11)
    pace.wait_for(2e12)
    assert clock.now == pytest.approx(1_005, abs=0.11)


def test_a_run_at_its_pace(clock, tmp_path):
    pace = Pace(100 / 1e9, bool)  # 100 ns of the run in a second
    run = new_writer(tmp_path, pace=pace)
    run.add(make_records(np.arange(0, 130)), 130)
    assert clock.now == pytest.approx(1_001.2)  # the first overlap ends at 120 ns
    run.end(150)
    # the second chunk would take until 220 ns, the run ends before
    assert clock.now == pytest.approx(1_001.5)
    assert redax.run_has_ended(tmp_path, THREADS)
    assert len(read(tmp_path / "000001")) == 10
