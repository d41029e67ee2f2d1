"""Alarms: find faults of automatic processing, show them on the dashboard and send messages.

The loop of automatic processing and the dashboard look for causes. They share a file, in the folder
of the setting AMSTRAX_LOCAL_FOLDER, so a cause is sent once an hour at most, whoever finds it.
"""

import contextlib
import fcntl
import json
import logging
import shutil
import smtplib
import urllib.request
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any, NamedTuple

from amstrax import settings, strict_json
from amstrax.auto_processing.loop import read_status
from amstrax.rundb import documents

log = logging.getLogger(__name__)

#: Shortest interval between two messages about a cause
PAUSE = timedelta(hours=1)
#: The loop is silent when its status is older
_SILENT = timedelta(minutes=15)
#: Longest time that sending may take [s]
_TIMEOUT = 10


class Cause(NamedTuple):
    """Something that goes wrong: a name with the detector, as ``xams: jobs``, and a text."""

    name: str
    text: str


class Alarm(NamedTuple):
    """A cause that persists, with the time at which it was first seen."""

    name: str
    text: str
    since: datetime


def find_causes(
    detector: str,
    collection: Any,
    folders: Iterable[Path],
    status_file: Path | None = None,
    now: datetime | None = None,
) -> list[Cause]:
    """Return what goes wrong now.

    Parameters
    ----------
    detector
        Detector of the runs.
    collection
        Collection of run documents.
    folders
        Folders on disks that must not be full.
    status_file
        Status of the loop, as of `loop.write_status`; None: the loop itself asks.
    now
        Present time (UTC).
    """
    now = now or datetime.now(UTC)
    found = []
    said = None if status_file is None else read_status(status_file)
    if said is not None and said[0].get("state") != "ended" and now - said[1] > _SILENT:
        minutes = (now - said[1]).total_seconds() / 60
        text = f"automatic processing of {detector} has said nothing for {minutes:.0f} minutes"
        found.append(Cause(f"{detector}: loop", text))
    if most := int(_number("AMSTRAX_ALARM_FAILURES")):
        last = documents.read(
            collection,
            documents.has_status("done", "failed"),
            ["name", "number", "processing_status", "processing_job"],
            sort=[("processing_status.time", -1)],
            limit=most,
        )
        states = [documents.state_of(document) for document in last]
        if len(last) == most and all(state.status == "failed" for state in states):
            names = ", ".join(documents.name_of(document) or "?" for document in last)
            text = f"the last {most} jobs of {detector} failed (runs {names}): {states[0].reason}"
            found.append(Cause(f"{detector}: jobs", text))
    if hours := _number("AMSTRAX_ALARM_NO_RUN"):
        newest = documents.read(
            collection, {"start": {"$ne": None}}, ["start"], sort=[("start", -1)], limit=1
        )
        begun = documents.utc_time_of(newest[0], "start") if newest else None
        if begun is not None and now - begun > timedelta(hours=hours):
            text = f"no run of {detector} has begun since {begun:%Y-%m-%d %H:%M} UTC"
            found.append(Cause(f"{detector}: no run", text))
    least = _number("AMSTRAX_ALARM_DISK")
    for folder in dict.fromkeys(folders):
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(folder)
            share = 100 * usage.free / max(usage.total, 1)
            if share < least:
                text = f"{documents.this_host()}: {share:.1f} % of the disk of {folder} are free"
                found.append(Cause(f"{detector}: disk {folder}", text))
    return found


def _number(name: str) -> float:
    return settings.number(name, float(settings.ALARMS[name][1]), low=0, high=999_999)


class Alarms:
    """Alarms of this machine, in a file that tools share.

    Parameters
    ----------
    path
        The file; None for that in the folder of AMSTRAX_LOCAL_FOLDER.
    """

    def __init__(self, path: Path | None = None):
        self._path = path or settings.local_folder() / "alarms.json"

    def update(
        self, causes: Iterable[Cause], detector: str, now: datetime | None = None
    ) -> list[Alarm]:
        """Record the causes of a detector of now, send what is due, return the alarms to show."""
        now = now or datetime.now(UTC)
        by_name = {cause.name: cause for cause in causes}
        due = []
        with self._changing() as known:
            for name, cause in by_name.items():
                entry = known.setdefault(name, {"since": now.isoformat(), "sent": None})
                entry |= {"text": cause.text, "is_over": False}
                is_quiet = entry["sent"] and now - datetime.fromisoformat(entry["sent"]) < PAUSE
                if not is_quiet and not entry.get("acknowledged_by"):
                    entry["sent"] = now.isoformat()
                    due.append(cause.text)
            ended = [name for name in known.keys() - by_name.keys() if _of(name) == detector]
            for name in ended:
                # Kept for the pause, in case it comes back
                known[name] |= {"is_over": True, "acknowledged_by": None}
                sent = known[name]["sent"]
                if not sent or now - datetime.fromisoformat(sent) >= PAUSE:
                    del known[name]
        if due:
            send(due)
        return _to_show(known, detector)

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
    def _changing(self) -> Iterator[dict[str, dict[str, Any]]]:
        """Give the content of the file, and write it back if it has changed."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            text = self._path.read_text(encoding="utf-8") if self._path.exists() else "{}"
            try:
                known = json.loads(text)
            except ValueError:
                log.warning("%s is damaged, so alarms are sent again", self._path)
                known = {}
            yield known
            new = json.dumps(known, indent=1)
            if new != text:
                strict_json.write_text(self._path, new)


def _of(name: str) -> str:
    """Return the detector in the name of a cause."""
    return name.partition(":")[0]


def _to_show(known: dict[str, dict[str, Any]], detector: str) -> list[Alarm]:
    return [
        Alarm(name, entry["text"], datetime.fromisoformat(entry["since"]))
        for name, entry in sorted(known.items())
        if _of(name) == detector and not entry["is_over"] and not entry.get("acknowledged_by")
    ]


def send(texts: list[str]) -> None:
    """Send a message to the addresses and the webhook of the settings; failures are logged."""
    receivers = (settings.get("AMSTRAX_ALARM_MAIL") or "").replace(",", " ").split()
    if receivers:
        server = settings.get("AMSTRAX_ALARM_SMTP") or "localhost:25"
        try:
            send_mail(server, receivers, texts)
        except (OSError, ValueError) as error:
            log.warning("no mail about an alarm was sent through %s: %s", server, error)
    address = settings.get("AMSTRAX_ALARM_WEBHOOK")
    if address:
        try:
            post(address, texts)
        except (OSError, ValueError) as error:
            # The address holds a secret
            log.warning("AMSTRAX_ALARM_WEBHOOK takes no alarm (%s)", type(error).__name__)


def send_mail(server: str, receivers: list[str], texts: list[str]) -> None:
    """Send a mail through a server, written as ``HOST:PORT``."""
    host, _, port = server.partition(":")
    mail = EmailMessage()
    mail["Subject"] = f"amstrax: {texts[0]}".replace("\n", " ")[:200]
    mail["From"] = f"amstrax@{documents.this_host()}"
    mail["To"] = ", ".join(receivers)
    mail.set_content("\n".join(texts))
    with smtplib.SMTP(host, int(port or 25), timeout=_TIMEOUT) as smtp:
        smtp.send_message(mail)


def post(address: str, texts: list[str]) -> None:
    """Post a message to a webhook, in the form that Mattermost and Slack take."""
    if not address.startswith(("https://", "http://")):
        raise ValueError("a webhook begins with https://")
    body = json.dumps({"text": "\n".join(f"amstrax: {text}" for text in texts)}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT):
        pass
