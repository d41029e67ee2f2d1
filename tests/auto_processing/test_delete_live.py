"""Deleting live data with verified copies, also when interrupted at any point."""

import os
import re
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from live_runs import (  # noqa: F401
    as_nobody,
    contents,
    daq,
    flip,
    recently,
    same,
    small_disk,
    sshd,
    start,
    wait_for,
)
from needs import need

from amstrax.auto_processing import copy_live, delete_live, deleting, rsync
from amstrax.auto_processing.copying import delete_after_copies
from amstrax.exceptions import DeletionRefused
from amstrax.rundb import documents, get_mongo_collection, leases

FILE = "000001/xams-daq_reader_0_139811453138688"
SURE = ("--production", "--we_are_really_sure")


pytestmark = pytest.mark.usefixtures("logging_as_before")


@pytest.fixture
def local(daq):  # noqa: F811
    """A DAQ with copies on this machine, which needs no ssh and is faster."""
    daq.set(XAMS_COPY_TO=f"dcache={daq.dcache}")
    return daq


def add_copied(daq, number=1, **fields):  # noqa: F811
    """Add a run with all its copies."""
    folder = daq.add_run(number, **fields)
    assert copy_live.main(["--production"]) == 0
    assert len(daq.hosts(number)) > 1
    return folder


def delete(*arguments):
    return delete_live.main([*map(str, arguments)])


def errors(capfd):
    """Return the error lines since the last call."""
    return [line for line in capfd.readouterr().err.splitlines() if "ERROR" in line]


def assert_untouched(daq, folder, number=1):  # noqa: F811
    """Check that nothing of a run was deleted or recorded."""
    assert (folder / FILE).is_file() and not deleting.aside(folder).exists()
    assert "daq" in daq.hosts(number)
    document = documents.find_run(daq.runs, number)
    assert not document.get("deleted_data") and "copy_claim" not in document


def test_deletes_when_all_copies_are_verified(daq, capfd):  # noqa: F811
    folder = add_copied(daq)
    capfd.readouterr()
    assert delete() == 0
    said = capfd.readouterr().err
    assert "run 000001: 5 files, 0.0 MB, verified at stbc, dcache" in said
    assert "1 runs would be deleted" in said
    assert_untouched(daq, folder)
    assert delete(*SURE) == 0
    assert not list(daq.live.iterdir()) and daq.hosts(1) == ["dcache", "stbc"]
    (entry,) = documents.find_run(daq.runs, 1)["deleted_data"]
    assert (entry["type"], entry["host"], entry["location"]) == ("live", "daq", str(daq.live))
    assert entry["deleted_by"].endswith("with delete_live")
    assert datetime.now(UTC) - entry["deleted_at"].replace(tzinfo=UTC) < timedelta(minutes=5)
    assert same(daq.stbc / "000001", daq.dcache / "000001")
    assert "000001 is deleted, 0.0 MB" in daq.log("delete_live")
    # A deleted run is skipped by both tools
    assert copy_live.main(["--production"]) == 0 and delete(*SURE) == 0


def test_nothing_is_deleted_unless_we_are_sure(local, capfd):
    folder = add_copied(local)
    for options in (["--production"], ["--we_are_really_sure"], [*SURE, "--dry_run"]):
        capfd.readouterr()
        assert delete(*options) == 0
        assert "1 runs would be deleted" in capfd.readouterr().err
        assert_untouched(local, folder)


def test_oldest_first_and_so_many(local):
    for number in (1, 2, 3):
        local.add_run(number)
    local.add_run(4, end=recently())
    assert copy_live.main(["--production"]) == 0
    assert delete(*SURE, "--max_runs=2") == 0
    assert sorted(os.listdir(local.live)) == ["000003", "000004"]
    assert delete(*SURE) == 0 and os.listdir(local.live) == ["000004"]
    assert delete(*SURE, "--min_age=0.0001") == 0 and not os.listdir(local.live)


@pytest.mark.parametrize(
    ("damage", "host"),
    [
        *((d, "dcache") for d in ("byte", "missing", "more", "longer", "run", "folder")),
        ("byte", "stbc"),
        ("run", "stbc"),
    ],
)
def test_copy_that_differs(daq, damage, host, capfd):  # noqa: F811
    if host == "stbc":
        daq.set(XAMS_COPY_TO=f"stbc=login:{daq.stbc}")
    else:
        daq.set(XAMS_COPY_TO=f"dcache={daq.dcache}")
    folder = add_copied(daq)
    copy = getattr(daq, host) / folder.name
    if damage == "byte":
        flip(copy / FILE)
    elif damage == "missing":
        (copy / FILE).unlink()
    elif damage == "more":
        (copy / "000001/more").touch()
    elif damage == "longer":
        with (copy / FILE).open("a") as file:
            file.write("x")
    elif damage == "run":
        shutil.rmtree(copy)
    else:
        (copy / "000009").mkdir()
    capfd.readouterr()
    for options in ([], SURE):
        assert delete(*options) == 1
        first, *_ = errors(capfd)
        assert f"run 000001 is not deleted: its copy {'login:' * (host == 'stbc')}{copy} diff" in (
            first
        )
        assert "copy_live --run_id 000001 --again" in first
        assert_untouched(daq, folder)
    if damage in ("byte", "missing", "longer", "run"):
        assert copy_live.main(["--production", "--run_id", "1", "--again"]) == 0
        assert delete(*SURE) == 0 and not folder.exists()
        assert daq.hosts(1) == [host]


def test_which_copies_are_required(daq, capfd):  # noqa: F811
    folder = daq.add_run(1)
    assert copy_live.main(["--production", "--to", "dcache"]) == 0
    assert delete(*SURE) == 0 and folder.exists()
    capfd.readouterr()
    assert delete(*SURE, "--run_id", 1) == 1
    assert "it has no copy at stbc: copy_live makes one" in errors(capfd)[0]
    # A registered copy must exist
    entry = {"type": "live", "host": "stbc", "location": str(daq.stbc)}
    documents.add_data(daq.runs, 1, entry)
    assert delete(*SURE) == 1
    assert "since it does not exist" in errors(capfd)[0]
    assert_untouched(daq, folder)
    daq.set(XAMS_DELETE_AFTER_COPIES="nowhere")
    assert delete(*SURE) == 1 and "XAMS_DELETE_AFTER_COPIES has 'nowhere'" in errors(capfd)[0]
    daq.set(XAMS_COPY_TO="", XAMS_DELETE_AFTER_COPIES="")
    assert delete(*SURE) == 1 and "nothing is copied or deleted" in errors(capfd)[0]
    with pytest.raises(DeletionRefused, match="no copies are required"):
        deleting.Deleter(daq.runs, deleting.DeleteOptions([daq.live], ()))
    assert_untouched(daq, folder)
    daq.set(XAMS_COPY_TO=f"stbc=login:{daq.stbc}, dcache={daq.dcache}")
    daq.set(XAMS_DELETE_AFTER_COPIES="dcache")
    assert delete(*SURE) == 0 and not folder.exists()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"end": None}, "still being taken"),
        ({"end": datetime.now(UTC) - timedelta(days=29)}, "less than 30 days ago"),
        ({"end": "yesterday"}, "end"),
        ({"tags": [{"name": "abandon"}]}, "'abandon'"),
        ({"tags": [{"name": "process"}]}, "'process'"),
        ({"processing_status": {"status": "running"}}, "is being processed"),
        ({"processing_status": "processing"}, "is being processed"),
        ({"processing_claim": {"owner": "x", "expires": datetime(2999, 1, 1)}}, "is being proc"),
        ({"name": "..", "number": None}, "cannot be the name of its folder"),
        ({"name": "../live/000001"}, "cannot be the name of its folder"),
        ({"name": "/etc"}, "cannot be the name of its folder"),
        ({"name": " "}, "cannot be the name of its folder"),
        ({"name": "."}, "cannot be the name of its folder"),
    ],
    ids=range(13),
)
def test_runs_that_are_left_alone(local, fields, reason):
    folder = add_copied(local)
    daq_entry, copy_entry = documents.find_run(local.runs, 1)["data"]
    for entry in (daq_entry, copy_entry):
        documents.add_data(local.runs, 1, entry)
    local.runs.update_one({"number": 1}, {"$set": fields})
    assert delete(*SURE) == 0
    document = local.runs.find_one({})
    required = delete_after_copies("xams")
    options = deleting.DeleteOptions([local.live], required)
    assert reason in delete_live.why_not(document, options)
    assert (folder / FILE).exists() and not document.get("deleted_data")


@pytest.mark.parametrize(
    "location",
    ["/", "/etc", "..", "", "live", "{live}/000001", "{live}/..", "{folder}", None],
    ids=range(9),
)
def test_data_that_is_elsewhere(local, location, capfd):
    """Live data is deleted only from the folders of the settings or options."""
    folder = add_copied(local)
    if location is not None:
        location = location.format(live=local.live, folder=local.folder)
    # A folder of the run above the live data
    local.runs.update_one(
        {"number": 1, "data.host": "daq"}, {"$set": {"data.$.location": location}}
    )
    shutil.copytree(folder, local.folder / "000001")
    assert delete(*SURE) == 0
    capfd.readouterr()
    assert delete(*SURE, "--run_id", 1) == 1
    assert re.search("its live data is in|live data in .* no folder", errors(capfd)[0])
    assert same(folder, local.folder / "000001") and same(folder, local.dcache / "000001")
    assert not documents.find_run(local.runs, 1).get("deleted_data")


def test_where_live_data_is_must_be_said(local, capfd):
    add_copied(local)
    local.set(XAMS_LIVE_DATA="")
    for options in ([], ["--live_data", "/"], ["--live_data", local.folder / "none"]):
        assert delete(*SURE, *options) == 2
        assert "XAMS_LIVE_DATA" in errors(capfd)[0]
    assert delete(*SURE, "--live_data", local.dcache) == 0 and local.hosts(1) == ["daq", "dcache"]
    assert delete(*SURE, "--live_data", local.dcache, local.live) == 0
    assert local.hosts(1) == ["dcache"] and not list(local.live.iterdir())


def test_links(local, capfd):
    """Runs that are links or contain links, and the targets, are not deleted."""
    folder = add_copied(local)
    kept = local.folder / "kept"
    folder.rename(kept)
    folder.symlink_to(kept)
    assert delete(*SURE) == 1
    assert f"{folder} is no folder, or a link" in errors(capfd)[0]
    assert folder.is_symlink() and same(kept, local.dcache / "000001")
    folder.unlink()
    kept.rename(folder)
    outside = local.folder / "outside"
    outside.mkdir()
    (outside / "file").touch()
    for name, target in (("to_folder", outside), ("to_file", outside / "file")):
        (folder / name).symlink_to(target)
        (local.dcache / "000001" / name).symlink_to(target)
        assert delete(*SURE) == 1
        assert f"{folder / name} is a symbolic link" in errors(capfd)[0]
        (folder / name).unlink()
        (local.dcache / "000001" / name).unlink()
    assert_untouched(local, folder)
    # The folder of live data itself may be a link
    other = local.folder / "other"
    other.symlink_to(local.live)
    local.set(XAMS_LIVE_DATA=str(other))
    assert delete(*SURE) == 0 and not folder.exists() and (outside / "file").exists()
    assert other.is_symlink()


@pytest.mark.parametrize("where", ["run", "chunk", "disk"])
def test_mount_points(local, where, capfd):
    folder = add_copied(local)
    need(os.getuid() == 0, "needs root, to mount")
    other = local.folder / "other"
    shutil.copytree(folder, other)
    if where == "disk":
        # With the content of the copy, so that only the mount differs
        with small_disk(folder / "000001", "1m"):
            shutil.copytree(other / "000001", folder / "000001", dirs_exist_ok=True)
            assert delete(*SURE) == 1
            assert "something is mounted at" in errors(capfd)[0]
            assert same(folder, other)
    else:
        name = "." if where == "run" else "000001"
        mount = ["mount", "--bind", str(other / name), str(folder / name)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr}")
        try:
            assert same(folder, local.dcache / "000001")
            assert delete(*SURE) == 1
            assert "something is mounted at" in errors(capfd)[0]
            assert same(other, local.dcache / "000001")
        finally:
            subprocess.run(["umount", "--lazy", str(folder / name)], check=True)
    assert local.hosts(1) == ["daq", "dcache"]


@pytest.mark.parametrize("way", ["link", "link_to_run", "ssh"])
def test_copy_that_is_the_live_data_itself(daq, way, capfd):  # noqa: F811
    """By another path, so that every file has the same name, size and checksum."""
    folder = daq.add_run(1)
    other = daq.folder / "other"
    if way == "link_to_run":
        other.mkdir()
        (other / "000001").symlink_to(folder)
    else:
        other.symlink_to(daq.live)
    host = "login:" if way == "ssh" else ""
    daq.set(XAMS_COPY_TO=f"other={host}{other}")
    entry = {"type": "live", "host": "other", "location": str(other)}
    documents.add_data(daq.runs, 1, entry)
    before = sorted(daq.live.rglob("*"))
    assert delete(*SURE) == 1
    reason = "is a symbolic link" if way == "link_to_run" else "so both may be one folder"
    assert reason in errors(capfd)[0]
    assert_untouched(daq, folder)
    assert sorted(daq.live.rglob("*")) == before


@pytest.mark.parametrize(("host", "name"), [("stbc", ""), ("dcache", ""), ("dcache", "000001")])
def test_copy_that_is_a_mount_of_live_data(daq, host, name, capfd):  # noqa: F811
    """Renaming the live data does not show this; it is no copy, and nothing is deleted."""
    need(os.getuid() == 0, "needs root, to mount")
    folder = daq.add_run(1)
    place = getattr(daq, host) / "000001" / name
    shutil.copytree(folder, getattr(daq, host) / "000001")
    ssh_host = "login:" if host == "stbc" else ""
    daq.set(XAMS_COPY_TO=f"{host}={ssh_host}{getattr(daq, host)}")
    mount = ["mount", "--bind", str(folder / name), str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        assert copy_live.main(["--production"]) == 1
        entry = {"type": "live", "host": host, "location": str(getattr(daq, host))}
        documents.add_data(daq.runs, 1, entry)
        assert delete(*SURE) == 1
        reason = "itself, by another path" if host == "stbc" else "something is mounted at"
        assert all(reason in line for line in errors(capfd)[::2])
        assert_untouched(daq, folder)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("markers", ["kept", "removed"])
def test_two_copies_that_are_one_folder(daq, markers, capfd):  # noqa: F811
    """By ssh and on this machine, which the settings do not show: that is one copy."""
    daq.set(XAMS_COPY_TO=f"stbc=login:{daq.dcache}")
    folder = add_copied(daq)
    entry = {"type": "live", "host": "dcache", "location": str(daq.dcache)}
    documents.add_data(daq.runs, 1, entry)
    daq.set(XAMS_COPY_TO=f"stbc=login:{daq.dcache}, dcache={daq.dcache}")
    if markers == "removed":
        (daq.dcache / "000001" / rsync.MARKER).unlink()
    capfd.readouterr()
    assert delete(*SURE) == 1
    assert "its copies at stbc and dcache are one folder" in errors(capfd)[0]
    assert_untouched(daq, folder)
    shutil.copytree(daq.dcache, daq.stbc, dirs_exist_ok=True)
    (daq.stbc / "000001" / rsync.MARKER).unlink()
    daq.set(XAMS_COPY_TO=f"stbc=login:{daq.dcache}, dcache={daq.stbc}")
    daq.runs.update_one(
        {"number": 1, "data.host": "dcache"}, {"$set": {"data.$.location": str(daq.stbc)}}
    )
    assert delete(*SURE) == 0 and not folder.exists()


def test_copy_without_marker(local):
    """A verified copy of an older version counts, and gets a marker."""
    folder = add_copied(local)
    marker = local.dcache / "000001" / rsync.MARKER
    marker.unlink()
    assert delete() == 0 and not marker.exists()
    assert delete(*SURE) == 0 and marker.exists() and not folder.exists()


def test_document_that_was_imported_again(local):
    """A verified copy counts although the document has another _id."""
    folder = add_copied(local)
    document = documents.find_run(local.runs, 1)
    local.runs.delete_one({"number": 1})
    local.runs.insert_one(document | {"_id": "new"})
    assert delete(*SURE) == 0 and not folder.exists()


def test_one_folder_under_two_names(local):
    """Both its entries are moved to deleted_data."""
    folder = add_copied(local)
    entry = {"type": "live", "host": "daq", "location": f"{local.live}/"}
    documents.add_data(local.runs, 1, entry)
    assert delete(*SURE) == 0 and not folder.exists()
    assert local.hosts(1) == ["dcache"] and local.hosts(1, "deleted_data") == ["daq", "daq"]


@pytest.mark.parametrize("odd", ["text", [{"type": "live", "host": "daq", "location": "/a\0"}]])
def test_odd_deleted_data(local, odd, capfd):
    """Nothing is deleted that cannot be recorded; odd entries are ignored."""
    folder = add_copied(local, deleted_data=odd)
    other = add_copied(local, 2)
    is_odd = odd == "text"
    assert delete(*SURE) == int(is_odd) and not other.exists()
    assert folder.exists() == is_odd and not deleting.aside(folder).exists()
    assert ("correct the document" in capfd.readouterr().err) == is_odd


def test_copy_of_another_run(local, capfd):
    """With the same files, as of a test pulse, but of the other detector."""
    folder = add_copied(local)
    local.set(XAMSL_COPY_TO=f"dcache={local.dcache}", XAMSL_LIVE_DATA=str(local.live))
    local.set(XAMS_COPY_TO="", XAMS_LIVE_DATA="")
    other = get_mongo_collection("xamsl")
    document = documents.find_run(local.runs, 1)
    other.insert_one({key: value for key, value in document.items() if key != "_id"})
    for options in ([], SURE):
        capfd.readouterr()
        assert delete("--detector=xamsl", *options) == 1
        assert "000001 holds another run (xams 1 2024-01-02" in errors(capfd)[0]
    assert_untouched(local, folder)


@pytest.mark.parametrize("damage", ["missing", "byte", "run", "marker"])
def test_what_was_set_aside_is_removed_if_copies_have_it(local, damage, capfd):
    """Although its deletion is recorded, since it may be the last copy."""
    folder = add_copied(local)
    copy = local.dcache / "000001"
    kept = local.folder / "kept"
    shutil.copytree(copy, kept)
    aside = deleting.set_aside(folder)
    (aside / "000000_post" / Path(FILE).name).unlink()  # as when its removal was broken off
    documents.remove_data(local.runs, 1, {"type": "live", "host": "daq"}, "me")
    if damage == "byte":
        flip(copy / FILE)
    elif damage == "missing":
        (copy / FILE).unlink()
    elif damage == "run":
        shutil.rmtree(copy)
    else:
        text = (copy / rsync.MARKER).read_text()
        (copy / rsync.MARKER).write_text(text.replace('"xams"', '"xamsl"'))
    before = contents(aside)
    capfd.readouterr()
    assert delete(*SURE) == 1
    assert f"{aside} is left as it is: " in errors(capfd)[0]
    assert contents(aside) == before
    shutil.rmtree(copy, ignore_errors=True)
    kept.rename(copy)
    assert delete(*SURE) == 0 and not aside.exists() and not folder.exists()


def test_two_documents_of_one_number(local, capfd):
    folder = add_copied(local)
    local.runs.insert_one({"number": 1, "name": "000001", "tags": [{"name": "abandon"}]})
    capfd.readouterr()
    for options in ([], SURE):
        assert delete(*options) == 1
        assert "'abandon'" in errors(capfd)[0]
    assert_untouched(local, folder)


def test_user_id_without_a_name(local):
    """The deletion is recorded, under the number of the user."""
    folder = add_copied(local)
    for path in (local.folder, *local.folder.rglob("*")):
        os.chown(path, 54321, 54321)
    done = as_nobody([sys.executable, "-m", delete_live.__name__, *SURE])
    assert done.returncode == 0, done.stderr
    (entry,) = documents.find_run(local.runs, 1)["deleted_data"]
    assert entry["deleted_by"] == "54321 with delete_live" and not folder.exists()
    assert not list(local.live.iterdir())


def test_what_changes_while_copies_are_verified(local, monkeypatch, capfd):
    """Changes of live data, run document and claim during verification prevent deletion."""
    folder = add_copied(local)
    verify = deleting.Deleter._verify

    def change_files(*args):
        found = verify(*args)
        flip(folder / FILE)
        os.utime(folder / FILE)
        return found

    def tag(*args):
        found = verify(*args)
        documents.add_tag(local.runs, 1, "abandon", "me")
        return found

    def take_claim(*args):
        found = verify(*args)
        local.runs.update_one({"number": 1}, {"$set": {"copy_claim.owner": "other"}})
        return found

    for change, message in [
        (change_files, "has changed since its copies were verified"),
        (take_claim, "another process has claimed it"),
        (tag, "'abandon'"),
    ]:
        monkeypatch.setattr(deleting.Deleter, "_verify", change)
        assert delete(*SURE) == 1
        assert message in errors(capfd)[0]
        local.runs.update_one({"number": 1}, {"$unset": {"copy_claim": ""}})
        assert_untouched(local, folder)
        monkeypatch.undo()
        ignored = shutil.ignore_patterns(rsync.MARKER)
        shutil.copytree(local.dcache / "000001", folder, dirs_exist_ok=True, ignore=ignored)
        return_settings(local)


def return_settings(local):
    """Set what `monkeypatch.undo` has unset."""
    local.set(
        AMSTRAX_HOST="daq",
        AMSTRAX_RUNDB_PATH=str(local.folder / "rundb.sqlite"),
        AMSTRAX_LOG_FOLDER=str(local.folder / "logs"),
        XAMS_COPY_TO=f"dcache={local.dcache}",
        XAMS_LIVE_DATA=str(local.live),
    )


@pytest.mark.slow
def test_destination_away(daq, sshd, capfd):  # noqa: F811
    folder = add_copied(daq)
    capfd.readouterr()
    sshd.kill()
    assert delete(*SURE) == 1
    assert "login cannot be reached" in errors(capfd)[0]
    assert_untouched(daq, folder)
    sshd.start()
    assert delete(*SURE) == 0 and not folder.exists()


# Interruptions


def dying(place, when):
    """Return a `delete_live` that kills itself before or after a place."""

    def main(_arguments):
        owner, name = {
            "verify": (rsync, "differences"),
            "rename": (deleting, "set_aside"),
            "look": (rsync, "listing"),
            "record": (documents, "remove_data"),
            "remove": (os, "unlink"),
        }[place]
        real, calls = getattr(owner, name), []

        def die(*args, **kwargs):
            if place == "remove" and args[0] != Path(FILE).name:
                return real(*args, **kwargs)  # A temporary file
            calls.append(name)
            # After half of the files; at the second look at the copy
            mine = len(calls) == {"remove": 3, "look": 2}.get(place, 1)
            if mine and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args, **kwargs)
            if mine and when == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, die)
        return delete_live.main([*SURE])

    return main


#: Where it dies, before or after that, and whether the run document has recorded the deletion
_PLACES = [
    ("verify", "after", False),
    ("rename", "before", False),
    ("rename", "after", False),
    ("look", "after", False),
    ("record", "before", False),
    ("record", "after", True),
    ("remove", "after", True),
]


@pytest.mark.slow
def test_killed_anywhere(local, capfd, start_tool):
    """The next start settles the interrupted deletion."""
    folders = [local.add_run(number) for number in range(1, len(_PLACES) + 1)]
    assert copy_live.main(["--production"]) == 0
    for number in range(1, len(_PLACES) + 1):
        # Each process deletes one run: the others are not ready yet
        local.runs.update_one({"number": number}, {"$set": {"end": None}})
    capfd.readouterr()
    for number, (place, when, is_recorded) in enumerate(_PLACES, 1):
        folder = folders[number - 1]
        old = datetime(2024, 1, 1, tzinfo=UTC)
        local.runs.update_one({"number": number}, {"$set": {"end": old}})
        child = start_tool(dying(place, when))
        assert child.result() == -signal.SIGKILL, child.text()
        assert ("daq" in local.hosts(number)) != is_recorded
        aside = deleting.aside(folder)
        there = folder if folder.exists() else aside
        if place == "remove":
            assert len([p for p in aside.rglob("*") if p.is_file()]) == 2
        else:
            assert same(there, local.dcache / folder.name), place
        assert (there == aside) == ((place, when) not in _PLACES_BEFORE), place
        # A dry run reports it
        assert delete() == 0
        assert ("would settle" in capfd.readouterr().err) == (there == aside)
        required = delete_after_copies("xams")
        options = deleting.DeleteOptions([local.live], required, delete=True)
        assert deleting.Deleter(local.runs, options).settle() == 0
        assert not aside.exists() and folder.exists() != is_recorded
        assert ("daq" in local.hosts(number)) != is_recorded
        if not is_recorded:
            assert same(folder, local.dcache / folder.name)
            assert delete(*SURE) == 0
        assert not folder.exists() and local.hosts(number) == ["dcache"]
        assert len(documents.find_run(local.runs, number)["deleted_data"]) == 1
        assert "copy_claim" not in documents.find_run(local.runs, number)
    assert not list(local.live.iterdir()) and len(list(local.dcache.iterdir())) == len(_PLACES)


_PLACES_BEFORE = {("verify", "after"), ("rename", "before")}


def test_what_cannot_be_settled(local, capfd):
    folder = add_copied(local)
    aside = deleting.aside(folder)
    capfd.readouterr()
    # Both folders exist
    shutil.copytree(folder, aside)
    assert delete(*SURE) == 1
    assert f"{aside} cannot be renamed back, since {folder} exists too" in errors(capfd)[0]
    assert same(folder, aside)
    # No run has this name
    shutil.rmtree(folder)
    aside.rename(deleting.aside(local.live / "000777"))
    assert delete(*SURE) == 1
    assert "000777" in errors(capfd)[0]
    # Its document has neither the data nor its deletion
    deleting.aside(local.live / "000777").rename(aside)
    local.runs.update_one({"number": 1}, {"$set": {"data": []}})
    assert delete(*SURE) == 1
    assert "has neither this live data nor its deletion" in errors(capfd)[0]
    # Another process works on it
    leases.claim(local.runs, 1, "elsewhere/1/2/3", 600, documents.COPY_CLAIM)
    assert delete(*SURE) == 0
    assert same(aside, local.dcache / "000001")


def test_database_away_in_the_middle(local, monkeypatch, capfd):
    """The next round finds out whether the deletion is recorded."""
    from amstrax.exceptions import RunDatabaseUnreachable

    remove_data = documents.remove_data

    def answer_is_lost(*args):
        remove_data(*args)
        raise RunDatabaseUnreachable("no answer")

    def never_arrives(*args):
        raise RunDatabaseUnreachable("nothing listens")

    for number, fault in enumerate((answer_is_lost, never_arrives), 1):
        folder = add_copied(local, number)
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(documents, "remove_data", fault)
            assert delete(*SURE) == 1
            assert len(errors(capfd)) == 1
        assert deleting.aside(folder).exists() and not folder.exists()
        assert delete(*SURE) == 0
        assert not deleting.aside(folder).exists() and not folder.exists()
        assert local.hosts(number) == ["dcache"]


def takes_sigterm(pid):
    """Return whether a process has a handler for SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def test_two_at_once_and_sigterm(local):
    for number in range(1, 9):
        local.add_run(number)
    assert copy_live.main(["--production"]) == 0
    options = [*SURE, "--loop", "--pause=0.1"]
    tools = [start("delete_live", *options) for _ in range(2)]
    wait_for(lambda: not list(local.live.iterdir()), "all to be deleted")
    # One may still be starting
    wait_for(lambda: all(takes_sigterm(tool.pid) for tool in tools), "both to be at work")
    for tool in tools:
        tool.send_signal(signal.SIGTERM)
        said, _ = tool.communicate(timeout=240)
        assert tool.returncode == 0 and "ended by SIGTERM" in said, said
        assert "Traceback" not in said
    for number in range(1, 9):
        assert local.hosts(number) == ["dcache"]
        assert len(documents.find_run(local.runs, number)["deleted_data"]) == 1


def test_as_a_file_and_wrong_options():
    path = Path(delete_live.__file__)
    done = subprocess.run(
        [sys.executable, path, "--help"], capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 0 and "--we_are_really_sure" in done.stdout
    for wrong in (["--loop"], ["--loop", "--production"], ["--min_age=0"], ["--run_id", ".."]):
        with pytest.raises(SystemExit) as error:
            delete_live.parse_args(wrong)
        assert error.value.code == 2
