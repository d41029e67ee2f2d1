"""The command amstrax rundb: in-process with both stores, and as users start it."""

import io
import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from bson import json_util
from make_runs import RUN_ID, pulses, rundoc, write_run
from rundb_stores import collection, numbered, real_document  # noqa: F401

from amstrax import cli
from amstrax.commands.rundb import _COMMANDS
from amstrax.rundb import documents, leases

AMSTRAX = str(Path(sys.executable).parent / "amstrax")


def rundb(*arguments):
    """Run a subcommand, as amstrax does."""
    return cli.main(["rundb", *map(str, arguments)])


pytestmark = pytest.mark.usefixtures("logging_as_before")


class Said:
    """What has been printed since, and all that has been logged."""

    def __init__(self, capsys):
        self._capsys, self._out, self._err = capsys, "", ""

    def _read(self):
        new = self._capsys.readouterr()
        self._out += new.out
        self._err += new.err

    def out(self):
        self._read()
        new, self._out = self._out, ""
        return new

    @property
    def text(self):
        self._read()
        return self._err


@pytest.fixture
def said(capsys):
    return Said(capsys)


@pytest.fixture
def lines(tmp_path, real_document):  # noqa: F811
    """A file with three runs, one a line."""
    runs = [
        real_document,
        numbered(real_document, 2241, tags=[{"name": "bad"}], processing_status="done"),
        numbered(real_document, 2242, mode="other", data=[], end=None),
    ]
    path = tmp_path / "runs.json"
    path.write_text("\n".join(json_util.dumps(run) for run in runs) + "\n")
    return path


def test_import_and_export_are_inverse(collection, lines, real_document, tmp_path, said):  # noqa: F811
    assert rundb("import", lines) == 0
    assert collection.count_documents({}) == 3
    assert "3 runs added, 0 existed already" in said.text
    out = tmp_path / "out.json"
    assert rundb("export", "--output", out) == 0
    assert rundb("export", "2241") == 0
    exported = [json_util.loads(line) for line in out.read_text().splitlines()]
    assert [run["number"] for run in exported] == [2240, 2241, 2242]
    assert exported[0] == real_document | {"name": "002240"}
    assert json_util.loads(said.out()) == exported[1]
    # As mongoexport writes it
    assert '"start": {"$date": "2021-11-12T12:19:35.797Z"}' in out.read_text()
    assert os.listdir(tmp_path) and not list(tmp_path.glob(".*tmp"))
    assert rundb("import", out) == 0 and "0 runs added, 3 existed already" in said.text
    array = tmp_path / "array.json"
    array.write_text(json_util.dumps([run | {"mode": "new"} for run in exported], indent=1))
    assert rundb("import", array) == 0
    assert collection.count_documents({"mode": "new"}) == 0
    assert rundb("import", "--replace", array) == 0
    assert collection.count_documents({"mode": "new"}) == 3
    assert collection.find_one({"number": 2240}) == exported[0] | {"mode": "new"}


def test_import_from_a_pipe_and_of_one_document(collection, shared, monkeypatch):  # noqa: F811
    text = (shared / "data/rundoc_100001.json").read_text()
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(json.loads(text), indent=2)))
    assert rundb("import", "-", shared / "data/rundoc_100007.json") == 0
    assert documents.find_run(collection, "100001")["start"] == datetime(2024, 1, 2, 3, 4, 5)
    assert documents.find_run(collection, "100007")["number"] == 100007


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"number": 1}\n{"number": \n', "line 2, column"),
        ('{"number": 1}\n[]\n', "line 2: document 2 is not an object"),
        ('{"number": 1}\n{"mode": "x"}\n', "neither number nor name"),
        ('{"number": 1, "start": {"$date": []}}', "line 1"),
        ("", "is empty"),
        ('{\n"number": 1,\n"x" }', "line 3"),
        (None, "cannot be read"),
    ],
)
def test_nothing_is_imported_when_something_is_wrong(tmp_path, lines, text, message, said):
    path = tmp_path / "wrong.json"
    if text is not None:
        path.write_text(text)
    assert rundb("import", lines, path) == 1
    errors = [line for line in said.text.splitlines() if " ERROR " in line]
    assert len(errors) == 1 and message in errors[0] and str(path) in errors[0]
    assert not (tmp_path / "user_data").exists()


def test_show_and_list(collection, lines, said):  # noqa: F811
    rundb("import", lines)
    assert rundb("show", "2240") == 0
    assert json_util.loads(said.out())["daq_config"]["compressor"] == "lz4"
    assert rundb("show", "002241", "--fields", "mode", "tags") == 0
    assert json_util.loads(said.out())["tags"] == [{"name": "bad"}]
    assert rundb("list") == 0
    rows = [line.split() for line in said.out().splitlines()]
    assert rows[0][0] == "run" and [row[0] for row in rows[1:]] == ["002240", "002241", "002242"]
    assert rows[1][1:5] == ["2021-11-12", "12:19:35", "1200", "s"]
    assert rows[1][-1] == "live,raw_records,pulse_counts,records,peaks,peak_basics"
    for options, expected in (
        (["--status", "done"], ["002241"]),
        (["--status", "pending"], ["002240"]),
        (["--status", "no-end"], ["002242"]),
        (["--tag", "bad"], ["002241"]),
        (["--type", "peaks"], ["002240", "002241"]),
        (["--limit", "2"], ["002241", "002242"]),
        (["2240", "002242"], ["002240", "002242"]),
    ):
        assert rundb("list", *options) == 0
        out = said.out().splitlines()
        assert [line.split()[0] for line in out[1:]] == expected
    assert rundb("show", "1") == 1 and "run 000001 is not in the run database" in said.text


def test_odd_documents_are_listed(collection, said):  # noqa: F811
    odd = {"start": "x", "end": 3, "tags": 7, "data": [1, {}], "processing_status": [], "mode": {}}
    collection.insert_many([odd, {"number": 1, "start": datetime(2026, 1, 1)}, {}])
    assert rundb("list") == 0
    assert len(said.out().splitlines()) == 4


def test_tags_and_status(collection, lines, said):  # noqa: F811
    rundb("import", lines)
    assert rundb("tag", "2240", "process") == 0
    assert documents.tags_of(documents.find_run(collection, 2240)) == ["process"]
    assert rundb("tag", "2240", "process") == 0 and "already has the tag process" in said.text
    assert rundb("tag", "2240", "process", "--remove") == 0
    assert documents.tags_of(documents.find_run(collection, 2240)) == []
    assert rundb("status", "2240", "failed", "--reason", "no disk") == 0
    documents.record_failure(collection, 2240, "still no disk", "job")
    leases.claim(collection, 2240, "me")
    assert rundb("status", "2240") == 0
    out = said.out()
    assert out.startswith("failed\n") and "reason  still no disk" in out
    assert "failed  1 times" in out and "claimed by me until" in out
    assert rundb("status", "2240", "--reason", "x") == 2


def test_remove_prints_what_it_removes(collection, lines, said):  # noqa: F811
    rundb("import", lines)
    assert rundb("remove", "2240", "2241") == 2 and "add --yes" in said.text
    assert rundb("remove", "2240", "1", "--yes") == 1
    assert collection.count_documents({}) == 3
    assert rundb("remove", "2240", "2241", "--yes") == 0
    out = said.out().splitlines()
    assert [json_util.loads(line)["number"] for line in out] == [2240, 2241]
    assert collection.count_documents({}) == 1


def test_a_run_is_added_from_its_live_data(collection, tmp_path, said, monkeypatch):  # noqa: F811
    folder = write_run(tmp_path / "live", pulses([1_000_000]))
    assert rundb("add", folder) == 1
    beside = tmp_path / "live" / f"rundoc_{RUN_ID}.json"
    assert str(beside) in said.text and "--rundoc" in said.text
    beside.write_text(json.dumps(rundoc()))
    for _ in range(2):
        assert rundb("add", folder) == 0
    found = documents.find_run(collection, RUN_ID)
    host = documents.this_host()
    live = {"type": "live", "host": host, "location": str(tmp_path / "live")}
    assert found["data"] == [live] and found["start"] == datetime(2024, 1, 2, 3, 4, 5)
    assert "live data" in said.text and "was registered already" in said.text
    monkeypatch.setenv("AMSTRAX_HOST", "other")
    assert rundb("add", folder) == 0
    hosts = [e["host"] for e in documents.find_run(collection, RUN_ID)["data"]]
    assert hosts == [host, "other"]
    assert collection.count_documents({}) == 1
    assert rundb("add", tmp_path / "nowhere") == 1 and "no folder" in said.text


def test_the_folder_says_what_run_it_is(collection, shared, said):  # noqa: F811
    """The real run of the shared data has the document of run 2240."""
    folder = shared / "data/live_data/999999"
    document = shared / "data/rundoc_999999.json"
    assert rundb("add", folder, "--rundoc", document) == 0
    found = documents.find_run(collection, "999999")
    assert (found["number"], found["name"]) == (999999, "999999")
    assert "is of run 002240" in said.text
    assert str(folder.parent) in [e["location"] for e in documents.data_of(found, type="live")]


def test_check_is_there(said):
    assert rundb("check") == 0
    assert "AMSTRAX_RUNDB_PATH" in said.out()


@pytest.mark.smoke
def test_as_a_command(tmp_path, lines):
    environment = os.environ | {"AMSTRAX_RUNDB_PATH": str(tmp_path / "x" / "runs.sqlite")}

    def run(*arguments, **kwargs):
        return subprocess.run(
            [AMSTRAX, "rundb", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            **kwargs,
        )

    done = run("import", str(lines), "--detector", "xamsl")
    assert done.returncode == 0 and "3 runs added" in done.stderr, done.stderr
    assert run("list").stdout.count("\n") == 1
    assert run("--detector", "xamsl", "list").stdout.count("\n") == 4
    assert run("status", "2240", "doen").returncode == 2
    assert run().returncode == 2
    # Whoever reads has had enough
    piped = f"{AMSTRAX} rundb export --detector xamsl | head -c 10"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", piped], capture_output=True, text=True, env=environment
    )
    assert done.stdout.startswith('{"_id"') and "Traceback" not in done.stderr
    assert "Error" not in done.stderr


def test_help_is_quick_to_import():
    code = (
        "import sys, json\n"
        "from amstrax.commands import rundb as command\n"
        "try:\n    command.main(['--help'])\nexcept SystemExit: pass\n"
        "print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    assert not {"strax", "pymongo", "numpy", "paramiko"} & modules
    assert len(_COMMANDS) == 10
