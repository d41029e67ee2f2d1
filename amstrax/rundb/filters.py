"""Filters for run documents, for whoever asks the run database."""

from datetime import datetime
from typing import Any

from amstrax.exceptions import InvalidOption
from amstrax.rundb.fields import OLD_WORDS, PROCESSING_CLAIM

Filter = dict[str, Any]


def run_filters(run_id: str | int, runid_field: str | None = None) -> list[Filter]:
    """Return filters that find a run, the likeliest first.

    Raises
    ------
    InvalidOption
        For a `runid_field` that is neither ``"name"`` nor ``"number"``.
    """
    if runid_field not in (None, "name", "number"):
        raise InvalidOption(f"runid_field is {runid_field!r}: it must be 'name' or 'number'")
    text = str(run_id)
    filters: list[Filter] = []
    if runid_field != "name" and text.isascii() and text.isdigit() and len(text) < 19:
        filters.append({"number": int(text)})
    if runid_field != "number":
        filters.append({"name": f"{run_id:06d}" if isinstance(run_id, int) else text})
    return filters


def has_status(*statuses: str) -> Filter:
    """Return a filter for runs of these statuses, in either form."""
    words = set(statuses) | {old for old, new in OLD_WORDS.items() if new in statuses}
    options: list[Filter] = [
        {"processing_status": {"$in": sorted(words)}},
        {"processing_status.status": {"$in": sorted(words)}},
    ]
    if "pending" in statuses:
        options.append({"processing_status": None})
    if "failed" in statuses:
        options.append({"processing_status": {"$regex": "^failed"}})
    return {"$or": options}


def has_no_status() -> Filter:
    """Return a filter for runs whose document says nothing of a status, in neither form."""
    return {
        "$nor": [
            {"processing_status": {"$type": "string"}},
            {"processing_status.status": {"$type": "string"}},
        ]
    }


def is_not_cancelled() -> Filter:
    """Return a filter for runs whose last job nobody has cancelled."""
    return {"processing_job.cancelled_by": None}


def has_tag(name: str) -> Filter:
    """Return a filter for runs with a tag."""
    return {"$or": [{"tags.name": name}, {"tags": name}]}


def lacks_tag(name: str) -> Filter:
    """Return a filter for runs without a tag."""
    return {"$and": [{"tags.name": {"$ne": name}}, {"tags": {"$ne": name}}]}


def has_data(data_type: str, **fields: Any) -> Filter:
    """Return a filter for runs with data of a type, as ``has_data("live", host="daq")``."""
    return {"data": {"$elemMatch": {"type": data_type, **fields}}}


def is_unclaimed(now: datetime, field: str = PROCESSING_CLAIM) -> Filter:
    """Return a filter for runs that nobody works on.

    Parameters
    ----------
    now
        Time by the database server's clock, see `amstrax.rundb.leases.server_time`.
    field
        Field of the claim.
    """
    return {"$or": [{field: None}, {f"{field}.expires": {"$lte": now}}]}
