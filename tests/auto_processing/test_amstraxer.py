"""The command that processes a run."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numba.core.event
import numpy as np
import pytest
from make_runs import LENGTH, OVERLAP, RUN_ID, THREADS, options, pulses, write_run

from amstrax import cli, contexts, redax
from amstrax.auto_processing import amstraxer, job

OPTIONS = """
--context --target --output_folder --detector --from_scratch --config_kwargs --context_kwargs
--testing_rundoc --timeout --workers --debug --build_lowlevel --live_data_dir --progress
--no-progress
"""

ROOT = Path(amstraxer.__file__).resolve().parents[2]


@pytest.fixture
def command(served_scripts):
    """Function that starts amstraxer as a process of its own."""

    def start(arguments, **kwargs):
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | kwargs
        return subprocess.Popen([served_scripts / "amstraxer", *arguments], text=True, **streams)

    return start


def stored(folder, data_type="raw_records"):
    """Return stored data, or None."""
    st = contexts.xams(output_folder=folder / "out", init_rundb=False)
    if not st.is_stored(RUN_ID, data_type):
        return None
    return st.get_array(RUN_ID, data_type, progress_bar=False)


@pytest.mark.smoke
def test_a_run_from_live_data(tmp_path, capsys):
    write_run(tmp_path, pulses(np.arange(1, 100) * 100_000_000, range(5)), 2)
    arguments = options(tmp_path, "--target", "records", "peak_basics", "--no-progress")
    assert amstraxer.main(arguments) == 0
    text = capsys.readouterr().err
    # Chunk by chunk: seconds into the run, MB/s, memory, time left; and totals
    assert re.search(
        r"records .*: chunk 1, 11\.0 s into the run, [\d.]+ MB/s, \d+ MiB, 0 s left", text
    )
    assert re.search(r"records of run 000123: 495 rows in 2 chunks, 11\.0 s of data", text)
    assert len(stored(tmp_path, "records")) == 99 * 5
    assert len(stored(tmp_path, "peak_basics")) == 99
    # A second time there is nothing to do, and nothing is touched
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert amstraxer.main(arguments) == 0
    assert "is stored already" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


def test_default_context_is_one_that_makes_the_target(tmp_path):
    """As documented: amstraxer RUN_ID --target raw_records_v1730."""
    write_run(tmp_path, pulses([1_000_000], 0, dt=2))
    assert amstraxer.main(options(tmp_path, "--target", "raw_records_v1730")) == 0
    assert list((tmp_path / "out").glob("000123-raw_records_v1730-xmbe4rijza"))


def test_default_target_is_raw_data(tmp_path):
    write_run(tmp_path, pulses([1_000_000]))
    assert amstraxer.main(options(tmp_path, "--context", "xams_led")) == 0
    assert len(stored(tmp_path)) == 1


@pytest.mark.smoke
@pytest.mark.parametrize(
    "start",
    [
        ["-m", "amstrax.auto_processing.amstraxer"],
        [str(ROOT / "amstrax/auto_processing/amstraxer.py")],
        [str(Path(sys.executable).parent / "amstraxer")],
        [str(Path(sys.executable).parent / "amstrax"), "process"],
        ["-m", "amstrax.cli", "process"],
    ],
    ids=["module", "file", "script", "subcommand", "cli-module"],
)
def test_all_ways_to_start_it(tmp_path, start, request):
    """All are the same command, also from another folder; its help takes no import of strax.

    A run is processed by the file, which is `__main__`, and by a subcommand, as by all others.
    """
    done = subprocess.run(
        [sys.executable, *start, "--help"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for option in OPTIONS.split():
        assert option in done.stdout
    if request.node.callspec.id not in ("file", "subcommand"):
        return
    write_run(tmp_path, pulses([1_000_000]))
    done = subprocess.run(
        [sys.executable, *start, *options(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert len(stored(tmp_path)) == 1


@pytest.mark.parametrize("module", ["amstrax", "amstrax.cli", "amstrax.auto_processing.amstraxer"])
def test_help_imports_nothing_slow(module):
    """What makes `--help` quick: none of the packages that take long is imported for it."""
    code = f"import sys, {module}; print(sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for slow in ("strax", "straxen", "numpy", "numba", "pandas", "matplotlib", "pymongo"):
        assert f"'{slow}'" not in done.stdout


def test_two_workers_use_both_cores(tmp_path):
    """--workers 2 gives the same numbers as --workers 1."""
    write_run(tmp_path, pulses(np.arange(1, 150) * 100_000_000, range(5)), 3)
    results = []
    for workers in ("1", "2"):
        out = tmp_path / f"out{workers}"
        arguments = [*options(tmp_path), f"--output_folder={out}", "--workers", workers]
        assert amstraxer.main([*arguments, "--target", "peaks"]) == 0
        st = contexts.xams(output_folder=out, init_rundb=False)
        results.append(st.get_array(RUN_ID, "peaks", progress_bar=False))
    for field in results[0].dtype.names:
        np.testing.assert_array_equal(results[0][field], results[1][field])


def test_options_reach_plugins_and_context(tmp_path):
    write_run(tmp_path, pulses([1_000_000, 2_000_000]))
    config = {"peak_min_area": 1e9, "gain_to_pe_array": [1, 1, 1, 1, 1]}
    arguments = options(tmp_path, "--target", "peaks", "--config_kwargs", json.dumps(config))
    assert amstraxer.main([*arguments, '--context_kwargs={"init_rundb": false}']) == 0
    config["gain_to_pe_array"] = (1, 1, 1, 1, 1)
    st = contexts.xams(output_folder=tmp_path / "out", init_rundb=False, config=config)
    assert len(st.get_array(RUN_ID, "peaks", progress_bar=False)) == 0


def test_to_dict_tuple():
    assert amstraxer.to_dict_tuple({"a": [1, [2, 3]], "b": {"c": [4]}, "d": "e"}) == {
        "a": (1, (2, 3)),
        "b": {"c": (4,)},
        "d": "e",
    }


def test_run_ids_get_six_digits():
    assert amstraxer.parse_args(["6724"]).run_id == "006724"
    assert amstraxer.parse_args(["006724"]).run_id == "006724"


def test_from_scratch_keeps_raw_data_unless_asked(tmp_path):
    """What is stored is replaced when the new data is complete, and not before."""
    write_run(tmp_path, pulses([1_000_000, 2_000_000]))
    assert amstraxer.main(options(tmp_path, "--target", "peaks")) == 0
    raw, peaks = (
        next((tmp_path / "out").glob(f"{RUN_ID}-{data_type}-*"))
        for data_type in ("raw_records", "peaks")
    )
    before = raw.stat().st_ino, peaks.stat().st_ino
    assert amstraxer.main(options(tmp_path, "--target", "peaks", "--from_scratch")) == 0
    after = raw.stat().st_ino, peaks.stat().st_ino
    assert after[0] == before[0] and after[1] != before[1]
    # A failure leaves what was there
    broken = redax.list_files(tmp_path / RUN_ID / "000000")[0]
    intact = broken.read_bytes()
    broken.write_bytes(intact[:-9])
    again = options(tmp_path, "--target", "peaks", "--from_scratch", "--build_lowlevel")
    assert amstraxer.main(again) == 1
    assert (raw.stat().st_ino, peaks.stat().st_ino) == after
    broken.write_bytes(intact)
    assert amstraxer.main(again) == 0
    assert raw.stat().st_ino != after[0]
    assert len(stored(tmp_path)) == 2
    assert not list((tmp_path / "out").glob(".from_scratch*"))


def test_missing_raw_types_are_made_beside_those_that_are_stored(tmp_path):
    """As after a kill between the end of one data type and that of the next."""
    import shutil

    write_run(tmp_path, pulses([1_000_000], range(7)))
    assert amstraxer.main(options(tmp_path, "--target", "peaks")) == 0
    for path in (tmp_path / "out").glob(f"{RUN_ID}-*"):
        if "-raw_records-" not in path.name:
            shutil.rmtree(path)
    raw = next((tmp_path / "out").glob("*-raw_records-*"))
    before = raw.stat().st_ino
    assert amstraxer.main(options(tmp_path, "--target", "peaks", "peaks_ext")) == 0
    assert raw.stat().st_ino == before
    assert len(stored(tmp_path, "peaks_ext")) == 1


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_stopped_at_work_it_leaves_nothing_that_looks_complete(tmp_path, command, how, workers):
    """And started again it finishes."""
    records = pulses(np.arange(1, 150) * 100_000_000, range(5))
    run_dir = write_run(tmp_path, records, 2, end=False)
    process = command(options(tmp_path, "--target", "peaks", "--workers", workers))
    for line in process.stderr:
        # It has written something, and waits for more
        if "chunk 0" in line:
            break
    process.send_signal(how)
    _, text = process.communicate(timeout=240)
    if how != signal.SIGKILL:
        assert process.returncode == 1
        assert f"stopped by {how.name}" in text and "Traceback" not in text
        assert not list((tmp_path / "out").glob(f"{RUN_ID}-*"))
    for data_type in ("raw_records", "raw_records_ext", "peaks"):
        assert stored(tmp_path, data_type) is None
    for path in (tmp_path / "out").glob(f"{RUN_ID}-*"):
        assert path.name.endswith("_temp")
    redax.write_chunk(run_dir, 2, records, THREADS, LENGTH, OVERLAP)
    redax.write_end(run_dir, THREADS)
    assert amstraxer.main(options(tmp_path, "--target", "peaks", "--workers", workers)) == 0
    assert len(stored(tmp_path)) == len(records)
    assert len(stored(tmp_path, "peaks")) == 149


def test_a_second_one_leaves(tmp_path, command, capsys):
    """Two at work on one run would spoil each other's data: one wins, the other says so."""
    records = pulses(np.arange(1, 150) * 100_000_000, range(5))
    run_dir = write_run(tmp_path, records, 2, end=False)
    process = command(options(tmp_path))
    for line in process.stderr:
        if "chunk 0" in line:
            break
    for more in ([], ["--from_scratch"]):
        assert amstraxer.main(options(tmp_path, *more)) == 1
        assert "another process is at work on run 000123" in capsys.readouterr().err
    # On another run it may work
    arguments = options(tmp_path)
    arguments[0] = "000124"
    assert amstraxer.main(arguments) == 1
    assert "no live data of run 000124" in capsys.readouterr().err
    redax.write_chunk(run_dir, 2, records, THREADS, LENGTH, OVERLAP)
    redax.write_end(run_dir, THREADS)
    assert process.wait(timeout=240) == 0
    assert len(stored(tmp_path)) == len(records)


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path, command):
    """Data that strax finds is all there, whenever the process is killed."""
    records = pulses(np.arange(1, 200) * 50_000_000, range(5))
    write_run(tmp_path, records, 2)
    assert amstraxer.main(options(tmp_path, "--target", "peak_basics")) == 0
    expected = {d: stored(tmp_path, d) for d in ("raw_records", "peaks", "peak_basics")}
    began = time.monotonic()
    process = command(
        [*options(tmp_path, "--target", "peak_basics"), f"--output_folder={tmp_path}/x"]
    )
    process.communicate(timeout=120)
    duration = time.monotonic() - began
    assert process.returncode == 0
    rng = np.random.default_rng(1)
    for attempt in range(6):
        out = tmp_path / f"killed{attempt}"
        arguments = [*options(tmp_path, "--target", "peak_basics"), f"--output_folder={out}"]
        process = command(arguments)
        time.sleep(duration * rng.uniform(0.4, 1))
        process.kill()
        process.communicate()
        st = contexts.xams(output_folder=out, init_rundb=False)
        for data_type, array in expected.items():
            if st.is_stored(RUN_ID, data_type):
                assert len(st.get_array(RUN_ID, data_type, progress_bar=False)) == len(array)
    assert amstraxer.main(arguments) == 0
    st = contexts.xams(output_folder=out, init_rundb=False)
    assert len(st.get_array(RUN_ID, "peak_basics", progress_bar=False)) == len(
        expected["peak_basics"]
    )


@pytest.mark.parametrize("show_bar", [False, True])
def test_compiling_is_shown_and_is_no_work(show_bar, capsys, caplog):
    caplog.set_level("INFO")
    slow = 0.1  # [s]

    def compile_one():
        function = numba.njit(lambda x: x + 1)
        numba.core.event.start_event("numba:compile")
        time.sleep(slow)
        function(1)  # within, as functions that a function calls
        numba.core.event.end_event("numba:compile")

    began = time.monotonic()
    with job.Progress("peaks of run 1", 0, 10.0, show_bar) as progress:
        compile_one()
        progress.add_raw(10**6)
        progress.add_chunk(5 * 10**9, 3)
        compile_one()
        progress.add_chunk(10 * 10**9, 3)
        elapsed, _ = progress._elapsed_and_rate()
        assert progress._compilation.n == 2 and progress._compilation.seconds > 2 * slow
        assert 0 <= elapsed <= time.monotonic() - began - 2 * slow
    assert ("compiling (once, about a minute)" in capsys.readouterr().err) == show_bar
    assert ("compiled 1 functions in" in caplog.text) == (not show_bar)
    # After the work, compilations are not counted
    compile_one()
    assert progress._compilation.n == 2


def test_bar_in_a_terminal_lines_in_a_job(tmp_path, command):
    """With a terminal as error stream there is a bar; otherwise lines."""
    import pty
    import termios

    write_run(tmp_path, pulses([1_000_000]), 2)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = command(options(tmp_path), stdout=None, stderr=theirs)
    os.close(theirs)
    text = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        text += part
    os.close(ours)
    assert process.wait(timeout=240) == 0
    assert b"100%" in text and b"into the run" not in text


def test_amstrax_command(capsys):
    assert cli.main(["--help"]) == 0
    assert "process" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert cli.main([]) == 2
    assert cli.main(["proces"]) == 2
    assert "did you mean process or process-run or trends?" in capsys.readouterr().err
