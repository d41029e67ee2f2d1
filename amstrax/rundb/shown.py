"""What of a run document is shown to people: without secrets, and what happened to the run when."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from amstrax.rundb import documents, fields

#: What takes the place of a secret
HIDDEN = "(hidden)"

#: Fields that hold secrets, by their names
_SECRET = re.compile(
    r"pass(word|wd|phrase)?$|^pwd$|secret|token|api_?key|private_?key|credential|_auth$|^auth$",
    re.IGNORECASE,
)
#: User and password in an address, as ``mongodb://user:password@host``, up to the last @, since
#: passwords are not always encoded as they should be
_LOGIN = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)[^\s\"']*@")
#: ``password=...`` in a text
_ASSIGNED = re.compile(r"(?P<name>\b(?:password|passwd|pwd|secret|token)\s*[=:]\s*)\S+", re.I)


def without_secrets(value: Any) -> Any:
    """Return a run document, or a part of it, without passwords, tokens and the like.

    The DAQ's settings are part of the document, and may say how it logs in to other machines.
    """
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if item and _SECRET.search(str(key)) else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [without_secrets(item) for item in value]
    if isinstance(value, str):
        text = _LOGIN.sub(rf"\g<scheme>{HIDDEN}@", value)
        return _ASSIGNED.sub(rf"\g<name>{HIDDEN}", text)
    return value


class Moment(NamedTuple):
    """Something that happened to a run: when (UTC), what, and more about it."""

    time: datetime
    what: str
    detail: str = ""


def timeline(document: Mapping[str, Any]) -> list[Moment]:
    """Return what happened to a run, as its document says, in order.

    It was begun and ended, copied and deleted, submitted and processed, failed, tagged and
    commented on.
    """
    return sorted(_moments(document), key=lambda moment: moment.time)


def _moments(document: Mapping[str, Any]) -> Iterator[Moment]:
    for field, what in (("start", "begun"), ("end", "ended")):
        time = time_of(document, field)
        if time is not None:
            yield Moment(time, what)
    for entry in documents.data_of(document):
        yield from _of_data(entry, "time")
    deleted = document.get("deleted_data")
    for entry in documents.data_of({"data": deleted}):
        time = time_of(entry, "deleted_at")
        if time is not None:
            detail = f"{_data(entry)}, by {entry.get('deleted_by') or 'nobody knows whom'}"
            yield Moment(time, "data deleted", detail)
    job = documents.job_of(document)
    time = time_of(job, "time")
    if time is not None:
        where = f"job {job.get('job_id') or '(not known)'} ({job.get('engine')})"
        yield Moment(time, "submitted", f"{where} on {job.get('host')}")
    failures = document.get("processing_failures")
    for failure in failures if isinstance(failures, list) else ():
        if isinstance(failure, Mapping) and (time := time_of(failure, "time")) is not None:
            yield Moment(time, "failed", _reason(failure))
    status = documents.status_of(document)
    time = time_of({"time": status.time}, "time")
    who = documents.cancelled_by(document)
    if time is not None and who is not None:
        yield Moment(time, "cancelled", f"by {who}")
    # The last failure is its status too
    elif time is not None and not (status.status == "failed" and failures):
        yield Moment(time, f"status {status.status}", _reason(status._asdict()))
    for field, what, name in (("tags", "tagged", "name"), ("comments", "comment", "comment")):
        items = document.get(field)
        for item in items if isinstance(items, list) else ():
            if isinstance(item, Mapping) and (time := time_of(item, "date")) is not None:
                by = f" ({item['user']})" if item.get("user") else ""
                yield Moment(time, what, f"{item.get(name)}{by}")


def _of_data(entry: Mapping[str, Any], field: str) -> Iterator[Moment]:
    time = time_of(entry, field)
    if time is not None:
        what = "copied" if entry.get("type") == "live" else "made"
        yield Moment(time, what, _data(entry))


def _data(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('type')} on {entry.get('host')}, {entry.get('location')}"


def _reason(said: Mapping[str, Any]) -> str:
    parts = (f"on {said['host']}" if said.get("host") else "", str(said.get("reason") or ""))
    return ": ".join(part for part in parts if part)


def time_of(document: Mapping[str, Any], field: str) -> datetime | None:
    """Return a time in UTC, None where it is missing or odd."""
    value = fields.time_of(document, field)
    if value is None:
        return None
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class Summary(NamedTuple):
    """What a list of runs says of one.

    Attributes
    ----------
    run_id
        Name of the run; ``"?"`` where it has none.
    start, end
        In UTC; None where they are missing or odd.
    status
        See `amstrax.rundb.documents.STATUSES`.
    mode, user
        As the document says; empty where it does not.
    tags
        Names of the tags.
    types
        Data types that are registered, on whichever host, each once.
    here
        Those of them that are registered on this machine.
    cancelled_by
        Who has cancelled its last job, which is why it has failed; None where nobody has.
    """

    run_id: str
    start: datetime | None
    end: datetime | None
    status: str
    mode: str
    user: str
    tags: list[str]
    types: list[str]
    here: list[str]
    cancelled_by: str | None = None

    @property
    def length(self) -> float | None:
        """Duration [s], None while the run is being taken."""
        if self.start is None or self.end is None:
            return None
        return (self.end - self.start).total_seconds()


#: Fields of a document that `summary` looks at
SUMMARY_FIELDS = (
    *("name", "number", "start", "end", "mode", "user", "tags"),
    *("processing_status", "processing_job.cancelled_by", "data.type", "data.host"),
)


def summary(document: Mapping[str, Any]) -> Summary:
    """Return what a list of runs says of one."""
    entries = documents.data_of(document)
    here = documents.data_of(document, host=documents.this_host())
    return Summary(
        documents.name_of(document) or "?",
        time_of(document, "start"),
        time_of(document, "end"),
        documents.status_of(document).status,
        str(document.get("mode") or ""),
        str(document.get("user") or ""),
        documents.tags_of(document),
        list(dict.fromkeys(str(entry.get("type")) for entry in entries)),
        list(dict.fromkeys(str(entry.get("type")) for entry in here)),
        documents.cancelled_by(document),
    )
