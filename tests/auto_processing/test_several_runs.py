"""Several runs in one job: each is processed by itself, and what crashes costs only itself."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from make_jobs import SHORT, add_run, copy_run, end_run, wait

from amstrax import contexts
from amstrax.auto_processing import (
    amstraxer,
    auto_processing,
    engines,
    loop,
    process_run,
    submit_stbc,
    submitting,
)
from amstrax.auto_processing.amstraxer import ProcessingOptions
from amstrax.auto_processing.engines.base import JobState
from amstrax.auto_processing.grouping import Grouping
from amstrax.auto_processing.loop import Followed
from amstrax.exceptions import InvalidOption, RunNotFound
from amstrax.rundb import RunDB, documents, leases

TARGET = "--target=raw_records"


@pytest.fixture
def live(tmp_path, monkeypatch) -> Path:
    """Folder for the live data of the runs of a test."""
    folder = tmp_path / "live"
    folder.mkdir()
    monkeypatch.setenv("XAMS_LIVE_DATA", str(folder))
    return folder


@pytest.fixture
def make_runs(runs, live, live_runs):
    """Add copies of the short run to the run database, and return their names."""

    def make(n: int, first: int = 1, end: bool = True) -> list[str]:
        names = [f"{number:06d}" for number in range(first, first + n)]
        for name in names:
            copy_run(live_runs, live, SHORT, end)
            (live / SHORT).rename(live / name)
            add_run(runs, live_runs, number=int(name), name=name)
        return names

    return make


@pytest.fixture
def engine(monkeypatch):
    """The engine of this machine; its jobs end with the test."""
    engine = engines.get("local")
    engine.slots, engine.grace = 2, 60
    monkeypatch.setattr(engines.base, "get", lambda name: engine)
    yield engine
    for job in engine.jobs():
        engine.cancel(job.job_id)
    wait(lambda: not engine.jobs())


@pytest.fixture
def forked(served_scripts, monkeypatch):
    """Let the process that works for this one fork from the server."""
    monkeypatch.setattr(sys, "executable", str(served_scripts / "python"))


@pytest.fixture
def submit(runs, engine, tmp_path):
    """Submit groups of runs as jobs that make raw records."""

    def submit_(*groups, reset_failures=False, on=engine, **options):
        processing = ProcessingOptions(("raw_records",), "xams", output_folder=tmp_path / "out")
        folders = (tmp_path / "jobs", tmp_path / "logs")
        template = submitting.make_job_template(processing, *folders, **options)
        return submitting.submit_groups(template, groups, runs, on, reset_failures)

    return submit_


def status(runs, run_id):
    return documents.status_of(documents.find_run(runs, run_id))


def statuses(runs, names):
    return [status(runs, name).status for name in names]


def failures(runs, run_id):
    return documents.failures_of(documents.find_run(runs, run_id))


def round_of_the_loop(runs, engine):
    """Settle the jobs that have ended, as the loop does."""
    followed = loop.followed_runs(runs, "local")
    states = loop.job_states(engine, followed)
    begun = loop.begun_jobs(runs, followed, states)
    for run in followed:
        loop.settle(runs, engine, run, states[run.attempt], 3, begun)


def child_of(engine, job_id) -> psutil.Process:
    """Return the process at work of a local job."""
    started = engine.folder / "jobs" / job_id.partition("@")[0] / "started.json"
    parent = psutil.Process(int(re.search(r'"pid": (\d+)', started.read_text())[1]))
    return wait(lambda: parent.children())[0]


def is_waiting(log: Path, runs, run_id):
    """Wait until a job waits for the live data of a run."""
    wait(lambda: log.exists() and f"run {run_id}: its live data has not ended" in log.read_text())
    wait(lambda: status(runs, run_id).status == "running", log.read_text)


# ---------------------------------------------------------------------------------- one command


@pytest.mark.usefixtures("forked")
def test_each_run_is_processed_by_itself(runs, live, make_runs, live_runs, tmp_path, capfd):
    """Good ones, one whose live data is damaged, one that is not known, one that is taken."""
    good, damaged, busy, taken, last = make_runs(5)
    shutil.rmtree(live / damaged / "000000")
    leases.claim(runs, busy, "other.job", 600)
    runs.update_one({"name": taken}, {"$set": {"end": None}})
    names = [good, damaged, "000077", busy, taken, good, last]
    options = ["--target=peak_basics", f"--output_folder={tmp_path / 'out'}", "--no-progress"]
    assert process_run.main([*names, *options]) == 1
    said = capfd.readouterr().err
    assert statuses(runs, (good, damaged, last)) == ["done", "failed", "done"]
    assert "chunk 0 is missing" in status(runs, damaged).reason
    assert statuses(runs, (busy, taken)) == ["pending", "pending"]
    for text in (
        f"run {good} is named more than once: it is processed once",
        "run 000077 is not in the run database",
        f"run {busy} is processed by",
        f"run {taken} is still being taken",
        "6 runs: 2 done, 3 failed, 1 left to another process, 0 not begun",
    ):
        assert text in said
    assert said.count(f"run {good} done in") == 2  # making it, and all of it
    # Equal data, though one process made it after others
    st = contexts.xams(storage=[RunDB(collection=runs)])
    one, two = (st.get_array(run_id, "peak_basics", progress_bar=False) for run_id in (good, last))
    assert len(one) > 10
    np.testing.assert_array_equal(one, two)


def test_words_that_are_no_runs(runs, make_runs, capsys):
    """Nothing is processed then."""
    names = make_runs(1)
    for words, text in (
        (["x1"], "'x1' is no run id"),
        (["7", "--attempt", "a"], "--attempt names 1 attempts: name one for each run"),
    ):
        with pytest.raises(SystemExit, match="2"):
            process_run.main([*names, *words, TARGET])
        assert text in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        amstraxer.main([*names, "8", "--testing_rundoc={}"])
    assert statuses(runs, names) == ["pending"]


@pytest.mark.usefixtures("forked")
def test_all_left_to_others(runs, make_runs, tmp_path):
    names = make_runs(2)
    for name in names:
        leases.claim(runs, name, "other.job", 600)
    assert process_run.main([*names, TARGET, f"--output_folder={tmp_path}", "--no-progress"]) == 75


@pytest.mark.usefixtures("forked")
def test_wrong_use_of_all(runs, make_runs, tmp_path):
    """As of one run."""
    assert process_run.main([*make_runs(2), "--target=nonsense", "--no-progress"]) == 2


@pytest.fixture
def start(tmp_path):
    """Start a tool, whose child writes into the same file; return the process and the file."""
    processes = []

    def start_(module, *arguments):
        log = tmp_path / f"log_{len(processes)}"
        command = [sys.executable, module.__file__, *arguments, "--no-progress"]
        with log.open("w") as file:
            processes.append(subprocess.Popen(command, stderr=file))
        return processes[-1], log

    yield start_
    for process in processes:
        process.kill()
        process.wait()


def says(log: Path, text: str) -> None:
    wait(lambda: text in log.read_text(), log.read_text)


def test_amstraxer_takes_several_runs(make_runs, live, tmp_path, start):
    """One that is being taken is the last."""
    taken, *others = make_runs(1, end=False) + make_runs(2, first=2)
    shutil.rmtree(live / others[0] / "000000")
    out = tmp_path / "out"
    tool, log = start(amstraxer, taken, *others, TARGET, f"--output_folder={out}")
    says(log, f"run {others[1]} done")
    says(log, f"run {taken}: its live data has not ended: after the other runs")
    end_run(live, taken)
    assert tool.wait() == 1
    assert "3 runs: 2 done, 1 failed" in log.read_text()
    made = {path.name[:6] for path in out.glob("*-raw_records-*")}
    assert made == {taken, others[1]}


@pytest.mark.usefixtures("forked")
def test_memory_does_not_grow(make_runs, tmp_path, capfd):
    names = make_runs(30)
    options = ["--target=peak_basics", f"--output_folder={tmp_path / 'out'}", "--no-progress"]
    assert process_run.main([*names, *options]) == 0
    memory = [int(mb) for mb in re.findall(r"chunk 0, .* (\d+) MiB", capfd.readouterr().err)]
    assert len(memory) == 30
    # A run has 0.3 MB of raw records, and more than 1 MB of context, plugins and buffers
    assert max(memory[10:]) - memory[10] < 10


# ------------------------------------------------------------------------------- jobs of several


def test_a_process_that_dies_costs_one_run(runs, live, make_runs, submit, engine):
    """A waits for its live data, which lets B and C go first. Its process is killed."""
    a, b, c, d = make_runs(1, end=False) + make_runs(2, first=2) + make_runs(1, first=4, end=False)
    results = submit([a, b, c, d])
    assert {result.state for result in results} == {"submitted"}
    assert len({result.job_id for result in results}) == 1
    job = documents.job_of(documents.find_run(runs, b))
    log = Path(job["log"])
    assert job["n_runs"] == 4 and job["job_id"] == results[0].job_id
    is_waiting(log, runs, a)
    assert statuses(runs, (b, c, d)) == ["done", "done", "submitted"]
    child_of(engine, results[0].job_id).send_signal(signal.SIGSEGV)
    wait(lambda: status(runs, a).status == "failed", log.read_text)
    assert re.search(r"killed by signal 11 \(SIGSEGV\): a bug in compiled", status(runs, a).reason)
    wait(lambda: not documents.find_run(runs, a).get("processing_claim"))
    document = documents.find_run(runs, a)
    assert documents.failures_of(document) == 1
    (failure,) = document["processing_failures"]
    assert failure["log"] == str(log) and str(log) in failure["reason"]
    # The failed one may be submitted again while the others are at work
    wait(lambda: status(runs, d).status == "running", log.read_text)
    (again,) = submit([a])
    assert again.state == "submitted" and again.job_id != results[0].job_id
    end_run(live, a)
    end_run(live, d)
    wait(lambda: not engine.jobs())
    assert statuses(runs, (a, b, c, d)) == ["done"] * 4
    assert engine.state(results[0].job_id).exit_code == 1
    assert "4 runs: 3 done, 1 failed" in log.read_text()


@pytest.mark.parametrize("how", ["the parent is killed", "the job is cancelled"])
def test_a_job_that_ends_early(how, runs, live, make_runs, submit, engine):
    """The run at work has failed, the one that was not begun is pending, without a failure."""
    a, b, c = make_runs(1, end=False) + make_runs(1, first=2) + make_runs(1, first=3, end=False)
    first, *_ = submit([a, b, c])
    log = Path(documents.job_of(documents.find_run(runs, a))["log"])
    is_waiting(log, runs, a)
    if how == "the job is cancelled":
        engine.cancel(first.job_id)
        wait(lambda: not engine.jobs())
        # The job itself says so, and no loop is needed
        assert "stopped by SIGTERM" in status(runs, a).reason
        assert status(runs, c).reason == "not begun: its job was stopped by SIGTERM"
    else:
        child = child_of(engine, first.job_id)
        with suppress(psutil.NoSuchProcess):
            child.parent().kill()
        wait(lambda: not engine.jobs())
        wait(lambda: not child.is_running())
        assert statuses(runs, (a, c)) == ["running", "submitted"]
        # A loop that was killed after it had recorded the job has the lease, for long
        dead = re.sub(r"/\d+/\d+/", "/1/1/", leases.new_owner(leases.OWNER_PREFIX))
        assert leases.claim(runs, c, dead)
        round_of_the_loop(runs, engine)
        assert "killed by signal 9" in status(runs, a).reason
    assert statuses(runs, (a, b, c)) == ["failed", "done", "pending"]
    assert [failures(runs, name) for name in (a, b, c)] == [1, 0, 0]
    assert documents.find_run(runs, a).get("processing_claim") is None
    again = submit([a, b, c], dry_run=True)
    assert [result.state for result in again] == ["dry run"] * 3


def test_a_job_that_is_cancelled_at_its_start(runs, make_runs, submit, engine):
    """While it imports strax: all its runs are pending again."""
    names = make_runs(2)
    first, _ = submit(names)
    wait(lambda: engine.state(first.job_id).state == "running")
    child_of(engine, first.job_id)
    engine.cancel(first.job_id)
    wait(lambda: not engine.jobs())
    assert statuses(runs, names) == ["pending", "pending"]
    assert [failures(runs, name) for name in names] == [0, 0]


def test_a_command_whose_parent_is_killed(runs, live, make_runs, tmp_path, start):
    """Without an engine, its child ends after the chunk, and gives back what it has."""
    a, b = make_runs(2, end=False)
    out = f"--output_folder={tmp_path / 'out'}"
    for name, attempt in ((a, "a1"), (b, "a2")):
        documents.set_status(runs, name, "submitted", job={"attempt": attempt, "engine": "local"})
    tool, log = start(process_run, a, b, TARGET, out, "--attempt", "a1", "a2")
    says(log, f"run {b}: its live data has not ended")
    wait(lambda: status(runs, a).status == "running")
    (child,) = psutil.Process(tool.pid).children()
    tool.kill()
    wait(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert "stopped by the death of its parent process" in status(runs, a).reason
    assert documents.find_run(runs, a).get("processing_claim") is None
    assert statuses(runs, (a, b)) == ["failed", "pending"]


def test_a_job_that_begins_nothing(runs, make_runs, submit, engine, tmp_path):
    """All its runs have failed, as of jobs for one run: else they would be submitted for ever."""
    script = tmp_path / "broken"
    script.write_text("#!/bin/sh\nexit 3\n")
    script.chmod(0o755)
    names = make_runs(3)
    submit(names, script=script)
    wait(lambda: not engine.jobs())
    round_of_the_loop(runs, engine)
    assert statuses(runs, names) == ["failed"] * 3
    assert [failures(runs, name) for name in names] == [1] * 3


def test_too_much_memory_costs_one_run(runs, live, make_runs, submit, engine, tmp_path):
    """The engine kills the process at work, and not the one that starts the next."""
    names = make_runs(2)
    (tmp_path / "greedy.py").write_text(
        "import subprocess, sys\n"
        "for code in ('x = bytearray(400_000_000); import time; time.sleep(60)', 'pass'):\n"
        "    print(subprocess.run([sys.executable, '-c', code]).returncode, flush=True)\n"
    )
    first, _ = submit(names, script=tmp_path / "greedy.py", memory=200)
    log = Path(documents.job_of(documents.find_run(runs, names[0]))["log"])
    wait(lambda: not engine.jobs())
    assert "-9\n" in log.read_text() and "\n0\n" in log.read_text()
    assert "more than its 200 MB: submit it with more (--mem)" in log.read_text()
    assert engine.state(first.job_id).state == "done"


# ------------------------------------------------------------------------------------ submission


@pytest.fixture
def waiting_script(tmp_path) -> Path:
    """A job's script that writes its options, and waits until ``go`` is there."""
    path = tmp_path / "script"
    lines = [f"cd {tmp_path}", 'echo "$@" >> said', "until [ -e go ]; do sleep 0.02; done"]
    path.write_text("\n".join(["#!/bin/bash", *lines]) + "\n")
    path.chmod(0o755)
    return path


def test_groups(runs, make_runs, submit, engine, waiting_script, tmp_path, live_runs):
    """Each run has its result, and those that cannot be submitted stay out of their group."""
    names = make_runs(5)
    add_run(runs, live_runs, "000301")  # an LED run
    leases.claim(runs, names[1], "other.job", 600)
    runs.update_one({"name": names[2]}, {"$set": {"tags": [{"name": "abandon"}]}})
    groups = ([*names[:4], "000301", names[0]], ["000077"], [names[4]])
    results = submit(*groups, script=waiting_script)
    states = [result.state for result in results]
    wrong = ["busy", "not submitted"]
    assert states == ["submitted", *wrong, *["submitted"] * 2, "busy", wrong[1], "submitted"]
    assert isinstance(results[6].error, RunNotFound)
    assert [result.run_id for result in results] == [name for group in groups for name in group]
    first, led, alone = results[0], results[4], results[7]
    assert results[3].job_id == first.job_id
    assert len({first.job_id, led.job_id, alone.job_id}) == 3
    assert "records_led" in led.name and alone.name == f"amstrax-xams-{names[4]}-xams-raw_records"
    said = tmp_path / "said"
    wait(lambda: said.exists() and first.attempt in said.read_text())
    (words,) = (line for line in said.read_text().splitlines() if first.attempt in line)
    assert words.startswith(f"{names[0]} {names[3]} --context=xams --detector=xams --attempt ")
    assert f"--attempt {first.attempt} {results[3].attempt} --workers=1" in words
    # All of them are at work, or wait
    again = submit(*groups, script=waiting_script)
    assert [result.state for result in again][:1] == ["alive already"]
    assert again[3][3:6] == (first.job_id, "alive already", results[3].attempt)
    assert documents.find_run(runs, names[0]).get("processing_claim") is None
    # One of them alone too
    assert submit([names[3]])[0].job_id == first.job_id


def test_a_submitter_that_dies_before_it_records_the_job(runs, make_runs, submit, waiting_script):
    """The next one finds the job by the name that is recorded before."""
    names = make_runs(2)
    results = submit(names, script=waiting_script)
    for name in names:
        runs.update_one({"name": name}, {"$set": {"processing_job.job_id": None}})
        documents.set_status(runs, name, "pending")
    again = submit(names, script=waiting_script)
    assert [r[3:6] for r in again] == [(r.job_id, "alive already", r.attempt) for r in results]
    for name in names:
        document = documents.find_run(runs, name)
        assert documents.job_of(document)["job_id"] == results[0].job_id
        assert documents.status_of(document).status == "submitted"


def test_one_run_of_a_job_is_cancelled(runs, make_runs, submit, engine, waiting_script, live):
    """The others go on. With the last one, the job ends."""
    a, b = make_runs(2)
    first, _ = submit([a, b], script=waiting_script)
    assert loop.cancel(runs, engine, a, "me") == f"job {first.job_id} (local)"
    assert status(runs, a)[::3] == ("failed", "cancelled by me") and failures(runs, a) == 0
    assert engine.state(first.job_id).alive and status(runs, b).status == "submitted"
    with pytest.raises(InvalidOption, match="there is no job to end"):
        loop.cancel(runs, engine, a, "me")
    loop.cancel(runs, engine, b, "me")
    wait(lambda: not engine.jobs())


@pytest.mark.usefixtures("forked")
def test_a_cancelled_run_is_not_begun(runs, make_runs, tmp_path):
    a, b = make_runs(2)
    for name, attempt in ((a, "a1"), (b, "a2")):
        documents.set_status(runs, name, "submitted", job={"attempt": attempt, "engine": "local"})
    documents.set_cancelled(runs, a, "a1", "me")
    documents.record_failure(runs, a, "cancelled", "a1")
    options = [TARGET, f"--output_folder={tmp_path / 'out'}", "--no-progress"]
    assert process_run.main([a, b, *options, "--attempt", "a1", "a2"]) == 75
    assert statuses(runs, (a, b)) == ["failed", "done"]
    assert status(runs, a).reason == "cancelled by me"


@pytest.mark.parametrize("word", ["done", "running"])
def test_a_process_that_dies_at_the_end_of_a_run(word, runs, make_runs):
    """What it has recorded stays, and its claim goes."""
    (name,) = make_runs(1)
    documents.set_status(runs, name, word, job={"attempt": "a1", "engine": "local"})
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    prefix, _pid, _start, last = leases.new_owner("a1.job").rsplit("/", 3)
    owner = "/".join((prefix, str(child.pid), leases._start(child.pid), last))
    leases.claim(runs, name, owner, 600)
    child.communicate()
    args = process_run.parse_args([name, "--attempt", "a1", "--detector=xams"])
    process_run.record_crash(args, "killed")
    expected = ("done", 0) if word == "done" else ("failed", 1)
    assert (status(runs, name).status, failures(runs, name)) == expected
    assert documents.find_run(runs, name).get("processing_claim") is None


class Known:
    """Engine that has the job of a test."""

    name = "local"

    def states(self, job_ids):
        return dict.fromkeys(job_ids, JobState("running"))

    def jobs(self):
        return []


def test_jobs_are_counted_and_not_runs(runs, make_runs):
    job = {"engine": "local", "job_id": "5", "host": documents.this_host(), "n_runs": 3}
    for name in make_runs(3):
        own = job | {"attempt": f"a{name}", "name": "amstrax-xams-x.1-xams-peaks"}
        documents.set_status(runs, name, "submitted", job=own)
    followed = loop.followed_runs(runs, "local")
    states = loop.job_states(Known(), followed)
    assert [state.state for state in states.values()] == ["running"] * 3
    assert loop.live_jobs(followed, states) == {"5"}


def test_the_loop_fills_jobs(runs, make_runs, engine, tmp_path, monkeypatch):
    """Two jobs at once, of two runs each, until all are done."""
    monkeypatch.chdir(tmp_path)
    names = make_runs(5)
    args = auto_processing.parse_args(
        [TARGET, "--output_folder=out", "--runs_per_job=2", "--max_jobs=2", "--once"]
    )
    options = auto_processing.LoopOptions.of(args, submitting.find_work(args))
    one = auto_processing.Loop(options)
    one.round()
    assert statuses(runs, names) == ["pending", *["submitted"] * 4]
    assert len(one.alive) == len(engine.jobs()) == 2

    def is_done():
        one.round()
        return set(statuses(runs, names)) == {"done"}

    wait(is_done)
    one.round()
    assert one.counts == {"submitted": 5, "done": 5, "failed": 0}
    jobs = [documents.job_of(documents.find_run(runs, name)).get("n_runs") for name in names]
    assert jobs == [None, 2, 2, 2, 2]


def test_submit_command(runs, make_runs, engine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = make_runs(3)
    options = [TARGET, "--output_folder=out", "--runs_per_job=2", "--no-progress"]
    assert submit_stbc.main([f"{names[0]}-{names[2]}", *options, "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert said.count("#!/bin/bash") == 2 and f"{names[0]} {names[1]} --context" in said
    assert submit_stbc.main([f"{names[0]}-{names[2]}", "77", *options]) == 1
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[1] for row in rows[1:]] == [*["submitted"] * 3, "not"]
    wait(lambda: not engine.jobs())
    assert statuses(runs, names) == ["done"] * 3


# -------------------------------------------------------------------------------- filling of jobs


def test_jobs_are_filled_by_measured_time(runs, make_runs, caplog):
    """Of 100 MB runs that took 10 min each, and one of 500 MB."""
    plan = process_run.Plan(("peaks",), "xams", "xams", ("raw_records",))
    names = make_runs(6)
    for name in names:
        size = 500 if name == names[2] else 100
        entry = {"type": "raw_records", "size_mb": size, "host": "h", "location": "/x"}
        runs.update_one({"name": name}, {"$set": {"data": [entry]}})
    caplog.set_level("INFO")
    grouping = Grouping(job_minutes=25)
    # Unmeasured: 0.1 s per MB, so that all fit
    assert grouping.groups(names, runs, plan) == [names]
    assert "jobs to peaks: no run document" in caplog.text
    assert "0.1 s per MB is assumed" in caplog.text
    times = [documents.datetime(2026, 1, 1, 12, minute, tzinfo=documents.UTC) for minute in (0, 10)]
    history = [
        {"action": "process_run_start", "time": times[0]},
        {"action": "process_run_end", "time": times[1], "status": "done"},
    ]
    job = {"context": "xams", "targets": ["peaks"], "attempt": "a"}
    documents.set_status(runs, names[5], "done", job=job)
    runs.update_one({"name": names[5]}, {"$set": {"processing_history": history}})
    assert grouping.groups(names, runs, plan) == [names[:2], names[2:3], names[3:5], names[5:]]
    assert "6 s per MB, measured with 1 runs" in caplog.text
    # A run with the NaI detector has another target besides
    job["targets"] = ["peaks", "peak_basics_ext"]
    runs.update_one({"name": names[5]}, {"$set": {"processing_job": job}})
    assert grouping.groups(names, runs, plan) == [names[:2], names[2:3], names[3:5], names[5:]]
    job["targets"] = ["event_info"]
    runs.update_one({"name": names[5]}, {"$set": {"processing_job": job}})
    assert grouping.groups(names, runs, plan) == [names]
    job["targets"] = ["peaks"]
    runs.update_one({"name": names[5]}, {"$set": {"processing_job": job}})
    most = Grouping(runs_per_job=1, job_minutes=25).groups(names, runs, plan)
    assert most == [[name] for name in names]
    assert Grouping().groups(names, runs, plan) == most
    assert Grouping(runs_per_job=4).groups(names, runs, plan) == [names[:4], names[4:]]


def test_sizes_of_runs(runs, make_runs, live):
    """Those of the document, or else of the files; unknown runs count as the mean."""
    from amstrax.auto_processing.grouping import PER_RUN, estimated_times, megabytes_of

    plan = process_run.Plan(("peaks",), "xams", "xams", ("raw_records",))
    a, b = make_runs(2)
    files = sum(path.stat().st_size for path in (live / a).rglob("*") if path.is_file())
    assert megabytes_of(documents.find_run(runs, a), plan) == files / 1e6
    entry = {"type": "live", "size_mb": 20.0, "host": "h", "location": "/x"}
    runs.update_one({"name": b}, {"$set": {"data": [entry, {**entry, "size_mb": 1e400}]}})
    assert megabytes_of(documents.find_run(runs, b), plan) == 20
    shutil.rmtree(live / a)
    times = estimated_times([a, b, "000099"], runs, plan)
    assert times == dict.fromkeys([a, b, "000099"], PER_RUN + 2.0)


# ---------------------------------------------------------------------------- real batch systems


@pytest.mark.parametrize("name", ["slurm", "htcondor"])
def test_groups_on_a_batch_system(name, request, runs, make_runs, submit, waiting_script, tmp_path):
    """Two jobs for two runs each, found again, and one of them ends."""
    request.getfixturevalue({"slurm": "slurm", "htcondor": "condor"}[name])
    batch = engines.base.import_module(f"amstrax.auto_processing.engines.{name}")
    engine = getattr(batch, engines.base.ENGINES[name])()
    names = make_runs(4)
    results = submit(names[:2], names[2:], on=engine, script=waiting_script, memory=100)
    assert [result.state for result in results] == ["submitted"] * 4
    ids = [result.job_id for result in results]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    again = submit(names[:2], names[2:], on=engine, script=waiting_script, memory=100)
    assert [r[3:6] for r in again] == [(r.job_id, "alive already", r.attempt) for r in results]
    said = tmp_path / "said"
    wait(lambda: said.exists() and said.read_text().count("--target raw_records") == 2)
    followed = loop.followed_runs(runs, name)
    assert loop.live_jobs(followed, loop.job_states(engine, followed)) == set(ids)
    engine.cancel(ids[0])
    wait(lambda: not engine.state(ids[0]).alive)
    assert engine.state(ids[2]).alive
    (tmp_path / "go").touch()
    wait(lambda: not engine.state(ids[2]).alive)
    assert isinstance(followed[0], Followed) and os.path.exists(followed[0].job["log"])
