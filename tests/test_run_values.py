"""Options that take their value from the run document, and the channel map of a run."""

import inspect
import logging
import pickle

import make_runs
import numpy as np
import pytest
import strax
from bson import Decimal128, Int64
from hypothesis import given, settings
from hypothesis import strategies as st
from immutabledict import immutabledict

import amstrax
from amstrax import contexts, rundoc
from amstrax.exceptions import (
    AmstraxError,
    InvalidOption,
    InvalidRunDocument,
    RunDatabaseError,
    UnknownChannel,
)
from amstrax.processing.compiled import sort_by_time
from amstrax.rundb import documents, transfer

RUN_ID = make_runs.RUN_ID
TWO_PATHS = (
    "rundoc://?path=xams_bookkeeping.channel_map,daq_config.channel_map&fallback=xams_default"
)
REGISTERS = "rundoc://?path=daq_config.registers&fallback=empty"
TWO_SIPMS = {"bottom": [0, 0], "top": [1, 4], "external": [5, 5], "sipm": [6, 7], "aqmon": [40, 40]}
DEFAULT = dict(rundoc.XAMS_CHANNEL_MAP)


class Mine(strax.Plugin):
    """A plugin with an option of each kind."""

    depends_on = ()
    provides = "mine"
    __version__ = "0.0.0"
    dtype = strax.time_fields
    channel_map = amstrax.XAMSConfig(default=TWO_PATHS, track=False)
    registers = amstrax.XAMSConfig(default=REGISTERS, track=False)
    run_class = amstrax.XAMSConfig(default="rundoc://?path=xams_bookkeeping.run_class")
    plain = amstrax.XAMSConfig(default="text")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The embedded run database, of the settings."""
    monkeypatch.setenv("AMSTRAX_RUNDB_PATH", str(tmp_path / "rundb.sqlite"))
    return amstrax.get_mongo_collection("xams")


def plugin(context=None, **config):
    context = context or contexts.xams(storage=[])
    context.register(Mine)
    context.set_config(config)
    return context.get_single_plugin(RUN_ID, "mine")


def add(runs, **fields):
    transfer.add_run(runs, make_runs.rundoc() | fields)


def test_paths_and_fallbacks(runs):
    add(
        runs,
        xams_bookkeeping={"channel_map": None, "run_class": "led"},
        daq_config={"channel_map": {"top": [1, 4], "sipm": [Int64(6), 7.0], "odd": "x"}},
    )
    bare = strax.Context(register=[Mine], storage=[])
    mine = bare.get_single_plugin(RUN_ID, "mine")
    assert mine.channel_map == immutabledict(top=(1, 4), sipm=(6, 7))
    assert isinstance(mine.channel_map, immutabledict)
    assert all(type(c) is int for pair in mine.channel_map.values() for c in pair)
    assert mine.registers == [] and mine.run_class == "led" and mine.plain == "text"
    other = bare.get_single_plugin("000999", "mine")
    assert other.channel_map == DEFAULT and other.registers == []
    with pytest.raises(ValueError, match=r"run 000999 .*xams_bookkeeping\.run_class"):
        _ = other.run_class


def test_lineage_has_the_string():
    context = contexts.xams(storage=[])
    context.register(Mine)
    lineage = context.key_for(RUN_ID, "mine").lineage["mine"][2]
    assert lineage == {
        "run_class": "rundoc://?path=xams_bookkeeping.run_class",
        "plain": "text",
    }


@pytest.mark.parametrize(
    "text",
    [
        "rundoc://",
        "rundoc://?path=",
        "rundoc://?fallback=empty",
        "rundoc://?path=a..b",
        "rundoc://?path=$where",
        "rundoc://?path=a,",
        "rundoc://?path=a&path=b",
        "rundoc://?path=a&fallback=xenon",
        "rundoc://?path=a&detector=",
        "rundoc://?path=a&take=1",
        "rundoc://name?path=a",
    ],
)
def test_strings_that_name_nothing(text, runs):
    with pytest.raises(ValueError, match="rundoc://") as error:
        _ = plugin(run_class=text).run_class
    assert isinstance(error.value, InvalidOption) and len(str(error.value)) <= 200


def test_detector(runs):
    add(amstrax.get_mongo_collection("xamsl"), xams_bookkeeping={"run_class": "radon"})
    url = "rundoc://?path=xams_bookkeeping.run_class&detector="
    assert plugin(run_class=f"{url}xamsl").run_class == "radon"
    with pytest.raises(InvalidRunDocument):
        _ = plugin(run_class=f"{url}xams").run_class
    with pytest.raises(AmstraxError, match="xenonnt"):
        _ = plugin(run_class=f"{url}xenonnt").run_class


def test_one_look_up_for_a_string_and_run(runs, monkeypatch):
    add(runs, xams_bookkeeping={"run_class": "led"})
    asked = []
    real = documents.find_run
    monkeypatch.setattr(
        documents, "find_run", lambda *args, **kw: (asked.append(args[1]), real(*args, **kw))[1]
    )
    context = contexts.xams(storage=[])
    for _ in range(3):
        assert plugin(context).run_class == "led"
    assert asked == [RUN_ID]
    # A new context sees what has changed
    runs.update_one({"name": RUN_ID}, {"$set": {"xams_bookkeeping.run_class": "test"}})
    assert plugin(context).run_class == "led"
    assert plugin().run_class == "test"


def test_kinds_are_checked(runs):
    add(runs, xams_bookkeeping={"channel_map": 3})

    class Typed(Mine):
        provides = "typed"
        n = amstrax.XAMSConfig(type=str, default="rundoc://?path=xams_bookkeeping.channel_map")

    context = contexts.xams(storage=[], register=[Typed])
    with pytest.raises(AmstraxError, match=f"run {RUN_ID}: the value 3 .*option n is a number"):
        _ = context.get_single_plugin(RUN_ID, "typed").n


def test_subclass_with_another_default():
    class Other(Mine):
        plain = amstrax.XAMSConfig(default="other")

    assert Mine.takes_config["plain"].default == "text"
    assert Other.takes_config["plain"].default == "other"
    assert set(Other.takes_config) == set(Mine.takes_config)


def unreachable(monkeypatch):
    monkeypatch.setenv("AMSTRAX_MONGO_URI", "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=20")
    monkeypatch.setenv("AMSTRAX_RUNDB_TIMEOUT", "0.1")


def test_fallback_is_not_for_a_database_that_is_away(monkeypatch):
    unreachable(monkeypatch)
    mine = plugin(run_class="led", channel_map=TWO_PATHS)
    for name in ("channel_map", "registers"):
        with pytest.raises(RunDatabaseError, match=f"run {RUN_ID}: .*give the option a value"):
            getattr(mine, name)
    assert plugin(run_class="led", registers=()).registers == ()


def test_default_channel_map_while_the_database_is_away(monkeypatch, caplog):
    unreachable(monkeypatch)
    context = contexts.xams(output_folder="/nonexistent")
    context.storage = context.storage[:1]
    for data_type in ("peak_basics", "peak_positions"):
        assert context.get_single_plugin(RUN_ID, data_type).channel_map == DEFAULT
    told = [r.getMessage() for r in caplog.records if "channel map" in r.getMessage()]
    assert len(told) == 1 and RUN_ID in told[0] and "config={'channel_map'" in told[0]


def test_get_rundoc_value(runs):
    add(runs, xams_bookkeeping={"run_class": "led", "channel_map": None}, tags=[{"name": "x"}])
    get = amstrax.get_rundoc_value
    for run_id in (RUN_ID, int(RUN_ID)):
        assert get(run_id, "xams_bookkeeping.run_class") == "led"
    assert get(RUN_ID, "daq_config")["compressor"] == "lz4"
    assert get(RUN_ID, "xams_bookkeeping.channel_map", default=5) == 5
    assert get(RUN_ID, "tags.name") is None and get(RUN_ID, "name.x") is None
    assert get("000999", "name", default="none") == "none"
    assert get(RUN_ID, "name", "xamsl", "other") == "other"
    for path in ("", "a.", None, 3, "$a", "a b"):
        with pytest.raises(InvalidOption):
            get(RUN_ID, path)


def test_channel_map_from_stored_data(runs, tmp_path, caplog):
    """The lab's package takes the default there."""
    fresh = contexts.xams(tmp_path)
    assert fresh.get_single_plugin(RUN_ID, "peak_basics").channel_map == DEFAULT
    add(runs, xams_bookkeeping={"channel_map": TWO_SIPMS | {"top": [0, 3], "note": "x"}})
    fresh = contexts.xams(tmp_path)
    basics = fresh.get_single_plugin(RUN_ID, "peak_basics")
    assert basics.channel_map["top"] == (0, 3) and "note" not in basics.channel_map
    assert "xams_bookkeeping.channel_map of run 000123" in caplog.text
    assert fresh.get_single_plugin("000999", "peak_basics").channel_map == DEFAULT
    # What the user sets counts for every run; a context without run database has the default
    given = contexts.xams(tmp_path, config={"channel_map": dict(DEFAULT)})
    assert given.get_single_plugin(RUN_ID, "peak_basics").channel_map == DEFAULT
    without = contexts.xams(tmp_path, init_rundb=False)
    assert without.get_single_plugin(RUN_ID, "peak_basics").channel_map == DEFAULT
    key = contexts.xams(storage=[]).key_for(RUN_ID, "event_info")
    assert fresh.key_for(RUN_ID, "event_info").lineage_hash == key.lineage_hash
    assert pickle.loads(pickle.dumps(fresh)).get_single_plugin(RUN_ID, "peak_basics").channel_map[
        "top"
    ] == (0, 3)
    assert pickle.loads(pickle.dumps(basics)).channel_map["top"] == (0, 3)


def test_map_of_the_given_document_goes_before_that_of_the_database(runs, tmp_path):
    add(runs, xams_bookkeeping={"channel_map": {"top": [2, 2]}, "run_class": "of the database"})
    make_runs.write_run(tmp_path, make_runs.pulses([10_000_000]))
    document = make_runs.rundoc() | {
        "xams_bookkeeping": {"channel_map": TWO_SIPMS, "run_class": "of the document"}
    }
    context = contexts.xams(tmp_path / "out", config={"live_data_dir": str(tmp_path)})
    contexts.context_for_daq_reader(context, RUN_ID, run_doc=document)
    assert context.config["channel_map"]["sipm"] == (6, 7)
    mine = plugin(context)
    assert mine.channel_map["sipm"] == (6, 7) and mine.run_class == "of the document"
    again = context.new_context()
    assert again.get_single_plugin(RUN_ID, "mine").run_class == "of the document"


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"xams_bookkeeping": {"channel_map": {}}}, None),
        ({"xams_bookkeeping": 7, "daq_config": {"channel_map": TWO_SIPMS}}, (6, 7)),
        ({"xams_bookkeeping": {"channel_map": {"sipm": "67"}}}, None),
        ({"xams_bookkeeping": {"channel_map": [[6, 7]]}}, None),
        (
            {
                "xams_bookkeeping": {"channel_map": {"sipm": [6, Decimal128("7")], "top": None}},
                "daq_config": {"channel_map": {"sipm": [6, 8]}},
            },
            (6, 8),
        ),
        ({"xams_bookkeeping": {"channel_map": {"sipm": [6, True]}}}, None),
    ],
)
def test_map_of_a_document(fields, expected):
    found = rundoc.channel_map(fields)
    assert (found["sipm"] if found else None) == expected


@pytest.fixture(scope="module")
def two_sipms(tmp_path_factory):
    """Live data of a run with two SiPMs, and peaks in all channels that look like S1s and S2s."""
    folder = tmp_path_factory.mktemp("two_sipms")
    s1 = np.arange(5, 45) * 100_000_000
    tpc = [
        make_runs.pulses(s1, [0, 1, 2, 3, 4], height=2000),
        make_runs.pulses(s1 + 20_000, [0, 1, 2, 3, 4], 3, height=3000, width=200),
        make_runs.pulses(s1, [6, 7], sign=1),
    ]
    make_runs.write_run(folder, sort_by_time(np.concatenate(tpc)))
    return folder


def released(release, *args, make=contexts.xams, **kwargs):
    """Return the context of a release of the lab's package, as the default is 2.1."""
    if release != "2.1":
        if "release" not in inspect.signature(contexts.xams).parameters:
            pytest.skip("xams() takes no release yet")
        kwargs["release"] = release
    return make(*args, **kwargs)


def reader(folder, out, document, release="2.1", **config):
    context = released(
        release, out, init_rundb=False, config={"live_data_dir": str(folder), **config}
    )
    return contexts.context_for_daq_reader(context, RUN_ID, run_doc=document)


@pytest.mark.parametrize("release", ["2.1", "2.2"])
def test_run_with_two_sipms_from_live_data_to_events(release, two_sipms, tmp_path, runs):
    positive = [{"reg": f"1{channel}80", "val": "100000", "board": 77} for channel in (6, 7)]
    document = make_runs.rundoc(registers=positive)
    document["xams_bookkeeping"] = {"channel_map": TWO_SIPMS}
    context = reader(two_sipms, tmp_path, document, release, s1_max_area_fraction_top=1)
    raw = make_runs.load(context, "raw_records_sipm")
    assert set(raw["channel"]) == {6, 7} and len(raw) == 80
    assert set(make_runs.load(context, "raw_records")["channel"]) == {0, 1, 2, 3, 4}
    events = make_runs.load(context, "event_info")
    assert len(events) == 40
    with pytest.raises(AmstraxError, match=r"7.*n_sipms"):
        make_runs.load(context, "peaks_sipm")
    for gains in (None, [1.0] * 8):
        context.set_config({"n_sipms": 2, "gain_to_pe_array": gains})
        sipm = make_runs.load(context, "peaks_sipm")
        assert len(sipm) == 40 and (sipm["area_per_channel"][:, 6:] > 0).all()
    for n_gains, data_type in ((6, "peaks_sipm"), (7, "peaks_sipm"), (4, "peaks")):
        context.set_config({"gain_to_pe_array": [1.0] * n_gains})
        with pytest.raises(InvalidOption, match=f"{n_gains},.*at least"):
            make_runs.load(context, data_type)
    for n_gains in (6, 7, 8):
        context.set_config({"gain_to_pe_array": [1.0] * n_gains})
        assert len(make_runs.load(context, "peaks_ext")) == 0
    # From stored raw data, the document in the run database
    add(runs, **document)
    config = {"s1_max_area_fraction_top": 1, "peak_min_area": 11}
    fresh = released(release, tmp_path, config=config)
    assert fresh.is_stored(RUN_ID, "raw_records") and not fresh.is_stored(RUN_ID, "peaks")
    assert len(make_runs.load(fresh, "event_info")) == 40
    assert fresh.get_single_plugin(RUN_ID, "peak_basics").channel_map["sipm"] == (6, 7)


def test_registers_of_the_given_document_reach_records_led(two_sipms, tmp_path, runs):
    """Also of stored data, from the run database: 2.2 has SiPMs in records_led."""
    positive = [{"reg": f"1{channel}80", "val": "100000", "board": 77} for channel in (6, 7)]
    document = make_runs.rundoc(registers=positive, channel_map=TWO_SIPMS)
    config = {"live_data_dir": str(two_sipms)}
    led = released("2.2", make=contexts.xams_led, output_folder=tmp_path, config=config)
    contexts.context_for_daq_reader(led, RUN_ID, run_doc=document)
    from_live = make_runs.load(led, "records_led")
    assert set(from_live["channel"]) == {0, 1, 2, 3, 4, 6, 7}
    assert (from_live["data"].max(axis=1) > 700).all()
    for key in ("registers", None):
        if key:
            add(runs, **document)
        else:
            runs.update_one({"name": RUN_ID}, {"$unset": {"daq_config.registers": 1}})
        fresh = contexts.xams_led(release="2.2", storage=[led.storage[-1]])
        plugin = fresh.get_single_plugin(RUN_ID, "records_led")
        goes_up = [6, 7] if key else []
        assert [entry["reg"] for entry in plugin.daq_registers] == [f"1{c}80" for c in goes_up]


def test_reader_whose_default_is_the_string(two_sipms, tmp_path, runs):
    """As plugins have it whose channel_map has a default."""

    class DAQReader(amstrax.DAQReader):
        channel_map = amstrax.XAMSConfig(default=TWO_PATHS, track=False)

    context = contexts.xams(tmp_path, config={"live_data_dir": str(two_sipms)})
    context.register(DAQReader)
    context.set_config({"n_tpc_pmts": 5}, mode="replace")
    context.set_config({"live_data_dir": str(two_sipms)})
    document = make_runs.rundoc(channel_map=TWO_SIPMS)
    contexts.context_for_daq_reader(context, RUN_ID, run_doc=document)
    assert "channel_map" not in context.config
    assert set(make_runs.load(context, "raw_records_sipm")["channel"]) == {6, 7}


def test_without_the_map_the_second_sipm_is_unknown(two_sipms, tmp_path):
    with pytest.raises(UnknownChannel, match=r"\[7\]"):
        make_runs.load(reader(two_sipms, tmp_path, make_runs.rundoc()), "raw_records")


def test_map_without_sipm_and_external(tmp_path):
    make_runs.write_run(tmp_path, make_runs.pulses([10_000_000], [0, 1]))
    document = make_runs.rundoc(channel_map={"bottom": [0, 0], "top": [1, 4]})
    context = make_runs.context(tmp_path, document=document)
    assert len(make_runs.load(context, "raw_records")) == 2
    for data_type in ("raw_records_sipm", "raw_records_ext", "peak_basics_ext"):
        assert len(make_runs.load(context, data_type)) == 0


@pytest.mark.parametrize("channel_map", [{"sipm": [6, 7]}, {"bottom": [0, 0], "top": [4, 1]}])
def test_map_that_cannot_be_used(channel_map, tmp_path):
    make_runs.write_run(tmp_path, make_runs.pulses([10_000_000]))
    document = make_runs.rundoc(channel_map=channel_map)
    with pytest.raises(InvalidOption, match="channel_map has .* for (bottom|top)"):
        make_runs.load(make_runs.context(tmp_path, document=document), "raw_records")


def test_channels_in_map_group():
    find = amstrax.channels_in_map_group
    assert find(TWO_SIPMS, "sipm") == {6, 7} and find(TWO_SIPMS, "top") == {1, 2, 3, 4}
    assert find(TWO_SIPMS, "veto") == set() and find({"top": [4, 1]}, "top") == set()
    for odd in (None, 7, "text", [], {"sipm": 7}, {"sipm": [0, 10**15]}, {"sipm": [0, 2, 3]}):
        assert find(odd, "sipm") == set()


def test_extract_channel_polarity(caplog):
    caplog.set_level(logging.WARNING)
    extract = amstrax.extract_channel_polarity
    entries = [
        {"reg": "1080", "val": "110000", "board": 77},
        {"reg": "1680", "val": "100000"},
        {"reg": "1780", "val": "1100000"},
        {"reg": "1A80", "val": "1110000"},
        {"reg": "1580", "val": "510000"},
        {"reg": "8120", "val": "FF"},
        {},
    ]
    expected = {0: -1, 6: 1, 7: 1, 10: -1}
    assert extract(entries) == extract({str(i): e for i, e in enumerate(entries)}) == expected
    assert extract('[{"reg": "1680", "val": "100000"}]') == {6: 1}
    assert extract([]) == extract({}) == extract("[]") == {}
    assert "1580" in caplog.text and "8120" not in caplog.text
    for odd in ("", "{", "7", None, 7, [7], {"a": None}, '["x"]', Decimal128("7"), b"[]"):
        with pytest.raises(TypeError) as error:
            extract(odd)
        assert isinstance(error.value, InvalidRunDocument)


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.just(Decimal128("7")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["top", "bottom", "sipm", "reg", "val"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, database=None)
@given(ODD, ODD)
def test_odd_documents(one, other):
    """Values of any kind: an answer, or an error of amstrax."""
    document = {"xams_bookkeeping": one, "daq_config": {"channel_map": other, "registers": one}}
    found = rundoc.channel_map(document)
    assert found is None or all(len(pair) == 2 for pair in found.values())
    channels = amstrax.channels_in_map_group(other, "sipm")
    assert all(type(channel) is int for channel in channels)
    for call in (
        lambda: amstrax.extract_channel_polarity(one),
        lambda: rundoc.channel_range(other, "top"),
    ):
        try:
            call()
        except AmstraxError as error:
            assert len(str(error)) <= 200  # noqa: PT017
