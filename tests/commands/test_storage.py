"""`amstrax rundb storage` and `delete-data`, on folders and documents of a small lab."""

import json
import shlex
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from amstrax import cli, contexts
from amstrax.rundb import documents, get_mongo_collection, leases, stored

OLD = "abcdefghij"


pytestmark = pytest.mark.usefixtures("logging_as_before")


@pytest.fixture(scope="module")
def hashes():
    st = contexts.xams(init_rundb=False, storage=[])
    return {name: st.key_for("0", name).lineage_hash for name in ("peaks", "events")}


@pytest.fixture
def lab(tmp_path, monkeypatch, hashes):
    """A folder with a blank in its name, with data of a run; part of it is in the document."""
    folder = tmp_path / "all data"
    folder.mkdir()
    (tmp_path / "live/000007").mkdir(parents=True)
    (tmp_path / "live/000007/x").write_bytes(b"x" * 700)
    monkeypatch.setenv("AMSTRAX_HOST", "here")
    monkeypatch.setenv("XAMS_PROCESSED_DATA", str(folder))
    monkeypatch.setenv("XAMS_LIVE_DATA", str(tmp_path / "live"))
    monkeypatch.setenv("AMSTRAX_RUNDB_PATH", str(tmp_path / "rundb.sqlite"))
    monkeypatch.chdir(tmp_path)
    for name, size in ((hashes["peaks"], 4000), (OLD, 3000)):
        _make(folder, "peaks", name, size)
    _make(folder, "events", hashes["events"], 500)
    data = [
        {**_entry(folder, "peaks", hashes["peaks"]), "size_mb": 9.0},
        _entry(folder, "peaks", OLD),
        _entry(folder, "events", "gone"),
        {**_entry(Path("/far"), "peaks", OLD, "stbc"), "size_mb": 2.0},
        {**_entry(Path("/far"), "peaks", hashes["peaks"], "stbc")},
    ]
    now = datetime.now(UTC)
    run = {"number": 7, "name": "000007", "mode": "background", "start": now, "end": now}
    get_mongo_collection("xams").insert_one(run | {"data": data})
    return folder


def _entry(folder: Path, data_type: str, lineage_hash: str, host: str = "here") -> dict:
    entry = {"type": data_type, "host": host, "location": str(folder)}
    return entry | {"lineage_hash": lineage_hash}


def _make(folder: Path, data_type: str, lineage_hash: str, size: int, **metadata) -> Path:
    path = folder / f"000007-{data_type}-{lineage_hash}"
    path.mkdir()
    text = json.dumps({"writing_ended": 1, **metadata})
    (path / f"{data_type}-{lineage_hash}-metadata.json").write_text(text.ljust(size))
    return path


def _document() -> dict:
    return documents.find_run(get_mongo_collection("xams"), "000007")


def test_table(lab, capsys, hashes):
    assert cli.main(["rundb", "storage"]) == 0
    text, logged = capsys.readouterr()
    lines = [line.split() for line in text.splitlines()]
    # 9 MB as in the document, 3 kB as on disk; elsewhere one of 2 MB, and one of unknown size
    assert ["peaks", "1", "11", "MB", "1"] in lines
    assert ["live", "1", "700", "B"] in lines and ["events", "1", "500", "B"] in lines
    [place] = [line for line in lines if line[:1] == ["here"] and line[2] == "data"]
    assert place[3:6] == ["1", "9", "MB"] and place[-1] in ("GB", "TB")
    assert "1 entries of run documents name folders that are not there" in logged
    assert f"delete-data 000007 peaks {OLD} --folder '{lab}' --yes" in text
    assert cli.main(["rundb", "storage", "8"]) == 0
    assert OLD not in capsys.readouterr().out
    assert cli.main(["rundb", "storage", "7"]) == 0
    assert ["000007", "peaks", "11", "MB", "1"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]


def test_commands_can_be_pasted(lab, capsys, hashes):
    assert cli.main(["rundb", "storage", "--old"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "# on here:" and said[2] == "# on stbc:" and len(said) == 4
    name, *words = shlex.split(said[1])
    assert name == "amstrax" and cli.main(words) == 0
    left = {path.name for path in lab.iterdir()}
    assert left == {f"000007-peaks-{hashes['peaks']}", f"000007-events-{hashes['events']}"}
    document = _document()
    kept = [(entry["host"], entry["lineage_hash"]) for entry in document["data"]]
    assert ("here", OLD) not in kept and ("stbc", OLD) in kept and len(kept) == 4
    [deleted] = document["deleted_data"]
    assert deleted["lineage_hash"] == OLD and "delete-data" in deleted["deleted_by"]
    # Once more
    assert cli.main(words) == 1
    assert "is not on this machine" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["last", "incomplete", "no --yes", "busy", "copied", "path"])
def test_refusals(lab, capfd, hashes, what):
    runs, words = get_mongo_collection("xams"), ["000007", "peaks", OLD, "--yes"]
    new = lab / f"000007-peaks-{hashes['peaks']}"
    said = "is the only peaks of the run here: it is kept"
    if what == "last":
        shutil.rmtree(new)
    elif what == "incomplete":
        shutil.rmtree(new)
        _make(lab, "peaks", hashes["peaks"], 10, exception="no disk")
    elif what == "no --yes":
        words.pop()
        said = "for ever: add --yes"
    elif what == "busy":
        documents.set_status(runs, "7", "running")
        said = "is being processed: try again later"
    elif what == "copied":
        leases.Lease(runs, "000007", field=documents.COPY_CLAIM).acquire()
        said = "is being copied, or deleted: try again later"
    else:
        words[2] = "../../etc"
        said = "cannot be the name of data"
    assert cli.main(["rundb", "delete-data", *words]) in (1, 2)
    assert said in capfd.readouterr().err
    assert (lab / f"000007-peaks-{OLD}").is_dir() and "deleted_data" not in _document()


def test_an_interrupted_deletion_is_completed(lab, hashes):
    from amstrax.auto_processing import deleting

    path = lab / f"000007-peaks-{OLD}"
    deleting.set_aside(path)
    command = ["rundb", "delete-data", "000007", "peaks", OLD, "--folder", str(lab), "--yes"]
    assert cli.main(command) == 0
    assert not deleting.aside(path).exists() and len(_document()["deleted_data"]) == 1
    assert (lab / f"000007-peaks-{hashes['peaks']}").is_dir()


def test_the_other_version_is_deleted_meanwhile(lab, hashes, monkeypatch, capfd):
    """Two processes delete a version each: the second keeps its own."""
    held = leases.held

    def held_by_another(*args):
        shutil.rmtree(lab / f"000007-peaks-{hashes['peaks']}")
        return held(*args)

    monkeypatch.setattr(leases, "held", held_by_another)
    assert cli.main(["rundb", "delete-data", "000007", "peaks", OLD, "--yes"]) == 1
    assert "is the only peaks of the run here: it is kept" in capfd.readouterr().err
    assert (lab / f"000007-peaks-{OLD}").is_dir() and "deleted_data" not in _document()


def test_old_entries_of_several_runs_with_one_location(lab):
    runs = get_mongo_collection("xams")
    old = {"type": "peaks", "host": "stbc", "location": "/far"}
    runs.insert_many({"number": n, "name": f"{n:06d}", "data": [old]} for n in (8, 9))
    st = contexts.xams(init_rundb=False, storage=[])
    found = stored.find_storage(runs, lambda document: st, [lab])
    assert [run for run, _ in found.of_runs(["8", "9"])] == ["000008", "000009"]


def test_links_and_wide_trees(lab, tmp_path, hashes):
    """Sizes follow no links, and folders that a document names are not searched deeply."""
    path = lab / f"000007-peaks-{OLD}"
    (path / "link").symlink_to("/usr")
    deep = path / "deep"
    deep.mkdir()
    (deep / "x").write_bytes(b"x" * 1000)
    assert 4000 <= stored.size_of(str(path)) < 4100
    assert stored.size_of(str(tmp_path / "gone")) is None
    runs = get_mongo_collection("xams")
    odd = {"type": "records", "host": "here", "location": "/usr"}
    documents.add_data(runs, "7", odd)
    st = contexts.xams(init_rundb=False, storage=[])
    found = stored.find_storage(runs, lambda document: st, [lab])
    assert [x.n_bytes for x in found.data if x.data_type == "records"] == [None]


def test_folders_that_cannot_be_read_are_named(lab, capsys):
    """Here by a name that is too long, since no folder is closed to root."""
    unread = f"{lab}/{'x' * 300}"
    closed = {"type": "records", "host": "here", "location": unread, "lineage_hash": OLD}
    documents.add_data(get_mongo_collection("xams"), "7", closed)
    assert cli.main(["rundb", "storage", "--old"]) == 0
    said = capsys.readouterr()
    assert f"{unread} cannot be read (File name too long)" in said.err
    assert "delete-data 000007 peaks" in said.out
