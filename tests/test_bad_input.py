"""Bad input, each with one clear line: which file or value, and what to do."""

import resource
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from make_runs import LENGTH, RAW_DTYPE, RUN_ID, THREADS, options, pulses, rundoc, write_run

from amstrax import redax
from amstrax.auto_processing import amstraxer


@pytest.fixture
def fails(tmp_path, capsys):
    """Run amstraxer; return the one line in which it says why it failed."""

    def run(*more, status=1, document=None, run_id=RUN_ID):
        arguments = options(tmp_path, *more, document=document, run_id=run_id)
        try:
            found = amstraxer.main(arguments)
        except SystemExit as error:
            found = error.code
        text = capsys.readouterr().err
        assert found == status, text
        assert "Traceback" not in text
        lines = [line for line in text.splitlines() if "ERROR" in line or "error:" in line]
        assert len(lines) == 1, text
        # Nothing that looks complete, and nothing half-written, is left
        if (tmp_path / "out").is_dir():
            assert not [p.name for p in (tmp_path / "out").iterdir() if p.name.endswith("_temp")]
            assert not list((tmp_path / "out").glob(f"{RUN_ID}-peaks-*"))
        return lines[0]

    return run


def first_file(run_dir, directory="000000"):
    return redax.list_files(run_dir / directory)[0]


@pytest.mark.parametrize("compressor", ["lz4", "blosc"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "half a fragment"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_damaged_live_file(tmp_path, fails, compressor, damage, workers):
    run_dir = write_run(tmp_path, pulses([1_000_000] * 1, range(5)), 2, compressor=compressor)
    path = first_file(run_dir, "000001")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-5])
    elif damage == "garbage":
        path.write_bytes(np.random.default_rng(0).bytes(1000))
    else:
        half = np.zeros(RAW_DTYPE.itemsize // 2, dtype=np.uint8)
        redax.write_file(path, half, compressor)
    line = fails("--workers", workers, document=rundoc(compressor=compressor))
    assert str(path) in line
    assert "copy it again" in line or "strax_fragment_payload_bytes" in line


def test_damaged_file_is_named_whatever_the_target(tmp_path, fails):
    run_dir = write_run(tmp_path, pulses([1_000_000], range(5)), 2)
    path = first_file(run_dir, "000001")
    path.write_bytes(b"nothing of the kind")
    for workers in ("1", "2"):
        assert str(path) in fails("--target", "event_info", "--workers", workers)


def test_nonsense_in_a_fragment(tmp_path, fails):
    records = pulses([1_000_000])
    records["length"] = 111
    path = first_file(write_run(tmp_path, records))
    line = fails()
    assert str(path) in line and "111" in line


def test_file_of_an_unknown_thread(tmp_path, fails):
    run_dir = write_run(tmp_path, pulses([1_000_000]))
    stranger = run_dir / "000000" / "elsewhere_reader_7_123"
    shutil.copy(first_file(run_dir), stranger)
    line = fails()
    assert str(stranger) in line and "xams-daq_reader_0" in line


def test_too_many_files(tmp_path, fails):
    run_dir = write_run(tmp_path, pulses([1_000_000]))
    shutil.copy(first_file(run_dir), run_dir / "000000" / "xams-daq_reader_0_9")
    line = fails()
    assert "xams-daq_reader_0_" in line and "1 thread" in line


def test_fragments_outside_their_interval(tmp_path, fails):
    run_dir = write_run(tmp_path, pulses([1_000_000]))
    path = first_file(run_dir)
    redax.write_file(path, pulses([LENGTH]), "lz4")
    line = fails()
    assert str(path) in line and str(LENGTH) in line and "strax_chunk_length" in line


def test_unknown_channel(tmp_path, fails):
    write_run(tmp_path, pulses([1_000_000], channels=[0, 17]))
    line = fails()
    assert "[17]" in line and "channel_map" in line


def test_overlapping_pulses(tmp_path, fails):
    write_run(tmp_path, np.sort(np.concatenate([pulses([10_000_000]), pulses([10_000_500])])))
    line = fails("--target", "records")
    assert "channel 0 at 1704164645010000500 ns" in line
    assert "check_raw_record_overlaps" in line


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_failure_does_not_wait_for_live_data(tmp_path, fails, workers):
    """While the run is still being taken, a failure anywhere ends the job, not after --timeout."""
    records = np.sort(np.concatenate([pulses([10_000_000]), pulses([10_000_500])]))
    write_run(tmp_path, records, end=False)
    began = time.monotonic()
    assert "two pulses overlap" in fails("--target", "records", "--workers", workers)
    assert time.monotonic() - began < 100


def test_unsorted_live_data_is_sorted(tmp_path):
    """The order in a file means nothing."""
    run_dir = write_run(tmp_path, pulses([1_000_000, 2_000_000, 3_000_000]))
    path = first_file(run_dir)
    redax.write_file(path, redax.read_file(path, "lz4", RAW_DTYPE)[::-1], "lz4")
    assert amstraxer.main(options(tmp_path, "--target=peaks")) == 0


def test_pulse_without_beginning(tmp_path, fails):
    """Fragment 1 without fragment 0, where that is not allowed."""
    write_run(tmp_path, pulses([1_000_000], 5, n_fragments=2)[1:])
    line = fails("--target", "records_ext")
    assert "fragment 1" in line and "channel 5" in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"daq_config": None}, ["daq_config"]),
        ({"daq_config": {}}, ["daq_config"]),
        ({"start": None}, ["start"]),
        ({"start": "yesterday"}, ["start", "yesterday"]),
        ({"start": {"$date": [1]}}, ["start", "[1]"]),
        ({"daq_config": {"processing_threads": {}}}, ["processing_threads"]),
        ({"daq_config": {"processing_threads": THREADS, "strax_chunk_length": "5"}}, ["'5'"]),
        ({"daq_config": {"processing_threads": THREADS, "compressor": "gzip"}}, ["gzip", "blosc"]),
    ],
    ids=str,
)
def test_run_document(tmp_path, fails, change, words):
    write_run(tmp_path, pulses([1_000_000]))
    line = fails(document=rundoc() | change)
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"elife": NaN}', "NaN is no finite number"),
        ('{"a": [1, {"b": -1e999}]}', "-1e999 is no finite number"),
        ('{"elife": 1, "elife": 2}', "'elife' occurs twice"),
        ('{"elife": 1' + "0" * 5000 + "}", "at most 8 bytes"),
        ('{"a": ' + "[" * 100_000, "nested"),
        ('{"elife": 1', "column 12"),
        ("[1]", "is not a JSON object"),
    ],
)
@pytest.mark.parametrize("is_file", [False, True])
def test_numbers_in_options(tmp_path, capsys, text, words, is_file):
    given = text
    if is_file:
        (tmp_path / "options.json").write_text(text)
        given = str(tmp_path / "options.json")
    elif not text.startswith("{"):
        words = "no JSON object"
    with pytest.raises(SystemExit) as stop:
        amstraxer.parse_args(["000001", "--config_kwargs", given])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and words in err.splitlines()[-1]
    assert len(err.splitlines()[-1]) < 300
    assert not is_file or "options.json" in err


@pytest.mark.parametrize("option", ["--config_kwargs", "--context_kwargs", "--testing_rundoc"])
@pytest.mark.parametrize("value", ["{not json}", "[1, 2]"])
def test_wrong_json(fails, option, value):
    line = fails(f"{option}={value}", status=2)
    assert option in line


def test_run_document_file_that_is_not_there(tmp_path, fails):
    line = fails(f"--testing_rundoc={tmp_path / 'nothing.json'}", status=2)
    assert "nothing.json" in line


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--target", "event_inf"], ["event_inf", "did you mean event_info"]),
        (["--context", "xams", "--target", "radon_peaks"], ["context xams does not make it"]),
        (
            ["--context", "xams_little", "--target", "raw_records"],
            ["raw_records: context xams_little does not make it", "did you mean", "_v1730"],
        ),
        (["--context", "xams_led", "--target", "records"], ["does not make it", "records_led"]),
        (["--context", "xams_led", "--target", "zzz"], ["does not make it; there are led_calib"]),
        (["--context", "xams", "--target", "zzz"], ["does not make it; there are corrected_areas"]),
        (["--context", "xam"], ["xam", "did you mean xams"]),
        (["--target", "event_info", "radon_peaks"], ["no context makes all of event_info, radon"]),
        (["--config_kwargs", '{"elif": 1}'], ["elif", "did you mean elife"]),
        (["--context_kwargs", '{"corrections_version": "v1"}'], ["v1"]),
        (["--workers", "0"], ["'0'"]),
        (["--timeout", "soon"], ["soon"]),
        (["--detector", "xenon1t"], ["xenon1t"]),
        (["--no_such_option"], ["--no_such_option"]),
    ],
    ids=str,
)
def test_wrong_options(fails, more, words):
    status = 1 if "corrections_version" in more[-1] else 2
    line = fails(*more, status=status)
    for word in words:
        assert word in line
    if "--target" in more:
        assert len(line.rstrip()) <= 200


def test_wrong_run_id(fails):
    assert "../x" in fails(run_id="../x", status=2)


def test_unknown_run(tmp_path, fails):
    write_run(tmp_path, pulses([1_000_000]))
    line = fails(run_id="000999")
    assert str(tmp_path / "000999") in line


def test_no_run_document(tmp_path, capsys):
    assert amstraxer.main([RUN_ID, f"--output_folder={tmp_path / 'out'}"]) == 1
    assert "--testing_rundoc" in capsys.readouterr().err


def test_unwritable_output_folder(tmp_path, fails):
    write_run(tmp_path, pulses([1_000_000]))
    (tmp_path / "file").write_text("")
    line = fails(f"--output_folder={tmp_path / 'file' / 'out'}")
    assert str(tmp_path / "file" / "out") in line


_MOUNTED = """
mount -t tmpfs -o "$1" tmpfs "$2" || exit 77
shift 2
exec "$@"
"""


def process_into(tmp_path, mount_options, *more):
    """Run amstraxer with output to a file system of its own; return what it says on failure."""
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", _MOUNTED, "sh"]
        + [mount_options, str(out), sys.executable, "-m", "amstrax.auto_processing.amstraxer"]
        + options(tmp_path, *more),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr.partition("\n")[0]:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and str(out) in done.stderr
    return done.stderr


def test_output_on_a_read_only_file_system(tmp_path):
    write_run(tmp_path, pulses([1_000_000]))
    assert "Read-only file system" in process_into(tmp_path, "ro")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_disk_full(tmp_path, workers):
    """A real file system, of 1 MB."""
    records = pulses(np.arange(1, 3600) * 1_000_000, range(5))
    records["data"] += np.random.default_rng(0).integers(-99, 99, (len(records), 110), np.int16)
    write_run(tmp_path, records)
    assert "no space left" in process_into(tmp_path, "size=1m", "--workers", workers)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_failed_write(tmp_path, workers):
    """A chunk that cannot be written, here for `ulimit -f`, is never taken for complete data."""
    write_run(tmp_path, pulses(np.arange(1, 300) * 10_000_000, range(5)))
    done = subprocess.run(
        [sys.executable, "-m", "amstrax.auto_processing.amstraxer"]
        + options(tmp_path, "--workers", workers),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
    )
    assert done.returncode == 1, done.stderr
    assert "too large" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob(f"{RUN_ID}-raw_records-*"))


def test_run_with_no_chunks(tmp_path, fails):
    write_run(tmp_path, pulses([1_000_000]), 0)
    line = fails()
    assert str(tmp_path / RUN_ID) in line and "without a single chunk" in line


def test_missing_chunk(tmp_path, fails):
    run_dir = write_run(tmp_path, pulses([1_000_000]), 3)
    for path in run_dir.glob("000001*"):
        shutil.rmtree(path)
    line = fails()
    assert "chunk 1 is missing" in line and str(run_dir / "000001") in line


def test_timeout(tmp_path, fails):
    write_run(tmp_path, pulses([1_000_000]), end=False)
    for workers in ("1", "2"):
        line = fails("--timeout", "0.5", "--workers", workers)
        assert "no complete chunk 1" in line and "--timeout" in line


def test_debug_shows_where(tmp_path, capsys):
    path = first_file(write_run(tmp_path, pulses([1_000_000])))
    path.write_bytes(b"x")
    assert amstraxer.main(options(tmp_path, "--debug")) == 1
    assert "Traceback" in capsys.readouterr().err
