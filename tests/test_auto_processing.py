"""The automatic loop, with the engine of this machine and real jobs; other engines: test_day.py."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from urllib.parse import quote_plus

import numpy as np
import psutil
import pytest
from bson import json_util
from servers import LOCALHOST, MONGO_USERS, MongoServer

from amstrax import cli, contexts, simulation
from amstrax.auto_processing import auto_processing
from amstrax.auto_processing.jobs import Stop
from amstrax.exceptions import AmstraxError
from amstrax.rundb import documents, get_mongo_collection, transfer

TARGET = "raw_records"
#: More than anything here takes on a slow machine with much to do [s]
LONG = 240


# Loops that a test has started: none outlives it
_started: list[subprocess.Popen] = []


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Folder with live data of two runs, of a second each."""
    folder = tmp_path_factory.mktemp("simulated")
    for number in (1, 2):
        simulation.simulate(
            f"{number:06d}", folder, rate=20, duration=1, seed=number, yields="simple"
        )
    return folder


@pytest.fixture
def lab(tmp_path, monkeypatch, simulated):
    """A machine with live data of two runs, folders for data, and an embedded run database."""
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
    documents.add_run(runs(), json_util.loads(json.dumps(document)))


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
    auto_processing.run(args, stop)


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


def start(lab, *more):
    """Start the loop as a process of its own."""
    with open(lab / "loop.log", "a") as file:
        loop = subprocess.Popen(
            [sys.executable, "-m", "amstrax.auto_processing.auto_processing", *options(*more)],
            stdout=file,
            stderr=file,
            env=os.environ | {"AMSTRAX_LOG_FOLDER": str(lab / "logs")},
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
    loop = start(lab)
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


def test_two_at_once_do_not_collide(lab, simulated):
    add_run(lab, simulated, 3, 1)
    loops = [start(lab, "--max_jobs=2") for _ in range(2)]
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
    assert any("failure 2: given up. Mend the reason, then tag" in line for line in said)


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
        assert "that is over: going on" in text
        assert password not in text
        check_data(lab, 1)
    finally:
        server.kill()
