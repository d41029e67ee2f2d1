"""Find correction files, and parse them.

These places are searched; the first one with the file is used.

1. The folder in the setting AMSTRAX_CORRECTIONS_FOLDER. ``{branch}`` in it is replaced by the name
   of the branch; a folder without it serves every branch.
2. The package ``amstrax_files``, if it is installed: folders within it, and ``corrections`` next to
   it, as in a clone installed with ``pip install -e``. It serves the branch master.
3. The address in the setting AMSTRAX_CORRECTIONS_URL, with ``{branch}`` likewise, over HTTPS.

In each of them FILE of the correction NAME is at ``NAME/FILE``.

Files from the address are copied to disk, which also serves without network. A copy is one JSON
file with address, text, checksum and the server's validators (ETag, Last-Modified). Its
modification time is the time of the last validation. All processes that share the folder use copies
younger than `FRESH` seconds without validation.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import socket
import threading
import time
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import lru_cache
from http.client import HTTPException, RemoteDisconnected
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from amstrax import settings, strict_json
from amstrax.exceptions import (
    CorrectionNotFound,
    CorrectionsUnreachable,
    InvalidCorrection,
    InvalidOption,
)
from amstrax.settings import Corrections

log = logging.getLogger(__name__)

MASTER = "master"
_PACKAGE = "amstrax_files"
#: Folders of the package that may hold the corrections folders
_IN_PACKAGE = ("corrections", "data/corrections", "data", "")

_FILE_NAME = re.compile(r"(?P<folder>\w+)_(?P<version>[A-Za-z0-9.-]+)\.json", re.ASCII)
_STRING = re.compile(r'(?P<string>"(?:[^"\\]|\\.)*")(?P<colon>\s*:)?', re.DOTALL)
#: Texts that other languages write in JSON for numbers that are not finite
_NO_NUMBERS = ("nan", "inf", "infinity")
_BRANCH = re.compile(r"[\w][\w./-]*", re.ASCII)
#: A copy is used without validation for this time [s]
FRESH = 300.0
#: Pause before an unreachable server is tried again [s]
LEFT_ALONE = 60.0
#: Largest file that is accepted [bytes]
MAX_SIZE = 32 * 1024 * 1024
_CONTENT_TYPES = ("application/json", "text/json", "text/plain", "application/octet-stream", "")
_BROKEN_OFF = "the answer breaks off"
#: Longest ETag or Last-Modified that is kept, since it is sent back [characters]
_MAX_TAG = 256
#: Number of attempts while the server is overloaded or fails
_ATTEMPTS, _FAILED = 3, (500, 502, 503, 504)
_THREAD = "amstrax_corrections"
_LOCAL = ("localhost", "127.0.0.1", "::1")

# Server -> time of the last failure to reach it, by `time.monotonic`
_unreachable: dict[str, tuple[float, str]] = {}
# Folders, servers and files already warned about
_warned: set[str] = set()


def folder_of(file_name: str) -> str:
    """Return the folder of a correction file: NAME of NAME_VERSION.json.

    Other names raise InvalidCorrection.
    """
    match = _FILE_NAME.fullmatch(file_name)
    if match is None or ".." in file_name:
        raise InvalidCorrection(
            f"{file_name!r} is no name of a correction file: it must be NAME_VERSION.json, as "
            "elife_v1.json"
        )
    return match["folder"]


def is_development(file_name: str) -> bool:
    """Return whether a file may have open ranges."""
    return "_dev" in file_name


def parse(text: str, place: str) -> dict[str, Any]:
    """Return the content of a correction file or of the file of a version.

    The text must be a JSON object as in `amstrax.strict_json.parse`, in which lists with numbers
    have nothing else, and no text stands for NaN or an infinity. Otherwise InvalidCorrection names
    place, line and column.
    """
    content = strict_json.parse(text, place, InvalidCorrection)
    if not isinstance(content, dict):
        raise InvalidCorrection(f"{place}, line 1, column 1: this is no JSON object, as {{...}}")
    for name, value in content.items():
        if fault := _fault(value):
            raise InvalidCorrection(
                f"{place}, {find_name(text, name)}: the value of {name!r} has {fault}"
            )
    return content


def _fault(value: Any) -> str:
    """Return the error in a value, with the remedy; empty if it is valid."""
    if isinstance(value, str):
        is_number = value.strip().lstrip("+-").lower() in _NO_NUMBERS
        return f"{value!r}: give a finite number" if is_number else ""
    if not isinstance(value, (list, dict)):
        return ""
    types = set(map(type, value)) if isinstance(value, list) else ()
    kinds = set(map(strict_json.kind_of_type, types))
    if kinds == {"number"}:
        return ""  # fast path: maps have many thousand numbers
    items = value.values() if isinstance(value, dict) else value
    mixed = "a list with numbers and other values: make all of them numbers"
    return next(filter(None, map(_fault, items)), mixed if "number" in kinds else "")


def find_name(text: str, name: str) -> str:
    """Return line and column of a name in the text of a JSON object, for messages."""
    return _positions(text).get(name, "line 1, column 1")


@lru_cache(maxsize=1)
def _positions(text: str) -> dict[str, str]:
    """Return line and column of the first occurrence of each name in a JSON object."""
    found: dict[str, str] = {}
    line, begin, seen = 1, 0, 0
    for match in _STRING.finditer(text):
        line += text.count("\n", seen, match.start())
        begin = text.rfind("\n", seen, match.start()) + 1 or begin
        seen = match.start()
        if match["colon"]:
            name = json.loads(match["string"], strict=False)
            found.setdefault(name, f"line {line}, column {seen - begin + 1}")
    return found


class File(NamedTuple):
    """A correction file."""

    name: str
    text: str
    place: str  #: path or address

    def content(self) -> dict[str, Any]:
        """Return the read-only content; raise `InvalidCorrection` if it is not JSON."""
        return _parsed(self.text, self.place)


#: Parsing a map takes a second, and each run in a process looks up its own
_parsed = lru_cache(maxsize=16)(parse)


def get_correction(file_name: str, branch: str = MASTER) -> dict[str, Any]:
    """Return the content of a correction file, as ``'elife_v1.json'``: range of runs -> value.

    `branch` is that of the repository in which corrections are published.

    Raises
    ------
    CorrectionNotFound
        (a FileNotFoundError) when no place has the file.
    InvalidCorrection
        (a ValueError) when the name is not that of a correction file, or the file is not JSON.
    CorrectionsUnreachable
        (a ConnectionError) when the server does not serve it, and no copy is kept.
    """
    file = find(file_name, branch)
    return parse(file.text, file.place)


def find(file_name: str, branch: str = MASTER) -> File:
    """Return the text of a correction file; parameters and errors are those of `get_correction`."""
    path = Path(folder_of(file_name), file_name)
    check_branch(branch)
    known = settings.corrections()
    looked_in = []
    for folder in (*_folder(known.folder, branch), *_package(branch)):
        file = folder / path
        if _is_file(file):
            return File(file_name, strict_json.read_text(file, InvalidCorrection), str(file))
        looked_in.append(str(folder))
    if known.url:
        text, address = _fetch(path.as_posix(), branch, known)
        if text is not None:
            return File(file_name, text, address)
        looked_in.append(address)
    raise CorrectionNotFound(_not_found(file_name, branch, looked_in, known))


def exists(file_name: str, branch: str = MASTER) -> bool:
    """Return whether a correction file exists; raise if that cannot be determined."""
    try:
        find(file_name, branch)
    except CorrectionNotFound:
        return False
    return True


def names(pattern: str) -> list[str]:
    """Return the names of local files of branch master that match a pattern: ``_global_*.json``.

    Raises InvalidOption when the folder of the settings does not exist.
    """
    folders = (*_folder(settings.corrections().folder, MASTER), *_package(MASTER))
    place = folder_of(pattern.replace("*", "x"))
    return sorted({path.name for folder in folders for path in (folder / place).glob(pattern)})


def check_branch(branch: str) -> None:
    """Raise InvalidCorrection for an invalid branch name."""
    if not _BRANCH.fullmatch(branch) or ".." in branch:
        raise InvalidCorrection(
            f"{branch!r} is no name of a branch: it may have letters, digits and . _ / -"
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:
        return True  # reading it raises the error


def _folder(setting: str, branch: str) -> list[Path]:
    if not setting:
        return []
    if "{branch}" not in setting and branch != MASTER and setting not in _warned:
        _warned.add(setting)
        log.warning(
            "corrections of branch %s are taken from %s, which is one folder for all branches: "
            "write {branch} in AMSTRAX_CORRECTIONS_FOLDER where each has its own",
            branch,
            setting,
        )
    folder = settings.expanded(setting.replace("{branch}", branch))
    if not folder.is_dir():
        raise InvalidOption(
            f"the setting AMSTRAX_CORRECTIONS_FOLDER is {setting!r}, and there is no folder "
            f"{folder}: correct it, or leave it out"
        )
    return [folder]


def _package(branch: str) -> list[Path]:
    """Return the folders of the installed package without importing it."""
    if branch != MASTER:
        return []
    try:
        spec = find_spec(_PACKAGE)
    except (ImportError, ValueError):
        return []
    places = (spec.submodule_search_locations or ()) if spec is not None else ()
    folders = [Path(place, folder) for place in places for folder in _IN_PACKAGE]
    folders += [Path(place).resolve().parent / "corrections" for place in places]
    return [folder for folder in folders if folder.is_dir()]


def _not_found(file_name: str, branch: str, looked_in: list[str], known: Corrections) -> str:
    where = ", ".join(looked_in) if looked_in else "nowhere, since no place is set"
    unset = ["AMSTRAX_CORRECTIONS_FOLDER"] * (not known.folder)
    unset += ["AMSTRAX_CORRECTIONS_URL"] * (not known.url)
    remedy = ["check its name"] * bool(looked_in) + [f"set {' or '.join(unset)}"] * bool(unset)
    return (
        f"no correction file {file_name} of branch {branch}. Searched: {where}. Remedy: "
        f"{', or '.join(remedy)}"
    )


# Published files


@dataclass(frozen=True)
class _Copy:
    """Copy of a published file."""

    url: str
    text: str
    sha256: str
    etag: str
    last_modified: str

    @property
    def is_whole(self) -> bool:
        """Whether the checksum matches the text."""
        tags = self.etag, self.last_modified
        return self.sha256 == _checksum(self.text) and tags == tuple(map(_tag, tags))


class _Fault(Exception):
    """The answer of a server is unusable."""


class _Unreachable(_Fault):
    """The server did not answer within the timeout."""


class _Timeout(_Fault):
    """A single wait has used up the timeout."""


def _fetch(path: str, branch: str, known: Corrections) -> tuple[str | None, str]:
    """Fetch a published file; return its text, or None if it does not exist, and its address.

    If the server fails, a copy is used, with one warning per unreachable server, otherwise per
    file. Without a copy it raises CorrectionsUnreachable.
    """
    url = f"{_base(known.url, branch)}/{quote(path)}"
    kept = known.cache / hashlib.sha256(url.encode()).hexdigest()[:16] / f"{Path(path).name}.copy"
    copy = _read_copy(kept, url)
    if copy is not None and _age(kept) < FRESH:
        return copy.text, url
    text = None
    try:
        new = _ask(url, copy, known.timeout)
        text = None if new is None else new.text
        if text is None and copy is not None:
            raise _Fault("it is no longer there (status 404)")
        if text is not None and new is not copy:
            # An answer without a length may be truncated; a file may be invalid as published
            parse(text, "the answer")
    except (_Fault, InvalidCorrection) as fault:
        if copy is not None:
            _warn(url, fault, kept)
            return copy.text, url
        if isinstance(fault, InvalidCorrection):
            return text, url
        raise CorrectionsUnreachable(
            f"{url}: {fault}, and no copy is kept in {known.cache}. Try again later, or set "
            "AMSTRAX_CORRECTIONS_FOLDER to a folder with the corrections"
        ) from None
    if new is not None:
        _keep(new, kept, is_known=new is copy)
    return text, url


def _base(setting: str, branch: str) -> str:
    """Return the address of the folder of all corrections."""
    parts = urlsplit(setting)
    if parts.username is not None or parts.password is not None:
        raise InvalidOption(
            "the setting AMSTRAX_CORRECTIONS_URL has a user or password in it, which messages "
            "would show: put them into ~/.netrc"
        )
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOCAL)
    if not secure or not parts.hostname or parts.query or parts.fragment:
        raise InvalidOption(
            f"the setting AMSTRAX_CORRECTIONS_URL is {setting!r}: make it the address of a folder, "
            "https://HOST/...{branch}..."
        )
    if "{branch}" not in setting and branch != MASTER:
        raise InvalidOption(
            f"the setting AMSTRAX_CORRECTIONS_URL is {setting!r}, without {{branch}}, so "
            f"branch {branch!r} has no address: add {{branch}}"
        )
    return setting.replace("{branch}", quote(branch)).rstrip("/")


def _ask(url: str, copy: _Copy | None, timeout: float) -> _Copy | None:
    """Fetch a file from a server; return the copy if it is still valid, None if no file exists.

    The whole request takes at most `timeout`. Socket timeouts apply to single waits, and name
    look-ups have none, so the request runs in its own thread, whose connections are shut at the
    end.
    """
    # The import takes time that does not count for the server
    import requests  # noqa: F401

    # urllib3 warns about truncated headers with a traceback
    logging.getLogger("urllib3.connection").addFilter(_is_of_others)
    server = urlsplit(url).netloc
    since, why = _unreachable.get(server, (-LEFT_ALONE, ""))
    if time.monotonic() - since < LEFT_ALONE:
        raise _Unreachable(why)
    answered = threading.Event()
    sockets = _Sockets()
    result: Future[_Copy | None] = Future()

    def work() -> None:
        try:
            result.set_result(_answer(sockets, url, copy, timeout, answered))
        except BaseException as error:
            result.set_exception(_as_fault(error))

    threading.Thread(target=work, name=_THREAD, daemon=True).start()
    try:
        return result.result(timeout)
    except (TimeoutError, _Timeout):
        what = "the answer is not complete" if answered.is_set() else "no answer"
        _unreachable[server] = time.monotonic(), f"{what} within {timeout:g} s"
        raise _Unreachable(_unreachable[server][1]) from None
    except _Unreachable as fault:
        _unreachable[server] = time.monotonic(), str(fault)
        raise
    finally:
        sockets.shut()


def _is_of_others(record: logging.LogRecord) -> bool:
    return record.threadName != _THREAD


class _Sockets:
    """Connections of a request, which another thread can shut at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._are_shut = False
        self._sockets: list[socket.socket] = []

    def add(self, sock: socket.socket) -> None:
        """Record a connection."""
        with self._lock:
            # TLS detaches the socket, but not a duplicate
            self._sockets.append(sock.dup())
        if self._are_shut:
            self.shut()

    def shut(self) -> None:
        """Shut all connections, now and from now on."""
        with self._lock:
            self._are_shut = True
            while self._sockets:
                with self._sockets.pop() as sock, contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)


def _session(sockets: _Sockets) -> Any:
    """Return a session that records its connections in `sockets`."""
    import requests
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
            pool = super().get_connection_with_tls_context(*args, **kwargs)

            class Connection(type(pool).ConnectionCls):  # type: ignore[misc]
                def _new_conn(self) -> socket.socket:
                    sock = super()._new_conn()
                    sockets.add(sock)
                    return sock

            pool.ConnectionCls = Connection
            return pool

    class Session(requests.Session):
        def get_redirect_target(self, resp: Any) -> None:
            """Return no target, so that the body of a redirect is not read."""

    session = Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, Adapter())
    return session


def _as_fault(error: BaseException) -> _Fault:
    """Return the fault that an exception of requests, urllib3 or http.client means."""
    import requests
    import urllib3

    if isinstance(error, _Fault):
        return error
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
        return _Timeout()
    if isinstance(error, requests.exceptions.SSLError):
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return _Fault("its certificate is not to be trusted")
        return _Fault(f"no TLS with it ({_short(error)})")
    if isinstance(error, urllib3.exceptions.HTTPError):
        return _Fault(_BROKEN_OFF)
    if isinstance(error, requests.ConnectionError):
        if "aborted" not in str(error):
            return _Unreachable("no connection")
        # It closed the connection before answering, or sent no valid answer
        cause = error.args[0].args[-1]
        is_http = not isinstance(cause, HTTPException) or isinstance(cause, RemoteDisconnected)
        return _Fault(_BROKEN_OFF if is_http else f"its answer is not HTTP ({_short(cause)})")
    return _Fault(f"no answer ({_short(error)})")


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()):.60}"


def _answer(
    sockets: _Sockets, url: str, copy: _Copy | None, timeout: float, answered: threading.Event
) -> _Copy | None:
    headers = {"Accept": "application/json, text/plain"}
    if copy is not None and copy.etag:
        headers["If-None-Match"] = copy.etag
    elif copy is not None and copy.last_modified:
        headers["If-Modified-Since"] = copy.last_modified
    # A redirect might leave HTTPS
    ask = {"headers": headers, "timeout": timeout, "stream": True, "allow_redirects": False}
    with _session(sockets) as session:
        for attempt in range(1, _ATTEMPTS + 1):
            with session.get(url, **ask) as response:
                # The body of an error is not read
                if response.status_code not in _FAILED or attempt == _ATTEMPTS:
                    answered.set()
                    return _content(response, url, copy)
            time.sleep(0.1 * attempt)
    raise AssertionError("the last attempt returns or raises")


def _content(response: Any, url: str, copy: _Copy | None) -> _Copy | None:
    """Return the content of an answer, as `_ask` does."""
    if response.status_code == 304 and copy is not None:
        return copy
    if response.status_code == 404:
        return None
    if response.is_redirect:
        host = _host(response.headers["Location"]) or "another address"
        raise _Fault(f"the server refers to {host:.60}: set AMSTRAX_CORRECTIONS_URL to that, if so")
    if response.status_code != 200:
        raise _Fault(f"the server answers with status {response.status_code}")
    content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type not in _CONTENT_TYPES:
        raise _Fault(f"the server answers with {content_type:.60}, not with JSON")
    body = bytearray()
    # Read as data arrives: other methods wait for a full block
    while part := response.raw.read1(64 * 1024, decode_content=True):
        body += part
        if len(body) > MAX_SIZE:
            raise _Fault(f"the file is larger than {MAX_SIZE} bytes")
    try:
        text = bytes(body).decode("utf-8")
    except UnicodeDecodeError:
        raise _Fault("the answer is not UTF-8, so not JSON") from None
    etag, last_modified = (_tag(response.headers.get(n, "")) for n in ("ETag", "Last-Modified"))
    return _Copy(url, text, _checksum(text), etag, last_modified)


def _host(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _tag(value: str) -> str:
    """Return a header's value if it can be sent back, otherwise an empty text."""
    return value if len(value) <= _MAX_TAG and value.isascii() and value.isprintable() else ""


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _age(path: Path) -> float:
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")
    return age if age >= 0 else float("inf")  # the clock was wrong


def _read_copy(path: Path, url: str) -> _Copy | None:
    try:
        copy = _Copy(**json.loads(path.read_text(encoding="utf-8")))
        return copy if copy.url == url and copy.is_whole else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        log.warning("the copy of %s in %s cannot be read: %s", url, path, error)
        return None


def _keep(copy: _Copy, path: Path, is_known: bool) -> None:
    """Store a copy, or mark the stored copy as still valid."""
    try:
        if is_known:
            os.utime(path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            strict_json.write_text(path, json.dumps(asdict(copy)), mode=0o600)
    except OSError as error:
        if str(path.parent.parent) not in _warned:
            _warned.add(str(path.parent.parent))
            log.warning("no copies of corrections can be kept in %s: %s", path.parent.parent, error)


def _warn(url: str, fault: Exception, kept: Path) -> None:
    """Warn once that a copy is used: per server if it is unreachable, otherwise per file."""
    what = urlsplit(url).netloc if isinstance(fault, _Unreachable) else url
    if what not in _warned:
        _warned.add(what)
        age = _age(kept)
        when = f"{age / 3600:.1f} h ago" if age < float("inf") else "at an unknown time"
        log.warning("%s: %s; cached copies are used; this one was validated %s", url, fault, when)
