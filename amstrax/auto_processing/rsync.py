"""Make, compare and list copies of folders with rsync, over ssh or on this machine.

No shell is used on either side.
"""

import contextlib
import os
import re
import selectors
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from amstrax import settings
from amstrax.exceptions import (
    CopyFailed,
    CopyRefused,
    DestinationUnusable,
    InvalidOption,
    LiveDataCorrupted,
    LiveDataNotFound,
    Stopped,
)

#: Timeout of ssh for a host that does not answer, and for one that stops answering [s]
CONNECT_TIMEOUT = 20
#: Timeout of rsync without data [s]; longer if a file is read on both sides
SILENCE, SILENCE_OF_CHECKSUMS = 300, 7200
#: Folder at the destination in which an interrupted rsync keeps a partly transferred file
PARTIAL = ".amstrax-partial"
#: Its name before amstrax 3.0.0, and the name in rsync's manual
OLD_PARTIAL = ".rsync-partial"
#: Marker of a copy, see `copying`; not a part of the run
MARKER = ".amstrax-copy.json"
#: rsync sends a new file as .NAME.XXXXXX, which stays when the other side dies on the way
TEMPORARY = re.compile(r"\.(?P<name>.+)\.[A-Za-z0-9]{6}", re.DOTALL)
#: In listings, in place of a size: folders; other entries, such as symbolic links
FOLDER, ODD = -1, -2

_ALL_BUT_MARKER = f"--exclude=/{MARKER}"
_SSH_HOST = re.compile(r"[\w.+][\w.+-]*(@[\w.+][\w.+-]*)?", re.ASCII)
_LISTED = re.compile(r"(?P<kind>[-a-z])\S+ +(?P<size>\d+) [\d/]{10} [\d:]{8} (?P<name>.*)")
_DIFFERENCE = "differs:"

#: Messages of rsync when the other end has gone, for any reason
_CLOSED = re.compile(r"unexpectedly closed|connection closed|reset by peer|Broken pipe")

_SOURCE_UNREADABLE = "the source cannot be read ({line}): check its owner, and the disk"
_PLACE_REFUSES = "{place} cannot be read or written ({line}): check its owner"
# Messages of rsync or ssh -> message for the user with {line}, the line found, {host} and {place}.
# The first match counts. All but _SOURCE_UNREADABLE make the place unusable for now.
_PROBLEMS = {
    r"\[sender\].*(Permission denied \(13\)|Input/output error)": _SOURCE_UNREADABLE,
    r"No space left on device|[Qq]uota exceeded": "no space left in {place}: free some there",
    r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED": (
        "the host key of {host} is unknown or has changed: log in there, or correct known_hosts"
    ),
    r"Permission denied \((?!\d)|Too many authentication failures|Permission denied, please": (
        "{host} refuses the log-in ({line}): check the user, and the key (setting "
        "AMSTRAX_SSH_CONFIG, or an SSH agent)"
    ),
    r"No user exists for uid": (
        "ssh to {host} needs a user name ({line}): add this user id to /etc/passwd"
    ),
    r"Could not resolve hostname": "there is no host {host} ({line}): check its name",
    r"sh: .*rsync.*not found|rsync: (command )?not found|remote command not found": (
        "there is no rsync on {host} ({line}): install it there"
    ),
    r"Permission denied \(13\)|Operation not permitted|Read-only file system": _PLACE_REFUSES,
    r"Connection refused|No route to host|[Tt]imed out|[Tt]imeout|unreachable|reset by peer|"
    r"closed by remote|unexpectedly closed|Broken pipe|connection closed|not responding|"
    r"kex_exchange": (
        "{host} cannot be reached, or the connection has dropped ({line}): try again later"
    ),
}


class FileState(NamedTuple):
    """Properties that show whether a file has changed; a folder has size -1 [bytes] and no time."""

    size: int
    changed: int = 0
    inode: int = 0


Inventory = dict[str, FileState]


class Place(NamedTuple):
    """A folder on this machine or on a host reached by ssh."""

    folder: str
    ssh_host: str | None = None

    def __str__(self) -> str:
        return f"{self.ssh_host}:{self.folder}" if self.ssh_host else self.folder

    def __truediv__(self, name: str) -> "Place":
        return Place(f"{self.folder.rstrip('/')}/{name}", self.ssh_host)

    def check(self) -> None:
        """Raise InvalidOption if rsync would misread the place."""
        if not self.folder.startswith("/") or "\n" in self.folder or "\0" in self.folder:
            raise InvalidOption(f"{self.folder!r} is no folder for copies: give its whole path")
        if self.ssh_host is not None and not _SSH_HOST.fullmatch(self.ssh_host):
            raise InvalidOption(f"{self.ssh_host!r} is no host for ssh: write HOST or USER@HOST")


def copy(
    source: Path,
    place: Place,
    bandwidth: int | None = None,
    by_checksum: bool = False,
    stopped: Callable[[], bool] = bool,
    on_bytes: Callable[[int], None] | None = None,
    remove: Sequence[str] = (),
) -> None:
    """Update a copy; other files in it are kept.

    Raises CopyFailed when the copy is incomplete, DestinationUnusable if other folders would fail
    too, and Stopped when it was interrupted.

    Parameters
    ----------
    source, place
        Folder to copy, and that of the copy, whose parent must exist.
    bandwidth
        Largest bandwidth [kB/s].
    by_checksum
        Also compare the content of files with equal size and time. Slow.
    stopped, on_bytes
        Called at intervals: the first returns True to interrupt the copy, the second gets the
        amount copied [bytes].
    remove
        Names of files and folders to remove from the copy.
    """
    # Without --no-whole-file, partial files on this machine would be copied again
    options = ["-rtO", "--no-whole-file", "--info=progress2", "--no-h", _ALL_BUT_MARKER]
    options.append("--checksum" if by_checksum else f"--partial-dir={PARTIAL}")
    if remove:
        # Filter rules: R (risk) may be removed, P (protect) is kept
        options += ["--delete-after", *(f"--filter=R /{_pattern(n)}" for n in remove)]
        options.append("--filter=P *")
    if bandwidth is not None:
        options.append(f"--bwlimit={bandwidth}")
    silence = SILENCE_OF_CHECKSUMS if by_checksum else SILENCE
    _run(options, [f"{source}/"], place, silence, stopped, on_bytes)


def differences(
    source: Path, place: Place, stopped: Callable[[], bool] = bool, of_source_only: bool = False
) -> list[str]:
    """Return the names of entries that differ between a folder and its copy, or are in only one.

    Every file is read on both sides, and compared by rsync's checksum. With `of_source_only`,
    entries only in the copy are ignored.

    Raises CopyFailed or Stopped as `copy`.
    """
    options = ["-rc", "--dry-run", "--8-bit-output", _ALL_BUT_MARKER]
    options += [] if of_source_only else ["--delete"]
    options.append(f"--out-format={_DIFFERENCE}%i %n")
    text = _run(options, [f"{source}/"], place, SILENCE_OF_CHECKSUMS, stopped)
    lines = (line for line in text.split("\n") if line.startswith(_DIFFERENCE))
    # %i has eleven characters
    return [_unescaped(line[len(_DIFFERENCE) + 12 :]).rstrip("/") for line in lines]


def to_copy(source: Path, place: Place) -> int:
    """Return the number of files and folders that `copy` would copy."""
    options = ["-rtO", "--dry-run", _ALL_BUT_MARKER, f"--out-format={_DIFFERENCE}%n"]
    return _run(options, [f"{source}/"], place, SILENCE).count(_DIFFERENCE)


def inventory(run_dir: Path) -> Inventory:
    """Return the files and folders in the folder of a run, by their names within it.

    Raises LiveDataNotFound when the folder does not exist, or is a link; LiveDataCorrupted when an
    entry is neither file nor folder, or is on another disk.
    """
    try:
        state = os.lstat(run_dir)
    except FileNotFoundError:
        raise LiveDataNotFound(
            f"{run_dir} does not exist: if the live data was moved, correct its entry in the run "
            "document"
        ) from None
    if not stat.S_ISDIR(state.st_mode):
        raise LiveDataNotFound(f"{run_dir} is {_kind(state)}, not a folder: the run is left alone")
    try:
        return dict(_walk(run_dir, "", state.st_dev))
    except FileNotFoundError as error:
        raise LiveDataNotFound(
            f"{error.filename} vanished while {run_dir} was read: find out what removes it"
        ) from None


def _walk(folder: Path, prefix: str, device: int) -> Iterator[tuple[str, FileState]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not prefix and entry.name == MARKER:
                continue  # This is a copy itself
            state = entry.stat(follow_symlinks=False)
            name = f"{prefix}{entry.name}"
            if state.st_dev != device:
                raise LiveDataCorrupted(f"{entry.path} is on another disk: the run is left alone")
            if stat.S_ISDIR(state.st_mode):
                yield name, FileState(FOLDER)
                yield from _walk(Path(entry.path), f"{name}/", device)
            elif stat.S_ISREG(state.st_mode):
                yield name, FileState(state.st_size, state.st_mtime_ns, state.st_ino)
            else:
                raise LiveDataCorrupted(
                    f"{entry.path} is {_kind(state)}, which is no live data: the run is left alone"
                )


def _kind(state: os.stat_result) -> str:
    if stat.S_ISLNK(state.st_mode):
        return "a symbolic link"
    return "a file" if stat.S_ISREG(state.st_mode) else "a device, pipe or socket"


def sizes(found: Inventory) -> dict[str, int]:
    """Return the sizes [bytes] of files, -1 for folders, in the form of `listing`."""
    return {name: state.size for name, state in found.items()}


def count(found: Inventory) -> tuple[int, int]:
    """Return the number of files and their size [bytes]."""
    files = [state.size for state in found.values() if state.size >= 0]
    return len(files), sum(files)


def listing(place: Place, stopped: Callable[[], bool] = bool) -> dict[str, int] | None:
    """Return the files in a folder and below, with their sizes [bytes]; folders have -1.

    Other entries, such as symbolic links, have -2; the marker is left out. None if the folder does
    not exist.

    Raises CopyRefused when it is a symbolic link or a file; CopyFailed or Stopped as `copy`.
    """
    options = ["-r", "--list-only", "--no-h", "--8-bit-output"]
    try:
        text = _run(options, [], place, SILENCE, stopped)
    except _Missing:
        return None
    own_name = place.folder.rpartition("/")[2]
    found = {}
    for line in text.split("\n")[:-1]:
        match = _LISTED.fullmatch(line)
        if match is None:
            raise CopyFailed(f"rsync's list of {place} has an invalid line: {line!r}")
        name = _unescaped(match["name"])
        size = {"-": int(match["size"]), "d": FOLDER}.get(match["kind"], ODD)
        if name != own_name:
            found[name.removeprefix(f"{own_name}/")] = size
        elif size != FOLDER:
            raise CopyRefused(
                f"{place} is {'a symbolic link' if size == ODD else 'a file'}: put a folder in its "
                "place, or move it away"
            )
    found.pop(MARKER, None)
    return found


def fetch(place: Place, most: int) -> bytes:
    """Return the content of a file; empty if it is larger than `most` [bytes] or not a plain file.

    Raises CopyFailed when the host or the file cannot be reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(_Missing):
            _run([f"--max-size={most}"], [], place, SILENCE, into=f"{folder}/")
        file = Path(folder, place.folder.rpartition("/")[2])
        return file.read_bytes() if file.is_file() else b""


def send(file: Path, place: Place, replace: bool = False) -> None:
    """Write a file atomically into a folder, which is made if its parent exists.

    An existing file of that name is kept unless `replace`. Raises CopyFailed on failure.
    """
    options = ["-t", *([] if replace else ["--ignore-existing"])]
    try:
        _run([*options, "--fsync"], [str(file)], place, SILENCE)
    except CopyFailed as error:
        if "unknown option" not in str(error):
            raise
        # Before rsync 3.2.4
        _run(options, [str(file)], place, SILENCE)


def _pattern(name: str) -> str:
    """Return rsync's pattern for a name; for a folder of partial files, also for its content."""
    if re.search(r"[*?\[]", name):
        name = re.sub(r"[*?\[\\]", r"\\\g<0>", name)
    return f"{name}/***" if name.rpartition("/")[2] == PARTIAL else name


def _unescaped(text: str) -> str:
    """Return a name that rsync has printed with control characters as numbers."""
    return re.sub(r"\\#(\d{3})", lambda code: chr(int(code[1], 8)), text)


def check_folder(place: Place) -> None:
    """Check that a folder exists, and so that its disk is mounted.

    Raises DestinationUnusable when it does not exist, or cannot be reached.
    """
    try:
        _run(["--list-only"], [], place / ".", SILENCE)
    except _Missing:
        raise _no_folder(place) from None


def _no_folder(place: Place) -> DestinationUnusable:
    return DestinationUnusable(f"there is no folder {place}: make it, or mount its disk")


class _Missing(CopyFailed):
    """The folder to be read does not exist."""


def _run(
    options: Sequence[str],
    sources: Sequence[str],
    place: Place,
    silence: int,
    stopped: Callable[[], bool] = bool,
    on_bytes: Callable[[int], None] | None = None,
    tries: int = 3,
    into: str | None = None,
) -> str:
    """Run rsync and return its output; without sources `place` is listed, or copied `into`."""
    place.check()
    command = [*_program(), *options, "--protect-args"]
    if place.ssh_host is not None:
        command += [f"--timeout={silence}", f"--rsh={shlex.join(ssh_command())}"]
    command += ["--", *sources, f"{place}/" if sources else str(place), *([into] if into else [])]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"LC_ALL": "C"},
    ) as process:
        try:
            output, errors = _follow(process, stopped, on_bytes)
        except BaseException:
            _end(process)
            raise
    if stopped():
        raise Stopped(f"copying to {place} was interrupted; transferred data is kept")
    if process.returncode:
        problem, is_clear = _problem(process.returncode, errors, place, bool(sources))
        if tries == 1 or is_clear:
            raise problem
        # The other end may close the connection before its error message arrives; rsync then
        # reports only that, or nothing. Transferred data is kept, so a retry costs little.
        if sources:
            check_folder(Place(os.path.dirname(place.folder.rstrip("/")), place.ssh_host))
        return _run(options, sources, place, silence, stopped, on_bytes, tries - 1, into)
    return output


def _program() -> list[str]:
    """Return the command prefix that ends rsync together with the thread that started it."""
    program, starter = shutil.which("rsync"), shutil.which("setpriv")
    if program is None:
        raise CopyFailed("there is no rsync on this machine: install it")
    return [*([starter, "--pdeathsig", "TERM", "--"] if starter else []), program]


def ssh_command() -> list[str]:
    """Return the ssh command for unattended use: no questions, with timeouts."""
    config = settings.get("AMSTRAX_SSH_CONFIG")
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": CONNECT_TIMEOUT,
        "ServerAliveInterval": CONNECT_TIMEOUT // 4,
        "ServerAliveCountMax": 4,
    }
    file = ["-F", str(settings.expanded(config))] if config else []
    return ["ssh", *file, *(f"-o{name}={value}" for name, value in options.items())]


def _follow(
    process: subprocess.Popen, stopped: Callable[[], bool], on_bytes: Callable[[int], None] | None
) -> tuple[str, str]:
    """Return the output and error text of a process after its end."""
    assert process.stdout is not None and process.stderr is not None
    parts: dict[int, bytearray] = {}
    with selectors.DefaultSelector() as selector:
        for stream in (process.stdout, process.stderr):
            selector.register(stream, selectors.EVENT_READ)
            parts[stream.fileno()] = bytearray()
        while selector.get_map():
            # Children of rsync, such as a shared ssh, may keep its streams open for longer
            has_ended = process.poll() is not None
            ready = selector.select(0 if has_ended else 0.2)
            if has_ended and not ready:
                break
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                elif on_bytes is not None and key.fileobj is process.stdout:
                    # Progress output is not kept: it may be large
                    numbers = re.findall(rb"^ *(\d+) +\d+%", data.replace(b"\r", b"\n"), re.M)
                    if numbers:
                        on_bytes(int(numbers[-1]))
                else:
                    parts[key.fd] += data
            if stopped():
                _end(process)
                break
    process.wait()
    output, errors = (bytes(part).decode("utf-8", "surrogateescape") for part in parts.values())
    return output, errors


def _end(process: subprocess.Popen) -> None:
    """End rsync gracefully, so that it keeps a partly transferred file."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _problem(status: int, errors: str, place: Place, is_written: bool) -> tuple[CopyFailed, bool]:
    """Return the error for a failed rsync, and whether its cause is certain."""
    gone = r"(change_dir|link_stat) .* failed: No such file or directory"
    # First, since the other end then closes the connection, which is reported too
    if not is_written and re.search(gone, errors):
        return _Missing(f"there is no folder {place}"), True
    if re.search(r"mkdir .* failed: No such file or directory", errors):
        return _no_folder(Place(os.path.dirname(place.folder), place.ssh_host)), True
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    names = {"host": place.ssh_host or "this machine", "place": str(place)}
    for pattern, text in _PROBLEMS.items():
        line = next((line for line in lines if re.search(pattern, line)), None)
        # The place itself is the sender when it is only read
        if line is None or (text is _SOURCE_UNREADABLE and not is_written):
            continue
        is_one_entry = text is _PLACE_REFUSES and _is_inside(line, place)
        is_usable = text is _SOURCE_UNREADABLE or is_one_entry
        kind = CopyFailed if is_usable else DestinationUnusable
        return kind(text.format(line=line, **names)), not _CLOSED.search(line)
    line = next((line for line in lines if "rsync error" not in line), "no message")
    if status == 24 or "No such file or directory" in errors:
        return CopyFailed(f"files vanished while they were copied to {place} ({line})"), True
    return CopyFailed(f"rsync to {place} failed with status {status}: {line}"), False


def _is_inside(line: str, place: Place) -> bool:
    """Return whether rsync refuses an entry of a place, so that other places may still work.

    The folder of copies itself is excluded; `check_folder` lists it as FOLDER/.
    """
    folder = re.escape(place.folder)
    return not place.folder.endswith("/.") and bool(
        re.search(rf'(opendir|failed to open) "{folder}"|"{folder}/.*(denied|permitted)', line)
    )


def mounted_in(folder: Path) -> Path | None:
    """Find a mount point at a folder, given without links, or below it.

    Raises CopyRefused where mounts cannot be listed, as outside Linux.
    """
    # `os.path.ismount` misses bind mounts
    mounts = Path("/proc/self/mountinfo")
    try:
        text = mounts.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise CopyRefused(
            f"{mounts} cannot be read ({error.strerror}), so mounts in {folder} are unknown: copy "
            "and delete on a machine with Linux"
        ) from None
    for line in text.splitlines():
        point = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), line.split()[4]))
        if point.is_relative_to(folder):
            return point
    return None
