"""Documents of campaigns, and what run documents say of runs in them, in both stores."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rundb_stores import collection  # noqa: F401

from amstrax.exceptions import AlreadyAtWork, InvalidOption, RunDatabaseError, UsageError
from amstrax.rundb import campaigns, documents
from amstrax.rundb.campaigns import Campaign, Kind

PLANNED = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW = PLANNED + timedelta(hours=2)
LATER, BEFORE = PLANNED + timedelta(hours=1), PLANNED - timedelta(hours=1)


def example(name="c1", **values) -> Campaign:
    """Return a campaign of two runs."""
    return Campaign(
        **{
            "name": name,
            "detector": "xams",
            "options": "{}",
            "places": ("/raw", "/processed"),
            "raw_types": ("raw_records",),
            "kinds": (Kind("xams", ("peaks",), {"peaks": "new", "raw_records": "raw"}),),
            "runs": ("000001", "000002"),
            "kind_of_run": (0, 0),
            "mb": (1.0, 2.5),
            "disk_mb": (1.0, 2.5),
            "estimate": "assumed",
            "seconds": 3.0,
            "time": PLANNED,
            **values,
        }
    )


@pytest.fixture
def store(collection):  # noqa: F811
    """An empty collection of campaigns in the store of the run documents."""
    found = campaigns.get_collection()
    found.delete_many({})
    return found


def test_a_campaign_is_kept_and_found_again(store):
    one = example(places=("/a b", "/c"), changed_by="me")
    campaigns.add(store, one)
    assert campaigns.find(store, "c1") == one
    # A write that is sent again after a lost answer
    campaigns.add(store, one)
    for other in (example(user="you"), example(time=NOW), example(runs=("000003", "000002"))):
        with pytest.raises(UsageError, match=r"campaign c1 exists, planned by .* on 2026-03-01"):
            campaigns.add(store, other)
    campaigns.add(store, example("c2", time=BEFORE))
    assert [document["name"] for document in campaigns.find_all(store)] == ["c2", "c1"]


@pytest.mark.parametrize(
    "name", ["", "1", "list", "a/b", "../x", "a b", "$x", "é", "a" * 65, "a\n"]
)
def test_invalid_names(store, name):
    with pytest.raises(UsageError, match="is no name of a campaign"):
        campaigns.add(store, example(name))
    with pytest.raises(UsageError, match="is no name of a campaign"):
        campaigns.find(store, name)


def test_an_unknown_campaign_names_those_there_are(store):
    with pytest.raises(UsageError, match="no campaign 'c2': there are none"):
        campaigns.find(store, "c2")
    campaigns.add(store, example())
    with pytest.raises(UsageError, match="no campaign 'c2': there are c1;"):
        campaigns.set_state(store, "c2", campaigns.PAUSED)
    with pytest.raises(UsageError, match="campaign c2 has been removed"):
        campaigns.read_state(store, "c2")


@pytest.mark.parametrize("change", [{"kinds": 3}, {"time": None}, {"kinds": [{}]}, {"runs": 5}])
def test_an_invalid_document_is_an_error(store, change):
    campaigns.add(store, example())
    store.update_one({"name": "c1"}, {"$set": change})
    with pytest.raises(InvalidOption, match="campaign c1 is invalid .*: remove the campaign"):
        campaigns.find(store, "c1")


def test_pausing_and_the_lease_of_who_submits(store):
    campaigns.add(store, example())
    assert campaigns.read_state(store, "c1") == ("open", "")
    campaigns.set_state(store, "c1", campaigns.PAUSED)
    state, by = campaigns.read_state(store, "c1")
    assert state == "paused" and by
    first, second = campaigns.lease(store, "c1"), campaigns.lease(store, "c1")
    assert campaigns.claimed_by(store, "c1") == ""
    assert first.acquire() and not second.acquire()
    assert campaigns.claimed_by(store, "c1").endswith(f"on {documents.this_host()}")
    with pytest.raises(AlreadyAtWork, match=r"campaign c1 is not removed: .* submits for it"):
        campaigns.remove(store, "c1")
    # Who pauses, or reads it, does not take the lease away
    assert campaigns.find(store, "c1").state == "paused" and first.check()
    first.release()
    assert second.acquire()
    second.release()
    campaigns.remove(store, "c1")
    with pytest.raises(UsageError):
        campaigns.remove(store, "c1")


def entry(location="/processed", lineage_hash="new", time=LATER, host="elsewhere"):
    where = {"host": host, "location": location, "time": time}
    return {"type": "peaks", "lineage_hash": lineage_hash, **where}


def status(word, time=LATER, **more):
    return {"processing_status": {"status": word, "time": time, "reason": "for a reason"}, **more}


OURS = {"processing_job": {"targets": ["peaks"], "context": "xams"}}
CLAIMED = {"processing_claim": {"owner": "x", "expires": NOW + timedelta(minutes=1)}}
EXPIRED = {"processing_claim": {"owner": "x", "expires": NOW - timedelta(minutes=1)}}


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "waiting"),
        ({"end": None}, "skipped"),
        ({"tags": [{"name": "abandon"}]}, "skipped"),
        ({"data": [entry()]}, "done"),
        ({"data": [entry(time=BEFORE)]}, "stored"),
        ({"data": [entry(time=None)]}, "stored"),
        # Of another lineage, or in a place that nobody here knows
        ({"data": [entry(lineage_hash="old")]}, "waiting"),
        ({"data": [entry("/elsewhere")]}, "waiting"),
        # Complete, but its job has not ended
        ({"data": [entry()], **status("running"), **CLAIMED}, "running"),
        # Its job was killed before it could set the status
        ({"data": [entry()], **status("running")}, "running"),
        ({"data": [entry()], **status("failed", processing_failed=1)}, "waiting"),
        ({"data": [entry(time=BEFORE)], **status("failed", processing_failed=3)}, "stored"),
        ({"data": [entry()], **status("failed", BEFORE, processing_failed=3)}, "done"),
        (status("submitted"), "submitted"),
        (status("running") | CLAIMED, "running"),
        (status("running") | EXPIRED, "waiting"),
        (status("failed", processing_failed=1), "waiting"),
        (status("failed", processing_failed=3), "failed"),
        (status("failed", BEFORE, processing_failed=3), "waiting"),
        (status("failed") | {"processing_job": {"cancelled_by": "me"}}, "failed"),
        (status("done"), "waiting"),
        (status("done") | OURS, "failed"),
        (status("done", BEFORE) | OURS, "waiting"),
        ({"processing_status": "failed"}, "waiting"),
    ],
    ids=str,
)
def test_states_of_runs(fields, state):
    document = {"name": "000002", "end": BEFORE, **fields}
    found = example().state_of(document, NOW, 60)
    assert found.state == state
    if state in ("failed", "skipped"):
        assert found.reason
    if state == "done":
        assert found.time == LATER


def test_pause_before_a_retry_and_earlier_failures():
    document = {"name": "000001", "end": BEFORE, **status("failed", NOW, processing_failed=2)}
    campaign = example()
    # Twice the first pause after a second failure
    for seconds, is_due in ((119, False), (120, True)):
        later = NOW + timedelta(seconds=seconds)
        found = campaign.state_of(document, later, 60)
        assert (found.state, found.is_due, found.is_new) == ("waiting", is_due, False)
        assert found.reason == "failure 2: for a reason"
    assert replace(campaign, time=LATER + timedelta(hours=5)).state_of(document, NOW, 60).is_new


def test_runs_are_found_by_name_or_number(collection):  # noqa: F811
    for document in (
        {"name": "000001", "number": 1, "mode": "a", "start": BEFORE},
        {"number": 2, "end": BEFORE},
        {"name": "calibration", "number": 3},
        {"name": "000004", "number": 5},
    ):
        collection.insert_one(document)
    names = ["000001", "000002", "000003", "000004", "000005", "calibration"]
    found = campaigns.read_runs(collection, names, ["mode"])
    assert found.keys() == {"000001", "000002", "000004", "calibration"}
    assert found["000001"]["mode"] == "a" and "end" in found["000002"]


def test_many_runs_are_read_in_parts(collection, monkeypatch):  # noqa: F811
    for number in range(7):
        collection.insert_one({"number": number})
    monkeypatch.setattr(campaigns, "_MOST_NAMES", 3)
    assert len(campaigns.read_runs(collection, [f"{n:06d}" for n in range(7)])) == 7


def test_a_run_database_that_is_away(monkeypatch):
    monkeypatch.setenv("AMSTRAX_MONGO_URI", "mongodb://127.0.0.1:9/")
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "0.2")
    with pytest.raises(RunDatabaseError, match="does not answer"):
        campaigns.find(campaigns.get_collection(), "c1")


def test_rates_count_from_the_plan_on():
    """A run that was processed without a job of the campaign says not when it began."""
    from amstrax.auto_processing.campaign_loop import progress_of

    now = PLANNED + timedelta(seconds=10)
    states = {
        "000001": campaigns.RunState(campaigns.DONE, time=PLANNED + timedelta(seconds=5)),
        "000002": campaigns.RunState(campaigns.WAITING),
    }
    found = progress_of(example(), states, now)
    assert found.runs_rate == pytest.approx(0.1) and found.left == pytest.approx(25)
