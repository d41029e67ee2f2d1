"""Correction files from a server, over HTTPS, with copies on disk that also serve without network.

A copy is one JSON file: address, text, checksum, and what the server gives to ask whether it has
changed (ETag, Last-Modified). Its time of change is when that was last asked. It is written beside
and renamed, so that no other process finds half of one. Copies younger than `FRESH` seconds are
taken as they are, by all processes that share the folder.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from amstrax.corrections import lookup
from amstrax.exceptions import CorrectionsUnreachable, InvalidCorrection, InvalidOption
from amstrax.settings import Corrections

log = logging.getLogger(__name__)

BRANCH = re.compile(r"[\w][\w./-]*", re.ASCII)
#: A copy is not asked after for this long [s]
FRESH = 300.0
#: A server that could not be reached is left alone for this long [s]
LEFT_ALONE = 60.0
#: Largest file that is taken [bytes]
MAX_SIZE = 32 * 1024 * 1024
_CONTENT_TYPES = ("application/json", "text/json", "text/plain", "application/octet-stream", "")
_BROKEN_OFF = "the answer breaks off"
_LOCAL = ("localhost", "127.0.0.1", "::1")

# Server -> when it could not be reached, by `time.monotonic`
_unreachable: dict[str, tuple[float, str]] = {}
# What it has been warned of
_warned: set[str] = set()


@dataclass(frozen=True)
class Copy:
    """What is kept of a published file."""

    url: str
    text: str
    sha256: str
    etag: str
    last_modified: str

    @property
    def is_whole(self) -> bool:
        """Whether the text is that which was written."""
        return self.sha256 == _checksum(self.text)


class _Fault(Exception):
    """What is wrong with the answer of a server."""


class _Unreachable(_Fault):
    """There is no answer."""


def fetch(path: str, branch: str, known: Corrections) -> tuple[str | None, str]:
    """Return the text of a published file, or None where there is none, and its address.

    Parameters
    ----------
    path
        Folder and name of the file.
    branch
        Branch that it is published in.
    known
        Where files are published, how long to wait, and where copies are kept.

    Raises
    ------
    InvalidOption
        When the setting makes no sense.
    CorrectionsUnreachable
        When the file cannot be had, and there is no copy. With a copy, that is taken, and a
        warning says so: once for a server that cannot be reached, or once a file.
    """
    url = f"{_base(known.url, branch)}/{quote(path)}"
    kept = known.cache / hashlib.sha256(url.encode()).hexdigest()[:16] / f"{Path(path).name}.copy"
    copy = _read(kept, url)
    if copy is not None and _age(kept) < FRESH:
        return copy.text, url
    try:
        new = _ask(url, copy, known.timeout)
    except _Fault as fault:
        if copy is None:
            raise CorrectionsUnreachable(
                f"{url}: {fault}, and no copy is kept in {known.cache}. Try again later, or set "
                "AMSTRAX_CORRECTIONS_FOLDER to a folder with the corrections"
            ) from None
        _warn(url, fault)
        return copy.text, url
    if new is None:
        if copy is not None:
            _warn(url, _Fault("it is no longer there (status 404)"))
        return (None if copy is None else copy.text), url
    if new is not copy and (wrong := _not_json(new.text)):
        # An answer without a length may have been cut; a file may be wrong as it is published
        if copy is None:
            return new.text, url
        _warn(url, _Fault(wrong))
        return copy.text, url
    _keep(new, kept, is_known=new is copy)
    return new.text, url


def _not_json(text: str) -> str:
    try:
        lookup.parse(text, "the answer")
    except InvalidCorrection as error:
        return str(error)
    return ""


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
    if "{branch}" not in setting and branch != "master":
        raise InvalidOption(
            f"the setting AMSTRAX_CORRECTIONS_URL is {setting!r}, without {{branch}}: there is no "
            f"telling where branch {branch!r} is"
        )
    return setting.replace("{branch}", quote(branch)).rstrip("/")


def _ask(url: str, copy: Copy | None, timeout: float) -> Copy | None:
    """Ask a server for a file: return the copy if that is still good, or None if there is none."""
    import requests
    import urllib3

    server = urlsplit(url).netloc
    since, why = _unreachable.get(server, (-LEFT_ALONE, ""))
    if time.monotonic() - since < LEFT_ALONE:
        raise _Unreachable(why)
    try:
        with _session() as session:
            return _answer(session, url, copy, timeout)
    except urllib3.exceptions.HTTPError as error:
        slow = isinstance(error, urllib3.exceptions.TimeoutError)
        what = f"the answer is not complete within {timeout:g} s" if slow else _BROKEN_OFF
        raise _Fault(what) from None
    except requests.exceptions.SSLError:
        raise _Fault("its certificate is not to be trusted") from None
    except (requests.Timeout, requests.ConnectionError) as error:
        if isinstance(error, requests.Timeout):
            what = f"no answer within {timeout:g} s"
        elif "aborted" in str(error):  # it hung up before it had answered
            raise _Fault(_BROKEN_OFF) from None
        else:
            what = "no connection"
        _unreachable[server] = time.monotonic(), what
        raise _Unreachable(what) from None
    except requests.RequestException as error:
        raise _Fault(f"no answer ({type(error).__name__})") from None


def _session() -> Any:
    """Return a session that asks twice again where a server is overloaded or failed."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    session = requests.Session()
    retry = Retry(
        total=2,
        connect=0,
        read=False,
        backoff_factor=0.1,
        status_forcelist=(500, 502, 503, 504),
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def _answer(session: Any, url: str, copy: Copy | None, timeout: float) -> Copy | None:
    deadline = time.monotonic() + timeout
    headers = {"Accept": "application/json, text/plain"}
    if copy is not None and copy.etag:
        headers["If-None-Match"] = copy.etag
    elif copy is not None and copy.last_modified:
        headers["If-Modified-Since"] = copy.last_modified
    # To be led elsewhere might be to leave HTTPS
    ask = {"headers": headers, "timeout": timeout, "stream": True, "allow_redirects": False}
    with session.get(url, **ask) as response:
        if response.status_code == 304 and copy is not None:
            return copy
        if response.status_code == 404:
            return None
        if response.is_redirect:
            host = urlsplit(response.headers["Location"]).hostname or "another address"
            raise _Fault(f"the server refers to {host}: set AMSTRAX_CORRECTIONS_URL to that, if so")
        if response.status_code != 200:
            raise _Fault(f"the server answers with status {response.status_code}")
        content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if content_type not in _CONTENT_TYPES:
            raise _Fault(f"the server answers with {content_type}, not with JSON")
        body = bytearray()
        # As it comes: other ways of reading wait until there is a certain amount
        while part := response.raw.read1(64 * 1024, decode_content=True):
            body += part
            if len(body) > MAX_SIZE:
                raise _Fault(f"the file is larger than {MAX_SIZE} bytes")
            if time.monotonic() > deadline:
                raise _Fault(f"the answer is not complete within {timeout:g} s")
        try:
            text = bytes(body).decode("utf-8")
        except UnicodeDecodeError:
            raise _Fault("the answer is not UTF-8, so not JSON") from None
        etag, last_modified = (response.headers.get(n, "") for n in ("ETag", "Last-Modified"))
    return Copy(url, text, _checksum(text), etag, last_modified)


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _age(path: Path) -> float:
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")
    return age if age >= 0 else float("inf")  # the clock was wrong


def _read(path: Path, url: str) -> Copy | None:
    try:
        copy = Copy(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        log.warning("the copy of %s in %s cannot be read: %s", url, path, error)
        return None
    return copy if copy.url == url and copy.is_whole else None


def _keep(copy: Copy, path: Path, is_known: bool) -> None:
    """Keep a copy, or note that the one that is kept is still good."""
    temporary = None
    try:
        if is_known:
            os.utime(path)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=".", suffix=".part", delete=False
        ) as file:
            temporary = Path(file.name)
            json.dump(asdict(copy), file)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if str(path.parent.parent) not in _warned:
            _warned.add(str(path.parent.parent))
            log.warning("no copies of corrections can be kept in %s: %s", path.parent.parent, error)


def _warn(url: str, fault: _Fault) -> None:
    """Say, once, that a copy is used: once a server where that is unreachable, or once a file."""
    what = urlsplit(url).netloc if isinstance(fault, _Unreachable) else url
    if what not in _warned:
        _warned.add(what)
        log.warning("%s: %s; copies that are kept are used", url, fault)
