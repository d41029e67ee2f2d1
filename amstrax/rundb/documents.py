"""Run documents in the run database: how tools ask for them, and how they change them.

Every function takes a collection, of MongoDB or of the embedded store. Every change is one atomic
update of one document, and may be repeated: done twice, as after a lost answer, it is done once.
Times are in UTC.

This is the module for whoever uses them. What reads a document is written in ``fields.py``, what
asks for some in ``filters.py`` and ``finding.py``, what changes them in ``leases.py``,
``statuses.py`` and ``registering.py``.
"""

from amstrax.rundb.fields import (
    ABANDON,
    COPY_CLAIM,
    PROCESS,
    PROCESSING_CLAIM,
    STATUSES,
    Status,
    cancelled_by,
    data_of,
    failures_of,
    is_claimed,
    job_of,
    name_of,
    number_of,
    status_of,
    tags_of,
    this_host,
)
from amstrax.rundb.filters import (
    Filter,
    has_data,
    has_no_status,
    has_status,
    has_tag,
    is_not_cancelled,
    is_unclaimed,
    lacks_tag,
    run_filters,
)
from amstrax.rundb.finding import duplicates, find_only, find_run, merge_tags, read
from amstrax.rundb.leases import claim, new_owner, release, renew, server_time
from amstrax.rundb.registering import (
    add_data,
    add_run,
    add_tag,
    new_document,
    remove_data,
    remove_tag,
)
from amstrax.rundb.statuses import record_failure, set_cancelled, set_job, set_job_id, set_status

#: So often is a run tried that always fails
MAX_FAILURES = 3

__all__ = [
    "ABANDON",
    "COPY_CLAIM",
    "MAX_FAILURES",
    "PROCESS",
    "PROCESSING_CLAIM",
    "STATUSES",
    "Filter",
    "Status",
    "add_data",
    "add_run",
    "add_tag",
    "cancelled_by",
    "claim",
    "data_of",
    "duplicates",
    "failures_of",
    "find_only",
    "find_run",
    "has_data",
    "has_no_status",
    "has_status",
    "has_tag",
    "is_claimed",
    "is_not_cancelled",
    "is_unclaimed",
    "job_of",
    "lacks_tag",
    "merge_tags",
    "name_of",
    "new_document",
    "new_owner",
    "number_of",
    "read",
    "record_failure",
    "release",
    "remove_data",
    "remove_tag",
    "renew",
    "run_filters",
    "server_time",
    "set_cancelled",
    "set_job",
    "set_job_id",
    "set_status",
    "status_of",
    "tags_of",
    "this_host",
]
