"""Mutated input, through all that reads it: typed errors of one line, no hang, no silent damage.

`make test` runs the same examples each time. `make soak` runs as many of each test as
AMSTRAX_FUZZ_EXAMPLES says, chosen at random, and keeps those that fail in .hypothesis. An example
that has failed once is an `example` of its test.
"""

import argparse
import contextlib
import copy
import io
import json
import logging
import math
import os
import shutil
import signal
from datetime import datetime
from functools import partial

import bson
import hypothesis
import numpy as np
import pytest
import strax
from bson import json_util
from corrections_files import ELIFE
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st
from make_runs import RUN_ID, context, pulses, write_run
from make_runs import rundoc as reader_document

from amstrax import redax, rundoc, settings
from amstrax.auto_processing import loop, submit_stbc
from amstrax.commands import base, rundb
from amstrax.corrections import lookup
from amstrax.dashboard import processing_page, render, run_overview, runs_page
from amstrax.exceptions import AmstraxError
from amstrax.rundb import RunDB, documents, leases, transfer
from amstrax.rundb.embedded import LocalClient

#: Longest that one example may take [s]; most take milliseconds
LONGEST = 20
#: Longest message [characters], without the path of a file
LONGEST_MESSAGE = 200


def fuzz(n_examples):
    """Return settings for so many examples, always the same, or for those of `make soak`."""
    wanted = os.environ.get("AMSTRAX_FUZZ_EXAMPLES")
    return hypothesis.settings(
        max_examples=int(wanted or n_examples),
        derandomize=not wanted,
        database=hypothesis.database.DirectoryBasedExampleDatabase(".hypothesis/examples")
        if wanted
        else None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def bounded():
    """Interrupt what takes longer than `LONGEST`."""

    def interrupt(_number, _frame):
        raise TimeoutError(f"no end after {LONGEST} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(call, *args, **kwargs):
    """Return what a call returns; None after an error that is amstrax's, of one short line."""
    with bounded():
        try:
            return call(*args, **kwargs)
        except AmstraxError as error:
            check_message(str(error))
            return None


def check_message(text):
    assert text and "\n" not in text
    assert len(text) <= LONGEST_MESSAGE + 120, text


# Run documents

NO_TIME = bson.DatetimeMS(2**62)
#: Values that have been trouble, or may be
ODD = [
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**63 - 1, -(2**63), 1e300, -1e300, 0.5, 1e-320),
    *(math.nan, math.inf, -math.inf, "", " ", "x", "\0", "\n", "..", "../x", "/", "~", "%s", "$"),
    *("{}", "\u2028", "\U0001f600", "9" * 30, "9" * 5000, "x" * 5000, "nan", "-0", "1e400"),
    *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2024-02-30", "2024-01-02"),
    *([], [[]], [None], ["x"], [7], {}, {"": 1}, {"a": {}}, {"$date": 1e300}, {"$date": "x"}),
    *({"$date": {"$numberLong": "9" * 30}}, {"$numberLong": "9" * 30}, {"$oid": "x"}),
    *({"status": []}, {"name": 5}, {"name": {}}, [{"name": ["process"]}], {"time": 7}),
    *(b"", b"\xff", bson.ObjectId("0" * 24), bson.Decimal128("NaN"), bson.Decimal128("1e6000")),
    *(bson.Int64(7), bson.MinKey(), bson.MaxKey(), bson.Regex("a"), bson.Timestamp(1, 1), NO_TIME),
    *(bson.Code("x"), datetime(1, 1, 1), datetime(9999, 12, 31), bson.DBRef("a", 1)),
]
JSON = st.recursive(
    st.sampled_from([v for v in ODD if isinstance(v, (type(None), bool, int, float, str))])
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


def deep(n):
    """Return a list in a list in a list."""
    value = []
    for _ in range(n):
        value = [value]
    return value


def whole_document():
    """Return a run document that has every field that amstrax looks at."""
    now = datetime(2024, 1, 2, 3, 4, 5)
    live = {"type": "live", "host": "daq", "location": "/daq/live", "time": now}
    made = live | {"type": "records", "location": "/data", "lineage_hash": "abc", "n_chunks": 3}
    old = {"type": "peaks", "host": "daq", "location": "/x", "meta": {"lineage": {"peaks": []}}}
    failure = {"attempt": "a", "time": now, "host": "h", "reason": "no disk"}
    claim = {"owner": "a.1", "host": "h", "time": now, "expires": now}
    return reader_document() | {
        "start": now,
        "end": now,
        "mode": "gas",
        "user": "me",
        "source": {"type": "none"},
        "reader": {"ini": {"name": "gas"}},
        "tags": [{"name": "process", "user": "me", "date": now}],
        "comments": [{"comment": "fine", "user": "me", "date": now}],
        "data": [live, made, old],
        "deleted_data": [live | {"deleted_at": now, "deleted_by": "me"}],
        "processing_status": {"status": "failed", "time": now, "host": "h", "reason": "no disk"},
        "processing_failed": 1,
        "processing_failures": [failure],
        "processing_job": failure | {"engine": "local", "job_id": "7", "cancelled_by": "me"},
        "processing_claim": claim,
        "copy_claim": claim,
    }


def paths(value, so_far=()):
    """Yield the path of each part of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*so_far, key)
        if isinstance(item, (dict, list)):
            yield from paths(item, (*so_far, key))


def changed(document, path, value):
    """Return a document with another value at a path; `None` in brackets removes it."""
    document = copy.deepcopy(document)
    *parents, last = path
    part = document
    for key in parents:
        part = part[key]
    if value == [None]:
        part.pop(last, None) if isinstance(part, dict) else part.pop(last)
    else:
        part[last] = value
    return document


def mutations(document, values):
    """Return a strategy of documents in which some parts are others."""

    @st.composite
    def mutated(draw):
        result = document
        for _ in range(draw(st.integers(1, 3))):
            result = changed(
                result, draw(st.sampled_from([*paths(result), ("_id",)])), draw(values)
            )
        return result

    return mutated()


ODD_VALUES = st.sampled_from(ODD) | JSON


def with_(**fields):
    """Return a decorator that gives a test the whole document with other fields, as an example."""
    return example(whole_document() | fields)


def as_json(document):
    """Return JSON as Python writes it, with NaN, or as MongoDB's tools do."""
    try:
        return json.dumps(document)
    except TypeError:
        return json_util.dumps(document)


@fuzz(300)
@given(mutations(whole_document(), ODD_VALUES))
@with_(data=7)
@with_(start="0001-01-01T00:00:00+14:00")
@with_(daq_config=reader_document(strax_chunk_length=1e300)["daq_config"])
@with_(daq_config=reader_document(strax_fragment_payload_bytes=2**62)["daq_config"])
@with_(daq_config=reader_document(compressor=["lz4"])["daq_config"])
@with_(start=datetime(9999, 1, 1))
def test_what_the_reader_takes_from_run_documents(document):
    config = outcome(rundoc.reader_config, document)
    if config is not None:
        outcome(redax.check_compressor, config["daq_compressor"])
        assert 0 < config["daq_chunk_duration"] < 2**63
        assert 0 < config["daq_overlap_chunk_duration"] < 2**63
        assert 0 < config["record_length"] < 2**31
        assert 0 <= config["run_start_time"] * 1e9 < 2**63
    for read in (rundoc.start_time, rundoc.end_time, rundoc.live_folders):
        outcome(read, document)
    check_message(rundoc.name(document))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An empty collection of the embedded store."""
    path = tmp_path_factory.mktemp("store") / "rundb.sqlite"
    return LocalClient(path)["run"]["runs_gas"]


@fuzz(120)
@given(mutations(whole_document(), ODD_VALUES))
@with_(_id=math.nan)
@with_(_id={"a": math.nan})
@with_(number=1e300, name=None)
@with_(number="9" * 5000)
@with_(processing_failed=math.nan)
@with_(_id=1e300)
@with_(name=bson.Code("x"))
@with_(processing_status={"status": bson.Code("x")})
@with_(processing_status={"status": "done", "time": "x", "host": 7})
def test_run_documents_in_the_embedded_store(store, document):
    """Whoever has put them there."""
    try:
        bson.encode(document)
    except Exception:
        hypothesis.reject()
    store.delete_many({})
    if outcome(store.insert_one, dict(document)) is None:
        return
    [kept] = store.find({})
    do_all(store, kept)


def do_all(collection, document):
    """Do what is done with a run document."""
    name = documents.name_of(document)
    # What is read
    for read in (
        transfer.summary,
        run_overview.timeline,
        run_overview.without_secrets,
        documents.status_of,
        documents.is_claimed,
        documents.failures_of,
        lambda found: processing_page._run(found, (), {}),
    ):
        assert outcome(read, document) is not None
    data = dict.fromkeys(("raw_records", "event_info", "led_calibration"), "")
    for column in runs_page._COLUMNS:
        assert isinstance(column.value(transfer.summary(document), data), str)
    about = run_overview.without_secrets(document)
    assert render.html(
        "about.html",
        summary=transfer.summary(about),
        status=documents.status_of(about),
        timeline=run_overview.timeline(about),
        failures=documents.failures_of(about),
        job=documents.job_of(about),
    )
    assert render.html("document.html", json=render.pretty(about))
    counts = dict.fromkeys(documents.STATUSES, 1)
    run = processing_page._run(document, (), {})
    assert render.html("by_status.html", most=1, counts=counts, runs=[run], status="failed")
    assert transfer.to_json(document)
    wanted = loop.RunSelection("xams", ("event_info",), ("raw_records",))
    assert outcome(loop.find_runs, collection, wanted, 10) is not None
    assert outcome(loop.followed_runs, collection, "local") is not None
    frontend = RunDB(collection=collection)
    outcome(lambda: list(frontend._scan_runs(("name", "tags", "start", "end"))))
    if name is None:
        return
    with contextlib.suppress(strax.RunMetadataNotAvailable):
        outcome(frontend.run_metadata, name)
    # What is changed
    entry = {"type": "live", "host": "here", "location": "/here"}
    for change in (
        partial(documents.add_tag, collection, name, "process", "me"),
        partial(documents.remove_tag, collection, name, "process"),
        partial(documents.add_data, collection, name, entry),
        partial(documents.remove_data, collection, name, entry, "me"),
        partial(leases.claim, collection, name, "me.1"),
        partial(leases.renew, collection, name, "me.1"),
        partial(leases.release, collection, name, "me.1"),
        partial(documents.record_failure, collection, name, "no disk", "b"),
        partial(documents.set_status, collection, name, "pending"),
        partial(documents.find_only, collection, name, ["data"]),
        partial(documents.merge_tags, collection, document),
    ):
        outcome(change)


# JSON

#: Pieces of JSON that stand for something else, or are too much
ODD_JSON = [
    *("NaN", "-Infinity", "1e999", "-1e999", "9" * 20, "9" * 5000, "-" + "9" * 19, "1e-400"),
    *(
        "[" * 60 + "]" * 60,
        "[" * 100_000,
        "[" * 5000 + "]" * 5000,
        '{"a":' * 5000 + "1" + "}" * 5000,
    ),
    *('"\\ud800"', '"\\u0000"', '"\x00"', "tru", "", ",", "{", "}", "'a'", "0x10", "01", "\ufeff"),
    *('{"a": 1, "a": 2}', '{"": 1}', '{"$date": 1e300}', '{"$date": "0001-01-01T00:00:00+14:00"}'),
    *('{"$date": {"$numberLong": "9"}}', '{"$date": []}', '{"$numberLong": "1e3"}'),
    *('{"$numberDecimal": "x"}', '{"$oid": 7}', '{"$binary": {"base64": "!", "subType": "zz"}}'),
    *('{"$binary": 5}', '{"$uuid": "x"}', '{"$regularExpression": 5}', '{"$regex": 5}'),
    *('{"$timestamp": {"t": -1}}', '{"$code": 5}', '{"$dbPointer": 7}', '{"$minKey": 2}'),
    *(
        '{"$numberLong": "99999999999999999999999"}',
        '{"$numberDouble": "NaN"}',
        '{"$undefined": 1}',
    ),
    *(
        '{"$ref": 7, "$id": 7}',
        '{"$symbol": 7}',
        '{"$numberInt": "99999999999"}',
        '{"a\\u0000": 1}',
    ),
    *('{"$date": {"$numberLong": "999999999999999999"}}', '{"$date": -1e17}', '{"$in": 7}'),
]


@st.composite
def texts(draw, content):
    """Return JSON of an object, in which values, or pieces of the text, are something else."""
    text = json.dumps(content)
    for _ in range(draw(st.integers(1, 2))):
        if draw(st.booleans()):
            # A value
            spots = [i for i, c in enumerate(text) if c in ":[" and text[i + 1 : i + 2] == " "]
            spots += [i for i, c in enumerate(text) if c == "["]
            spot = draw(st.sampled_from(spots)) if spots else 0
            end = min((i for i in map(text.find, ",]}", [spot] * 3) if i > 0), default=len(text))
            text = text[: spot + 1] + draw(st.sampled_from(ODD_JSON)) + text[end:]
        else:
            begin = draw(st.integers(0, len(text)))
            end = min(len(text), begin + draw(st.integers(0, 5)))
            piece = draw(st.sampled_from(ODD_JSON) | st.text(max_size=5))
            text = text[:begin] + piece + text[end:]
    return text


def as_of_tools(document):
    """Return a run document as MongoDB's tools write it, as Python reads that."""
    return json.loads(json_util.dumps(document))


def each_odd_value(test):
    """Give a test an object with each piece of `ODD_JSON` as examples."""
    for piece in ODD_JSON:
        test = example(f'{{"number": 7, "elife": {piece}}}')(test)
    return test


OPTIONS = {"elife": 25000, "gain": [1.5, 2], "map": {"a": [True, None, "x"]}}


def option(kind, text):
    """Return what a type of arguments makes of a text; None after an error of one short line."""
    with bounded():
        try:
            return kind(text)
        except argparse.ArgumentTypeError as error:
            check_message(str(error))
            return None


@fuzz(200)
@given(texts(OPTIONS))
@each_odd_value
def test_options_in_json(tmp_path_factory, text):
    """As --config_kwargs, --context_kwargs and --query are read, from words and from files."""
    found = option(base.json_object, text)
    path = tmp_path_factory.getbasetemp() / "options.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    from_file = option(base.options, str(path))
    if found is None or from_file is None:
        return
    assert found == from_file == json.loads(text)
    # Whatever is taken is plain: finite numbers of 8 bytes, UTF-8, and not deep
    assert json.loads(json.dumps(found, allow_nan=False, ensure_ascii=False).encode()) == found
    with contextlib.suppress(bson.errors.InvalidDocument):
        bson.encode(found)


QUERY = {"mode": "gas", "$or": [{"number": {"$gte": 7}}, {"tags.name": {"$regex": "^p"}}]}


@fuzz(150)
@given(texts(QUERY))
@each_odd_value
def test_query_of_submit_stbc(store, text):
    query = option(base.json_object, text)
    if query is not None:
        condition = outcome(submit_stbc.RunQuery(query=query).conditions)
        if condition:
            outcome(documents.read, store, {"$and": condition}, ["name"])


@fuzz(100)
@given(texts(as_of_tools(whole_document())))
@each_odd_value
@example('{"number": 1, "name": "a\u2028b"}')
@example('{"_id": {"$numberDouble": "NaN"}, "number": 1}')
def test_run_documents_in_json(store, tmp_path_factory, text):
    """As --testing_rundoc is read, and as `rundb import` reads and stores them."""
    document = option(base.run_document, text)
    if document is not None:
        outcome(rundoc.reader_config, document)
    path = tmp_path_factory.getbasetemp() / "documents.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    option(base.run_document, str(path))
    found = outcome(transfer.documents_in, str(path))
    if not found:
        return
    store.delete_many({})
    outcome(transfer.import_documents, store, found)
    outcome(transfer.import_documents, store, found, replace=True)
    for document in store.find({}):
        do_all(store, document)
        # What is exported can be imported
        path.write_text(transfer.to_json(document), encoding="utf-8")
        assert transfer.documents_in(str(path)) == [document] or "NaN" in path.read_text()


# The command amstrax rundb


@fuzz(15)
@given(texts(as_of_tools(whole_document())))
@example('{"number": 1, "data": 7, "_id": {"$numberDouble": "NaN"}}')
@example('{"number": 1, "tags": 7, "data": 7}')
@example("[" * 5000)
def test_commands(tmp_path_factory, text):
    """Each ends with a status, and in one line if that is not 0."""
    folder = tmp_path_factory.mktemp("commands")
    path = folder / "documents.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMSTRAX_RUNDB_PATH", str(folder / "rundb.sqlite"))
        for words in (
            ["import", str(path)],
            ["import", "--replace", str(path)],
            ["list"],
            ["list", "--status", "failed", "--tag", "process", "--type", "live"],
            *(["show", name] for name in ("123", "1")),
            *(["tag", name, "process"] for name in ("123", "1")),
            ["status", "123", "done"],
            ["status", "123"],
            ["export", "--output", str(folder / "out.json")],
        ):
            out, err = io.StringIO(), io.StringIO()
            with bounded(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = rundb.main(words)
            assert "Traceback" not in err.getvalue()
            errors = [line for line in err.getvalue().splitlines() if " ERROR " in line]
            assert (status, len(errors)) in ((0, 0), (1, 1)), err.getvalue()
    root.handlers[:] = handlers
    root.setLevel(level)


# Live data

TWO_THREADS = {"xams-daq_reader_0": 2}
FOLDERS = ["000000", "000000_post", "000001_pre", "000001", "000001_post", "THE_END"]
FILES = [f"{folder}/{thread}" for folder in FOLDERS for thread in (0, 1)]
RENAMED = ["000007", "000002", "000002_pre", "000001_TEMP", "x", "THE_END_TEMP", "000000_Post"]


def records():
    """Return fragments in both overlaps and both chunks, with noise."""
    found = pulses([1_000_000, 4_999_999_000, 5_200_000_000, 6_000_000_000], range(5), 2)
    noise = np.random.default_rng(0).integers(-9, 9, found["data"].shape, dtype=np.int16)
    found["data"] += noise
    return found


def read_all(folder, compressor):
    """Return the raw records of a run, as the reader makes them."""
    document = reader_document(TWO_THREADS, compressor=compressor)
    plugin = context(folder, document=document).get_single_plugin(RUN_ID, "raw_records")
    plugin.input_timeout = 0.05
    chunks = []
    while plugin.is_ready(len(chunks)):
        chunks.append(plugin.do_compute(chunk_i=len(chunks)))
    return {name: np.concatenate([chunk[name].data for chunk in chunks]) for name in chunks[0]}


@pytest.fixture(scope="module", params=["lz4", "blosc"])
def good_run(request, tmp_path_factory):
    """Folder with a good run, its compressor, and its raw records."""
    folder = tmp_path_factory.mktemp("good")
    write_run(folder, records(), 2, TWO_THREADS, request.param)
    return folder, request.param, read_all(folder, request.param)


def path_of(run_dir, name):
    """Return the path of one of `FILES`."""
    folder, thread = name.split("/")
    return sorted((run_dir / folder).iterdir())[int(thread)]


FAULTS = st.one_of(
    st.tuples(st.just("flip"), st.sampled_from(FILES), st.integers(0, 2**15)),
    st.tuples(st.just("cut"), st.sampled_from(FILES), st.integers(0, 2**11)),
    st.tuples(st.just("append"), st.sampled_from(FILES), st.binary(min_size=1, max_size=9)),
    st.tuples(st.just("repeat"), st.sampled_from(FILES), st.just(0)),
    st.tuples(st.just("remove"), st.sampled_from(FILES), st.just(0)),
    st.tuples(st.just("swap"), st.sampled_from(FILES), st.sampled_from(FILES)),
    st.tuples(st.just("copy"), st.sampled_from(FILES), st.sampled_from(FILES)),
    st.tuples(st.just("rename"), st.sampled_from(FOLDERS), st.sampled_from([*RENAMED, *FOLDERS])),
    st.tuples(st.just("make"), st.sampled_from(RENAMED), st.just(0)),
    st.tuples(
        st.just("foreign"), st.sampled_from(FOLDERS), st.sampled_from([b"", b"x", b"\0" * 99])
    ),
)


def damage(run_dir, fault):
    """Do one of `FAULTS` to a run."""
    kind, name, how = fault
    if kind in ("rename", "make", "foreign"):
        folder = run_dir / name
        if kind == "foreign":
            (folder / "xams-daq_reader_0_7").write_bytes(how)
        elif kind == "make":
            folder.mkdir()
        elif (run_dir / how).exists():
            folder.rename(run_dir / "other")
            (run_dir / how).rename(folder) if name != how else None
            (run_dir / "other").rename(run_dir / how)
        else:
            folder.rename(run_dir / how)
        return
    path = path_of(run_dir, name)
    content = path.read_bytes()
    if kind == "flip":
        bit = how % (8 * len(content))
        changed_bytes = bytearray(content)
        changed_bytes[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed_bytes)
    elif kind == "cut":
        path.write_bytes(content[: how % len(content)])
    elif kind == "append":
        path.write_bytes(content + how)
    elif kind == "repeat":
        path.write_bytes(content + content)
    elif kind == "remove":
        path.unlink()
    else:
        other = path_of(run_dir, how)
        if kind == "swap":
            path.write_bytes(other.read_bytes())
        other.write_bytes(content)


@fuzz(100)
@given(FAULTS)
@example(("copy", "000001/0", "000001/1"))
@example(("copy", "000000/1", "000000/0"))
@example(("swap", "000000/0", "000001/0"))
@example(("rename", "000000", "000001"))
@example(("rename", "THE_END", "x"))
def test_damaged_live_data(good_run, tmp_path_factory, fault):
    """It is refused, or the data is as of the good run."""
    folder, compressor, good = good_run
    damaged = tmp_path_factory.mktemp("damaged")
    shutil.copytree(folder / RUN_ID, damaged / RUN_ID)
    try:
        damage(damaged / RUN_ID, fault)
        found = outcome(read_all, damaged, compressor)
    finally:
        shutil.rmtree(damaged)
    if found is None:
        return
    if fault[0] == "flip":
        # Live data has no checksums: values may differ, but no record is lost or added
        assert {k: len(v) for k, v in found.items()} == {k: len(v) for k, v in good.items()}
        return
    if fault[0] == "copy" and fault[1].startswith("000001_post"):
        # A file without records is what a thread without data writes
        return
    for name, expected in good.items():
        np.testing.assert_array_equal(found[name], expected)


# Corrections


@fuzz(100)
@given(texts(ELIFE | {"000021": [1.5, 2]}))
@each_odd_value
def test_correction_files(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "corrections/elife/elife_v1.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    content = outcome(lookup.store.parse, text, str(path))
    if content is not None:
        # What is taken is finite
        assert json.loads(json.dumps(content, allow_nan=False)) == content
        for run in ("000005", "000021"):
            outcome(lambda run=run: lookup.find(lookup.entries(content, path.name), run, "x"))


# Settings


@fuzz(150)
@given(st.data())
@example(None)
def test_settings_file(tmp_path_factory, data):
    pieces = [
        "[default]",
        "[DEFAULT]",
        "[x]",
        "daq_host = x",
        "AMSTRAX_ENGINE",
        " = ",
        ":",
        "%(x)s",
    ]
    pieces += [
        "xams_live_data = /x",
        "amstrax_job_memory = 1e999",
        "\0",
        "\ufeff",
        "\r",
        " x",
        "==",
    ]
    path = tmp_path_factory.getbasetemp() / "settings.ini"
    lines = [["[default]", "amstrax_job_memory = " + "9" * 5000]]
    if data is not None:
        line = st.lists(st.sampled_from(pieces) | st.text(max_size=5), max_size=3).map("".join)
        lines = [data.draw(st.lists(line, max_size=6))]
    path.write_bytes("\n".join(lines[0]).encode("utf-8", "surrogatepass"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMSTRAX_CONFIG", str(path))
        for read in (
            settings.run_database,
            settings.corrections,
            settings.rundb_path,
            settings.engine,
            settings.job_memory,
            settings.keep_logs,
            settings.local_jobs,
            settings.local_folder,
            partial(settings.live_data, "xams"),
            partial(settings.batch, "AMSTRAX_QUEUE"),
        ):
            outcome(read)
