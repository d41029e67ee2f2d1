"""Options in a run document reach all ways to process and load the run."""

import datetime
import logging

import make_runs
import numpy as np
import pytest
import strax
from make_runs import pulses, rundoc, write_run

import amstrax
from amstrax import contexts, run_values
from amstrax import rundoc as run_documents
from amstrax.auto_processing import amstraxer, process_run
from amstrax.exceptions import InvalidOption, InvalidRunDocument, RunDatabaseUnreachable
from amstrax.rundb import transfer
from amstrax.rundb.frontend import RunDB
from amstrax.strax_ext import context as context_module
from amstrax.strax_ext.context import Context

RUN_ID = make_runs.RUN_ID
OPTIONS = {"gain_to_pe_array": [2.0] * 5, "s1_min_channels": 1}
AS_CONFIG = {"gain_to_pe_array": (2.0,) * 5, "s1_min_channels": 1}


@pytest.fixture(autouse=True)
def nothing_reported(monkeypatch):
    monkeypatch.setattr(context_module, "_reported", set())
    monkeypatch.setattr(run_values, "_reported", set())


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The embedded run database, of the settings."""
    monkeypatch.setenv("AMSTRAX_RUNDB_PATH", str(tmp_path / "rundb.sqlite"))
    return amstrax.get_mongo_collection("xams")


def document(run_id=RUN_ID, **options):
    names = {"name": run_id, "number": int(run_id), "end": {"$date": "2024-01-02T03:04:10Z"}}
    return rundoc() | names | {run_documents.OPTIONS_FIELD: options or OPTIONS}


def hash_of(st, run_id, data_type="event_info"):
    return st.key_for(run_id, data_type).lineage_hash


def test_lineage_is_that_of_the_options_of_each_run(runs, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    transfer.add_run(runs, document())
    transfer.add_run(runs, document("000124", elife=1234.0))
    without = document("000125")
    del without[run_documents.OPTIONS_FIELD]
    transfer.add_run(runs, without)
    st = contexts.xams(tmp_path)
    plain = hash_of(contexts.xams(storage=[]), "000001")
    of_123 = hash_of(contexts.xams(storage=[], config=AS_CONFIG), "000001")
    of_124 = hash_of(contexts.xams(storage=[], config={"elife": 1234.0}), "000001")
    assert len({plain, of_123, of_124}) == 3
    expected = {RUN_ID: of_123, "000124": of_124, "000125": plain, "000126": plain, "0": plain}
    for _ in range(2):
        assert {run: hash_of(st, run) for run in expected} == expected
        assert [key.lineage_hash for key in st.keys_for_runs("event_info", [*expected])] == [
            *expected.values()
        ]
    assert st.get_single_plugin(RUN_ID, "peaks").gain_to_pe_array == (2.0,) * 5
    assert st.get_single_plugin("000124", "peaks").gain_to_pe_array is None
    # Raw data does not depend on them
    assert hash_of(st, RUN_ID, "raw_records") == hash_of(st, "000125", "raw_records")
    used = [m for m in caplog.messages if "of its run document" in m]
    assert used == [
        f"run {RUN_ID}: options of its run document are used: gain_to_pe_array, s1_min_channels",
        "run 000124: options of its run document are used: elife",
    ]


def test_options_of_the_user_win(runs, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    transfer.add_run(runs, document())
    mine = {"gain_to_pe_array": (3.0,) * 5}
    st = contexts.xams(tmp_path, config=mine)
    assert hash_of(st, RUN_ID) == hash_of(
        contexts.xams(storage=[], config=AS_CONFIG | mine), RUN_ID
    )
    assert st.get_single_plugin(RUN_ID, "peaks").gain_to_pe_array == (3.0,) * 5
    assert "s1_min_channels; the config of the context overrides gain_to_pe_array" in caplog.text
    caplog.clear()
    # The same values are no override
    hash_of(contexts.xams(tmp_path, config=AS_CONFIG), RUN_ID)
    assert "of its run document" not in caplog.text


def test_option_that_is_in_the_lineage_only_where_it_is_set():
    st = contexts.xams(storage=[])
    for value, other in ((50, {"tight_coincidence_window": 50}), (None, {})):
        st.set_run_document(RUN_ID, document(tight_coincidence_window=value))
        assert hash_of(st, RUN_ID) == hash_of(contexts.xams(storage=[], config=other), RUN_ID)


def test_runs_that_are_added_later_and_several_runs_in_one_query(runs, tmp_path, monkeypatch):
    st = contexts.xams(tmp_path)
    plain = hash_of(st, RUN_ID)
    transfer.add_run(runs, document())
    fresh = contexts.xams(tmp_path)
    assert plain != hash_of(st, RUN_ID) == hash_of(fresh, RUN_ID)
    asked = []
    read = RunDB.run_document

    def count(self, run_id, fields=None):
        asked.append(run_id)
        return read(self, run_id, fields)

    monkeypatch.setattr(RunDB, "run_document", count)
    many = [f"{number:06d}" for number in range(100, 200)]
    found = {
        key.run_id: key.lineage_hash
        for key in contexts.xams(tmp_path).keys_for_runs("events", many)
    }
    assert asked == [] and sorted(found) == many
    assert [run for run in many if found[run] != found["000100"]] == [RUN_ID]


@pytest.mark.parametrize("wrong", [[1], "elife", 7])
def test_field_that_is_no_table(wrong):
    st = contexts.xams(storage=[])
    st.set_run_document(RUN_ID, rundoc() | {run_documents.OPTIONS_FIELD: wrong})
    with pytest.raises(InvalidRunDocument, match="strax_defaults of run 000123"):
        hash_of(st, RUN_ID)


def test_superrun_has_the_options_of_its_runs(tmp_path):
    frontend = strax.DataDirectory(str(tmp_path), provide_run_metadata=True)
    begin = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    st = contexts.xams(storage=[frontend])
    names = "000123", "000124"
    for run_id in names:
        metadata = {"name": run_id, "start": begin, "end": begin}
        frontend.write_run_metadata(run_id, metadata)
        st.set_run_document(run_id, document(run_id))
    # A name that would be a run's without its first letter
    st.define_run("_000999", names)
    assert st.get_single_plugin("_000999", "peaks").config["gain_to_pe_array"] == (2.0,) * 5
    assert (
        st.key_for("_000999", "peaks").lineage["peaks"]
        == (st.key_for("000123", "peaks").lineage["peaks"])
    )
    st.set_run_document("000124", document("000124", elife=3))
    with pytest.raises(InvalidOption, match="000123 and 000124 of superrun _000999.*elife, gain"):
        st.key_for("_000999", "peaks")
    st.set_config({"elife": 3, **AS_CONFIG})
    assert st.key_for("_000999", "peaks").lineage["peaks"]


def area(st):
    return st.get_array(RUN_ID, "peaks", progress_bar=False)["area"]


def test_every_way_in(runs, tmp_path, caplog):
    """A job, amstraxer with a document, and contexts give and find the same data."""
    write_run(tmp_path, pulses([10_000_000, 20_000_000], range(5)))
    transfer.add_run(runs, document())
    common = {"targets": ("peaks",), "live_data_dir": tmp_path}
    stop = amstraxer.Stop()
    job = process_run.JobOptions(**common, output_folder=tmp_path / "job", any_length=True)
    process_run.process(RUN_ID, job, stop)
    st = contexts.xams(tmp_path / "job")
    assert st.is_stored(RUN_ID, "peaks") and not st.is_stored("000124", "peaks")
    from_job = area(st)
    given = amstraxer.ProcessingOptions(
        **common,
        output_folder=tmp_path / "given",
        run_document=document(),
        context_kwargs={"init_rundb": False},
    )
    amstraxer.process(RUN_ID, given, stop)
    st = contexts.xams(tmp_path / "given", init_rundb=False, config=AS_CONFIG)
    assert st.is_stored(RUN_ID, "peaks")
    np.testing.assert_array_equal(area(st), from_job)
    st = contexts.xams(tmp_path / "made", config={"live_data_dir": str(tmp_path)})
    contexts.context_for_daq_reader(st, RUN_ID, check_exists=False)
    np.testing.assert_array_equal(area(st), from_job)
    assert "no gains (gain" not in caplog.text
    # Without them, areas are in ADC counts x samples
    st = contexts.xams(
        tmp_path / "plain", init_rundb=False, config={"live_data_dir": str(tmp_path)}
    )
    contexts.context_for_daq_reader(st, RUN_ID, run_doc=rundoc())
    np.testing.assert_allclose(2 * area(st), from_job)
    area(st)
    warned = [message for message in caplog.messages if "no gains (gain" in message]
    assert len(warned) == 1 and warned[0].startswith(
        "run 000123: no gains (gain_to_pe_array), so areas"
    )


def test_snapshot_for_a_run_serves_others():
    st = contexts.xams(storage=[])
    st.set_run_document(RUN_ID, document())
    of_run = st._of_run(RUN_ID)
    assert isinstance(of_run, Context) and hash_of(of_run, "000124") == hash_of(st, "000124")
    assert hash_of(of_run.new_context(), "000124") == hash_of(st, "000124")


@pytest.mark.parametrize(
    "wrong, why",
    [
        ({"elife": "30000"}, "elife is a text, and must be a number"),
        ({"s1_min_channels": True}, "s1_min_channels is a truth value"),
        ({"elife": [1]}, "elife is a list"),
        ({"allow_incomplete": True}, "sets allow_incomplete, which is not in the lineage"),
        ({"daq_input_dir": "/etc"}, "sets daq_input_dir, which is not in the lineage"),
    ],
)
def test_option_that_a_document_may_not_set(wrong, why):
    st = contexts.xams(storage=[])
    st.set_run_document(RUN_ID, document(**wrong))
    with pytest.raises(InvalidRunDocument, match=f"run {RUN_ID}.*{why}"):
        hash_of(st, RUN_ID)
    # A user's own value is used instead
    st.set_config({name: st.config.get(name, 1) for name in wrong})
    assert hash_of(st, RUN_ID)


def test_misspelled_option_of_a_document(caplog):
    st = contexts.xams(storage=[])
    st.set_run_document(RUN_ID, document(elif_=3, led_windows=[1, 2], live_data_dir="/etc"))
    for _ in range(2):
        assert hash_of(st, RUN_ID) == hash_of(st, "000124")
    (told,) = caplog.messages
    assert "'elif_'" in told and told.endswith("did you mean elife?")
    assert st.config.get("live_data_dir") != "/etc"


def test_invalid_document_hides_no_other_run(runs, tmp_path, caplog):
    transfer.add_run(runs, document())
    bad = {"000124": [1], "000125": {"elife": "x"}, "000126": {"allow_incomplete": True}}
    for run_id, wrong in bad.items():
        transfer.add_run(runs, document(run_id) | {run_documents.OPTIONS_FIELD: wrong})
    st = contexts.xams(tmp_path)
    plain = hash_of(st, "000999")
    for _ in range(2):
        keys = st.keys_for_runs("event_info", [RUN_ID, *bad])
        assert [key.lineage_hash for key in keys] == [hash_of(st, RUN_ID), plain, plain, plain]
        assert st.list_available("event_info") == []
        assert len(st.select_runs(available="event_info")) == 0
    # Other tests may have left the level of loggers at INFO
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sorted(run for run in bad for text in told if run in text) == [*bad]


def test_run_database_that_is_away(tmp_path, monkeypatch, caplog):
    """Its options are unknown: each run has a warning, and amstraxer makes no data."""
    monkeypatch.setenv("AMSTRAX_MONGO_URI", "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=20")
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "0.1")
    st = contexts.xams(tmp_path)
    for run_id in (RUN_ID, "000124", RUN_ID):
        st.is_stored(run_id, "peaks")
    told = [text for text in caplog.messages if "options in it, as gains, are not used" in text]
    assert [text[:10] for text in told] == [f"run {RUN_ID}", "run 000124"]
    options = amstraxer.ProcessingOptions(targets=("peaks",), output_folder=tmp_path)
    with pytest.raises(RunDatabaseUnreachable, match=f"run {RUN_ID}: its document may have"):
        amstraxer.process(RUN_ID, options, amstraxer.Stop())
