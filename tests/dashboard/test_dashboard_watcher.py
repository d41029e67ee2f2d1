"""Changes of runs, which are looked for once for all pages."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from amstrax.dashboard.site import Remembered, Site
from amstrax.rundb import documents
from amstrax.rundb.embedded import LocalClient, LocalCollection


def test_pages_are_told_of_changes_only(tmp_path):
    site = Site("xams", "local", output_folder=tmp_path)
    runs, now = site.collection(), datetime.now(UTC)
    runs.insert_one({"number": 7, "name": "000007", "start": now, "end": now})
    calls: list[int] = []
    pages = [lambda page=page: calls.append(page) for page in range(10)]

    async def told() -> int:
        before = len(calls)
        site.watcher._look()
        while site.watcher._is_looking:
            await asyncio.sleep(0.01)
        return len(calls) - before

    async def watch() -> None:
        for page in pages:
            site.watcher.add("000007", page)
        assert [await told(), await told(), await told()] == [10, 0, 0]
        documents.add_tag(runs, "000007", "good", "ann")
        assert [await told(), await told()] == [10, 0]
        (tmp_path / "000007-peaks-abc").mkdir()
        assert [await told(), await told()] == [10, 0]
        (tmp_path / "000007-peaks-abc" / "chunk").touch()
        (tmp_path / "000008-peaks-abc").mkdir()
        assert [await told(), await told()] == [10, 0]
        # Its log and its data grow
        documents.set_status(runs, "000007", "running")
        assert [await told(), await told()] == [10, 10]
        documents.set_status(runs, "000007", "done")
        runs.delete_many({})
        assert [await told(), await told()] == [10, 0]
        for page in pages[1:]:
            site.watcher.remove("000007", page)
        runs.insert_one({"number": 7, "name": "000007", "start": now, "end": now})
        assert await told() == 1
        site.watcher.remove("000007", pages[0])
        assert not site.watcher._timer.is_running()

    asyncio.run(watch())
    site.close()


def test_pages_share_what_they_ask(tmp_path):
    site = Site("xams", "local", output_folder=tmp_path, refresh=30)
    calls: list[str] = []

    def ask(key: str, **options: bool) -> int:
        def work() -> int:
            calls.append(key)
            return len(calls)

        return site.shared((key,), work, **options)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, ["runs"] * 20)) == {1}
    assert ask("log") == 2 and ask("runs") == 1
    assert ask("runs", fresh=True) == 3 and ask("runs") == 3
    site.forget("runs")
    assert ask("runs") == 4 and ask("log") == 2
    # An error is not kept
    with pytest.raises(ZeroDivisionError):
        site.shared(("broken",), lambda: 1 / 0)
    assert ask("broken") == 5
    site.close()


def test_alarms_are_looked_for_after_changes_only(tmp_path, monkeypatch):
    """Also while the store is written all the time, then less often."""
    searches: list[int] = []
    find = LocalCollection.find
    monkeypatch.setattr(
        LocalCollection, "find", lambda *args, **more: searches.append(1) or find(*args, **more)
    )
    runs = LocalClient(tmp_path / "rundb.sqlite")["run"]["runs_gas"]
    kept = Remembered(runs)
    condition = {"start": {"$ne": None}}
    assert [kept.find(condition, limit=1) for _ in range(3)] == [[]] * 3
    monkeypatch.setattr("amstrax.dashboard.site._ALARM_SHARE", 0)
    runs.insert_one({"_id": 1, "start": 7})
    assert [kept.find(condition, ["_id"]) for _ in range(3)] == [[{"_id": 1}]] * 3
    monkeypatch.setattr("amstrax.dashboard.site._ALARM_SHARE", 1e9)
    runs.insert_one({"_id": 2, "start": 8})
    assert [len(kept.find(condition, ["_id"])) for _ in range(3)] == [2] * 3
    runs.insert_one({"_id": 3, "start": 9})
    assert [len(kept.find(condition, ["_id"])) for _ in range(3)] == [2] * 3
    assert len(searches) == 3
