"""Helper threads of a job, and savers: reading ahead, writing, writes that fail."""

import json
import threading

import numpy as np
import pytest
import strax

from amstrax.strax_ext import plugin, storage
from amstrax.strax_ext.context import Context
from amstrax.strax_ext.plugin import HelperThreads
from amstrax.strax_ext.storage import CheckedBackend

WAIT = 60  # for what takes milliseconds, on a machine that stands still now and then


@pytest.fixture
def threads():
    threads = HelperThreads(1)
    yield threads
    threads.end()


def test_a_chunk_that_is_ahead_is_read_once(threads):
    read = []

    def reader(chunk_i):
        read.append((chunk_i, threading.current_thread()))
        return chunk_i * 10

    assert threads.take(0, reader) == 0
    threads.read_ahead(1, reader)
    threads.read_ahead(1, reader)
    assert threads.is_ahead(1)
    assert threads.take(1, reader) == 10
    assert not threads.is_ahead(1)
    assert [chunk_i for chunk_i, _ in read] == [0, 1]
    assert read[0][1] is threading.current_thread() is not read[1][1]


def test_what_goes_wrong_ahead_is_raised_when_it_is_taken(threads):
    def reader(chunk_i):
        raise ValueError(f"chunk {chunk_i} is damaged")

    threads.read_ahead(4, reader)
    with pytest.raises(ValueError, match="chunk 4 is damaged"):
        threads.take(4, reader)


def test_no_more_waits_to_be_written_than_may(threads, monkeypatch):
    monkeypatch.setattr(plugin, "MOST_WAITING", 1000)
    is_free, begun = threading.Event(), []

    def write(data):
        assert is_free.wait(WAIT)

    small, large = np.zeros(400, np.int8), np.zeros(5000, np.int8)
    for _ in range(2):
        threads.submit(write, data=small)

    def third():
        begun.append(threads.submit(write, data=large))

    other = threading.Thread(target=third)
    other.start()
    other.join(0.2)
    assert not begun
    is_free.set()
    other.join(WAIT)
    begun[0].result(WAIT)


def saver(tmp_path, **kwargs):
    backend = CheckedBackend()
    metadata = {"compressor": "lz4", "run_id": "0", "chunks": []}
    return backend.saver(str(tmp_path / "0-things-abc"), metadata | kwargs)


def chunk(i, n=5):
    data = np.zeros(n, dtype=strax.time_fields)
    data["time"] = i * 10 + np.arange(n)
    data["endtime"] = data["time"] + 1
    return strax.Chunk(
        start=i * 10,
        end=i * 10 + 10,
        data_type="things",
        data_kind="things",
        dtype=data.dtype,
        run_id="0",
        data=data,
    )


def metadata_in(folder):
    (path,) = folder.glob("*-metadata.json")
    return json.loads(path.read_text())


def test_metadata_is_the_same_with_a_thread_that_writes(tmp_path, threads):
    found = []
    for name, executor in (("1", None), ("2", threads)):
        made = saver(tmp_path / name)
        for i in range(3):
            made.save(chunk(i, n=5 * (i != 1)), i, executor)
        made.close()
        found.append(metadata_in(tmp_path / name / "0-things-abc"))
        del found[-1]["writing_started"], found[-1]["writing_ended"]
    assert found[0] == found[1]
    assert [("filesize" in c) for c in found[0]["chunks"]] == [True, False, True]
    assert list(tmp_path.rglob("*_temp")) == []


def test_metadata_names_the_first_chunks_at_once(tmp_path):
    """Of a live run nothing may follow for long."""
    made = saver(tmp_path)
    for i in range(3):
        made.save(chunk(i), i)
        assert len(metadata_in(tmp_path / "0-things-abc_temp")["chunks"]) == i + 1
    made.close()


def test_metadata_names_no_chunk_that_is_not_written_yet(tmp_path, monkeypatch, threads):
    is_free, save_file = threading.Event(), storage.save_file

    def slow(path, **kwargs):
        assert is_free.wait(WAIT)
        return save_file(path, **kwargs)

    monkeypatch.setattr(storage, "save_file", slow)
    made = saver(tmp_path)
    made.save(chunk(0), 0, threads)
    made.save(chunk(1), 1, threads)
    folder = tmp_path / "0-things-abc_temp"
    assert metadata_in(folder)["chunks"] == []
    is_free.set()
    made.close()
    assert len(metadata_in(tmp_path / "0-things-abc")["chunks"]) == 2


@pytest.fixture
def full_disk(monkeypatch):
    """Let writes fail, but not before this is set."""
    may_fail = threading.Event()

    def broken(path, **kwargs):
        assert may_fail.wait(WAIT)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "save_file", broken)
    return may_fail


def test_a_write_that_fails_ends_the_job_at_the_next(tmp_path, threads, full_disk):
    made = saver(tmp_path)
    made.save(chunk(0), 0, threads)
    (write,) = made._writes
    full_disk.set()
    assert isinstance(write.exception(WAIT), OSError)
    with pytest.raises(OSError, match="No space left"):
        made.save(chunk(1), 1, threads)


class Things(strax.Plugin):
    depends_on = ()
    provides = "things"
    dtype = strax.time_fields
    chunk_target_size_mb = 1e-4

    def source_finished(self):
        return True

    def is_ready(self, chunk_i):
        return chunk_i < 3

    def compute(self, chunk_i):
        return self.chunk(start=chunk_i * 10, end=chunk_i * 10 + 10, data=chunk(chunk_i).data)


def things_context(folder):
    return Context(storage=storage.DataDirectory(str(folder)), register=Things)


def test_a_write_that_fails_at_the_end_is_an_error(tmp_path, full_disk):
    full_disk.set()
    with pytest.raises(OSError, match="No space left"):
        things_context(tmp_path).make("0", "things", max_workers=2)
    (path,) = tmp_path.iterdir()
    assert "No space left" in metadata_in(path)["exception"]


@pytest.mark.parametrize("processor", ["default", "single_thread", "threaded_mailbox"])
@pytest.mark.parametrize("frontend", [strax.DataDirectory, storage.DataDirectory])
def test_every_processor_with_every_frontend_stores_the_same(tmp_path, processor, frontend):
    st = Context(storage=frontend(str(tmp_path)), register=Things)
    st.make("0", "things", processor=processor, max_workers=3)
    metadata = st.get_metadata("0", "things")
    assert metadata["chunk_target_size_mb"] == 1e-4
    assert [c["n"] for c in metadata["chunks"]] == [15]
    assert all(c["filesize"] for c in metadata["chunks"] if "filesize" in c)
    assert len(st.get_array("0", "things", progress_bar=False)) == 15


def test_several_targets_of_different_kinds_are_refused_as_by_strax(tmp_path):
    class Others(Things):
        provides = "others"
        data_kind = "others"

    st = things_context(tmp_path)
    st.register(Others)
    st.set_context_config({"timeout": 100, "allow_lazy": False})
    for kwargs in ({}, {"processor": "default"}, {"processor": plugin.Processor}):
        with pytest.raises(RuntimeError, match="Cannot automerge"):
            st.make("0", ("things", "others"), allow_multiple=True, **kwargs)
    assert list(tmp_path.iterdir()) == []


def test_helper_threads_end_with_the_iterator(tmp_path):
    before = set(threading.enumerate())
    chunks = things_context(tmp_path).get_iter("0", "things", max_workers=3, progress_bar=False)
    next(chunks)
    with pytest.raises(strax.OutsideException):
        chunks.close()
    assert set(threading.enumerate()) <= before
