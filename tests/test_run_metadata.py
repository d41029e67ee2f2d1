"""Run class, source and NaI detector of runs, by their documents."""

import subprocess
import sys

import pytest
from bson import Decimal128
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax import run_metadata as meta


def book(**fields):
    return {"mode": "tpc", "xams_bookkeeping": fields}


@pytest.mark.parametrize(
    "document, expected, source",
    [
        (book(run_class=" LED "), "led", "xams_bookkeeping.run_class"),
        (
            book(run_class="Science") | {"mode": "ledcalibration"},
            "science",
            "xams_bookkeeping.run_class",
        ),
        (book(run_class="test"), "test", "xams_bookkeeping.run_class"),
        ({"mode": "ledcalibration"}, "led", "legacy mode fallback"),
        ({"mode": "LED_calibration"}, "led", "legacy mode fallback"),
        ({"mode": "tpc"}, "science", "legacy mode fallback"),
        (book(run_class=""), "science", "legacy mode fallback"),
        ({"xams_bookkeeping": "led", "mode": None}, "science", "legacy mode fallback"),
        ({}, "science", "legacy mode fallback"),
    ],
)
def test_run_class(document, expected, source):
    assert meta.get_run_class(document) == expected
    assert meta.run_class_source(document) == source
    assert meta.is_led_run(document) == (expected == "led")


@pytest.mark.parametrize(
    "document, expected, source",
    [
        (book(source_type="NaI22 "), "na22", "xams_bookkeeping.source_type"),
        (book(source_type="Cs137") | {"mode": "nai22"}, "cs137", "xams_bookkeeping.source_type"),
        ({"mode": "tpc_NaI22"}, "na22", "legacy mode fallback"),
        ({"mode": "na22"}, "na22", "legacy mode fallback"),
        ({"mode": "nai"}, "none", "legacy mode fallback"),
        ({}, "none", "legacy mode fallback"),
    ],
)
def test_source(document, expected, source):
    assert meta.get_source_type(document) == expected
    assert meta.source_type_source(document) == source


def test_reader_channel_map():
    own = {"external": [3, 4], "top": [0, 2]}
    assert meta.reader_channel_map(book(channel_map=own)) == {"external": (3, 4), "top": (0, 2)}
    for document in (
        {},
        book(channel_map={}),
        book(channel_map=[1]),
        {"daq_config": {"channel_map": own}},
    ):
        assert meta.reader_channel_map(document) == meta.DEFAULT_CHANNEL_MAP


def masked(*masks, channels=None, **fields):
    """A document with masks (board, value) of channels, the default channel map by default."""
    registers = [{"reg": "8120", "val": value, "board": board} for board, value in masks]
    channels = {"77": [0, 1, 2, 3, 4, 5], "78": [5, 6]} if channels is None else channels
    return book(**fields) | {"daq_config": {"channels": channels, "registers": registers}}


@pytest.mark.parametrize(
    "document, enabled, has",
    [
        (masked((77, "3F")), True, True),
        (masked((77, "1F")), False, False),
        (masked(("77", "3F"), (77, "1f")), False, False),  # the last one counts
        (masked((77, "1F"), (78, "1")), True, True),  # of the other board
        (masked((77, "1F"), (78, "2")), False, False),
        (masked((79, "FF")), None, True),  # of no board that is read out
        (masked(), None, True),
        (masked((77, "odd")), None, True),
        (masked((77, "3F"), channels={}), None, True),
        (masked((77, "3F"), channels=[]), None, True),
        (masked((77, "3F"), channel_map={"top": [0, 4]}), False, False),
        (masked((77, "3F"), channel_map={"external": "5"}), None, True),
        (masked((77, "3F"), channel_map={"external": [6, 6]}), False, False),
        ({}, None, True),
    ],
)
def test_nai_detector(document, enabled, has):
    assert meta.nai_channel_enabled(document) is enabled
    assert meta.has_nai_detector(document) is has
    assert meta.has_nai_source(document) is has


def test_source_decides_nothing():
    assert not meta.has_nai_detector(masked((77, "1F"), source_type="nai22"))


KEYS = ["mode", "xams_bookkeeping", "daq_config", "channel_map", "external", "channels"]
KEYS += ["registers", "reg", "val", "board", "77", "run_class", "source_type"]
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.sampled_from(["8120", "FF", "77", "led"])
    | st.binary(max_size=3)
    | st.just(Decimal128("7")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=10,
)
GOOD_CHANNELS = st.fixed_dictionaries({"channels": ODD, "registers": ODD})
DOCUMENTS = ODD | st.fixed_dictionaries(
    {"mode": ODD, "xams_bookkeeping": ODD, "daq_config": GOOD_CHANNELS}
)


@settings(max_examples=200, deadline=None, database=None)
@given(DOCUMENTS)
def test_odd_documents(document):
    assert type(meta.get_run_class(document)) is str and type(meta.get_source_type(document)) is str
    assert meta.nai_channel_enabled(document) in (True, False, None)
    assert meta.has_nai_detector(document) in (True, False)
    assert dict(meta.reader_channel_map(document))


def test_strax_is_not_imported():
    code = "import sys; import amstrax.run_metadata; sys.exit('strax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
