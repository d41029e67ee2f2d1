"""The right to work on a run: whose clock counts, who stops when, and who takes over."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from urllib.parse import quote_plus

import pytest
from live_runs import ENDED
from make_jobs import SHORT, add_run, copy_run, end_run, wait
from rundb_stores import collection  # noqa: F401
from servers import LOCALHOST, MONGO_USERS, MongoServer, with_clock

from amstrax.auto_processing import process_run
from amstrax.exceptions import RunDatabaseUnreachable
from amstrax.rundb import documents, get_mongo_collection, leases

_CLAIM = """
from datetime import UTC, datetime
from amstrax.auto_processing.loop import RunSelection
from amstrax.rundb import documents, get_mongo_collection, leases
runs = get_mongo_collection("xams")
print(datetime.now(UTC).timestamp())
print(*[leases.claim(runs, number, "me") for number in (1, 2)])
for number in (1, 2):
    print(leases.renew(runs, number, "me"), leases.release(runs, number, "nobody"))
now = documents.server_time(runs)
print(*[run["number"] for run in runs.find(documents.is_unclaimed(now))])
"""


def uri_of(server):
    """Return the connection string of a server."""
    return f"mongodb://writer:{quote_plus(MONGO_USERS['writer'][0])}@{LOCALHOST}:{server.port}"


@pytest.mark.parametrize("offset", ["+20m", "-20m"])
def test_clocks_of_hosts_do_not_matter(mongo_collection, mongo_server, offset):
    """A live lease is not taken, one that has ended is, and a new one is as long as any."""
    now = documents.server_time(mongo_collection)
    for number, minutes in ((1, 10), (2, -10), (3, 10), (4, -10)):
        claim = {"owner": "elsewhere", "expires": now + timedelta(minutes=minutes)}
        mongo_collection.insert_one({"number": number, "end": ENDED, "processing_claim": claim})
    done = subprocess.run(
        [sys.executable, "-c", _CLAIM],
        # Without a tunnel: waiting for its ssh could sleep, which fails with this clock
        env=with_clock(offset) | {"AMSTRAX_MONGO_URI": uri_of(mongo_server)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    clock, *said = done.stdout.splitlines()
    assert abs(float(clock) - now.timestamp()) > 600, "its clock is not that of this test"
    assert said == ["False True", "False False", "True False", "4"]
    first, second = (documents.find_run(mongo_collection, n)["processing_claim"] for n in (1, 2))
    assert first["owner"] == "elsewhere" and second["owner"] == "me"
    ends = second["expires"].replace(tzinfo=UTC)
    later = documents.server_time(mongo_collection)
    assert now < ends - timedelta(seconds=leases.LIFETIME) < later


def test_time_of_a_server(mongo_collection, mongo_server):
    before = datetime.now(UTC) - timedelta(seconds=1)
    times = [documents.server_time(mongo_collection)]
    with mongo_server.client() as client:
        # pymongo's own collection will do
        times.append(documents.server_time(client["run"]["runs_gas"]))
    for time in times:
        assert before < time < datetime.now(UTC) + timedelta(seconds=1)


def test_one_who_has_lost_it_stops_and_leaves_it_alone(collection):  # noqa: F811
    collection.insert_one({"number": 1, "end": ENDED})
    told = []
    lease = leases.Lease(collection, 1, lifetime=600, on_loss=lambda: told.append(1))
    assert lease.acquire() and lease.check() and not told
    other = leases.Lease(collection, 1, lifetime=600)
    assert not other.acquire()
    expired = {"processing_claim.expires": datetime(2020, 1, 1)}
    collection.update_one({"number": 1}, {"$set": expired})
    assert other.acquire()
    assert not lease.check() and told == [1]
    assert "another process has claimed it" in lease.why_lost
    assert not lease.check() and told == [1]
    lease.release()
    assert documents.find_run(collection, 1)["processing_claim"]["owner"] == other.owner
    other.release()
    assert "processing_claim" not in documents.find_run(collection, 1)


def test_a_renewal_under_way_when_it_is_given_up_is_no_loss(collection):  # noqa: F811
    collection.insert_one({"number": 1, "end": ENDED})
    told = []
    lease = leases.Lease(collection, 1, lifetime=600, on_loss=lambda: told.append(1))
    assert lease.acquire()
    lease.release()
    lease._renew()
    assert not told and not lease.lost.is_set()


def test_a_run_that_is_removed_is_a_lease_that_is_lost(collection):  # noqa: F811
    collection.insert_one({"number": 1, "end": ENDED})
    lease = leases.Lease(collection, 1, lifetime=600)
    assert lease.acquire()
    collection.delete_one({"number": 1})
    assert not lease.check()
    lease.release()


def test_one_that_cannot_be_renewed_is_lost_before_it_ends(
    collection,  # noqa: F811
    monkeypatch,
):
    """Also while the renewal hangs; by an own clock, which the test sets."""
    clock = [100.0]
    monkeypatch.setattr(leases, "_clock", lambda: clock[0])
    hangs = []

    def hang(*_args):
        hangs.append(1)
        wait(lambda: clock[0] > 500)
        return False

    collection.insert_one({"number": 1, "end": ENDED})
    lease = leases.Lease(collection, 1, lifetime=12)
    monkeypatch.setattr(leases, "renew", hang)
    assert lease.acquire()
    wait(lambda: hangs)
    assert not lease.lost.is_set()
    clock[0] += 12 * leases.STOP_AFTER + 0.001
    assert clock[0] < 112
    wait(lease.lost.is_set)
    assert "was not renewed for 8 s" in lease.why_lost
    clock[0] = 501.0


def test_the_lease_of_a_process_that_has_died_is_taken_over(collection):  # noqa: F811
    """Of this machine, and not of another container; as is that of nobody else."""
    collection.insert_one({"number": 1, "end": ENDED})
    code = "from amstrax.rundb import leases; print(leases.new_owner('a.job'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    dead = done.stdout.strip()
    mine = leases.new_owner()
    elsewhere = dead.replace(leases._machine(), "elsewhere:boot:1")
    assert leases.is_dead(dead)
    for owner in (mine, elsewhere, "", "a/b/c", "a/b/c/d/e"):
        assert not leases.is_dead(owner)
        assert leases.claim(collection, 1, owner)
        assert not leases.claim(collection, 1, "other")
        leases.release(collection, 1, owner)
    assert leases.claim(collection, 1, dead)
    assert leases.claim(collection, 1, "other")


def test_the_process_takes_over_what_it_asked_for_without_an_answer(
    mongo_collection, mongo_server, monkeypatch
):
    """Its own lease would hold up a run for its lifetime; a claim was made, a release was not."""
    claim = leases.claim

    def claim_without_answer(*args):
        assert claim(*args)
        raise RunDatabaseUnreachable("the connection is lost after the request")

    mongo_collection.insert_one({"number": 1, "end": ENDED})
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "5")
    runs = get_mongo_collection("xams")
    lease = leases.Lease(runs, 1, lifetime=600)
    with monkeypatch.context() as patch:
        patch.setattr(leases, "claim", claim_without_answer)
        with pytest.raises(RunDatabaseUnreachable):
            lease.acquire()
    assert documents.find_run(runs, 1)["processing_claim"]["owner"] == lease.owner
    # The same owner may ask again, and is none of the dead then
    assert lease.acquire() and not leases.is_dead(lease.owner)
    assert not leases.Lease(runs, 1).acquire()
    mongo_server.kill()
    lease.release()
    mongo_server.start()
    assert documents.find_run(runs, 1)["processing_claim"]["owner"] == lease.owner
    other = leases.Lease(runs, 1)
    assert other.acquire()
    other.release()


def test_a_process_that_proc_does_not_show_is_alive(monkeypatch):
    """As those of other users are where /proc is mounted with hidepid."""
    mine = leases.new_owner()
    child = subprocess.Popen([sys.executable, "-c", ""])
    theirs = mine.replace(f"/{os.getpid()}/", f"/{child.pid}/")
    child.wait()
    monkeypatch.setattr(leases, "_start", lambda _pid: None)
    assert not leases.is_dead(mine)
    assert leases.is_dead(theirs)
    # That of the first process is somebody else's, unless this is root
    assert not leases.is_dead(mine.replace(f"/{os.getpid()}/", "/1/"))


@pytest.mark.slow
def test_a_job_that_cannot_renew_stops_and_another_takes_over(
    tmp_path, monkeypatch, live_runs, start_tool, no_settings
):
    """Of a server that stands still nobody knows when it answers again."""
    server = MongoServer(tmp_path)
    try:
        monkeypatch.setenv("AMSTRAX_MONGO_URI", uri_of(server))
        monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "3")
        runs = get_mongo_collection("xams")
        add_run(runs, live_runs)
        out, folder = tmp_path / "out", copy_run(live_runs, tmp_path / "copy", end=False)
        options = [SHORT, "--target=peak_basics", f"--output_folder={out}"]
        options += [f"--live_data_dir={folder}", "--claim_lifetime=30"]
        job = start_tool(process_run.main, *options, "--attempt=a1")
        wait(lambda: list(out.glob(f"{SHORT}-*")), job.text)
        server.signal(signal.SIGSTOP)
        assert job.result() == 75, job.text()
        assert "its claim was not renewed for 20 s" in job.text()
        assert "Traceback" not in job.text()
        # What was incomplete is removed, what is complete is there for the next one
        assert not list(out.glob("*_temp"))
        server.signal(signal.SIGCONT)
        document = documents.find_run(runs, SHORT)
        assert documents.status_of(document).status == "running"
        assert document["processing_claim"]["owner"].startswith("a1.job")
        end_run(folder)
        tools = [start_tool(process_run.main, *options, f"--attempt=a{i}") for i in (2, 3)]
        assert {tool.result() for tool in tools} <= {0, 75}
        document = documents.find_run(runs, SHORT)
        assert documents.status_of(document).status == "done"
        assert documents.failures_of(document) == 0
        assert documents.job_of(document)["attempt"] in ("a2", "a3")
        assert len(documents.data_of(document, type="peak_basics")) == 1
        assert "peak_basics" in "".join(tool.text() for tool in tools)
    finally:
        server.signal(signal.SIGCONT)
        server.kill()
