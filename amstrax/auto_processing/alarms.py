"""Alarms: find faults of automatic processing, show them on the dashboard and send messages.

The loop of automatic processing and the dashboard look for causes. They share a file, in the folder
of the setting AMSTRAX_LOCAL_FOLDER, so a cause is sent once an hour at most, whoever finds it. A
message counts as sent when the server has taken it; until then each look tries again.
"""

import contextlib
import fcntl
import html
import json
import logging
import shutil
import smtplib
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from amstrax import settings, strict_json
from amstrax.auto_processing.loop import read_status
from amstrax.exceptions import AmstraxError, InvalidOption, RunDatabaseError
from amstrax.rundb import connection, documents

log = logging.getLogger(__name__)

#: Shortest interval between two messages about a cause
PAUSE = timedelta(hours=1)
#: The loop is silent when its status is older than this, and than three of its pauses
_SILENT = timedelta(minutes=15)
#: Longest time that one step of sending may take [s]
_TIMEOUT = 10
#: Time after which an alarm ends that nothing looks for any more, as after a change of settings
_FORGOTTEN = timedelta(days=1)
#: Rows of trends that are looked at, the newest ones
_MOST_ROWS = 50
#: Longest text of a cause
_LONGEST = 500
_TLS_PORT = 465

#: Text of a cause, or None if all is well
Found = dict[str, str | None]


class Alarm(NamedTuple):
    """A cause that persists: its name with the detector, as ``xams: jobs``, and its begin."""

    name: str
    text: str
    since: datetime


def find_causes(
    detector: str,
    collection: Callable[[], Any],
    trends: Callable[[], Any],
    folders: Callable[[], Iterable[Path]],
    status_files: Mapping[str, Path],
    now: datetime | None = None,
) -> Found:
    """Return what goes wrong now by name, with None for what is in order.

    What cannot be found out is left out, such as failed jobs while the run database is unreachable:
    its alarms stay as they are.

    `collection` and `trends` return the collections of run documents and of trends, `folders` the
    folders on disks that must not be full. `status_files` maps detectors to the status of their
    loop, as of `loop.write_status`.
    """
    now = now or datetime.now(UTC)
    found: Found = {}
    invalid: list[str] = []

    def check(work: Callable[[], Found]) -> None:
        try:
            found.update(work())
        except InvalidOption as error:
            invalid.append(str(error))
        except (AmstraxError, OSError) as error:
            _warn_once("not all alarms can be looked for: %s", error)

    tunnel, database = f"{detector}: tunnel", f"{detector}: run database"
    check(_check_addresses)
    check(lambda: _full_disks(detector, folders()))
    for its, path in status_files.items():
        check(partial(_silence, its, path, now))
    check(lambda: _away(tunnel, database, collection))
    if found.get(database, "") is None:
        check(lambda: _failed_jobs(detector, collection()))
        check(lambda: _no_run(detector, collection(), now))
        check(lambda: _broken_trends(detector, trends()))
    found[f"{detector}: settings"] = "; ".join(dict.fromkeys(invalid)) or None
    return found


def _away(tunnel: str, database: str, collection: Callable[[], Any]) -> Found:
    """Return whether the run database answers; otherwise it, or its tunnel, is a cause."""
    try:
        collection().find_one({"_id": None}, ["_id"])
    except RunDatabaseError as error:
        if connection.is_tunnel_down():
            return {tunnel: f"the tunnel to the run database is down: {error}"}
        return {tunnel: None, database: f"the run database cannot be used: {error}"}
    return {tunnel: None, database: None}


def _no_run(detector: str, collection: Any, now: datetime) -> Found:
    hours, text = _number("AMSTRAX_ALARM_NO_RUN", 999_999), None
    if hours:
        newest = documents.read(
            collection, {"start": {"$ne": None}}, ["start"], sort=[("start", -1)], limit=1
        )
        begun = documents.utc_time_of(newest[0], "start") if newest else None
        if begun is not None and now - begun > timedelta(hours=hours):
            text = f"no run of {detector} has begun since {begun:%Y-%m-%d %H:%M} UTC"
    return {f"{detector}: no run": text}


def _failed_jobs(detector: str, collection: Any) -> Found:
    most, text = int(_number("AMSTRAX_ALARM_FAILURES", 1000)), None
    if most:
        last = documents.read(
            collection,
            {"$and": [documents.has_status("done", "failed"), documents.is_not_cancelled()]},
            ["name", "number", "processing_status"],
            sort=[("processing_status.time", -1)],
            limit=most,
        )
        states = [documents.status_of(document) for document in last]
        if len(last) == most and all(state.status == "failed" for state in states):
            names = ", ".join(documents.name_of(document) or "?" for document in last[:5])
            reason = states[0].reason
            text = f"the last {most} jobs of {detector} failed (runs {names}): {reason}"
    return {f"{detector}: jobs": text}


def _broken_trends(detector: str, trends: Any) -> Found:
    """Return the quantities of the newest rows of trends, with the limits that they broke."""
    found: Found = {}
    fields = ["name", "values", "flags"]
    newest = [("number", -1), ("time", -1)]
    for row in documents.read(trends, {}, fields, sort=newest, limit=_MOST_ROWS):
        values, flags = row.get("values"), row.get("flags")
        for quantity in values if isinstance(values, Mapping) else ():
            broken = [
                str(flag)
                for flag in (flags if isinstance(flags, list) else ())
                if str(flag).partition(" ")[0] == quantity
            ]
            text = f"trends of {detector}, run {row.get('name')}: {'; '.join(broken)}"
            # That of a newer row counts
            found.setdefault(f"{detector}: trend {quantity}", text if broken else None)
    return found


def _full_disks(detector: str, folders: Iterable[Path]) -> Found:
    found: Found = {}
    least, host = _number("AMSTRAX_ALARM_DISK", 100), documents.this_host()
    for folder in dict.fromkeys(folders):
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(folder)
            share = 100 * usage.free / max(usage.total, 1)
            text = f"{host}: only {share:.1f} % of the disk of {folder} is free"
            found[f"{detector}: disk {host} {folder}"] = text if share < least else None
    return found


def _silence(detector: str, path: Path, now: datetime) -> Found:
    """Return why the loop with this status file is silent, if it is; nothing without the file."""
    said = read_status(path)
    if said is None:
        return {}
    status, time = said
    if status.get("run_id"):
        return {}  # Somebody waits for one run
    what, text = f"automatic processing of {detector} has", None
    pause, reason = status.get("pause"), str(status.get("ended_by") or "")
    longest = _SILENT
    if isinstance(pause, (int, float)) and 0 < pause < 1e6:
        longest = max(longest, timedelta(seconds=3 * pause))
    if status.get("state") == "ended":
        # A signal is named when an operator ended the loop: no fault
        if reason and not reason.startswith("SIG"):
            text = f"{what} ended at {time:%Y-%m-%d %H:%M} UTC: {reason}"
    elif now - time > longest:
        text = f"{what} said nothing since {time:%Y-%m-%d %H:%M} UTC"
    return {f"{detector}: loop": text}


def _number(name: str, high: float) -> float:
    return settings.number(name, float(settings.ALARMS[name][1]), low=0, high=high)


def _check_addresses() -> Found:
    """Raise InvalidOption for settings with which no message can be sent."""
    _mail_server()
    if (settings.get("AMSTRAX_ALARM_SMTP_USER") is None) != (
        settings.get("AMSTRAX_ALARM_SMTP_PASSWORD") is None
    ):
        raise InvalidOption(
            "one of AMSTRAX_ALARM_SMTP_USER and AMSTRAX_ALARM_SMTP_PASSWORD is not set: set both, "
            "or none"
        )
    for address in _receivers():
        if "@" not in address or not address.isprintable():
            raise InvalidOption(
                f"AMSTRAX_ALARM_MAIL: {strict_json.short(address)} is no address of mail: write "
                "them as NAME@HOST, with commas between them"
            )
    _webhook()
    return {}


def _webhook() -> str:
    """Return the address of the webhook; empty without one."""
    webhook = settings.get("AMSTRAX_ALARM_WEBHOOK") or ""
    if webhook and not webhook.startswith(("https://", "http://")):
        # It holds a secret
        raise InvalidOption("AMSTRAX_ALARM_WEBHOOK is no address: begin it with https://")
    return webhook


def _receivers() -> list[str]:
    return (settings.get("AMSTRAX_ALARM_MAIL") or "").replace(",", " ").split()


def _mail_server() -> tuple[str, int]:
    """Return host and port of AMSTRAX_ALARM_SMTP."""
    text = settings.get("AMSTRAX_ALARM_SMTP") or settings.ALARMS["AMSTRAX_ALARM_SMTP"][1]
    host, _, port = text.rpartition(":") if ":" in text else (text, "", "25")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidOption(f"AMSTRAX_ALARM_SMTP is {strict_json.short(text)}: write HOST:PORT")
    return host.strip("[]"), int(port)


# Messages already logged
_logged: dict[str, str] = {}


def _warn_once(message: str, *details: Any) -> None:
    """Log a warning unless it was the last one of its kind."""
    text = message % details
    if _logged.get(message) != text:
        _logged[message] = text
        log.warning("%s", text)


class Alarms:
    """Alarms of this machine, in a file that tools share, by default in AMSTRAX_LOCAL_FOLDER."""

    #: Content of files that cannot be written, as on a full disk
    _unwritten: ClassVar[dict[Path, str]] = {}
    _locks: ClassVar[dict[Path, threading.Lock]] = {}

    def __init__(self, path: Path | None = None):
        self._path = path or settings.local_folder() / "alarms.json"
        self._threads: list[threading.Thread] = []

    def update(self, found: Found, detector: str, now: datetime | None = None) -> list[Alarm]:
        """Record what `find_causes` has found, and return the alarms of a detector to show.

        What is due is sent in threads: see `finish`.
        """
        now = now or datetime.now(UTC)
        with self._changing() as known:
            for name, text in found.items():
                if text is None:
                    # Kept for the pause, in case it comes back
                    if name in known:
                        known[name] |= {"is_over": True, "acknowledged_by": None}
                        if not any(_is_recent(t, now) for t in known[name]["sent"].values()):
                            del known[name]
                    continue
                entry = known.setdefault(name, {"sent": {}, "is_over": True})
                if entry["is_over"]:
                    entry |= {"since": now.isoformat(), "acknowledged_by": None}
                text = strict_json.one_line(text).encode(errors="replace").decode()
                entry |= {"text": text[:_LONGEST], "is_over": False, "seen": now.isoformat()}
            for name, entry in list(known.items()):
                if now - datetime.fromisoformat(entry["seen"]) > _FORGOTTEN:
                    del known[name]
            is_due = {channel: bool(_due(known, channel, now)) for channel in _CHANNELS}
        for channel, (_, is_set) in _CHANNELS.items():
            if is_due[channel] and is_set():
                # A server that hangs must hold neither the loop nor pages
                thread = threading.Thread(target=self._send, args=(channel, now), daemon=True)
                thread.start()
                self._threads.append(thread)
        return _to_show(known, detector)

    def finish(self, seconds: float = 3.0 * _TIMEOUT) -> None:
        """Wait until the messages of `update` are sent, or have failed."""
        for thread in self._threads:
            thread.join(seconds)

    def _send(self, channel: str, now: datetime) -> None:
        """Send the due causes to a channel, and record that; one process at a time."""
        try:
            with self._locked(f".{channel}.lock", wait=False) as is_free:
                if not is_free:
                    return  # Somebody sends now
                with self._changing() as known:
                    due = _due(known, channel, now)
                if not due:
                    return
                send, _ = _CHANNELS[channel]
                send(list(due.values()))
                with self._changing() as known:
                    for name in due.keys() & known.keys():
                        known[name]["sent"][channel] = now.isoformat()
        except Exception as error:
            _warn_once(f"no alarm was sent by {channel}: %s", _why_not_sent(error))
        else:
            _logged.pop(f"no alarm was sent by {channel}: %s", None)

    def shown(self, detector: str) -> list[Alarm]:
        """Return the alarms of a detector that are neither over nor acknowledged."""
        with self._changing() as known:
            return _to_show(known, detector)

    def acknowledge(self, name: str, user: str) -> None:
        """Stop to show and to send an alarm until its cause is over."""
        with self._changing() as known:
            if name in known:
                known[name]["acknowledged_by"] = user
        log.info("alarm %r acknowledged by %s", name, user)

    @contextlib.contextmanager
    def _locked(self, suffix: str, wait: bool = True) -> Iterator[bool]:
        """Hold a lock file, or a lock of this process where none can be made.

        Give whether it is held; with `wait` it is.
        """
        path = self._path.with_suffix(suffix)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
        except OSError:
            lock = self._locks.setdefault(path, threading.Lock())
            is_held = lock.acquire(blocking=wait)
            try:
                yield is_held
            finally:
                if is_held:
                    lock.release()
            return
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, dict[str, Any]]]:
        """Give the content of the file, and write it back if it has changed.

        While it cannot be written, this process keeps the content.
        """
        with self._locked(".lock"):
            text = "{}"
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                text = self._path.read_bytes().decode(errors="replace")
            text = self._unwritten.get(self._path, text)
            known = _parsed(text)
            if known is None:
                _warn_once("%s is damaged, so alarms are sent again", self._path)
                known = {}
            yield known
            new = json.dumps(known, indent=1)
            if new == text and self._path not in self._unwritten:
                return
            try:
                strict_json.write_text(self._path, new)
                self._unwritten.pop(self._path, None)
            except OSError as error:
                self._unwritten[self._path] = new
                reason = error.strerror or error
                _warn_once("%s cannot be written (%s)", self._path, reason)


def _parsed(text: str) -> dict[str, dict[str, Any]] | None:
    """Return the content of the file of alarms; None if it is damaged."""
    try:
        content = json.loads(text)
        for entry in content.values():
            for time in (entry["since"], entry["seen"], *entry["sent"].values()):
                if datetime.fromisoformat(time).tzinfo is None:
                    raise ValueError
            str(entry["text"]), bool(entry["is_over"])
        return content
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _is_recent(time: str, now: datetime) -> bool:
    return now - datetime.fromisoformat(time) < PAUSE


def _due(known: Mapping[str, dict[str, Any]], channel: str, now: datetime) -> dict[str, str]:
    """Return the texts of causes that are to be sent to a channel, by name."""
    return {
        name: entry["text"]
        for name, entry in sorted(known.items())
        if not entry["is_over"]
        and not entry.get("acknowledged_by")
        and _is_recent(entry["seen"], now)
        and not (channel in entry["sent"] and _is_recent(entry["sent"][channel], now))
    }


def _to_show(known: dict[str, dict[str, Any]], detector: str) -> list[Alarm]:
    return [
        Alarm(name, entry["text"], datetime.fromisoformat(entry["since"]))
        for name, entry in sorted(known.items())
        if name.startswith(f"{detector}: ")
        and not entry["is_over"]
        and not entry.get("acknowledged_by")
    ]


def send_mail(texts: list[str]) -> None:
    """Send a mail through the server of the settings.

    A log-in is sent over TLS only, with a certificate that is verified. Raises OSError or
    ValueError when the server does not take the mail.
    """
    host, port = _mail_server()
    user, password = (settings.get(f"AMSTRAX_ALARM_SMTP_{x}") for x in ("USER", "PASSWORD"))
    mail = EmailMessage()
    mail["Subject"] = f"amstrax: {texts[0]}"[:200]
    mail["From"] = user if user and "@" in user else f"amstrax@{documents.this_host()}"
    mail["To"] = ", ".join(_receivers())
    mail.set_content("\n".join(texts))
    tls = ssl.create_default_context()
    if not user:
        # As between mail servers: better than nothing
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    with contextlib.ExitStack() as stack:
        smtp: smtplib.SMTP
        if port == _TLS_PORT:
            smtp = smtplib.SMTP_SSL(host, port, timeout=_TIMEOUT, context=tls)
        else:
            smtp = smtplib.SMTP(host, port, timeout=_TIMEOUT)
        stack.enter_context(smtp)
        smtp.ehlo()
        if port != _TLS_PORT and smtp.has_extn("starttls"):
            smtp.starttls(context=tls)
            smtp.ehlo()
        elif port != _TLS_PORT and user:
            raise InvalidOption(
                f"{host}:{port} offers no STARTTLS, so the password would be readable: correct "
                "AMSTRAX_ALARM_SMTP"
            )
        if user:
            smtp.login(user, password or "")
        refused = smtp.send_message(mail)
    if refused:
        _warn_once("a mail about an alarm was refused for %s", ", ".join(refused))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: they would turn the message into a request for a page, maybe elsewhere."""

    def redirect_request(self, *args: Any) -> None:
        """Return no request, so that the redirect is an error."""


def post(texts: list[str]) -> None:
    """Post a message to the webhook of the settings, in the form that Mattermost and Slack take.

    Raises InvalidOption if its address is none of http, such as that of a file, which would take
    anything; OSError or ValueError when it does not take the message.
    """
    text = html.escape("\n".join(f"amstrax: {text}" for text in texts), quote=False)
    request = urllib.request.Request(
        _webhook(),
        json.dumps({"text": text}).encode(),
        {"Content-Type": "application/json", "User-Agent": "amstrax"},
    )
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=_TIMEOUT):
        pass


def _why_not_sent(error: Exception) -> str:
    """Return the reason, without what a server answers: it may repeat secrets."""
    kind = type(error).__name__
    if isinstance(error, urllib.error.HTTPError):
        is_redirect = 300 <= error.code < 400
        remedy = ", a redirect: set the address to which it leads" if is_redirect else ""
        return f"the webhook answers {error.code}{remedy}"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{kind}, code {error.smtp_code}"
    if isinstance(error, urllib.error.URLError):
        reason = error.reason
        return reason.strerror or kind if isinstance(reason, OSError) else kind
    if isinstance(error, OSError) and not isinstance(error, smtplib.SMTPException):
        return error.strerror or kind
    return str(error) if isinstance(error, InvalidOption) else kind


#: Channel -> function that sends texts to it, and one that tells whether the settings have it
_CHANNELS: dict[str, tuple[Callable[[list[str]], None], Callable[[], Any]]] = {
    "mail": (send_mail, _receivers),
    "webhook": (post, lambda: settings.get("AMSTRAX_ALARM_WEBHOOK")),
}
