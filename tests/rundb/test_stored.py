"""Data of runs by their documents, and old versions of it."""

import pytest

from amstrax import contexts
from amstrax.rundb import stored

OLD = "abcdefghij"
ENDED = '{"writing_ended": 1}'


@pytest.fixture(scope="module")
def st():
    return contexts.xams(init_rundb=False, storage=[])


def _entry(data_type: str, lineage_hash: str | None, host: str = "here", **fields) -> dict:
    entry = {"type": data_type, "host": host, "location": "/stored", "size_mb": 1.5, **fields}
    return entry | ({} if lineage_hash is None else {"lineage_hash": lineage_hash})


def _run(*entries, number: int = 7, **fields) -> dict:
    return {"number": number, "name": f"{number:06d}", "data": list(entries), **fields}


def test_data_in_documents():
    whole = f"/stored/000007-peaks-{OLD}"
    good = [
        _entry("peaks", OLD),
        _entry("peaks", OLD, location=whole, size_mb=None),
        _entry("live", None, location="/live", size_mb=float("nan")),
        _entry("live", None, location="/live/000007"),
        _entry("records", None, location="/old/records"),
    ]
    found = stored.stored(_run(*good))
    assert [each.folder for each in found] == [
        *(whole, whole, "/live/000007", "/live/000007", "/old/records")
    ]
    assert [each.n_bytes for each in found] == [1_500_000, None, None, 1_500_000, 1_500_000]
    bad = [
        *(_entry("../peaks", OLD), _entry("peaks", "../../etc"), _entry("peaks", ["x"])),
        *(_entry("peaks", OLD, location=where) for where in ("data", None, 7, "/a\n/b", ["/a"])),
        *(_entry(None, OLD), _entry("peaks", OLD, host=None), "peaks", None),
    ]
    assert stored.stored(_run(*bad)) == []
    for name in ("../7", "7/..", "-rf", "_superrun", 7.5, None):
        assert stored.stored({"name": name, "data": good}) == []


@pytest.mark.parametrize(
    ("text", "is_complete", "may_be_written"),
    [
        (ENDED, True, True),
        ("{}", False, True),
        ('{"writing_ended": 1, "exception": "x"}', False, False),
        ('{"exception": "x"}', False, False),
        *((text, None, None) for text in (None, "", "{", "[]", "7", "\udcff", "[" * 100_000)),
    ],
)
def test_complete_data(tmp_path, text, is_complete, may_be_written):
    folder = tmp_path / f"000007-peaks-{OLD}"
    folder.mkdir()
    if text is not None:
        file = folder / f"peaks-{OLD}-metadata.json"
        file.write_text(text, encoding="utf-8", errors="surrogateescape")
    assert stored.is_complete(folder) is is_complete
    assert stored.is_complete(folder, may_be_written=True) is may_be_written
    if text is not None:
        file = file.rename(folder / "metadata.json")
        assert stored.is_complete(folder) is is_complete
    # strax writes the end into the metadata before it renames the folder
    folder = folder.rename(f"{folder}_temp")
    assert stored.is_complete(folder) is (is_complete and False)
    assert stored.is_complete(folder, may_be_written=True) is may_be_written


def test_old_versions(st):
    def old(*runs) -> list[tuple[str, str, str]]:
        return [(x.run_id, x.data_type, x.lineage_hash) for x in stored.old_versions(st, runs)]

    now = st.key_for("000007", "peaks").lineage_hash
    new, gone = _entry("peaks", now), _entry("peaks", OLD)
    assert old(_run(gone, new)) == [("000007", "peaks", OLD)]
    # The only one, of a type, on a host
    assert old(_run(gone), _run(new, number=8)) == []
    assert old(_run(gone, _entry("records", st.key_for("7", "records").lineage_hash))) == []
    assert old(_run(_entry("peaks", OLD, "elsewhere"), new)) == []
    # Unknown to the context, or without a hash
    assert old(_run(_entry("of_users", OLD), _entry("of_users", now))) == []
    assert old(_run(_entry("peaks", None), new)) == []
    # The context loads that of the other release
    other = contexts.xams(release="2.2", init_rundb=False, storage=[])
    equal = other.key_for("000007", "peaks").lineage_hash
    assert equal != now and old(_run(_entry("peaks", equal), new)) == []
    unequal = other.key_for("000007", "event_info").lineage_hash
    info = _entry("event_info", st.key_for("000007", "event_info").lineage_hash)
    assert old(_run(_entry("event_info", unequal), info)) == [("000007", "event_info", unequal)]


def test_options_of_runs_count(st):
    options = {"strax_defaults": {"left_event_extension": 123456}}
    other = contexts.xams(init_rundb=False, storage=[])
    other.set_run_document("000007", options)
    usual = st.key_for("000008", "events").lineage_hash
    own = other.key_for("000007", "events").lineage_hash
    assert own != usual
    data = [_entry("events", usual), _entry("events", own)]
    runs = [_run(*data, **options), _run(*data, number=8)]
    found = stored.old_versions(other, runs)
    assert [(x.run_id, x.lineage_hash) for x in found] == [("000007", usual), ("000008", own)]
    # Whose options are invalid is not judged
    assert stored.old_versions(other, [_run(*data, strax_defaults=["x"])]) == []
    assert stored.old_versions(st, runs[1:], [stored.Stored(*found[1])] * 2) == []
