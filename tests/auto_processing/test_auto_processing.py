"""The automatic loop, with the engine of this machine and real jobs; other engines: test_day.py."""

import contextlib
import copy
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from urllib.parse import quote_plus

import numpy as np
import psutil
import pytest
from bson import Code, Decimal128, json_util
from make_jobs import made_once
from servers import LOCALHOST, MONGO_USERS, MongoServer, with_clock

from amstrax import cli, contexts, simulation
from amstrax.auto_processing import auto_processing, submitting
from amstrax.auto_processing.engines.local import LocalEngine
from amstrax.auto_processing.loop import remove_old_job_files
from amstrax.exceptions import AmstraxError, InvalidOption, JobRefused
from amstrax.rundb import connection, documents, get_mongo_collection, leases, transfer
from amstrax.rundb.connection import get_trends_collection
from amstrax.rundb.leases import Stop

AUTO_PROCESSING = "amstrax.auto_processing.auto_processing"
TARGET = "raw_records"
PYTHON = sys.executable
#: More than anything here takes on a slow machine with much to do [s]
LONG = 480


# Loops that a test has started: none outlives it
_started: list[subprocess.Popen] = []


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Folder with live data of two runs, of a second each."""

    def make(folder):
        for number in (1, 2):
            name = f"{number:06d}"
            simulation.simulate(name, folder, rate=20, duration=1, seed=number, yields="simple")

    return made_once(tmp_path_factory, "simulated_for_the_loop", make)


@pytest.fixture
def lab(tmp_path, monkeypatch, simulated, served_scripts):
    """A machine with live data of two runs, folders for data, and an embedded run database.

    Loops and jobs fork from a server, but for loops that `start` starts as real ones.
    """
    monkeypatch.setattr(sys, "executable", str(served_scripts / "python"))
    for name, folder in (("LIVE", "live"), ("RAW", "raw"), ("PROCESSED", "processed")):
        (tmp_path / folder).mkdir()
        monkeypatch.setenv(f"XAMS_{name}_DATA", str(tmp_path / folder))
    monkeypatch.setenv("AMSTRAX_LOCAL_FOLDER", str(tmp_path / "engine"))
    monkeypatch.setenv("AMSTRAX_LOCAL_JOBS", "2")
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        add_run(tmp_path, simulated, number)
    yield tmp_path
    while _started:
        loop = _started.pop()
        loop.kill()
        loop.wait()
    for process in psutil.process_iter(["cmdline"]):
        if any(str(tmp_path) in part for part in process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def add_run(lab, simulated, number, copy_of=None):
    """Add a run, with live data like that of a simulated one."""
    name, of = f"{number:06d}", f"{copy_of or number:06d}"
    (lab / "live" / name).symlink_to(simulated / of)
    document = json.loads((simulated / f"rundoc_{of}.json").read_text())
    document |= {"number": number, "name": name}
    document.pop("_id", None)
    document["data"] = [{"type": "live", "host": documents.this_host(), "location": f"{lab}/live"}]
    transfer.add_run(runs(), json_util.loads(json.dumps(document)))


def use_server(server, monkeypatch):
    """Set a run database of a server, without runs."""
    password = quote_plus(MONGO_USERS["writer"][0])
    uri = f"mongodb://writer:{password}@{LOCALHOST}:{server.port}"
    monkeypatch.setenv("AMSTRAX_MONGO_URI", uri)
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "120")
    with server.client() as client:
        client["run"].drop_collection("runs_gas")
        client["run"].drop_collection("trends_gas")
        client["daq"].drop_collection("processing")


def runs():
    """Return the collection of run documents."""
    return get_mongo_collection("xams")


def status(number):
    """Return the word and the reason of a run's status."""
    found = documents.status_of(documents.find_run(runs(), number))
    return found.status, found.reason


def options(*more):
    """Return options of the loop."""
    return ["--target", TARGET, "--pause=0.2", "--retry_pause=0.1", *more]


def in_process(*more, until=None):
    """Run the loop in this process, until something is so; return what it says at the end."""
    args = auto_processing.parse_args(options(*more))
    stop = Stop()
    stop.event = Until(until)  # type: ignore[assignment]
    auto_processing.run(auto_processing.LoopOptions.of(args, submitting.find_work(args)), stop)


class Until:
    """Takes the place of an event: is set when something is so."""

    def __init__(self, condition):
        self._condition = condition
        self._end = time.monotonic() + LONG

    def wait(self, seconds):
        assert time.monotonic() < self._end, "it has not come to that"
        time.sleep(seconds)
        return self.is_set()

    def is_set(self):
        return self._condition is not None and bool(self._condition())


def are(*words):
    """Return a function that tells whether runs 1, 2, ... are of these statuses."""
    return lambda: [status(i + 1)[0] for i in range(len(words))] == list(words)


def begun(number):
    """Return a function that tells whether a run has been submitted."""
    return lambda: status(number)[0] in ("submitted", "running", "done")


def start(lab, *more, under=(), env=None, real=False):
    """Start the loop as a process of its own, maybe under another command.

    A real one, as under another command, imports all anew, and so do its jobs.
    """
    python = PYTHON if real or under or env else sys.executable
    with open(lab / "loop.log", "a") as file:
        loop = subprocess.Popen(
            [*under, python, "-m", AUTO_PROCESSING, *options(*more)],
            stdout=file,
            stderr=file,
            env=(env or os.environ) | {"AMSTRAX_LOG_FOLDER": str(lab / "logs")},
        )
    _started.append(loop)
    return loop


def wait_for(condition, lab=None):
    """Wait until something is so."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, (lab / "loop.log").read_text() if lab else "not so"
        time.sleep(0.1)


def written(path):
    """Return what is in a status file; nothing before it is written."""
    return json.loads(path.read_text()) if path.exists() else {}


def attempts(lab):
    """Return the runs that jobs were submitted for, one for each job."""
    return sorted(path.parent.name for path in (lab / "jobs").glob("*/*.sh"))


def check_trends(*names, flags=0):
    """Check that each run has one row of trends, with so many broken limits."""

    def rows():
        return connection.read_trends(get_trends_collection("xams"))

    # Jobs write them when the run is done
    wait_for(lambda: sorted(row["name"] for row in rows()) == list(names))
    for row in rows():
        assert row["error"] is None and row["values"]["noise_1"] > 0.001
        assert len(row["flags"]) == flags and row["is_flagged"] == bool(flags)


def check_data(lab, number):
    """Check that a run's data is registered once, and is what there is to load."""
    document = documents.find_run(runs(), number)
    entries = documents.data_of(document, type=TARGET)
    assert len(entries) == 1
    st = contexts.xams(output_folder=str(lab / "nowhere"))
    raw = st.get_array(f"{number:06d}", TARGET, progress_bar=False)
    assert len(raw) > 100
    assert np.all(np.diff(raw["time"]) >= 0)


def test_runs_are_processed_and_it_ends_when_told(lab):
    loop = start(lab, "--trends", '--trend_limit={"noise_1": [null, 0.001]}', real=True)
    wait_for(are("done", "done"), lab)
    status_path = lab / "logs/auto_processing_xams.json"
    wait_for(lambda: written(status_path).get("done") == 2, lab)
    now = json.loads(status_path.read_text())
    assert (now["state"], now["switch"]) == ("at work", "on")
    assert (now["submitted"], now["failed"], now["waiting"]) == (2, 0, 0)
    assert now["pid"] == loop.pid
    assert abs((datetime.now(UTC) - datetime.fromisoformat(now["time"])).total_seconds()) < LONG
    loop.send_signal(signal.SIGTERM)
    assert loop.wait(LONG) == 0
    text = (lab / "loop.log").read_text()
    assert "ended by SIGTERM: 2 submitted, 2 done, 0 failed, 0 jobs go on" in text
    # A line for each change, not for each round; newest first
    assert len(re.findall("INFO run 000002: job \\S+ submitted", text)) == 1
    assert text.index("run 000002: job") < text.index("run 000001: job")
    assert len(re.findall("INFO run 000001: done", text)) == 1
    (log,) = (lab / "logs").glob("20??-??-??/auto_processing.log")
    assert "run 000001: done" in log.read_text()
    assert json.loads(status_path.read_text())["state"] == "ended"
    for number in (1, 2):
        check_data(lab, number)
    assert attempts(lab) == ["000001", "000002"]
    check_trends("000001", "000002", flags=1)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_how_it_ended_is_in_the_status_file(lab, number):
    runs().delete_many({})
    loop = start(lab)
    path = lab / "logs/auto_processing_xams.json"
    wait_for(lambda: written(path).get("state") == "at work", lab)
    assert written(path)["ended_by"] == ""
    loop.send_signal(number)
    assert loop.wait(LONG) == 0
    name = signal.Signals(number).name
    assert (written(path)["state"], written(path)["ended_by"]) == ("ended", name)
    assert f"ended by {name}: 0 submitted" in (lab / "loop.log").read_text()


_SIGNALLED = """
import signal, sys
from amstrax.commands.base import stop_on_signals
from amstrax.rundb.leases import Stop
stop = Stop()
with stop_on_signals(stop):
    for name in sys.argv[1:]:
        signal.raise_signal(signal.Signals[name])
print(stop.event.is_set(), stop.reason, flush=True)
signal.raise_signal(signal.SIGHUP)
"""


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ("SIGTERM SIGHUP", "SIGTERM"),
        ("SIGHUP SIGTERM", "SIGTERM"),
        ("SIGINT SIGHUP SIGHUP", "SIGINT"),
        ("SIGHUP SIGHUP", "SIGHUP"),
    ],
)
def test_a_further_hang_up_does_not_kill(names, reason):
    """Systemd sends one right after SIGTERM, and terminals several."""
    done = subprocess.run(
        [PYTHON, "-c", _SIGNALLED, *names.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"True {reason}\n", done.stderr
    assert done.stderr == "" and done.returncode == -signal.SIGHUP


def test_nohup_is_respected(lab):
    runs().delete_many({})
    loop = start(lab, under=["nohup"])
    path = lab / "logs/auto_processing_xams.json"
    wait_for(lambda: written(path).get("state") == "at work", lab)
    loop.send_signal(signal.SIGHUP)
    time_then = written(path)["time"]
    wait_for(lambda: written(path)["time"] != time_then, lab)
    assert loop.poll() is None
    loop.terminate()
    assert loop.wait(LONG) == 0
    assert written(path)["ended_by"] == "SIGTERM"


def test_an_error_that_ends_it_is_in_the_status_file(lab):
    documents.add_tag(runs(), 1, "abandon", "operator")
    with pytest.raises(AmstraxError):
        in_process("--run_id=1")
    now = written(lab / "logs/auto_processing_xams.json")
    assert now["state"] == "ended" and "has the tag 'abandon'" in now["ended_by"]


def test_old_scripts_and_logs_are_removed(lab, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setenv("AMSTRAX_KEEP_LOGS", "30")
    runs().delete_many({})
    at_work_ = {"processing_status": {"status": "running"}}
    runs().insert_one({"number": 8} | at_work_)
    get_mongo_collection("xamsl").insert_one({"number": 5} | at_work_)
    old = time.time() - 31 * 86400
    kept, gone = [], []

    def write(name, is_kept, is_old=True):
        path = lab / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if is_old:
            os.utime(path, (old, old))
        (kept if is_kept else gone).append(path)

    stem = "000007-20240102-030405-0123ab"
    for name in (f"jobs/000007/{stem}.sh", f"logs/000007/{stem}.log"):
        write(name, is_kept=False)
    write(f"logs/000007/{stem}.log.condor", is_kept=False)
    write("logs/000007/000007-20240202-030405-0123ab.log", is_kept=True, is_old=False)
    # Those of a run with a job, of either detector, and what is nobody's
    write("jobs/000005/000005-20240102-030405-0123ab.sh", is_kept=True)
    write("logs/000008/000008-20240102-030405-0123ab.log", is_kept=True)
    for name in ("notes", f"{stem}.txt", f".{stem}.sh", "000006-20240102-030405-0123ab.log"):
        write(f"logs/000007/{name}", is_kept=True)
    write(f"logs/{stem}.log", is_kept=True)
    write("logs/2024-01-02/auto_processing.log", is_kept=True)
    (lab / "elsewhere").mkdir()
    write(f"elsewhere/{stem}.log", is_kept=True)
    (lab / "logs/000009").symlink_to(lab / "elsewhere")
    (lab / f"logs/000007/{stem}.sh").symlink_to(kept[0])
    in_process("--once", "--dry_run")
    assert all(path.exists() for path in (*kept, *gone))
    in_process("--once")
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in gone)
    assert (lab / f"logs/000007/{stem}.sh").is_symlink()
    assert "3 scripts and logs older than AMSTRAX_KEEP_LOGS are removed" in caplog.text
    monkeypatch.setenv("AMSTRAX_KEEP_LOGS", "x")
    with pytest.raises(InvalidOption, match="AMSTRAX_KEEP_LOGS is 'x'"):
        in_process("--once")


def test_another_loop_may_remove_old_logs_too(tmp_path):
    """Folders that are gone before they are looked at are no trouble."""
    old = time.time() - 31 * 86400
    for name in ("000001", "000002"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / f"{name}-20240102-030405-0123ab.log"
        path.touch()
        os.utime(path, (old, old))

    def is_alive(run_id):
        other = {"000001": "000002", "000002": "000001"}[run_id]
        shutil.rmtree(tmp_path / other, ignore_errors=True)
        return False

    assert remove_old_job_files([tmp_path], 30 * 86400, is_alive) == 1


@pytest.mark.slow
def test_killed_and_started_again_it_goes_on(lab):
    all_done = are("done", "done")
    # One at a time: the first is killed when run 2 is submitted, the next when run 1 is, and the
    # third goes on to the end. One that is killed while it submits: see test_submit_stbc.py
    for condition in (begun(2), begun(1), all_done):
        loop = start(lab, "--max_jobs=1")
        wait_for(condition, lab)
        loop.kill()
        loop.wait()
    assert all_done()
    for number in (1, 2):
        check_data(lab, number)
        assert documents.failures_of(documents.find_run(runs(), number)) == 0
    # No job was lost sight of, so none was submitted again
    logs = sorted(p.parent.name for p in (lab / "logs").glob("0*/*.log") if p.stat().st_size)
    assert logs == ["000001", "000002"]


@pytest.mark.slow
def test_two_at_once_do_not_collide(lab, simulated):
    add_run(lab, simulated, 3, 1)
    check_two_loops(lab)


@pytest.mark.parametrize("offset", ["+20m", "-20m"])
def test_a_loop_whose_clock_is_wrong(offset, mongo_server, lab, simulated, monkeypatch):
    """It does not take a run from the one who processes it."""
    use_server(mongo_server, monkeypatch)
    (lab / "live/000001").unlink()
    add_run(lab, simulated, 1)
    leases.claim(runs(), 1, "somebody", 600)
    documents.set_status(runs(), 1, "running", owner="somebody")
    before = documents.find_run(runs(), 1)
    loop = start(lab, "--once", env=with_clock(offset))
    assert loop.wait(LONG) == 0
    assert "ended: 0 submitted" in (lab / "loop.log").read_text()
    assert attempts(lab) == [] and documents.find_run(runs(), 1) == before


def test_two_at_once_do_not_collide_on_a_server(mongo_server, lab, simulated, monkeypatch):
    use_server(mongo_server, monkeypatch)
    for number in (1, 2):
        (lab / f"live/{number:06d}").unlink()
        add_run(lab, simulated, number)
    add_run(lab, simulated, 3, 1)
    check_two_loops(lab, "--trends")
    check_trends("000001", "000002", "000003")


def check_two_loops(lab, *more):
    """Check that of two loops runs 1 to 3 are processed once."""
    loops = [start(lab, "--max_jobs=2", *more) for _ in range(2)]
    wait_for(are(*["done"] * 3), lab)
    for loop in loops:
        loop.send_signal(signal.SIGTERM)
    assert [loop.wait(LONG) for loop in loops] == [0, 0]
    logs = sorted(p.parent.name for p in (lab / "logs").glob("0*/*.log") if p.stat().st_size)
    assert logs == ["000001", "000002", "000003"]
    assert "ERROR" not in (lab / "loop.log").read_text()


def test_a_run_that_fails_is_tried_again_and_given_up(lab, simulated, caplog):
    caplog.set_level("INFO")
    runs().delete_one({"number": 2})
    live = lab / "live/000001"
    live.unlink()
    shutil.copytree(simulated / "000001", live)
    next(live.glob("000000/*")).write_bytes(b"nonsense")
    in_process("--max_failures=2", until=lambda: "failure 2: given up" in caplog.text)
    word, reason = status(1)
    assert word == "failed"
    assert str(live) in reason
    assert documents.failures_of(documents.find_run(runs(), 1)) == 2
    in_process("--max_failures=2", "--once")
    assert attempts(lab) == ["000001", "000001"]
    with pytest.raises(AmstraxError, match=f"run 000001 is given up: .*{live}"):
        in_process("--max_failures=2", "--run_id=1")
    # Mended, and tagged: it is tried again, as often as any other
    shutil.rmtree(live)
    live.symlink_to(simulated / "000001")
    documents.add_tag(runs(), 1, "process", "operator")
    in_process("--max_failures=2", "--run_id=1")
    document = documents.find_run(runs(), 1)
    assert documents.status_of(document).status == "done"
    assert documents.tags_of(document) == []
    assert documents.failures_of(document) == 0
    check_data(lab, 1)
    said = [record.getMessage() for record in caplog.records]
    assert any("(failure 1 of 2)" in line and "000001" in line for line in said)
    assert any("failure 2: given up. Correct the cause, then tag" in line for line in said)


def test_killed_job(lab, simulated):
    runs().delete_one({"number": 2})
    # Without the end of its live data the job waits for that
    live = lab / "live/000001"
    live.unlink()
    shutil.copytree(simulated / "000001", live)
    (live / "THE_END").rename(lab / "the_end")

    def kill_once():
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or ()
            if not any("process_run" in word for word in words) or "000001" not in words:
                continue
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                # Other tests may have a run of this number, and jobs for it
                if process.cwd() == str(lab):
                    process.kill()
                    return True
        return False

    in_process(until=kill_once)
    (lab / "the_end").rename(live / "THE_END")
    in_process(until=lambda: documents.failures_of(documents.find_run(runs(), 1)) == 1)
    (failure,) = documents.find_run(runs(), 1)["processing_failures"]
    assert "killed" in failure["reason"]
    assert "logs/000001" in failure["reason"]
    in_process(until=are("done"))
    check_data(lab, 1)


def test_switch(lab, caplog):
    from amstrax.rundb.connection import get_collection

    caplog.set_level("INFO")
    switches = get_collection("daq", "processing")
    switches.insert_one({"name": "auto_processing", "status": "off"})
    in_process("--once")
    assert are("pending", "pending")()
    assert attempts(lab) == []
    assert "daq.processing says that automatic processing is off: submitting nothing" in caplog.text
    state = json.loads((lab / "logs/auto_processing_xams.json").read_text())
    assert (state["switch"], state["waiting"]) == ("off", 2)
    switches.update_one({"name": "auto_processing"}, {"$set": {"status": "on"}})
    in_process("--once", "--max_jobs=1")
    assert attempts(lab) == ["000002"]


def test_dry_run_changes_nothing(lab, capsys):
    documents.add_tag(runs(), 1, "process", "operator")
    before = [transfer.to_json(document) for document in runs().find({})]
    files = sorted(lab.rglob("*"))
    assert cli.main(["auto", *options("--dry_run")]) == 0
    assert [transfer.to_json(document) for document in runs().find({})] == before
    out = capsys.readouterr().out
    for number in (1, 2):
        assert f"amstrax-xams-{number:06d}-xams-{TARGET}" in out
    assert "process_run" in out
    assert sorted(set(lab.rglob("*")) - set(files)) == []


def test_one_run(lab):
    assert cli.main(["auto", *options("--run_id=2")]) == 0
    assert are("pending", "done")()
    check_data(lab, 2)


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--run_id=99"], 1, "run 000099 is not in the run database"),
        (["--engine=torque"], 2, "no engine 'torque'"),
        (["--target=peeks"], 2, "--target peeks: no context makes it; did you mean peaks"),
        (["--max_jobs=0"], 2, "'0' is not a positive whole number"),
        (["--run_id=1"], 1, "run 000001 has the tag 'abandon'"),
    ],
)
def test_bad_input(lab, capfd, caplog, more, code, words):
    documents.add_tag(runs(), 1, "abandon", "operator")
    try:
        status_ = cli.main(["auto", *options(*more)])
    except SystemExit as error:
        status_ = error.code
    assert status_ == code
    assert words in caplog.text + capfd.readouterr().err


def test_run_database_away_and_back(lab, monkeypatch, simulated, tmp_path_factory):
    server = MongoServer(tmp_path_factory.mktemp("mongo"))
    try:
        user = "writer"
        password = quote_plus(MONGO_USERS[user][0])
        monkeypatch.setenv(
            "AMSTRAX_MONGO_URI", f"mongodb://{user}:{password}@{LOCALHOST}:{server.port}"
        )
        monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "120")
        (lab / "live/000001").unlink()
        add_run(lab, simulated, 1)
        server.kill()
        with monkeypatch.context() as patch:
            patch.setenv("AMSTRAX_RUNDB_TIMEOUT", "1")
            loop = start(lab)
        path = lab / "logs/auto_processing_xams.json"
        wait_for(lambda: written(path).get("trouble"), lab)
        assert json.loads(path.read_text())["state"] == "in trouble"
        # It is said once, not in each round
        times = set()
        wait_for(lambda: times.add(written(path)["time"]) or len(times) > 1, lab)
        assert (lab / "loop.log").read_text().count("trying again, jobs go on") == 1
        assert loop.poll() is None
        server.start()
        wait_for(are("done"), lab)
        loop.terminate()
        assert loop.wait(LONG) == 0
        text = (lab / "loop.log").read_text()
        assert "the error is over: continuing" in text
        assert password not in text
        check_data(lab, 1)
    finally:
        server.kill()


# What is wrong with one run, or with what is kept of its job, is that run's own failure


def nested(depth):
    """Return a document in a document in a document, so deep."""
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


NO_END = {"end": "yesterday"}
#: Odd fields of a document, and words of the reason for which its run has failed
ODD_DOCUMENTS = {
    "end is no time": (NO_END, "end of run .* is 'yesterday'"),
    "end is NaN": ({"end": math.nan}, "end of run .* is nan"),
    "end is a decimal": ({"end": Decimal128("1")}, "end of run .* is Decimal128"),
    "start is missing": ({"start": None}, "has no start"),
    "start is a number": ({"start": 5}, "start of run .* is 5"),
    "settings are a number": ({"daq_config": 5}, "has no daq_config"),
    "settings are nested deeply": (
        {"daq_config": {"processing_threads": nested(80)}},
        "processing_threads of run",
    ),
    "no threads": ({"daq_config": {"processing_threads": {}}}, "processing_threads of run"),
    "length is NaN": (
        {"daq_config": {"processing_threads": {"a": 1}, "strax_chunk_length": math.nan}},
        "strax_chunk_length of run",
    ),
    "length is a decimal": (
        {"daq_config": {"processing_threads": {"a": 1}, "strax_chunk_length": Decimal128("5")}},
        "strax_chunk_length of run",
    ),
    "data is a number": ({"data": 5}, "data of the run .* is a int"),
    "data is somebody's who is not there": (
        {"data": [{"type": "live", "location": "~nobody_here/x"}]},
        "live data|determine home",
    ),
    "name leads elsewhere": ({"name": "../000001"}, "cannot be the name of its folder"),
    "name has a slash": ({"name": "a b/c"}, "cannot be the name of its folder"),
    "name has a zero": ({"name": "a\0b"}, "cannot be the name of its folder"),
    "number is a text": ({"number": "777", "name": None}, "is not in the run database"),
    "number is beyond all": ({"number": 2**62, "name": None}, "neither number nor name"),
    "number is a decimal": ({"number": Decimal128("7"), **NO_END}, "yesterday"),
    "neither number nor name": ({"number": None, "name": None}, "neither number nor name"),
    "one of two documents": ({"number": 90, "name": "000090"}, "run 000090 has several documents"),
    "the other document": ({"number": 90, "name": "000090"}, "run 000090 has several documents"),
    "status is a number": ({"processing_status": 5, **NO_END}, "yesterday"),
    "status is a list": ({"processing_status": [{"a": "pending"}, None], **NO_END}, "yesterday"),
    "failures are a text": ({"processing_failures": "many", **NO_END}, "yesterday"),
    "number of failures is NaN": (
        {"processing_failed": math.nan, "processing_status": "pending", **NO_END},
        "yesterday",
    ),
    "number of failures is a decimal": (
        {"processing_failed": Decimal128("1"), "processing_status": "pending", **NO_END},
        "yesterday",
    ),
    "number of failures is beyond all": (
        {"processing_failed": 2**63 - 1, "processing_status": "pending", **NO_END},
        "yesterday",
    ),
    "tags are a text": ({"tags": "process", **NO_END}, "yesterday"),
    "tags are a document": ({"tags": {"name": "process"}, **NO_END}, "yesterday"),
    "tags are nested deeply": ({"tags": nested(80), **NO_END}, "yesterday"),
    "mode is a document": ({"mode": {"a": [1]}, "daq_config": 5}, "has no daq_config"),
    "_id is a document": ({"_id": {"a": 1}, **NO_END}, "yesterday"),
    # As a text, a server does not find it
    "name is code": (
        {"name": Code("x")},
        "cannot be the name of its folder|is not in the run database",
    ),
    "status is code": ({"processing_status": Code("x"), "tags": "process", **NO_END}, "yesterday"),
    "status says code": (
        {"processing_status": {"status": Code("pending")}, "tags": "process", **NO_END},
        "yesterday",
    ),
    "tags are code": ({"tags": ["process", Code("x")], **NO_END}, "yesterday"),
}


def at_work(job_id, expires=None):
    """Return fields of a run that a job of the local engine is at work on."""
    attempt = f"attempt{job_id}"
    job = {"attempt": attempt, "engine": "local", "job_id": job_id, "host": documents.this_host()}
    claim = {"owner": f"{attempt}.x", "expires": expires}
    return {
        "processing_status": {"status": "running", "time": datetime(2024, 1, 1)},
        "processing_job": job,
        **({"processing_claim": claim} if expires else {}),
    }


LONG_AGO, FAR = datetime(2024, 1, 1), datetime(2124, 1, 1)
#: The same for jobs whose state is broken
BROKEN_JOBS = {
    "on another machine, silent": (at_work("1@elsewhere", LONG_AGO), "submitted on elsewhere"),
    "on another machine, never begun": (at_work("2@elsewhere"), "submitted on elsewhere"),
    "with an id that leads elsewhere": (at_work(f"../9@{socket.gethostname()}"), "not an id of"),
    "with an endless id": (at_work(f"{'9' * 300}@{socket.gethostname()}"), "not an id of"),
    "with empty files": (at_work(f"7@{socket.gethostname()}"), "does not know it"),
    "with an exit code that is none": (
        at_work(f"8@{socket.gethostname()}"),
        "an invalid exit code 'x'",
    ),
}


@pytest.fixture(params=["embedded", "mongo"])
def store(request, monkeypatch):
    """The embedded run database, or a server's."""
    if request.param == "mongo":
        use_server(request.getfixturevalue("mongo_server"), monkeypatch)
    return request.param


@pytest.mark.slow
def test_odd_runs_are_their_own_failures(store, lab, simulated, caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr(documents, "_warned", set())
    runs().delete_many({})
    good = range(1, 6)
    for number in good:
        with contextlib.suppress(FileNotFoundError):
            (lab / "live" / f"{number:06d}").unlink()
        add_run(lab, simulated, number, 1)
    plain = documents.find_run(runs(), 1)
    ids = {}

    def add(kind, number, fields):
        document = plain | {"_id": number, "number": number, "name": f"{number:06d}"} | fields
        ids[kind] = document["_id"]
        for entry in document["data"] if isinstance(document["data"], list) else ():
            entry["host"] = documents.this_host()
        runs().insert_one({k: v for k, v in document.items() if (k, v) != ("name", None)})
        name = documents.name_of(document)
        for folder in (f"{number:06d}", name):
            if folder and folder.isdigit() and "nobody" not in str(document["data"]):
                with contextlib.suppress(FileExistsError):
                    (lab / "live" / folder).symlink_to(simulated / "000001")

    kinds = ODD_DOCUMENTS | BROKEN_JOBS
    for i, (kind, (fields, _)) in enumerate(kinds.items()):
        add(kind, 100 + i, copy.deepcopy(fields))
    # What is in the way of a job, state of the engine after a power cut, odd folders of live data
    for number, folder in ((200, "jobs"), (201, "logs")):
        kind, path = f"its folder in {folder} is a file", lab / folder / f"{number:06d}"
        kinds[kind] = ({}, str(path))
        add(kind, number, {})
        path.parent.mkdir()
        path.touch()
    add("at work on another machine", 400, at_work("3@elsewhere", FAR))
    add("whose _id is none", 401, {"_id": math.nan, **NO_END})
    engine = LocalEngine()
    for number, name, text in ((7, "job.json", ""), (8, "exit.json", '{"code": "x"}')):
        (engine.folder / f"jobs/{number}").mkdir(parents=True)
        (engine.folder / f"jobs/{number}" / name).write_text(text)
    (engine.folder / "last").touch()
    (lab / "live" / ("9" * 30)).mkdir()
    os.mkdir(os.fsencode(lab / "live") + b"/\xff")

    def document(kind):
        return runs().find_one({"_id": ids[kind]})

    def all_have_ended():
        words = [documents.status_of(documents.find_run(runs(), n)).status for n in good]
        words += [documents.status_of(document(kind)).status for kind in kinds]
        return {*words} <= {"done", "failed"} and "000401" in caplog.text

    in_process("--max_failures=1", until=all_have_ended)
    for number in good:
        check_data(lab, number)
        assert documents.failures_of(documents.find_run(runs(), number)) == 0
    for kind, (_, words) in kinds.items():
        status_ = documents.status_of(document(kind))
        assert status_.status == "failed", kind
        assert re.search(words, status_.reason), (kind, status_.reason)
        assert document(kind)["processing_failures"][-1]["reason"] == status_.reason
    elsewhere = document("at work on another machine")
    assert documents.status_of(elsewhere).status == "running"
    said = [record.getMessage() for record in caplog.records if record.levelname != "INFO"]
    # An _id of NaN: what cannot be recorded is logged, less often each time
    assert 1 <= sum("000401" in line for line in said) <= 5
    said = [line for line in said if "000401" not in line]
    assert sum("holds no number: counting on from the jobs" in line for line in said) == 1
    assert sum("000090 has 2 documents" in line for line in said) == 1
    # Each is said once, also the two of one number; no round has failed for it
    assert len(said) == len({*said}) + 1 == len(kinds) + 2, said
    assert not any("this round failed" in line or "trying again" in line for line in said)
    # Further rounds have nothing to say
    caplog.clear()
    for _ in range(3):
        in_process("--max_failures=1", "--once")
    again = [r.getMessage() for r in caplog.records if r.levelname != "INFO"]
    assert all("000401" in line for line in again) and len(again) <= 3


def test_jobs_that_are_all_refused_are_not_the_runs_fault(lab, simulated, monkeypatch):
    """Three runs have failed by then; the others are tried one by one, until a job is taken."""
    for number in range(3, 8):
        add_run(lab, simulated, number, 1)
    tried = []

    def refuse(_engine, job):
        tried.append(int(job.run_id))
        raise JobRefused("no queue 'long': take 'short'")

    args = auto_processing.parse_args(options("--max_jobs=9"))
    loop = auto_processing.Loop(auto_processing.LoopOptions.of(args, submitting.find_work(args)))
    with monkeypatch.context() as patch:
        patch.setattr(LocalEngine, "submit", refuse)
        for n_tried in (3, 4, 5):
            with pytest.raises(JobRefused, match=f"{n_tried} jobs in a row are refused: no queue"):
                loop.round()
    assert tried == [7, 6, 5, 4, 3]
    assert are("pending", "pending", "pending", "pending", "failed", "failed", "failed")()
    # Those that were tried rest for a while
    loop.round()
    assert begun(1)() and begun(2)() and status(3)[0] == "pending"
