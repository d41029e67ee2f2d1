"""What tools ask of run documents and change in them, in both stores."""

import json
import multiprocessing
import random
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from unittest.mock import Mock

import pytest
from rundb_stores import collection, real_document  # noqa: F401

from amstrax.exceptions import InvalidOption, InvalidRunDocument, RunNotFound
from amstrax.rundb import diagnose, documents, leases, transfer

ENDED = {"end": datetime(2026, 1, 1)}


@pytest.fixture
def run(collection, real_document):  # noqa: F811
    """The collection, with the document of run 2240."""
    collection.insert_one(dict(real_document))
    return collection


def ids(runs):
    return [r["number"] for r in runs]


def test_finding(run, real_document):  # noqa: F811
    run.insert_one({"name": "calibration", "_id": 7})
    for run_id in ("002240", "2240", 2240):
        assert documents.find_run(run, run_id) == real_document
    assert documents.find_run(run, "002240", "number", ["mode"]).keys() == {"_id", "mode"}
    assert documents.find_run(run, "calibration")["_id"] == 7
    for run_id, field in (("002240", "name"), ("calibration", "number"), ("9" * 30, None)):
        with pytest.raises(RunNotFound, match=run_id):
            documents.find_run(run, run_id, field)
    with pytest.raises(InvalidOption, match="runid_field"):
        documents.find_run(run, "1", "mode")


@pytest.mark.parametrize(
    ("document", "name", "number"),
    [
        ({"number": 7}, "000007", 7),
        ({"number": 7.0, "name": ""}, "000007", 7),
        ({"number": "7", "name": None}, "000007", 7),
        ({"name": "000012"}, "000012", 12),
        ({"name": "abc", "number": None}, "abc", None),
        ({"name": 5, "number": True}, "000005", 5),
        ({"name": ["x"], "number": {}}, None, None),
        ({}, None, None),
    ],
    ids=str,
)
def test_names_and_numbers(document, name, number):
    assert (documents.name_of(document), documents.number_of(document)) == (name, number)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("pending", ("pending", None)),
        ("processing", ("running", None)),
        ("done", ("done", None)),
        ("failed due to no disk", ("failed", "no disk")),
        ("failed", ("failed", None)),
        ({"status": "failed", "reason": "x", "host": "h", "time": None}, ("failed", "x")),
        ({"status": "processing"}, ("running", None)),
        ({"status": 3}, ("pending", None)),
        (["done"], ("pending", None)),
        (7, ("pending", None)),
        (None, ("pending", None)),
    ],
    ids=str,
)
def test_status_in_either_form(collection, value, expected):  # noqa: F811
    collection.insert_one({"number": 1, "processing_status": value})
    status = documents.status_of(collection.find_one({"number": 1}))
    assert (status.status, status.reason) == expected
    if isinstance(value, (str, dict)) and value != {"status": 3}:
        assert collection.count_documents(documents.has_status(expected[0])) == 1
        others = [s for s in documents.STATUSES if s != expected[0]]
        assert collection.count_documents(documents.has_status(*others)) == 0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "pending"),
        ({"processing_status": 3}, "pending"),
        ({"end": None}, "taking"),
        ({"end": None, "start": "2024-01-01T00:00:00Z"}, "no-end"),
        ({"end": None, "start": None}, "no-end"),
        ({"end": None, "processing_status": "done"}, "done"),
        ({"number": 9}, "running"),
        ({"number": 9, "end": None}, "running"),
        ({"number": 9, "processing_status": "failed"}, "failed"),
        ({"processing_status": "failed"}, "failed"),
        ({"processing_status": "failed", "processing_job": {"cancelled_by": "u"}}, "cancelled"),
        ({"processing_status": "done", "processing_job": {"cancelled_by": "u"}}, "done"),
        ({"processing_claim": {"owner": "a.1", "expires": "later"}}, "running"),
        ({"processing_claim": {"owner": "a.1"}}, "running"),
        ({"processing_claim": {"owner": "a.1", "expires": "earlier"}}, "pending"),
        ({"processing_claim": {"owner": "submit-h", "expires": "later"}}, "pending"),
        # As `process_run --leave_status` leaves it
        ({"processing_status": {"targets": {"peaks": {"status": "done"}}}}, "pending"),
    ],
    ids=str,
)
def test_state_and_its_filter_agree(collection, fields, expected):  # noqa: F811
    now = datetime.now(UTC)
    document = {"number": 1, "start": now, "end": now, **fields}
    claim = document.get("processing_claim")
    if claim is not None and "expires" in claim:
        hours = 1 if claim["expires"] == "later" else -1
        document["processing_claim"] = {**claim, "expires": now + timedelta(hours=hours)}
    collection.insert_one(document)
    followed = ["000009"]
    assert documents.state_of(collection.find_one({}), followed).status == expected
    found = [
        state
        for state in documents.STATES
        if collection.count_documents(documents.has_state(state, followed=followed))
    ]
    assert found == [expected]
    assert collection.count_documents(documents.has_state(*documents.STATES)) == 1
    with pytest.raises(InvalidOption, match="status 'dne' is unknown; did you mean done"):
        documents.has_state("dne")


def test_odd_values():
    assert documents.tags_of({"tags": [{"name": "a"}, "b", {"name": 3}, {}, 7, None]}) == ["a", "b"]
    # As the filter for tags finds it
    assert documents.tags_of({"tags": "a"}) == documents.tags_of({"tags": {"name": "a"}}) == ["a"]
    assert documents.tags_of({}) == []
    assert documents.data_of({"data": {"type": "live"}}) == documents.data_of({}) == []
    assert documents.data_of({"data": [None, {"type": "live"}, "x"]}, type="live") == [
        {"type": "live"}
    ]
    values = (None, 2, 2.0, "2", "x", float("nan"), [], True)
    counts = [documents.failures_of({"processing_failed": value}) for value in values]
    assert counts == [0, 2, 2, 2, 0, 0, 0, 1]


def test_which_runs_have_a_tag(collection):  # noqa: F811
    tags = [None, [], [{"name": "abandon"}], ["abandon", "process"], ["process"]]
    collection.insert_many([{"number": i, "tags": tag} for i, tag in enumerate(tags)])
    collection.insert_one({"number": 5})
    for name, numbers in (("abandon", [2, 3]), ("process", [3, 4]), ("other", [])):
        has = collection.find(documents.has_tag(name), sort=[("number", 1)])
        lacks = collection.find(documents.lacks_tag(name), sort=[("number", 1)])
        assert ids(has) == numbers
        assert ids(lacks) == [i for i in range(6) if i not in numbers]


def test_which_runs_are_claimed(collection):  # noqa: F811
    """A document that was read says the same as the filter for documents."""
    now = datetime.now(UTC)
    past, future = (now + timedelta(hours=hours) for hours in (-1, 1))
    unclaimed = [{}, {"processing_claim": None}]
    unclaimed += [{"processing_claim": {"owner": "a.1", "expires": past}}]
    claims = [{"owner": "a.1", "expires": future}, {"owner": "b.1", "expires": future}]
    odd = [{"owner": "a.1"}, {"owner": "a.1", "expires": "x"}, "somebody", {}, 1]
    claimed = [{"processing_claim": claim} for claim in (*claims, *odd)]
    every = [*unclaimed, *claimed]
    collection.insert_many([{"number": i, **run} for i, run in enumerate(every)])
    found = collection.find(documents.is_unclaimed(now), sort=[("number", 1)])
    assert ids(found) == list(range(len(unclaimed)))
    for document in collection.find({}):
        is_claimed = document["number"] >= len(unclaimed)
        assert documents.is_claimed(document) == is_claimed, document
        claim = document.get("processing_claim")
        of_a = is_claimed and isinstance(claim, dict) and claim.get("owner") == "a.1"
        assert documents.is_claimed(document, attempt="a") == of_a, document
        assert not documents.is_claimed(document, documents.COPY_CLAIM)


def test_has_data(run):
    assert run.count_documents(documents.has_data("live", host="daq")) == 1
    assert run.count_documents(documents.has_data("live", host="stbc")) == 0


def test_a_claim_is_one_owners_until_it_expires(run):
    assert leases.claim(run, "002240", "one")
    assert not leases.claim(run, "002240", "two")
    assert leases.claim(run, "002240", "one")
    assert not leases.renew(run, "002240", "two") and not leases.release(run, 2240, "two")
    before = documents.find_run(run, "002240")["processing_claim"]
    assert before["host"] == documents.this_host()
    assert leases.renew(run, "002240", "one", lifetime=5000)
    after = documents.find_run(run, "002240")["processing_claim"]
    assert after["expires"] > before["expires"] + timedelta(hours=1)
    assert leases.renew(run, "002240", "one", lifetime=-1)
    assert leases.claim(run, "002240", "two")
    assert not leases.renew(run, "002240", "one") and not leases.release(run, 2240, "one")
    assert leases.release(run, "002240", "two")
    assert not leases.release(run, "002240", "two")
    assert "processing_claim" not in documents.find_run(run, 2240)


def _claim_all(get_collection, arguments, owner, start, results):
    collection = get_collection(*arguments)  # noqa: F811
    start.wait()
    mine, chance = [], random.Random(owner)
    # Several go for the same runs
    while free := documents.read(
        collection,
        documents.is_unclaimed(documents.server_time(collection)),
        ["number"],
        limit=12,
    ):
        number = chance.choice(free)["number"]
        if leases.claim(collection, number, owner):
            mine.append(number)
    results.put((owner, mine))


def _embedded_collection(path):
    from amstrax.rundb.embedded import LocalClient

    return LocalClient(path)["run"]["runs_gas"]


def _mongo_collection():
    from amstrax.rundb import get_mongo_collection

    return get_mongo_collection("xams")


def test_racing_processes_get_different_runs(collection):  # noqa: F811
    count, workers = 200, 8
    collection.insert_many([{"number": i, **ENDED} for i in range(count)])
    if type(collection).__name__ == "LocalCollection":
        factory, arguments = _embedded_collection, (collection.database.client.path,)
    else:
        factory, arguments = _mongo_collection, ()
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(workers), context.Queue()
    children = [
        context.Process(target=_claim_all, args=(factory, arguments, f"w{i}", start, results))
        for i in range(workers)
    ]
    for child in children:
        child.start()
    found = dict(results.get(timeout=300) for _ in children)
    for child in children:
        child.join()
    claimed = [found[f"w{i}"] for i in range(workers)]
    assert sorted(sum(claimed, [])) == list(range(count))
    for run in collection.find({}, ["number", "processing_claim"]):
        owner = int(run["processing_claim"]["owner"][1:])
        assert run["processing_claim"]["host"] == documents.this_host()
        assert run["number"] in claimed[owner]


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (None, "pending"),
        ("failed due to rain", "failed"),
        ({"status": "done", "host": "stbc"}, "done"),
        ({"status": "done", "targets": 3}, "done"),
        ([{"status": "done"}], "pending"),
        (5, "pending"),
    ],
    ids=str,
)
def test_status_of_targets_stays(run, value, status):
    run.update_one({}, {"$set": {"processing_status": value}})
    for target in ("peaks", "events"):
        assert documents.set_target_status(run, 2240, target, "running", True)
    found = documents.find_run(run, 2240)
    assert documents.status_of(found).status == status
    assert found["processing_status"].get("host") in (None, "stbc")
    documents.set_status(run, 2240, "running", reason="why")
    assert documents.set_target_status(run, 2240, "peaks", "failed", False, "disk")
    assert documents.record_failure(run, 2240, "disk", "a1") == 1
    found = documents.find_run(run, 2240)["processing_status"]
    assert (found["status"], found["reason"]) == ("failed", "disk")
    targets = found["targets"]
    assert targets["peaks"].keys() == {"status", "time", "host", "reason", "is_online"}
    assert [targets[t]["status"] for t in ("peaks", "events")] == ["failed", "running"]
    assert [targets[t]["is_online"] for t in ("peaks", "events")] == [False, True]
    assert not documents.set_target_status(run, 2240, "peaks", "done", True, owner="other")
    for target, word in (("a.b", "done"), ("$a", "done"), ("peaks", "doen")):
        with pytest.raises(InvalidOption):
            documents.set_target_status(run, 2240, target, word, True)


def test_history_is_added_once(run):
    run.update_one({}, {"$set": {"processing_history": None}})
    entry = documents.history_entry("target_peaks", "done", False, n_chunks=3)
    assert documents.add_history(run, 2240, entry)
    assert documents.add_history(run, 2240, entry)
    # A job whose claim was taken from it adds nothing
    leases.claim(run, 2240, "me")
    assert not documents.add_history(run, 2240, entry | {"action": "process_run_end"}, "orphan")
    assert documents.add_history(run, 2240, entry | {"action": "target_events"}, "me")
    (first, second) = documents.find_run(run, 2240)["processing_history"]
    assert first["n_chunks"] == 3 and first["status"] == "done" and first["host"] and first["user"]
    assert second["action"] == "target_events"


def test_status_changes(run):
    assert documents.set_status(run, "002240", "submitted", host="stbc")
    status = documents.status_of(documents.find_run(run, "002240"))
    assert status[0::2] == ("submitted", "stbc")
    now = datetime.now(UTC).replace(tzinfo=None)
    assert now - timedelta(minutes=10) < status.time <= now
    leases.claim(run, "002240", "me")
    assert not documents.set_status(run, "002240", "running", owner="other")
    assert documents.set_status(run, "002240", "running", owner="me")
    assert documents.status_of(documents.find_run(run, 2240))[0] == "running"
    with pytest.raises(InvalidOption, match="done"):
        documents.set_status(run, "002240", "doen")
    with pytest.raises(RunNotFound):
        documents.set_status(run, "000001", "done")


@pytest.mark.parametrize("before", [None, "nothing", 1, "x", 1.0], ids=str)
def test_failures_are_counted_once(run, before):
    if before != "nothing":
        change = {"processing_failed": before, "processing_failures": None}
        run.update_one({"number": 2240}, {"$set": change})
    first = 1 if before in (1, 1.0) else 0
    assert documents.record_failure(run, 2240, "no disk", "job1", host="stbc") == first + 1
    assert documents.record_failure(run, 2240, "no disk", "job1", host="stbc") == first + 1
    assert documents.record_failure(run, 2240, "no data", "job2") == first + 2
    found = documents.find_run(run, 2240)
    assert documents.status_of(found)[0::3] == ("failed", "no data")
    assert documents.failures_of(found) == first + 2
    failures = found["processing_failures"]
    assert [f["attempt"] for f in failures] == ["job1", "job2"] and failures[0]["host"] == "stbc"
    documents.set_status(run, 2240, "pending")
    found = documents.find_run(run, 2240)
    assert (documents.failures_of(found), found["processing_failures"]) == (0, [])


def test_what_is_said_of_a_job(run):
    """Changed with the status in one go, or alone; by the one who has claimed the run."""
    assert documents.job_of(documents.find_run(run, 2240)) == {}
    job = {"attempt": "a1", "job_id": None}
    assert not documents.set_job(run, 2240, job, "me")
    assert not documents.set_status(run, 2240, "submitted", owner="me", job=job)
    assert documents.job_of(documents.find_run(run, 2240)) == {}
    leases.claim(run, 2240, "me")
    assert documents.set_job(run, 2240, job, "me")
    found = documents.find_run(run, 2240)
    assert documents.job_of(found) == job
    assert documents.status_of(found).status == "pending"
    assert documents.set_status(run, 2240, "submitted", owner="me", job=job | {"job_id": "1"})
    assert documents.set_status(run, 2240, "running", owner="me")
    found = documents.find_run(run, 2240)
    assert documents.job_of(found) == {"attempt": "a1", "job_id": "1"}
    assert documents.status_of(found).status == "running"
    assert documents.set_job(run, 2240, {}, "me")
    assert "processing_job" not in documents.find_run(run, 2240)


def test_failures_of_racing_jobs_are_all_counted(run):
    threads = [
        threading.Thread(target=documents.record_failure, args=(run, 2240, "x", f"job{i % 4}"))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert documents.failures_of(documents.find_run(run, 2240)) == 4


def test_data(run, real_document):  # noqa: F811
    entry = {"type": "peaks", "host": "stbc", "location": "/data/p", "lineage_hash": "abc"}
    assert documents.add_data(run, 2240, entry | {"n_chunks": 1})
    assert not documents.add_data(run, 2240, entry | {"n_chunks": 2})
    assert documents.add_data(run, 2240, entry | {"lineage_hash": "abd"})
    live = {"type": "live", "host": "stbc", "location": "/data/live"}
    assert documents.add_data(run, 2240, live) and not documents.add_data(run, 2240, live)
    data = documents.find_run(run, 2240)["data"]
    assert data[: len(real_document["data"])] == real_document["data"]
    assert data[-3:] == [entry | {"n_chunks": 2}, entry | {"lineage_hash": "abd"}, live]
    assert documents.remove_data(run, 2240, {"type": "peaks", "host": "stbc"}, "me") == 2
    assert documents.remove_data(run, 2240, {"type": "peaks", "host": "stbc"}, "me") == 0
    assert documents.remove_data(run, 2240, {"type": "live", "host": "daq"}, "me") == 1
    found = documents.find_run(run, 2240)
    assert found["data"] == [*real_document["data"][1:], live]
    deleted = found["deleted_data"]
    assert [d.get("lineage_hash") for d in deleted] == ["abc", "abd", None]
    assert deleted[0]["n_chunks"] == 2 and deleted[0]["deleted_by"] == "me"
    assert isinstance(deleted[2]["deleted_at"], datetime)


def test_several_entries_are_added_with_one_update(run):
    new = [
        {"type": "peaks", "host": "lab", "location": "/data/p", "lineage_hash": f"{i}"}
        for i in range(5)
    ]
    before = documents.find_run(run, 2240)["data"]
    watched = Mock(wraps=run)
    assert documents.add_data(watched, 2240, *new[:3])
    assert watched.update_one.call_count == 1
    assert not documents.add_data(run, 2240, new[1] | {"n_chunks": 2}, new[3])
    with pytest.raises(InvalidRunDocument, match="lacks host"):
        documents.add_data(run, 2240, new[4], {"type": "peaks"})
    found = documents.find_run(run, 2240)["data"]
    assert found == [*before, new[0], new[1] | {"n_chunks": 2}, new[2], new[3]]


def test_entries_that_differ_in_other_fields_are_all_kept(collection):  # noqa: F811
    entry = {"type": "peaks", "host": "stbc"}
    data = [entry | {"n": 1}, entry | {"n": 2}, "odd", None, {"type": "peaks", "host": "daq"}]
    collection.insert_one({"number": 1, "data": data, "deleted_data": None})
    assert documents.remove_data(collection, 1, entry, "me") == 2
    found = documents.find_run(collection, 1)
    assert found["data"] == data[2:]
    assert [d["n"] for d in found["deleted_data"]] == [1, 2]


@pytest.mark.parametrize("entry", [{}, {"type": "live", "host": "", "location": "/x"}], ids=str)
def test_data_without_type_or_place_is_refused(run, entry):
    with pytest.raises(InvalidRunDocument, match="host"):
        documents.add_data(run, 2240, entry)


@pytest.mark.parametrize("field", ["data", "tags", "processing_failures", "deleted_data"])
def test_a_null_becomes_a_list_and_what_is_no_list_stays(run, field):
    live = {"type": "live", "host": "daq", "location": "/x"}
    changes = {
        "data": lambda: documents.add_data(run, 2240, live),
        "tags": lambda: documents.add_tag(run, 2240, "x", "me"),
        "processing_failures": lambda: documents.record_failure(run, 2240, "x", "job"),
        "deleted_data": lambda: documents.remove_data(run, 2240, {"host": "daq"}, "me"),
    }
    run.update_one({"number": 2240}, {"$set": {field: None}})
    changes[field]()
    assert len(documents.find_run(run, 2240)[field]) == 1
    run.update_one({"number": 2240}, {"$set": {field: {"a": 1}, "data": [live]}})
    if field == "data":
        run.update_one({"number": 2240}, {"$set": {field: {"a": 1}}})
    if field == "processing_failures":
        # A failure is recorded whatever there is
        changes[field]()
        assert len(documents.find_run(run, 2240)[field]) == 1
        return
    with pytest.raises(InvalidRunDocument, match=f"{field} of the run .* not a list"):
        changes[field]()
    assert documents.find_run(run, 2240)[field] == {"a": 1}


def test_tags(run):
    run.update_one({"number": 2240}, {"$set": {"tags": ["old", {"name": "new"}]}})
    assert documents.add_tag(run, 2240, "bad", "me")
    for tag in ("bad", "old", "new"):
        assert not documents.add_tag(run, 2240, tag, "me")
    found = documents.find_run(run, 2240)
    assert documents.tags_of(found) == ["old", "new", "bad"]
    assert found["tags"][2]["user"] == "me" and isinstance(found["tags"][2]["date"], datetime)
    for tag, user in (("bad", "she"), ("new", "me"), ("old", "me")):
        assert not documents.remove_tag(run, 2240, tag, user)
    assert documents.remove_tag(run, 2240, "bad", "me")
    assert documents.tags_of(documents.find_run(run, 2240)) == ["old", "new"]
    assert documents.add_tag(run, 2240, "bad", "me")
    for tag in ("bad", "old", "new"):
        assert documents.remove_tag(run, 2240, tag)
        assert not documents.remove_tag(run, 2240, tag)
    assert documents.find_run(run, 2240)["tags"] == []


def test_adding_a_run(collection, real_document):  # noqa: F811
    new = {k: v for k, v in real_document.items() if k != "_id"}
    assert transfer.add_run(collection, new)
    for again in (new, real_document, {"number": 2240}, {"name": "002240"}, {"number": 2240.0}):
        assert not transfer.add_run(collection, again)
    found = documents.find_run(collection, 2240)
    assert found["name"] == "002240" and found["number"] == 2240
    assert {k: found[k] for k in new} == new
    assert transfer.add_run(collection, {"name": "calibration"})
    assert not transfer.add_run(collection, {"name": "calibration"})
    with pytest.raises(InvalidRunDocument, match="neither number nor name"):
        transfer.add_run(collection, {"mode": "x"})


def test_racing_additions_of_a_run_make_one(collection):  # noqa: F811
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(transfer.add_run(collection, {"number": 5})))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 7 + [True]
    assert collection.count_documents({"number": 5}) == 1


def test_import_is_cheap():
    code = "import sys, json, amstrax.rundb.documents; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"strax", "pymongo", "paramiko"} & set(json.loads(done.stdout))


def test_this_host(monkeypatch):
    monkeypatch.setenv("AMSTRAX_HOST", "stbc")
    assert documents.this_host() == "stbc"
    assert leases.new_owner().startswith("stbc/")
    assert leases.new_owner() != leases.new_owner()


def test_it_goes_on_after_the_line_has_dropped(mongo_collection, ssh_server):
    """sshd is killed and started again; neither reads nor changes need to know."""
    mongo_collection.insert_many([{"number": i, **ENDED} for i in range(300)])
    changes = [
        lambda: leases.claim(mongo_collection, 0, "me"),
        lambda: documents.set_status(mongo_collection, 0, "running", owner="me"),
        lambda: len(documents.read(mongo_collection, {}, ["number"])) == 300,
    ]
    for change in changes:
        ssh_server.kill()
        ssh_server.start()
        assert change()


def test_failure_of_a_job_that_was_thought_dead_and_was_not(run):
    """Its attempt is counted once, and the run is failed also when it dies after all."""
    assert documents.record_failure(run, 2240, "the node is gone", "a1") == 1
    documents.set_status(run, 2240, "running", job={"attempt": "a1"})
    assert documents.record_failure(run, 2240, "killed", "a1") == 1
    status = documents.status_of(documents.find_run(run, 2240))
    assert (status.status, status.reason) == ("failed", "killed")
    # What another attempt has come to is not touched
    documents.set_status(run, 2240, "running", job={"attempt": "a2"})
    assert documents.record_failure(run, 2240, "killed", "a1") == 1
    assert documents.status_of(documents.find_run(run, 2240)).status == "running"


def test_claims_of_others(run):
    """Kinds of work have claims of their own; one can be taken from somebody named."""
    assert leases.claim(run, 2240, "submitter")
    assert leases.claim(run, 2240, "copier", field=documents.COPY_CLAIM)
    assert not leases.claim(run, 2240, "job", instead_of={"processing_claim.owner": "other"})
    assert leases.claim(run, 2240, "job", instead_of={"processing_claim.owner": "submitter"})
    assert not leases.release(run, 2240, "submitter")
    assert leases.release(run, 2240, "job")
    assert documents.find_run(run, 2240)["copy_claim"]["owner"] == "copier"


def test_two_documents_of_one_run(collection, caplog, monkeypatch):  # noqa: F811
    """Tags of either count, and a warning says once that there are two."""
    monkeypatch.setattr(documents, "_warned", set())
    collection.insert_one({"_id": 1, "number": 5, "name": "000005", "tags": ["one"]})
    collection.insert_one({"_id": 2, "number": 6, "name": "000006", "tags": ["three"]})
    document = documents.find_run(collection, 5)
    assert documents.merge_tags(collection, document) == document
    collection.insert_one({"_id": 3, "number": 5, "name": "5", "tags": [{"name": "two"}]})
    collection.insert_one({"_id": 4, "name": "000005"})
    for _ in range(2):
        found = documents.merge_tags(collection, document)
        assert sorted(documents.tags_of(found)) == ["one", "two"]
    assert caplog.text.count("run 000005 has 3 documents in run.runs_gas (_id 1, 3, 4)") == 1
    assert documents.merge_tags(collection, {"_id": 7, "name": None}) == {"_id": 7, "name": None}
    assert diagnose.duplicates(collection.find({})) == ["000005"]


def test_quality_and_comments(run):
    run.update_one({"number": 2240}, {"$set": {"tags": ["bad"], "comments": None}})
    documents.set_quality(run, 2240, "good", "me", "stable")
    documents.set_quality(run, 2240, "unsure", "you", "field off?")
    found = documents.find_run(run, 2240)
    assert documents.tags_of(found) == ["unsure"] and documents.quality_of(found) == "unsure"
    assert found["tags"][0]["comment"] == "field off?"
    with pytest.raises(InvalidOption, match="quality 'godo' is unknown"):
        documents.set_quality(run, 2240, "godo", "me", "")
    for text in ("one", "two"):
        documents.add_comment(run, 2240, text, "me")
    run.update_one({"number": 2240}, {"$push": {"comments": {"text": "of another tool"}}})
    comments = documents.comments_of(documents.find_run(run, 2240))
    assert [each["text"] for each in comments] == ["one", "two", "of another tool"]
    assert comments[0]["user"] == "me" and comments[2]["time"] is None


@pytest.mark.parametrize(
    ("size", "megabytes"),
    [(0, 0.0), (2.5, 2.5), (None, None), ("2", None), (True, None), (-1, None)]
    + [(value, None) for value in (float("nan"), float("inf"))],
)
def test_sizes_of_data(size, megabytes):
    assert documents.megabytes_of({"size_mb": size}) == megabytes
