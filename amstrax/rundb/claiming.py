"""Claims on runs: each is one owner's, until it is given up or expires."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from amstrax.rundb.fields import PROCESSING_CLAIM, this_host
from amstrax.rundb.filters import Filter, is_unclaimed
from amstrax.rundb.finding import id_of

#: How long a claim lasts unless it is renewed [s]
CLAIM_LIFETIME = 900.0


def claim(
    collection: Any,
    run_id: str | int,
    owner: str,
    lifetime: float = CLAIM_LIFETIME,
    field: str = PROCESSING_CLAIM,
    instead_of: Mapping[str, Any] | None = None,
) -> bool:
    """Claim a run, or renew the own claim; return False when somebody else works on it.

    Parameters
    ----------
    collection
        Collection of run documents.
    run_id
        Name or number of the run.
    owner
        Name of the claimer, as `new_owner` makes it.
    lifetime
        Time after which others may claim it, unless it is renewed [s].
    field
        Field of the document that the claim is in: there is one for each kind of work.
    instead_of
        Filter: take the claim of another one if the document matches it.

    Raises
    ------
    RunNotFound
        When there is no such run.
    """
    from pymongo import ReturnDocument

    now = datetime.now(UTC)
    claim = {
        "owner": owner,
        "host": this_host(),
        "time": now,
        "expires": now + timedelta(seconds=lifetime),
    }
    mine: Filter = {f"{field}.owner": owner}
    may_take = [is_unclaimed(now, field), mine, *([instead_of] if instead_of else [])]
    found = collection.find_one_and_update(
        {"_id": id_of(collection, run_id), "$or": may_take},
        {"$set": {field: claim}},
        projection=["_id"],
        return_document=ReturnDocument.AFTER,
    )
    return found is not None


def renew(
    collection: Any,
    run_id: str | int,
    owner: str,
    lifetime: float = CLAIM_LIFETIME,
    field: str = PROCESSING_CLAIM,
) -> bool:
    """Let an own claim last longer; return False when it is not ours (any more)."""
    done = collection.update_one(
        {"_id": id_of(collection, run_id), f"{field}.owner": owner},
        {"$set": {f"{field}.expires": datetime.now(UTC) + timedelta(seconds=lifetime)}},
    )
    return done.matched_count == 1


def release(collection: Any, run_id: str | int, owner: str, field: str = PROCESSING_CLAIM) -> bool:
    """Give an own claim up; return False when it was not ours (any more)."""
    done = collection.update_one(
        {"_id": id_of(collection, run_id), f"{field}.owner": owner},
        {"$unset": {field: ""}},
    )
    return done.matched_count == 1
