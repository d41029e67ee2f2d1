"""Live data on disk: directories, readout threads, files and what can be wrong with them."""

from pathlib import Path

import blosc
import lz4.frame
import numpy as np
import pytest
import strax
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amstrax import redax
from amstrax.exceptions import InvalidOption, LiveDataCorrupted, LiveDataNotFound

# the same folder for all examples of a test is well: each overwrites its file
PROPERTY = settings(
    max_examples=50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
COMPRESSORS = ["lz4", "blosc"]
SAMPLES = 10
DTYPE = np.dtype(strax.raw_record_dtype(SAMPLES))
THREADS = {"xams-daq_reader_0": 2, "xams-daq_reader_1": 1}


def make_records(n=5):
    records = np.zeros(n, dtype=DTYPE)
    records["time"] = 1000 * np.arange(n) + 7
    records["channel"] = np.arange(n) % 3
    records["length"] = SAMPLES
    records["dt"] = 10
    records["data"] = np.random.default_rng(1).integers(-(2**15), 2**15, (n, SAMPLES))
    return records


def written(path, compressor, n=5):
    redax.write_file(path, make_records(n), compressor)
    return path.read_bytes()


def touch(directory, *names):
    directory.mkdir(exist_ok=True)
    for name in names:
        (directory / name).touch()
    return directory


def test_intervals_of_a_chunk():
    run = Path("/live/000123")
    pre, central, post = redax.chunk_intervals(run, 2, 5_000_000_000, 500_000_000)
    # chunk i covers [i (L + O), i (L + O) + L)
    assert pre == (run / "000002_pre", 10_500_000_000, 11_000_000_000)
    assert central == (run / "000002", 11_000_000_000, 16_000_000_000)
    assert post == (run / "000002_post", 16_000_000_000, 16_500_000_000)
    first = redax.chunk_intervals(run, 0, 100, 10)
    assert first.pre is None
    assert first.central == (run / "000000", 0, 100)
    assert first.post == (run / "000000_post", 100, 110)


@given(st.integers(0, 999_998), st.integers(1, 10**10), st.integers(1, 10**9))
@PROPERTY
def test_chunks_and_overlaps_follow_each_other(chunk_i, length, overlap):
    this, following = (
        redax.chunk_intervals(Path("run"), i, length, overlap) for i in (chunk_i, chunk_i + 1)
    )
    assert this.central.end - this.central.start == length
    assert this.post.start == this.central.end
    assert this.post.end - this.post.start == overlap
    # post of a chunk and pre of the next are the same data
    assert this.post[1:] == following.pre[1:]
    assert following.central.start == this.post.end


def test_require_run_dir(tmp_path):
    redax.require_run_dir(tmp_path)
    missing = tmp_path / "000123"
    with pytest.raises(LiveDataNotFound, match="000123") as error:
        redax.require_run_dir(missing)
    assert isinstance(error.value, FileNotFoundError)
    assert str(missing) in str(error.value)
    missing.touch()
    with pytest.raises(LiveDataNotFound, match="000123"):
        redax.require_run_dir(missing)


def test_list_files(tmp_path):
    assert redax.list_files(tmp_path) == []
    assert redax.list_files(tmp_path / "nowhere") == []
    touch(tmp_path, "b_2", "a_1", ".a_0.Xy12", "b_10")
    assert redax.list_files(tmp_path) == [tmp_path / name for name in ("a_1", "b_10", "b_2")]


def test_last_chunk(tmp_path):
    assert redax.last_chunk(tmp_path / "nowhere") == -1
    assert redax.last_chunk(tmp_path) == -1
    for name in ("000007_TEMP", "000006_pre", "000006_post", "THE_END", "12", "0000005", "x000009"):
        (tmp_path / name).mkdir()
    assert redax.last_chunk(tmp_path) == -1
    (tmp_path / "000000").mkdir()
    assert redax.last_chunk(tmp_path) == 0
    (tmp_path / "000003").mkdir()
    (tmp_path / "000001").mkdir()
    assert redax.last_chunk(tmp_path) == 3
    (tmp_path / "123456").mkdir()
    assert redax.last_chunk(tmp_path) == 123_456


def test_is_complete(tmp_path):
    chunk = tmp_path / "000000"
    assert not redax.is_complete(chunk, THREADS)
    touch(chunk, "xams-daq_reader_0_1", "xams-daq_reader_0_2")
    assert not redax.is_complete(chunk, THREADS)
    touch(chunk, ".xams-daq_reader_1_3.Ab3")  # rsync is still writing it
    assert not redax.is_complete(chunk, THREADS)
    touch(chunk, "xams-daq_reader_1_3")
    assert redax.is_complete(chunk, THREADS)


def test_run_has_ended(tmp_path):
    assert not redax.run_has_ended(tmp_path, THREADS)
    the_end = touch(tmp_path / "THE_END", "xams-daq_reader_0_1")
    assert not redax.run_has_ended(tmp_path, THREADS)
    touch(the_end, "xams-daq_reader_0_2", "xams-daq_reader_1_3")
    assert redax.run_has_ended(tmp_path, THREADS)


def test_expected_threads_pass():
    folder = Path("/live/1/000000")
    redax.check_threads([], THREADS)
    redax.check_threads([folder / "xams-daq_reader_0_140"], THREADS)
    names = ("xams-daq_reader_0_140", "xams-daq_reader_0_9", "xams-daq_reader_1_140")
    redax.check_threads([folder / name for name in names], THREADS)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("xams-daq_reader_2_140", "names xams-daq_reader_0, xams-daq_reader_1"),
        ("xams-daq_reader_0", "readout thread that this run does not have"),
        ("core", "readout thread that this run does not have"),
        ("xams-daq_reader_1_141", r"xams-daq_reader_1 has 1 thread\(s\)"),
    ],
)
def test_unexpected_threads_are_named(name, says):
    files = [Path("/live/1/000000") / n for n in ("xams-daq_reader_1_140", name)]
    with pytest.raises(LiveDataCorrupted, match=says) as error:
        redax.check_threads(files, THREADS)
    assert isinstance(error.value, ValueError)
    assert str(files[1]) in str(error.value)
    with pytest.raises(LiveDataCorrupted, match="names none"):
        redax.check_threads(files, {})


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("n", [0, 1, 5, 3000])
def test_round_trip(tmp_path, compressor, n):
    path = tmp_path / "file"
    blob = written(path, compressor, n)
    assert 0 < len(blob) < 1000 + make_records(n).nbytes
    records = redax.read_file(path, compressor, DTYPE)
    np.testing.assert_array_equal(records, make_records(n))
    assert records.dtype == DTYPE
    if n:
        records["time"] = 0  # an array of its own, that can be written to
        np.testing.assert_array_equal(redax.read_file(path, compressor, DTYPE), make_records(n))


@pytest.mark.parametrize("compressor", COMPRESSORS)
@PROPERTY
@given(data=arrays(np.int16, st.tuples(st.integers(0, 9), st.just(SAMPLES))))
def test_round_trip_of_any_data(tmp_path, compressor, data):
    records = make_records(len(data))
    records["data"] = data
    redax.write_file(tmp_path / "file", records, compressor)
    np.testing.assert_array_equal(redax.read_file(tmp_path / "file", compressor, DTYPE), records)


def test_a_part_of_an_array_is_written(tmp_path):
    every_other = make_records(6)[::2]
    redax.write_file(tmp_path / "file", every_other, "lz4")
    np.testing.assert_array_equal(redax.read_file(tmp_path / "file", "lz4", DTYPE), every_other)


def test_fragments_lie_in_the_file_as_redax_writes_them(tmp_path):
    # time, length, dt, channel, pulse_length, record_i, baseline; then samples; no separator
    fragment = b"".join(
        value.to_bytes(size, "little", signed=True)
        for value, size in ((2**40, 8), (9, 4), (10, 2), (3, 2), (19, 4), (1, 2), (-5, 2))
    )
    fragment += b"".join(x.to_bytes(2, "little", signed=True) for x in range(-5, 5))
    path = tmp_path / "file"
    path.write_bytes(lz4.frame.compress(fragment * 2))
    records = redax.read_file(path, "lz4", DTYPE)
    assert records.shape == (2,)
    assert records[1].tolist()[:7] == (2**40, 9, 10, 3, 19, 1, -5)
    assert records[1]["data"].tolist() == list(range(-5, 5))


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_empty_file_is_a_thread_without_data(tmp_path, compressor):
    path = tmp_path / "file"
    path.touch()
    records = redax.read_file(path, compressor, DTYPE)
    assert records.shape == (0,)
    assert records.dtype == DTYPE


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_truncated_anywhere(tmp_path, compressor):
    path = tmp_path / "file"
    blob = written(path, compressor)
    assert len(blob) > 100
    for size in range(1, len(blob)):
        path.write_bytes(blob[:size])
        with pytest.raises(LiveDataCorrupted) as error:
            redax.read_file(path, compressor, DTYPE)
        assert isinstance(error.value, ValueError)
        assert f"{path} ({size} bytes)" in str(error.value)
        assert compressor in str(error.value)


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("garbage", [b"\0", b"\0" * 100, b"\xff" * 100, b"<html>404</html>" * 9])
def test_garbage(tmp_path, compressor, garbage):
    path = tmp_path / "file"
    path.write_bytes(garbage)
    with pytest.raises(LiveDataCorrupted, match="cannot be decompressed"):
        redax.read_file(path, compressor, DTYPE)


def test_of_the_other_compressor(tmp_path):
    path = tmp_path / "file"
    for is_, called in (COMPRESSORS, COMPRESSORS[::-1]):
        written(path, is_)
        with pytest.raises(LiveDataCorrupted, match=f"cannot be decompressed as {called}"):
            redax.read_file(path, called, DTYPE)


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_wrong_size_of_fragments(tmp_path, compressor):
    path = tmp_path / "file"
    written(path, compressor, 5)  # of 24 + 20 bytes
    with pytest.raises(LiveDataCorrupted) as error:
        redax.read_file(path, compressor, np.dtype(strax.raw_record_dtype(110)))
    for part in (str(path), "220 bytes", "244 bytes", "strax_fragment_payload_bytes"):
        assert part in str(error.value)
    assert str(error.value).endswith("is not 220")


@pytest.mark.parametrize("compressor", ["zstd", "", "LZ4", None])
def test_unknown_compressor(tmp_path, compressor):
    path = tmp_path / "file"
    written(path, "lz4")
    with pytest.raises(InvalidOption, match="lz4, blosc") as error:
        redax.read_file(path, compressor, DTYPE)
    assert repr(compressor) in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        redax.read_file(tmp_path / "nowhere", "lz4", DTYPE)


@pytest.mark.parametrize("position", [0, 2, 8, 20])
def test_damaged_blosc_file_is_refused(tmp_path, position):
    """blosc_extension.error is neither a RuntimeError nor a ValueError, so it comes through."""
    blob = bytearray(blosc.compress(bytes(500), shuffle=blosc.NOSHUFFLE))
    blob[position] ^= 0xFF
    (tmp_path / "file").write_bytes(blob)
    with pytest.raises(LiveDataCorrupted, match="file"):
        redax.read_file(tmp_path / "file", "blosc", DTYPE)


def test_damaged_blosc_header_is_refused(tmp_path):
    """The header says 2**31 bytes of data: blosc raises, in the end, a SystemError."""
    blob = bytearray(blosc.compress(bytes(500), shuffle=blosc.NOSHUFFLE))
    blob[4:8] = (2**31).to_bytes(4, "little")
    (tmp_path / "file").write_bytes(blob)
    with pytest.raises(LiveDataCorrupted, match="file"):
        redax.read_file(tmp_path / "file", "blosc", DTYPE)


def test_bytes_behind_an_lz4_frame_are_not_passed_over(tmp_path):
    """Records of a second frame, or damage, vanish without a word; blosc files are refused."""
    frame = lz4.frame.compress(np.zeros(2, dtype=DTYPE).tobytes())
    (tmp_path / "file").write_bytes(frame + frame)
    with pytest.raises(LiveDataCorrupted, match="file"):
        redax.read_file(tmp_path / "file", "lz4", DTYPE)


def test_write_file_names_unknown_compressor_as_read_file_does(tmp_path):
    with pytest.raises(InvalidOption, match="zstd"):
        redax.write_file(tmp_path / "file", np.zeros(2, dtype=DTYPE), "zstd")
