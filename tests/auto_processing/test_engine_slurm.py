"""The engine of Slurm, beyond what all engines do (test_engines.py), with a real Slurm."""

import contextlib
import os
import re
import signal
import sys

import pytest
from batch_servers import MEMORY, SlurmCluster, wait_for
from test_engines import Batch

from amstrax.auto_processing import engines
from amstrax.auto_processing.engines import slurm as engine_module
from amstrax.exceptions import EngineUnreachable, JobRefused, NotAvailable

#: A job that ends when it is told to
WAITING = "echo $$; until [ -e go ]; do sleep 0.1; done; echo went; exit 4"


@pytest.fixture
def batch(slurm: SlurmCluster, tmp_path, monkeypatch) -> Batch:
    """Slurm's engine, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Batch(engines.get("slurm"), tmp_path)


@contextlib.contextmanager
def impatient(slurm: SlurmCluster, seconds: float = 60):
    """Set short timeouts for Slurm's commands, not its daemons, and for the engine."""
    path = slurm.folder / "impatient.conf"
    text = (slurm.folder / "slurm.conf").read_text()
    path.write_text(re.sub("MessageTimeout=.*", "MessageTimeout=1", text))
    with pytest.MonkeyPatch.context() as changes:
        changes.setenv("SLURM_CONF", str(path))
        changes.setattr(engine_module, "TIMEOUT", seconds)
        yield


def asks(batch: Batch, job_id: str) -> dict:
    """Return the calls of an engine."""
    return {
        "submit": lambda: batch.submit(9, "true"),
        "states": lambda: batch.engine.state(job_id),
        "jobs": lambda: batch.engine.jobs(),
        "cancel": lambda: batch.engine.cancel(job_id),
    }


def test_job_outlives_the_daemons(batch, slurm):
    """Each daemon is killed while a job runs: the job continues, and its end is known later."""
    job_id = batch.submit(1, "bash", "-c", WAITING)
    batch.wait(job_id, "running")
    slurm.save(job_id)
    slurm.kill("slurmctld")
    for what, ask in asks(batch, job_id).items():
        with (
            impatient(slurm),
            pytest.raises(EngineUnreachable, match="(?i)unable to contact|conne"),
        ):
            pytest.fail(f"{what}: {ask()}")
    slurm.start()
    assert batch.engine.state(job_id).state == "running"

    slurm.kill("slurmd")
    assert batch.engine.state(job_id).state == "running"
    (batch.folder / "go").touch()
    batch.wait_for_log(1, "went")
    slurm.start()
    assert batch.wait_for_end(job_id)[:2] == ("failed", 4)


@pytest.mark.parametrize("daemon", ["slurmctld", "munged"])
def test_no_answer(batch, slurm, daemon):
    """A hanging slurmctld, or a missing munged, makes the engine unreachable."""
    job_id = batch.submit(1, "sleep", "300")
    batch.wait(job_id, "running")
    if daemon == "munged":
        slurm.kill(daemon)
    else:
        slurm.daemons[daemon].signal(signal.SIGSTOP)
    # Without munged, Slurm's commands would try for minutes
    with impatient(slurm, 2):
        for what in ("states", "submit") if daemon == "slurmctld" else ("states",):
            with pytest.raises(EngineUnreachable, match="(?i)timed out|not answered") as caught:
                pytest.fail(f"{what}: {asks(batch, job_id)[what]()}")
            assert "\n" not in str(caught.value)
    if daemon != "munged":
        slurm.daemons[daemon].signal(signal.SIGCONT)
    slurm.start()
    assert batch.engine.state(job_id).state == "running"


def test_a_command_that_hangs_is_ended(batch, monkeypatch, tmp_path):
    """Also one without its own timeout."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scancel"):
        (folder / name).write_text("#!/bin/sh\nexec sleep 300\n")
        (folder / name).chmod(0o755)
    with monkeypatch.context() as changes:
        changes.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        changes.setattr(engine_module, "TIMEOUT", 0.5)
        with pytest.raises(EngineUnreachable, match="squeue has not answered in 0.5 s"):
            batch.engine.jobs()


def test_refused_jobs(batch):
    with pytest.raises(JobRefused, match="partition nope: .*[Ii]nvalid partition.*sinfo"):
        batch.submit(1, "true", queue="nope")
    with pytest.raises(JobRefused, match=f"{MEMORY + 1} MB.*[Mm]emory specification can not be"):
        batch.submit(1, "true", memory=MEMORY + 1)
    job = batch.job(1, "true")
    job.script.unlink()
    with pytest.raises(JobRefused, match="script .*000001.sh is missing"):
        batch.engine.submit(job)
    job = batch.job(1, "true", log=batch.folder / "none/log")
    with pytest.raises(JobRefused, match="log folder .*none is missing"):
        batch.engine.submit(job)
    assert batch.engine.jobs() == []


def test_why_a_job_does_not_run(batch, slurm):
    """It waits for resources, or is held."""
    big = batch.submit(1, "sleep", "300", memory=MEMORY)
    batch.wait(big, "running")
    waits = batch.submit(2, "true")
    why = ("pending", "waits for a free machine")
    wait_for(lambda: batch.engine.state(waits)[::2] == why, "Slurm says why")
    slurm.run("scontrol", "hold", waits)
    state = batch.engine.state(waits)
    assert state.state == "held" and "held by" in state.reason and not state.alive
    assert [(job.job_id, job.state.state) for job in batch.engine.jobs()] == [
        (big, "running"),
        (waits, "held"),
    ]
    slurm.run("scontrol", "release", waits)
    batch.engine.cancel(big)
    assert batch.wait_for_end(waits).state == "done"


def test_partition_is_used(batch, slurm):
    job_id = batch.submit(1, "sleep", "300", queue="short")
    assert slurm.run("squeue", "-h", "-j", job_id, "-o", "%P %m") == "short 100M"


@pytest.mark.slow
def test_ends_that_are_no_exits(batch, slurm):
    """Time limit, memory limit and a failed machine, each with its reason."""
    slow = batch.submit(3, "sleep", "300", queue="short")
    batch.wait(slow, "running")
    # Its partition allows a minute: shorten that to seconds
    slurm.run("scontrol", "update", f"JobId={slow}", "EndTime=now+5seconds")
    code = "import time; x = bytearray(400_000_000); print('has it', flush=True); time.sleep(300)"
    greedy, lost = batch.submit(1, sys.executable, "-c", code), batch.submit(2, "sleep", "300")
    state = batch.wait_for_end(greedy)
    assert state[:2] == ("failed", None) and "memory" in state.reason
    state = batch.wait_for_end(slow)
    assert state[:2] == ("failed", None) and "ran longer than its partition" in state.reason
    batch.wait(lost, "running")
    node = slurm.run("sinfo", "-h", "-o", "%n")
    slurm.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    state = batch.wait_for_end(lost)
    assert state[:2] == ("failed", None) and "machine that it ran on has failed" in state.reason
    # Slurm has not started it again, since it may still run there
    assert batch.engine.jobs() == []
    slurm.start()


def test_jobs_that_the_queue_has_forgotten(batch, slurm):
    """Slurm records ended jobs in a file; without it they are gone, not failed."""
    commands = {"done": "true", "exit": "exit 3", "signal": "kill -9 $$"}
    ids = {
        what: batch.submit(number, "bash", "-c", command)
        for number, (what, command) in enumerate(commands.items())
    }
    before = {what: batch.wait_for_end(job_id) for what, job_id in ids.items()}
    cancelled = batch.submit(9, "sleep", "300")
    batch.wait(cancelled, "running")
    batch.engine.cancel(cancelled)
    assert batch.wait_for_end(cancelled).reason == "cancelled"
    noted = slurm.folder / "jobcomp.log"
    wait_for(lambda: f"JobId={cancelled} " in noted.read_text(), "it is noted")

    slurm.forget_jobs()
    assert slurm.run("squeue", "-h", "--states=all") == ""
    states = batch.engine.states([*ids.values(), cancelled])
    assert {what: states[job_id] for what, job_id in ids.items()} == before
    assert states[cancelled][::2] == ("failed", "cancelled")
    noted.unlink()
    assert {state.state for state in batch.engine.states(ids.values()).values()} == {"gone"}


def test_many_jobs_keep_their_long_names(batch):
    """Names are complete, and other names are not found."""
    targets = tuple(f"a_data_type_with_a_long_name_{number}" for number in range(20))
    job = batch.job(1, "sleep", "300")
    job = type(job)(**vars(job) | {"targets": targets})
    other = batch.job(2, "sleep", "300")
    job_id = batch.engine.submit(job)
    assert len(job.name) > 500
    assert [(known.job_id, known.name) for known in batch.engine.jobs()] == [(job_id, job.name)]
    assert batch.engine.find(other.name) == []


def test_without_slurm(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotAvailable, match="sbatch is not on PATH; .*--engine"):
        engines.get("slurm")


def test_settings_of_commands_change_nothing(batch, monkeypatch):
    """Variables that change the output of squeue are not passed on."""
    job_id = batch.submit(1, "sleep", "300")
    with monkeypatch.context() as changes:
        changes.setenv("SQUEUE_FORMAT", "%i")
        changes.setenv("SQUEUE_STATES", "COMPLETED")
        assert [job.job_id for job in batch.engine.jobs()] == [job_id]
