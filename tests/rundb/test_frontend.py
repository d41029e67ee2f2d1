"""RunDB: runs and data that strax finds with the run database, of either store, and registers."""

import contextlib
import logging
import multiprocessing
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import strax
from make_runs import RUN_ID, context, load, pulses, rundoc, write_run
from rundb_stores import collection, numbered, real_document  # noqa: F401
from servers import LOCALHOST, MONGO_USERS, MongoServer, free_port

import amstrax
from amstrax import contexts
from amstrax.exceptions import (
    HostKeyRefused,
    InvalidOption,
    LocalDatabaseError,
    RunDatabaseNotSet,
    RunDatabaseRefused,
    RunDatabaseUnreachable,
)
from amstrax.rundb import RunDB, connection, documents
from amstrax.rundb import frontend as frontend_module
from amstrax.rundb.embedded import LocalClient

START, END = datetime(2024, 1, 2, 3, 4, 5), datetime(2024, 1, 2, 3, 5, 5, 500000)
DOCUMENT = {"number": int(RUN_ID), "name": RUN_ID, "start": START, "end": END, "mode": "test"}
HOST = socket.gethostname()


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """Folder with raw_records and records of run RUN_ID, as xams makes them."""
    folder = tmp_path_factory.mktemp("stored")
    write_run(folder, pulses([1_000_000, 2_000_000]))
    st = context(folder)
    st.make(RUN_ID, "records", progress_bar=False)
    return folder / "out"


def with_rundb(collection, *more_storage, **arguments):  # noqa: F811
    """Return the context xams with a run database, and no folders of its own."""
    frontend = RunDB(collection=collection, **{"runid_field": "number", **arguments})
    return contexts.xams(storage=[frontend, *more_storage])


def key_of(data_type, run_id=RUN_ID):
    return contexts.xams(storage=[]).key_for(run_id, data_type)


def new_entry(data_type, folder, **fields):
    """Return an entry in the newer form: hash and parent folder."""
    lineage_hash = key_of(data_type).lineage_hash
    entry = {"type": data_type, "host": HOST, "location": str(folder)}
    return entry | {"lineage_hash": lineage_hash} | fields


def old_entry(data_type, folder, **fields):
    """Return an entry in the older form: full lineage, and the directory itself."""
    key = key_of(data_type)
    lineage = {k: [v[0], v[1], as_json(v[2])] for k, v in key.lineage.items()}
    entry = {"type": data_type, "host": HOST, "location": str(folder / str(key))}
    return entry | {"protocol": "FileSytemBackend", "meta": {"lineage": lineage}} | fields


def as_json(value):
    """Return a value as it comes back from MongoDB: mappings as dicts, tuples as lists."""
    if hasattr(value, "items"):
        return {k: as_json(v) for k, v in value.items()}
    return [as_json(v) for v in value] if isinstance(value, (tuple, list)) else value


def is_found(collection, data_type="raw_records", **arguments):  # noqa: F811
    """Return whether data is found, which `find` and `find_several` must agree on."""
    frontend = RunDB(collection=collection, **{"runid_field": "number", **arguments})
    key = key_of(data_type)
    several = frontend.find_several([key])[0]
    try:
        assert frontend.find(key) == several
    except strax.DataNotAvailable:
        assert several is False
    return bool(several)


@pytest.mark.parametrize("runid_field", ["name", "number"])
def test_both_forms_of_entries_are_found_and_read(collection, stored, runid_field):  # noqa: F811
    live = {"type": "live", "host": "daq", "location": "/live"}
    data = [live, new_entry("raw_records", stored), old_entry("records", stored)]
    collection.insert_one(DOCUMENT | {"data": data})
    st = with_rundb(collection, runid_field=runid_field)
    assert st.is_stored(RUN_ID, "raw_records") and st.is_stored(RUN_ID, "records")
    assert not st.is_stored(RUN_ID, "peaks") and not st.is_stored("000124", "records")
    there = contexts.xams(storage=[strax.DataDirectory(str(stored), readonly=True)])
    for data_type in ("raw_records", "records"):
        np.testing.assert_array_equal(load(st, data_type), load(there, data_type))
    table = st.available_for_run(RUN_ID)
    available = table[table["is_stored"]]["target"]
    assert set(available) == {"raw_records", "records"}
    assert st.list_available("records") == [RUN_ID]
    assert st.run_metadata(RUN_ID)["mode"] == "test"


def test_a_document_without_name_is_found_by_its_number(collection, stored):  # noqa: F811
    document = {k: v for k, v in DOCUMENT.items() if k != "name"}
    collection.insert_one(document | {"data": [new_entry("raw_records", stored)]})
    assert is_found(collection, runid_field="number") and is_found(collection, runid_field="name")
    assert RunDB(collection=collection).run_metadata(RUN_ID)["name"] == RUN_ID
    assert list(with_rundb(collection).select_runs()["name"]) == [RUN_ID]


def test_entries_whose_files_are_gone_are_skipped(collection, stored, tmp_path, caplog):  # noqa: F811
    gone = [new_entry("raw_records", tmp_path / "a"), old_entry("raw_records", tmp_path / "b")]
    odd = [None, "x", {"type": "raw_records", "host": HOST}, {"type": "raw_records", "location": 3}]
    collection.insert_one(DOCUMENT | {"data": [*odd, *gone]})
    with caplog.at_level(logging.INFO, logger="amstrax"):
        assert not is_found(collection)
        other = strax.DataKey("000124", "raw_records", key_of("raw_records").lineage)
        several = RunDB(collection=collection, runid_field="number")
        assert several.find_several([key_of("raw_records"), other]) == [False, False]
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "skipped 2 entries of raw_records" in text and str(tmp_path / "a") in text
    assert f"raw_records of run {RUN_ID} is not at {tmp_path / 'b'}" in text
    documents.add_data(collection, RUN_ID, new_entry("raw_records", stored))
    assert is_found(collection)


def test_other_data_is_not_found(collection, stored, tmp_path):  # noqa: F811
    other = tmp_path / f"{RUN_ID}-raw_records-aaaaaaaaaa"
    shutil.copytree(next(stored.glob("*-records-*")), other)
    lineage = old_entry("raw_records", stored)["meta"]["lineage"]
    lineage["raw_records"][1] = "0.0.1"
    entries = [
        new_entry("raw_records", stored, lineage_hash="aaaaaaaaaa"),
        old_entry("raw_records", stored, location=str(other), meta={"lineage": lineage}),
        old_entry("raw_records", stored, location=str(other), meta=None),
        old_entry("raw_records", stored, location=str(tmp_path), meta={"lineage": "odd"}),
        new_entry("records", stored),
    ]
    collection.insert_one(DOCUMENT | {"data": entries})
    assert not is_found(collection)
    collection.update_one({}, {"$set": {"data": {"type": "raw_records"}}})
    assert not is_found(collection)
    collection.update_one({}, {"$set": {"data": None}})
    assert not is_found(collection)


def test_an_older_entry_is_known_by_its_lineage_wherever_it_is(collection, stored, tmp_path):  # noqa: F811
    moved = tmp_path / "moved-raw_records"
    source = next(stored.glob("*-raw_records-*"))
    shutil.copytree(source, moved)
    prefix = source.name.split("-", 1)[1]
    (moved / f"{prefix}-metadata.json").rename(moved / "raw_records-metadata.json")
    collection.insert_one(
        DOCUMENT | {"data": [old_entry("raw_records", stored, location=str(moved))]}
    )
    st = with_rundb(collection)
    assert len(load(st, "raw_records")) == 2
    # Find_several reads the lineage where it does not have it
    assert is_found(collection)


def test_hosts(collection, stored, monkeypatch):  # noqa: F811
    collection.insert_one(DOCUMENT | {"data": [new_entry("raw_records", stored, host="stbc")]})
    assert not is_found(collection)
    assert is_found(collection, local_only=False)
    assert RunDB.hosts == {"dali": "^dali.*rcc.*"}
    monkeypatch.setattr(RunDB, "hosts", {"stbc": f"^{HOST[:3]}"})
    assert is_found(collection)
    monkeypatch.setattr(RunDB, "hosts", {"stbc": "^another"})
    assert not is_found(collection)
    monkeypatch.setenv("AMSTRAX_HOST", "stbc")
    assert is_found(collection)


def test_broken_data_is_not_found(collection, stored, tmp_path):  # noqa: F811
    source = next(stored.glob("*-raw_records-*"))
    copy = tmp_path / source.name
    shutil.copytree(source, copy)
    collection.insert_one(DOCUMENT | {"data": [new_entry("raw_records", tmp_path)]})
    assert is_found(collection)
    metadata = next(copy.glob("*metadata.json"))
    text = metadata.read_text()
    metadata.write_text(text.replace('"writing_ended"', '"x"'))
    assert not is_found(collection)
    metadata.write_text(text.replace('"writing_ended"', '"exception": "x", "writing_ended"'))
    assert not is_found(collection)


@pytest.mark.parametrize("form", [new_entry, old_entry])
def test_fuzzy_search(collection, stored, form):  # noqa: F811
    collection.insert_one(DOCUMENT | {"data": [form("records", stored)]})
    st = with_rundb(collection)
    st.set_config({"baseline_samples": 41})
    assert not st.is_stored(RUN_ID, "records") and st.list_available("records") == []
    st.set_context_config({"fuzzy_for_options": ("baseline_samples",)})
    assert st.is_stored(RUN_ID, "records") and st.list_available("records") == [RUN_ID]
    st.set_config({"n_tpc_pmts": 6})
    assert not st.is_stored(RUN_ID, "records") and st.list_available("records") == []


def test_there_is_one_query_per_data_type(tmp_path, stored):
    class Counting:
        """A collection that counts what it is asked."""

        def __init__(self, counted):
            self.counted, self.queries = counted, 0

        def __getattr__(self, name):
            self.queries += name.startswith("find")
            return getattr(self.counted, name)

    runs = LocalClient(tmp_path / "runs.sqlite")["run"]["runs_gas"]
    runs.insert_many([numbered(DOCUMENT, i) for i in range(300)])
    documents.add_data(runs, RUN_ID, new_entry("raw_records", stored))
    counting = Counting(runs)
    st = with_rundb(counting)
    st.set_context_config({"check_available": ("raw_records", "records")})
    found = st.select_runs()
    # One for the runs, and for each data type one for their options and one for each release
    assert counting.queries == 7
    assert list(found[found["raw_records_available"]]["name"]) == [RUN_ID]
    assert not found["records_available"].any()


def test_columns_of_select_runs(collection):  # noqa: F811
    tag = {"name": "bad", "user": "me", "date": START}
    collection.insert_many(
        [
            {"number": 0, "name": "000000", "mode": "a", "start": START, "end": END},
            {
                **{"number": 1, "name": "000001", "mode": "b", "start": START, "end": None},
                **{"tags": [tag, {"name": "_ours"}], "processing_status": "pending"},
            },
            {
                **{"number": 2, "name": "000002", "start": START, "end": END, "livetime": "odd"},
                "processing_status": {"status": "failed", "time": END, "reason": "x"},
            },
        ]
    )
    st = with_rundb(collection)
    st.set_context_config({"check_available": ("raw_records",)})
    runs = st.select_runs()
    documented = ["name", "number", "mode", "start", "end", "tags", "livetime", "processing_status"]
    assert [c for c in runs.columns if c in documented] == documented
    assert set(runs.columns) - set(documented) <= {"source", "raw_records_available"}
    assert list(runs["name"]) == ["000000", "000001", "000002"]
    assert list(runs["number"]) == [0, 1, 2] and runs["number"].dtype == np.int64
    assert list(runs["mode"]) == ["a", "b", ""]
    assert list(runs["tags"]) == ["", "bad,_ours", ""]
    assert list(runs["livetime"].isna()) == [False, True, False]
    assert runs["livetime"][0] == timedelta(seconds=60.5) and runs["start"][0] == START
    assert pd.isna(runs["processing_status"][0])
    assert list(runs["processing_status"][1:]) == ["pending", "failed"]
    assert list(st.select_runs(include_tags="bad")["name"]) == ["000001"]
    assert list(st.select_runs(include_tags="ours")["name"]) == ["000001"]
    assert list(st.select_runs(exclude_tags="bad")["name"]) == ["000000", "000002"]
    assert list(st.select_runs(run_mode="a*")["name"]) == ["000000"]
    assert list(st.select_runs(available="raw_records")["name"]) == []


def test_odd_documents_do_not_hide_the_others(collection, real_document, caplog):  # noqa: F811
    odd = [
        {"number": 1, "name": None, "mode": 7, "tags": "x", "start": "yesterday", "end": 5},
        {"number": 2, "tags": [None, 3, {"name": None}, "word"], "processing_status": [1]},
        {"number": 3.0, "start": START.isoformat(), "end": END, "data": "odd", "mode": ["a", "b"]},
        {"name": "calibration"},
        {"number": None, "name": {}},
        {},
    ]
    collection.insert_many([real_document, *odd])
    st = with_rundb(collection)
    with caplog.at_level(logging.INFO, logger="amstrax"):
        runs = st.select_runs()
    assert list(runs["name"]) == ["002240", "000001", "000002", "000003"]
    assert list(runs["tags"]) == ["", "x", "word", ""]
    assert list(runs["mode"])[1:] == ["7", "", "a,b"]
    assert runs["livetime"][3] == END - START
    assert "skipped a run document without number" in caplog.text
    by_name = with_rundb(collection, runid_field="name").select_runs(run_id="cal*")
    assert list(by_name["name"]) == ["calibration"]
    assert st.list_available("raw_records") == []


def test_mode_of_the_reader(collection):  # noqa: F811
    collection.insert_many(
        [{"number": 1, "reader": {"ini": {"name": "fast"}}}, {"number": 2, "mode": "slow"}]
    )
    runs = with_rundb(collection, reader_ini_name_is_mode=True).select_runs()
    assert list(runs["mode"]) == ["fast", "slow"]


def test_an_empty_database_has_no_runs(collection):  # noqa: F811
    assert len(with_rundb(collection).select_runs()) == 0


def test_run_metadata(collection, real_document):  # noqa: F811
    collection.insert_one(dict(real_document))
    st = with_rundb(collection)
    metadata = st.run_metadata("002240")
    assert metadata == real_document | {"name": "002240"}
    assert st.run_metadata("002240", "mode")["mode"] == real_document["mode"]
    assert st.run_metadata("002240", ["start", "number"]).keys() == {"_id", "start", "number"}
    assert st.run_metadata("002240", {"mode": 1, "_id": 0}).keys() == {"mode"}
    frontend = st.storage[0]
    for unknown in ("000001", "no_such_run", "_superrun"):
        with pytest.raises(strax.RunMetadataNotAvailable, match=unknown):
            frontend.run_metadata(unknown)
        with pytest.raises(strax.RunMetadataNotAvailable):
            st.run_metadata(unknown)
    times = [int(real_document[k].replace(tzinfo=UTC).timestamp()) for k in ("start", "end")]
    assert [t // 10**9 for t in st.estimate_run_start_and_end("002240")] == times
    collection.update_one({"number": 2240}, {"$set": {"end": None}})
    assert frontend.run_metadata("002240")["end"] is None
    assert st.estimate_run_start_and_end("002240") == (0, float("inf"))


# Writing


def reading(folder, *storage, check_exists=True):
    """Return the context xams for the live data in `folder`, with these frontends."""
    st = contexts.xams(storage=list(storage), config={"live_data_dir": str(folder)})
    return contexts.context_for_daq_reader(st, RUN_ID, run_doc=rundoc(), check_exists=check_exists)


def writable(collection, folder):  # noqa: F811
    return RunDB(
        collection=collection, runid_field="number", readonly=False, new_data_path=folder / "new"
    )


def test_new_data_is_registered_when_it_is_complete(collection, tmp_path, monkeypatch):  # noqa: F811
    collection.insert_one(DOCUMENT | {"data": None})
    write_run(tmp_path, pulses([1_000_000]))
    registered_before_end = []
    close = strax.FileSaver.close

    def checked_close(self, wait_for=()):
        registered_before_end.extend(documents.data_of(documents.find_run(collection, RUN_ID)))
        close(self, wait_for)

    with monkeypatch.context() as patch:
        patch.setattr(strax.FileSaver, "close", checked_close)
        st = reading(tmp_path, writable(collection, tmp_path))
        st.make(RUN_ID, "raw_records", progress_bar=False)
    assert not [e for e in registered_before_end if e["type"] == "raw_records"]
    entries = documents.data_of(documents.find_run(collection, RUN_ID))
    assert sorted(e["type"] for e in entries) == [
        "raw_records",
        "raw_records_ext",
        "raw_records_sipm",
    ]
    entry = next(e for e in entries if e["type"] == "raw_records")
    key = key_of("raw_records")
    assert entry["lineage_hash"] == st.key_for(RUN_ID, "raw_records").lineage_hash
    assert (entry["host"], entry["location"]) == (HOST, str(tmp_path / "new"))
    assert entry["n_chunks"] >= 1 and entry["size_mb"] > 0 and entry["user"]
    assert entry["amstrax_version"] == amstrax.__version__
    assert entry["time"].date() == datetime.now(UTC).date()
    fresh = with_rundb(collection)
    fresh.set_config({k: v for k, v in st.config.items() if k != "channel_map"})
    assert len(load(fresh, "raw_records")) == 1
    frontend = writable(collection, tmp_path)
    with pytest.raises(strax.DataExistsError):
        frontend.find(st.key_for(RUN_ID, "raw_records"), write=True)
    frontend.remove(st.key_for(RUN_ID, "raw_records"))
    deleted = documents.find_run(collection, RUN_ID)["deleted_data"]
    assert [e["type"] for e in deleted] == [key.data_type]


class Failing(strax.Plugin):
    depends_on = ("records",)
    provides = "failing"
    data_kind = "failing"
    dtype = strax.time_fields
    rechunk_on_save = False
    save_when = strax.SaveWhen.ALWAYS

    def compute(self, records):
        raise ValueError("as it should")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("processor", ["single_thread", "threaded_mailbox"])
def test_data_that_failed_is_not_registered_and_removed(collection, tmp_path, processor):  # noqa: F811
    collection.insert_one(dict(DOCUMENT))
    write_run(tmp_path, pulses([1_000_000]))
    st = reading(tmp_path, writable(collection, tmp_path))
    st.register(Failing)
    with pytest.raises(ValueError, match="as it should"):
        st.make(
            RUN_ID,
            "failing",
            save=("records",),
            processor=processor,
            max_workers=1 if processor == "single_thread" else 2,
            progress_bar=False,
        )
    types = {e["type"] for e in documents.data_of(documents.find_run(collection, RUN_ID))}
    folders = [path.name for path in (tmp_path / "new").iterdir()]
    assert "failing" not in types and not [name for name in folders if "failing" in name]
    assert sorted(types) == sorted({name.split("-")[1] for name in folders})
    assert not [name for name in folders if name.endswith("_temp")]


def test_data_that_could_not_be_registered_is_registered_later(tmp_path):
    runs = LocalClient(tmp_path / "runs.sqlite")["run"]["runs_gas"]
    runs.insert_one(dict(DOCUMENT))
    write_run(tmp_path, pulses([1_000_000]))

    class Dropping:
        """A collection that is lost when data is to be registered."""

        def __getattr__(self, name):
            if name == "update_one":
                raise RunDatabaseUnreachable("the line has dropped")
            return getattr(runs, name)

    st = reading(tmp_path, writable(Dropping(), tmp_path))
    st.make(RUN_ID, "raw_records", progress_bar=False)
    assert documents.data_of(documents.find_run(runs, RUN_ID)) == []
    again = reading(tmp_path, writable(runs, tmp_path), check_exists=False)
    left = [p.name for p in (tmp_path / "new").iterdir() if not p.name.endswith("_temp")]
    assert left
    for name in left:
        key = again.key_for(RUN_ID, name.split("-")[1])
        assert again.storage[0].find(key) == ("RegisteringBackend", str(tmp_path / "new" / name))
    entries = documents.data_of(documents.find_run(runs, RUN_ID))
    assert sorted(e["type"] for e in entries) == sorted(name.split("-")[1] for name in left)


def test_runs_that_are_not_known_cannot_be_written(tmp_path, caplog):
    runs = LocalClient(tmp_path / "runs.sqlite")["run"]["runs_gas"]
    frontend = writable(runs, tmp_path)
    with pytest.raises(strax.DataNotAvailable):
        frontend.find(key_of("raw_records"), write=True)
    assert f"run {RUN_ID} is not in the run database" in caplog.text
    with pytest.raises(strax.DataNotAvailable, match="readonly"):
        RunDB(collection=runs).find(key_of("raw_records"), write=True)


def test_arguments_that_make_no_sense():
    with pytest.raises(InvalidOption, match="runid_field"):
        RunDB(runid_field="mode")
    with pytest.raises(InvalidOption, match="new_data_path"):
        RunDB(readonly=False)
    frontend = RunDB(take_only=("peaks",))
    assert repr(frontend) == "amstrax.rundb.RunDB (readonly: True, take_only: ('peaks',))"
    assert (frontend.mongo_dbname, frontend.mongo_collname) == ("admin", "runs_gas")
    with pytest.raises(strax.DataNotAvailable, match="accept"):
        frontend.find(key_of("raw_records"))
    client = {"run": {"runs_new": "this"}}
    assert RunDB("run", "runs_new", client=client).collection == "this"


# Without a run database that answers


def test_offline_local_data_is_read_with_one_warning(stored, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("AMSTRAX_MONGO_URI", "mongodb://127.0.0.1:1/")
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "2")
    st = contexts.xams(output_folder=stored)
    assert isinstance(st.storage[0], RunDB)
    assert len(load(st, "records")) == 2
    assert st.is_stored(RUN_ID, "raw_records") and not st.is_stored(RUN_ID, "peaks")
    with pytest.raises(strax.RunMetadataNotAvailable):
        st.run_metadata(RUN_ID)
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    ours = [text for text in warnings if "run database" in text]
    assert len(ours) == 1 and "working without the run database" in ours[0]


@pytest.fixture(params=["refused", "mute", "killed", "no tunnel", "no name"])
def away(request, monkeypatch, tmp_path):
    """Settings of a run database that is away, in each way that it can be."""
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "1")
    with contextlib.ExitStack() as stack:
        port = free_port()
        if request.param == "mute":
            # The kernel takes connections, and nobody ever answers
            server = stack.enter_context(socket.create_server((LOCALHOST, 0)))
            port = server.getsockname()[1]
        elif request.param == "killed":
            (tmp_path / "mongo").mkdir()
            mongo = MongoServer(tmp_path / "mongo")
            port = mongo.port
            mongo.kill()
        if request.param == "no tunnel":
            monkeypatch.setenv("DAQ_HOST", LOCALHOST)
            monkeypatch.setenv("DAQ_PORT", str(port))
            monkeypatch.setenv("DAQ_PASSWORD", "x")
        elif request.param == "no name":
            monkeypatch.setenv("AMSTRAX_MONGO_URI", "mongodb+srv://mongo.nowhere.invalid/")
        else:
            monkeypatch.setenv("AMSTRAX_MONGO_URI", f"mongodb://{LOCALHOST}:{port}/")
        yield request.param
        connection.close()


def test_folders_serve_while_the_run_database_is_away(away, stored, tmp_path, caplog):
    """By each public way in, with one warning."""
    folder = tmp_path / "stored"
    shutil.copytree(stored, folder)
    (folder / "odd-peaks-abc").mkdir()
    st = contexts.xams(output_folder=folder)
    runs = st.select_runs()
    assert RUN_ID in list(runs["name"]) and int(RUN_ID) in list(runs["number"])
    documented = ["name", "number", "mode", "start", "end", "tags", "livetime", "processing_status"]
    assert set(documented) <= set(runs.columns)
    assert list(st.select_runs(available="records")["name"]) == [RUN_ID]
    assert RUN_ID in list(st.scan_runs(check_available=("records",))["name"])
    assert st.list_available("records") == [RUN_ID]
    assert st.list_available("peaks") == []
    assert st.is_stored(RUN_ID, "records") and not st.is_stored(RUN_ID, "peaks")
    assert "records" in set(st.available_for_run(RUN_ID).query("is_stored")["target"])
    assert len(st.get_array(RUN_ID, "records", progress_bar=False)) == 2
    assert len(st.get_df(RUN_ID, "peaks", progress_bar=False)) == 2
    st.make(RUN_ID, "peak_basics", progress_bar=False)
    assert st.is_stored(RUN_ID, "peak_basics")
    assert st.get_metadata(RUN_ID, "records")["chunks"]
    reached = f"run {RUN_ID}: the run database cannot be reached, and no other storage"
    with pytest.raises(strax.RunMetadataNotAvailable, match=reached):
        st.run_metadata(RUN_ID)
    with pytest.raises(strax.RunMetadataNotAvailable, match=reached):
        st.define_run("_both", [RUN_ID])
    (directory,) = [s for s in st.storage if isinstance(s, strax.DataDirectory)]
    directory.provide_run_metadata = True
    directory.write_run_metadata(RUN_ID, {"start": START, "end": END, "mode": "test"})
    assert st.run_metadata(RUN_ID)["mode"] == "test"
    st.define_run("_both", [RUN_ID])
    assert list(st.run_metadata("_both")["sub_run_spec"]) == [RUN_ID]
    assert {RUN_ID, "_both"} <= set(st.select_runs()["name"])
    assert not directory.deep_scan
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len([text for text in warnings if "run database" in text]) == 1
    assert warnings[0].startswith("working without the run database")


def test_what_is_made_while_the_run_database_is_away(away, stored, tmp_path, monkeypatch, caplog):
    """It is kept, a warning says once a run what to do, and that does."""
    frontend = RunDB("run", "runs_gas", "number", readonly=False, new_data_path=tmp_path / "new")
    raw = strax.DataDirectory(str(stored), readonly=True)
    st = contexts.xams(storage=[frontend, raw])
    st.make(RUN_ID, "peak_basics", progress_bar=False)
    assert st.is_stored(RUN_ID, "peak_basics") and st.list_available("peaks", [RUN_ID]) == [RUN_ID]
    assert len(load(st, "peak_basics")) == 2
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    about = [text for text in warnings if "is not registered" in text]
    assert len(about) == 1 and f"data of run {RUN_ID} in {tmp_path / 'new'}" in about[0]
    assert "to register it later" in about[0] and f"st.is_stored('{RUN_ID}', " in about[0]
    # It is back
    runs = LocalClient(tmp_path / "runs.sqlite")["run"]["runs_gas"]
    runs.insert_one(dict(DOCUMENT))
    monkeypatch.setattr(frontend._shared, "collection", runs)
    monkeypatch.setattr(frontend._shared, "not_before", 0.0)
    made = {path.name.split("-")[1] for path in (tmp_path / "new").iterdir()}
    for data_type in made:
        assert st.is_stored(RUN_ID, data_type)
    entries = documents.data_of(documents.find_run(runs, RUN_ID))
    assert {entry["type"] for entry in entries} == made >= {"peaks", "peak_basics"}
    assert list(st.select_runs()["name"]) == [RUN_ID]


def test_a_context_asks_once_a_call_for_what_is_stored_of_a_run(tmp_path, stored):
    runs = LocalClient(tmp_path / "runs.sqlite")["run"]["runs_gas"]
    runs.insert_one(DOCUMENT | {"data": [new_entry("raw_records", stored)]})
    watched = Mock(wraps=runs)
    rundb = RunDB("run", "runs_gas", "number", collection=watched)
    st = contexts.xams(storage=[rundb, strax.DataDirectory(str(tmp_path / "new"))])
    st.run_values.options(RUN_ID)
    watched.find.reset_mock()
    st.make(RUN_ID, "peak_basics", progress_bar=False)
    assert 1 <= watched.find.call_count <= 3
    # Not for longer than a call
    runs.update_one({}, {"$set": {"data": []}})
    assert st.is_stored(RUN_ID, "peak_basics") and not st.is_stored(RUN_ID, "raw_records")


def test_table_of_runs_is_whole_once_the_run_database_is_back(tmp_path, stored, monkeypatch):
    runs = LocalClient(tmp_path / "runs.sqlite")["run"]["runs_gas"]
    runs.insert_many([dict(DOCUMENT), {"number": 7}])
    monkeypatch.setenv("AMSTRAX_MONGO_URI", "mongodb://127.0.0.1:1/")
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "1")
    st = contexts.xams(output_folder=stored)
    assert list(st.select_runs()["name"]) == [RUN_ID]
    st.storage[0]._shared.collection, st.storage[0]._shared.not_before = runs, 0
    assert sorted(st.select_runs()["name"]) == ["000007", RUN_ID]
    st.runs = None
    assert st.list_available("records") == [RUN_ID]


def test_tables_of_runs_while_the_run_database_is_away(tmp_path, monkeypatch):
    """They are whole also when made again, with columns of several data types, and in threads."""
    for name in ("000001-records-aaaaaaaaaa", "000002-peaks-bbbbbbbbbb"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("AMSTRAX_MONGO_URI", "mongodb://127.0.0.1:1/")
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "1")
    st = contexts.xams(output_folder=tmp_path)
    types = ("records", "peaks")
    for _ in range(3):
        assert {f"{d}_available" for d in types} <= set(st.scan_runs(check_available=types).columns)
    st.set_context_config({"check_available": types})
    for _ in range(2):
        assert {f"{d}_available" for d in types} <= set(st.scan_runs().columns)
        assert {f"{d}_available" for d in types} <= set(st.select_runs().columns)

    def use(_):
        st.list_available("peaks")
        return sorted(st.select_runs()["name"])

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(use, range(40)))
    assert found == [["000001", "000002"]] * 40


def test_data_of_a_run_that_is_added_later(tmp_path, stored, caplog):
    """It is found in its folder, though the run database does not know the run."""
    runs = LocalClient(tmp_path / "runs.sqlite")["run"]["runs_gas"]
    shutil.copytree(stored, tmp_path / "new")
    frontend = writable(runs, tmp_path)
    for _ in range(2):
        assert frontend.find(key_of("records"))[1].startswith(str(tmp_path / "new"))
    assert caplog.text.count("is not registered") == 1 and "working without" not in caplog.text
    runs.insert_one(dict(DOCUMENT))
    frontend.find(key_of("records"))
    assert [e["type"] for e in documents.data_of(runs.find_one())] == ["records"]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"MONGO_PASSWORD": "wrong-Pa55word"}, RunDatabaseRefused),
        ({"MONGO_USER": "nobody", "MONGO_PASSWORD": MONGO_USERS["nobody"][0]}, RunDatabaseRefused),
        ({"DAQ_USER": "no-such-user"}, RunDatabaseRefused),
        ({"DAQ_KNOWN_HOSTS": "/none"}, HostKeyRefused),
        ({"DAQ_KEY_FILE": "/none"}, RunDatabaseNotSet),
        ({"MONGO_PORT": "ten"}, InvalidOption),
    ],
    ids=str,
)
def test_settings_that_cannot_do_are_errors(
    run_database_settings, stored, monkeypatch, change, kind
):
    """They do not count as a run database that is away: later they would not do either."""
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    connection.close()
    st = contexts.xams(storage=[RunDB("run", "runs_gas", "number")])
    for use in (
        st.select_runs,
        lambda: st.list_available("records"),
        lambda: st.is_stored(RUN_ID, "records"),
        lambda: st.run_metadata(RUN_ID),
        lambda: st.get_array(RUN_ID, "records", progress_bar=False),
    ):
        with pytest.raises(kind):
            use()
    connection.close()


def test_embedded_file_that_is_none_is_an_error(tmp_path, stored, monkeypatch):
    (tmp_path / "notes.txt").write_text("no database")
    monkeypatch.setenv("AMSTRAX_RUNDB_PATH", str(tmp_path / "notes.txt"))
    with pytest.raises(LocalDatabaseError, match=r"notes.txt.*not a database"):
        contexts.xams(output_folder=stored).is_stored(RUN_ID, "records")


# Slow name servers


@pytest.fixture
def slow_names(monkeypatch):
    """List of the names that are looked up, each of which takes a while."""
    asked = []

    def slow(name=""):
        asked.append(name)
        time.sleep(0.2)
        return "host.example.org"

    monkeypatch.setattr(socket, "getfqdn", slow)
    monkeypatch.setattr(frontend_module, "_full_names", {})
    return asked


def test_full_name_of_the_host_is_looked_up_once(tmp_path, stored, slow_names, monkeypatch):
    runs = LocalClient(tmp_path / "runs.sqlite")["run"]["runs_gas"]
    runs.insert_one(dict(DOCUMENT))
    st = with_rundb(runs, strax.DataDirectory(str(stored), readonly=True))
    monkeypatch.setattr(RunDB, "hosts", {"a": "^not_this", "b": "^nor_this"})
    threads = [
        threading.Thread(target=lambda: st.get_array(RUN_ID, "records", progress_bar=False))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    st.get_array(RUN_ID, "peak_basics", progress_bar=False)
    RunDB(collection=runs, runid_field="number").find_several([key_of("records")])
    assert slow_names == [""]
    # A child knows it too
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(
        target=lambda: queue.put((frontend_module._full_name(), len(slow_names)))
    )
    child.start()
    assert queue.get(timeout=60) == ("host.example.org", 1)
    child.join()


def test_child_that_is_forked_during_a_look_up(slow_names, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def stuck(name=""):
        begun.set()
        go_on.wait(60)
        return "host.example.org"

    monkeypatch.setattr(socket, "getfqdn", stuck)
    thread = threading.Thread(target=frontend_module._full_name)
    thread.start()
    begun.wait(60)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def ask():
        go_on.set()
        queue.put(frontend_module._full_name())

    child = context.Process(target=ask)
    child.start()
    try:
        assert queue.get(timeout=60) == "host.example.org"
    finally:
        go_on.set()
        thread.join()
        child.kill()
        child.join()


def test_names_are_looked_up_no_oftener_than_needed(ssh_server, run_database_settings, monkeypatch):
    """Once a connection; none for a call on a line that is up."""
    asked = []
    look_up = socket.getaddrinfo

    def counted(host, *args, **kwargs):
        asked.append(host)
        return look_up(host, *args, **kwargs)

    monkeypatch.setenv("DAQ_HOST", "localhost")
    known = ssh_server.known_hosts_line().replace(LOCALHOST, "localhost")
    with ssh_server.known_hosts.open("a") as file:
        file.write(known)
    monkeypatch.setattr(socket, "getaddrinfo", counted)
    connection.close()
    runs = connection.get_mongo_collection()
    for _ in range(3):
        runs.find_one()
    connection.close()
    assert asked.count("localhost") == 1


def test_it_is_tried_again(tmp_path, stored, monkeypatch, caplog):
    runs = LocalClient(tmp_path / "runs.sqlite")["run"]["runs_gas"]
    runs.insert_one(DOCUMENT | {"data": [new_entry("raw_records", stored)]})
    is_down = True

    class Line:
        def __getattr__(self, name):
            if is_down:
                raise RunDatabaseUnreachable("no line")
            return getattr(runs, name)

    frontend = RunDB(collection=Line(), runid_field="number")
    key = key_of("raw_records")
    for _ in range(2):
        with pytest.raises(strax.DataNotAvailable):
            frontend.find(key)
        assert frontend.find_several([key]) == [False]
    is_down = False
    with pytest.raises(strax.DataNotAvailable):
        frontend.find(key)
    frontend._shared.not_before = 0
    assert frontend.find(key)[1].startswith(str(stored))
    assert caplog.text.count("working without") == 1
