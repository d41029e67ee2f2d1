"""What a job runs: a run is claimed, processed, checked, registered, and its status is set."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import strax
from make_jobs import (
    LED,
    LITTLE,
    NAI,
    SHORT,
    add_run,
    copy_run,
    end_run,
    stop_between_writes,
    wait,
)
from needs import need
from rundb_stores import collection  # noqa: F401

import amstrax
from amstrax import contexts
from amstrax.auto_processing import amstraxer, process_run
from amstrax.auto_processing.job import DataIncomplete, check_data
from amstrax.rundb import RunDB, documents, get_mongo_collection, leases

ROOT = Path(amstraxer.__file__).resolve().parents[2]
TARGET = "--target=peak_basics"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture(scope="module")
def expected(live_runs, tmp_path_factory):
    """Context with the data of the short run, as amstraxer makes it."""
    folder = tmp_path_factory.mktemp("expected")
    arguments = [SHORT, TARGET, f"--live_data_dir={live_runs}", f"--output_folder={folder}"]
    rundoc = f"--testing_rundoc={live_runs / f'rundoc_{SHORT}.json'}"
    assert amstraxer.main([*arguments, rundoc, '--context_kwargs={"init_rundb": false}']) == 0
    st = contexts.xams(storage=[strax.DataDirectory(str(folder))])
    st.set_run_document(SHORT, json.loads((live_runs / f"rundoc_{SHORT}.json").read_text()))
    return st


def processed(*arguments, run_id=SHORT):
    """Process a run in this process."""
    return process_run.main([run_id, *map(str, arguments), "--no-progress"])


def status(runs, run_id=SHORT):
    return documents.status_of(documents.find_run(runs, run_id))


def is_as_expected(runs, expected, data_type="peak_basics"):
    """Return whether data that a new context finds with the run database is as it should be."""
    frontend = RunDB(collection=runs, runid_field="number")
    st = contexts.xams(storage=[frontend])
    assert st.is_stored(SHORT, data_type), data_type
    np.testing.assert_array_equal(
        st.get_array(SHORT, data_type, progress_bar=False),
        expected.get_array(SHORT, data_type, progress_bar=False),
    )
    return True


def is_untouched_since_done(runs, run_id=SHORT):
    """Return whether a run is done, without failures, and claimed by nobody."""
    document = documents.find_run(runs, run_id)
    assert documents.status_of(document).status == "done"
    assert documents.failures_of(document) == 0
    assert document.get("processing_claim") is None
    return True


def test_a_run(collection, live_runs, out, expected, capsys):  # noqa: F811
    tags = [{"name": "process", "user": "me"}, {"name": "good", "user": "me"}]
    add_run(collection, live_runs, tags=tags)
    before = datetime.now(UTC) - timedelta(seconds=1)
    assert processed(TARGET, f"--output_folder={out}", "--corrections_version", "v1") == 1
    assert "corrections" in status(collection).reason
    documents.set_status(collection, SHORT, "pending")
    assert processed(TARGET, f"--output_folder={out}") == 0
    assert is_untouched_since_done(collection)
    assert is_as_expected(collection, expected)
    assert is_as_expected(collection, expected, "raw_records")
    document = documents.find_run(collection, SHORT)
    assert documents.status_of(document).host == documents.this_host()
    assert documents.tags_of(document) == ["good"]
    assert document["processing_job"]["engine"] is None
    entries = [e for e in document["data"] if e["type"] != "live"]
    assert sorted(f"{SHORT}-{e['type']}-{e['lineage_hash']}" for e in entries) == sorted(
        path.name for path in out.iterdir() if path.is_dir()
    )
    for entry in entries:
        folder = out / f"{SHORT}-{entry['type']}-{entry['lineage_hash']}"
        assert entry["location"] == str(out) and entry["host"] == documents.this_host()
        assert entry["n_chunks"] == 1 and entry["amstrax_version"] == amstrax.__version__
        size = sum(path.stat().st_size for path in folder.iterdir())
        assert entry["size_mb"] == pytest.approx(size / 1e6, abs=1e-3)
        assert entry["time"].replace(tzinfo=UTC) > before and entry["user"]
    # A second time there is nothing to do, and nothing is touched
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    assert processed(TARGET, f"--output_folder={out}") == 0
    assert "peak_basics of run 000303 is stored already" in capsys.readouterr().err
    assert files == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert documents.find_run(collection, SHORT)["data"] == document["data"]


def test_a_job_that_is_started_once_more(runs, live_runs, out):
    """As by a batch system that was out of reach: what is done stays so, unless it is submitted."""
    add_run(runs, live_runs)
    arguments = (TARGET, f"--output_folder={out}")
    assert processed(*arguments, "--attempt=a2") == 0
    done = documents.find_run(runs, SHORT)
    for attempt in ("a1", "a2"):
        assert processed(*arguments, f"--attempt={attempt}") == 0
        assert documents.find_run(runs, SHORT) == done
    # Other data, and a run that is submitted again, are work
    assert processed("--target=peaks", f"--output_folder={out}", "--attempt=a3") == 0
    job = documents.job_of(documents.find_run(runs, SHORT))
    assert (job["attempt"], job["targets"]) == ("a3", ["peaks"])
    documents.set_status(runs, SHORT, "submitted", job=job | {"attempt": "a4"})
    assert processed("--target=peaks", f"--output_folder={out}", "--attempt=a4") == 0
    again = documents.find_run(runs, SHORT)
    assert documents.status_of(again).status == "done"
    assert documents.job_of(again)["attempt"] == "a4"


def test_a_run_with_two_documents_fails(runs, live_runs, out):
    """Which of them has its settings, nobody knows; 'abandon' on either holds."""
    add_run(runs, live_runs)
    first = documents.find_run(runs, SHORT)
    second = {key: value for key, value in first.items() if key != "_id"}
    runs.insert_one(second | {"_id": 2, "tags": [{"name": "abandon"}]})
    assert processed("--target=peaks", f"--output_folder={out}") == 1
    assert status(runs).status == "pending" and documents.failures_of(first) == 0
    runs.update_one({"_id": 2}, {"$set": {"tags": []}})
    assert processed("--target=peaks", f"--output_folder={out}") == 1
    assert status(runs).status == "failed"
    assert "several documents" in status(runs).reason
    assert not list(out.glob("0*"))


@pytest.mark.parametrize("raw_only", [False, True])
def test_folders_of_the_lab(raw_only, runs, live_runs, tmp_path, monkeypatch, expected):
    """Raw data goes to a folder of its own, and is made for other data too."""
    add_run(runs, live_runs)
    monkeypatch.chdir(tmp_path)
    raw, rest = tmp_path / "raw", tmp_path / ("strax_data" if raw_only else "processed")
    monkeypatch.setenv("XAMS_RAW_DATA", str(raw))
    if not raw_only:
        monkeypatch.setenv("XAMS_PROCESSED_DATA", str(rest))
        rest.mkdir()
    assert processed(TARGET) == 1
    assert f"the folder {raw} of the setting XAMS_RAW_DATA does not exist" in status(runs).reason
    documents.set_status(runs, SHORT, "pending")
    raw.mkdir()
    assert processed(TARGET) == 0
    kinds = {path.name.split("-")[1] for path in raw.glob("0*")}
    assert kinds == {"raw_records", "raw_records_ext", "raw_records_sipm"}
    kinds = {path.name.split("-")[1] for path in rest.glob("0*")}
    assert "peak_basics" in kinds and not any(kind.startswith("raw") for kind in kinds)
    assert is_as_expected(runs, expected) and is_as_expected(runs, expected, "raw_records")
    # Raw data that is there is not made again, nor is its live data looked at
    documents.set_status(runs, SHORT, "pending")
    assert processed("--target=event_basics", f"--live_data_dir={tmp_path}") == 0
    assert is_untouched_since_done(runs)


@pytest.mark.parametrize(
    ("run_id", "targets", "context", "made"),
    [
        (LED, ["peak_basics"], "xams_led", ["raw_records", "records_led", "led_calibration"]),
        (LED, [], "xams_led", ["raw_records", "records_led", "led_calibration"]),
        (NAI, ["peak_basics"], "xams", ["peak_basics", "peak_basics_ext"]),
        (LITTLE, ["raw_records_v1730"], "xams_little", ["raw_records_v1730"]),
    ],
    ids=["led", "led-default", "nai", "xamsl"],
)
def test_special_runs(run_id, targets, context, made, runs, live_runs, out):
    if run_id == LITTLE:
        runs = get_mongo_collection("xamsl")
    add_run(runs, live_runs, run_id)
    arguments = ["--target", *targets] if targets else []
    assert processed(f"--output_folder={out}", *arguments, run_id=run_id) == 0
    frontend = RunDB(collection=runs, runid_field="number")
    st = getattr(contexts, context)(storage=[frontend])
    for data_type in made:
        assert st.is_stored(run_id, data_type), data_type
    assert documents.find_run(runs, run_id)["processing_job"]["targets"] == made
    assert is_untouched_since_done(runs, run_id)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "command",
    [
        ["-m", "amstrax.auto_processing.process_run"],
        [str(ROOT / "amstrax/auto_processing/process_run.py")],
        [str(Path(sys.executable).parent / "process_run")],
        [str(Path(sys.executable).parent / "amstrax"), "process-run"],
    ],
    ids=["module", "file", "script", "subcommand"],
)
def test_all_ways_to_start_it(command, tmp_path, runs, live_runs, out, request):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, *command, *arguments], capture_output=True, text=True, cwd=tmp_path
        )

    done = run("--help")
    assert done.returncode == 0, done.stderr
    for option in ("--target", "--context", "--detector", "--attempt", "--claim_lifetime"):
        assert option in done.stdout
    if request.node.callspec.id == "file":
        add_run(runs, live_runs, LED)
        done = run(LED, f"--output_folder={out}", '--config_kwargs={"elife": 3}')
        assert done.returncode == 0, done.stderr
        assert "options left out, since xams_led does not take: elife" in done.stderr
        assert is_untouched_since_done(runs, LED)


@pytest.mark.parametrize("tool", ["process_run", "submit_stbc"])
def test_help_imports_nothing_slow(tool):
    module = f"amstrax.auto_processing.{tool}"
    code = f"import sys, {module}; print(sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for slow in ("strax", "numpy", "numba", "pandas", "matplotlib", "pymongo", "tqdm"):
        assert f"'{slow}'" not in done.stdout


# What is not to be processed


def test_an_unknown_run(runs, capsys, out):
    assert processed(TARGET, f"--output_folder={out}") == 1
    assert "run 000303 is not in the run database (run.runs_gas)" in capsys.readouterr().err


@pytest.mark.parametrize("before", ["submitted", "failed", None])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"end": None}, "run 000303 is still being taken"),
        ({"tags": [{"name": "abandon"}]}, "run 000303 has the tag 'abandon'"),
    ],
    ids=["being taken", "abandoned"],
)
def test_runs_to_leave_alone(fields, message, before, runs, live_runs, out, capsys):
    add_run(runs, live_runs, **fields)
    if before is not None:
        documents.set_status(runs, SHORT, before)
    earlier = documents.find_run(runs, SHORT)
    assert processed(TARGET, f"--output_folder={out}") == 1
    assert message in capsys.readouterr().err
    assert not out.exists()
    document = documents.find_run(runs, SHORT)
    if before == "submitted":
        assert documents.status_of(document).status == "pending"
        assert message in documents.status_of(document).reason
        document["processing_status"] = earlier["processing_status"]
        for field in ("processing_failed", "processing_failures"):
            del document[field]
    assert document == earlier


def test_wrong_use_changes_nothing(runs, live_runs, out, capsys):
    add_run(runs, live_runs)
    before = documents.find_run(runs, SHORT)
    for arguments, message in (
        (["--target", "peak_basic"], "did you mean peak_basics"),
        (["--detector", "xamsl", "--target", "events"], "context xams_little does not make it"),
        (["--context", "xams", "--detector", "xamsl"], "is of xams"),
        (["--config_kwargs", '{"elive": 1}'], "no plugin takes the option 'elive'"),
    ):
        assert processed(*arguments, f"--output_folder={out}") == 2
        assert message in capsys.readouterr().err
    assert documents.find_run(runs, SHORT) == before


# What fails


def test_a_failure_is_recorded_and_repaired(runs, live_runs, out, tmp_path, capsys, expected):
    add_run(runs, live_runs)
    nowhere = f"--live_data_dir={tmp_path}"
    for count in (1, 2):
        assert processed(TARGET, f"--output_folder={out}", nowhere) == 1
        document = documents.find_run(runs, SHORT)
        assert documents.status_of(document).status == "failed"
        assert f"no live data of run {SHORT} at {tmp_path}" in documents.status_of(document).reason
        assert documents.failures_of(document) == count
        assert document.get("processing_claim") is None
    assert "no live data of run" in capsys.readouterr().err
    # One attempt is one failure, whoever reports it
    failed = documents.find_run(runs, SHORT)["processing_failures"][-1]
    assert documents.record_failure(runs, SHORT, "gone", failed["attempt"]) == 2
    assert processed(TARGET, f"--output_folder={out}") == 0
    assert status(runs).status == "done" and is_as_expected(runs, expected)


def test_disk_full(runs, live_runs, tmp_path, expected):
    need(os.getuid() == 0, "needs root, to mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True)
    try:
        add_run(runs, live_runs)
        assert processed(TARGET, f"--output_folder={disk}") == 1
        assert "no space left to write in" in status(runs).reason
        assert not list(disk.glob(f"{SHORT}-*"))
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert processed(TARGET, f"--output_folder={disk}") == 0
        assert is_as_expected(runs, expected)
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_told_to_stop(number, runs, live_runs, out, tmp_path, start_tool, expected):
    add_run(runs, live_runs)
    folder = copy_run(live_runs, tmp_path / "copy", end=False)
    child = start_tool(
        process_run.main, SHORT, TARGET, f"--output_folder={out}", f"--live_data_dir={folder}"
    )
    wait(lambda: status(runs).status == "running", child.text)
    child.signal(number)
    assert child.result() == 1
    assert status(runs).status == "failed"
    assert f"stopped by {signal.Signals(number).name}" in status(runs).reason
    end_run(folder)
    assert processed(TARGET, f"--output_folder={out}", f"--live_data_dir={folder}") == 0
    assert is_as_expected(runs, expected)


def test_live_data_that_does_not_cover_the_run(runs, live_runs, out, expected, capsys):
    add_run(runs, live_runs)
    late = {"$set": {"end": datetime(2024, 1, 2, 3, 5)}}
    runs.update_one({"number": int(SHORT)}, late)
    assert processed(TARGET, f"--output_folder={out}") == 1
    # To 5.5 s of a run of 55 s
    assert (
        "raw_records" in status(runs).reason
        and "49.5 s before that of the run" in status(runs).reason
    )
    assert not list(out.glob("0*")) and list(out.glob(".broken*"))
    assert processed(TARGET, f"--output_folder={out}", "--any_length") == 0
    assert is_as_expected(runs, expected)
    # What is registered has been looked at
    assert processed(TARGET, f"--output_folder={out}") == 0


def test_data_that_was_damaged_is_made_again(runs, live_runs, out, tmp_path, expected):
    """Complete, as strax sees it, but not registered yet: as after a power cut."""
    arguments = [SHORT, TARGET, f"--live_data_dir={live_runs}", f"--output_folder={out}"]
    rundoc = f"--testing_rundoc={live_runs / f'rundoc_{SHORT}.json'}"
    assert amstraxer.main([*arguments, rundoc, '--context_kwargs={"init_rundb": false}']) == 0
    add_run(runs, live_runs)
    [folder] = out.glob(f"{SHORT}-peak_basics-*")
    [chunk] = folder.glob("*-000000")
    chunk.write_bytes(chunk.read_bytes()[:-100])
    assert processed(TARGET, f"--output_folder={out}") == 1
    assert f"{folder} cannot be loaded" in status(runs).reason
    assert f".broken_{folder.name}" in status(runs).reason
    assert processed(TARGET, f"--output_folder={out}") == 0
    assert is_as_expected(runs, expected)


def test_checks_of_data(live_runs, tmp_path, expected):
    source = Path(expected.storage[0].path)
    [folder] = source.glob(f"{SHORT}-peaks-*")
    prefix = folder.name.partition("-")[2]
    metadata = json.loads((folder / f"{prefix}-metadata.json").read_text())
    whole = (metadata["start"], metadata["end"])
    assert check_data(folder, whole)["chunks"] == metadata["chunks"]

    def problem(range_=whole, **changes):
        copy = tmp_path / folder.name
        shutil.copytree(folder, copy)
        text = json.dumps(metadata | changes)
        (copy / f"{prefix}-metadata.json").write_text(text)
        with pytest.raises(DataIncomplete) as error:
            check_data(copy, range_)
        shutil.rmtree(copy)
        return str(error.value)

    [chunk] = metadata["chunks"]
    middle = chunk["start"] + 10
    empty = {**chunk, "n": 0, "start": middle + 5, "chunk_i": 1}
    assert "cannot be loaded" in problem(chunks=[{**chunk, "n": chunk["n"] + 1}])
    assert "cannot be loaded" in problem(chunks=[])
    assert "cannot be loaded" in problem(chunks=[{**chunk, "filename": "no"}])
    assert "gap" in problem(chunks=[{**empty, "start": whole[0], "end": middle}, empty])
    assert "but the raw data" in problem((whole[0], whole[1] + 1))
    assert "but the raw data" in problem((whole[0] - 1, whole[1]))


# Others at work


def test_two_at_once(runs, live_runs, out, tmp_path, start_tool, expected):
    add_run(runs, live_runs)
    folder = copy_run(live_runs, tmp_path / "copy", end=False)
    arguments = [SHORT, TARGET, f"--output_folder={out}", f"--live_data_dir={folder}"]
    children = [start_tool(process_run.main, *arguments) for _ in range(3)]
    wait(lambda: sum(child.ended() for child in children) == 2)
    assert sorted(child.status for child in children if child.ended()) == [75, 75]
    assert status(runs).status == "running"
    end_run(folder)
    assert sorted(child.result() for child in children) == [0, 75, 75]
    for child in children:
        assert ("left to that" in child.text()) == (child.status == 75)
    assert is_untouched_since_done(runs) and is_as_expected(runs, expected)


def test_one_who_submits_is_waited_for(
    runs, live_runs, out, start_tool, expected, monkeypatch, tmp_path
):
    add_run(runs, live_runs)
    owner = f"submit-{leases.new_owner()}"
    assert leases.claim(runs, SHORT, owner, 600)
    look = leases.RunClaim._wait_for_submitter

    def look_and_note(claim):
        look(claim)
        with (tmp_path / "looks").open("a") as file:
            file.write("+")

    monkeypatch.setattr(leases.RunClaim, "_wait_for_submitter", look_and_note)
    child = start_tool(process_run.main, SHORT, TARGET, f"--output_folder={out}", "--attempt=a1")
    looks = tmp_path / "looks"
    wait(lambda: looks.exists() and len(looks.read_text()) > 1, child.text)
    assert not child.ended() and status(runs).status == "pending"
    job = {"attempt": "a1", "engine": "local", "job_id": "1"}
    documents.set_status(runs, SHORT, "submitted", owner=owner, job=job)
    leases.release(runs, SHORT, owner)
    assert child.result() == 0, child.text()
    assert is_untouched_since_done(runs) and is_as_expected(runs, expected)
    assert documents.job_of(documents.find_run(runs, SHORT)) == job


def test_one_who_submits_this_very_job_is_not_waited_for(
    runs, live_runs, out, start_tool, expected
):
    """Who submits it may have been killed before it could say so."""
    add_run(runs, live_runs)
    owner = f"submit-{leases.new_owner()}"
    assert leases.claim(runs, SHORT, owner, 600)
    job = {"attempt": "a1", "engine": "local", "job_id": None}
    assert documents.set_job(runs, SHORT, job, owner)
    child = start_tool(process_run.main, SHORT, TARGET, f"--output_folder={out}", "--attempt=a1")
    assert child.result() == 0, child.text()
    assert is_untouched_since_done(runs) and is_as_expected(runs, expected)
    # Who submits it finds that it has begun
    assert not documents.set_status(runs, SHORT, "submitted", owner=owner, job=job)
    assert not documents.set_job_id(runs, SHORT, "a2", "7")
    assert documents.set_job_id(runs, SHORT, "a1", "7")
    assert documents.job_of(documents.find_run(runs, SHORT)) == job | {"job_id": "7"}
    assert status(runs).status == "done"


def test_an_orphan_stops_when_its_claim_is_taken(
    runs, live_runs, out, tmp_path, start_tool, expected
):
    """As after a node has been cut off: it goes on beside the process that has taken its place."""
    add_run(runs, live_runs)
    folder = copy_run(live_runs, tmp_path / "copy", end=False)
    arguments = [SHORT, TARGET, f"--output_folder={out}", f"--live_data_dir={folder}"]
    orphan = start_tool(process_run.main, *arguments, "--claim_lifetime=9", "--attempt=orphan")
    # It has the lock of the folder, too
    wait(lambda: list(out.glob(f"{SHORT}-*")), orphan.text)
    stop_between_writes(orphan, runs)
    expired = {"processing_claim.expires": datetime.now(UTC) - timedelta(seconds=1)}
    runs.update_one({"number": int(SHORT)}, {"$set": expired})
    successor = start_tool(process_run.main, *arguments, "--attempt=successor")
    successor.says("it should end soon, since this process has the claim")
    orphan.signal(signal.SIGCONT)
    assert orphan.result() == 75
    # It may find first that it has not renewed its claim
    assert re.search("another process has claimed it|its claim was not renewed", orphan.text())
    end_run(folder)
    assert successor.result() == 0, successor.text()
    assert is_untouched_since_done(runs) and is_as_expected(runs, expected)
    assert documents.find_run(runs, SHORT)["processing_job"]["attempt"] == "successor"


def test_kill_9_at_any_time_loses_nothing(runs, live_runs, out, start_tool, expected):
    add_run(runs, live_runs)
    random_ = random.Random(5)
    arguments = [SHORT, "--target=event_info", f"--output_folder={out}"]
    killed = 0
    for n_folders in random_.sample(range(12), 6):
        child = start_tool(process_run.main, *arguments)
        # So many pieces of data are complete, or being written
        wait(lambda c=child, n=n_folders: c.ended() or len(list(out.glob(f"{SHORT}*"))) >= n)
        time.sleep(random_.uniform(0, 0.05))
        child.signal(signal.SIGKILL)
        # Its claim is taken over at once, since its owner is known to be dead
        killed += child.result() == -signal.SIGKILL
    assert killed >= 2
    assert processed(*arguments[1:]) == 0
    assert is_untouched_since_done(runs)
    for data_type in ("raw_records", "peak_basics"):
        assert is_as_expected(runs, expected, data_type)
    entries = [e for e in documents.find_run(runs, SHORT)["data"] if e["location"] == str(out)]
    assert sorted(f"{SHORT}-{e['type']}-{e['lineage_hash']}" for e in entries) == sorted(
        path.name for path in out.iterdir() if path.is_dir()
    )


# The run database is away


def test_run_database_away_at_the_end(
    mongo_collection,
    mongo_server,
    live_runs,
    out,
    tmp_path,
    start_tool,
    expected,
    monkeypatch,
):
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "1")
    monkeypatch.setattr(leases, "PAUSE", 0.2)
    add_run(mongo_collection, live_runs)
    folder = copy_run(live_runs, tmp_path / "copy", end=False)
    # As a job, which has patience from the start: a second is soon over on a busy machine
    arguments = [SHORT, TARGET, f"--output_folder={out}", f"--live_data_dir={folder}"]
    child = start_tool(process_run.main, *arguments, "--attempt=a1")
    wait(lambda: list(out.glob(f"{SHORT}-*")), child.text)
    mongo_server.kill()
    try:
        end_run(folder)
        child.says("trying again until")
        assert not child.ended()
    finally:
        mongo_server.start()
    assert child.result() == 0, child.text()
    assert is_untouched_since_done(mongo_collection)
    assert is_as_expected(mongo_collection, expected)


def test_run_database_away_at_the_start(
    mongo_server, mongo_collection, live_runs, out, start_tool, monkeypatch
):
    """Somebody who sits before it is told so at once; a job waits."""
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "1")
    monkeypatch.setattr(leases, "PAUSE", 0.2)
    add_run(mongo_collection, live_runs, LED)
    mongo_server.kill()
    try:
        by_hand = start_tool(process_run.main, LED, f"--output_folder={out}")
        job = start_tool(process_run.main, LED, f"--output_folder={out}", "--attempt=a1")
        assert by_hand.result() == 1
        job.says("trying again until")
    finally:
        mongo_server.start()
    assert job.result() == 0, job.text()
    assert is_untouched_since_done(mongo_collection, LED)
