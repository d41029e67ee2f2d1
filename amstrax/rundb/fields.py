"""What a run document says: its number and name, status, tags, data, job and claims.

Documents of either form are read, the older and the newer, and odd ones as well as can be.
"""

import math
import re
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from amstrax import settings

#: States of a run's processing, from first to last; failed runs are tried again a few times
STATUSES = ("pending", "submitted", "running", "done", "failed")
#: Tag of runs to leave alone, and tag of runs to process whatever their state
ABANDON, PROCESS = "abandon", "process"
#: Fields of claims: of who processes a run, and of who copies or deletes its live data
PROCESSING_CLAIM, COPY_CLAIM = "processing_claim", "copy_claim"
_DIGITS = re.compile("[0-9]{1,19}")
#: A count of failures that is beyond this is none
_MOST_FAILURES = 1_000_000
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
        if (
            (isinstance(value, str) and _DIGITS.fullmatch(value))
            or (isinstance(value, float) and value.is_integer())
            or (isinstance(value, int) and not isinstance(value, bool))
        ) and -(2**63) <= int(value) < 2**63:
            # MongoDB has no larger integers
            return int(value)
    return None


def name_of(document: Mapping[str, Any]) -> str | None:
    """Return the name of a run: the document's, or its number with six digits; else None."""
    name = document.get("name")
    if isinstance(name, str) and name:
        return name
    number = number_of(document)
    return None if number is None else f"{number:06d}"


def status_of(document: Mapping[str, Any]) -> Status:
    """Return the status of a run from the older form, a word, or the newer one, a document.

    Where nothing is set, or something that is neither, it is pending.
    """
    value = document.get("processing_status")
    if isinstance(value, str) and value:
        if value.startswith("failed"):
            reason = value.removeprefix("failed").removeprefix(" due to ").strip()
            return Status("failed", reason=reason or None)
        return Status(OLD_WORDS.get(value, value))
    word = value.get("status") if isinstance(value, Mapping) else None
    if isinstance(value, Mapping) and isinstance(word, str):
        return Status(
            OLD_WORDS.get(word, word),
            value.get("time"),
            value.get("host"),
            value.get("reason"),
        )
    return Status("pending")


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
    return [name for name in names if isinstance(name, str) and name]


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
