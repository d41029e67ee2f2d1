"""Campaigns with real jobs, on the local engine and on Slurm, also while everything is killed."""

import csv
import re
import shlex
import shutil
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import quote_plus

import pytest
from make_campaigns import TARGET, lab  # noqa: F401
from servers import LOCALHOST, MONGO_USERS, MongoServer

from amstrax import cli
from amstrax.auto_processing import campaign_loop, campaign_plan, submitting
from amstrax.exceptions import UsageError
from amstrax.rundb import campaigns, documents
from amstrax.rundb.leases import Stop

PYTHON = sys.executable
#: More than anything here takes on a slow machine with much to do [s]
LONG = 480
QUICK = ("--pause=0.3", "--retry_pause=0.2", "--no-progress")


def campaign(*arguments):
    """Run a subcommand in this process, and return its exit status."""
    return cli.main(["campaign", *map(str, arguments)])


def planned(name, *arguments):
    """Plan a campaign of raw data, and return it."""
    assert campaign(name, "plan", *arguments, "--target", TARGET) == 0
    return campaigns.find(campaigns.get_collection(), name)


def states(lab, name="c1"):  # noqa: F811
    """Return the states of the runs of a campaign."""
    found = campaigns.find(campaigns.get_collection(), name)
    return [state.state for state in campaign_loop.states_of(found, lab.runs).values()]


def wait_for(condition, lab):  # noqa: F811
    """Wait until something is so, and return it."""
    end = time.monotonic() + LONG
    while not (value := condition()):
        assert time.monotonic() < end, lab.log.read_text()
        time.sleep(0.1)
    return value


def attempts(lab, numbers):  # noqa: F811
    """Return how often each run was processed to its end."""
    return [
        sum(
            entry["action"] == "process_run_end" and entry["status"] == "done"
            for entry in lab.document(number).get("processing_history", ())
        )
        for number in numbers
    ]


def check_data(lab, numbers):  # noqa: F811
    """Check that each run has data once, in its document and on disk, and all the same data."""
    for number in numbers:
        assert len(documents.data_of(lab.document(number), type=TARGET)) == 1, number
    folders = [path.name for path in lab.processed.iterdir() if f"-{TARGET}-" in path.name]
    assert sorted(name.partition("-")[0] for name in folders) == [f"{n:06d}" for n in numbers]
    data = {lab.data(number) for number in numbers}
    assert len(data) == 1 and len(data.pop()) > 10_000


def test_from_plan_to_report(lab, capsys):  # noqa: F811
    for number in range(1, 6):
        lab.add_run(number)
    # One that is there already, one without data, one to be left alone
    assert cli.main(["process-run", "1", "--target", TARGET]) == 0
    (lab.live / "000002").unlink()
    documents.add_tag(lab.runs, 3, "abandon", "me")
    capsys.readouterr()
    assert campaign("c1", "plan", "1-6", "--target", TARGET) == 0
    text = capsys.readouterr().out
    for line in (
        "campaign c1: 5 runs of xams, to raw_records (xams, 5 runs)",
        "  waiting           2\n",
        "  stored            1: 000001\n",
        "  no raw data       1: 000002\n",
        "  skipped           1: 000003\n",
        "not in the run database, left out: 000006",
        "s/MB, measured on 1 runs with these targets",
    ):
        assert line in text
    assert states(lab) == ["stored", "no raw data", "skipped", "waiting", "waiting"]
    assert [lab.status(number) for number in (4, 5)] == ["pending", "pending"]
    assert campaign("c1", "run", *QUICK, "--runs_per_job=2") == 0
    assert "2 of 5 runs done" not in capsys.readouterr().out
    assert states(lab) == ["stored", "no raw data", "skipped", "done", "done"]
    assert len(lab.scripts()) == 1
    # Nothing is left to do
    assert campaign("c1", "run", *QUICK) == 0
    assert len(lab.scripts()) == 1 and attempts(lab, (1, 4, 5)) == [1, 1, 1]
    assert "3 of 5 runs done" in capsys.readouterr().out
    assert campaign("c1", "report", "--output", lab.folder / "report.csv") == 0
    with (lab.folder / "report.csv").open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert rows["000002"]["reason"] == "neither live data nor raw data is on this machine"
    assert "abandon" in rows["000003"]["reason"]
    assert float(rows["000004"]["seconds"]) > 0 and float(rows["000004"]["input_mb"]) > 0.05
    assert datetime.fromisoformat(rows["000005"]["end"]) > datetime.now(UTC) - timedelta(hours=1)
    assert rows["000001"]["seconds"] == ""
    assert "runs/h" in capsys.readouterr().out
    # Data that comes later is found
    (lab.live / "000002").symlink_to((lab.live / "000001").resolve())
    documents.remove_tag(lab.runs, 3, "abandon")
    assert campaign("c1", "run", *QUICK) == 0
    assert states(lab) == ["stored", *["done"] * 4]
    check_data(lab, range(1, 6))


def test_a_failed_run_is_given_up_reported_and_retried(lab, capsys):  # noqa: F811
    for number in (1, 2):
        lab.add_run(number)
    kept = (lab.live / "000002").resolve()
    (lab.live / "000002").unlink()
    shutil.copytree(kept, lab.live / "000002")
    damaged = next(path for path in sorted((lab.live / "000002/000000").iterdir()))
    damaged.write_bytes(b"no lz4")
    # It failed before, too, which does not count
    for attempt in range(3):
        documents.record_failure(lab.runs, 2, "long ago", f"old-{attempt}")
    planned("c1", "1-2", "--max_failures=2")
    assert campaign("c1", "run", *QUICK) == 1
    assert states(lab) == ["done", "failed"]
    assert documents.failures_of(lab.document(2)) == 2
    capsys.readouterr()
    assert campaign("c1", "report") == 0
    assert "000000" in capsys.readouterr().out
    shutil.rmtree(lab.live / "000002")
    (lab.live / "000002").symlink_to(kept)
    assert campaign("c1", "retry") == 0
    assert documents.failures_of(lab.document(2)) == 0
    assert campaign("c1", "run", *QUICK) == 0
    check_data(lab, (1, 2))


def test_two_operators_of_whom_one_is_killed(lab):  # noqa: F811
    for number in range(1, 8):
        lab.add_run(number)
    planned("c1", "1-7")
    first = lab.start("c1", "run", *QUICK, "--max_jobs=2")
    wait_for(lambda: "submitted" in states(lab), lab)
    second = lab.start("c1", "run", *QUICK, "--max_jobs=2")
    wait_for(lambda: "runs it, and this process watches" in lab.log.read_text(), lab)
    first.kill()
    first.wait()
    assert second.wait(LONG) == 0, lab.log.read_text()
    assert "campaign c1: going on" in lab.log.read_text()
    assert attempts(lab, range(1, 8)) == [1] * 7
    assert len(lab.scripts()) == 7
    check_data(lab, range(1, 8))


def test_stopping_pausing_and_going_on(lab):  # noqa: F811
    for number in range(1, 5):
        lab.add_run(number)
    planned("c1", "1-4")
    assert campaign("c1", "pause") == 0
    child = lab.start("c1", "run", *QUICK, "--max_jobs=1")
    wait_for(lambda: "nothing is submitted until it is resumed" in lab.log.read_text(), lab)
    assert states(lab) == ["waiting"] * 4 and not lab.scripts()
    assert campaign("c1", "resume") == 0
    wait_for(lambda: lab.scripts(), lab)
    child.send_signal(signal.SIGINT)
    assert child.wait(LONG) == 1
    assert "stopped by SIGINT: jobs go on; start it again to continue" in lab.log.read_text()
    wait_for(lambda: "done" in states(lab), lab)
    assert states(lab).count("waiting") >= 2
    assert lab.start("c1", "run", *QUICK).wait(LONG) == 0
    assert attempts(lab, range(1, 5)) == [1] * 4
    check_data(lab, range(1, 5))


def test_no_run_is_submitted_without_space(lab):  # noqa: F811
    lab.add_run(1)
    planned("c1", "1")
    child = lab.start("c1", "run", *QUICK, "--keep_free=100000000")
    wait_for(lambda: "waiting for space" in lab.log.read_text(), lab)
    child.send_signal(signal.SIGTERM)
    assert child.wait(LONG) == 1
    assert not lab.scripts() and states(lab) == ["waiting"]


def test_waiting_for_space_is_said_once(lab, monkeypatch, capsys):  # noqa: F811
    """Although free space changes from round to round."""
    lab.add_run(1)
    campaign_ = planned("c1", "1")
    free = iter(range(10**6, 10**7))
    monkeypatch.setattr(campaign_plan, "free_space", lambda folder: next(free))
    options, _ = campaign_plan.options_of(campaign_)
    template = submitting.make_job_template(options, "jobs", "logs")
    loop = campaign_loop.Loop(campaign_, template, campaign_loop.LoopOptions("local"), Stop())
    with loop:
        for _round in range(3):
            loop.round()
    assert capsys.readouterr().err.count("waiting for space") == 1


def test_other_lineages_than_planned_are_refused(lab, caplog):  # noqa: F811
    lab.add_run(1)
    name = planned("c1", "1").name
    found = campaigns.get_collection()
    kinds = found.find_one({"name": name})["kinds"]
    kinds[0]["hashes"][TARGET] = "abcdefghij"
    found.update_one({"name": name}, {"$set": {"kinds": kinds}})
    assert campaign(name, "run", *QUICK) == 2
    assert not lab.scripts()
    with pytest.raises(UsageError, match="of lineage abcdefghij, and now it would be"):
        campaign_plan.check_lineages(campaigns.find(found, name), lab.runs)


def test_old_versions_are_listed_once_the_new_ones_are_there(lab, capsys):  # noqa: F811
    for number in (1, 2):
        lab.add_run(number)
    target = ("--target", "peak_basics")
    for name in ("old", "new"):
        more = ["--config_kwargs", '{"s1_min_area": 7}'] if name == "new" else []
        if name == "new":
            target = ("--target", "event_basics")
        assert campaign(name, "plan", "1-2", *target, *more) == 0
        if name == "old":
            assert campaign(name, "run", *QUICK, "--runs_per_job=2") == 0
    new = campaigns.find(campaigns.get_collection(), "new")
    assert campaign_loop.old_data(new, lab.runs) == []
    assert campaign("new", "run", *QUICK, "--runs_per_job=2") == 0
    capsys.readouterr()
    assert campaign("new", "old-data", "--output", lab.folder / "old.sh") == 0
    text = (lab.folder / "old.sh").read_text()
    pattern = r"^amstrax (rundb --detector xams delete-data (\d+) (\w+) \w+ --folder .* --yes)$"
    found = re.findall(pattern, text, re.M)
    listed = [each[1:] for each in found]
    assert ("000001", "peak_basics") in listed and "raw_records" not in text
    before = {path.name for path in lab.processed.iterdir()}
    for words, *_ in found:
        assert cli.main(shlex.split(words)) == 0
    after = {path.name for path in lab.processed.iterdir()}
    assert len(before - after) == len(listed) > 0
    # What the campaign has made is there
    for data_type, lineage_hash in new.kinds[0].hashes.items():
        assert f"000002-{data_type}-{lineage_hash}" in after
    assert campaign_loop.old_data(new, lab.runs) == []


def test_on_slurm_each_run_is_done_once_whatever_is_killed(
    lab,  # noqa: F811
    slurm,
    tmp_path,
    monkeypatch,
):
    """Jobs, the machine that they run on, the run database and the command, all killed once.

    These processes start by themselves.
    """
    monkeypatch.setattr(sys, "executable", PYTHON)
    (tmp_path / "database").mkdir()
    database = MongoServer(tmp_path / "database")
    use_database(lab, database, monkeypatch)
    numbers = range(1, 13)
    for number in numbers:
        lab.add_run(number)
    planned("c1", "1-12", "--max_failures=30")
    options = ["c1", "run", *QUICK, "--engine=slurm", "--mem=600", "--runs_per_job=3"]
    options += ["--max_jobs=3"]
    loop = lab.start(*options)

    def at_work():
        found = map(lab.document, numbers)
        return [d for d in found if documents.status_of(d).status == "running"]

    def n_done():
        return sum(lab.status(number) == "done" for number in numbers)

    try:
        job_id = str(documents.job_of(wait_for(at_work, lab)[0])["job_id"])
        # scontrol does not know the ids of jobs of an array
        slurm.kill_job(slurm.run("squeue", "-h", "-j", job_id, "-o", "%A").strip())
        wait_for(lambda: n_done() >= 2, lab)
        loop.kill()
        loop.wait()
        database.kill()
        time.sleep(1)
        database.start()
        loop = lab.start(*options)
        wait_for(lambda: n_done() >= 5 and at_work(), lab)
        slurm.kill("slurmd")
        slurm.daemons["slurmd"].start()
        end = time.monotonic() + LONG
        while loop.poll() is None:
            assert time.monotonic() < end, lab.log.read_text()
            slurm.resume()
            time.sleep(0.5)
        assert loop.returncode == 0, lab.log.read_text()
        assert states(lab) == ["done"] * 12
        assert attempts(lab, numbers) == [1] * 12
        check_data(lab, numbers)
        check_undisturbed(lab)
        # Jobs of one wave are one array
        ids = {documents.job_of(lab.document(number))["job_id"] for number in numbers}
        assert len(ids) < 12
    finally:
        loop.kill()
        loop.wait()
        slurm.cancel_all()
        database.kill()


def use_database(lab, database, monkeypatch):  # noqa: F811
    """Let this process, and jobs, use a run database of a server."""
    password = quote_plus(MONGO_USERS["writer"][0])
    values = {
        "AMSTRAX_MONGO_URI": f"mongodb://writer:{password}@{LOCALHOST}:{database.port}/",
        "AMSTRAX_RUNDB_TIMEOUT": "20",
        "AMSTRAX_HOST": "stbc",
        "XAMS_LIVE_DATA": lab.live,
        "XAMS_PROCESSED_DATA": lab.processed,
    }
    path = lab.folder / "xams.conf"
    path.write_text("\n".join(["[default]", *(f"{k} = {v}" for k, v in values.items())]) + "\n")
    path.chmod(0o600)
    monkeypatch.setenv("AMSTRAX_CONFIG", str(path))


def check_undisturbed(lab):  # noqa: F811
    """Check that the data of a run is that of a processing that nothing has disturbed."""
    folder = lab.folder / "undisturbed"
    words = ["000001", "--target", TARGET, "--output_folder", str(folder), "--context", "xams"]
    assert cli.main(["process", *words]) == 0
    assert lab.data(1, folder) == lab.data(1)
