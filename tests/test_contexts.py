"""Contexts: storage, config, and setting one up for the live data of a run."""

import json
import logging
import pickle
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
import strax
from make_runs import RUN_ID, START, THREADS, context, load, pulses, rundoc, write_run

import amstrax
from amstrax import cli, contexts, exceptions
from amstrax.rundb import transfer


@pytest.mark.smoke
def test_import_prints_nothing(tmp_path):
    """Also where straxen would warn that there is no configuration of XENON's."""
    code = "import amstrax; amstrax.contexts; [getattr(amstrax, name) for name in amstrax.__all__]"
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    ours = [line for line in done.stderr.splitlines() if "amstrax" in line]
    assert (done.stdout, ours) == ("", [])
    assert "utilix" not in done.stderr


@pytest.mark.smoke
def test_every_public_name_is_there():
    for name in amstrax.__all__:
        assert getattr(amstrax, name) is not None
    assert set(amstrax.__all__) <= set(dir(amstrax))
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = amstrax.no_such_thing


def test_modules_are_attributes_of_their_packages():
    """As in notebooks, that only import amstrax."""
    code = """
import amstrax
amstrax.plugins.pulse_processing.check_overlaps
amstrax.plugins.daqreader.split_channel_ranges
amstrax.auto_processing.amstraxer.to_dict_tuple
amstrax.processing.peaks.classify
try:
    amstrax.plugins.no_such_module
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "module 'amstrax.plugins' has no attribute 'no_such_module'\n"


def test_every_plugin_is_public():
    """The table of names in amstrax/__init__.py knows all that contexts register."""
    for name in ("xams", "xams_led", "xams_little"):
        st = getattr(contexts, name)(init_rundb=False, storage=[])
        for plugin in st._plugin_class_registry.values():
            public = plugin.__name__
            if plugin.__module__.endswith("radon") and public == "DAQReader":
                public = "RadonDAQReader"
            assert getattr(amstrax, public) is plugin


def test_signatures():
    """Positional use, as in notebooks, keeps working."""
    import inspect

    def parameters(function):
        return list(inspect.signature(function).parameters)

    expected = ["output_folder", "init_rundb", "mongo_kwargs", "corrections_version", "args"]
    assert parameters(contexts.xams) == [
        *expected,
        *("release", "reconstruction", "simulation_truth", "kwargs"),
    ]
    assert parameters(contexts.xams_little) == [
        *expected,
        *("reconstruction", "simulation_truth", "kwargs"),
    ]
    assert inspect.signature(contexts.xams).parameters["output_folder"].default == "./strax_data"
    little = inspect.signature(contexts.xams_little).parameters
    assert little["output_folder"].default == "./amstrax_data"
    assert parameters(contexts.xams_led) == ["release", "simulation_truth", "kwargs"]
    assert parameters(contexts.context_for_daq_reader) == [
        "st",
        "run_id",
        "detector",
        "runs_col_kwargs",
        "run_doc",
        "check_exists",
    ]


def test_storage_has_the_labs_folders_that_exist(tmp_path, monkeypatch):
    (tmp_path / "raw").mkdir()
    (tmp_path / "live").mkdir()
    monkeypatch.setenv("XAMS_RAW_DATA", str(tmp_path / "raw"))
    monkeypatch.setenv("XAMS_LIVE_DATA", str(tmp_path / "live"))
    monkeypatch.setenv("XAMS_PROCESSED_DATA", str(tmp_path / "does_not_exist"))
    st = contexts.xams(output_folder=tmp_path / "out", init_rundb=False)
    assert [frontend.path for frontend in st.storage] == [
        str(tmp_path / "raw"),
        str(tmp_path / "out"),
    ]
    assert st.storage[0].readonly and st.storage[0].take_only == (
        "raw_records_sipm",
        "raw_records_ext",
        "raw_records",
    )
    assert st.config["live_data_dir"] == str(tmp_path / "live")


def test_the_run_database_comes_first_and_costs_nothing(tmp_path, monkeypatch):
    """A host that does not exist, and a file that cannot be read, are nothing to a new context."""
    monkeypatch.setenv("DAQ_HOST", "no-such-host.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail("asked for a host"))
    for name, collection in (("xams", "runs_gas"), ("xams_little", "runs_new")):
        frontend = getattr(contexts, name)(output_folder=tmp_path).storage[0]
        assert isinstance(frontend, amstrax.RunDB) and frontend.readonly
        assert (frontend.mongo_dbname, frontend.mongo_collname) == ("run", collection)
        assert frontend.runid_field == "number"
    other = {"mongo_dbname": "a", "mongo_collname": "b", "runid_field": "name"}
    frontend = contexts.xams_led(output_folder=tmp_path, mongo_kwargs=other).storage[0]
    assert (frontend.mongo_dbname, frontend.mongo_collname, frontend.runid_field) == (
        *("a", "b"),
        "name",
    )
    assert len(contexts.xams(output_folder=tmp_path, init_rundb=False).storage) == 1


def test_without_settings_the_embedded_run_database_is_used_and_that_is_said_once(
    tmp_path, caplog, monkeypatch
):
    path = tmp_path / "runs.sqlite"
    monkeypatch.setenv("AMSTRAX_RUNDB_PATH", str(path))
    with caplog.at_level(logging.INFO, logger="amstrax"):
        for _ in range(2):
            st = contexts.xams(output_folder=tmp_path)
            assert not st.is_stored(RUN_ID, "raw_records")
            assert len(st.select_runs()) == 0
    said = [r.getMessage() for r in caplog.records if "embedded" in r.getMessage()]
    assert len(said) == 1 and str(path) in said[0]
    assert not path.exists()


def test_lineages_do_not_depend_on_the_run_database(tmp_path):
    for name in ("xams", "xams_led", "xams_little"):
        contexts_ = [
            getattr(contexts, name)(output_folder=tmp_path, init_rundb=init) for init in (0, 1)
        ]
        for data_type in contexts_[0]._plugin_class_registry:
            first, second = (st.key_for(RUN_ID, data_type).lineage_hash for st in contexts_)
            assert first == second


def test_the_run_document_comes_from_the_run_database(tmp_path):
    write_run(tmp_path / "live", pulses([1_000_000]))
    document = transfer.new_document(rundoc())
    document["start"] = datetime(2024, 1, 2, 3, 4, 5)
    live = {"type": "live", "host": "daq", "location": str(tmp_path / "live")}
    st = contexts.xams(output_folder=tmp_path / "out")
    with pytest.raises(exceptions.RunNotFound, match="testing_rundoc"):
        contexts.context_for_daq_reader(st, RUN_ID)
    amstrax.get_mongo_collection("xams").insert_one(document | {"data": [live]})
    contexts.context_for_daq_reader(st, RUN_ID)
    assert load(st, "raw_records")["time"].tolist() == [START * 1_000_000_000 + 1_000_000]
    assert st.run_metadata(RUN_ID)["number"] == int(RUN_ID)
    with pytest.raises(NameError, match="xenon"):
        contexts.context_for_daq_reader(st, RUN_ID, detector="xenon")


def test_amstraxer_works_with_the_run_database_alone(tmp_path):
    live = write_run(tmp_path / "live", pulses([1_000_000]))
    (tmp_path / "live" / f"rundoc_{RUN_ID}.json").write_text(json.dumps(rundoc()))
    assert cli.main(["rundb", "add", str(live)]) == 0
    out = tmp_path / "out"
    assert cli.main(["process", RUN_ID, "--output_folder", str(out), "--target", "records"]) == 0
    st = contexts.xams(output_folder=out)
    assert len(load(st, "records")) == 1
    assert list(st.select_runs(available="records")["name"]) == [RUN_ID]


def test_users_plugins_are_registered_after_ours(tmp_path):
    class Peaks(amstrax.Peaks):
        __version__ = "9"

    class Mine(strax.Plugin):
        depends_on = ("peaks",)
        provides = "mine"
        dtype = strax.time_fields

    for arguments in ({"register": [Peaks, Mine]}, {}):
        positional = () if arguments else (False, {}, None, [Peaks, Mine])
        st = contexts.xams(tmp_path, *positional, **arguments)
        assert st._plugin_class_registry["peaks"] is Peaks
        assert st._plugin_class_registry["mine"] is Mine
    led = contexts.xams_led(output_folder=tmp_path / "led", timeout=10)
    assert led.context_config["timeout"] == 10
    assert led.storage[-1].path == str(tmp_path / "led")


def test_contexts_that_come_of_others_are_alike(tmp_path):
    """They can be pickled, and work on several runs at once from the first on."""
    st = contexts.xams(output_folder=tmp_path, init_rundb=False)
    expected = st.key_for(RUN_ID, "event_info")
    new = st.new_context(config={"elife": 1})
    assert new.config["elife"] == 1 and "elife" not in st.config
    for other in (new.new_context(replace=False), pickle.loads(pickle.dumps(st))):
        assert type(other) is type(st)
        assert other._plugin_class_registry == st._plugin_class_registry
        other.set_config({"elife": 30000})
        with ThreadPoolExecutor(4) as pool:
            keys = pool.map(lambda _, st=other: st.key_for(RUN_ID, "event_info"), range(8))
            assert {str(key) for key in keys} == {str(expected)}


def test_corrections_are_not_ignored(tmp_path):
    with pytest.raises(exceptions.CorrectionNotFound, match="v1.*AMSTRAX_CORRECTIONS_FOLDER"):
        contexts.xams(output_folder=tmp_path, corrections_version="v1")


def test_raw_records_need_a_context_for_the_reader(tmp_path):
    write_run(tmp_path, pulses([1_000_000]))
    st = contexts.xams(output_folder=tmp_path / "out", init_rundb=False)
    with pytest.raises(strax.DataNotAvailable, match="raw_records"):
        st.make(RUN_ID, "raw_records", progress_bar=False)


def test_stored_raw_data_is_not_overwritten(tmp_path):
    write_run(tmp_path, pulses([1_000_000]))
    st = context(tmp_path)
    st.make(RUN_ID, "raw_records", progress_bar=False)
    with pytest.raises(ValueError, match=r"raw_records.* of run 000123 is stored already"):
        context(tmp_path)
    # What is stored is loaded, though the live data holds something else by now
    other = tmp_path / "other"
    write_run(other, pulses([1_000_000, 2_000_000]))
    again = contexts.xams(
        output_folder=tmp_path / "out", init_rundb=False, config={"live_data_dir": str(other)}
    )
    contexts.context_for_daq_reader(again, RUN_ID, run_doc=rundoc(), check_exists=False)
    assert len(load(again, "raw_records")) == 1


def test_missing_live_data_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        context(tmp_path)
    assert str(tmp_path / RUN_ID) in str(error.value)


def test_live_data_where_the_run_document_says(tmp_path):
    write_run(tmp_path / "a", pulses([1_000_000]))
    write_run(tmp_path / "b", pulses([1_000_000, 2_000_000]))
    document = rundoc(strax_output_path=str(tmp_path / "a"))
    st = contexts.xams(output_folder=tmp_path / "out", init_rundb=False)
    contexts.context_for_daq_reader(st, RUN_ID, run_doc=document)
    assert len(load(st, "raw_records")) == 1
    document["data"] = [
        {"type": "live", "host": "daq", "location": "/nowhere"},
        {"type": "live", "host": "stbc", "location": str(tmp_path / "b")},
    ]
    st = contexts.xams(output_folder=tmp_path / "out2", init_rundb=False)
    contexts.context_for_daq_reader(st, RUN_ID, run_doc=document)
    assert len(load(st, "raw_records")) == 2


def test_a_context_is_for_one_run(tmp_path):
    write_run(tmp_path, pulses([1_000_000]))
    st = context(tmp_path)
    with pytest.raises(ValueError, match="000123.*000124"):
        contexts.context_for_daq_reader(st, "000124", run_doc=rundoc())
    with pytest.raises(ValueError, match="000123.*000124"):
        st.make("000124", "raw_records", progress_bar=False)


@pytest.mark.parametrize(
    ("name", "data_type", "near"),
    [
        ("xams", "peak_basic", "did you mean peak_basics"),
        ("xams_led", "events", "there are led_calibration"),
        ("xams_little", "raw_records", "did you mean .*raw_records_v1730"),
    ],
)
@pytest.mark.parametrize(
    "ask",
    [
        lambda st, d: st.get_array("0", d),
        lambda st, d: st.get_array(("0", "1"), d, progress_bar=False),
        lambda st, d: st.get_array("0", (contexts.raw_data_types(st)[0], d)),
        lambda st, d: st.make("0", d),
        lambda st, d: st.is_stored("0", d),
        lambda st, d: st.key_for("0", d),
        lambda st, d: st.data_info(d),
        lambda st, d: st.get_single_plugin("0", d),
        lambda st, d: st.get_metadata("0", d),
    ],
)
def test_data_types_that_a_context_does_not_make(tmp_path, name, data_type, near, ask):
    st = getattr(contexts, name)(output_folder=tmp_path, init_rundb=False)
    with pytest.raises(
        exceptions.NoSuchDataType, match=f"this context does not make '{data_type}'; {near}"
    ) as error:
        ask(st, data_type)
    assert isinstance(error.value, KeyError)  # strax's kind
    assert len(str(error.value)) <= 200


@pytest.mark.parametrize("folder", ["", ".", "./", "/nowhere/000123", Path("/tmp"), "live", "a/0/"])
@pytest.mark.parametrize("name", ["xams", "xams_led", "xams_little"])
def test_a_look_at_plugins_needs_no_live_data(tmp_path, monkeypatch, name, folder):
    monkeypatch.chdir(tmp_path)
    config = {"daq_input_dir": folder, "readout_threads": THREADS}
    st = getattr(contexts, name)(output_folder=tmp_path, init_rundb=False, config=config)
    hashes = getattr(contexts, name)(output_folder=tmp_path, init_rundb=False).provided_dtypes()
    for data_type in st._plugin_class_registry:
        for run_id in ("0", RUN_ID):
            assert data_type in st.get_single_plugin(run_id, data_type).provides
            assert not st.is_stored(run_id, data_type)
            assert st.key_for(run_id, data_type).lineage == st.lineage(run_id, data_type)
        assert len(st.data_info(data_type))
        assert len(st.show_config(data_type))
    assert st.provided_dtypes() == hashes
    # To process it does
    st.set_context_config({"forbid_creation_of": ()})
    raw_type = contexts.raw_data_types(st)[0]
    with pytest.raises(
        (exceptions.InvalidOption, exceptions.LiveDataNotFound), match="daq_input_dir is|no live"
    ) as error:
        st.make(RUN_ID, raw_type, progress_bar=False)
    assert str(Path(folder).absolute()) in str(error.value)
    assert not st.is_stored(RUN_ID, raw_type)


def test_no_run_document(tmp_path):
    st = contexts.xams(output_folder=tmp_path, init_rundb=False)
    with pytest.raises(LookupError, match=RUN_ID):
        contexts.context_for_daq_reader(st, RUN_ID)


@pytest.mark.parametrize(
    "start",
    [
        "2024-01-02T03:04:05Z",
        "2024-01-02T03:04:05.999",
        {"$date": "2024-01-02T03:04:05.5Z"},
        {"$date": {"$numberLong": f"{START}500"}},
        datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2024, 1, 2, 3, 4, 5),
    ],
    ids=str,
)
def test_times_count_from_the_whole_second_of_the_start(tmp_path, start):
    write_run(tmp_path, pulses([1_000_000]))
    st = context(tmp_path, document=rundoc() | {"start": start})
    assert load(st, "raw_records")["time"].tolist() == [START * 1_000_000_000 + 1_000_000]


def test_compressor_of_the_run_document_reaches_the_reader(tmp_path):
    write_run(tmp_path, pulses([1_000_000]), compressor="blosc")
    st = context(tmp_path, document=rundoc(compressor="blosc"))
    assert len(load(st, "raw_records")) == 1


def test_positive_channels_are_turned_over(tmp_path):
    write_run(tmp_path, pulses([1_000_000], channels=[5, 6]))
    registers = [{"reg": "1580", "val": "110000"}, {"reg": "1680", "val": "100000"}]
    st = context(tmp_path, document=rundoc(registers=registers))
    assert load(st, "raw_records_ext")["data"].min() > 0
    assert load(st, "raw_records_sipm")["data"].max() < 0
