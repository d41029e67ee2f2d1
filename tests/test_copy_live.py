"""Copying live data: rsync over a real sshd, verified, registered, and mended."""

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
from live_runs import daq, flip, recently, same, small_disk, sshd, start, wait_for  # noqa: F401
from servers import SSHServer

from amstrax import settings
from amstrax.auto_processing import console, copy_live, destinations, rsync
from amstrax.exceptions import (
    AmstraxError,
    CopyDiffers,
    CopyFailed,
    DestinationUnusable,
    InvalidOption,
    LiveDataCorrupted,
    LiveDataNotFound,
    RunNotFound,
)
from amstrax.rundb import documents, leases

FILE = "000001/xams-daq_reader_0_139811453138688"


@pytest.fixture(autouse=True)
def logging_as_before():
    """Commands set logging up."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def copy(*arguments):
    return copy_live.main([*map(str, arguments)])


def copy_to(daq, number=1, host="stbc", **options):  # noqa: F811
    """Copy a run by the function."""
    ssh_host = "login" if host == "stbc" else None
    location = str(getattr(daq, host))
    return copy_live.copy_data(f"{number:06d}", daq.live, location, host, True, ssh_host, **options)


def rsync_as(daq, text):  # noqa: F811
    """Put a script before rsync, which {rsync} in it stands for."""
    folder = daq.folder / "bin"
    folder.mkdir()
    (folder / "rsync").write_text(f"#!/bin/bash\n{text.format(rsync=shutil.which('rsync'))}\n")
    (folder / "rsync").chmod(0o755)
    daq.set(PATH=f"{folder}{os.pathsep}{os.environ['PATH']}")


# What is copied


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
        (line,) = [x for x in capfd.readouterr().err.splitlines() if "ERROR" in x]
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
    documents.add_run(
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


# What goes wrong


def test_goes_on_after_kill(daq):  # noqa: F811
    """Of a file that was on its way, what has come is not sent again."""
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
    # rsync has nobody to tell, and ends; its other side keeps what it has
    wait_for(lambda: (there / rsync.PARTIAL).exists(), "what has come of the file")
    assert daq.hosts(1) == ["daq"]
    claim = documents.find_run(daq.runs, 1)["copy_claim"]
    assert leases.is_dead(claim["owner"]) and not leases.is_dead(leases.new_owner())
    log.unlink()
    assert copy("--production", "--to", "stbc") == 0
    assert same(folder, daq.stbc / "000001") and daq.hosts(1) == ["daq", "stbc"]
    sent = sum(int(n.replace(",", "")) for n in re.findall(r"sent ([\d,]+) bytes", log.read_text()))
    assert 1_000_000 < sent < size * 0.75


def test_sshd_killed_midway(daq, sshd, capfd):  # noqa: F811
    folder = daq.add_run(1)
    (folder / FILE).write_bytes(os.urandom(20_000_000))
    daq.add_run(2)
    killed = []

    def on_bytes(n):
        if n > 4_000_000 and not killed:
            killed.append(sshd.kill())

    with pytest.raises(DestinationUnusable, match="login cannot be reached, or the line has drop"):
        copy_to(daq, bandwidth=10_000, on_bytes=on_bytes)
    assert killed
    capfd.readouterr()
    # The other destination goes on; the next runs do not try this one again
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
    # What rsync leaves behind when it is killed, and what is somebody else's
    left = daq.dcache / "000001/000001/.xams-daq_reader_0_139811453138688.Ab3dEf"
    left.write_text("half a file")
    (daq.dcache / "000001" / rsync.PARTIAL).mkdir()
    (daq.dcache / "000001" / rsync.PARTIAL / "old").write_text("older half")
    copy_to(daq, host="dcache")
    assert same(folder, daq.dcache / "000001") and not left.exists()
    assert "differs in" in caplog.text and "copying that again" in caplog.text
    # A copy that is registered is looked at when asked for
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
    """After every rsync, a byte of the copy is another one: size and time are as they should."""
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
        with pytest.raises(DestinationUnusable, match="refuses to be .*Read-only file system"):
            copy_to(daq)


def test_destination_that_is_not_there(daq, capfd):  # noqa: F811
    """As a disk that is not mounted: nothing is made in its place."""
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
    """As rsync 3.5 does under load: the copy is tried again, and says why when that fails too."""
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
    with pytest.raises(InvalidOption, match="that is where it is"):
        copy_live.copy_data("000001", daq.live, str(other), "dcache", True)


def test_hosts_that_do_not_let_us_in(daq, tmp_path, sshd):  # noqa: F811
    daq.add_run(1)
    config = tmp_path / "ssh_config"
    good = config.read_text()
    for old, new, message in [
        ("HostName 127.0.0.1", "HostName nowhere.invalid", "there is no host login"),
        (f"Port {sshd.port}", "Port 1", "login cannot be reached.*Connection refused"),
        (str(sshd.key_file), str(sshd.folder / "other_key"), "login refuses the log-in .*publick"),
        (str(sshd.known_hosts), os.devnull, "the key of login is not the one that is known"),
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
    assert f"run 000002 is not copied to dcache: there is no {daq.live}/000002" in said
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
    said, _ = tool.communicate(timeout=60)
    assert tool.returncode == 0, said
    assert "ended by SIGTERM: copies that are not complete are gone on with" in said
    assert not psutil.wait_procs(children, timeout=20)[1]
    assert "copy_claim" not in documents.find_run(daq.runs, 1)
    assert "ERROR" not in said and "Traceback" not in said


def test_two_copiers_that_wait_for_a_destination(daq, sshd):  # noqa: F811
    """Each run is copied once, also when the way there comes back later."""
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
        out, _ = tool.communicate(timeout=60)
        assert tool.returncode == 0, out
    assert sorted(re.findall(r"run (\d+): copy to stbc verified", said())) == [
        f"{number:06d}" for number in range(1, 4)
    ]
    assert all(daq.hosts(number) == ["daq", "stbc"] for number in range(1, 4))


def test_claim_of_another_machine(daq, caplog):  # noqa: F811
    caplog.set_level(logging.INFO)
    daq.add_run(1)
    documents.claim(daq.runs, 1, "elsewhere/12/345/abc", 60, documents.COPY_CLAIM)
    args = copy_live.parse_args(["--production"])
    assert copy_live.handle_runs(copy_live.get_rundocs(daq.runs, args), args).all == 0
    assert "by another process" in caplog.text and daq.hosts(1) == ["daq"]
    # It is no claim on processing
    assert documents.claim(daq.runs, 1, "me")


def test_claim_that_is_lost(daq):  # noqa: F811
    daq.add_run(1)
    with leases.held(daq.runs, documents.find_run(daq.runs, 1), lifetime=0.3) as claim:
        assert claim.check()
        daq.runs.update_one({"number": 1}, {"$set": {"copy_claim.owner": "other"}})
        wait_for(claim.lost.is_set, "the loss")
        assert not claim.check()
    assert documents.find_run(daq.runs, 1)["copy_claim"]["owner"] == "other"


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
    one, two = destinations.copy_destinations("xamsl")
    assert (one.name, one.ssh_host, one.folder) == ("stbc", "me@login.example.org", "/data/x y")
    assert (two.name, two.ssh_host, two.folder) == ("dcache", None, "/d:c")
    assert [x.name for x in destinations.delete_after_copies("xamsl")] == ["stbc", "dcache"]
    daq.set(XAMSL_DELETE_AFTER_COPIES="dcache")
    assert [x.name for x in destinations.delete_after_copies("xamsl")] == ["dcache"]
    daq.set(XAMSL_DELETE_AFTER_COPIES="dcach")
    with pytest.raises(InvalidOption, match="did you mean dcache"):
        destinations.delete_after_copies("xamsl")
    daq.set(XAMSL_COPY_TO="")
    assert copy("--detector=xamsl") == 1
    with pytest.raises(InvalidOption, match="without copies nothing is deleted"):
        destinations.delete_after_copies("xamsl")
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
    console.log_to_console(debug=False)
    console.log_to_folder(tmp_path / "logs", "tool")
    log = logging.getLogger("somebody")
    times = [datetime(2024, 2, 28, 23, 59, 59, tzinfo=UTC), datetime(2024, 2, 29, tzinfo=UTC)]
    for time in times:
        record = log.makeRecord("somebody", logging.INFO, "", 0, f"at {time}", (), None)
        record.created = time.timestamp()
        log.handle(record)
    for time in times:
        text = (tmp_path / f"logs/{time:%Y-%m-%d}/tool.log").read_text()
        assert text == f"{time:%Y-%m-%d %H:%M:%S}Z INFO at {time}\n"
    # What becomes of its folder is no end of the work
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
        "import logging, sys; from amstrax.auto_processing import console\n"
        "console.log_to_console(False); console.log_to_folder(sys.argv[1], 'tool')\n"
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
