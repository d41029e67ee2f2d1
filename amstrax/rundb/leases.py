"""The right to work on a run: one class and one rule, to submit, process, copy or delete it.

A lease is a field of the run document, one for each kind of work: owner, host, start and end. Its
times are those of the database server's clock, so the clocks of hosts do not matter; the embedded
store is on one machine, whose clock it is.

The rule: a lease ends `LIFETIME` after its last renewal, and a thread renews it. Whoever has not
renewed it for `STOP_AFTER` of that time stops, and has the rest of it to do so. A lease that has
ended may be taken, and so may one whose owner was a process of this machine that has ended.

`RunClaim` is what a job writes into its run's document for as long as it has the lease of the run.
"""

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from amstrax.exceptions import (
    AlreadyAtWork,
    InvalidRunDocument,
    LocalDatabaseError,
    RunDatabaseError,
    RunDatabaseUnreachable,
    RunNotFound,
    Stopped,
)
from amstrax.rundb import connection, documents
from amstrax.rundb.documents import COPY_CLAIM, PROCESSING_CLAIM, Filter

log = logging.getLogger(__name__)

#: How long a lease lasts unless it is renewed [s]
LIFETIME = 900.0
#: Fraction of the lifetime after which an owner that could not renew stops
STOP_AFTER = 2 / 3
#: Attempts to renew within a lifetime
_RENEWALS = 12
_SEPARATOR = "/"
#: Beginning of the name of an owner who submits a job
OWNER_PREFIX = "submit-"
#: While the run database is away: time between two attempts, and between two lines about it [s]
PAUSE, SAY_EVERY = 2.0, 60.0
#: Time between two looks at a claim of one who submits [s]
LOOK_EVERY = 0.2
T = TypeVar("T")


class Stop:
    """Whether the job is to stop; ``reason`` is the signal that said so, if one did.

    Signals only set this; the work looks at it between chunks and while it waits, so that no
    exception comes up where strax, or a log, cannot deal with one.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.reason = ""
        #: What a user is told of what is left
        self.remark = "what was incomplete has been removed; start again to go on"

    def check(self) -> None:
        """Raise `Stopped` if the job is to stop."""
        if self.event.is_set():
            raise Stopped(self.message())

    def message(self) -> str:
        """Return what to tell the user."""
        if not self.reason:
            return "stopped, since another part of the job has failed"
        return f"stopped by {self.reason}: {self.remark}"


def claim(
    collection: Any,
    run_id: str | int,
    owner: str,
    lifetime: float | None = None,
    field: str = PROCESSING_CLAIM,
    instead_of: Mapping[str, Any] | None = None,
) -> bool:
    """Take the lease of a run, or renew the own one; return False when it is somebody else's.

    Parameters
    ----------
    collection
        Collection of run documents.
    run_id
        Name or number of the run.
    owner
        Name of the owner, as from `new_owner`.
    lifetime
        Time after which others may take it, unless it is renewed [s]; by default `LIFETIME`.
    field
        Field of the document that the lease is in.
    instead_of
        Filter: take the lease of another owner if the document matches it.

    Raises
    ------
    RunNotFound
        When there is no such run.
    """
    from pymongo import ReturnDocument  # slow to import

    document = documents.find_run(collection, run_id, projection=[field])
    now = documents.server_time(collection)
    lease = {
        "owner": owner,
        "host": documents.this_host(),
        "time": now,
        "expires": now + timedelta(seconds=LIFETIME if lifetime is None else lifetime),
    }
    may_take: list[Filter] = [documents.is_unclaimed(now, field), {f"{field}.owner": owner}]
    held = document.get(field)
    holder = held.get("owner") if isinstance(held, Mapping) else None
    if isinstance(holder, str) and is_dead(holder):
        may_take.append({f"{field}.owner": holder})
    if instead_of:
        may_take.append(dict(instead_of))
    found = collection.find_one_and_update(
        {"_id": document["_id"], "$or": may_take},
        {"$set": {field: lease}},
        projection=["_id"],
        return_document=ReturnDocument.AFTER,
    )
    return found is not None


def renew(
    collection: Any,
    run_id: str | int,
    owner: str,
    lifetime: float | None = None,
    field: str = PROCESSING_CLAIM,
) -> bool:
    """Renew the own lease; return False when it is not ours (any more)."""
    _id = documents.id_of(collection, run_id)
    end = documents.server_time(collection) + timedelta(
        seconds=LIFETIME if lifetime is None else lifetime
    )
    done = collection.update_one(
        {"_id": _id, f"{field}.owner": owner}, {"$set": {f"{field}.expires": end}}
    )
    return done.matched_count == 1


def release(collection: Any, run_id: str | int, owner: str, field: str = PROCESSING_CLAIM) -> bool:
    """Give the own lease up; return False when it was not ours (any more)."""
    done = collection.update_one(
        {"_id": documents.id_of(collection, run_id), f"{field}.owner": owner},
        {"$unset": {field: ""}},
    )
    return done.matched_count == 1


class Lease:
    """A lease of a run; `lost` is set when its owner must stop, and ``why_lost`` says why.

    Parameters
    ----------
    collection
        Collection of run documents.
    run_id
        Run.
    purpose
        Beginning of the owner's name.
    field
        Field of the document that the lease is in.
    lifetime
        Time after which others may take it when this process dies [s]; by default `LIFETIME`.
    on_loss
        Called when it is lost, from another thread.
    """

    def __init__(
        self,
        collection: Any,
        run_id: str,
        purpose: str = "",
        field: str = PROCESSING_CLAIM,
        lifetime: float | None = None,
        on_loss: Callable[[], None] = lambda: None,
    ):
        self.owner = new_owner(purpose)
        self.lost = threading.Event()
        self.why_lost = ""
        self._collection, self._run_id, self._field = collection, run_id, field
        self._lifetime = LIFETIME if lifetime is None else lifetime
        self._on_loss = on_loss
        self._stop_at = 0.0
        self._ended = threading.Event()

    def acquire(self, instead_of: Mapping[str, Any] | None = None) -> bool:
        """Take it, as `claim` does, and keep it until `release`; return False when it is taken."""
        began = _clock()
        if not claim(
            self._collection, self._run_id, self.owner, self._lifetime, self._field, instead_of
        ):
            return False
        self._stop_at = began + STOP_AFTER * self._lifetime
        for work in (self._keep_renewing, self._watch):
            threading.Thread(target=work, daemon=True).start()
        return True

    def check(self) -> bool:
        """Renew it now, and return whether it is ours still.

        Raises
        ------
        RunDatabaseError
            When the run database cannot be asked.
        """
        if not self.lost.is_set():
            self._renew()
        return not self.lost.is_set()

    def lose(self, why: str) -> None:
        """Take note that the owner must stop, unless it has given the lease up itself."""
        if not (self.lost.is_set() or self._ended.is_set()):
            self.why_lost = why
            self.lost.set()
            log.warning("run %s: %s, so the work on it stops", self._run_id, why)
            self._on_loss()

    def release(self) -> None:
        """Give it up; one that is lost is left to others."""
        self._ended.set()
        if self.lost.is_set():
            return
        try:
            connection.resilient(release, self._collection, self._run_id, self.owner, self._field)
        except RunNotFound:
            pass
        except RunDatabaseError as error:
            log.warning(
                "the claim of run %s is not released (%s): it ends within %.0f s",
                self._run_id,
                error,
                self._lifetime,
            )

    def _renew(self) -> None:
        # Its end counts from a later time than this, so this is on the safe side
        began = _clock()
        try:
            is_ours = renew(self._collection, self._run_id, self.owner, self._lifetime, self._field)
        except RunNotFound:
            is_ours = False
        if is_ours:
            self._stop_at = began + STOP_AFTER * self._lifetime
        else:
            self.lose("it has been claimed by somebody else meanwhile")

    def _keep_renewing(self) -> None:
        said = ""
        while not (self._ended.wait(self._lifetime / _RENEWALS) or self.lost.is_set()):
            try:
                self._renew()
                said = ""
            except Exception as error:
                # As one that is not renewed it is given up by the watch
                if str(error) != said:
                    said = str(error)
                    log.warning("the claim of run %s is not renewed: %s", self._run_id, error)

    def _watch(self) -> None:
        """Lose it in time; apart from the renewals, since these may hang."""
        while (left := self._stop_at - _clock()) > 0:
            # While a machine sleeps, the time that is waited for stands still
            if self._ended.wait(min(left, self._lifetime / 100)):
                return
        if not self._ended.is_set():
            self.lose(
                f"its claim was not renewed for {STOP_AFTER * self._lifetime:.0f} s, and ends soon"
            )


@contextlib.contextmanager
def held(
    collection: Any,
    document: Mapping[str, Any],
    field: str = COPY_CLAIM,
    lifetime: float | None = None,
) -> Iterator[Lease | None]:
    """Hold, within it, the lease of a run; it is None when it is somebody else's.

    Raises
    ------
    InvalidRunDocument
        When the document has neither number nor name.
    RunDatabaseError
        When the run database cannot be asked.
    """
    run_id = documents.name_of(document)
    if run_id is None:
        raise InvalidRunDocument(
            f"the document with _id {document.get('_id')!r} has neither number nor name: add the "
            "number of its run"
        )
    lease = Lease(collection, run_id, field=field, lifetime=lifetime)
    if not lease.acquire():
        yield None
        return
    try:
        yield lease
    finally:
        lease.release()


def new_owner(purpose: str = "") -> str:
    """Return a name for an owner of leases that nobody else has, by which `is_dead` knows it.

    It begins with `purpose`, by default the name of this machine in run documents.
    """
    parts = (
        purpose or documents.this_host(),
        _machine(),
        os.getpid(),
        _start(os.getpid()),
        uuid.uuid4().hex,
    )
    return _SEPARATOR.join(map(str, parts))


def is_dead(owner: str) -> bool:
    """Return whether the owner of a lease was a process of this machine that has ended."""
    parts = owner.rsplit(_SEPARATOR, 4)
    if len(parts) != 5 or parts[1] != _machine() or not parts[2].isdigit():
        return False
    pid = int(parts[2])
    start = _start(pid)
    return start != parts[3] and not (start is None and _is_hidden(pid))


def _machine() -> str:
    """Return what tells from others the machine, its start, and the container that this is in."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        processes = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        # Nobody is known to be dead, then
        return uuid.uuid4().hex
    return f"{socket.gethostname()}:{boot}:{processes}"


def _start(pid: int) -> str | None:
    """Return when a process was started, in ticks since the machine was; empty for a zombie.

    None where /proc does not show it.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # After the name in parentheses, which may hold anything: the state first, field 3
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _is_hidden(pid: int) -> bool:
    """Return whether a process lives that /proc does not show, as with the option hidepid."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _clock() -> float:
    """Return a time that goes on while the machine sleeps, and which nobody sets [s]."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ClaimLost(AlreadyAtWork):
    """Somebody else processes the run from now on, or may do so soon."""


class RunClaim:
    """The lease of a run to process, held within it, and what is written with it.

    When it is lost `stop` is set, and nothing more is written.

    Parameters
    ----------
    collection
        Collection of run documents.
    run_id
        Run.
    attempt
        Name of the attempt that this is.
    stop
        Set when the lease is lost; when it is set by a signal, nothing is waited for any more.
    lifetime
        How long the lease lasts when this process dies [s].
    patience
        So long is tried again what the run database does not answer to [s], unless the lease is
        lost meanwhile.

    Raises
    ------
    AlreadyAtWork
        When somebody else works on the run.
    RunNotFound
        When there is no such run.
    RunDatabaseError
        When the run database cannot be reached.
    """

    def __init__(
        self,
        collection: Any,
        run_id: str,
        attempt: str,
        stop: Stop,
        lifetime: float | None = None,
        patience: float = 0.0,
    ):
        self.attempt = attempt
        self._collection, self._run_id = collection, run_id
        self._stop, self.patience = stop, patience
        self._lease = Lease(
            collection, run_id, f"{attempt}.job", lifetime=lifetime, on_loss=self._tell
        )
        self.owner = self._lease.owner

    def __enter__(self) -> "RunClaim":
        # Who submits this very job need not be waited for: it may have been killed
        own_submitter = {
            "processing_job.attempt": self.attempt,
            "processing_claim.owner": {"$regex": f"^{OWNER_PREFIX}"},
        }
        while not self._persist(self._lease.acquire, own_submitter):
            self._stop.check()
            self._wait_for_submitter()
        return self

    def __exit__(self, *_error: Any) -> None:
        self._lease.release()

    def _wait_for_submitter(self) -> None:
        """Wait a moment for one who submits this run; raise when another one processes it."""
        document = self._persist(
            documents.find_run, self._collection, self._run_id, None, ["processing_claim"]
        )
        claim: Any = document.get("processing_claim")
        owner = str(claim.get("owner")) if isinstance(claim, Mapping) else OWNER_PREFIX
        if not owner.startswith(OWNER_PREFIX):
            raise AlreadyAtWork(
                f"run {self._run_id} is processed by {claim.get('host')} already, as {owner} (that "
                f"is so unless it is silent until {claim.get('expires')} UTC): left to that"
            )
        self._stop.event.wait(LOOK_EVERY)

    def _tell(self) -> None:
        self._stop.reason = self._stop.reason or "the loss of its claim"
        self._stop.event.set()

    def read(self) -> dict[str, Any]:
        """Return the run document, with the tags of all that the run has."""
        document = self._persist(documents.find_run, self._collection, self._run_id)
        return self._persist(documents.merge_tags, self._collection, document)

    def check_only_document(self) -> None:
        """Raise InvalidRunDocument when the run has several documents."""
        self._persist(documents.find_only, self._collection, self._run_id, ["_id"])

    def set_status(self, status: str, reason: str | None = None, **fields: Any) -> None:
        """Set the status of the run, see `amstrax.rundb.documents.set_status`.

        Raises
        ------
        ClaimLost
            When somebody else works on the run now; nothing is changed then.
        RunDatabaseError
            When the run database cannot be reached for too long.
        """
        if not self._persist(
            documents.set_status,
            self._collection,
            self._run_id,
            status,
            reason,
            owner=self.owner,
            **fields,
        ):
            self._lease.lose("it has been claimed by somebody else meanwhile")
        self.check()

    def record_failure(self, reason: str) -> int:
        """Record that this attempt has failed, and return how many have.

        Raises as `set_status` does.
        """
        failures = self._persist(
            documents.record_failure,
            self._collection,
            self._run_id,
            reason,
            self.attempt,
            condition={"processing_claim.owner": self.owner},
        )
        if failures is None:
            self._lease.lose("it has been claimed by somebody else meanwhile")
        self.check()
        return failures or 0

    def set_target(
        self, target: str, status: str, is_online: bool, reason: str | None = None, **fields: Any
    ) -> None:
        """Set the status of a target, and add it with `fields` to the history unless it runs.

        Raises as `set_status` does.
        """
        self.check()
        if not self._persist(
            documents.set_target_status,
            self._collection,
            self._run_id,
            target,
            status,
            is_online,
            reason,
            owner=self.owner,
        ):
            self._lease.lose("it has been claimed by somebody else meanwhile")
        self.check()
        if status != "running":
            more = fields if reason is None else {"reason": reason, **fields}
            self.add_history(f"target_{target}", status, is_online, **more)

    def add_history(self, action: str, status: str, is_online: bool, **fields: Any) -> None:
        """Add to the history of the run, see `amstrax.rundb.documents.history_entry`.

        Raises as `set_status` does.
        """
        self.check()
        entry = documents.history_entry(action, status, is_online, **fields)
        self._persist(documents.add_history, self._collection, self._run_id, entry)

    def add_data(self, entry: Mapping[str, Any]) -> None:
        """Register data of the run.

        Raises as `set_status` does.
        """
        self.check()
        self._persist(documents.add_data, self._collection, self._run_id, entry)

    def remove_tag(self, tag: str) -> None:
        """Take a tag from the run."""
        self._persist(documents.remove_tag, self._collection, self._run_id, tag)

    def check(self) -> None:
        """Raise ClaimLost when the claim is lost."""
        if self._lease.lost.is_set():
            raise ClaimLost(f"run {self._run_id}: {self._lease.why_lost}: left to another process")

    def _persist(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Return what a function returns; try again while the run database is away.

        All that is done here may be done twice.
        """
        began = time.monotonic()
        said = -SAY_EVERY
        while True:
            try:
                return function(*args, **kwargs)
            except (RunDatabaseUnreachable, LocalDatabaseError) as error:
                self.check()
                waited = time.monotonic() - began
                if waited + PAUSE > self.patience or self._stop.event.is_set():
                    raise
                if waited - said >= SAY_EVERY:
                    said = waited
                    log.warning(
                        "%s; trying again until %s UTC",
                        error,
                        _time_of_day(self.patience - waited),
                    )
                self._stop.event.wait(PAUSE)


def _time_of_day(seconds: float) -> str:
    """Return the time of day in so many seconds."""
    return f"{datetime.fromtimestamp(time.time() + seconds, UTC):%Y-%m-%d %H:%M:%S}"
