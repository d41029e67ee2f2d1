"""Live data of an ended run that lacks something: an error, or with --allow_incomplete a record.

Real run 999999: three chunks with one file each, of 25044, 18995 and 18479 fragments; overlaps of
2065, 1825 and 1932.
"""

import json
import shutil

import numpy as np
import pytest
import strax
from make_jobs import SHORT, add_run, copy_run
from make_runs import LENGTH, OVERLAP, RAW_DTYPE, RUN_ID, context, load, pulses, rundoc, write_run

from amstrax import contexts, redax
from amstrax.auto_processing import amstraxer, auto_processing, process_run, submit_stbc, submitting
from amstrax.commands import gains
from amstrax.exceptions import LiveDataCorrupted, LiveDataIncomplete, LiveDataTimeout
from amstrax.rundb import documents
from amstrax.rundb.frontend import new_entry
from amstrax.rundoc import MISSING_LIVE_DATA
from amstrax.strax_ext.storage import DataDirectory

REAL = "999999"
RAW = "raw_records_v1730"
ALL = 68_340
TWO_HOSTS = {"host_a_reader_0": 2, "host_b_reader_0": 1}


@pytest.fixture
def real(tmp_path, shared):
    """A copy of run 999999."""
    run_dir = tmp_path / "live" / REAL
    shutil.copytree(shared / "data/live_data" / REAL, run_dir)
    for path in (run_dir, *run_dir.rglob("*")):
        path.chmod(0o755)
    return run_dir


@pytest.fixture
def process(real, shared, tmp_path, capsys):
    """Process the copy with amstraxer; return exit status, what it logs, and number of records."""

    def run(*more, target=RAW, out="out"):
        status = amstraxer.main(
            [
                REAL,
                "--context=xams_little",
                f"--target={target}",
                f"--live_data_dir={real.parent}",
                f"--testing_rundoc={shared / 'data/rundoc_999999.json'}",
                f"--output_folder={tmp_path / out}",
                '--context_kwargs={"init_rundb": false}',
                "--no-progress",
                *more,
            ]
        )
        text = capsys.readouterr().err
        st = contexts.xams_little(storage=[DataDirectory(str(tmp_path / out))])
        n = len(st.get_array(REAL, RAW, progress_bar=False)) if st.is_stored(REAL, RAW) else None
        return status, text, n

    return run


def file_of(directory):
    [path] = redax.list_files(directory)
    return path


def metadata(tmp_path, data_type=RAW, run_id=REAL):
    """Return the metadata of a data type, read from its file."""
    [path] = (tmp_path / "out").glob(f"{run_id}-{data_type}-*/*-metadata.json")
    return json.loads(path.read_text())


def rewrite(path, change):
    """Change the records in a file."""
    records = redax.read_file(path, "lz4", RAW_DTYPE)
    redax.write_file(path, change(records), "lz4")


def remove_file(run_dir):
    file_of(run_dir / "000001").unlink()


def remove_folder(run_dir):
    shutil.rmtree(run_dir / "000001")


def cut_to_nothing(run_dir):
    file_of(run_dir / "000001").write_bytes(b"")


def remove_last_folder(run_dir):
    shutil.rmtree(run_dir / "000002")


def remove_last_post(run_dir):
    shutil.rmtree(run_dir / "000002_post")


def remove_file_of_last_post(run_dir):
    file_of(run_dir / "000002_post").unlink()


def cut_last_post(run_dir):
    file_of(run_dir / "000002_post").write_bytes(b"")


def remove_both_copies(run_dir):
    file_of(run_dir / "000000_post").unlink()
    shutil.rmtree(run_dir / "000001_pre")


def cut_both_copies(run_dir):
    for name in ("000000_post", "000001_pre"):
        file_of(run_dir / name).write_bytes(b"")


def remove_all_but_pre(run_dir):
    """Nothing but the run document tells that the last chunk existed."""
    remove_last_folder(run_dir)
    remove_last_post(run_dir)


def leave_temporary(run_dir):
    """As redax leaves it in a crash."""
    (run_dir / "000002").rename(run_dir / "000002_TEMP")


def link_to_nowhere(run_dir):
    path = file_of(run_dir / "000002_post")
    path.unlink()
    path.symlink_to(run_dir / "nowhere")


def directory_for_file(run_dir):
    path = file_of(run_dir / "000001")
    path.unlink()
    path.mkdir()


def file_for_folder(run_dir):
    remove_folder(run_dir)
    (run_dir / "000001").touch()


DAMAGE = {
    remove_file: ("000001", ALL - 18995),
    remove_folder: ("000001", ALL - 18995),
    cut_to_nothing: ("000001", ALL - 18995),
    remove_last_folder: ("000002", ALL - 18479),
    leave_temporary: ("000002", ALL - 18479),
    remove_last_post: ("000002_post", ALL - 1932),
    remove_file_of_last_post: ("000002_post", ALL - 1932),
    cut_last_post: ("000002_post", ALL - 1932),
    remove_both_copies: ("000000_post", ALL - 2065),
    cut_both_copies: ("000000_post", ALL - 2065),
    link_to_nowhere: ("000002_post", ALL - 1932),
    directory_for_file: ("000001", ALL - 18995),
    file_for_folder: ("000001", ALL - 18995),
    remove_all_but_pre: ("000002", ALL - 18479 - 1932),
}
damaged = pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)


def test_the_whole_run(process):
    status, text, n = process()
    assert (status, n) == (0, ALL)
    # The run document is that of 20 minutes, of which the live data is the beginning
    assert "run document says 1200.4 s: are later chunks missing?" in text
    assert "copy" not in text


@damaged
@pytest.mark.parametrize("workers", [1, 2])
def test_incomplete_run_is_refused(process, real, damage, workers):
    damage(real)
    folder, _ = DAMAGE[damage]
    name = redax.list_files(real / redax.THE_END)[0].name
    status, text, n = process(f"--workers={workers}")
    assert (status, n) == (1, None)
    [line] = [line for line in text.splitlines() if "ERROR" in line]
    assert str(real / folder) in line and "--allow_incomplete" in line
    assert name in line or not list((real / folder).glob("*"))


@damaged
def test_incomplete_run_is_refused_in_python(real, shared, tmp_path, damage):
    damage(real)
    st = contexts.xams_little(
        output_folder=tmp_path / "out", init_rundb=False, config={"live_data_dir": str(real.parent)}
    )
    document = json.loads((shared / "data/rundoc_999999.json").read_text())
    contexts.context_for_daq_reader(st, REAL, run_doc=document)
    for keywords in ({}, {"max_workers": 2}, {"processor": "single_thread"}):
        with pytest.raises(LiveDataIncomplete, match=str(real / DAMAGE[damage][0])):
            st.get_array(REAL, RAW, progress_bar=False, **keywords)
        assert not st.is_stored(REAL, RAW)


@damaged
@pytest.mark.parametrize("workers", [1, 2])
def test_incomplete_run_is_allowed(process, real, tmp_path, damage, workers):
    damage(real)
    folder, expected = DAMAGE[damage]
    target = "radon_peaks" if workers == 1 else RAW
    status, text, n = process("--allow_incomplete", f"--workers={workers}", target=target)
    # Pulses that cross the end of the missing interval lose their first fragments: no peaks then
    assert (status, n) == (0, expected)
    assert str(real / folder) in text and "WARNING" in text
    for data_type in (RAW, "raw_records_aqmon", target):
        found = metadata(tmp_path, data_type)
        assert any(str(real / folder) in missing for missing in found[MISSING_LIVE_DATA])
        starts, ends = ([chunk[key] for chunk in found["chunks"]] for key in ("start", "end"))
        assert starts[1:] == ends[:-1]


@pytest.mark.parametrize("target", [RAW, "radon_peaks"])
def test_what_other_processes_find_is_recorded(real, shared, tmp_path, target):
    cut_to_nothing(real)
    config = {"live_data_dir": str(real.parent), "allow_incomplete": True}
    st = contexts.xams_little(output_folder=tmp_path / "out", init_rundb=False, config=config)
    document = json.loads((shared / "data/rundoc_999999.json").read_text())
    contexts.context_for_daq_reader(st, REAL, run_doc=document)
    st.set_context_config({"allow_multiprocess": True})
    st.get_array(REAL, target, max_workers=2, processor="threaded_mailbox", progress_bar=False)
    for data_type in (RAW, target):
        missing = st.get_metadata(REAL, data_type)[MISSING_LIVE_DATA]
        assert any(f"{real / '000001'}/" in text and "0 bytes" in text for text in missing)


def test_nothing_is_recorded_of_a_complete_run(process, tmp_path):
    assert process()[0] == 0
    before = metadata(tmp_path)
    assert MISSING_LIVE_DATA not in before
    assert process("--allow_incomplete", out="other")[::2] == (0, ALL)
    [path] = (tmp_path / "other").glob(f"{REAL}-{RAW}-*/*-metadata.json")
    after = json.loads(path.read_text())
    # All that is missing is what the document says of the run's end
    [missing] = after[MISSING_LIVE_DATA]
    assert "1200.4 s" in missing
    assert after["lineage"] == before["lineage"]


def test_data_made_later_from_incomplete_raw_data_says_so(process, real, tmp_path):
    remove_folder(real)
    assert process("--allow_incomplete")[0] == 0
    shutil.rmtree(real)
    assert process(target="radon_peaks")[0] == 0
    assert (
        metadata(tmp_path, "radon_peaks")[MISSING_LIVE_DATA]
        == (metadata(tmp_path)[MISSING_LIVE_DATA])
    )


@pytest.mark.parametrize("bad", ["000000_post", "000001_pre"])
@pytest.mark.parametrize(
    "how",
    [
        "no folder",
        "file for folder",
        "no file",
        "no link",
        "0 bytes",
        "truncated",
        "garbage",
        "impossible",
        "elsewhere",
    ],
)
def test_the_other_copy_is_used(process, real, bad, how):
    path, other = (file_of(real / name) for name in (bad, "000001_pre"))
    if bad == other.parent.name:
        other = file_of(real / "000000_post")
    if how in ("no folder", "file for folder"):
        shutil.rmtree(path.parent)
        if how == "file for folder":
            path.parent.touch()
    elif how in ("no file", "no link"):
        path.unlink()
        if how == "no link":
            path.symlink_to(real / "nowhere")
    elif how == "0 bytes":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif how == "garbage":
        path.write_bytes(b"nothing of the kind")
    else:
        field = "pulse_length" if how == "impossible" else "time"
        records = redax.read_file(path, "lz4", RAW_DTYPE).copy()
        records[field][7] = -1
        redax.write_file(path, records, "lz4")
    status, text, n = process()
    assert (status, n) == (0, ALL)
    [line] = {line[21:] for line in text.splitlines() if "is used" in line}
    assert "WARNING" in line and f"copy {other} is used" in line and str(path) in line


@pytest.mark.parametrize("bad", ["000000_post", "000001_pre"])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("allow", [[], ["--allow_incomplete"]])
def test_copies_that_differ_are_refused(process, real, bad, workers, allow):
    path = file_of(real / bad)
    rewrite(path, lambda records: records[:-1])
    status, text, n = process(f"--workers={workers}", *allow)
    assert (status, n) == (1, None)
    [line] = [line for line in text.splitlines() if "ERROR" in line]
    assert str(real) in line and "000000_post" in line and "000001_pre" in line


def test_copies_that_differ_in_one_sample_are_refused(process, real):
    def change(records):
        records["data"][3, 5] += 1
        return records

    rewrite(file_of(real / "000001_pre"), change)
    status, text, _ = process()
    assert status == 1 and "differ" in text


def test_copies_in_another_order_are_the_same(process, real):
    rewrite(file_of(real / "000001_pre"), lambda records: records[::-1])
    assert process()[::2] == (0, ALL)


def test_both_copies_are_damaged(process, real):
    for name in ("000000_post", "000001_pre"):
        file_of(real / name).write_bytes(b"nothing of the kind")
    status, text, _ = process("--allow_incomplete")
    assert status == 1 and "000000_post" in text and "cannot be decompressed" in text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("length", 0),
        ("length", -1),
        ("length", 109),
        ("pulse_length", 0),
        ("pulse_length", -1),
        ("record_i", -1),
        ("record_i", 5),
        ("channel", -1),
        ("dt", 0),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_impossible_headers(process, real, field, value, workers):
    def change(records):
        records[field][100] = value
        return records

    path = file_of(real / "000001")
    time = redax.read_file(path, "lz4", RAW_DTYPE)["time"][100]
    rewrite(path, change)
    status, text, n = process(f"--workers={workers}", "--allow_incomplete")
    assert (status, n) == (1, None)
    [line] = [line for line in text.splitlines() if "ERROR" in line]
    assert str(path) in line and f"at {time} ns" in line and f"{field} {value}" in line


# Several threads


def quiet_threads(run_dir, thread):
    """Let all files of a readout thread have 0 bytes, as redax writes them without data."""
    for path in run_dir.glob(f"0*/{thread}"):
        path.write_bytes(b"")


@pytest.fixture
def busy(tmp_path):
    """A run of three threads with a pulse every 10 ms in three channels, one a thread."""
    times = np.arange(1, 2 * (LENGTH + OVERLAP) // 10_000_000) * 10_000_000
    records = pulses(times, channels=range(3))
    return write_run(tmp_path, records, 2, TWO_HOSTS), len(times)


def names(run_dir):
    return [path.name for path in redax.list_files(run_dir / "000000")]


def test_thread_without_data(tmp_path, busy):
    """Files of 0 bytes are right for a thread without data, as redax writes them."""
    run_dir, n_pulses = busy
    quiet_threads(run_dir, names(run_dir)[1])
    found = load(context(tmp_path, document=rundoc(TWO_HOSTS)), "raw_records")
    assert len(found) == 2 * n_pulses


@pytest.mark.parametrize("folder", ["000000", "000001", "000001_post"])
@pytest.mark.parametrize("thread", range(3))
def test_one_file_of_0_bytes(tmp_path, busy, folder, thread):
    run_dir, _ = busy
    path = run_dir / folder / names(run_dir)[thread]
    path.write_bytes(b"")
    with pytest.raises(LiveDataIncomplete, match=f"{path} has 0 bytes"):
        load(context(tmp_path, document=rundoc(TWO_HOSTS)), "raw_records")


@pytest.mark.parametrize("folder", ["000000", "000001", "000001_post"])
def test_all_files_of_0_bytes(tmp_path, busy, folder):
    run_dir, _ = busy
    for path in redax.list_files(run_dir / folder):
        path.write_bytes(b"")
    with pytest.raises(LiveDataIncomplete, match=f"{run_dir / folder}/host_a.* has 0 bytes"):
        load(context(tmp_path, document=rundoc(TWO_HOSTS)), "raw_records")


def test_quiet_overlap(tmp_path):
    """At a low rate an overlap may have no data in either copy."""
    times = np.arange(1, 8) * 600_000_000
    run_dir = write_run(tmp_path, pulses(times), 2)
    for name in ("000000_post", "000001_pre", "000001_post"):
        file_of(run_dir / name).write_bytes(b"")
    for name in ("000001", "000000"):
        redax.write_file(file_of(run_dir / name), pulses(times + 5_500_000_000 * int(name)), "lz4")
    assert len(load(context(tmp_path), "raw_records")) == 2 * len(times)


@pytest.mark.parametrize("folder", ["000000", "000001", "000001_post"])
@pytest.mark.parametrize("thread", range(3))
def test_fewer_files_than_threads(tmp_path, busy, folder, thread):
    run_dir, _ = busy
    path = run_dir / folder / names(run_dir)[thread]
    path.unlink()
    with pytest.raises(LiveDataIncomplete, match=f"{run_dir / folder} .*{path.name}"):
        load(context(tmp_path, document=rundoc(TWO_HOSTS)), "raw_records")


def test_a_file_of_each_copy(tmp_path, busy, caplog):
    """Each copy lacks another file: together they are complete."""
    run_dir, n_pulses = busy
    first, second, _ = names(run_dir)
    (run_dir / "000000_post" / first).unlink()
    (run_dir / "000001_pre" / second).write_bytes(b"")
    assert len(load(context(tmp_path, document=rundoc(TWO_HOSTS)), "raw_records")) == 3 * n_pulses
    assert str(run_dir / "000001_pre" / first) in caplog.text
    assert str(run_dir / "000000_post" / second) in caplog.text


def test_redax_leaves_pre_of_the_next_chunk_and_empty_temporary_folders(tmp_path, caplog):
    """redax writes the ``_pre`` of a chunk that may never come, and leaves folders it wrote to."""
    times = np.arange(1, 105) * 100_000_000
    run_dir = write_run(tmp_path, pulses(times), 2)
    shutil.copytree(run_dir / "000001_post", run_dir / "000002_pre")
    for name in ("000001_temp", "000002_pre_temp", "000002_TEMP"):
        (run_dir / name).mkdir()
    document = rundoc() | {"end": {"$date": "2024-01-02T03:04:16Z"}}
    assert len(load(context(tmp_path, document=document), "raw_records")) == len(times)
    assert not caplog.text


def test_pre_of_a_chunk_that_the_run_document_requires(tmp_path):
    run_dir = write_run(tmp_path, pulses([1_000_000]), 2)
    shutil.copytree(run_dir / "000001_post", run_dir / "000002_pre")
    document = rundoc() | {"end": {"$date": "2024-01-02T03:04:25Z"}}
    with pytest.raises(LiveDataIncomplete, match="chunk 2 is missing"):
        load(context(tmp_path, document=document), "raw_records")


def test_incomplete_end(tmp_path, busy):
    """Without all files of THE_END the run has not ended, until the timeout."""
    run_dir, n_pulses = busy
    path = run_dir / redax.THE_END / names(run_dir)[2]
    path.unlink()
    (run_dir / "000001" / path.name).unlink()
    st = context(tmp_path, document=rundoc(TWO_HOSTS))
    reader = st.get_single_plugin(RUN_ID, "raw_records")
    reader.input_timeout = 0.1
    assert reader.is_ready(0)
    with pytest.raises(LiveDataTimeout, match=rf"THE_END .*{path.name}.*--allow_incomplete"):
        reader.is_ready(1)
    reader.config["allow_incomplete"], reader.missing_live_data = True, []
    assert reader.is_ready(1)
    assert not reader.is_ready(2)
    assert [str(path.parent) in text for text in reader.missing_live_data] == [True, False]
    assert str(run_dir / "000001") in reader.missing_live_data[1]


def test_overlap_of_0_bytes_waits_for_its_copy(tmp_path):
    """While a run is taken, the copy tells whether a file of 0 bytes is right."""
    run_dir = write_run(tmp_path, pulses([LENGTH + 1000]), 1, end=False)
    content = file_of(run_dir / "000000_post").read_bytes()
    file_of(run_dir / "000000_post").write_bytes(b"")
    reader = context(tmp_path).get_single_plugin(RUN_ID, "raw_records")
    reader.input_timeout = 0.1
    with pytest.raises(LiveDataTimeout):
        reader.is_ready(0)
    (run_dir / "000001_pre").mkdir()
    (run_dir / "000001_pre" / file_of(run_dir / "000000_post").name).write_bytes(content)
    assert reader.is_ready(0)
    assert len(reader.compute(0)["raw_records"]) == 1


def test_file_of_another_run_in_a_copy(tmp_path, busy):
    run_dir, _ = busy
    shutil.copy(
        run_dir / "000001" / names(run_dir)[0], run_dir / "000000_post/elsewhere_reader_0_1"
    )
    with pytest.raises(LiveDataCorrupted, match="elsewhere_reader_0_1"):
        load(context(tmp_path, document=rundoc(TWO_HOSTS)), "raw_records")


# The tools


def test_process_run(runs, live_runs, tmp_path):
    """The run database says what is wrong, and with the option what was missing."""
    folder = copy_run(live_runs, tmp_path / "copy")
    run_dir = folder / SHORT
    add_run(runs, live_runs)
    shutil.rmtree(run_dir / "000000")
    arguments = [SHORT, "--target=peaks", f"--output_folder={tmp_path / 'out'}"]
    arguments += [f"--live_data_dir={folder}", "--no-progress"]
    for workers in ("--workers=1", "--workers=2"):
        assert process_run.main([*arguments, workers]) == 1
        status = documents.status_of(documents.find_run(runs, SHORT))
        assert status.status == "failed" and str(run_dir / "000000") in status.reason
    assert process_run.main([*arguments, "--allow_incomplete"]) == 0
    document = documents.find_run(runs, SHORT)
    assert documents.status_of(document).status == "done"
    entries = [entry for entry in document["data"] if entry["type"] != "live"]
    assert {"raw_records", "peaks"} <= {entry["type"] for entry in entries}
    for entry in entries:
        [missing] = entry[MISSING_LIVE_DATA]
        assert str(run_dir / "000000") in missing
        assert metadata(tmp_path, entry["type"], SHORT)[MISSING_LIVE_DATA] == [missing]


def test_entries_are_short(tmp_path):
    key = strax.DataKey(REAL, "peaks", {"peaks": ("Peaks", "0", {})})
    (tmp_path / str(key)).mkdir()
    missing = [f"chunk {i}" for i in range(25)]
    entry = new_entry(key, tmp_path, {MISSING_LIVE_DATA: missing})
    assert entry[MISSING_LIVE_DATA] == [*missing[:20], "and 5 more, see the metadata"]
    assert MISSING_LIVE_DATA not in new_entry(key, tmp_path, {MISSING_LIVE_DATA: []})


def test_jobs_get_the_option(tmp_path):
    folders = {"job_folder": tmp_path, "log_folder": tmp_path}
    processing = amstraxer.ProcessingOptions(("peaks",), allow_incomplete=True)
    work = submitting.make_job_template(processing, **folders)
    options, left_out = work.options_for(work.plan)
    assert "--allow_incomplete" in options and not left_out
    assert process_run.parse_args([SHORT, *options]).allow_incomplete
    processing = amstraxer.ProcessingOptions(("peaks",))
    work = submitting.make_job_template(processing, **folders)
    assert not process_run.parse_args([SHORT, *work.options_for(work.plan)[0]]).allow_incomplete
    for tool in (submit_stbc, auto_processing):
        for options in ([], ["--allow_incomplete"]):
            work = submit_stbc.find_work(tool.parse_args(["--target=peaks", *options]))
            assert ("--allow_incomplete" in work.options_for(work.plan)[0]) == bool(options)
            args = gains.parse_args([SHORT, *options])
            assert args.allow_incomplete == bool(options)
