"""Pages of the list of runs, of both stores; and what of a run document is shown."""

from datetime import UTC, date, datetime, timedelta

import pytest
from rundb_stores import collection  # noqa: F401

from amstrax.dashboard import run_overview
from amstrax.exceptions import InvalidOption
from amstrax.rundb import documents, transfer

BEGIN = datetime(2024, 1, 1, 23, 30, tzinfo=UTC)


@pytest.fixture
def runs(collection):  # noqa: F811
    """Runs 1 to 25, an hour apart."""
    collection.insert_many(
        [
            {
                "number": n,
                "name": f"{n:06d}",
                "mode": "kr83m" if n % 2 else "Background.1",
                "user": "ann",
                "start": BEGIN + timedelta(hours=n - 1),
                "end": BEGIN + timedelta(hours=n),
                "tags": ["old"] if n == 3 else [{"name": "good", "user": "u"}] if n < 6 else [],
                "comments": [{"comment": "a (b) c"}] if n == 9 else [],
                "processing_status": "failed due to x" if n == 4 else {"status": "done"},
            }
            for n in range(1, 26)
        ]
    )
    return collection


def numbers(page):
    return [run["number"] for run in page.runs]


@pytest.mark.parametrize(
    "search, expected",
    [
        ({}, range(1, 26)),
        ({"text": "kr83m 000007"}, [7]),
        ({"text": "7"}, [7, 17]),
        ({"text": "BACKGROUND.1 ann"}, range(2, 26, 2)),
        ({"text": "(b)"}, [9]),
        ({"text": "good"}, [1, 2, 4, 5]),
        ({"text": "old"}, [3]),
        ({"statuses": ("failed",)}, [4]),
        ({"statuses": ("failed", "pending")}, [4]),
        ({"modes": ("kr83m",), "last": 5}, [1, 3, 5]),
        ({"tags": ("old",)}, [3]),
        ({"tags": ("good", "old")}, []),
        ({"first": 20, "last": 22}, [20, 21, 22]),
        ({"since": date(2024, 1, 2), "until": date(2024, 1, 2)}, range(2, 26)),
        ({"until": date(2024, 1, 1)}, [1]),
        ({"since": date(2024, 1, 3)}, []),
    ],
    ids=str,
)
def test_search(runs, search, expected):
    page = run_overview.page(runs, run_overview.Search(**search), descending=False)
    assert numbers(page) == list(expected)
    assert page.total == len(page.runs)


def test_pages_in_order(runs):
    found = run_overview.page(runs, run_overview.Search(), ["number"], skip=10, limit=10)
    assert (numbers(found), found.total, found.skipped) == (list(range(15, 5, -1)), 25, 10)
    assert set(found.runs[0]) == {"_id", "number"}
    # Beyond the end is the last page, before the beginning the first
    last = run_overview.page(runs, run_overview.Search(), skip=999, limit=10)
    assert numbers(last) == [5, 4, 3, 2, 1]
    assert numbers(run_overview.page(runs, run_overview.Search(), skip=-5, limit=2)) == [25, 24]
    odd = run_overview.Search(modes=("kr83m",))
    found = run_overview.page(runs, odd, order="start", descending=False, skip=4, limit=4)
    assert (numbers(found), found.total) == ([9, 11, 13, 15], 13)
    by_mode = run_overview.page(
        runs, run_overview.Search(), order="mode", descending=False, limit=3
    )
    assert numbers(by_mode) == [2, 4, 6]
    assert numbers(run_overview.page(runs, run_overview.Search(text="nothing"), skip=7)) == []


def test_pages_of_odd_documents_are_as_with_any_filter(runs):
    """The embedded store takes pages of all runs from its index: in the same order."""
    for n, odd in enumerate((None, "x", 3, 3, -1.5)):
        runs.insert_one({"_id": f"odd{n}", "number": odd})
    for descending in (True, False):
        plain = runs.find({}, ["_id"], sort=[("number", -1 if descending else 1)])
        expected = [run["_id"] for run in plain]
        found = [
            run["_id"]
            for skip in range(0, 30, 7)
            for run in run_overview.page(
                runs, run_overview.Search(), ["_id"], descending=descending, skip=skip, limit=7
            ).runs
        ]
        # Those that are alike may come in any order
        assert sorted(map(str, found)) == sorted(map(str, expected))
        values = {run["_id"]: str(run.get("number")) for run in runs.find({})}
        assert [values[each] for each in found] == [values[each] for each in expected]


def test_wrong_order_and_status(runs):
    with pytest.raises(InvalidOption, match="order 'nmber' is unknown; did you mean number"):
        run_overview.page(runs, run_overview.Search(), order="nmber")
    with pytest.raises(InvalidOption, match="status 'dne'"):
        run_overview.page(runs, run_overview.Search(statuses=("dne",)))


def test_modes_and_tags(runs):
    assert run_overview.modes_and_tags(runs) == (["Background.1", "kr83m"], ["good", "old"])


def test_secrets_are_not_shown():
    document = {
        "daq_config": {
            "mongo_uri": "mongodb://daq:p@ss/word@host:27017/admin",
            "host_password": "psst",
            "auth": {"user": "u", "key": "psst"},
            "note": "log in with password=psst now",
            "author": "ann",
            "keys": ["ssh://me:psst@host"],
        },
        "apiKey": "psst",
        "password": None,
        "number": 5,
    }
    told = run_overview.without_secrets(document)
    assert "psst" not in str(told) and "p@ss" not in str(told) and "word@" not in str(told)
    assert told["number"] == 5 and told["daq_config"]["author"] == "ann"
    assert told["daq_config"]["mongo_uri"] == "mongodb://(hidden)@host:27017/admin"
    assert document["apiKey"] == "psst"


def test_timeline():
    document = {
        "start": {"$date": "2024-01-02T03:04:05Z"},
        "end": BEGIN + timedelta(days=2),
        "data": [
            {"type": "live", "host": "stbc", "location": "/x", "time": BEGIN + timedelta(days=3)},
            {"type": "peaks", "host": "stbc", "location": "/y"},
        ],
        "deleted_data": [
            {
                "type": "live", "host": "daq", "location": "/z", "deleted_by": "delete_live",
                "deleted_at": BEGIN + timedelta(days=9),
            }
        ],
        "processing_job": {
            "time": BEGIN + timedelta(days=4), "engine": "slurm", "job_id": "7", "host": "h",
        },
        "processing_failures": [{"time": BEGIN + timedelta(days=5), "host": "h", "reason": "r"}],
        "processing_status": {"status": "done", "time": BEGIN + timedelta(days=6), "host": "h"},
        "tags": [{"name": "good", "user": "ann", "date": BEGIN + timedelta(days=7)}, "old"],
        "comments": [{"user": "bob", "comment": "hm", "date": BEGIN + timedelta(days=8)}, 3],
    }  # fmt: skip
    assert [(moment.what, moment.detail) for moment in run_overview.timeline(document)] == [
        ("begun", ""),
        ("ended", ""),
        ("copied", "live on stbc, /x"),
        ("submitted", "job 7 (slurm) on h"),
        ("failed", "on h: r"),
        ("status done", "on h"),
        ("tagged", "good (ann)"),
        ("comment", "hm (bob)"),
        ("data deleted", "live on daq, /z, by delete_live"),
    ]
    assert run_overview.timeline({"start": 3, "data": None, "tags": "x"}) == []


def test_summary(monkeypatch):
    monkeypatch.setenv("AMSTRAX_HOST", "here")
    data = [{"type": t, "host": h} for t, h in (("a", "here"), ("b", "there"), ("a", "there"))]
    run = transfer.summary({"number": 7, "start": BEGIN, "data": data, "mode": 3})
    assert (run.run_id, run.status, run.mode, run.length) == ("000007", "no-end", "3", None)
    assert (run.types, run.here) == (["a", "b"], ["a"])
    assert documents.STATUSES[0] == "pending"


def test_data_that_is_no_longer_there_is_missing(tmp_path):
    here = {"type": "events", "host": documents.this_host(), "lineage_hash": "abc"}
    run = {"number": 7, "name": "000007"}
    run["data"] = [here | {"location": str(tmp_path)}, {"type": "raw_records", "host": "far"}]
    found = {"raw_records": "elsewhere", "events": "missing"}
    assert run_overview.availability(run, None, ["events"]) == found
    (tmp_path / "000007-events-abc").mkdir()
    assert run_overview.availability(run, None, ["events"]) == found | {"events": "here"}
