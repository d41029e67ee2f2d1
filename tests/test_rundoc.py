"""Run documents: JSON, times, and what the reader of live data takes from them."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax import rundoc
from amstrax.exceptions import InvalidRunDocument

PROPERTY = settings(max_examples=50, deadline=None, database=None)
START = datetime(2024, 1, 2, 3, 4, 5, 678_000, UTC)


def document(**daq_config):
    config = {"processing_threads": {"xams-daq_reader_0": 2}} | daq_config
    return {"number": 123, "start": "2024-01-02T03:04:05.678Z", "daq_config": config}


def refused(call, *parts):
    """Check that `call` raises InvalidRunDocument, and that its message holds all `parts`."""
    with pytest.raises(InvalidRunDocument) as error:
        call()
    assert isinstance(error.value, ValueError)
    for part in parts:
        assert part in str(error.value)


def test_from_json(tmp_path):
    text = json.dumps(document())
    assert rundoc.from_json(text) == document()
    assert rundoc.from_json("\n  " + text) == document()
    path = tmp_path / "run.json"
    path.write_text(text, encoding="utf-8")
    assert rundoc.from_json(str(path)) == document()


def test_what_is_no_document(tmp_path):
    refused(lambda: rundoc.from_json(str(tmp_path / "none.json")), "none.json", "cannot be read")
    refused(lambda: rundoc.from_json('{"a": 1,\n "b": }'), "not JSON", "line 2, column 7")
    refused(lambda: rundoc.from_json("[1, 2]"), "is a list")
    path = tmp_path / "run.json"
    path.write_text("17", encoding="utf-8")
    refused(lambda: rundoc.from_json(str(path)), str(path), "is a int")
    path.write_bytes(b"{\xff}")
    refused(lambda: rundoc.from_json(str(path)), str(path), "cannot be read")
    path.write_bytes(b"")
    refused(lambda: rundoc.from_json(str(path)), str(path), "not JSON")


@pytest.mark.parametrize(
    "start",
    [
        START,
        START.replace(tzinfo=None),
        START.astimezone(timezone(timedelta(hours=2))),
        "2024-01-02T03:04:05.678Z",
        "2024-01-02T03:04:05.678",
        "2024-01-02 05:04:05.678+02:00",
        {"$date": "2024-01-02T03:04:05.678Z"},
        {"$date": 1_704_164_645_678},
        {"$date": "1704164645678"},
        {"$date": {"$numberLong": "1704164645678"}},
    ],
)
def test_start_time(start):
    found = rundoc.start_time({"start": start})
    assert found == START
    assert found.utcoffset() == timedelta(0)


ZONES = [UTC, timezone(timedelta(hours=2)), timezone(-timedelta(hours=5, minutes=30))]


@PROPERTY
@given(st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)), st.sampled_from(ZONES))
def test_times_survive_json(time, zone):
    time = time.replace(tzinfo=zone)
    milliseconds = int(time.timestamp() * 1000)
    for start in ({"$date": milliseconds}, {"$date": {"$numberLong": str(milliseconds)}}):
        found = rundoc.start_time(json.loads(json.dumps({"start": start})))
        assert abs(found - time) <= timedelta(milliseconds=1)
    assert rundoc.start_time({"start": time.isoformat()}) == time


@pytest.mark.parametrize("start", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"])
def test_start_that_utc_does_not_have(start):
    refused(lambda: rundoc.start_time({"start": start}), "start of", start)


@pytest.mark.parametrize("start", ["yesterday", 1_704_164_645, {"date": "2024-01-02"}, [], ""])
def test_odd_start(start):
    refused(lambda: rundoc.start_time({"number": 7, "start": start}), "run 7", repr(start))


@pytest.mark.parametrize("date", [float("nan"), 1e20])
def test_odd_date(date):
    refused(lambda: rundoc.start_time({"number": 7, "start": {"$date": date}}), "run 7", repr(date))


def test_no_start():
    for document in ({"name": "000008"}, {"name": "000008", "start": None}):
        refused(lambda document=document: rundoc.start_time(document), "run 000008", "has no start")


def test_end_time():
    assert rundoc.end_time({"end": {"$date": "2024-01-02T03:04:05.678Z"}}) == START
    assert rundoc.end_time({}) is None
    assert rundoc.end_time({"end": None}) is None
    refused(lambda: rundoc.end_time({"number": 7, "end": "soon"}), "end of run 7", "'soon'")


def test_name():
    assert rundoc.name({"name": "000123", "number": 5}) == "run 000123"
    assert rundoc.name({"number": 5}) == "run 5"
    assert rundoc.name({}) == "run (without number)"


def test_live_folders():
    assert rundoc.live_folders({}) == []
    assert rundoc.live_folders({"data": None, "daq_config": None}) == []
    found = rundoc.live_folders(
        {
            "data": [
                {"type": "live", "location": "/daq/live", "host": "daq"},
                {"type": "raw_records", "location": "/stored"},
                {"type": "live", "location": None},
                {"type": "live"},
                "live",
                {"type": "live", "location": "/stoomboot/live"},
            ],
            "daq_config": {"strax_output_path": "/daq/out"},
        }
    )
    assert found == ["/daq/live", "/stoomboot/live", "/daq/out"]


def test_reader_config_of_defaults():
    # the defaults of redax: chunks of 5 s, overlaps of 0.5 s, 110 samples, lz4
    assert rundoc.reader_config(document()) == {
        "run_start_time": START.timestamp(),
        "readout_threads": {"xams-daq_reader_0": 2},
        "daq_chunk_duration": 5_000_000_000,
        "daq_overlap_chunk_duration": 500_000_000,
        "daq_compressor": "lz4",
        "record_length": 110,
        "channels_polarity": {},
    }


def test_reader_config():
    config = rundoc.reader_config(
        document(
            strax_chunk_length=1.001,
            strax_chunk_overlap=1.009,
            strax_fragment_payload_bytes=1000,
            compressor="blosc",
            registers=[{"reg": "1180", "val": "100000"}],
        )
    )
    assert config["daq_chunk_duration"] == 1_001_000_000
    assert config["daq_overlap_chunk_duration"] == 1_009_000_000
    assert isinstance(config["daq_chunk_duration"], int)
    assert config["record_length"] == 500
    assert config["daq_compressor"] == "blosc"
    assert config["channels_polarity"] == {1: 1}


@PROPERTY
@given(st.integers(1, 10**11), st.integers(1, 10**10))
def test_durations_are_whole_ns(length, overlap):
    config = rundoc.reader_config(
        document(strax_chunk_length=length / 1e9, strax_chunk_overlap=overlap / 1e9)
    )
    assert config["daq_chunk_duration"] == length
    assert config["daq_overlap_chunk_duration"] == overlap


def test_reader_config_leaves_the_document_alone():
    given_document = document(registers=[{"reg": "1080", "val": "110000"}])
    rundoc.reader_config(given_document)["readout_threads"]["other"] = 1
    assert given_document == document(registers=[{"reg": "1080", "val": "110000"}])


@pytest.mark.parametrize("daq_config", [None, {}, [], "V1724"])
def test_no_daq_config(daq_config):
    refused(
        lambda: rundoc.reader_config(document() | {"daq_config": daq_config}),
        "run 123",
        "no daq_config",
    )


@pytest.mark.parametrize(
    "threads", [None, {}, ["xams-daq_reader_0"], {"xams-daq_reader_0": 0}, {"a": "2"}, {"a": 1.5}]
)
def test_odd_threads(threads):
    refused(
        lambda: rundoc.reader_config(document(processing_threads=threads)),
        "processing_threads of run 123",
        repr(threads),
    )


@pytest.mark.parametrize(
    "key", ["strax_chunk_length", "strax_chunk_overlap", "strax_fragment_payload_bytes"]
)
@pytest.mark.parametrize("value", [0, -5, "5", None, True, [5], float("nan")])
def test_odd_numbers(key, value):
    refused(
        lambda: rundoc.reader_config(document(**{key: value})), f"daq_config.{key}", repr(value)
    )


def test_reader_config_needs_a_start():
    without = document()
    del without["start"]
    refused(lambda: rundoc.reader_config(without), "run 123 has no start")


def test_channels_polarity():
    registers = [
        {"reg": "1080", "val": "110000", "board": 165},
        {"reg": "1180", "val": "1110000"},
        {"reg": "1280", "val": "100000"},
        {"reg": "1380", "val": "1100000"},
        {"reg": "1a80", "val": "100000"},
        {"reg": "1F80", "val": "110000"},
        {"reg": "0x1480", "val": "110000"},
        {"reg": 1580, "val": 100_000},
        # none of these says anything
        {"reg": "1680", "val": "10000"},
        {"reg": "1780", "val": ""},
        {"reg": "1884", "val": "110000"},
        {"reg": "8080", "val": "110000"},
        {"reg": "11080", "val": "110000"},
        {"val": "110000"},
        {"reg": "1980"},
        "1980",
    ]
    assert rundoc.channels_polarity(registers) == {
        **{0: -1, 1: -1, 2: 1, 3: 1, 10: 1, 15: -1},
        **{4: -1, 5: 1},
    }
    assert rundoc.channels_polarity([]) == {}


@PROPERTY
@given(st.dictionaries(st.integers(0, 15), st.sampled_from([1, -1])))
def test_register_of_each_channel(polarities):
    values = {1: ["100000", "1100000"], -1: ["110000", "1110000"]}
    registers = [
        {"reg": f"{0x1080 + 0x100 * channel:x}", "val": values[polarity][channel % 2]}
        for channel, polarity in polarities.items()
    ]
    assert rundoc.channels_polarity(registers) == polarities


@pytest.mark.parametrize(
    "daq_config",
    [
        {"strax_chunk_length": float("inf")},  # OverflowError
        {"strax_chunk_length": 1e-12},  # a chunk of 0 ns
        {"strax_fragment_payload_bytes": 1},  # a record length of 0
        {"strax_fragment_payload_bytes": 221},  # 110 samples and a half
        {"registers": 5},  # TypeError
    ],
)
def test_odd_daq_config_is_refused(daq_config):
    document = {"start": "2024-01-02T03:04:05Z", "daq_config": {"processing_threads": {"a": 1}}}
    document["daq_config"].update(daq_config)
    with pytest.raises(InvalidRunDocument):
        rundoc.reader_config(document)


@pytest.mark.parametrize("value", ["x" * 1000, [list(range(500))], {"a": "b" * 500}])
def test_long_values_are_quoted_in_part(value):
    odd = [
        {"start": value},
        document(processing_threads=[value]),
        document(registers={"a": value}),
        document(strax_chunk_length=value),
        document(strax_fragment_payload_bytes=value),
    ]
    for one in odd:
        with pytest.raises(InvalidRunDocument) as error:
            rundoc.start_time(one)
            rundoc.reader_config(one)
        assert len(str(error.value)) <= 200


def test_time_before_1970():
    """The message says that it must be a time, and it is one (pymongo's json_util writes this)."""
    start = rundoc.start_time({"start": {"$date": {"$numberLong": "-1000"}}})
    assert start.timestamp() == -1


@pytest.mark.parametrize("name", [None, 7, "", "ssh", "../x", "-e", "1\n", "\u0661", "1" * 19])
def test_names_that_no_path_is_made_of(name):
    with pytest.raises(InvalidRunDocument, match="a run is called .* give it digits") as error:
        rundoc.check_run_name(name)
    assert len(str(error.value)) < 200
    assert rundoc.check_run_name("006724") == "006724"


@pytest.mark.parametrize("location", [None, 7, "", "x", "../x", "~/x", "-e", "h:/x", "/x\n", "/\0"])
def test_locations_that_are_no_folders(location):
    with pytest.raises(InvalidRunDocument, match="no folder: give the whole path"):
        rundoc.check_location(location)
    assert rundoc.check_location("/data/x y") == Path("/data/x y")
