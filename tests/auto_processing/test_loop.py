"""Which runs the automatic loop submits, and what it makes of the end of their jobs."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from rundb_stores import collection  # noqa: F401

from amstrax.auto_processing import loop
from amstrax.auto_processing.engines import base
from amstrax.auto_processing.engines.base import JobState, KnownJob
from amstrax.auto_processing.engines.local import LocalEngine
from amstrax.auto_processing.loop import RunSelection
from amstrax.exceptions import EngineUnreachable, InvalidOption, InvalidRunDocument, UsageError
from amstrax.rundb import documents, leases

NOW = datetime.now(UTC).replace(microsecond=0)
RAW = ("raw_records", "raw_records_ext")


@pytest.fixture
def live(tmp_path, monkeypatch):
    """Folder with live data, as the setting for XAMS."""
    folder = tmp_path / "live"
    folder.mkdir()
    monkeypatch.setenv("XAMS_LIVE_DATA", str(folder))
    monkeypatch.setenv("AMSTRAX_HOST", "stbc")
    return folder


def add(collection, number, folder=None, **fields):  # noqa: F811
    """Add a run that has ended; with a folder it has live data there."""
    name = f"{number:06d}"
    if folder is not None:
        (folder / name).mkdir(parents=True)
    times = {"start": NOW - timedelta(hours=1), "end": NOW - timedelta(minutes=50)}
    collection.insert_one({"number": number, "name": name, **times, **fields})


def found(collection, limit=100, skip=(), **options):  # noqa: F811
    """Return the numbers of the runs that are to be submitted."""
    wanted = RunSelection("xams", ("event_info",), RAW, **options)
    return [d["number"] for d in loop.find_runs(collection, wanted, limit, skip)]


def ago(**time):
    """Return the time so long ago."""
    return NOW - timedelta(**time)


FAILED = {"status": "failed", "reason": "x", "host": "stbc"}
CASES = {
    "nothing is said": (True, {}),
    "nothing is said, in so many words": (True, {"processing_status": None, "tags": None}),
    "pending, older form": (True, {"processing_status": "pending"}),
    "pending, newer form": (True, {"processing_status": {"status": "pending"}}),
    "still being taken": (False, {"end": None}),
    "still being taken, but tagged": (False, {"end": None, "tags": [{"name": "process"}]}),
    "done": (False, {"processing_status": {"status": "done"}}),
    "done, older form": (False, {"processing_status": "done"}),
    "done, but tagged": (True, {"processing_status": "done", "tags": [{"name": "process"}]}),
    "to be left alone": (False, {"tags": [{"name": "abandon"}]}),
    "to be left alone, tag as a word": (False, {"tags": ["abandon"]}),
    "both tags": (False, {"tags": [{"name": "process"}, {"name": "abandon"}]}),
    "other tag": (True, {"tags": [{"name": "kr83m"}]}),
    "there is the data": (
        False,
        {"data": [{"type": "event_info", "host": "stbc", "location": "x"}]},
    ),
    "the data is elsewhere": (True, {"data": [{"type": "event_info", "host": "dcache"}]}),
    "lower data is there": (True, {"data": [{"type": "peaks", "host": "stbc"}]}),
    "the data is there, but pending": (
        True,
        {"processing_status": "pending", "data": [{"type": "event_info", "host": "stbc"}]},
    ),
    "submitted": (False, {"processing_status": {"status": "submitted"}}),
    "running, and claimed": (
        False,
        {
            "processing_status": {"status": "running"},
            "processing_claim": {"owner": "a", "expires": NOW + timedelta(hours=1)},
        },
    ),
    "running, by one whose claim has expired": (
        True,
        {
            "processing_status": {"status": "running"},
            "processing_claim": {"owner": "a", "expires": ago(seconds=1)},
        },
    ),
    "pending, and claimed": (
        False,
        {"processing_claim": {"owner": "submit-a", "expires": NOW + timedelta(hours=1)}},
    ),
    "pending, and being copied": (
        False,
        {"copy_claim": {"owner": "copy", "expires": NOW + timedelta(hours=1)}},
    ),
    "failed just now": (
        False,
        {"processing_status": {**FAILED, "time": NOW}, "processing_failed": 1},
    ),
    "failed a while ago": (
        True,
        {"processing_status": {**FAILED, "time": ago(seconds=10001)}, "processing_failed": 1},
    ),
    "failed a while ago, uncounted": (
        True,
        {"processing_status": {**FAILED, "time": ago(seconds=10001)}},
    ),
    "failed twice, a while ago": (
        False,
        {"processing_status": {**FAILED, "time": ago(seconds=13000)}, "processing_failed": 2},
    ),
    "failed twice, a longer while ago": (
        True,
        {"processing_status": {**FAILED, "time": ago(seconds=20001)}, "processing_failed": 2},
    ),
    "cancelled": (
        False,
        {
            "processing_status": {**FAILED, "time": ago(days=99)},
            "processing_job": {"attempt": "a", "cancelled_by": "ann"},
        },
    ),
    "cancelled, but tagged": (
        True,
        {
            "processing_status": {**FAILED, "time": ago(days=99)},
            "processing_job": {"attempt": "a", "cancelled_by": "ann"},
            "tags": [{"name": "process"}],
        },
    ),
    "cancelled, and set pending": (
        True,
        {
            "processing_status": {"status": "pending"},
            "processing_job": {"attempt": "a", "cancelled_by": "ann"},
        },
    ),
    "failed too often": (
        False,
        {"processing_status": {**FAILED, "time": ago(days=99)}, "processing_failed": 3},
    ),
    "failed too often, but tagged": (
        True,
        {
            "processing_status": {**FAILED, "time": NOW},
            "processing_failed": 3,
            "tags": [{"name": "process"}],
        },
    ),
    "failed, older form": (True, {"processing_status": "failed due to a full disk"}),
}


@pytest.mark.parametrize("case", CASES)
def test_which_runs(collection, live, case):  # noqa: F811
    expected, fields = CASES[case]
    add(collection, 5, live, **fields)
    assert found(collection, retry_pause=10000) == [5] * expected


def test_newest_first(collection, live):  # noqa: F811
    for number in (3, 9, 1, 7, 5):
        add(collection, number, live)
    assert found(collection) == [9, 7, 5, 3, 1]
    assert found(collection, limit=2) == [9, 7]
    assert found(collection, limit=2, skip=["000009", "000007"]) == [5, 3]
    assert found(collection, min_run_number=4) == [9, 7, 5]
    assert found(collection, run_id="000003") == [3]
    assert found(collection, run_id="000004") == []


def test_live_data_must_be_here(collection, live, tmp_path):  # noqa: F811
    other = tmp_path / "other"
    add(collection, 1)
    add(collection, 2, data=[{"type": "live", "host": "daq", "location": str(other)}])
    add(collection, 3, other, data=[{"type": "live", "host": "stbc", "location": str(other)}])
    # Said to be here, and is not
    add(collection, 4, data=[{"type": "live", "host": "stbc", "location": str(other)}])
    add(collection, 5, data=[{"type": "live", "host": "stbc", "location": None}])
    add(collection, 6, live)
    assert found(collection) == [6, 3]
    # Those that are not do not stand in the way of those that are
    assert found(collection, limit=1, skip=["000006"]) == [3]


def test_stored_raw_data_will_do(collection, live, tmp_path):  # noqa: F811
    raw = tmp_path / "raw"
    raw.mkdir()
    entry = {"type": "raw_records", "host": "stbc", "location": str(raw)}
    add(collection, 1, data=[entry])
    add(collection, 2, data=[{**entry, "location": str(tmp_path / "gone")}])
    add(collection, 3, data=[{**entry, "type": "peaks"}])
    assert found(collection) == [1]


def test_many_runs_without_data_are_looked_through(collection, live):  # noqa: F811
    gone = {"type": "live", "host": "stbc", "location": str(live / "gone")}
    for number in range(30):
        add(collection, number + 100, data=[gone])
    add(collection, 1, live)
    assert found(collection, limit=1) == [1]


# ------------------------------------------------------------------------------- ends of jobs


class Cancelling:
    """What `settle` needs of an engine."""

    name = "slurm"

    def __init__(self):
        self.cancelled = []

    def cancel(self, job_id):
        self.cancelled.append(job_id)


def settle(collection, state, status="running", expires=None, engine=None):  # noqa: F811
    """Settle a run whose job has come to a state; return the line, and the document."""
    job = {"attempt": "a1", "engine": "slurm", "job_id": "17", "host": "stbc", "log": "logs/17.log"}
    claim = {"owner": "a1.x", "expires": expires or NOW + timedelta(hours=1)}
    add(
        collection,
        5,
        processing_status={"status": status, "time": ago(minutes=1)},
        processing_job=job,
        processing_claim=claim,
    )
    (run,) = loop.followed_runs(collection, "slurm")
    line = loop.settle(collection, engine or Cancelling(), run, state, 3)
    return line, documents.find_run(collection, 5)


@pytest.mark.parametrize("word", ["pending", "running"])
def test_jobs_that_live_are_left_alone(collection, live, word):  # noqa: F811
    line, document = settle(collection, JobState(word))
    assert line is None
    assert documents.status_of(document).status == "running"
    assert "processing_claim" in document


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (
            JobState("failed", 3, "exit code 3"),
            "job 17 (slurm) failed: exit code 3; see logs/17.log",
        ),
        (JobState("failed", 3), "job 17 (slurm) failed: exit code 3; see logs/17.log"),
        (JobState("failed", None, "killed"), "job 17 (slurm) failed: killed; see logs/17.log"),
        (JobState("done", 0), "job 17 (slurm) ended without recording a result; see logs/17.log"),
        (JobState("held", None, "no file"), "job 17 (slurm) was held, and is removed: no file"),
    ],
)
def test_jobs_that_have_ended_without_a_word(collection, live, state, words):  # noqa: F811
    engine = Cancelling()
    line, document = settle(collection, state, engine=engine)
    assert line == f"run 000005: {words} (failure 1 of 3)"
    status = documents.status_of(document)
    assert (status.status, status.reason) == ("failed", words)
    assert documents.failures_of(document) == 1
    # An orphan of the job, if there is one, finds that the run is not its own any more
    assert "processing_claim" not in document
    assert engine.cancelled == (["17"] if state.state == "held" else [])


def test_forgotten_job(collection, live):  # noqa: F811
    line, document = settle(collection, JobState("gone"), expires=ago(seconds=1))
    assert "is gone: the batch system does not know it" in line
    assert documents.failures_of(document) == 1


def test_forgotten_job_that_is_at_work(collection, live):  # noqa: F811
    line, document = settle(collection, JobState("gone"))
    assert line is None
    assert documents.status_of(document).status == "running"
    assert "processing_claim" in document


@pytest.mark.parametrize("status", ["done", "failed"])
def test_jobs_that_have_spoken_are_not_followed(collection, live, status):  # noqa: F811
    job = {"attempt": "a1", "engine": "slurm", "job_id": "17", "host": "stbc"}
    add(collection, 5, processing_status={"status": status}, processing_job=job)
    add(
        collection,
        6,
        processing_status={"status": "running"},
        processing_job={**job, "host": "elsewhere"},
    )
    add(
        collection,
        7,
        processing_status={"status": "running"},
        processing_job={**job, "engine": "local"},
    )
    assert loop.followed_runs(collection, "slurm") == []


class Answering:
    """What `job_states` needs of an engine: jobs 1 and 2, of which 2 has ended."""

    def states(self, job_ids):
        known = {"1": JobState("running"), "2": JobState("done", 0)}
        return {job_id: known[job_id] for job_id in job_ids}

    def jobs(self):
        return [KnownJob("1", "amstrax-xams-000005-xams-peaks", JobState("running"))]


def test_ids_that_are_given_to_other_jobs(collection, live):  # noqa: F811
    """As Slurm does when it is killed and has forgotten jobs."""
    for number, job_id, name in ((4, "1", 4), (5, "1", 5), (6, None, 6), (7, "2", 7), (8, "2", 8)):
        job = {"attempt": f"a{number}", "engine": "slurm", "job_id": job_id, "host": "stbc"}
        job |= {"name": f"amstrax-xams-{name:06d}-xams-peaks", "time": NOW}
        if number == 8:
            job["time"] = ago(minutes=1)
        add(collection, number, processing_status={"status": "running"}, processing_job=job)
    runs = loop.followed_runs(collection, "slurm")
    states = loop.job_states(Answering(), runs)
    assert {attempt: state.state for attempt, state in states.items()} == {
        "a4": "gone",
        "a5": "running",
        "a6": "gone",
        "a7": "done",
        "a8": "gone",
    }
    assert "given its id to another job" in states["a4"].reason


def test_id_of_a_job_that_lives_under_another_name(collection, live):  # noqa: F811
    job = {"attempt": "a1", "engine": "slurm", "job_id": "1", "host": "stbc", "name": "other"}
    add(collection, 5, processing_status={"status": "running"}, processing_job=job)
    runs = loop.followed_runs(collection, "slurm")
    assert loop.job_states(Answering(), runs)["a1"].state == "gone"


def test_word_of_the_job_that_comes_meanwhile(collection, live):  # noqa: F811
    """The job sets its run done after the document was read, and before the engine was asked."""
    job = {"attempt": "a1", "engine": "slurm", "job_id": "17", "host": "stbc"}
    add(collection, 5, processing_status={"status": "running"}, processing_job=job)
    (run,) = loop.followed_runs(collection, "slurm")
    documents.set_status(collection, 5, "done")
    assert loop.settle(collection, Cancelling(), run, JobState("done", 0), 3) is None
    document = documents.find_run(collection, 5)
    assert documents.status_of(document).status == "done"
    assert documents.failures_of(document) == 0


def test_failure_is_counted_once(collection, live):  # noqa: F811
    job = {"attempt": "a1", "engine": "slurm", "job_id": "17", "host": "stbc"}
    add(collection, 5, processing_status={"status": "running"}, processing_job=job)
    (run,) = loop.followed_runs(collection, "slurm")
    state = JobState("failed", 1)
    assert loop.settle(collection, Cancelling(), run, state, 3) is not None
    assert loop.settle(collection, Cancelling(), run, state, 3) is None
    assert documents.failures_of(documents.find_run(collection, 5)) == 1


def test_last_failure(collection, live):  # noqa: F811
    job = {"attempt": "a1", "engine": "slurm", "job_id": "17", "host": "stbc"}
    add(
        collection,
        5,
        processing_status={"status": "running"},
        processing_job=job,
        processing_failed=2,
    )
    (run,) = loop.followed_runs(collection, "slurm")
    line = loop.settle(collection, Cancelling(), run, JobState("failed", 1), 3)
    assert "failure 3: given up. Correct the cause, then tag the run 'process'" in line


def test_run_left_to_another(collection, live):  # noqa: F811
    line, document = settle(collection, JobState("failed", 75), status="submitted")
    assert line is None
    assert documents.status_of(document).status == "submitted"
    assert documents.failures_of(document) == 0


def test_run_left_to_another_that_is_gone(collection, live):  # noqa: F811
    state = JobState("failed", 75)
    line, document = settle(collection, state, status="submitted", expires=ago(seconds=1))
    assert "left it to another one, which is gone" in line
    assert documents.status_of(document).status == "pending"
    assert documents.failures_of(document) == 0


# ----------------------------------------------------------------------------------- the switch


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (None, True),
        ({"name": "auto_processing", "status": "on"}, True),
        ({"name": "auto_processing", "status": "off"}, False),
        ({"name": "something_else", "status": "off"}, True),
        ({"name": "auto_processing"}, True),
    ],
)
def test_switch(collection, document, expected):  # noqa: F811
    if document is not None:
        collection.insert_one(document)
    assert loop.is_switched_on(collection) is expected


def test_the_switch_is_switched(collection):  # noqa: F811
    for is_on in (False, False, True):
        loop.switch(collection, is_on, "ann")
        assert loop.is_switched_on(collection) is is_on
    [document] = list(collection.find({}))
    assert (document["name"], document["user"]) == ("auto_processing", "ann")


# What is ended by hand


@pytest.fixture
def job(tmp_path, live):
    """An engine with a job that lasts."""
    engine = LocalEngine(tmp_path / "state", slots=1, grace=0.5)
    script = tmp_path / "sleep.sh"
    base.write_script(script, ["sleep", "300"], {})
    described = base.Job("000007", ("a",), "xams", "xams", script, tmp_path / "log", 100)
    job_id = engine.submit(described)
    yield engine, job_id
    engine.cancel(job_id)


def test_a_job_is_cancelled(collection, job):  # noqa: F811
    engine, job_id = job
    told = {"attempt": "000007-x", "engine": "local", "host": "stbc", "job_id": job_id}
    add(collection, 7, processing_status={"status": "submitted"}, processing_job=told)
    leases.claim(collection, 7, "000007-x.1")
    assert loop.cancel(collection, engine, "7", "ann") == f"job {job_id} (local)"
    end = time.monotonic() + 60
    while engine.state(job_id).alive:
        assert time.monotonic() < end, "the job goes on"
        time.sleep(0.02)
    run = documents.find_run(collection, 7)
    assert documents.status_of(run).status == "failed"
    assert documents.status_of(run).reason == "cancelled by ann"
    assert documents.cancelled_by(run) == "ann"
    assert documents.failures_of(run) == 0 and not run.get("processing_claim")
    # What the job says at its end, also late, changes nothing of that
    assert documents.record_failure(collection, 7, "SIGTERM", "000007-x") == 0
    assert documents.status_of(documents.find_run(collection, 7)).reason == "cancelled by ann"
    with pytest.raises(InvalidOption, match="run 000007 is failed: there is no job to end"):
        loop.cancel(collection, engine, "000007", "ann")


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"engine": "slurm"}, "one of slurm from stbc"),
        ({"host": "elsewhere"}, "from elsewhere"),
        ({"job_id": None}, "not recorded yet"),
    ],
)
def test_other_jobs_are_not_cancelled(collection, job, fields, words):  # noqa: F811
    engine, job_id = job
    told = {"attempt": "000007-x", "engine": "local", "host": "stbc", "job_id": job_id} | fields
    add(collection, 7, processing_status={"status": "running"}, processing_job=told)
    with pytest.raises(InvalidOption, match=words):
        loop.cancel(collection, engine, "7", "ann")
    assert engine.state(job_id).alive
    assert documents.status_of(documents.find_run(collection, 7)).status == "running"


def test_a_job_that_cannot_be_cancelled_is_not_said_to_be(collection, monkeypatch, job):  # noqa: F811
    """The engine is away; a failure of the job is one, then."""
    engine, job_id = job
    told = {"attempt": "000007-x", "engine": "local", "host": "stbc", "job_id": job_id}
    add(collection, 7, processing_status={"status": "running"}, processing_job=told)

    def away(_job_id):
        raise EngineUnreachable("it is away")

    with monkeypatch.context() as patched:
        patched.setattr(engine, "cancel", away)
        with pytest.raises(EngineUnreachable):
            loop.cancel(collection, engine, "7", "ann")
    assert documents.record_failure(collection, 7, "no disk", "000007-x") == 1
    run = documents.find_run(collection, 7)
    assert documents.cancelled_by(run) is None
    assert documents.status_of(run).reason == "no disk"


def test_submission_forgets_that_a_job_was_cancelled(collection):  # noqa: F811
    told = {"attempt": "a", "cancelled_by": "ann"}
    add(collection, 7, processing_status={"status": "failed"}, processing_job=told)
    assert leases.claim(collection, 7, "me")
    assert documents.set_job(collection, 7, {"attempt": "b"}, "me")
    assert documents.cancelled_by(documents.find_run(collection, 7)) is None
    assert not documents.set_cancelled(collection, 7, "b", "ann"), "its job is not at work"


@pytest.mark.parametrize("fails", ["set_status", "remove_tag", "record_failure"])
def test_a_refusal_that_cannot_be_recorded_stops_nothing(collection, monkeypatch, fails):  # noqa: F811
    add(collection, 5, tags=[{"name": "process"}])
    document = documents.find_run(collection, 5)

    def cannot(*_args, **_kwargs):
        raise InvalidRunDocument("its field is odd")

    monkeypatch.setattr(documents, fails, cannot)
    text, is_recorded = loop.record_refusal(
        collection, document, UsageError("no such target"), 3, True, documents.PROCESS
    )
    assert text == "cannot be submitted: no such target; not recorded: its field is odd"
    assert not is_recorded
