"""What a run document says: its number and name, status, tags, data, job and claims.

Documents of either form are read, the older and the newer, and odd ones as well as can be.
"""

import math
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeGuard

from amstrax import rundoc, settings
from amstrax.exceptions import InvalidRunDocument
from amstrax.strict_json import short

#: States of a run's processing, from first to last; failed runs are tried again a few times
STATUSES = ("pending", "submitted", "running", "done", "failed")
#: Tag of runs to leave alone, and tag of runs to process whatever their state
ABANDON, PROCESS = "abandon", "process"
#: Fields of claims: of who processes a run, and of who copies or deletes its live data
PROCESSING_CLAIM, COPY_CLAIM = "processing_claim", "copy_claim"
#: A count of failures that is beyond this is none
_MOST_FAILURES = 1_000_000
#: Numbers of runs are below this
_MOST_RUNS = 10**18
#: Older words for these states
OLD_WORDS = {"processing": "running"}


class Status(NamedTuple):
    """State of a run's processing, as a document says it in either form."""

    status: str
    time: datetime | None = None
    host: str | None = None
    reason: str | None = None


def this_host() -> str:
    """Return the name of this machine in run documents: the setting AMSTRAX_HOST, or its own."""
    return settings.get("AMSTRAX_HOST") or socket.gethostname()


def number_of(document: Mapping[str, Any]) -> int | None:
    """Return the number of a run, None where the document has none, or an odd one."""
    for value in (document.get("number"), document.get("name")):
        if is_text(value) and value.isascii() and value.isdigit() and len(value) < 19:
            return int(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1:
            return int(value) if 0 <= value < _MOST_RUNS else None
    return None


def name_of(document: Mapping[str, Any]) -> str | None:
    """Return the name of a run: the document's, or its number with six digits; else None."""
    name = document.get("name")
    if isinstance(name, str) and name:
        # BSON's JavaScript code is a str that cannot be hashed
        return str(name)
    number = number_of(document)
    return None if number is None else f"{number:06d}"


def status_of(document: Mapping[str, Any]) -> Status:
    """Return the status of a run from the older form, a word, or the newer one, a document.

    Where nothing is set, or something that is neither, it is pending.
    """
    value = document.get("processing_status")
    if is_text(value) and value:
        if value.startswith("failed"):
            reason = value.removeprefix("failed").removeprefix(" due to ").strip()
            return Status("failed", reason=reason or None)
        return Status(_word(value))
    word = value.get("status") if isinstance(value, Mapping) else None
    if isinstance(value, Mapping) and isinstance(word, str):
        said = (_said(value.get(field)) for field in ("host", "reason"))
        return Status(_word(word), time_of(value, "time"), *said)
    return Status("pending")


def _word(value: str) -> str:
    """Return today's word for a status."""
    return OLD_WORDS.get(str(value), str(value))


def is_text(value: object) -> TypeGuard[str]:
    """Return whether a value is a text, and none of code, which BSON has too."""
    return type(value) is str


def _said(value: object) -> str | None:
    return value if value is None or is_text(value) else short(value)


def time_of(document: Mapping[str, Any], field: str) -> datetime | None:
    """Return a time as the document has it or, of a time in JSON, in UTC; None if it is odd."""
    value = document.get(field)
    if value is None or isinstance(value, datetime):
        return value
    try:
        return rundoc.start_time({"start": value})
    except InvalidRunDocument:
        return None


def cancelled_by(document: Mapping[str, Any]) -> str | None:
    """Return who has cancelled the last job of a run that has failed; None where nobody has.

    Such a run is not tried again by itself; whatever submits it forgets that.
    """
    who = job_of(document).get("cancelled_by")
    return str(who) if who and status_of(document).status == "failed" else None


def failures_of(document: Mapping[str, Any]) -> int:
    """Return how often processing of a run has failed."""
    value = document.get("processing_failed")
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = float(value)
    if isinstance(value, (int, float)) and math.isfinite(value):
        return min(max(int(value), 0), _MOST_FAILURES)
    return 0


def tags_of(document: Mapping[str, Any]) -> list[str]:
    """Return the names of a run's tags."""
    tags = document.get("tags")
    names = [
        tag.get("name") if isinstance(tag, Mapping) else tag
        # One that is in no list is found by the filter for tags as well
        for tag in (tags if isinstance(tags, list) else [tags])
    ]
    return [str(name) for name in names if isinstance(name, str) and name]


def data_of(document: Mapping[str, Any], **fields: Any) -> list[dict[str, Any]]:
    """Return the entries of a run's data in which `fields`, as ``type="live"``, are as given."""
    data = document.get("data")
    return [
        entry
        for entry in (data if isinstance(data, list) else ())
        if isinstance(entry, dict) and all(entry.get(k) == v for k, v in fields.items())
    ]


def job_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of a run's last job: attempt, engine, job_id, name, ...; may be empty.

    One without ``job_id`` was about to be submitted, or was no job of an engine.
    """
    job = document.get("processing_job")
    return dict(job) if isinstance(job, Mapping) else {}


def is_claimed(
    document: Mapping[str, Any],
    field: str = PROCESSING_CLAIM,
    attempt: str | None = None,
    now: datetime | None = None,
) -> bool:
    """Return whether somebody works on a run: what the filter `is_unclaimed` leaves out.

    Parameters
    ----------
    document
        Run document.
    field
        Field of the document that the claim is in.
    attempt
        Ask whether it is a job of this attempt that has the claim.
    now
        Time by the database server's clock; by default this machine's, which will do for a first
        look.
    """
    claim = document.get(field)
    if claim is None:
        return False
    if not isinstance(claim, Mapping):
        return attempt is None
    if attempt is not None and not str(claim.get("owner")).startswith(f"{attempt}."):
        return False
    expires = claim.get("expires")
    # One that never expires is for whoever has written it to take away
    return not isinstance(expires, datetime) or (
        expires.replace(tzinfo=expires.tzinfo or UTC) > (now or datetime.now(UTC))
    )
