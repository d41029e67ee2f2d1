"""What there is of a run, what a context can load of it, and why not; logs of jobs; progress."""

import json
import os
from datetime import UTC, datetime

import numpy as np
import pytest
from make_runs import RUN_ID, context, pulses, rundoc, write_run

from amstrax import contexts
from amstrax.auto_processing import loop
from amstrax.dashboard import live_progress, run_overview
from amstrax.exceptions import InvalidOption, NotAvailable


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with raw records of a run of two chunks."""
    folder = tmp_path_factory.mktemp("made")
    write_run(folder, pulses(np.arange(1, 60) * 100_000_000, channels=range(5)), 2)
    context(folder).make(RUN_ID, "raw_records", progress_bar=False)
    return folder


def reader(folder, **config):
    st = contexts.xams(output_folder=folder / "out", init_rundb=False, config=config)
    st.set_context_config({"forbid_creation_of": tuple(st._plugin_class_registry)})
    return st


def of(states, data_type):
    return [state for state in states if state.data_type == data_type]


def test_states(made, monkeypatch):
    monkeypatch.setenv("AMSTRAX_HOST", "here")
    st = reader(made)
    lineage_hash = st.key_for(RUN_ID, "raw_records").lineage_hash
    document = rundoc() | {
        "data": [
            {
                "type": "raw_records", "host": "here", "location": str(made / "out"),
                "lineage_hash": lineage_hash, "amstrax_version": "9", "corrections_version": "v7",
            },
            {"type": "peaks", "host": "there", "location": "/p", "lineage_hash": "abc"},
            {"type": "records", "host": "here", "location": "/gone", "lineage_hash": "abc"},
        ]
    }  # fmt: skip
    states = run_overview.states(st, RUN_ID, document)
    [raw] = of(states, "raw_records")
    assert raw.is_current and raw.loadable and raw.chunks == 2 and raw.rows > 0 and raw.n_bytes > 0
    assert (raw.amstrax_version, raw.corrections_version) == ("9", "v7")
    assert raw.folder.endswith(f"{RUN_ID}-raw_records-{lineage_hash}") and not raw.reason
    own, registered = of(states, "records")
    assert not own.loadable and "can be made from raw_records" in own.reason
    assert "its folder is not there" in registered.reason and not registered.is_current
    own, registered = of(states, "peaks")
    assert own.reason == "not made: it takes records first"
    assert registered.reason == "on there, not here"


def test_data_of_another_lineage_says_what_differs(made):
    st = reader(made, coincidence_level=3)
    [state, *_] = run_overview.states(st, RUN_ID, rundoc())
    assert state.loadable  # raw records do not know this option
    wanted = {"a": ["A", "1", {"x": 1, "y": (1, 2)}], "b": ["B", "2", {}]}
    there = {"a": ["A", "2", {"x": 3, "y": [1, 2], "z": 4}], "c": ["C", "1", {}]}
    assert run_overview.differences(wanted, there) == [
        "a of version 2, not 1",
        "x = 3, not 1",
        "z = 4, not (default)",
        "it is not made from b",
        "it is made from c",
    ]


def test_data_of_another_lineage_is_found(made):
    st = reader(made)
    other = made / "out" / f"{RUN_ID}-raw_records-zzzzzzzzzz"
    other.mkdir()
    file = other / "raw_records-zzzzzzzzzz-metadata.json"

    def found():
        states = of(run_overview.states(st, RUN_ID, rundoc()), "raw_records")
        [state] = [state for state in states if not state.is_current]
        assert not state.loadable and state.lineage_hash == "zzzzzzzzzz"
        return state

    file.write_text("{")
    assert "cannot be read" in found().reason
    metadata = st.get_metadata(RUN_ID, "raw_records")
    ended = metadata.pop("writing_ended")
    file.write_text(json.dumps(metadata))
    assert found().reason.startswith("incomplete")
    version = metadata["lineage"]["raw_records"][1]
    metadata["lineage"]["raw_records"][1] = "0.0.1"
    file.write_text(json.dumps(metadata | {"writing_ended": ended}))
    state = found()
    assert state.reason == f"made otherwise: raw_records of version 0.0.1, not {version}"
    assert state.chunks == 2 and state.made is not None


def test_live_progress(made, monkeypatch):
    monkeypatch.setenv("AMSTRAX_HOST", "here")
    [stored] = [
        g for g in live_progress.find_stored(reader(made), RUN_ID) if g.data_type == "raw_records"
    ]
    assert stored.is_complete and len(stored.chunks) == 2 and stored.rows > 0
    assert stored.chunks[0].end <= stored.chunks[1].start
    document = rundoc() | {"data": [{"type": "live", "host": "here", "location": str(made)}]}
    live = live_progress.find_live(document, "xams")
    assert (live.chunks, live.is_closed, live.folder) == (2, True, made / RUN_ID)
    assert live_progress.find_live(rundoc(), "xams", made / "nowhere") is None
    assert live_progress.find_live({"number": 5, "name": "../x"}, "xams", made) is None


# Logs


def job(log, **fields):
    return {"name": "7", "processing_job": {"log": str(log), **fields}}


def test_logs_are_read_from_their_end(tmp_path):
    log = tmp_path / "logs/7/7.log"
    log.parent.mkdir(parents=True)
    log.write_text("first line\nsecond µ\n")
    assert live_progress.read_log(job(log), tmp_path / "logs").text == "first line\nsecond µ\n"
    end = live_progress.read_log(job(log), tmp_path / "logs", most=14)
    assert (end.text, end.skipped) == ("second µ\n", 11)


def test_no_other_file_is_shown_as_a_log(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    secret = tmp_path / "secret.log"
    secret.write_text("psst")
    (logs / "link.log").symlink_to(secret)
    (logs / "key.txt").write_text("psst")
    os.mkfifo(logs / "pipe.log")
    (logs / "folder.log").mkdir()
    for path in (
        *(secret, logs / "../secret.log", logs / "link.log", logs / "key.txt"),
        *(logs / "pipe.log", logs / "folder.log", "/etc/passwd", logs / "none.log"),
    ):
        with pytest.raises((NotAvailable, OSError)):
            live_progress.read_log(job(path), logs)
    for document in ({}, {"processing_job": {"log": None}}, {"processing_job": 3}):
        with pytest.raises(NotAvailable, match="no log is known"):
            live_progress.read_log(document, logs)


def test_status_files_are_read(tmp_path):
    path = tmp_path / "status.json"
    assert loop.read_status(path) is None
    loop.write_status(path, {"state": "at work"})
    content, time = loop.read_status(path)
    assert content["state"] == "at work"
    assert abs((datetime.now(UTC) - time).total_seconds()) < 60
    path.write_text("[]")
    with pytest.raises(InvalidOption, match="no status file"):
        loop.read_status(path)
