"""Common behaviour of all engines: jobs from submission to end, in real batch systems."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from batch_servers import wait_for

from amstrax.auto_processing import engines
from amstrax.auto_processing.engines import base
from amstrax.exceptions import InvalidOption, JobRefused, UnknownEngine

#: Secret in the environment of the submitter
SECRET = "N0body-may-see-this"


@dataclass
class Batch:
    """An engine with helpers for tests."""

    engine: base.Engine
    folder: Path

    def job(self, number: int, *command: str, **changes) -> base.Job:
        """Return a job for a run of that number, with script and log."""
        run_id = f"{number:06d}"
        script = self.folder / f"{run_id}.sh"
        base.write_script(script, command, {"PATH": os.environ["PATH"], "WORD": "a b"})
        values = {"memory": 100, "script": script, "log": self.folder / f"{run_id}.log"} | changes
        return base.Job(run_id, ("raw_records", "peaks"), "xams_led", "xams", **values)

    def submit(self, number: int, *command: str, **changes) -> str:
        """Submit a job for a run of that number."""
        return self.engine.submit(self.job(number, *command, **changes))

    def wait(self, job_id: str, *states: str) -> base.JobState:
        """Wait until a job is in one of these states, and return it."""
        seen = []

        def is_there() -> bool:
            seen.append(self.engine.state(job_id))
            return seen[-1].state in states

        wait_for(is_there, f"job {job_id} is {' or '.join(states)}", 240)
        return seen[-1]

    def wait_for_end(self, job_id: str) -> base.JobState:
        """Wait until a job has ended, and return how."""
        return self.wait(job_id, "done", "failed", "gone", "held")

    def wait_for_log(self, number: int, text: str) -> str:
        """Wait until the log of a job has a text; return all of it."""
        log = self.folder / f"{number:06d}.log"
        wait_for(lambda: log.exists() and text in log.read_text(), f"{log} has {text}", 240)
        return log.read_text()


@pytest.fixture(params=["local", "slurm", "htcondor"])
def batch(request, tmp_path, monkeypatch) -> Batch:
    """Each engine in turn, with jobs in a folder whose name needs quoting."""
    if request.param == "slurm":
        request.getfixturevalue("slurm")
    elif request.param == "htcondor":
        request.getfixturevalue("condor")
    monkeypatch.setenv("MONGO_PASSWORD", SECRET)
    folder = tmp_path / "a %j $(b) 'c\" & d"
    folder.mkdir()
    engine = engines.get(request.param)
    # As in the batch systems of these tests
    engine.grace = 60
    return Batch(engine, folder)


@pytest.mark.slow
def test_jobs_from_submission_to_end(batch):
    """Five jobs at once, each of which ends in another way."""
    wait, engine = ["bash", "-c", "echo $$; exec sleep 300"], batch.engine
    ids = {
        "done": batch.submit(1, "bash", "-c", 'echo "it says: $WORD"; echo and >&2'),
        "exit 3": batch.submit(2, "bash", "-c", "exit 3"),
        "no program": batch.submit(3, "/no/such/program"),
        "killed": batch.submit(4, *wait),
        "cancelled": batch.submit(5, *wait),
    }
    assert len(set(ids.values())) == 5
    # A new process finds a job by its name
    name = base.job_name("000004", ["raw_records", "peaks"], "xams_led", "xams")
    code = "import sys; from amstrax.auto_processing import engines; "
    code += "print(*(job.job_id for job in engines.get(sys.argv[1]).find(sys.argv[2])))"
    command = [sys.executable, "-c", code, engine.name, name]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert found == [ids["killed"]]
    assert engine.find(f"{name}.2") == []

    pids = [int(batch.wait_for_log(number, "\n")) for number in (4, 5)]
    assert engine.state(ids["killed"]) == engine.state(ids["cancelled"]) == base.JobState("running")
    os.kill(pids[0], signal.SIGKILL)
    engine.cancel(ids["cancelled"])
    states = {what: batch.wait_for_end(job_id) for what, job_id in ids.items()}
    assert states["done"] == base.JobState("done", 0)
    assert states["exit 3"][:2] == ("failed", 3)
    assert "exit code 3" in states["exit 3"].reason
    assert states["no program"][:2] == ("failed", 127)
    assert states["killed"][:2] == ("failed", None)
    assert "signal 9 (SIGKILL)" in states["killed"].reason
    assert states["cancelled"].state == "failed"
    assert "cancelled" in states["cancelled"].reason
    assert "it says: a b\nand\n" in batch.wait_for_log(1, "and\n")
    wait_for(lambda: not Path(f"/proc/{pids[1]}").exists(), "the cancelled job is gone")

    # One query gives the same states, and no job is found any more
    assert engine.states(ids.values()) == {ids[what]: states[what] for what in ids}
    assert engine.jobs() == []
    for job_id in ids.values():
        engine.cancel(job_id)


def of_array(batch: Batch, index: int, *command: str, **changes) -> base.Job:
    """Return the job with that number of an array of jobs for two runs each."""
    label = f"000001+1a2b3c4d.{index}"
    job = batch.job(index, *command, n_runs=2, index=index, **changes)
    log = batch.folder / label / f"{label}-20261130-120000-2b3c4d.log"
    log.parent.mkdir()
    return replace(job, run_id=label, log=log)


def test_jobs_of_one_submission(batch):
    """Each has an id, a name, a log and an end of its own, and one that is refused does not matter.

    On Slurm they are one job array.
    """
    wait = ["bash", "-c", "echo ready; exec sleep 300"]
    # As in the batch systems of these tests
    batch.engine.slots = 8
    jobs = [
        of_array(batch, 1, "bash", "-c", "echo one; exit 3"),
        of_array(batch, 2, *wait),
        of_array(batch, 3, *wait),
        batch.job(4, "true"),
        of_array(batch, 10, "true", memory=200),
    ]
    jobs[4].script.unlink()
    ids = batch.engine.submit_many(jobs)
    assert isinstance(ids[4], JobRefused)
    assert len(set(ids[:4])) == 4
    if batch.engine.name == "slurm":
        assert [job_id.partition("_")[2] for job_id in ids[:4]] == ["1", "2", "3", ""]
    for i, text in ((0, "one"), (1, "ready"), (2, "ready")):
        wait_for(lambda i=i, t=text: t in _text(jobs[i].log), f"{jobs[i].log} has {text}")
    assert batch.wait_for_end(ids[0])[:2] == ("failed", 3)
    assert batch.wait_for_end(ids[3]).state == "done"
    alive = [(job.job_id, job.name) for job in batch.engine.jobs()]
    assert alive == [(ids[1], jobs[1].name), (ids[2], jobs[2].name)]
    assert [job.job_id for job in batch.engine.find(jobs[2].name)] == [ids[2]]
    batch.engine.cancel(ids[1])
    assert batch.wait_for_end(ids[1]).state == "failed"
    assert batch.engine.state(ids[2]).state == "running"
    batch.engine.cancel(ids[2])
    batch.wait_for_end(ids[2])
    states = batch.engine.states(ids[:4])
    assert [states[job_id].state for job_id in ids[:4]] == ["failed", "failed", "failed", "done"]


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_sigterm_comes_first(batch):
    """A cancelled job can clean up."""
    script = 'trap "echo tidied up; exit 1" TERM; echo ready; while :; do sleep 0.1; done'
    job_id = batch.submit(1, "bash", "-c", script)
    batch.wait_for_log(1, "ready")
    batch.engine.cancel(job_id)
    batch.wait_for_log(1, "tidied up")
    assert batch.wait_for_end(job_id).state == "failed"


def test_what_nobody_has_submitted(batch):
    """Unknown ids, also ones with a meaning for a shell or as an option."""
    here = {"local": f"9999@{os.uname().nodename}", "slurm": "999999", "htcondor": "999999@"}
    unknown = [here[batch.engine.name]]
    if batch.engine.name != "local":
        unknown += ["", "--help", "1; touch /tmp/x", "1,2", "١"]
    states = batch.engine.states(unknown)
    assert {state.state for state in states.values()} == {"gone"} and len(states) == len(unknown)
    assert all(state.reason for state in states.values())
    for job_id in unknown:
        batch.engine.cancel(job_id)
    assert batch.engine.states([]) == {}


def test_description_submits_nothing(batch):
    """It names the job's script and log, and nothing of the submitter's environment."""
    text = batch.engine.describe(batch.job(1, "true"))
    for name in ("000001.sh", "000001.log"):
        assert name in text
    assert SECRET not in text
    assert batch.engine.jobs() == []


@pytest.mark.parametrize("batch", ["slurm", "htcondor"], indirect=True)
def test_secrets_of_the_submitter_stay_with_it(batch, request):
    """They are neither in the environment of a job nor in the files of the batch system.

    Jobs of the local engine have the environment of who submits them, on the same machine.
    """
    job_id = batch.submit(1, "bash", "-c", "env; echo ready; exec sleep 300")
    environment = batch.wait_for_log(1, "ready")
    assert "WORD=a b" in environment
    assert SECRET not in environment
    fixture = {"slurm": "slurm", "htcondor": "condor"}[batch.engine.name]
    kept = request.getfixturevalue(fixture).folder
    texts = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    assert any(b"000001" in text for text in texts.values())
    assert [path for path, text in texts.items() if SECRET.encode() in text] == []
    batch.engine.cancel(job_id)


def test_unknown_engine():
    with pytest.raises(UnknownEngine, match="'slurn'; did you mean slurm"):
        engines.get("slurn")


@pytest.mark.parametrize("part", ["", "a b", "x;y", "-x", "$(x)", "a/b", "a\n", "é"])
def test_names_that_are_none(part):
    with pytest.raises(InvalidOption, match="cannot be part of a job's name"):
        base.job_name("000001", [part], "xams", "xams")


@pytest.mark.parametrize("name", ["local", "slurm", "htcondor"])
def test_help_needs_no_engine(name: str, monkeypatch):
    """Its module can be imported where the batch system is not installed."""
    monkeypatch.setenv("PATH", "/nonexistent")
    code = f"import amstrax.auto_processing.engines.{name}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
