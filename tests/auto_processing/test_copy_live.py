"""Copying live data: rsync over a real sshd, verified, registered, and mended."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from live_runs import (  # noqa: F401
    ENDED,
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
from servers import SSHServer

from amstrax import redax, settings
from amstrax.auto_processing import copy_live, copying, delete_live, rsync
from amstrax.commands import base
from amstrax.exceptions import (
    AmstraxError,
    CopyDiffers,
    CopyFailed,
    CopyRefused,
    DestinationUnusable,
    InvalidOption,
    LiveDataCorrupted,
    LiveDataNotFound,
    RunDatabaseUnreachable,
    RunNotFound,
)
from amstrax.rundb import documents, get_mongo_collection, leases, transfer

FILE = "000001/xams-daq_reader_0_139811453138688"


pytestmark = pytest.mark.usefixtures("logging_as_before")


def copy(*arguments):
    return copy_live.main([*map(str, arguments)])


def copy_to(daq, number=1, host="stbc", **options):  # noqa: F811
    """Copy a run with `copy_data`."""
    ssh_host = "login" if host == "stbc" else None
    location = str(getattr(daq, host))
    return copy_live.copy_data(f"{number:06d}", daq.live, location, host, True, ssh_host, **options)


def rsync_as(daq, text):  # noqa: F811
    """Replace rsync by a script, in which {rsync} is the real one."""
    folder = daq.folder / "bin"
    folder.mkdir()
    (folder / "rsync").write_text(f"#!/bin/bash\n{text.format(rsync=shutil.which('rsync'))}\n")
    (folder / "rsync").chmod(0o755)
    daq.set(PATH=f"{folder}{os.pathsep}{os.environ['PATH']}")


# Selection of runs


def test_nothing_is_copied_without_production(daq, capfd):  # noqa: F811
    daq.add_run(1)
    before = documents.find_run(daq.runs, 1)
    for options in ([], ["--dry_run", "--production"]):
        assert copy(*options) == 0
        said = capfd.readouterr().err
        assert f"would copy run 000001 to stbc (login:{daq.stbc}/000001), 11 of 10 files" in said
        assert "2 copies of 1 runs would be made" in said
    assert not [*daq.stbc.iterdir(), *daq.dcache.iterdir()]
    assert documents.find_run(daq.runs, 1) == before


def test_copies_are_verified_and_registered(daq, caplog):  # noqa: F811
    folders = [daq.add_run(number) for number in (1, 2, 3)]
    assert copy("--production", "--workers=2") == 0
    for number, folder in enumerate(folders, 1):
        assert same(folder, daq.stbc / folder.name) and same(folder, daq.dcache / folder.name)
        assert daq.hosts(number) == ["daq", "dcache", "stbc"]
        document = documents.find_run(daq.runs, number)
        assert "copy_claim" not in document
        (entry,) = documents.data_of(document, host="stbc")
        assert (entry["type"], entry["location"]) == ("live", str(daq.stbc))
        assert (entry["n_files"], entry["size_mb"]) == (5, 0.012)
    (log,) = daq.folder.glob("logs/*/copy_live.log")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", log.parent.name)
    assert "6 copies of 3 runs made, 0.1 MB; 0 could not be made" in log.read_text()
    caplog.clear()
    assert copy("--production") == 0
    assert "0 copies of 0 runs" in daq.log("copy_live")


def test_each_destination_is_separate(daq):  # noqa: F811
    folder = daq.add_run(1)
    assert copy("--production", "--to", "dcache") == 0
    assert daq.hosts(1) == ["daq", "dcache"] and not list(daq.stbc.iterdir())
    inode = (daq.dcache / "000001" / FILE).stat().st_ino
    assert copy("--production") == 0
    assert daq.hosts(1) == ["daq", "dcache", "stbc"] and same(folder, daq.stbc / "000001")
    assert (daq.dcache / "000001" / FILE).stat().st_ino == inode
    assert copy("--production", "--to", "nowhere") == 2


def test_runs_that_are_left_alone(daq, capfd):  # noqa: F811
    daq.add_run(1, end=None)
    daq.add_run(2, tags=[{"name": "abandon"}])
    daq.add_run(3, end=recently(), written=False)
    daq.add_run(4, data=[{"type": "live", "host": "other", "location": str(daq.live)}])
    assert copy("--production") == 0
    assert not list(daq.stbc.iterdir())
    capfd.readouterr()
    for number, reason in enumerate(
        ["still being taken", "'abandon'", "no THE_END", "no live data on host daq", "not in"], 1
    ):
        assert copy("--production", "--run_id", number) == 1
        line, *_ = [x for x in capfd.readouterr().err.splitlines() if "ERROR" in x]
        assert reason in line and f"{number}" in line
    assert not [*daq.stbc.iterdir(), *daq.dcache.iterdir()]
    # A DAQ that has died leaves no THE_END
    daq.add_run(5, written=False)
    assert copy("--production") == 0 and daq.hosts(5) == ["daq", "dcache", "stbc"]


def test_newest_first_and_so_many(daq):  # noqa: F811
    for number in (1, 2, 3, 4):
        daq.add_run(number)
    args = copy_live.parse_args(["--max_runs=2", "--min_run_number=2", "--to", "dcache"])
    found = copy_live.get_rundocs(daq.runs, args)
    assert [document["number"] for document in found] == [4, 3]
    tally = copy_live.handle_runs(found, args)
    assert tally.copies == 2 and not list(daq.dcache.iterdir())


def test_names_that_are_no_folders(daq):  # noqa: F811
    daq.add_run(1)
    (daq.folder / "secret").mkdir()
    for name in ("../secret", "..", ".", "", "a/b", ".hidden", "-e", "a\nb"):
        with pytest.raises(AmstraxError):
            copy_live.copy_data(name, daq.live, str(daq.dcache), "dcache", True)
    transfer.add_run(
        daq.runs,
        {"name": "../secret", "end": recently(), "data": [
            {"type": "live", "host": "daq", "location": str(daq.live)}]},
    )  # fmt: skip
    assert copy("--production", "--to", "dcache") == 0
    assert [path.name for path in daq.dcache.iterdir()] == ["000001"]


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_neither_file_nor_folder(daq, kind):  # noqa: F811
    path = daq.add_run(1) / "000001/more"
    if kind == "link":
        path.symlink_to("/etc/passwd")
    else:
        os.mkfifo(path)
    with pytest.raises(LiveDataCorrupted, match=f"{path} is a"):
        copy_to(daq)


def test_a_run_that_is_a_link(daq):  # noqa: F811
    folder = daq.add_run(1)
    folder.rename(daq.folder / "elsewhere")
    folder.symlink_to(daq.folder / "elsewhere")
    with pytest.raises(LiveDataNotFound, match="a symbolic link"):
        copy_to(daq)


# Existing data at the destination


@pytest.fixture
def both(daq):  # noqa: F811
    """Destinations of XAMSL that hold run 10 of XAMS."""
    daq.add_run(10)
    assert copy("--production") == 0
    shutil.rmtree(daq.live / "000010")
    daq.set(XAMSL_COPY_TO=os.environ["XAMS_COPY_TO"], XAMSL_LIVE_DATA=str(daq.live))
    daq.set(XAMS_COPY_TO="", XAMS_LIVE_DATA="")
    daq.add_run(10, n_bytes=2000, detector="xamsl")
    daq.add_run(11, detector="xamsl")
    return daq


def hosts_of(number):
    document = documents.find_run(get_mongo_collection("xamsl"), number)
    return sorted(entry["host"] for entry in document["data"])


def test_run_of_another_detector(both, capfd):
    """The copies of XAMS run 10 are kept, and the next run is copied."""
    before = [contents(folder / "000010") for folder in (both.stbc, both.dcache)]
    for options in (["--dry_run"], ["--production"], ["--production", "--to", "stbc"]):
        capfd.readouterr()
        assert copy("--detector=xamsl", *options) == 1
        said = capfd.readouterr().err
        assert f"login:{both.stbc}/000010 holds another run (xams 10 2024-01-02T03:04:05" in said
        assert "this is xamsl 10 2024-" in said and "move that away" in said
    assert [contents(folder / "000010") for folder in (both.stbc, both.dcache)] == before
    assert hosts_of(10) == ["daq"] and hosts_of(11) == ["daq", "dcache", "stbc"]


@pytest.mark.parametrize("host", ["stbc", "dcache"])
@pytest.mark.parametrize("what", ["file", "longer", "other", "link", "inner_link", "plain"])
def test_unknown_data_at_the_destination(daq, what, host, capfd):  # noqa: F811
    """Data of another run, and targets of links, are never written to."""
    folder = daq.add_run(10)
    place, kept = getattr(daq, host) / "000010", daq.folder / "kept"
    shutil.copytree(folder, kept)
    if what == "link":
        place.symlink_to(kept)
    elif what == "plain":
        place.write_text("a file")
    else:
        shutil.copytree(folder, place)
        if what == "file":
            flip(place / FILE)
        elif what == "longer":
            (place / FILE).write_bytes(b"other")
        elif what == "other":
            (place / ".notes.backup").write_text("mine")
        else:
            shutil.rmtree(place / "000001")
            (place / "000001").symlink_to(kept / "000001")
    before = [contents(getattr(daq, host)), contents(kept)]
    assert copy("--production", "--to", host) == 1
    said = capfd.readouterr().err
    assert re.search(f"run 000010 is not copied to {host}: .*{place} (has|is) ", said)
    assert re.search("move (that folder|it) away", said)
    assert [contents(getattr(daq, host)), contents(kept)] == before
    assert daq.hosts(10) == ["daq"]


@pytest.mark.parametrize("host", ["stbc", "dcache"])
def test_copy_without_marker_gets_one(daq, host):  # noqa: F811
    """If all its files are those of the run, or leftovers of an older rsync."""
    folder = daq.add_run(1)
    place = getattr(daq, host) / "000001"
    shutil.copytree(folder, place)
    name = Path(FILE).name
    (place / FILE).unlink()
    (place / "000001" / f".{name}.Ab3dEf").write_text("half")
    (place / "000001" / rsync.OLD_PARTIAL).mkdir()
    (place / "000001" / rsync.OLD_PARTIAL / name).write_text("half")
    inode = (place / "000000" / name).stat().st_ino
    assert copy("--production", "--to", host) == 0
    assert same(folder, place) and daq.hosts(1) == sorted(["daq", host])
    assert (place / "000000" / name).stat().st_ino == inode
    marker = json.loads((place / rsync.MARKER).read_text())
    document = documents.find_run(daq.runs, 1)
    assert (marker["detector"], marker["number"]) == ("xams", 1)
    assert marker["start"] == "2024-01-02T03:04:05.000Z"
    assert marker["document"] == str(document["_id"])
    assert documents.data_of(document, host=host)[0]["copy_id"] == marker["copy"]


def test_marker_is_no_part_of_a_run(daq):  # noqa: F811
    """Readers and copies of copies ignore it; an unreadable marker is replaced."""
    folder = daq.add_run(1)
    copy_to(daq, host="dcache")
    place = daq.dcache / "000001"
    assert redax.list_files(place) == []
    assert rsync.sizes(rsync.inventory(place)) == rsync.sizes(rsync.inventory(folder))
    marker = (place / rsync.MARKER).read_bytes()
    copied = copy_live.copy_data("000001", daq.dcache, str(daq.stbc), "stbc", True, "login")
    assert copied.n_files == 5 and same(folder, daq.stbc / "000001")
    assert (daq.stbc / "000001" / rsync.MARKER).read_bytes() != marker
    for text in ("", "[]", "[" * 5000, "{}", "null", '{"copy": 1}', "x" * 200_000):
        (place / rsync.MARKER).write_text(text)
        copy_to(daq, host="dcache")
        assert json.loads((place / rsync.MARKER).read_text())["copy"]
    (place / rsync.MARKER).write_text("")
    flip(place / FILE)
    with pytest.raises(CopyRefused, match="has 000001/xams.*unlike this run, and no marker"):
        copy_to(daq, host="dcache")
    (place / rsync.MARKER).unlink()
    (place / rsync.MARKER).mkdir()
    with pytest.raises(CopyFailed, match="000001"):
        copy_to(daq, host="dcache")
    (place / rsync.MARKER).rmdir()
    (place / rsync.MARKER).symlink_to("/etc/passwd")
    shutil.copy2(folder / FILE, place / FILE)
    copy_to(daq, host="dcache")
    assert not (place / rsync.MARKER).is_symlink() and same(folder, place)


def test_document_that_was_imported_again(daq, capfd):  # noqa: F811
    """With another _id the files decide; with another start it is another run."""
    daq.add_run(1)
    assert copy("--production") == 0
    document = documents.find_run(daq.runs, 1)
    place = daq.dcache / "000001"
    before = contents(place)
    for change, status in (({"_id": "new"}, 0), ({"_id": "newer", "start": recently()}, 1)):
        daq.runs.delete_one({"number": 1})
        daq.runs.insert_one(document | change)
        assert copy("--production", "--run_id", 1, "--again") == status
        assert json.loads((place / rsync.MARKER).read_text())["document"] == "new"
    assert "if it is this run, remove .amstrax-copy.json" in capfd.readouterr().err
    after = contents(place)
    assert before.pop(rsync.MARKER) != after.pop(rsync.MARKER) and before == after
    for path in (place, daq.stbc / "000001"):
        (path / rsync.MARKER).unlink()
    assert copy("--production", "--run_id", 1, "--again") == 0
    flip(place / FILE)
    document = documents.find_run(daq.runs, 1)
    daq.runs.delete_one({"number": 1})
    daq.runs.insert_one(document | {"_id": "newest"})
    assert copy("--production", "--run_id", 1, "--again", "--to", "dcache") == 1
    assert "unlike this run, and no marker" in capfd.readouterr().err


def test_marker_that_was_copied_along(daq, capfd):  # noqa: F811
    """Two copies with one marker count as one folder until one marker is removed."""
    daq.add_run(1)
    assert copy("--production", "--to", "dcache") == 0
    shutil.copytree(daq.dcache / "000001", daq.stbc / "000001")
    assert copy("--production") == 1
    assert "remove a .amstrax-copy.json that was copied from there" in capfd.readouterr().err
    (daq.stbc / "000001" / rsync.MARKER).unlink()
    assert copy("--production") == 0 and daq.hosts(1) == ["daq", "dcache", "stbc"]


def test_rsync_that_cannot_sync(daq):  # noqa: F811
    """As versions before 3.2.4."""
    folder = daq.add_run(1)
    rsync_as(
        daq,
        'for a in "$@"; do [ "$a" = --fsync ] && '
        "echo 'rsync: --fsync: unknown option' >&2 && exit 1; done; exec {rsync} \"$@\"",
    )
    copy_to(daq, host="dcache")
    assert same(folder, daq.dcache / "000001") and (daq.dcache / "000001" / rsync.MARKER).exists()


def test_marker_that_changes_while_it_is_copied(daq):  # noqa: F811
    """Of two detectors that start at the same moment, only the owner of the marker has a copy."""
    daq.add_run(1)

    def on_bytes(_):
        (daq.dcache / "000001" / rsync.MARKER).write_text(json.dumps({"name": "000002"}))

    with pytest.raises(CopyRefused, match="holds another run"):
        copy_to(daq, host="dcache", on_bytes=on_bytes)


def test_nothing_of_others_is_removed(daq):  # noqa: F811
    """Files with names like those of rsync are kept if no file of the run matches."""
    folder = daq.add_run(1)
    copy_to(daq, host="dcache")
    place = daq.dcache / "000001"
    name = Path(FILE).name
    mine = [".notes.backup", f"000001/.{name}.old", f"000001/.other_{name}.Ab3dEf"]
    mine += [f".{name}.Ab3dEf", f"000001/{rsync.OLD_PARTIAL}/mine", "000001/.a*b?c.Ab3dEf"]
    (place / "000001" / rsync.OLD_PARTIAL).mkdir()
    for path in mine:
        (place / path).write_text("mine")
    flip(place / FILE)
    left = place / "000001" / f".{name}.Ab3dEf"
    left.write_text("ours")
    with pytest.raises(CopyDiffers):
        copy_to(daq, host="dcache")
    assert all((place / path).read_text() == "mine" for path in mine) and not left.exists()
    for path in mine:
        (place / path).unlink()
    (place / "000001" / rsync.OLD_PARTIAL).rmdir()
    copy_to(daq, host="dcache")
    assert same(folder, place)


@pytest.mark.parametrize(
    ("xams", "xamsl"),
    [
        ("a={d}/dcache", "b={d}/dcache/"),
        ("a={d}/dcache", "b={d}/link"),
        ("a={d}/dcache", "b={d}/stbc, c={d}/x/../dcache"),
        ("a=me@login:/d/x", "b=Login:/d//x/"),
        ("a={d}/dcache, b={d}/link", ""),
        ("a=login:/d, b=you@login:/d/.", ""),
        ("a=login:/d/x, b=login://d//x", ""),
        ("a={d}/other_live", ""),
    ],
    ids=range(8),
)
def test_one_folder_for_two(daq, xams, xamsl, capfd):  # noqa: F811
    """Two detectors, or two destinations, may not share a folder."""
    daq.add_run(1)
    (daq.folder / "link").symlink_to(daq.dcache)
    (daq.folder / "other_live").mkdir()
    daq.set(XAMS_COPY_TO=xams.format(d=daq.folder), XAMSL_COPY_TO=xamsl.format(d=daq.folder))
    daq.set(XAMSL_LIVE_DATA=str(daq.folder / "other_live"))
    for options in (["--production"], ["--production", "--loop"]):
        assert copy(*options) == 1
        (line,) = [x for x in capfd.readouterr().err.splitlines() if "ERROR" in x]
        assert re.search("the folder .* of destination . is that of", line)
    assert not list(daq.dcache.iterdir())


def test_one_folder_by_a_mount(daq):  # noqa: F811
    need(os.getuid() == 0, "needs root, to mount")
    other = daq.folder / "other"
    other.mkdir()
    mount = ["mount", "--bind", str(daq.dcache), str(other)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        daq.set(XAMS_COPY_TO=f"a={daq.dcache}, b={other}")
        with pytest.raises(InvalidOption, match="two names of one folder are one copy"):
            copying.copy_destinations("xams")
    finally:
        subprocess.run(["umount", "--lazy", str(other)], check=True)


def test_one_folder_by_ssh_and_not(daq, capfd):  # noqa: F811
    """Only the marker shows that both are one folder."""
    folder = daq.add_run(1)
    daq.set(XAMS_COPY_TO=f"stbc=login:{daq.dcache}, dcache={daq.dcache}")
    for _ in range(2):
        assert copy("--production") == 1
        assert "dcache is that of stbc: two names of one folder" in capfd.readouterr().err
        assert daq.hosts(1) == ["daq", "stbc"] and same(folder, daq.dcache / "000001")


# Contents of run documents


@pytest.mark.parametrize(
    "location",
    [
        "/etc",
        "{d}/secret",
        "{d}/live/../secret",
        "{d}/live/link",
        "secret",
        "../secret",
        "~/secret",
        "~nobody-knows/secret",
        "-e sh",
        "login:{d}/secret",
        "{d}/secret\n",
        "{d}/live\n",
        "",
        None,
        7,
        {"$ne": 1},
        ["/etc"],
    ],
    ids=range(17),
)
def test_sources_are_below_the_folders_of_live_data(daq, location, capfd):  # noqa: F811
    folder = daq.add_run(1)
    secret = daq.folder / "secret"
    secret.mkdir()
    folder.rename(secret / "000001")
    (daq.live / "link").symlink_to(secret)
    if isinstance(location, str):
        location = location.format(d=daq.folder)
    entry = {"type": "live", "host": "daq", "location": location}
    daq.runs.update_one({"number": 1}, {"$set": {"data": [entry]}})
    daq.add_run(2)
    assert copy("--production") == 0
    assert daq.hosts(1) == ["daq"] and daq.hosts(2) == ["daq", "dcache", "stbc"]
    capfd.readouterr()
    assert copy("--production", "--run_id", 1) == 1
    line, *_ = [x for x in capfd.readouterr().err.splitlines() if "ERROR" in x]
    assert re.search("not among the folders that may be copied|which is no folder", line)
    assert [path.name for path in daq.dcache.iterdir()] == ["000002"]


@pytest.mark.parametrize("name", ["ssh", "../x", "/etc", "-e", "1 2", "\u0661", "1" * 19, "a\nb"])
def test_names_that_are_no_runs(daq, name, capfd):  # noqa: F811
    (daq.live / "ssh").mkdir()
    (daq.live / "ssh" / "key").write_text("secret")
    entry = {"type": "live", "host": "daq", "location": str(daq.live)}
    daq.runs.insert_one({"name": name, "start": ENDED, "end": ENDED, "data": [entry]})
    args = copy_live.parse_args(["--production"])
    # Also without the query for runs
    tally = copy_live.handle_runs(list(daq.runs.find({})), args)
    assert (tally.copies, tally.problems) == (0, 2)
    daq.add_run(2)
    assert copy("--production") == 0
    assert [path.name for path in daq.dcache.iterdir()] == ["000002"]


ODD_DOCUMENTS = {
    "number is text": {"number": "5"},
    "number is too large": {"number": 1e300, "name": "000005"},
    "number is a long text": {"number": "9" * 30, "name": "000005"},
    "number is a very long text": {"number": "9" * 5000},
    "neither": {},
    "end in year 1": {"number": 5, "end": "0001-01-01T00:00:00+14:00"},
    "end in year 9999": {"number": 5, "end": "9999-12-31T23:59:59-14:00"},
    "start in year 1": {"number": 5, "start": "0001-01-01T00:00:00+14:00"},
    "name of another": {"number": 1, "name": "000005"},
    "folder has a long name": {"number": 5},
    "claim": {"number": 5, "copy_claim": {"owner": 5, "expires": 7}},
}


@pytest.mark.parametrize("kind", ODD_DOCUMENTS)
def test_odd_document(daq, kind, capfd):  # noqa: F811
    """It fails alone: all other runs are copied and deleted."""
    location = daq.live / ("a" * 300 if kind == "folder has a long name" else "")
    entry = {"type": "live", "host": "daq", "location": str(location)}
    document = {"start": ENDED, "end": ENDED, "data": [entry], **ODD_DOCUMENTS[kind]}
    daq.set(XAMS_COPY_TO=f"dcache={daq.dcache}")
    daq.runs.insert_one(document)
    for number in (2, 500):
        daq.add_run(number)
    for options in ([], ["--production"]):
        capfd.readouterr()
        status = copy(*options)
        assert status == ("ERROR run" in capfd.readouterr().err)
        assert status or kind != "folder has a long name"
    assert daq.hosts(2) == daq.hosts(500) == ["daq", "dcache"]
    assert delete_live.main(["--production", "--we_are_really_sure"]) in (0, 1)
    assert daq.hosts(2) == daq.hosts(500) == ["dcache"]
    assert not re.search("(copying|deleting live data) failed", capfd.readouterr().err)


def test_one_of_those_asked_for(daq, capfd):  # noqa: F811
    """One requested run fails, the others are copied and deleted."""
    for number, tags in ((1, []), (2, ["abandon"]), (3, [])):
        daq.add_run(number, tags=tags)
    for options in ([], ["--production"]):
        assert copy(*options, "--run_id", 1, 2, 3) == 1
        said = capfd.readouterr().err
        assert "ERROR run 000002 is not copied: it has the tag 'abandon'" in said
        assert "2 of 6 copies could not be made" in said
    sure = ["--production", "--we_are_really_sure", "--run_id", "1", "2", "3"]
    assert delete_live.main(sure) == 1
    assert "ERROR run 000002 is not deleted: it has the tag 'abandon'" in capfd.readouterr().err
    assert [daq.hosts(n) for n in (1, 2, 3)] == [["dcache", "stbc"], ["daq"], ["dcache", "stbc"]]


def test_where_live_data_is_must_be_said(daq, capfd):  # noqa: F811
    daq.add_run(1)
    daq.set(XAMS_LIVE_DATA="")
    assert copy("--production") == 2
    assert "name it in XAMS_LIVE_DATA" in capfd.readouterr().err
    assert copy("--production", "--live_data", daq.live) == 0
    assert daq.hosts(1) == ["daq", "dcache", "stbc"]


def test_two_documents_of_one_number(daq, capfd):  # noqa: F811
    """A tag 'abandon' on either counts, and the duplicate is reported."""
    daq.add_run(1)
    twin = {"number": 1, "name": "000001", "start": ENDED, "end": ENDED, "tags": ["abandon"]}
    daq.runs.insert_one(twin)
    for options in ([], ["--production"]):
        assert copy(*options) == 0
    assert "run 000001 has 2 documents in run.runs_gas" in capfd.readouterr().err
    assert not list(daq.dcache.iterdir())
    assert copy("--production", "--run_id", 1) == 1
    assert "'abandon'" in capfd.readouterr().err
    daq.runs.update_one({"_id": twin["_id"]}, {"$set": {"tags": []}})
    assert copy("--production") == 0 and daq.hosts(1) == ["daq", "dcache", "stbc"]


def test_user_id_without_a_name(daq):  # noqa: F811
    """The copy is registered, under the number of the user."""
    folder = daq.add_run(1)
    daq.set(XAMS_COPY_TO=f"dcache={daq.dcache}")
    for path in (daq.folder, *daq.folder.rglob("*")):
        os.chown(path, 54321, 54321)
    done = as_nobody([sys.executable, "-m", copy_live.__name__, "--production"])
    assert done.returncode == 0, done.stderr
    (entry,) = documents.data_of(documents.find_run(daq.runs, 1), host="dcache")
    assert entry["user"] == "54321" and same(folder, daq.dcache / "000001")
    # ssh itself needs the name
    daq.set(XAMS_COPY_TO=f"stbc=login:{daq.stbc}")
    done = as_nobody([sys.executable, "-m", copy_live.__name__, "--production"])
    assert done.returncode == 1 and "ssh to login needs a user name" in done.stderr


# Faults


def test_goes_on_after_kill(daq):  # noqa: F811
    """The transferred part of a file is not sent again."""
    folder = daq.add_run(1)
    size = 30_000_000
    (folder / FILE).write_bytes(os.urandom(size))
    log = daq.folder / "rsync.log"
    rsync_as(daq, f'exec {{rsync}} --log-file={log} "$@"')
    tool = start("copy_live", "--production", "--to", "stbc", "--bandwidth=5000")
    there = daq.stbc / "000001" / Path(FILE).parent

    def on_its_way():
        files = [path for path in there.glob(".xams*") if path.exists()]
        return any(path.stat().st_size > size / 3 for path in files)

    wait_for(on_its_way, "a third of the file")
    tool.kill()
    tool.wait()
    tool.stdout.close()
    # rsync ends with its parent; its other side keeps the partial file
    wait_for(lambda: (there / rsync.PARTIAL).exists(), "what has come of the file")
    assert daq.hosts(1) == ["daq"]
    claim = documents.find_run(daq.runs, 1)["copy_claim"]
    assert leases.is_dead(claim["owner"]) and not leases.is_dead(leases.new_owner())
    log.unlink()
    assert copy("--production", "--to", "stbc") == 0
    assert same(folder, daq.stbc / "000001") and daq.hosts(1) == ["daq", "stbc"]
    sent = sum(int(n.replace(",", "")) for n in re.findall(r"sent ([\d,]+) bytes", log.read_text()))
    assert 1_000_000 < sent < size * 0.75


@pytest.mark.slow
def test_sshd_killed_midway(daq, sshd, capfd):  # noqa: F811
    folder = daq.add_run(1)
    (folder / FILE).write_bytes(os.urandom(20_000_000))
    daq.add_run(2)
    killed = []

    def on_bytes(n):
        if n > 4_000_000 and not killed:
            killed.append(sshd.kill())

    with pytest.raises(
        DestinationUnusable, match="login cannot be reached, or the connection has drop"
    ):
        copy_to(daq, bandwidth=10_000, on_bytes=on_bytes)
    assert killed
    capfd.readouterr()
    # The other destination is used; later runs skip this one
    assert copy("--production") == 1
    said = capfd.readouterr().err
    assert said.count("nothing can be copied to stbc: login cannot be reached") == 1
    assert "2 copies of 2 runs made" in said and "2 could not be made" in said
    sshd.start()
    assert copy("--production") == 0
    assert same(folder, daq.stbc / "000001") and daq.hosts(1) == ["daq", "dcache", "stbc"]


def test_damaged_copy_is_mended(daq, caplog):  # noqa: F811
    folder = daq.add_run(1)
    copy_to(daq, host="dcache")
    flip(daq.dcache / "000001" / FILE)
    # Leftovers of a killed rsync
    left = daq.dcache / "000001/000001/.xams-daq_reader_0_139811453138688.Ab3dEf"
    left.write_text("half a file")
    (daq.dcache / "000001" / rsync.PARTIAL).mkdir()
    (daq.dcache / "000001" / rsync.PARTIAL / "old").write_text("older half")
    copy_to(daq, host="dcache")
    assert same(folder, daq.dcache / "000001") and not left.exists()
    assert "differs in" in caplog.text and "copying that again" in caplog.text
    # Registered copies are verified with --again only
    assert copy("--production") == 0
    flip(daq.stbc / "000001" / FILE)
    (daq.dcache / "000001" / FILE).unlink()
    assert copy("--production", "--run_id", 1) == 0
    assert not same(folder, daq.stbc / "000001")
    assert copy("--production", "--run_id", 1, "--again") == 0
    assert same(folder, daq.stbc / "000001") and same(folder, daq.dcache / "000001")
    assert daq.hosts(1) == ["daq", "dcache", "stbc"]


def test_what_is_there_beside_is_neither_removed_nor_overlooked(daq):  # noqa: F811
    daq.add_run(1)
    copy_to(daq, host="dcache")
    mine = daq.dcache / "000001/000001/notes"
    mine.write_text("mine")
    for _ in range(2):
        with pytest.raises(CopyDiffers, match="differs in 000001/notes, twice"):
            copy_to(daq, host="dcache")
        assert mine.read_text() == "mine"
    assert copy("--production", "--to", "dcache") == 1 and daq.hosts(1) == ["daq"]


def test_disk_that_changes_what_is_written(daq, capfd):  # noqa: F811
    """After every rsync a byte of the copy changes, with the same size and time."""
    daq.add_run(1)
    file = daq.dcache / "000001" / FILE
    rsync_as(
        daq,
        f'{{rsync}} "$@"; status=$?; f={file}; [ -e $f ] && touch -r $f $f.t && '
        "printf x | dd of=$f bs=1 seek=7 conv=notrunc status=none && touch -r $f.t $f && "
        "rm $f.t; exit $status",
    )
    assert copy("--production", "--to", "dcache") == 1
    said = capfd.readouterr().err
    assert f"differs in {FILE}: copying that again" in said
    assert (
        f"run 000001 is not copied to dcache: the copy of run 000001 to dcache ({daq.dcache}/"
        in (said)
    )
    assert f"differs in {FILE}, twice" in said
    assert daq.hosts(1) == ["daq"]


def test_disk_full(daq, capfd):  # noqa: F811
    folder = daq.add_run(1, n_bytes=600_000)
    daq.add_run(2)
    with small_disk(daq.stbc, "1m"):
        assert copy("--production", "--run_id", 1) == 1
        said = capfd.readouterr().err
        assert f"nothing can be copied to stbc: no space left in login:{daq.stbc}/000001" in said
        assert daq.hosts(1) == ["daq", "dcache"]
        subprocess.run(["mount", "-o", "remount,size=50m", daq.stbc], check=True)
        assert copy("--production") == 0
        assert same(folder, daq.stbc / "000001") and daq.hosts(1) == ["daq", "dcache", "stbc"]
        subprocess.run(["mount", "-o", "remount,ro", daq.stbc], check=True)
        (folder / "000002").mkdir()
        with pytest.raises(
            DestinationUnusable, match="cannot be read or written .*Read-only file system"
        ):
            copy_to(daq)


def test_destination_that_is_not_there(daq, capfd):  # noqa: F811
    """As for a disk that is not mounted: no folder is made."""
    daq.add_run(1)
    daq.stbc.rmdir()
    daq.dcache.rmdir()
    assert copy("--production") == 1
    said = capfd.readouterr().err
    assert f"stbc: there is no folder login:{daq.stbc}: make it, or mount" in said
    assert f"dcache: there is no folder {daq.dcache}: make it" in said
    assert not daq.stbc.exists() and not daq.dcache.exists()


@pytest.mark.parametrize("said", ["", "rsync: [sender] write error: Broken pipe (32)"])
def test_reason_that_does_not_come_through(daq, monkeypatch, said):  # noqa: F811
    """As with rsync 3.5 under load: the copy is retried, and a second failure is explained."""
    folder = daq.add_run(1)
    counter, wrapper = daq.folder / "calls", daq.folder / "bin" / "rsync"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f"""#!/bin/sh
echo >> {counter}
case $(wc -l < {counter}) in 1|4) echo '{said}' >&2; exit 11;; esac
exec {shutil.which("rsync")} "$@"
"""
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    rsync.copy(folder, rsync.Place(str(daq.stbc / "000001"), "login"))  # copy, folder, copy
    assert same(folder, daq.stbc / "000001")
    with pytest.raises(DestinationUnusable, match="there is no folder login:.*/gone: make it"):
        rsync.copy(folder, rsync.Place(str(daq.folder / "gone/000001"), "login"))  # copy, folder
    assert len(counter.read_text().splitlines()) == 5


def test_destination_that_is_the_source(daq):  # noqa: F811
    daq.add_run(1)
    other = daq.folder / "other"
    other.symlink_to(daq.live)
    with pytest.raises(InvalidOption, match="that is the live data itself"):
        copy_live.copy_data("000001", daq.live, str(other), "dcache", True)


def test_destination_in_live_data_of_a_run(daq, capfd):  # noqa: F811
    folder = daq.add_run(1)
    daq.add_run(2)
    (daq.folder / "link").symlink_to(folder / "000001")
    before = sorted(folder.rglob("*"))
    for path in (folder, folder / "000001", daq.folder / "link"):
        daq.set(XAMS_COPY_TO=f"dcache={path}")
        assert copy("--production") == 1
        assert capfd.readouterr().err.count("that is in the live data of a run") == 2
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("host", ["dcache"])
def test_copy_that_cannot_be_written(daq, host, capfd):  # noqa: F811
    """Only this copy fails: the next runs are copied."""
    need(os.getuid() == 0, "needs root, to mount")
    for number in (1, 2):
        daq.add_run(number)
    place = str(getattr(daq, host) / "000002")
    os.mkdir(place)
    if subprocess.run(["mount", "--bind", place, place], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        assert copy("--production", "--to", host) == 1
        said = capfd.readouterr().err
        assert f"run 000002 is not copied to {host}: " in said
        assert "is mounted at" in said and "nothing can be copied" not in said
        assert daq.hosts(1) == sorted(["daq", host]) and daq.hosts(2) == ["daq"]
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_hosts_that_do_not_let_us_in(daq, tmp_path, sshd):  # noqa: F811
    daq.add_run(1)
    config = tmp_path / "ssh_config"
    good = config.read_text()
    for old, new, message in [
        ("HostName 127.0.0.1", "HostName nowhere.invalid", "there is no host login"),
        (f"Port {sshd.port}", "Port 1", "login cannot be reached.*Connection refused"),
        (str(sshd.key_file), str(sshd.folder / "other_key"), "login refuses the log-in .*publick"),
        (str(sshd.known_hosts), os.devnull, "the host key of login is unknown or has changed"),
    ]:
        assert old in good
        config.write_text(good.replace(old, new))
        with pytest.raises(DestinationUnusable, match=message) as error:
            copy_to(daq)
        assert "\n" not in str(error.value)
    (tmp_path / "bare").mkdir()
    bare = SSHServer(tmp_path / "bare", 1)
    try:
        bare.kill()
        with (bare.folder / "sshd_config").open("a") as file:
            file.write("ForceCommand PATH=/nowhere rsync --server\n")
        bare.start()
        bare.client_config(config)
        with pytest.raises(DestinationUnusable, match="there is no rsync on login"):
            copy_to(daq)
    finally:
        bare.kill()


def test_no_rsync_here(daq):  # noqa: F811
    daq.add_run(1)
    daq.set(PATH="/nowhere")
    with pytest.raises(CopyFailed, match="no rsync on this machine"):
        copy_to(daq)


def test_source_that_is_gone(daq, capfd):  # noqa: F811
    shutil.rmtree(daq.add_run(2))
    folder = daq.add_run(1)
    assert copy("--production", "--to", "dcache") == 1
    said = capfd.readouterr().err
    assert f"run 000002 is not copied to dcache: {daq.live}/000002 does not exist" in said
    assert daq.hosts(2) == ["daq"] and same(folder, daq.dcache / "000001")


def test_source_that_changes(daq):  # noqa: F811
    folder = daq.add_run(1)
    rsync_as(daq, f'{{rsync}} "$@"; status=$?; echo >> {folder / FILE}; exit $status')
    with pytest.raises(CopyFailed, match="000001 has changed while it was copied to dcache"):
        copy_to(daq, host="dcache")


def test_sigterm(daq):  # noqa: F811
    folder = daq.add_run(1)
    (folder / FILE).write_bytes(os.urandom(20_000_000))
    tool = start("copy_live", "--production", "--loop", "--pause=0.1", "--bandwidth=2000")
    wait_for(lambda: list(daq.stbc.glob("000001/000001/.xams*")), "a copy on its way")
    children = psutil.Process(tool.pid).children(recursive=True)
    assert "rsync" in {child.name() for child in children}
    tool.send_signal(signal.SIGTERM)
    said, _ = tool.communicate(timeout=240)
    assert tool.returncode == 0, said
    assert "ended by SIGTERM: incomplete copies are continued" in said
    assert not psutil.wait_procs(children, timeout=120)[1]
    assert "copy_claim" not in documents.find_run(daq.runs, 1)
    assert "ERROR" not in said and "Traceback" not in said


@pytest.mark.slow
def test_two_copiers_that_wait_for_a_destination(daq, sshd):  # noqa: F811
    """Each run is copied once, also after the destination has been away."""
    sshd.kill()
    for number in range(1, 4):
        daq.add_run(number)
    options = ["--production", "--loop", "--pause=0.1", "--to", "stbc"]
    tools = [start("copy_live", *options) for _ in range(2)]
    said = lambda: daq.log("copy_live")  # noqa: E731
    wait_for(lambda: said().count("nothing can be copied to stbc") == 2, "both to have tried")
    sshd.start()
    wait_for(lambda: said().count("verified and registered") >= 3, "all runs to be copied")
    for tool in tools:
        tool.send_signal(signal.SIGTERM)
        out, _ = tool.communicate(timeout=240)
        assert tool.returncode == 0, out
    assert sorted(re.findall(r"run (\d+): copy to stbc verified", said())) == [
        f"{number:06d}" for number in range(1, 4)
    ]
    assert all(daq.hosts(number) == ["daq", "stbc"] for number in range(1, 4))


def test_claim_of_another_machine(daq, caplog):  # noqa: F811
    caplog.set_level(logging.INFO)
    daq.add_run(1)
    leases.claim(daq.runs, 1, "elsewhere/12/345/abc", 60, documents.COPY_CLAIM)
    args = copy_live.parse_args(["--production"])
    assert copy_live.handle_runs(copy_live.get_rundocs(daq.runs, args), args).all == 0
    assert "by another process" in caplog.text and daq.hosts(1) == ["daq"]
    # It does not claim processing
    assert leases.claim(daq.runs, 1, "me")


def test_claim_that_is_lost(daq):  # noqa: F811
    daq.add_run(1)
    with leases.held(daq.runs, documents.find_run(daq.runs, 1), lifetime=0.3) as claim:
        assert claim.check()
        daq.runs.update_one({"number": 1}, {"$set": {"copy_claim.owner": "other"}})
        wait_for(claim.lost.is_set, "the loss")
        assert not claim.check()
    assert documents.find_run(daq.runs, 1)["copy_claim"]["owner"] == "other"


def test_database_away_when_a_copy_is_registered(daq, monkeypatch, capfd):  # noqa: F811
    """Registering is retried until the run database answers, and reported once."""
    daq.add_run(1)
    add_data, calls = documents.add_data, []

    def fails_twice(*args):
        calls.append(args)
        if len(calls) < 3:
            raise RunDatabaseUnreachable("no answer")
        return add_data(*args)

    monkeypatch.setattr(documents, "add_data", fails_twice)
    monkeypatch.setattr(copying, "REGISTER_PAUSE", 0.01)
    assert copy("--production", "--to", "dcache") == 0
    assert len(calls) == 3 and daq.hosts(1) == ["daq", "dcache"]
    assert capfd.readouterr().err.count("is copied, not registered; trying again: no answer") == 1


# Settings and command line


@pytest.mark.parametrize(
    "text",
    [
        "stbc",
        "stbc=host",
        "stbc=host:relative",
        "a b=/x",
        "=/x",
        "a=/x, a=/y",
        "a=-oX:/x",
        "daq=/x",
    ],
    ids=range(8),
)
def test_settings_that_make_no_sense(daq, text, capfd):  # noqa: F811
    daq.set(XAMS_COPY_TO=text)
    assert copy() == 1
    (line,) = capfd.readouterr().err.splitlines()[-1:]
    assert "XAMS_COPY_TO" in line and "NAME=USER@HOST:/FOLDER" in line


def test_settings(daq):  # noqa: F811
    daq.set(XAMSL_COPY_TO="stbc = me@login.example.org:/data/x y/ , dcache=/d:c")
    one, two = copying.copy_destinations("xamsl")
    assert (one.name, one.ssh_host, one.folder) == ("stbc", "me@login.example.org", "/data/x y")
    assert (two.name, two.ssh_host, two.folder) == ("dcache", None, "/d:c")
    assert [x.name for x in copying.delete_after_copies("xamsl")] == ["stbc", "dcache"]
    daq.set(XAMSL_DELETE_AFTER_COPIES="dcache")
    assert [x.name for x in copying.delete_after_copies("xamsl")] == ["dcache"]
    daq.set(XAMSL_DELETE_AFTER_COPIES="dcach")
    with pytest.raises(InvalidOption, match="did you mean dcache"):
        copying.delete_after_copies("xamsl")
    daq.set(XAMSL_COPY_TO="")
    assert copy("--detector=xamsl") == 1
    with pytest.raises(InvalidOption, match="COPY_TO is empty.*nothing is copied or deleted"):
        copying.copy_destinations("xamsl")
    with pytest.raises(InvalidOption, match="nothing is copied or deleted"):
        copying.delete_after_copies("xamsl")
    assert set(settings.COPY) >= {"XAMS_COPY_TO", "XAMSL_DELETE_AFTER_COPIES"}


@pytest.mark.parametrize(
    ("host", "folder"), [("-oProxyCommand=x", "/x"), ("a b", "/x"), (None, "x"), ("h", "/a\nb")]
)
def test_places_that_rsync_would_misunderstand(host, folder):
    with pytest.raises(InvalidOption):
        rsync.check_folder(rsync.Place(folder, host))


def test_names_that_a_shell_would_misunderstand(daq):  # noqa: F811
    name = 'it\'s $HOME; a "b" *'
    there = daq.stbc / name
    there.mkdir()
    daq.set(XAMS_COPY_TO=f"stbc=login:{there}")
    folder = daq.add_run(1)
    odd = [
        "a b",
        "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
        "new\nline",
        "back\\#012slash",
        ".a.bcdefg",
    ]
    for name in odd:
        (folder / name).write_text(name)
    assert copy("--production") == 0
    assert same(folder, there / "000001") and daq.hosts(1) == ["daq", "stbc"]


def test_as_a_file_and_its_help():
    path = Path(copy_live.__file__)
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0 and "--production" in done.stdout
    for wrong in (["--again"], ["--loop"], ["--run_id", "a/b"], ["--workers=0"]):
        with pytest.raises(SystemExit) as error:
            copy_live.parse_args(wrong)
        assert error.value.code == 2


def test_unknown_run(daq):  # noqa: F811
    with pytest.raises(RunNotFound):
        copy_live.get_rundocs(daq.runs, copy_live.parse_args(["--run_id", "17"]))


# Logs


def test_log_goes_on_in_the_folder_of_the_next_day(tmp_path, capfd):
    base.log_to_console(debug=False)
    base.log_to_folder(tmp_path / "logs", "tool")
    log = logging.getLogger("somebody")
    times = [datetime(2024, 2, 28, 23, 59, 59, tzinfo=UTC), datetime(2024, 2, 29, tzinfo=UTC)]
    for time in times:
        record = log.makeRecord("somebody", logging.INFO, "", 0, f"at {time}", (), None)
        record.created = time.timestamp()
        log.handle(record)
    for time in times:
        text = (tmp_path / f"logs/{time:%Y-%m-%d}/tool.log").read_text()
        assert text == f"{time:%Y-%m-%d %H:%M:%S}Z INFO at {time}\n"
    # The work continues without the folder
    shutil.rmtree(tmp_path / "logs")
    log.info("still there")
    assert "still there" in next(tmp_path.glob("logs/*/tool.log")).read_text()
    shutil.rmtree(tmp_path / "logs")
    (tmp_path / "logs").write_text("")
    log.info("one")
    log.info("two")
    said = capfd.readouterr().err
    assert said.count(f"no log in {tmp_path / 'logs'}: ") == 1 and "INFO two" in said


def test_lines_of_several_processes_stay_whole(tmp_path):
    code = (
        "import logging, sys; from amstrax.commands import base\n"
        "base.log_to_console(False); base.log_to_folder(sys.argv[1], 'tool')\n"
        "for i in range(300): logging.info('%s %s', sys.argv[2] * 300, i)"
    )
    tools = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path, letter], stderr=subprocess.DEVNULL)
        for letter in "abc"
    ]
    assert [tool.wait() for tool in tools] == [0, 0, 0]
    lines = [x for path in tmp_path.glob("*/tool.log") for x in path.read_text().splitlines()]
    assert len(lines) == 900
    assert all(re.fullmatch(r"\S+ \S+Z INFO (a{300}|b{300}|c{300}) \d+", x) for x in lines)
