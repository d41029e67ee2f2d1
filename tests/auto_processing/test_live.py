"""Following a run while the DAQ still writes it."""

import shutil
import threading
import time
import warnings

import numpy as np
import pytest
import strax
from make_runs import (
    LENGTH,
    OVERLAP,
    RAW_DTYPE,
    RUN_ID,
    START,
    THREADS,
    context,
    load,
    pulses,
    rundoc,
    write_run,
)

from amstrax import exceptions, redax
from amstrax.auto_processing import job
from amstrax.plugins.daqreader import ArtificialDeadtimeInserted
from amstrax.processing.compiled import sort_by_time
from amstrax.rundb.leases import Stop
from amstrax.rundoc import MISSING_LIVE_DATA

TWO_HOSTS = {"host_a_reader_0": 2, "host_b_reader_0": 1}


def test_a_run_is_followed_to_its_end(tmp_path):
    """Chunks that appear one after the other give what they give when all are there."""
    records = pulses(np.arange(1, 164) * 100_000_000, channels=range(5))
    write_run(tmp_path / "whole", records, 3, TWO_HOSTS)
    expected = load(context(tmp_path / "whole", document=rundoc(TWO_HOSTS)), "raw_records")

    live = tmp_path / "live"
    run_dir = live / RUN_ID
    run_dir.mkdir(parents=True)
    seen = []

    def write():
        for chunk_i in range(3):
            # Nothing of a chunk may be used before all of it is there
            seen.append(chunks_done[:])
            redax.write_chunk(run_dir, chunk_i, records, TWO_HOSTS, LENGTH, OVERLAP)
            deadline = time.monotonic() + 60
            while len(chunks_done) <= chunk_i and time.monotonic() < deadline:
                time.sleep(0.05)
        redax.write_end(run_dir, TWO_HOSTS)

    st = context(live, document=rundoc(TWO_HOSTS))
    chunks_done = []
    writer = threading.Thread(target=write)
    writer.start()
    for chunk in st.get_iter(RUN_ID, "raw_records", progress_bar=False, processor="single_thread"):
        chunks_done.append(len(chunk))
    writer.join()
    np.testing.assert_array_equal(load(st, "raw_records"), expected)
    assert [len(done) for done in seen] == [0, 1, 2]


#: Pulses in the last overlap of a run [ns before its end]: some behind the cut, or none
BEHIND, BEFORE = (20_000, 1600, 400), (20_000, 5000)


@pytest.mark.parametrize("pre", ["none", "copied", "moved"])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("times", [BEHIND, BEFORE])
def test_end_in_an_overlap(tmp_path, pre, workers, times):
    """A run that is followed gives what an ended one does; the last ``_pre`` may exist."""
    end = 2 * (LENGTH + OVERLAP)
    records = pulses([1_000_000, LENGTH + 1000, *(end - np.array(times))], range(5))
    run_dir = write_run(tmp_path, records, 2, TWO_HOSTS, end=False)
    post, last_pre = run_dir / "000001_post", run_dir / "000002_pre"
    if pre == "copied":
        shutil.copytree(post, last_pre)
    elif pre == "moved":
        # The chunk is complete only when the run has ended
        post.rename(last_pre)

    def follow(folder, n_before_end=-1):
        st = context(tmp_path, document=rundoc(TWO_HOSTS))
        st.storage = [strax.DataDirectory(str(folder))]
        job.Source(st, RUN_ID, "raw_records").meter_reader(60, Stop())
        chunks = []
        for chunk in st.get_iter(RUN_ID, "raw_records", max_workers=workers, progress_bar=False):
            chunks.append(chunk)
            if len(chunks) == n_before_end:
                redax.write_end(run_dir, TWO_HOSTS)
        return chunks

    followed = follow(tmp_path / "followed", 1 if pre == "moved" else 2)
    ended = follow(tmp_path / "ended")
    ends = [LENGTH + OVERLAP - 1000, end - 1000]
    if times == BEHIND:
        ends = [*ends[:1], end - 1600 - 333, end - 400 + 1100 + 333]
    for chunks in (followed, ended):
        assert [chunk.end - START * 1_000_000_000 for chunk in chunks] == ends
        found = np.concatenate([chunk.data for chunk in chunks])
        found["time"] -= START * 1_000_000_000
        np.testing.assert_array_equal(found, records)


@pytest.mark.parametrize("workers", [1, 2])
def test_crash_after_an_overlap(tmp_path, workers):
    """Records behind the last cut are kept where ``THE_END`` never comes, too."""
    records = pulses([1_000_000, *(LENGTH + OVERLAP - np.array(BEHIND))], range(5))
    write_run(tmp_path, records, end=False)
    st = context(tmp_path, allow_incomplete=True)
    job.Source(st, RUN_ID, "raw_records").meter_reader(0.1, Stop())
    found = st.get_array(RUN_ID, "raw_records", max_workers=workers, progress_bar=False)
    assert len(found) == len(records)
    [missing] = st.get_metadata(RUN_ID, "raw_records")[MISSING_LIVE_DATA]
    assert redax.THE_END in missing


@pytest.mark.parametrize("until", [1000, 0])
def test_end_in_an_overlap_without_a_gap(tmp_path, until):
    """Only what crosses the cut is dropped; a chunk follows if there are records behind it."""
    overlap = 22_000
    end = LENGTH + overlap
    records = pulses(np.arange(LENGTH, end - until, 550))
    redax.write_chunk(tmp_path / RUN_ID, 0, records, THREADS, LENGTH, overlap)
    redax.write_end(tmp_path / RUN_ID, THREADS)
    with pytest.warns(ArtificialDeadtimeInserted):
        kept = load(context(tmp_path, document=rundoc(strax_chunk_overlap=2.2e-5)), "raw_records")
    cut = end - 1000
    crosses = (records["time"] < cut) & (strax.endtime(records) > cut)
    assert len(kept) == (~crosses).sum()
    assert len(records) - len(kept) == 2
    assert (kept["time"][-1] > START * 1_000_000_000 + cut) == (until == 0)


def test_only_record_of_an_overlap_is_kept(tmp_path):
    """The gap before the first record of an overlap is one to cut in."""
    records = pulses([LENGTH + OVERLAP - 1500])
    for n_chunks in (1, 2):
        folder = tmp_path / str(n_chunks)
        write_run(folder, records, n_chunks)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ArtificialDeadtimeInserted)
            assert len(load(context(folder), "raw_records")) == 1


def test_what_is_being_written_is_not_touched(tmp_path):
    """A directory in _TEMP, however complete it looks, is not there; nor is an incomplete one."""
    run_dir = write_run(tmp_path, pulses([1_000_000]), 1, TWO_HOSTS, end=False)
    st = context(tmp_path, document=rundoc(TWO_HOSTS))
    reader = st.get_single_plugin(RUN_ID, "raw_records")
    reader.input_timeout = 0.3
    assert reader.is_ready(0)
    (run_dir / "000000").rename(run_dir / "000000_TEMP")
    with pytest.raises(exceptions.LiveDataTimeout, match="no complete chunk 0"):
        reader.is_ready(0)
    (run_dir / "000000_TEMP").rename(run_dir / "000000")
    redax.list_files(run_dir / "000000_post")[0].unlink()
    with pytest.raises(TimeoutError, match=r"after 0\.3 s"):
        reader.is_ready(0)
    # After the end of the run an incomplete directory is an error
    redax.write_end(run_dir, TWO_HOSTS)
    with pytest.raises(exceptions.LiveDataIncomplete, match="000000_post"):
        reader.is_ready(0)
    reader.config["allow_incomplete"], reader.missing_live_data = True, []
    assert reader.is_ready(0)
    assert not reader.is_ready(1)
    assert reader.source_finished()


def test_overlap_is_read_from_either_copy(tmp_path):
    """_post of a chunk and _pre of the next are the same: one of them is enough."""
    times = np.arange(1, 109) * 100_000_000
    run_dir = write_run(tmp_path, pulses(times), 2)
    shutil.rmtree(run_dir / "000001_pre")
    assert len(load(context(tmp_path), "raw_records")) == len(times)
    shutil.rmtree(run_dir / "000000_post")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(exceptions.LiveDataCorrupted, match="000000_post.*000001_pre"):
        load(context(tmp_path), "raw_records")


def test_pre_of_the_first_chunk_is_ignored_with_a_warning(tmp_path, caplog):
    run_dir = write_run(tmp_path, pulses([1_000_000]))
    (run_dir / "000000_pre").mkdir()
    assert len(load(context(tmp_path), "raw_records")) == 1
    assert "000000_pre is ignored" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(("name", "data_type"), [("xams", None), ("xams_little", "aqmon")])
def test_artificial_dead_time(tmp_path, name, data_type, caplog):
    """Where there is no gap in an overlap, what crosses the cut is dropped, logged and marked."""
    dt = 10
    busy = np.arange(LENGTH, LENGTH + OVERLAP, 110 * dt)
    # Two channels, each half a record behind the other, leave no gap
    records = np.concatenate([pulses(busy, 0, dt=dt), pulses(busy[:-1] + 550, 1, dt=dt)])
    records = sort_by_time(records)
    write_run(tmp_path, records, 2)
    st = context(tmp_path, name)
    raw = "raw_records" if name == "xams" else "raw_records_v1730"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ArtificialDeadtimeInserted)
        kept = load(st, raw)
    assert any(issubclass(w.category, ArtificialDeadtimeInserted) for w in caught)
    assert "are dropped" in caplog.text
    cut = START * 1_000_000_000 + LENGTH + OVERLAP - 1000
    crossing = (records["time"] + START * 1_000_000_000 < cut) & (
        strax.endtime(records) + START * 1_000_000_000 > cut
    )
    assert 0 < crossing.sum() == len(records) - len(kept)
    if data_type is not None:
        marks = load(st, f"raw_records_{data_type}")
        assert marks["channel"].tolist() == [40, 40]
        assert marks["time"].tolist() == [cut - 1100, cut]
        assert strax.endtime(marks).tolist() == [cut, cut + 1000]


def test_last_fragments_may_end_beyond_their_interval(tmp_path):
    """At the end of an incomplete run without _post nothing sticks out of the last chunk."""
    run_dir = write_run(tmp_path, pulses([LENGTH - 500]))
    shutil.rmtree(run_dir / "000000_post")
    st = context(tmp_path, allow_incomplete=True)
    assert len(load(st, "raw_records")) == 1
    end = st.get_metadata(RUN_ID, "raw_records")["chunks"][-1]["end"]
    assert end == START * 1_000_000_000 + LENGTH - 500 + 1100


def test_several_threads_give_the_same(tmp_path):
    records = pulses(np.arange(1, 50) * 10_000_000, channels=range(5))
    write_run(tmp_path / "one", records)
    write_run(tmp_path / "three", records, threads=TWO_HOSTS, compressor="blosc")
    one = load(context(tmp_path / "one"), "raw_records")
    three = load(
        context(tmp_path / "three", document=rundoc(TWO_HOSTS, compressor="blosc")), "raw_records"
    )
    np.testing.assert_array_equal(one, three)
    assert one.dtype == RAW_DTYPE and len(one) == 49 * 5
