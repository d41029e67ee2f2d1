"""Documents of campaigns: a collection of the run database, for all detectors.

A campaign is a list of runs, the data to make of them, and the lineages that this data will have.
It is small, and fixed when it is planned but for ``state``, which operators change, and ``claim``,
the lease of the process that submits (`amstrax.rundb.leases`). The state of each run follows from
its run document, so both cannot disagree: see `Campaign.state_of`.
"""

import functools
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from amstrax import settings
from amstrax.exceptions import AlreadyAtWork, InvalidOption, RunNotFound, UsageError
from amstrax.rundb import connection, documents, leases
from amstrax.strict_json import short

#: Field of the document with the lease of the process that submits
CLAIM = "claim"
#: Lifetime of that lease [s]
LIFETIME = 120.0
#: States of a campaign: jobs are submitted, or not until it is resumed
OPEN, PAUSED = "open", "paused"
#: Word in place of a name that lists all campaigns
ALL = "list"
#: States of a run in a campaign. ``stored``: its data was there before; ``no raw data``: it cannot
#: be made; ``skipped``: it has the tag ``abandon``, or is being taken; ``failed``: given up
WAITING, SUBMITTED, RUNNING = "waiting", "submitted", "running"
DONE, STORED, FAILED, NO_RAW_DATA, SKIPPED = "done", "stored", "failed", "no raw data", "skipped"
STATES = (WAITING, SUBMITTED, RUNNING, DONE, STORED, FAILED, NO_RAW_DATA, SKIPPED)
#: States of runs whose data is complete
MADE_STATES = (DONE, STORED)
#: States of runs to submit, and of those to wait for
OPEN_STATES = (WAITING, SUBMITTED, RUNNING)
#: Fields of a run document that `Campaign.state_of` reads
FIELDS = (
    *("name", "number", "start", "end", "tags", "processing_status", "processing_failed"),
    *("processing_job", documents.PROCESSING_CLAIM, "daq_config.strax_output_path"),
    *("data.type", "data.host", "data.location", "data.lineage_hash", "data.time", "data.size_mb"),
)
#: Largest number of runs in a query
_MOST_NAMES = 1000
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


class Kind(NamedTuple):
    """What is made of runs of one kind: context, targets, and data types with their lineage hashes.

    The types are those that are stored, the targets and raw data among them.
    """

    context: str
    targets: tuple[str, ...]
    hashes: Mapping[str, str]


class RunState(NamedTuple):
    """State of a run in a campaign: why it has it, when its data was complete, and was submitted.

    A waiting run that has failed ``is_due`` when the pause before its retry is over; it ``is_new``
    if nothing has been done for the campaign yet, so that earlier failures do not count.
    """

    state: str
    reason: str = ""
    time: datetime | None = None
    submitted: datetime | None = None
    is_due: bool = True
    is_new: bool = False


@dataclass(frozen=True)
class Campaign:
    """A campaign, as in its document.

    Attributes
    ----------
    options
        JSON of the options for its jobs.
    places
        Folders for raw data and for all other data.
    runs, kind_of_run, mb, disk_mb
        For each run its name, the index of its kind, the size of its input, and the estimated size
        of its output [MB].
    estimate
        Text on how processor time and sizes were estimated.
    seconds
        Estimated processor time [s].
    max_failures
        Failures after which a run is given up.
    time, user, host
        When, by whom and where it was planned, by the clock of the run database.
    state, changed_by
        One of `OPEN` and `PAUSED`, and who has set it last.
    """

    name: str
    detector: str
    options: str
    places: tuple[str, str]
    raw_types: tuple[str, ...]
    kinds: tuple[Kind, ...]
    runs: tuple[str, ...]
    kind_of_run: tuple[int, ...]
    mb: tuple[float, ...]
    disk_mb: tuple[float, ...]
    estimate: str
    seconds: float
    time: datetime
    max_failures: int = documents.MAX_FAILURES
    user: str = field(default_factory=settings.login_name)
    host: str = field(default_factory=documents.this_host)
    state: str = OPEN
    changed_by: str = ""

    def to_document(self) -> dict[str, Any]:
        """Return the document, whose ``_id`` is the name, so that a name stands for one."""
        kinds = [kind._asdict() for kind in self.kinds]
        return {"_id": self.name, **asdict(self), "kinds": kinds}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Campaign":
        """Return the campaign in a document; an invalid one raises `InvalidOption`."""
        try:
            values = {f.name: document[f.name] for f in fields(cls)}
            kinds = tuple(
                Kind(kind["context"], tuple(kind["targets"]), dict(kind["hashes"]))
                for kind in values["kinds"]
            )
            time = documents.utc_time_of(document, "time")
            if time is None:
                raise ValueError("time")
            if not isinstance(json.loads(values["options"]), dict):
                raise ValueError("options")
            if type(values["max_failures"]) is not int:
                raise ValueError("max_failures")
            lists = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
            lengths = {len(lists[k]) for k in ("runs", "kind_of_run", "mb", "disk_mb")}
            if len(lengths) > 1 or not {*lists["kind_of_run"]} <= {*range(len(kinds))}:
                raise ValueError("lists of runs that differ")
            return cls(**values | lists | {"kinds": kinds, "time": time})
        except (LookupError, TypeError, ValueError) as error:
            raise InvalidOption(
                f"the document of campaign {short(document.get('_id'), str)} is invalid ({error}): "
                "remove the campaign, and plan it again"
            ) from None

    def kind(self, run_id: str) -> Kind:
        """Return what is made of a run."""
        return self.kinds[self.kind_of_run[self.index[run_id]]]

    @functools.cached_property
    def index(self) -> Mapping[str, int]:
        """Index of each run in the lists of the document."""
        return {name: i for i, name in enumerate(self.runs)}

    def entry(self, document: Mapping[str, Any], data_type: str) -> dict[str, Any] | None:
        """Return the registered entry of planned data of a run; None if it is not registered.

        It is registered for this machine or for the folders of the campaign, which jobs on other
        machines write to.
        """
        wanted = self.kind(documents.name_of(document) or "").hashes.get(data_type)
        for entry in documents.data_of(document, type=data_type, lineage_hash=wanted):
            is_here = entry.get("host") == documents.this_host()
            if is_here or entry.get("location") in self.places:
                return entry
        return None

    def state_of(
        self, document: Mapping[str, Any], now: datetime, retry_pause: float = 0.0
    ) -> RunState:
        """Return the state of a run of the campaign, from its document with `FIELDS` alone.

        Whether a waiting run has raw data is not in the document. `now` is the time of the database
        server; `retry_pause` the time from the first failure to the next attempt [s], doubled by
        each further one.
        """
        found = documents.state_of(document)
        kind = self.kind(documents.name_of(document) or "")
        entries = [self.entry(document, target) for target in kind.targets]
        is_claimed = documents.is_claimed(document, now=now)
        since = documents.utc_time_of({"time": found.time}, "time")
        if None not in entries:
            times = [documents.utc_time_of(entry or {}, "time") for entry in entries]
            last = max((time for time in times if time), default=None)
            is_older = last is None or last < self.time
            is_open = found.status in (SUBMITTED, RUNNING) and (is_claimed or not is_older)
            # A job that was killed after it had registered the data: the next one sets the status
            has_failed = found.status in ("failed", "cancelled") and not is_older
            if not is_open and not (has_failed and since and since >= self.time):
                begun = documents.utc_time_of(documents.job_of(document), "time")
                return RunState(STORED if is_older else DONE, time=last, submitted=begun)
        if documents.ABANDON in documents.tags_of(document):
            return RunState(SKIPPED, f"it has the tag '{documents.ABANDON}'")
        if document.get("end") is None:
            return RunState(SKIPPED, "it has no end: it is being taken, or was cut off")
        if found.status in (SUBMITTED, RUNNING):
            claim = document.get(documents.PROCESSING_CLAIM)
            # As in the automatic loop: the job that began it is gone
            if isinstance(claim, Mapping) and not is_claimed:
                return RunState(WAITING, "its job is gone")
            job = documents.job_of(document)
            return RunState(
                found.status, f"job {job.get('job_id')} of {job.get('engine')}, {job.get('host')}"
            )
        if since is None or since < self.time:
            return RunState(WAITING, is_new=True)
        if found.status == "cancelled":
            return RunState(FAILED, found.reason or "cancelled")
        if found.status == "failed":
            failures = documents.failures_of(document)
            if failures >= self.max_failures:
                return RunState(FAILED, found.reason or "no reason given")
            pause = timedelta(seconds=retry_pause * 2 ** max(failures - 1, 0))
            is_due = since + pause <= now
            return RunState(WAITING, f"failure {failures}: {found.reason}", is_due=is_due)
        job = documents.job_of(document)
        is_ours = set(kind.targets) <= set(job.get("targets") or ())
        if found.status == "done" and is_ours and job.get("context") == kind.context:
            return RunState(
                FAILED,
                "done, but its data has another lineage than planned, as after a change of amstrax "
                "or of the corrections: plan a new campaign",
            )
        return RunState(WAITING)


def check_name(name: str) -> str:
    """Return the name of a campaign; raise UsageError for an invalid one."""
    if not _NAME.fullmatch(name) or name == ALL:
        raise UsageError(
            f"{short(name)} is no name of a campaign: begin with a letter, and use letters, "
            f"digits, _ . and -, at most 64; not {ALL!r}"
        )
    return name


def get_collection() -> Any:
    """Return the collection of campaigns."""
    return connection.get_collection(connection.DATABASE, "campaigns")


def add(campaigns: Any, campaign: Campaign) -> None:
    """Add a campaign; raise UsageError when there is one of this name."""
    from pymongo.errors import DuplicateKeyError  # slow to import

    check_name(campaign.name)
    try:
        # Again after a lost answer, it is there: then it must be this one
        connection.resilient(campaigns.insert_one, campaign.to_document())
    except DuplicateKeyError:
        known = find(campaigns, campaign.name)
        is_same = all(getattr(known, x) == getattr(campaign, x) for x in ("user", "host", "runs"))
        if not is_same or abs((known.time - campaign.time).total_seconds()) > 0.001:
            raise UsageError(
                f"campaign {campaign.name} exists, planned by {known.user} on "
                f"{known.time:%Y-%m-%d %H:%M} UTC: choose another name, or remove it first"
            ) from None


def find(campaigns: Any, name: str) -> Campaign:
    """Fetch a campaign; errors are those of `find_document` and `Campaign.of`."""
    return Campaign.of(find_document(campaigns, name))


def find_document(campaigns: Any, name: str) -> dict[str, Any]:
    """Fetch the document of a campaign, unchecked; raise UsageError when there is none."""
    document = campaigns.find_one({"name": check_name(name)})
    if document is None:
        known = [each["name"] for each in documents.read(campaigns, {}, ["name"], limit=10)]
        there = f"there are {', '.join(known)[:80]}" if known else "there are none"
        raise UsageError(f"no campaign {name!r}: {there}; `amstrax campaign {name} plan` plans one")
    return dict(document)


def find_all(campaigns: Any) -> list[dict[str, Any]]:
    """Fetch the documents of all campaigns, without their runs' sizes, oldest first."""
    fields_ = [f.name for f in fields(Campaign) if f.name not in ("mb", "disk_mb", "kind_of_run")]
    return documents.read(campaigns, {}, [*fields_, CLAIM], sort=[("time", 1)])


def read_state(campaigns: Any, name: str) -> tuple[str, str]:
    """Fetch the state of a campaign, and who has set it; raise UsageError when it is removed."""
    document = campaigns.find_one({"name": name}, ["state", "changed_by"])
    if document is None:
        raise UsageError(f"campaign {name} has been removed")
    return str(document.get("state")), str(document.get("changed_by") or "")


def set_state(campaigns: Any, name: str, state: str) -> None:
    """Set the state of a campaign, and record the user; raise UsageError when there is none."""
    change = {"state": state, "changed_by": settings.login_name()}
    if not campaigns.update_one({"name": check_name(name)}, {"$set": change}).matched_count:
        find_document(campaigns, name)


def claimed_by(campaigns: Any, name: str) -> str:
    """Return user and host of the process that submits for a campaign; empty without one."""
    document = campaigns.find_one({"name": name}, [CLAIM]) or {}
    return holder(document, documents.server_time(campaigns))


def holder(document: Mapping[str, Any], now: datetime) -> str:
    """Return user and host of the owner of the lease in a document; empty without a valid lease."""
    claim = document.get(CLAIM)
    if not isinstance(claim, Mapping) or not documents.is_claimed(document, CLAIM, now=now):
        return ""
    owner = str(claim.get("owner"))
    if leases.is_dead(owner):
        return ""
    return f"{owner.partition('/')[0]} on {claim.get('host')}"


def lease(campaigns: Any, name: str) -> leases.Lease:
    """Return the lease of the process that submits for a campaign, not yet acquired."""
    return leases.Lease(campaigns, name, settings.login_name() or "?", CLAIM, LIFETIME)


def remove(campaigns: Any, name: str) -> None:
    """Remove the document of a campaign; its jobs and data stay.

    Raises UsageError when there is none of this name, AlreadyAtWork when a process submits for it.
    """
    find_document(campaigns, name)
    held = lease(campaigns, name)
    try:
        is_free = held.acquire()
    except RunNotFound:
        return
    if not is_free:
        raise AlreadyAtWork(
            f"campaign {name} is not removed: {claimed_by(campaigns, name)} submits for it; stop "
            "that process first"
        )
    try:
        campaigns.delete_one({"name": name})
    finally:
        held.release()


def read_runs(
    runs: Any, names: Collection[str], more: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """Fetch the documents of runs, with `FIELDS` and the fields `more`, by name.

    `runs` is the collection of run documents. A run without document is missing in the result.
    """
    found: dict[str, dict[str, Any]] = {}
    wanted = sorted(names)
    for begin in range(0, len(wanted), _MOST_NAMES):
        part = wanted[begin : begin + _MOST_NAMES]
        for document in documents.read(runs, documents.has_name(part), [*FIELDS, *more]):
            name = documents.name_of(document)
            if name is not None:
                found.setdefault(name, document)
    return found
