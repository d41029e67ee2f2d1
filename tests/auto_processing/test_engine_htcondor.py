"""The engine of HTCondor, beyond what all engines do (test_engines.py), with a real HTCondor."""

import re
import signal
import sys

import psutil
import pytest
from batch_servers import MEMORY, wait_for
from condor_pool import CondorPool
from test_engines import Batch

from amstrax.auto_processing import engines
from amstrax.auto_processing.engines import base
from amstrax.auto_processing.engines import htcondor as engine_module
from amstrax.exceptions import EngineUnreachable, InvalidOption, JobRefused, NotAvailable

#: Attributes of jobs, as a lab may require them
LAB = 'UseOS="el9"; JobCategory="{queue}"'


@pytest.fixture
def batch(condor: CondorPool, tmp_path, monkeypatch) -> Batch:
    """HTCondor's engine, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Batch(engines.get("htcondor"), tmp_path)


@pytest.mark.slow
def test_job_outlives_the_schedd(batch, condor):
    """The schedd is killed: the job continues, and its end is known later.

    A job that cannot start, after that, is held.
    """
    waiting = "echo $$; until [ -e go ]; do sleep 0.1; done; echo went; exit 4"
    job_id = batch.submit(1, "bash", "-c", waiting)
    pid = int(batch.wait_for_log(1, "\n"))
    batch.wait(job_id, "running")
    condor.kill("schedd")
    asks = {
        "submit": lambda: batch.submit(9, "true"),
        "states": lambda: batch.engine.state(job_id),
        "jobs": lambda: batch.engine.jobs(),
        "cancel": lambda: batch.engine.cancel(job_id),
    }
    for what, ask in asks.items():
        with pytest.raises(EngineUnreachable, match="^HTCondor does not answer: .*") as caught:
            pytest.fail(f"{what}: {ask()}")
        assert "\n" not in str(caught.value)
    condor.start()
    assert psutil.pid_exists(pid)
    assert [(known.job_id, known.state.state) for known in batch.engine.jobs()] == [
        (job_id, "running")
    ]
    # HTCondor takes ten seconds to find the job again, and as long to hold a bad one
    (batch.folder / "go").touch()
    job = batch.job(2, "true")
    job.script.write_text("#!/no/such/interpreter\n")
    bad = batch.engine.submit(job)
    batch.wait_for_log(1, "went")
    assert batch.wait_for_end(job_id)[:2] == ("failed", 4)

    state = batch.wait_for_end(bad)
    assert state.state == "held" and "/no/such/interpreter" in state.reason
    assert [known.job_id for known in batch.engine.jobs()] == [bad]
    batch.engine.cancel(bad)
    wait_for(lambda: not batch.engine.jobs(), "the held job is gone")


def test_a_schedd_that_hangs(batch, condor, monkeypatch):
    """HTCondor would wait for minutes; this process stops waiting."""
    job_id = batch.submit(1, "sleep", "300")
    condor.signal("schedd", signal.SIGSTOP)
    with monkeypatch.context() as changes:
        changes.setattr(engine_module, "TIMEOUT", 2)
        for ask in (batch.engine.jobs, lambda: batch.submit(2, "true")):
            with pytest.raises(EngineUnreachable, match="not answered in 2 s"):
                ask()
    condor.signal("schedd", signal.SIGCONT)
    wait_for(lambda: batch.engine.state(job_id).alive, "the schedd answers again")


def test_held_and_removed_by_others(batch, condor):
    job_id = batch.submit(1, "sleep", "300")
    condor.act("Hold", f"ClusterId == {job_id.partition('@')[0]}", "waits for new disks")
    state = batch.wait(job_id, "held")
    assert state.reason.startswith("held: waits for new disks (by user ") and not state.alive
    assert [known.job_id for known in batch.engine.jobs()] == [job_id]
    condor.act("Release")
    assert batch.engine.state(job_id).alive
    condor.act("Remove", reason="disks are full")
    wait_for(lambda: not batch.engine.state(job_id).alive, "the job is removed")
    state = batch.engine.state(job_id)
    assert state[:2] == ("failed", None) and state.reason.startswith("cancelled (disks are full")


def test_jobs_that_nothing_can_run(batch, condor):
    """HTCondor accepts a job that is too large for every machine, and reports a reason."""
    job_id = batch.submit(1, "true", memory=MEMORY + 1)
    wait_for(lambda: "no match" in batch.engine.state(job_id).reason, "HTCondor has looked")
    assert batch.engine.state(job_id).state == "pending"


def test_refused_jobs(batch, condor, monkeypatch):
    monkeypatch.setenv("AMSTRAX_CONDOR_ATTRIBUTES", LAB)
    with pytest.raises(JobRefused, match="queue nope, 100 MB.* no job category nope; see --queue"):
        batch.submit(1, "true", queue="nope")
    with pytest.raises(InvalidOption, match="the queue 'a\"b' is no name"):
        batch.submit(1, "true", queue='a"b')
    job = batch.job(1, "true")
    job.script.unlink()
    with pytest.raises(JobRefused, match="script .*000001.sh is missing"):
        batch.engine.submit(job)
    with pytest.raises(InvalidOption, match="unprintable"):
        batch.submit(1, "true", log=batch.folder / "a\nb")
    monkeypatch.setenv("AMSTRAX_CONDOR_ATTRIBUTES", 'UseOS="el9')
    for ask in (batch.engine.submit, batch.engine.describe):
        with pytest.raises(JobRefused, match="AMSTRAX_CONDOR_ATTRIBUTES"):
            ask(batch.job(1, "true"))
    assert batch.engine.jobs() == []


def test_attributes_of_the_lab(batch, condor, monkeypatch):
    """The ad of a job has them, and nothing of the environment."""
    monkeypatch.setenv("AMSTRAX_CONDOR_ATTRIBUTES", LAB)
    batch.submit(1, "sleep", "300", queue="medium")
    names = ["JobCategory", "UseOS", "RequestMemory", "RequestCpus", "AmstraxJob"]
    (line,) = condor.run("condor_q", "-allusers", "-af:,", *names).splitlines()
    name = batch.job(1, "true").name
    assert [word.strip() for word in line.split(",")] == ["medium", "el9", "100", "1", name]

    # Without a queue, attributes with its name are left out
    assert "JobCategory" not in batch.engine.describe(batch.job(2, "true"))
    monkeypatch.setenv("AMSTRAX_CONDOR_ATTRIBUTES", 'Words="a; $(b)"; Level = 1 + 2')
    batch.submit(2, "sleep", "300")
    names = ["UseOS", "Words", "Level"]
    found = condor.run("condor_q", "-allusers", "-af:,", *names).splitlines()
    assert "undefined, a; $(b), 3" in found


def test_jobs_of_others(batch, condor, monkeypatch):
    """Jobs of others in the same queue are not listed."""
    job_id = batch.submit(1, "sleep", "300")
    monkeypatch.setenv("LOGNAME", "somebody_else")
    assert batch.engine.jobs() == []
    assert batch.engine.state(job_id).alive


def test_another_schedd(batch, condor):
    """Its jobs are unknown when the collector does not know it."""
    state = batch.engine.state("1@schedd.example.org")
    assert state.state == base.UNKNOWN and re.search("(?i)locate|find", state.reason)


def test_without_htcondor(monkeypatch, tmp_path):
    monkeypatch.setenv("CONDOR_CONFIG", str(tmp_path / "none"))
    with pytest.raises(NotAvailable, match="locate.* set CONDOR_CONFIG .*--engine"):
        engines.get("htcondor")
    # As where it is not installed
    monkeypatch.setitem(sys.modules, "htcondor2", None)
    with pytest.raises(NotAvailable, match=r"pip install 'amstrax\[htcondor\]'"):
        engines.get("htcondor")


def test_a_configuration_that_ends_the_bindings(monkeypatch, tmp_path):
    """They end their own process, not this one."""
    (tmp_path / "config").write_text("LOCAL_CONFIG_FILE = /no/such/file\n")
    monkeypatch.setenv("CONDOR_CONFIG", str(tmp_path / "config"))
    with pytest.raises(NotAvailable):
        engines.get("htcondor")
