"""Submitting jobs: which runs, one job for each, and none that is lost sight of."""

import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from make_jobs import LED, LITTLE, NAI, SHORT, add_run, wait

from amstrax import settings
from amstrax.auto_processing import amstraxer, loop, process_run, submit_stbc, submitting
from amstrax.auto_processing.engines import base
from amstrax.auto_processing.engines.local import LocalEngine
from amstrax.exceptions import (
    AmstraxError,
    EngineUnreachable,
    InvalidOption,
    InvalidRunDocument,
    JobRefused,
    RunNotFound,
    RunNotReady,
    UsageError,
)
from amstrax.rundb import documents, get_mongo_collection, leases

ROOT = Path(amstraxer.__file__).resolve().parents[2]
NAME = f"amstrax-xams-{SHORT}-xams-peak_basics"


@pytest.fixture
def engine():
    """The engine of this machine, with the settings of the test; its jobs end with that."""
    engine = LocalEngine(slots=2, grace=0.2)
    yield engine
    for job in engine.jobs():
        engine.cancel(job.job_id)
    wait(lambda: not engine.jobs())


@pytest.fixture
def script(tmp_path) -> Path:
    """A job's script that writes its options into ``said``, and waits until ``go`` is there."""
    path = tmp_path / "script"
    lines = [f"cd {tmp_path}", 'echo "$@" >> said', "until [ -e go ]; do sleep 0.02; done"]
    path.write_text("\n".join(["#!/bin/bash", *lines, "exit $(cat go)"]) + "\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def submit(runs, engine, script, tmp_path):
    """Submit a job for the short run, with that script."""

    def submit_(run_id=SHORT, target="peak_basics", **options):
        folders = {"job_folder": tmp_path / "jobs", "log_folder": tmp_path / "logs"}
        options = {"engine": engine, "script": script, "context": "xams", **folders, **options}
        return submit_stbc.submit_job(run_id, target, **options)

    return submit_


def job_of(runs, run_id=SHORT):
    return documents.job_of(documents.find_run(runs, run_id))


def status(runs, run_id=SHORT):
    return documents.status_of(documents.find_run(runs, run_id)).status


def submitted(*arguments):
    """Submit jobs as the command does."""
    return submit_stbc.main([*map(str, arguments), "--no-progress"])


# One run


def test_a_run_that_is_being_taken_is_followed_once(runs, live_runs, engine, script, tmp_path):
    """Which changes nothing of the run, and does not count as the job that processes it."""
    add_run(runs, live_runs, end=None)
    template = submitting.make_job_template(
        amstraxer.ProcessingOptions(targets=("peak_basics",)),
        tmp_path / "jobs",
        tmp_path / "logs",
        script,
    )
    first = submitting.follow(template, SHORT, runs, engine)
    assert first.state == "submitted" and first.name == f"amstrax-xams-{SHORT}-xams-follow"
    again = submitting.follow(template, SHORT, runs, engine)
    assert (again.state, again.job_id) == ("alive already", first.job_id)
    said = wait(lambda: (tmp_path / "said").exists() and (tmp_path / "said").read_text())
    assert said.startswith(f"{SHORT} --context=xams") and "--attempt" not in said
    assert status(runs) == "pending" and job_of(runs)["targets"] == ["peak_basics"]
    assert loop.followed_runs(runs, "local") == []
    # Somebody ends it
    assert first.job_id in loop.cancel(runs, engine, SHORT, "ann")
    wait(lambda: not engine.state(first.job_id).alive)
    assert status(runs) == "pending" and documents.failures_of(documents.find_run(runs, SHORT)) == 0
    with pytest.raises(InvalidOption, match="has ended already"):
        loop.cancel(runs, engine, SHORT, "ann")
    runs.update_one({"name": SHORT}, {"$set": {"end": datetime.now(UTC)}})
    with pytest.raises(UsageError, match="has ended, so nothing is left to follow"):
        submitting.follow(template, SHORT, runs, engine)


def test_a_run_is_submitted_and_processed(runs, live_runs, engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add_run(runs, live_runs)
    result = submit_stbc.submit_job(SHORT, "raw_records", output_folder="out")
    assert result[:3] == (SHORT, f"amstrax-xams-{SHORT}-xams-raw_records", "local")
    assert result.state == "submitted" and result.job_id == job_of(runs)["job_id"]
    job = job_of(runs)
    assert job["attempt"] == result.attempt and job["name"] == result.name
    assert job["engine"] == "local" and job["host"] == documents.this_host()
    assert job["targets"] == ["raw_records"] and job["context"] == "xams"
    # In a folder, named after the run
    log = Path(job["log"])
    assert log.parent == tmp_path / "logs" / SHORT and log.name.startswith(f"{SHORT}-")
    state = wait(lambda: None if (s := engine.state(result.job_id)).alive else s)
    assert state.state == "done", log.read_text()
    document = documents.find_run(runs, SHORT)
    assert documents.status_of(document).status == "done"
    assert documents.job_of(document) == job and document.get("processing_claim") is None
    assert f"run {SHORT} done" in log.read_text()
    assert list((tmp_path / "out").glob(f"{SHORT}-raw_records-*"))


def test_what_a_job_is_given(runs, live_runs, submit, tmp_path, engine):
    add_run(runs, live_runs, NAI)
    result = submit(
        NAI,
        ["peak_basics", "event_info"],
        output_folder=tmp_path / "o 1",
        live_data_dir=live_runs,
        config_kwargs={"elife": 3},
        workers=2,
        memory=123,
    )
    assert result.name == f"amstrax-xams-{NAI}-xams-peak_basics+event_info+peak_basics_ext"
    said = wait(lambda: (tmp_path / "said").exists() and (tmp_path / "said").read_text())
    assert said == (
        f"{NAI} --context=xams --detector=xams --attempt={result.attempt} --workers=2 "
        f"--output_folder={tmp_path}/o 1 --live_data_dir={live_runs} "
        '--config_kwargs={"elife": 3} --target peak_basics event_info peak_basics_ext\n'
    )
    # All of that, and the script is run by what is meant to
    (text,) = (path.read_text() for path in (tmp_path / "jobs" / NAI).iterdir())
    words = text.splitlines()[-1]
    assert "'--output_folder=" in words and words.startswith(f"exec {tmp_path}/script {NAI}")
    arguments = process_run.parse_args(
        [NAI, "--context=xams", f"--attempt={result.attempt}", "--target", "peak_basics"]
    )
    assert arguments.attempt == result.attempt


@pytest.mark.parametrize(
    ("run_id", "target", "name"),
    [
        (LED, "peak_basics", f"xams-{LED}-xams_led-raw_records+records_led+led_calibration"),
        (LITTLE, "raw_records_v1730", f"xamsl-{LITTLE}-xams_little-raw_records_v1730"),
    ],
    ids=["led", "xamsl"],
)
def test_special_runs(run_id, target, name, runs, live_runs, submit):
    collection = runs if run_id == LED else get_mongo_collection("xamsl")
    add_run(collection, live_runs, run_id)
    result = submit(run_id, target, context=None, dry_run=True)
    assert result.name == f"amstrax-{name}"


def test_a_dry_run_changes_nothing_and_shows_all(runs, live_runs, submit, engine, tmp_path):
    add_run(runs, live_runs)
    before = documents.find_run(runs, SHORT)
    result = submit(dry_run=True)
    assert result.state == "dry run" and not result.job_id
    assert documents.find_run(runs, SHORT) == before
    assert not engine.folder.exists()
    assert not (tmp_path / "jobs").exists() and not (tmp_path / "logs").exists()
    # What it shows is what is submitted then, but for the names of attempt and files
    shown = result.text.partition("#!/bin/bash\n")[2]
    really = submit()
    (path,) = (tmp_path / "jobs" / SHORT).iterdir()
    assert path.read_text() == f"#!/bin/bash\n{shown}".replace(result.attempt, really.attempt)
    assert NAME in result.text and "logs" in result.text
    assert submit(dry_run=True).state == "alive already"


def test_a_run_with_a_job_is_not_submitted_again(runs, live_runs, submit, engine, tmp_path):
    add_run(runs, live_runs)
    first = submit()
    before = documents.find_run(runs, SHORT)
    second = submit()
    assert second.state == "alive already"
    assert (second.job_id, second.attempt) == (first.job_id, first.attempt)
    assert documents.find_run(runs, SHORT) == before
    # Set to pending by somebody meanwhile: its job is followed all the same
    documents.set_status(runs, SHORT, "pending")
    assert submit().state == "alive already"
    assert status(runs) == "submitted" and job_of(runs) == documents.job_of(before)
    # Another target is another job
    other = submit(target="event_info")
    assert other.state == "submitted" and other.job_id != first.job_id
    (tmp_path / "go").write_text("0")
    wait(lambda: not engine.jobs())
    assert submit().state == "submitted"


def test_a_run_that_somebody_works_on(runs, live_runs, submit, engine):
    add_run(runs, live_runs)
    leases.claim(runs, SHORT, "a1.x", 600)
    before = documents.find_run(runs, SHORT)
    result = submit()
    assert result.state == "busy" and f"{documents.this_host()} processes it" in result.text
    assert documents.find_run(runs, SHORT) == before and not engine.jobs()
    leases.release(runs, SHORT, "a1.x")
    leases.claim(runs, SHORT, "submit-x", 600)
    assert "submits it" in submit().text


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_submitter_is_killed(when, runs, live_runs, submit, engine, start_tool):
    """Before the job is submitted, or after that, and before it has said so."""
    add_run(runs, live_runs)

    class Killed(LocalEngine):
        def submit(self, job):
            if when == "after":
                super().submit(job)
            os.kill(os.getpid(), signal.SIGKILL)

    child = start_tool(lambda _: submit(engine=Killed()).state)
    assert child.result() == -signal.SIGKILL, child.text()
    assert status(runs) == "pending"
    noted = job_of(runs)
    assert noted["job_id"] is None
    # Its claim is taken over at once, since its owner is known to be dead
    result = submit()
    if when == "after":
        assert result.state == "alive already" and result.attempt == noted["attempt"]
    else:
        assert result.state == "submitted" and result.attempt != noted["attempt"]
    assert status(runs) == "submitted"
    assert job_of(runs)["attempt"] == result.attempt
    [job] = engine.jobs()
    assert job_of(runs)["job_id"] == job.job_id == result.job_id


def test_several_submit_one_run_at_once(runs, live_runs, submit, engine, start_tool, tmp_path):
    add_run(runs, live_runs)

    def main(_arguments):
        wait(lambda: (tmp_path / "all").exists())
        print(submit().state, flush=True)
        return 0

    children = [start_tool(main) for _ in range(5)]
    (tmp_path / "all").touch()
    assert [child.result() for child in children] == [0] * 5
    said = [child.text().split("\n")[-2] for child in children]
    assert said.count("submitted") == 1
    assert {*said} <= {"submitted", "busy", "alive already"}
    assert len(engine.jobs()) == 1
    assert job_of(runs)["job_id"] == engine.jobs()[0].job_id


def test_one_who_was_too_slow_takes_its_job_back(runs, live_runs, submit, engine):
    add_run(runs, live_runs)

    class Slow(LocalEngine):
        def submit(self, job):
            expired = {"processing_claim.expires": datetime(2020, 1, 1)}
            runs.update_one({"number": int(SHORT)}, {"$set": expired})
            assert leases.claim(runs, SHORT, "somebody.else", 600)
            documents.set_status(runs, SHORT, "running", owner="somebody.else")
            return super().submit(job)

    assert submit(engine=Slow(grace=0.2)).state == "busy"
    wait(lambda: not engine.jobs())
    assert status(runs) == "running"


def test_a_job_that_the_run_database_does_not_know(runs, live_runs, submit, engine):
    add_run(runs, live_runs)
    first = submit()
    runs.delete_one({"number": int(SHORT)})
    add_run(runs, live_runs)
    second = submit()
    assert second.state == "alive already" and second.job_id == first.job_id
    assert status(runs) == "submitted" and job_of(runs)["job_id"] == first.job_id
    assert job_of(runs)["attempt"] == second.attempt


def test_a_job_that_is_held_is_replaced(runs, live_runs, submit, engine):
    add_run(runs, live_runs)
    first = submit()

    class Holding(LocalEngine):
        def jobs(self):
            held = base.JobState(base.HELD, reason="no such memory")
            return [job._replace(state=held) for job in super().jobs()]

    second = submit(engine=Holding(grace=0.2))
    assert second.state == "submitted" and second.job_id != first.job_id
    wait(lambda: [job.job_id for job in engine.jobs()] == [second.job_id])


def test_an_engine_that_does_not_take_the_job(runs, live_runs, submit, engine, tmp_path):
    add_run(runs, live_runs)
    before = documents.find_run(runs, SHORT)

    class Unwilling(LocalEngine):
        error: AmstraxError = JobRefused("no queue 'long': take 'short'")

        def submit(self, job):
            raise self.error

    with pytest.raises(JobRefused, match="no queue 'long'"):
        submit(engine=Unwilling())
    assert documents.find_run(runs, SHORT) == before
    assert not list((tmp_path / "jobs").rglob("*.sh"))
    Unwilling.error = EngineUnreachable("no answer")
    with pytest.raises(EngineUnreachable):
        submit(engine=Unwilling())
    document = documents.find_run(runs, SHORT)
    assert "processing_status" not in document and "processing_claim" not in document
    assert submit().state == "submitted"
    (tmp_path / "file").touch()
    with pytest.raises(JobRefused, match="--job_folder"):
        submit(job_folder=tmp_path / "file", target="events")


def test_runs_that_are_not_to_be_submitted(runs, live_runs, submit):
    with pytest.raises(RunNotFound, match="run 000303 is not in the run database"):
        submit()
    add_run(runs, live_runs, end=None)
    with pytest.raises(RunNotReady, match="still being taken"):
        submit()
    runs.delete_one({"number": int(SHORT)})
    add_run(runs, live_runs, tags=[{"name": "abandon"}])
    with pytest.raises(RunNotReady, match="abandon"):
        submit()
    # A second document of the run does not hide the tag, nor bring it about alone
    runs.delete_one({"number": int(SHORT)})
    add_run(runs, live_runs)
    twin = {"number": int(SHORT), "name": SHORT, "tags": ["abandon"]}
    runs.insert_one(twin)
    with pytest.raises(RunNotReady, match="abandon"):
        submit()
    runs.delete_one({"_id": twin["_id"]})
    with pytest.raises(UsageError, match="did you mean peak_basics"):
        submit(target="peak_basic")
    with pytest.raises(InvalidOption, match="no script 'process_ran'"):
        submit(script="process_ran")


def test_corrections_are_checked_before_submission(runs, live_runs, submit, tmp_path, monkeypatch):
    add_run(runs, live_runs)
    with pytest.raises(InvalidOption, match="corrections_version='v 1'"):
        submit(corrections_version="v 1")
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(tmp_path))
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_URL", "http://127.0.0.1:9/{branch}")
    (tmp_path / "_global").mkdir()
    (tmp_path / "_global/_global_v9.json").write_text('{"elive": 1}')
    with pytest.raises(InvalidOption, match="elive"):
        submit(corrections_version="v9")
    assert not (tmp_path / "jobs").exists()
    # The job may reach what this machine cannot
    assert submit(corrections_version="v8").state == "submitted"


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a b", "ssh", "$(id)"])
def test_names_that_no_path_is_made_of(name, runs, live_runs, submit, tmp_path):
    """Scripts and logs of jobs are in a folder that is called as the run."""
    add_run(runs, live_runs)
    runs.update_one({"number": int(SHORT)}, {"$set": {"name": name}})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidRunDocument, match="a run is called .* give it digits"):
        submit()
    assert sorted(tmp_path.rglob("*")) == before
    wanted = loop.RunSelection("xams", ("peak_basics",), ("raw_records",))
    with pytest.raises(InvalidRunDocument, match="give it digits"):
        loop.has_source(documents.find_run(runs, SHORT), wanted)


def test_no_secrets_in_what_others_can_read(runs, live_runs, submit, tmp_path, monkeypatch, caplog):
    add_run(runs, live_runs)
    monkeypatch.setattr(submitting, "_warned", set())
    monkeypatch.setenv("AMSTRAX_HOST", "me")

    class Elsewhere(LocalEngine):
        name = "elsewhere"

    with pytest.MonkeyPatch.context() as patch:
        # One that may be set together with the embedded run database
        patch.setattr(settings, "SECRETS", settings.SECRETS | {"AMSTRAX_CORRECTIONS_URL"})
        patch.setenv("AMSTRAX_CORRECTIONS_URL", "https://me:Secr3t@example.org")
        assert submit(engine=Elsewhere()).state == "submitted"
        assert submit(engine=Elsewhere(), target="events").state == "submitted"
    said = [r.getMessage() for r in caplog.records if "jobs do not get" in r.getMessage()]
    assert len(said) == 1 and "Secr3t" not in caplog.text and os.devnull in said[0]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    scripts = [path.read_text() for path in files if path.suffix == ".sh"]
    assert len(scripts) == 2 and all("export AMSTRAX_HOST=me" in text for text in scripts)
    assert not [path for path in files if b"Secr3t" in path.read_bytes()]
    for end in LocalEngine().jobs():
        LocalEngine().cancel(end.job_id)


# Several runs


@pytest.fixture
def many(runs, live_runs):
    """Ten runs, 101 to 110, some with tags and statuses."""
    for number in range(101, 111):
        add_run(runs, live_runs, number=number, name=f"{number:06d}", mode=f"m{number % 2}")
    documents.add_tag(runs, 103, "good", "me")
    documents.add_tag(runs, 108, "good", "me")
    documents.set_status(runs, 104, "failed")
    return runs


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["101", "000105", "101"], [101, 105]),
        (["000103-000105", "101"], [103, 104, 105, 101]),
        (["--run_id", "102", "104"], [102, 104]),
        (["103-103"], [103]),
        (["--run_file", "FILE"], [107, 101, 102, 103]),
        (["109", "--run_file", "FILE"], [109, 107, 101, 102, 103]),
        (["--tag", "good"], [108, 103]),
        (["--status", "failed"], [104]),
        (["--mode", "m0", "--status", "pending"], [110, 108, 106, 102]),
        (["--query", '{"number": {"$gt": 108}}'], [110, 109]),
        (["--query", '{"end": {"$lt": {"$date": "2024-02-01T00:00:00Z"}}}', "101-102"], [102, 101]),
        (["101-104", "--tag", "good"], [103]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value[0], str) else "",
)
def test_which_runs(arguments, found, many, tmp_path):
    file = tmp_path / "runs.txt"
    file.write_text("# the good ones\n107\n\n101-103  # a range\n")
    arguments = [str(file) if word == "FILE" else word for word in arguments]
    args = submit_stbc.parse_args(arguments)
    assert submit_stbc.find_runs(many, submit_stbc.RunQuery.of(args)) == [
        f"{number:06d}" for number in found
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no runs: name some"),
        (["105-101"], "'105-101' is no range of runs"),
        (["a-b"], "'a-b' is no range of runs"),
        (["1-900000"], "a range of more than"),
        (["../1"], "'../1' is no run id"),
        (["--run_file", "nowhere"], "--run_file nowhere cannot be read"),
        (["--run_file", os.devnull], "names no run"),
        (["--tag", "none"], "no run in the run database matches"),
        (["101", "--target", "peak_basic"], "did you mean peak_basics"),
    ],
)
def test_wrong_use(arguments, message, many, capsys, tmp_path):
    assert submitted(*arguments, f"--job_folder={tmp_path / 'jobs'}") == 2
    said = capsys.readouterr()
    assert message in said.err and said.out == ""
    assert not (tmp_path / "jobs").exists()


@pytest.mark.parametrize("option", [["--query", "{"], ["--engine", "slurmy"], ["--mem", "0"]])
def test_odd_options(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        submit_stbc.parse_args(["101", *option])
    assert stopped.value.code == 2
    assert "did you mean slurm" in capsys.readouterr().err or option[0] != "--engine"


def test_a_table_says_what_became_of_each(many, engine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AMSTRAX_LOCAL_JOBS", "1")
    leases.claim(many, 102, "a1.x", 600)
    documents.add_tag(many, 103, "abandon", "me")
    documents.set_status(many, 104, "done")
    entry = {"type": "raw_records", "host": documents.this_host(), "location": "/x"}
    documents.add_data(many, 104, entry)
    runs_ = ["000099", "101-107", "--target", "raw_records", "--max_runs", "2"]
    assert submitted(*runs_, "--dry_run") == 1
    dry = capsys.readouterr().out
    assert dry.count("#!/bin/bash") == 2 and not (tmp_path / "jobs").exists()
    assert submitted(*runs_) == 1
    said = capsys.readouterr().out.splitlines()
    rows = {line[:6]: line[8:].split("  ")[0].strip() for line in said[1:]}
    assert rows == {
        "000099": "not submitted",
        "000101": "submitted",
        "000102": "busy",
        "000103": "not submitted",
        "000104": "skipped",
        "000105": "submitted",
        "000106": "skipped",
        "000107": "skipped",
    }
    assert "is not in the run database" in said[1] and "beyond --max_runs 2" in said[-1]
    assert [job.name[13:19] for job in engine.jobs()] == ["000101", "000105"]
    assert submitted("101", "--target", "raw_records") == 0
    assert "alive already" in capsys.readouterr().out


def test_a_run_database_that_goes_away_meanwhile(many, engine, tmp_path, monkeypatch, capsys):
    """What has been submitted by then is said all the same."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "user_data/amstrax/rundb.sqlite"
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "1")

    def remove():
        wait(lambda: job_of(many, "000101").get("job_id"))
        for part in path.parent.iterdir():
            part.rename(part.with_name(f"gone_{part.name}"))
        path.mkdir()

    thread = threading.Thread(target=remove)
    thread.start()
    names = [f"{number:06d}" for number in range(101, 111)] * 1000
    monkeypatch.setattr(submit_stbc, "find_runs", lambda *_: names)
    assert submitted("101", "--target=raw_records") == 1
    thread.join()
    said = capsys.readouterr()
    assert said.err.strip().splitlines()[-1].count("ERROR") == 1
    assert "000101  submitted" in said.out


# The command


@pytest.mark.smoke
@pytest.mark.parametrize(
    "command",
    [
        ["-m", "amstrax.auto_processing.submit_stbc"],
        [str(ROOT / "amstrax/auto_processing/submit_stbc.py")],
        [str(Path(sys.executable).parent / "submit_stbc")],
        [str(Path(sys.executable).parent / "amstrax"), "submit"],
    ],
    ids=["module", "file", "script", "subcommand"],
)
def test_all_ways_to_start_it(command, tmp_path, live_runs, runs, engine, request):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, *command, *arguments], capture_output=True, text=True, cwd=tmp_path
        )

    done = run("--help")
    assert done.returncode == 0, done.stderr
    for option in ("--run_id", "--target", "--engine", "--mem", "--queue", "--dry_run"):
        assert option in done.stdout
    if request.node.callspec.id != "file":
        return
    # As documented
    add_run(get_mongo_collection("xamsl"), live_runs, LITTLE)
    done = run(LITTLE, "--target", "raw_records_v1730", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "process_run.py" in done.stdout and "--context=xams_little" in done.stdout
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"user_data", "user_state"} and not engine.folder.exists()


def test_settings(runs, live_runs, script, engine, tmp_path, monkeypatch):
    add_run(runs, live_runs)
    monkeypatch.setenv("AMSTRAX_JOB_FOLDER", str(tmp_path / "j"))
    monkeypatch.setenv("AMSTRAX_LOG_FOLDER", str(tmp_path / "l"))
    monkeypatch.setenv("AMSTRAX_JOB_MEMORY", "321")
    monkeypatch.setenv("AMSTRAX_QUEUE", "short")
    args = submit_stbc.parse_args([SHORT, "--target", "events"])
    work = submit_stbc.find_work(args)
    assert (work.job_folder, work.log_folder) == (tmp_path / "j", tmp_path / "l")
    assert (work.memory, work.queue, work.plan.targets) == (321, "short", ("events",))
    assert work.plan.raw_types and work.plan.detector == "xams"
    args = submit_stbc.parse_args([SHORT, "--mem", "5", "--queue", "long"])
    work = submit_stbc.find_work(args)
    assert (work.memory, work.queue) == (5, "long")
    monkeypatch.setenv("AMSTRAX_JOB_MEMORY", "much")
    with pytest.raises(InvalidOption, match="AMSTRAX_JOB_MEMORY"):
        submit_stbc.find_work(submit_stbc.parse_args([SHORT]))


def test_a_file_of_settings_that_is_none(tmp_path, capsys, monkeypatch):
    (tmp_path / "no_settings").write_text("no section\n")
    monkeypatch.setenv("AMSTRAX_CONFIG", str(tmp_path / "no_settings"))
    assert submit_stbc.main([SHORT, "--target", "events"]) == 1
    said = capsys.readouterr().err
    assert "no_settings is not a file of settings" in said and "Traceback" not in said


def test_options_that_the_context_of_a_run_does_not_take(runs, live_runs, submit, tmp_path, caplog):
    """They are named, and left out, if the mode of the run has chosen the context."""
    add_run(runs, live_runs)
    add_run(runs, live_runs, LED)
    options = {"config_kwargs": {"elife": 3, "led_window": [10, 20]}, "reconstruction": "hits"}
    for run_id, kept, left in (
        (SHORT, '{"elife": 3}', "xams does not take: led_window"),
        (LED, '{"led_window": [10, 20]}', "xams_led does not take: elife, recons"),
    ):
        text = submit(run_id, [], context=None, dry_run=True, **options).text
        assert f"--config_kwargs={kept}" in text and f"# options left out, since {left}" in text
        assert ("--reconstruction=hits" in text) is (run_id == SHORT)
        assert f"options left out, since {left}" in submit(run_id, [], context=None, **options).text
    with pytest.raises(UsageError, match="no plugin takes the option 'elive'"):
        submit(LED, [], context=None, config_kwargs={"elive": 3})
    with pytest.raises(UsageError, match="no plugin takes the option 'led_window'"):
        submit(SHORT, [], config_kwargs={"led_window": [10, 20]})
